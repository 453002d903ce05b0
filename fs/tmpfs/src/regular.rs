//! Contents of a regular file: a memory file of the host, so that it can be mapped.

use std::any::Any;
use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult};
use rustix::fs::MemfdFlags;
use sync::Mutex;
use usermem::{Access, HostFile, IoBuf, Segment};
use vfs::{Attr, FileOps};

/// Largest file.
const MAX_SIZE: u64 = 1 << 40;

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
        attr.blocks = state.size.div_ceil(512);
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

impl FileOps for Regular {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let size = self.state.lock().size;
        let mut total = 0;
        while buf.remaining() > 0 && offset + (total as u64) < size {
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
        if offset.checked_add(buf.remaining() as u64).is_none_or(|end| end > MAX_SIZE) {
            return Err(Errno::EFBIG);
        }
        let mut state = self.state.lock();
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
