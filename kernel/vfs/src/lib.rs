//! Directory tree, path walk, open files, descriptor tables.
//!
//! A filesystem is its [`Inode`]s. The tree of [`Dentry`]s remembers names and parents; a mount is a dentry whose inode belongs to
//! another filesystem. Open files are [`File`]s over [`FileOps`], which never block: they say `EAGAIN` and offer a wait queue.
#![forbid(unsafe_code)]

mod dentry;
mod fdtable;
mod file;
mod inode;

pub use dentry::{Dentry, FsContext, Lookup};
pub use fdtable::FdTable;
pub use file::{File, FileOps, IoctlArg};
pub use inode::{Attr, DirEntry, Endpoint, Inode, NewNode, SetAttr, new_dev, new_ino};
