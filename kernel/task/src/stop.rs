//! Job control: stopping and continuing all threads of a process (signal(7), wait(2)).
//!
//! A stop begins in the task that takes the signal. Every task of the process has to join it, on its way to guest code; the last one makes
//! it complete and tells the parent. `SIGCONT` and the end of the process undo it, whoever sends them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::c;
use abi::poll::PollEvents;
use abi::signal::{SIG_IGN, SigInfo, SigSet};

use crate::current::Current;
use crate::group::{Group, Signals};
use crate::tasks::Task;

/// Signals that stop by default.
pub(crate) const STOP_SIGNALS: SigSet =
    SigSet(1 << (c::SIGSTOP - 1) | 1 << (c::SIGTSTP - 1) | 1 << (c::SIGTTIN - 1) | 1 << (c::SIGTTOU - 1));

/// What a parent hears of a child that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Stopped by this signal.
    Stopped(i32),
    Continued,
}

/// A process's state of job control.
#[derive(Default)]
pub(crate) struct JobControl {
    /// Tasks that have yet to join the stop under way.
    left: usize,
    /// All tasks have.
    pub stopped: bool,
    /// The signal that stopped it; 0 when it isn't stopped or wait(2) has told it.
    pub code: i32,
    /// The signal that stopped it last.
    pub signo: i32,
    /// It has been continued, and wait(2) hasn't told it.
    pub continued: bool,
    /// News that the next task to run has to bring to the parent.
    tell: Option<News>,
}

/// A task's part in it.
#[derive(Default)]
pub(crate) struct Halt {
    /// It has to join the stop under way.
    pub join: bool,
    /// It has taken a stop signal, and no `SIGCONT` has come since.
    pub taken: bool,
    /// It is stopped.
    pub stopped: bool,
    /// It is on its way out and stops no more.
    pub leaving: bool,
}

impl JobControl {
    /// Whether it is stopped or about to be.
    pub fn is_stopping(&self) -> bool {
        self.stopped || self.left > 0
    }

    /// A task has joined, or will never do so. What the parent is to hear if it was the last.
    fn joined(&mut self) -> Option<News> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return None;
        }
        (self.stopped, self.continued) = (true, false);
        Some(News::Stopped(self.code))
    }
}

impl Group {
    /// `SIGCONT` is sent: it undoes a stop, whatever is done with the signal itself.
    pub(crate) fn resume(&self, signals: &mut Signals, tasks: &[Arc<Task>]) {
        signals.pending.discard(STOP_SIGNALS);
        for task in tasks {
            let mut shared = task.lock();
            shared.pending.discard(STOP_SIGNALS);
            (shared.halt.join, shared.halt.taken) = (false, false);
            let woken = std::mem::take(&mut shared.halt.stopped);
            drop(shared);
            if woken {
                task.parker.unpark();
            }
            task.notify_tracer();
        }
        let jobs = &mut signals.jobs;
        let news = match (jobs.stopped, jobs.left) {
            (true, _) => News::Continued,
            // It didn't get that far: all the same, it has been stopped.
            (false, 1..) => News::Stopped(jobs.code),
            (false, 0) => return,
        };
        (jobs.left, jobs.stopped, jobs.code, jobs.continued, jobs.tell) = (0, false, 0, true, Some(news));
        jobs.signo = 0;
        // Who has been stopped looks for news; else somebody has to.
        if news != News::Continued {
            tasks.iter().for_each(|task| task.kick());
        }
    }

    /// The process ends: nobody stays stopped.
    pub(crate) fn resume_to_end(signals: &mut Signals, tasks: &[Arc<Task>]) {
        (signals.jobs.left, signals.jobs.stopped, signals.jobs.tell) = (0, false, None);
        for task in tasks {
            let mut shared = task.lock();
            (shared.halt.join, shared.halt.taken, shared.halt.stopped) = (false, false, false);
        }
    }

    /// Tells the parent that the process has been stopped or continued.
    pub(crate) fn tell(&self, news: News) {
        let Some(parent) = self.parent.lock().upgrade() else {
            if let (News::Stopped(signo), Some(told)) = (news, self.on_stop.get()) {
                told(signo);
            }
            return;
        };
        let (code, status) = match news {
            News::Stopped(signo) => (c::CLD_STOPPED, signo),
            News::Continued => (c::CLD_CONTINUED, c::SIGCONT),
        };
        let action = parent.action(c::SIGCHLD);
        if action.handler != SIG_IGN && action.flags & c::SA_NOCLDSTOP as u64 == 0 {
            parent.signal(self.child_info(c::SIGCHLD, code, status));
        }
        parent.child_queue.wake(PollEvents::IN);
    }

    /// What a parent is told of this process by a signal.
    pub(crate) fn child_info(&self, signo: i32, code: i32, status: i32) -> SigInfo {
        let used = self.used();
        let parent = self.parent.lock().upgrade();
        let pid = parent.as_ref().map_or(0, |parent| self.pid_in(parent.pid_ns()));
        let viewer = parent.and_then(|parent| parent.credentials());
        let uid = self.credentials().zip(viewer).map_or(0, |(who, viewer)| viewer.user_ns.from_kuid_munged(who.ruid));
        let mut info = SigInfo::child(code, pid, uid, status);
        info.signo = signo;
        // Clock ticks of a hundredth of a second.
        [info.fields[2], info.fields[3]] = [used.user / 10_000_000, used.system / 10_000_000];
        info
    }

    /// A task of it is on its way out: it stops no more.
    pub(crate) fn leave_stop(&self, task: &Task) {
        let news = {
            let mut signals = self.signals.lock();
            let mut shared = task.lock();
            shared.halt.leaving = true;
            if std::mem::take(&mut shared.halt.join) { signals.jobs.joined() } else { None }
        };
        if let Some(news) = news {
            self.tell(news);
        }
    }
}

impl Current {
    /// A stop signal is to take effect: begins the stop, unless a `SIGCONT` has come since the signal was taken.
    pub(crate) fn begin_stop(&self, signo: i32) {
        let group = &self.task.group;
        let tasks = group.tasks.lock();
        let mut signals = group.signals.lock();
        if signals.end.is_some() || !std::mem::take(&mut self.task.lock().halt.taken) || signals.jobs.left > 0 {
            return;
        }
        (signals.jobs.code, signals.jobs.signo) = (signo, signo);
        for task in tasks.iter() {
            let mut shared = task.lock();
            if shared.halt.stopped || shared.halt.leaving {
                continue;
            }
            shared.halt.join = true;
            signals.jobs.left += 1;
            drop(shared);
            if !Arc::ptr_eq(task, &self.task) {
                task.kick();
            }
        }
    }

    /// Joins a stop under way and stays until it is over; brings news to the parent. True when it has been stopped.
    pub(crate) fn job_control(&mut self) -> bool {
        let group = self.task.group.clone();
        let (joined, trapped, news) = {
            let mut signals = group.signals.lock();
            let mut shared = self.task.lock();
            let joined = std::mem::take(&mut shared.halt.join);
            let traced = shared.traced.is_some();
            shared.halt.stopped |= joined && !traced;
            let trapped = joined && traced || shared.trap_wanted();
            (shared.halt.stopped, trapped, if joined { signals.jobs.joined() } else { signals.jobs.tell.take() })
        };
        if let Some(news) = news {
            group.tell(news);
        }
        if trapped {
            self.stop_for_group();
            return true;
        }
        if joined {
            self.task.sleeping.store(true, Ordering::Relaxed);
            while self.task.lock().halt.stopped {
                self.task.parker.park(None);
            }
            self.task.sleeping.store(false, Ordering::Relaxed);
        }
        joined
    }
}
