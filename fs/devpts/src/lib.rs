//! Pseudoterminals as files (pts(4)): the filesystem at /dev/pts, /dev/ptmx and /dev/tty.
#![forbid(unsafe_code)]

mod instance;

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use tty::Slave;
use vfs::{Dentry, FileOps, FileSystemType, MountRequest};

pub use instance::Instance;

/// Device numbers of /dev/tty and /dev/ptmx.
const TTYAUX_MAJOR: u32 = 5;
const TTY_MINOR: u32 = 0;
const PTMX_MINOR: u32 = 2;

/// The type: each mount is an instance of its own, but for the first one's, which /dev/ptmx belongs to.
pub struct DevPts(pub Arc<Instance>);

impl FileSystemType for DevPts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        Instance::new(&request.options)?.root()
    }
}

impl DevPts {
    /// Opens /dev/tty or /dev/ptmx, wherever their nodes are; `None` for other devices.
    ///
    /// # Errors
    /// `ENXIO` when the caller has no controlling terminal; as opening a terminal.
    pub fn open(&self, kind: u32, rdev: u64) -> Option<SysResult<Arc<dyn FileOps>>> {
        if kind != c::S_IFCHR || c::major(rdev) != TTYAUX_MAJOR {
            return None;
        }
        match c::minor(rdev) {
            TTY_MINOR => Some(open_controlling()),
            PTMX_MINOR => Some(self.0.open_master()),
            _ => None,
        }
    }
}

/// The caller's controlling terminal.
fn open_controlling() -> SysResult<Arc<dyn FileOps>> {
    let task = task::current().ok_or(Errno::ENXIO)?;
    let terminal = tty::controlling(&task.group).ok_or(Errno::ENXIO)?;
    Ok(Slave::reopen(&terminal)?)
}
