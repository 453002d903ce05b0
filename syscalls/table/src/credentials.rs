//! Users, groups and capabilities (credentials(7), capabilities(7)).

use std::sync::Arc;

use abi::{Errno, SysResult, nr};
use auth::{CapSet, Credentials};
use task::Current;
use usermem::UserMemoryExt;

use crate::args::{int, uint};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::GETUID, |t, _| Ok(t.credentials().user_ns.from_kuid_munged(t.credentials().ruid).into())),
    full(nr::GETEUID, |t, _| Ok(t.credentials().user_ns.from_kuid_munged(t.credentials().euid).into())),
    full(nr::GETGID, |t, _| Ok(t.credentials().user_ns.from_kgid_munged(t.credentials().rgid).into())),
    full(nr::GETEGID, |t, _| Ok(t.credentials().user_ns.from_kgid_munged(t.credentials().egid).into())),
    full(nr::GETRESUID, getresuid),
    full(nr::GETRESGID, getresgid),
    full(nr::GETGROUPS, getgroups),
    full(nr::SETUID, |t, a| change(t, |who| who.setuid(uint(a[0])))),
    full(nr::SETGID, |t, a| change(t, |who| who.setgid(uint(a[0])))),
    full(nr::SETREUID, |t, a| change(t, |who| who.setreuid(uint(a[0]), uint(a[1])))),
    full(nr::SETREGID, |t, a| change(t, |who| who.setregid(uint(a[0]), uint(a[1])))),
    full(nr::SETRESUID, |t, a| change(t, |who| who.setresuid([uint(a[0]), uint(a[1]), uint(a[2])]))),
    full(nr::SETRESGID, |t, a| change(t, |who| who.setresgid([uint(a[0]), uint(a[1]), uint(a[2])]))),
    full(nr::SETFSUID, setfsuid),
    full(nr::SETFSGID, setfsgid),
    full(nr::SETGROUPS, setgroups),
    full(nr::CAPGET, capget),
    full(nr::CAPSET, capset),
];

/// Replaces the task's credentials by what `f` makes of them.
pub fn change(t: &mut Current, f: impl FnOnce(&Credentials) -> SysResult<Credentials>) -> SysResult<u64> {
    let new = f(t.credentials())?;
    t.set_credentials(new);
    Ok(0)
}

fn write_three(t: &Current, addrs: [u64; 6], ids: [u32; 3]) -> SysResult<u64> {
    for (addr, id) in addrs.iter().zip(ids) {
        t.mm.write_obj(*addr, &id)?;
    }
    Ok(0)
}

fn getresuid(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let who = t.credentials();
    write_three(t, a, [who.ruid, who.euid, who.suid].map(|uid| who.user_ns.from_kuid_munged(uid)))
}

fn getresgid(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let who = t.credentials();
    write_three(t, a, [who.rgid, who.egid, who.sgid].map(|gid| who.user_ns.from_kgid_munged(gid)))
}

/// setfsuid(2): always the old number, whether or not it changed.
fn setfsuid(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let old = t.credentials().user_ns.from_kuid_munged(t.credentials().fsuid);
    if let Some(new) = t.credentials().setfsuid(uint(a[0])) {
        t.set_credentials(new);
    }
    Ok(old.into())
}

fn setfsgid(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let old = t.credentials().user_ns.from_kgid_munged(t.credentials().fsgid);
    if let Some(new) = t.credentials().setfsgid(uint(a[0])) {
        t.set_credentials(new);
    }
    Ok(old.into())
}

fn getgroups(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (who, room) = (t.credentials(), usize::try_from(int(a[0])).map_err(|_| Errno::EINVAL)?);
    if room > 0 {
        if room < who.groups.len() {
            return Err(Errno::EINVAL);
        }
        let gids: Vec<u8> = who.groups.iter().flat_map(|gid| who.user_ns.from_kgid_munged(*gid).to_le_bytes()).collect();
        t.mm.write(a[1], &gids)?;
    }
    Ok(who.groups.len() as u64)
}

fn setgroups(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let count = uint(a[0]) as usize;
    t.credentials().may_setgroups(count)?;
    let mut bytes = vec![0; count * 4];
    t.mm.read(a[1], &mut bytes)?;
    let gids: Vec<u32> = bytes.chunks_exact(4).filter_map(|chunk| chunk.try_into().ok().map(u32::from_le_bytes)).collect();
    change(t, |who| who.setgroups(&gids))
}

/// Reads `struct __user_cap_header_struct`: how many 32-bit words each set has, and whose sets are meant. An unknown version is answered
/// by the one that is preferred.
fn cap_header(t: &Current, addr: u64) -> SysResult<(usize, i32)> {
    const VERSION_1: u32 = 0x1998_0330;
    const VERSION_2: u32 = 0x2007_1026;
    const VERSION_3: u32 = 0x2008_0522;
    let [version, pid]: [u32; 2] = t.mm.read_obj(addr)?;
    let words = match version {
        VERSION_1 => 1,
        VERSION_2 | VERSION_3 => 2,
        _ => {
            t.mm.write_obj(addr, &VERSION_3)?;
            return Err(Errno::EINVAL);
        }
    };
    Ok((words, pid.cast_signed()))
}

fn capget(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (words, pid) = match cap_header(t, a[0]) {
        // Only the version was asked for.
        Err(Errno::EINVAL) if a[1] == 0 => return Ok(0),
        header => header?,
    };
    let who: Arc<Credentials> = match pid {
        ..0 => return Err(Errno::EINVAL),
        0 => t.credentials().clone(),
        pid => t.find_task(pid).ok_or(Errno::ESRCH)?.credentials(),
    };
    if a[1] == 0 {
        return Ok(0);
    }
    let sets = [who.effective, who.permitted, who.inheritable].map(CapSet::bits);
    let halves = [0, 32].map(|shift| sets.map(|set| (set >> shift) as u32));
    let bytes: Vec<u8> = halves.iter().take(words).flatten().flat_map(|word| word.to_le_bytes()).collect();
    t.mm.write(a[1], &bytes)?;
    Ok(0)
}

fn capset(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (words, pid) = cap_header(t, a[0])?;
    if pid != 0 && pid != t.task.own_tid() {
        return Err(Errno::EPERM);
    }
    let mut halves = [[0u32; 3]; 2];
    for (half, at) in halves.iter_mut().take(words).zip([0u64, 12]) {
        *half = t.mm.read_obj(a[1].checked_add(at).ok_or(Errno::EFAULT)?)?;
    }
    let [[e, p, i], [e_high, p_high, i_high]] = halves;
    let set = |low: u32, high: u32| CapSet::from_bits(u64::from(low) | u64::from(high) << 32);
    change(t, |who| who.capset(set(e, e_high), set(p, p_high), set(i, i_high)))
}
