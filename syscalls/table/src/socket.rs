//! Sockets: making, naming and connecting them. [`message`] sends and receives, [`options`] sets options, [`caller`] is what sockets learn
//! of a task.

mod caller;
mod message;
mod options;

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c, nr};
use netns::Namespace;
use smallvec::SmallVec;
use socket::{Name, Shutdown, Socket, SocketFile};
use sync::MonotonicNs;
use task::Current;
use usermem::UserMemoryExt;
use vfs::landlock::net::{BIND_TCP, CONNECT_TCP};
use vfs::{File, IoctlArg};

use crate::args::{after, file, int};
use crate::fd::install;
use crate::landlock;
use crate::{Entry, full, partial};

use caller::TaskCaller;
pub use message::{read, write};

pub const ENTRIES: &[Entry] = &[
    partial(nr::SOCKET, socket, "AF_UNIX, AF_INET, AF_INET6, AF_NETLINK"),
    full(nr::SOCKETPAIR, socketpair),
    full(nr::BIND, |t, a| {
        let address = get_address(t, a[1], a[2])?;
        let file = file(t, a[0])?;
        let socket = of(&file)?;
        landlock::check_port(t, &**socket, &address, BIND_TCP)?;
        socket.clone().bind(&TaskCaller(t), &address).map(|()| 0)
    }),
    full(nr::LISTEN, |t, a| of(&*file(t, a[0])?)?.clone().listen(&TaskCaller(t), int(a[1])).map(|()| 0)),
    full(nr::ACCEPT, |t, a| accept(t, a, 0)),
    full(nr::ACCEPT4, |t, a| accept(t, a, int(a[3]))),
    full(nr::CONNECT, connect),
    full(nr::SHUTDOWN, shutdown),
    full(nr::GETSOCKNAME, |t, a| {
        let name = of(&*file(t, a[0])?)?.name()?;
        put_address(t, &name, a[1], a[2]).map(|()| 0)
    }),
    full(nr::GETPEERNAME, |t, a| {
        let name = of(&*file(t, a[0])?)?.peer_name()?;
        put_address(t, &name, a[1], a[2]).map(|()| 0)
    }),
    full(nr::SETSOCKOPT, options::setsockopt),
    full(nr::GETSOCKOPT, options::getsockopt),
    full(nr::SENDTO, message::sendto),
    full(nr::RECVFROM, message::recvfrom),
    full(nr::SENDMSG, message::sendmsg),
    full(nr::RECVMSG, message::recvmsg),
    full(nr::SENDMMSG, message::sendmmsg),
    full(nr::RECVMMSG, message::recvmmsg),
];

/// Bytes of a `struct sockaddr_storage`.
const MAX_ADDRESS: usize = 128;

fn of(file: &File) -> SysResult<&Arc<dyn Socket>> {
    SocketFile::of(file).ok_or(Errno::ENOTSOCK)
}

/// Opens a socket at a descriptor.
fn new(t: &Current, socket: Arc<dyn Socket>, flags: i32) -> SysResult<u64> {
    install(t, SocketFile::open(socket, flags & c::SOCK_NONBLOCK), flags & c::SOCK_CLOEXEC != 0, 0)
}

/// A kind and its flags.
fn kind(arg: u64) -> SysResult<(i32, i32)> {
    let flags = int(arg) & !0xf;
    if flags & !(c::SOCK_CLOEXEC | c::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((int(arg) & 0xf, flags))
}

fn namespace(t: &Current) -> SysResult<Arc<Namespace>> {
    let net = t.task.lock().ns.net.clone();
    Namespace::of(&net)
}

fn socket(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (kind, flags) = kind(a[1])?;
    let socket = namespace(t)?.socket(&TaskCaller(t), int(a[0]), kind, int(a[2]))?;
    new(t, socket, flags)
}

fn socketpair(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (kind, flags) = kind(a[1])?;
    let [one, other] = namespace(t)?.pair(&TaskCaller(t), int(a[0]), kind, int(a[2]))?;
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

/// Copies an address in.
fn get_address(t: &Current, addr: u64, len: u64) -> SysResult<Name> {
    let len = usize::try_from(int(len)).ok().filter(|len| *len <= MAX_ADDRESS).ok_or(Errno::EINVAL)?;
    let mut bytes: Name = SmallVec::from_elem(0, len);
    t.mm.read(addr, &mut bytes)?;
    Ok(bytes)
}

/// Stores as much of an address as there is room for, and its true length.
fn put_address(t: &Current, name: &[u8], addr: u64, len_addr: u64) -> SysResult<()> {
    let room: i32 = t.mm.read_obj(len_addr)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    t.mm.write(addr, name.get(..room.min(name.len())).unwrap_or_default())?;
    t.mm.write_obj(len_addr, &u32::try_from(name.len()).map_err(|_| Errno::EINVAL)?)
}

/// ioctl(2): the socket's own requests, and those about interfaces, which any socket takes.
pub fn ioctl(t: &Current, socket: &dyn Socket, arg: &IoctlArg<'_>) -> SysResult<u64> {
    match socket.ioctl(Some(&TaskCaller(t)), arg) {
        Err(Errno::ENOTTY) => namespace(t)?.inet.ioctl(&TaskCaller(t), arg),
        result => result,
    }
}

/// When a call that waits gives up (`SO_RCVTIMEO`, `SO_SNDTIMEO`).
fn deadline(socket: &dyn Socket, receive: bool) -> Option<MonotonicNs> {
    let ns = socket.common().timeout(receive);
    (ns != 0).then(|| after(ns))
}

/// Waits on the socket's own queue; after its timeout it is `EAGAIN` (socket(7), `SO_RCVTIMEO`).
fn block<T>(
    t: &Current,
    socket: &dyn Socket,
    mask: PollEvents,
    deadline: Option<MonotonicNs>,
    attempt: impl FnMut() -> SysResult<T>,
) -> SysResult<T> {
    match t.block_on(Some(&socket.common().queue), mask, deadline, attempt) {
        Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
        // With a timeout, calls are not restarted (signal(7)).
        Err(Errno::ERESTARTSYS) if deadline.is_some() => Err(Errno::EINTR),
        result => result,
    }
}

fn connect(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = of(&file)?;
    let address = get_address(t, a[1], a[2])?;
    landlock::check_port(t, &**socket, &address, CONNECT_TCP)?;
    let attempt = || socket.clone().connect(&TaskCaller(t), &address);
    let first = attempt();
    if file.nonblocking() {
        return first.map(|()| 0);
    }
    let deadline = deadline(&**socket, false);
    let result = match first {
        Err(Errno::EAGAIN) => block(t, &**socket, PollEvents::WRITABLE, deadline, attempt),
        result => result,
    };
    let result = match result {
        Err(Errno::EINPROGRESS) => match block(t, &**socket, PollEvents::WRITABLE, deadline, || socket.connected()) {
            Err(Errno::EAGAIN) => Err(Errno::EINPROGRESS),
            result => result,
        },
        result => result,
    };
    result.map(|()| 0)
}

fn accept(t: &mut Current, a: [u64; 6], flags: i32) -> SysResult<u64> {
    if flags & !(c::SOCK_CLOEXEC | c::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(t, a[0])?;
    let socket = of(&file)?;
    let (accepted, from) = match socket.accept() {
        Err(Errno::EAGAIN) if !file.nonblocking() => {
            block(t, &**socket, PollEvents::READABLE, deadline(&**socket, true), || socket.accept())?
        }
        result => result?,
    };
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
    let file = file(t, a[0])?;
    let socket = of(&file)?;
    let how = match int(a[1]) {
        c::SHUT_RD => Shutdown { read: true, write: false },
        c::SHUT_WR => Shutdown { read: false, write: true },
        c::SHUT_RDWR => Shutdown { read: true, write: true },
        _ => return Err(Errno::EINVAL),
    };
    socket.shutdown(how).map(|()| 0)
}
