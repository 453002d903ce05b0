//! Control messages that say how a datagram is to be sent (ip(7), ipv6(7)).

use std::net::IpAddr;

use abi::{Errno, SysResult, c};
use socket::ControlReader;

use crate::address::meaning;
use crate::ip::Ip;

/// What control messages ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendControl {
    pub source: Option<IpAddr>,
    /// Interface; 0: any.
    pub link: u32,
    pub hops: Option<u8>,
    pub class: Option<u8>,
}

fn word(data: &[u8], at: usize) -> SysResult<i32> {
    data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_le_bytes).ok_or(Errno::EINVAL)
}

/// A number of 0..=255; -1 is the default.
fn small(data: &[u8]) -> SysResult<Option<u8>> {
    match word(data, 0)? {
        -1 => Ok(None),
        number => u8::try_from(number).map(Some).map_err(|_| Errno::EINVAL),
    }
}

impl SendControl {
    /// # Errors
    /// `EINVAL`
    pub fn parse(ip: &Ip, control: &[u8]) -> SysResult<Self> {
        let mut all = Self::default();
        for message in ControlReader::new(control) {
            let (level, kind, data) = message?;
            match (level, kind) {
                // About tasks and files: of AF_UNIX only.
                (c::SOL_SOCKET, c::SCM_RIGHTS | c::SCM_CREDENTIALS | c::SO_MARK | c::SO_TIMESTAMPING) => {}
                (c::SOL_SOCKET, _) => return Err(Errno::EINVAL),
                (c::SOL_IP, c::IP_TTL) => match word(data, 0)? {
                    1..=255 => all.hops = small(data)?,
                    _ => return Err(Errno::EINVAL),
                },
                (c::SOL_IP, c::IP_TOS) => {
                    let number = if data.len() == 1 { i32::from(data.first().copied().unwrap_or(0)) } else { word(data, 0)? };
                    all.class = Some(u8::try_from(number).map_err(|_| Errno::EINVAL)?);
                }
                (c::SOL_IP, c::IP_PKTINFO) => {
                    let source: [u8; 4] = data
                        .get(4..8)
                        .filter(|_| data.len() == 12)
                        .and_then(|bytes| bytes.try_into().ok())
                        .ok_or(Errno::EINVAL)?;
                    all.link = word(data, 0)?.cast_unsigned();
                    all.source = Some(IpAddr::from(source)).filter(|source| !source.is_unspecified());
                }
                (c::SOL_IP, c::IP_RETOPTS) => {}
                (c::SOL_IPV6, _) if !ip.is_v6() => {}
                (c::SOL_IPV6, c::IPV6_HOPLIMIT) => all.hops = small(data)?,
                (c::SOL_IPV6, c::IPV6_TCLASS) => all.class = small(data)?,
                (c::SOL_IPV6, c::IPV6_PKTINFO) => {
                    let source: [u8; 16] = data.get(..16).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
                    all.link = word(data, 16)?.cast_unsigned();
                    all.source = Some(meaning(source.into())).filter(|source| !source.is_unspecified());
                }
                (c::SOL_IPV6, c::IPV6_DONTFRAG) => {}
                (c::SOL_IP | c::SOL_IPV6, _) => return Err(Errno::EINVAL),
                _ => {}
            }
        }
        if let Some(source) = all.source {
            let links = ip.stack.links.read();
            if links.local(source).is_none() && !ip.is(c::SOL_IP, c::IP_FREEBIND) {
                return Err(if source.is_ipv4() { Errno::EINVAL } else { Errno::EADDRNOTAVAIL });
            }
        }
        if all.link != 0 && !ip.stack.links.read().links.contains_key(&all.link) {
            return Err(Errno::ENODEV);
        }
        Ok(all)
    }
}
