//! Timers by CPU time. The host tells no time at which a process will have used so much: the timers' thread looks again when that could have
//! happened at the earliest, and not at all while the process sleeps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use sync::{Mutex, Parker, monotonic_ns};
use timer::{Expire, Timer, Timers};

use crate::current::Current;
use crate::group::Group;
use crate::tasks::Task;

/// Nanoseconds between two looks at least.
const SHORTEST: u64 = 500_000;

/// A clock that counts CPU time.
#[derive(Clone)]
pub enum CpuClock {
    /// Time in programs of a process.
    User(Weak<Group>),
    /// All time of a process.
    Process(Weak<Group>),
    /// All time of a thread.
    Thread(Weak<Task>),
}

impl CpuClock {
    /// Its time now, in nanoseconds; `None` when whose time it counts is gone.
    #[must_use]
    pub fn now(&self) -> Option<u64> {
        match self {
            Self::User(group) => Some(group.upgrade()?.used().user),
            Self::Process(group) => {
                let used = group.upgrade()?.used();
                Some(used.user.saturating_add(used.system))
            }
            Self::Thread(task) => Some(task.upgrade()?.cpu_time()),
        }
    }

    /// The process whose tasks make it go on.
    #[must_use]
    pub fn process(&self) -> Option<Arc<Group>> {
        match self {
            Self::User(group) | Self::Process(group) => group.upgrade(),
            Self::Thread(task) => Some(task.upgrade()?.group.clone()),
        }
    }
}

/// Who waits for CPU time.
pub(crate) trait CpuWaiter: Send + Sync {
    /// The clock, and the time on it that is waited for; `None` when there is none.
    fn wanted(&self) -> Option<(CpuClock, u64)>;

    /// That time has come.
    fn reached(&self, now: u64);
}

/// Those who wait for CPU time of a process.
pub(crate) struct CpuTimers {
    group: Weak<Group>,
    own: Weak<Self>,
    timer: Timer,
    waiters: Mutex<Vec<Weak<dyn CpuWaiter>>>,
    /// Nobody looks: the process slept last time. The next of its tasks to wake has to start it again.
    asleep: AtomicBool,
    /// CPU time at the last look.
    seen: AtomicU64,
}

impl CpuTimers {
    pub fn new(group: &Arc<Group>, timers: &Arc<Timers>) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            group: Arc::downgrade(group),
            own: own.clone(),
            timer: Timer::new(timers),
            waiters: Mutex::default(),
            asleep: AtomicBool::new(false),
            seen: AtomicU64::new(0),
        })
    }

    /// Adds somebody, who is there for as long as it lives, and looks at once.
    pub fn add(&self, waiter: Weak<dyn CpuWaiter>) {
        let mut waiters = self.waiters.lock();
        waiters.retain(|waiter| waiter.strong_count() > 0);
        if !waiters.iter().any(|known| known.ptr_eq(&waiter)) {
            waiters.push(waiter);
        }
        drop(waiters);
        self.look_in(0);
    }

    fn look_in(&self, ns: u64) {
        let own: Weak<dyn Expire> = self.own.clone();
        self.timer.set(monotonic_ns().saturating_add(ns), own);
    }

    /// A task of the process has woken.
    pub fn woken(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            self.look_in(SHORTEST);
        }
    }

    /// Tells those whose time has come; returns the shortest time that others wait for.
    fn tell(&self) -> Option<u64> {
        let waiters: Vec<_> = self.waiters.lock().iter().filter_map(Weak::upgrade).collect();
        let mut shortest = None;
        for waiter in waiters {
            // Who is told may want to hear of a later time.
            for _ in 0..2 {
                let Some((clock, at)) = waiter.wanted() else { break };
                let Some(now) = clock.now() else { break };
                if now < at {
                    let left = at - now;
                    shortest = Some(shortest.map_or(left, |shortest: u64| shortest.min(left)));
                    break;
                }
                waiter.reached(now);
            }
        }
        shortest
    }
}

/// A task that sleeps until a clock shows a certain time.
struct Sleeper {
    clock: CpuClock,
    at: u64,
    parker: Arc<Parker>,
}

impl CpuWaiter for Sleeper {
    fn wanted(&self) -> Option<(CpuClock, u64)> {
        Some((self.clock.clone(), self.at))
    }

    fn reached(&self, _: u64) {
        self.parker.unpark();
    }
}

impl Current {
    /// Sleeps until `clock` shows `at`.
    ///
    /// # Errors
    /// `EINVAL` when whose time it counts is gone; `ERESTARTSYS` when a signal comes.
    pub fn sleep_by(&self, clock: &CpuClock, at: u64) -> SysResult<()> {
        let sleeper = Arc::new(Sleeper { clock: clock.clone(), at, parker: self.task.parker.clone() });
        let waiter: Weak<dyn CpuWaiter> = Arc::downgrade(&(sleeper.clone() as Arc<dyn CpuWaiter>));
        let process = clock.process().ok_or(Errno::EINVAL)?;
        process.use_timers(&self.task.kernel.timers).cpu.add(waiter);
        drop(process);
        while clock.now().ok_or(Errno::EINVAL)? < at {
            self.sleep(None)?;
        }
        drop(sleeper);
        Ok(())
    }
}

impl Expire for CpuTimers {
    fn expired(&self) {
        let Some(left) = self.tell() else { return };
        let Some(group) = self.group.upgrade() else { return };
        let used = group.used();
        let now = used.user.saturating_add(used.system);
        let idle = self.seen.swap(now, Ordering::Relaxed) == now;
        let running = || group.threads().iter().filter(|task| !task.sleeping.load(Ordering::SeqCst)).count();
        if idle && running() == 0 {
            self.asleep.store(true, Ordering::SeqCst);
            // Who woke before has not seen that.
            if running() == 0 || !self.asleep.swap(false, Ordering::SeqCst) {
                return;
            }
        }
        let threads = u64::try_from(running().max(1)).unwrap_or(1);
        self.look_in((left / threads).max(SHORTEST));
    }
}
