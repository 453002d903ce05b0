//! Namespaces of System V IPC objects and POSIX message queues (ipc_namespaces(7)).

use std::sync::Arc;

use auth::{UserNamespace, new_inum};
use ipc::Objects;

/// `PROC_IPC_INIT_INO`
const FIRST_INUM: u64 = 0xefff_ffff;

/// A namespace of IPC objects.
pub struct IpcNamespace {
    pub ino: u64,
    pub user_ns: Arc<UserNamespace>,
    /// Semaphores, message queues and shared memory of System V.
    pub objects: Arc<Objects>,
}

impl IpcNamespace {
    /// The first.
    #[must_use]
    pub fn initial(user_ns: Arc<UserNamespace>) -> Arc<Self> {
        Arc::new(Self { ino: FIRST_INUM, user_ns, objects: Arc::default() })
    }

    /// An empty one.
    #[must_use]
    pub fn fresh(user_ns: Arc<UserNamespace>) -> Arc<Self> {
        Arc::new(Self { ino: new_inum(), user_ns, objects: Arc::default() })
    }
}
