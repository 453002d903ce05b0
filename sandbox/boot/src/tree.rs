//! The file tree that the first process sees.

use std::fs::File as HostFileHandle;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Credentials, Kgid, Kuid};
use devpts::DevPts;
use hostfs::HostInode;
use overlay::{Layers, OverlayFs};
use task::Kernel;
use tmpfs::TmpFs;
use vfs::{Caller, Dentry, DeviceOpener, MountNamespace, MountOption, MountRequest, PropagationKind, WalkFlags};

use crate::config::{BootConfig, Device, Mount, Propagation, Source, Writes};

/// A mount whose host side is open: made while the host's files can still be reached.
pub struct Prepared {
    mount: Mount,
    host: Option<Host>,
}

/// A directory of the host, or a file: its directory and its name.
struct Host {
    fd: OwnedFd,
    /// Where the directory is.
    path: PathBuf,
    name: Option<Vec<u8>>,
    writes: Writes,
}

impl Prepared {
    /// Takes what is above the directory out of reach: whoever gets hold of the sentry finds nothing else of the host by it. Call in namespaces
    /// of its own, while the host's files can still be reached.
    ///
    /// # Errors
    /// What the host says; `NotFound` when another directory has taken its place.
    pub fn detach(&mut self) -> io::Result<()> {
        let Some(Host { fd, path, name: None, writes }) = &mut self.host else { return Ok(()) };
        let detached = jail::detached(path, *writes != Writes::ToHost)?;
        let (one, other) = (rustix::fs::fstat(&*fd)?, rustix::fs::fstat(&detached)?);
        if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has been replaced", path.display())));
        }
        *fd = detached;
        Ok(())
    }

    /// The descriptor that it holds.
    pub fn raw_fd(&self) -> Option<RawFd> {
        self.host.as_ref().map(|host| host.fd.as_raw_fd())
    }
}

/// What could not be mounted or made, and why.
#[derive(Debug)]
pub struct TreeError(String, Errno);

impl std::fmt::Display for TreeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

/// Opens what a configuration names on the host.
///
/// # Errors
/// What opening says; `InvalidInput` for a target that isn't absolute.
pub fn prepare(config: &BootConfig) -> io::Result<Vec<Prepared>> {
    let root = Mount { propagation: config.propagation, ..Mount::bind("/", config.root.clone(), config.writes) };
    std::iter::once(&root).chain(&config.mounts).map(open).collect()
}

fn open(mount: &Mount) -> io::Result<Prepared> {
    let about = |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if !mount.target.starts_with('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("mount target {:?} isn't absolute", mount.target)));
    }
    let Source::Bind(path, writes) = &mount.source else {
        return Ok(Prepared { mount: mount.clone(), host: None });
    };
    let path = path.canonicalize().map_err(|error| about(error, path))?;
    let host = if path.is_dir() {
        let fd = HostFileHandle::open(&path).map_err(|error| about(error, &path))?.into();
        Host { fd, path, name: None, writes: *writes }
    } else {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(about(io::ErrorKind::InvalidInput.into(), &path));
        };
        let fd = HostFileHandle::open(dir).map_err(|error| about(error, dir))?.into();
        Host { fd, name: Some(name.as_bytes().to_vec()), path: dir.to_owned(), writes: *writes }
    };
    Ok(Prepared { mount: mount.clone(), host: Some(host) })
}

/// What trees are put together with.
struct Builder<'a> {
    kernel: &'a Arc<Kernel>,
    devices: Arc<DeviceOpener>,
    who: Arc<Credentials>,
    /// The terminals of /dev/pts.
    pts: Arc<devpts::Instance>,
}

/// The options of /dev/pts: those of the mount that is asked for, or as container runtimes have them, for the group tty.
fn terminal_options(mounts: &[Prepared]) -> Vec<MountOption> {
    let given = mounts.iter().find_map(|prepared| match &prepared.mount.source {
        Source::Internal { kind, options, .. } if kind == "devpts" => Some(options.clone()),
        _ => None,
    });
    MountOption::parse(given.unwrap_or_else(|| "gid=5,mode=620,ptmxmode=666".into()).as_bytes())
}

/// Assembles the tree, and registers the types of filesystems that can be mounted.
///
/// # Errors
/// What could not be mounted or made, and why.
pub fn assemble(config: &BootConfig, mounts: Vec<Prepared>, kernel: &Arc<Kernel>) -> Result<Tree, TreeError> {
    let filesystems = &kernel.filesystems;
    filesystems.register(Arc::new(procfs::ProcFs { kernel: kernel.clone() }));
    let (log, started) = (kernel.log.clone(), kernel.started);
    let terminals =
        Arc::new(DevPts(devpts::Instance::new(&terminal_options(&mounts)).map_err(|errno| TreeError("devpts".into(), errno))?));
    filesystems.register(terminals.clone());
    let pts = terminals.0.clone();
    let devices: Arc<DeviceOpener> = Arc::new(move |kind, rdev| match terminals.open(kind, rdev) {
        Some(opened) => opened,
        None => devfs::open(kind, rdev, &log, started),
    });
    let machine = kernel.clone();
    filesystems.register(Arc::new(sysfs::SysFs { cpus: Box::new(move || machine.quota.cpus()) }));
    for name in ["tmpfs", "ramfs"] {
        filesystems.register(Arc::new(TmpFs { name, devices: devices.clone() }));
    }
    let groups = task::CgroupFs::new(kernel.clone()).map_err(|errno| TreeError("cgroup2".into(), errno))?;
    filesystems.register(Arc::new(groups));
    filesystems.register(Arc::new(OverlayFs));
    filesystems.register(Arc::new(task::QueueFs { kernel: kernel.clone() }));
    let builder = Builder { kernel, devices, pts, who: Arc::new(Credentials::root(kernel.user_ns.clone())) };
    let mut mounts = mounts.into_iter();
    let about = |what: &str| {
        let what = what.to_owned();
        move |errno| TreeError(what, errno)
    };
    let root = mounts.next().ok_or(TreeError("/".into(), Errno::EINVAL))?;
    let propagation = root.mount.propagation;
    let namespace = builder.root(root).map_err(about("/"))?;
    let caller = Caller::at_root(namespace.root(), builder.who.clone());
    for prepared in mounts {
        let target = prepared.mount.target.clone();
        builder.mount(&namespace, &caller, prepared).map_err(about(&target))?;
    }
    for device in &config.devices {
        make_device(&caller, device).map_err(about(&device.path))?;
    }
    for path in &config.read_only {
        read_only(&namespace, &caller, path.as_bytes()).map_err(about(path))?;
    }
    for path in &config.masked {
        builder.mask(&namespace, &caller, path.as_bytes()).map_err(about(path))?;
    }
    if let Some(propagation) = propagation {
        propagate(&namespace, &namespace.root(), propagation).map_err(about("/"))?;
    }
    Ok(Tree { namespace, terminals: builder.pts })
}

/// What the first process sees, and where terminals are made.
pub struct Tree {
    pub namespace: Arc<MountNamespace>,
    pub terminals: Arc<devpts::Instance>,
}

/// Shows a terminal at /dev/console.
///
/// # Errors
/// What making the place says.
pub fn show_console(namespace: &Arc<MountNamespace>, caller: &Caller, terminal: &vfs::Path) -> SysResult<()> {
    let at = place(caller, b"/dev/console", false)?;
    namespace.mount(&namespace.copy_of(terminal, false)?, &at)
}

impl Builder<'_> {
    fn root(&self, root: Prepared) -> SysResult<Arc<MountNamespace>> {
        let host = root.host.ok_or(Errno::EINVAL)?;
        let mount = vfs::Mount::new(self.host(host, true)?, b"rootfs", root.mount.flags);
        MountNamespace::new(&mount, self.kernel.user_ns.clone())
    }

    fn mount(&self, namespace: &Arc<MountNamespace>, caller: &Caller, prepared: Prepared) -> SysResult<()> {
        let Prepared { mount, host } = prepared;
        let (root, source) = match (mount.source, host) {
            (Source::Bind(..), Some(host)) => (self.host(host, false)?, Vec::new()),
            (Source::Internal { kind, name, options }, _) => {
                let dev = mount.target.trim_end_matches('/') == "/dev" && kind == "tmpfs";
                let root = self.internal(&kind, name.as_bytes(), options.as_bytes(), mount.flags, caller)?;
                if dev {
                    devfs::populate(root.inode())?;
                }
                (root, name.into_bytes())
            }
            (Source::Bind(..), None) => return Err(Errno::EINVAL),
        };
        let at = place(caller, mount.target.as_bytes(), root.is_dir())?;
        let mounted = vfs::Mount::new(root, &source, mount.flags);
        namespace.mount(&mounted, &at)?;
        match mount.propagation {
            Some(propagation) => propagate(namespace, &vfs::Path::root_of(&mounted), propagation),
            None => Ok(()),
        }
    }

    /// A new directory in memory.
    fn memory(&self, name: &'static str, mode: u32) -> SysResult<Arc<Dentry>> {
        let mode = MountOption { name: b"mode".to_vec(), value: Some(format!("{mode:o}").into_bytes()) };
        TmpFs { name, devices: self.devices.clone() }.instance(None, &[mode])
    }

    /// The root of what the host has; `is_root`: the sandbox's own root directory, which nobody else changes.
    fn host(&self, host: Host, is_root: bool) -> SysResult<Arc<Dentry>> {
        let writable = host.writes == Writes::ToHost;
        let over = host.writes == Writes::ToMemory;
        let root = match &host.name {
            None => HostInode::root(host.fd, writable, is_root || over)?,
            Some(name) => HostInode::below(host.fd, name, writable)?,
        };
        let lower = root.dentry()?;
        if !over || host.name.is_some() {
            return Ok(lower);
        }
        let mode = lower.inode().attr()?.mode & 0o7777;
        let layers = Layers { lowers: vec![lower], upper: Some(self.memory("tmpfs", mode)?), work: None };
        OverlayFs::over(layers, String::new(), false)
    }

    /// The root of a new filesystem of a type.
    fn internal(&self, kind: &str, name: &[u8], options: &[u8], flags: u64, caller: &Caller) -> SysResult<Arc<Dentry>> {
        if kind == "devpts" {
            // The instance that /dev/ptmx belongs to.
            return self.pts.root();
        }
        // Whichever version's controllers a configuration asks for, it gets what there is.
        let (kind, options) = if kind.starts_with("cgroup") { ("cgroup2", &b""[..]) } else { (kind, options) };
        let filesystem = self.kernel.filesystems.get(kind.as_bytes())?;
        // The mount is read-only, not the filesystem: places for other mounts are made in it.
        let request = MountRequest { source: name, options: MountOption::parse(options), flags: flags & !c::MS_RDONLY, caller };
        filesystem.mount(&request)
    }

    /// Hides what is at a path, if anything is.
    fn mask(&self, namespace: &Arc<MountNamespace>, caller: &Caller, path: &[u8]) -> SysResult<()> {
        let at = match caller.resolve(path, WalkFlags::FOLLOW) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            at => at?,
        };
        let flags = c::MS_RDONLY | c::MS_NOSUID | c::MS_NODEV | c::MS_NOEXEC | c::MS_RELATIME;
        if at.dentry.is_dir() {
            let empty = self.memory("tmpfs", 0o755)?;
            return namespace.mount(&vfs::Mount::new(empty, b"tmpfs", flags), &at);
        }
        let null = caller.resolve(b"/dev/null", WalkFlags::FOLLOW)?;
        namespace.mount(&namespace.copy_of(&null, false)?, &at)
    }
}

/// Keeps what is at a path, if anything is, from being changed.
fn read_only(namespace: &Arc<MountNamespace>, caller: &Caller, path: &[u8]) -> SysResult<()> {
    let at = match caller.resolve(path, WalkFlags::FOLLOW) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        at => at?,
    };
    let copy = namespace.copy_of(&at, true)?;
    for mount in copy.tree() {
        mount.set_flags(mount.flags() | c::MS_RDONLY)?;
    }
    namespace.mount(&copy, &at)
}

fn propagate(namespace: &MountNamespace, at: &vfs::Path, (kind, recursive): (Propagation, bool)) -> SysResult<()> {
    let kind = match kind {
        Propagation::Private => PropagationKind::Private,
        Propagation::Shared => PropagationKind::Shared,
        Propagation::Slave => PropagationKind::Slave,
        Propagation::Unbindable => PropagationKind::Unbindable,
    };
    namespace.set_propagation(at, kind, recursive)
}

/// Makes a device node, unless there is one at its path.
fn make_device(caller: &Caller, device: &Device) -> SysResult<()> {
    let (dir, _) = device.path.rsplit_once('/').ok_or(Errno::EINVAL)?;
    place(caller, dir.as_bytes(), true)?;
    let found = caller.walk(None, device.path.as_bytes(), WalkFlags::empty())?;
    let at = match &found.found {
        Some(at) => at.clone(),
        None => caller.create(&found, device.mode, c::makedev(device.major, device.minor), Vec::new())?,
    };
    caller.chown(&at, Some(Kuid(device.uid)), Some(Kgid(device.gid)))?;
    caller.chmod(&at, device.mode & 0o7777)
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
