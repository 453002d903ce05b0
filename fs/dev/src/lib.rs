//! Character devices of /dev that every program expects (null(4), random(4), full(4)), and the kernel's log.
#![forbid(unsafe_code)]

mod kmsg;

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use klog::Log;
use sync::MonotonicNs;
use usermem::{IoBuf, MAX_RW};
use vfs::{FileOps, Inode, NewNode};

use kmsg::Kmsg;

/// Devices with major number 1: name, minor number.
const MEMORY: &[(&str, u64)] = &[("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];

/// /dev/zero's minor number.
const ZERO: u64 = 5;

struct MemoryDevice(u64);

impl FileOps for MemoryDevice {
    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if self.0 == 3 {
            return Ok(0);
        }
        let mut chunk = [0; 4096];
        let mut total = 0;
        while buf.remaining() > 0 && total < MAX_RW {
            if self.0 >= 8 {
                rustix::rand::getrandom(&mut chunk, rustix::rand::GetRandomFlags::empty())?;
            }
            let want = chunk.len().min(buf.remaining());
            match buf.copy_out(chunk.get(..want).unwrap_or_default()) {
                Ok(count) => total += count,
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if self.0 == 7 { Err(Errno::ENOSPC) } else { Ok(buf.skip_rest()) }
    }

    fn pinned(&self) -> bool {
        true
    }

    fn maps_memory(&self) -> bool {
        self.0 == ZERO
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Number of /dev/kmsg, beside the others of major number 1.
const KMSG: u32 = 11;

/// Opens a device. `log` is the kernel's, whose time began at `started`.
///
/// # Errors
/// `ENXIO` for numbers that have no driver.
pub fn open(kind: u32, rdev: u64, log: &Arc<Log>, started: MonotonicNs) -> SysResult<Arc<dyn FileOps>> {
    if kind == c::S_IFCHR && rdev == c::makedev(1, KMSG) {
        return Ok(Arc::new(Kmsg::open(log.clone(), started)));
    }
    let known = kind == c::S_IFCHR && MEMORY.iter().any(|(_, minor)| c::makedev(1, *minor as u32) == rdev);
    if known { Ok(Arc::new(MemoryDevice(u64::from(c::minor(rdev))))) } else { Err(Errno::ENXIO) }
}

/// Makes the nodes of /dev in an empty directory.
///
/// # Errors
/// What the directory says.
pub fn populate(dir: &Arc<dyn Inode>) -> SysResult<()> {
    let node = |mode, rdev, target: &str| NewNode { rdev, target: target.into(), ..NewNode::plain(mode) };
    for (name, minor) in MEMORY {
        let rdev = c::makedev(1, *minor as u32);
        dir.clone().create(name.as_bytes(), &node(c::S_IFCHR | 0o666, rdev, ""))?;
    }
    dir.clone().create(b"kmsg", &node(c::S_IFCHR | 0o644, c::makedev(1, KMSG), ""))?;
    let links =
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")];
    for (name, target) in links {
        dir.clone().create(name.as_bytes(), &node(c::S_IFLNK | 0o777, 0, target))?;
    }
    dir.clone().create(b"shm", &node(c::S_IFDIR | 0o1777, 0, ""))?;
    // Terminals: the filesystem is mounted there, and their devices are its.
    dir.clone().create(b"pts", &node(c::S_IFDIR | 0o755, 0, ""))?;
    dir.clone().create(b"ptmx", &node(c::S_IFLNK | 0o777, 0, "pts/ptmx"))?;
    dir.clone().create(b"tty", &node(c::S_IFCHR | 0o666, c::makedev(5, 0), ""))?;
    Ok(())
}
