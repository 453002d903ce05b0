//! Interfaces, their addresses, and routes (rtnetlink(7)).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::{Errno, SysResult, c};

/// What an interface is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Loopback,
    /// Swallows what is sent.
    Dummy,
    /// One end of a pair; the other's index, if it is in this namespace.
    Veth(u32),
    /// A tunnel device (tun(4)): whether it carries Ethernet frames.
    Tun {
        tap: bool,
    },
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    pub addr: IpAddr,
    /// Bits of the network's part.
    pub prefix: u8,
    pub broadcast: Option<Ipv4Addr>,
    /// `RT_SCOPE_*`
    pub scope: u8,
    pub label: String,
}

/// An interface.
#[derive(Clone, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: LinkKind,
    /// `IFF_*`
    pub flags: u32,
    pub mtu: u32,
    pub queue_len: u32,
    pub mac: [u8; 6],
    pub addresses: Vec<LinkAddress>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    /// Index of the interface that it leaves by.
    pub link: u32,
    pub metric: u32,
    /// `RTPROT_*`
    pub protocol: u8,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// `RT_TABLE_*`
    pub table: u32,
    /// `RTN_*`
    pub kind: u8,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Stays here: addresses of the sandbox itself.
    Local,
    /// To all in a network, which may include us.
    Broadcast,
    /// To those of a group, which may include us.
    Multicast,
    /// Leaves by an interface.
    Out,
}

/// How a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub path: Path,
    pub link: u32,
    /// The address that it is sent from, unless the socket has one.
    pub source: IpAddr,
    pub mtu: u32,
}

/// Index of the loopback interface.
pub const LOOPBACK: u32 = 1;
/// Interfaces, and addresses and routes of a namespace, at most.
pub const MAX_LINKS: usize = 4096;
const MAX_ROUTES: usize = 65536;
/// Longest name of an interface, without the NUL.
pub const MAX_NAME: usize = 15;

const UP: u32 = c::IFF_UP.cast_unsigned();

/// All of a namespace's.
#[derive(Clone, Debug)]
pub struct Links {
    pub links: BTreeMap<u32, Link>,
    pub routes: Vec<Route>,
    next: u32,
}

/// Whether the first `prefix` bits are the same.
#[must_use]
pub fn matches(addr: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let differ = |a: u128, b: u128, bits: u32| (a ^ b).checked_shr(bits - u32::from(prefix)).is_some_and(|rest| rest != 0);
    match (addr, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => !differ(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => !differ(u128::from(a), u128::from(b), 128),
        _ => false,
    }
}

/// The network that an address of this prefix length is in.
#[must_use]
pub fn network(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => Ipv4Addr::from(u32::from(addr) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into(),
        IpAddr::V6(addr) => Ipv6Addr::from(u128::from(addr) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into(),
    }
}

/// Whether an address is only good on its own link.
fn link_local(addr: &IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local() || addr.is_multicast() && addr.segments().first().is_some_and(|s| s & 0xf <= 2))
}

impl Default for Links {
    /// Nothing but a loopback interface, which is down and has no addresses.
    fn default() -> Self {
        let lo = Link {
            index: LOOPBACK,
            name: "lo".into(),
            kind: LinkKind::Loopback,
            flags: c::IFF_LOOPBACK.cast_unsigned(),
            mtu: 65536,
            queue_len: 1000,
            mac: [0; 6],
            addresses: Vec::new(),
        };
        Self { links: BTreeMap::from([(LOOPBACK, lo)]), routes: Vec::new(), next: LOOPBACK + 1 }
    }
}

impl Links {
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    fn check_name(&self, name: &str) -> SysResult<()> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(['/', ' ', '\0', ':']) || name == "." || name == ".." {
            return Err(Errno::EINVAL);
        }
        if self.by_name(name).is_some() { Err(Errno::EEXIST) } else { Ok(()) }
    }

    /// Gives an interface another name, and its addresses another label.
    ///
    /// # Errors
    /// `ENODEV`, `EEXIST`, `EINVAL`.
    pub fn rename(&mut self, index: u32, name: &str) -> SysResult<()> {
        self.check_name(name)?;
        let link = self.links.get_mut(&index).ok_or(Errno::ENODEV)?;
        link.name = name.into();
        link.addresses.iter_mut().for_each(|address| address.label = name.into());
        Ok(())
    }

    /// Adds an interface; returns its index.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` for a bad name, `ENOBUFS`.
    pub fn add(&mut self, name: &str, kind: LinkKind) -> SysResult<u32> {
        self.check_name(name)?;
        if self.links.len() >= MAX_LINKS {
            return Err(Errno::ENOBUFS);
        }
        let index = self.next;
        self.next += 1;
        let flags = match kind {
            LinkKind::Tun { tap: false } => c::IFF_POINTOPOINT | c::IFF_NOARP | c::IFF_MULTICAST,
            LinkKind::Dummy => c::IFF_BROADCAST | c::IFF_NOARP,
            _ => c::IFF_BROADCAST | c::IFF_MULTICAST,
        };
        // Locally administered, told apart by the index.
        let [_, a, b, d] = index.to_be_bytes();
        let mac = if matches!(kind, LinkKind::Tun { tap: false }) { [0; 6] } else { [0x02, 0x50, 0x61, a, b, d] };
        let queue_len = if matches!(kind, LinkKind::Tun { .. }) { 500 } else { 1000 };
        let link = Link {
            index,
            name: name.into(),
            kind,
            flags: flags.cast_unsigned(),
            mtu: 1500,
            queue_len,
            mac,
            addresses: Vec::new(),
        };
        self.links.insert(index, link);
        Ok(index)
    }

    /// Removes an interface (and a pair's other end), its addresses and routes.
    ///
    /// # Errors
    /// `ENODEV`; `EOPNOTSUPP` for the loopback interface.
    pub fn remove(&mut self, index: u32) -> SysResult<()> {
        let kind = self.links.get(&index).ok_or(Errno::ENODEV)?.kind.clone();
        if kind == LinkKind::Loopback {
            return Err(Errno::EOPNOTSUPP);
        }
        self.links.remove(&index);
        self.routes.retain(|route| route.link != index);
        if let LinkKind::Veth(peer) = kind {
            self.links.remove(&peer);
            self.routes.retain(|route| route.link != peer);
        }
        Ok(())
    }

    /// Takes an interface up or down. The loopback interface gets its addresses by that, as on Linux; routes of one that goes down go.
    ///
    /// # Errors
    /// `ENODEV`
    pub fn set_flags(&mut self, index: u32, flags: u32, mask: u32) -> SysResult<()> {
        let settable =
            (c::IFF_UP | c::IFF_NOARP | c::IFF_PROMISC | c::IFF_ALLMULTI | c::IFF_MULTICAST | c::IFF_DYNAMIC).cast_unsigned();
        let link = self.links.get_mut(&index).ok_or(Errno::ENODEV)?;
        let was_up = link.flags & UP != 0;
        let mask = mask & settable;
        link.flags = link.flags & !mask | flags & mask;
        let up = link.flags & UP != 0;
        if up == was_up {
            return Ok(());
        }
        let loopback = link.kind == LinkKind::Loopback;
        if up {
            if loopback {
                self.add_address(index, IpAddr::V4(Ipv4Addr::LOCALHOST), 8, None, c::RT_SCOPE_HOST, "lo").or_else(exists)?;
                self.add_address(index, IpAddr::V6(Ipv6Addr::LOCALHOST), 128, None, c::RT_SCOPE_HOST, "").or_else(exists)?;
            }
            let addresses = self.links.get(&index).map(|link| link.addresses.clone()).unwrap_or_default();
            for address in &addresses {
                self.add_connected(index, address);
            }
        } else {
            self.routes.retain(|route| route.link != index);
        }
        Ok(())
    }

    /// The route to a network that an interface's address is in.
    fn add_connected(&mut self, index: u32, address: &LinkAddress) {
        let host = matches!(address.addr, IpAddr::V4(_)) && address.prefix == 32;
        let loopback = index == LOOPBACK;
        if host || loopback {
            return;
        }
        let destination = network(address.addr, address.prefix);
        let v4 = address.addr.is_ipv4();
        let route = Route {
            destination,
            prefix: address.prefix,
            gateway: None,
            source: v4.then_some(address.addr),
            link: index,
            metric: if v4 { 0 } else { 256 },
            protocol: c::RTPROT_KERNEL,
            scope: if v4 { c::RT_SCOPE_LINK } else { c::RT_SCOPE_UNIVERSE },
            table: c::RT_TABLE_MAIN.into(),
            kind: c::RTN_UNICAST,
        };
        if !self.routes.contains(&route) && self.routes.len() < MAX_ROUTES {
            self.routes.push(route);
        }
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// `ENODEV`, `EEXIST`, `EINVAL` for a bad prefix or an address that can't be one, `ENOBUFS`.
    pub fn add_address(
        &mut self,
        index: u32,
        addr: IpAddr,
        prefix: u8,
        broadcast: Option<Ipv4Addr>,
        scope: u8,
        label: &str,
    ) -> SysResult<()> {
        let longest = if addr.is_ipv4() { 32 } else { 128 };
        if prefix > longest || addr.is_multicast() || addr.is_ipv6() && addr.is_unspecified() {
            return Err(Errno::EINVAL);
        }
        let total: usize = self.links.values().map(|link| link.addresses.len()).sum();
        let link = self.links.get_mut(&index).ok_or(Errno::ENODEV)?;
        if link.addresses.iter().any(|known| known.addr == addr && known.prefix == prefix) {
            return Err(Errno::EEXIST);
        }
        if total >= MAX_ROUTES {
            return Err(Errno::ENOBUFS);
        }
        let label = if label.is_empty() { link.name.clone() } else { label.to_owned() };
        let address = LinkAddress { addr, prefix, broadcast, scope, label };
        link.addresses.push(address.clone());
        if link.flags & UP != 0 {
            self.add_connected(index, &address);
        }
        Ok(())
    }

    /// Takes an address from an interface; with no prefix, whichever it has.
    ///
    /// # Errors
    /// `ENODEV`, `EADDRNOTAVAIL`.
    pub fn remove_address(&mut self, index: u32, addr: IpAddr, prefix: Option<u8>) -> SysResult<LinkAddress> {
        let link = self.links.get_mut(&index).ok_or(Errno::ENODEV)?;
        let matching = |known: &LinkAddress| known.addr == addr && prefix.is_none_or(|prefix| prefix == known.prefix);
        let at = link.addresses.iter().position(matching).ok_or(Errno::EADDRNOTAVAIL)?;
        let gone = link.addresses.remove(at);
        let destination = network(gone.addr, gone.prefix);
        let shared =
            link.addresses.iter().any(|other| other.prefix == gone.prefix && network(other.addr, other.prefix) == destination);
        self.routes.retain(|route| {
            let connected = route.link == index && route.destination == destination && route.prefix == gone.prefix;
            route.source != Some(addr) && (shared || !connected || route.protocol != c::RTPROT_KERNEL)
        });
        Ok(gone)
    }

    /// # Errors
    /// `EEXIST`, `ENETUNREACH` when its gateway can't be reached, `ENODEV`, `ENETDOWN`, `ENOBUFS`.
    pub fn add_route(&mut self, mut route: Route, replace: bool) -> SysResult<()> {
        if route.link == 0 {
            let gateway = route.gateway.ok_or(Errno::ENODEV)?;
            let direct =
                self.routes.iter().filter(|known| known.gateway.is_none() && matches(gateway, known.destination, known.prefix));
            route.link = direct.max_by_key(|known| known.prefix).ok_or(Errno::ENETUNREACH)?.link;
        }
        let link = self.links.get(&route.link).ok_or(Errno::ENODEV)?;
        if link.flags & UP == 0 {
            return Err(Errno::ENETDOWN);
        }
        let same = |known: &Route| {
            (known.destination, known.prefix, known.metric, known.table)
                == (route.destination, route.prefix, route.metric, route.table)
        };
        if let Some(at) = self.routes.iter().position(same) {
            if !replace {
                return Err(Errno::EEXIST);
            }
            self.routes.remove(at);
        }
        if self.routes.len() >= MAX_ROUTES {
            return Err(Errno::ENOBUFS);
        }
        self.routes.push(route);
        Ok(())
    }

    /// Removes the first route that `matching` accepts.
    ///
    /// # Errors
    /// `ESRCH`
    pub fn remove_route(&mut self, matching: impl Fn(&Route) -> bool) -> SysResult<Route> {
        let at = self.routes.iter().position(matching).ok_or(Errno::ESRCH)?;
        Ok(self.routes.remove(at))
    }

    fn up(&self) -> impl Iterator<Item = &Link> {
        self.links.values().filter(|link| link.flags & UP != 0)
    }

    /// The interface that an address of ours is on: packets to it stay here. All of 127.0.0.0/8 is.
    #[must_use]
    pub fn local(&self, addr: IpAddr) -> Option<&Link> {
        let own = |link: &&Link| {
            let loopback = link.kind == LinkKind::Loopback;
            let known = |known: &LinkAddress| {
                known.addr == addr || loopback && known.addr.is_ipv4() && matches(addr, known.addr, known.prefix)
            };
            link.addresses.iter().any(known)
        };
        self.up().find(own)
    }

    /// The interface whose broadcast address this is.
    #[must_use]
    pub fn broadcast(&self, addr: Ipv4Addr) -> Option<&Link> {
        let theirs = |address: &LinkAddress| {
            let IpAddr::V4(own) = address.addr else { return false };
            let last = Ipv4Addr::from(u32::from(own) | u32::MAX.checked_shr(address.prefix.into()).unwrap_or(0));
            address.broadcast == Some(addr) || address.prefix < 31 && last == addr
        };
        self.up().find(|link| link.addresses.iter().any(theirs))
    }

    /// The address that an interface sends from.
    #[must_use]
    pub fn source(&self, index: u32, towards: IpAddr) -> Option<IpAddr> {
        let same = |address: &&LinkAddress| address.addr.is_ipv4() == towards.is_ipv4();
        let on_link = self.links.get(&index)?.addresses.iter().filter(same);
        let best = on_link.clone().find(|address| matches(towards, address.addr, address.prefix));
        best.or_else(|| on_link.clone().next()).map(|address| address.addr)
    }

    /// How a destination is reached; `device` is the interface that the socket is bound to, or 0.
    ///
    /// # Errors
    /// `ENETUNREACH`; `ENODEV` when there is no such interface.
    pub fn route(&self, to: IpAddr, device: u32) -> SysResult<Found> {
        if device != 0 && !self.links.contains_key(&device) {
            return Err(Errno::ENODEV);
        }
        let found = |path, link: &Link, source: Option<IpAddr>| {
            let source = source.or_else(|| self.source(link.index, to)).unwrap_or(unspecified_like(to));
            Found { path, link: link.index, source, mtu: link.mtu }
        };
        // Nowhere in particular is here.
        let to = match to {
            IpAddr::V4(addr) if addr.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(addr) if addr.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            other => other,
        };
        if let Some(link) = self.local(to) {
            if device != 0 && device != LOOPBACK && device != link.index {
                return self.out(to, device, &found);
            }
            // Whatever interface it is on, it goes by the loopback interface. Of 127.0.0.0/8, the first address answers for all.
            let own = link.addresses.iter().any(|known| known.addr == to);
            let loopback = self.links.get(&LOOPBACK).unwrap_or(link);
            return Ok(found(Path::Local, loopback, own.then_some(to)));
        }
        if let IpAddr::V4(addr) = to {
            if addr.is_broadcast() {
                // The first interface that can, unless one is named.
                let able =
                    |link: &&Link| link.flags & c::IFF_BROADCAST.cast_unsigned() != 0 && device == 0 || link.index == device;
                let via = self.up().find(able).ok_or(Errno::ENETUNREACH)?;
                return Ok(found(Path::Broadcast, via, None));
            }
            if let Some(link) = self.broadcast(addr)
                && (device == 0 || device == link.index)
            {
                return Ok(found(Path::Broadcast, link, None));
            }
        }
        if to.is_multicast() && device != 0 {
            let link = self.up().find(|link| link.index == device).ok_or(Errno::ENETUNREACH)?;
            return Ok(found(Path::Multicast, link, None));
        }
        let routed = self.out(to, device, &found)?;
        Ok(if to.is_multicast() { Found { path: Path::Multicast, ..routed } } else { routed })
    }

    /// By the routes.
    fn out(&self, to: IpAddr, device: u32, found: &dyn Fn(Path, &Link, Option<IpAddr>) -> Found) -> SysResult<Found> {
        let fits = |route: &&Route| {
            matches(to, route.destination, route.prefix) && (device == 0 || route.link == device) && route.kind == c::RTN_UNICAST
        };
        let best = self.routes.iter().filter(fits).max_by_key(|route| (route.prefix, u32::MAX - route.metric));
        if let Some(route) = best {
            let link = self.up().find(|link| link.index == route.link).ok_or(Errno::ENETUNREACH)?;
            return Ok(found(Path::Out, link, route.source));
        }
        // Bound to an interface, or good on one link only: it is taken to be there.
        let on_link = self.up().find(|link| link.index == device && (to.is_ipv4() || link_local(&to)));
        on_link.map(|link| found(Path::Out, link, None)).ok_or(Errno::ENETUNREACH)
    }
}

/// What was to be added is there already.
fn exists(errno: Errno) -> SysResult<()> {
    if errno == Errno::EEXIST { Ok(()) } else { Err(errno) }
}

/// No address, of the same family.
#[must_use]
pub fn unspecified_like(addr: IpAddr) -> IpAddr {
    if addr.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn up() -> Links {
        let mut links = Links::default();
        links.set_flags(LOOPBACK, UP, UP).unwrap();
        links
    }

    #[test]
    fn networks_match_by_prefix() {
        assert!(matches(ip("10.1.2.3"), ip("10.0.0.0"), 8) && !matches(ip("11.1.2.3"), ip("10.0.0.0"), 8));
        assert!(matches(ip("1.2.3.4"), ip("0.0.0.0"), 0) && !matches(ip("::1"), ip("0.0.0.0"), 0));
        assert!(matches(ip("fe80::1"), ip("fe80::"), 64) && !matches(ip("fe80::1"), ip("fe80::2"), 128));
        assert_eq!(network(ip("10.1.2.3"), 0), ip("0.0.0.0"));
        assert_eq!(network(ip("10.1.2.3"), 24), ip("10.1.2.0"));
    }

    #[test]
    fn loopback_is_all_there_is_at_first() {
        let links = up();
        for addr in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"] {
            assert_eq!(links.route(ip(addr), 0).map(|found| found.path), Ok(Path::Local), "{addr}");
        }
        for addr in ["10.0.0.1", "8.8.8.8", "2001::1", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert_eq!(links.route(ip(addr), 0), Err(Errno::ENETUNREACH), "{addr}");
        }
        assert_eq!(links.route(ip("224.0.0.1"), LOOPBACK).map(|found| found.path), Ok(Path::Multicast));
        assert_eq!(links.route(ip("127.255.255.255"), 0).map(|found| found.path), Ok(Path::Local));
        assert_eq!(Links::default().route(ip("127.0.0.1"), 0), Err(Errno::ENETUNREACH));
    }

    #[test]
    fn addresses_bring_routes_and_take_them_along() {
        let mut links = up();
        let index = links.add("d0", LinkKind::Dummy).unwrap();
        assert_eq!(links.add("d0", LinkKind::Dummy), Err(Errno::EEXIST));
        links.add_address(index, ip("10.1.0.1"), 16, Some(Ipv4Addr::new(10, 1, 255, 255)), 0, "").unwrap();
        assert_eq!(links.route(ip("10.1.2.3"), 0), Err(Errno::ENETUNREACH));
        links.set_flags(index, UP, UP).unwrap();
        let found = links.route(ip("10.1.2.3"), 0).unwrap();
        assert_eq!((found.path, found.link, found.source), (Path::Out, index, ip("10.1.0.1")));
        assert_eq!(links.route(ip("10.1.0.1"), 0).unwrap().path, Path::Local);
        assert_eq!(links.route(ip("10.1.255.255"), 0).unwrap().path, Path::Broadcast);
        let default = Route {
            destination: ip("0.0.0.0"),
            prefix: 0,
            gateway: Some(ip("10.1.0.254")),
            source: None,
            link: 0,
            metric: 0,
            protocol: c::RTPROT_BOOT,
            scope: 0,
            table: c::RT_TABLE_MAIN.into(),
            kind: c::RTN_UNICAST,
        };
        links.add_route(default.clone(), false).unwrap();
        assert_eq!(links.add_route(default, false), Err(Errno::EEXIST));
        assert_eq!(links.route(ip("8.8.8.8"), 0).unwrap().link, index);
        links.remove_address(index, ip("10.1.0.1"), Some(16)).unwrap();
        assert_eq!(links.route(ip("10.1.2.3"), 0).map(|found| found.link), Ok(index));
        links.remove(index).unwrap();
        assert_eq!((links.routes.len(), links.route(ip("8.8.8.8"), 0)), (0, Err(Errno::ENETUNREACH)));
    }
}
