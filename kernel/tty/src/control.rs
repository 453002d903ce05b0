//! Controlling terminals and job control (credentials(7), tty_ioctl(4)).

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use auth::Capability;
use task::{Group, ProcessGroup, Session, Task};

use crate::terminal::Terminal;

/// Whose terminal it is.
#[derive(Default)]
pub struct Control {
    session: Weak<Session>,
    foreground: Weak<ProcessGroup>,
}

/// Whether somebody may administrate the sandbox.
pub fn is_admin(task: &Task) -> bool {
    task.credentials().has_capability(Capability::SYS_ADMIN)
}

impl Terminal {
    /// The process group in the foreground.
    pub(crate) fn foreground_group(&self) -> Option<Arc<ProcessGroup>> {
        self.control.lock().foreground.upgrade()
    }

    /// The session whose controlling terminal it is.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.control.lock().session.upgrade()
    }

    /// Sends a signal to the process group in the foreground.
    pub fn signal_foreground(&self, info: SigInfo) {
        if let Some(group) = self.foreground_group() {
            group.signal(info);
        }
    }

    /// Whether it is the controlling terminal of a process.
    pub(crate) fn controls(&self, process: &Group) -> bool {
        let terminal = process.terminal.lock();
        terminal.as_ref().is_some_and(|terminal| std::ptr::addr_eq(Arc::as_ptr(terminal), self))
    }

    /// Makes it the controlling terminal of a session's leader.
    fn give_to(self: &Arc<Self>, leader: &Group) {
        let job = leader.job();
        *self.control.lock() = Control { session: Arc::downgrade(&job.session), foreground: Arc::downgrade(&job) };
        *leader.terminal.lock() = Some(self.clone());
    }

    /// A session's leader without a terminal has opened it: it is the session's now, unless it is another's.
    pub fn offer_to(self: &Arc<Self>, process: &Group) {
        if process.leads_session() && process.terminal.lock().is_none() && self.session().is_none() {
            self.give_to(process);
        }
    }

    /// Takes it from all processes of its session.
    fn take_back(&self, session: &Session) {
        for process in session.processes() {
            if self.controls(&process) {
                *process.terminal.lock() = None;
            }
        }
        *self.control.lock() = Control::default();
    }

    /// Takes it from its session, whose leader gets `signo` and is told to go on. Whom it leaves in the foreground hears of the leader's end.
    pub(crate) fn release_session(&self, signo: i32) {
        let Some(session) = self.session() else { return };
        session.lose_terminal(self.foreground_group().as_ref());
        let leader = session.processes().into_iter().find(|process| process.pid == session.sid);
        self.take_back(&session);
        if let Some(leader) = leader {
            leader.signal(SigInfo::kernel(signo));
            leader.signal(SigInfo::kernel(c::SIGCONT));
        }
    }

    /// Whether the caller, a process of the session, may use the terminal now: those in the background are stopped by `signo`.
    ///
    /// # Errors
    /// `ERESTARTSYS` once the signal is sent; `EIO` when it would stop nobody, but for `SIGTTOU`, which then doesn't matter.
    pub(crate) fn check_job(&self, signo: i32) -> SysResult<()> {
        let Some(task) = task::current() else { return Ok(()) };
        if !self.controls(&task.group) {
            return Ok(());
        }
        let job = task.group.job();
        match self.foreground_group() {
            Some(foreground) if !Arc::ptr_eq(&foreground, &job) => {}
            _ => return Ok(()),
        }
        if task.holds_off(signo) {
            return if signo == c::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if job.orphaned(&task.kernel) {
            return Err(Errno::EIO);
        }
        job.signal(SigInfo::kernel(signo));
        Err(Errno::ERESTARTSYS)
    }

    /// TIOCSCTTY: the caller's session gets it. `steal`: even if it is another's.
    ///
    /// # Errors
    /// `EPERM`
    pub(crate) fn set_controlling(self: &Arc<Self>, task: &Task, steal: bool, readable: bool) -> SysResult<()> {
        let process = &task.group;
        let session = process.job().session.clone();
        let current = self.session();
        let leads = process.leads_session();
        if leads && current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &session)) {
            return Ok(());
        }
        if !leads || process.terminal.lock().is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(current) = current {
            if !(steal && is_admin(task)) {
                return Err(Errno::EPERM);
            }
            self.take_back(&current);
        }
        if !readable && !is_admin(task) {
            return Err(Errno::EPERM);
        }
        self.give_to(process);
        Ok(())
    }

    /// TIOCNOTTY: the caller gives it up; a leader does so for its whole session.
    ///
    /// # Errors
    /// `ENOTTY` when it isn't the caller's.
    pub(crate) fn give_up(&self, process: &Group) -> SysResult<()> {
        if !self.controls(process) {
            return Err(Errno::ENOTTY);
        }
        if process.leads_session() {
            task::Terminal::leader_gone(self, &process.job().session, false);
        }
        *process.terminal.lock() = None;
        Ok(())
    }

    /// TIOCGPGRP and TIOCGSID, for the caller's own terminal or by the master's end (`any`).
    ///
    /// # Errors
    /// `ENOTTY`
    pub(crate) fn owners(&self, process: &Group, any: bool) -> SysResult<(Option<Arc<Session>>, i32)> {
        if !any && !self.controls(process) {
            return Err(Errno::ENOTTY);
        }
        Ok((self.session(), self.foreground_group().map_or(0, |group| group.pgid)))
    }

    /// TIOCSPGRP
    ///
    /// # Errors
    /// `ENOTTY` when it isn't the caller's controlling terminal; `EINVAL`, `ESRCH`, `EPERM` for another session's group.
    pub(crate) fn set_foreground(&self, task: &Task, pgid: i32) -> SysResult<()> {
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let session = task.group.job().session.clone();
        if !self.controls(&task.group) || !self.session().is_some_and(|own| Arc::ptr_eq(&own, &session)) {
            return Err(Errno::ENOTTY);
        }
        let group = task.kernel.process_group(pgid).ok_or(Errno::ESRCH)?;
        if !Arc::ptr_eq(&group.session, &session) {
            return Err(Errno::EPERM);
        }
        self.control.lock().foreground = Arc::downgrade(&group);
        Ok(())
    }
}

impl task::Terminal for Terminal {
    fn rdev(&self) -> u64 {
        self.rdev()
    }

    fn foreground(&self) -> i32 {
        self.foreground_group().map_or(-1, |group| group.pgid)
    }

    fn leader_gone(&self, session: &Arc<Session>, ends: bool) {
        if !self.session().is_some_and(|own| Arc::ptr_eq(&own, session)) {
            return;
        }
        let foreground = self.foreground_group();
        if let Some(group) = &foreground {
            group.signal(SigInfo::kernel(c::SIGHUP));
            if !ends {
                group.signal(SigInfo::kernel(c::SIGCONT));
            }
        }
        self.take_back(session);
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// The controlling terminal of a process.
#[must_use]
pub fn controlling(process: &Group) -> Option<Arc<Terminal>> {
    let terminal = process.terminal.lock().clone()?;
    terminal.as_any().downcast().ok()
}
