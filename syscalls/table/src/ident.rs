//! Who and where: identity, uname, sysinfo.

use abi::structs::{Sysinfo, Utsname};
use abi::{Errno, SysResult, c, nr};
use auth::Capability;
use sync::monotonic_ns;
use task::{Current, MAX_NAME, RELEASE, UtsNamespace, VERSION};
use usermem::UserMemoryExt;

use crate::args::{int, uint};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    full(nr::GETPID, |t, _| Ok(pid(t.task.group.own_pid()))),
    full(nr::GETTID, |t, _| Ok(pid(t.task.own_tid()))),
    full(nr::GETPPID, |t, _| Ok(pid(t.task.group.parent_pid()))),
    full(nr::UNAME, uname),
    partial(nr::PERSONALITY, personality, "kept, inherited and shown by uname(2); addresses stay random"),
    full(nr::SETHOSTNAME, |t, a| set_name(t, a, UtsNamespace::set_host)),
    full(nr::SETDOMAINNAME, |t, a| set_name(t, a, UtsNamespace::set_domain)),
    full(nr::SYSINFO, sysinfo),
    full(nr::GETPGRP, |t, _| Ok(pid(t.local(t.task.group.pgid())))),
    full(nr::GETPGID, |t, a| group(t, a[0], task::Group::pgid)),
    full(nr::GETSID, |t, a| group(t, a[0], task::Group::sid)),
    full(nr::SETPGID, setpgid),
    full(nr::SETSID, |t, _| t.task.kernel.setsid(&t.task.group).map(|sid| pid(t.local(sid)))),
    full(nr::GETCPU, getcpu),
    full(nr::GETRANDOM, getrandom),
];

fn pid(pid: i32) -> u64 {
    pid.cast_unsigned().into()
}

fn group(t: &Current, which: u64, f: fn(&task::Group) -> i32) -> SysResult<u64> {
    if int(which) == 0 {
        return Ok(pid(t.local(f(&t.task.group))));
    }
    let group = t.find_process(int(which)).or_else(|| Some(t.find_task(int(which))?.group.clone()));
    group.map(|group| pid(t.local(f(&group)))).ok_or(Errno::ESRCH)
}

/// Which system a program was made for, and its quirks.
const PER_MASK: u32 = 0xff;
const PER_LINUX32: u32 = 8;

/// personality(2): the old value; -1 only asks.
fn personality(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let mut shared = t.task.lock();
    let old = shared.personality;
    if uint(a[0]) != u32::MAX {
        shared.personality = uint(a[0]);
    }
    Ok(old.into())
}

fn uname(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let mut name = Utsname { fields: [[0; 65]; 6] };
    let uts = t.task.lock().ns.uts.clone();
    let names = uts.names();
    let machine = if t.task.lock().personality & PER_MASK == PER_LINUX32 { &b"i686"[..] } else { b"x86_64" };
    let texts = [&b"Linux"[..], &names.host, RELEASE.as_bytes(), VERSION.as_bytes(), machine, &names.domain];
    for (field, text) in name.fields.iter_mut().zip(texts) {
        field.iter_mut().zip(text.iter().take(64)).for_each(|(to, from)| *to = *from);
    }
    t.mm.write_obj(a[0], &name)?;
    Ok(0)
}

/// sethostname(2), setdomainname(2).
fn set_name(t: &Current, a: [u64; 6], set: fn(&UtsNamespace, Vec<u8>) -> SysResult<()>) -> SysResult<u64> {
    let uts = t.task.lock().ns.uts.clone();
    if !t.credentials().has_capability_in(&uts.user_ns, Capability::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(int(a[1])).ok().filter(|len| *len <= MAX_NAME).ok_or(Errno::EINVAL)?;
    let mut name = vec![0; len];
    t.mm.read(a[0], &mut name)?;
    set(&uts, name).map(|()| 0)
}

fn setpgid(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (pid, pgid) = (int(a[0]), int(a[1]));
    if pgid < 0 {
        return Err(Errno::EINVAL);
    }
    let pid = if pid == 0 { 0 } else { t.global(pid).ok_or(Errno::ESRCH)? };
    let pgid = if pgid == 0 { 0 } else { t.global(pgid).ok_or(Errno::EPERM)? };
    t.task.kernel.setpgid(&t.task.group, pid, pgid).map(|()| 0)
}

fn sysinfo(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (totalram, freeram) = usermem::budget::total_and_free();
    let kernel = &t.task.kernel;
    let info = Sysinfo {
        uptime: (monotonic_ns().saturating_sub(kernel.started) / 1_000_000_000).cast_signed(),
        totalram,
        freeram,
        procs: u16::try_from(kernel.tasks.lock().len()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::default()
    };
    t.mm.write_obj(a[0], &info)?;
    Ok(0)
}

/// The CPU is the host's, as the vDSO tells it too: this thread and its program's share one or use two, and neither stays.
fn getcpu(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (cpu, node) = (u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(0), 0u32);
    for (addr, value) in a.iter().zip([cpu, node]).filter(|(addr, _)| **addr != 0) {
        t.mm.write_obj(*addr, &value)?;
    }
    Ok(0)
}

fn getrandom(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    if int(a[2]).cast_unsigned() & !(c::GRND_NONBLOCK | c::GRND_RANDOM | 4) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut buf = usermem::IoBuf::user(&*t.mm, a[0], a[1].min(1 << 20));
    let mut chunk = [0; 256];
    while buf.remaining() > 0 {
        rustix::rand::getrandom(&mut chunk, rustix::rand::GetRandomFlags::empty())?;
        let want = chunk.len().min(buf.remaining());
        if buf.copy_out(chunk.get(..want).unwrap_or_default())? < want {
            break;
        }
    }
    Ok(buf.done() as u64)
}
