//! NETLINK_ROUTE: what there is (rtnetlink(7)).

use std::net::IpAddr;

use abi::{Errno, SysResult, c};
use auth::Capability;
use inet::ioctl::{hardware_type, shown_flags};
use inet::links::{Link, LinkAddress, LinkKind, Links, Path, Route};
use socket::Caller;

use crate::message::{Attributes, Builder, Datagrams, Request, u8_at, u32_at};
use crate::{Hub, change};

/// Attribute types that the libc crate lacks.
mod attr {
    pub const IFLA_INFO_KIND: u16 = 1;
    pub const RTA_TABLE: u16 = 15;
    pub const FRA_TABLE: u16 = 15;
    pub const FRA_PRIORITY: u16 = 6;
    pub const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    pub const RTA_PREF: u16 = 20;
}

/// Bytes of the structures that requests begin with.
pub const IFINFOMSG: usize = 16;
pub const IFADDRMSG: usize = 8;
pub const RTMSG: usize = 12;

/// Answers a request.
///
/// # Errors
/// What its NLMSG_ERROR says.
pub fn serve(hub: &Hub, caller: &dyn Caller, request: &Request<'_>, port: u32) -> SysResult<Vec<Vec<u8>>> {
    // Types come in fours: new, delete, get, set. All but getting needs a privilege.
    let gets = request.kind & 3 == 2;
    if !gets && !caller.capable(Capability::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    match request.kind {
        c::RTM_GETLINK if request.dumps() => Ok(dump_links(hub, request, port)),
        c::RTM_GETLINK => get_link(hub, request, port),
        c::RTM_GETADDR if request.dumps() => Ok(dump_addresses(hub, request, port)),
        c::RTM_GETROUTE if request.dumps() => Ok(dump_routes(hub, request, port)),
        c::RTM_GETROUTE => get_route(hub, request, port),
        c::RTM_GETRULE if request.dumps() => Ok(dump_rules(request, port)),
        _ if gets && request.dumps() && KNOWN_EMPTY.contains(&request.kind) => Ok(finish(Datagrams::default(), request, port)),
        c::RTM_NEWLINK | c::RTM_SETLINK => change::new_link(hub, request).map(|()| Vec::new()),
        c::RTM_DELLINK => change::delete_link(hub, request).map(|()| Vec::new()),
        c::RTM_NEWADDR => change::new_address(hub, request).map(|()| Vec::new()),
        c::RTM_DELADDR => change::delete_address(hub, request).map(|()| Vec::new()),
        c::RTM_NEWROUTE => change::new_route(hub, request).map(|()| Vec::new()),
        c::RTM_DELROUTE => change::delete_route(hub, request).map(|()| Vec::new()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// What there is none of: neighbours, queueing disciplines and their classes and filters, tunnels' labels, multicast addresses and routes,
/// settings of interfaces, namespaces' numbers.
const KNOWN_EMPTY: [u16; 9] = [30, 38, 42, 46, 58, 74, 82, 86, 90];

/// The end of a dump.
fn finish(mut datagrams: Datagrams, request: &Request<'_>, port: u32) -> Vec<Vec<u8>> {
    datagrams.add(&Builder::answer(c::NLMSG_DONE as u16, request, port).raw(&0u32.to_le_bytes()).finish());
    datagrams.finish()
}

/// An address's bytes.
pub fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6`
pub fn family(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { c::AF_INET as u8 } else { c::AF_INET6 as u8 }
}

/// An interface's description.
pub fn link_message(builder: Builder, links: &Links, link: &Link) -> Vec<u8> {
    let up = link.flags & c::IFF_UP.cast_unsigned() != 0;
    let loopback = link.kind == LinkKind::Loopback;
    let kind = match link.kind {
        LinkKind::Loopback => None,
        LinkKind::Dummy => Some("dummy"),
        LinkKind::Veth(_) => Some("veth"),
        LinkKind::Tun { .. } => Some("tun"),
    };
    // `IF_OPER_UNKNOWN` where nothing tells, else up or down
    let state = match (loopback || link.kind == LinkKind::Dummy, up) {
        (true, true) => 0,
        (false, true) => 6,
        (_, false) => 2,
    };
    let mut builder = builder
        .raw(&[0, 0])
        .raw(&hardware_type(&link.kind).to_le_bytes())
        .raw(&link.index.to_le_bytes())
        .raw(&shown_flags(link).to_le_bytes())
        .raw(&[0; 4])
        .text(c::IFLA_IFNAME, &link.name)
        .word(c::IFLA_TXQLEN, link.queue_len)
        .byte(c::IFLA_OPERSTATE, state)
        .byte(c::IFLA_LINKMODE, 0)
        .word(c::IFLA_MTU, link.mtu)
        .word(c::IFLA_GROUP, 0)
        .word(c::IFLA_PROMISCUITY, 0)
        .word(c::IFLA_NUM_TX_QUEUES, 1)
        .word(c::IFLA_NUM_RX_QUEUES, 1)
        .byte(c::IFLA_CARRIER, up.into())
        .text(c::IFLA_QDISC, if up { "noqueue" } else { "noop" })
        .word(c::IFLA_CARRIER_CHANGES, 0);
    if hardware_type(&link.kind) != 65534 {
        let broadcast = if loopback { [0; 6] } else { [0xff; 6] };
        builder = builder.attribute(c::IFLA_ADDRESS, &link.mac).attribute(c::IFLA_BROADCAST, &broadcast);
    }
    if let LinkKind::Veth(peer) = link.kind
        && links.links.contains_key(&peer)
    {
        builder = builder.word(c::IFLA_LINK, peer);
    }
    builder = builder.attribute(c::IFLA_STATS64, &[0; 192]).attribute(c::IFLA_STATS, &[0; 96]);
    if let Some(kind) = kind {
        builder = builder.nested(c::IFLA_LINKINFO, |inner| inner.text(attr::IFLA_INFO_KIND, kind));
    }
    builder.finish()
}

fn dump_links(hub: &Hub, request: &Request<'_>, port: u32) -> Vec<Vec<u8>> {
    let mut datagrams = Datagrams::default();
    let links = hub.inet.links.read();
    for link in links.links.values() {
        datagrams.add(&link_message(Builder::answer(c::RTM_NEWLINK, request, port), &links, link));
    }
    drop(links);
    finish(datagrams, request, port)
}

/// The interface that a request names by number or by name.
pub fn named_link<'a>(links: &'a Links, request: &Request<'_>) -> SysResult<&'a Link> {
    let attributes = Attributes::parse(request.payload.get(IFINFOMSG..).unwrap_or_default());
    let index = u32_at(request.payload, 4);
    if index != 0 {
        return links.links.get(&index).ok_or(Errno::ENODEV);
    }
    let name = attributes.text(c::IFLA_IFNAME)?.or(attributes.text(c::IFLA_ALT_IFNAME)?).ok_or(Errno::EINVAL)?;
    links.by_name(name).ok_or(Errno::ENODEV)
}

fn get_link(hub: &Hub, request: &Request<'_>, port: u32) -> SysResult<Vec<Vec<u8>>> {
    let links = hub.inet.links.read();
    let link = named_link(&links, request)?;
    Ok(vec![link_message(Builder::answer(c::RTM_NEWLINK, request, port), &links, link)])
}

/// An address's description.
pub fn address_message(builder: Builder, link: &Link, address: &LinkAddress) -> Vec<u8> {
    const PERMANENT: u8 = 0x80;
    let bytes = octets(address.addr);
    let mut builder =
        builder.raw(&[family(address.addr), address.prefix, PERMANENT, address.scope]).raw(&link.index.to_le_bytes());
    builder = builder.attribute(c::IFA_ADDRESS, &bytes);
    if address.addr.is_ipv4() {
        builder = builder.attribute(c::IFA_LOCAL, &bytes);
        if let Some(broadcast) = address.broadcast {
            builder = builder.attribute(c::IFA_BROADCAST, &broadcast.octets());
        }
        builder = builder.text(c::IFA_LABEL, &address.label);
    }
    // Preferred and valid for ever.
    let forever = [u32::MAX, u32::MAX, 0, 0].map(u32::to_le_bytes).concat();
    builder.word(c::IFA_FLAGS, PERMANENT.into()).attribute(c::IFA_CACHEINFO, &forever).finish()
}

fn dump_addresses(hub: &Hub, request: &Request<'_>, port: u32) -> Vec<Vec<u8>> {
    let (wanted, index) = (u8_at(request.payload, 0), u32_at(request.payload, 4));
    let mut datagrams = Datagrams::default();
    let links = hub.inet.links.read();
    for v4 in [true, false] {
        for link in links.links.values().filter(|link| index == 0 || link.index == index) {
            for address in link.addresses.iter().filter(|address| address.addr.is_ipv4() == v4) {
                if wanted == 0 || wanted == family(address.addr) {
                    datagrams.add(&address_message(Builder::answer(c::RTM_NEWADDR, request, port), link, address));
                }
            }
        }
    }
    drop(links);
    finish(datagrams, request, port)
}

/// A route's description.
pub fn route_message(builder: Builder, route: &Route) -> Vec<u8> {
    let table = u8::try_from(route.table).unwrap_or(252);
    let head = [family(route.destination), route.prefix, 0, 0, table, route.protocol, route.scope, route.kind];
    let mut builder = builder.raw(&head).raw(&[0; 4]).word(attr::RTA_TABLE, route.table);
    if route.prefix > 0 {
        builder = builder.attribute(c::RTA_DST, &octets(route.destination));
    }
    if route.metric != 0 {
        builder = builder.word(c::RTA_PRIORITY, route.metric);
    }
    if let Some(source) = route.source {
        builder = builder.attribute(c::RTA_PREFSRC, &octets(source));
    }
    if let Some(gateway) = route.gateway {
        builder = builder.attribute(c::RTA_GATEWAY, &octets(gateway));
    }
    builder = builder.word(c::RTA_OIF, route.link);
    if route.destination.is_ipv6() {
        builder = builder.attribute(c::RTA_CACHEINFO, &[0; 32]).byte(attr::RTA_PREF, 0);
    }
    builder.finish()
}

/// Routes of the local table: the addresses that are ours.
fn local_routes(links: &Links) -> Vec<Route> {
    let mut all = Vec::new();
    let up = links.links.values().filter(|link| link.flags & c::IFF_UP.cast_unsigned() != 0);
    for link in up {
        for address in &link.addresses {
            let v4 = address.addr.is_ipv4();
            let whole = if v4 { 32 } else { 128 };
            let route = Route {
                destination: address.addr,
                prefix: whole,
                gateway: None,
                source: v4.then_some(address.addr),
                link: link.index,
                metric: 0,
                protocol: c::RTPROT_KERNEL,
                scope: if v4 { c::RT_SCOPE_HOST } else { c::RT_SCOPE_UNIVERSE },
                table: c::RT_TABLE_LOCAL.into(),
                kind: c::RTN_LOCAL,
            };
            if v4 && link.kind == LinkKind::Loopback && address.prefix < whole {
                let destination = inet::links::network(address.addr, address.prefix);
                all.push(Route { destination, prefix: address.prefix, ..route.clone() });
            }
            if let Some(broadcast) = address.broadcast {
                let (scope, kind) = (c::RT_SCOPE_LINK, c::RTN_BROADCAST);
                all.push(Route { destination: broadcast.into(), scope, kind, ..route.clone() });
            }
            all.push(route);
        }
    }
    all
}

fn dump_routes(hub: &Hub, request: &Request<'_>, port: u32) -> Vec<Vec<u8>> {
    let wanted = u8_at(request.payload, 0);
    let mut datagrams = Datagrams::default();
    let links = hub.inet.links.read();
    let mut all = links.routes.clone();
    all.extend(local_routes(&links));
    drop(links);
    all.sort_by_key(|route| (route.destination.is_ipv6(), route.table != u32::from(c::RT_TABLE_MAIN)));
    for route in all.iter().filter(|route| wanted == 0 || wanted == family(route.destination)) {
        datagrams.add(&route_message(Builder::answer(c::RTM_NEWROUTE, request, port), route));
    }
    finish(datagrams, request, port)
}

/// How one destination is reached.
fn get_route(hub: &Hub, request: &Request<'_>, port: u32) -> SysResult<Vec<Vec<u8>>> {
    let attributes = Attributes::parse(request.payload.get(RTMSG..).unwrap_or_default());
    let destination = address(u8_at(request.payload, 0), attributes.get(c::RTA_DST).ok_or(Errno::EINVAL)?)?;
    let link = attributes.u32(c::RTA_OIF)?.unwrap_or(0);
    let links = hub.inet.links.read();
    let found = links.route(destination, link)?;
    let local = found.path == Path::Local;
    let fits = |route: &&Route| route.link == found.link && inet::links::matches(destination, route.destination, route.prefix);
    let gateway = if local {
        None
    } else {
        links.routes.iter().filter(fits).max_by_key(|route| route.prefix).and_then(|route| route.gateway)
    };
    let route = Route {
        destination,
        prefix: if destination.is_ipv4() { 32 } else { 128 },
        gateway,
        source: Some(found.source),
        link: found.link,
        metric: 0,
        protocol: 0,
        scope: c::RT_SCOPE_UNIVERSE,
        table: if local { c::RT_TABLE_LOCAL.into() } else { c::RT_TABLE_MAIN.into() },
        kind: match found.path {
            Path::Local => c::RTN_LOCAL,
            Path::Broadcast => c::RTN_BROADCAST,
            Path::Multicast => c::RTN_MULTICAST,
            Path::Out => c::RTN_UNICAST,
        },
    };
    drop(links);
    Ok(vec![route_message(Builder::answer(c::RTM_NEWROUTE, request, port), &route)])
}

/// An address of a family.
///
/// # Errors
/// `EINVAL` for a wrong length, `EAFNOSUPPORT`.
pub fn address(family: u8, bytes: &[u8]) -> SysResult<IpAddr> {
    match i32::from(family) {
        c::AF_INET => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)).ok_or(Errno::EINVAL),
        c::AF_INET6 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)).ok_or(Errno::EINVAL),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The rules that every namespace begins with: local, main, default.
fn dump_rules(request: &Request<'_>, port: u32) -> Vec<Vec<u8>> {
    const TO_TABLE: u8 = 1;
    let wanted = i32::from(u8_at(request.payload, 0));
    let mut datagrams = Datagrams::default();
    for family in [c::AF_INET, c::AF_INET6].into_iter().filter(|family| wanted == 0 || wanted == *family) {
        let tables = [(c::RT_TABLE_LOCAL, 0u32), (c::RT_TABLE_MAIN, 32766), (c::RT_TABLE_DEFAULT, 32767)];
        let count = if family == c::AF_INET { 3 } else { 2 };
        for (table, priority) in tables.into_iter().take(count) {
            let head = [family as u8, 0, 0, 0, table, 0, 0, TO_TABLE];
            let mut builder = Builder::answer(c::RTM_NEWRULE, request, port).raw(&head).raw(&[0; 4]);
            builder = builder.word(attr::FRA_TABLE, table.into()).word(attr::FRA_SUPPRESS_PREFIXLEN, u32::MAX);
            if priority != 0 {
                builder = builder.word(attr::FRA_PRIORITY, priority);
            }
            datagrams.add(&builder.finish());
        }
    }
    finish(datagrams, request, port)
}
