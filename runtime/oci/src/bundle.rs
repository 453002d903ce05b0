//! Bundles: a directory with a `config.json` and a root filesystem.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use boot::{BootConfig, Quota};
use jail::{IdMap, IdMaps};

use crate::spec::{IdMapping, List, Spec};
use crate::{Options, hooks, mounts, process, seccomp, spec};

/// Sysctls that containers have to themselves, by the prefix of their names.
const NAMESPACED: [&str; 3] = ["net.", "fs.mqueue.", "kernel.shm"];

/// Reads a bundle.
///
/// # Errors
/// When there is no valid configuration, or it asks for what can't be had: with the path of it, and why.
pub fn load(bundle: &Path, options: &Options) -> Result<(Spec, BootConfig)> {
    let path = bundle.join("config.json");
    if !path.exists() {
        bail!("{} is missing (make one: palisade spec)", path.display());
    }
    let spec: Spec = spec::read(&path)?;
    let config = config(bundle, &spec, options).with_context(|| path.display().to_string())?;
    Ok((spec, config))
}

fn maps(given: &List<IdMapping>) -> Vec<IdMap> {
    given.iter().flatten().map(|map| IdMap { inside: map.container_id, outside: map.host_id, count: map.size }).collect()
}

/// What a configuration says to run.
///
/// # Errors
/// With the path of what can't be, and why.
pub fn config(bundle: &Path, spec: &Spec, options: &Options) -> Result<BootConfig> {
    if !spec.oci_version.starts_with("1.") {
        bail!("ociVersion: {:?}: only 1.x is known", spec.oci_version);
    }
    let linux = spec.linux.clone().unwrap_or_default();
    let given = spec.process.as_ref().context("process: missing")?;
    let mut process = process::convert(given)?;
    if let Some(profile) = &linux.seccomp {
        process.seccomp = seccomp::compile(profile)?;
    }
    if let Some(given) = &spec.hooks {
        hooks::check("prestart", &given.prestart)?;
        hooks::check("createRuntime", &given.create_runtime)?;
        hooks::check("createContainer", &given.create_container)?;
        hooks::check("startContainer", &given.start_container)?;
        hooks::check("poststart", &given.poststart)?;
        hooks::check("poststop", &given.poststop)?;
    }
    check_rest(&linux)?;
    let ids = IdMaps { uids: maps(&linux.uid_mappings), gids: maps(&linux.gid_mappings) };
    if ids.uids.is_empty() != ids.gids.is_empty() {
        bail!("linux.uidMappings, linux.gidMappings: one without the other");
    }
    let root = spec.root.as_ref().context("root: missing")?;
    let resources = linux.resources.clone().unwrap_or_default();
    let mut mounts = mounts::convert(bundle, spec)?;
    options.overlay.apply(&mut mounts);
    Ok(BootConfig {
        root: bundle.join(&root.path),
        writes: options.overlay.root(root.readonly),
        mounts,
        devices: mounts::devices(spec)?,
        masked: mounts::paths("maskedPaths", &linux.masked_paths)?,
        read_only: mounts::paths("readonlyPaths", &linux.readonly_paths)?,
        propagation: mounts::root_propagation(spec)?,
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        sysctls: sysctls(spec)?,
        process,
        ids,
        network: network(spec)?,
        quota: Quota { tasks: resources.task_limit(), memory: resources.memory_limit(), cpus: resources.processors() },
        strace: options.strace,
        debug: options.debug,
        log: options.debug_log.clone(),
    })
}

/// Refuses what can't be honoured, lest anybody rely on it.
fn check_rest(linux: &spec::Linux) -> Result<()> {
    for (clock, offset) in linux.time_offsets.iter().flatten() {
        if (offset.secs, offset.nanosecs) != (0, 0) {
            bail!("linux.timeOffsets.{clock}: there are no time namespaces: clocks are the host's");
        }
    }
    if let Some(personality) = &linux.personality {
        if personality.domain != "LINUX" {
            bail!("linux.personality.domain: {:?}: there are only 64-bit programs (LINUX)", personality.domain);
        }
        if let Some(flag) = personality.flags.iter().flatten().next() {
            bail!("linux.personality.flags: {flag:?} is unknown");
        }
    }
    if linux.intel_rdt.is_some() {
        bail!("linux.intelRdt: can't be honoured");
    }
    Ok(())
}

/// The network namespace to join. Other namespaces of the host mean nothing inside: a sandbox has its own of each kind.
fn network(spec: &Spec) -> Result<Option<PathBuf>> {
    let mut network = None;
    for (i, namespace) in spec.linux.iter().flat_map(|linux| linux.namespaces.iter().flatten()).enumerate() {
        let path = namespace.path.as_ref().filter(|path| !path.as_os_str().is_empty());
        match (namespace.kind.as_str(), path) {
            ("network", path) => network = path.cloned(),
            ("pid" | "mount" | "ipc" | "uts" | "user" | "cgroup" | "time", None) => {}
            (kind @ ("pid" | "mount" | "ipc" | "uts" | "user" | "cgroup" | "time"), Some(path)) => bail!(
                "linux.namespaces[{i}].path: {}: a namespace of the host of type {kind} can't be joined: the kernel inside has its own",
                path.display()
            ),
            (kind, _) => bail!("linux.namespaces[{i}].type: {kind:?} is unknown"),
        }
    }
    Ok(network)
}

/// Settings of the kernel inside. Refused is what isn't a container's to set.
fn sysctls(spec: &Spec) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (given, value) in spec.linux.iter().flat_map(|linux| linux.sysctl.iter().flatten()) {
        let name = given.replace('/', ".");
        let known = NAMESPACED.iter().any(|prefix| name.starts_with(prefix));
        if !known
            && !["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.hostname", "kernel.domainname"]
                .contains(&name.as_str())
        {
            bail!("linux.sysctl: {name:?} isn't a container's to set");
        }
        all.push((given.clone(), value.clone()));
    }
    Ok(all)
}

/// Writes a `config.json` to start from, as `runc spec` does.
///
/// # Errors
/// When there is one already, or it can't be written.
pub fn write_spec(bundle: &Path, rootless: bool) -> Result<PathBuf> {
    let path = bundle.join("config.json");
    if path.exists() {
        bail!("{} exists: remove it first", path.display());
    }
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| serde_json::json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "palisade",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if rootless {
        let map = |id: u32| serde_json::json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        spec["linux"]["uidMappings"] = map(rustix::process::geteuid().as_raw());
        spec["linux"]["gidMappings"] = map(rustix::process::getegid().as_raw());
    }
    std::fs::write(&path, serde_json::to_string_pretty(&spec)? + "\n").with_context(|| path.display().to_string())?;
    Ok(path)
}
