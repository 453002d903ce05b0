//! Reading and writing.

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use socket::SocketFile;
use task::Current;
use usermem::{IoBuf, UserMemoryExt};
use vfs::{File, WriteOptions};

use crate::args::{file, int};
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::READ, |t, a| read(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), None)),
    full(nr::WRITE, |t, a| write(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), None)),
    full(nr::PREAD64, |t, a| read(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), Some(offset(a[3])?))),
    full(nr::PWRITE64, |t, a| write(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), Some(offset(a[3])?))),
    full(nr::READV, |t, a| read(t, &*file(t, a[0])?, &mut vector(t, a)?, None)),
    full(nr::WRITEV, |t, a| write(t, &*file(t, a[0])?, &mut vector(t, a)?, None)),
    full(nr::PREADV, |t, a| read(t, &*positioned(t, a)?, &mut vector(t, a)?, Some(offset(a[3])?))),
    full(nr::PWRITEV, |t, a| write(t, &*positioned(t, a)?, &mut vector(t, a)?, Some(offset(a[3])?))),
    full(nr::PREADV2, preadv2),
    full(nr::PWRITEV2, pwritev2),
    full(nr::LSEEK, |t, a| file(t, a[0])?.seek(a[1].cast_signed(), int(a[2]))),
    full(nr::GETDENTS, |t, a| getdents(t, a, true)),
    full(nr::GETDENTS64, |t, a| getdents(t, a, false)),
];

/// Flags of preadv2(2) and pwritev2(2), by their values here.
const RWF_HIPRI: i32 = 0x1;
const RWF_DSYNC: i32 = 0x2;
const RWF_SYNC: i32 = 0x4;
const RWF_NOWAIT: i32 = 0x8;
const RWF_APPEND: i32 = 0x10;
const RWF_NOAPPEND: i32 = 0x20;

fn offset(arg: u64) -> SysResult<u64> {
    if arg.cast_signed() < 0 { Err(Errno::EINVAL) } else { Ok(arg) }
}

/// The file of a call with an offset, which is refused before the vectors are looked at.
fn positioned(t: &Current, a: [u64; 6]) -> SysResult<Arc<File>> {
    let file = file(t, a[0])?;
    if file.ops.is_stream() { Err(Errno::ESPIPE) } else { Ok(file) }
}

fn vector(t: &Current, a: [u64; 6]) -> SysResult<IoBuf<'_>> {
    // The descriptor is looked at first.
    file(t, a[0])?;
    Ok(IoBuf::iovecs(&*t.mm, t.mm.read_iovecs(a[1], a[2])?))
}

/// How a transfer is to be done.
#[derive(Clone, Copy, Default)]
pub struct Mode {
    /// Where; at the position if `None`.
    at: Option<u64>,
    append: Option<bool>,
    sync: bool,
    nowait: bool,
}

/// Decodes offset and flags of preadv2(2) and pwritev2(2).
fn mode(file: &File, a: [u64; 6]) -> SysResult<Mode> {
    let flags = int(a[5]);
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let at = if a[3].cast_signed() == -1 { None } else { Some(offset(a[3])?) };
    if at.is_some() && file.ops.is_stream() {
        return Err(Errno::ESPIPE);
    }
    let append = match flags & (RWF_APPEND | RWF_NOAPPEND) {
        0 => None,
        flag => Some(flag == RWF_APPEND),
    };
    Ok(Mode { at, append, sync: flags & (RWF_SYNC | RWF_DSYNC) != 0, nowait: flags & RWF_NOWAIT != 0 })
}

fn preadv2(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let mode = mode(&file, a)?;
    read_with(t, &file, &mut vector(t, a)?, mode)
}

fn pwritev2(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let mode = mode(&file, a)?;
    write_with(t, &file, &mut vector(t, a)?, mode)
}

/// Reads, waiting for data if the file isn't non-blocking.
pub fn read(t: &Current, file: &File, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<u64> {
    read_with(t, file, buf, Mode { at, ..Mode::default() })
}

fn read_with(t: &Current, file: &File, buf: &mut IoBuf<'_>, mode: Mode) -> SysResult<u64> {
    let at = mode.at;
    if at.is_none() && SocketFile::of(file).is_some() {
        return crate::socket::read(t, file, buf);
    }
    let start = buf.done();
    let result = match file.read(buf, at) {
        Err(Errno::EAGAIN) if !file.nonblocking() && !mode.nowait => read_later(t, file, buf, at),
        result => result.map(drop),
    };
    t.count_read((buf.done() - start) as u64);
    match (result, buf.done() - start) {
        // What has been read counts, whatever came after.
        (Err(errno), 0) => Err(errno),
        (_, count) => Ok(count as u64),
    }
}

/// Reads when there is something, or when the file has waited long enough for it.
fn read_later(t: &Current, file: &File, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<()> {
    let _entry = file.ops.wait_queue().map(|queue| queue.register(PollEvents::READABLE, t.task.parker.clone()));
    let start = buf.done();
    let mut waiting = None;
    loop {
        match file.read(buf, at) {
            Err(Errno::EAGAIN) => {}
            result => return result.map(drop),
        }
        // Whatever comes in starts the time anew.
        let done = buf.done() - start;
        let deadline = match waiting {
            Some((before, deadline)) if before == done => deadline,
            _ => file.ops.read_patience(done).map(crate::args::after),
        };
        waiting = Some((done, deadline));
        match t.sleep(deadline) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Writes all, waiting for room if the file isn't non-blocking.
pub fn write(t: &Current, file: &File, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<u64> {
    write_with(t, file, buf, Mode { at, ..Mode::default() })
}

fn write_with(t: &Current, file: &File, buf: &mut IoBuf<'_>, mode: Mode) -> SysResult<u64> {
    if mode.at.is_none() && SocketFile::of(file).is_some() {
        return crate::socket::write(t, file, buf);
    }
    let start = buf.done();
    let result = if file.nonblocking() || mode.nowait || !file.ops.is_stream() {
        let limit = || t.task.group.limit(c::RLIMIT_FSIZE);
        let options = WriteOptions { at: mode.at, append: mode.append, sync: mode.sync, limit: Some(&limit) };
        file.write_with(buf, options).map(drop)
    } else {
        let mut attempt = || match file.write(buf, mode.at) {
            Ok(_) if buf.remaining() > 0 => Err(Errno::EAGAIN),
            result => result.map(drop),
        };
        t.block_on(file.ops.wait_queue(), PollEvents::WRITABLE, None, &mut attempt)
    };
    match result {
        Err(Errno::EPIPE) => t.task.signal(SigInfo::from_process(c::SIGPIPE, c::SI_USER, t.task.group.own_pid(), 0)),
        Err(Errno::EFBIG) => too_large(t),
        _ => {}
    }
    t.count_write((buf.done() - start) as u64);
    match (result, buf.done() - start) {
        // What has been written counts, whatever came after.
        (Err(errno), 0) => Err(errno),
        (_, count) => Ok(count as u64),
    }
}

/// What follows from `EFBIG` when it is a limit of the process's own (setrlimit(2), RLIMIT_FSIZE).
pub fn too_large(t: &Current) {
    if t.task.group.limit(c::RLIMIT_FSIZE) != c::RLIM_INFINITY {
        t.task.signal(SigInfo::from_process(c::SIGXFSZ, c::SI_USER, t.task.group.own_pid(), 0));
    }
}

/// Refuses to make a file larger than the process may.
///
/// # Errors
/// `EFBIG`, and `SIGXFSZ` is sent.
pub fn check_size(t: &Current, size: u64) -> SysResult<()> {
    if size > t.task.group.limit(c::RLIMIT_FSIZE) {
        too_large(t);
        return Err(Errno::EFBIG);
    }
    Ok(())
}

/// getdents64(2): inode, offset, length, type, name.
/// getdents(2), `legacy`: the type comes last, behind the name.
fn getdents(t: &mut Current, a: [u64; 6], legacy: bool) -> SysResult<u64> {
    let file = file(t, a[0])?;
    if file.flags() & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    // As on Linux, more than an `int` holds has room for nothing.
    let room = usize::try_from(int(a[2])).unwrap_or(0);
    let mut bytes = Vec::new();
    // Where entries end, and the positions after them.
    let mut ends = Vec::new();
    let mut tight = false;
    let before = file.position();
    file.readdir(&mut |next, entry| {
        // Both have 20 bytes beside the name.
        let len = (20 + entry.name.len()).next_multiple_of(8);
        if bytes.len() + len > room {
            tight = true;
            return Ok(false);
        }
        let start = bytes.len();
        bytes.extend_from_slice(&entry.ino.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(len).map_err(|_| Errno::EIO)?.to_le_bytes());
        let kind = u8::try_from(entry.kind >> 12 & 0xf).unwrap_or(0);
        if !legacy {
            bytes.push(kind);
        }
        bytes.extend_from_slice(&entry.name);
        bytes.resize(start + len, 0);
        if let Some(last) = bytes.last_mut().filter(|_| legacy) {
            *last = kind;
        }
        ends.push((bytes.len(), next));
        Ok(true)
    })?;
    if bytes.is_empty() {
        return if tight { Err(Errno::EINVAL) } else { Ok(0) };
    }
    let written = IoBuf::user(&*t.mm, a[1], bytes.len() as u64).copy_out(&bytes).unwrap_or(0);
    if written < bytes.len() {
        // What doesn't fit as a whole comes again next time.
        let whole = ends.into_iter().rev().find(|(end, _)| *end <= written);
        file.set_position(whole.map_or(before, |(_, next)| next));
        return whole.map(|(end, _)| end as u64).ok_or(Errno::EFAULT);
    }
    Ok(bytes.len() as u64)
}
