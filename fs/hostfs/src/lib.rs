//! A host directory, read-only or writable, and the host descriptors that a sandbox is started with.
//!
//! Every access names one component below an open directory and follows no symbolic link: the sentry walks links itself, so nothing that a
//! guest or the host renames meanwhile can lead out of the tree.
#![forbid(unsafe_code)]

mod inode;
mod regular;
mod root;
mod stdio;
mod watch;
mod xattr;

pub use inode::HostInode;
pub use stdio::HostStream;
pub use watch::{Waiter, Watcher};
