//! Contents of a regular file: a memory file of the host, so that it can be mapped.

use std::any::Any;
use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult};
use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom};
use sync::Mutex;
use usermem::{Access, HostFile, IoBuf, Segment};
use vfs::{Attr, FileOps};

/// Largest file (`MAX_LFS_FILESIZE`).
const MAX_SIZE: u64 = i64::MAX as u64;

struct State {
    size: u64,
    mtime: Timespec,
}

pub struct Regular {
    file: Arc<HostFile>,
    state: Mutex<State>,
}

impl Regular {
    pub fn new() -> SysResult<Arc<Self>> {
        let fd = rustix::fs::memfd_create("tmpfs", MemfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self { file: HostFile::new(fd, true), state: Mutex::new(State { size: 0, mtime: super::now() }) }))
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
        let state = self.state.lock();
        attr.size = state.size;
        // Holes take no space.
        attr.blocks = rustix::fs::fstat(self.file.as_fd()).map_or(0, |stat| stat.st_blocks.cast_unsigned());
        if (state.mtime.sec, state.mtime.nsec) > (attr.mtime.sec, attr.mtime.nsec) {
            attr.mtime = state.mtime;
        }
    }

    pub fn set_mtime(&self, time: Timespec) {
        self.state.lock().mtime = time;
    }

    pub fn truncate(&self, size: u64) -> SysResult<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut state = self.state.lock();
        rustix::fs::ftruncate(self.file.as_fd(), size)?;
        *state = State { size, mtime: super::now() };
        Ok(())
    }
}

impl Regular {
    fn write_locked(&self, state: &mut State, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let room = MAX_SIZE.checked_sub(offset).filter(|room| *room > 0).ok_or(Errno::EFBIG)?;
        buf.limit(usize::try_from(room).unwrap_or(usize::MAX));
        let mut total = 0;
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
        state.size = state.size.max(offset + total as u64);
        state.mtime = super::now();
        Ok(total)
    }
}

impl FileOps for Regular {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let size = self.state.lock().size;
        let mut total = 0;
        while buf.remaining() > 0 && offset.saturating_add(total as u64) < size {
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
        self.write_locked(&mut self.state.lock(), buf, offset)
    }

    fn append(&self, buf: &mut IoBuf<'_>, limit: u64) -> SysResult<(usize, u64)> {
        let mut state = self.state.lock();
        let end = state.size;
        if buf.remaining() > 0 && end >= limit {
            return Err(Errno::EFBIG);
        }
        buf.limit(usize::try_from(limit.saturating_sub(end)).unwrap_or(usize::MAX));
        let count = self.write_locked(&mut state, buf, end)?;
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
        let mut state = self.state.lock();
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
                    state.size = state.size.max(end);
                }
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        state.mtime = super::now();
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
