//! membarrier(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult, c, nr};
use task::Current;

use crate::args::{int, uint};
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] = &[partial(nr::MEMBARRIER, membarrier, "no MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ")];

/// Not in the libc crate.
const GET_REGISTRATIONS: i32 = 1 << 9;

const REGISTRATIONS: i32 = c::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED
    | c::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
    | c::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE;

const COMMANDS: i32 = REGISTRATIONS
    | c::MEMBARRIER_CMD_GLOBAL
    | c::MEMBARRIER_CMD_GLOBAL_EXPEDITED
    | c::MEMBARRIER_CMD_PRIVATE_EXPEDITED
    | c::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE
    | GET_REGISTRATIONS;

fn membarrier(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (command, kernel) = (int(a[0]), &t.task.kernel);
    if uint(a[1]) != 0 {
        return Err(Errno::EINVAL);
    }
    let registered = |kind: i32| t.mm.barriers.load(Ordering::SeqCst) & kind.cast_unsigned() != 0;
    match command {
        c::MEMBARRIER_CMD_QUERY => return kernel.platform.barrier().map(|()| COMMANDS.cast_unsigned().into()),
        GET_REGISTRATIONS => return Ok(t.mm.barriers.load(Ordering::SeqCst).into()),
        c::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED
        | c::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
        | c::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => {
            t.mm.barriers.fetch_or(command.cast_unsigned(), Ordering::SeqCst);
            return Ok(0);
        }
        // The platform's barrier reaches all guests.
        c::MEMBARRIER_CMD_GLOBAL | c::MEMBARRIER_CMD_GLOBAL_EXPEDITED => {}
        c::MEMBARRIER_CMD_PRIVATE_EXPEDITED if registered(c::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) => {}
        c::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE if registered(c::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) => {
            // Who isn't on a CPU now comes back by a signal, whose handler is entered by a serializing instruction.
            let tasks: Vec<_> = kernel.tasks.lock().values().cloned().collect();
            let lives_here = |mm: &Arc<mm::MemoryManager>| Arc::ptr_eq(mm, &t.mm);
            let others = tasks.iter().filter(|task| task.tid() != t.task.tid());
            for task in others.filter(|task| task.lock().mm.as_ref().is_some_and(lives_here)) {
                task.kick();
            }
        }
        c::MEMBARRIER_CMD_PRIVATE_EXPEDITED | c::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    }
    kernel.platform.barrier().map(|()| 0)
}
