//! Files in memory (tmpfs(5)).
//!
//! A small file is bytes of the sentry's own; one that grows or is mapped gets a memory file of the host.
#![forbid(unsafe_code)]

mod content;
mod memfd;
mod node;
mod superblock;

pub use memfd::{memfd, seal};
pub use node::Node;
pub use superblock::TmpFs;

use abi::structs::Timespec;

/// The time as file systems take it: as fine as a tick.
fn now() -> Timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }
}
