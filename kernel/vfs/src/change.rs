//! Changing attributes: chmod(2), chown(2), utimensat(2), truncate(2), and access(2).

use std::sync::Arc;

use abi::structs::Timespec;
use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, Kgid, Kuid};

use crate::caller::Caller;
use crate::inode::{Attr, Inode, SetAttr};
use crate::landlock;
use crate::notify::{self, event};
use crate::path::Path;
use crate::permission::{Access, capable, owns, strip_sgid, without_set_ids};
use crate::writers::Writing;

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// `UTIME_OMIT`
    Keep,
    /// `UTIME_NOW`
    Now,
    At(Timespec),
}

/// Takes away what gives the owner's rights away: somebody else may have written to the file (file_remove_privs). Who may set those bits
/// keeps them.
pub(crate) fn drop_privileges(who: &Credentials, inode: &Arc<dyn Inode>) -> SysResult<()> {
    let attr = inode.attr()?;
    if attr.kind() != c::S_IFREG || attr.mode & (c::S_ISUID | c::S_ISGID) == 0 || capable(who, &attr, Capability::FSETID) {
        return Ok(());
    }
    let mode = without_set_ids(who, &attr);
    if mode == attr.mode { Ok(()) } else { inode.set_attr(&SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() }) }
}

/// A file that changes hands, or is written to, loses the capabilities that it gives to who runs it.
pub(crate) fn drop_capabilities(inode: &Arc<dyn Inode>) -> SysResult<()> {
    if !inode.has_capabilities() {
        return Ok(());
    }
    match inode.remove_xattr(b"security.capability") {
        Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => Ok(()),
        result => result,
    }
}

impl Caller {
    /// chmod(2).
    ///
    /// # Errors
    /// `EPERM`, `EROFS`, `EOPNOTSUPP` for symbolic links.
    pub fn chmod(&self, at: &Path, mode: u32) -> SysResult<()> {
        at.mount.check_writable()?;
        let attr = at.inode().attr()?;
        if attr.kind() == c::S_IFLNK {
            return Err(Errno::EOPNOTSUPP);
        }
        if !owns(&self.who, &attr) {
            return Err(Errno::EPERM);
        }
        let mode = strip_sgid(&self.who, &attr, mode & 0o7777);
        at.inode().set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        // The list's classes follow the mode.
        if let Some(acl) = at.inode().acl(false)? {
            at.inode().set_acl(false, Some(Arc::new(acl.with_mode(mode))))?;
        }
        notify::changed(at, event::ATTRIB);
        Ok(())
    }

    /// chown(2); `None` stays.
    ///
    /// # Errors
    /// `EPERM`, `EROFS`.
    pub fn chown(&self, at: &Path, uid: Option<Kuid>, gid: Option<Kgid>) -> SysResult<()> {
        at.mount.check_writable()?;
        let attr = at.inode().attr()?;
        let (who, owner) = (&self.who, self.who.fsuid == attr.kuid());
        let own_uid = uid.is_none_or(|uid| owner && uid == attr.kuid());
        let own_gid = gid.is_none_or(|gid| owner && (who.in_group(gid) || gid == attr.kgid()));
        if !(own_uid && own_gid || capable(who, &attr, Capability::CHOWN)) {
            return Err(Errno::EPERM);
        }
        let mode = if attr.is_dir() { attr.mode } else { without_set_ids(who, &attr) };
        let mode = (mode != attr.mode).then_some(mode & 0o7777);
        let set = SetAttr { uid: uid.map(|uid| uid.0), gid: gid.map(|gid| gid.0), mode, ..SetAttr::default() };
        at.inode().set_attr(&set)?;
        if attr.kind() == c::S_IFREG {
            drop_capabilities(at.inode())?;
        }
        if uid.is_some() || gid.is_some() {
            notify::changed(at, event::ATTRIB);
        }
        Ok(())
    }

    /// utimensat(2); both `Now` is what who may write may do too.
    ///
    /// # Errors
    /// `EPERM`, `EACCES`, `EROFS`.
    pub fn set_times(&self, at: &Path, atime: NewTime, mtime: NewTime, now: Timespec) -> SysResult<()> {
        if (atime, mtime) == (NewTime::Keep, NewTime::Keep) {
            return Ok(());
        }
        at.mount.check_writable()?;
        let attr = at.inode().attr()?;
        if !owns(&self.who, &attr) {
            if (atime, mtime) != (NewTime::Now, NewTime::Now) {
                return Err(Errno::EPERM);
            }
            at.inode().permission(&self.who, Access::WRITE)?;
        }
        let time = |time| match time {
            NewTime::Keep => None,
            NewTime::Now => Some(now),
            NewTime::At(time) => Some(time),
        };
        at.inode().set_attr(&SetAttr { atime: time(atime), mtime: time(mtime), ..SetAttr::default() })?;
        // As Linux tells it: one of them alone is taken for what usually changes it.
        let what = match (atime, mtime) {
            (NewTime::Keep, _) => event::MODIFY,
            (_, NewTime::Keep) => event::ACCESS,
            _ => event::ATTRIB,
        };
        notify::changed(at, what);
        Ok(())
    }

    /// truncate(2).
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL` for what has no size, `EROFS`, `EACCES`, `EFBIG`.
    pub fn truncate(&self, at: &Path, size: u64) -> SysResult<()> {
        match at.dentry.kind() {
            c::S_IFREG => {}
            c::S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        at.mount.check_writable()?;
        at.inode().permission(&self.who, Access::WRITE)?;
        landlock::may(&self.who, at, landlock::fs::TRUNCATE)?;
        let _writing = Writing::new(at.inode())?;
        self.resize(at.inode(), size)?;
        notify::changed(at, event::MODIFY);
        Ok(())
    }

    /// ftruncate(2), after what truncate(2) checks: the file is open for writing.
    ///
    /// # Errors
    /// `EFBIG`, `EIO`.
    pub fn resize(&self, inode: &Arc<dyn Inode>, size: u64) -> SysResult<()> {
        drop_privileges(&self.who, inode)?;
        inode.set_attr(&SetAttr { size: Some(size), ..SetAttr::default() })
    }

    /// access(2), with the rights of the caller as it is given here.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`; `EPERM` for devices that a control group denies.
    pub fn access(&self, at: &Path, access: Access) -> SysResult<()> {
        let kind = at.dentry.kind();
        if access.contains(Access::EXEC) && kind == c::S_IFREG && at.mount.has(c::MS_NOEXEC) {
            return Err(Errno::EACCES);
        }
        // Whether it is there, everybody may know who has come so far.
        if !access.is_empty() {
            at.inode().permission(&self.who, access)?;
        }
        crate::devices::may_access(kind, &**at.inode(), access)?;
        // What isn't kept on the filesystem can be written to wherever it is.
        let special = matches!(kind, c::S_IFIFO | c::S_IFSOCK | c::S_IFCHR | c::S_IFBLK);
        if access.contains(Access::WRITE) && !special { at.mount.check_writable() } else { Ok(()) }
    }

    /// Whether a file may be executed (execve(2)).
    ///
    /// # Errors
    /// `EACCES`
    pub fn may_exec(&self, at: &Path) -> SysResult<Attr> {
        if at.dentry.kind() != c::S_IFREG || at.mount.has(c::MS_NOEXEC) {
            return Err(Errno::EACCES);
        }
        at.inode().permission(&self.who, Access::EXEC)?;
        landlock::may(&self.who, at, landlock::fs::EXECUTE)?;
        let attr = at.inode().attr()?;
        if attr.mode & 0o111 == 0 { Err(Errno::EACCES) } else { Ok(attr) }
    }
}
