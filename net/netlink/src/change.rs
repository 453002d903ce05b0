//! NETLINK_ROUTE: changes (rtnetlink(7)). Each is told to the groups that listen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::{Errno, SysResult, c};
use inet::links::{Link, LinkKind, Links, Route};

use crate::Hub;
use crate::message::{Attributes, Builder, Request, u8_at, u32_at};
use crate::route::{IFADDRMSG, IFINFOMSG, RTMSG, address, address_message, link_message, named_link, route_message};

/// `RTNLGRP_*`
const GROUP_LINK: u32 = 1;
const GROUP_V4_ADDRESS: u32 = 5;
const GROUP_V4_ROUTE: u32 = 7;
const GROUP_V6_ADDRESS: u32 = 9;
const GROUP_V6_ROUTE: u32 = 11;

/// Attribute types that the libc crate lacks.
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const RTA_TABLE: u16 = 15;

/// Smallest and largest MTU.
const MTU: std::ops::RangeInclusive<u32> = 68..=65536;

fn tell_link(hub: &Hub, kind: u16, links: &Links, link: &Link) {
    let message = link_message(Builder::new(kind, 0, 0, 0), links, link);
    hub.multicast(c::NETLINK_ROUTE, GROUP_LINK, 0, &message);
}

/// RTM_NEWLINK, RTM_SETLINK: makes an interface or changes one.
///
/// # Errors
/// `EEXIST`, `ENODEV`, `EOPNOTSUPP` for kinds that there aren't, `EINVAL`, `ENOBUFS`.
pub fn new_link(hub: &Hub, request: &Request<'_>) -> SysResult<()> {
    if request.payload.len() < IFINFOMSG {
        return Err(Errno::EINVAL);
    }
    let mut links = hub.inet.links.write();
    let known = named_link(&links, request).map(|link| link.index);
    let index = match known {
        Ok(_) if request.has(c::NLM_F_CREATE) && request.has(c::NLM_F_EXCL) => return Err(Errno::EEXIST),
        Ok(index) => index,
        Err(Errno::EINVAL | Errno::ENODEV) if request.has(c::NLM_F_CREATE) && request.kind == c::RTM_NEWLINK => {
            make(&mut links, request)?
        }
        // One that isn't named isn't there (iproute2 asks so whether this request is known).
        Err(Errno::EINVAL) => return Err(Errno::ENODEV),
        Err(errno) => return Err(errno),
    };
    set(&mut links, index, request.payload)?;
    let peer = match links.links.get(&index).map(|link| &link.kind) {
        Some(LinkKind::Veth(peer)) if known.is_err() => Some(*peer),
        _ => None,
    };
    for link in [Some(index), peer].into_iter().flatten().filter_map(|index| links.links.get(&index)) {
        tell_link(hub, c::RTM_NEWLINK, &links, link);
    }
    Ok(())
}

/// A name that isn't taken, for a kind.
fn free_name(links: &Links, kind: &str) -> SysResult<String> {
    (0..10_000).map(|number| format!("{kind}{number}")).find(|name| links.by_name(name).is_none()).ok_or(Errno::ENFILE)
}

/// Makes the interface that a request describes; returns its index.
fn make(links: &mut Links, request: &Request<'_>) -> SysResult<u32> {
    let attributes = Attributes::parse(request.payload.get(IFINFOMSG..).unwrap_or_default());
    let info = Attributes::parse(attributes.get(c::IFLA_LINKINFO).ok_or(Errno::EOPNOTSUPP)?);
    let kind = info.text(IFLA_INFO_KIND)?.ok_or(Errno::EOPNOTSUPP)?;
    // A pattern like `eth%d` asks for the first free number.
    let name = |links: &Links, given: Option<&str>| match given {
        Some(name) if name.ends_with("%d") => free_name(links, name.trim_end_matches("%d")),
        Some(name) => Ok(name.to_owned()),
        None => free_name(links, kind),
    };
    let own = name(links, attributes.text(c::IFLA_IFNAME)?)?;
    match kind {
        "dummy" => links.add(&own, LinkKind::Dummy),
        "veth" => {
            let data = Attributes::parse(info.get(IFLA_INFO_DATA).unwrap_or_default());
            let peer = data.get(VETH_INFO_PEER).unwrap_or_default();
            let peer_attributes = Attributes::parse(peer.get(IFINFOMSG..).unwrap_or_default());
            let first = links.add(&own, LinkKind::Veth(0))?;
            let second =
                name(links, peer_attributes.text(c::IFLA_IFNAME)?).and_then(|name| links.add(&name, LinkKind::Veth(first)));
            let second = match second {
                Ok(second) => second,
                Err(errno) => {
                    links.remove(first)?;
                    return Err(errno);
                }
            };
            if let Some(link) = links.links.get_mut(&first) {
                link.kind = LinkKind::Veth(second);
            }
            if !peer.is_empty() {
                set(links, second, peer)?;
            }
            Ok(first)
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Sets what a `struct ifinfomsg` and its attributes say.
fn set(links: &mut Links, index: u32, payload: &[u8]) -> SysResult<()> {
    let attributes = Attributes::parse(payload.get(IFINFOMSG..).unwrap_or_default());
    if attributes.get(c::IFLA_NET_NS_FD).is_some()
        || attributes.get(c::IFLA_NET_NS_PID).is_some()
        || attributes.get(c::IFLA_MASTER).is_some()
    {
        return Err(Errno::EOPNOTSUPP);
    }
    let mtu = attributes.u32(c::IFLA_MTU)?;
    if mtu.is_some_and(|mtu| !MTU.contains(&mtu)) {
        return Err(Errno::EINVAL);
    }
    let mac = attributes.get(c::IFLA_ADDRESS).map(|mac| <[u8; 6]>::try_from(mac).map_err(|_| Errno::EINVAL)).transpose()?;
    let queue_len = attributes.u32(c::IFLA_TXQLEN)?;
    let name = attributes.text(c::IFLA_IFNAME)?;
    let link = links.links.get_mut(&index).ok_or(Errno::ENODEV)?;
    link.mtu = mtu.unwrap_or(link.mtu);
    link.mac = mac.unwrap_or(link.mac);
    link.queue_len = queue_len.unwrap_or(link.queue_len);
    // A name that it was found by is its own.
    let rename = name.filter(|name| link.name != *name && !name.ends_with("%d"));
    if let Some(name) = rename {
        links.rename(index, name)?;
    }
    let (flags, change) = (u32_at(payload, 8), u32_at(payload, 12));
    // Old programs leave the mask out.
    links.set_flags(index, flags, if change == 0 && flags != 0 { u32::MAX } else { change })
}

/// RTM_DELLINK
///
/// # Errors
/// `ENODEV`, `EOPNOTSUPP` for the loopback interface.
pub fn delete_link(hub: &Hub, request: &Request<'_>) -> SysResult<()> {
    let mut links = hub.inet.links.write();
    let gone = named_link(&links, request)?.clone();
    links.remove(gone.index)?;
    tell_link(hub, c::RTM_DELLINK, &links, &gone);
    Ok(())
}

/// RTM_NEWADDR
///
/// # Errors
/// `ENODEV`, `EEXIST`, `EINVAL`.
pub fn new_address(hub: &Hub, request: &Request<'_>) -> SysResult<()> {
    let payload = request.payload;
    let attributes = Attributes::parse(payload.get(IFADDRMSG..).unwrap_or_default());
    let (family, prefix, scope, index) = (u8_at(payload, 0), u8_at(payload, 1), u8_at(payload, 3), u32_at(payload, 4));
    let local = attributes.get(c::IFA_LOCAL).or(attributes.get(c::IFA_ADDRESS)).ok_or(Errno::EINVAL)?;
    let addr = address(family, local)?;
    let broadcast = attributes.get(c::IFA_BROADCAST).map(|bytes| address(family, bytes)).transpose()?;
    let broadcast = broadcast.and_then(|addr| if let IpAddr::V4(addr) = addr { Some(addr) } else { None });
    // IPv6 scopes follow from the address.
    let scope = match addr {
        IpAddr::V4(_) => scope,
        IpAddr::V6(addr) if addr.is_loopback() => c::RT_SCOPE_HOST,
        IpAddr::V6(addr) if addr.is_unicast_link_local() => c::RT_SCOPE_LINK,
        IpAddr::V6(_) => c::RT_SCOPE_UNIVERSE,
    };
    let label = attributes.text(c::IFA_LABEL)?.unwrap_or_default();
    let mut links = hub.inet.links.write();
    match links.add_address(index, addr, prefix, broadcast, scope, label) {
        Err(Errno::EEXIST) if request.has(c::NLM_F_REPLACE) => return Ok(()),
        result => result?,
    }
    let link = links.links.get(&index).ok_or(Errno::ENODEV)?;
    if let Some(added) = link.addresses.iter().find(|known| known.addr == addr && known.prefix == prefix) {
        let message = address_message(Builder::new(c::RTM_NEWADDR, 0, 0, 0), link, added);
        hub.multicast(c::NETLINK_ROUTE, if addr.is_ipv4() { GROUP_V4_ADDRESS } else { GROUP_V6_ADDRESS }, 0, &message);
    }
    Ok(())
}

/// RTM_DELADDR
///
/// # Errors
/// `ENODEV`, `EADDRNOTAVAIL`, `EINVAL`.
pub fn delete_address(hub: &Hub, request: &Request<'_>) -> SysResult<()> {
    let payload = request.payload;
    let attributes = Attributes::parse(payload.get(IFADDRMSG..).unwrap_or_default());
    let (family, prefix, index) = (u8_at(payload, 0), u8_at(payload, 1), u32_at(payload, 4));
    let given = attributes.get(c::IFA_LOCAL).or(attributes.get(c::IFA_ADDRESS)).ok_or(Errno::EINVAL)?;
    let addr = address(family, given)?;
    // Without an address of its own kind, the prefix isn't told either.
    let prefix = attributes.get(c::IFA_ADDRESS).map(|_| prefix);
    let mut links = hub.inet.links.write();
    let gone = links.remove_address(index, addr, prefix)?;
    let link = links.links.get(&index).ok_or(Errno::ENODEV)?;
    let message = address_message(Builder::new(c::RTM_DELADDR, 0, 0, 0), link, &gone);
    hub.multicast(c::NETLINK_ROUTE, if addr.is_ipv4() { GROUP_V4_ADDRESS } else { GROUP_V6_ADDRESS }, 0, &message);
    Ok(())
}

/// The route that a request describes; a link of 0 is to be found by the gateway.
fn route(request: &Request<'_>) -> SysResult<Route> {
    let payload = request.payload;
    let attributes = Attributes::parse(payload.get(RTMSG..).unwrap_or_default());
    let byte = |at| u8_at(payload, at);
    let given = |kind: u16| attributes.get(kind).map(|bytes| address(byte(0), bytes)).transpose();
    let any =
        if i32::from(byte(0)) == c::AF_INET6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let prefix = byte(1);
    if prefix > if any.is_ipv4() { 32 } else { 128 } {
        return Err(Errno::EINVAL);
    }
    let destination = given(c::RTA_DST)?.unwrap_or(any);
    if inet::links::network(destination, prefix) != destination {
        return Err(Errno::EINVAL);
    }
    let table = attributes.u32(RTA_TABLE)?.unwrap_or(byte(4).into());
    Ok(Route {
        destination,
        prefix,
        gateway: given(c::RTA_GATEWAY)?,
        source: given(c::RTA_PREFSRC)?,
        link: attributes.u32(c::RTA_OIF)?.unwrap_or(0),
        metric: attributes.u32(c::RTA_PRIORITY)?.unwrap_or(if any.is_ipv4() { 0 } else { 1024 }),
        protocol: byte(5),
        scope: byte(6),
        table: if table == 0 { c::RT_TABLE_MAIN.into() } else { table },
        kind: byte(7),
    })
}

fn tell_route(hub: &Hub, kind: u16, route: &Route) {
    let message = route_message(Builder::new(kind, 0, 0, 0), route);
    hub.multicast(c::NETLINK_ROUTE, if route.destination.is_ipv4() { GROUP_V4_ROUTE } else { GROUP_V6_ROUTE }, 0, &message);
}

/// RTM_NEWROUTE
///
/// # Errors
/// `EEXIST`, `ENETUNREACH`, `ENODEV`, `ENETDOWN`, `EINVAL`.
pub fn new_route(hub: &Hub, request: &Request<'_>) -> SysResult<()> {
    let route = route(request)?;
    if route.kind != c::RTN_UNICAST {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut links = hub.inet.links.write();
    links.add_route(route.clone(), request.has(c::NLM_F_REPLACE))?;
    let added = links.routes.last().cloned();
    drop(links);
    tell_route(hub, c::RTM_NEWROUTE, added.as_ref().unwrap_or(&route));
    Ok(())
}

/// RTM_DELROUTE
///
/// # Errors
/// `ESRCH`, `EINVAL`.
pub fn delete_route(hub: &Hub, request: &Request<'_>) -> SysResult<()> {
    let given = route(request)?;
    let attributes = Attributes::parse(request.payload.get(RTMSG..).unwrap_or_default());
    let metric = attributes.u32(c::RTA_PRIORITY)?;
    let same = |known: &Route| {
        known.destination == given.destination
            && known.prefix == given.prefix
            && known.table == given.table
            && (given.link == 0 || known.link == given.link)
            && (given.gateway.is_none() || known.gateway == given.gateway)
            && metric.is_none_or(|metric| known.metric == metric)
    };
    let gone = hub.inet.links.write().remove_route(same)?;
    tell_route(hub, c::RTM_DELROUTE, &gone);
    Ok(())
}
