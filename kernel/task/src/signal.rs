//! Sending signals (signal(7), kill(2)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::signal::{SIG_DFL, SIG_IGN, SigInfo, SigSet};
use abi::{Errno, SysResult, c};
use auth::{Counted, User};

use crate::current::Current;
use crate::group::{Group, Signals};
use crate::pending::{Pending, Queued, SIGRTMIN, Source};
use crate::stop::STOP_SIGNALS;
use crate::tasks::{Shared, Task};

/// What a signal does that nobody handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    Ignore,
    Terminate,
    /// Terminate, with a core dump if wanted.
    Core,
    Stop,
}

pub(crate) fn default_action(signo: i32) -> Default {
    match signo {
        c::SIGCHLD | c::SIGURG | c::SIGWINCH | c::SIGCONT => Default::Ignore,
        c::SIGSTOP | c::SIGTSTP | c::SIGTTIN | c::SIGTTOU => Default::Stop,
        c::SIGQUIT
        | c::SIGILL
        | c::SIGTRAP
        | c::SIGABRT
        | c::SIGFPE
        | c::SIGSEGV
        | c::SIGBUS
        | c::SIGSYS
        | c::SIGXCPU
        | c::SIGXFSZ => Default::Core,
        _ => Default::Terminate,
    }
}

/// Whether a signal that nobody handles does nothing.
#[must_use]
pub fn ignored_by_default(signo: i32) -> bool {
    default_action(signo) == Default::Ignore
}

/// Adds a signal to a queue.
///
/// # Errors
/// `EAGAIN` for a real-time signal with a value when the user has too many signals queued.
fn queue(pending: &mut Pending, info: SigInfo, user: &Arc<User>, limit: u64, source: Option<Arc<dyn Source>>) -> SysResult<()> {
    if pending.has_standard(info.signo) {
        if let Some(source) = source {
            source.dropped();
        }
        return Ok(());
    }
    // Of what the kernel and kill(2) send, nothing is lost.
    let limit = if info.signo < SIGRTMIN && info.code >= 0 || source.is_some() { u64::MAX } else { limit };
    match user.charge(Counted::Signals, 1, limit) {
        place @ Some(_) => pending.push(Queued { info, _place: place, source }),
        None if info.signo >= SIGRTMIN && info.code != c::SI_USER => return Err(Errno::EAGAIN),
        None => pending.mark(info.signo),
    }
    Ok(())
}

impl Task {
    /// Makes it look at what is pending.
    pub fn kick(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.parker.unpark();
        let bell = self.lock().bell.clone();
        if let Some(bell) = bell {
            bell.interrupt();
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, info: SigInfo) {
        // A full queue is the sender's business, if at all.
        let _ = self.group.send(info, Some(self), None);
    }

    /// Whether a signal (or the group's end, or a stop) waits that isn't blocked.
    pub fn signal_pending(&self) -> bool {
        if !self.attention.load(Ordering::SeqCst) {
            return false;
        }
        let signals = self.group.signals.lock();
        let shared = self.lock();
        shared.halt.join
            || shared.trap_wanted()
            || self.group.dump.wanted.load(Ordering::SeqCst)
            || signals.end.is_some()
            || shared.pending.set.with(signals.pending.set).without(shared.mask).0 != 0
            || self.ordered_to_exit.load(Ordering::SeqCst)
    }

    /// Whether a signal would do nothing to it now, because it is blocked or ignored.
    #[must_use]
    pub fn holds_off(&self, signo: i32) -> bool {
        let signals = self.group.signals.lock();
        self.lock().mask.contains(signo) || signals.action(signo).handler == SIG_IGN
    }

    /// Signals that wait because they are blocked (sigpending(2)).
    #[must_use]
    pub fn blocked_pending(&self) -> SigSet {
        let signals = self.group.signals.lock();
        let shared = self.lock();
        SigSet(shared.pending.set.with(signals.pending.set).0 & shared.mask.0)
    }

    /// Whether it is about to end by a signal or with its process: what can't be interrupted otherwise ends then.
    pub(crate) fn killed(&self) -> bool {
        let dumped = self.group.dump.wanted.load(Ordering::SeqCst);
        dumped || self.group.doomed.load(Ordering::SeqCst) || self.ordered_to_exit.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Whether a signal would have to wait: blocked, or let through only for sigtimedwait(2).
    fn holds(&self, signo: i32) -> bool {
        self.mask.contains(signo) || self.real_mask.is_some_and(|mask| mask.contains(signo))
    }
}

impl Signals {
    /// Whether a signal to `shared`'s task would be thrown away: nobody handles it and it isn't blocked.
    fn ignores(&self, shielded: bool, info: &SigInfo, shared: &Shared) -> bool {
        if shared.holds(info.signo) || crate::ptrace::shows(shared, info.signo) {
            return false;
        }
        let action = self.action(info.signo);
        action.handler == SIG_IGN || action.handler == SIG_DFL && (ignored_by_default(info.signo) || shielded)
    }
}

impl Group {
    /// Sends the process a signal. Call without locks of tasks and processes but [`Jobs`](crate::jobs::Jobs).
    pub fn signal(&self, info: SigInfo) {
        // A full queue is the sender's business, if at all.
        let _ = self.send(info, None, None);
    }

    /// Sends the process, or one task of it, a signal. `source` hears when it is taken.
    ///
    /// # Errors
    /// `EAGAIN` for a real-time signal with a value when the user has too many signals queued (RLIMIT_SIGPENDING).
    pub fn send(&self, info: SigInfo, to: Option<&Task>, source: Option<Arc<dyn Source>>) -> SysResult<()> {
        let limit = self.limit(c::RLIMIT_SIGPENDING);
        let tasks = self.tasks.lock();
        let Some(first) = tasks.first() else { return Ok(()) };
        let mut signals = self.signals.lock();
        if signals.end.is_some() {
            // One that ends may yet stand still for its tracer.
            if info.signo == c::SIGKILL {
                self.killed.store(true, Ordering::SeqCst);
                tasks.iter().for_each(|task| task.kick());
            }
            return Ok(());
        }
        if info.signo == c::SIGCONT {
            self.resume(&mut signals, &tasks);
        } else if STOP_SIGNALS.contains(info.signo) {
            let cont = SigSet::of(c::SIGCONT);
            signals.pending.discard(cont);
            tasks.iter().for_each(|task| task.lock().pending.discard(cont));
        }
        let shielded = self.shielded_from(&info);
        if signals.ignores(shielded, &info, &to.unwrap_or(first).lock()) {
            if let Some(source) = source {
                source.dropped();
            }
            return Ok(());
        }
        if info.signo == c::SIGKILL {
            drop(signals);
            drop(tasks);
            self.end(c::SIGKILL);
            return Ok(());
        }
        let user = to.unwrap_or(first).credentials().user.clone();
        match to {
            Some(task) => queue(&mut task.lock().pending, info, &user, limit, source)?,
            None => queue(&mut signals.pending, info, &user, limit, source)?,
        }
        // Whoever wants it: the task itself; the oldest that lets it through.
        let open = |task: &Task| {
            let shared = task.lock();
            !shared.mask.contains(info.signo) && !shared.halt.stopped && !shared.halt.leaving
        };
        match to {
            Some(task) if open(task) => task.kick(),
            None => {
                if let Some(task) = tasks.iter().find(|task| open(task)) {
                    task.kick();
                }
            }
            _ => {}
        }
        let kernel = first.kernel.clone();
        drop(signals);
        drop(tasks);
        kernel.signal_queue.wake(PollEvents::READABLE);
        Ok(())
    }

    /// Ends all its tasks with this wait status, unless it ends already.
    pub fn end(&self, status: i32) {
        let tasks = self.tasks.lock();
        {
            let mut signals = self.signals.lock();
            signals.end.get_or_insert(status);
            self.doomed.store(true, Ordering::SeqCst);
            Self::resume_to_end(&mut signals, &tasks);
        }
        tasks.iter().for_each(|task| task.kick());
        // A guest that has wrecked its own side of the platform may never come back: its host side goes first. Not where another process
        // lives in the same memory (vfork(2)).
        let Some(first) = tasks.first().cloned() else { return };
        drop(tasks);
        let Some(mm) = first.lock().mm.clone() else { return };
        if !self.shares_memory.load(Ordering::Relaxed) || !self.others_live_in(&first, &mm) {
            mm.aspace().kill();
        }
    }

    fn others_live_in(&self, first: &Task, mm: &Arc<mm::MemoryManager>) -> bool {
        let others: Vec<_> = first.kernel.groups.lock().values().filter(|group| group.pid != self.pid).cloned().collect();
        let lives_in = |task: &Arc<Task>| task.lock().mm.as_ref().is_some_and(|other| Arc::ptr_eq(other, mm));
        others.iter().any(|group| group.tasks.lock().iter().any(lives_in))
    }
}

impl Current {
    /// Sends this very task a signal of its own doing, which can't be ignored or blocked (a fault, say).
    pub(crate) fn force_signal(&self, info: SigInfo) {
        let user = self.credentials.user.clone();
        let signals = self.task.group.signals.lock();
        let mut shared = self.task.lock();
        let action = signals.action(info.signo);
        let blocked = shared.mask.contains(info.signo);
        if blocked || action.handler == SIG_IGN {
            signals.set_default(info.signo);
            shared.mask = shared.mask.without(SigSet::of(info.signo));
        }
        let _ = queue(&mut shared.pending, info, &user, u64::MAX, None);
        self.task.attention.store(true, Ordering::SeqCst);
    }
}
