//! The bytes in a pipe.

use std::collections::VecDeque;

/// Bytes of memory at first; a pipe that needs more gets as much as it may hold.
const SMALL: usize = 4096;

/// A stretch of bytes that were written alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    len: usize,
    /// One write with `O_DIRECT`: a read takes it alone, and what it has no room for is gone.
    packet: bool,
}

/// A ring of bytes, some of them in packets.
#[derive(Default)]
pub struct Ring {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    /// Empty as long as there is no packet.
    stretches: VecDeque<Stretch>,
}

impl Ring {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that one read may take.
    pub fn readable(&self) -> usize {
        self.stretches.front().map_or(self.len, |stretch| stretch.len)
    }

    /// The first bytes, as far as they lie in one piece and belong together.
    pub fn front(&self) -> &[u8] {
        let end = (self.start + self.readable()).min(self.memory.len());
        self.memory.get(self.start..end).unwrap_or_default()
    }

    /// The next bytes to be written, as far as they lie in one piece, for a pipe that holds `capacity`.
    pub fn spare(&mut self, want: usize, capacity: usize) -> &mut [u8] {
        let room = capacity.saturating_sub(self.len).min(want);
        self.grow(self.len + room, capacity);
        let size = self.memory.len();
        let at = self.start + self.len;
        let range = if at < size { at..size.min(at + room) } else { at - size..at - size + room };
        self.memory.get_mut(range).unwrap_or_default()
    }

    fn grow(&mut self, need: usize, capacity: usize) {
        if need <= self.memory.len() {
            return;
        }
        let size = if need <= SMALL { SMALL } else { capacity.max(need) };
        self.resize(size);
    }

    /// Gives it other memory, which must be enough for what it holds.
    fn resize(&mut self, size: usize) {
        let mut memory = vec![0; size.max(self.len)];
        let first = self.len.min(self.memory.len() - self.start);
        let (head, tail) = memory.split_at_mut(first);
        head.copy_from_slice(self.memory.get(self.start..self.start + first).unwrap_or_default());
        if let (Some(to), Some(from)) = (tail.get_mut(..self.len - first), self.memory.get(..self.len - first)) {
            to.copy_from_slice(from);
        }
        (self.memory, self.start) = (memory, 0);
    }

    /// `count` bytes have been written where [`Ring::spare`] says.
    pub fn commit(&mut self, count: usize, packet: bool) {
        if packet && self.stretches.is_empty() && self.len > 0 {
            self.stretches.push_back(Stretch { len: self.len, packet: false });
        }
        self.len += count;
        match self.stretches.back_mut() {
            Some(last) if !packet && !last.packet => last.len += count,
            None if !packet => {}
            _ => self.stretches.push_back(Stretch { len: count, packet }),
        }
    }

    /// The last packet continues with `count` more bytes.
    pub fn extend_packet(&mut self, count: usize) {
        self.len += count;
        if let Some(last) = self.stretches.back_mut() {
            last.len += count;
        }
    }

    /// The first `count` bytes are gone.
    pub fn consume(&mut self, count: usize) {
        self.drop_front(count);
        if let Some(first) = self.stretches.front_mut() {
            first.len = first.len.saturating_sub(count);
            if first.len == 0 {
                self.stretches.pop_front();
            }
        }
    }

    /// A read is over that has taken something: what it has left of a packet is gone.
    pub fn end_read(&mut self, taken: usize, readable: usize) {
        if let Some(first) = self.stretches.front().copied().filter(|first| first.packet && taken < readable) {
            self.drop_front(first.len);
            self.stretches.pop_front();
        }
    }

    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.start += count;
        if self.start >= self.memory.len() {
            self.start -= self.memory.len();
        }
        if self.len == 0 {
            self.start = 0;
        }
    }

    /// Adds bytes, for which there must be room.
    pub fn extend(&mut self, mut bytes: &[u8], capacity: usize) {
        while !bytes.is_empty() {
            let spare = self.spare(bytes.len(), capacity);
            let count = spare.len().min(bytes.len());
            if count == 0 {
                break;
            }
            let (now, later) = bytes.split_at(count);
            if let Some(to) = spare.get_mut(..count) {
                to.copy_from_slice(now);
            }
            self.commit(count, false);
            bytes = later;
        }
    }

    /// The first `count` bytes, whatever belongs together.
    pub fn copy(&self, count: usize) -> Vec<u8> {
        let count = count.min(self.len);
        let first = count.min(self.memory.len() - self.start);
        let mut bytes = self.memory.get(self.start..self.start + first).unwrap_or_default().to_vec();
        bytes.extend_from_slice(self.memory.get(..count - first).unwrap_or_default());
        bytes
    }

    /// It may hold `capacity` from now on.
    pub fn shrink(&mut self, capacity: usize) {
        if self.memory.len() > capacity {
            self.resize(capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_round() {
        let mut ring = Ring::default();
        let (mut written, mut read) = (0u8, 0u8);
        for step in [4000, 3000, 5000, 60000, 65536, 1, 7] {
            let bytes: Vec<u8> = (0..step.min(65536 - ring.len()))
                .map(|_| {
                    written = written.wrapping_add(1);
                    written
                })
                .collect();
            ring.extend(&bytes, 65536);
            while ring.len() > 500 {
                let part = ring.front().len().min(777);
                for byte in &ring.front()[..part] {
                    read = read.wrapping_add(1);
                    assert_eq!(*byte, read);
                }
                ring.consume(part);
            }
        }
        let rest = ring.copy(ring.len());
        assert!(rest.iter().all(|byte| {
            read = read.wrapping_add(1);
            *byte == read
        }));
        ring.shrink(4096);
        assert_eq!(ring.copy(usize::MAX), rest);
    }

    #[test]
    fn packets_are_read_one_by_one() {
        let mut ring = Ring::default();
        ring.extend(b"plain", 65536);
        for text in [&b"one"[..], b"two"] {
            ring.spare(3, 65536)[..3].copy_from_slice(text);
            ring.commit(3, true);
        }
        ring.extend(b"more", 65536);
        assert_eq!((ring.front(), ring.len()), (&b"plain"[..], 15));
        ring.consume(5);
        assert_eq!(ring.front(), b"one");
        ring.consume(1);
        ring.end_read(1, 3);
        assert_eq!(ring.front(), b"two");
        ring.consume(3);
        assert_eq!(ring.front(), b"more");
    }
}
