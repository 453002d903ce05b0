//! Tasks: threads.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use abi::nr;
use abi::signal::{SigSet, SigStack};
use auth::{Charge, Credentials};
use ipc::UndoList;
use mm::{MemoryManager, Policy};
use platform::{Interrupter, RseqArea};
use sync::{Mutex, MutexGuard, Parker, ThreadClock, WaitQueue};
use vfs::{FdTable, FsContext, MountNamespace, Running};

use crate::fork::Surroundings;
use crate::group::Group;
use crate::kernel::Kernel;
use crate::ns::{Namespaces, Pid};
use crate::pending::Pending;
use crate::position::Position;
use crate::ptrace::{Stop, Tracee};
use crate::sched::Scheduling;
use crate::seccomp::Filters;
use crate::stop::Halt;
use crate::usage::IoCounters;

/// Timer slack of the first task, in nanoseconds.
const TIMER_SLACK: u64 = 50_000;

/// In [`Task::call_work`]: somebody traces it.
pub(crate) const TRACED: u8 = 4;

thread_local! {
    /// The task whose thread this is.
    static CURRENT: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// The task that the calling thread of the sentry works for, if it does for one.
#[must_use]
pub fn current() -> Option<Arc<Task>> {
    CURRENT.with_borrow(Clone::clone)
}

/// What a task shares with those that were cloned with the right flags.
pub struct Shared {
    pub mm: Option<Arc<MemoryManager>>,
    pub credentials: Arc<Credentials>,
    /// Its place among its user's tasks; `None` when it has ended.
    pub(crate) charge: Option<Charge>,
    /// Sent to it when the thread that made it ends (prctl(2), `PR_SET_PDEATHSIG`).
    pub pdeath_signal: i32,
    pub(crate) filters: Option<Arc<Filters>>,
    /// Nanoseconds that its timers may be late.
    pub timer_slack: u64,
    pub default_timer_slack: u64,
    pub scheduling: Scheduling,
    /// personality(2)
    pub personality: u32,
    pub fds: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub mount_ns: Arc<MountNamespace>,
    pub exe: Option<Running>,
    pub comm: Vec<u8>,
    pub mask: SigSet,
    /// Mask to restore after the next signal or instead of it (sigsuspend(2), ppoll(2)).
    pub saved_mask: Option<SigSet>,
    /// The mask proper while sigtimedwait(2) lets some signals through.
    pub(crate) real_mask: Option<SigSet>,
    pub altstack: SigStack,
    pub pending: Pending,
    pub bell: Option<Arc<dyn Interrupter>>,
    pub clear_child_tid: u64,
    pub robust_list: (u64, u64),
    /// rseq(2)
    pub(crate) rseq: Option<RseqArea>,
    /// What is undone in semaphores when the last of those who share it ends.
    pub undo: Option<Arc<UndoList>>,
    /// set_mempolicy(2)
    pub mempolicy: Policy,
    /// Its numbers.
    pub number: Arc<Pid>,
    pub ns: Namespaces,
    pub(crate) halt: Halt,
    /// Who traces it.
    pub(crate) traced: Option<Box<Tracee>>,
    /// It stands still for its tracer.
    pub(crate) stop: Option<Box<Stop>>,
}

/// A thread.
pub struct Task {
    /// Changes when it runs execve(2) and isn't the leader.
    tid: AtomicI32,
    pub kernel: Arc<Kernel>,
    pub group: Arc<Group>,
    pub parker: Arc<Parker>,
    /// execve(2) gives it nothing more (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: AtomicBool,
    /// `SECCOMP_MODE_*`, and [`TRACED`]: what is to be done at calls besides handling them.
    pub(crate) call_work: AtomicU8,
    shared: Mutex<Shared>,
    /// Something may be there to deliver: looked at on every way back to the guest.
    pub(crate) attention: AtomicBool,
    /// Another thread of the process runs execve(2).
    pub(crate) ordered_to_exit: AtomicBool,
    /// Set when it waits in the kernel, for /proc.
    pub sleeping: AtomicBool,
    /// vfork(2)'s parent waits until this is set.
    pub(crate) released: AtomicBool,
    pub(crate) released_queue: WaitQueue,
    /// Set at its end: it owns no futex any more and will never again.
    pub(crate) locks_given_up: AtomicBool,
    /// CPU time of the thread of the sentry that works for it.
    pub(crate) clock: OnceLock<ThreadClock>,
    /// Time in its program, in nanoseconds, when it was last asked for; measured all the time once somebody else wants to know.
    pub(crate) user_time: AtomicU64,
    pub(crate) timed: AtomicBool,
    pub(crate) position: Position,
    /// Page faults handled, and how often it has slept.
    pub(crate) faults: AtomicU64,
    pub(crate) switches: AtomicU64,
    pub(crate) io: IoCounters,
}

impl Task {
    /// A task that nobody knows of yet.
    pub(crate) fn new(
        kernel: &Arc<Kernel>,
        number: Arc<Pid>,
        group: &Arc<Group>,
        mm: Arc<MemoryManager>,
        charge: Charge,
        fds: Arc<FdTable>,
        surroundings: Surroundings,
        comm: &[u8],
    ) -> Arc<Self> {
        let Surroundings { credentials, ns, fs, mount_ns } = surroundings;
        let tid = number.global();
        let shared = Shared {
            mm: Some(mm),
            credentials,
            charge: Some(charge),
            pdeath_signal: 0,
            filters: None,
            timer_slack: TIMER_SLACK,
            default_timer_slack: TIMER_SLACK,
            scheduling: Scheduling::default(),
            personality: 0,
            fds,
            fs,
            mount_ns,
            exe: None,
            comm: comm.to_vec(),
            mask: SigSet(0),
            saved_mask: None,
            real_mask: None,
            altstack: SigStack::DISABLED,
            pending: Pending::default(),
            bell: None,
            clear_child_tid: 0,
            robust_list: (0, 0),
            rseq: None,
            undo: None,
            mempolicy: Policy::default(),
            number,
            ns,
            halt: Halt::default(),
            traced: None,
            stop: None,
        };
        Arc::new(Self {
            tid: AtomicI32::new(tid),
            kernel: kernel.clone(),
            group: group.clone(),
            parker: Arc::default(),
            no_new_privs: AtomicBool::new(false),
            call_work: AtomicU8::new(0),
            shared: Mutex::new(shared),
            // What has happened to its process before it was known is to be seen.
            attention: AtomicBool::new(true),
            ordered_to_exit: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            released: AtomicBool::new(false),
            released_queue: WaitQueue::default(),
            locks_given_up: AtomicBool::new(false),
            clock: OnceLock::new(),
            user_time: AtomicU64::new(0),
            timed: AtomicBool::new(false),
            position: Position::default(),
            faults: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            io: IoCounters::default(),
        })
    }

    /// Its number.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Whether it is the thread that its process was made with, or has taken its place.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.tid() == self.group.pid
    }

    /// Takes the place of the process's leader, which has ended (execve(2)).
    pub(crate) fn become_leader(self: &Arc<Self>) {
        let mut tasks = self.kernel.tasks.lock();
        let old = self.tid.swap(self.group.pid, Ordering::Relaxed);
        tasks.remove(&old);
        tasks.insert(self.group.pid, self.clone());
        drop(tasks);
        let old = std::mem::replace(&mut self.lock().number, self.group.number.clone());
        drop(old);
    }

    /// The calling thread works for it from now on, or no more.
    pub(crate) fn set_current(task: Option<Arc<Self>>) {
        if let Some(task) = &task {
            let _ = task.clock.set(ThreadClock::of_this_thread());
        }
        CURRENT.set(task);
    }

    /// Its state. Innermost but for wait queues: nothing else may be locked under it.
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// Whether somebody traces it (ptrace(2)).
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.call_work.load(Ordering::Relaxed) & TRACED != 0
    }

    pub(crate) fn set_traced(&self, on: bool) {
        if on {
            self.call_work.fetch_or(TRACED, Ordering::SeqCst);
        } else {
            self.call_work.fetch_and(!TRACED, Ordering::SeqCst);
        }
    }

    /// Lets the platform answer who this is. Call when the bell is in place: who changes the parent later tells it too.
    pub(crate) fn tell_identity(&self) {
        let Some(bell) = self.lock().bell.clone() else { return };
        if self.kernel.trace.is_on() || self.call_work.load(Ordering::SeqCst) != 0 {
            // Every call is to be seen, or to be asked for.
            for call in [nr::GETPID, nr::GETTID, nr::GETUID, nr::GETEUID, nr::GETGID, nr::GETEGID, nr::GETPPID] {
                bell.set_answer(call, None);
            }
            return;
        }
        let number = |pid: i32| Some(u64::from(pid.cast_unsigned()));
        bell.set_answer(nr::GETPID, number(self.group.number.number_in(self.group.pid_ns())));
        bell.set_answer(nr::GETTID, number(self.own_tid()));
        let who = self.credentials();
        let (user, group) =
            (|uid| Some(who.user_ns.from_kuid_munged(uid).into()), |gid| Some(who.user_ns.from_kgid_munged(gid).into()));
        bell.set_answer(nr::GETUID, user(who.ruid));
        bell.set_answer(nr::GETEUID, user(who.euid));
        bell.set_answer(nr::GETGID, group(who.rgid));
        bell.set_answer(nr::GETEGID, group(who.egid));
        loop {
            let parent = self.group.parent_pid();
            bell.set_answer(nr::GETPPID, number(parent));
            // Adopted meanwhile: the new answer may have been overwritten by the old one.
            if self.group.parent_pid() == parent {
                break;
            }
        }
    }
}
