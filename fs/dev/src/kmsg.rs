//! /dev/kmsg: the kernel's log, record for record (Documentation/ABI/testing/dev-kmsg).

use std::any::Any;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use klog::{Log, Next, RECORD_MAX};
use sync::{MonotonicNs, Mutex, WaitQueue, monotonic_ns};
use usermem::IoBuf;
use vfs::FileOps;

/// Facility of messages from programs (`LOG_USER`).
const USER: u32 = 1;
/// Level of messages without one (`MESSAGE_LOGLEVEL_DEFAULT`).
const DEFAULT_LEVEL: u8 = 4;

/// The device, opened.
pub struct Kmsg {
    log: Arc<Log>,
    /// When the log's time began.
    started: MonotonicNs,
    /// Number of the record to read next.
    next: Mutex<u64>,
}

impl Kmsg {
    pub fn open(log: Arc<Log>, started: MonotonicNs) -> Self {
        let next = Mutex::new(log.marks().0);
        Self { log, started, next }
    }
}

/// Facility, level and text of what a program writes: `<N>` says the first two, but nobody is the kernel.
fn parse(line: &[u8]) -> (u32, u8, &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let prefix = line.strip_prefix(b"<").and_then(|rest| {
        let end = rest.iter().take(6).position(|byte| *byte == b'>')?;
        let number: u32 = std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()?;
        Some((number, rest.get(end + 1..)?))
    });
    match prefix {
        Some((number, text)) => (if number >> 3 == 0 { USER } else { number >> 3 & 0xff }, (number & 7) as u8, text),
        None => (USER, DEFAULT_LEVEL, line),
    }
}

impl FileOps for Kmsg {
    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let mut next = self.next.lock();
        match self.log.get(*next) {
            Next::Empty => Err(Errno::EAGAIN),
            Next::Lost(first) => {
                *next = first;
                Err(Errno::EPIPE)
            }
            Next::Record(record) => {
                let text = record.kmsg();
                if buf.remaining() < text.len() {
                    return Err(Errno::EINVAL);
                }
                let count = buf.copy_out(&text)?;
                *next = record.seq + 1;
                Ok(count)
            }
        }
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let len = buf.remaining();
        if len > RECORD_MAX {
            return Err(Errno::EINVAL);
        }
        let mut line = vec![0; len];
        let mut done = 0;
        while let Some(rest) = line.get_mut(done..).filter(|rest| !rest.is_empty()) {
            done += buf.copy_in(rest)?;
        }
        let (facility, level, text) = parse(&line);
        self.log.append(facility, level, monotonic_ns().saturating_sub(self.started) / 1000, text);
        Ok(len)
    }

    fn pinned(&self) -> bool {
        true
    }

    /// To the oldest record, behind what has been cleared, or behind all; elsewhere it can't go.
    fn seek(&self, offset: i64, whence: i32) -> Option<SysResult<u64>> {
        let (first, cleared, next) = self.log.marks();
        let target = match whence {
            _ if offset != 0 => return Some(Err(Errno::ESPIPE)),
            c::SEEK_SET => first,
            c::SEEK_DATA => cleared,
            c::SEEK_END => next,
            _ => return Some(Err(Errno::EINVAL)),
        };
        *self.next.lock() = target;
        Some(Ok(0))
    }

    fn poll(&self) -> PollEvents {
        match self.log.get(*self.next.lock()) {
            Next::Record(_) => PollEvents::READABLE,
            Next::Lost(_) => PollEvents::READABLE | PollEvents::ERR | PollEvents::PRI,
            Next::Empty => PollEvents::empty(),
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.log.queue())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_say_facility_and_level() {
        assert_eq!(parse(b"<3>bad\n"), (1, 3, &b"bad"[..]));
        assert_eq!(parse(b"<30>daemon"), (3, 6, &b"daemon"[..]));
        assert_eq!(parse(b"plain"), (1, 4, &b"plain"[..]));
        assert_eq!(parse(b"<x>odd"), (1, 4, &b"<x>odd"[..]));
        assert_eq!(parse(b"<99999999>odd"), (1, 4, &b"<99999999>odd"[..]));
    }
}
