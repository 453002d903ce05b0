//! `struct sockaddr_un`.

use std::sync::{Arc, OnceLock};

use abi::{Errno, SysResult, c};
use socket::Name;

/// What a socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Path(Vec<u8>),
    /// Without the leading NUL.
    Abstract(Vec<u8>),
}

/// A socket's address, once it has one; those who have heard of the socket keep it.
pub type NameCell = Arc<OnceLock<Address>>;

/// Bytes of `sun_path`.
const PATH: usize = 108;

/// The family that an address begins with.
///
/// # Errors
/// `EINVAL` when there is none.
pub fn family(bytes: &[u8]) -> SysResult<i32> {
    bytes.first_chunk().map(|family| u16::from_le_bytes(*family).into()).ok_or(Errno::EINVAL)
}

impl Address {
    /// From user space; `None` when only the family was given.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn parse(bytes: &[u8]) -> SysResult<Option<Self>> {
        let path = bytes.get(2..).filter(|path| path.len() <= PATH).ok_or(Errno::EINVAL)?;
        if family(bytes)? != c::AF_UNIX {
            return Err(Errno::EINVAL);
        }
        Ok(match path.split_first() {
            None => None,
            Some((0, name)) => Some(Self::Abstract(name.to_vec())),
            Some(_) => Some(Self::Path(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())),
        })
    }

    /// For user space.
    #[must_use]
    pub fn to_name(address: Option<&Self>) -> Name {
        let mut bytes = Name::from_slice(&[c::AF_UNIX as u8, 0]);
        match address {
            None => {}
            Some(Self::Path(path)) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Some(Self::Abstract(name)) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
        }
        bytes
    }

    /// As /proc/net/unix and ss(8) show it: NULs as `@`.
    #[must_use]
    pub fn shown(&self) -> Vec<u8> {
        match self {
            Self::Path(path) => path.clone(),
            Self::Abstract(name) => {
                let name = name.iter().map(|byte| if *byte == 0 { b'@' } else { *byte });
                std::iter::once(b'@').chain(name).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        let full = [&[1, 0][..], &[b'a'; 108]].concat();
        assert_eq!(Address::parse(&full), Ok(Some(Address::Path(vec![b'a'; 108]))));
        assert_eq!(Address::parse(&[full, vec![0]].concat()), Err(Errno::EINVAL));
        assert_eq!(Address::parse(&[1, 0]), Ok(None));
        assert_eq!(Address::parse(&[1]), Err(Errno::EINVAL));
        assert_eq!(Address::parse(&[2, 0, 1]), Err(Errno::EINVAL));
        assert_eq!(Address::parse(b"\x01\0x\0junk"), Ok(Some(Address::Path(b"x".to_vec()))));
        let name = Address::parse(b"\x01\0\0a\0b").unwrap().unwrap();
        assert_eq!((name.shown(), Address::to_name(Some(&name)).as_slice()), (b"@a@b".to_vec(), &b"\x01\0\0a\0b"[..]));
        assert_eq!(Address::to_name(None).as_slice(), [1, 0]);
    }
}
