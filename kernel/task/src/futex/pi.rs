//! Locks whose owner the kernel knows: FUTEX_LOCK_PI and its kin.
//!
//! The word holds the owner's thread number. The first who has to wait tells the kernel of the owner; a lock stands in [`PiTable`] as long as
//! somebody waits for it, and is handed from owner to waiter in order of arrival. Host threads are all scheduled alike, so that there is no
//! priority to inherit; what remains is that a lock is never left without an owner: whose owner ends is handed on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use mm::MemoryManager;
use sync::MonotonicNs;
use usermem::{FutexKey, UserMemoryExt};

use super::wait::FutexWord;
use super::{FutexTable, IN_PI_TABLE, Kind, WAITING, Waiter, Woken, index, unpark};
use crate::current::Current;
use crate::tasks::Task;

/// The word's parts (`linux/futex.h`).
pub(super) const WAITERS: u32 = 0x8000_0000;
pub(super) const OWNER_DIED: u32 = 0x4000_0000;
pub(super) const TID_MASK: u32 = 0x3fff_ffff;

/// Locks followed to find a deadlock.
const MAX_CHAIN: usize = 1024;

/// Who waits for a lock, and where the word is for them.
#[derive(Clone)]
pub(super) struct PiWaiter {
    pub task: Arc<Task>,
    pub mm: Arc<MemoryManager>,
    pub addr: u64,
    pub waiter: Arc<Waiter>,
}

struct Lock {
    owner: Arc<Task>,
    /// Never empty while the lock stands in the table.
    waiters: VecDeque<PiWaiter>,
}

/// Contended locks.
#[derive(Default)]
pub(super) struct PiTable {
    locks: BTreeMap<FutexKey, Lock>,
    /// What each waiting task waits for, by its number.
    blocked: BTreeMap<i32, FutexKey>,
}

/// The number that a task's locks hold: its own in its pid namespace.
fn futex_tid(task: &Task) -> u32 {
    task.own_tid().cast_unsigned() & TID_MASK
}

impl PiTable {
    /// Takes out a waiter that gives up.
    pub(super) fn remove(&mut self, waiter: &Arc<Waiter>) {
        let Some(key) = self.blocked.remove(&waiter.tid) else { return };
        let Some(lock) = self.locks.get_mut(&key) else { return };
        lock.waiters.retain(|other| !Arc::ptr_eq(&other.waiter, waiter));
        if lock.waiters.is_empty() {
            self.locks.remove(&key);
        }
    }

    /// Whether waiting for a lock of `owner`'s would be waiting for oneself.
    fn deadlocks(&self, task: &Task, owner: &Arc<Task>) -> bool {
        let mut owner = owner;
        for _ in 0..MAX_CHAIN {
            if owner.tid() == task.tid() {
                return true;
            }
            let Some(lock) = self.blocked.get(&owner.tid()).and_then(|key| self.locks.get(key)) else { return false };
            owner = &lock.owner;
        }
        false
    }

    /// Adds a waiter for a lock of `owner`'s.
    ///
    /// # Errors
    /// `EDEADLK`; `ESRCH` when the owner has ended.
    fn add(&mut self, key: FutexKey, owner: &Arc<Task>, waiter: PiWaiter) -> SysResult<()> {
        if self.deadlocks(&waiter.task, owner) {
            return Err(Errno::EDEADLK);
        }
        if owner.locks_given_up.load(Ordering::SeqCst) {
            return Err(Errno::ESRCH);
        }
        waiter.waiter.outcome.store(WAITING, Ordering::SeqCst);
        waiter.waiter.place.store(IN_PI_TABLE, Ordering::SeqCst);
        self.blocked.insert(waiter.task.tid(), key);
        let lock = self.locks.entry(key).or_insert_with(|| Lock { owner: owner.clone(), waiters: VecDeque::new() });
        lock.waiters.push_back(waiter);
        Ok(())
    }

    /// Makes the first waiter the owner; `word` computes the new word from its number and the old one. Says whether there was a waiter.
    ///
    /// # Errors
    /// What `word` says: nothing has happened then.
    fn hand_over(
        &mut self,
        key: FutexKey,
        woken: &mut Woken,
        word: impl FnOnce(&PiWaiter, u32) -> SysResult<()>,
    ) -> SysResult<bool> {
        let Some(lock) = self.locks.get_mut(&key) else { return Ok(false) };
        let Some(next) = lock.waiters.front() else { return Ok(false) };
        word(next, futex_tid(&next.task) | WAITERS)?;
        let Some(next) = lock.waiters.pop_front() else { return Ok(false) };
        lock.owner = next.task.clone();
        if lock.waiters.is_empty() {
            self.locks.remove(&key);
        }
        self.blocked.remove(&next.task.tid());
        next.waiter.finish();
        woken.push(next.waiter);
        Ok(true)
    }
}

impl FutexTable {
    /// Whether somebody waits for a lock there.
    pub(super) fn is_pi(&self, key: &FutexKey) -> bool {
        self.pi_used.load(Ordering::Relaxed) && self.pi.lock().locks.contains_key(key)
    }

    /// What a task owns when it ends, or runs another program, goes to those who wait for it.
    pub(crate) fn give_up_locks(&self, task: &Arc<Task>, for_good: bool) {
        let mut woken = Woken::new();
        let mut table = self.pi.lock();
        if for_good {
            task.locks_given_up.store(true, Ordering::SeqCst);
        }
        let owned: Vec<_> = table.locks.iter().filter(|(_, lock)| lock.owner.tid() == task.tid()).map(|(key, _)| *key).collect();
        for key in owned {
            let _ = table.hand_over(key, &mut woken, |next, new| {
                let mut seen = next.mm.load_u32(next.addr).unwrap_or(0);
                // A word that can't be written any more is its owner's to find out. One that others keep changing isn't a lock.
                for _ in 0..64 {
                    match next.mm.compare_exchange_u32(next.addr, seen, new | OWNER_DIED) {
                        Ok(now) if now != seen => seen = now,
                        _ => break,
                    }
                }
                Ok(())
            });
        }
        drop(table);
        unpark(&woken);
    }

    /// FUTEX_CMP_REQUEUE_PI: gives the first waiter the lock `to` if it is free, and has up to `limit` others wait for it. `check` runs under
    /// the locks. Returns how many were woken or moved.
    ///
    /// # Errors
    /// What `check` says; `EINVAL` when somebody waits there for something else; `EAGAIN`, `EFAULT`, `ESRCH`, `EDEADLK` from the lock.
    fn requeue_pi(
        &self,
        from: FutexKey,
        to: FutexKey,
        limit: usize,
        owner: Option<&Arc<Task>>,
        check: impl FnOnce() -> SysResult<u32>,
        exchange: impl Fn(u32, u32) -> SysResult<u32>,
    ) -> SysResult<usize> {
        let mut woken = Woken::new();
        self.pi_used.store(true, Ordering::Relaxed);
        let mut table = self.pi.lock();
        let mut list = self.bucket(index(&from));
        let mut seen = check()?;
        if seen & TID_MASK != owner.map_or(0, |owner| futex_tid(owner)) {
            return Err(Errno::EAGAIN);
        }
        if table.locks.get(&to).is_some_and(|lock| owner.is_none_or(|owner| lock.owner.tid() != owner.tid())) {
            return Err(Errno::EINVAL);
        }
        let mut owner = owner.cloned();
        let (mut at, mut done) = (0, 0);
        let mut result = Ok(());
        while done <= limit
            && let Some(entry) = list.get(at)
        {
            if entry.key != from {
                at += 1;
                continue;
            }
            let Kind::RequeuePi(target, waiter) = &entry.kind else {
                result = Err(Errno::EINVAL);
                break;
            };
            if *target != to {
                result = Err(Errno::EINVAL);
                break;
            }
            let waiter = (**waiter).clone();
            let step = match &owner {
                None => {
                    let new = futex_tid(&waiter.task) | WAITERS | seen & OWNER_DIED;
                    exchange(seen, new).and_then(|now| if now == seen { Ok(()) } else { Err(Errno::EAGAIN) }).map(|()| {
                        seen = new;
                        owner = Some(waiter.task.clone());
                        waiter.waiter.finish();
                        woken.push(waiter.waiter.clone());
                    })
                }
                Some(owner) => {
                    let marked = if seen & WAITERS != 0 { Ok(seen) } else { exchange(seen, seen | WAITERS) };
                    let marked = marked.and_then(|now| if now == seen { Ok(()) } else { Err(Errno::EAGAIN) });
                    marked.and_then(|()| {
                        seen |= WAITERS;
                        table.add(to, owner, waiter)
                    })
                }
            };
            if let Err(errno) = step {
                result = Err(errno);
                break;
            }
            list.remove(at);
            done += 1;
        }
        drop(list);
        drop(table);
        unpark(&woken);
        result.map(|()| done)
    }
}

impl Current {
    /// The owner that a lock's word names; `None` when it is free.
    ///
    /// # Errors
    /// `ESRCH` when there is no such task.
    fn lock_owner(&self, word: u32) -> SysResult<Option<Arc<Task>>> {
        match word & TID_MASK {
            0 => Ok(None),
            tid => self.find_task(tid.cast_signed()).map(Some).ok_or(Errno::ESRCH),
        }
    }

    /// FUTEX_LOCK_PI, or FUTEX_TRYLOCK_PI if `try_only`: takes the lock, waiting for it if need be.
    ///
    /// # Errors
    /// `EDEADLK`, `ESRCH` when the owner is gone, `EINVAL` when the word is not what the kernel knows of it, `EAGAIN` when it is another's and
    /// `try_only`, `ETIMEDOUT`, `EFAULT`, `ERESTARTNOINTR`.
    pub fn futex_lock_pi(&mut self, word: FutexWord, try_only: bool, deadline: Option<MonotonicNs>) -> SysResult<()> {
        let key = self.futex_key(word)?;
        let (kernel, own) = (&self.task.kernel, futex_tid(&self.task));
        kernel.futexes.pi_used.store(true, Ordering::Relaxed);
        loop {
            let seen = self.mm.load_u32(word.addr)?;
            if seen & TID_MASK == own {
                return Err(Errno::EDEADLK);
            }
            let owner = self.lock_owner(seen);
            let mut table = kernel.futexes.pi.lock();
            // What was looked up without the lock must still hold.
            if self.mm.load_u32(word.addr)? == seen {
                let new = match (table.locks.get(&key), &owner) {
                    (None, Ok(None)) => own | seen & OWNER_DIED,
                    (Some(lock), Ok(Some(owner))) if lock.owner.tid() == owner.tid() => seen | WAITERS,
                    (None, Ok(Some(_))) => seen | WAITERS,
                    (None, Err(errno)) => return Err(*errno),
                    _ => return Err(Errno::EINVAL),
                };
                if self.mm.compare_exchange_u32(word.addr, seen, new)? == seen {
                    let Ok(Some(owner)) = owner else { return Ok(()) };
                    if try_only {
                        return Err(Errno::EAGAIN);
                    }
                    let (task, mm) = (self.task.clone(), self.mm.clone());
                    table.add(key, &owner, PiWaiter { task, mm, addr: word.addr, waiter: self.waiter.clone() })?;
                    break;
                }
            }
            drop(table);
            if self.task.signal_pending() {
                return Err(Errno::ERESTARTNOINTR);
            }
        }
        let result = self.futex_sleep(deadline, || self.waiter.woken());
        match result {
            Err(errno) if kernel.futexes.take_back(&self.waiter).is_some() => {
                Err(if errno == Errno::EINTR { Errno::ERESTARTNOINTR } else { errno })
            }
            _ => Ok(()),
        }
    }

    /// FUTEX_UNLOCK_PI: gives the lock to the first who waits for it, or makes it free.
    ///
    /// # Errors
    /// `EPERM` when it isn't one's own, `EAGAIN` when the word changes meanwhile, `EINVAL`, `EFAULT`.
    pub fn futex_unlock_pi(&mut self, word: FutexWord) -> SysResult<()> {
        let key = self.futex_key(word)?;
        let mut woken = Woken::new();
        let mut table = self.task.kernel.futexes.pi.lock();
        let seen = self.mm.load_u32(word.addr)?;
        if seen & TID_MASK != futex_tid(&self.task) {
            return Err(Errno::EPERM);
        }
        if table.locks.get(&key).is_some_and(|lock| lock.owner.tid() != self.task.tid()) {
            return Err(Errno::EINVAL);
        }
        let exchange = |new: u32| match self.mm.compare_exchange_u32(word.addr, seen, new)? {
            now if now == seen => Ok(()),
            _ => Err(Errno::EAGAIN),
        };
        if !table.hand_over(key, &mut woken, |_, new| exchange(new))? {
            exchange(0)?;
        }
        drop(table);
        unpark(&woken);
        Ok(())
    }

    /// FUTEX_CMP_REQUEUE_PI: see [`FutexTable::requeue_pi`].
    ///
    /// # Errors
    /// `EAGAIN` when the word isn't `value`; `EINVAL`, `ESRCH`, `EDEADLK`, `EFAULT`.
    pub fn futex_requeue_pi(&mut self, word: FutexWord, lock: FutexWord, limit: usize, value: u32) -> SysResult<usize> {
        let (from, to) = (self.futex_key(word)?, self.futex_key(lock)?);
        if from == to {
            return Err(Errno::EINVAL);
        }
        let owner = self.lock_owner(self.mm.load_u32(lock.addr)?)?;
        let check = || if self.mm.load_u32(word.addr)? == value { self.mm.load_u32(lock.addr) } else { Err(Errno::EAGAIN) };
        let exchange = |old, new| self.mm.compare_exchange_u32(lock.addr, old, new);
        self.task.kernel.futexes.requeue_pi(from, to, limit, owner.as_ref(), check, exchange)
    }
}
