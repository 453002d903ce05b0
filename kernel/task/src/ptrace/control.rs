//! What a tracer does with a tracee that stands still (ptrace(2)).

use std::sync::Arc;

use abi::signal::{SigInfo, SigSet};
use abi::{Errno, SysResult, c};
use platform::RseqArea;

use super::regs::{peek_user, poke_user};
use super::xstate::RegSet;
use super::{Event, Kind, OPTIONS, at_event, is_signal};
use crate::current::Current;
use crate::tasks::Task;

/// How a tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// `PTRACE_CONT`
    Cont,
    /// `PTRACE_SYSCALL`: up to the next beginning or end of a call.
    Call,
    /// `PTRACE_SINGLESTEP`: for one instruction.
    Step,
    /// `PTRACE_SYSEMU`: up to the next call, which isn't made.
    Emulate,
    /// `PTRACE_SYSEMU_SINGLESTEP`
    EmulateStep,
}

impl Resume {
    pub(super) fn steps(self) -> bool {
        matches!(self, Self::Step | Self::EmulateStep)
    }
}

/// What a tracee stands still for, as `PTRACE_GET_SYSCALL_INFO` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallInfo {
    None,
    Entry { number: u64, args: [u64; 6] },
    Exit { value: u64 },
    Seccomp { number: u64, args: [u64; 6], data: u32 },
}

/// The smallest value that is an error number, negated.
const MAX_ERRNO: u64 = 4095;

impl CallInfo {
    /// Whether a call has failed.
    #[must_use]
    pub fn is_error(value: u64) -> bool {
        value >= 0u64.wrapping_sub(MAX_ERRNO)
    }
}

impl Current {
    /// The tracee of this task with a number.
    ///
    /// # Errors
    /// `ESRCH`
    pub fn tracee(&self, pid: i32) -> SysResult<Arc<Task>> {
        let tracees = self.task.group.tracees.lock().clone();
        let own = |task: &&Arc<Task>| {
            let shared = task.lock();
            shared.number.number_in(self.pid_ns()) == pid && shared.traced.as_ref().is_some_and(|traced| self.traces(traced))
        };
        tracees.iter().find(own).cloned().ok_or(Errno::ESRCH)
    }

    /// Lets a tracee go on, with a signal or without.
    ///
    /// # Errors
    /// `ESRCH`; `EIO` when `signo` is no signal.
    pub fn resume(&self, tracee: &Task, how: Resume, signo: u64) -> SysResult<()> {
        let signo = is_signal(signo).and_then(|signo| if signo < 0 { Err(Errno::EIO) } else { Ok(signo) });
        self.with_stop(tracee, |stop, traced| {
            let signo = signo?;
            traced.resume = how;
            traced.news = None;
            stop.answer = Some(signo);
            Ok(())
        })?;
        tracee.parker.unpark();
        Ok(())
    }

    /// `PTRACE_INTERRUPT`: it is to stop.
    ///
    /// # Errors
    /// `EIO` unless it was seized.
    pub fn interrupt(&self, tracee: &Task) -> SysResult<()> {
        let again = {
            let mut shared = tracee.lock();
            let stopped = shared.stopped().is_some();
            let traced = shared.traced.as_deref_mut().ok_or(Errno::ESRCH)?;
            if !traced.seized {
                return Err(Errno::EIO);
            }
            traced.trap = true;
            stopped && traced.listening
        };
        if again {
            tracee.trap_again();
        }
        tracee.kick();
        Ok(())
    }

    /// `PTRACE_LISTEN`: it stays stopped, and is told of job control.
    ///
    /// # Errors
    /// `EIO` unless it was seized and stands still for job control.
    pub fn listen(&self, tracee: &Task) -> SysResult<()> {
        let again = self.with_stop(tracee, |stop, traced| {
            if !traced.seized || stop.kind != Kind::Group {
                return Err(Errno::EIO);
            }
            (traced.listening, traced.news) = (true, None);
            Ok(traced.notify)
        })?;
        if again {
            tracee.trap_again();
        }
        Ok(())
    }

    /// `PTRACE_SETOPTIONS`
    ///
    /// # Errors
    /// `EINVAL` for unknown ones.
    pub fn set_trace_options(&self, tracee: &Task, options: u64) -> SysResult<()> {
        self.with_stop(tracee, |_, traced| {
            traced.options = u32::try_from(options).ok().filter(|options| options & !OPTIONS == 0).ok_or(Errno::EINVAL)?;
            Ok(())
        })
    }

    /// `PTRACE_GETEVENTMSG`
    ///
    /// # Errors
    /// `ESRCH`
    pub fn event_message(&self, tracee: &Task) -> SysResult<u64> {
        self.with_stop(tracee, |_, traced| Ok(traced.message))
    }

    /// `PTRACE_GETSIGINFO`
    ///
    /// # Errors
    /// `EINVAL` when it stands still for no signal.
    pub fn signal_info(&self, tracee: &Task) -> SysResult<SigInfo> {
        self.with_stop(tracee, |stop, _| stop.info.ok_or(Errno::EINVAL))
    }

    /// `PTRACE_SETSIGINFO`
    ///
    /// # Errors
    /// `EINVAL` when it stands still for no signal.
    pub fn set_signal_info(&self, tracee: &Task, info: SigInfo) -> SysResult<()> {
        self.with_stop(tracee, |stop, _| stop.info.as_mut().map(|place| *place = info).ok_or(Errno::EINVAL))
    }

    /// `PTRACE_PEEKSIGINFO`: the signal number `at` that waits for the task, or for its process.
    ///
    /// # Errors
    /// `ESRCH`
    pub fn peek_signal(&self, tracee: &Task, at: usize, process: bool) -> SysResult<Option<SigInfo>> {
        self.with_stop(tracee, |_, _| Ok(()))?;
        let signals = tracee.group.signals.lock();
        Ok(if process { signals.pending.peek(at) } else { tracee.lock().pending.peek(at) })
    }

    /// `PTRACE_GETSIGMASK`
    ///
    /// # Errors
    /// `ESRCH`
    pub fn mask_of(&self, tracee: &Task) -> SysResult<SigSet> {
        self.with_stop(tracee, |_, _| Ok(()))?;
        let shared = tracee.lock();
        Ok(shared.saved_mask.unwrap_or(shared.mask))
    }

    /// `PTRACE_SETSIGMASK`
    ///
    /// # Errors
    /// `ESRCH`
    pub fn set_mask_of(&self, tracee: &Task, mask: SigSet) -> SysResult<()> {
        self.with_stop(tracee, |_, _| Ok(()))?;
        let mut shared = tracee.lock();
        (shared.saved_mask, shared.mask) = (None, mask.without(SigSet::UNBLOCKABLE));
        drop(shared);
        tracee.attention.store(true, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }

    /// Reads a tracee's memory; all or nothing.
    ///
    /// # Errors
    /// `EIO` when it isn't there.
    pub fn peek(&self, tracee: &Task, addr: u64, bytes: &mut [u8]) -> SysResult<()> {
        let mm = self.memory_of(tracee)?;
        if mm.read_remote(addr, bytes, true) == Ok(bytes.len()) { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Writes a tracee's memory; all or nothing.
    ///
    /// # Errors
    /// `EIO` when it can't be written.
    pub fn poke(&self, tracee: &Task, addr: u64, bytes: &[u8]) -> SysResult<()> {
        let mm = self.memory_of(tracee)?;
        if mm.write_remote(addr, bytes, true) == Ok(bytes.len()) { Ok(()) } else { Err(Errno::EIO) }
    }

    fn memory_of(&self, tracee: &Task) -> SysResult<Arc<mm::MemoryManager>> {
        self.with_stop(tracee, |_, _| Ok(()))?;
        tracee.lock().mm.clone().ok_or(Errno::EIO)
    }

    /// `PTRACE_GET_RSEQ_CONFIGURATION`
    ///
    /// # Errors
    /// `ESRCH`
    pub fn rseq_of(&self, tracee: &Task) -> SysResult<Option<RseqArea>> {
        self.with_stop(tracee, |_, _| Ok(()))?;
        Ok(tracee.lock().rseq)
    }

    /// `PTRACE_PEEKUSER`
    ///
    /// # Errors
    /// `EIO` for an offset that isn't in `struct user`.
    pub fn peek_user(&self, tracee: &Task, offset: u64) -> SysResult<u64> {
        self.with_stop(tracee, |stop, traced| peek_user(&stop.regs, &traced.debug, offset))
    }

    /// `PTRACE_POKEUSER`
    ///
    /// # Errors
    /// `EIO` for what isn't there or can't be.
    pub fn poke_user(&self, tracee: &Task, offset: u64, value: u64) -> SysResult<()> {
        self.with_stop(tracee, |stop, traced| poke_user(&mut stop.regs, &mut traced.debug, offset, value))
    }

    /// A set of registers.
    ///
    /// # Errors
    /// `EINVAL` for one that there isn't.
    pub fn registers(&self, tracee: &Task, set: RegSet) -> SysResult<Vec<u8>> {
        self.with_stop(tracee, |stop, _| set.read(stop))
    }

    /// Changes a set of registers, or the first ones of it.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT`, `EIO` for values that can't be.
    pub fn set_registers(&self, tracee: &Task, set: RegSet, bytes: &[u8]) -> SysResult<()> {
        self.with_stop(tracee, |stop, _| set.write(stop, bytes))
    }

    /// `PTRACE_GET_SYSCALL_INFO`: instruction and stack pointer, and the call.
    ///
    /// # Errors
    /// `ESRCH`
    pub fn call_info(&self, tracee: &Task) -> SysResult<(u64, u64, CallInfo)> {
        const GOOD: i32 = c::SIGTRAP | 0x80;
        self.with_stop(tracee, |stop, traced| {
            let regs = &stop.regs;
            let (number, args) = (regs.orig_rax, [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]);
            let seccomp = at_event(Event::Seccomp as i32);
            let info = match (stop.code, traced.message) {
                (GOOD, 1) => CallInfo::Entry { number, args },
                (GOOD, 2) => CallInfo::Exit { value: regs.rax },
                (code, data) if code == seccomp => CallInfo::Seccomp { number, args, data: data as u32 },
                _ => CallInfo::None,
            };
            Ok((regs.rip, regs.rsp, info))
        })
    }
}

impl Task {
    /// Has a tracee that listens stop anew, so that its tracer hears of it.
    pub(crate) fn trap_again(&self) {
        let mut shared = self.lock();
        if let Some(stop) = shared.stopped() {
            stop.answer = Some(0);
        }
        if let Some(traced) = shared.traced.as_deref_mut() {
            (traced.listening, traced.trap) = (false, true);
        }
        drop(shared);
        self.kick();
    }

    /// Job control has changed: a tracer that listens hears of it.
    pub(crate) fn notify_tracer(&self) {
        let again = {
            let mut shared = self.lock();
            let stopped = shared.stopped().is_some();
            let Some(traced) = shared.traced.as_deref_mut().filter(|traced| traced.seized) else { return };
            traced.notify = true;
            stopped && traced.listening
        };
        if again {
            self.trap_again();
        }
    }

    /// What wait(2) tells of it as a tracee: the code of a stop. `keep`: once more.
    pub(crate) fn tracee_news(&self, keep: bool) -> Option<i32> {
        let mut shared = self.lock();
        shared.stopped()?;
        let traced = shared.traced.as_deref_mut().filter(|traced| !traced.listening)?;
        if keep { traced.news } else { traced.news.take() }
    }
}
