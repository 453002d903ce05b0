//! Requests about interfaces, of any socket (netdevice(7)).

use std::net::{IpAddr, Ipv4Addr};

use abi::{Errno, SysResult, c};
use auth::Capability;
use socket::Caller;
use usermem::UserMemoryExt;
use vfs::IoctlArg;

use crate::links::{Link, LinkAddress, LinkKind, Links, Route};
use crate::stack::Stack;

/// Bytes of a name, and of a `struct ifreq`.
const NAME: usize = 16;
const IFREQ: usize = 40;
/// Addresses that SIOCGIFCONF hands out at most.
const MAX_LIST: usize = 4096;

/// Numbers of linux/sockios.h.
mod nr {
    pub const ADDRT: u32 = 0x890b;
    pub const DELRT: u32 = 0x890c;
    pub const GIFNAME: u32 = 0x8910;
    pub const GIFCONF: u32 = 0x8912;
    pub const GIFFLAGS: u32 = 0x8913;
    pub const SIFFLAGS: u32 = 0x8914;
    pub const GIFADDR: u32 = 0x8915;
    pub const SIFADDR: u32 = 0x8916;
    pub const GIFDSTADDR: u32 = 0x8917;
    pub const GIFBRDADDR: u32 = 0x8919;
    pub const SIFBRDADDR: u32 = 0x891a;
    pub const GIFNETMASK: u32 = 0x891b;
    pub const SIFNETMASK: u32 = 0x891c;
    pub const GIFMETRIC: u32 = 0x891d;
    pub const GIFMTU: u32 = 0x8921;
    pub const SIFMTU: u32 = 0x8922;
    pub const SIFNAME: u32 = 0x8923;
    pub const SIFHWADDR: u32 = 0x8924;
    pub const GIFHWADDR: u32 = 0x8927;
    pub const GIFINDEX: u32 = 0x8933;
    pub const GIFTXQLEN: u32 = 0x8942;
    pub const SIFTXQLEN: u32 = 0x8943;
    pub const ETHTOOL: u32 = 0x8946;
    pub const GIFMAP: u32 = 0x8970;
}

/// A `struct sockaddr_in`.
fn sockaddr(addr: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    let content = (c::AF_INET as u16).to_le_bytes().into_iter().chain([0, 0]).chain(addr.octets());
    bytes.iter_mut().zip(content).for_each(|(place, byte)| *place = byte);
    bytes
}

fn v4(address: &LinkAddress) -> Option<Ipv4Addr> {
    if let IpAddr::V4(addr) = address.addr { Some(addr) } else { None }
}

fn mask(prefix: u8) -> Ipv4Addr {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0).into()
}

fn prefix(mask: Ipv4Addr) -> SysResult<u8> {
    let bits = u32::from(mask);
    if bits.leading_ones() + bits.trailing_zeros() >= 32 {
        u8::try_from(bits.leading_ones()).map_err(|_| Errno::EINVAL)
    } else {
        Err(Errno::EINVAL)
    }
}

/// A request: the interface's name and what comes after it.
struct IfReq {
    bytes: [u8; IFREQ],
}

impl IfReq {
    /// The name, and the label of an address if it is one's.
    fn name(&self) -> String {
        let name = self.bytes.get(..NAME).unwrap_or_default();
        String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
    }

    fn set_name(&mut self, name: &str) {
        let padded = name.bytes().chain(std::iter::repeat(0));
        self.bytes.iter_mut().take(NAME).zip(padded).for_each(|(place, byte)| *place = byte);
    }

    fn put(&mut self, content: &[u8]) {
        self.bytes.iter_mut().skip(NAME).zip(content).for_each(|(place, byte)| *place = *byte);
    }

    fn word(&self) -> i32 {
        self.bytes.get(NAME..NAME + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_le_bytes)
    }

    fn addr(&self) -> SysResult<Ipv4Addr> {
        let rest = self.bytes.get(NAME..).unwrap_or_default();
        match crate::address::parse_destination(c::AF_INET, rest)?.ip() {
            IpAddr::V4(addr) => Ok(addr),
            IpAddr::V6(_) => Err(Errno::EINVAL),
        }
    }
}

/// `ARPHRD_*`
#[must_use]
pub fn hardware_type(kind: &LinkKind) -> u16 {
    match kind {
        LinkKind::Loopback => 772,
        LinkKind::Tun { tap: false } => 65534,
        _ => 1,
    }
}

/// Flags as user space sees them: what is up runs.
#[must_use]
pub fn shown_flags(link: &Link) -> u32 {
    let up = link.flags & c::IFF_UP.cast_unsigned() != 0;
    link.flags | if up { (c::IFF_RUNNING | 0x10000).cast_unsigned() } else { 0 }
}

impl Stack {
    /// An ioctl(2) about interfaces.
    ///
    /// # Errors
    /// `ENOTTY` when it isn't about them; `ENODEV`, `EADDRNOTAVAIL`, `EPERM`, `EINVAL`, `EFAULT`.
    pub fn ioctl(&self, caller: &dyn Caller, arg: &IoctlArg<'_>) -> SysResult<u64> {
        match arg.cmd {
            nr::GIFCONF => return self.list_addresses(arg),
            nr::ADDRT | nr::DELRT => return self.old_route(caller, arg),
            nr::ETHTOOL => return Err(Errno::EOPNOTSUPP),
            nr::GIFNAME | nr::GIFFLAGS..=nr::GIFMETRIC | nr::GIFMTU..=nr::SIFHWADDR | nr::GIFHWADDR | nr::GIFINDEX => {}
            nr::GIFTXQLEN | nr::SIFTXQLEN | nr::GIFMAP => {}
            _ => return Err(Errno::ENOTTY),
        }
        let mut request = IfReq { bytes: [0; IFREQ] };
        arg.memory.read(arg.arg, &mut request.bytes)?;
        if matches!(
            arg.cmd,
            nr::SIFFLAGS | nr::SIFADDR | nr::SIFBRDADDR | nr::SIFNETMASK | nr::SIFMTU..=nr::SIFHWADDR | nr::SIFTXQLEN
        ) {
            if !caller.capable(Capability::NET_ADMIN) {
                return Err(Errno::EPERM);
            }
            return self.change(arg.cmd, &request);
        }
        let links = self.links.read();
        if arg.cmd == nr::GIFNAME {
            let index = u32::try_from(request.word()).map_err(|_| Errno::ENODEV)?;
            let name = links.links.get(&index).ok_or(Errno::ENODEV)?.name.clone();
            request.set_name(&name);
        } else {
            let name = request.name();
            // An alias is an address of the interface before the colon.
            let link = links.by_name(name.split(':').next().unwrap_or_default()).ok_or(Errno::ENODEV)?;
            ask(arg.cmd, link, &name, &mut request)?;
        }
        drop(links);
        arg.memory.write(arg.arg, &request.bytes)?;
        Ok(0)
    }

    fn change(&self, cmd: u32, request: &IfReq) -> SysResult<u64> {
        let mut links = self.links.write();
        let name = request.name();
        let index = links.by_name(name.split(':').next().unwrap_or_default()).ok_or(Errno::ENODEV)?.index;
        match cmd {
            nr::SIFFLAGS => {
                let flags = request.word().cast_unsigned() & 0xffff;
                links.set_flags(index, flags, u32::MAX)?;
            }
            nr::SIFMTU => {
                let mtu = u32::try_from(request.word()).ok().filter(|mtu| (68..=65536).contains(mtu)).ok_or(Errno::EINVAL)?;
                link_mut(&mut links, index)?.mtu = mtu;
            }
            nr::SIFTXQLEN => link_mut(&mut links, index)?.queue_len = u32::try_from(request.word()).map_err(|_| Errno::EINVAL)?,
            nr::SIFADDR => {
                let addr = request.addr()?;
                let old = link_mut(&mut links, index)?.addresses.iter().find(|address| address.label == name).cloned();
                if let Some(old) = old {
                    links.remove_address(index, old.addr, Some(old.prefix))?;
                }
                if !addr.is_unspecified() {
                    // The class that it would have had.
                    let first = addr.octets().first().copied().unwrap_or(0);
                    let prefix = if first < 128 {
                        8
                    } else if first < 192 {
                        16
                    } else {
                        24
                    };
                    let broadcast = Ipv4Addr::from(u32::from(addr) | !u32::from(mask(prefix)));
                    links.add_address(index, addr.into(), prefix, Some(broadcast), c::RT_SCOPE_UNIVERSE, &name)?;
                }
            }
            nr::SIFNETMASK => {
                let prefix = prefix(request.addr()?)?;
                let old = link_mut(&mut links, index)?.addresses.iter().find(|address| address.label == name).cloned();
                let old = old.ok_or(Errno::EADDRNOTAVAIL)?;
                links.remove_address(index, old.addr, Some(old.prefix))?;
                let broadcast = v4(&old).map(|addr| Ipv4Addr::from(u32::from(addr) | !u32::from(mask(prefix))));
                links.add_address(index, old.addr, prefix, broadcast, old.scope, &name)?;
            }
            nr::SIFBRDADDR => {
                let broadcast = request.addr()?;
                let address = link_mut(&mut links, index)?.addresses.iter_mut().find(|address| address.label == name);
                address.ok_or(Errno::EADDRNOTAVAIL)?.broadcast = Some(broadcast);
            }
            nr::SIFHWADDR => {
                let mac = request.bytes.get(NAME + 2..NAME + 8).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
                link_mut(&mut links, index)?.mac = mac;
            }
            nr::SIFNAME => {
                let new = request.bytes.get(NAME..NAME * 2).unwrap_or_default();
                let new = String::from_utf8_lossy(new.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
                links.rename(index, &new)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// SIOCGIFCONF: all IPv4 addresses, in as much room as there is.
    fn list_addresses(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        let [len, pointer]: [u64; 2] = arg.memory.read_obj(arg.arg)?;
        let room = usize::try_from((len as u32).cast_signed()).map_err(|_| Errno::EINVAL)?;
        let mut bytes = Vec::new();
        for link in self.links.read().links.values() {
            for address in &link.addresses {
                let Some(addr) = v4(address) else { continue };
                let mut request = IfReq { bytes: [0; IFREQ] };
                request.set_name(&address.label);
                request.put(&sockaddr(addr));
                if bytes.len() / IFREQ < MAX_LIST {
                    bytes.extend_from_slice(&request.bytes);
                }
            }
        }
        if pointer != 0 {
            bytes.truncate(room / IFREQ * IFREQ);
            arg.memory.write(pointer, &bytes)?;
        }
        arg.memory.write(arg.arg, &i32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?.to_le_bytes())?;
        Ok(0)
    }

    /// SIOCADDRT, SIOCDELRT: a `struct rtentry`.
    fn old_route(&self, caller: &dyn Caller, arg: &IoctlArg<'_>) -> SysResult<u64> {
        if !caller.capable(Capability::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        let mut bytes = [0; 120];
        arg.memory.read(arg.arg, &mut bytes)?;
        let addr = |at: usize| -> SysResult<Ipv4Addr> {
            let octets: [u8; 4] = bytes.get(at + 4..at + 8).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
            Ok(octets.into())
        };
        let flags = u16::from_le_bytes([bytes.get(56).copied().unwrap_or(0), bytes.get(57).copied().unwrap_or(0)]);
        let device = bytes.get(88..96).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (destination, gateway, genmask) = (addr(8)?, addr(24)?, addr(40)?);
        // RTF_HOST, RTF_GATEWAY
        let length = if flags & 4 != 0 { 32 } else { prefix(genmask)? };
        let mut links = self.links.write();
        let link = match device {
            0 => 0,
            pointer => {
                let name = arg.memory.read_cstr(pointer, NAME)?;
                links.by_name(&String::from_utf8_lossy(&name)).ok_or(Errno::ENODEV)?.index
            }
        };
        let gateway = (flags & 2 != 0).then_some(IpAddr::V4(gateway));
        if arg.cmd == nr::DELRT {
            let same = |route: &Route| {
                route.destination == IpAddr::V4(destination)
                    && route.prefix == length
                    && (link == 0 || route.link == link)
                    && (gateway.is_none() || route.gateway == gateway)
            };
            links.remove_route(same)?;
            return Ok(0);
        }
        let metric = i16::from_le_bytes([bytes.get(80).copied().unwrap_or(0), bytes.get(81).copied().unwrap_or(0)]);
        let route = Route {
            destination: destination.into(),
            prefix: length,
            gateway,
            source: None,
            link,
            metric: u32::try_from(i32::from(metric) - 1).unwrap_or(0),
            protocol: c::RTPROT_BOOT,
            scope: if gateway.is_some() { c::RT_SCOPE_UNIVERSE } else { c::RT_SCOPE_LINK },
            table: c::RT_TABLE_MAIN.into(),
            kind: c::RTN_UNICAST,
        };
        links.add_route(route, false)?;
        Ok(0)
    }
}

fn link_mut(links: &mut Links, index: u32) -> SysResult<&mut Link> {
    links.links.get_mut(&index).ok_or(Errno::ENODEV)
}

/// Answers a question about an interface.
fn ask(cmd: u32, link: &Link, label: &str, request: &mut IfReq) -> SysResult<()> {
    let address = || {
        let named = link.addresses.iter().find(|address| address.label == label && address.addr.is_ipv4());
        let address =
            named.or_else(|| link.addresses.iter().find(|address| address.addr.is_ipv4())).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok::<_, Errno>((v4(address).ok_or(Errno::EADDRNOTAVAIL)?, address.prefix, address.broadcast))
    };
    match cmd {
        nr::GIFFLAGS => {
            let flags = u16::try_from(shown_flags(link) & 0xffff).unwrap_or(0);
            request.put(&flags.to_le_bytes());
        }
        nr::GIFADDR | nr::GIFDSTADDR => request.put(&sockaddr(address()?.0)),
        nr::GIFBRDADDR => request.put(&sockaddr(address()?.2.unwrap_or(Ipv4Addr::UNSPECIFIED))),
        nr::GIFNETMASK => request.put(&sockaddr(mask(address()?.1))),
        nr::GIFMETRIC => request.put(&[0; 4]),
        nr::GIFMTU => request.put(&link.mtu.to_le_bytes()),
        nr::GIFTXQLEN => request.put(&link.queue_len.to_le_bytes()),
        nr::GIFINDEX => request.put(&link.index.to_le_bytes()),
        nr::GIFMAP => request.put(&[0; 24]),
        nr::GIFHWADDR => {
            let bytes: Vec<u8> = hardware_type(&link.kind).to_le_bytes().into_iter().chain(link.mac).chain([0; 8]).collect();
            request.put(&bytes);
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(())
}
