//! System calls of tracees.

use std::sync::atomic::Ordering;

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};

use super::{Event, Resume, SYSGOOD};
use crate::current::Current;

/// `PTRACE_EVENTMSG_SYSCALL_ENTRY`, `PTRACE_EVENTMSG_SYSCALL_EXIT`
const ENTRY: u64 = 1;
const EXIT: u64 = 2;
/// `TRAP_BRKPT`
const TRAP_BRKPT: i32 = 1;

impl Current {
    /// A call of a task that somebody traces.
    pub(crate) fn traced_call(&mut self, number: u64, args: [u64; 6]) {
        // All registers are to be had at any stop on the way, and at the end if the call ends the stub.
        if !self.ctx.full(&mut self.regs) {
            return;
        }
        self.disarm();
        (self.regs.orig_rax, self.regs.rax) = (number, Errno::ENOSYS.to_rax());
        let mut call = Some((number, args));
        let resume = self.resumed_by();
        if matches!(resume, Resume::Call | Resume::Emulate | Resume::EmulateStep) {
            self.stop_at_call(c::SIGTRAP | self.sysgood(), ENTRY);
            let emulated = resume != Resume::Call;
            call = self.call_in_registers().filter(|_| !emulated && !self.task.killed());
        }
        let result = match call {
            None => Ok(self.regs.rax),
            Some((number, args)) => {
                self.syscall = Some(number);
                if self.task.seccomp_mode() != 0 {
                    self.filtered(number, args)
                } else {
                    (self.task.kernel.dispatch)(self, number, args)
                }
            }
        };
        // execve and rt_sigreturn set all registers themselves.
        if self.syscall.take().is_some() || call.is_none() {
            self.regs.rax = result.unwrap_or_else(Errno::to_rax);
        }
        if self.task.killed() || self.lone_exit.is_some() {
            return;
        }
        match self.resumed_by() {
            Resume::Call => self.stop_at_call(c::SIGTRAP | self.sysgood(), EXIT),
            // The call was the one instruction.
            resume if resume.steps() => self.force_signal(SigInfo::fault(c::SIGTRAP, TRAP_BRKPT, self.regs.rip)),
            _ => {}
        }
        self.settle_call();
    }

    /// The call that the registers say, which a tracer may have changed; none for a negative number.
    fn call_in_registers(&self) -> Option<(u64, [u64; 6])> {
        let number = self.regs.orig_rax as u32;
        let regs = &self.regs;
        (number.cast_signed() >= 0).then_some((number.into(), [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]))
    }

    fn resumed_by(&self) -> Resume {
        self.task.lock().traced.as_ref().map_or(Resume::Cont, |tracee| tracee.resume)
    }

    fn sysgood(&self) -> i32 {
        let good = self.task.lock().traced.as_ref().is_some_and(|tracee| tracee.options & SYSGOOD != 0);
        if good { 0x80 } else { 0 }
    }

    /// `SECCOMP_RET_TRACE`: the tracer decides what becomes of a call. The call that it has left, or what the task is to find in `rax`.
    ///
    /// # Errors
    /// `ENOSYS` when nobody wants to decide.
    pub(crate) fn ask_tracer(&mut self, data: u16) -> SysResult<Result<(u64, [u64; 6]), u64>> {
        if !self.task.wants(Event::Seccomp) {
            return Err(Errno::ENOSYS);
        }
        self.stop_at_event(Event::Seccomp, data.into());
        let call = self.call_in_registers().filter(|_| !self.task.group.doomed.load(Ordering::SeqCst));
        Ok(call.ok_or(self.regs.rax))
    }
}
