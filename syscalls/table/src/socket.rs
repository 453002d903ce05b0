//! Sockets: AF_UNIX.

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use sync::{MonotonicNs, WaitQueue};
use task::Current;
use unix::{Address, Ancillary, Credentials, Kind, Received, Shutdown, Socket};
use usermem::{IoBuf, UserMemoryExt};
use vfs::{File, NewNode};

use crate::args::{after, file, int, uint};
use crate::fd::install;
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::SOCKET, socket, "AF_UNIX only"),
    partial(nr::SOCKETPAIR, socketpair, "AF_UNIX only"),
    full(nr::BIND, bind),
    full(nr::LISTEN, |t, a| with(&*file(t, a[0])?)?.listen(int(a[1])).map(|()| 0)),
    full(nr::ACCEPT, |t, a| accept(t, a, 0)),
    full(nr::ACCEPT4, |t, a| accept(t, a, int(a[3]))),
    full(nr::CONNECT, connect),
    full(nr::SHUTDOWN, shutdown),
    full(nr::GETSOCKNAME, |t, a| {
        let name = with(&*file(t, a[0])?)?.address();
        put_address(t, &name, a[1], a[2])
    }),
    full(nr::GETPEERNAME, |t, a| {
        let name = with(&*file(t, a[0])?)?.peer_address()?;
        put_address(t, &name, a[1], a[2])
    }),
    partial(nr::SETSOCKOPT, setsockopt, "SOL_SOCKET: buffers, SO_PASSCRED, and what has no effect on AF_UNIX"),
    partial(nr::GETSOCKOPT, getsockopt, "SOL_SOCKET"),
    full(nr::SENDTO, sendto),
    full(nr::RECVFROM, recvfrom),
    partial(nr::SENDMSG, sendmsg, "SCM_RIGHTS, SCM_CREDENTIALS"),
    partial(nr::RECVMSG, recvmsg, "no MSG_OOB"),
];

/// Descriptors of one message at most (`SCM_MAX_FD`).
const MAX_RIGHTS: usize = 253;
/// `MSG_CMSG_CLOEXEC`, `MSG_DONTWAIT` and the like that are understood.
const FLAGS: i32 = c::MSG_DONTWAIT
    | c::MSG_NOSIGNAL
    | c::MSG_PEEK
    | c::MSG_TRUNC
    | c::MSG_WAITALL
    | c::MSG_CMSG_CLOEXEC
    | c::MSG_EOR
    | c::MSG_MORE;

fn with(file: &File) -> SysResult<&Socket> {
    file.ops.as_any().downcast_ref().ok_or(Errno::ENOTSOCK)
}

fn shared(file: &File) -> SysResult<Arc<Socket>> {
    let any: Arc<dyn std::any::Any + Send + Sync> = file.ops.clone();
    any.downcast().map_err(|_| Errno::ENOTSOCK)
}

fn own(t: &Current) -> Credentials {
    Credentials { pid: t.task.group.pid, uid: 0, gid: 0 }
}

fn new(t: &Current, socket: Arc<Socket>, flags: i32) -> SysResult<u64> {
    install(t, File::new(socket, None, c::O_RDWR | flags & c::SOCK_NONBLOCK), flags & c::SOCK_CLOEXEC != 0, 0)
}

/// Checks domain and protocol; returns the kind and the flags.
fn kind(a: [u64; 6]) -> SysResult<(Kind, i32)> {
    let (domain, kind, protocol) = (int(a[0]), int(a[1]), int(a[2]));
    if kind & !(0xf | c::SOCK_CLOEXEC | c::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if domain != c::AF_UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol != 0 && protocol != c::AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok((Kind::from_raw(kind & 0xf)?, kind & !0xf))
}

fn socket(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (kind, flags) = kind(a)?;
    new(t, Socket::new(kind, own(t)), flags)
}

fn socketpair(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (kind, flags) = match kind(a) {
        Err(Errno::EAFNOSUPPORT) if [c::AF_INET, c::AF_INET6].contains(&int(a[0])) => return Err(Errno::EOPNOTSUPP),
        result => result?,
    };
    let (one, other) = Socket::pair(kind, own(t));
    let first = new(t, one, flags)?;
    let result = new(t, other, flags).and_then(|second| {
        let written = t.mm.write_obj(a[3], &[int(first), int(second)]);
        if written.is_err() {
            t.fds.close(int(second))?;
        }
        written
    });
    if result.is_err() {
        t.fds.close(int(first))?;
    }
    result.map(|()| 0)
}

/// Reads a `sockaddr_un`; `None` for `AF_UNSPEC`.
fn get_address(t: &Current, addr: u64, len: u64) -> SysResult<Option<Address>> {
    let len = usize::try_from(int(len)).map_err(|_| Errno::EINVAL)?;
    if len > 128 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len];
    t.mm.read(addr, &mut bytes)?;
    let Some((family, path)) = bytes.split_first_chunk::<2>() else { return Err(Errno::EINVAL) };
    match i32::from(u16::from_le_bytes(*family)) {
        c::AF_UNIX => {}
        c::AF_UNSPEC => return Ok(None),
        _ => return Err(Errno::EINVAL),
    }
    if path.len() > 108 {
        return Err(Errno::EINVAL);
    }
    Ok(Some(match path.split_first() {
        None => Address::Unnamed,
        Some((0, name)) => Address::Abstract(name.to_vec()),
        Some(_) => Address::Path(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
    }))
}

/// A `sockaddr_un`.
fn sockaddr(address: &Address) -> Vec<u8> {
    let mut bytes = 1u16.to_le_bytes().to_vec();
    match address {
        Address::Unnamed => {}
        Address::Path(path) => {
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        Address::Abstract(name) => {
            bytes.push(0);
            bytes.extend_from_slice(name);
        }
    }
    bytes
}

/// A length as a `socklen_t`.
fn length(len: usize) -> SysResult<u32> {
    u32::try_from(len).map_err(|_| Errno::EINVAL)
}

/// The address of a field in a structure of the guest's.
fn field(base: u64, offset: u64) -> SysResult<u64> {
    base.checked_add(offset).ok_or(Errno::EFAULT)
}

/// Stores as much of an address as there is room for, and its true length.
fn put_address(t: &Current, address: &Address, addr: u64, len_addr: u64) -> SysResult<u64> {
    let room: i32 = t.mm.read_obj(len_addr)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = sockaddr(address);
    t.mm.write(addr, bytes.get(..room.min(bytes.len())).unwrap_or_default())?;
    t.mm.write_obj(len_addr, &length(bytes.len())?)?;
    Ok(0)
}

fn bind(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = shared(&file)?;
    match get_address(t, a[1], a[2])?.ok_or(Errno::EINVAL)? {
        // Autobind: an abstract name of five hexadecimal digits.
        Address::Unnamed => {
            for number in 0..0x10_0000u32 {
                match socket.bind_abstract(&t.task.kernel.endpoints, format!("{number:05x}").as_bytes()) {
                    Err(Errno::EADDRINUSE) => {}
                    result => return result.map(|()| 0),
                }
            }
            Err(Errno::ENOSPC)
        }
        Address::Abstract(name) => socket.bind_abstract(&t.task.kernel.endpoints, &name).map(|()| 0),
        Address::Path(path) => {
            let fs = t.fs_context();
            let found = fs.walk(None, &path, false)?;
            if found.found.is_some() {
                return Err(Errno::EADDRINUSE);
            }
            if socket.address() != Address::Unnamed {
                return Err(Errno::EINVAL);
            }
            let node = NewNode { mode: c::S_IFSOCK | 0o777 & !fs.umask, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
            let dentry = found.dir.create(&found.name, &node)?;
            *dentry.inode().endpoint().ok_or(Errno::EPERM)?.lock() = Some(socket.endpoint());
            socket.set_address(Address::Path(path)).map(|()| 0)
        }
    }
}

/// The socket that has a name.
fn find(t: &Current, address: &Address) -> SysResult<Arc<Socket>> {
    match address {
        Address::Unnamed => Err(Errno::EINVAL),
        Address::Abstract(name) => {
            let found = t.task.kernel.endpoints.lock().get(name).cloned();
            Socket::found(&found.ok_or(Errno::ECONNREFUSED)?)
        }
        Address::Path(path) => {
            let dentry = t.fs_context().walk(None, path, true)?.existing()?;
            let endpoint = dentry.inode().endpoint().ok_or(Errno::ECONNREFUSED)?.lock().clone();
            Socket::found(&endpoint.ok_or(Errno::ECONNREFUSED)?)
        }
    }
}

fn connect(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = shared(&file)?;
    let Some(address) = get_address(t, a[1], a[2])? else { return socket.disconnect().map(|()| 0) };
    let listener = find(t, &address)?;
    if file.nonblocking() {
        return socket.connect(&listener, &address).map(|()| 0);
    }
    t.block_on(Some(listener.own_queue()), PollEvents::WRITABLE, None, || socket.connect(&listener, &address)).map(|()| 0)
}

fn accept(t: &mut Current, a: [u64; 6], flags: i32) -> SysResult<u64> {
    if flags & !(c::SOCK_CLOEXEC | c::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(t, a[0])?;
    let socket = with(&file)?;
    let accepted = if file.nonblocking() {
        socket.accept()?
    } else {
        t.block_on(file.ops.wait_queue(), PollEvents::READABLE, None, || socket.accept())?
    };
    let from = accepted.peer_address().unwrap_or_default();
    let fd = new(t, accepted, flags)?;
    if a[1] != 0
        && let Err(errno) = put_address(t, &from, a[1], a[2])
    {
        t.fds.close(int(fd))?;
        return Err(errno);
    }
    Ok(fd)
}

fn shutdown(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let how = match int(a[1]) {
        c::SHUT_RD => Shutdown { read: true, write: false },
        c::SHUT_WR => Shutdown { read: false, write: true },
        c::SHUT_RDWR => Shutdown { read: true, write: true },
        _ => return Err(Errno::EINVAL),
    };
    with(&*file(t, a[0])?)?.shutdown(how);
    Ok(0)
}

fn setsockopt(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = with(&file)?;
    if int(a[1]) != c::SOL_SOCKET {
        return Err(if int(a[1]) == c::SOL_TCP { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT });
    }
    if int(a[4]) < 4 {
        return Err(Errno::EINVAL);
    }
    let value: i32 = t.mm.read_obj(a[3])?;
    match int(a[2]) {
        c::SO_SNDBUF | c::SO_SNDBUFFORCE => socket.set_send_buffer(usize::try_from(value).unwrap_or(0)),
        c::SO_PASSCRED => socket.set_pass_credentials(value != 0),
        // Nothing that AF_UNIX sockets do depends on these; the receiver's buffer doesn't bound what it is sent (unix(7)).
        c::SO_RCVBUF
        | c::SO_RCVBUFFORCE
        | c::SO_REUSEADDR
        | c::SO_KEEPALIVE
        | c::SO_DONTROUTE
        | c::SO_BROADCAST
        | c::SO_OOBINLINE
        | c::SO_LINGER
        | c::SO_PRIORITY => {}
        c::SO_RCVTIMEO | c::SO_SNDTIMEO => {
            if int(a[4]) < 16 {
                return Err(Errno::EINVAL);
            }
            let [sec, usec]: [i64; 2] = t.mm.read_obj(a[3])?;
            if !(0..1_000_000).contains(&usec) {
                return Err(Errno::EDOM);
            }
            let ns = u64::try_from(sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(usec.cast_unsigned() * 1000);
            socket.set_timeout(int(a[2]) == c::SO_RCVTIMEO, ns);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(0)
}

fn getsockopt(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = with(&file)?;
    if int(a[1]) != c::SOL_SOCKET {
        return Err(if int(a[1]) == c::SOL_TCP { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT });
    }
    let room: i32 = t.mm.read_obj(a[4])?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let word = |value: i32| value.to_le_bytes().to_vec();
    let bytes = match int(a[2]) {
        c::SO_TYPE => word(socket.kind().raw()),
        c::SO_DOMAIN => word(c::AF_UNIX),
        c::SO_ERROR => word(socket.take_error().map_or(0, |errno| errno.raw())),
        c::SO_SNDBUF => word(i32::try_from(socket.send_buffer()).unwrap_or(i32::MAX)),
        c::SO_RCVBUF => word(212_992),
        c::SO_ACCEPTCONN => word(socket.is_listening().into()),
        c::SO_PASSCRED => word(socket.pass_credentials().into()),
        c::SO_PROTOCOL
        | c::SO_REUSEADDR
        | c::SO_KEEPALIVE
        | c::SO_BROADCAST
        | c::SO_OOBINLINE
        | c::SO_DONTROUTE
        | c::SO_PRIORITY => word(0),
        c::SO_LINGER => vec![0; 8],
        c::SO_RCVTIMEO | c::SO_SNDTIMEO => {
            let us = socket.timeout(int(a[2]) == c::SO_RCVTIMEO) / 1000;
            [(us / 1_000_000).to_le_bytes(), (us % 1_000_000).to_le_bytes()].concat()
        }
        c::SO_PEERCRED => {
            let peer = socket.peer_credentials();
            let nobody = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
            ucred(peer.unwrap_or(nobody)).to_vec()
        }
        _ => return Err(Errno::ENOPROTOOPT),
    };
    let len = room.min(bytes.len());
    t.mm.write(a[3], bytes.get(..len).unwrap_or_default())?;
    t.mm.write_obj(a[4], &length(len)?)?;
    Ok(0)
}

fn ucred(credentials: Credentials) -> [u8; 12] {
    let mut bytes = [0; 12];
    let words = [credentials.pid.cast_unsigned(), credentials.uid, credentials.gid];
    bytes.chunks_exact_mut(4).zip(words).for_each(|(place, word)| place.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// Whether a call on `file` with `flags` may wait, and until when.
fn patience(file: &File, flags: i32, receive: bool) -> SysResult<(bool, Option<MonotonicNs>)> {
    let ns = with(file)?.timeout(receive);
    Ok((!file.nonblocking() && flags & c::MSG_DONTWAIT == 0, (ns != 0).then(|| after(ns))))
}

/// Sends all of `buf`.
fn send(
    t: &Current,
    file: &File,
    buf: &mut IoBuf<'_>,
    flags: i32,
    to: Option<&Arc<Socket>>,
    ancillary: &mut Ancillary,
) -> SysResult<u64> {
    if flags & c::MSG_OOB != 0 || flags & !FLAGS != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let socket = with(file)?;
    let stream = socket.kind() == Kind::Stream;
    let (waits, deadline) = patience(file, flags, false)?;
    let queue = to.map(|to| to.own_queue().clone()).or_else(|| socket.send_queue());
    let mut attempt = || match socket.send(buf, to, ancillary) {
        Ok(_) if stream && waits && buf.remaining() > 0 => Err(Errno::EAGAIN),
        result => result.map(drop),
    };
    let result = if waits { block(t, queue.as_ref(), PollEvents::WRITABLE, deadline, attempt) } else { attempt() };
    if result == Err(Errno::EPIPE) && flags & c::MSG_NOSIGNAL == 0 && socket.kind() != Kind::Datagram {
        t.task.signal(SigInfo::from_process(c::SIGPIPE, c::SI_USER, t.task.group.pid, 0));
    }
    match (result, buf.done()) {
        (Err(errno), 0) => Err(errno),
        (_, count) => Ok(count as u64),
    }
}

/// Waits; after the socket's timeout it is `EAGAIN` (socket(7), `SO_RCVTIMEO`).
fn block<T>(
    t: &Current,
    queue: Option<&WaitQueue>,
    mask: PollEvents,
    deadline: Option<MonotonicNs>,
    attempt: impl FnMut() -> SysResult<T>,
) -> SysResult<T> {
    match t.block_on(queue, mask, deadline, attempt) {
        Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
        // With a timeout, calls are not restarted (signal(7)).
        Err(Errno::ERESTARTSYS) if deadline.is_some() => Err(Errno::EINTR),
        result => result,
    }
}

fn receive(t: &Current, file: &File, buf: &mut IoBuf<'_>, flags: i32) -> SysResult<Received> {
    if flags & c::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let socket = with(file)?;
    let (waits, deadline) = patience(file, flags, true)?;
    let peek = flags & c::MSG_PEEK != 0;
    let stream = socket.kind() == Kind::Stream;
    if stream && buf.remaining() == 0 {
        return Ok(Received::default());
    }
    if !waits {
        return socket.receive(buf, peek);
    }
    let mut all = block(t, file.ops.wait_queue(), PollEvents::READABLE, deadline, || socket.receive(buf, peek))?;
    while flags & c::MSG_WAITALL != 0 && stream && !peek && buf.remaining() > 0 && all.count > 0 && all.files.is_empty() {
        match block(t, file.ops.wait_queue(), PollEvents::READABLE, deadline, || socket.receive(buf, false)) {
            Ok(more) if more.count > 0 => {
                all.count += more.count;
                all.full += more.count;
                all.files.extend(more.files);
            }
            _ => break,
        }
    }
    Ok(all)
}

fn sendto(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    with(&file)?;
    let to = destination(t, a[4], a[5])?;
    let mut ancillary = Ancillary { files: Vec::new(), credentials: own(t) };
    send(t, &file, &mut IoBuf::user(&*t.mm, a[1], a[2]), int(a[3]), to.as_ref(), &mut ancillary)
}

fn destination(t: &Current, addr: u64, len: u64) -> SysResult<Option<Arc<Socket>>> {
    if addr == 0 || int(len) == 0 {
        return Ok(None);
    }
    get_address(t, addr, len)?.map(|address| find(t, &address)).transpose()
}

fn recvfrom(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let received = receive(t, &file, &mut IoBuf::user(&*t.mm, a[1], a[2]), int(a[3]))?;
    if a[4] != 0 && a[5] != 0 {
        if received.from == Address::Unnamed {
            t.mm.write_obj(a[5], &0u32)?;
        } else {
            put_address(t, &received.from, a[4], a[5])?;
        }
    }
    Ok(if int(a[3]) & c::MSG_TRUNC != 0 { received.full } else { received.count } as u64)
}

/// `struct msghdr`: name, its length, vectors, their count, control data, its length, flags.
type MsgHdr = [u64; 7];

fn sendmsg(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    with(&file)?;
    let [name, name_len, iov, iov_len, control, control_len, _]: MsgHdr = t.mm.read_obj(a[1])?;
    let to = destination(t, name, name_len)?;
    let mut ancillary = Ancillary { files: Vec::new(), credentials: own(t) };
    if iov_len > 1024 {
        return Err(Errno::EMSGSIZE);
    }
    if control_len > 0 {
        read_control(t, control, control_len, &mut ancillary)?;
    }
    let iovecs = t.mm.read_iovecs(iov, iov_len)?;
    send(t, &file, &mut IoBuf::iovecs(&*t.mm, iovecs), int(a[2]), to.as_ref(), &mut ancillary)
}

/// Reads control messages (cmsg(3)).
fn read_control(t: &Current, addr: u64, len: u64, ancillary: &mut Ancillary) -> SysResult<()> {
    if len > 1 << 16 {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    t.mm.read(addr, &mut bytes)?;
    let mut rest = bytes.as_slice();
    let word = |bytes: &[u8], at: usize| -> i32 {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, i32::from_le_bytes)
    };
    while rest.len() >= 16 {
        let size = rest.first_chunk().map_or(0, |size| u64::from_le_bytes(*size));
        let size = usize::try_from(size).ok().filter(|size| (16..=rest.len()).contains(size)).ok_or(Errno::EINVAL)?;
        let data = rest.get(16..size).unwrap_or_default();
        if word(rest, 8) == c::SOL_SOCKET {
            match word(rest, 12) {
                c::SCM_RIGHTS => {
                    for fd in data.chunks_exact(4) {
                        ancillary.files.push(t.fds.get(word(fd, 0))?);
                    }
                    if ancillary.files.len() > MAX_RIGHTS {
                        return Err(Errno::EINVAL);
                    }
                }
                c::SCM_CREDENTIALS if data.len() == 12 => {
                    let [uid, gid] = [word(data, 4).cast_unsigned(), word(data, 8).cast_unsigned()];
                    ancillary.credentials = Credentials { pid: word(data, 0), uid, gid };
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        rest = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(())
}

fn recvmsg(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    with(&file)?;
    let [name, name_len, iov, iov_len, control, control_len, _]: MsgHdr = t.mm.read_obj(a[1])?;
    if iov_len > 1024 {
        return Err(Errno::EMSGSIZE);
    }
    let flags = int(a[2]);
    let iovecs = t.mm.read_iovecs(iov, iov_len)?;
    let mut received = receive(t, &file, &mut IoBuf::iovecs(&*t.mm, iovecs), flags)?;
    let mut out_flags = flags & c::MSG_CMSG_CLOEXEC;
    if received.full > received.count {
        out_flags |= c::MSG_TRUNC;
    }
    if with(&file)?.kind() == Kind::SeqPacket && received.count > 0 {
        out_flags |= c::MSG_EOR;
    }
    if name != 0 {
        let bytes = if received.from == Address::Unnamed { Vec::new() } else { sockaddr(&received.from) };
        let room = usize::try_from(int(name_len)).map_err(|_| Errno::EINVAL)?;
        t.mm.write(name, bytes.get(..room.min(bytes.len())).unwrap_or_default())?;
        t.mm.write_obj(field(a[1], 8)?, &length(bytes.len())?)?;
    }
    let room = usize::try_from(control_len).unwrap_or(usize::MAX);
    let (bytes, truncated) = control_messages(t, &file, &mut received, room, flags & c::MSG_CMSG_CLOEXEC != 0)?;
    t.mm.write(control, &bytes)?;
    t.mm.write_obj(field(a[1], 40)?, &(bytes.len() as u64))?;
    t.mm.write_obj(field(a[1], 48)?, &(out_flags | if truncated { c::MSG_CTRUNC } else { 0 }))?;
    Ok(if flags & c::MSG_TRUNC != 0 { received.full } else { received.count } as u64)
}

/// What has come with the data, as control messages in `room` bytes; whether some didn't fit.
fn control_messages(t: &Current, file: &File, received: &mut Received, room: usize, cloexec: bool) -> SysResult<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let mut truncated = false;
    let header = |bytes: &mut Vec<u8>, len: usize, kind: i32| {
        bytes.extend_from_slice(&(16 + len as u64).to_le_bytes());
        bytes.extend_from_slice(&c::SOL_SOCKET.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
    };
    if with(file)?.pass_credentials() {
        if room >= 28 {
            header(&mut bytes, 12, c::SCM_CREDENTIALS);
            bytes.extend_from_slice(&ucred(received.credentials));
            bytes.resize(32.min(room), 0);
        } else {
            truncated = true;
        }
    }
    if !received.files.is_empty() {
        let fits = room.saturating_sub(bytes.len() + 16) / 4;
        let files: Vec<_> = received.files.drain(..).collect();
        truncated |= fits < files.len();
        let mut fds = Vec::new();
        for file in files.into_iter().take(fits) {
            match install(t, file, cloexec, 0) {
                Ok(fd) => fds.extend_from_slice(&uint(fd).to_le_bytes()),
                Err(_) => {
                    truncated = true;
                    break;
                }
            }
        }
        if !fds.is_empty() {
            header(&mut bytes, fds.len(), c::SCM_RIGHTS);
            bytes.extend_from_slice(&fds);
            let padded = bytes.len().next_multiple_of(8).min(room);
            bytes.resize(padded, 0);
        }
    }
    Ok((bytes, truncated))
}
