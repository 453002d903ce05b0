//! One direction of a connection between two sockets here: no packets, one ring.

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use socket::Ring;
use std::sync::Arc;
use sync::{Mutex, WaitQueue};
use usermem::IoBuf;

/// A byte out of band (RFC 9293, "Urgent data", as everybody reads it: one byte).
struct Urgent {
    /// Its place in the stream.
    at: u64,
    /// `MSG_OOB` has read it.
    taken: bool,
}

#[derive(Default)]
struct State {
    ring: Ring,
    /// Place of the ring's first byte in the stream.
    start: u64,
    urgent: Option<Urgent>,
    /// The writer has closed its direction.
    finished: bool,
    /// The connection was reset.
    cut: bool,
    /// The reader's socket is closed.
    deaf: bool,
    /// Bytes that fit, when the writer last wrote.
    capacity: usize,
}

/// What a flow is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// Bytes that can be read.
    pub bytes: usize,
    pub finished: bool,
    pub cut: bool,
    pub deaf: bool,
    /// There is an urgent byte that nobody has read; the reader is at it.
    pub urgent: bool,
    pub at_mark: bool,
}

/// Bytes on their way to one socket.
pub struct Flow {
    state: Mutex<State>,
    reader: WaitQueue,
    writer: WaitQueue,
}

/// How a receive takes bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taking {
    /// `SO_OOBINLINE`
    pub inline: bool,
    /// Throws them away (`MSG_TRUNC`).
    pub discard: bool,
}

impl State {
    /// Bytes from `skip` on up to the urgent byte, and whether that comes right here.
    fn before_mark(&self, skip: usize) -> (usize, bool) {
        let left = self.ring.len().saturating_sub(skip);
        let here = self.start + skip as u64;
        match &self.urgent {
            Some(urgent) if urgent.at == here => (left, true),
            Some(urgent) if urgent.at > here => (left.min(usize::try_from(urgent.at - here).unwrap_or(left)), false),
            _ => (left, false),
        }
    }

    fn consume(&mut self, count: usize) {
        self.ring.consume(count);
        self.start += count as u64;
        if self.urgent.as_ref().is_some_and(|urgent| urgent.at < self.start) {
            self.urgent = None;
        }
    }
}

impl Flow {
    #[must_use]
    pub fn new(reader: &WaitQueue, writer: &WaitQueue) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), reader: reader.clone(), writer: writer.clone() })
    }

    /// Takes in as much as `capacity` leaves room for. With `urgent`, the last byte is out of band.
    ///
    /// # Errors
    /// `EPIPE` when the direction is closed, `ECONNRESET` when nobody reads any more, `EAGAIN`, `EFAULT`, `ENOBUFS`.
    pub fn push(&self, buf: &mut IoBuf<'_>, capacity: usize, urgent: bool) -> SysResult<usize> {
        let mut state = self.state.lock();
        if state.finished || state.cut {
            return Err(Errno::EPIPE);
        }
        if state.deaf {
            return Err(Errno::ECONNRESET);
        }
        state.capacity = capacity;
        let room = capacity.saturating_sub(state.ring.len());
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let count = state.ring.push(buf, room)?;
        let events = if urgent && count > 0 && buf.remaining() == 0 {
            let at = state.start + state.ring.len() as u64 - 1;
            state.urgent = Some(Urgent { at, taken: false });
            PollEvents::READABLE | PollEvents::PRI
        } else {
            PollEvents::READABLE
        };
        drop(state);
        self.reader.wake(events);
        Ok(count)
    }

    /// Hands out what is there, up to an urgent byte. `None` when there is nothing.
    ///
    /// # Errors
    /// `EFAULT`
    pub fn take(&self, buf: &mut IoBuf<'_>, how: Taking) -> SysResult<Option<usize>> {
        let mut state = self.state.lock();
        let (mut count, at_mark) = state.before_mark(0);
        if at_mark && !how.inline {
            // Out of band: it isn't part of the stream.
            state.consume(1);
            count = state.before_mark(0).0;
        }
        if count == 0 {
            return Ok(None);
        }
        let done = if how.discard { count.min(buf.skip(count)) } else { state.ring.copy(0, buf, count)? };
        state.consume(done);
        // Linux wakes writers when a third is free.
        let writable = state.ring.len() * 3 <= state.capacity * 2;
        drop(state);
        if writable {
            self.writer.wake(PollEvents::WRITABLE);
        }
        Ok(Some(done))
    }

    /// Shows what is there from the `skip`th byte on. `None` when there is nothing.
    ///
    /// # Errors
    /// `EFAULT`
    pub fn peek(&self, buf: &mut IoBuf<'_>, skip: usize, how: Taking) -> SysResult<Option<usize>> {
        let state = self.state.lock();
        let (mut count, at_mark) = state.before_mark(skip);
        let mut from = skip;
        if at_mark && !how.inline {
            from += 1;
            count = state.before_mark(from).0;
        }
        if count == 0 {
            return Ok(None);
        }
        if how.discard {
            return Ok(Some(count.min(buf.skip(count))));
        }
        state.ring.copy(from, buf, count).map(Some)
    }

    /// The urgent byte (`MSG_OOB`).
    ///
    /// # Errors
    /// `EINVAL` when there is none or it has been read, `EFAULT`.
    pub fn take_urgent(&self, buf: &mut IoBuf<'_>, peek: bool) -> SysResult<usize> {
        let mut state = self.state.lock();
        let start = state.start;
        let urgent = state.urgent.as_ref().filter(|urgent| !urgent.taken).ok_or(Errno::EINVAL)?;
        let at = usize::try_from(urgent.at - start).map_err(|_| Errno::EINVAL)?;
        let count = state.ring.copy(at, buf, 1)?;
        if !peek && let Some(urgent) = &mut state.urgent {
            urgent.taken = true;
        }
        Ok(count)
    }

    /// The writer closes its direction.
    pub fn finish(&self) {
        self.state.lock().finished = true;
    }

    /// The connection is reset: nothing more comes; what has arrived can still be read.
    pub fn cut(&self) {
        self.state.lock().cut = true;
    }

    /// The reader closes its socket; says whether it leaves something unread.
    pub fn deafen(&self) -> bool {
        let mut state = self.state.lock();
        state.deaf = true;
        let unread = !state.ring.is_empty();
        state.ring.clear();
        unread
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        let at_mark = state.urgent.as_ref().is_some_and(|urgent| urgent.at == state.start);
        let urgent = state.urgent.as_ref().is_some_and(|urgent| !urgent.taken);
        Status { bytes: state.ring.len(), finished: state.finished, cut: state.cut, deaf: state.deaf, urgent, at_mark }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Arc<Flow> {
        Flow::new(&WaitQueue::default(), &WaitQueue::default())
    }

    fn take(flow: &Flow, how: Taking) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 99];
        let count = flow.take(&mut IoBuf::kernel_mut(&mut bytes), how).unwrap()?;
        bytes.truncate(count);
        Some(bytes)
    }

    #[test]
    fn an_urgent_byte_parts_the_stream() {
        let flow = flow();
        flow.push(&mut IoBuf::kernel(b"ab!"), 99, true).unwrap();
        flow.push(&mut IoBuf::kernel(b"cd"), 99, false).unwrap();
        assert!(flow.status().urgent && !flow.status().at_mark);
        assert_eq!(take(&flow, Taking::default()).unwrap(), b"ab");
        assert!(flow.status().at_mark);
        let mut byte = [0];
        assert_eq!(flow.take_urgent(&mut IoBuf::kernel_mut(&mut byte), false), Ok(1));
        assert_eq!(byte, *b"!");
        assert_eq!(flow.take_urgent(&mut IoBuf::kernel_mut(&mut byte), false), Err(Errno::EINVAL));
        assert_eq!(take(&flow, Taking::default()).unwrap(), b"cd");
        flow.push(&mut IoBuf::kernel(b"x!"), 99, true).unwrap();
        let inline = Taking { inline: true, discard: false };
        assert_eq!((take(&flow, inline).unwrap(), take(&flow, inline).unwrap()), (b"x".to_vec(), b"!".to_vec()));
    }

    #[test]
    fn ends_are_told_apart() {
        let flow = flow();
        assert_eq!(flow.push(&mut IoBuf::kernel(b"abc"), 2, false), Ok(2));
        assert_eq!(flow.push(&mut IoBuf::kernel(b"c"), 2, false), Err(Errno::EAGAIN));
        assert!(flow.deafen());
        assert_eq!(flow.push(&mut IoBuf::kernel(b"c"), 2, false), Err(Errno::ECONNRESET));
        flow.finish();
        assert_eq!(flow.push(&mut IoBuf::kernel(b"c"), 2, false), Err(Errno::EPIPE));
    }
}
