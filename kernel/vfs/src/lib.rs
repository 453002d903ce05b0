//! Directory tree, path walk, open files, descriptor tables.
//!
//! A filesystem is its [`Inode`]s. The tree of [`Dentry`]s remembers names and parents; a mount is a dentry whose inode belongs to
//! another filesystem. Open files are [`File`]s over [`FileOps`], which never block: they say `EAGAIN` and offer a wait queue.
#![forbid(unsafe_code)]

mod attached;
mod dentry;
mod fdtable;
mod file;
mod inode;
mod lease;
mod lock;

pub use dentry::{Dentry, FsContext, Lookup};
pub use fdtable::{FdTable, MAX_FDS};
pub use file::{File, FileOps, FileOwner, IoctlArg, WriteOptions};
pub use inode::{Attr, DirEntry, Endpoint, Inode, NewNode, SetAttr, new_dev, new_ino};
pub use lease::{Breaking, LEASE_BREAK_TIME, break_leases};
pub use lock::{Conflict, LOCK_END, LockClass, LockInfo, LockKind, Owner, Waiting, all_locks};
