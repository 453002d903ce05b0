//! IPv4 and IPv6 sockets (ip(7), ipv6(7), tcp(7), udp(7), icmp(7), raw(7)).
//!
//! Sockets of one namespace reach each other without packets: a TCP connection is two rings, a UDP datagram goes from the sender's memory
//! into the receiver's inbox. See the README for how traffic that leaves the sandbox is to be added.
#![forbid(unsafe_code)]

pub mod address;
mod datagram;
mod icmp;
pub mod ioctl;
mod ip;
mod ip_control;
pub mod links;
mod ports;
mod proc;
mod raw;
mod stack;
mod tcp;
mod udp;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Kuid};
use socket::{Caller, Socket};

pub use stack::{Count, Listing, Stack};

use icmp::Ping;
use ip::Ip;
use raw::Raw;
use tcp::Tcp;
use udp::Udp;

/// A new socket of `AF_INET` or `AF_INET6` (socket(2)).
///
/// # Errors
/// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EINVAL`, `EPERM`.
pub fn socket(stack: &Arc<Stack>, caller: &dyn Caller, domain: i32, kind: i32, protocol: i32) -> SysResult<Arc<dyn Socket>> {
    if !(0..256).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    let owner = Kuid(caller.credentials().uid);
    let ping = if domain == c::AF_INET6 { c::IPPROTO_ICMPV6 } else { c::IPPROTO_ICMP };
    match (kind, protocol) {
        (c::SOCK_STREAM, c::IPPROTO_IP | c::IPPROTO_TCP) => Ok(Tcp::new(stack, owner, domain)),
        (c::SOCK_DGRAM, c::IPPROTO_IP | c::IPPROTO_UDP) => Ok(Udp::new(stack, owner, domain)),
        (c::SOCK_DGRAM, protocol) if protocol == ping => Ok(Ping::new(stack, owner, domain)),
        (c::SOCK_RAW, c::IPPROTO_IP) => Err(Errno::EPROTONOSUPPORT),
        (c::SOCK_RAW, _) if !caller.capable(Capability::NET_RAW) => Err(Errno::EPERM),
        (c::SOCK_RAW, protocol) => Ok(Raw::new(stack, owner, domain, protocol)),
        (c::SOCK_STREAM | c::SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// An address for bind(2).
fn bind_address(ip: &Ip, bytes: &[u8]) -> SysResult<SocketAddr> {
    match address::parse(ip.common.domain, bytes) {
        // Old programs leave the family out if they mean any address.
        Err(Errno::EAFNOSUPPORT) if !ip.is_v6() && address::family(bytes)? == c::AF_UNSPEC => {
            let any = address::parse_destination(c::AF_INET, bytes)?;
            if any.ip().is_unspecified() { Ok(any) } else { Err(Errno::EAFNOSUPPORT) }
        }
        result => result,
    }
}
