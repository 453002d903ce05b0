//! timerfd_create(2).

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use sync::{Mutex, WaitQueue};
use usermem::IoBuf;
use vfs::FileOps;

use crate::clock::{Clock, Setting};
use crate::queue::{Expire, Timer, Timers};

#[derive(Default)]
struct State {
    setting: Setting,
    /// How often it has gone off since the last read, as far as that has been counted.
    ticks: u64,
    /// It has gone off; an interval that passes from then on is counted when somebody asks.
    expired: bool,
}

/// A timer as a file.
pub struct TimerFd {
    clock: Clock,
    timer: Timer,
    state: Mutex<State>,
    queue: WaitQueue,
    own: Weak<Self>,
}

impl TimerFd {
    #[must_use]
    pub fn new(clock: Clock, timers: &Arc<Timers>) -> Arc<Self> {
        Arc::new_cyclic(|own: &Weak<Self>| Self {
            clock,
            timer: Timer::new(timers),
            state: Mutex::default(),
            queue: WaitQueue::default(),
            own: own.clone(),
        })
    }

    fn arm(&self, state: &State) {
        if state.setting.at == 0 {
            self.timer.clear();
        } else {
            let own: Weak<dyn Expire> = self.own.clone();
            self.timer.set(self.clock.to_monotonic(state.setting.at), own);
        }
    }

    /// Counts the intervals that have passed, and sets the timer for the next.
    fn catch_up(&self, state: &mut State) {
        if std::mem::take(&mut state.expired) && state.setting.interval != 0 {
            state.ticks = state.ticks.saturating_add(state.setting.expire(self.clock.now()));
            self.arm(state);
        }
    }

    /// Sets it; returns what is left of what it was set to, and its interval.
    pub fn set(&self, value: u64, interval: u64, absolute: bool) -> (u64, u64) {
        let mut state = self.state.lock();
        self.catch_up(&mut state);
        let now = self.clock.now();
        let old = (state.setting.remaining(now), state.setting.interval);
        *state = State { setting: Setting::new(value, interval, absolute, now), ..State::default() };
        self.arm(&state);
        old
    }

    /// What is left until it goes off, and its interval.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        self.catch_up(&mut state);
        (state.setting.remaining(self.clock.now()), state.setting.interval)
    }
}

impl Expire for TimerFd {
    fn expired(&self) {
        let mut state = self.state.lock();
        let now = self.clock.now();
        if state.setting.at == 0 || state.expired {
            return;
        }
        if now < state.setting.at {
            // Set anew meanwhile, or the clock has been.
            self.arm(&state);
            return;
        }
        state.expired = true;
        // One interval at least; further ones when somebody asks: a short interval costs only who reads.
        let mut first = Setting { interval: 0, ..state.setting };
        state.ticks = state.ticks.saturating_add(first.expire(now));
        if state.setting.interval == 0 {
            state.setting.at = 0;
        } else {
            state.setting.at = state.setting.at.saturating_add(state.setting.interval);
        }
        drop(state);
        self.queue.wake(PollEvents::READABLE);
    }
}

impl FileOps for TimerFd {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        if state.ticks == 0 {
            return Err(Errno::EAGAIN);
        }
        self.catch_up(&mut state);
        let ticks = std::mem::take(&mut state.ticks);
        drop(state);
        buf.copy_out(&ticks.to_le_bytes())
    }

    fn poll(&self) -> PollEvents {
        if self.state.lock().ticks > 0 { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[timerfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
