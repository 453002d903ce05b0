//! futex(2).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, SysResult};
use sync::{MonotonicNs, Mutex, ParkResult, Parker};
use usermem::{FutexKey, UserMemoryExt};

use crate::current::Current;

struct Waiter {
    parker: Arc<Parker>,
    woken: AtomicBool,
    bitset: u32,
}

/// Those who wait, by key.
#[derive(Default)]
pub struct FutexTable(Mutex<HashMap<FutexKey, Vec<Arc<Waiter>>>>);

impl FutexTable {
    /// Wakes up to `count` waiters whose bits meet `bitset`; returns how many.
    pub fn wake(&self, key: FutexKey, count: usize, bitset: u32) -> usize {
        let mut table = self.0.lock();
        let Some(waiters) = table.get_mut(&key) else { return 0 };
        let mut woken = Vec::new();
        waiters.retain(|waiter| {
            let chosen = woken.len() < count && waiter.bitset & bitset != 0;
            if chosen {
                woken.push(waiter.clone());
            }
            !chosen
        });
        if waiters.is_empty() {
            table.remove(&key);
        }
        drop(table);
        for waiter in &woken {
            waiter.woken.store(true, Ordering::SeqCst);
            waiter.parker.unpark();
        }
        woken.len()
    }

    /// Wakes up to `count`, moves up to `limit` others to another key; returns how many were woken or moved. `check` runs under the lock.
    ///
    /// # Errors
    /// What `check` says.
    pub fn requeue(
        &self,
        from: FutexKey,
        to: FutexKey,
        count: usize,
        limit: usize,
        check: impl FnOnce() -> SysResult<()>,
    ) -> SysResult<usize> {
        let mut table = self.0.lock();
        check()?;
        let Some(mut waiters) = table.remove(&from) else { return Ok(0) };
        let rest = waiters.split_off(count.min(waiters.len()));
        let (moved, kept) = rest.split_at(limit.min(rest.len()));
        let done = waiters.len() + moved.len();
        if !moved.is_empty() {
            table.entry(to).or_default().extend_from_slice(moved);
        }
        if !kept.is_empty() {
            table.entry(from).or_default().extend_from_slice(kept);
        }
        drop(table);
        for waiter in &waiters {
            waiter.woken.store(true, Ordering::SeqCst);
            waiter.parker.unpark();
        }
        Ok(done)
    }
}

impl Current {
    /// Waits while the word at `addr` is `value`.
    ///
    /// # Errors
    /// `EAGAIN` when it isn't, `ETIMEDOUT`, `EFAULT`, `ERESTARTSYS`.
    pub fn futex_wait(
        &mut self,
        addr: u64,
        private: bool,
        value: u32,
        bitset: u32,
        deadline: Option<MonotonicNs>,
    ) -> SysResult<()> {
        use usermem::UserMemory;
        let key = self.mm.futex_key(addr, private)?;
        let waiter = Arc::new(Waiter { parker: self.task.parker.clone(), woken: AtomicBool::new(false), bitset });
        let kernel = self.task.kernel.clone();
        {
            let mut table = kernel.futexes.0.lock();
            if self.mm.load_u32(addr)? != value {
                return Err(Errno::EAGAIN);
            }
            table.entry(key).or_default().push(waiter.clone());
        }
        self.task.sleeping.store(true, Ordering::Relaxed);
        let result = loop {
            if waiter.woken.load(Ordering::SeqCst) {
                break Ok(());
            }
            if self.task.signal_pending() {
                break Err(if deadline.is_some() { Errno::EINTR } else { Errno::ERESTARTSYS });
            }
            if self.task.parker.park(deadline) == ParkResult::TimedOut {
                break Err(Errno::ETIMEDOUT);
            }
        };
        self.task.sleeping.store(false, Ordering::Relaxed);
        if result.is_err() {
            // It may have been moved to another key.
            let mut table = kernel.futexes.0.lock();
            if waiter.woken.load(Ordering::SeqCst) {
                return Ok(());
            }
            table.retain(|_, waiters| {
                waiters.retain(|other| !Arc::ptr_eq(other, &waiter));
                !waiters.is_empty()
            });
        }
        result
    }
}
