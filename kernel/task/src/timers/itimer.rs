//! setitimer(2), alarm(2), and RLIMIT_CPU.

use std::sync::{Arc, Weak};

use abi::c;
use abi::signal::SigInfo;
use sync::{Mutex, monotonic_ns};
use timer::{Expire, Setting, Timer, Timers};

use super::cpu::{CpuClock, CpuTimers, CpuWaiter};
use crate::current::Current;
use crate::group::Group;
use crate::kernel::Kernel;

/// The timers of setitimer(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Real,
    Virtual,
    Prof,
}

const SECOND: u64 = 1_000_000_000;

/// The interval timers of a process.
pub(crate) struct IntervalTimers {
    group: Weak<Group>,
    own: Weak<Self>,
    timer: Timer,
    real: Mutex<Setting>,
    user: Arc<CpuTimer>,
    prof: Arc<CpuTimer>,
    limit: Arc<CpuLimit>,
    cpu: Weak<CpuTimers>,
}

impl IntervalTimers {
    pub fn new(group: &Arc<Group>, timers: &Arc<Timers>, cpu: &Arc<CpuTimers>) -> Arc<Self> {
        let weak = Arc::downgrade(group);
        let timer = |clock, signo| Arc::new(CpuTimer { group: Arc::downgrade(group), clock, signo, setting: Mutex::default() });
        Arc::new_cyclic(|own| Self {
            own: own.clone(),
            timer: Timer::new(timers),
            real: Mutex::default(),
            user: timer(CpuClock::User(weak.clone()), c::SIGVTALRM),
            prof: timer(CpuClock::Process(weak.clone()), c::SIGPROF),
            limit: Arc::new(CpuLimit { group: weak.clone(), next: Mutex::new(None) }),
            cpu: Arc::downgrade(cpu),
            group: weak,
        })
    }

    fn arm(&self, setting: &Setting) {
        if setting.at == 0 {
            self.timer.clear();
        } else {
            let own: Weak<dyn Expire> = self.own.clone();
            self.timer.set(setting.at, own);
        }
    }

    /// What is left until a timer goes off, and its interval.
    pub fn get(&self, which: Which) -> (u64, u64) {
        match which {
            Which::Real => {
                let setting = *self.real.lock();
                (setting.remaining(monotonic_ns()), setting.interval)
            }
            Which::Virtual => self.user.get(),
            Which::Prof => self.prof.get(),
        }
    }

    /// Sets a timer; returns what it was set to.
    pub fn set(&self, which: Which, value: u64, interval: u64) -> (u64, u64) {
        let timer = match which {
            Which::Real => {
                let mut setting = self.real.lock();
                let now = monotonic_ns();
                let old = (setting.remaining(now), setting.interval);
                *setting = Setting::new(value, interval, false, now);
                // An interval without a first time is kept, and never used.
                setting.interval = interval;
                self.arm(&setting);
                return old;
            }
            Which::Virtual => &self.user,
            Which::Prof => &self.prof,
        };
        let old = timer.set(value, interval);
        if value != 0
            && let Some(cpu) = self.cpu.upgrade()
        {
            let waiter: Weak<dyn CpuWaiter> = Arc::downgrade(&(timer.clone() as Arc<dyn CpuWaiter>));
            cpu.add(waiter);
        }
        old
    }

    /// `SIGALRM` has been taken: an interval begins anew. Not earlier, so that nobody is kept busy by signals that are never taken.
    pub fn alarm_taken(&self) {
        let mut setting = self.real.lock();
        if setting.at != 0 && setting.interval != 0 && setting.at <= monotonic_ns() {
            let now = monotonic_ns();
            setting.expire(now);
            self.arm(&setting);
        }
    }

    /// RLIMIT_CPU has been set.
    pub fn watch_limit(&self) {
        *self.limit.next.lock() = None;
        if let Some(cpu) = self.cpu.upgrade() {
            let waiter: Weak<dyn CpuWaiter> = Arc::downgrade(&(self.limit.clone() as Arc<dyn CpuWaiter>));
            cpu.add(waiter);
        }
    }
}

impl Expire for IntervalTimers {
    fn expired(&self) {
        let mut setting = self.real.lock();
        if setting.at == 0 {
            return;
        }
        if monotonic_ns() < setting.at {
            self.arm(&setting);
            return;
        }
        if setting.interval == 0 {
            setting.at = 0;
        }
        drop(setting);
        if let Some(group) = self.group.upgrade() {
            group.signal(SigInfo::kernel(c::SIGALRM));
        }
    }
}

impl Current {
    /// What is left until a timer of setitimer(2) goes off, and its interval, in nanoseconds.
    #[must_use]
    pub fn interval_timer(&self, which: Which) -> (u64, u64) {
        self.task.group.timers.get().map_or((0, 0), |timers| timers.interval.get(which))
    }

    /// Sets one; returns what it was set to.
    pub fn set_interval_timer(&self, which: Which, value: u64, interval: u64) -> (u64, u64) {
        self.task.group.use_timers(&self.task.kernel.timers).interval.set(which, value, interval)
    }
}

impl Kernel {
    /// A process's limit of CPU time has been set.
    pub fn watch_cpu_limit(&self, group: &Arc<Group>) {
        if group.limit(c::RLIMIT_CPU) != u64::MAX || group.timers.get().is_some() {
            group.use_timers(&self.timers).interval.watch_limit();
        }
    }
}

/// ITIMER_VIRTUAL or ITIMER_PROF.
struct CpuTimer {
    group: Weak<Group>,
    clock: CpuClock,
    signo: i32,
    setting: Mutex<Setting>,
}

impl CpuTimer {
    fn get(&self) -> (u64, u64) {
        let now = self.clock.now().unwrap_or(0);
        let setting = self.setting.lock();
        (setting.remaining(now), setting.interval)
    }

    fn set(&self, value: u64, interval: u64) -> (u64, u64) {
        let now = self.clock.now().unwrap_or(0);
        let mut setting = self.setting.lock();
        let old = (setting.remaining(now), setting.interval);
        *setting = Setting { interval, ..Setting::new(value, interval, false, now) };
        old
    }
}

impl CpuWaiter for CpuTimer {
    fn wanted(&self) -> Option<(CpuClock, u64)> {
        let at = self.setting.lock().at;
        (at != 0).then(|| (self.clock.clone(), at))
    }

    fn reached(&self, now: u64) {
        if self.setting.lock().expire(now) > 0
            && let Some(group) = self.group.upgrade()
        {
            group.signal(SigInfo::kernel(self.signo));
        }
    }
}

/// RLIMIT_CPU: a signal at the soft limit and each second from then on, the end at the hard one.
struct CpuLimit {
    group: Weak<Group>,
    next: Mutex<Option<u64>>,
}

impl CpuWaiter for CpuLimit {
    fn wanted(&self) -> Option<(CpuClock, u64)> {
        let group = self.group.upgrade()?;
        let soft = group.limit(c::RLIMIT_CPU);
        let hard = group.limits.lock().get(c::RLIMIT_CPU as usize).map_or(u64::MAX, |limit| limit.max);
        let at = self.next.lock().unwrap_or_else(|| soft.saturating_mul(SECOND)).min(hard.saturating_mul(SECOND));
        (at != u64::MAX).then(|| (CpuClock::Process(self.group.clone()), at))
    }

    fn reached(&self, now: u64) {
        let Some(group) = self.group.upgrade() else { return };
        let hard = group.limits.lock().get(c::RLIMIT_CPU as usize).map_or(u64::MAX, |limit| limit.max);
        if now >= hard.saturating_mul(SECOND) {
            group.end(c::SIGKILL);
            return;
        }
        *self.next.lock() = Some(now.saturating_add(SECOND));
        group.signal(SigInfo::kernel(c::SIGXCPU));
    }
}
