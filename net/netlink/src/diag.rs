//! NETLINK_SOCK_DIAG: which sockets there are (sock_diag(7)).

use std::net::SocketAddr;

use abi::{Errno, SysResult, c};
use inet::Listing;
use inet::address::to_v6;

use crate::Hub;
use crate::message::{Builder, Datagrams, Request, u8_at, u32_at};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// Bytes of a `struct inet_diag_req_v2`, and of a `struct unix_diag_req`.
const INET_REQUEST: usize = 56;
const UNIX_REQUEST: usize = 24;

/// Attributes of answers about AF_UNIX, and which of them a request asks for.
mod unix_diag {
    pub const NAME: u16 = 0;
    pub const PEER: u16 = 2;
    pub const RQLEN: u16 = 4;
    pub const SHOW_NAME: u32 = 1;
    pub const SHOW_PEER: u32 = 4;
    pub const SHOW_RQLEN: u32 = 0x10;
}

/// Attributes of answers about IP sockets.
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_SHUTDOWN: u16 = 8;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// Answers a request.
///
/// # Errors
/// `ENOENT` for families that can't be asked for, `EINVAL`.
pub fn serve(hub: &Hub, request: &Request<'_>, port: u32) -> SysResult<Vec<Vec<u8>>> {
    if request.kind != BY_FAMILY {
        return Err(Errno::EINVAL);
    }
    match i32::from(u8_at(request.payload, 0)) {
        family @ (c::AF_INET | c::AF_INET6) => inet(hub, family, request, port),
        c::AF_UNIX => unix(hub, request, port),
        _ => Err(Errno::ENOENT),
    }
}

fn done(mut datagrams: Datagrams, request: &Request<'_>, port: u32) -> Vec<Vec<u8>> {
    datagrams.add(&Builder::answer(c::NLMSG_DONE as u16, request, port).raw(&0u32.to_le_bytes()).finish());
    datagrams.finish()
}

/// Ports and addresses of a `struct inet_diag_sockid`, in the order of a wire.
fn ends(listing: &Listing) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48);
    for end in [listing.local, listing.remote] {
        bytes.extend_from_slice(&end.port().to_be_bytes());
    }
    for end in [listing.local, listing.remote] {
        match end {
            SocketAddr::V4(end) => {
                bytes.extend_from_slice(&end.ip().octets());
                bytes.extend_from_slice(&[0; 12]);
            }
            SocketAddr::V6(end) => bytes.extend_from_slice(&end.ip().octets()),
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&listing.ino.to_le_bytes());
    bytes
}

fn inet(hub: &Hub, family: i32, request: &Request<'_>, port: u32) -> SysResult<Vec<Vec<u8>>> {
    if request.payload.len() < INET_REQUEST {
        return Err(Errno::EINVAL);
    }
    let (protocol, states) = (i32::from(u8_at(request.payload, 1)), u32_at(request.payload, 4));
    let kind = match protocol {
        c::IPPROTO_TCP => c::SOCK_STREAM,
        c::IPPROTO_UDP | c::IPPROTO_UDPLITE => c::SOCK_DGRAM,
        c::IPPROTO_RAW => c::SOCK_RAW,
        _ => return Err(Errno::ENOENT),
    };
    let wanted = if protocol == c::IPPROTO_RAW { None } else { Some(protocol) };
    let mut all = hub.inet.list(family, kind, wanted);
    if protocol == c::IPPROTO_TCP {
        for (local, remote, both, _) in hub.inet.tcp.all_remembered() {
            if local.is_ipv6() == (family == c::AF_INET6) {
                let state = if both { 6 } else { 5 };
                all.push(Listing {
                    local,
                    remote,
                    state,
                    receive_queue: 0,
                    send_queue: 0,
                    drops: 0,
                    uid: 0,
                    ino: 0,
                    v6_only: false,
                });
            }
        }
    }
    let by_ports = u32_at(request.payload, 8);
    let mut datagrams = Datagrams::default();
    for listing in all.iter().filter(|listing| states >> listing.state & 1 != 0) {
        // Not a dump: one socket, named by its ends.
        if !request.dumps() && by_ports != u32_at(&ends(listing), 0) {
            continue;
        }
        // A socket of IPv6 shows IPv4 addresses as mapped ones.
        let mapped =
            |end: SocketAddr| if family == c::AF_INET6 { SocketAddr::new(to_v6(end.ip()).into(), end.port()) } else { end };
        let shown = Listing { local: mapped(listing.local), remote: mapped(listing.remote), ..listing.clone() };
        let numbers = [0, number(listing.receive_queue), number(listing.send_queue), listing.uid, listing.ino as u32];
        let mut builder = Builder::answer(BY_FAMILY, request, port)
            .raw(&[family as u8, listing.state, 0, 0])
            .raw(&ends(&shown))
            .raw(&numbers.map(u32::to_le_bytes).concat())
            .byte(INET_DIAG_SHUTDOWN, 0);
        if family == c::AF_INET6 {
            builder = builder.byte(INET_DIAG_SKV6ONLY, listing.v6_only.into());
        }
        let memory = [0u32, 212_992, 0, 212_992, 0, 0, 0, 0, u32::try_from(listing.drops).unwrap_or(u32::MAX)];
        datagrams.add(&builder.attribute(INET_DIAG_SKMEMINFO, &memory.map(u32::to_le_bytes).concat()).finish());
        if !request.dumps() {
            return Ok(datagrams.finish());
        }
    }
    if request.dumps() { Ok(done(datagrams, request, port)) } else { Err(Errno::ENOENT) }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn unix(hub: &Hub, request: &Request<'_>, port: u32) -> SysResult<Vec<Vec<u8>>> {
    if request.payload.len() < UNIX_REQUEST {
        return Err(Errno::EINVAL);
    }
    let (states, ino, show) = (u32_at(request.payload, 4), u32_at(request.payload, 8), u32_at(request.payload, 12));
    let mut datagrams = Datagrams::default();
    for socket in hub.unix.all() {
        let (flags, status) = socket.status();
        // `TCP_LISTEN`, `TCP_ESTABLISHED`, `TCP_CLOSE`
        let state = match (flags != 0, status) {
            (true, _) => 10,
            (false, 3) => 1,
            _ => 7,
        };
        if states >> state & 1 == 0 || !request.dumps() && u64::from(ino) != socket.ino() {
            continue;
        }
        let mut builder = Builder::answer(BY_FAMILY, request, port)
            .raw(&[c::AF_UNIX as u8, socket.kind().raw() as u8, state, 0])
            .raw(&(socket.ino() as u32).to_le_bytes())
            .raw(&socket.ino().to_le_bytes());
        if show & unix_diag::SHOW_NAME != 0
            && let Some(address) = socket.address()
        {
            let name = unix::Address::to_name(Some(address));
            builder = builder.attribute(unix_diag::NAME, name.get(2..).unwrap_or_default());
        }
        if show & unix_diag::SHOW_PEER != 0
            && let Some(peer) = socket.peer()
        {
            builder = builder.word(unix_diag::PEER, peer.ino() as u32);
        }
        if show & unix_diag::SHOW_RQLEN != 0 {
            let (waiting, most) = socket.queues();
            builder = builder.attribute(unix_diag::RQLEN, &[number(waiting), number(most)].map(u32::to_le_bytes).concat());
        }
        datagrams.add(&builder.finish());
        if !request.dumps() {
            return Ok(datagrams.finish());
        }
    }
    if request.dumps() { Ok(done(datagrams, request, port)) } else { Err(Errno::ENOENT) }
}
