//! Control groups of the host (cgroups(7)) for the processes of a sandbox.
#![forbid(unsafe_code)]

mod hierarchy;
mod resources;
mod settings;
mod stats;
mod systemd;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

pub use hierarchy::{Hierarchies, Hierarchy};
pub use resources::{BlockIo, Cpu, HugepageLimit, Memory, Network, Pids, Priority, Resources, Throttle};
pub use stats::Stats;

/// Controllers of version 1 whose groups every container gets; others only when they are to limit something.
const USUAL: [&str; 6] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio"];

/// How long processes that have been killed may take to leave their group.
const PATIENCE: Duration = Duration::from_secs(5);

/// The control groups of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    unified: bool,
    /// Directories by controller; with version 2 there is one, and no controller's name.
    dirs: BTreeMap<String, PathBuf>,
    /// The unit of systemd that they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

/// Which controllers a change of resources needs besides [`USUAL`].
fn needs(resources: &Resources, controller: &str) -> bool {
    match controller {
        "hugetlb" => resources.hugepage_limits.as_ref().is_some_and(|limits| !limits.is_empty()),
        "net_cls" => resources.network.as_ref().is_some_and(|network| network.class_id.is_some()),
        "net_prio" => {
            resources.network.as_ref().is_some_and(|network| network.priorities.as_ref().is_some_and(|list| !list.is_empty()))
        }
        _ => USUAL.contains(&controller),
    }
}

/// The directory of a group: below the root if `path` is absolute, otherwise below `base`.
fn place(root: &Path, base: &Path, path: &str) -> Result<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) || relative == Path::new("") {
        bail!("linux.cgroupsPath: {path:?}: must name a group, without \"..\"");
    }
    Ok(if path.starts_with('/') { root.join(relative) } else { base.join(relative) })
}

impl Cgroup {
    /// Names the groups for `path` (`linux.cgroupsPath`; without one, groups called `id` below the caller's). `None` where the host has none.
    /// They aren't made yet.
    ///
    /// # Errors
    /// When the path can't be one.
    pub fn name(path: Option<&str>, id: &str, resources: &Resources) -> Result<Option<Self>> {
        let path = path.filter(|path| !path.is_empty()).unwrap_or(id);
        Ok(match Hierarchies::find()? {
            Hierarchies::None => None,
            Hierarchies::V1(all) => {
                let mut dirs = BTreeMap::new();
                for hierarchy in &all {
                    let dir = place(&hierarchy.mount, &hierarchy.own, path)?;
                    for controller in hierarchy.controllers.iter().filter(|controller| needs(resources, controller)) {
                        dirs.insert(controller.clone(), dir.clone());
                    }
                }
                Some(Self { unified: false, dirs, unit: None })
            }
            Hierarchies::V2(hierarchy) => {
                // Beside the caller's own group: groups with processes can't have controllers for those below.
                let base = hierarchy.own.parent().filter(|dir| dir.starts_with(&hierarchy.mount)).unwrap_or(&hierarchy.mount);
                let dirs = BTreeMap::from([(String::new(), place(&hierarchy.mount, base, path)?)]);
                Some(Self { unified: true, dirs, unit: None })
            }
        })
    }

    /// The group's directory for a controller.
    #[must_use]
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        self.dirs.get(if self.unified { "" } else { controller }).map(PathBuf::as_path)
    }

    /// All directories, each once.
    fn all(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = self.dirs.values().map(PathBuf::as_path).collect();
        all.dedup();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Makes the groups and limits them.
    ///
    /// # Errors
    /// What the host says. What has been made stays: see [`Cgroup::remove`].
    pub fn make(&self, resources: &Resources) -> Result<()> {
        for (controller, dir) in &self.dirs {
            if self.unified {
                make_unified(dir)?;
            } else {
                fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
                if controller == "cpuset" {
                    inherit_cpuset(dir)?;
                }
            }
        }
        self.limit(resources)
    }

    /// Puts a process into the groups.
    ///
    /// # Errors
    /// What the host says.
    pub fn join(&self, pid: i32) -> Result<()> {
        for dir in self.all() {
            let file = dir.join("cgroup.procs");
            fs::write(&file, pid.to_string()).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Makes the groups as a unit of systemd, and puts a process into them. `path`: `slice:prefix:name`.
    ///
    /// # Errors
    /// When systemd isn't there or refuses.
    pub fn make_unit(path: Option<&str>, id: &str, pid: i32, resources: &Resources) -> Result<Option<Self>> {
        let unit = systemd::start(path.unwrap_or_default(), id, pid, resources)?;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut group = match Hierarchies::parse(&mounts, &text) {
            Hierarchies::None => return Ok(None),
            Hierarchies::V1(all) => {
                let mut dirs = BTreeMap::new();
                for hierarchy in &all {
                    for controller in hierarchy.controllers.iter().filter(|controller| needs(resources, controller)) {
                        dirs.insert(controller.clone(), hierarchy.own.clone());
                    }
                }
                Self { unified: false, dirs, unit: None }
            }
            Hierarchies::V2(hierarchy) => {
                Self { unified: true, dirs: BTreeMap::from([(String::new(), hierarchy.own)]), unit: None }
            }
        };
        group.unit = Some(unit);
        group.limit(resources)?;
        Ok(Some(group))
    }

    /// Processes in the groups.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mut all: Vec<i32> = Vec::new();
        for dir in self.all() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Kills what is left in the groups and removes them.
    ///
    /// # Errors
    /// When processes don't end, or the host says otherwise.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for dir in self.all() {
            let mut wait = Duration::from_micros(200);
            loop {
                match fs::remove_dir(dir) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    // Processes are in it, or have ended only just now.
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                        if Instant::now() > deadline {
                            return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
                        }
                        self.kill();
                        std::thread::sleep(wait);
                        wait = (wait * 2).min(Duration::from_millis(50));
                    }
                    Err(error) => return Err(error).with_context(|| format!("cannot remove {}", dir.display())),
                }
            }
        }
        if let Some(unit) = &self.unit {
            systemd::stop(unit);
        }
        Ok(())
    }

    /// Kills what is in the groups.
    pub fn kill(&self) {
        for pid in self.processes().into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Makes a group of version 2, with the controllers on that its parents have.
fn make_unified(dir: &Path) -> Result<()> {
    let mut parents: Vec<&Path> =
        dir.ancestors().skip(1).take_while(|dir| dir.join("cgroup.controllers").exists() || !dir.exists()).collect();
    parents.reverse();
    for parent in parents {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        for controller in available.split_whitespace() {
            // One by one: a controller that can't be had (threaded groups, say) must not keep the others away. What is really needed is missed
            // when its limit is set.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())
}

/// A new group of cpuset has no processors and no memory until it is told (cpuset(7)): it gets its parent's.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let mut empty = Vec::new();
        let mut value = String::new();
        for group in dir.ancestors() {
            let Ok(text) = fs::read_to_string(group.join(name)) else { break };
            if !text.trim().is_empty() {
                text.trim().clone_into(&mut value);
                break;
            }
            empty.push(group.join(name));
        }
        for file in empty.iter().rev() {
            fs::write(file, &value).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_root() {
        let (root, own) = (Path::new("/c/memory"), Path::new("/c/memory/user"));
        assert_eq!(place(root, own, "/docker/a").unwrap(), Path::new("/c/memory/docker/a"));
        assert_eq!(place(root, own, "a").unwrap(), Path::new("/c/memory/user/a"));
        for bad in ["/", "..", "/docker/../..", ""] {
            assert!(place(root, own, bad).is_err(), "{bad:?}");
        }
    }
}
