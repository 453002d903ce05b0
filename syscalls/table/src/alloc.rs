//! What is known of a file's space and caches: fallocate(2), readahead(2), posix_fadvise(2), sync_file_range(2), fsync(2).

use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use task::Current;
use vfs::File;
use vfs::notify::event;

use crate::args::{file, int, uint};
use crate::io::check_size;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::FALLOCATE, fallocate),
    full(nr::READAHEAD, readahead),
    full(nr::FADVISE64, fadvise),
    full(nr::SYNC_FILE_RANGE, sync_file_range),
    full(nr::FSYNC, |t, a| fsync(&*open(t, a[0])?)),
    full(nr::FDATASYNC, |t, a| fsync(&*open(t, a[0])?)),
    full(nr::SYNC, |t, _| {
        for superblock in t.mount_ns().superblocks() {
            // What can't be written back is told to who asks about the file.
            let _ = superblock.ops().sync();
        }
        Ok(0)
    }),
    full(nr::SYNCFS, |t, a| match &open(t, a[0])?.path {
        Some(at) => at.mount.superblock().ops().sync().map(|()| 0),
        None => Ok(0),
    }),
];

/// A file that is more than a place.
fn open(t: &Current, fd: u64) -> SysResult<Arc<File>> {
    let file = file(t, fd)?;
    if file.flags() & c::O_PATH != 0 { Err(Errno::EBADF) } else { Ok(file) }
}

fn fsync(file: &File) -> SysResult<u64> {
    file.ops.fsync()?;
    file.inode.as_ref().map_or(Ok(0), |inode| inode.sync().map(|()| 0))
}

fn fallocate(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (mode, offset, len) = (int(a[1]), a[2].cast_signed(), a[3].cast_signed());
    let file = open(t, a[0])?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    check_mode(mode)?;
    if file.flags() & c::O_ACCMODE == c::O_RDONLY {
        return Err(Errno::EBADF);
    }
    match file.attr()?.kind() {
        c::S_IFREG => {}
        c::S_IFIFO => return Err(Errno::ESPIPE),
        c::S_IFDIR => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?.cast_unsigned();
    let grows = mode & (c::FALLOC_FL_KEEP_SIZE | c::FALLOC_FL_COLLAPSE_RANGE) == 0;
    if grows && end > file.attr()?.size {
        check_size(t, end)?;
    }
    file.ops.allocate(mode, offset.cast_unsigned(), len.cast_unsigned())?;
    file.happened(event::MODIFY);
    Ok(0)
}

/// Modes that Linux knows, in the combinations that it allows.
fn check_mode(mode: i32) -> SysResult<()> {
    let keep = mode & c::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !c::FALLOC_FL_KEEP_SIZE {
        0 | c::FALLOC_FL_ZERO_RANGE | c::FALLOC_FL_UNSHARE_RANGE => Ok(()),
        c::FALLOC_FL_PUNCH_HOLE if keep => Ok(()),
        c::FALLOC_FL_COLLAPSE_RANGE | c::FALLOC_FL_INSERT_RANGE if !keep => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Reads nothing: the host reads ahead as it sees fit.
fn readahead(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = open(t, a[0])?;
    if file.flags() & c::O_ACCMODE == c::O_WRONLY {
        return Err(Errno::EBADF);
    }
    if !file.ops.is_regular() { Err(Errno::EINVAL) } else { Ok(0) }
}

fn fadvise(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = open(t, a[0])?;
    if file.attr()?.kind() == c::S_IFIFO {
        return Err(Errno::ESPIPE);
    }
    // All advice is for a cache that is the host's business.
    match int(a[3]) {
        _ if a[2].cast_signed() < 0 => Err(Errno::EINVAL),
        c::POSIX_FADV_NORMAL..=c::POSIX_FADV_NOREUSE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sync_file_range(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (offset, len, flags) = (a[1].cast_signed(), a[2].cast_signed(), uint(a[3]));
    let file = open(t, a[0])?;
    let end = offset.checked_add(len);
    if flags & !7 != 0 || offset < 0 || end.is_none_or(|end| end < offset) {
        return Err(Errno::EINVAL);
    }
    if !matches!(file.attr()?.kind(), c::S_IFREG | c::S_IFBLK | c::S_IFDIR | c::S_IFLNK) {
        return Err(Errno::ESPIPE);
    }
    if flags != 0 { file.ops.fsync().map(|()| 0) } else { Ok(0) }
}
