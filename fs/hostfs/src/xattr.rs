//! Extended attributes and access lists of host files, by descriptor.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use rustix::fs::XattrFlags;
use sync::{MutexGuard, monotonic_ns};
use vfs::{Acl, Inode};

use crate::HostInode;
use crate::inode::{Handle, KnownList};

/// Longest value and list (`XATTR_SIZE_MAX`).
const MAX_SIZE: usize = 65536;
/// Nanoseconds for which a directory's default list is taken for what it was.
const PATIENCE: u64 = 100_000_000;

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
    fn marked(&self) -> SysResult<Handle> {
        self.handle().map_err(|errno| if errno == Errno::ENXIO { Errno::EOPNOTSUPP } else { errno })
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
        rustix::fs::fsetxattr(self.marked()?, name, value, flags)?;
        self.forget_lists();
        Ok(())
    }

    pub(crate) fn remove_host_xattr(&self, name: &[u8]) -> SysResult<()> {
        rustix::fs::fremovexattr(self.marked()?, name)?;
        self.forget_lists();
        Ok(())
    }

    fn forget_lists(&self) {
        *self.list(true) = None;
        *self.list(false) = None;
        self.changed();
    }

    /// An access list; none where the host's filesystem has no such thing.
    pub(crate) fn host_acl(&self, default: bool) -> SysResult<Option<Arc<Acl>>> {
        if self.root.no_lists.load(Ordering::Relaxed) {
            return Ok(None);
        }
        // What directories hand down changes rarely, their times with every name.
        let changed = if default {
            (monotonic_ns() / PATIENCE, 0)
        } else {
            self.attr().map(|attr| (attr.ctime.sec.cast_unsigned(), attr.ctime.nsec))?
        };
        let known = self.list(default).clone();
        if let Some((_, list)) = known.filter(|(when, _)| *when == changed) {
            return Ok(list);
        }
        let list = match self.host_xattr(list_name(default)) {
            Ok(value) => Some(Arc::new(Acl::from_host(&value)?)),
            Err(Errno::EOPNOTSUPP) => {
                self.root.no_lists.store(true, Ordering::Relaxed);
                None
            }
            // What can't be opened has a mode that says no.
            Err(_) => None,
        };
        // What may change again within the same tick of the host's clock isn't relied on.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_sec.cast_unsigned();
        if default || now > changed.0.saturating_add(1) {
            *self.list(default) = Some((changed, list.clone()));
        }
        Ok(list)
    }

    fn list(&self, default: bool) -> MutexGuard<'_, Option<KnownList>> {
        if default { self.default_list.lock() } else { self.list.lock() }
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
