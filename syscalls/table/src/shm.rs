//! System V shared memory.

use abi::{Errno, SysResult, c, nr};
use ipc::{SEGMENT_DEV, ShmidDs};
use mm::{MapRequest, MmapFlags};
use platform::Prot;
use task::Current;
use usermem::{PAGE_SIZE, UserMemoryExt};

use crate::args::int;
use crate::mem::limits;
use crate::sysv::{as_ids, asker, objects, which};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    partial(
        nr::SHMGET,
        |t, a| {
            let (who, ns) = asker(t);
            as_ids(objects(t).memory.get(int(a[0]), a[1], int(a[2]), &who, &ns, t.task.group.own_pid()))
        },
        "no huge pages",
    ),
    full(nr::SHMAT, attach),
    full(nr::SHMDT, |t, a| {
        let ino = t.mm.detach(a[0], SEGMENT_DEV)?;
        objects(t).memory.detached(i32::try_from(ino).unwrap_or(-1), t.task.group.own_pid());
        Ok(0)
    }),
    full(nr::SHMCTL, control),
];

// Not in the libc crate.
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

fn attach(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [id, addr, flags, ..] = a;
    let flags = int(flags);
    let has = |flag: i32| flags & flag != 0;
    if int(id) < 0 {
        return Err(Errno::EINVAL);
    }
    let mut at = addr;
    if !addr.is_multiple_of(PAGE_SIZE) {
        if !has(c::SHM_RND) {
            return Err(Errno::EINVAL);
        }
        at = usermem::page_down(addr);
    }
    if at == 0 && has(c::SHM_REMAP) {
        return Err(Errno::EINVAL);
    }
    let (mut prot, mut wanted) = (Prot::READ, 0o444);
    let deny = if has(c::SHM_RDONLY) { Prot::WRITE } else { Prot::empty() };
    if deny.is_empty() {
        prot |= Prot::WRITE;
        wanted |= 0o222;
    }
    if has(c::SHM_EXEC) {
        prot |= Prot::EXEC;
        wanted |= 0o111;
    }
    let (who, ns) = asker(t);
    let (file, len) = objects(t).memory.attach(int(id), wanted, &who, &ns, t.task.group.own_pid())?;
    let mut map = MmapFlags::SHARED;
    if at != 0 {
        at.checked_add(len).ok_or(Errno::EINVAL)?;
        map |= if has(c::SHM_REMAP) { MmapFlags::FIXED } else { MmapFlags::NO_REPLACE };
    }
    let request = MapRequest { addr: at, len, prot, deny, flags: map, file: Some((file, 0)), name: "", limits: limits(t) };
    t.mm.mmap(request).map_err(|errno| if errno == Errno::EEXIST { Errno::EINVAL } else { errno })
}

fn control(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [id, command, arg, ..] = a;
    let (id, command) = (int(id), int(command));
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let (who, ns) = asker(t);
    let all = objects(t);
    let memory = &all.memory;
    match command {
        c::IPC_INFO => {
            let (last, info) = memory.limits();
            t.mm.write_obj(arg, &info)?;
            as_ids(Ok(last))
        }
        SHM_INFO => {
            let (last, info) = memory.info();
            t.mm.write_obj(arg, &info)?;
            as_ids(Ok(last))
        }
        c::IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let (id, ds) = memory.stat(which(command, c::IPC_STAT, SHM_STAT_ANY, id), &who, &ns)?;
            t.mm.write_obj(arg, &ds)?;
            Ok(if command == c::IPC_STAT { 0 } else { u64::from(id.cast_unsigned()) })
        }
        c::IPC_SET => {
            let ds: ShmidDs = t.mm.read_obj(arg)?;
            memory.change(id, &ds.perm, &who, &ns).map(|()| 0)
        }
        c::IPC_RMID => memory.remove(id, &who, &ns).map(|()| 0),
        c::SHM_LOCK | c::SHM_UNLOCK => {
            memory.lock(id, command == c::SHM_LOCK, t.task.group.limit(c::RLIMIT_MEMLOCK), &who, &ns).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}
