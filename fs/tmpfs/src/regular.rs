//! Contents of a regular file: a memory file of the host, so that it can be mapped.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::structs::Timespec;
use abi::{Errno, SysResult};
use rustix::fs::{FallocateFlags, SeekFrom};
use sync::Mutex;
use usermem::{Access, HostFile, IoBuf, Segment};
use vfs::{Attr, FileOps};

/// Largest file (`MAX_LFS_FILESIZE`).
const MAX_SIZE: u64 = i64::MAX as u64;

/// A file that has been read or written so often is copied from and to by way of a window on it: the first uses of a page cost more then
/// than a call to the host, all others less.
const HOT: u32 = 16;
/// The largest piece for which that pays.
const MAX_COPY: usize = 64 << 10;
/// Files with windows at most: the host limits the mappings of a process.
const MAX_HOT: usize = 8192;
static HOT_FILES: AtomicUsize = AtomicUsize::new(0);

pub struct Regular {
    file: Arc<HostFile>,
    /// Changed with `mtime` locked.
    size: AtomicU64,
    mtime: Mutex<Timespec>,
    /// Reads and writes, up to [`HOT`]; one more when it counts among [`HOT_FILES`].
    uses: AtomicU32,
}

impl Drop for Regular {
    fn drop(&mut self) {
        if *self.uses.get_mut() > HOT {
            HOT_FILES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The time as file systems take it: as fine as a tick.
fn now() -> Timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }
}

impl Regular {
    pub fn new() -> SysResult<Arc<Self>> {
        let file = HostFile::memory("tmpfs", 0)?;
        let (size, uses) = (AtomicU64::new(0), AtomicU32::new(0));
        Ok(Arc::new(Self { file, size, mtime: Mutex::new(now()), uses }))
    }

    /// The window on a piece of it, if it is worth one.
    fn window(&self, offset: u64, len: usize) -> Option<Segment> {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses <= HOT {
            let more = uses < HOT || HOT_FILES.load(Ordering::Relaxed) < MAX_HOT;
            if more && self.uses.compare_exchange(uses, uses + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() && uses == HOT {
                HOT_FILES.fetch_add(1, Ordering::Relaxed);
            }
            return None;
        }
        if len > MAX_COPY { None } else { self.file.segment(offset, len as u64).ok() }
    }

    /// A copy of another file's contents.
    pub fn copy_of(lower: &dyn FileOps) -> SysResult<Arc<Self>> {
        let copy = Self::new()?;
        let mut chunk = vec![0; 1 << 16];
        let mut at = 0;
        loop {
            let count = lower.read(&mut IoBuf::kernel_mut(&mut chunk), at)?;
            if count == 0 {
                return Ok(copy);
            }
            copy.write(&mut IoBuf::kernel(chunk.get(..count).unwrap_or_default()), at)?;
            at += count as u64;
        }
    }

    pub fn fill(&self, attr: &mut Attr) {
        let mtime = *self.mtime.lock();
        attr.size = self.size.load(Ordering::Acquire);
        // Holes take no space.
        attr.blocks = rustix::fs::fstat(self.file.as_fd()).map_or(0, |stat| stat.st_blocks.cast_unsigned());
        if (mtime.sec, mtime.nsec) > (attr.mtime.sec, attr.mtime.nsec) {
            attr.mtime = mtime;
        }
    }

    pub fn set_mtime(&self, time: Timespec) {
        *self.mtime.lock() = time;
    }

    pub fn truncate(&self, size: u64) -> SysResult<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut mtime = self.mtime.lock();
        rustix::fs::ftruncate(self.file.as_fd(), size)?;
        self.size.store(size, Ordering::Release);
        *mtime = now();
        Ok(())
    }

    /// With `mtime` locked.
    fn write_locked(&self, mtime: &mut Timespec, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let room = MAX_SIZE.checked_sub(offset).filter(|room| *room > 0).ok_or(Errno::EFBIG)?;
        buf.limit(usize::try_from(room).unwrap_or(usize::MAX));
        let size = self.size.load(Ordering::Acquire);
        let mut total = 0;
        // Inside of what there is.
        if offset + buf.remaining() as u64 <= size
            && let Some(window) = self.window(offset, buf.remaining())
        {
            total = buf.copy_window(Access::Read, window).unwrap_or(0);
        }
        while buf.remaining() > 0 {
            let at = offset + total as u64;
            let write = &mut |segments: &[Segment]| usermem::pwritev(self.file.as_fd(), segments, at);
            match buf.host_io(Access::Read, write) {
                Ok(0) => break,
                Ok(count) => total += count,
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        self.size.store(size.max(offset + total as u64), Ordering::Release);
        *mtime = now();
        Ok(total)
    }
}

impl FileOps for Regular {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let size = self.size.load(Ordering::Acquire);
        let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = buf.remaining().min(room);
        let mut total = 0;
        if want > 0
            && let Some(window) = self.window(offset, want)
        {
            total = buf.copy_window(Access::Write, window.truncated(want)).unwrap_or(0);
        }
        while total < want {
            let at = offset + total as u64;
            let result = buf.host_io(Access::Write, &mut |segments| usermem::preadv(self.file.as_fd(), segments, at));
            match result {
                Ok(0) => break,
                Ok(count) => total += count,
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn write(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        self.write_locked(&mut self.mtime.lock(), buf, offset)
    }

    fn append(&self, buf: &mut IoBuf<'_>, limit: u64) -> SysResult<(usize, u64)> {
        let mut mtime = self.mtime.lock();
        let end = self.size.load(Ordering::Acquire);
        if buf.remaining() > 0 && end >= limit {
            return Err(Errno::EFBIG);
        }
        buf.limit(usize::try_from(limit.saturating_sub(end)).unwrap_or(usize::MAX));
        let count = self.write_locked(&mut mtime, buf, end)?;
        Ok((count, end + count as u64))
    }

    fn is_regular(&self) -> bool {
        true
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> SysResult<()> {
        // What Linux's own tmpfs knows.
        let flags = FallocateFlags::from_bits(mode.cast_unsigned()).ok_or(Errno::EOPNOTSUPP)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let end = offset.checked_add(len).filter(|end| *end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let mut mtime = self.mtime.lock();
        match flags {
            flags if flags == punch => rustix::fs::fallocate(self.file.as_fd(), flags, offset, len)?,
            flags if flags.is_empty() || flags == FallocateFlags::KEEP_SIZE => {
                // The host would rather kill than refuse.
                let info = rustix::system::sysinfo();
                if len > info.freeram.saturating_mul(info.mem_unit.into()) {
                    return Err(Errno::ENOSPC);
                }
                rustix::fs::fallocate(self.file.as_fd(), flags, offset, len)?;
                if flags.is_empty() {
                    self.size.fetch_max(end, Ordering::AcqRel);
                }
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        *mtime = now();
        Ok(())
    }

    fn seek_data(&self, offset: u64, _: u64, hole: bool) -> SysResult<u64> {
        let from = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
        Ok(rustix::fs::seek(self.file.as_fd(), from)?)
    }

    fn host_file(&self) -> SysResult<Arc<HostFile>> {
        Ok(self.file.clone())
    }

    fn fsync(&self) -> SysResult<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
