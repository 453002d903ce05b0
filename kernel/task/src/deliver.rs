//! Delivering signals on the way to guest code: default actions, handlers, restarts of interrupted calls (signal(7)).

use std::sync::atomic::Ordering;

use abi::signal::{SIG_DFL, SIG_IGN, SigAction, SigInfo, SigSet};
use abi::{Errno, SysResult, c, nr};
use sync::MonotonicNs;

use crate::current::Current;
use crate::signal::{Default, default_action};
use crate::stop::STOP_SIGNALS;
use crate::tasks::Task;

/// Length of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

impl Task {
    /// A signal has been taken: an interval timer that sent it goes on.
    fn note_alarm(&self, info: &SigInfo) {
        if info.signo == c::SIGALRM
            && let Some(timers) = self.group.timers.get()
        {
            timers.interval.alarm_taken();
        }
    }

    /// Takes a signal of `set` that waits, instead of having it delivered.
    pub(crate) fn take_signal(&self, set: SigSet) -> Option<SigInfo> {
        let others = SigSet(!set.0);
        let mut signals = self.group.signals.lock();
        let mut shared = self.lock();
        let info = shared.pending.take(others).or_else(|| signals.pending.take(others))?;
        drop(shared);
        drop(signals);
        self.note_alarm(&info);
        Some(info)
    }

    /// Whether a signal of `set` waits.
    pub(crate) fn has_signal(&self, set: SigSet) -> bool {
        let signals = self.group.signals.lock();
        (signals.pending.set.0 | self.lock().pending.set.0) & set.0 != 0
    }
}

impl Current {
    /// Handles all signals that can be delivered. Returns the task's wait status if it is to end.
    pub(crate) fn deliver_signals(&mut self) -> Option<i32> {
        self.task.attention.store(false, Ordering::SeqCst);
        self.disarm();
        self.tell_position();
        loop {
            if let Some(status) = self.task.group.ending() {
                return Some(status);
            }
            if let Some(status) = self.lone_exit {
                return Some(status);
            }
            if self.task.ordered_to_exit.load(Ordering::SeqCst) {
                return Some(0);
            }
            if self.task.group.dump.wanted.load(Ordering::SeqCst) {
                self.join_dump();
                continue;
            }
            if self.job_control() {
                continue;
            }
            if self.task.kernel.paused.load(Ordering::SeqCst) || self.task.group.frozen.load(Ordering::SeqCst) {
                self.task.parker.park(None);
                continue;
            }
            let Some(info) = self.take_signal() else { break };
            let Some(info) = self.stop_at_signal(info) else { continue };
            self.trace_signal(&info);
            self.act_on(info);
        }
        if !self.finish_call(None) {
            self.task.group.end(c::SIGKILL);
            return self.task.group.ending();
        }
        // The guard must not live as long as the branch.
        let saved = self.task.lock().saved_mask.take();
        if let Some(mask) = saved {
            self.set_mask(mask);
            // What the temporary mask has held off comes before the program goes on.
            if self.task.signal_pending() {
                return self.deliver_signals();
            }
        }
        if self.stepping || self.debugged {
            self.arm();
        }
        None
    }

    /// Puts the mask back that a call has swapped for its time, unless a signal has ended that: then it is put back behind the handler.
    pub fn restore_mask<T>(&self, result: &SysResult<T>) {
        if matches!(result, Err(Errno::ERESTARTNOHAND | Errno::ERESTARTSYS | Errno::EINTR)) {
            return;
        }
        let saved = self.task.lock().saved_mask.take();
        if let Some(mask) = saved {
            self.set_mask(mask);
        }
    }

    /// Takes the next signal that isn't blocked: the task's own first.
    fn take_signal(&self) -> Option<SigInfo> {
        let info = {
            let mut signals = self.task.group.signals.lock();
            let mut shared = self.task.lock();
            let mask = shared.mask;
            let info = shared.pending.take(mask).or_else(|| signals.pending.take(mask))?;
            // From here to the stop itself a SIGCONT can still prevent it.
            shared.halt.taken |= STOP_SIGNALS.contains(info.signo);
            info
        };
        self.task.note_alarm(&info);
        Some(info)
    }

    /// Takes a signal of `set`, which the caller has blocked, as soon as there is one.
    ///
    /// # Errors
    /// `EAGAIN` after the deadline, `EINTR` when another signal comes.
    pub fn wait_signal(&self, set: SigSet, deadline: Option<MonotonicNs>) -> SysResult<SigInfo> {
        let take = || self.task.take_signal(set);
        if let Some(info) = take() {
            return Ok(info);
        }
        // Meanwhile the set isn't blocked, so that whoever sends one of it picks this task.
        {
            let mut shared = self.task.lock();
            shared.real_mask = Some(shared.mask);
            shared.mask = shared.mask.without(set);
        }
        let result = loop {
            let slept = self.sleep(deadline);
            match (take(), slept) {
                (Some(info), _) => break Ok(info),
                (None, Ok(())) => {}
                (None, Err(Errno::ETIMEDOUT)) => break Err(Errno::EAGAIN),
                (None, Err(_)) => break Err(Errno::EINTR),
            }
        };
        let mut shared = self.task.lock();
        if let Some(mask) = shared.real_mask.take() {
            shared.mask = mask;
        }
        drop(shared);
        self.task.attention.store(true, Ordering::SeqCst);
        result
    }

    /// rt_sigreturn(2) has failed: there is nowhere to go back to.
    pub fn bad_frame(&mut self) {
        self.syscall = None;
        self.raise_fault();
    }

    /// Sends this very task a `SIGSEGV`, which it can't hold off.
    pub fn raise_fault(&self) {
        self.force_signal(SigInfo::kernel(c::SIGSEGV));
    }

    fn trace_signal(&self, info: &SigInfo) {
        let trace = &self.task.kernel.trace;
        if trace.is_on() {
            trace.note(self.task.tid(), &format!("--- {} {info} ---", abi::signal::name(info.signo)));
        }
    }

    /// Does what is to be done with a signal that has been taken.
    fn act_on(&mut self, info: SigInfo) {
        let action = self.task.group.action(info.signo);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => self.act_by_default(&info),
            _ => self.handle(&info, &action),
        }
    }

    fn act_by_default(&mut self, info: &SigInfo) {
        let group = &self.task.group;
        if group.shielded_from(info) {
            return;
        }
        match default_action(info.signo) {
            Default::Ignore => {}
            Default::Stop => {
                // Nobody could continue an orphaned process group: only SIGSTOP stops it.
                if info.signo == c::SIGSTOP || !group.job().orphaned(&self.task.kernel) {
                    self.begin_stop(info.signo);
                }
            }
            Default::Terminate => group.end(info.signo),
            Default::Core => self.end_with_core(info),
        }
    }

    /// Enters the handler. Without a place for its frame, the task gets a `SIGSEGV` instead.
    fn handle(&mut self, info: &SigInfo, action: &SigAction) {
        if self.finish_call(Some(action)) && self.enter_handler(info, action).is_ok() {
            if action.flags & u64::from(c::SA_RESETHAND as u32) != 0 {
                self.task.group.signals.lock().set_default(info.signo);
            }
            let own = if action.flags & c::SA_NODEFER as u64 == 0 { SigSet::of(info.signo) } else { SigSet(0) };
            let current = self.task.lock().mask;
            self.set_mask(current.with(action.mask).with(own));
            self.stop_at_handler();
            return;
        }
        if info.signo == c::SIGSEGV {
            self.task.group.signals.lock().set_default(c::SIGSEGV);
        }
        self.force_signal(SigInfo::kernel(c::SIGSEGV));
    }

    /// An interrupted call comes to its end: it is made again or fails with `EINTR`, depending on the handler that runs now, if one does.
    /// False when the registers can't be had: the task is gone.
    fn finish_call(&mut self, handler: Option<&SigAction>) -> bool {
        let Some((number, errno)) = self.interrupted.take() else { return true };
        let again = match (handler, errno) {
            (_, Errno::ERESTARTNOINTR) => Some(number),
            (None, Errno::ERESTART_RESTARTBLOCK) => Some(nr::RESTART_SYSCALL),
            (None, _) => Some(number),
            (Some(action), Errno::ERESTARTSYS) if action.flags & c::SA_RESTART as u64 != 0 => Some(number),
            (Some(_), _) => None,
        };
        let Some(number) = again else { return true };
        if !self.ctx.full(&mut self.regs) {
            return false;
        }
        self.regs.rip = self.regs.rip.wrapping_sub(SYSCALL_LEN);
        self.regs.rax = number;
        true
    }

    /// Sets the signal mask.
    pub fn set_mask(&self, mask: SigSet) {
        self.task.lock().mask = mask.without(SigSet::UNBLOCKABLE);
        self.task.attention.store(true, Ordering::SeqCst);
    }
}
