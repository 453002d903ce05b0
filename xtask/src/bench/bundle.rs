//! The box: one OCI bundle for all runtimes, made of the host's root, and the same directory natively.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Runner, rows};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// git trusts no configuration of the host's.
const ENV: [&str; 5] = [PATH, "HOME=/tmp", "LC_ALL=C", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null"];

/// What a peer needs to run beside us, and to write where we write: to the disk.
const PEERS: [(&str, &[&str]); 3] = [
    ("runc", &[]),
    ("crun", &["--cgroup-manager=disabled"]),
    ("runsc", &["--network=none", "--ignore-cgroups", "--overlay2=none", "--platform=systrap"]),
];

/// Everybody who is there, the native one first.
pub fn runners(palisade: &Path, peers: Option<&Path>) -> Vec<Runner> {
    let mut all = vec![Runner { name: "native".to_owned(), runtime: None, flags: &[] }];
    for (name, flags) in PEERS {
        let given = peers.map(|dir| dir.join(name)).filter(|path| path.exists());
        let runtime = given.unwrap_or_else(|| PathBuf::from(name));
        let there = Command::new(&runtime).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if there.is_ok_and(|status| status.success()) {
            all.push(Runner { name: name.to_owned(), runtime: Some(runtime), flags });
        } else {
            println!("skipped: {name} is not installed");
        }
    }
    all.push(Runner { name: "palisade".to_owned(), runtime: Some(palisade.to_owned()), flags: &[] });
    all
}

/// A directory with the bundle and what it works on; removed on drop.
pub struct Work {
    dir: PathBuf,
    count: AtomicU32,
}

impl Work {
    /// A working directory with the program that measures, and the host's root beside it.
    pub fn new(program: &Path) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the peers need root");
        let dir = PathBuf::from("/var/tmp").join(format!("palisade-bench-{}", std::process::id()));
        fs::create_dir_all(dir.join("rootfs"))?;
        let work = Self { dir, count: AtomicU32::new(0) };
        let mounted = Command::new("mount").args(["--bind", "/"]).arg(work.dir.join("rootfs")).status()?;
        ensure!(mounted.success(), "mount --bind / failed");
        fs::create_dir(work.inner())?;
        fs::copy(program, work.inner().join("guest-bench"))?;
        Ok(work)
    }

    fn inner(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Makes what the rows work on.
    pub fn prepare(&self, commands: &str) -> Result<()> {
        fs::write(self.inner().join(rows::FILE), commands)?;
        let status = Command::new("sh").args(["-c", rows::SETUP]).current_dir(self.inner()).status()?;
        ensure!(status.success(), "cannot make the files to work on");
        Ok(())
    }

    fn config(&self, argv: &[&str]) -> serde_json::Value {
        let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
        let inner = self.inner();
        json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": argv, "env": ENV, "cwd": "/mnt", "terminal": false },
            "root": { "path": "rootfs", "readonly": true },
            "hostname": "bench",
            "mounts": [
                mount("/proc", "proc", "proc", &[]),
                mount("/dev", "tmpfs", "tmpfs", &["nosuid", "mode=755"]),
                mount("/dev/shm", "tmpfs", "shm", &["nosuid", "nodev", "mode=1777"]),
                mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
                mount("/mnt", "bind", &inner.display().to_string(), &["bind", "rw"]),
            ],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }] },
        })
    }

    /// The command that runs `argv` in the working directory of a new box.
    pub fn command(&self, runner: &Runner, argv: &[&str]) -> Result<Command> {
        let Some(runtime) = &runner.runtime else {
            // With a /tmp in memory, as the boxes have.
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", r#"mount -t tmpfs tmp /tmp && exec "$@""#, "sh"]).args(argv);
            command.current_dir(self.inner()).env_clear().envs(ENV.iter().filter_map(|entry| entry.split_once('=')));
            return Ok(command);
        };
        fs::write(self.dir.join("config.json"), serde_json::to_vec(&self.config(argv))?).context("cannot write the bundle")?;
        let mut command = Command::new(runtime);
        let id = format!("bench-{}-{}", std::process::id(), self.count.fetch_add(1, Ordering::Relaxed));
        command.arg("--root").arg(self.state(runner)).args(runner.flags).args(["run", "--bundle"]).arg(&self.dir).arg(id);
        Ok(command)
    }

    fn state(&self, runner: &Runner) -> PathBuf {
        self.dir.join(format!("state-{}", runner.name))
    }

    /// Ends what a runner has left running.
    pub fn end(&self, runner: &Runner) {
        let Some(runtime) = &runner.runtime else { return };
        let last = self.count.load(Ordering::Relaxed).saturating_sub(1);
        let id = format!("bench-{}-{last}", std::process::id());
        // It has ended already, mostly.
        let _ = Command::new(runtime)
            .arg("--root")
            .arg(self.state(runner))
            .args(runner.flags)
            .args(["delete", "--force", &id])
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.dir.join("rootfs")).status();
        // Never remove what may be the host's root: this takes an empty directory only.
        if unmounted.is_ok_and(|status| status.success()) && fs::remove_dir(self.dir.join("rootfs")).is_ok() {
            let _ = fs::remove_dir_all(&self.dir);
        } else {
            eprintln!("{} could not be unmounted and is left", self.dir.display());
        }
    }
}
