//! Bundles: a directory with a `config.json` and a root filesystem.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use boot::{BootConfig, Mount, Quota, Source, Writes};
use control::Process;
use jail::IdMaps;
use oci_spec::runtime::{PosixRlimitType, Spec, get_default_mounts};

/// Reads a bundle.
///
/// # Errors
/// When there is no valid configuration, or one that asks for a terminal, another user than root, hooks or unknown kinds of mounts. What is
/// passed over stands in the README.
pub fn load(bundle: &Path) -> Result<(Spec, BootConfig)> {
    let path = bundle.join("config.json");
    let spec = Spec::load(&path).with_context(|| format!("cannot read {} (make one: palisade spec)", path.display()))?;
    let config = config(bundle, &spec).with_context(|| path.display().to_string())?;
    Ok((spec, config))
}

fn config(bundle: &Path, spec: &Spec) -> Result<BootConfig> {
    if !spec.version().starts_with("1.") {
        bail!("ociVersion {:?}: only 1.x is known", spec.version());
    }
    let process = spec.process().as_ref().context("process: missing")?;
    let argv = process.args().clone().filter(|args| !args.is_empty()).context("process.args: missing or empty")?;
    if process.terminal().unwrap_or(false) {
        bail!("process.terminal: terminals aren't there yet (set it to false, or run without -t)");
    }
    let user = process.user();
    if user.uid() != 0 || user.gid() != 0 {
        bail!("process.user {}:{}: programs run as root (0:0) only so far", user.uid(), user.gid());
    }
    if !process.cwd().is_absolute() {
        bail!("process.cwd {}: must be absolute", process.cwd().display());
    }
    let hooks = spec.hooks().as_ref().and_then(|hooks| serde_json::to_value(hooks).ok());
    if hooks.is_some_and(|hooks| hooks.as_object().is_some_and(|hooks| hooks.values().any(|list| list != &serde_json::json!([]))))
    {
        bail!("hooks: not run yet");
    }
    let root = spec.root().as_ref().context("root: missing")?;
    let writes = if root.readonly().unwrap_or(false) { Writes::No } else { Writes::ToHost };
    let mut mounts = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        mounts.extend(self::mount(bundle, mount)?);
    }
    // A tree without these is no home to most programs.
    for usual in BootConfig::usual_mounts() {
        if ["/dev", "/proc"].contains(&usual.target.as_str()) && !mounts.iter().any(|mount| mount.target == usual.target) {
            mounts.insert(0, usual);
        }
    }
    Ok(BootConfig {
        root: bundle.join(root.path()),
        writes,
        mounts,
        hostname: spec.hostname().clone(),
        process: Process {
            argv,
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().display().to_string(),
            limits: process.rlimits().iter().flatten().map(|limit| (resource(limit.typ()), limit.soft(), limit.hard())).collect(),
            ..Process::default()
        },
        ids: IdMaps::default(),
        network: None,
        quota: Quota::default(),
        strace: false,
    })
}

/// The number of a resource (getrlimit(2)).
fn resource(kind: PosixRlimitType) -> usize {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

/// A mount; `None` for what is part of another one here.
fn mount(bundle: &Path, mount: &oci_spec::runtime::Mount) -> Result<Option<Mount>> {
    let target = mount.destination().display().to_string();
    let options: Vec<&str> = mount.options().iter().flatten().map(String::as_str).collect();
    let kind = mount.typ().as_deref().unwrap_or("none");
    let bind = kind == "bind" || options.contains(&"bind") || options.contains(&"rbind");
    let source = match kind {
        _ if bind => {
            let source = mount.source().as_ref().with_context(|| format!("mounts: {target}: bind without a source"))?;
            let path = if source.is_absolute() { source.clone() } else { bundle.join(source) };
            Source::Bind(path, if options.contains(&"ro") { Writes::No } else { Writes::ToHost })
        }
        "proc" => Source::Proc,
        // Device nodes are what the kernel has, whatever options say.
        "tmpfs" if target == "/dev" => Source::Devices,
        "tmpfs" => {
            let mode = options.iter().find_map(|option| option.strip_prefix("mode="));
            Source::Tmpfs { mode: mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o1777) }
        }
        "sysfs" => Source::Empty,
        // Nothing answers there yet: programs find an empty directory, as on a machine without.
        "devpts" | "mqueue" | "cgroup" | "cgroup2" => Source::Empty,
        other => bail!("mounts: {target}: type {other:?} isn't supported"),
    };
    Ok(Some(Mount { target, source }))
}

/// Writes a `config.json` to start from, as `runc spec` does.
///
/// # Errors
/// When there is one already, or it can't be written.
pub fn write_spec(bundle: &Path) -> Result<PathBuf> {
    let path = bundle.join("config.json");
    if path.exists() {
        bail!("{} exists: remove it first", path.display());
    }
    let mut spec = serde_json::to_value(Spec::default())?;
    // What the example needs to run as it is.
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["sh"]);
    spec["root"] = serde_json::json!({ "path": "rootfs", "readonly": true });
    spec["hostname"] = "palisade".into();
    spec["mounts"] = serde_json::to_value(get_default_mounts())?;
    std::fs::write(&path, serde_json::to_string_pretty(&spec)? + "\n").with_context(|| path.display().to_string())?;
    Ok(path)
}
