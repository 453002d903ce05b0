//! `struct sockaddr_in` and `struct sockaddr_in6` (ip(7), ipv6(7)).
//!
//! Inside, an address is what it means: IPv4 addresses mapped into IPv6 are IPv4 addresses, whatever the socket's family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use abi::{Errno, SysResult, c};
use socket::Name;

/// Bytes of a `struct sockaddr_in`, and of a `struct sockaddr_in6` without and with `sin6_scope_id`.
const V4: usize = 16;
const V6_SHORT: usize = 24;
const V6: usize = 28;

/// The family that an address begins with.
///
/// # Errors
/// `EINVAL` when there is none.
pub fn family(bytes: &[u8]) -> SysResult<i32> {
    bytes.first_chunk().map(|family| u16::from_le_bytes(*family).into()).ok_or(Errno::EINVAL)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> SysResult<[u8; N]> {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)
}

/// An address of a socket of `domain`.
///
/// # Errors
/// `EINVAL` when it is too short, `EAFNOSUPPORT` when it is another family's.
pub fn parse(domain: i32, bytes: &[u8]) -> SysResult<SocketAddr> {
    if domain == c::AF_INET6 {
        return parse_v6(bytes);
    }
    if bytes.len() < V4 {
        return Err(Errno::EINVAL);
    }
    if family(bytes)? != c::AF_INET {
        return Err(Errno::EAFNOSUPPORT);
    }
    parse_v4(bytes)
}

fn parse_v4(bytes: &[u8]) -> SysResult<SocketAddr> {
    Ok((Ipv4Addr::from(chunk(bytes, 4)?), u16::from_be_bytes(chunk(bytes, 2)?)).into())
}

fn parse_v6(bytes: &[u8]) -> SysResult<SocketAddr> {
    match family(bytes)? {
        c::AF_INET6 if bytes.len() < V6_SHORT => Err(Errno::EINVAL),
        c::AF_INET6 => {
            let scope = chunk(bytes, 24).map_or(0, u32::from_le_bytes);
            let (addr, port) = (Ipv6Addr::from(chunk::<16>(bytes, 8)?), u16::from_be_bytes(chunk(bytes, 2)?));
            Ok(match addr.to_ipv4_mapped() {
                Some(addr) => (addr, port).into(),
                None => SocketAddrV6::new(addr, port, 0, scope).into(),
            })
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// Where sendto(2) of a socket of `domain` sends to: sockets of IPv6 take IPv4 addresses too.
///
/// # Errors
/// `EINVAL`, `EAFNOSUPPORT`.
pub fn parse_destination(domain: i32, bytes: &[u8]) -> SysResult<SocketAddr> {
    let family = family(bytes)?;
    if domain == c::AF_INET6 && family == c::AF_INET {
        return if bytes.len() < V4 { Err(Errno::EINVAL) } else { parse_v4(bytes) };
    }
    // Old programs leave the family out.
    if domain == c::AF_INET && family == c::AF_UNSPEC {
        return if bytes.len() < V4 { Err(Errno::EINVAL) } else { parse_v4(bytes) };
    }
    parse(domain, bytes)
}

/// An IPv6 address that means the same.
#[must_use]
pub fn to_v6(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
        IpAddr::V6(addr) => addr,
    }
}

/// What an address means.
#[must_use]
pub fn meaning(addr: Ipv6Addr) -> IpAddr {
    addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4)
}

/// The form that a socket of `domain` shows.
#[must_use]
pub fn to_name(domain: i32, addr: SocketAddr) -> Name {
    let mut bytes = Name::new();
    bytes.extend_from_slice(&(domain as u16).to_le_bytes());
    bytes.extend_from_slice(&addr.port().to_be_bytes());
    match (domain, addr) {
        (c::AF_INET6, addr) => {
            let scope = if let SocketAddr::V6(addr) = addr { addr.scope_id() } else { 0 };
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&to_v6(addr.ip()).octets());
            bytes.extend_from_slice(&scope.to_le_bytes());
            debug_assert_eq!(bytes.len(), V6);
        }
        (_, SocketAddr::V4(addr)) => {
            bytes.extend_from_slice(&addr.ip().octets());
            bytes.resize(V4, 0);
        }
        // A socket of IPv4 has no such address.
        (_, SocketAddr::V6(_)) => bytes.resize(V4, 0),
    }
    bytes
}

/// Where a destination leads: nowhere in particular is this host.
#[must_use]
pub fn meant(mut to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => to.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => to.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    to
}

/// No address and no port.
#[must_use]
pub fn unspecified(domain: i32) -> SocketAddr {
    let any = if domain == c::AF_INET6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    (any, 0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_there_and_back() {
        for (domain, text) in [(c::AF_INET, "1.2.3.4:80"), (c::AF_INET6, "[fe80::1%3]:9"), (c::AF_INET6, "127.0.0.1:7")] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(parse(domain, &to_name(domain, addr)), Ok(addr), "{text}");
        }
        let v4 = to_name(c::AF_INET, "1.2.3.4:80".parse().unwrap());
        assert_eq!(parse(c::AF_INET6, &v4), Err(Errno::EAFNOSUPPORT));
        assert_eq!(parse_destination(c::AF_INET6, &v4), "1.2.3.4:80".parse().map_err(|_| Errno::EINVAL));
        assert_eq!(parse(c::AF_INET, &v4[..15]), Err(Errno::EINVAL));
        assert_eq!(parse(c::AF_INET, &[10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::EAFNOSUPPORT));
    }
}
