//! System V IPC (sysvipc(7)) and POSIX message queues (mq_overview(7)).
#![forbid(unsafe_code)]

mod ids;
mod mq;
mod msg;
mod sem;
mod shm;
mod undo;

use std::sync::Arc;

use abi::structs::Timespec;

pub use ids::{IpcPerm, Owner, Stat};
pub use mq::{MessageQueue, MqAttr, Notifier, QueueFile, Queues};
pub use msg::{MSGMAX, Messages, MsgInfo, MsqidDs, Receive};
pub use sem::{Operation, SemInfo, SemQuery, Semaphores, SemidDs, Waiting};
pub use shm::{SEGMENT_DEV, SharedMemory, ShmInfo, ShmInfo64, ShmidDs};
pub use undo::UndoList;

/// All objects of an IPC namespace.
pub struct Objects {
    pub semaphores: Semaphores,
    pub messages: Messages,
    pub memory: SharedMemory,
    pub queues: Arc<Queues>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            semaphores: Semaphores::default(),
            messages: Messages::default(),
            memory: SharedMemory::default(),
            queues: Queues::new(),
        }
    }
}

/// Seconds of CLOCK_REALTIME.
fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.sec
}
