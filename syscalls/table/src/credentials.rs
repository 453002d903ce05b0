//! Users and groups (credentials(7)).

use abi::{Errno, SysResult, nr};
use task::Current;
use usermem::UserMemoryExt;

use crate::args::int;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::GETUID, |t, _| Ok(t.credentials().user_ns.from_kuid_munged(t.credentials().ruid).into())),
    full(nr::GETEUID, |t, _| Ok(t.credentials().user_ns.from_kuid_munged(t.credentials().euid).into())),
    full(nr::GETGID, |t, _| Ok(t.credentials().user_ns.from_kgid_munged(t.credentials().rgid).into())),
    full(nr::GETEGID, |t, _| Ok(t.credentials().user_ns.from_kgid_munged(t.credentials().egid).into())),
    full(nr::GETRESUID, getresuid),
    full(nr::GETRESGID, getresgid),
    full(nr::GETGROUPS, getgroups),
];

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
