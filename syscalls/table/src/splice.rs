//! Moving bytes from file to file: sendfile(2), copy_file_range(2), splice(2), tee(2), vmsplice(2).

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use pipe::PipeEnd;
use task::Current;
use usermem::{IoBuf, MAX_RW, UserMemoryExt};
use vfs::{File, WriteOptions};

use crate::args::{file, uint};
use crate::io::{read, too_large, write};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    full(nr::SENDFILE, sendfile),
    full(nr::COPY_FILE_RANGE, copy_file_range),
    full(nr::SPLICE, splice),
    full(nr::TEE, tee),
    partial(nr::VMSPLICE, vmsplice, "copies, whatever SPLICE_F_GIFT says"),
];

/// Bytes that are moved at once.
const CHUNK: usize = 64 << 10;
/// `SPLICE_F_MOVE`, `SPLICE_F_NONBLOCK`, `SPLICE_F_MORE`, `SPLICE_F_GIFT`
const FLAGS: u32 = 15;
const NONBLOCK: u32 = 2;

fn pipe_of(file: &File) -> Option<&PipeEnd> {
    file.ops.as_any().downcast_ref()
}

/// # Errors
/// `EBADF` when `file` isn't open for reading, or not for writing.
fn check(file: &File, write: bool) -> SysResult<()> {
    let mode = file.flags() & (c::O_ACCMODE | c::O_PATH);
    let fits = mode == c::O_RDWR || mode == if write { c::O_WRONLY } else { c::O_RDONLY };
    if fits { Ok(()) } else { Err(Errno::EBADF) }
}

/// The offset that a call's argument points to; `None` for a null pointer.
fn offset(t: &Current, addr: u64) -> SysResult<Option<u64>> {
    if addr == 0 {
        return Ok(None);
    }
    let at: i64 = t.mm.read_obj(addr)?;
    u64::try_from(at).map(Some).map_err(|_| Errno::EINVAL)
}

/// Where a transfer of `len` bytes starts in a file that has positions.
fn place(t: &Current, file: &File, addr: u64, len: usize) -> SysResult<Option<u64>> {
    if addr == 0 {
        return Ok(None);
    }
    if file.ops.is_stream() {
        return Err(Errno::EINVAL);
    }
    let at = offset(t, addr)?;
    let end = at.and_then(|at| at.checked_add(len as u64));
    if end.is_none_or(|end| i64::try_from(end).is_err()) { Err(Errno::EINVAL) } else { Ok(at) }
}

/// Bytes to move: no more than one transfer may, and not a negative number.
fn length(arg: u64) -> SysResult<usize> {
    isize::try_from(arg).map(|len| len.cast_unsigned().min(MAX_RW)).map_err(|_| Errno::EINVAL)
}

/// What an attempt at moving bytes has come to when it is to be made again: the pipe isn't ready, or the other file isn't.
struct Sides<'a> {
    pipe: &'a File,
    pipe_waits: bool,
    pipe_mask: PollEvents,
    other: &'a File,
    other_waits: bool,
    other_mask: PollEvents,
}

impl Sides<'_> {
    /// Tries until something was moved, waiting for both sides. `attempt` says whether it is the other side that isn't ready.
    fn run(&self, t: &Current, attempt: &mut dyn FnMut(&mut bool) -> SysResult<usize>) -> SysResult<usize> {
        let mut step = || {
            let mut other = false;
            let result = attempt(&mut other);
            let waits = if other { self.other_waits } else { self.pipe_waits };
            if waits && result == Err(Errno::EAGAIN) { Err(Errno::EAGAIN) } else { Ok(result) }
        };
        match step() {
            Ok(result) => return result,
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
        let queue = self.other.ops.wait_queue();
        let _entry = queue.map(|queue| queue.register(self.other_mask, t.task.parker.clone()));
        t.block_on(self.pipe.ops.wait_queue(), self.pipe_mask, None, step)?
    }
}

/// What counts when moving has ended: bytes that were moved, or why none were.
fn outcome(t: &Current, total: usize, error: Option<Errno>) -> SysResult<u64> {
    match error {
        Some(Errno::EPIPE) => t.task.signal(SigInfo::from_process(c::SIGPIPE, c::SI_USER, t.task.group.own_pid(), 0)),
        Some(Errno::EFBIG) => too_large(t),
        _ => {}
    }
    match error {
        Some(errno) if total == 0 => Err(errno),
        _ => Ok(total as u64),
    }
}

fn splice(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (len, flags) = (length(a[4])?, uint(a[5]));
    if len == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (file(t, a[0])?, file(t, a[2])?);
    check(&from, false)?;
    check(&to, true)?;
    let wait = flags & NONBLOCK == 0;
    match (pipe_of(&from), pipe_of(&to)) {
        (Some(source), Some(dest)) => {
            if a[1] != 0 || a[3] != 0 {
                return Err(Errno::ESPIPE);
            }
            pipe_to_pipe(t, (&from, source), (&to, dest), len, wait, true)
        }
        (Some(source), None) => {
            if a[1] != 0 {
                return Err(Errno::ESPIPE);
            }
            let at = place(t, &to, a[3], len)?;
            if to.flags() & c::O_APPEND != 0 {
                return Err(Errno::EINVAL);
            }
            let count = pipe_to_file(t, &from, source, &to, at, len, wait)?;
            put_offset(t, a[3], at, count)
        }
        (None, Some(dest)) => {
            if a[3] != 0 {
                return Err(Errno::ESPIPE);
            }
            let at = place(t, &from, a[1], len)?;
            let count = file_to_pipe(t, &from, at, &to, dest, len, wait)?;
            put_offset(t, a[1], at, count)
        }
        (None, None) => Err(Errno::EINVAL),
    }
}

/// Tells where a transfer has ended; returns its length.
fn put_offset(t: &Current, addr: u64, at: Option<u64>, count: u64) -> SysResult<u64> {
    if let Some(at) = at {
        t.mm.write_obj(addr, &at.saturating_add(count))?;
    }
    Ok(count)
}

fn pipe_to_file(
    t: &Current,
    from: &File,
    source: &PipeEnd,
    to: &File,
    at: Option<u64>,
    len: usize,
    wait: bool,
) -> SysResult<u64> {
    let limit = || t.task.group.limit(c::RLIMIT_FSIZE);
    let mut total = 0;
    loop {
        let sides = Sides {
            pipe: from,
            // What has been moved is not kept waiting for more.
            pipe_waits: wait && total == 0,
            pipe_mask: PollEvents::READABLE,
            other: to,
            other_waits: !to.nonblocking(),
            other_mask: PollEvents::WRITABLE,
        };
        let put = |bytes: &[u8]| {
            let at = at.map(|at| at.saturating_add(total as u64));
            to.write_with(&mut IoBuf::kernel(bytes), WriteOptions { at, limit: Some(&limit), ..WriteOptions::default() })
        };
        let result = sides.run(t, &mut |other| {
            // Files of the kernel's own may need any lock: not under the pipe's.
            if !to.ops.is_regular() && !to.ops.is_stream() {
                let mut taken = Vec::new();
                source.drain(len - total, &mut |bytes| {
                    taken.extend_from_slice(bytes);
                    Ok(bytes.len())
                })?;
                return put(&taken);
            }
            source.drain(len - total, &mut |bytes| {
                let result = put(bytes);
                *other = result == Err(Errno::EAGAIN);
                result
            })
        });
        match result {
            Ok(0) => return outcome(t, total, None),
            Ok(count) => total += count,
            Err(errno) => return outcome(t, total, Some(errno)),
        }
        if total >= len {
            return outcome(t, total, None);
        }
    }
}

fn file_to_pipe(t: &Current, from: &File, at: Option<u64>, to: &File, dest: &PipeEnd, len: usize, wait: bool) -> SysResult<u64> {
    let mut total = 0;
    let start = at.unwrap_or_else(|| from.position());
    loop {
        let sides = Sides {
            pipe: to,
            pipe_waits: wait && total == 0 && !to.nonblocking(),
            pipe_mask: PollEvents::WRITABLE,
            other: from,
            other_waits: total == 0 && !from.nonblocking(),
            other_mask: PollEvents::READABLE,
        };
        let result = sides.run(t, &mut |other| {
            if from.ops.is_stream() {
                return dest.fill(len - total, &mut |room| {
                    let result = from.read(&mut IoBuf::kernel_mut(room), None);
                    *other = result == Err(Errno::EAGAIN);
                    result
                });
            }
            // What doesn't fit is read again: no need to keep the pipe locked meanwhile.
            let mut chunk = vec![0; dest.room()?.min(len - total).min(CHUNK)];
            let count = from.read(&mut IoBuf::kernel_mut(&mut chunk), Some(start.saturating_add(total as u64)))?;
            let mut rest = chunk.get(..count).unwrap_or_default();
            if count == 0 {
                Ok(0)
            } else {
                dest.fill(count, &mut |room| std::io::Read::read(&mut rest, room).map_err(|_| Errno::EIO))
            }
        });
        match result {
            Ok(0) => return outcome(t, total, None),
            Ok(count) => {
                total += count;
                if at.is_none() && !from.ops.is_stream() {
                    from.set_position(start.saturating_add(total as u64));
                }
            }
            // Directories can't be spliced.
            Err(Errno::EISDIR) => return Err(Errno::EINVAL),
            Err(errno) => return outcome(t, total, Some(errno)),
        }
        if total >= len || !from.ops.is_regular() {
            return outcome(t, total, None);
        }
    }
}

fn pipe_to_pipe(
    t: &Current,
    (from, source): (&File, &PipeEnd),
    (to, dest): (&File, &PipeEnd),
    len: usize,
    wait: bool,
    consume: bool,
) -> SysResult<u64> {
    if source.same_pipe(dest) {
        return Err(Errno::EINVAL);
    }
    let wait = wait && !from.nonblocking() && !to.nonblocking();
    let sides = Sides {
        pipe: from,
        pipe_waits: wait,
        pipe_mask: PollEvents::READABLE,
        other: to,
        other_waits: wait,
        other_mask: PollEvents::WRITABLE,
    };
    match sides.run(t, &mut |_| source.transfer(dest, len, consume)) {
        Ok(count) => outcome(t, count, None),
        Err(errno) => outcome(t, 0, Some(errno)),
    }
}

fn tee(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (len, flags) = (length(a[2])?, uint(a[3]));
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (file(t, a[0])?, file(t, a[1])?);
    check(&from, false)?;
    check(&to, true)?;
    let (Some(source), Some(dest)) = (pipe_of(&from), pipe_of(&to)) else { return Err(Errno::EINVAL) };
    pipe_to_pipe(t, (&from, source), (&to, dest), len, flags & NONBLOCK == 0, false)
}

fn vmsplice(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let flags = uint(a[3]);
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(t, a[0])?;
    let Some(pipe) = pipe_of(&file).filter(|_| file.flags() & c::O_PATH == 0) else { return Err(Errno::EBADF) };
    let mut buf = IoBuf::iovecs(&*t.mm, t.mm.read_iovecs(a[1], a[2])?);
    if buf.remaining() == 0 {
        return Ok(0);
    }
    let into = file.flags() & c::O_ACCMODE != c::O_RDONLY;
    let wait = flags & NONBLOCK == 0 && !file.nonblocking();
    let mut attempt = || {
        if into {
            pipe.fill(buf.remaining(), &mut |room| buf.copy_in(room))
        } else {
            pipe.drain(buf.remaining(), &mut |bytes| buf.copy_out(bytes))
        }
    };
    let mut total = 0;
    loop {
        let mask = if into { PollEvents::WRITABLE } else { PollEvents::READABLE };
        let result = if wait && total == 0 { t.block_on(file.ops.wait_queue(), mask, None, &mut attempt) } else { attempt() };
        match result {
            Ok(0) | Err(Errno::EAGAIN) if total > 0 => return Ok(total as u64),
            Ok(0) => return Ok(0),
            Ok(count) => total += count,
            Err(errno) => return outcome(t, total, Some(errno)),
        }
    }
}

fn sendfile(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (to, from) = (file(t, a[0])?, file(t, a[1])?);
    let given = offset(t, a[2])?;
    let len = length(a[3])?;
    check(&from, false)?;
    if given.is_some() && from.ops.is_stream() {
        return Err(Errno::ESPIPE);
    }
    check(&to, true)?;
    let start = given.unwrap_or_else(|| from.position());
    let last = start.checked_add(len as u64).filter(|end| i64::try_from(*end).is_ok());
    if from.ops.is_stream() || to.flags() & c::O_APPEND != 0 || last.is_none() {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let result = if let Some(dest) = pipe_of(&to) {
        file_to_pipe(t, &from, Some(start), &to, dest, len, true)
    } else {
        copy(t, &from, start, &to, None, len)
    };
    let count = result?;
    let end = start.saturating_add(count);
    match given {
        Some(_) => t.mm.write_obj(a[2], &end)?,
        None => from.set_position(end),
    }
    Ok(count)
}

/// Copies up to `len` bytes by way of the kernel.
fn copy(t: &Current, from: &File, start: u64, to: &File, at: Option<u64>, len: usize) -> SysResult<u64> {
    let mut chunk = vec![0; CHUNK.min(len)];
    let mut total = 0;
    while total < len {
        let done = total as u64;
        let part = chunk.get_mut(..CHUNK.min(len - total)).unwrap_or_default();
        let count = match read(t, from, &mut IoBuf::kernel_mut(part), Some(start.saturating_add(done))) {
            Ok(0) => break,
            Ok(count) => count,
            // A directory has no bytes to send.
            Err(Errno::EISDIR) => return Err(Errno::EINVAL),
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
        };
        let part = part.get(..usize::try_from(count).unwrap_or(0)).unwrap_or_default();
        match write(t, to, &mut IoBuf::kernel(part), at.map(|at| at.saturating_add(done))) {
            Ok(written) => {
                total += usize::try_from(written).unwrap_or(0);
                if written < count || t.task.signal_pending() {
                    break;
                }
            }
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(total as u64)
}

fn copy_file_range(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (from, to) = (file(t, a[0])?, file(t, a[2])?);
    let (given_in, given_out) = (offset(t, a[1])?, offset(t, a[3])?);
    if a[5] != 0 {
        return Err(Errno::EINVAL);
    }
    let (source, dest) = (from.attr()?, to.attr()?);
    if source.is_dir() || dest.is_dir() {
        return Err(Errno::EISDIR);
    }
    // A file of the host that is a standard stream has no position of its own here.
    let stream = from.ops.is_stream() || to.ops.is_stream();
    if stream || source.kind() != c::S_IFREG || dest.kind() != c::S_IFREG {
        return Err(Errno::EINVAL);
    }
    check(&from, false)?;
    check(&to, true)?;
    if to.flags() & c::O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    // A file of the host's that the sandbox was given as standard output has its position there: cat(1) writes to it after this.
    if from.ops.is_stream() || to.ops.is_stream() {
        return Err(Errno::EXDEV);
    }
    let (start, at) = (given_in.unwrap_or_else(|| from.position()), given_out.unwrap_or_else(|| to.position()));
    let fits = |at: u64| at.checked_add(a[4]).is_some_and(|end| i64::try_from(end).is_ok());
    if !fits(start) || !fits(at) {
        return Err(Errno::EOVERFLOW);
    }
    let len = length(a[4].min(source.size.saturating_sub(start)))?;
    let same = (source.dev, source.ino) == (dest.dev, dest.ino);
    if same && start < at.saturating_add(len as u64) && at < start.saturating_add(len as u64) {
        return Err(Errno::EINVAL);
    }
    let count = copy(t, &from, start, &to, Some(at), len)?;
    for (file, given, addr, from) in [(&from, given_in, a[1], start), (&to, given_out, a[3], at)] {
        let end = from.saturating_add(count);
        match given {
            Some(_) => t.mm.write_obj(addr, &end)?,
            None => file.set_position(end),
        }
    }
    Ok(count)
}
