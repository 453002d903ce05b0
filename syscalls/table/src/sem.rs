//! System V semaphores.

use abi::{Errno, SysResult, c, nr};
use ipc::{IpcPerm, Operation, SemQuery, SemidDs};
use sync::{MonotonicNs, monotonic_ns};
use task::Current;
use usermem::UserMemoryExt;

use crate::args::{int, timeout};
use crate::sysv::{as_ids, asker, objects, which};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::SEMGET, |t, a| {
        let (who, ns) = asker(t);
        as_ids(objects(t).semaphores.get(int(a[0]), int(a[1]), int(a[2]), &who, &ns))
    }),
    full(nr::SEMOP, |t, a| operate(t, a[0], a[1], a[2], None)),
    full(nr::SEMTIMEDOP, |t, a| {
        let deadline = timeout(t, a[3])?.map(|ns| monotonic_ns().saturating_add(ns));
        operate(t, a[0], a[1], a[2], deadline)
    }),
    full(nr::SEMCTL, control),
];

/// Operations of one call at most (`SEMOPM`).
const MAX_OPERATIONS: u64 = 500;

fn operate(t: &mut Current, id: u64, addr: u64, count: u64, deadline: Option<MonotonicNs>) -> SysResult<u64> {
    let count = u64::from(crate::args::uint(count));
    if count == 0 || int(id) < 0 {
        return Err(Errno::EINVAL);
    }
    if count > MAX_OPERATIONS {
        return Err(Errno::E2BIG);
    }
    let mut operations = Vec::new();
    for i in 0..count {
        let at = addr.checked_add(i * size_of::<Operation>() as u64).ok_or(Errno::EFAULT)?;
        operations.push(t.mm.read_obj::<Operation>(at)?);
    }
    let undoes = operations.iter().any(|operation| i32::from(operation.flg) & c::SEM_UNDO != 0);
    let undo = undoes.then(|| t.undo_list());
    let (who, ns) = asker(t);
    let all = objects(t);
    let caller = (&*who, &*ns, t.task.group.own_pid());
    let Some(waiting) = all.semaphores.operate(int(id), operations, caller, undo.as_ref(), &t.task.parker)? else {
        return Ok(0);
    };
    let stopped = loop {
        if let Some(result) = waiting.result() {
            return result.map(|()| 0);
        }
        if let Err(errno) = t.sleep(deadline) {
            break errno;
        }
    };
    match waiting.give_up() {
        Some(result) => result.map(|()| 0),
        None if stopped == Errno::ETIMEDOUT => Err(Errno::EAGAIN),
        // Never started again, whatever the handler says (signal(7)).
        None => Err(Errno::EINTR),
    }
}

// Not in the libc crate.
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

fn control(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [id, num, command, arg, ..] = a;
    let (id, num, command) = (int(id), int(num), int(command));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let (who, ns) = asker(t);
    let all = objects(t);
    let (sets, pid) = (&all.semaphores, t.task.group.own_pid());
    match command {
        c::IPC_INFO | SEM_INFO => {
            let (last, info) = sets.info(command == SEM_INFO);
            t.mm.write_obj(arg, &info)?;
            as_ids(Ok(last))
        }
        c::IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (id, ds) = sets.stat(which(command, c::IPC_STAT, SEM_STAT_ANY, id), &who, &ns)?;
            t.mm.write_obj(arg, &ds)?;
            Ok(if command == c::IPC_STAT { 0 } else { u64::from(id.cast_unsigned()) })
        }
        c::IPC_SET => {
            let ds: SemidDs = t.mm.read_obj(arg)?;
            let perm: IpcPerm = ds.perm;
            sets.change(id, &perm, &who, &ns).map(|()| 0)
        }
        c::IPC_RMID => sets.remove(id, &who, &ns).map(|()| 0),
        c::GETALL => {
            for (i, value) in (0u64..).zip(sets.values(id, &who, &ns)?) {
                t.mm.write_obj(arg.checked_add(i * 2).ok_or(Errno::EFAULT)?, &value)?;
            }
            Ok(0)
        }
        c::SETALL => {
            let mut values = vec![0u8; sets.count(id, &who, &ns)? * 2];
            t.mm.read(arg, &mut values)?;
            let values: Vec<i32> = values
                .chunks_exact(2)
                .map(|pair| match pair {
                    [low, high] => i32::from(u16::from_le_bytes([*low, *high])),
                    _ => 0,
                })
                .collect();
            sets.assign(id, None, &values, (&who, &ns, pid)).map(|()| 0)
        }
        // The value is an int, in the low half.
        c::SETVAL => sets.assign(id, Some(num), &[int(arg)], (&who, &ns, pid)).map(|()| 0),
        c::GETVAL => as_ids(sets.query(id, num, SemQuery::Value, &who, &ns)),
        c::GETPID => as_ids(sets.query(id, num, SemQuery::Pid, &who, &ns)),
        c::GETNCNT => as_ids(sets.query(id, num, SemQuery::WaitingForMore, &who, &ns)),
        c::GETZCNT => as_ids(sets.query(id, num, SemQuery::WaitingForZero, &who, &ns)),
        _ => Err(Errno::EINVAL),
    }
}
