//! Tasks, thread groups, signals, futexes, wait: what Linux keeps in kernel/.
//!
//! Each task has one thread of the sentry, which runs [`Current::run`]: switch to guest code, handle why it came back, deliver signals.
//! All waiting happens on that thread, in [`Current::block_on`].
#![forbid(unsafe_code)]

mod bootlog;
mod bpf;
mod cgroup;
mod core;
mod credentials;
mod current;
mod death;
mod deliver;
mod exec;
mod exit;
mod fork;
mod frame;
mod futex;
mod group;
mod jobs;
mod kernel;
mod net;
mod ns;
mod oom;
mod pending;
mod pidfd;
mod position;
mod ptrace;
mod rseq;
mod sched;
mod seccomp;
mod sigio;
mod signal;
mod signalfd;
mod stop;
mod tasks;
mod timers;
mod trace;
mod usage;
mod wait;
mod worker;

pub use bpf::{BpfProgram, Programs, Room};
pub use cgroup::{Attached, Cgroup, CgroupFs, Cgroups};
pub use core::MAX_CORE_PATTERN;
pub use credentials::Access;
pub use current::{Current, Resumption};
pub use fork::{CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP, CloneRequest};
pub use futex::{FutexTable, FutexWord, Interest as FutexInterest};
pub use group::{Actions, Group, Signals};
pub use jobs::{Jobs, ProcessGroup, Session, Terminal};
pub use kernel::{Kernel, OnExit, OnStop, Prepare, ProcessRequest, Quota, RELEASE, VERSION};
pub use loader::Program;
pub use net::NetNamespace;
pub use ns::{CgroupNamespace, IpcNamespace, MAX_NAME, Namespace, Namespaces, NsFile, Pid, PidNamespace, QueueFs, UtsNamespace};
pub use pending::{Pending, Source};
pub use pidfd::PidFd;
pub use position::Place;
pub use ptrace::{CallInfo, Event, Ptracer, RegSet, Resume};
pub use sched::{CpuSet, Scheduled, Scheduling};
pub use seccomp::{Answer, FilterOptions, Filters, Invocation, Listener, Notifier, Refused};
pub use sigio::{F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID, SigIo};
pub use signal::ignored_by_default;
pub use signalfd::SignalFd;
pub use tasks::{Shared, Task, current};
pub use timers::{CpuClock, Notify, PosixTimer, TimerClock, Which};
pub use trace::{Sink, Trace};
pub use usage::{Usage, Used};
pub use wait::{Waited, Who};
pub use worker::Worker;
