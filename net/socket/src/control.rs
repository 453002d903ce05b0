//! Control messages (cmsg(3)).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use abi::{Errno, SysResult, c};
use smallvec::SmallVec;
use vfs::File;

use crate::Credentials;
use crate::common::{Common, Flag};

/// Bytes of a `struct cmsghdr`.
const HEADER: usize = 16;

/// A control message that goes to the receiver. What depends on the receiving task is made into bytes by the handler.
pub enum Control {
    Data {
        level: i32,
        kind: i32,
        bytes: SmallVec<[u8; 64]>,
    },
    /// `SCM_CREDENTIALS`
    Credentials(Credentials),
    /// `SCM_RIGHTS`
    Rights(Vec<Arc<File>>),
    /// `SCM_PIDFD`: the process.
    PidFd(i32),
}

impl Control {
    /// A message with this content.
    #[must_use]
    pub fn data(level: i32, kind: i32, bytes: &[u8]) -> Self {
        Self::Data { level, kind, bytes: SmallVec::from_slice(bytes) }
    }

    /// A message with an `int`.
    #[must_use]
    pub fn word(level: i32, kind: i32, value: i32) -> Self {
        Self::data(level, kind, &value.to_le_bytes())
    }
}

/// The time of day, in seconds and nanoseconds, if a socket wants to know when something has arrived.
#[must_use]
pub fn arrival(common: &Common) -> Option<(i64, i64)> {
    (common.is(Flag::Timestamp) || common.is(Flag::TimestampNs)).then(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos().into())
    })
}

/// When something has arrived, in the form that the socket wants.
#[must_use]
pub fn timestamp(common: &Common, (sec, nsec): (i64, i64)) -> Option<Control> {
    let new = common.is(Flag::NewTimestamp);
    let (kind, fraction) = if common.is(Flag::TimestampNs) {
        (if new { c::SO_TIMESTAMPNS_NEW } else { c::SO_TIMESTAMPNS }, nsec)
    } else if common.is(Flag::Timestamp) {
        (if new { c::SO_TIMESTAMP_NEW } else { c::SO_TIMESTAMP }, nsec / 1000)
    } else {
        return None;
    };
    Some(Control::data(c::SOL_SOCKET, kind, &[sec.to_le_bytes(), fraction.to_le_bytes()].concat()))
}

/// Goes through control messages as they came from the guest: level, type and content of each.
pub struct ControlReader<'a>(&'a [u8]);

impl<'a> ControlReader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for ControlReader<'a> {
    type Item = SysResult<(i32, i32, &'a [u8])>;

    /// `EINVAL` for a length that isn't possible.
    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_at_checked(HEADER)?;
        let word = |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, i32::from_le_bytes);
        let len = header.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
        let len = usize::try_from(len).ok().filter(|len| (HEADER..=self.0.len()).contains(len));
        let Some(len) = len else {
            self.0 = &[];
            return Some(Err(Errno::EINVAL));
        };
        let data = self.0.get(HEADER..len).unwrap_or_default();
        self.0 = self.0.get(len.next_multiple_of(8)..).unwrap_or_default();
        Some(Ok((word(8), word(12), data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: u64, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [&len.to_le_bytes()[..], &1i32.to_le_bytes(), &kind.to_le_bytes(), data].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn messages_are_told_apart_and_bad_lengths_refused() {
        let bytes = [message(20, 7, b"abcd"), message(17, 8, b"x")].concat();
        let all: Vec<_> = ControlReader::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(all, [(1, 7, &b"abcd"[..]), (1, 8, b"x")]);
        for len in [0, 1, 15, 25, u64::MAX] {
            let bytes = message(len, 7, b"abcdefgh");
            let all: Vec<_> = ControlReader::new(&bytes).collect();
            assert_eq!(all, [Err(Errno::EINVAL)], "{len}");
        }
    }
}
