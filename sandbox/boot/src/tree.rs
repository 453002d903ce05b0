//! The file tree that the first process sees.

use std::fs::File as HostFileHandle;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::Credentials;
use hostfs::HostInode;
use overlay::{Layers, OverlayFs};
use task::Kernel;
use tmpfs::TmpFs;
use vfs::{Caller, Dentry, DeviceOpener, MountNamespace, MountOption, MountRequest, WalkFlags};

use crate::config::{BootConfig, Mount, Source, Writes};

/// A mount whose host side is open: made while the host's files can still be reached.
pub struct Prepared {
    target: Vec<u8>,
    what: Opened,
}

enum Opened {
    /// A directory, and where it is.
    Directory(OwnedFd, PathBuf, Writes),
    /// A file: its directory and its name.
    File(OwnedFd, Vec<u8>, Writes),
    Internal(Source),
}

impl Prepared {
    /// Takes what is above the directory out of reach: whoever gets hold of the sentry finds nothing else of the host by it. Call in namespaces
    /// of its own, while the host's files can still be reached.
    ///
    /// # Errors
    /// What the host says; `NotFound` when another directory has taken its place.
    pub fn detach(&mut self) -> io::Result<()> {
        if let Opened::Directory(fd, path, writes) = &mut self.what {
            let detached = jail::detached(path, *writes != Writes::ToHost)?;
            let (one, other) = (rustix::fs::fstat(&*fd)?, rustix::fs::fstat(&detached)?);
            if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino) {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has been replaced", path.display())));
            }
            *fd = detached;
        }
        Ok(())
    }

    /// The descriptor that it holds.
    pub fn raw_fd(&self) -> Option<RawFd> {
        match &self.what {
            Opened::Directory(fd, ..) | Opened::File(fd, ..) => Some(fd.as_raw_fd()),
            Opened::Internal(_) => None,
        }
    }
}

/// Opens what a configuration names on the host.
///
/// # Errors
/// What opening says; `InvalidInput` for a target that isn't absolute.
pub fn prepare(config: &BootConfig) -> io::Result<Vec<Prepared>> {
    let root = Mount { target: "/".into(), source: Source::Bind(config.root.clone(), config.writes) };
    std::iter::once(&root).chain(&config.mounts).map(open).collect()
}

fn open(mount: &Mount) -> io::Result<Prepared> {
    let about = |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if !mount.target.starts_with('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("mount target {:?} isn't absolute", mount.target)));
    }
    let what = match &mount.source {
        Source::Bind(path, writes) => {
            let path = path.canonicalize().map_err(|error| about(error, path))?;
            if path.is_dir() {
                let fd = HostFileHandle::open(&path).map_err(|error| about(error, &path))?.into();
                Opened::Directory(fd, path, *writes)
            } else {
                let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(about(io::ErrorKind::InvalidInput.into(), &path));
                };
                let fd = HostFileHandle::open(dir).map_err(|error| about(error, dir))?.into();
                Opened::File(fd, name.as_bytes().to_vec(), *writes)
            }
        }
        other => Opened::Internal(other.clone()),
    };
    Ok(Prepared { target: mount.target.clone().into_bytes(), what })
}

/// Assembles the tree, and registers the types of filesystems that can be mounted.
///
/// # Errors
/// What the filesystems say.
pub fn assemble(mounts: Vec<Prepared>, kernel: &Arc<Kernel>) -> SysResult<Arc<MountNamespace>> {
    let filesystems = &kernel.filesystems;
    filesystems.register(Arc::new(procfs::ProcFs { kernel: kernel.clone() }));
    filesystems.register(Arc::new(task::QueueFs { kernel: kernel.clone() }));
    let (log, started) = (kernel.log.clone(), kernel.started);
    let devices: Arc<DeviceOpener> = Arc::new(move |kind, rdev| devfs::open(kind, rdev, &log, started));
    let machine = kernel.clone();
    filesystems.register(Arc::new(sysfs::SysFs { cpus: Box::new(move || machine.quota.cpus()) }));
    for name in ["tmpfs", "ramfs"] {
        filesystems.register(Arc::new(TmpFs { name, devices: devices.clone() }));
    }
    filesystems.register(Arc::new(OverlayFs));
    let mut namespace: Option<Arc<MountNamespace>> = None;
    let who = Arc::new(Credentials::root(kernel.user_ns.clone()));
    for mount in mounts {
        let (flags, source) = (flags(&mount.what), source(&mount.what));
        match &namespace {
            None => {
                let mount = vfs::Mount::new(dentry(mount.what, true, &devices)?, source, flags);
                namespace = Some(MountNamespace::new(&mount, kernel.user_ns.clone())?);
            }
            Some(namespace) => {
                let caller = Caller::at_root(namespace.root(), who.clone());
                let root = match mount.what {
                    Opened::Internal(Source::Proc) => {
                        let request = MountRequest { source: b"proc", options: Vec::new(), flags, caller: &caller };
                        filesystems.get(b"proc")?.mount(&request)?
                    }
                    Opened::Internal(Source::Queues) => {
                        let request = MountRequest { source: b"mqueue", options: Vec::new(), flags, caller: &caller };
                        filesystems.get(b"mqueue")?.mount(&request)?
                    }
                    Opened::Internal(Source::Sys) => sysfs::dentry(kernel.quota.cpus())?,
                    what => dentry(what, false, &devices)?,
                };
                let at = place(&caller, &mount.target, root.is_dir())?;
                namespace.mount(&vfs::Mount::new(root, source, flags), &at)?;
            }
        }
    }
    namespace.ok_or(Errno::EINVAL)
}

/// Flags of a mount, as container runtimes have them.
fn flags(what: &Opened) -> u64 {
    let usual = c::MS_NOSUID | c::MS_NODEV | c::MS_NOEXEC | c::MS_RELATIME;
    match what {
        Opened::Directory(_, _, Writes::No) | Opened::File(_, _, Writes::No) => c::MS_RDONLY | c::MS_RELATIME,
        Opened::Internal(Source::Proc | Source::Queues) => usual,
        Opened::Internal(Source::Devices) => c::MS_NOSUID | c::MS_RELATIME,
        Opened::Internal(Source::Empty | Source::Sys) => usual | c::MS_RDONLY,
        _ => c::MS_RELATIME,
    }
}

fn source(what: &Opened) -> &'static [u8] {
    match what {
        Opened::Directory(..) | Opened::File(..) => b"none",
        Opened::Internal(Source::Proc) => b"proc",
        Opened::Internal(Source::Queues) => b"mqueue",
        Opened::Internal(Source::Empty | Source::Sys) => b"sysfs",
        Opened::Internal(_) => b"tmpfs",
    }
}

/// The root of what is to be mounted; `is_root`: the sandbox's own root directory, which nobody else changes.
fn dentry(what: Opened, is_root: bool, devices: &Arc<DeviceOpener>) -> SysResult<Arc<Dentry>> {
    let memory = |name, mode: u32| {
        let mode = MountOption { name: b"mode".to_vec(), value: Some(format!("{mode:o}").into_bytes()) };
        TmpFs { name, devices: devices.clone() }.instance(None, &[mode])
    };
    let host = |root: Arc<HostInode>, writes| match writes {
        Writes::ToMemory => {
            let lower = root.dentry()?;
            let mode = lower.inode().attr()?.mode & 0o7777;
            let layers = Layers { lowers: vec![lower], upper: Some(memory("tmpfs", mode)?), work: None };
            OverlayFs::over(layers, String::new(), false)
        }
        Writes::No | Writes::ToHost => root.dentry(),
    };
    match what {
        Opened::Directory(fd, _, writes) => {
            host(HostInode::root(fd, writes == Writes::ToHost, is_root || writes == Writes::ToMemory), writes)
        }
        Opened::File(fd, name, writes) => HostInode::below(fd, &name, writes == Writes::ToHost)?.dentry(),
        Opened::Internal(Source::Devices) => {
            let dev = memory("tmpfs", 0o755)?;
            devfs::populate(dev.inode())?;
            Ok(dev)
        }
        Opened::Internal(Source::Tmpfs { mode }) => memory("tmpfs", mode),
        Opened::Internal(_) => memory("sysfs", 0o555),
    }
}

/// The place for a mount; what is missing on the way is made.
fn place(caller: &Caller, target: &[u8], dir: bool) -> SysResult<vfs::Path> {
    let names: Vec<&[u8]> = target.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    let mut path = b"/".to_vec();
    for (i, name) in names.iter().enumerate() {
        path.extend_from_slice(name);
        let kind = if i + 1 == names.len() && !dir { c::S_IFREG | 0o644 } else { c::S_IFDIR | 0o755 };
        let found = caller.walk(None, &path, WalkFlags::FOLLOW)?;
        if found.found.is_none() {
            caller.create(&found, kind, 0, Vec::new())?;
        }
        path.push(b'/');
    }
    path.pop();
    caller.resolve(if path.is_empty() { b"/" } else { &path }, WalkFlags::FOLLOW)
}
