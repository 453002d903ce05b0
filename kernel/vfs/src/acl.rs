//! Access control lists (acl(5)), as extended attributes hold them.

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, Kgid, Kuid, UserNamespace};

use crate::inode::Attr;
use crate::permission::{Access, capable};

/// Names of the attributes.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION`
const VERSION: u32 = 2;
/// Entries at most: more than any filesystem holds.
const MAX_ENTRIES: usize = 8192;
/// `ACL_UNDEFINED_ID`
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about, in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    UserObj,
    User(Kuid),
    GroupObj,
    Group(Kgid),
    Mask,
    Other,
}

/// A list: what each may (bits of a mode class), sorted by [`Tag`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<(Tag, u32)>);

impl Acl {
    /// From the value of an attribute, whose numbers are those of `ns`.
    ///
    /// # Errors
    /// `EINVAL` when it is malformed or not a valid list, `EOPNOTSUPP` for another version.
    pub fn decode(value: &[u8], ns: &UserNamespace) -> SysResult<Self> {
        Self::read(value, |uid| ns.make_kuid(uid), |gid| ns.make_kgid(gid))
    }

    /// From the value of a host file's attribute: its numbers are everybody's.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn from_host(value: &[u8]) -> SysResult<Self> {
        Self::read(value, |uid| Some(Kuid(uid)), |gid| Some(Kgid(gid)))
    }

    /// As the value of a host file's attribute.
    #[must_use]
    pub fn to_host(&self) -> Vec<u8> {
        self.write(|uid| uid.0, |gid| gid.0)
    }

    fn read(value: &[u8], uid_of: impl Fn(u32) -> Option<Kuid>, gid_of: impl Fn(u32) -> Option<Kgid>) -> SysResult<Self> {
        let word = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).map_err(|_| Errno::EINVAL);
        let (head, rest) = value.split_at_checked(4).ok_or(Errno::EINVAL)?;
        if word(head)? != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        if rest.len() % 8 != 0 || rest.len() / 8 > MAX_ENTRIES {
            return Err(Errno::EINVAL);
        }
        let mut entries = Vec::new();
        for entry in rest.chunks_exact(8) {
            let kind = entry.first_chunk::<2>().copied().map_or(0, u16::from_le_bytes);
            let bits = entry.get(2..4).and_then(<[u8]>::first_chunk::<2>).copied().map_or(0, u16::from_le_bytes);
            let id = word(entry.get(4..).unwrap_or_default())?;
            let tag = match kind {
                0x01 => Tag::UserObj,
                0x02 => Tag::User(uid_of(id).ok_or(Errno::EINVAL)?),
                0x04 => Tag::GroupObj,
                0x08 => Tag::Group(gid_of(id).ok_or(Errno::EINVAL)?),
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                _ => return Err(Errno::EINVAL),
            };
            if bits > 7 {
                return Err(Errno::EINVAL);
            }
            entries.push((tag, u32::from(bits)));
        }
        entries.sort_unstable();
        let acl = Self(entries);
        acl.check()?;
        Ok(acl)
    }

    /// As the value of an attribute, with the numbers of `ns`.
    #[must_use]
    pub fn encode(&self, ns: &UserNamespace) -> Vec<u8> {
        self.write(|uid| ns.from_kuid_munged(uid), |gid| ns.from_kgid_munged(gid))
    }

    fn write(&self, uid_of: impl Fn(Kuid) -> u32, gid_of: impl Fn(Kgid) -> u32) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, bits) in &self.0 {
            let (kind, id): (u16, u32) = match tag {
                Tag::UserObj => (0x01, NOBODY),
                Tag::User(uid) => (0x02, uid_of(*uid)),
                Tag::GroupObj => (0x04, NOBODY),
                Tag::Group(gid) => (0x08, gid_of(*gid)),
                Tag::Mask => (0x10, NOBODY),
                Tag::Other => (0x20, NOBODY),
            };
            value.extend_from_slice(&kind.to_le_bytes());
            value.extend_from_slice(&u16::try_from(*bits).unwrap_or(0).to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// Whether it is a list at all: one entry for each class, a mask if there are others, nobody twice.
    fn check(&self) -> SysResult<()> {
        let count = |wanted: Tag| self.0.iter().filter(|(tag, _)| *tag == wanted).count();
        let others = self.0.iter().any(|(tag, _)| matches!(tag, Tag::User(_) | Tag::Group(_)));
        let masks = count(Tag::Mask);
        let twice = self.0.windows(2).any(|pair| pair.first().map(|entry| entry.0) == pair.last().map(|entry| entry.0));
        let whole = [Tag::UserObj, Tag::GroupObj, Tag::Other].iter().all(|tag| count(*tag) == 1);
        if whole && !twice && masks <= 1 && (!others || masks == 1) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn get(&self, wanted: Tag) -> Option<u32> {
        self.0.iter().find(|(tag, _)| *tag == wanted).map(|(_, bits)| *bits)
    }

    fn set(&mut self, wanted: Tag, bits: u32) {
        if let Some(entry) = self.0.iter_mut().find(|(tag, _)| *tag == wanted) {
            entry.1 = bits;
        }
    }

    /// What shows as the group's bits in the mode.
    fn group_class(&self) -> Tag {
        if self.get(Tag::Mask).is_some() { Tag::Mask } else { Tag::GroupObj }
    }

    /// The permission bits that show in the mode.
    #[must_use]
    pub fn mode(&self) -> u32 {
        let bits = |tag| self.get(tag).unwrap_or(0);
        bits(Tag::UserObj) << 6 | bits(self.group_class()) << 3 | bits(Tag::Other)
    }

    /// Whether the mode says all that it says.
    #[must_use]
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The list after chmod(2).
    #[must_use]
    pub fn with_mode(&self, mode: u32) -> Self {
        let mut acl = self.clone();
        acl.set(Tag::UserObj, mode >> 6 & 7);
        acl.set(acl.group_class(), mode >> 3 & 7);
        acl.set(Tag::Other, mode & 7);
        acl
    }

    /// Whether it grants an access to somebody who isn't the owner.
    pub(crate) fn grants(&self, who: &Credentials, attr: &Attr, access: Access) -> bool {
        let mask = self.get(Tag::Mask).unwrap_or(7);
        let wanted = access.bits();
        let mut in_group = false;
        for (tag, bits) in &self.0 {
            let fits = match tag {
                Tag::User(uid) if *uid == who.fsuid => return wanted & !(bits & mask) == 0,
                Tag::GroupObj => who.in_group(attr.kgid()),
                Tag::Group(gid) => who.in_group(*gid),
                _ => false,
            };
            if fits {
                in_group = true;
                if wanted & !(bits & mask) == 0 {
                    return true;
                }
            }
        }
        !in_group && wanted & !self.get(Tag::Other).unwrap_or(0) == 0
    }
}

/// What a new node gets: its mode, and lists where the directory has a default one (posix_acl_create).
pub struct Inherited {
    pub mode: u32,
    pub access: Option<Arc<Acl>>,
    pub default: Option<Arc<Acl>>,
}

/// What a node made in a directory whose default list is `default` inherits. The mask counts where there is none.
#[must_use]
pub fn inherit(default: Option<Arc<Acl>>, mode: u32, umask: u32) -> Inherited {
    let Some(default) = default.filter(|_| mode & c::S_IFMT != c::S_IFLNK) else {
        let umask = if mode & c::S_IFMT == c::S_IFLNK { 0 } else { umask };
        return Inherited { mode: mode & !umask, access: None, default: None };
    };
    let access = default.with_mode(mode & default.mode());
    let mode = mode & !0o777 | access.mode();
    let access = (!access.is_minimal()).then(|| Arc::new(access));
    Inherited { mode, access, default: (mode & c::S_IFMT == c::S_IFDIR).then_some(default) }
}

/// The mode that goes with a new access list: set-group-id is lost as with chmod(2).
#[must_use]
pub fn mode_with(who: &Credentials, attr: &Attr, acl: &Acl) -> u32 {
    let mode = attr.mode & !0o777 | acl.mode();
    let keeps = who.in_group(attr.kgid()) || capable(who, attr, Capability::FSETID);
    if keeps { mode } else { mode & !c::S_ISGID }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, bits, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(bits.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    #[test]
    fn lists_are_checked() {
        let ns = UserNamespace::initial();
        let whole = list(&[(1, 6, NOBODY), (2, 7, 5), (4, 4, NOBODY), (0x10, 5, NOBODY), (0x20, 0, NOBODY)]);
        let acl = Acl::decode(&whole, &ns).unwrap();
        assert_eq!((acl.encode(&ns), acl.mode(), acl.is_minimal()), (whole.clone(), 0o650, false));
        assert_eq!(acl.with_mode(0o704).mode(), 0o704);
        for bad in [
            &list(&[(1, 6, NOBODY), (2, 7, 5), (4, 4, NOBODY), (0x20, 0, NOBODY)])[..],
            &list(&[(1, 6, NOBODY), (4, 4, NOBODY)]),
            &list(&[(1, 6, NOBODY), (1, 6, NOBODY), (4, 4, NOBODY), (0x20, 0, NOBODY)]),
            &list(&[(1, 9, NOBODY), (4, 4, NOBODY), (0x20, 0, NOBODY)]),
            &whole[..whole.len() - 1],
            b"\x02",
        ] {
            assert_eq!(Acl::decode(bad, &ns), Err(Errno::EINVAL));
        }
        assert_eq!(Acl::decode(&1u32.to_le_bytes(), &ns), Err(Errno::EOPNOTSUPP));
    }

    #[test]
    fn entries_grant_within_the_mask() {
        let ns = UserNamespace::initial();
        let acl = list(&[(1, 7, NOBODY), (2, 7, 5), (4, 0, NOBODY), (8, 6, 30), (0x10, 4, NOBODY), (0x20, 1, NOBODY)]);
        let acl = Acl::decode(&acl, &ns).unwrap();
        let attr = Attr { uid: 10, gid: 20, ..Attr::default() };
        let may = |uid, gid, access| {
            acl.grants(&Credentials::new(UserNamespace::initial(), Kuid(uid), Kgid(gid), Vec::new()), &attr, access)
        };
        assert!(may(5, 1, Access::READ) && !may(5, 1, Access::WRITE));
        assert!(may(6, 30, Access::READ) && !may(6, 30, Access::WRITE) && !may(6, 20, Access::EXEC) && may(6, 1, Access::EXEC));
    }

    #[test]
    fn new_files_inherit() {
        let ns = UserNamespace::initial();
        let acl = list(&[(1, 7, NOBODY), (2, 7, 5), (4, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 0, NOBODY)]);
        let default = Some(Arc::new(Acl::decode(&acl, &ns).unwrap()));
        let file = inherit(default.clone(), c::S_IFREG | 0o644, 0o022);
        assert!(file.mode == c::S_IFREG | 0o640 && file.access.is_some() && file.default.is_none());
        assert!(inherit(default, c::S_IFDIR | 0o777, 0).default.is_some());
        assert_eq!(inherit(None, c::S_IFREG | 0o666, 0o022).mode, c::S_IFREG | 0o644);
    }
}
