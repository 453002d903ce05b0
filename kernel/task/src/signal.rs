//! Signal delivery: frames, restarts, default actions (signal(7)).

use std::sync::atomic::Ordering;

use abi::signal::{SA_RESTORER, SIG_DFL, SIG_IGN, SigAction, SigInfo, SigSet, UContext};
use abi::{Errno, SysResult, c};
use usermem::UserMemoryExt;
use zerocopy::IntoBytes;

use crate::current::Current;
use crate::tasks::Wait;

/// `FP_XSTATE_MAGIC2`, after the XSAVE image in a frame.
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
const RED_ZONE: u64 = 128;
const UCONTEXT_LEN: u64 = size_of::<UContext>() as u64;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`
const UC_FLAGS: u64 = 7;
/// Flags that user mode may set (x86: CF PF AF ZF SF TF DF OF NT? AC).
const USER_FLAGS: u64 = 0x5_0dd5;

enum Default {
    Ignore,
    Terminate,
    Stop,
}

fn default_action(signo: i32) -> Default {
    match signo {
        c::SIGCHLD | c::SIGURG | c::SIGWINCH | c::SIGCONT => Default::Ignore,
        c::SIGSTOP | c::SIGTSTP | c::SIGTTIN | c::SIGTTOU => Default::Stop,
        _ => Default::Terminate,
    }
}

impl Current {
    /// Handles all signals that can be delivered. Returns the wait status if the task is to end.
    pub(crate) fn deliver_signals(&mut self) -> Option<i32> {
        self.task.attention.store(false, Ordering::SeqCst);
        loop {
            if let Some(status) = self.task.group.ending() {
                return Some(status);
            }
            if self.lone_exit || self.task.ordered_to_exit.load(Ordering::SeqCst) {
                return Some(0);
            }
            if self.task.group.stopped.load(Ordering::SeqCst) || self.task.kernel.paused.load(Ordering::SeqCst) {
                self.task.parker.park(None);
                continue;
            }
            let Some(info) = self.take_signal() else {
                // The guard must not live as long as the branch.
                let saved = self.task.lock().saved_mask.take();
                if let Some(mask) = saved {
                    self.set_mask(mask);
                }
                return None;
            };
            self.trace_signal(&info);
            let action = self.task.group.action(info.signo);
            match action.handler {
                SIG_IGN => {}
                SIG_DFL => match default_action(info.signo) {
                    Default::Ignore => {}
                    Default::Stop => {
                        self.task.group.stopped.store(true, Ordering::SeqCst);
                        self.task.group.tell(Wait::Stopped(info.signo));
                    }
                    Default::Terminate => {
                        self.task.group.end(info.signo);
                    }
                },
                _ => {
                    if self.enter_handler(&info, &action, 0, 0).is_err() {
                        self.task.group.end(c::SIGSEGV);
                    }
                }
            }
        }
    }

    fn take_signal(&self) -> Option<SigInfo> {
        let mut shared = self.task.lock();
        let mask = shared.mask;
        if let Some(info) = shared.pending.take(mask) {
            return Some(info);
        }
        drop(shared);
        self.task.group.pending.lock().take(mask)
    }

    fn trace_signal(&self, info: &SigInfo) {
        let trace = &self.task.kernel.trace;
        if trace.is_on() {
            trace.note(self.task.tid, &format!("--- {} {info} ---", abi::signal::name(info.signo)));
        }
    }

    /// Sets the signal mask.
    pub fn set_mask(&self, mask: SigSet) {
        self.task.lock().mask = mask.without(SigSet::UNBLOCKABLE);
        self.task.attention.store(true, Ordering::SeqCst);
    }

    /// A signal of the task's own doing, which can't be ignored or blocked.
    pub(crate) fn force_signal(&mut self, info: SigInfo, trapno: u64, error: u64) -> Option<i32> {
        self.trace_signal(&info);
        let action = self.task.group.action(info.signo);
        let blocked = self.task.lock().mask.contains(info.signo);
        let handled = action.handler != SIG_DFL && action.handler != SIG_IGN && !blocked;
        if !handled || self.enter_handler(&info, &action, trapno, error).is_err() {
            self.task.group.end(info.signo);
        }
        self.task.group.ending()
    }

    /// An interrupted call: deliver what interrupted it, then start it again or end it with `EINTR`.
    pub(crate) fn restart(&mut self, nr: u64, errno: Errno) -> Option<i32> {
        let next = {
            let shared = self.task.lock();
            let (mask, own) = (shared.mask, shared.pending.set);
            drop(shared);
            let all = own.with(self.task.group.pending.lock().set).without(mask);
            // The first that will run a handler decides.
            (1..=64)
                .filter(|signo| all.contains(*signo))
                .map(|signo| self.task.group.action(signo))
                .find(|action| action.handler > SIG_IGN)
        };
        let again = match next {
            None => true,
            Some(action) => match errno {
                Errno::ERESTARTNOINTR => true,
                Errno::ERESTARTSYS => action.flags & c::SA_RESTART as u64 != 0,
                _ => false,
            },
        };
        self.regs.rax = Errno::EINTR.to_rax();
        if !again {
            return None;
        }
        if !self.ctx.full(&mut self.regs) {
            return Some(c::SIGKILL);
        }
        self.regs.rip = self.regs.rip.wrapping_sub(2);
        self.regs.rax = nr;
        None
    }

    /// Builds a signal frame and enters the handler.
    fn enter_handler(&mut self, info: &SigInfo, action: &SigAction, trapno: u64, error: u64) -> SysResult<()> {
        if !self.ctx.full(&mut self.regs) {
            return Err(Errno::ESRCH);
        }
        let (mask, altstack) = {
            let mut shared = self.task.lock();
            (shared.saved_mask.take().unwrap_or(shared.mask), shared.altstack)
        };
        let mut fp = self.ctx.fp();
        let fp_len = fp.len() as u64;
        fp.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
        let regs = self.regs;
        let on_alt = regs.rsp.wrapping_sub(altstack.sp) < altstack.size && altstack.flags & c::SS_DISABLE == 0;
        let use_alt = action.flags & c::SA_ONSTACK as u64 != 0 && altstack.flags & c::SS_DISABLE == 0 && !on_alt;
        let top = if use_alt { altstack.sp.wrapping_add(altstack.size) } else { regs.rsp.wrapping_sub(RED_ZONE) };
        let fp_at = top.wrapping_sub(fp_len + 4) & !63;
        // Return address, context, siginfo; at the handler's entry rsp is 8 below a multiple of 16.
        let frame = (fp_at.wrapping_sub(8 + UCONTEXT_LEN + 128) & !15).wrapping_sub(8);
        let stack = abi::signal::SigStack { flags: if on_alt { c::SS_ONSTACK } else { altstack.flags }, ..altstack };
        let context = UContext {
            flags: UC_FLAGS,
            link: 0,
            stack,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rdi: regs.rdi,
            rsi: regs.rsi,
            rbp: regs.rbp,
            rbx: regs.rbx,
            rdx: regs.rdx,
            rax: regs.rax,
            rcx: regs.rcx,
            rsp: regs.rsp,
            rip: regs.rip,
            eflags: regs.eflags,
            cs: 0x33,
            gs: 0,
            fs: 0,
            ss: 0x2b,
            err: error,
            trapno,
            oldmask: mask.0,
            cr2: info.fields.first().copied().filter(|_| trapno == 14).unwrap_or(0),
            fpstate: fp_at,
            reserved: [0; 8],
            sigmask: mask,
        };
        if action.flags & SA_RESTORER == 0 {
            return Err(Errno::EFAULT);
        }
        self.mm.write(fp_at, &fp)?;
        self.mm.write(frame, &action.restorer.to_le_bytes())?;
        self.mm.write(frame.wrapping_add(8), context.as_bytes())?;
        self.mm.write(frame.wrapping_add(8 + UCONTEXT_LEN), info.as_bytes())?;
        self.regs.rsp = frame;
        self.regs.rip = action.handler;
        self.regs.rdi = u64::from(info.signo.cast_unsigned());
        self.regs.rsi = frame.wrapping_add(8 + UCONTEXT_LEN);
        self.regs.rdx = frame.wrapping_add(8);
        self.regs.rax = 0;
        // Direction and trap flags are clear in handlers.
        self.regs.eflags &= !0x500;
        let own = if action.flags & c::SA_NODEFER as u64 == 0 { SigSet::of(info.signo) } else { SigSet(0) };
        let current = self.task.lock().mask;
        self.set_mask(current.with(action.mask).with(own));
        if action.flags & c::SA_RESETHAND as u32 as u64 != 0
            && let Some(slot) = self.task.group.actions.lock().get_mut(info.signo as usize)
        {
            slot.handler = SIG_DFL;
        }
        Ok(())
    }

    /// rt_sigreturn(2): back to where the signal came. All registers are replaced.
    ///
    /// # Errors
    /// `EFAULT` when the frame is bad: the task is to get `SIGSEGV`.
    pub fn sigreturn(&mut self) -> SysResult<()> {
        if !self.ctx.full(&mut self.regs) {
            return Err(Errno::EFAULT);
        }
        let context: UContext = self.mm.read_obj(self.regs.rsp)?;
        if context.fpstate != 0 {
            let mut image = self.ctx.fp();
            self.mm.read(context.fpstate, &mut image)?;
            self.ctx.set_fp(&image).map_err(|_| Errno::EFAULT)?;
        }
        let regs = &mut self.regs;
        [regs.r8, regs.r9, regs.r10, regs.r11] = [context.r8, context.r9, context.r10, context.r11];
        [regs.r12, regs.r13, regs.r14, regs.r15] = [context.r12, context.r13, context.r14, context.r15];
        [regs.rdi, regs.rsi, regs.rbp, regs.rbx] = [context.rdi, context.rsi, context.rbp, context.rbx];
        [regs.rdx, regs.rax, regs.rcx, regs.rsp, regs.rip] = [context.rdx, context.rax, context.rcx, context.rsp, context.rip];
        regs.eflags = regs.eflags & !USER_FLAGS | context.eflags & USER_FLAGS;
        self.syscall = None;
        self.set_mask(context.sigmask);
        Ok(())
    }
}
