//! What to run.

use std::path::PathBuf;

use control::Process;
use jail::IdMaps;

/// How a host directory is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Refused.
    No,
    /// Kept in memory, and lost at the end.
    ToMemory,
    /// Done on the host.
    ToHost,
}

/// What is mounted somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of the host.
    Bind(PathBuf, Writes),
    Tmpfs {
        mode: u32,
    },
    Proc,
    /// POSIX message queues.
    Queues,
    /// The devices of /dev.
    Devices,
    /// An empty directory that nothing can be made in.
    Empty,
    /// What is known of the machine, in /sys.
    Sys,
}

/// A mount, in order of mounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub target: String,
    pub source: Source,
}

/// What the sandbox may use, as programs see it; `None`: what the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    pub tasks: Option<u64>,
    pub memory: Option<u64>,
    pub cpus: Option<u32>,
}

/// What to run, and over what.
#[derive(Clone, Debug)]
pub struct BootConfig {
    /// The host directory that becomes the root.
    pub root: PathBuf,
    pub writes: Writes,
    pub mounts: Vec<Mount>,
    pub hostname: Option<String>,
    /// The first program.
    pub process: Process,
    /// Users and groups of the host that exist inside.
    pub ids: IdMaps,
    /// A network namespace of the host to run in; `None`: one of its own.
    pub network: Option<PathBuf>,
    pub quota: Quota,
    /// Write every system call to standard error.
    pub strace: bool,
    /// Say at the end which system calls were missed.
    pub debug: bool,
}

impl BootConfig {
    /// Whether anything on the host may be changed.
    #[must_use]
    pub fn writes_to_host(&self) -> bool {
        let bound = |mount: &Mount| matches!(mount.source, Source::Bind(_, Writes::ToHost));
        self.writes == Writes::ToHost || self.mounts.iter().any(bound)
    }

    /// What every sandbox has mounted: /dev, /dev/shm, /proc, /sys, /tmp.
    #[must_use]
    pub fn usual_mounts() -> Vec<Mount> {
        let mount = |target: &str, source| Mount { target: target.to_owned(), source };
        vec![
            mount("/proc", Source::Proc),
            mount("/dev", Source::Devices),
            mount("/dev/shm", Source::Tmpfs { mode: 0o1777 }),
            mount("/sys", Source::Sys),
            mount("/tmp", Source::Tmpfs { mode: 0o1777 }),
        ]
    }
}
