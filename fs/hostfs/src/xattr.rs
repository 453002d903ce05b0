//! Extended attributes and access lists of host files, by descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use rustix::fs::{OFlags, XattrFlags};
use vfs::Acl;

use crate::HostInode;

/// Longest value and list (`XATTR_SIZE_MAX`).
const MAX_SIZE: usize = 65536;

/// Names of the attributes that lists are kept in.
fn list_name(default: bool) -> &'static [u8] {
    if default { b"system.posix_acl_default" } else { b"system.posix_acl_access" }
}

/// Calls `f` with room for most values, and again with room for all.
fn with_room(f: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> SysResult<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = match f(&mut value) {
        Err(rustix::io::Errno::RANGE) => {
            value = vec![0; MAX_SIZE];
            f(&mut value)?
        }
        result => result?,
    };
    value.truncate(len);
    Ok(value)
}

impl HostInode {
    /// Open for asking: only files and directories can be.
    fn marked(&self) -> SysResult<OwnedFd> {
        self.open_kind(OFlags::RDONLY, true).map_err(|errno| if errno == Errno::ENXIO { Errno::EOPNOTSUPP } else { errno })
    }

    pub(crate) fn host_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        let fd = self.marked()?;
        with_room(|room| rustix::fs::fgetxattr(fd.as_fd(), name, room))
    }

    pub(crate) fn host_xattrs(&self) -> SysResult<Vec<Vec<u8>>> {
        let fd = match self.marked() {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            fd => fd?,
        };
        let list = with_room(|room| rustix::fs::flistxattr(fd.as_fd(), room))?;
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(b"system."));
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    pub(crate) fn set_host_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        let flags = XattrFlags::from_bits(flags.cast_unsigned()).ok_or(Errno::EINVAL)?;
        Ok(rustix::fs::fsetxattr(self.marked()?, name, value, flags)?)
    }

    pub(crate) fn remove_host_xattr(&self, name: &[u8]) -> SysResult<()> {
        Ok(rustix::fs::fremovexattr(self.marked()?, name)?)
    }

    /// An access list; none where the host's filesystem has no such thing.
    pub(crate) fn host_acl(&self, default: bool) -> SysResult<Option<Arc<Acl>>> {
        if self.root.no_lists.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.host_xattr(list_name(default)) {
            Ok(value) => Ok(Some(Arc::new(Acl::from_host(&value)?))),
            Err(Errno::EOPNOTSUPP) => {
                self.root.no_lists.store(true, Ordering::Relaxed);
                Ok(None)
            }
            // What can't be opened has a mode that says no.
            Err(_) => Ok(None),
        }
    }

    pub(crate) fn set_host_acl(&self, default: bool, acl: Option<Arc<Acl>>) -> SysResult<()> {
        match acl {
            Some(acl) => self.set_host_xattr(list_name(default), &acl.to_host(), 0),
            None => match self.remove_host_xattr(list_name(default)) {
                Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
                result => result,
            },
        }
    }
}
