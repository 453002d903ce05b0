//! Timers of processes: interval timers, POSIX timers, limits of CPU time.

mod cpu;
mod itimer;
mod posix;

use std::collections::BTreeMap;
use std::sync::Arc;

use sync::Mutex;
use timer::Timers;

pub use cpu::CpuClock;
pub use itimer::Which;
pub use posix::{Notify, PosixTimer, TimerClock};

pub(crate) use cpu::CpuTimers;
pub(crate) use itimer::IntervalTimers;

use crate::group::Group;

/// The timers of a process, made when it first uses one.
pub(crate) struct ProcessTimers {
    pub(crate) interval: Arc<IntervalTimers>,
    pub(crate) posix: Mutex<PosixTimers>,
    pub(crate) cpu: Arc<CpuTimers>,
}

/// POSIX timers by number.
#[derive(Default)]
pub(crate) struct PosixTimers {
    pub(crate) all: BTreeMap<i32, Arc<PosixTimer>>,
    next: i32,
}

impl PosixTimers {
    /// A number that no timer has: none is used again soon.
    fn new_id(&mut self) -> i32 {
        loop {
            let id = self.next;
            self.next = self.next.checked_add(1).unwrap_or(0);
            if !self.all.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Group {
    /// Its timers, made with the queue that they wait in if it has none yet.
    pub(crate) fn use_timers(self: &Arc<Self>, timers: &Arc<Timers>) -> &ProcessTimers {
        self.timers.get_or_init(|| {
            let cpu = CpuTimers::new(self, timers);
            Box::new(ProcessTimers { interval: IntervalTimers::new(self, timers, &cpu), posix: Mutex::default(), cpu })
        })
    }

    /// POSIX timers end with the program that made them (execve(2)).
    pub(crate) fn delete_posix_timers(&self) {
        if let Some(timers) = self.timers.get() {
            let gone = std::mem::take(&mut timers.posix.lock().all);
            gone.values().for_each(|timer| timer.disarm());
        }
    }
}
