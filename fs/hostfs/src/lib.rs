//! A host directory, read-only, and the host descriptors that a sandbox is started with.
//!
//! Every access goes through openat2(2) beneath the root's descriptor and follows no symbolic link: the sentry walks links itself.
#![forbid(unsafe_code)]

mod stdio;

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use usermem::{Access, HostFile, IoBuf};
use vfs::{Attr, DirEntry, FileOps, Inode, new_dev};

pub use stdio::HostStream;

struct Root {
    fd: OwnedFd,
    dev: u64,
}

/// A file or directory below a host directory.
pub struct HostInode {
    root: Arc<Root>,
    path: Vec<u8>,
}

impl HostInode {
    /// The directory that `fd` is open on.
    #[must_use]
    pub fn root(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self { root: Arc::new(Root { fd, dev: new_dev() }), path: b".".to_vec() })
    }

    fn join(&self, name: &[u8]) -> Vec<u8> {
        [&self.path, &b"/"[..], name].concat()
    }

    fn open_host(&self, path: &[u8], flags: OFlags) -> SysResult<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.root.fd, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)?)
    }

    fn attr_of(&self, path: &[u8]) -> SysResult<Attr> {
        let stat = rustix::fs::statat(&self.root.fd, path, AtFlags::SYMLINK_NOFOLLOW)?;
        let time = |sec, nsec: u64| Timespec { sec, nsec: nsec.cast_signed() };
        Ok(Attr {
            dev: self.root.dev,
            // Inode numbers of several host filesystems meet here.
            ino: stat.st_ino ^ (stat.st_dev << 40),
            nlink: stat.st_nlink,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: stat.st_size.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }
}

impl Inode for HostInode {
    fn attr(&self) -> SysResult<Attr> {
        self.attr_of(&self.path)
    }

    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        let path = self.join(name);
        self.attr_of(&path)?;
        Ok(Arc::new(Self { root: self.root.clone(), path }))
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        let fd = self.open_host(&self.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                entries.push(DirEntry { name, ino: entry.ino(), kind: entry.file_type().as_raw_mode() });
            }
        }
        Ok(entries)
    }

    fn readlink(&self) -> SysResult<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.root.fd, &*self.path, Vec::new())?.into_bytes())
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        if flags & c::O_ACCMODE != c::O_RDONLY {
            return Err(Errno::EROFS);
        }
        // Fifos, sockets and devices of the host are none of the guest's.
        if self.attr()?.kind() != c::S_IFREG {
            return Err(Errno::ENXIO);
        }
        let fd = self.open_host(&self.path, OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK)?;
        Ok(Arc::new(HostRegular { file: HostFile::new(fd, false) }))
    }

    fn statfs(&self) -> SysResult<Statfs> {
        let host = rustix::fs::fstatfs(&self.root.fd)?;
        Ok(Statfs {
            kind: host.f_type,
            bsize: host.f_bsize,
            blocks: host.f_blocks,
            bfree: host.f_bfree,
            bavail: host.f_bavail,
            files: host.f_files,
            ffree: host.f_ffree,
            namelen: host.f_namelen,
            frsize: host.f_frsize,
            ..Statfs::default()
        })
    }
}

/// An open regular file of the host, read-only.
struct HostRegular {
    file: Arc<HostFile>,
}

impl FileOps for HostRegular {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let mut total = 0;
        while buf.remaining() > 0 {
            let at = offset.checked_add(total as u64).ok_or(Errno::EINVAL)?;
            let mut short = false;
            let result = buf.host_io(Access::Write, &mut |segments| {
                let wanted: usize = segments.iter().map(usermem::Segment::len).sum();
                let count = usermem::preadv(self.file.as_fd(), segments, at)?;
                short = count < wanted;
                Ok(count)
            });
            match result {
                Ok(count) => total += count,
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
            if short {
                break;
            }
        }
        Ok(total)
    }

    fn host_file(&self) -> SysResult<Arc<HostFile>> {
        Ok(self.file.clone())
    }

    fn fsync(&self) -> SysResult<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
