//! Groups as units of systemd: it makes and removes them, told over its bus by `busctl`, which every host with systemd has.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::resources::Resources;

/// Slice and name of the unit for `slice:prefix:name`, the form that Docker and Kubernetes give with `--systemd-cgroup`.
fn names(path: &str, id: &str) -> Result<(String, String)> {
    let parts: Vec<&str> = path.split(':').collect();
    let (slice, prefix, name) = match parts.as_slice() {
        [""] => ("", "palisade", id),
        [slice, prefix, name] => (*slice, *prefix, *name),
        _ => bail!("linux.cgroupsPath: {path:?}: with --systemd-cgroup, give slice:prefix:name"),
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    if name.ends_with(".slice") {
        return Ok((slice.to_owned(), name.to_owned()));
    }
    Ok((slice.to_owned(), if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") }))
}

/// The call that starts a unit: `busctl`'s arguments.
fn call(slice: &str, unit: &str, id: &str, pid: i32) -> Vec<String> {
    let mut args: Vec<String> = [
        "call",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        unit,
        "replace",
        // Properties: name, type, value. Limits are written to the groups' files, which Delegate= allows.
        "5",
        "Description",
        "s",
    ]
    .map(str::to_owned)
    .to_vec();
    args.push(format!("palisade container {id}"));
    args.extend(
        ["Slice", "s", slice, "Delegate", "b", "true", "DefaultDependencies", "b", "false", "PIDs", "au", "1"].map(str::to_owned),
    );
    args.push(pid.to_string());
    // No other units.
    args.push("0".to_owned());
    args
}

fn busctl(args: &[String]) -> Result<()> {
    let mut command = Command::new("busctl");
    if !rustix::process::geteuid().is_root() {
        command.arg("--user");
    }
    let output = command.args(args).output().context("--systemd-cgroup: cannot run busctl")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("--systemd-cgroup: systemd refuses: {}", String::from_utf8_lossy(&output.stderr).trim())
}

/// Starts a unit with a process in it; returns its name.
pub fn start(path: &str, id: &str, pid: i32, _: &Resources) -> Result<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        bail!("--systemd-cgroup: systemd doesn't run on this host (leave the option out)");
    }
    let (slice, unit) = names(path, id)?;
    busctl(&call(&slice, &unit, id, pid))?;
    // The call returns before the job is done.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if text.lines().any(|line| line.ends_with(&unit)) {
            return Ok(unit);
        }
        if std::time::Instant::now() > deadline {
            bail!("--systemd-cgroup: systemd doesn't start {unit}");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Ends a unit. One that is gone by itself, because its processes are, is fine.
pub fn stop(unit: &str) {
    for method in ["StopUnit", "ResetFailedUnit"] {
        let mut args: Vec<String> =
            ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", method]
                .map(str::to_owned)
                .to_vec();
        args.push(if method == "StopUnit" { "ss" } else { "s" }.to_owned());
        args.push(unit.to_owned());
        if method == "StopUnit" {
            args.push("replace".to_owned());
        }
        let _ = busctl(&args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_units() {
        let name = |path| names(path, "one").unwrap();
        assert_eq!(name(""), ("system.slice".into(), "palisade-one.scope".into()));
        assert_eq!(name("system.slice:docker:abc"), ("system.slice".into(), "docker-abc.scope".into()));
        assert_eq!(name("kubepods.slice::pod.slice"), ("kubepods.slice".into(), "pod.slice".into()));
        assert!(names("/docker/abc", "one").is_err());
    }

    #[test]
    fn the_call_counts_its_arguments() {
        let args = call("system.slice", "docker-abc.scope", "abc", 42);
        let properties: usize = args[8].parse().unwrap();
        // Name, type and value each; PIDs' value is a count and one number.
        assert_eq!(args.len(), 9 + properties * 3 + 1 + 1);
        assert_eq!(args[args.len() - 3..], ["1", "42", "0"]);
    }
}
