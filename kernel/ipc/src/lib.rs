//! System V IPC (sysvipc(7)).
#![forbid(unsafe_code)]

mod ids;
mod msg;
mod sem;
mod shm;
mod undo;

use abi::structs::Timespec;

pub use ids::{IpcPerm, Owner, Stat};
pub use msg::{MSGMAX, Messages, MsgInfo, MsqidDs, Receive};
pub use sem::{Operation, SemInfo, SemQuery, Semaphores, SemidDs, Waiting};
pub use shm::{SEGMENT_DEV, SharedMemory, ShmInfo, ShmInfo64, ShmidDs};
pub use undo::UndoList;

/// All objects of an IPC namespace.
#[derive(Default)]
pub struct Objects {
    pub semaphores: Semaphores,
    pub messages: Messages,
    pub memory: SharedMemory,
}

/// Seconds of CLOCK_REALTIME.
fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.sec
}
