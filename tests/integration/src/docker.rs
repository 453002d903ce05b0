//! A dockerd of its own, for tests.

#![allow(clippy::missing_panics_doc, reason = "helpers of tests")]

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Outcome, native, palisade};

/// A running dockerd that knows palisade and an image called `box`; ended, and its files removed, on drop.
pub struct Docker {
    pub dir: PathBuf,
    daemon: Child,
}

/// Where a program is.
fn find(name: &str) -> Option<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

/// The pid in a file.
fn pid(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

impl Docker {
    /// Starts it.
    ///
    /// # Errors
    /// Why Docker can't be tried here.
    pub fn start() -> Result<Self, String> {
        let busybox = find("busybox").ok_or("no busybox (apt-get install busybox-static)")?;
        let dockerd = find("dockerd").ok_or("no dockerd (apt-get install docker.io)")?;
        if native(&["id", "-u"]).stdout.trim() != "0" {
            return Err("only root can run dockerd".into());
        }
        let dir = std::env::temp_dir().join(format!("palisade-docker-test-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("run")).map_err(|error| error.to_string())?;
        let config = dir.join("daemon.json");
        std::fs::write(&config, "{\n  \"storage-driver\": \"overlay2\"\n}\n").map_err(|error| error.to_string())?;
        let installed = native(&[palisade().to_str().unwrap(), "install", "--config-file", config.to_str().unwrap()]);
        assert_eq!(installed.status, 0, "{installed:?}");
        let log = File::create(dir.join("log")).map_err(|error| error.to_string())?;
        let daemon = Command::new(dockerd)
            .arg("--config-file")
            .arg(&config)
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("run"))
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", dir.join("socket").display()))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let docker = Self { dir, daemon };
        let start = Instant::now();
        while docker.run(&["info"]).status != 0 {
            if start.elapsed().as_secs() > 30 {
                let log = std::fs::read_to_string(docker.dir.join("log")).unwrap_or_default();
                return Err(format!("dockerd doesn't start here: {}", log.lines().last().unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        docker.import(&busybox);
        Ok(docker)
    }

    /// Makes an image of busybox alone.
    fn import(&self, busybox: &Path) {
        let tree = self.dir.join("tree");
        for dir in ["bin", "etc", "tmp", "root", "var"] {
            std::fs::create_dir_all(tree.join(dir)).unwrap();
        }
        std::fs::copy(busybox, tree.join("bin/busybox")).unwrap();
        let list = native(&[busybox.to_str().unwrap(), "--list"]).stdout;
        for name in list.lines().filter(|name| *name != "busybox") {
            symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        std::fs::write(tree.join("etc/group"), "root:x:0:\n").unwrap();
        let archive = self.dir.join("box.tar");
        let packed = native(&["tar", "-C", tree.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
        assert_eq!(packed.status, 0, "{packed:?}");
        self.ok(&["import", archive.to_str().unwrap(), "box"]);
    }

    /// A docker command that asks this daemon.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            // In the process group of who asks: that may have a terminal.
            .args(["--foreground", "-k", "1", "60", "docker", "--host"])
            .arg(format!("unix://{}", self.dir.join("socket").display()))
            .args(args);
        command
    }

    /// Runs a docker command.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.command(args).stdin(Stdio::null()).output().unwrap().into()
    }

    /// Runs a docker command that must succeed; returns its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.status, 0, "docker {args:?}: {outcome:?}");
        outcome.stdout
    }

    /// `docker run` under palisade.
    #[must_use]
    pub fn inside(&self, options: &[&str], command: &[&str]) -> Outcome {
        self.run(&[&["run", "--runtime=palisade", "--rm"], options, &["box"], command].concat())
    }

    /// The same, with a shell script.
    #[must_use]
    pub fn shell(&self, options: &[&str], script: &str) -> Outcome {
        self.inside(options, &["sh", "-c", script])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for id in self.run(&["ps", "-aq"]).stdout.lines() {
            let _ = self.run(&["rm", "-f", id]);
        }
        let containerd = pid(&self.dir.join("run/containerd/containerd.pid"));
        let _ = native(&["kill", "-TERM", &self.daemon.id().to_string()]);
        let start = Instant::now();
        while self.daemon.try_wait().is_ok_and(|status| status.is_none()) {
            if start.elapsed().as_secs() > 20 {
                let _ = self.daemon.kill();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(pid) = containerd.filter(|pid| Path::new("/proc").join(pid).exists()) {
            let _ = native(&["kill", "-KILL", &pid]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
