//! What all sockets of IPv4 and IPv6 have: options of levels `SOL_IP` and `SOL_IPV6` (ip(7), ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Kuid};
use socket::{Caller, Common, Flag, OptionValue, word, word_of};
use sync::Mutex;

use crate::address::meaning;
use crate::links::{Found, Path};
use crate::stack::Stack;

/// Hops that packets may take (`net.ipv4.ip_default_ttl`).
pub const TTL: u8 = 64;
/// Groups that one socket may be in (`net.ipv4.igmp_max_memberships`).
const MAX_GROUPS: usize = 20;

/// Numbers of linux/in.h and linux/in6.h that the libc crate lacks.
const IP_ROUTER_ALERT: i32 = 5;
const IP_PKTOPTIONS: i32 = 9;
const IP_CHECKSUM: i32 = 23;
const IP_RECVFRAGSIZE: i32 = 25;
const IP_UNICAST_IF: i32 = 50;
const IP_LOCAL_PORT_RANGE: i32 = 51;
const IPV6_UNICAST_IF: i32 = 76;
const IPV6_RECVERR_RFC4884: i32 = 31;
const IP_RECVERR_RFC4884: i32 = 26;
const IPV6_RECVFRAGSIZE: i32 = 77;

/// Options that are on or off, by level and name.
const FLAGS: [(i32, i32); 33] = [
    (c::SOL_IP, c::IP_PKTINFO),
    (c::SOL_IP, c::IP_RECVTTL),
    (c::SOL_IP, c::IP_RECVTOS),
    (c::SOL_IP, c::IP_RECVOPTS),
    (c::SOL_IP, c::IP_RETOPTS),
    (c::SOL_IP, c::IP_RECVERR),
    (c::SOL_IP, c::IP_RECVORIGDSTADDR),
    (c::SOL_IP, c::IP_FREEBIND),
    (c::SOL_IP, c::IP_TRANSPARENT),
    (c::SOL_IP, c::IP_NODEFRAG),
    (c::SOL_IP, c::IP_BIND_ADDRESS_NO_PORT),
    (c::SOL_IP, c::IP_MULTICAST_LOOP),
    (c::SOL_IP, c::IP_MULTICAST_ALL),
    (c::SOL_IP, c::IP_HDRINCL),
    (c::SOL_IP, IP_CHECKSUM),
    (c::SOL_IP, IP_RECVFRAGSIZE),
    (c::SOL_IP, IP_RECVERR_RFC4884),
    (c::SOL_IP, IP_ROUTER_ALERT),
    (c::SOL_IPV6, c::IPV6_V6ONLY),
    (c::SOL_IPV6, c::IPV6_RECVPKTINFO),
    (c::SOL_IPV6, c::IPV6_RECVHOPLIMIT),
    (c::SOL_IPV6, c::IPV6_RECVTCLASS),
    (c::SOL_IPV6, c::IPV6_RECVERR),
    (c::SOL_IPV6, c::IPV6_MULTICAST_LOOP),
    (c::SOL_IPV6, c::IPV6_MULTICAST_ALL),
    (c::SOL_IPV6, c::IPV6_FREEBIND),
    (c::SOL_IPV6, c::IPV6_TRANSPARENT),
    (c::SOL_IPV6, c::IPV6_RECVORIGDSTADDR),
    (c::SOL_IPV6, c::IPV6_AUTOFLOWLABEL),
    (c::SOL_IPV6, c::IPV6_DONTFRAG),
    (c::SOL_IPV6, IPV6_RECVFRAGSIZE),
    (c::SOL_IPV6, IPV6_RECVERR_RFC4884),
    (c::SOL_IPV6, c::IPV6_HDRINCL),
];

/// A group that a socket has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    pub group: IpAddr,
    pub link: u32,
    /// The interface's address, if it was named by that.
    pub by: Option<Ipv4Addr>,
}

/// Values of options.
#[derive(Clone, Debug)]
pub struct IpOptions {
    flags: u64,
    pub tos: u8,
    /// -1: the default.
    pub ttl: i32,
    pub multicast_ttl: u8,
    /// Interface that multicasts leave by, and the address it was named by.
    pub multicast_link: u32,
    pub multicast_source: Ipv4Addr,
    pub mtu_discover: i32,
    pub min_ttl: u8,
    pub unicast_link: u32,
    pub port_range: u32,
    /// `IP_OPTIONS`
    pub ip_options: Vec<u8>,
    pub traffic_class: u8,
    pub hops: i32,
    pub multicast_hops: u8,
    pub multicast_link6: u32,
    pub mtu_discover6: i32,
    pub min_hops: u8,
    pub unicast_link6: u32,
    pub address_preferences: i32,
    pub groups: Vec<Membership>,
}

impl Default for IpOptions {
    fn default() -> Self {
        let mut options = Self {
            flags: 0,
            tos: 0,
            ttl: -1,
            multicast_ttl: 1,
            multicast_link: 0,
            multicast_source: Ipv4Addr::UNSPECIFIED,
            mtu_discover: c::IP_PMTUDISC_WANT,
            min_ttl: 0,
            unicast_link: 0,
            port_range: 0,
            ip_options: Vec::new(),
            traffic_class: 0,
            hops: -1,
            multicast_hops: 1,
            multicast_link6: 0,
            mtu_discover6: c::IPV6_PMTUDISC_WANT,
            min_hops: 0,
            unicast_link6: 0,
            address_preferences: 2,
            groups: Vec::new(),
        };
        for name in [c::IP_MULTICAST_LOOP, c::IP_MULTICAST_ALL] {
            options.set(c::SOL_IP, name, true);
        }
        for name in [c::IPV6_MULTICAST_LOOP, c::IPV6_MULTICAST_ALL, c::IPV6_AUTOFLOWLABEL] {
            options.set(c::SOL_IPV6, name, true);
        }
        options
    }
}

impl IpOptions {
    fn bit(level: i32, name: i32) -> Option<u64> {
        FLAGS.iter().position(|flag| *flag == (level, name)).map(|at| 1 << at)
    }

    /// Whether an option is on.
    #[must_use]
    pub fn is(&self, level: i32, name: i32) -> bool {
        Self::bit(level, name).is_some_and(|bit| self.flags & bit != 0)
    }

    fn set(&mut self, level: i32, name: i32, on: bool) {
        if let Some(bit) = Self::bit(level, name) {
            self.flags = if on { self.flags | bit } else { self.flags & !bit };
        }
    }
}

/// The part that all have.
pub struct Ip {
    pub common: Common,
    pub stack: Arc<Stack>,
    /// Who made it.
    pub owner: Kuid,
    pub options: Mutex<IpOptions>,
}

/// An option's number the way getsockopt(2) of this level hands it out: as one byte to those who have no room for more.
fn number(value: i32, room: usize) -> OptionValue {
    match u8::try_from(value) {
        Ok(byte) if (1..4).contains(&room) => OptionValue::from_slice(&[byte]),
        _ => word(value),
    }
}

fn v4_at(value: &[u8], at: usize) -> SysResult<Ipv4Addr> {
    let bytes: [u8; 4] = value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(bytes.into())
}

fn v6_at(value: &[u8], at: usize) -> SysResult<Ipv6Addr> {
    let bytes: [u8; 16] = value.get(at..at + 16).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(bytes.into())
}

fn index_at(value: &[u8], at: usize) -> u32 {
    value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// A number in a range.
fn within(value: i32, range: std::ops::RangeInclusive<i32>) -> SysResult<i32> {
    if range.contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

fn byte(value: i32) -> SysResult<u8> {
    u8::try_from(value).map_err(|_| Errno::EINVAL)
}

impl Ip {
    #[must_use]
    pub fn new(stack: &Arc<Stack>, owner: Kuid, domain: i32, kind: i32, protocol: i32) -> Self {
        Self { common: Common::new(domain, kind, protocol), stack: stack.clone(), owner, options: Mutex::default() }
    }

    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.common.domain == c::AF_INET6
    }

    /// Whether an option is on.
    #[must_use]
    pub fn is(&self, level: i32, name: i32) -> bool {
        self.options.lock().is(level, name)
    }

    #[must_use]
    pub fn v6_only(&self) -> bool {
        self.is(c::SOL_IPV6, c::IPV6_V6ONLY)
    }

    fn streams(&self) -> bool {
        self.common.kind == c::SOCK_STREAM
    }

    /// Whether a socket may be bound to an address.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`; `EINVAL` for what can't be an address of this socket, `EACCES` for a privileged port.
    pub fn check_bind(&self, caller: &dyn Caller, addr: &SocketAddr) -> SysResult<()> {
        let links = self.stack.links.read();
        let ip = addr.ip();
        if self.is_v6() && ip.is_ipv4() && self.v6_only() || ip.is_multicast() && ip.is_ipv6() && self.streams() {
            return Err(Errno::EINVAL);
        }
        if let (SocketAddr::V6(addr), IpAddr::V6(ip)) = (addr, ip)
            && ip.is_unicast_link_local()
            && addr.scope_id() == 0
            && self.common.device() == 0
        {
            return Err(Errno::EINVAL);
        }
        let foreign = self.is(c::SOL_IP, c::IP_FREEBIND)
            || self.is(c::SOL_IP, c::IP_TRANSPARENT)
            || self.is(c::SOL_IPV6, c::IPV6_FREEBIND)
            || self.is(c::SOL_IPV6, c::IPV6_TRANSPARENT);
        let ours = ip.is_unspecified()
            || ip.is_multicast()
            || links.local(ip).is_some()
            || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast() || links.broadcast(ip).is_some());
        if !ours && !foreign {
            return Err(Errno::EADDRNOTAVAIL);
        }
        drop(links);
        if (1..self.stack.privileged_ports()).contains(&addr.port()) && !caller.capable(Capability::NET_BIND_SERVICE) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// getsockopt(2) of levels `SOL_SOCKET` (what depends on interfaces), `SOL_IP` and `SOL_IPV6`; `remote` is what it is connected to.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EOPNOTSUPP`, `ENOTCONN`.
    pub fn option(&self, level: i32, name: i32, room: usize, remote: Option<IpAddr>) -> SysResult<OptionValue> {
        match level {
            c::SOL_SOCKET if name == c::SO_BINDTODEVICE => {
                let links = self.stack.links.read();
                let Some(link) = links.links.get(&self.common.device()) else { return Ok(OptionValue::new()) };
                if room < 16 {
                    return Err(Errno::EINVAL);
                }
                Ok(link.name.bytes().chain([0]).collect())
            }
            c::SOL_SOCKET => socket::get_option(&self.common, name),
            c::SOL_IP if !self.is_v6() || self.common.kind != c::SOCK_RAW => self.option_v4(name, room, remote),
            c::SOL_IPV6 if self.is_v6() => self.option_v6(name, remote),
            _ if self.is_v6() => Err(Errno::ENOPROTOOPT),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn mtu(&self, remote: Option<IpAddr>) -> SysResult<i32> {
        let found = self.stack.links.read().route(remote.ok_or(Errno::ENOTCONN)?, self.common.device())?;
        Ok(found.mtu.min(65535).cast_signed())
    }

    fn option_v4(&self, name: i32, room: usize, remote: Option<IpAddr>) -> SysResult<OptionValue> {
        let options = self.options.lock();
        let value = match name {
            c::IP_HDRINCL if self.common.kind != c::SOCK_RAW => return Err(Errno::ENOPROTOOPT),
            name if IpOptions::bit(c::SOL_IP, name).is_some() => options.is(c::SOL_IP, name).into(),
            c::IP_TOS => options.tos.into(),
            c::IP_TTL if options.ttl < 0 => TTL.into(),
            c::IP_TTL => options.ttl,
            c::IP_MULTICAST_TTL => options.multicast_ttl.into(),
            c::IP_MTU_DISCOVER => options.mtu_discover,
            c::IP_MINTTL => options.min_ttl.into(),
            IP_UNICAST_IF => options.unicast_link.to_be().cast_signed(),
            IP_LOCAL_PORT_RANGE => options.port_range.cast_signed(),
            c::IP_MTU => {
                drop(options);
                return self.mtu(remote).map(|mtu| number(mtu, room));
            }
            c::IP_MULTICAST_IF => return Ok(OptionValue::from_slice(&options.multicast_source.octets())),
            c::IP_OPTIONS => return Ok(OptionValue::from_slice(&options.ip_options)),
            IP_PKTOPTIONS => return Ok(OptionValue::new()),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number(value, room))
    }

    fn option_v6(&self, name: i32, remote: Option<IpAddr>) -> SysResult<OptionValue> {
        let options = self.options.lock();
        let value = match name {
            name if IpOptions::bit(c::SOL_IPV6, name).is_some() => options.is(c::SOL_IPV6, name).into(),
            c::IPV6_TCLASS => options.traffic_class.into(),
            c::IPV6_UNICAST_HOPS if options.hops < 0 => TTL.into(),
            c::IPV6_UNICAST_HOPS => options.hops,
            c::IPV6_MULTICAST_HOPS => options.multicast_hops.into(),
            c::IPV6_MULTICAST_IF => options.multicast_link6.cast_signed(),
            c::IPV6_MTU_DISCOVER => options.mtu_discover6,
            c::IPV6_MINHOPCOUNT => options.min_hops.into(),
            IPV6_UNICAST_IF => options.unicast_link6.to_be().cast_signed(),
            c::IPV6_ADDR_PREFERENCES => options.address_preferences,
            c::IPV6_MTU => {
                drop(options);
                return self.mtu(remote).map(word);
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(word(value))
    }

    /// setsockopt(2) of the same levels; `bound`: whether it has a port.
    ///
    /// # Errors
    /// As ip(7), ipv6(7).
    pub fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8], bound: bool) -> SysResult<()> {
        match level {
            c::SOL_SOCKET if name == c::SO_BINDTODEVICE || name == c::SO_BINDTOIFINDEX => {
                self.bind_to_device(caller, name, value)
            }
            c::SOL_SOCKET => socket::set_option(&self.common, caller, name, value),
            c::SOL_IP if !self.is_v6() || self.common.kind != c::SOCK_RAW => self.set_option_v4(caller, name, value),
            c::SOL_IPV6 if self.is_v6() => self.set_option_v6(caller, name, value, bound),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn bind_to_device(&self, caller: &dyn Caller, name: i32, value: &[u8]) -> SysResult<()> {
        let links = self.stack.links.read();
        let index = if name == c::SO_BINDTOIFINDEX {
            let index = u32::try_from(word_of(value)?).map_err(|_| Errno::EINVAL)?;
            if index != 0 && !links.links.contains_key(&index) {
                return Err(Errno::ENODEV);
            }
            index
        } else {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = text.get(..text.len().min(15)).unwrap_or_default();
            match text {
                [] => 0,
                text => links.by_name(&String::from_utf8_lossy(text)).ok_or(Errno::ENODEV)?.index,
            }
        };
        // Bound once, only root may change it.
        if self.common.device() != 0 && !caller.capable(Capability::NET_RAW) {
            return Err(Errno::EPERM);
        }
        self.common.set_device(index);
        Ok(())
    }

    fn set_option_v4(&self, caller: &dyn Caller, name: i32, value: &[u8]) -> SysResult<()> {
        // Old programs pass one byte; nothing at all is zero.
        let number = word_of(value).unwrap_or_else(|_| value.first().copied().unwrap_or(0).into());
        let given = !value.is_empty();
        match name {
            c::IP_HDRINCL if self.common.kind != c::SOCK_RAW => return Err(Errno::ENOPROTOOPT),
            c::IP_MULTICAST_LOOP | c::IP_FREEBIND | c::IP_TRANSPARENT | c::IP_MULTICAST_ALL if !given => {
                return Err(Errno::EINVAL);
            }
            c::IP_MULTICAST_ALL => drop(within(number, 0..=1)?),
            c::IP_TRANSPARENT
                if number != 0 && !caller.capable(Capability::NET_RAW) && !caller.capable(Capability::NET_ADMIN) =>
            {
                return Err(Errno::EPERM);
            }
            c::IP_ADD_MEMBERSHIP | c::IP_DROP_MEMBERSHIP => return self.membership_v4(name == c::IP_ADD_MEMBERSHIP, value),
            c::MCAST_JOIN_GROUP | c::MCAST_LEAVE_GROUP => return self.group_request(name == c::MCAST_JOIN_GROUP, value),
            c::IP_MULTICAST_IF => return self.set_multicast_link(value),
            _ => {}
        }
        let mut options = self.options.lock();
        if IpOptions::bit(c::SOL_IP, name).is_some() {
            options.set(c::SOL_IP, name, number != 0);
            return Ok(());
        }
        match name {
            c::IP_TOS => {
                let tos = (number & 0xff) as u8;
                // A stream's congestion bits are the kernel's own.
                options.tos = if self.streams() { tos & !3 | options.tos & 3 } else { tos };
            }
            c::IP_TTL if !given => return Err(Errno::EINVAL),
            c::IP_TTL if number == -1 => options.ttl = -1,
            c::IP_TTL => options.ttl = within(number, 1..=255)?,
            c::IP_MULTICAST_TTL if self.streams() || !given => return Err(Errno::EINVAL),
            c::IP_MULTICAST_TTL => options.multicast_ttl = byte(if number == -1 { 1 } else { number })?,
            c::IP_MTU_DISCOVER => options.mtu_discover = within(number, 0..=5)?,
            c::IP_MINTTL if !given => return Err(Errno::EINVAL),
            c::IP_MINTTL => options.min_ttl = byte(number)?,
            IP_UNICAST_IF => options.unicast_link = u32::from_be(number.cast_unsigned()),
            IP_LOCAL_PORT_RANGE => {
                let (low, high) = (number.cast_unsigned() & 0xffff, number.cast_unsigned() >> 16);
                if low != 0 && high != 0 && low > high {
                    return Err(Errno::EINVAL);
                }
                options.port_range = number.cast_unsigned();
            }
            c::IP_OPTIONS if value.len() <= 40 => options.ip_options = value.to_vec(),
            c::IP_OPTIONS => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn set_multicast_link(&self, value: &[u8]) -> SysResult<()> {
        if self.streams() {
            return Err(Errno::EINVAL);
        }
        // `struct in_addr`, `struct ip_mreq` or `struct ip_mreqn`
        let (addr, index) = match value.len() {
            0..4 => return Err(Errno::EINVAL),
            4..8 => (v4_at(value, 0)?, 0),
            8..12 => (v4_at(value, 4)?, 0),
            _ => (v4_at(value, 4)?, index_at(value, 8)),
        };
        let links = self.stack.links.read();
        let index = match index {
            0 if addr.is_unspecified() => 0,
            0 => links.local(addr.into()).ok_or(Errno::EADDRNOTAVAIL)?.index,
            index => links.links.get(&index).ok_or(Errno::EADDRNOTAVAIL)?.index,
        };
        let device = self.common.device();
        if index != 0 && device != 0 && device != index {
            return Err(Errno::EINVAL);
        }
        let mut options = self.options.lock();
        (options.multicast_link, options.multicast_source) = (index, addr);
        Ok(())
    }

    fn membership_v4(&self, join: bool, value: &[u8]) -> SysResult<()> {
        if self.streams() {
            return Err(Errno::EPROTO);
        }
        if value.len() < 8 {
            return Err(Errno::EINVAL);
        }
        let (group, by) = (v4_at(value, 0)?, v4_at(value, 4)?);
        let index = if value.len() >= 12 { index_at(value, 8) } else { 0 };
        self.change_group(join, IpAddr::V4(group), index, Some(by).filter(|by| !by.is_unspecified()))
    }

    /// `struct group_req`
    fn group_request(&self, join: bool, value: &[u8]) -> SysResult<()> {
        if self.streams() {
            return Err(Errno::EPROTO);
        }
        if value.len() < 136 {
            return Err(Errno::EINVAL);
        }
        let group = match i32::from(u16::from_le_bytes([value.get(8).copied().unwrap_or(0), value.get(9).copied().unwrap_or(0)]))
        {
            c::AF_INET => IpAddr::V4(v4_at(value, 12)?),
            c::AF_INET6 => IpAddr::V6(v6_at(value, 16)?),
            _ => return Err(Errno::EADDRNOTAVAIL),
        };
        self.change_group(join, group, index_at(value, 0), None)
    }

    fn change_group(&self, join: bool, group: IpAddr, index: u32, by: Option<Ipv4Addr>) -> SysResult<()> {
        if !group.is_multicast() {
            return Err(if join { Errno::EINVAL } else { Errno::EADDRNOTAVAIL });
        }
        let links = self.stack.links.read();
        let link = match (index, by) {
            (0, Some(by)) => links.local(by.into()).map(|link| link.index),
            (0, None) => links.route(group, 0).ok().map(|found| found.link),
            (index, _) => links.links.get(&index).map(|link| link.index),
        };
        drop(links);
        let mut options = self.options.lock();
        if join {
            let link = link.ok_or(Errno::ENODEV)?;
            if options.groups.iter().any(|known| known.group == group && known.link == link) {
                return Err(Errno::EADDRINUSE);
            }
            if options.groups.len() >= MAX_GROUPS {
                return Err(Errno::ENOBUFS);
            }
            options.groups.push(Membership { group, link, by });
            drop(options);
            self.stack.groups.lock().join(group, link);
            return Ok(());
        }
        if link.is_none() && index == 0 && by.is_none() {
            return Err(Errno::ENODEV);
        }
        let named = |known: &Membership| {
            known.group == group && if index != 0 { known.link == index } else { by.is_none() || known.by == by }
        };
        let at = options.groups.iter().position(named).ok_or(Errno::EADDRNOTAVAIL)?;
        let gone = options.groups.remove(at);
        drop(options);
        self.stack.groups.lock().leave(gone.group, gone.link);
        Ok(())
    }

    /// Leaves all groups, when the socket is closed.
    pub fn leave_groups(&self) {
        let groups = std::mem::take(&mut self.options.lock().groups);
        let mut all = self.stack.groups.lock();
        groups.iter().for_each(|group| all.leave(group.group, group.link));
    }

    fn set_option_v6(&self, caller: &dyn Caller, name: i32, value: &[u8], bound: bool) -> SysResult<()> {
        let number = word_of(value).unwrap_or(0);
        let long = value.len() >= 4;
        match name {
            c::IPV6_ADD_MEMBERSHIP | c::IPV6_DROP_MEMBERSHIP => {
                if self.streams() {
                    return Err(Errno::EPROTO);
                }
                if value.len() < 20 {
                    return Err(Errno::EINVAL);
                }
                return self.change_group(name == c::IPV6_ADD_MEMBERSHIP, meaning(v6_at(value, 0)?), index_at(value, 16), None);
            }
            c::MCAST_JOIN_GROUP | c::MCAST_LEAVE_GROUP => return self.group_request(name == c::MCAST_JOIN_GROUP, value),
            c::IPV6_MULTICAST_HOPS | c::IPV6_MULTICAST_IF if self.streams() => return Err(Errno::ENOPROTOOPT),
            _ if !long => return Err(Errno::EINVAL),
            c::IPV6_V6ONLY if bound => return Err(Errno::EINVAL),
            c::IPV6_MULTICAST_LOOP | c::IPV6_MULTICAST_ALL => drop(within(number, 0..=1)?),
            c::IPV6_TRANSPARENT
                if number != 0 && !caller.capable(Capability::NET_RAW) && !caller.capable(Capability::NET_ADMIN) =>
            {
                return Err(Errno::EPERM);
            }
            c::IPV6_MULTICAST_IF if number != 0 => {
                let index = u32::try_from(number).map_err(|_| Errno::ENODEV)?;
                let device = self.common.device();
                if device != 0 && device != index {
                    return Err(Errno::EINVAL);
                }
                self.stack.links.read().links.get(&index).ok_or(Errno::ENODEV)?;
            }
            _ => {}
        }
        let mut options = self.options.lock();
        if IpOptions::bit(c::SOL_IPV6, name).is_some() {
            options.set(c::SOL_IPV6, name, number != 0);
            return Ok(());
        }
        match name {
            c::IPV6_TCLASS => {
                let class = byte(within(number, -1..=255)?.max(0))?;
                options.traffic_class = if self.streams() { class & !3 | options.traffic_class & 3 } else { class };
            }
            c::IPV6_UNICAST_HOPS => options.hops = within(number, -1..=255)?,
            c::IPV6_MULTICAST_HOPS => options.multicast_hops = byte(if number == -1 { 1 } else { number })?,
            c::IPV6_MULTICAST_IF => options.multicast_link6 = number.cast_unsigned(),
            c::IPV6_MTU_DISCOVER => options.mtu_discover6 = within(number, 0..=5)?,
            c::IPV6_MINHOPCOUNT => options.min_hops = byte(number)?,
            IPV6_UNICAST_IF => options.unicast_link6 = u32::from_be(number.cast_unsigned()),
            c::IPV6_ADDR_PREFERENCES => options.address_preferences = number,
            c::IPV6_MTU if number == 0 || number >= 1280 => {}
            c::IPV6_MTU => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// The interface that packets to an address should leave by, from options and an address's scope; 0: any.
    #[must_use]
    pub fn link_towards(&self, to: &SocketAddr) -> u32 {
        let device = self.common.device();
        if device != 0 {
            return device;
        }
        if let SocketAddr::V6(to) = to
            && to.scope_id() != 0
            && (to.ip().is_unicast_link_local() || to.ip().is_multicast())
        {
            return to.scope_id();
        }
        let options = self.options.lock();
        match (to.ip().is_multicast(), to.is_ipv4()) {
            (true, true) => options.multicast_link,
            (true, false) => options.multicast_link6,
            (false, true) => options.unicast_link,
            (false, false) => options.unicast_link6,
        }
    }

    /// How packets get to an address, by an interface if `link` isn't 0.
    ///
    /// # Errors
    /// `ENETUNREACH`; `EACCES` for a broadcast without `SO_BROADCAST`.
    pub fn route(&self, to: &SocketAddr, link: u32) -> SysResult<Found> {
        let link = if link != 0 { link } else { self.link_towards(to) };
        let found = self.stack.links.read().route(to.ip(), link)?;
        if found.path == Path::Broadcast && !self.common.is(Flag::Broadcast) {
            return Err(Errno::EACCES);
        }
        Ok(found)
    }

    /// Hops and traffic class of what it sends on a path.
    #[must_use]
    pub fn marks(&self, v4: bool, path: Path) -> (u8, u8) {
        let options = self.options.lock();
        let hops = |own: i32| u8::try_from(own).unwrap_or(TTL);
        match (v4, path == Path::Multicast) {
            (true, true) => (options.multicast_ttl, options.tos),
            (true, false) => (hops(options.ttl), options.tos),
            (false, true) => (options.multicast_hops, options.traffic_class),
            (false, false) => (hops(options.hops), options.traffic_class),
        }
    }
}
