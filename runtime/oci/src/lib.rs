//! Containers as the OCI runtime specification has them.
#![forbid(unsafe_code)]

mod bundle;
mod create;
mod debug;
mod exec;
mod features;
#[cfg(test)]
mod fuzz;
mod hooks;
mod lifecycle;
mod mounts;
mod observe;
mod options;
mod policy;
mod process;
mod seccomp;
mod spec;
mod state;

pub use bundle::write_spec;
pub use cgroup::{BlockIo, Cpu, Memory, Pids, Resources};
pub use control::ProcessInfo;
pub use create::{CreateOptions, Then, create, run};
pub use debug::{set_log_level, stacks, strace};
pub use exec::{ExecOptions, exec};
pub use features::features;
pub use lifecycle::{Refused, delete, kill, pause, start, update, wait};
pub use observe::{events, host_processes, processes};
pub use options::Options;
pub use policy::{Overlay, check_host_files, check_network, debug_log, open_debug_log};
pub use spec::parse;
pub use state::{Container, NotFound, Status, now, state_root};
