//! Helpers for tests of the built product.
#![forbid(unsafe_code)]

mod bundle;
mod debian;
mod docker;
mod pty;
mod random;
mod traces;

use std::path::PathBuf;
use std::process::{Command, Output};

pub use bundle::Bundle;
pub use debian::Debian;
pub use docker::Docker;
pub use pty::{Pty, status};
pub use random::Random;
pub use traces::{nothing_left, traces};

/// A program of this workspace's release build.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target
        .join("release")
        .join(name)
        .canonicalize()
        .unwrap_or_else(|error| panic!("{name}: {error} (build it first: cargo xtask test)"))
}

/// The built command line.
#[must_use]
pub fn palisade() -> PathBuf {
    built("palisade")
}

/// What a command did: exit status (128+n for a signal), standard output, standard error.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status.code().or_else(|| output.status.signal().map(|signo| 128 + signo)).unwrap_or(-1);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Environment that is the same inside and outside.
const ENV: [(&str, &str); 4] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "dumb"),
    ("LC_ALL", "C"),
];

fn finish(mut command: Command) -> Outcome {
    let what = format!("{command:?}");
    command.output().unwrap_or_else(|error| panic!("{what}: {error} (build it first: cargo xtask test)")).into()
}

/// Runs a command on the host.
#[must_use]
pub fn native(argv: &[&str]) -> Outcome {
    // A hang must fail, not block.
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]).args(argv).env_clear().envs(ENV).current_dir("/");
    finish(command)
}

/// Runs a command in a sandbox.
#[must_use]
pub fn sandboxed(argv: &[&str]) -> Outcome {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]).arg(palisade()).args(["do", "--env", "LC_ALL=C", "--env", "TERM=dumb", "--"]).args(argv);
    command.current_dir("/");
    finish(command)
}

/// Runs a shell script on the host, then in a sandbox, and compares.
///
/// # Panics
/// When they differ, or when the script prints nothing (it would compare nothing).
pub fn same(script: &str) {
    let argv = ["sh", "-c", script];
    let (outside, inside) = (native(&argv), sandboxed(&argv));
    assert!(!outside.stdout.is_empty() || outside.status != 0, "{script}: prints nothing: {outside:?}");
    assert_eq!(inside, outside, "{script}: inside (left) is not as outside (right)");
}
