//! Open regular files of the host.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use abi::{Errno, SysResult};
use usermem::{Access, HostFile, IoBuf, Segment};
use vfs::{Attr, FileOps};

use crate::inode::attr_of;

/// An open regular file.
pub struct HostRegular {
    pub file: Arc<HostFile>,
    /// Device number that the guest sees.
    pub dev: u64,
}

/// Moves all of `buf`, or until a short count.
fn transfer(
    buf: &mut IoBuf<'_>,
    access: Access,
    offset: u64,
    io: &mut dyn FnMut(&[Segment], u64) -> SysResult<usize>,
) -> SysResult<usize> {
    let mut total = 0;
    while buf.remaining() > 0 {
        let at = offset.checked_add(total as u64).ok_or(Errno::EINVAL)?;
        let mut short = false;
        let result = buf.host_io(access, &mut |segments| {
            let wanted: usize = segments.iter().map(Segment::len).sum();
            let count = io(segments, at)?;
            short = count < wanted;
            Ok(count)
        });
        match result {
            Ok(count) => total += count,
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
        }
        if short {
            break;
        }
    }
    Ok(total)
}

impl HostRegular {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FileOps for HostRegular {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        transfer(buf, Access::Write, offset, &mut |segments, at| usermem::preadv(self.fd(), segments, at))
    }

    fn write(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        transfer(buf, Access::Read, offset, &mut |segments, at| usermem::pwritev(self.fd(), segments, at))
    }

    fn host_file(&self) -> SysResult<Arc<HostFile>> {
        Ok(self.file.clone())
    }

    fn fsync(&self) -> SysResult<()> {
        if self.file.writable() {
            rustix::fs::fsync(self.fd())?;
        }
        Ok(())
    }

    fn attr(&self) -> Option<Attr> {
        Some(attr_of(&rustix::fs::fstat(self.fd()).ok()?, self.dev))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
