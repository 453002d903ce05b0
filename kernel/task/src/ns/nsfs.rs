//! Namespaces as files: what /proc/pid/ns leads to (namespaces(7), ioctl_ns(2)).

use std::any::Any;
use std::sync::{Arc, OnceLock};

use abi::structs::Statfs;
use abi::{SysResult, c};
use vfs::{Attr, Dentry, FileOps, Inode, Mount, Path, Plain, SuperBlock, new_dev};

use super::Namespace;

/// `NSFS_MAGIC`
const MAGIC: i64 = 0x6e73_6673;

/// The filesystem that all of them are in; it can't be mounted by name.
fn superblock() -> &'static Arc<SuperBlock> {
    static SUPERBLOCK: OnceLock<Arc<SuperBlock>> = OnceLock::new();
    SUPERBLOCK.get_or_init(|| SuperBlock::new("nsfs", new_dev(), Box::new(Plain)))
}

struct NsInode(Namespace);

impl Inode for NsInode {
    fn attr(&self) -> SysResult<Attr> {
        Ok(Attr { dev: superblock().dev, ino: self.0.ino(), nlink: 1, mode: c::S_IFREG | 0o444, ..Attr::default() })
    }

    fn open(self: Arc<Self>, _flags: i32) -> SysResult<Arc<dyn FileOps>> {
        Ok(Arc::new(NsFile(self.0.clone())))
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(Statfs { kind: MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }
}

/// An open namespace.
pub struct NsFile(pub Namespace);

impl FileOps for NsFile {
    fn describe(&self) -> String {
        self.0.text()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Namespace {
    /// As its link in /proc/pid/ns shows it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}:[{}]", self.name(), self.ino())
    }

    /// Where its file is. It can be bound to a place, which keeps the namespace.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn path(&self) -> SysResult<Path> {
        let root = Dentry::root(superblock().clone(), Arc::new(NsInode(self.clone())))?;
        Ok(Path::root_of(&Mount::new(root, b"nsfs", 0)))
    }
}
