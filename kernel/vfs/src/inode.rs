//! What filesystems implement.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::structs::{Stat, Statfs, Timespec};
use abi::{Errno, SysResult, c};
use auth::Credentials;
use sync::Mutex;

use crate::acl::Acl;
use crate::file::FileOps;
use crate::path::Path;
use crate::permission::{Access, generic_permission};
use crate::writers::Writers;

/// Attributes of an inode (inode(7)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Attr {
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    /// Type and permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    /// When it was made, if that is known.
    pub btime: Option<Timespec>,
}

impl Attr {
    /// `S_IFMT` bits.
    #[must_use]
    pub fn kind(&self) -> u32 {
        self.mode & c::S_IFMT
    }

    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == c::S_IFDIR
    }

    /// As stat(2) shows it.
    #[must_use]
    pub fn to_stat(&self) -> Stat {
        Stat {
            dev: self.dev,
            ino: self.ino,
            nlink: self.nlink,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size.cast_signed(),
            blksize: 4096,
            blocks: self.blocks.cast_signed(),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            ..Stat::default()
        }
    }
}

/// What to change; `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Timespec>,
    pub mtime: Option<Timespec>,
}

/// A directory entry.
#[derive(Clone, Debug)]
pub struct DirEntry {
    pub name: Vec<u8>,
    pub ino: u64,
    /// `S_IFMT` bits.
    pub kind: u32,
}

/// Opens devices by kind (`S_IFMT` bits) and number.
pub type DeviceOpener = dyn Fn(u32, u64) -> SysResult<Arc<dyn FileOps>> + Send + Sync;

/// Number of the character device that hides a name of an overlay's lower layers.
pub const WHITEOUT_DEV: u64 = 0;

/// Whether an access time is to be updated (`relatime` of mount(8)): it is as old as a change, or a day.
#[must_use]
pub fn is_stale(atime: Timespec, mtime: Timespec, ctime: Timespec, now: Timespec) -> bool {
    const DAY: i64 = 24 * 60 * 60;
    let key = |time: Timespec| (time.sec, time.nsec);
    key(atime) <= key(mtime) || key(atime) <= key(ctime) || now.sec.saturating_sub(atime.sec) >= DAY
}

/// Who answers behind a socket's file.
pub type Endpoint = Mutex<Option<Weak<dyn Any + Send + Sync>>>;

/// A node to be made.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Type and permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// What it inherits of its directory's default list.
    pub acl: Option<Arc<Acl>>,
    pub default_acl: Option<Arc<Acl>>,
}

impl NewNode {
    /// A node of root's.
    #[must_use]
    pub fn plain(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, rdev: 0, target: Vec::new(), acl: None, default_acl: None }
    }
}

/// A name that moves (rename(2)).
pub struct Rename<'a> {
    pub name: &'a [u8],
    pub child: &'a Arc<dyn Inode>,
    pub new_dir: &'a Arc<dyn Inode>,
    pub new_name: &'a [u8],
    /// What the new name has been so far.
    pub target: Option<&'a Arc<dyn Inode>>,
    /// Somebody holds that.
    pub target_used: bool,
    /// `RENAME_EXCHANGE` or `RENAME_WHITEOUT`; the rest is done above.
    pub flags: u32,
}

/// How far names that have been looked up may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Until we change them: nobody else does.
    Exclusive,
    /// As long as [`Inode::revalidate`] says so; what is missing isn't remembered.
    Shared,
    /// Not at all (/proc).
    None,
}

/// A file, directory, link or device of a filesystem. Defaults say what Linux says where a filesystem can't.
pub trait Inode: Send + Sync + Any {
    /// # Errors
    /// `EIO` and what the host says.
    fn attr(&self) -> SysResult<Attr>;

    /// `S_IFMT` bits, which never change.
    ///
    /// # Errors
    /// As [`Self::attr`].
    fn kind(&self) -> SysResult<u32> {
        Ok(self.attr()?.kind())
    }

    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    fn lookup(self: Arc<Self>, _name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }

    /// All entries but `.` and `..`.
    ///
    /// # Errors
    /// `ENOTDIR`
    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        Err(Errno::ENOTDIR)
    }

    /// # Errors
    /// `EINVAL` when not a symbolic link.
    fn readlink(&self) -> SysResult<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// A link that leads to a place whatever its text says (/proc/pid/fd/N, exe, cwd); `None` for others.
    ///
    /// # Errors
    /// `EACCES` when the caller may not follow it.
    fn magic_link(&self) -> SysResult<Option<Path>> {
        Ok(None)
    }

    /// Whether an access is allowed.
    ///
    /// # Errors
    /// `EACCES`
    fn permission(&self, who: &Credentials, access: Access) -> SysResult<()> {
        let attr = self.attr()?;
        // Others than the owner may have what a list says; where the group's bits are empty, it says nothing.
        let acl = if attr.mode & 0o070 != 0 && who.fsuid != attr.kuid() { self.acl(false)? } else { None };
        generic_permission(who, &attr, acl, access)
    }

    /// The process whose directory in /proc it is, by its number in the first namespace (pidfd_send_signal(2)).
    fn process(&self) -> Option<i32> {
        None
    }

    /// Whether [`Self::permission`] has rules of its own, which bind root too.
    fn own_rules(&self) -> bool {
        false
    }

    /// The access control list, or the default one for what is made in this directory.
    ///
    /// # Errors
    /// `EIO`
    fn acl(&self, _default: bool) -> SysResult<Option<Arc<Acl>>> {
        Ok(None)
    }

    /// Sets or removes a list; [`Self::set_attr`] has set the mode that goes with it.
    ///
    /// # Errors
    /// `EOPNOTSUPP`
    fn set_acl(&self, _default: bool, _acl: Option<Arc<Acl>>) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The value of an extended attribute. Who may is checked above, and lists don't come here.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    fn get_xattr(&self, _name: &[u8]) -> SysResult<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets one; `flags`: `XATTR_CREATE`, `XATTR_REPLACE`.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ENOSPC`, `EOPNOTSUPP`.
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _flags: i32) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    fn remove_xattr(&self, _name: &[u8]) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Names of all.
    ///
    /// # Errors
    /// `EIO`
    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    /// Whether it may give capabilities to who runs it (`security.capability`).
    fn has_capabilities(&self) -> bool {
        false
    }

    /// It has been read: the access time is now, if the rules of its mount and the time so far say so (`strict`: whatever that was).
    fn accessed(&self, _strict: bool) {}

    /// Makes a file without a name.
    ///
    /// # Errors
    /// `EOPNOTSUPP`
    fn tmpfile(self: Arc<Self>, _node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Opens it; `flags` as in open(2). Directories are opened by the caller.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`, `ENXIO`; `ESTALE` when it isn't where it was found: the caller looks again.
    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>>;

    /// Makes a node.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `ENOTDIR`.
    fn create(self: Arc<Self>, _name: &[u8], _node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }

    /// Makes another name for `inode` of the same filesystem.
    ///
    /// # Errors
    /// `EXDEV`, `EEXIST`, `EROFS`.
    fn link(&self, _name: &[u8], _inode: &Arc<dyn Inode>) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    /// Removes the name of `child`; an empty directory if `dir`, something else if not. `used`: somebody holds it.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTEMPTY`, `EROFS`.
    fn unlink(&self, _name: &[u8], _child: &Arc<dyn Inode>, _dir: bool, _used: bool) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    /// Moves a name within the filesystem, replacing what is there.
    ///
    /// # Errors
    /// `EXDEV`, `ENOENT`, `ENOTEMPTY`, `EROFS`, `EINVAL` for flags it doesn't know.
    fn rename(&self, _rename: &Rename<'_>) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    /// # Errors
    /// `EROFS`, `EPERM`.
    fn set_attr(&self, _set: &SetAttr) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    /// # Errors
    /// `EIO`
    fn statfs(&self) -> SysResult<Statfs> {
        Ok(Statfs { kind: 0x0102_1994, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }

    /// Whether it stands for an open file that has no name: what is opened has none either.
    fn is_nameless(&self) -> bool {
        false
    }

    /// Who writes to it or runs it, where that is counted: regular files.
    fn writers(&self) -> Option<&Writers> {
        None
    }

    /// Writes it back, where files are by themselves (a directory's names).
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`.
    fn sync(&self) -> SysResult<()> {
        Ok(())
    }

    /// Where a bound socket leaves itself (unix(7)), if this is a socket's file.
    fn endpoint(&self) -> Option<&Endpoint> {
        None
    }

    /// How far names in this directory may be remembered.
    fn caching(&self) -> Caching {
        Caching::Exclusive
    }

    /// Whether `name` is still `child`, where others change names too.
    fn revalidate(&self, _name: &[u8], _child: &Arc<dyn Inode>) -> bool {
        true
    }
}

/// A new inode number.
#[must_use]
pub fn new_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A new anonymous device number.
#[must_use]
pub fn new_dev() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x20);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
