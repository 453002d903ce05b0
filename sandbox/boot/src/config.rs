//! What to run.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use abi::c;
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
    /// A filesystem of the kernel inside, by the name of its type. A tmpfs on /dev gets the nodes that programs expect there.
    Internal {
        kind: String,
        /// What is shown as its source.
        name: String,
        /// Options as mount(2) has them: `size=64m,mode=755`.
        options: String,
    },
}

/// What a mount tells others that show the same, and is told by them (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Shared,
    Slave,
    Unbindable,
}

/// A mount, in order of mounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub target: String,
    pub source: Source,
    /// `MS_*` (mount(2)).
    pub flags: u64,
    /// And whether that goes for all below.
    pub propagation: Option<(Propagation, bool)>,
}

impl Mount {
    /// A filesystem of the kernel inside.
    #[must_use]
    pub fn internal(target: &str, kind: &str, options: &str, flags: u64) -> Self {
        let source = Source::Internal { kind: kind.into(), name: kind.into(), options: options.into() };
        Self { target: target.into(), source, flags, propagation: None }
    }

    /// A file or directory of the host.
    #[must_use]
    pub fn bind(target: &str, path: PathBuf, writes: Writes) -> Self {
        let flags = if writes == Writes::No { c::MS_RDONLY | c::MS_RELATIME } else { c::MS_RELATIME };
        Self { target: target.into(), source: Source::Bind(path, writes), flags, propagation: None }
    }
}

/// A device node to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub path: String,
    /// Type and permissions.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
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
    /// Nodes beside those that every sandbox has.
    pub devices: Vec<Device>,
    /// Files and directories that are hidden: by an empty file, an empty directory.
    pub masked: Vec<String>,
    /// Files and directories that can't be changed.
    pub read_only: Vec<String>,
    /// What the root tells and is told.
    pub propagation: Option<(Propagation, bool)>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Settings of the kernel inside (sysctl(8)), and their values.
    pub sysctls: Vec<(String, String)>,
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
    /// Where the trace and what is said at the end go; `None`: to standard error.
    pub log: Option<Arc<File>>,
}

impl BootConfig {
    /// Whether anything on the host may be changed.
    #[must_use]
    pub fn writes_to_host(&self) -> bool {
        let bound = |mount: &Mount| matches!(mount.source, Source::Bind(_, Writes::ToHost));
        self.writes == Writes::ToHost || self.mounts.iter().any(bound)
    }

    /// What every sandbox has mounted: /proc, /dev, /dev/pts, /dev/shm, /sys, /sys/fs/cgroup, /tmp.
    #[must_use]
    pub fn usual_mounts() -> Vec<Mount> {
        let usual = c::MS_NOSUID | c::MS_NODEV | c::MS_NOEXEC | c::MS_RELATIME;
        vec![
            Mount::internal("/proc", "proc", "", usual),
            Mount::internal("/dev", "tmpfs", "mode=755", c::MS_NOSUID | c::MS_RELATIME),
            Mount::internal("/dev/pts", "devpts", "ptmxmode=0666,mode=0620,gid=5", c::MS_NOSUID | c::MS_NOEXEC | c::MS_RELATIME),
            Mount::internal("/dev/shm", "tmpfs", "mode=1777", c::MS_NOSUID | c::MS_NODEV | c::MS_RELATIME),
            Mount::internal("/sys", "sysfs", "", usual | c::MS_RDONLY),
            Mount::internal("/sys/fs/cgroup", "cgroup2", "", usual),
            Mount::internal("/tmp", "tmpfs", "mode=1777", c::MS_RELATIME),
        ]
    }
}
