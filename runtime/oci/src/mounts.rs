//! `mounts`: from the configuration's form to the sandbox's.

use std::path::Path;

use anyhow::{Context, Result, bail};
use boot::{BootConfig, Mount, Source, Writes};

use crate::spec::{self, Spec};

/// Options without a value that are known (mount(8); those with r are for binds of whole trees).
const FLAGS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "relatime",
    "remount",
    "ro",
    "rprivate",
    "rro",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "unbindable",
];

/// The options that are known.
#[must_use]
pub fn known_options() -> &'static [&'static str] {
    FLAGS
}

/// What is to be mounted, in order.
///
/// # Errors
/// With the path of what can't be, and why.
pub fn convert(bundle: &Path, spec: &Spec) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (i, mount) in spec.mounts.iter().flatten().enumerate() {
        mounts.push(one(bundle, mount).map_err(|error| anyhow::anyhow!("mounts[{i}] ({}): {error:#}", mount.destination))?);
    }
    // A tree without these is no home to most programs.
    for usual in BootConfig::usual_mounts() {
        if ["/dev", "/proc"].contains(&usual.target.as_str()) && !mounts.iter().any(|mount| mount.target == usual.target) {
            mounts.insert(0, usual);
        }
    }
    Ok(mounts)
}

fn one(bundle: &Path, mount: &spec::Mount) -> Result<Mount> {
    // Older configurations have relative ones, below the root.
    let target = format!("/{}", mount.destination.trim_start_matches('/'));
    let options: Vec<&str> = mount.options.iter().flatten().map(String::as_str).collect();
    let kind = mount.kind.as_deref().unwrap_or("none");
    let bind = kind == "bind" || options.contains(&"bind") || options.contains(&"rbind");
    let source = match kind {
        _ if bind => {
            let source = mount.source.as_ref().context("source: missing, and it is a bind mount")?;
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
        "mqueue" => Source::Queues,
        "sysfs" => Source::Sys,
        // Nothing answers there yet: programs find an empty directory, as on a machine without.
        "devpts" | "cgroup" | "cgroup2" => Source::Empty,
        other => bail!("type: {other:?} isn't supported"),
    };
    Ok(Mount { target, source })
}
