//! Tasks and thread groups.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::poll::PollEvents;
use abi::signal::{SIG_DFL, SIG_IGN, SigAction, SigInfo, SigSet, SigStack};
use abi::structs::Rlimit;
use abi::{c, nr};
use auth::{Charge, Credentials};
use mm::MemoryManager;
use platform::Interrupter;
use sync::{Mutex, MutexGuard, Parker, WaitQueue, monotonic_ns};
use vfs::{Dentry, FdTable, FsContext};

use crate::kernel::{Kernel, OnExit};
use crate::net::NetNamespace;
use crate::seccomp::Filters;

/// Queued real-time signals at most (RLIMIT_SIGPENDING).
const MAX_QUEUED: usize = 4096;

/// Timer slack of the first task, in nanoseconds.
const TIMER_SLACK: u64 = 50_000;

/// Signals that wait to be delivered.
#[derive(Default)]
pub struct Pending {
    pub set: SigSet,
    queue: Vec<SigInfo>,
}

impl Pending {
    /// Adds a signal. Standard signals are not queued twice.
    pub fn push(&mut self, info: SigInfo) {
        let realtime = info.signo >= 32;
        if (!self.set.contains(info.signo) || realtime) && self.queue.len() < MAX_QUEUED {
            self.queue.push(info);
        }
        self.set = self.set.with(SigSet::of(info.signo));
    }

    /// Takes the first signal outside of `mask`.
    pub fn take(&mut self, mask: SigSet) -> Option<SigInfo> {
        let signo = self.set.without(mask).first()?;
        let found = self.queue.iter().position(|info| info.signo == signo);
        let info = found.map_or_else(|| SigInfo::kernel(signo), |at| self.queue.remove(at));
        if !self.queue.iter().any(|info| info.signo == signo) {
            self.set = self.set.without(SigSet::of(signo));
        }
        Some(info)
    }

    /// Forgets the signals of a set.
    pub fn discard(&mut self, set: SigSet) {
        self.queue.retain(|info| !set.contains(info.signo));
        self.set = self.set.without(set);
    }
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
    pub fds: Arc<FdTable>,
    pub fs: Arc<Mutex<FsContext>>,
    pub exe: Option<Arc<Dentry>>,
    pub comm: Vec<u8>,
    pub mask: SigSet,
    /// Mask to restore after the next signal or instead of it (sigsuspend(2), ppoll(2)).
    pub saved_mask: Option<SigSet>,
    pub altstack: SigStack,
    pub pending: Pending,
    pub bell: Option<Arc<dyn Interrupter>>,
    pub clear_child_tid: u64,
    pub robust_list: (u64, u64),
    pub net: Arc<dyn NetNamespace>,
}

/// A thread.
pub struct Task {
    pub tid: i32,
    pub kernel: Arc<Kernel>,
    pub group: Arc<Group>,
    pub parker: Arc<Parker>,
    /// execve(2) gives it nothing more (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: AtomicBool,
    /// `SECCOMP_MODE_*`
    pub(crate) seccomp: AtomicU8,
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
}

impl Task {
    pub(crate) fn new(
        kernel: &Arc<Kernel>,
        tid: i32,
        group: &Arc<Group>,
        mm: Arc<MemoryManager>,
        credentials: Arc<Credentials>,
        charge: Charge,
        fds: Arc<FdTable>,
        fs: Arc<Mutex<FsContext>>,
        comm: &[u8],
    ) -> Arc<Self> {
        let shared = Shared {
            mm: Some(mm),
            credentials,
            charge: Some(charge),
            pdeath_signal: 0,
            filters: None,
            timer_slack: TIMER_SLACK,
            default_timer_slack: TIMER_SLACK,
            fds,
            fs,
            exe: None,
            comm: comm.to_vec(),
            mask: SigSet(0),
            saved_mask: None,
            altstack: SigStack { flags: c::SS_DISABLE, ..SigStack::default() },
            pending: Pending::default(),
            bell: None,
            clear_child_tid: 0,
            robust_list: (0, 0),
            net: kernel.net.clone(),
        };
        let task = Arc::new(Self {
            tid,
            kernel: kernel.clone(),
            group: group.clone(),
            parker: Arc::default(),
            no_new_privs: AtomicBool::new(false),
            seccomp: AtomicU8::new(0),
            shared: Mutex::new(shared),
            attention: AtomicBool::new(false),
            ordered_to_exit: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            released: AtomicBool::new(false),
            released_queue: WaitQueue::default(),
            locks_given_up: AtomicBool::new(false),
        });
        kernel.tasks.lock().insert(tid, task.clone());
        // Who pauses either finds it in the table, or has set this before.
        task.attention.store(kernel.paused.load(Ordering::SeqCst), Ordering::SeqCst);
        group.tasks.lock().push(task.clone());
        kernel.forks.fetch_add(1, Ordering::Relaxed);
        task
    }

    /// Its state. Innermost but for wait queues: nothing else may be locked under it.
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// Lets the platform answer who this is. Call when the bell is in place: who changes the parent later tells it too.
    pub(crate) fn tell_identity(&self) {
        let Some(bell) = self.lock().bell.clone() else { return };
        if self.kernel.trace.is_on() || self.seccomp_mode() != 0 {
            // Every call is to be seen, or to be asked for.
            for call in [nr::GETPID, nr::GETTID, nr::GETUID, nr::GETEUID, nr::GETGID, nr::GETEGID, nr::GETPPID] {
                bell.set_answer(call, None);
            }
            return;
        }
        let number = |pid: i32| Some(u64::from(pid.cast_unsigned()));
        bell.set_answer(nr::GETPID, number(self.group.pid));
        bell.set_answer(nr::GETTID, number(self.tid));
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

    /// Makes it look at what is pending.
    pub fn kick(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.parker.unpark();
        let bell = self.lock().bell.clone();
        if let Some(bell) = bell {
            bell.interrupt();
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, info: SigInfo) {
        if self.group.ignores(&info, self.lock().mask) {
            return;
        }
        if info.signo == c::SIGKILL {
            self.group.end(c::SIGKILL);
            return;
        }
        self.lock().pending.push(info);
        self.kick();
    }

    /// Whether a signal (or the group's end) waits that isn't blocked.
    pub fn signal_pending(&self) -> bool {
        if !self.attention.load(Ordering::SeqCst) {
            return false;
        }
        let shared = self.lock();
        let mask = shared.mask;
        let own = shared.pending.set.without(mask).0 != 0;
        drop(shared);
        own || self.group.pending.lock().set.without(mask).0 != 0
            || self.group.ending().is_some()
            || self.ordered_to_exit.load(Ordering::SeqCst)
    }
}

/// How a child's end or stop is told by wait4(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Exited,
    Stopped(i32),
    Continued,
}

/// A process.
pub struct Group {
    pub pid: i32,
    pub parent: Mutex<Weak<Group>>,
    pub children: Mutex<Vec<Arc<Group>>>,
    pub pgid: AtomicI32,
    pub sid: AtomicI32,
    pub tasks: Mutex<Vec<Arc<Task>>>,
    pub actions: Mutex<[SigAction; 65]>,
    pub pending: Mutex<Pending>,
    pub limits: Mutex<[Rlimit; 16]>,
    /// Wait status once it is ending.
    end: Mutex<Option<i32>>,
    /// No task is left.
    zombie: AtomicBool,
    /// Where its wait4(2) waits for children.
    pub child_queue: WaitQueue,
    /// What its end is told the parent by: `SIGCHLD` after adoption or execve(2), whatever clone(2) had said.
    pub exit_signal: AtomicI32,
    pub stopped: AtomicBool,
    /// A stop or continuation that the parent hasn't heard of.
    pub news: Mutex<Option<Wait>>,
    pub started: u64,
    /// Orphans among its descendants become its children (prctl(2), `PR_SET_CHILD_SUBREAPER`).
    pub child_subreaper: AtomicBool,
    /// The thread of the parent that made it: 0 for none.
    pub(crate) creator: AtomicI32,
    pub(crate) last_credentials: OnceLock<Arc<Credentials>>,
    /// CPU time, in nanoseconds, when it ended.
    pub cpu: Mutex<u64>,
    /// Who outside is told of its end.
    on_exit: Mutex<Vec<OnExit>>,
}

impl Group {
    /// Number of the parent; 0 when there is none in this sandbox.
    pub fn parent_pid(&self) -> i32 {
        self.parent.lock().upgrade().map_or(0, |parent| parent.pid)
    }

    pub(crate) fn new(pid: i32, parent: Option<&Arc<Self>>, exit_signal: i32) -> Arc<Self> {
        let unlimited = Rlimit { cur: u64::MAX, max: u64::MAX };
        let mut limits = [unlimited; 16];
        let defaults = [
            (c::RLIMIT_STACK, 8 << 20, u64::MAX),
            (c::RLIMIT_CORE, 0, u64::MAX),
            (c::RLIMIT_NOFILE, 1024, 1 << 20),
            (c::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
            (c::RLIMIT_NICE, 0, 0),
            (c::RLIMIT_RTPRIO, 0, 0),
        ];
        for (index, cur, max) in defaults {
            if let Some(limit) = limits.get_mut(index as usize) {
                *limit = Rlimit { cur, max };
            }
        }
        let inherited = |own: fn(&Self) -> &AtomicI32| parent.map_or(pid, |parent| own(parent).load(Ordering::Relaxed));
        Arc::new(Self {
            pid,
            parent: Mutex::new(parent.map(Arc::downgrade).unwrap_or_default()),
            children: Mutex::default(),
            pgid: AtomicI32::new(inherited(|group| &group.pgid)),
            sid: AtomicI32::new(inherited(|group| &group.sid)),
            tasks: Mutex::default(),
            actions: Mutex::new(parent.map_or([SigAction::default(); 65], |parent| *parent.actions.lock())),
            pending: Mutex::default(),
            limits: Mutex::new(parent.map_or(limits, |parent| *parent.limits.lock())),
            end: Mutex::new(None),
            zombie: AtomicBool::new(false),
            child_queue: WaitQueue::default(),
            exit_signal: AtomicI32::new(exit_signal),
            stopped: AtomicBool::new(false),
            news: Mutex::default(),
            started: monotonic_ns(),
            child_subreaper: AtomicBool::new(false),
            creator: AtomicI32::new(0),
            last_credentials: OnceLock::new(),
            cpu: Mutex::new(0),
            on_exit: Mutex::default(),
        })
    }

    /// What is done with a signal.
    #[must_use]
    pub fn action(&self, signo: i32) -> SigAction {
        let index = usize::try_from(signo).unwrap_or(0);
        self.actions.lock().get(index).copied().unwrap_or_default()
    }

    /// Whether a signal would be thrown away: nobody handles it and it isn't blocked.
    fn ignores(&self, info: &SigInfo, mask: SigSet) -> bool {
        let action = self.action(info.signo);
        let default_ignored = matches!(info.signo, c::SIGCHLD | c::SIGURG | c::SIGWINCH);
        let ignored = action.handler == SIG_IGN || action.handler == SIG_DFL && default_ignored;
        // The first process has only the signals that it asks for (pid_namespaces(7)), and those of its own doing.
        let shielded = self.pid == 1 && action.handler == SIG_DFL && info.code <= 0 && info.signo != c::SIGKILL;
        (ignored || shielded) && !mask.contains(info.signo)
    }

    /// Sends the process a signal.
    pub fn signal(&self, info: SigInfo) {
        if info.signo == c::SIGCONT && self.stopped.swap(false, Ordering::SeqCst) {
            self.tell(Wait::Continued);
            self.tasks.lock().iter().for_each(|task| task.kick());
        }
        let tasks = self.tasks.lock().clone();
        let masks: Vec<_> = tasks.iter().map(|task| task.lock().mask).collect();
        let open = masks.iter().position(|mask| !mask.contains(info.signo));
        let mask = masks.get(open.unwrap_or(0)).copied().unwrap_or_default();
        if self.ignores(&info, mask) {
            return;
        }
        if info.signo == c::SIGKILL {
            self.end(c::SIGKILL);
            return;
        }
        self.pending.lock().push(info);
        if let Some(task) = open.and_then(|at| tasks.get(at)) {
            task.kick();
        }
    }

    /// Ends all its tasks with this wait status, unless it ends already.
    pub fn end(&self, status: i32) {
        self.end.lock().get_or_insert(status);
        let tasks = self.tasks.lock().clone();
        tasks.iter().for_each(|task| task.kick());
        // A guest that has wrecked its own side of the platform may never come back: its host side goes first. Not where another process
        // lives in the same memory (vfork(2)).
        let Some(first) = tasks.first() else { return };
        let Some(mm) = first.lock().mm.clone() else { return };
        let others: Vec<_> = first.kernel.groups.lock().values().filter(|group| group.pid != self.pid).cloned().collect();
        let lives_in = |task: &Arc<Task>| task.lock().mm.as_ref().is_some_and(|other| Arc::ptr_eq(other, &mm));
        if !others.iter().any(|group| group.tasks.lock().iter().any(lives_in)) {
            mm.aspace().kill();
        }
    }

    /// The wait status if it is ending.
    #[must_use]
    pub fn ending(&self) -> Option<i32> {
        *self.end.lock()
    }

    /// Has `f` called with the wait status when it has ended, or now if it has.
    pub fn on_exit(&self, f: OnExit) {
        let mut told = self.on_exit.lock();
        if self.is_zombie() {
            drop(told);
            f(self.ending().unwrap_or(0));
        } else {
            told.push(f);
        }
    }

    /// No task is left.
    pub(crate) fn set_zombie(&self) {
        let told = {
            let mut told = self.on_exit.lock();
            self.zombie.store(true, Ordering::SeqCst);
            std::mem::take(&mut *told)
        };
        told.into_iter().for_each(|f| f(self.ending().unwrap_or(0)));
    }

    /// Whether no task is left.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.zombie.load(Ordering::SeqCst)
    }

    /// Tells the parent of a change.
    pub(crate) fn tell(&self, news: Wait) {
        *self.news.lock() = Some(news);
        let parent = self.parent.lock().upgrade();
        if let Some(parent) = parent {
            let (code, status) = match news {
                Wait::Stopped(signo) => (c::CLD_STOPPED, signo),
                Wait::Continued => (c::CLD_CONTINUED, c::SIGCONT),
                Wait::Exited => (c::CLD_EXITED, 0),
            };
            parent.signal(SigInfo::child(code, self.pid, 0, status));
            parent.child_queue.wake(PollEvents::IN);
        }
    }

    /// A limit, by `RLIMIT_*`.
    #[must_use]
    pub fn limit(&self, index: u32) -> u64 {
        self.limits.lock().get(index as usize).map_or(u64::MAX, |limit| limit.cur)
    }
}
