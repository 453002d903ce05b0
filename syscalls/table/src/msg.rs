//! System V message queues.

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c, nr};
use ipc::{MSGMAX, MsqidDs, Receive};
use task::Current;
use usermem::UserMemoryExt;

use crate::args::int;
use crate::sysv::{as_ids, asker, objects, which};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::MSGGET, |t, a| {
        let (who, ns) = asker(t);
        as_ids(objects(t).messages.get(int(a[0]), int(a[1]), &who, &ns))
    }),
    full(nr::MSGSND, send),
    full(nr::MSGRCV, receive),
    full(nr::MSGCTL, control),
];

// Not in the libc crate.
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// Bytes of a message's kind, before its text.
const KIND: u64 = 8;

fn send(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [id, addr, size, flags, ..] = a;
    let kind: i64 = t.mm.read_obj(addr)?;
    let size = usize::try_from(size).ok().filter(|size| *size <= MSGMAX).ok_or(Errno::EINVAL)?;
    if int(id) < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let mut text = vec![0; size];
    t.mm.read(addr.checked_add(KIND).ok_or(Errno::EFAULT)?, &mut text)?;
    let (who, ns) = asker(t);
    let queue = objects(t).messages.open(int(id))?;
    let attempt = || queue.send(kind, &text, &who, &ns, t.task.group.own_pid());
    if int(flags) & c::IPC_NOWAIT != 0 {
        return attempt().map(|()| 0);
    }
    let result = t.block_on(Some(queue.waiters()), PollEvents::OUT, None, attempt);
    result.map(|()| 0).map_err(not_restarted)
}

/// Calls that a signal ends are not started again after a handler (signal(7)).
fn not_restarted(errno: Errno) -> Errno {
    if errno == Errno::ERESTARTSYS { Errno::ERESTARTNOHAND } else { errno }
}

fn receive(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [id, addr, size, kind, flags, _] = a;
    let flags = int(flags);
    if int(id) < 0 || i64::try_from(size).is_err() {
        return Err(Errno::EINVAL);
    }
    let copy = flags & c::MSG_COPY != 0;
    if copy && (flags & c::MSG_EXCEPT != 0 || flags & c::IPC_NOWAIT == 0) {
        return Err(Errno::EINVAL);
    }
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let what = Receive { size, kind: kind.cast_signed(), flags };
    let (who, ns) = asker(t);
    let queue = objects(t).messages.open(int(id))?;
    let attempt = || queue.receive(what, &who, &ns, t.task.group.own_pid());
    let (kind, text) = if flags & c::IPC_NOWAIT != 0 {
        attempt().map_err(|errno| if errno == Errno::EAGAIN { Errno::ENOMSG } else { errno })?
    } else {
        t.block_on(Some(queue.waiters()), PollEvents::IN, None, attempt).map_err(not_restarted)?
    };
    t.mm.write_obj(addr, &kind)?;
    t.mm.write(addr.checked_add(KIND).ok_or(Errno::EFAULT)?, &text)?;
    Ok(text.len() as u64)
}

fn control(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [id, command, arg, ..] = a;
    let (id, command) = (int(id), int(command));
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let (who, ns) = asker(t);
    let all = objects(t);
    let queues = &all.messages;
    match command {
        c::IPC_INFO | MSG_INFO => {
            let (last, info) = queues.info(command == MSG_INFO);
            t.mm.write_obj(arg, &info)?;
            as_ids(Ok(last))
        }
        c::IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (id, ds) = queues.stat(which(command, c::IPC_STAT, MSG_STAT_ANY, id), &who, &ns)?;
            t.mm.write_obj(arg, &ds)?;
            Ok(if command == c::IPC_STAT { 0 } else { u64::from(id.cast_unsigned()) })
        }
        c::IPC_SET => {
            let ds: MsqidDs = t.mm.read_obj(arg)?;
            queues.change(id, &ds, &who, &ns).map(|()| 0)
        }
        c::IPC_RMID => queues.remove(id, &who, &ns).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
