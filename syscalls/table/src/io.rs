//! Reading and writing.

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use socket::SocketFile;
use task::Current;
use usermem::{IoBuf, UserMemoryExt};
use vfs::File;

use crate::args::{file, int, uint};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    full(nr::READ, |t, a| read(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), None)),
    full(nr::WRITE, |t, a| write(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), None)),
    full(nr::PREAD64, |t, a| read(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), Some(offset(a[3])?))),
    full(nr::PWRITE64, |t, a| write(t, &*file(t, a[0])?, &mut IoBuf::user(&*t.mm, a[1], a[2]), Some(offset(a[3])?))),
    full(nr::READV, |t, a| read(t, &*file(t, a[0])?, &mut vector(t, a)?, None)),
    full(nr::WRITEV, |t, a| write(t, &*file(t, a[0])?, &mut vector(t, a)?, None)),
    full(nr::PREADV, |t, a| read(t, &*file(t, a[0])?, &mut vector(t, a)?, Some(offset(a[3])?))),
    full(nr::PWRITEV, |t, a| write(t, &*file(t, a[0])?, &mut vector(t, a)?, Some(offset(a[3])?))),
    full(nr::LSEEK, |t, a| file(t, a[0])?.seek(a[1].cast_signed(), int(a[2]))),
    full(nr::GETDENTS64, getdents),
    partial(nr::SENDFILE, sendfile, "copies through the kernel"),
];

fn offset(arg: u64) -> SysResult<u64> {
    if arg.cast_signed() < 0 { Err(Errno::EINVAL) } else { Ok(arg) }
}

fn vector(t: &Current, a: [u64; 6]) -> SysResult<IoBuf<'_>> {
    Ok(IoBuf::iovecs(&*t.mm, t.mm.read_iovecs(a[1], uint(a[2]).into())?))
}

/// Reads, waiting for data if the file isn't non-blocking.
pub fn read(t: &Current, file: &File, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<u64> {
    if at.is_none() && SocketFile::of(file).is_some() {
        return crate::socket::read(t, file, buf);
    }
    if file.nonblocking() {
        return file.read(buf, at).map(|count| count as u64);
    }
    t.block_on(file.ops.wait_queue(), PollEvents::READABLE, None, || file.read(buf, at)).map(|count| count as u64)
}

/// Writes all, waiting for room if the file isn't non-blocking.
pub fn write(t: &Current, file: &File, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<u64> {
    if at.is_none() && SocketFile::of(file).is_some() {
        return crate::socket::write(t, file, buf);
    }
    let start = buf.done();
    let result = if file.nonblocking() || !file.ops.is_stream() {
        file.write(buf, at).map(drop)
    } else {
        let mut attempt = || match file.write(buf, at) {
            Ok(_) if buf.remaining() > 0 => Err(Errno::EAGAIN),
            result => result.map(drop),
        };
        t.block_on(file.ops.wait_queue(), PollEvents::WRITABLE, None, &mut attempt)
    };
    if let Err(Errno::EPIPE) = result {
        t.task.signal(SigInfo::from_process(c::SIGPIPE, c::SI_USER, t.task.group.pid, 0));
    }
    match (result, buf.done() - start) {
        // What has been written counts, whatever came after.
        (Err(errno), 0) => Err(errno),
        (_, count) => Ok(count as u64),
    }
}

/// getdents64(2): inode, offset, length, type, name.
fn getdents(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let room = uint(a[2]) as usize;
    let mut bytes = Vec::new();
    let mut tight = false;
    file.readdir(&mut |next, entry| {
        let len = (19 + entry.name.len() + 1).next_multiple_of(8);
        if bytes.len() + len > room {
            tight = true;
            return Ok(false);
        }
        let start = bytes.len();
        bytes.extend_from_slice(&entry.ino.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(len).map_err(|_| Errno::EIO)?.to_le_bytes());
        bytes.push(u8::try_from(entry.kind >> 12 & 0xf).unwrap_or(0));
        bytes.extend_from_slice(&entry.name);
        bytes.resize(start + len, 0);
        Ok(true)
    })?;
    if bytes.is_empty() && tight {
        return Err(Errno::EINVAL);
    }
    t.mm.write(a[1], &bytes)?;
    Ok(bytes.len() as u64)
}

fn sendfile(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (to, from) = (file(t, a[0])?, file(t, a[1])?);
    let mut at: Option<u64> = if a[2] == 0 { None } else { Some(offset(t.mm.read_obj(a[2])?)?) };
    let mut chunk = vec![0; 1 << 16];
    let mut total = 0u64;
    while total < a[3] {
        let want = usize::try_from(a[3] - total).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.get_mut(..want).unwrap_or_default();
        let count = match from.read(&mut IoBuf::kernel_mut(part), at) {
            Ok(0) => break,
            Ok(count) => count,
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
        };
        let done = match write(t, &to, &mut IoBuf::kernel(part.get(..count).unwrap_or_default()), None) {
            Ok(done) => done,
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
        };
        at = at.map(|at| at + done);
        total += done;
        if done < count as u64 {
            break;
        }
    }
    if let Some(at) = at {
        t.mm.write_obj(a[2], &at)?;
    }
    Ok(total)
}
