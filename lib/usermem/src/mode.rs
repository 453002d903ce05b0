//! Modes of host files that can't be opened.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use abi::{Errno, SysResult};

/// fchmodat2(2), since Linux 6.6; libc doesn't name it everywhere.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Sets the mode of a name in a directory of the host's, which isn't followed if it is a link.
///
/// # Errors
/// What the host says: `EOPNOTSUPP` for links, `ENOSYS` before Linux 6.6.
pub fn chmod_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> SysResult<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the descriptor is open, the name ends with a zero, and nothing is written to.
    let result = unsafe { libc::syscall(SYS_FCHMODAT2, dir.as_raw_fd(), name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
