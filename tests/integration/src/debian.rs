//! A small Debian made by debootstrap, kept below target, and programs that run in it: natively, and as an OCI bundle.

#![allow(clippy::missing_panics_doc, reason = "helpers of tests")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::{Outcome, built, palisade};

const SUITE: &str = "bookworm";
const PACKAGES: &str = "acl,attr,bubblewrap,cron,gcc,git,golang-go,inotify-tools,iproute2,libc6-dev,lsof,make,perl,procps,psmisc,python3,sqlite3,strace,sudo,tmux";
const ENV: [&str; 5] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/tmp",
    "TERM=dumb",
    "LC_ALL=C",
    "GO111MODULE=off",
];

/// A root filesystem.
pub struct Debian {
    root: PathBuf,
}

impl Debian {
    /// Makes it, or finds what an earlier run has made.
    ///
    /// # Errors
    /// Why there is none: it needs root, debootstrap and a mirror.
    pub fn get() -> Result<Self, String> {
        let release = built("palisade");
        let target = release.ancestors().nth(2).ok_or("no target directory")?;
        let root = target.join(format!("debian-{SUITE}"));
        // Only one of many tests makes it.
        let lock = File::create(target.join("debian.lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        if fs::read(root.join(".complete")).is_ok_and(|made| made == PACKAGES.as_bytes()) {
            return Ok(Self { root });
        }
        if Command::new("debootstrap").arg("--version").stdout(Stdio::null()).status().is_err() {
            return Err("debootstrap is not installed".into());
        }
        // Half a system of an earlier run.
        let _ = fs::remove_dir_all(&root);
        let log = File::create(target.join("debian.log")).map_err(|error| error.to_string())?;
        let status = Command::new("timeout")
            .args(["900", "debootstrap", "--variant=minbase", "--include", PACKAGES, SUITE])
            .arg(&root)
            .args(mirror())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stderr(log.try_clone().map_err(|error| error.to_string())?)
            .stdout(log)
            .status()
            .map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("debootstrap ended with {status}: see {}", target.join("debian.log").display()));
        }
        fs::write(root.join(".complete"), PACKAGES).map_err(|error| error.to_string())?;
        Ok(Self { root })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs a script natively in it.
    #[must_use]
    pub fn native(&self, script: &str) -> Outcome {
        let setup = r#"mount -t proc proc "$0/proc" && mount -t tmpfs tmp "$0/tmp" && mount --rbind /dev "$0/dev" &&
            mount --bind "$1" "$0/mnt" && shift && exec chroot "$0" /usr/bin/env -i "$@""#;
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "170", "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", setup]);
        command.arg(&self.root).arg(programs()).args(ENV).args(["/bin/sh", "-c", script]);
        command.stdin(Stdio::null()).output().map(Outcome::from).unwrap_or_else(|error| panic!("unshare: {error}"))
    }

    /// Runs a script as a container over it.
    #[must_use]
    pub fn inside(&self, name: &str, script: &str) -> Outcome {
        let dir = std::env::temp_dir().join(format!("palisade-debian-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
        let config = json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sh", "-c", script], "env": ENV, "cwd": "/" },
            "root": { "path": self.root, "readonly": true },
            "mounts": [
                mount("/proc", "proc", &[]),
                mount("/dev", "tmpfs", &["mode=755"]),
                mount("/tmp", "tmpfs", &["mode=1777"]),
                { "destination": "/mnt", "type": "bind", "source": programs(), "options": ["bind", "ro"] },
            ],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "network" }] },
        });
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "170"]).arg(palisade()).arg("--root").arg(dir.join("state")).args(["run", "--bundle"]);
        let outcome = command.arg(&dir).arg(name).stdin(Stdio::null()).output().map(Outcome::from);
        fs::remove_dir_all(&dir).unwrap();
        outcome.unwrap_or_else(|error| panic!("palisade: {error}"))
    }
}

/// Where our own guest programs are: mounted at /mnt.
fn programs() -> PathBuf {
    built("guest-threads").parent().map_or_else(|| ".".into(), Path::to_owned)
}

/// The mirror that this machine uses already.
fn mirror() -> Option<String> {
    let sources = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").unwrap_or_default();
    sources.lines().find_map(|line| line.strip_prefix("URIs:")).map(|uri| uri.trim().to_owned())
}
