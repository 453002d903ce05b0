//! Extended attributes (xattr(7)): who may, and access control lists among them.

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials};

use crate::acl::{self, Acl};
use crate::caller::Caller;
use crate::inode::{Inode, SetAttr};
use crate::notify::{self, event};
use crate::path::Path;
use crate::permission::{Access, capable, owns};

/// Longest name and value (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
pub const XATTR_SIZE_MAX: usize = 65536;

const CAPABILITY: &[u8] = b"security.capability";

/// Whose attribute it is, by its name's first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    User,
    Trusted,
    Security,
    /// An access control list, the default one if so.
    List(bool),
}

impl Namespace {
    fn of(name: &[u8]) -> SysResult<Self> {
        match name {
            acl::ACCESS => return Ok(Self::List(false)),
            acl::DEFAULT => return Ok(Self::List(true)),
            _ => {}
        }
        let dot = name.iter().position(|byte| *byte == b'.').ok_or(Errno::EOPNOTSUPP)?;
        let (prefix, rest) = name.split_at(dot);
        let found = match prefix {
            b"user" => Self::User,
            b"trusted" => Self::Trusted,
            b"security" => Self::Security,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        if rest.len() < 2 { Err(Errno::EINVAL) } else { Ok(found) }
    }
}

/// Whether the caller may read or write an attribute (xattr_permission, cap_inode_setxattr).
fn check(who: &Credentials, inode: &Arc<dyn Inode>, namespace: Namespace, name: &[u8], write: bool) -> SysResult<()> {
    let refused = if write { Errno::EPERM } else { Errno::ENODATA };
    match namespace {
        Namespace::List(_) => Ok(()),
        Namespace::Security if !write => Ok(()),
        Namespace::Security => {
            let may = if name == CAPABILITY {
                capable(who, &inode.attr()?, Capability::SETFCAP)
            } else {
                who.has_capability(Capability::SYS_ADMIN)
            };
            if may { Ok(()) } else { Err(Errno::EPERM) }
        }
        Namespace::Trusted if who.has_capability(Capability::SYS_ADMIN) => Ok(()),
        Namespace::Trusted => Err(refused),
        Namespace::User => {
            let attr = inode.attr()?;
            if !matches!(attr.kind(), c::S_IFREG | c::S_IFDIR) {
                return Err(refused);
            }
            if write && attr.is_dir() && attr.mode & c::S_ISVTX != 0 && !owns(who, &attr) {
                return Err(Errno::EPERM);
            }
            inode.permission(who, if write { Access::WRITE } else { Access::READ })
        }
    }
}

fn set_list(who: &Credentials, inode: &Arc<dyn Inode>, default: bool, list: Option<Acl>) -> SysResult<()> {
    let attr = inode.attr()?;
    if attr.kind() == c::S_IFLNK {
        return Err(Errno::EOPNOTSUPP);
    }
    if default && !attr.is_dir() {
        return if list.is_some() { Err(Errno::EACCES) } else { Ok(()) };
    }
    if !owns(who, &attr) {
        return Err(Errno::EPERM);
    }
    if default {
        return inode.set_acl(true, list.map(Arc::new));
    }
    let Some(list) = list else { return inode.set_acl(false, None) };
    let mode = acl::mode_with(who, &attr, &list);
    if mode != attr.mode {
        inode.set_attr(&SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() })?;
    }
    // A list that says no more than the mode isn't kept.
    inode.set_acl(false, Some(list).filter(|list| !list.is_minimal()).map(Arc::new))
}

/// Capabilities of a file that are set from within a user namespace count there only: who is root there is noted (`cap_convert_nscap`).
fn capability_value(who: &Credentials, value: &[u8]) -> SysResult<Vec<u8>> {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    const REVISION_MASK: u32 = 0xff00_0000;
    let magic = value.first_chunk::<4>().copied().map(u32::from_le_bytes).ok_or(Errno::EINVAL)?;
    let (v2, v3) =
        (magic & REVISION_MASK == REVISION_2 && value.len() == 20, magic & REVISION_MASK == REVISION_3 && value.len() == 24);
    if !v2 && !v3 {
        return Err(Errno::EINVAL);
    }
    let inside = if v3 { value.last_chunk::<4>().copied().map_or(0, u32::from_le_bytes) } else { 0 };
    if v2 && who.user_ns.level() == 0 {
        return Ok(value.to_vec());
    }
    let root = who.user_ns.make_kuid(inside).ok_or(Errno::EINVAL)?;
    let mut stored = (magic & !REVISION_MASK | REVISION_3).to_le_bytes().to_vec();
    stored.extend_from_slice(value.get(4..20).unwrap_or_default());
    stored.extend_from_slice(&root.0.to_le_bytes());
    Ok(stored)
}

impl Caller {
    /// getxattr(2).
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`, `EACCES`.
    pub fn get_xattr(&self, inode: &Arc<dyn Inode>, name: &[u8]) -> SysResult<Vec<u8>> {
        let namespace = Namespace::of(name)?;
        check(&self.who, inode, namespace, name, false)?;
        match namespace {
            Namespace::List(default) => {
                if inode.kind()? == c::S_IFLNK {
                    return Err(Errno::EOPNOTSUPP);
                }
                let list = inode.acl(default)?.ok_or(Errno::ENODATA)?;
                Ok(list.encode(&self.who.user_ns))
            }
            _ => inode.get_xattr(name),
        }
    }

    /// setxattr(2).
    ///
    /// # Errors
    /// As setxattr(2).
    pub fn set_xattr(&self, at: &Path, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        if flags & !(c::XATTR_CREATE | c::XATTR_REPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        at.mount.check_writable()?;
        let (namespace, inode) = (Namespace::of(name)?, at.inode());
        check(&self.who, inode, namespace, name, true)?;
        match namespace {
            Namespace::List(default) => {
                let there = inode.acl(default)?.is_some();
                if there && flags & c::XATTR_CREATE != 0 {
                    return Err(Errno::EEXIST);
                }
                if !there && flags & c::XATTR_REPLACE != 0 {
                    return Err(Errno::ENODATA);
                }
                let list = if value.is_empty() { None } else { Some(Acl::decode(value, &self.who.user_ns)?) };
                set_list(&self.who, inode, default, list)?;
            }
            _ if name == CAPABILITY => inode.set_xattr(name, &capability_value(&self.who, value)?, flags)?,
            _ => inode.set_xattr(name, value, flags)?,
        }
        notify::changed(at, event::ATTRIB);
        Ok(())
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// As removexattr(2).
    pub fn remove_xattr(&self, at: &Path, name: &[u8]) -> SysResult<()> {
        at.mount.check_writable()?;
        let (namespace, inode) = (Namespace::of(name)?, at.inode());
        check(&self.who, inode, namespace, name, true)?;
        match namespace {
            Namespace::List(default) => {
                if inode.acl(default)?.is_none() {
                    return Err(Errno::ENODATA);
                }
                set_list(&self.who, inode, default, None)?;
            }
            _ => inode.remove_xattr(name)?,
        }
        notify::changed(at, event::ATTRIB);
        Ok(())
    }

    /// listxattr(2).
    ///
    /// # Errors
    /// `EIO`
    pub fn list_xattr(&self, inode: &Arc<dyn Inode>) -> SysResult<Vec<Vec<u8>>> {
        let mut names = inode.list_xattr()?;
        if !self.who.has_capability(Capability::SYS_ADMIN) {
            names.retain(|name| !name.starts_with(b"trusted."));
        }
        for (name, default) in [(acl::ACCESS, false), (acl::DEFAULT, true)] {
            if inode.acl(default)?.is_some() {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_somewhere() {
        assert_eq!(Namespace::of(b"user.x"), Ok(Namespace::User));
        assert_eq!(Namespace::of(b"user."), Err(Errno::EINVAL));
        assert_eq!(Namespace::of(b"user"), Err(Errno::EOPNOTSUPP));
        assert_eq!(Namespace::of(b"nonsense.x"), Err(Errno::EOPNOTSUPP));
        assert_eq!(Namespace::of(b"system.posix_acl_default"), Ok(Namespace::List(true)));
        assert_eq!(Namespace::of(b"system.other"), Err(Errno::EOPNOTSUPP));
    }
}
