//! Where memory should come from (set_mempolicy(2), mbind(2)). There is one node: policies are kept and told, and change nothing.

use abi::{Errno, SysResult, c, nr};
use mm::Policy;
use task::Current;
use usermem::{PAGE_SIZE, UserMemoryExt};

use crate::args::{int, uint};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::SET_MEMPOLICY, |t, a| {
        let policy = policy(t, uint(a[0]), a[1], a[2])?;
        t.task.lock().mempolicy = policy;
        Ok(0)
    }),
    full(nr::GET_MEMPOLICY, get),
    full(nr::MBIND, mbind),
    full(nr::SET_MEMPOLICY_HOME_NODE, home_node),
    full(nr::MIGRATE_PAGES, migrate),
    full(nr::MOVE_PAGES, move_pages),
];

/// Nodes that there are, as bits.
const NODES: u64 = 1;
/// Bits of a mask at most: those of a page.
const MAX_BITS: u64 = PAGE_SIZE * 8;
// Not in the libc crate.
const PREFERRED_MANY: i32 = 5;
const MPOL_F_NODE: i32 = 1;
const MPOL_F_ADDR: i32 = 2;
const MPOL_F_MEMS_ALLOWED: i32 = 4;
const MPOL_MF_STRICT: u32 = 1;
const MPOL_MF_MOVE: u32 = 2;
const MPOL_MF_MOVE_ALL: u32 = 4;
const WEIGHTED_INTERLEAVE: i32 = 6;
const NUMA_BALANCING: u32 = 1 << 13;
const MODE_FLAGS: u32 = (c::MPOL_F_STATIC_NODES | c::MPOL_F_RELATIVE_NODES).cast_unsigned() | NUMA_BALANCING;

/// A mask of `bits - 1` nodes, as the calls count them: no bits are too many.
fn mask(t: &Current, addr: u64, bits: u64) -> SysResult<u64> {
    let bits = bits.wrapping_sub(1);
    if bits == 0 || addr == 0 {
        return Ok(0);
    }
    if bits > MAX_BITS {
        return Err(Errno::EINVAL);
    }
    let mut nodes = 0;
    for i in 0..bits.div_ceil(64) {
        let mut word: u64 = t.mm.read_obj(addr.checked_add(i * 8).ok_or(Errno::EFAULT)?)?;
        let left = bits - i * 64;
        if left < 64 {
            word &= (1 << left) - 1;
        }
        if i == 0 {
            nodes = word;
        } else if word != 0 {
            // Nodes that no kernel knows.
            return Err(Errno::EINVAL);
        }
    }
    Ok(nodes)
}

fn policy(t: &Current, mode: u32, addr: u64, bits: u64) -> SysResult<Policy> {
    let flags = mode & MODE_FLAGS;
    let plain = (mode & !MODE_FLAGS).cast_signed();
    let both = (c::MPOL_F_STATIC_NODES | c::MPOL_F_RELATIVE_NODES).cast_unsigned();
    if !(c::MPOL_DEFAULT..=WEIGHTED_INTERLEAVE).contains(&plain) || flags & both == both {
        return Err(Errno::EINVAL);
    }
    let given = mask(t, addr, bits)?;
    let nodes = given & NODES;
    let valid = match plain {
        c::MPOL_DEFAULT => given == 0 && flags == 0,
        // Without nodes it is the local one.
        c::MPOL_PREFERRED => given == 0 && flags & both == 0 || nodes != 0,
        c::MPOL_LOCAL => given == 0 && flags & both == 0,
        c::MPOL_BIND | c::MPOL_INTERLEAVE | PREFERRED_MANY | WEIGHTED_INTERLEAVE => nodes != 0,
        _ => false,
    };
    let balancing = flags & NUMA_BALANCING != 0 && !matches!(plain, c::MPOL_BIND | PREFERRED_MANY);
    if !valid || balancing {
        return Err(Errno::EINVAL);
    }
    let mode = if plain == c::MPOL_PREFERRED && nodes == 0 { c::MPOL_LOCAL.cast_unsigned() } else { mode };
    Ok(Policy { mode, nodes })
}

fn get(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [mode_at, mask_at, bits, addr, flags, _] = a;
    let flags = uint(flags).cast_signed();
    let has = |flag: i32| flags & flag != 0;
    if flags & !(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED) != 0 || mask_at != 0 && bits == 0 {
        return Err(Errno::EINVAL);
    }
    let (mode, nodes) = if has(MPOL_F_MEMS_ALLOWED) {
        if has(MPOL_F_NODE | MPOL_F_ADDR) {
            return Err(Errno::EINVAL);
        }
        (0, NODES)
    } else {
        let policy = if has(MPOL_F_ADDR) {
            t.mm.policy_at(addr)?
        } else if addr != 0 {
            return Err(Errno::EINVAL);
        } else {
            t.task.lock().mempolicy
        };
        let interleaves = matches!((policy.mode & !MODE_FLAGS).cast_signed(), c::MPOL_INTERLEAVE | WEIGHTED_INTERLEAVE);
        match (has(MPOL_F_NODE), has(MPOL_F_ADDR)) {
            // The node that the page is on, or the next is taken from.
            (true, true) => (0, policy.nodes),
            (true, false) if interleaves => (0, policy.nodes),
            (true, false) => return Err(Errno::EINVAL),
            _ => (policy.mode & !NUMA_BALANCING, policy.nodes),
        }
    };
    if mode_at != 0 {
        t.mm.write_obj(mode_at, &mode)?;
    }
    if mask_at != 0 {
        if bits > MAX_BITS {
            return Err(Errno::EINVAL);
        }
        for i in 0..bits.div_ceil(64) {
            let word = if i == 0 { nodes } else { 0 };
            t.mm.write_obj(mask_at.checked_add(i * 8).ok_or(Errno::EFAULT)?, &word)?;
        }
    }
    Ok(0)
}

/// Whole pages of a range; `None` when there are none.
fn pages(addr: u64, len: u64) -> SysResult<Option<std::ops::Range<u64>>> {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = len.checked_add(PAGE_SIZE - 1).map(usermem::page_down).ok_or(Errno::EINVAL)?;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    Ok((end > addr).then_some(addr..end))
}

fn mbind(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, len, mode, nodes, bits, flags] = a;
    let flags = uint(flags);
    let known = MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let policy = policy(t, uint(mode), nodes, bits)?;
    if flags & MPOL_MF_MOVE_ALL != 0 && !t.credentials().has_capability(auth::Capability::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    match pages(addr, len)? {
        Some(range) => t.mm.set_policy(range, policy).map(|()| 0),
        None => Ok(0),
    }
}

fn home_node(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, len, node, flags, ..] = a;
    if flags != 0 || node != 0 {
        return Err(Errno::EINVAL);
    }
    let Some(range) = pages(addr, len)? else { return Ok(0) };
    let plain = (t.mm.policy_at(range.start).map_err(|_| Errno::ENOENT)?.mode & !MODE_FLAGS).cast_signed();
    // Only these have one, and there is but one to have.
    if matches!(plain, c::MPOL_BIND | PREFERRED_MANY) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
}

fn migrate(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [pid, bits, from, to, ..] = a;
    mask(t, from, bits)?;
    let to = mask(t, to, bits)?;
    if int(pid) != 0 && t.find_task(int(pid)).is_none() {
        return Err(Errno::ESRCH);
    }
    if to & NODES == 0 {
        return Err(Errno::EINVAL);
    }
    // All is on the one node already.
    Ok(0)
}

fn move_pages(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [pid, count, pages, nodes, status, flags] = a;
    let known = MPOL_MF_MOVE | MPOL_MF_MOVE_ALL;
    if uint(flags) & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let mm = match int(pid) {
        0 => t.mm.clone(),
        pid => t.find_task(pid).and_then(|task| task.lock().mm.clone()).ok_or(Errno::ESRCH)?,
    };
    for i in 0..count {
        if t.task.signal_pending() {
            return Err(Errno::ERESTARTNOINTR);
        }
        let at = |base: u64, size: u64| i.checked_mul(size).and_then(|offset| base.checked_add(offset)).ok_or(Errno::EFAULT);
        let page: u64 = t.mm.read_obj(at(pages, 8)?)?;
        let mut present = [0u8];
        let found = mm.mincore(usermem::page_down(page), &mut present).map_err(|_| Errno::EFAULT);
        let mut result = match found {
            Ok(()) if present == [0] => -Errno::ENOENT.raw(),
            Ok(()) => 0,
            Err(errno) => -errno.raw(),
        };
        if nodes != 0 {
            let node: i32 = t.mm.read_obj(at(nodes, 4)?)?;
            if node != 0 {
                return Err(Errno::ENODEV);
            }
            result = result.min(0);
        }
        t.mm.write_obj(at(status, 4)?, &result)?;
    }
    Ok(0)
}
