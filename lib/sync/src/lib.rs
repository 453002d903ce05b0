//! How threads of the sentry wait for each other: a [`Parker`] per task and [`WaitQueue`]s on what can become ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::poll::PollEvents;
use smallvec::SmallVec;

mod park;
mod spin;

pub use park::{ParkResult, Parker, allowed_cpus, before_sleep, parks};
pub use parking_lot::{Mutex, MutexGuard, RwLock};
pub use spin::{count_spinner, crowded, spin, watch_load};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub type MonotonicNs = u64;

/// The host's monotonic clock.
#[must_use]
pub fn monotonic_ns() -> MonotonicNs {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    ts.tv_sec.cast_unsigned() * 1_000_000_000 + ts.tv_nsec.cast_unsigned()
}

/// The CPU-time clock of a thread of this process (clock_getcpuclockid(3)).
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The calling thread's.
    #[must_use]
    pub fn of_this_thread() -> Self {
        // SAFETY: reads a number. The clock of a thread: its number inverted, with CPUCLOCK_PERTHREAD and CPUCLOCK_SCHED below.
        Self(!unsafe { libc::gettid() } << 3 | 6)
    }

    /// Nanoseconds of CPU time; 0 when the thread is gone.
    #[must_use]
    pub fn ns(self) -> u64 {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to a local.
        unsafe { libc::clock_gettime(self.0, &raw mut ts) };
        ts.tv_sec.cast_unsigned() * 1_000_000_000 + ts.tv_nsec.cast_unsigned()
    }
}

/// Somebody who waits for readiness.
pub trait Wake: Send + Sync {
    /// Called when one of the awaited events happens, perhaps once more after the place in the queue was given up. Must not block.
    fn wake(&self, events: PollEvents);
}

impl Wake for Parker {
    fn wake(&self, _: PollEvents) {
        self.unpark();
    }
}

#[derive(Default)]
struct Waiters {
    next: u64,
    entries: BTreeMap<u64, (PollEvents, Arc<dyn Wake>)>,
}

#[derive(Default)]
struct Shared {
    count: AtomicUsize,
    waiters: Mutex<Waiters>,
}

/// Those who wait for one object, in order of arrival.
#[derive(Clone, Default)]
pub struct WaitQueue(Arc<Shared>);

/// A place in a [`WaitQueue`]; given up on drop.
pub struct WaitEntry {
    queue: WaitQueue,
    id: u64,
}

impl WaitQueue {
    /// Registers `waker` for `mask` (errors and hang-ups always count).
    #[must_use]
    pub fn register(&self, mask: PollEvents, waker: Arc<dyn Wake>) -> WaitEntry {
        let mut waiters = self.0.waiters.lock();
        let id = waiters.next;
        waiters.next += 1;
        waiters.entries.insert(id, (mask | PollEvents::ERR | PollEvents::HUP, waker));
        self.0.count.store(waiters.entries.len(), Ordering::SeqCst);
        WaitEntry { queue: self.clone(), id }
    }

    /// Wakes all that wait for one of `events`. One load when nobody waits.
    pub fn wake(&self, events: PollEvents) {
        if self.0.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        // Who is woken may run at once and give up its place: not while the lock is held.
        let concerned: SmallVec<[Arc<dyn Wake>; 4]> = {
            let waiters = self.0.waiters.lock();
            waiters.entries.values().filter(|(mask, _)| mask.intersects(events)).map(|(_, waker)| waker.clone()).collect()
        };
        concerned.iter().for_each(|waker| waker.wake(events));
    }
}

/// How often something has changed, and who waits for the next time: poll(2) says `POLLERR | POLLPRI` to who hasn't seen all. Clones are the
/// same.
#[derive(Clone, Default)]
pub struct Changes {
    count: Arc<AtomicU64>,
    queue: WaitQueue,
}

impl Changes {
    /// One more.
    pub fn note(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.queue.wake(PollEvents::PRI | PollEvents::ERR);
    }

    /// How many there have been.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Woken by changes.
    #[must_use]
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }
}

impl Drop for WaitEntry {
    fn drop(&mut self) {
        let mut waiters = self.queue.0.waiters.lock();
        waiters.entries.remove(&self.id);
        self.queue.0.count.store(waiters.entries.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_and_deadlines_pass() {
        let parker = Parker::default();
        parker.unpark();
        assert_eq!(parker.park(None), ParkResult::Unparked);
        assert_eq!(parker.park(Some(monotonic_ns())), ParkResult::TimedOut);
    }

    #[test]
    fn queues_wake_those_concerned() {
        let (queue, parker) = (WaitQueue::default(), Arc::new(Parker::default()));
        let entry = queue.register(PollEvents::IN, parker.clone());
        queue.wake(PollEvents::OUT);
        assert_eq!(parker.park(Some(0)), ParkResult::TimedOut);
        queue.wake(PollEvents::IN);
        assert_eq!(parker.park(None), ParkResult::Unparked);
        drop(entry);
        queue.wake(PollEvents::IN);
        assert_eq!(parker.park(Some(0)), ParkResult::TimedOut);
    }
}
