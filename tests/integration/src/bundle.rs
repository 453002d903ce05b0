//! A bundle to try the OCI command line on.

#![allow(clippy::missing_panics_doc, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, palisade};

/// What Docker gives to containers.
const CAPS: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A bundle of its own with a state root of its own; removed on drop.
pub struct Bundle {
    pub dir: PathBuf,
}

impl Bundle {
    /// A bundle over the host's files that runs a shell script.
    ///
    /// # Panics
    /// When it can't be made, as all of these.
    #[must_use]
    pub fn new(name: &str, script: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("palisade-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("rootfs")).unwrap();
        let bundle = Self { dir };
        let spec = bundle.palisade(&["spec", "--bundle", bundle.path()]);
        assert_eq!(spec.status, 0, "{spec:?}");
        // The host's /usr and the links to it, read-only, are a userland.
        bundle.edit(|config| {
            let argv = ["/usr/bin/sh", "-c", script];
            config["process"]["args"] = argv.iter().map(|word| serde_json::Value::from(*word)).collect();
            let mounts = config["mounts"].as_array_mut().unwrap();
            for dir in ["/usr", "/bin", "/lib", "/lib64"].iter().filter(|dir| Path::new(dir).exists()) {
                mounts.push(serde_json::json!({ "destination": dir, "type": "bind", "source": dir, "options": ["bind", "ro"] }));
            }
            config["root"]["readonly"] = false.into();
            let caps = serde_json::json!(CAPS.map(|name| format!("CAP_{name}")));
            config["process"]["capabilities"] = serde_json::json!({ "bounding": caps, "effective": caps, "permitted": caps });
            config["process"]["noNewPrivileges"] = false.into();
        });
        bundle
    }

    #[must_use]
    pub fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    pub fn edit(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.dir.join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
    }

    /// Runs a command with this bundle's state root.
    pub fn palisade(&self, args: &[&str]) -> Outcome {
        // A file for the output: a created container keeps it open.
        let out = self.dir.join("out");
        let (stdout, stderr) = (std::fs::File::create(&out).unwrap(), std::fs::File::create(self.dir.join("err")).unwrap());
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60"]).arg(palisade()).arg("--root").arg(self.dir.join("state")).args(args);
        let status = command.stdin(std::process::Stdio::null()).stdout(stdout).stderr(stderr).status().unwrap();
        let text = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap();
        Outcome { status: status.code().unwrap_or(-1), stdout: text("out"), stderr: text("err") }
    }

    /// Starts a command with this bundle's state root.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(palisade());
        command.arg("--root").arg(self.dir.join("state")).args(args);
        command
    }

    /// Makes a container of it and starts it.
    pub fn run(&self, id: &str) {
        self.ok(&["run", "--detach", "--bundle", self.path(), id]);
    }

    /// Runs a shell script in the container.
    pub fn exec(&self, options: &[&str], id: &str, script: &str) -> Outcome {
        self.palisade(&[&["exec"], options, &[id, "/usr/bin/sh", "-c", script]].concat())
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.palisade(args);
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{args:?}");
        outcome.stdout
    }

    #[must_use]
    pub fn status(&self, id: &str) -> String {
        let state: serde_json::Value = serde_json::from_str(&self.ok(&["state", id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    pub fn wait_for(&self, id: &str, status: &str) {
        let start = std::time::Instant::now();
        while self.status(id) != status {
            assert!(start.elapsed().as_secs() < 20, "{id} isn't {status} but {}", self.status(id));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for id in self.palisade(&["list", "--quiet"]).stdout.lines() {
            self.palisade(&["delete", "--force", id]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
