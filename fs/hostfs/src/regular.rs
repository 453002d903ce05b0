//! Open regular files of the host.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use abi::{Errno, SysResult};
use rustix::fs::{FallocateFlags, SeekFrom};
use usermem::{Access, HostFile, IoBuf, Segment};
use vfs::{Attr, FileOps};

use crate::inode::HostInode;

/// An open regular file.
pub struct HostRegular {
    pub file: Arc<HostFile>,
    pub inode: Arc<HostInode>,
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
        let result = transfer(buf, Access::Read, offset, &mut |segments, at| usermem::pwritev(self.fd(), segments, at));
        self.inode.changed();
        result
    }

    fn append(&self, buf: &mut IoBuf<'_>, limit: u64) -> SysResult<(usize, u64)> {
        // Others on the host may write to it: its end is where the host says.
        let end = || Ok::<_, Errno>(rustix::fs::fstat(self.fd())?.st_size.cast_unsigned());
        if limit != u64::MAX {
            let room = limit.saturating_sub(end()?);
            if buf.remaining() > 0 && room == 0 {
                return Err(Errno::EFBIG);
            }
            buf.limit(usize::try_from(room).unwrap_or(usize::MAX));
        }
        let result = transfer(buf, Access::Read, 0, &mut |segments, _| usermem::append(self.fd(), segments));
        self.inode.changed();
        let count = result?;
        // Where those bytes went if others append too nobody can tell.
        Ok((count, end()?))
    }

    fn is_regular(&self) -> bool {
        true
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> SysResult<()> {
        let flags = FallocateFlags::from_bits(mode.cast_unsigned()).ok_or(Errno::EOPNOTSUPP)?;
        let result = rustix::fs::fallocate(self.fd(), flags, offset, len);
        self.inode.changed();
        Ok(result?)
    }

    fn seek_data(&self, offset: u64, _: u64, hole: bool) -> SysResult<u64> {
        // The host's position of the file is used by nobody.
        let from = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
        Ok(rustix::fs::seek(self.fd(), from)?)
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
        self.inode.open_attr(&self.file).ok()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
