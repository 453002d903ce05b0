//! Decoding of arguments: registers hold more than C types do.

use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult, c};
use sync::{MonotonicNs, monotonic_ns};
use task::Current;
use usermem::UserMemoryExt;
use vfs::{Dentry, File, Lookup};

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

/// The directory that a relative path starts from.
pub fn start(current: &Current, dirfd: u64, path: &[u8]) -> SysResult<Option<Arc<Dentry>>> {
    if int(dirfd) == c::AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(None);
    }
    // getname(9) refuses the empty path before the descriptor is looked at; who allows it (AT_EMPTY_PATH) doesn't come here.
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let dentry = file(current, dirfd)?.dentry.clone().ok_or(Errno::ENOTDIR)?;
    if dentry.inode().attr()?.is_dir() { Ok(Some(dentry)) } else { Err(Errno::ENOTDIR) }
}

/// Walks a path argument.
pub fn walk(current: &Current, dirfd: u64, addr: u64, follow: bool) -> SysResult<Lookup> {
    let path = path(current, addr)?;
    let start = start(current, dirfd, &path)?;
    current.fs_context().walk(start.as_ref(), &path, follow)
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
