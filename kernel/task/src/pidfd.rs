//! Processes as files (pidfd_open(2)).

use std::any::Any;
use std::sync::Arc;

use abi::poll::PollEvents;
use sync::WaitQueue;
use vfs::{File, FileOps};

use crate::group::Group;

/// A process, whatever becomes of its number.
pub struct PidFd(pub Arc<Group>);

impl PidFd {
    /// The process behind a file, if it is one.
    #[must_use]
    pub fn of(file: &File) -> Option<&Arc<Group>> {
        file.ops.as_any().downcast_ref::<Self>().map(|pidfd| &pidfd.0)
    }
}

impl FileOps for PidFd {
    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self) -> PollEvents {
        if self.0.is_zombie() { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.exit_queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[pidfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
