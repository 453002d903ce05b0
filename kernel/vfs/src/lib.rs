//! Directory tree, mounts, path walk, open files, descriptor tables.
//!
//! A filesystem is its [`Inode`]s. The tree of [`Dentry`]s remembers names and parents; a [`Mount`] shows a filesystem's tree, or a part of
//! it, at a place of another one; a [`Path`] is a name as a mount shows it. What is done with paths is done on behalf of a [`Caller`], whose
//! rights decide. Open files are [`File`]s over [`FileOps`], which never block: they say `EAGAIN` and offer a wait queue.
#![forbid(unsafe_code)]

mod acl;
mod attached;
mod cache;
mod caller;
mod change;
mod dentry;
pub mod devices;
mod fdtable;
mod file;
mod inode;
pub mod landlock;
mod layer;
mod lease;
mod lock;
mod mount;
mod nameless;
mod names;
mod namespace;
pub mod notify;
mod open;
mod path;
mod permission;
mod propagation;
mod superblock;
mod tree;
mod walk;
mod writers;
mod xattr;

pub use acl::Acl;
pub use caller::Caller;
pub use change::NewTime;
pub use dentry::{Dentry, NAME_MAX};
pub use fdtable::{FdTable, MAX_FDS};
pub use file::{File, FileOps, FileOwner, IoctlArg, WriteOptions};
pub use inode::{
    Attr, Caching, DeviceOpener, DirEntry, Endpoint, Inode, NewNode, Rename, SetAttr, WHITEOUT_DEV, is_stale, new_dev, new_ino,
};
pub use lease::{Breaking, LEASE_BREAK_TIME, break_leases};
pub use lock::{Conflict, LOCK_END, LockClass, LockInfo, LockKind, Owner, Waiting, all_locks};
pub use mount::{MOUNT_FLAGS, MS_NOSYMFOLLOW, Mount, WriteAccess};
pub use nameless::nameless;
pub use namespace::{MountNamespace, NamespaceState};
pub use open::{BeforeOpen, OpenHow, Place};
pub use path::{FsContext, Path, PathText, Places};
pub use permission::{Access, capable, generic_permission, owns};
pub use propagation::Kind as PropagationKind;
pub use superblock::{FileSystemType, FileSystems, MountOption, MountRequest, Plain, SB_FLAGS, SuperBlock, SuperOps};
pub use tree::{MAX_MOUNTS, dissolve};
pub use walk::{Last, Lookup, WalkFlags};
pub use writers::{Running, Writers};
pub use xattr::{XATTR_NAME_MAX, XATTR_SIZE_MAX};
