//! Host files whose pages guests map.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, SysResult};
use rustix::fs::SeekFrom;
use sync::Mutex;

use crate::PAGE_SIZE;
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
    /// A memory file of our own.
    memory: bool,
    /// Where the first window is, without a lock; 0: there is none yet.
    first: AtomicUsize,
    windows: Mutex<BTreeMap<u64, usize>>,
}

impl HostFile {
    /// `writable`: whether the descriptor allows writing.
    #[must_use]
    pub fn new(fd: OwnedFd, writable: bool) -> Arc<Self> {
        Arc::new(Self::make(fd, writable, false))
    }

    fn make(fd: OwnedFd, writable: bool, memory: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { fd, id, writable, memory, first: AtomicUsize::new(0), windows: Mutex::default() }
    }

    /// A memory file of `len` bytes (sparse). What it holds counts as memory in use.
    ///
    /// # Errors
    /// `ENOMEM`, `EMFILE`.
    pub fn memory(name: &str, len: u64) -> SysResult<Arc<Self>> {
        let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len)?;
        let file = Arc::new(Self::make(fd, true, true));
        crate::budget::register(&file);
        Ok(file)
    }

    /// Whether it is a memory file of our own.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.memory
    }

    /// Bytes that the host keeps for it.
    #[must_use]
    pub fn bytes_present(&self) -> u64 {
        rustix::fs::fstat(&self.fd).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    /// Bytes of the file as it is now.
    #[must_use]
    pub fn len(&self) -> u64 {
        rustix::fs::fstat(&self.fd).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes back what was changed through mappings.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`.
    pub fn sync(&self) -> SysResult<()> {
        if self.memory || !self.writable { Ok(()) } else { Ok(rustix::fs::fsync(&self.fd)?) }
    }

    /// Copies guest memory into the file. Where it had no page yet, this is cheaper than to touch one in the window.
    ///
    /// # Errors
    /// `EFAULT` when a page is missing, `ENOSPC`.
    pub fn copy_from(&self, offset: u64, src: &Segment) -> SysResult<()> {
        let at = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the segment is a window of ours; the host finds out which of its pages are missing.
        let count = unsafe { libc::pwrite(self.fd.as_raw_fd(), src.ptr.cast(), src.len, at) };
        match usize::try_from(count) {
            Ok(count) if count == src.len => Ok(()),
            Ok(_) => Err(Errno::EFAULT),
            Err(_) => Err(std::io::Error::last_os_error().into()),
        }
    }

    /// The pieces of a range that aren't holes, swapped-out ones included: offset and bytes, at most `most` of them (`E2BIG`).
    ///
    /// # Errors
    /// `E2BIG`, `EINVAL` where the host can't tell.
    pub fn data(&self, range: Range<u64>, most: usize) -> SysResult<Vec<(u64, u64)>> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = match rustix::fs::seek(&self.fd, SeekFrom::Data(at)) {
                Ok(start) if start < range.end => start,
                Ok(_) | Err(rustix::io::Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            if pieces.len() >= most {
                return Err(Errno::E2BIG);
            }
            at = rustix::fs::seek(&self.fd, SeekFrom::Hole(start))?.min(range.end);
            pieces.push((start, at - start));
        }
        Ok(pieces)
    }

    /// Which pages of a range are in memory: sets a byte of `present` for each.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn residency(&self, offset: u64, present: &mut [u8]) -> SysResult<()> {
        let mut done = 0;
        while let Some(rest) = present.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64 * PAGE_SIZE;
            let segment = self.segment(at, rest.len() as u64 * PAGE_SIZE)?;
            let pages = segment.len / PAGE_SIZE as usize;
            // SAFETY: the segment is a mapping of ours, and `rest` has a byte for each of its pages.
            let result = unsafe { libc::mincore(segment.ptr.cast(), segment.len, rest.as_mut_ptr()) };
            if result != 0 || pages == 0 {
                return Err(Errno::ENOMEM);
            }
            rest.iter_mut().take(pages).for_each(|byte| *byte &= 1);
            done += pages;
        }
        Ok(())
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
        if self.free(offset, len).is_err() {
            // Old bytes must never show up again: without the call's help they are overwritten.
            let zeros = [0; PAGE_SIZE as usize];
            for at in (offset..offset.saturating_add(len)).step_by(PAGE_SIZE as usize) {
                let _ = self.segment(at, PAGE_SIZE).and_then(|page| page.write(&zeros));
            }
        }
    }

    /// Frees the pages of a range of a file that may be anybody's (fallocate(2), `FALLOC_FL_PUNCH_HOLE`).
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `EBADF`, `EPERM`.
    pub fn free(&self, offset: u64, len: u64) -> SysResult<()> {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.fd, flags, offset, len)?)
    }

    /// The view of `len` bytes at `offset`, cut at the end of a window.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn segment(&self, offset: u64, len: u64) -> SysResult<Segment> {
        let index = offset / WINDOW;
        let within = offset % WINDOW;
        let len = len.min(WINDOW - within) as usize;
        let first = self.first.load(Ordering::Acquire);
        if index == 0 && first != 0 {
            return Ok(Segment { ptr: std::ptr::with_exposed_provenance_mut(first + within as usize), len });
        }
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
                if index == 0 {
                    self.first.store(base.addr(), Ordering::Release);
                }
                base.addr()
            }
        };
        Ok(Segment { ptr: std::ptr::with_exposed_provenance_mut(base + within as usize), len })
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        if self.memory {
            crate::budget::forget(self.id);
        }
        for base in self.windows.get_mut().values() {
            // SAFETY: mapped by `segment`; whoever holds a segment holds the file.
            unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(*base), WINDOW as usize) };
        }
    }
}
