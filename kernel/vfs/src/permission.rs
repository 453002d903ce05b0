//! Who may do what with a file (path_resolution(7), capabilities(7), acl(5)).

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, Kgid, Kuid};
use bitflags::bitflags;

use crate::acl::Acl;
use crate::dentry::Dentry;
use crate::inode::Attr;

bitflags! {
    /// What is to be done (`MAY_*`); bits as in a mode.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Run a file, look names up in a directory.
        const EXEC = 1;
        const WRITE = 2;
        const READ = 4;
    }
}

impl Attr {
    #[must_use]
    pub fn kuid(&self) -> Kuid {
        Kuid(self.uid)
    }

    #[must_use]
    pub fn kgid(&self) -> Kgid {
        Kgid(self.gid)
    }
}

/// Whether the caller has a capability over a file (`capable_wrt_inode_uidgid`).
#[must_use]
pub fn capable(who: &Credentials, attr: &Attr, capability: Capability) -> bool {
    who.has_capability_over(attr.kuid(), attr.kgid(), capability)
}

/// Whether the caller owns a file, or may do as if (`inode_owner_or_capable`).
#[must_use]
pub fn owns(who: &Credentials, attr: &Attr) -> bool {
    who.fsuid == attr.kuid() || who.effective.has(Capability::FOWNER) && who.user_ns.from_kuid(attr.kuid()).is_some()
}

/// The usual rule: mode, access control list, capabilities (generic_permission).
///
/// # Errors
/// `EACCES`
pub fn generic_permission(who: &Credentials, attr: &Attr, acl: Option<Arc<Acl>>, access: Access) -> SysResult<()> {
    if granted(who, attr, acl, access) {
        return Ok(());
    }
    let read_only = if attr.is_dir() { !access.contains(Access::WRITE) } else { access == Access::READ };
    if read_only && capable(who, attr, Capability::DAC_READ_SEARCH) {
        return Ok(());
    }
    // Nobody runs what isn't executable for anybody.
    let runnable = attr.is_dir() || !access.contains(Access::EXEC) || attr.mode & 0o111 != 0;
    if runnable && capable(who, attr, Capability::DAC_OVERRIDE) { Ok(()) } else { Err(Errno::EACCES) }
}

fn granted(who: &Credentials, attr: &Attr, acl: Option<Arc<Acl>>, access: Access) -> bool {
    let bits = if who.fsuid == attr.kuid() {
        attr.mode >> 6
    } else if let Some(acl) = acl {
        return acl.grants(who, attr, access);
    } else if who.in_group(attr.kgid()) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    access.bits() & !bits == 0
}

/// Whether names may be looked up in a directory. One test for those who may everything.
///
/// # Errors
/// `EACCES`
pub fn may_search(who: &Credentials, dir: &Dentry) -> SysResult<()> {
    if who.has_capability(Capability::DAC_READ_SEARCH) && !dir.inode().own_rules() {
        return Ok(());
    }
    dir.inode().permission(who, Access::EXEC)
}

/// Whether a name may be made in a directory.
///
/// # Errors
/// `ENOENT` when it is removed, `EACCES`, `EOVERFLOW` when the caller's namespace has no number for who would own the file.
pub fn may_create(who: &Credentials, dir: &Dentry) -> SysResult<()> {
    if dir.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    if who.user_ns.from_kuid(who.fsuid).is_none() || who.user_ns.from_kgid(who.fsgid).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    dir.inode().permission(who, Access::WRITE | Access::EXEC)
}

/// Whether the caller may remove or replace a name of somebody else's: in a sticky directory only owners may.
fn sticky_allows(who: &Credentials, dir: &Attr, victim: &Attr) -> bool {
    dir.mode & c::S_ISVTX == 0
        || who.fsuid == victim.kuid()
        || who.fsuid == dir.kuid()
        || capable(who, victim, Capability::FOWNER)
}

/// Whether a name may be removed: `dir` says that it must be a directory, or must not.
///
/// # Errors
/// `EACCES`, `EPERM`, `ENOTDIR`, `EISDIR`, `EBUSY` for a root.
pub fn may_delete(who: &Credentials, parent: &Dentry, victim: &Dentry, dir: bool) -> SysResult<()> {
    let inode = parent.inode();
    inode.permission(who, Access::WRITE | Access::EXEC)?;
    let above = inode.attr()?;
    if above.mode & c::S_ISVTX != 0 && !sticky_allows(who, &above, &victim.inode().attr()?) {
        return Err(Errno::EPERM);
    }
    match (victim.is_dir(), dir) {
        (false, true) => Err(Errno::ENOTDIR),
        (true, false) => Err(Errno::EISDIR),
        _ if victim.parent().is_none() => Err(Errno::EBUSY),
        _ => Ok(()),
    }
}

/// The mode without the set-group-id bit, where the caller may not give it away: it isn't in the group (`mode_strip_sgid`,
/// `setattr_should_drop_sgid`).
#[must_use]
pub fn strip_sgid(who: &Credentials, owner: &Attr, mode: u32) -> u32 {
    let keeps = who.in_group(owner.kgid()) || capable(who, owner, Capability::FSETID);
    if keeps { mode } else { mode & !c::S_ISGID }
}

/// The mode after somebody else than the owner has changed the file: it no longer gives away the owner's rights.
#[must_use]
pub fn without_set_ids(who: &Credentials, attr: &Attr) -> u32 {
    let mode = attr.mode & !c::S_ISUID;
    if mode & c::S_IXGRP != 0 { mode & !c::S_ISGID } else { strip_sgid(who, attr, mode) }
}

#[cfg(test)]
mod tests {
    use auth::UserNamespace;

    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        let groups = groups.iter().map(|gid| Kgid(*gid)).collect();
        Credentials::new(UserNamespace::initial(), Kuid(uid), Kgid(gid), groups)
    }

    fn file(mode: u32) -> Attr {
        Attr { mode: c::S_IFREG | mode, uid: 10, gid: 20, ..Attr::default() }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let may = |who: &Credentials, mode, access| generic_permission(who, &file(mode), None, access).is_ok();
        assert!(may(&user(10, 1, &[]), 0o400, Access::READ) && !may(&user(10, 1, &[]), 0o077, Access::READ));
        assert!(may(&user(11, 20, &[]), 0o040, Access::READ) && !may(&user(11, 20, &[]), 0o707, Access::READ));
        assert!(may(&user(11, 1, &[20]), 0o060, Access::READ | Access::WRITE));
        assert!(may(&user(11, 1, &[]), 0o001, Access::EXEC) && !may(&user(11, 1, &[]), 0o770, Access::EXEC));
    }

    #[test]
    fn root_may_all_but_run_what_nobody_may() {
        let may = |attr: Attr, access| generic_permission(&user(0, 0, &[]), &attr, None, access).is_ok();
        assert!(may(file(0), Access::READ | Access::WRITE) && !may(file(0o666), Access::EXEC) && may(file(0o001), Access::EXEC));
        assert!(may(Attr { mode: c::S_IFDIR, ..Attr::default() }, Access::WRITE | Access::EXEC));
    }

    #[test]
    fn in_sticky_directories_owners_remove() {
        let (dir, victim) = (Attr { mode: c::S_IFDIR | 0o1777, uid: 5, ..Attr::default() }, file(0o666));
        let may = |uid| sticky_allows(&user(uid, 1, &[]), &dir, &victim);
        assert!(may(5) && may(10) && may(0) && !may(11));
    }
}
