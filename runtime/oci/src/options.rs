//! What applies to all commands: the global options of the command line.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use cgroup::Resources;

use crate::policy::Overlay;

/// Global options.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where state is kept.
    pub root: PathBuf,
    /// Control groups are made by systemd.
    pub systemd_cgroup: bool,
    /// There are no control groups.
    pub ignore_cgroups: bool,
    /// What only root may do is done without if it can't be; `None`: unless root asks.
    pub rootless: Option<bool>,
    /// Write every system call.
    pub strace: bool,
    /// Where writes go.
    pub overlay: Overlay,
    /// Where the sandbox writes its trace and what it has to say at the end: standard error if nowhere else.
    pub debug_log: Option<Arc<File>>,
    /// Say at the end which system calls were missed.
    pub debug: bool,
}

impl Options {
    fn rootless(&self) -> bool {
        self.rootless.unwrap_or_else(|| !rustix::process::geteuid().is_root())
    }

    /// Whether a container gets control groups: those that it names, or what it is limited by. Making them isn't free.
    #[must_use]
    pub fn cgroups_wanted(&self, path: Option<&str>, resources: &Resources) -> bool {
        !self.ignore_cgroups && (path.is_some() || !resources.is_empty())
    }

    /// Passes over what can't be had of control groups where that is to be expected.
    ///
    /// # Errors
    /// Where it isn't.
    pub fn cgroup_error<T>(&self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(_) if self.rootless() => Ok(None),
            result => result.map(Some),
        }
    }
}
