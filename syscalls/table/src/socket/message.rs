//! Sending and receiving.

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use auth::Capability;
use smallvec::SmallVec;
use socket::{Caller, Control, ControlReader, Credentials, Outgoing, Received, Request, Socket};
use sync::monotonic_ns;
use task::Current;
use usermem::{IoBuf, UserMemoryExt};
use vfs::File;

use super::caller::seen_by;
use super::{MAX_ADDRESS, TaskCaller, block, deadline, get_address, of, put_address};
use crate::args::{after, file, int, timeout, uint};
use crate::fd::install;

/// Descriptors of one message at most (`SCM_MAX_FD`).
const MAX_RIGHTS: usize = 253;
/// Vectors of one message, and messages of one call, at most (`UIO_MAXIOV`).
const MAX_VECTORS: u64 = 1024;
/// Bytes of control messages at most (`net.core.optmem_max`).
const MAX_CONTROL: u64 = 1 << 17;
/// Not for user space (`MSG_CMSG_COMPAT`).
const COMPAT: i32 = i32::MIN;

/// Sends all of `buf`, waiting for room if that is allowed.
fn send(t: &Current, file: &File, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<u64> {
    let socket = of(file)?;
    let waits = !file.nonblocking() && message.flags & c::MSG_DONTWAIT == 0;
    if !waits {
        message.flags |= c::MSG_DONTWAIT;
    }
    let start = buf.done();
    let stream = socket.is_stream();
    let first = socket.send(buf, message);
    let result = match first {
        Ok(_) if !stream || buf.remaining() == 0 || !waits => Ok(()),
        Ok(_) | Err(Errno::EAGAIN) if waits => {
            block(t, &**socket, PollEvents::WRITABLE, deadline(&**socket, false), || match socket.send(buf, message) {
                Ok(_) if stream && buf.remaining() > 0 => Err(Errno::EAGAIN),
                result => result.map(drop),
            })
        }
        result => result.map(drop),
    };
    let done = buf.done() - start;
    if result == Err(Errno::EPIPE) && done == 0 && stream && message.flags & c::MSG_NOSIGNAL == 0 {
        t.task.signal(SigInfo::from_process(c::SIGPIPE, c::SI_USER, t.task.group.own_pid(), 0));
    }
    match result {
        // What has been sent counts, whatever came after.
        Err(errno) if done == 0 => Err(errno),
        _ => Ok(done as u64),
    }
}

/// write(2) to a socket.
pub fn write(t: &Current, file: &File, buf: &mut IoBuf<'_>) -> SysResult<u64> {
    let caller = TaskCaller(t);
    send(t, file, buf, &mut Outgoing { caller: Some(&caller), ..Outgoing::plain(0) })
}

/// What a stream's call has received so far.
struct Progress {
    all: Received,
    target: usize,
}

impl Progress {
    /// Adds what one attempt has found; says whether the call is done.
    fn add(&mut self, part: Received) -> bool {
        let end = part.count == 0 || part.stop;
        self.all.count += part.count;
        self.all.full += part.full;
        self.all.flags |= part.flags;
        self.all.control.extend(part.control);
        if self.all.name.is_none() {
            self.all.name = part.name;
        }
        end || self.all.count >= self.target
    }
}

/// Receives a message, or as much of a stream as is wanted.
fn receive(t: &Current, file: &File, buf: &mut IoBuf<'_>, flags: i32, name: bool, control: bool) -> SysResult<Received> {
    let socket = of(file)?;
    let waits = !file.nonblocking() && flags & (c::MSG_DONTWAIT | c::MSG_ERRQUEUE) == 0;
    let flags = if waits { flags } else { flags | c::MSG_DONTWAIT };
    let mut request = Request { flags, name, control, copied: 0 };
    let stream = socket.is_stream() && flags & (c::MSG_OOB | c::MSG_ERRQUEUE) == 0;
    let target = match flags & c::MSG_WAITALL {
        0 => usize::try_from(socket.common().low_water.load(std::sync::atomic::Ordering::Relaxed)).unwrap_or(1),
        _ => usize::MAX,
    };
    let target = if stream { target.min(buf.remaining()) } else { 0 };
    let mut progress = Progress { all: Received::default(), target };
    match socket.receive(buf, &request) {
        Ok(received) if !stream || !waits || received.count >= target => return Ok(received),
        Ok(received) => {
            if progress.add(received) {
                return Ok(progress.all);
            }
        }
        Err(Errno::EAGAIN) if waits => {}
        Err(errno) => return Err(errno),
    }
    let result = block(t, &**socket, PollEvents::READABLE | PollEvents::RDHUP, deadline(&**socket, true), || {
        request.copied = progress.all.count;
        match socket.receive(buf, &request) {
            Ok(received) => {
                let done = progress.add(received);
                if done || !stream { Ok(()) } else { Err(Errno::EAGAIN) }
            }
            Err(errno) if errno != Errno::EAGAIN && progress.all.count > 0 => Ok(()),
            Err(errno) => Err(errno),
        }
    });
    match result {
        Err(errno) if progress.all.count == 0 => Err(errno),
        _ => Ok(progress.all),
    }
}

/// read(2) from a socket.
pub fn read(t: &Current, file: &File, buf: &mut IoBuf<'_>) -> SysResult<u64> {
    if buf.remaining() == 0 {
        return Ok(0);
    }
    receive(t, file, buf, 0, false, false).map(|received| received.count as u64)
}

pub fn sendto(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    of(&file)?;
    let to = if a[4] == 0 { None } else { Some(get_address(t, a[4], a[5])?) };
    let to = to.as_deref().filter(|to| !to.is_empty());
    let caller = TaskCaller(t);
    let mut message = Outgoing { to, caller: Some(&caller), ..Outgoing::plain(int(a[3])) };
    send(t, &file, &mut IoBuf::user(&*t.mm, a[1], a[2]), &mut message)
}

pub fn recvfrom(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let flags = int(a[3]);
    let received = receive(t, &file, &mut IoBuf::user(&*t.mm, a[1], a[2]), flags, a[4] != 0, false)?;
    if a[4] != 0 {
        put_address(t, received.name.as_deref().unwrap_or_default(), a[4], a[5])?;
    }
    Ok(length(&**of(&file)?, &received, flags))
}

/// What a receive returns: with `MSG_TRUNC`, packets say how long they were.
fn length(socket: &dyn Socket, received: &Received, flags: i32) -> u64 {
    let full = flags & c::MSG_TRUNC != 0 && !socket.is_stream();
    if full { received.full as u64 } else { received.count as u64 }
}

/// `struct msghdr`: name, its length, vectors, their count, control data, its length, flags.
type MsgHdr = [u64; 7];
/// Bytes of a `struct mmsghdr`: a `struct msghdr` and a length.
const MMSGHDR: u64 = 64;

/// The address of a field in a structure of the guest's.
fn field(base: u64, offset: u64) -> SysResult<u64> {
    base.checked_add(offset).ok_or(Errno::EFAULT)
}

/// Sends the message that a `struct msghdr` describes.
fn send_header(t: &Current, file: &File, header: u64, flags: i32) -> SysResult<u64> {
    let [name, name_len, iov, iov_len, control, control_len, _]: MsgHdr = t.mm.read_obj(header)?;
    if flags & COMPAT != 0 || int(name_len) < 0 {
        return Err(Errno::EINVAL);
    }
    if iov_len > MAX_VECTORS {
        return Err(Errno::EMSGSIZE);
    }
    let name_len = if name == 0 { 0 } else { u64::from(uint(name_len)).min(MAX_ADDRESS as u64) };
    let to = get_address(t, name, name_len)?;
    let iovecs = t.mm.read_iovecs(iov, iov_len)?;
    if control_len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let control_len = if control == 0 { 0 } else { control_len };
    let mut bytes: SmallVec<[u8; 128]> = SmallVec::from_elem(0, usize::try_from(control_len).unwrap_or(0));
    t.mm.read(control, &mut bytes)?;
    let caller = TaskCaller(t);
    let to = Some(to.as_slice()).filter(|to| !to.is_empty());
    let mut message = Outgoing { to, control: &bytes, caller: Some(&caller), ..Outgoing::plain(flags) };
    if of(file)?.common().domain == c::AF_UNIX || of(file)?.common().domain == c::AF_NETLINK {
        read_control(&caller, &mut message)?;
    }
    send(t, file, &mut IoBuf::iovecs(&*t.mm, iovecs), &mut message)
}

/// Reads the control messages that are about tasks and files (unix(7)).
fn read_control(caller: &TaskCaller<'_>, message: &mut Outgoing<'_>) -> SysResult<()> {
    let word = |bytes: &[u8], at: usize| -> i32 {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, i32::from_le_bytes)
    };
    for control in ControlReader::new(message.control) {
        let (level, kind, data) = control?;
        if level != c::SOL_SOCKET {
            continue;
        }
        match kind {
            c::SCM_RIGHTS => {
                if data.len() / 4 + message.files.len() > MAX_RIGHTS {
                    return Err(Errno::EINVAL);
                }
                for fd in data.chunks_exact(4) {
                    let file = caller.file(word(fd, 0))?;
                    if file.flags() & c::O_PATH != 0 {
                        return Err(Errno::EBADF);
                    }
                    message.files.push(file);
                }
            }
            c::SCM_CREDENTIALS if data.len() == 12 => {
                let [uid, gid] = [word(data, 4).cast_unsigned(), word(data, 8).cast_unsigned()];
                message.credentials = Some(checked(caller, word(data, 0), uid, gid)?);
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(())
}

/// Whether a task may say that it is this.
fn checked(caller: &TaskCaller<'_>, pid: i32, uid: u32, gid: u32) -> SysResult<Credentials> {
    let TaskCaller(t) = *caller;
    let who = t.credentials();
    let (Some(uid), Some(gid)) = (who.user_ns.make_kuid(uid), who.user_ns.make_kgid(gid)) else { return Err(Errno::EINVAL) };
    let own = t.task.group.own_pid();
    let may = |capability| who.has_capability_in(&who.user_ns, capability);
    let known = [who.ruid, who.euid, who.suid].contains(&uid) || may(Capability::SETUID);
    let member = [who.rgid, who.egid, who.sgid].contains(&gid) || may(Capability::SETGID);
    if !(pid == own || may(Capability::SYS_ADMIN)) || !known || !member {
        return Err(Errno::EPERM);
    }
    // A process that isn't there can't be named.
    let process = if pid == own { t.task.group.clone() } else { t.find_process(pid).ok_or(Errno::ESRCH)? };
    Ok(Credentials { pid: process.pid, uid: uid.0, gid: gid.0 })
}

pub fn sendmsg(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    of(&file)?;
    send_header(t, &file, a[1], int(a[2]))
}

pub fn sendmmsg(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    of(&file)?;
    let count = u64::from(uint(a[2])).min(MAX_VECTORS);
    for i in 0..count {
        let header = field(a[1], i * MMSGHDR)?;
        let sent = send_header(t, &file, header, int(a[3]))
            .and_then(|sent| t.mm.write_obj(field(header, 56)?, &uint(sent)).map(|()| sent));
        match sent {
            Ok(_) => {}
            Err(errno) if i == 0 => return Err(errno),
            Err(_) => return Ok(i),
        }
    }
    Ok(count)
}

/// Receives into what a `struct msghdr` describes.
fn receive_header(t: &Current, file: &File, header: u64, flags: i32) -> SysResult<u64> {
    let socket = of(file)?;
    let [name, name_len, iov, iov_len, control, control_len, _]: MsgHdr = t.mm.read_obj(header)?;
    if flags & COMPAT != 0 || name != 0 && int(name_len) < 0 {
        return Err(Errno::EINVAL);
    }
    if iov_len > MAX_VECTORS {
        return Err(Errno::EMSGSIZE);
    }
    let iovecs = t.mm.read_iovecs(iov, iov_len)?;
    let mut received = receive(t, file, &mut IoBuf::iovecs(&*t.mm, iovecs), flags, name != 0, true)?;
    if name != 0 {
        put_address(t, received.name.as_deref().unwrap_or_default(), name, field(header, 8)?)?;
    }
    let room = if control == 0 { 0 } else { usize::try_from(control_len).unwrap_or(usize::MAX) };
    let mut out = ControlWriter { t, bytes: Vec::new(), room, truncated: false, cloexec: flags & c::MSG_CMSG_CLOEXEC != 0 };
    std::mem::take(&mut received.control).into_iter().for_each(|control| out.put(control));
    let truncated = if out.truncated { c::MSG_CTRUNC } else { 0 };
    let cloexec = flags & c::MSG_CMSG_CLOEXEC;
    let bytes = out.bytes;
    t.mm.write(control, &bytes)?;
    t.mm.write_obj(field(header, 40)?, &(bytes.len() as u64))?;
    t.mm.write_obj(field(header, 48)?, &(received.flags | truncated | cloexec))?;
    Ok(length(&**socket, &received, flags))
}

/// Makes control messages in the room that there is.
struct ControlWriter<'a> {
    t: &'a Current,
    bytes: Vec<u8>,
    room: usize,
    truncated: bool,
    cloexec: bool,
}

impl ControlWriter<'_> {
    fn put(&mut self, control: Control) {
        match control {
            Control::Data { level, kind, bytes } => self.message(level, kind, &bytes),
            Control::Credentials(credentials) => {
                self.message(c::SOL_SOCKET, c::SCM_CREDENTIALS, &seen_by(self.t, credentials).to_bytes());
            }
            Control::Rights(files) => self.rights(files),
            // Made by the process area's pidfds once there are any.
            Control::PidFd(_) => {}
        }
    }

    /// A message, cut if it doesn't fit.
    fn message(&mut self, level: i32, kind: i32, data: &[u8]) {
        let left = self.room - self.bytes.len();
        if left < 16 {
            self.truncated = true;
            return;
        }
        let len = (16 + data.len()).min(left);
        self.truncated |= len < 16 + data.len();
        self.header(level, kind, data.get(..len - 16).unwrap_or_default());
    }

    fn header(&mut self, level: i32, kind: i32, data: &[u8]) {
        self.bytes.extend_from_slice(&(16 + data.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(&level.to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(8).min(self.room), 0);
    }

    /// Gives as many files descriptors as there is room for.
    fn rights(&mut self, files: Vec<Arc<File>>) {
        let fits = (self.room - self.bytes.len()).saturating_sub(16) / 4;
        self.truncated |= fits < files.len();
        let mut fds: SmallVec<[u8; 64]> = SmallVec::new();
        for file in files.into_iter().take(fits) {
            match install(self.t, file, self.cloexec, 0) {
                Ok(fd) => fds.extend_from_slice(&uint(fd).to_le_bytes()),
                Err(_) => {
                    self.truncated = true;
                    break;
                }
            }
        }
        if !fds.is_empty() {
            self.header(c::SOL_SOCKET, c::SCM_RIGHTS, &fds);
        }
    }
}

pub fn recvmsg(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    of(&file)?;
    receive_header(t, &file, a[1], int(a[2]))
}

pub fn recvmmsg(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = of(&file)?;
    let deadline = timeout(t, a[4])?.map(after);
    if let Some(errno) = socket.common().take_error() {
        return Err(errno);
    }
    let mut flags = int(a[3]);
    let count = u64::from(uint(a[2])).min(MAX_VECTORS);
    let mut done = 0;
    while done < count {
        let header = field(a[1], done * MMSGHDR)?;
        let one_flags = flags & !c::MSG_WAITFORONE;
        let received =
            receive_header(t, &file, header, one_flags).and_then(|received| t.mm.write_obj(field(header, 56)?, &uint(received)));
        match received {
            Ok(()) => done += 1,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
        if flags & c::MSG_WAITFORONE != 0 {
            flags |= c::MSG_DONTWAIT;
        }
        // The time is looked at after each message only (recvmmsg(2), BUGS).
        if deadline.is_some_and(|deadline| deadline <= monotonic_ns()) {
            break;
        }
    }
    if let Some(deadline) = deadline {
        let left = deadline.saturating_sub(monotonic_ns());
        t.mm.write_obj(a[4], &[left / 1_000_000_000, left % 1_000_000_000])?;
    }
    Ok(done)
}
