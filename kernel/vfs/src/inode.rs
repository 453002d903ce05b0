//! What filesystems implement.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::structs::{Stat, Statfs, Timespec};
use abi::{Errno, SysResult, c};
use sync::Mutex;

use crate::file::FileOps;

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
}

/// A file, directory, link or device of a filesystem. Defaults say what Linux says where a filesystem can't.
pub trait Inode: Send + Sync + Any {
    /// # Errors
    /// `EIO` and what the host says.
    fn attr(&self) -> SysResult<Attr>;

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

    /// A link that leads to a dentry whatever its text says (/proc/pid/fd/N, exe, cwd).
    fn magic_link(&self) -> Option<Arc<crate::Dentry>> {
        None
    }

    /// Opens it; `flags` as in open(2). Directories are opened by the caller.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`, `ENXIO`.
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

    /// Removes a name; an empty directory if `dir`.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EROFS`.
    fn unlink(&self, _name: &[u8], _dir: bool) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    /// Moves `name` to `new_name` in `new_dir` (of the same filesystem), replacing what is there.
    ///
    /// # Errors
    /// `EXDEV`, `ENOENT`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `EROFS`.
    fn rename(&self, _name: &[u8], _new_dir: &Arc<dyn Inode>, _new_name: &[u8]) -> SysResult<()> {
        Err(Errno::EROFS)
    }

    /// It has been renamed: it is `new_name` in `new_dir` now.
    fn moved(&self, _new_dir: &Arc<dyn Inode>, _new_name: &[u8]) {}

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

    /// Where a bound socket leaves itself (unix(7)), if this is a socket's file.
    fn endpoint(&self) -> Option<&Endpoint> {
        None
    }

    /// Whether names must be looked up anew each time (/proc).
    fn volatile(&self) -> bool {
        false
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
