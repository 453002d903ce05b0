//! A host directory as a filesystem.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use abi::{SysResult, c};
use rustix::fs::{Mode, OFlags, Stat};
use sync::Mutex;
use vfs::SuperOps;

use crate::inode::{HostInode, Place, open_at};

/// What all inodes below one host directory share.
pub(crate) struct Root {
    pub(crate) fd: OwnedFd,
    pub(crate) dev: u64,
    /// The host's device, whose inode numbers are shown as they are.
    pub(crate) host_dev: u64,
    pub(crate) writable: bool,
    /// Nobody else changes it: what has been looked up is remembered.
    pub(crate) exclusive: bool,
    /// Its filesystem has no access lists.
    pub(crate) no_lists: AtomicBool,
    /// What is in use, by the host's device and number: one inode for all names of a file.
    pub(crate) inodes: Mutex<HashMap<(u64, u64), Weak<HostInode>>>,
}

impl Root {
    /// Whether attributes stay what they are.
    pub(crate) fn is_constant(&self) -> bool {
        self.exclusive && !self.writable
    }

    /// Inode numbers of several host filesystems meet here.
    pub(crate) fn ino(&self, dev: u64, ino: u64) -> u64 {
        if dev == self.host_dev { ino } else { ino ^ (dev << 40) }
    }

    /// The inode of what has been found at a place. `new`: it has just been made, so that an inode with its number is of another that is gone.
    pub(crate) fn inode(self: &Arc<Self>, stat: &Stat, place: Option<Place>, new: bool) -> Arc<HostInode> {
        let id = (stat.st_dev, stat.st_ino);
        let there = if new { None } else { self.inodes.lock().get(&id).and_then(Weak::upgrade) };
        if let Some(there) = there.filter(|there| there.kind == stat.st_mode & c::S_IFMT) {
            place.into_iter().for_each(|place| there.found_at(place));
            return there;
        }
        let made = Arc::new_cyclic(|me| HostInode::new(self.clone(), me.clone(), stat, place));
        let before = self.inodes.lock().insert(id, Arc::downgrade(&made));
        drop(before);
        made
    }
}

/// The filesystem, as its mounts see it.
pub(crate) struct Ops(pub(crate) Arc<Root>);

impl SuperOps for Ops {
    fn sync(&self) -> SysResult<()> {
        if self.0.writable {
            // By a descriptor that is more than a place.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            rustix::fs::syncfs(open_at(self.0.fd.as_fd(), b".", flags, Mode::empty())?)?;
        }
        Ok(())
    }
}

/// What the host calls its filesystem, if it is a common one.
pub(crate) fn kind_name(magic: i64) -> &'static str {
    match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x794c_7630 => "overlay",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "zfs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        _ => "hostfs",
    }
}
