//! Tracing of tasks by others (ptrace(2)).
//!
//! A tracee stops itself, on its own thread ([`stop`]): it shows its registers in a [`Stop`], tells its tracer, and waits. The tracer looks
//! at them and changes them there ([`control`]); when the tracee goes on it takes them back. Who traces whom is changed in [`attach`], under
//! the lock over who is whose parent. A task that nobody traces pays with a test of a word that is looked at for seccomp(2) already.

mod attach;
mod calls;
mod control;
mod debug;
mod regs;
mod stop;
mod xstate;

use std::sync::{Arc, Weak};

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use platform::UserRegs;

use crate::current::Current;
use crate::tasks::{Shared, Task};

pub use attach::Ptracer;
pub(crate) use attach::shows;
pub use control::{CallInfo, Resume};
pub(crate) use regs::words;
pub use stop::Event;
pub use xstate::RegSet;
pub(crate) use xstate::{extended, float};

/// `PTRACE_O_*` that there are: all but `PTRACE_O_SUSPEND_SECCOMP`, which is for checkpoints.
const OPTIONS: u32 = 0x10_00ff;
/// `PTRACE_O_TRACESYSGOOD`
const SYSGOOD: u32 = 1;
/// `PTRACE_O_EXITKILL`
const EXITKILL: u32 = 1 << 20;
/// `PTRACE_EVENT_STOP`
const EVENT_STOP: i32 = 128;
/// The flag of single steps in `eflags`.
const TF: u64 = 0x100;

/// What a task is to its tracer.
pub(crate) struct Tracee {
    pub tracer: Weak<Task>,
    /// By `PTRACE_SEIZE`.
    seized: bool,
    options: u32,
    /// How it was told to go on last.
    resume: Resume,
    /// Of the last event.
    message: u64,
    /// Code of a stop, or wait status at its end, that wait(2) hasn't told.
    news: Option<i32>,
    /// It is to stop as soon as it can (`PTRACE_INTERRUPT`, or it was stopped by job control when it was attached to).
    trap: bool,
    /// Its tracer is to hear of a change of job control, and waits for that (`PTRACE_LISTEN`).
    notify: bool,
    listening: bool,
    /// Wait status at its end.
    pub end: Option<i32>,
    /// Debug registers, see [`debug`].
    debug: debug::DebugRegs,
    /// None of its memory is rewritten by us meanwhile.
    memory: Option<mm::Traced>,
}

/// Why a tracee stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A signal is about to be delivered.
    Signal,
    /// Job control, or `PTRACE_INTERRUPT`.
    Group,
    /// A system call, or an event.
    Call,
    /// It is about to end: only another SIGKILL makes it go on without its tracer.
    Exit,
}

/// A tracee that stands still, for its tracer to look at.
pub(crate) struct Stop {
    regs: UserRegs,
    /// The XSAVE image; empty when it can't be had.
    fp: Vec<u8>,
    fp_changed: bool,
    info: Option<SigInfo>,
    kind: Kind,
    code: i32,
    /// The signal that it is to go on with, once the tracer has said so.
    answer: Option<i32>,
}

impl Tracee {
    /// The task has ended, with this wait status. Returns what is to be dropped.
    pub(crate) fn ended(&mut self, status: i32) -> Option<mm::Traced> {
        self.end = Some(status);
        self.memory.take()
    }
}

impl Shared {
    /// Whether a tracer wants it to stop.
    pub(crate) fn trap_wanted(&self) -> bool {
        self.traced.as_ref().is_some_and(|tracee| tracee.trap || tracee.notify)
    }

    /// Its stop, as long as the tracer hasn't ended it.
    fn stopped(&mut self) -> Option<&mut Stop> {
        self.stop.as_deref_mut().filter(|stop| stop.answer.is_none())
    }
}

impl Task {
    /// Its tracer.
    #[must_use]
    pub fn tracer(&self) -> Option<Arc<Self>> {
        self.lock().traced.as_ref()?.tracer.upgrade()
    }

    /// Whether it stands still for its tracer.
    #[must_use]
    pub fn is_trapped(&self) -> bool {
        self.lock().stopped().is_some()
    }

    /// Its registers, as long as it stands still for its tracer; `orig_rax` is the call that it is in, or -1.
    #[must_use]
    pub fn trapped_registers(&self) -> Option<UserRegs> {
        self.lock().stopped().map(|stop| stop.regs)
    }

    /// Its number, as a namespace has it.
    pub(crate) fn number_in(&self, ns: &crate::PidNamespace) -> i32 {
        self.lock().number.number_in(ns)
    }
}

impl Current {
    /// A tracee of this task that stands still.
    ///
    /// # Errors
    /// `ESRCH`: it isn't, or it doesn't.
    fn with_stop<T>(&self, tracee: &Task, f: impl FnOnce(&mut Stop, &mut Tracee) -> SysResult<T>) -> SysResult<T> {
        let mut shared = tracee.lock();
        let shared = &mut *shared;
        let (Some(stop), Some(traced)) = (shared.stop.as_deref_mut(), shared.traced.as_deref_mut()) else {
            return Err(Errno::ESRCH);
        };
        if !self.traces(traced) || stop.answer.is_some() || traced.listening {
            return Err(Errno::ESRCH);
        }
        f(stop, traced)
    }

    /// Whether it is the tracer.
    fn traces(&self, tracee: &Tracee) -> bool {
        std::ptr::eq(tracee.tracer.as_ptr(), Arc::as_ptr(&self.task))
    }
}

/// The signal of a code.
fn signal_of(code: i32) -> i32 {
    code & 0x7f
}

/// Whether there is such a signal, or it is none.
fn is_signal(signo: u64) -> SysResult<i32> {
    i32::try_from(signo).ok().filter(|signo| *signo <= abi::signal::MAX_SIGNAL).ok_or(Errno::EIO)
}

/// `SIGTRAP` at an event.
fn at_event(event: i32) -> i32 {
    c::SIGTRAP | event << 8
}
