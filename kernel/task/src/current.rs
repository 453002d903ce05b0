//! A task on its own thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use auth::Credentials;
use mm::MemoryManager;
use platform::{Context, Exit, UserRegs};
use sync::{MonotonicNs, Mutex, ParkResult, WaitQueue};
use vfs::{FdTable, FsContext};

use crate::futex::Waiter;
use crate::tasks::Task;

/// Stack of a task's thread: system calls don't recurse.
const STACK_SIZE: usize = 256 << 10;

/// The running task and what only its own thread touches.
pub struct Current {
    pub task: Arc<Task>,
    pub ctx: Box<dyn Context>,
    pub regs: UserRegs,
    pub mm: Arc<MemoryManager>,
    /// The task's, at hand without a lock. Changed by [`Self::set_credentials`] only.
    pub(crate) credentials: Arc<Credentials>,
    /// It became a user with more processes than it may have: execve(2) is to fail.
    pub(crate) too_many: bool,
    pub fds: Arc<FdTable>,
    pub fs: Arc<Mutex<FsContext>>,
    /// Stands in the futex table when it waits there.
    pub(crate) waiter: Arc<Waiter>,
    /// The call being handled, for restarts; cleared by what replaces the registers.
    pub(crate) syscall: Option<u64>,
    /// exit(2) of a thread among others.
    pub(crate) lone_exit: bool,
}

impl Current {
    /// Starts a task's thread.
    ///
    /// # Errors
    /// `EAGAIN` when the host gives no thread.
    pub fn start(task: Arc<Task>, ctx: Box<dyn Context>, regs: UserRegs) -> SysResult<()> {
        let (mm, credentials, fds, fs) = {
            let mut shared = task.lock();
            shared.bell = Some(ctx.interrupter());
            (shared.mm.clone().ok_or(Errno::ESRCH)?, shared.credentials.clone(), shared.fds.clone(), shared.fs.clone())
        };
        task.tell_identity();
        let name = format!("task-{}", task.tid);
        let waiter = Waiter::new(task.parker.clone(), task.tid);
        let mut current =
            Self { task, ctx, regs, mm, credentials, too_many: false, fds, fs, waiter, syscall: None, lone_exit: false };
        let spawned = std::thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(move || {
            let status = current.run();
            current.leave(status);
        });
        spawned.map(drop).map_err(|_| Errno::EAGAIN)
    }

    /// Runs guest code until the task ends; returns its wait status.
    fn run(&mut self) -> i32 {
        loop {
            if self.task.attention.load(Ordering::SeqCst)
                && let Some(status) = self.deliver_signals()
            {
                return status;
            }
            match self.ctx.switch(&mut self.regs) {
                Exit::Syscall { nr, args, hot } => {
                    if hot && !self.task.kernel.trace.is_on() {
                        // Sites that can't be rewritten stay as they are.
                        let alone = self.task.group.tasks.lock().len() == 1;
                        let _ = self.mm.patch_site(self.regs.rip, nr, alone);
                    }
                    self.syscall = Some(nr);
                    let dispatch = self.task.kernel.dispatch;
                    let filtered = self.task.seccomp_mode() != 0;
                    let result = if filtered { self.filtered(nr, args) } else { dispatch(self, nr, args) };
                    if self.task.group.ending().is_some() {
                        self.task.attention.store(true, Ordering::SeqCst);
                    }
                    // execve and rt_sigreturn set all registers themselves.
                    if self.syscall.is_some() {
                        self.regs.rax = result.unwrap_or_else(Errno::to_rax);
                        if let Err(errno @ (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND | Errno::ERESTARTNOINTR)) = result
                            && let Some(status) = self.restart(nr, errno)
                        {
                            return status;
                        }
                    }
                    self.syscall = None;
                }
                Exit::Fault { addr, access, signo, code, trapno, error_code } => {
                    if trapno == 14 && signo != c::SIGBUS && self.mm.handle_fault(addr, access, signo).is_ok() {
                        continue;
                    }
                    let signal = self.mm.handle_fault(addr, access, signo);
                    let info = match signal {
                        Err(signal) if trapno == 14 => SigInfo::fault(signal.signo, signal.code, addr),
                        _ => SigInfo::fault(signo, code, addr),
                    };
                    if let Some(status) = self.force_signal(info, trapno, error_code) {
                        return status;
                    }
                }
                Exit::Signal { signo, code, addr, trapno, error_code } => {
                    if let Some(status) = self.force_signal(SigInfo::fault(signo, code, addr), trapno, error_code) {
                        return status;
                    }
                }
                Exit::Interrupted => {}
                Exit::Dead => {
                    // Killed from outside, or the guest has destroyed its own stub: nothing is left to run.
                    self.task.group.end(c::SIGKILL);
                    return self.task.group.ending().unwrap_or(c::SIGKILL);
                }
            }
        }
    }

    /// Tries until it doesn't say `EAGAIN`, waiting on `queue` in between.
    ///
    /// # Errors
    /// What `attempt` says; `ERESTARTSYS` when a signal comes; `ETIMEDOUT` after the deadline.
    pub fn block_on<T>(
        &self,
        queue: Option<&WaitQueue>,
        mask: PollEvents,
        deadline: Option<MonotonicNs>,
        mut attempt: impl FnMut() -> SysResult<T>,
    ) -> SysResult<T> {
        match attempt() {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
        let _entry = queue.map(|queue| queue.register(mask, self.task.parker.clone()));
        loop {
            match attempt() {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
            self.sleep(deadline)?;
        }
    }

    /// Sleeps until somebody unparks the task.
    ///
    /// # Errors
    /// `ERESTARTSYS` when a signal is there; `ETIMEDOUT` after the deadline.
    pub fn sleep(&self, deadline: Option<MonotonicNs>) -> SysResult<()> {
        if self.task.signal_pending() {
            return Err(Errno::ERESTARTSYS);
        }
        self.task.sleeping.store(true, Ordering::Relaxed);
        let result = self.task.parker.park(deadline);
        self.task.sleeping.store(false, Ordering::Relaxed);
        if self.task.signal_pending() {
            return Err(Errno::ERESTARTSYS);
        }
        if result == ParkResult::TimedOut { Err(Errno::ETIMEDOUT) } else { Ok(()) }
    }

    /// A copy of root, working directory and mask.
    #[must_use]
    pub fn fs_context(&self) -> FsContext {
        self.fs.lock().clone()
    }
}
