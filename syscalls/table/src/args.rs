//! Decoding of arguments: registers hold more than C types do.

use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult, c};
use sync::{MonotonicNs, monotonic_ns};
use task::Current;
use usermem::UserMemoryExt;
use vfs::{File, Path, WalkFlags};

/// A C `int`: the low half.
pub fn int(arg: u64) -> i32 {
    (arg as u32).cast_signed()
}

/// A C `unsigned int`: the low half.
pub fn uint(arg: u64) -> u32 {
    arg as u32
}

/// An open file.
pub fn file(current: &Current, fd: u64) -> SysResult<Arc<File>> {
    current.fds.get(int(fd))
}

/// A path.
pub fn path(current: &Current, addr: u64) -> SysResult<Vec<u8>> {
    current.mm.read_cstr(addr, 4096)
}

/// The place that a descriptor, or `AT_FDCWD`, stands for.
///
/// # Errors
/// `EBADF`; `ENOENT` for a file without a name.
pub fn place(current: &Current, fd: u64) -> SysResult<Path> {
    if int(fd) == c::AT_FDCWD {
        return Ok(current.fs.places().cwd.clone());
    }
    file(current, fd)?.path.clone().ok_or(Errno::ENOENT)
}

/// The directory that a relative path starts from.
pub fn start(current: &Current, dirfd: u64, path: &[u8]) -> SysResult<Option<Path>> {
    // getname(9) refuses the empty path before the descriptor is looked at; who allows it (AT_EMPTY_PATH) doesn't come here.
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    if int(dirfd) == c::AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(None);
    }
    let start = file(current, dirfd)?.path.clone().ok_or(Errno::ENOTDIR)?;
    if start.dentry.is_dir() { Ok(Some(start)) } else { Err(Errno::ENOTDIR) }
}

/// What a path argument leads to.
pub fn walk(current: &Current, dirfd: u64, addr: u64, follow: bool) -> SysResult<Path> {
    let path = path(current, addr)?;
    let start = start(current, dirfd, &path)?;
    current.caller().walk(start.as_ref(), &path, WalkFlags::follow(follow))?.existing()
}

/// What a call with `AT_*` flags is about; `known` are those that it takes.
///
/// # Errors
/// `EINVAL` for other flags; as path_resolution(7).
pub fn target(current: &Current, dirfd: u64, addr: u64, flags: i32, known: i32) -> SysResult<Path> {
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let path = path(current, addr)?;
    if path.is_empty() && flags & c::AT_EMPTY_PATH != 0 {
        return place(current, dirfd);
    }
    let start = start(current, dirfd, &path)?;
    current.caller().walk(start.as_ref(), &path, WalkFlags::follow(flags & c::AT_SYMLINK_NOFOLLOW == 0))?.existing()
}

/// A relative time to wait; `None` for a null pointer.
pub fn timeout(current: &Current, addr: u64) -> SysResult<Option<u64>> {
    if addr == 0 {
        return Ok(None);
    }
    let ts: Timespec = current.mm.read_obj(addr)?;
    ts.to_ns().map(Some).ok_or(Errno::EINVAL)
}

/// The monotonic time `ns` from now.
pub fn after(ns: u64) -> MonotonicNs {
    monotonic_ns().saturating_add(ns)
}
