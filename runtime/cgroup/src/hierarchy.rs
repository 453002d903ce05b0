//! Where the host has its control groups.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One hierarchy of version 1, with the controllers that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub controllers: Vec<String>,
    /// Directory of its root.
    pub mount: PathBuf,
    /// Directory of the caller's own group.
    pub own: PathBuf,
}

/// All hierarchies of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    V1(Vec<Hierarchy>),
    /// One for all controllers.
    V2(Hierarchy),
    /// None is mounted.
    None,
}

/// A group's directory: `path` is as /proc/pid/cgroup has it, `root` what of the hierarchy is mounted at `mount`.
fn directory(mount: &Path, root: &str, path: &str) -> PathBuf {
    let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
    mount.join(below.trim_start_matches('/'))
}

impl Hierarchies {
    /// The host's.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn find() -> Result<Self> {
        let read = |path| fs::read_to_string(path).with_context(|| String::from(path));
        Ok(Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
    }

    /// From the texts of /proc/self/mountinfo and /proc/self/cgroup.
    #[must_use]
    pub fn parse(mounts: &str, own: &str) -> Self {
        let mut v1: Vec<Hierarchy> = Vec::new();
        let mut v2 = None;
        for line in mounts.lines() {
            // proc_pid_mountinfo(5): optional fields end with a hyphen.
            let Some((front, back)) = line.split_once(" - ") else { continue };
            let (front, back): (Vec<&str>, Vec<&str>) = (front.split(' ').collect(), back.split(' ').collect());
            let (Some(root), Some(mount), Some(kind), Some(options)) = (front.get(3), front.get(4), back.first(), back.get(2))
            else {
                continue;
            };
            let mount = PathBuf::from(mount.replace("\\040", " "));
            // hierarchy:controllers:path, no controllers for version 2.
            let path_of = |wanted: &dyn Fn(&str) -> bool| {
                own.lines().find_map(|line| {
                    let mut fields = line.splitn(3, ':').skip(1);
                    fields.next().filter(|controllers| wanted(controllers))?;
                    fields.next()
                })
            };
            match *kind {
                "cgroup" => {
                    let known = |option: &&str| {
                        own.lines().any(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == *option)))
                    };
                    let controllers: Vec<String> = options.split(',').filter(known).map(str::to_owned).collect();
                    let Some(first) = controllers.first() else { continue };
                    if v1.iter().any(|other| other.controllers.contains(first)) {
                        continue;
                    }
                    let path = path_of(&|list| list.split(',').any(|controller| controller == first)).unwrap_or("/");
                    v1.push(Hierarchy { controllers, own: directory(&mount, root, path), mount });
                }
                "cgroup2" if v2.is_none() => {
                    let path = path_of(&str::is_empty).unwrap_or("/");
                    v2 = Some(Hierarchy { controllers: Vec::new(), own: directory(&mount, root, path), mount });
                }
                _ => {}
            }
        }
        // With both, version 2 has no controller: they are version 1's.
        match v2 {
            _ if !v1.is_empty() => Self::V1(v1),
            Some(v2) => Self::V2(v2),
            None => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_are_version_1() {
        let mounts = "\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
36 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
        let own = "4:cpu,cpuacct:/docker/abc/x\n3:memory:/user\n1:name=systemd:/\n0::/\n";
        let Hierarchies::V1(all) = Hierarchies::parse(mounts, own) else { panic!() };
        let dirs: Vec<_> = all.iter().map(|one| (one.controllers.join("+"), one.own.display().to_string())).collect();
        let expected = [
            ("name=systemd", "/sys/fs/cgroup/systemd/"),
            ("cpu+cpuacct", "/sys/fs/cgroup/cpu,cpuacct/x"),
            ("memory", "/sys/fs/cgroup/memory/user"),
        ];
        assert_eq!(dirs, expected.map(|(name, dir)| (name.to_owned(), dir.to_owned())));
    }

    #[test]
    fn unified_hosts_are_version_2() {
        let mounts = "31 30 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let all = Hierarchies::parse(mounts, "0::/user.slice/session-1.scope\n");
        let own = PathBuf::from("/sys/fs/cgroup/user.slice/session-1.scope");
        assert_eq!(all, Hierarchies::V2(Hierarchy { controllers: Vec::new(), mount: "/sys/fs/cgroup".into(), own }));
        assert_eq!(Hierarchies::parse("", ""), Hierarchies::None);
    }
}
