//! `mounts`, devices, masked and read-only paths: from the configuration's form to the sandbox's.

use std::path::{Path, PathBuf};

use abi::c;
use anyhow::{Context, Result, bail};
use boot::{BootConfig, Device, Mount, Propagation, Source, Writes};

use crate::spec::{self, Spec};

/// `MS_NOSYMFOLLOW`, `MS_LAZYTIME`, `MS_I_VERSION`
const NOSYMFOLLOW: u64 = 1 << 8;
const LAZYTIME: u64 = 1 << 25;
const I_VERSION: u64 = 1 << 23;

/// Options that set a flag, or take it away (mount(8)); those of whole trees (`rro`) do so here too: nothing else of the host's is below a bind.
const FLAGS: &[(&str, bool, u64)] = &[
    ("async", false, c::MS_SYNCHRONOUS),
    ("atime", false, c::MS_NOATIME),
    ("defaults", false, 0),
    ("dev", false, c::MS_NODEV),
    ("diratime", false, c::MS_NODIRATIME),
    ("dirsync", true, c::MS_DIRSYNC),
    ("exec", false, c::MS_NOEXEC),
    ("iversion", true, I_VERSION),
    ("lazytime", true, LAZYTIME),
    ("loud", false, c::MS_SILENT),
    ("mand", true, c::MS_MANDLOCK),
    ("noatime", true, c::MS_NOATIME),
    ("nodev", true, c::MS_NODEV),
    ("nodiratime", true, c::MS_NODIRATIME),
    ("noexec", true, c::MS_NOEXEC),
    ("noiversion", false, I_VERSION),
    ("nolazytime", false, LAZYTIME),
    ("nomand", false, c::MS_MANDLOCK),
    ("norelatime", false, c::MS_RELATIME),
    ("nostrictatime", false, c::MS_STRICTATIME),
    ("nosuid", true, c::MS_NOSUID),
    ("nosymfollow", true, NOSYMFOLLOW),
    ("ratime", false, c::MS_NOATIME),
    ("rdev", false, c::MS_NODEV),
    ("rdiratime", false, c::MS_NODIRATIME),
    ("relatime", true, c::MS_RELATIME),
    ("rexec", false, c::MS_NOEXEC),
    ("rnoatime", true, c::MS_NOATIME),
    ("rnodev", true, c::MS_NODEV),
    ("rnodiratime", true, c::MS_NODIRATIME),
    ("rnoexec", true, c::MS_NOEXEC),
    ("rnorelatime", false, c::MS_RELATIME),
    ("rnostrictatime", false, c::MS_STRICTATIME),
    ("rnosuid", true, c::MS_NOSUID),
    ("rnosymfollow", true, NOSYMFOLLOW),
    ("ro", true, c::MS_RDONLY),
    ("rrelatime", true, c::MS_RELATIME),
    ("rro", true, c::MS_RDONLY),
    ("rrw", false, c::MS_RDONLY),
    ("rstrictatime", true, c::MS_STRICTATIME),
    ("rsuid", false, c::MS_NOSUID),
    ("rsymfollow", false, NOSYMFOLLOW),
    ("rw", false, c::MS_RDONLY),
    ("silent", true, c::MS_SILENT),
    ("strictatime", true, c::MS_STRICTATIME),
    ("suid", false, c::MS_NOSUID),
    ("symfollow", false, NOSYMFOLLOW),
    ("sync", true, c::MS_SYNCHRONOUS),
];

/// Options about what a mount tells and is told, and whether they go for all below.
const PROPAGATION: &[(&str, Propagation, bool)] = &[
    ("private", Propagation::Private, false),
    ("rprivate", Propagation::Private, true),
    ("rshared", Propagation::Shared, true),
    ("rslave", Propagation::Slave, true),
    ("runbindable", Propagation::Unbindable, true),
    ("shared", Propagation::Shared, false),
    ("slave", Propagation::Slave, false),
    ("unbindable", Propagation::Unbindable, false),
];

/// The options that are known.
#[must_use]
pub fn known_options() -> Vec<&'static str> {
    let mut all: Vec<_> = FLAGS.iter().map(|flag| flag.0).chain(PROPAGATION.iter().map(|one| one.0)).collect();
    all.extend(["bind", "rbind"]);
    all.sort_unstable();
    all
}

fn propagation(name: &str) -> Option<(Propagation, bool)> {
    PROPAGATION.iter().find(|(known, ..)| *known == name).map(|(_, kind, recursive)| (*kind, *recursive))
}

/// Options taken apart: flags, propagation, and what is left for the filesystem.
#[derive(Default)]
struct Options {
    flags: u64,
    bind: bool,
    propagation: Option<(Propagation, bool)>,
    rest: Vec<String>,
}

fn options(given: &spec::List<String>) -> Options {
    let mut all = Options::default();
    for option in given.iter().flatten() {
        if let Some((_, set, flag)) = FLAGS.iter().find(|(name, ..)| name == option) {
            if *set {
                all.flags |= flag;
            } else {
                all.flags &= !flag;
            }
        } else if let Some(propagation) = propagation(option) {
            all.propagation = Some(propagation);
        } else if option == "bind" || option == "rbind" {
            all.bind = true;
        } else {
            all.rest.push(option.clone());
        }
    }
    // As mount(2) has it where nothing is said.
    if all.flags & (c::MS_NOATIME | c::MS_STRICTATIME) == 0 {
        all.flags |= c::MS_RELATIME;
    }
    all
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
    let target = format!("/{}", mount.destination.trim_matches('/'));
    let options = options(&mount.options);
    let kind = mount.kind.as_deref().unwrap_or("none");
    let source = if options.bind || kind == "bind" {
        let source = mount.source.as_ref().context("source: missing, and it is a bind mount")?;
        if let Some(option) = options.rest.first() {
            bail!("options: {option:?} is unknown for a bind mount");
        }
        let path = if source.is_absolute() { source.clone() } else { bundle.join(source) };
        Source::Bind(path, if options.flags & c::MS_RDONLY != 0 { Writes::No } else { Writes::ToHost })
    } else {
        match kind {
            "proc" | "tmpfs" | "sysfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2" | "ramfs" | "overlay" => {}
            other => bail!("type: {other:?} isn't supported"),
        }
        let name = mount.source.as_ref().map_or_else(|| kind.to_owned(), |source| source.display().to_string());
        Source::Internal { kind: kind.to_owned(), name, options: options.rest.join(",") }
    };
    Ok(Mount { target, source, flags: options.flags, propagation: options.propagation })
}

/// The propagation of the root.
///
/// # Errors
/// With the path, for one that is unknown.
pub fn root_propagation(spec: &Spec) -> Result<Option<(Propagation, bool)>> {
    let Some(name) = spec.linux.as_ref().and_then(|linux| linux.rootfs_propagation.as_deref()).filter(|name| !name.is_empty())
    else {
        return Ok(None);
    };
    propagation(name).map(Some).with_context(|| format!("linux.rootfsPropagation: {name:?} is unknown"))
}

/// Device nodes.
///
/// # Errors
/// With the path of what can't be, and why.
pub fn devices(spec: &Spec) -> Result<Vec<Device>> {
    let given = spec.linux.iter().flat_map(|linux| linux.devices.iter().flatten()).enumerate();
    given.map(|(i, device)| self::device(device).map_err(|error| anyhow::anyhow!("linux.devices[{i}].{error:#}"))).collect()
}

fn device(device: &spec::Device) -> Result<Device> {
    let kind = match device.kind.as_str() {
        "c" | "u" => c::S_IFCHR,
        "b" => c::S_IFBLK,
        "p" => c::S_IFIFO,
        other => bail!("type: {other:?} is unknown"),
    };
    if !device.path.starts_with('/') {
        bail!("path: {:?} isn't absolute", device.path);
    }
    let number = |name: &str, value: i64, max: u32| {
        u32::try_from(value)
            .ok()
            .filter(|number| *number <= max)
            .with_context(|| format!("{name}: {value} isn't between 0 and {max}"))
    };
    Ok(Device {
        path: device.path.clone(),
        mode: kind | device.file_mode.unwrap_or(0o666) & 0o7777,
        major: number("major", device.major, 0xfff)?,
        minor: number("minor", device.minor, 0xf_ffff)?,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}

/// Makes the places of mounts that are missing in a root that is to be read-only: the sandbox can't. Those below other mounts are made inside, if they
/// can be.
///
/// # Errors
/// What the host says.
pub fn make_places(root: &Path, mounts: &[Mount]) -> Result<()> {
    for (i, mount) in mounts.iter().enumerate() {
        let below = |other: &Mount| mount.target.starts_with(&format!("{}/", other.target.trim_end_matches('/')));
        if mounts.iter().take(i).any(below) {
            continue;
        }
        let dir = match &mount.source {
            Source::Bind(path, _) => path.is_dir(),
            Source::Internal { .. } => true,
        };
        jail::make_place(root, &mount.target, dir)
            .with_context(|| format!("cannot make a place for the mount {}", mount.target))?;
    }
    Ok(())
}

/// A list of paths inside, which must be absolute.
///
/// # Errors
/// With the path of what isn't.
pub fn paths(name: &str, given: &spec::List<String>) -> Result<Vec<String>> {
    for (i, path) in given.iter().flatten().enumerate() {
        if !PathBuf::from(path).is_absolute() {
            bail!("linux.{name}[{i}]: {path:?} isn't absolute");
        }
    }
    Ok(given.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(json: &str) -> Result<Mount> {
        one(Path::new("/bundle"), &spec::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn options_are_flags_propagation_and_the_filesystems() {
        let tmpfs = r#"{"destination":"/t/","type":"tmpfs","source":"shm","options":["nosuid","ro","rw","strictatime","rslave","size=64k","mode=755"]}"#;
        let tmpfs = mount(tmpfs).unwrap();
        assert_eq!((tmpfs.target.as_str(), tmpfs.flags), ("/t", c::MS_NOSUID | c::MS_STRICTATIME));
        assert_eq!(tmpfs.propagation, Some((Propagation::Slave, true)));
        assert_eq!(
            tmpfs.source,
            Source::Internal { kind: "tmpfs".into(), name: "shm".into(), options: "size=64k,mode=755".into() }
        );
        let bind = mount(r#"{"destination":"/v","source":"vol","options":["rbind","ro"]}"#).unwrap();
        assert_eq!((bind.source, bind.flags), (Source::Bind("/bundle/vol".into(), Writes::No), c::MS_RDONLY | c::MS_RELATIME));
        let why = |json| mount(json).unwrap_err().to_string();
        assert_eq!(why(r#"{"destination":"/v","type":"bind"}"#), "source: missing, and it is a bind mount");
        assert_eq!(why(r#"{"destination":"/v","type":"nfs"}"#), "type: \"nfs\" isn't supported");
        assert!(why(r#"{"destination":"/v","source":"/","options":["bind","idmap"]}"#).contains("idmap"));
    }
}
