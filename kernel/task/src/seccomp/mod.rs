//! Filters of system calls that guests install for themselves (seccomp(2)).
//!
//! A task without filters pays for them with one load. With filters, calls that every one of them allows whatever the arguments are known
//! by a bitmap that is made when a filter is installed. Calls that the platform answers by itself would pass by them:
//! `Task::tell_identity` takes those answers back.

mod filter;
mod notify;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use auth::Capability;
use cbpf::Program;

use crate::current::Current;
use crate::tasks::Task;
use filter::{Filter, Verdict};
pub use filter::{Filters, Invocation};
pub use notify::{Answer, Listener, Notifier};

/// `si_code` of SIGSYS by a filter.
const SYS_SECCOMP: i32 = 1;
/// The bits of `Task::call_work` that say so.
const MODE: u8 = 3;
/// read(2), write(2), `_exit(2)` and sigreturn(2) only.
pub(crate) const STRICT: u8 = 1;
pub(crate) const FILTER: u8 = 2;

/// What comes with a new filter (`SECCOMP_FILTER_FLAG_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterOptions {
    /// For all threads of the process.
    pub tsync: bool,
    /// A supervisor decides about some calls.
    pub listener: bool,
    /// Once the supervisor has a call, only fatal signals interrupt it.
    pub wait_killable: bool,
}

/// Why a filter wasn't installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Because(Errno),
    /// This thread has filters that the caller's aren't made from (`SECCOMP_FILTER_FLAG_TSYNC`).
    Thread(i32),
}

/// What SIGSYS tells of a call.
fn sigsys(call: &Invocation, data: u16) -> SigInfo {
    let mut info = SigInfo { signo: c::SIGSYS, errno: data.into(), code: SYS_SECCOMP, ..SigInfo::default() };
    let [address, what, ..] = &mut info.fields;
    *address = call.ip;
    *what = u64::from(call.number) | u64::from(filter::ARCH) << 32;
    info
}

impl Task {
    /// `SECCOMP_MODE_*`
    #[must_use]
    pub fn seccomp_mode(&self) -> u8 {
        self.call_work.load(Ordering::Relaxed) & MODE
    }

    /// Number of its filters, for /proc.
    #[must_use]
    pub fn seccomp_filters(&self) -> usize {
        self.lock().filters.as_ref().map_or(0, |filters| filters.count())
    }

    /// Gives a new task what its maker has. Together with the list of threads, so that no filter for all of them is missed.
    pub(crate) fn inherit_seccomp(&self, maker: &Self) {
        let _threads = self.group.tasks.lock();
        let (mode, filters) = (maker.seccomp_mode(), maker.lock().filters.clone());
        self.lock().filters = filters;
        self.call_work.fetch_or(mode, Ordering::SeqCst);
        let nnp = maker.no_new_privs.load(Ordering::SeqCst);
        self.no_new_privs.fetch_or(nnp, Ordering::SeqCst);
    }

    pub(crate) fn set_filters(&self, filters: Arc<Filters>) {
        let old = self.lock().filters.replace(filters);
        self.call_work.fetch_or(FILTER, Ordering::SeqCst);
        drop(old);
    }
}

impl Current {
    /// A system call of a task with filters, or in strict mode.
    pub(crate) fn filtered(&mut self, number: u64, args: [u64; 6]) -> SysResult<u64> {
        self.filter_call(number, args, false)
    }

    /// `decided`: its tracer has had its say, a filter that wants to ask it is content.
    fn filter_call(&mut self, number: u64, args: [u64; 6], decided: bool) -> SysResult<u64> {
        let dispatch = self.task.kernel.dispatch;
        if self.task.seccomp_mode() == STRICT {
            return match number {
                nr::READ | nr::WRITE | nr::EXIT | nr::RT_SIGRETURN => dispatch(self, number, args),
                _ => {
                    self.end_thread(c::SIGKILL);
                    Err(Errno::ENOSYS)
                }
            };
        }
        let filters = {
            let shared = self.task.lock();
            match &shared.filters {
                Some(filters) if !filters.always_allow(number) => Some(filters.clone()),
                _ => None,
            }
        };
        let Some(filters) = filters else { return dispatch(self, number, args) };
        let call = Invocation { number: number as u32, ip: self.regs.rip, args };
        match filters.run(&call) {
            (Verdict::Allow | Verdict::Log, _) => dispatch(self, number, args),
            // As it is: numbers that mean something to the kernel alone mean nothing here.
            (Verdict::Errno(number), _) => Ok(u64::from(number).wrapping_neg()),
            (Verdict::Trace(_), _) if decided => dispatch(self, number, args),
            (Verdict::Trace(data), _) => match self.ask_tracer(data)? {
                // What the tracer has made of it is looked at anew.
                Ok((number, args)) => self.filter_call(number, args, true),
                Err(value) => Ok(value),
            },
            (Verdict::Notify, filter) => match filter.and_then(|filter| filter.notifier.clone()) {
                None => Err(Errno::ENOSYS),
                Some(notifier) => match self.ask_supervisor(&notifier, call)? {
                    Answer::Continue => dispatch(self, number, args),
                    Answer::Return(value) => Ok(value),
                },
            },
            (Verdict::Trap(data), _) => {
                self.raise_sigsys(&call, data);
                Err(Errno::ENOSYS)
            }
            (Verdict::KillThread, _) if self.task.group.tasks.lock().len() > 1 => {
                self.end_thread(c::SIGSYS);
                Err(Errno::ENOSYS)
            }
            (Verdict::KillThread | Verdict::KillProcess, _) => {
                self.end_with_core(&sigsys(&call, 0));
                Err(Errno::ENOSYS)
            }
        }
    }

    /// Ends this thread, or the process if it is alone, as by a signal.
    fn end_thread(&mut self, signo: i32) {
        self.exit(signo);
    }

    /// `SECCOMP_RET_TRAP`: the call is taken back, and SIGSYS tells of it.
    fn raise_sigsys(&mut self, call: &Invocation, data: u16) {
        if !self.ctx.full(&mut self.regs) {
            return;
        }
        self.regs.rax = call.number.into();
        self.syscall = None;
        self.force_signal(sigsys(call, data));
    }

    /// Whether filters may be installed: they must not be a way to confuse a program with more rights.
    ///
    /// # Errors
    /// `EACCES`
    pub fn may_filter(&self) -> SysResult<()> {
        let who = self.credentials();
        if self.task.no_new_privs.load(Ordering::SeqCst) || who.has_capability_in(&who.user_ns, Capability::SYS_ADMIN) {
            return Ok(());
        }
        Err(Errno::EACCES)
    }

    /// `SECCOMP_SET_MODE_STRICT`
    ///
    /// # Errors
    /// `EINVAL` when there are filters.
    pub fn set_strict(&mut self) -> SysResult<()> {
        let strict = |work: u8| if work & MODE == FILTER { None } else { Some(work | STRICT) };
        self.task.call_work.fetch_update(Ordering::SeqCst, Ordering::SeqCst, strict).map_err(|_| Errno::EINVAL)?;
        self.task.tell_identity();
        Ok(())
    }

    /// `SECCOMP_SET_MODE_FILTER`; returns the listener if one was asked for.
    ///
    /// # Errors
    /// `EINVAL` in strict mode; `EBUSY` when there is a listener already; `ENOMEM` when the filters are too long together.
    pub fn add_filter(&mut self, program: Program, options: FilterOptions) -> Result<Option<Arc<Listener>>, Refused> {
        let notifier = options.listener.then(|| Arc::new(Notifier::new(options.wait_killable)));
        let listener = notifier.as_ref().map(|notifier| Listener::new(notifier.clone()));
        // Nobody joins or leaves meanwhile, and no two threads do this at once.
        let threads = self.task.group.tasks.lock();
        if self.task.seccomp_mode() == STRICT {
            return Err(Refused::Because(Errno::EINVAL));
        }
        let old = self.task.lock().filters.clone();
        let base = old.as_deref();
        if notifier.is_some() && base.is_some_and(Filters::has_listener) {
            return Err(Refused::Because(Errno::EBUSY));
        }
        let others: Vec<_> = threads.iter().filter(|task| options.tsync && task.tid() != self.task.tid()).cloned().collect();
        for other in &others {
            let theirs = other.lock().filters.clone();
            if other.seccomp_mode() == STRICT || !Filters::descends(base, theirs.as_deref()) {
                return Err(Refused::Thread(other.tid()));
            }
        }
        let filters = Filters::with(base, Filter { program, notifier }).map_err(Refused::Because)?;
        let filters = Arc::new(filters);
        let nnp = self.task.no_new_privs.load(Ordering::SeqCst);
        for task in others.iter().chain([&self.task]) {
            task.no_new_privs.fetch_or(nnp, Ordering::SeqCst);
            task.set_filters(filters.clone());
        }
        drop(threads);
        others.iter().chain([&self.task]).for_each(|task| task.tell_identity());
        Ok(listener)
    }
}
