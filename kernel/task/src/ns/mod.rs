//! Namespaces of tasks (namespaces(7)): which there are, how they are made, left and entered.
//!
//! The user namespace stands in the credentials, the pid namespace is where a process has its number.

mod enter;
mod ipc;
mod nsfs;
mod pid;
mod uts;

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::signal::{SIG_IGN, SigAction, SigInfo};
use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, UserNamespace, new_inum};
use sync::Parker;
use vfs::MountNamespace;

use crate::cgroup::Cgroup;
use crate::current::Current;
use crate::group::Group;
use crate::kernel::Kernel;
use crate::net::NetNamespace;
use crate::stop::STOP_SIGNALS;
use crate::tasks::Task;

pub use ipc::{IpcNamespace, QueueFs};
pub use nsfs::NsFile;
pub use pid::{Pid, PidNamespace};
pub use uts::{MAX_NAME, UtsNamespace};

/// `PROC_CGROUP_INIT_INO`
const FIRST_CGROUP_INUM: u64 = 0xefff_fffb;

/// A view of control groups (cgroup_namespaces(7)).
pub struct CgroupNamespace {
    pub ino: u64,
    pub user_ns: Arc<UserNamespace>,
    /// What is seen as the root; that of all if nothing.
    root: Option<Arc<Cgroup>>,
}

impl CgroupNamespace {
    /// The first.
    #[must_use]
    pub fn initial(user_ns: Arc<UserNamespace>) -> Arc<Self> {
        Arc::new(Self { ino: FIRST_CGROUP_INUM, user_ns, root: None })
    }

    /// The group that is seen as the root.
    #[must_use]
    pub fn root(&self, kernel: &Kernel) -> Arc<Cgroup> {
        self.root.clone().unwrap_or_else(|| kernel.cgroups.root.clone())
    }
}

/// The namespaces of a task.
#[derive(Clone)]
pub struct Namespaces {
    pub uts: Arc<UtsNamespace>,
    pub ipc: Arc<IpcNamespace>,
    pub net: Arc<dyn NetNamespace>,
    pub cgroup: Arc<CgroupNamespace>,
    /// Where its children have their numbers.
    pub pid_for_children: Arc<PidNamespace>,
}

/// Flags of what is made by [`Namespaces::renew`].
const RENEWABLE: u64 = (c::CLONE_NEWUTS | c::CLONE_NEWIPC | c::CLONE_NEWNET | c::CLONE_NEWCGROUP | c::CLONE_NEWPID) as u64;

impl Namespaces {
    /// With new ones in place of those that `flags` (`CLONE_NEW*`) name, which `who` makes; a mount namespace is only asked for here.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` when there are too many within each other.
    pub fn renew(&self, flags: u64, who: &Credentials) -> SysResult<Self> {
        let mut new = self.clone();
        if flags & (RENEWABLE | c::CLONE_NEWNS as u64) == 0 {
            return Ok(new);
        }
        let user_ns = &who.user_ns;
        if !who.has_capability_in(user_ns, Capability::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let has = |flag: i32| flags & u64::from(flag.cast_unsigned()) != 0;
        if has(c::CLONE_NEWPID) {
            new.pid_for_children = self.pid_for_children.child(user_ns.clone())?;
        }
        if has(c::CLONE_NEWUTS) {
            new.uts = self.uts.copy(user_ns.clone());
        }
        if has(c::CLONE_NEWIPC) {
            new.ipc = IpcNamespace::fresh(user_ns.clone());
        }
        if has(c::CLONE_NEWCGROUP) {
            // Where who makes it is becomes its root.
            let root = crate::current().map(|task| task.group.cgroup(&task.kernel));
            new.cgroup = Arc::new(CgroupNamespace { ino: new_inum(), user_ns: user_ns.clone(), root });
        }
        if has(c::CLONE_NEWNET) {
            new.net = self.net.fresh(user_ns.clone());
        }
        Ok(new)
    }
}

/// A namespace that can be entered (setns(2)).
#[derive(Clone)]
pub enum Namespace {
    User(Arc<UserNamespace>),
    Uts(Arc<UtsNamespace>),
    Ipc(Arc<IpcNamespace>),
    Net(Arc<dyn NetNamespace>),
    Cgroup(Arc<CgroupNamespace>),
    Pid(Arc<PidNamespace>),
    Mount(Arc<MountNamespace>),
}

impl Namespace {
    /// Its `CLONE_NEW*` flag.
    #[must_use]
    pub fn flag(&self) -> i32 {
        match self {
            Self::User(_) => c::CLONE_NEWUSER,
            Self::Uts(_) => c::CLONE_NEWUTS,
            Self::Ipc(_) => c::CLONE_NEWIPC,
            Self::Net(_) => c::CLONE_NEWNET,
            Self::Cgroup(_) => c::CLONE_NEWCGROUP,
            Self::Pid(_) => c::CLONE_NEWPID,
            Self::Mount(_) => c::CLONE_NEWNS,
        }
    }

    /// The word before its number in /proc/pid/ns.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Uts(_) => "uts",
            Self::Ipc(_) => "ipc",
            Self::Net(_) => "net",
            Self::Cgroup(_) => "cgroup",
            Self::Pid(_) => "pid",
            Self::Mount(_) => "mnt",
        }
    }

    /// Its inode number.
    #[must_use]
    pub fn ino(&self) -> u64 {
        match self {
            Self::User(ns) => ns.inum,
            Self::Uts(ns) => ns.ino,
            Self::Ipc(ns) => ns.ino,
            Self::Net(ns) => ns.ino(),
            Self::Cgroup(ns) => ns.ino,
            Self::Pid(ns) => ns.ino,
            Self::Mount(ns) => ns.id(),
        }
    }

    /// The user namespace that it belongs to; of a user namespace, its parent.
    #[must_use]
    pub fn owner(&self) -> Option<&Arc<UserNamespace>> {
        match self {
            Self::User(ns) => ns.parent(),
            Self::Uts(ns) => Some(&ns.user_ns),
            Self::Ipc(ns) => Some(&ns.user_ns),
            Self::Net(ns) => Some(ns.user_ns()),
            Self::Cgroup(ns) => Some(&ns.user_ns),
            Self::Pid(ns) => Some(&ns.user_ns),
            Self::Mount(ns) => Some(ns.owner()),
        }
    }
}

impl Task {
    /// Its namespace of a kind, by the name of the link in /proc/pid/ns.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<Namespace> {
        let shared = self.lock();
        Some(match name {
            "user" => Namespace::User(shared.credentials.user_ns.clone()),
            "uts" => Namespace::Uts(shared.ns.uts.clone()),
            "ipc" => Namespace::Ipc(shared.ns.ipc.clone()),
            "net" => Namespace::Net(shared.ns.net.clone()),
            "cgroup" => Namespace::Cgroup(shared.ns.cgroup.clone()),
            "mnt" => Namespace::Mount(shared.mount_ns.clone()),
            "pid" => Namespace::Pid(self.group.pid_ns().clone()),
            "pid_for_children" => Namespace::Pid(shared.ns.pid_for_children.clone()),
            _ => return None,
        })
    }
}

impl Group {
    /// Where it has its number.
    #[must_use]
    pub fn pid_ns(&self) -> &Arc<PidNamespace> {
        self.number.namespace()
    }

    /// Its number in a namespace; 0 where it isn't seen.
    #[must_use]
    pub fn pid_in(&self, ns: &PidNamespace) -> i32 {
        if ns.level() == 0 { self.pid } else { self.number.number_in(ns) }
    }

    /// Its number for itself.
    #[must_use]
    pub fn own_pid(&self) -> i32 {
        self.pid_in(self.pid_ns())
    }

    /// Whether it is the first process of its pid namespace, which ends with it.
    #[must_use]
    pub fn is_init(&self) -> bool {
        self.own_pid() == 1
    }

    /// The first process of a namespace has only the signals that it asks for (pid_namespaces(7)), those of the kernel, and those of
    /// processes outside that nobody can ask for; where somebody outside takes part in job control, also those that stop it.
    pub(crate) fn shielded_from(&self, info: &SigInfo) -> bool {
        if info.code > 0 || !self.is_init() {
            return false;
        }
        // Somebody outside continues it.
        if STOP_SIGNALS.contains(info.signo) && self.on_stop.get().is_some() {
            return false;
        }
        // Who sends it from outside has no number here.
        let outside = self.pid_ns().level() > 0
            && matches!(info.code, c::SI_USER | c::SI_TKILL | c::SI_QUEUE)
            && info.fields.first().is_some_and(|pid| *pid as u32 == 0);
        !(outside && matches!(info.signo, c::SIGKILL | c::SIGSTOP))
    }
}

impl Kernel {
    /// The last thread of a namespace's first process ends: so does everything else in there, before it is gone itself. Waits on `parker`,
    /// the ending thread's.
    pub(crate) fn end_namespace(&self, init: &Arc<Group>, parker: &Arc<Parker>) {
        let ns = init.pid_ns();
        let others = ns.end();
        // Nobody waits for its children any more.
        init.set_action(c::SIGCHLD, SigAction { handler: SIG_IGN, ..SigAction::default() });
        {
            let mut jobs = self.jobs.lock();
            let children = init.children.lock().clone();
            children.iter().filter(|child| child.is_zombie()).for_each(|child| self.reap(&mut jobs, Some(init), child));
        }
        others.iter().filter_map(|number| self.group(*number)).for_each(|other| other.end(c::SIGKILL));
        let _entry = ns.queue.register(PollEvents::IN, parker.clone());
        let inside = |other: &Arc<Group>| !Arc::ptr_eq(other, init) && ns.holds(other.pid_ns());
        loop {
            let left = self.groups.lock().values().any(inside);
            if !left {
                return;
            }
            parker.park(None);
        }
    }
}

impl Task {
    /// Its number in a namespace; 0 where it isn't seen.
    #[must_use]
    pub fn tid_in(&self, ns: &PidNamespace) -> i32 {
        if ns.level() == 0 { self.tid() } else { self.lock().number.number_in(ns) }
    }

    /// Its number for itself.
    #[must_use]
    pub fn own_tid(&self) -> i32 {
        self.tid_in(self.group.pid_ns())
    }
}

impl Current {
    /// Where it has its number, by which it calls others.
    #[must_use]
    pub fn pid_ns(&self) -> &Arc<PidNamespace> {
        self.task.group.pid_ns()
    }

    /// How this task calls what the kernel calls `global`: a task, process, group or session. 0 when it can't see it.
    #[must_use]
    pub fn local(&self, global: i32) -> i32 {
        self.pid_ns().local(global)
    }

    /// What the kernel calls what this task calls `number`; `None` when there is no such thing here.
    #[must_use]
    pub fn global(&self, number: i32) -> Option<i32> {
        self.pid_ns().global(number)
    }

    /// The task that this one calls `number`.
    #[must_use]
    pub fn find_task(&self, number: i32) -> Option<Arc<Task>> {
        self.task.kernel.task(self.global(number)?)
    }

    /// The process that this task calls `number`.
    #[must_use]
    pub fn find_process(&self, number: i32) -> Option<Arc<Group>> {
        self.task.kernel.group(self.global(number)?)
    }
}
