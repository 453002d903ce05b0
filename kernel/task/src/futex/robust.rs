//! Locks of tasks that end (`Documentation/locking/robust-futex-ABI`): the list that a task has registered is walked, and each lock on it that
//! is the task's is marked and its waiters told.

use std::sync::Arc;

use abi::SysResult;
use mm::MemoryManager;
use usermem::{UserMemory, UserMemoryExt};

use super::pi::{OWNER_DIED, TID_MASK, WAITERS};
use crate::current::Current;
use crate::tasks::Task;

/// Entries of a list at most (`ROBUST_LIST_LIMIT`): it may be circular.
const LIMIT: usize = 2048;
/// Attempts to change a word.
const MAX_TRIES: usize = 1024;

/// A pointer of the list: address of the entry, and whether the lock knows its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link {
    addr: u64,
    pi: bool,
}

fn link(mm: &MemoryManager, addr: u64) -> SysResult<Link> {
    let pointer: u64 = mm.read_obj(addr)?;
    Ok(Link { addr: pointer & !1, pi: pointer & 1 != 0 })
}

/// Marks a lock whose owner has ended. `pending`: the task was about to take or release it.
fn owner_died(task: &Task, mm: &MemoryManager, addr: u64, pi: bool, pending: bool) -> SysResult<()> {
    let wake = || {
        if let Ok(key) = mm.futex_key(addr, false) {
            let _ = task.kernel.futexes.wake(key, 1, u32::MAX);
        }
    };
    let mut seen = mm.load_u32(addr)?;
    // Others that keep changing a word that is this task's alone use no lock: nothing here may wait for a guest to be fair.
    for _ in 0..MAX_TRIES {
        // Released, but whom to wake had not been told yet.
        if pending && !pi && seen == 0 {
            wake();
            return Ok(());
        }
        if seen & TID_MASK != task.own_tid().cast_unsigned() & TID_MASK {
            return Ok(());
        }
        match mm.compare_exchange_u32(addr, seen, seen & WAITERS | OWNER_DIED)? {
            now if now == seen => break,
            now => seen = now,
        }
    }
    if !pi && seen & WAITERS != 0 {
        wake();
    }
    Ok(())
}

/// Walks the list whose head is at `head`.
fn walk(task: &Task, mm: &MemoryManager, head: u64) -> SysResult<()> {
    let mut entry = link(mm, head)?;
    let offset: u64 = mm.read_obj(head.wrapping_add(8))?;
    let pending = link(mm, head.wrapping_add(16))?;
    for _ in 0..LIMIT {
        if entry.addr == head {
            break;
        }
        // The next before the lock is anybody else's.
        let next = link(mm, entry.addr);
        if entry.addr != pending.addr {
            owner_died(task, mm, entry.addr.wrapping_add(offset), entry.pi, false)?;
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => break,
        }
    }
    if pending.addr != 0 {
        owner_died(task, mm, pending.addr.wrapping_add(offset), pending.pi, true)?;
    }
    Ok(())
}

impl Current {
    /// Gives up what the task holds in its memory, at its end (`for_good`) or before it runs another program.
    pub(crate) fn release_futexes(&self, for_good: bool) {
        let (head, clear) = {
            let mut shared = self.task.lock();
            (std::mem::take(&mut shared.robust_list).0, std::mem::take(&mut shared.clear_child_tid))
        };
        let kernel = &self.task.kernel;
        if head != 0 {
            // A list that leads nowhere ends there.
            let _ = walk(&self.task, &self.mm, head);
        }
        kernel.futexes.give_up_locks(&self.task, for_good);
        // Who shares the memory may wait for the end of this thread (CLONE_CHILD_CLEARTID): `self` and its task hold it once each.
        let shared = Arc::strong_count(&self.mm) > 2;
        if clear != 0 && shared && self.mm.write_obj(clear, &0u32).is_ok() {
            for private in [false, true] {
                if let Ok(key) = self.mm.futex_key(clear, private) {
                    let _ = kernel.futexes.wake(key, 1, u32::MAX);
                }
            }
        }
    }
}
