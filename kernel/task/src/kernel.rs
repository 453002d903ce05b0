//! The kernel: what all tasks share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use abi::structs::Rlimit;
use abi::{Errno, SysResult};
use auth::{Credentials, ExecOutcome, Unsafe, UserNamespace};
use loader::Failure;
use platform::{Platform, UserRegs};
use sync::{Mutex, Parker, WaitQueue, monotonic_ns};
use timer::Timers;
use vfs::{Caller, FdTable, File, FileSystems, FsContext, MountNamespace, WalkFlags};

use crate::bootlog;
use crate::bpf::Programs;
use crate::cgroup::{self, Cgroups};
use crate::credentials::exec_file;
use crate::current::Current;
use crate::exec::identity;
use crate::fork::Surroundings;
use crate::futex::FutexTable;
use crate::group::Group;
use crate::jobs::Jobs;
use crate::net::NetNamespace;
use crate::ns::{CgroupNamespace, IpcNamespace, Namespaces, Pid, PidNamespace, UtsNamespace};
use crate::seccomp::Filters;
use crate::tasks::Task;
use crate::trace::{Sink, Trace};
use crate::worker::Worker;

/// What uname(2) says.
pub const RELEASE: &str = "6.12.0-palisade";
/// What uname(2) says.
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Palisade";

/// Tasks of one sandbox at most.
const MAX_TASKS: u64 = 16384;

/// Handles a system call.
pub type Dispatch = fn(&mut Current, u64, [u64; 6]) -> SysResult<u64>;

/// Is told the wait status of a process that has no parent inside.
pub type OnExit = Box<dyn FnOnce(i32) + Send>;

/// Is called with a process before it runs.
pub type Prepare = Box<dyn FnOnce(&Arc<Group>) + Send>;

/// Is told the signal that has stopped a process that has no parent inside.
pub type OnStop = Box<dyn Fn(i32) + Send + Sync>;

/// What a process without a parent is: the first one, or one that is started from outside.
pub struct ProcessRequest {
    /// Its root is the process's.
    pub mount_ns: Arc<MountNamespace>,
    pub cwd: Vec<u8>,
    pub umask: u32,
    /// The program's file.
    pub path: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    pub stdio: Vec<Arc<File>>,
    /// Of who runs the program, in the kernel's first user namespace: the program's own are what execve(2) makes of them.
    pub credentials: Credentials,
    pub no_new_privs: bool,
    /// A seccomp filter that holds from the program's first instruction on.
    pub filter: Option<Vec<cbpf::Instruction>>,
    /// Resource limits (`RLIMIT_*`) that are not the usual ones.
    pub limits: Vec<(usize, Rlimit)>,
    /// Called with the process before it runs.
    pub prepare: Option<Prepare>,
    /// oom_score_adj (proc_pid_oom_score_adj(5))
    pub oom_score_adj: i32,
    /// Called when it ends; not for the first process, see [`Kernel::wait_init`].
    pub on_exit: Option<OnExit>,
}

/// What a sandbox may use.
pub struct Quota {
    /// Tasks at most (pids.max).
    pub tasks: AtomicU64,
    /// Bytes of memory, `u64::MAX` if only the host limits it.
    pub memory: AtomicU64,
    /// Processors: no more than the host has for us.
    pub cpus: AtomicU32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { tasks: AtomicU64::new(MAX_TASKS), memory: AtomicU64::new(u64::MAX), cpus: AtomicU32::new(1) }
    }
}

impl Quota {
    /// Lets there be so many tasks.
    pub fn set_tasks(&self, tasks: u64) {
        self.tasks.store(tasks.min(MAX_TASKS), Ordering::Relaxed);
    }

    /// Limits memory to so many bytes.
    pub fn set_memory(&self, bytes: Option<u64>) {
        self.memory.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        usermem::budget::set_limit(bytes.unwrap_or(u64::MAX));
    }

    /// Processors that programs see.
    #[must_use]
    pub fn cpus(&self) -> usize {
        usize::try_from(self.cpus.load(Ordering::Relaxed)).unwrap_or(1).max(1)
    }
}

/// The kernel of one sandbox.
pub struct Kernel {
    pub platform: Box<dyn Platform>,
    /// The first user namespace.
    pub user_ns: Arc<UserNamespace>,
    pub(crate) dispatch: Dispatch,
    pub tasks: Mutex<BTreeMap<i32, Arc<Task>>>,
    pub groups: Mutex<BTreeMap<i32, Arc<Group>>>,
    /// Process groups, and the lock over who is whose parent. Outermost.
    pub jobs: Mutex<Jobs>,
    pub futexes: FutexTable,
    /// Woken when a signal has been sent to anybody: who reads a signalfd may be another than who has opened it.
    pub(crate) signal_queue: WaitQueue,
    pub timers: Arc<Timers>,
    /// The first namespaces.
    pub ns: Namespaces,
    /// What dmesg(1) shows.
    pub log: Arc<klog::Log>,
    /// Types of filesystems that can be mounted.
    pub filesystems: FileSystems,
    /// Monotonic time at which the sandbox started.
    pub started: u64,
    /// System calls that this kernel doesn't have, and how often they were made.
    pub unknown: Mutex<BTreeMap<u64, u64>>,
    /// Logins so far.
    pub logins: AtomicU32,
    /// Tasks made since the start.
    pub forks: AtomicU64,
    pub trace: Trace,
    pub quota: Quota,
    pub cgroups: Cgroups,
    pub programs: Arc<Programs>,
    /// Processes killed because memory was up.
    pub oom_kills: AtomicU64,
    /// Settings of /proc/sys as they were last written, by name: those that nothing in the kernel reads elsewhere.
    pub settings: Mutex<BTreeMap<&'static str, Vec<i64>>>,
    /// How core dumps are called (`kernel.core_pattern`).
    pub core_pattern: Mutex<Vec<u8>>,
    /// No task runs programs.
    pub(crate) paused: AtomicBool,
    pub worker: Worker,
    /// The first process's number, while others run before it.
    first: Mutex<Option<Arc<Pid>>>,
    init_status: OnceLock<i32>,
    done: Parker,
}

impl Kernel {
    /// A kernel whose first user namespace is the network namespace's.
    #[must_use]
    pub fn new(platform: Box<dyn Platform>, dispatch: Dispatch, net: Arc<dyn NetNamespace>) -> Arc<Self> {
        let log = klog::Log::default();
        bootlog::write(RELEASE, &log);
        vfs::devices::guard_by(cgroup::may_use_device);
        let user_ns = net.user_ns().clone();
        let ns = Namespaces {
            uts: UtsNamespace::initial(user_ns.clone()),
            ipc: IpcNamespace::initial(user_ns.clone()),
            net,
            cgroup: CgroupNamespace::initial(user_ns.clone()),
            pid_for_children: PidNamespace::initial(user_ns.clone()),
        };
        Arc::new(Self {
            platform,
            user_ns,
            dispatch,
            tasks: Mutex::default(),
            groups: Mutex::default(),
            jobs: Mutex::default(),
            signal_queue: WaitQueue::default(),
            futexes: FutexTable::default(),
            timers: Arc::default(),
            ns,
            log: Arc::new(log),
            filesystems: FileSystems::default(),
            started: monotonic_ns(),
            unknown: Mutex::default(),
            logins: AtomicU32::new(0),
            forks: AtomicU64::new(0),
            trace: Trace::default(),
            quota: Quota::default(),
            cgroups: Cgroups::default(),
            programs: Arc::default(),
            oom_kills: AtomicU64::new(0),
            settings: Mutex::default(),
            core_pattern: Mutex::new(b"core".to_vec()),
            paused: AtomicBool::new(false),
            worker: Worker::default(),
            first: Mutex::default(),
            init_status: OnceLock::new(),
            done: Parker::default(),
        })
    }

    /// A number for a new task in a namespace, and in those around it: `wanted` ones, innermost first, or any.
    ///
    /// # Errors
    /// `EAGAIN` when there are too many tasks; as [`PidNamespace::new_pid`].
    pub(crate) fn new_pid(&self, ns: &Arc<PidNamespace>, wanted: &[i32]) -> SysResult<Arc<Pid>> {
        if self.tasks.lock().len() as u64 >= self.quota.tasks.load(Ordering::Relaxed) {
            return Err(Errno::EAGAIN);
        }
        ns.new_pid(wanted)
    }

    /// Starts the first process, or another one without a parent; returns its number.
    ///
    /// # Errors
    /// As execve(2); `EAGAIN` when there are too many tasks.
    pub fn start_process(self: &Arc<Self>, request: ProcessRequest) -> SysResult<i32> {
        let fs = FsContext::new(request.mount_ns.root(), request.umask & 0o777);
        let who = Arc::new(request.credentials);
        fs.set_cwd(Caller::new(&fs, who.clone()).resolve(&request.cwd, WalkFlags::FOLLOW)?)?;
        let caller = Caller::new(&fs, who.clone());
        let path = request.path;
        let file = caller.resolve(&path, WalkFlags::FOLLOW)?;
        let program =
            loader::Program { file, path, argv: request.argv, envp: request.envp, hidden: false, user_ns: who.user_ns.clone() };
        let filter = request.filter.as_deref().map(Filters::alone).transpose()?;
        let mut outcome = None;
        let image = loader::load(&*self.platform, &caller, program, &mut |file| {
            let hazard = Unsafe { no_new_privs: request.no_new_privs, ..Unsafe::default() };
            let ExecOutcome { credentials, secure } = who.exec(&exec_file(file)?, hazard)?;
            let identity = identity(&credentials, secure);
            outcome = Some(credentials);
            Ok(identity)
        });
        let image = image.map_err(|failure| match failure {
            Failure::Refused(errno) => errno,
            Failure::Broken => Errno::ENOEXEC,
        })?;
        let who = Arc::new(outcome.ok_or(Errno::ENOEXEC)?);
        let fds = Arc::new(FdTable::default());
        for file in request.stdio {
            fds.install(file, false, 0, 1024)?;
        }
        let regs = UserRegs { rip: image.entry, rsp: image.stack, eflags: 0x202, ..UserRegs::default() };
        let context = image.mm.aspace().clone().new_context(&regs, None)?;
        // Who ends the sandbox by its end is its first process.
        let reserved = if request.on_exit.is_none() { self.first.lock().take() } else { None };
        let number = reserved.map_or_else(|| self.new_pid(&self.ns.pid_for_children, &[]), Ok)?;
        let pid = number.global();
        let charge = Task::charge_process(&who, u64::MAX)?;
        let job = self.jobs.lock().new_session(&number);
        let group = Group::new(number.clone(), None, None, job, 0);
        group.oom_score_adj.store(request.oom_score_adj, Ordering::Relaxed);
        request.on_exit.into_iter().for_each(|on_exit| group.on_exit(on_exit));
        for (resource, limit) in request.limits {
            if let Some(slot) = group.limits.lock().get_mut(resource) {
                *slot = limit;
            }
        }
        let surroundings = Surroundings { credentials: who, ns: self.ns.clone(), fs: Arc::new(fs), mount_ns: request.mount_ns };
        let task = Task::new(self, number, &group, image.mm, charge, fds, surroundings, &image.comm);
        task.lock().exe = Some(image.exe);
        task.no_new_privs.store(request.no_new_privs, Ordering::SeqCst);
        if let Some(filter) = filter {
            task.set_filters(filter);
        }
        self.enlist(&task, true);
        self.watch_cpu_limit(&task.group);
        if let Some(prepare) = request.prepare {
            prepare(&task.group);
        }
        Current::start(task.clone(), context, regs).inspect_err(|_| self.delist(&task))?;
        Ok(pid)
    }

    /// Lets programs run before the first process, whose number they don't get.
    ///
    /// # Errors
    /// As [`PidNamespace::new_pid`].
    pub fn reserve_first(&self) -> SysResult<()> {
        let mut first = self.first.lock();
        if first.is_none() {
            *first = Some(self.new_pid(&self.ns.pid_for_children, &[])?);
        }
        Ok(())
    }

    /// Stops all programs where they are, or lets them go on. What a task does in the kernel it still finishes.
    pub fn pause(&self, on: bool) {
        self.paused.store(on, Ordering::SeqCst);
        let tasks: Vec<_> = self.tasks.lock().values().cloned().collect();
        tasks.iter().for_each(|task| task.kick());
    }

    /// Whether it keeps programs from running.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Waits until the first process ends; returns its wait status.
    pub fn wait_init(&self) -> i32 {
        loop {
            if let Some(status) = self.init_status.get() {
                return *status;
            }
            self.done.park(None);
        }
    }

    /// Ends the sandbox without a first process.
    pub fn give_up(&self, status: i32) {
        self.init_ended(status);
    }

    /// Writes all calls to `sink`, from the next one of each task on; returns what [`Self::stop_trace`] wants.
    pub fn start_trace(&self, sink: Sink) -> u64 {
        let generation = self.trace.start(sink);
        self.tell_identities();
        generation
    }

    /// Ends the trace: that one, or whichever it is.
    pub fn stop_trace(&self, generation: Option<u64>) {
        self.trace.stop(generation);
        self.tell_identities();
    }

    /// Identity calls are answered by the kernel while somebody wants to see them.
    fn tell_identities(&self) {
        let tasks: Vec<_> = self.tasks.lock().values().cloned().collect();
        tasks.iter().for_each(|task| task.tell_identity());
    }

    /// A setting that is a number, `first` as long as nobody has set it.
    pub(crate) fn setting(&self, name: &str, first: i64) -> i64 {
        self.settings.lock().get(name).and_then(|numbers| numbers.first()).copied().unwrap_or(first)
    }

    pub(crate) fn init_ended(&self, status: i32) {
        let _ = self.init_status.set(status);
        self.done.unpark();
    }

    /// The group with this number.
    #[must_use]
    pub fn group(&self, pid: i32) -> Option<Arc<Group>> {
        self.groups.lock().get(&pid).cloned()
    }

    /// The task with this number.
    #[must_use]
    pub fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.tasks.lock().get(&tid).cloned()
    }
}
