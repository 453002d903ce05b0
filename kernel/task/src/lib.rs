//! Tasks, thread groups, signals, futexes, wait: what Linux keeps in kernel/.
//!
//! Each task has one thread of the sentry, which runs [`Current::run`]: switch to guest code, handle why it came back, deliver signals.
//! All waiting happens on that thread, in [`Current::block_on`].
#![forbid(unsafe_code)]

mod bootlog;
mod credentials;
mod current;
mod exit;
mod fork;
mod futex;
mod kernel;
mod net;
mod seccomp;
mod sigio;
mod signal;
mod tasks;
mod trace;
mod worker;

pub use credentials::Access;
pub use current::Current;
pub use fork::CloneRequest;
pub use futex::{FutexTable, FutexWord, Interest as FutexInterest};
pub use kernel::{Kernel, OnExit, ProcessRequest, Quota, RELEASE, VERSION};
pub use net::NetNamespace;
pub use seccomp::{Answer, FilterOptions, Filters, Invocation, Listener, Notifier, Refused};
pub use sigio::{F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID, SigIo};
pub use tasks::{Group, Pending, Shared, Task, Wait};
pub use trace::{Sink, Trace};
pub use worker::Worker;
