//! Guest memory as the sentry sees it: pages of host files, mapped here in windows.
//!
//! Guests change these pages at any time, and host files may shrink under them: everything here copies, and a copy that hits a page
//! that isn't there ends in `EFAULT`.

pub mod budget;
mod copy;
mod file;
mod hook;
mod memory;
mod mode;

pub use copy::{Segment, append, install_fault_handler, preadv, pwritev, readv, writev};
pub use file::HostFile;
pub use hook::MapHook;
pub use memory::{Access, IoBuf, MAX_RW, UserMemory, UserMemoryExt};
pub use mode::chmod_at;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// Rounds down to a page.
#[must_use]
pub fn page_down(addr: u64) -> u64 {
    addr & !(PAGE_SIZE - 1)
}

/// Rounds up to a page; `None` on overflow.
#[must_use]
pub fn page_up(addr: u64) -> Option<u64> {
    addr.checked_add(PAGE_SIZE - 1).map(page_down)
}

/// What a futex is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FutexKey {
    /// Address space and address.
    Private(u64, u64),
    /// Address space and address, by a call that allowed sharing: not the same futex as [`FutexKey::Private`]'s.
    Unshared(u64, u64),
    /// Device, inode and offset: the same file may be open several times.
    Shared(u64, u64, u64),
}
