//! Packets as they are on a wire, for those who see them so: raw and packet sockets (RFC 791, RFC 8200, RFC 768, RFC 792, RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::c;

use crate::datagram::Datagram;

/// Bytes of headers.
pub const IPV4_HEADER: usize = 20;
pub const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;

/// The sum of RFC 1071, before its complement.
#[must_use]
pub fn sum(bytes: &[u8], start: u32) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let total = pairs.iter().fold(u64::from(start), |sum, pair| sum + u64::from(u16::from_be_bytes(*pair)));
    let mut total = total + rest.first().map_or(0, |last| u64::from(*last) << 8);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u32::try_from(total).unwrap_or(0)
}

/// A checksum from a sum.
#[must_use]
pub fn complement(sum: u32) -> u16 {
    !u16::try_from(sum).unwrap_or(0)
}

/// The sum of the pseudo-header that checksums of IPv6 and of UDP begin with.
#[must_use]
pub fn pseudo_sum(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u32 {
    let mut bytes = Vec::with_capacity(40);
    for addr in [from, to] {
        match addr {
            IpAddr::V4(addr) => bytes.extend_from_slice(&addr.octets()),
            IpAddr::V6(addr) => bytes.extend_from_slice(&addr.octets()),
        }
    }
    bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    sum(&bytes, 0)
}

fn short(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

/// What an IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpInfo {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub hops: u8,
    pub class: u8,
}

/// A packet with its IP header.
#[must_use]
pub fn packet(info: &IpInfo, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IPV6_HEADER + payload.len());
    match (info.from, info.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend_from_slice(&[0x45, info.class]);
            bytes.extend_from_slice(&short(IPV4_HEADER + payload.len()));
            // Identification 0, don't fragment; the checksum comes last.
            bytes.extend_from_slice(&[0, 0, 0x40, 0, info.hops, info.protocol, 0, 0]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            set_ipv4_checksum(&mut bytes);
        }
        (from, to) => {
            bytes.extend_from_slice(&(6u32 << 28 | u32::from(info.class) << 20).to_be_bytes());
            bytes.extend_from_slice(&short(payload.len()));
            bytes.extend_from_slice(&[info.protocol, info.hops]);
            bytes.extend_from_slice(&crate::address::to_v6(from).octets());
            bytes.extend_from_slice(&crate::address::to_v6(to).octets());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Computes the checksum of the IPv4 header that a packet begins with.
pub fn set_ipv4_checksum(packet: &mut [u8]) {
    let len = usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4;
    if let Some(place) = packet.get_mut(10..12) {
        place.fill(0);
    }
    let checksum = complement(sum(packet.get(..len).unwrap_or_default(), 0));
    if let Some(place) = packet.get_mut(10..12) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Reads an IPv4 header: what it says and where the payload begins and ends.
#[must_use]
pub fn parse_ipv4(packet: &[u8]) -> Option<(IpInfo, std::ops::Range<usize>)> {
    let header = packet.first_chunk::<IPV4_HEADER>()?;
    let [first, class, len_high, len_low, .., a, b, cc, d, e, f, g, h] = *header;
    let (hops, protocol) = (*header.get(8)?, *header.get(9)?);
    let start = usize::from(first & 0xf) * 4;
    let end = usize::from(u16::from_be_bytes([len_high, len_low])).min(packet.len());
    if first >> 4 != 4 || start < IPV4_HEADER || end < start {
        return None;
    }
    let (from, to) = (Ipv4Addr::new(a, b, cc, d).into(), Ipv4Addr::new(e, f, g, h).into());
    Some((IpInfo { from, to, protocol, hops, class }, start..end))
}

/// Reads an IPv6 header. Extension headers are not looked into.
#[must_use]
pub fn parse_ipv6(packet: &[u8]) -> Option<(IpInfo, std::ops::Range<usize>)> {
    let header = packet.first_chunk::<IPV6_HEADER>()?;
    let word = u32::from_be_bytes(*header.first_chunk()?);
    let len = usize::from(u16::from_be_bytes([*header.get(4)?, *header.get(5)?]));
    let address = |at: usize| header.get(at..at + 16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(Ipv6Addr::from);
    if word >> 28 != 6 {
        return None;
    }
    let (from, to) = (address(8)?.into(), address(24)?.into());
    let class = u8::try_from(word >> 20 & 0xff).unwrap_or(0);
    let info = IpInfo { from, to, protocol: *header.get(6)?, hops: *header.get(7)?, class };
    Some((info, IPV6_HEADER..(IPV6_HEADER + len).min(packet.len())))
}

/// A UDP datagram with its header.
#[must_use]
pub fn udp(datagram: &Datagram) -> Vec<u8> {
    let len = UDP_HEADER + datagram.data.len();
    let mut bytes = Vec::with_capacity(len);
    for part in [datagram.from.port().to_be_bytes(), datagram.to.port().to_be_bytes(), short(len), [0, 0]] {
        bytes.extend_from_slice(&part);
    }
    bytes.extend_from_slice(&datagram.data);
    let start = pseudo_sum(datagram.from.ip(), datagram.to.ip(), c::IPPROTO_UDP as u8, len);
    // 0 would mean that there is none.
    let checksum = match complement(sum(&bytes, start)) {
        0 => u16::MAX,
        checksum => checksum,
    };
    if let Some(place) = bytes.get_mut(6..8) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// The IP header's content for a datagram.
#[must_use]
pub fn udp_info(datagram: &Datagram) -> IpInfo {
    let (from, to) = (datagram.from.ip(), datagram.to.ip());
    IpInfo { from, to, protocol: c::IPPROTO_UDP as u8, hops: datagram.hops, class: datagram.class }
}

/// Reads a UDP datagram that came by `link`.
#[must_use]
pub fn parse_udp(info: &IpInfo, payload: &[u8], link: u32) -> Option<Datagram> {
    let [a, b, cc, d, e, f, _, _] = *payload.first_chunk::<UDP_HEADER>()?;
    let len = usize::from(u16::from_be_bytes([e, f]));
    let data = payload.get(UDP_HEADER..len)?.to_vec();
    let from = SocketAddr::new(info.from, u16::from_be_bytes([a, b]));
    let to = SocketAddr::new(info.to, u16::from_be_bytes([cc, d]));
    Some(Datagram { data, from, to, link, hops: info.hops, class: info.class })
}

/// Fills in the checksum of an ICMP message.
pub fn set_icmp_checksum(message: &mut [u8], info: &IpInfo) {
    if let Some(place) = message.get_mut(2..4) {
        place.fill(0);
    }
    let start = if info.to.is_ipv6() { pseudo_sum(info.from, info.to, c::IPPROTO_ICMPV6 as u8, message.len()) } else { 0 };
    let checksum = complement(sum(message, start));
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_as_in_rfc_1071() {
        assert_eq!(sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7], 0), 0xddf2);
        assert_eq!(sum(&[1], 0), 0x100);
    }

    #[test]
    fn packets_are_read_as_they_were_written() {
        for (from, to) in [("1.2.3.4:5", "127.0.0.1:7"), ("[::1]:5", "[fe80::1]:6")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let datagram = Datagram { data: b"hello".to_vec(), from, to, link: 1, hops: 7, class: 3 };
            let bytes = udp(&datagram);
            assert_eq!(sum(&bytes, pseudo_sum(from.ip(), to.ip(), 17, bytes.len())), 0xffff);
            let packet = packet(&udp_info(&datagram), &bytes);
            let (info, payload) = if from.is_ipv4() { parse_ipv4(&packet) } else { parse_ipv6(&packet) }.unwrap();
            assert_eq!(info, udp_info(&datagram));
            let parsed = parse_udp(&info, &packet[payload], 1).unwrap();
            assert_eq!((parsed.data, parsed.from, parsed.to), (datagram.data, from, to));
        }
        assert_eq!(
            sum(
                &packet(
                    &IpInfo { from: "1.2.3.4".parse().unwrap(), to: "1.2.3.5".parse().unwrap(), protocol: 1, hops: 1, class: 0 },
                    b""
                )[..20],
                0
            ),
            0xffff
        );
    }

    #[test]
    fn broken_packets_are_refused() {
        for len in 0..20 {
            assert!(parse_ipv4(&vec![0x45; len]).is_none() && parse_ipv6(&vec![0x60; len]).is_none());
        }
        assert!(parse_ipv4(&[0xff; 20]).is_none());
    }
}
