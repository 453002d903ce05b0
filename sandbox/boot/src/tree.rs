//! The file tree that the first process sees.

use std::fs::File as HostFileHandle;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use hostfs::HostInode;
use task::Kernel;
use vfs::{Dentry, Inode, NewNode};

use crate::config::{BootConfig, Mount, Source, Writes};

/// A mount whose host side is open: made while the host's files can still be reached.
pub struct Prepared {
    target: Vec<u8>,
    what: Opened,
}

enum Opened {
    Directory(OwnedFd, Writes),
    /// A file: its directory and its name.
    File(OwnedFd, Vec<u8>, Writes),
    Internal(Source),
}

impl Prepared {
    /// The descriptor that it holds.
    pub fn raw_fd(&self) -> Option<RawFd> {
        match &self.what {
            Opened::Directory(fd, _) | Opened::File(fd, _, _) => Some(fd.as_raw_fd()),
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
                Opened::Directory(HostFileHandle::open(&path).map_err(|error| about(error, &path))?.into(), *writes)
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

/// Assembles the tree.
///
/// # Errors
/// What the filesystems say.
pub fn assemble(mounts: Vec<Prepared>, kernel: &Arc<Kernel>) -> SysResult<Arc<Dentry>> {
    let mut root: Option<Arc<Dentry>> = None;
    for mount in mounts {
        let inode = inode(mount.what, kernel)?;
        match &root {
            None => root = Some(Dentry::root(inode)),
            Some(root) => attach(root, &mount.target, inode)?,
        }
    }
    root.ok_or(Errno::EINVAL)
}

fn inode(what: Opened, kernel: &Arc<Kernel>) -> SysResult<Arc<dyn Inode>> {
    let (log, started) = (kernel.log.clone(), kernel.started);
    let devices = Arc::new(move |kind, rdev| devfs::open(kind, rdev, &log, started));
    let over = |lower: Arc<dyn Inode>, writes| -> SysResult<Arc<dyn Inode>> {
        match writes {
            Writes::ToMemory => Ok(tmpfs::Node::root(Some(lower), 0o755, devices.clone())?),
            Writes::No | Writes::ToHost => Ok(lower),
        }
    };
    Ok(match what {
        Opened::Directory(fd, writes) => over(HostInode::root(fd, writes == Writes::ToHost), writes)?,
        Opened::File(fd, name, writes) => HostInode::below(fd, &name, writes == Writes::ToHost)?,
        Opened::Internal(Source::Tmpfs { mode }) => tmpfs::Node::root(None, mode, devices)?,
        Opened::Internal(Source::Proc) => procfs::root(kernel.clone()),
        Opened::Internal(Source::Devices) => {
            let dev: Arc<dyn Inode> = tmpfs::Node::root(None, 0o755, devices)?;
            devfs::populate(&dev)?;
            dev
        }
        Opened::Internal(_) => tmpfs::Node::root(None, 0o555, devices)?,
    })
}

/// Mounts `inode` at a path below `root`, making what is missing on the way.
fn attach(root: &Arc<Dentry>, target: &[u8], inode: Arc<dyn Inode>) -> SysResult<()> {
    let fs = vfs::FsContext { root: root.clone(), cwd: root.clone(), umask: 0 };
    let dir = inode.attr()?.is_dir();
    let names: Vec<&[u8]> = target.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    let mut path = Vec::new();
    for (i, name) in names.iter().enumerate() {
        path.push(b'/');
        path.extend_from_slice(name);
        let last = i + 1 == names.len();
        let found = fs.walk(None, &path, true)?;
        if found.found.is_none() {
            let kind = if last && !dir { c::S_IFREG | 0o644 } else { c::S_IFDIR | 0o755 };
            found.dir.create(&found.name, &NewNode { mode: kind, uid: 0, gid: 0, rdev: 0, target: Vec::new() })?;
        }
    }
    let place = fs.walk(None, &path, true)?.existing()?;
    let (Some(parent), Some(name)) = (place.parent(), place.path(root).rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec))
    else {
        return Err(Errno::EBUSY);
    };
    parent.mount(&name, inode);
    Ok(())
}
