//! Who may use devices, beyond what modes say: the rules of control groups (Linux's `devcgroup_check_permission`).

use std::sync::OnceLock;

use abi::{Errno, SysResult, c};

use crate::inode::Inode;
use crate::permission::Access;

/// The use of a device that somebody wants to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceUse {
    pub block: bool,
    pub rdev: u64,
    pub wish: Wish,
}

/// What is to be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Opened, or asked for (access(2)).
    Access(Access),
    /// A node of it made.
    Make,
}

/// Whether the task that runs may use a device.
pub type Guard = fn(DeviceUse) -> bool;

static GUARD: OnceLock<Guard> = OnceLock::new();

/// Says who decides; the first to say it does.
pub fn guard_by(guard: Guard) {
    let _ = GUARD.set(guard);
}

fn may_use(kind: u32, rdev: u64, wish: Wish) -> SysResult<()> {
    let allowed = GUARD.get().is_none_or(|guard| guard(DeviceUse { block: kind == c::S_IFBLK, rdev, wish }));
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// Whether a file may be accessed, if it is a device.
///
/// # Errors
/// `EPERM`
pub(crate) fn may_access(kind: u32, inode: &dyn Inode, access: Access) -> SysResult<()> {
    if !matches!(kind, c::S_IFBLK | c::S_IFCHR) {
        return Ok(());
    }
    // Without a number it is none of those that rules are about.
    match inode.attr()?.rdev {
        0 => Ok(()),
        rdev => may_use(kind, rdev, Wish::Access(access)),
    }
}

/// Whether a node of a device may be made; whiteouts, which aren't one, may.
///
/// # Errors
/// `EPERM`
pub(crate) fn may_make(kind: u32, rdev: u64) -> SysResult<()> {
    may_use(kind, rdev, Wish::Make)
}
