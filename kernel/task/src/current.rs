//! A task on its own thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use auth::Credentials;
use mm::{Fault, MemoryManager};
use platform::{Context, Exit, Prot, UserRegs};
use sync::{MonotonicNs, ParkResult, WaitQueue, monotonic_ns};
use vfs::{Caller, FdTable, FsContext, MountNamespace};

use crate::frame::Trap;
use crate::futex::Waiter;
use crate::tasks::{TRACED, Task};

/// x86's number of the page fault exception.
const PAGE_FAULT: u64 = 14;

/// x86's number of the debug exception.
const DEBUG: u64 = 1;

/// Stack of a task's thread: system calls don't recurse.
const STACK_SIZE: usize = 256 << 10;

/// How a call goes on that was interrupted and whose arguments don't say it (restart_syscall(2)).
pub type Resumption = Box<dyn FnOnce(&mut Current) -> SysResult<u64> + Send>;

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
    pub fs: Arc<FsContext>,
    /// Stands in the futex table when it waits there.
    pub(crate) waiter: Arc<Waiter>,
    /// The call being handled, for restarts; cleared by what replaces the registers.
    pub(crate) syscall: Option<u64>,
    /// The call that was interrupted, and how; until a signal's delivery or its absence decides what becomes of it.
    pub(crate) interrupted: Option<(u64, Errno)>,
    /// What restart_syscall(2) runs: set by who returns `ERESTART_RESTARTBLOCK`.
    pub resumption: Option<Resumption>,
    pub(crate) trap: Trap,
    /// It is to execute one instruction only, for its tracer, or is watched at every one; and the CPU has been told so.
    pub(crate) stepping: bool,
    pub(crate) debugged: bool,
    pub(crate) armed: bool,
    /// What its tracer has made of the signal that it was shown.
    pub(crate) shown: Option<SigInfo>,
    /// Wait status of an exit(2) of this thread alone.
    pub(crate) lone_exit: Option<i32>,
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
        let name = format!("task-{}", task.tid());
        let waiter = Waiter::new(task.parker.clone(), task.tid());
        let mut current = Self {
            task,
            ctx,
            regs,
            mm,
            credentials,
            too_many: false,
            fds,
            fs,
            waiter,
            syscall: None,
            interrupted: None,
            resumption: None,
            trap: Trap::default(),
            stepping: false,
            debugged: false,
            armed: false,
            shown: None,
            lone_exit: None,
        };
        let spawned = std::thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(move || {
            Task::set_current(Some(current.task.clone()));
            let status = current.run();
            current.stop_at_exit(status);
            current.leave(status);
            Task::set_current(None);
        });
        spawned.map(drop).map_err(|_| Errno::EAGAIN)
    }

    /// Runs guest code until the task ends; returns its wait status.
    fn run(&mut self) -> i32 {
        if self.inherit_rseq().is_err() {
            self.task.group.end(c::SIGSEGV);
        }
        loop {
            if self.task.attention.load(Ordering::SeqCst)
                && let Some(status) = self.deliver_signals()
            {
                return status;
            }
            let exit = self.switch();
            self.mm.tidy();
            match exit {
                Exit::Syscall { nr, args, hot } => {
                    if hot && !self.task.kernel.trace.is_on() {
                        // Sites that can't be rewritten stay as they are.
                        let alone = self.task.group.tasks.lock().len() == 1;
                        let _ = self.mm.patch_site(self.regs.rip, nr, alone);
                    }
                    self.syscall = Some(nr);
                    self.regs.orig_rax = nr;
                    let work = self.task.call_work.load(Ordering::Relaxed);
                    if work & TRACED != 0 {
                        self.traced_call(nr, args);
                        continue;
                    }
                    let dispatch = self.task.kernel.dispatch;
                    let result = if work != 0 { self.filtered(nr, args) } else { dispatch(self, nr, args) };
                    // execve and rt_sigreturn set all registers themselves.
                    if self.syscall.take().is_some() {
                        self.regs.rax = match result {
                            Ok(value) => value,
                            // The host must not see it: it would start the call again by itself.
                            Err(errno) if errno.restarts() => {
                                self.interrupted = Some((nr, errno));
                                self.task.attention.store(true, Ordering::SeqCst);
                                Errno::EINTR.to_rax()
                            }
                            Err(errno) => errno.to_rax(),
                        };
                    }
                }
                Exit::Fault { addr, access, signo, code, trapno, error_code } => {
                    self.task.faults.fetch_add(1, Ordering::Relaxed);
                    self.regs.orig_rax = u64::MAX;
                    let info = match self.page_fault(addr, access, signo, trapno) {
                        Ok(()) => continue,
                        Err(Some((signo, code))) => SigInfo::fault(signo, code, addr),
                        Err(None) => SigInfo::fault(signo, code, addr),
                    };
                    let cr2 = if trapno == PAGE_FAULT { addr } else { self.trap.cr2 };
                    self.trap = Trap { number: trapno, error: error_code, cr2 };
                    self.force_signal(info);
                }
                Exit::Signal { signo, mut code, addr, trapno, error_code } => {
                    self.trap = Trap { number: trapno, error: error_code, cr2: self.trap.cr2 };
                    self.regs.orig_rax = u64::MAX;
                    if self.armed && (signo, trapno) == (c::SIGTRAP, DEBUG) {
                        self.disarm();
                        // Nothing to tell: the next step.
                        let Some(told) = self.step_ended(code) else {
                            self.task.attention.store(true, Ordering::SeqCst);
                            continue;
                        };
                        code = told;
                    }
                    self.force_signal(SigInfo::fault(signo, code, addr));
                }
                Exit::Interrupted => self.regs.orig_rax = u64::MAX,
                Exit::Dead => {
                    // Killed from outside, or the guest has destroyed its own stub: nothing is left to run.
                    let signo = if self.rseq_failed() { c::SIGSEGV } else { c::SIGKILL };
                    self.task.group.end(signo);
                    return self.task.group.ending().unwrap_or(signo);
                }
            }
        }
    }

    /// Brings in what the guest has touched; else the signal and code that it is to get, or none but the host's.
    fn page_fault(&self, addr: u64, access: Prot, signo: i32, trapno: u64) -> Result<(), Option<(i32, i32)>> {
        // Others are no page faults.
        if trapno != PAGE_FAULT {
            return Err(None);
        }
        self.mm.set_stack_limit(self.task.group.limit(c::RLIMIT_STACK));
        match self.mm.handle_fault(addr, access, signo) {
            Ok(()) => Ok(()),
            Err(Fault::Signal { signo, code }) => Err(Some((signo, code))),
            Err(Fault::OutOfMemory) => {
                self.out_of_memory();
                Ok(())
            }
        }
    }

    /// Runs guest code, and measures for how long if somebody wants to know.
    fn switch(&mut self) -> Exit {
        if !self.task.timed.load(Ordering::Relaxed) {
            return self.ctx.switch(&mut self.regs);
        }
        let start = monotonic_ns();
        let exit = self.ctx.switch(&mut self.regs);
        self.task.user_time.fetch_add(monotonic_ns() - start, Ordering::Relaxed);
        exit
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

    /// Tries until it doesn't say `EAGAIN`, waiting on `queue` in between, whatever signals come; only the end of the task breaks it.
    ///
    /// # Errors
    /// What `attempt` says; `EINTR` when the task is to end.
    pub(crate) fn block_killable<T>(&self, queue: &WaitQueue, mut attempt: impl FnMut() -> SysResult<T>) -> SysResult<T> {
        let _entry = queue.register(PollEvents::IN, self.task.parker.clone());
        loop {
            match attempt() {
                Err(Errno::EAGAIN) if self.task.killed() => return Err(Errno::EINTR),
                Err(Errno::EAGAIN) => drop(self.park(None)),
                result => return result,
            }
        }
    }

    fn park(&self, deadline: Option<MonotonicNs>) -> ParkResult {
        self.tell_position();
        self.task.sleeping.store(true, Ordering::Relaxed);
        self.task.switches.fetch_add(1, Ordering::Relaxed);
        let result = self.task.parker.park(deadline);
        self.task.sleeping.store(false, Ordering::SeqCst);
        if let Some(timers) = self.task.group.timers.get() {
            timers.cpu.woken();
        }
        result
    }

    /// Sleeps until somebody unparks the task.
    ///
    /// # Errors
    /// `ERESTARTSYS` when a signal is there; `ETIMEDOUT` after the deadline.
    pub fn sleep(&self, deadline: Option<MonotonicNs>) -> SysResult<()> {
        if self.task.signal_pending() {
            return Err(Errno::ERESTARTSYS);
        }
        let result = self.park(deadline);
        if self.task.signal_pending() {
            return Err(Errno::ERESTARTSYS);
        }
        if result == ParkResult::TimedOut { Err(Errno::ETIMEDOUT) } else { Ok(()) }
    }

    /// Itself, as files see it.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(&self.fs, self.credentials.clone())
    }

    /// The mounts that it sees.
    #[must_use]
    pub fn mount_ns(&self) -> Arc<MountNamespace> {
        self.task.lock().mount_ns.clone()
    }
}
