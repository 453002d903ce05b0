//! timer_create(2).

use std::sync::{Arc, Weak};

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use auth::{Charge, Counted};
use sync::{Mutex, monotonic_ns};
use timer::{Clock, Expire, Setting, Timer};

use super::cpu::{CpuClock, CpuWaiter};
use crate::current::Current;
use crate::group::Group;
use crate::pending::Source;
use crate::tasks::Task;

/// Nanoseconds after which a timer goes off again at the earliest while its signal is ignored.
const IGNORED_PAUSE: u64 = 4_000_000;

/// By which clock a timer goes.
#[derive(Clone)]
pub enum TimerClock {
    Steady(Clock),
    Cpu(CpuClock),
}

impl TimerClock {
    fn now(&self) -> u64 {
        match self {
            Self::Steady(clock) => clock.now(),
            Self::Cpu(clock) => clock.now().unwrap_or(0),
        }
    }
}

/// Whom a timer tells, and how (sigevent(3type)).
pub enum Notify {
    Nobody,
    /// `value`: what the signal says; the timer's number if nothing. `thread`: to it, not to the process.
    Signal {
        signo: i32,
        value: Option<u64>,
        thread: Option<Weak<Task>>,
    },
}

#[derive(Default)]
struct State {
    setting: Setting,
    /// Its signal waits to be taken: it isn't armed.
    queued: bool,
    /// How often it had gone off besides when its signal was taken last.
    overrun: i32,
}

/// A POSIX timer.
pub struct PosixTimer {
    id: i32,
    clock: TimerClock,
    notify: Notify,
    group: Weak<Group>,
    own: Weak<Self>,
    timer: Timer,
    state: Mutex<State>,
    _place: Charge,
}

impl PosixTimer {
    fn arm(&self, state: &State) {
        if state.setting.at == 0 || matches!(self.notify, Notify::Nobody) || state.queued {
            self.timer.clear();
            return;
        }
        match &self.clock {
            TimerClock::Steady(clock) => {
                let own: Weak<dyn Expire> = self.own.clone();
                self.timer.set(clock.to_monotonic(state.setting.at), own);
            }
            TimerClock::Cpu(clock) => {
                let process = clock.process();
                if let Some(timers) = process.as_ref().and_then(|process| process.timers.get()) {
                    let own: Weak<dyn CpuWaiter> = self.own.clone();
                    timers.cpu.add(own);
                }
            }
        }
    }

    /// Takes it back for good.
    pub(crate) fn disarm(&self) {
        self.state.lock().setting = Setting::default();
        self.timer.clear();
    }

    /// What is left of a setting, and its interval. Intervals that have passed unnoticed don't count.
    fn left(state: &State, now: u64) -> (u64, u64) {
        let mut setting = state.setting;
        if setting.interval != 0 {
            setting.expire(now);
        }
        (setting.remaining(now), setting.interval)
    }

    /// What is left until it goes off, and its interval.
    pub fn get(&self) -> (u64, u64) {
        let now = self.clock.now();
        let state = self.state.lock();
        let (left, interval) = Self::left(&state, now);
        // One that nobody hears of is over when its time is.
        let over = matches!(self.notify, Notify::Nobody) && interval == 0 && state.setting.at <= now;
        (if over { 0 } else { left }, interval)
    }

    /// Sets it; returns what it was set to.
    pub fn set(&self, value: u64, interval: u64, absolute: bool) -> (u64, u64) {
        let old = self.get();
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.setting = Setting::new(value, interval, absolute, now);
        state.overrun = 0;
        state.queued = false;
        self.arm(&state);
        old
    }

    /// How often it had gone off besides when its signal was taken last.
    pub fn overrun(&self) -> i32 {
        self.state.lock().overrun
    }

    /// Its time may have come.
    fn go_off(&self, now: u64) {
        let mut state = self.state.lock();
        if state.setting.at == 0 || state.queued {
            return;
        }
        if now < state.setting.at {
            self.arm(&state);
            return;
        }
        // One interval; those that pass until the signal is taken are its overrun.
        state.setting.at = match state.setting.interval {
            0 => 0,
            interval => state.setting.at.saturating_add(interval),
        };
        state.queued = true;
        drop(state);
        let Notify::Signal { signo, value, thread } = &self.notify else { return };
        let Some(group) = self.group.upgrade() else { return };
        let mut info = SigInfo { signo: *signo, code: c::SI_TIMER, ..SigInfo::default() };
        let [ids, given, ..] = &mut info.fields;
        let id = u64::from(self.id.cast_unsigned());
        (*ids, *given) = (id, value.unwrap_or(id));
        let Some(source) = self.own.upgrade() else { return };
        match thread.as_ref().map(Weak::upgrade) {
            // The thread is gone.
            Some(None) => {}
            Some(Some(task)) => drop(group.send(info, Some(&task), Some(source))),
            None => drop(group.send(info, None, Some(source))),
        }
    }
}

impl Expire for PosixTimer {
    fn expired(&self) {
        self.go_off(self.clock.now());
    }
}

impl CpuWaiter for PosixTimer {
    fn wanted(&self) -> Option<(CpuClock, u64)> {
        let state = self.state.lock();
        match &self.clock {
            TimerClock::Cpu(clock) if state.setting.at != 0 && !state.queued => Some((clock.clone(), state.setting.at)),
            _ => None,
        }
    }

    fn reached(&self, now: u64) {
        self.go_off(now);
    }
}

impl Source for PosixTimer {
    fn taken(&self, info: &mut SigInfo) {
        // CPU clocks need locks that others may hold who wait for those that are held now.
        let now = match &self.clock {
            TimerClock::Steady(clock) => clock.now(),
            TimerClock::Cpu(_) => 0,
        };
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.queued) {
            return;
        }
        let missed = if state.setting.interval == 0 { 0 } else { state.setting.expire(now) };
        state.overrun = i32::try_from(missed).unwrap_or(i32::MAX);
        let [ids, ..] = &mut info.fields;
        *ids |= u64::from(state.overrun.cast_unsigned()) << 32;
        self.arm(&state);
    }

    fn dropped(&self) {
        let mut state = self.state.lock();
        state.queued = false;
        if let (TimerClock::Steady(clock), true) = (&self.clock, state.setting.interval != 0) {
            let now = clock.now();
            state.setting.expire(now);
            let own: Weak<dyn Expire> = self.own.clone();
            let at = clock.to_monotonic(state.setting.at).max(monotonic_ns().saturating_add(IGNORED_PAUSE));
            self.timer.set(at, own);
        }
    }
}

impl Current {
    /// Makes a timer of this process; returns its number.
    ///
    /// # Errors
    /// `EAGAIN` when the user has too many signals and timers.
    pub fn create_timer(&self, clock: TimerClock, notify: Notify) -> SysResult<i32> {
        let group = &self.task.group;
        let limit = group.limit(c::RLIMIT_SIGPENDING);
        let place = self.credentials().user.charge(Counted::Signals, 1, limit).ok_or(Errno::EAGAIN)?;
        let timers = &self.task.kernel.timers;
        let own = group.use_timers(timers);
        if let TimerClock::Cpu(clock) = &clock
            && let Some(process) = clock.process()
        {
            // Whoever's time it is looks after it.
            process.use_timers(timers);
        }
        let mut posix = own.posix.lock();
        let id = posix.new_id();
        let timer = Arc::new_cyclic(|own| PosixTimer {
            id,
            clock,
            notify,
            group: Arc::downgrade(group),
            own: own.clone(),
            timer: Timer::new(timers),
            state: Mutex::default(),
            _place: place,
        });
        posix.all.insert(id, timer);
        Ok(id)
    }

    /// The timer with this number.
    ///
    /// # Errors
    /// `EINVAL` when there is none.
    pub fn timer(&self, id: i32) -> SysResult<Arc<PosixTimer>> {
        let timers = self.task.group.timers.get().ok_or(Errno::EINVAL)?;
        timers.posix.lock().all.get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// Deletes it.
    ///
    /// # Errors
    /// `EINVAL` when there is none.
    pub fn delete_timer(&self, id: i32) -> SysResult<()> {
        let timers = self.task.group.timers.get().ok_or(Errno::EINVAL)?;
        let timer = timers.posix.lock().all.remove(&id).ok_or(Errno::EINVAL)?;
        timer.disarm();
        Ok(())
    }
}
