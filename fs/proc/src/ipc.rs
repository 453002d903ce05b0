//! What /proc says of IPC.

use abi::SysResult;
use auth::Credentials;
use ipc::Objects;

use crate::Proc;
use crate::system::{Entry, file};

/// /proc/sysvipc
pub const DIR: &[Entry] = &[
    file("sem", 61, |proc| text(proc, |all, reader| all.semaphores.text(reader))),
    file("msg", 62, |proc| text(proc, |all, reader| all.messages.text(reader))),
    file("shm", 63, |proc| text(proc, |all, reader| all.memory.text(reader))),
];

/// /proc/sys/fs/mqueue
pub const LIMITS: &[Entry] = &[
    file("queues_max", 53, |_| Ok(b"256\n".to_vec())),
    file("msg_max", 54, |_| Ok(b"10\n".to_vec())),
    file("msgsize_max", 55, |_| Ok(b"8192\n".to_vec())),
    file("msg_default", 56, |_| Ok(b"10\n".to_vec())),
    file("msgsize_default", 57, |_| Ok(b"8192\n".to_vec())),
];

/// As the reader's user namespace shows who owns what.
fn text(proc: &Proc, make: fn(&Objects, &Credentials) -> String) -> SysResult<Vec<u8>> {
    let root = || Credentials::root(proc.kernel.user_ns.clone());
    let reader = proc.caller().map_or_else(root, |task| (*task.credentials()).clone());
    let ns = proc.caller().map_or_else(|| proc.kernel.ns.ipc.clone(), |task| task.lock().ns.ipc.clone());
    Ok(make(&ns.objects, &reader).into_bytes())
}
