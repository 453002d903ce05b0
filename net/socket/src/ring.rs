//! A byte stream's buffer.

use std::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, SysResult};
use usermem::IoBuf;

/// Bytes that a ring has at first.
const FIRST: usize = 4096;
/// Bytes that wait in all sockets together at most (in the manner of `tcp_mem`): rings stop growing, packets are refused.
const MAX_TOTAL: usize = 512 << 20;
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// Memory of a packet that waits.
#[derive(Debug)]
pub struct Memory(usize);

impl Memory {
    /// # Errors
    /// `ENOBUFS` when sockets hold too much.
    pub fn take(bytes: usize) -> SysResult<Self> {
        if TOTAL.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_TOTAL {
            TOTAL.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Errno::ENOBUFS);
        }
        Ok(Self(bytes))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        TOTAL.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Bytes that wait to be read. It grows with what it holds; an empty one begins at its start again, so that small messages stay in the
/// same cache lines.
#[derive(Default)]
pub struct Ring {
    bytes: Vec<u8>,
    head: usize,
    len: usize,
}

impl Ring {
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `more` bytes beyond what it holds, as far as memory allows.
    fn reserve(&mut self, more: usize) {
        let wanted = self.len.saturating_add(more);
        let old = self.bytes.len();
        if wanted <= old {
            return;
        }
        let new = wanted.next_power_of_two().max(FIRST);
        if TOTAL.load(Ordering::Relaxed) + new > MAX_TOTAL && old > 0 {
            return;
        }
        TOTAL.fetch_add(new - old, Ordering::Relaxed);
        let mut bytes = vec![0; new];
        let (first, second) = self.pieces(0, self.len);
        for (at, piece) in [(0, first), (first.len(), second)] {
            bytes.get_mut(at..at + piece.len()).unwrap_or_default().copy_from_slice(piece);
        }
        self.bytes = bytes;
        self.head = 0;
    }

    /// `len` bytes from the `skip`th on, in two pieces.
    fn pieces(&self, skip: usize, len: usize) -> (&[u8], &[u8]) {
        let size = self.bytes.len();
        let len = len.min(self.len.saturating_sub(skip));
        if len == 0 {
            return (&[], &[]);
        }
        let start = (self.head + skip) % size;
        let first = len.min(size - start);
        (self.bytes.get(start..start + first).unwrap_or_default(), self.bytes.get(..len - first).unwrap_or_default())
    }

    /// Takes in up to `max` bytes.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied; `ENOBUFS` when there is no memory.
    pub fn push(&mut self, buf: &mut IoBuf<'_>, max: usize) -> SysResult<usize> {
        let want = max.min(buf.remaining());
        self.reserve(want);
        let want = want.min(self.bytes.len() - self.len);
        if want == 0 {
            return if buf.remaining() == 0 || max == 0 { Ok(0) } else { Err(Errno::ENOBUFS) };
        }
        let size = self.bytes.len();
        let start = (self.head + self.len) % size;
        let first = want.min(size - start);
        let mut done = buf.copy_in(self.bytes.get_mut(start..start + first).unwrap_or_default())?;
        self.len += done;
        if done == first && first < want {
            // What has been copied counts, whatever the rest comes to.
            let more = buf.copy_in(self.bytes.get_mut(..want - first).unwrap_or_default()).unwrap_or(0);
            self.len += more;
            done += more;
        }
        Ok(done)
    }

    /// Copies up to `max` bytes from the `skip`th on, and leaves them.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn copy(&self, skip: usize, buf: &mut IoBuf<'_>, max: usize) -> SysResult<usize> {
        let (first, second) = self.pieces(skip, max.min(buf.remaining()));
        if first.is_empty() {
            return Ok(0);
        }
        let mut done = buf.copy_out(first)?;
        if done == first.len() && !second.is_empty() {
            done += buf.copy_out(second).unwrap_or(0);
        }
        Ok(done)
    }

    /// The byte at a place.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<u8> {
        self.pieces(at, 1).0.first().copied()
    }

    /// Drops `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.head = if self.len == 0 { 0 } else { (self.head + count) % self.bytes.len() };
    }

    /// Drops all, and the memory.
    pub fn clear(&mut self) {
        TOTAL.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        (self.bytes, self.head, self.len) = (Vec::new(), 0, 0);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(ring: &mut Ring, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let done = ring.copy(0, &mut IoBuf::kernel_mut(&mut bytes), count).unwrap();
        ring.consume(done);
        bytes.truncate(done);
        bytes
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_sizes() {
        let (mut ring, mut model) = (Ring::default(), std::collections::VecDeque::new());
        let mut next = 0u32;
        for step in 0u32..5000 {
            let count = (step.wrapping_mul(2_654_435_761) >> 19) as usize;
            if step % 3 == 0 {
                let bytes: Vec<u8> = (0..count).map(|i| (next as usize + i) as u8).collect();
                next += bytes.len() as u32;
                let done = ring.push(&mut IoBuf::kernel(&bytes), count).unwrap();
                model.extend(bytes.get(..done).unwrap());
            } else {
                let expected: Vec<u8> = model.drain(..(count / 2).min(model.len())).collect();
                assert_eq!(take(&mut ring, count / 2), expected);
            }
            assert_eq!(ring.len(), model.len());
        }
    }

    #[test]
    fn looking_leaves_the_bytes() {
        let mut ring = Ring::default();
        ring.push(&mut IoBuf::kernel(b"abcdef"), 4).unwrap();
        let mut bytes = [0; 2];
        assert_eq!(ring.copy(1, &mut IoBuf::kernel_mut(&mut bytes), 9), Ok(2));
        assert_eq!((&bytes, ring.get(3), ring.get(4)), (b"bc", Some(b'd'), None));
        assert_eq!(take(&mut ring, 9), b"abcd");
    }
}
