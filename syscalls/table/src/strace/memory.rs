//! The guest's memory as a tracer reads it: copied once, in bounds, and what can't be read is no error.

use mm::MemoryManager;
use usermem::UserMemoryExt;

/// Reads from one address space.
#[derive(Clone, Copy)]
pub struct Memory<'a>(pub &'a MemoryManager);

impl Memory<'_> {
    /// Most that is read at once.
    const MAX: usize = 64 << 10;

    /// A copy of so many bytes; `None` when they can't all be read.
    pub fn bytes(self, addr: u64, len: usize) -> Option<Bytes> {
        let mut bytes = vec![0; len.min(Self::MAX)];
        self.0.read(addr, &mut bytes).ok()?;
        Some(Bytes(bytes))
    }

    /// A string; `None` when it can't be read or is longer than any path.
    pub fn string(self, addr: u64) -> Option<Vec<u8>> {
        self.0.read_cstr(addr, 4096).ok()
    }

    /// A pointer or another long.
    pub fn long(self, addr: u64) -> Option<u64> {
        self.bytes(addr, 8).map(|bytes| bytes.u64(0))
    }
}

/// Bytes of the guest's. What lies beyond their end reads as 0.
pub struct Bytes(Vec<u8>);

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Bytes {
    /// A fixed number of bytes.
    pub fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        at.checked_add(N).and_then(|end| self.0.get(at..end)).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.array(at))
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.array(at))
    }

    /// So many bytes from there, or what there is.
    pub fn part(&self, at: usize, len: usize) -> &[u8] {
        let end = at.saturating_add(len).min(self.0.len());
        self.0.get(at.min(end)..end).unwrap_or_default()
    }

    pub fn all(&self) -> &[u8] {
        &self.0
    }
}
