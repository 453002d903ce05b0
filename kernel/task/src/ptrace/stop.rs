//! How a tracee stands still: at signals, events, and for job control.

use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::signal::{SIG_IGN, SigInfo};
use abi::{Errno, c};

use super::{EVENT_STOP, Kind, Resume, Stop, TF, at_event, signal_of};
use crate::current::Current;
use crate::tasks::Task;

/// What a tracer may want to stop its tracee at (`PTRACE_EVENT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Fork = 1,
    Vfork = 2,
    Clone = 3,
    Exec = 4,
    VforkDone = 5,
    Exit = 6,
    Seccomp = 7,
}

impl Task {
    /// Whether its tracer wants to hear of an event.
    pub(crate) fn wants(&self, event: Event) -> bool {
        self.is_traced() && self.lock().traced.as_ref().is_some_and(|tracee| tracee.options & 1 << event as u32 != 0)
    }

    /// Tells its tracer that it stands still.
    fn tell_tracer(&self, code: i32, why: i32) {
        let Some(tracer) = self.tracer() else { return };
        let group = &tracer.group;
        let action = group.action(c::SIGCHLD);
        if action.handler != SIG_IGN && action.flags & c::SA_NOCLDSTOP as u64 == 0 {
            let uid = tracer.credentials().user_ns.from_kuid_munged(self.credentials().ruid);
            group.signal(SigInfo::child(why, self.number_in(group.pid_ns()), uid, signal_of(code)));
        }
        group.child_queue.wake(PollEvents::IN);
    }
}

impl Current {
    /// Stands still until the tracer lets it go on; returns the signal that it is to go on with. Without a tracer: `code`'s own signal at
    /// once.
    fn stand_still(&mut self, kind: Kind, code: i32, info: Option<SigInfo>, message: u64) -> i32 {
        let unseen = if kind == Kind::Signal { code } else { 0 };
        // One that is about to end may have no registers any more.
        if !self.ctx.full(&mut self.regs) && kind != Kind::Exit {
            return 0;
        }
        self.disarm();
        self.regs.rip = self.mm.original_rip(self.regs.rip);
        let mut regs = self.regs;
        if let Some((number, errno)) = self.interrupted {
            (regs.orig_rax, regs.rax) = (number, errno.to_rax());
        }
        let stop = Stop { regs, fp: self.ctx.fp(), fp_changed: false, info, kind, code, answer: None };
        {
            let mut shared = self.task.lock();
            let Some(tracee) = shared.traced.as_deref_mut() else { return unseen };
            (tracee.news, tracee.listening) = (Some(code), false);
            if kind == Kind::Group {
                (tracee.trap, tracee.notify) = (false, false);
            } else {
                tracee.message = message;
            }
            shared.stop = Some(Box::new(stop));
        }
        let why = if kind == Kind::Group { c::CLD_STOPPED } else { c::CLD_TRAPPED };
        self.task.tell_tracer(code, why);
        self.task.sleeping.store(true, Ordering::Relaxed);
        while !self.may_go_on(kind) {
            self.task.parker.park(None);
        }
        self.task.sleeping.store(false, Ordering::Relaxed);
        self.go_on()
    }

    /// Whether the tracer has let it go on, or its end has come.
    fn may_go_on(&self, kind: Kind) -> bool {
        let ends = match kind {
            Kind::Exit => self.task.group.killed.load(Ordering::SeqCst),
            _ => self.task.killed(),
        };
        ends || self.task.lock().stopped().is_none()
    }

    /// Takes back what the tracer has made of the registers.
    fn go_on(&mut self) -> i32 {
        let (stop, resume, debugged) = {
            let mut shared = self.task.lock();
            let tracee = shared.traced.as_deref_mut();
            let (resume, debugged) = tracee.map_or((Resume::Cont, false), |tracee| {
                tracee.news = None;
                (tracee.resume, tracee.debug.is_on())
            });
            (shared.stop.take(), resume, debugged)
        };
        let Some(stop) = stop else { return 0 };
        self.shown = stop.info;
        self.stepping = resume.steps();
        self.debugged = debugged;
        if self.stepping || debugged {
            self.task.attention.store(true, Ordering::SeqCst);
        }
        if stop.answer.is_none() {
            // Killed.
            return 0;
        }
        self.regs = stop.regs;
        self.interrupted = None;
        if stop.fp_changed {
            // Checked when it was set.
            let _ = self.ctx.set_fp(&stop.fp);
        }
        self.settle_call();
        stop.answer.unwrap_or(0)
    }

    /// A call that says it is to be made again: whether it is, signals decide.
    pub(super) fn settle_call(&mut self) {
        let number = self.regs.orig_rax;
        let restarts = [Errno::ERESTARTSYS, Errno::ERESTARTNOINTR, Errno::ERESTARTNOHAND, Errno::ERESTART_RESTARTBLOCK];
        if number.cast_signed() < 0 {
            return;
        }
        if let Some(errno) = restarts.into_iter().find(|errno| errno.to_rax() == self.regs.rax) {
            self.interrupted = Some((number, errno));
            self.regs.rax = Errno::EINTR.to_rax();
            self.task.attention.store(true, Ordering::SeqCst);
        }
    }

    /// What the tracer is told of a stop that isn't a signal's.
    fn own_info(&self, signo: i32, code: i32) -> SigInfo {
        let who = self.credentials();
        SigInfo::from_process(signo, code, self.task.own_tid(), who.user_ns.from_kuid_munged(who.ruid))
    }

    /// Stops at a call; a signal that the tracer answers with is sent to the task.
    pub(super) fn stop_at_call(&mut self, code: i32, message: u64) {
        let info = self.own_info(c::SIGTRAP, code);
        let signo = self.stand_still(Kind::Call, code, Some(info), message);
        if signo != 0 {
            self.task.signal(SigInfo::kernel(signo));
        }
    }

    /// Stops at an event that the tracer has asked for.
    pub(crate) fn stop_at_event(&mut self, event: Event, message: u64) {
        if !self.task.wants(event) {
            return;
        }
        let code = at_event(event as i32);
        let info = self.own_info(c::SIGTRAP, code);
        let kind = if event == Event::Exit { Kind::Exit } else { Kind::Call };
        self.stand_still(kind, code, Some(info), message);
    }

    /// The number of a task, as its tracer has it.
    pub(crate) fn number_for_tracer(&self, task: &Task) -> u64 {
        let number = self.task.tracer().map_or(0, |tracer| task.number_in(tracer.group.pid_ns()));
        u64::from(number.cast_unsigned())
    }

    /// A new program runs: the tracer stops it, or a signal does. `old`: the number that it had before, for the tracer.
    pub(crate) fn stop_at_exec(&mut self, old: u64) {
        if !self.task.is_traced() {
            return;
        }
        if self.task.wants(Event::Exec) {
            self.stop_at_event(Event::Exec, old);
        } else if !self.is_seized() {
            self.task.signal(self.own_info(c::SIGTRAP, c::SI_USER));
        }
    }

    fn is_seized(&self) -> bool {
        self.task.lock().traced.as_ref().is_some_and(|tracee| tracee.seized)
    }

    /// The last stop of a task, `status` its wait status.
    pub(crate) fn stop_at_exit(&mut self, status: i32) {
        if self.task.is_traced() {
            self.stop_at_event(Event::Exit, u64::from(status.cast_unsigned()));
        }
    }

    /// A signal has been taken: the tracer sees it first, and may change it. `None` when it is gone.
    pub(crate) fn stop_at_signal(&mut self, info: SigInfo) -> Option<SigInfo> {
        if !self.task.is_traced() || info.signo == c::SIGKILL {
            return Some(info);
        }
        // A stop that is made of it now holds unless SIGCONT comes.
        self.task.lock().halt.taken = true;
        let tracer = self.task.tracer();
        let signo = self.stand_still(Kind::Signal, info.signo, Some(info), 0);
        let mut info = self.shown.take().unwrap_or(info);
        if signo == 0 {
            return None;
        }
        if signo != info.signo {
            let (pid, uid) = tracer.map_or((0, 0), |tracer| {
                let user_ns = &self.credentials().user_ns;
                (tracer.number_in(self.pid_ns()), user_ns.from_kuid_munged(tracer.credentials().ruid))
            });
            info = SigInfo::from_process(signo, c::SI_USER, pid, uid);
        }
        if self.task.lock().mask.contains(signo) {
            self.task.signal(info);
            return None;
        }
        Some(info)
    }

    /// Joins a stop of job control as a tracee, or stops because the tracer wants it.
    pub(crate) fn stop_for_group(&mut self) {
        let (stopped, signo) = {
            let signals = self.task.group.signals.lock();
            (signals.jobs.is_stopping(), signals.jobs.signo)
        };
        if !self.is_seized() {
            // Only job control stops it so.
            let signo = if signo == 0 { c::SIGSTOP } else { signo };
            self.stand_still(Kind::Group, signo, None, 0);
            return;
        }
        let signo = if stopped { signo } else { c::SIGTRAP };
        let code = signo | EVENT_STOP << 8;
        let info = self.own_info(signo, code);
        self.stand_still(Kind::Group, code, Some(info), 0);
    }

    /// The last thing before guest code runs: the next instruction is to be the only one, if the tracer wants that.
    pub(crate) fn arm(&mut self) {
        if (self.stepping || self.debugged) && self.task.is_traced() && self.ctx.full(&mut self.regs) {
            self.armed = self.regs.eflags & TF == 0;
            self.regs.eflags |= TF;
            self.watch_memory();
        } else {
            (self.stepping, self.debugged) = (false, false);
        }
    }

    /// Takes back the flag that [`Self::arm`] has set.
    pub(crate) fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            self.regs.eflags &= !TF;
        }
    }

    /// A handler has been entered by a task that is stepped: that is a step.
    pub(crate) fn stop_at_handler(&mut self) {
        if self.stepping && self.task.is_traced() {
            self.stop_at_call(c::SIGTRAP, 0);
        }
    }
}
