//! Namespaces of System V IPC objects and POSIX message queues (ipc_namespaces(7)).

use std::sync::Arc;

use abi::{Errno, SysResult};
use auth::{UserNamespace, new_inum};
use ipc::Objects;
use vfs::{Dentry, FileSystemType, MountRequest, Plain, SuperBlock};

use crate::kernel::Kernel;

/// `PROC_IPC_INIT_INO`
const FIRST_INUM: u64 = 0xefff_ffff;

/// A namespace of IPC objects, POSIX queues among them.
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

/// The filesystem of POSIX message queues: the one of the mounting task's namespace, however often it is mounted.
pub struct QueueFs {
    pub kernel: Arc<Kernel>,
}

impl FileSystemType for QueueFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        if !request.options.is_empty() {
            return Err(Errno::EINVAL);
        }
        let first = || self.kernel.ns.ipc.clone();
        let ns = crate::current().map_or_else(first, |task| task.lock().ns.ipc.clone());
        let queues = &ns.objects.queues;
        Dentry::root(SuperBlock::new("mqueue", queues.dev(), Box::new(Plain)), queues.root()?)
    }
}
