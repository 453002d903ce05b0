//! TCP sockets (tcp(7)).
//!
//! A [`Connection`] joins two sockets of this namespace by two [`Flow`]s. What a segment would do to the other end is done to it directly.

mod connect;
mod flow;
mod options;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::Kuid;
use socket::{Caller, Common, Flag, Name, OptionValue, Outgoing, Received, Request, Shutdown, Socket, word};
use sync::{MonotonicNs, Mutex, monotonic_ns};
use usermem::{IoBuf, UserMemoryExt};
use vfs::IoctlArg;

use crate::address::{to_name, unspecified};
use crate::ip::Ip;
use crate::links::unspecified_like;
use crate::ports::Bound;
use crate::stack::{Count, Listed, Listing, Stack};
use connect::Listening;
use flow::{Flow, Taking};
use options::TcpOptions;

/// `SO_SNDBUF` and `SO_RCVBUF` at first (`tcp_wmem`, `tcp_rmem`).
const SEND_BUFFER: u32 = 16384;
const RECEIVE_BUFFER: u32 = 131_072;
/// Room of a flow whose sides leave it to the kernel: what stays in the caches while both copy.
const SEND_ROOM: usize = 192 << 10;
const RECEIVE_ROOM: usize = 64 << 10;

/// States of RFC 9293 with Linux's numbers (`TCP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    FinWait2 = 5,
    Close = 7,
    CloseWait = 8,
    Listen = 10,
}

/// Two sockets joined, as one of them sees it.
pub(crate) struct Connection {
    rx: Arc<Flow>,
    tx: Arc<Flow>,
    peer: Weak<Tcp>,
    local: SocketAddr,
    remote: SocketAddr,
    since: MonotonicNs,
}

/// What a socket is.
#[derive(Clone)]
pub(crate) enum Stage {
    /// Neither listens nor is connected.
    Closed,
    Listening,
    /// Waits for a place in a backlog.
    Connecting {
        remote: SocketAddr,
        listener: Weak<Tcp>,
    },
    Connected(Arc<Connection>),
}

/// What connect(2) has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Unconnected,
    Connecting,
    Connected,
}

pub(crate) struct State {
    stage: Stage,
    local: SocketAddr,
    /// Chosen by bind(2), not by the first use.
    chose_addr: bool,
    chose_port: bool,
    shut: Shutdown,
    progress: Progress,
}

/// A socket.
pub struct Tcp {
    pub(crate) ip: Ip,
    state: Mutex<State>,
    listening: Mutex<Option<Listening>>,
    options: Mutex<TcpOptions>,
    /// [`Stage::Listening`], for those who can't lock.
    listens: AtomicBool,
    closed: AtomicBool,
    itself: Weak<Self>,
}

impl Connection {
    /// State of the end whose view this is.
    fn state(&self) -> TcpState {
        let (rx, tx) = (self.rx.status(), self.tx.status());
        match (rx.cut || tx.cut, tx.finished, rx.finished) {
            (true, ..) | (_, true, true) => TcpState::Close,
            (_, true, false) => TcpState::FinWait2,
            (_, false, true) => TcpState::CloseWait,
            (_, false, false) => TcpState::Established,
        }
    }
}

impl Tcp {
    /// A socket of `AF_INET` or `AF_INET6`.
    #[must_use]
    pub fn new(stack: &Arc<Stack>, owner: Kuid, domain: i32) -> Arc<Self> {
        let ip = Ip::new(stack, owner, domain, c::SOCK_STREAM, c::IPPROTO_TCP);
        ip.common.set_buffers(SEND_BUFFER, RECEIVE_BUFFER);
        let state = State {
            stage: Stage::Closed,
            local: unspecified(domain),
            chose_addr: false,
            chose_port: false,
            shut: Shutdown::default(),
            progress: Progress::Unconnected,
        };
        let socket = Arc::new_cyclic(|itself| Self {
            ip,
            state: Mutex::new(state),
            listening: Mutex::default(),
            options: Mutex::default(),
            listens: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            itself: itself.clone(),
        });
        let listed: Weak<dyn Listed> = Arc::downgrade(&socket) as Weak<dyn Listed>;
        stack.enter(socket.ip.common.ino, listed);
        socket
    }

    fn connection(&self) -> Option<Arc<Connection>> {
        match &self.state.lock().stage {
            Stage::Connected(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    fn wake(&self, events: PollEvents) {
        self.ip.common.queue.wake(events);
    }

    /// The state for user space.
    fn tcp_state(&self) -> TcpState {
        let stage = self.state.lock().stage.clone();
        match stage {
            Stage::Closed => TcpState::Close,
            Stage::Listening => TcpState::Listen,
            Stage::Connecting { .. } => TcpState::SynSent,
            Stage::Connected(connection) => connection.state(),
        }
    }

    /// Bytes that may be on their way from this socket to `peer`.
    fn room(&self, peer: Option<&Arc<Self>>) -> usize {
        let common = &self.ip.common;
        let send = if common.is(Flag::BufferLocked) { common.send_buffer() as usize } else { SEND_ROOM };
        send + peer.map_or(RECEIVE_ROOM, |peer| peer.window())
    }

    /// Bytes that this socket takes before the sender must keep the rest.
    fn window(&self) -> usize {
        let common = &self.ip.common;
        if common.is(Flag::ReceiveBufferLocked) { common.receive_buffer() as usize / 2 } else { RECEIVE_ROOM }
    }

    /// The other end has reset the connection.
    fn reset(&self, connection: &Connection) {
        let state = connection.state();
        if state == TcpState::Close {
            return;
        }
        connection.rx.cut();
        connection.tx.cut();
        self.ip.stack.counters.add(Count::TcpResets, 1);
        let error = if state == TcpState::CloseWait { Errno::EPIPE } else { Errno::ECONNRESET };
        self.ip.common.set_error(error);
        self.wake(PollEvents::all());
    }

    /// What a segment without a connection would get, sent to ourselves: the other end is gone.
    fn reset_by_absent(&self, connection: &Connection) {
        self.ip.stack.counters.add(Count::TcpResetsSent, 1);
        self.reset(connection);
    }

    fn receive_stream(&self, connection: &Connection, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        let common = &self.ip.common;
        let how = Taking { inline: common.is(Flag::OobInline), discard: request.flags & c::MSG_TRUNC != 0 };
        if request.flags & c::MSG_OOB != 0 {
            return self.receive_urgent(connection, buf, request);
        }
        if buf.remaining() == 0 && connection.rx.status().bytes > 0 {
            return Ok(Received::default());
        }
        let taken = if request.flags & c::MSG_PEEK != 0 {
            connection.rx.peek(buf, request.copied, how)?
        } else {
            connection.rx.take(buf, how)?
        };
        if let Some(count) = taken {
            // An urgent byte ends a receive.
            let stop = connection.rx.status().at_mark;
            return Ok(Received { count, full: count, stop, ..Received::default() });
        }
        let status = connection.rx.status();
        if request.copied > 0 && (status.finished || status.cut || common.has_error()) || status.finished {
            return Ok(Received::default());
        }
        if let Some(error) = common.take_error() {
            return Err(error);
        }
        if status.cut || self.state.lock().shut.read { Ok(Received::default()) } else { Err(Errno::EAGAIN) }
    }

    fn receive_urgent(&self, connection: &Connection, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        if self.ip.common.is(Flag::OobInline) {
            return Err(Errno::EINVAL);
        }
        let count = connection.rx.take_urgent(buf, request.flags & c::MSG_PEEK != 0)?;
        let cut = if count == 0 { c::MSG_TRUNC } else { 0 };
        Ok(Received { count, full: count, flags: c::MSG_OOB | cut, stop: true, ..Received::default() })
    }

    fn send_on(&self, connection: &Connection, buf: &mut IoBuf<'_>, urgent: bool) -> SysResult<usize> {
        if let Some(error) = self.ip.common.take_error() {
            return Err(error);
        }
        let peer = connection.peer.upgrade();
        match connection.tx.push(buf, self.room(peer.as_ref()), urgent) {
            Err(Errno::ECONNRESET) => {
                // It is sent; nobody is there, and says so.
                let count = buf.skip(buf.remaining());
                self.reset_by_absent(connection);
                Ok(count)
            }
            result => result,
        }
    }

    fn queues(&self) -> (usize, usize) {
        match &self.state.lock().stage {
            Stage::Connected(connection) => {
                let unread = connection.rx.status().bytes;
                let peer = connection.peer.upgrade();
                let window = peer.map_or(RECEIVE_ROOM, |peer| peer.window());
                (unread.min(self.window()), connection.tx.status().bytes.saturating_sub(window))
            }
            _ => (0, 0),
        }
    }

    fn poll_connection(&self, connection: &Connection, shut: Shutdown) -> PollEvents {
        let (rx, tx) = (connection.rx.status(), connection.tx.status());
        let mut events = PollEvents::empty();
        let (read_shut, write_shut) = (rx.finished || rx.cut || shut.read, tx.finished || tx.cut);
        if read_shut && write_shut {
            events |= PollEvents::HUP;
        }
        if read_shut {
            events |= PollEvents::READABLE | PollEvents::RDHUP;
        }
        let low = usize::try_from(self.ip.common.low_water.load(Ordering::Relaxed)).unwrap_or(1);
        let own = usize::from(rx.at_mark && !self.ip.common.is(Flag::OobInline));
        if rx.bytes >= low.min(self.window()) + own {
            events |= PollEvents::READABLE;
        }
        if rx.urgent {
            events |= PollEvents::PRI;
        }
        let room = self.room(connection.peer.upgrade().as_ref());
        if write_shut || tx.bytes * 3 <= room * 2 {
            events |= PollEvents::WRITABLE;
        }
        events
    }
}

impl Bound for Tcp {
    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn is_listening(&self) -> bool {
        self.listens.load(Ordering::Acquire)
    }

    fn as_tcp(&self) -> Option<Arc<Tcp>> {
        self.itself.upgrade()
    }
}

impl Listed for Tcp {
    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn listing(&self) -> Option<Listing> {
        let state = self.tcp_state();
        let local = self.state.lock().local;
        let mut listing = Listing {
            local,
            remote: (unspecified_like(local.ip()), 0).into(),
            state: state as u8,
            receive_queue: 0,
            send_queue: 0,
            drops: 0,
            uid: self.ip.owner.0,
            ino: self.ip.common.ino,
            v6_only: self.ip.v6_only(),
        };
        if state == TcpState::Listen {
            (listing.receive_queue, listing.send_queue) = self.listening.lock().as_ref().map_or((0, 0), Listening::sizes);
            return Some(listing);
        }
        (listing.receive_queue, listing.send_queue) = self.queues();
        match &self.state.lock().stage {
            Stage::Connected(connection) => listing.remote = connection.remote,
            Stage::Connecting { remote, .. } => listing.remote = *remote,
            // Bound only: Linux doesn't list it.
            _ => return None,
        }
        (state != TcpState::Close).then_some(listing)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for Tcp {
    fn common(&self) -> &Common {
        &self.ip.common
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn bind(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        self.bind_to(caller, address)
    }

    fn connect(self: Arc<Self>, _: &dyn Caller, address: &[u8]) -> SysResult<()> {
        self.connect_to(address)
    }

    fn connected(&self) -> SysResult<()> {
        self.progress()
    }

    fn listen(self: Arc<Self>, _: &dyn Caller, backlog: i32) -> SysResult<()> {
        self.start_listening(backlog)
    }

    fn accept(&self) -> SysResult<(Arc<dyn Socket>, Name)> {
        let accepted = self.take_pending()?;
        let remote = accepted.connection().map(|connection| connection.remote);
        let name = remote.map_or_else(Name::new, |remote| to_name(self.ip.common.domain, remote));
        Ok((accepted, name))
    }

    fn name(&self) -> SysResult<Name> {
        Ok(to_name(self.ip.common.domain, self.state.lock().local))
    }

    fn peer_name(&self) -> SysResult<Name> {
        let connection = self.connection().filter(|connection| connection.state() != TcpState::Close);
        connection.map(|connection| to_name(self.ip.common.domain, connection.remote)).ok_or(Errno::ENOTCONN)
    }

    fn send(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        let stage = self.state.lock().stage.clone();
        match stage {
            Stage::Connected(connection) => self.send_on(&connection, buf, message.flags & c::MSG_OOB != 0),
            _ if message.flags & c::MSG_FASTOPEN != 0 => Err(Errno::EOPNOTSUPP),
            Stage::Connecting { .. } => Err(self.ip.common.take_error().unwrap_or(Errno::EAGAIN)),
            Stage::Closed | Stage::Listening => Err(self.ip.common.take_error().unwrap_or(Errno::EPIPE)),
        }
    }

    fn receive(&self, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        if request.flags & c::MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        let (stage, shut) = {
            let state = self.state.lock();
            (state.stage.clone(), state.shut)
        };
        match stage {
            Stage::Connected(connection) => self.receive_stream(&connection, buf, request),
            Stage::Listening => Err(Errno::ENOTCONN),
            Stage::Connecting { .. } => Err(self.ip.common.take_error().unwrap_or(Errno::EAGAIN)),
            Stage::Closed => match self.ip.common.take_error() {
                Some(error) => Err(error),
                None if shut.read => Ok(Received::default()),
                None => Err(Errno::ENOTCONN),
            },
        }
    }

    fn shutdown(&self, how: Shutdown) -> SysResult<()> {
        self.shut(how)
    }

    fn option(&self, level: i32, name: i32, room: usize) -> SysResult<OptionValue> {
        match (level, name) {
            (c::SOL_SOCKET, c::SO_ACCEPTCONN) => Ok(word(self.is_listening().into())),
            (c::SOL_TCP, name) => self.tcp_option(name, room),
            _ => self.ip.option(level, name, room, self.connection().map(|connection| connection.remote.ip())),
        }
    }

    fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8]) -> SysResult<()> {
        if level == c::SOL_TCP {
            return self.set_tcp_option(caller, name, value);
        }
        let bound = self.state.lock().local.port() != 0;
        self.ip.set_option(caller, level, name, value, bound)
    }

    fn poll(&self) -> PollEvents {
        let (stage, shut) = {
            let state = self.state.lock();
            (state.stage.clone(), state.shut)
        };
        let error = if self.ip.common.has_error() { PollEvents::ERR } else { PollEvents::empty() };
        error
            | match stage {
                Stage::Listening => {
                    let waiting = self.listening.lock().as_ref().is_some_and(|listening| listening.sizes().0 > 0);
                    return if waiting { PollEvents::READABLE } else { PollEvents::empty() };
                }
                Stage::Connecting { .. } => PollEvents::empty(),
                Stage::Closed => {
                    let read = if shut.read { PollEvents::READABLE | PollEvents::RDHUP } else { PollEvents::empty() };
                    // What has failed to connect reads as ended.
                    let failed = if error.is_empty() { PollEvents::empty() } else { PollEvents::READABLE | PollEvents::RDHUP };
                    PollEvents::HUP | PollEvents::WRITABLE | read | failed
                }
                Stage::Connected(connection) => self.poll_connection(&connection, shut),
            }
    }

    fn ioctl(&self, _: Option<&dyn Caller>, arg: &IoctlArg<'_>) -> SysResult<u64> {
        const SIOCATMARK: u64 = 0x8905;
        const SIOCOUTQNSD: u64 = 0x894b;
        let value = match u64::from(arg.cmd) {
            c::FIONREAD | c::TIOCOUTQ | SIOCOUTQNSD if self.is_listening() => return Err(Errno::EINVAL),
            c::FIONREAD => self.connection().map_or(0, |connection| connection.rx.status().bytes),
            c::TIOCOUTQ => self.queues().1,
            SIOCOUTQNSD => 0,
            SIOCATMARK => self.connection().is_some_and(|connection| connection.rx.status().at_mark).into(),
            _ => return Err(Errno::ENOTTY),
        };
        arg.memory.write(arg.arg, &i32::try_from(value).unwrap_or(i32::MAX).to_le_bytes())?;
        Ok(0)
    }

    fn close(&self) {
        self.end();
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Nanoseconds since a connection was made.
pub(crate) fn age(connection: &Connection) -> u64 {
    monotonic_ns().saturating_sub(connection.since)
}
