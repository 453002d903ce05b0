//! Host files whose pages guests map.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, SysResult};
use sync::Mutex;

use crate::copy::Segment;

/// Bytes of a window: the sentry maps files in such pieces.
const WINDOW: u64 = 64 << 20;
/// Windows of one file at most, so that a guest can't use up the sentry's address space.
const MAX_WINDOWS: usize = 1 << 14;

/// A host file that guests map, and the sentry's own view of it.
pub struct HostFile {
    fd: OwnedFd,
    id: u64,
    writable: bool,
    windows: Mutex<BTreeMap<u64, usize>>,
}

impl HostFile {
    /// `writable`: whether the descriptor allows writing.
    #[must_use]
    pub fn new(fd: OwnedFd, writable: bool) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { fd, id: NEXT.fetch_add(1, Ordering::Relaxed), writable, windows: Mutex::default() })
    }

    /// A memory file of `len` bytes (sparse).
    ///
    /// # Errors
    /// `ENOMEM`, `EMFILE`.
    pub fn memory(name: &str, len: u64) -> SysResult<Arc<Self>> {
        let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len)?;
        Ok(Self::new(fd, true))
    }

    /// Never used twice in one sentry.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }

    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Frees the pages of a range; they read as zeros afterwards.
    pub fn punch(&self, offset: u64, len: u64) {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        // A failure leaves old bytes behind, which the allocator clears on reuse.
        let _ = rustix::fs::fallocate(&self.fd, flags, offset, len);
    }

    /// The view of `len` bytes at `offset`, cut at the end of a window.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn segment(&self, offset: u64, len: u64) -> SysResult<Segment> {
        let index = offset / WINDOW;
        let within = offset % WINDOW;
        let mut windows = self.windows.lock();
        let base = match windows.get(&index) {
            Some(base) => *base,
            None => {
                if windows.len() >= MAX_WINDOWS {
                    return Err(Errno::ENOMEM);
                }
                let prot = libc::PROT_READ | if self.writable { libc::PROT_WRITE } else { 0 };
                let at = (index * WINDOW).cast_signed();
                // SAFETY: a fresh mapping; nothing else points into it.
                let base =
                    unsafe { libc::mmap(std::ptr::null_mut(), WINDOW as usize, prot, libc::MAP_SHARED, self.raw_fd(), at) };
                if base == libc::MAP_FAILED {
                    return Err(Errno::ENOMEM);
                }
                windows.insert(index, base.addr());
                base.addr()
            }
        };
        let len = len.min(WINDOW - within);
        Ok(Segment { ptr: std::ptr::with_exposed_provenance_mut(base + within as usize), len: len as usize })
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        for base in self.windows.get_mut().values() {
            // SAFETY: mapped by `segment`; whoever holds a segment holds the file.
            unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(*base), WINDOW as usize) };
        }
    }
}
