//! Descriptors.

use std::any::Any;

use abi::{Errno, SysResult, c, nr};
use pipe::PipeEnd;
use socket::SocketFile;
use task::Current;
use tty::{Master, Slave};
use usermem::UserMemoryExt;
use vfs::{File, FileOps, IoctlArg, Path, SetAttr, WalkFlags};

use crate::args::{file, int, uint};
use crate::fcntl::{get_owner, set_flags, set_owner_from};
use crate::namespaces::ns_ioctl;
use crate::seccomp::listener_ioctl;
use crate::{Entry, full};

/// Opens the slave of a master.
const TIOCGPTPEER: u64 = 0x5441;
/// Who is told by signals that a socket is ready (socket(7)).
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const FIOGETOWN: u64 = 0x8903;
const SIOCGPGRP: u64 = 0x8904;

pub const ENTRIES: &[Entry] = &[
    full(nr::CLOSE, |t, a| t.fds.close(int(a[0])).map(|()| 0)),
    full(nr::CLOSE_RANGE, close_range),
    full(nr::DUP, |t, a| install(t, file(t, a[0])?, false, 0)),
    full(nr::DUP2, |t, a| dup(t, int(a[0]), int(a[1]), None)),
    full(nr::DUP3, |t, a| dup(t, int(a[0]), int(a[1]), Some(int(a[2])))),
    full(nr::IOCTL, ioctl),
    full(nr::PIPE, |t, a| make_pipe(t, a[0], 0)),
    full(nr::PIPE2, |t, a| make_pipe(t, a[0], int(a[1]))),
];

/// Puts a file at the lowest free descriptor.
pub fn install(t: &Current, file: std::sync::Arc<File>, cloexec: bool, min: i32) -> SysResult<u64> {
    let limit = t.task.group.limit(c::RLIMIT_NOFILE);
    t.fds.install(file, cloexec, min, limit).map(|fd| fd.cast_unsigned().into())
}

fn dup(t: &Current, from: i32, to: i32, flags: Option<i32>) -> SysResult<u64> {
    let file = t.fds.get(from)?;
    if flags.is_some_and(|flags| flags & !c::O_CLOEXEC != 0) || from == to && flags.is_some() {
        return Err(Errno::EINVAL);
    }
    if from != to {
        t.fds.set(to, file, flags.unwrap_or(0) & c::O_CLOEXEC != 0, t.task.group.limit(c::RLIMIT_NOFILE))?;
    }
    Ok(to.cast_unsigned().into())
}

fn close_range(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (first, last, flags) = (uint(a[0]), uint(a[1]), uint(a[2]));
    if first > last || flags & !6 != 0 {
        return Err(Errno::EINVAL);
    }
    // CLOSE_RANGE_UNSHARE
    if flags & 2 != 0 {
        t.fds = t.fds.unshare();
        let old = std::mem::replace(&mut t.task.lock().fds, t.fds.clone());
        drop(old);
    }
    t.fds.close_range(first, last, flags & 4 != 0);
    Ok(0)
}

fn ioctl(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let cmd = uint(a[1]);
    if file.flags() & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    let socket = SocketFile::of(&file);
    match u64::from(cmd) {
        FIOSETOWN | SIOCSPGRP if socket.is_some() => set_owner_from(t, &file, t.mm.read_obj(a[2])?),
        FIOGETOWN | SIOCGPGRP if socket.is_some() => {
            let owner = get_owner(t, &file).cast_signed();
            t.mm.write_obj(a[2], &i32::try_from(owner).map_err(|_| Errno::EINVAL)?).map(|()| 0)
        }
        c::FIOCLEX => t.fds.set_cloexec(int(a[0]), true).map(|()| 0),
        c::FIONCLEX => t.fds.set_cloexec(int(a[0]), false).map(|()| 0),
        c::FIONBIO => {
            let on: i32 = t.mm.read_obj(a[2])?;
            let flags = if on != 0 { file.flags() | c::O_NONBLOCK } else { file.flags() & !c::O_NONBLOCK };
            file.set_flags(flags);
            Ok(0)
        }
        c::FIOASYNC => {
            let on: i32 = t.mm.read_obj(a[2])?;
            if !file.ops.can_signal() {
                return Err(Errno::ENOTTY);
            }
            let flags = if on != 0 { file.flags() | c::O_ASYNC } else { file.flags() & !c::O_ASYNC };
            set_flags(t, int(a[0]), &file, flags)
        }
        TIOCGPTPEER => open_peer(t, &file, int(a[2])),
        _ => {
            if let Some(result) = listener_ioctl(t, &file, cmd, a[2]).or_else(|| ns_ioctl(t, &file, cmd, a[2])) {
                return result;
            }
            let arg = IoctlArg { cmd, arg: a[2], memory: &*t.mm };
            match socket {
                Some(socket) => crate::socket::ioctl(t, &**socket, &arg),
                None => file.ops.ioctl(&arg),
            }
        }
    }
}

/// `TIOCGPTPEER`: opens a master's slave, wherever its filesystem is mounted.
fn open_peer(t: &Current, file: &File, flags: i32) -> SysResult<u64> {
    let master = (&*file.ops as &dyn Any).downcast_ref::<Master>().ok_or(Errno::ENOTTY)?;
    let slave = Slave::open(master.terminal(), flags)?;
    let path = file.path.as_ref().and_then(|ptmx| peer_path(t, ptmx, master.terminal().rdev()));
    install(t, File::new(slave, path, flags & !c::O_CLOEXEC), flags & c::O_CLOEXEC != 0, 0)
}

/// Where a slave is: beside its ptmx, or in the directory pts beside that.
fn peer_path(t: &Current, ptmx: &Path, rdev: u64) -> Option<Path> {
    let dir = Path { mount: ptmx.mount.clone(), dentry: ptmx.dentry.parent()? };
    let index = c::minor(rdev);
    let found = |name: String| t.caller().walk(Some(&dir), name.as_bytes(), WalkFlags::empty()).ok()?.existing().ok();
    let is_it = |path: &Path| path.dentry.inode().attr().is_ok_and(|attr| attr.rdev == rdev);
    [index.to_string(), format!("pts/{index}")].into_iter().filter_map(found).find(is_it)
}

fn make_pipe(t: &mut Current, addr: u64, flags: i32) -> SysResult<u64> {
    if flags & !(c::O_CLOEXEC | c::O_NONBLOCK | c::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (read, write) = PipeEnd::pair();
    let who = t.credentials();
    read.set_attr(&SetAttr { uid: Some(who.fsuid.0), gid: Some(who.fsgid.0), ..SetAttr::default() })?;
    write.set_packets(flags & c::O_DIRECT != 0);
    let cloexec = flags & c::O_CLOEXEC != 0;
    let status = flags & (c::O_NONBLOCK | c::O_DIRECT);
    let first = install(t, File::new(read, None, c::O_RDONLY | status), cloexec, 0)?;
    let second = install(t, File::new(write, None, c::O_WRONLY | status), cloexec, 0);
    let written = second.and_then(|second| t.mm.write_obj(addr, &[int(first), int(second)]).map(|()| second));
    if written.is_err() {
        t.fds.close(int(first))?;
        if let Ok(second) = second {
            t.fds.close(int(second))?;
        }
    }
    written.map(|_| 0)
}
