//! What the calls of System V IPC have in common.

use std::sync::Arc;

use abi::SysResult;
use auth::{Credentials, UserNamespace};
use ipc::{Objects, Stat};
use task::Current;

/// The objects of the caller's IPC namespace.
pub fn objects(t: &Current) -> Arc<Objects> {
    t.task.lock().ns.ipc.objects.clone()
}

/// Who asks, and whose capabilities count.
pub fn asker(t: &Current) -> (Arc<Credentials>, Arc<UserNamespace>) {
    (t.credentials().clone(), t.task.lock().ns.ipc.user_ns.clone())
}

/// A result that is never negative.
pub fn as_ids(result: SysResult<i32>) -> SysResult<u64> {
    result.map(|id| u64::from(id.cast_unsigned()))
}

/// What `IPC_STAT`, `*_STAT` and `*_STAT_ANY` are about.
pub fn which(command: i32, stat: i32, any: i32, id: i32) -> Stat {
    if command == stat {
        Stat::Id(id)
    } else if command == any {
        Stat::Any(id)
    } else {
        Stat::Slot(id)
    }
}
