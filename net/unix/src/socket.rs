//! Sockets.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::Kgid;
use socket::{Caller, Common, Credentials, Flag, Name, OptionValue, Outgoing, Received, Request, Shutdown, Socket, word};
use sync::Mutex;
use usermem::{IoBuf, UserMemoryExt};
use vfs::{File, IoctlArg};

use crate::address::{Address, NameCell};
use crate::flow::{Flow, peeks};
use crate::inbox::{Account, Delivery, Inbox};
use crate::names::Names;
use crate::rights::collect_if_due;

/// Type of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream,
    SeqPacket,
    Datagram,
}

impl Kind {
    /// From the `SOCK_*` number.
    ///
    /// # Errors
    /// `ESOCKTNOSUPPORT`
    pub fn from_raw(raw: i32) -> SysResult<Self> {
        match raw {
            c::SOCK_STREAM => Ok(Self::Stream),
            c::SOCK_SEQPACKET => Ok(Self::SeqPacket),
            // Linux takes raw sockets for datagrams here.
            c::SOCK_DGRAM | c::SOCK_RAW => Ok(Self::Datagram),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }

    /// The `SOCK_*` number.
    #[must_use]
    pub fn raw(self) -> i32 {
        match self {
            Self::Stream => c::SOCK_STREAM,
            Self::SeqPacket => c::SOCK_SEQPACKET,
            Self::Datagram => c::SOCK_DGRAM,
        }
    }
}

/// Who somebody was when a connection was made (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Clone)]
pub(crate) struct Identity {
    pub credentials: Credentials,
    pub groups: Arc<[Kgid]>,
}

impl Identity {
    pub fn of(caller: &dyn Caller) -> Self {
        Self { credentials: caller.credentials(), groups: caller.groups() }
    }
}

/// A connection, as one end sees it. It never changes.
pub(crate) struct Link {
    pub peer: Weak<Unix>,
    pub peer_name: NameCell,
    pub peer_identity: Identity,
    pub out: Incoming,
}

/// What arrives at a socket.
#[derive(Clone)]
pub(crate) enum Incoming {
    Flow(Arc<Flow>),
    Inbox(Arc<Inbox>),
}

impl Incoming {
    pub fn shut(&self) {
        match self {
            Self::Flow(flow) => flow.shut(),
            Self::Inbox(inbox) => inbox.shut(),
        }
    }

    /// Bytes that wait, whether anything does, and whether nothing more comes.
    fn status(&self) -> (usize, bool, bool) {
        match self {
            Self::Flow(flow) => {
                let (bytes, shut) = flow.status();
                (bytes, bytes > 0, shut)
            }
            Self::Inbox(inbox) => {
                let (bytes, first, shut) = inbox.status();
                (bytes, first.is_some(), shut)
            }
        }
    }
}

pub(crate) struct Listening {
    pub backlog: usize,
    pub pending: VecDeque<Arc<Unix>>,
    /// Who listens.
    pub identity: Identity,
    /// Those who wait for a place.
    pub blocked: Vec<Weak<Unix>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub listening: Option<Listening>,
    /// A datagram socket's default destination.
    pub peer: Option<Weak<Unix>>,
    /// For a pair of datagram sockets.
    pub peer_identity: Option<Identity>,
    pub shut: Shutdown,
}

/// A socket.
pub struct Unix {
    pub(crate) common: Common,
    kind: Kind,
    pub(crate) names: Arc<Names>,
    pub(crate) address: NameCell,
    pub(crate) link: OnceLock<Link>,
    pub(crate) incoming: Incoming,
    pub(crate) state: Mutex<State>,
    pub(crate) account: Arc<Account>,
    pub(crate) closed: AtomicBool,
    pub(crate) itself: Weak<Self>,
}

pub(crate) const ALL: PollEvents = PollEvents::READABLE.union(PollEvents::WRITABLE).union(PollEvents::RDHUP);

impl Unix {
    /// A socket of a namespace.
    #[must_use]
    pub fn new(names: &Arc<Names>, kind: Kind) -> Arc<Self> {
        let common = Common::new(c::AF_UNIX, kind.raw(), 0);
        let socket = Arc::new_cyclic(|itself| Self {
            kind,
            names: names.clone(),
            address: NameCell::default(),
            link: OnceLock::new(),
            incoming: if kind == Kind::Stream {
                Incoming::Flow(Flow::new(&common.queue))
            } else {
                Incoming::Inbox(Arc::default())
            },
            state: Mutex::default(),
            account: Account::new(&common.queue),
            closed: AtomicBool::new(false),
            itself: itself.clone(),
            common,
        });
        names.enter(&socket);
        socket
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn ino(&self) -> u64 {
        self.common.ino
    }

    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        self.address.get()
    }

    /// # Errors
    /// `EINVAL` when it has one.
    pub(crate) fn set_address(&self, address: Address) -> SysResult<()> {
        self.address.set(address).map_err(|_| Errno::EINVAL)
    }

    pub(crate) fn wake(&self, events: PollEvents) {
        self.common.queue.wake(events);
    }

    /// The peer, if there is one.
    #[must_use]
    pub fn peer(&self) -> Option<Arc<Self>> {
        match self.link.get() {
            Some(link) => link.peer.upgrade(),
            None => self.state.lock().peer.as_ref().and_then(Weak::upgrade),
        }
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.state.lock().listening.is_some()
    }

    /// Flags and state for /proc/net/unix (`__SO_ACCEPTCON`, `SS_*`).
    #[must_use]
    pub fn status(&self) -> (u32, u32) {
        if self.is_listening() {
            return (0x10000, 1);
        }
        (0, if self.link.get().is_some() || self.state.lock().peer.is_some() { 3 } else { 1 })
    }

    /// What waits to be read or accepted, and what may at most (for ss(8)).
    #[must_use]
    pub fn queues(&self) -> (usize, usize) {
        let state = self.state.lock();
        match &state.listening {
            Some(listening) => (listening.pending.len(), listening.backlog),
            None => (self.incoming.status().0, 0),
        }
    }

    /// Whether this socket's own direction is shut.
    fn write_shut(&self) -> bool {
        match self.link.get() {
            Some(link) => link.out.status().2,
            None => self.state.lock().shut.write,
        }
    }

    /// Bytes sent and not yet read.
    fn unread_by_peer(&self) -> usize {
        match (self.link.get(), self.kind) {
            (Some(link), Kind::Stream) => link.out.status().0,
            (None, Kind::Stream) => 0,
            _ => self.account.used(),
        }
    }

    fn send_stream(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        if message.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if message.to.is_some() {
            return Err(if self.link.get().is_some() { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let link = self.link.get().ok_or_else(|| if self.write_shut() { Errno::EPIPE } else { Errno::ENOTCONN })?;
        let Incoming::Flow(out) = &link.out else { return Err(Errno::ENOTCONN) };
        if buf.remaining() == 0 {
            return if out.is_shut() { Err(Errno::EPIPE) } else { Ok(0) };
        }
        let credentials = self.sender(message, || link.peer.upgrade());
        out.push(buf, self.common.send_buffer() as usize, &mut message.files, credentials)
    }

    /// Who is said to be the sender: who it says it is; itself when one of both sides wants to know.
    fn sender(&self, message: &Outgoing<'_>, peer: impl FnOnce() -> Option<Arc<Self>>) -> Option<Credentials> {
        let asks = |common: &Common| common.is(Flag::PassCredentials) || common.is(Flag::PassPidFd);
        if message.credentials.is_some() {
            return message.credentials;
        }
        let caller = message.caller?;
        (asks(&self.common) || peer().is_some_and(|peer| asks(&peer.common))).then(|| caller.credentials())
    }

    /// Who receives a packet.
    fn destination(&self, message: &Outgoing<'_>) -> SysResult<Arc<Self>> {
        if self.kind == Kind::SeqPacket {
            if let Some(error) = self.common.take_error() {
                return Err(error);
            }
            let link = self.link.get().ok_or(Errno::ENOTCONN)?;
            return link.peer.upgrade().ok_or(Errno::EPIPE);
        }
        if let Some(to) = message.to {
            let address = Address::parse(to)?.ok_or(Errno::EINVAL)?;
            let found = self.find(message.caller.ok_or(Errno::EINVAL)?, &address)?;
            return if found.kind == self.kind { Ok(found) } else { Err(Errno::EPROTOTYPE) };
        }
        let mut state = self.state.lock();
        let peer = state.peer.as_ref().ok_or(Errno::ENOTCONN)?;
        let alive = peer.upgrade().filter(|peer| !peer.closed.load(Ordering::Acquire));
        // Told once: then it isn't connected any more.
        if alive.is_none() && !state.shut.write {
            state.peer = None;
            return Err(Errno::ECONNREFUSED);
        }
        alive.ok_or(Errno::EPIPE)
    }

    fn send_packet(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        if message.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let peer = self.destination(message)?;
        if self.common.is(Flag::PassCredentials) && self.address().is_none() && self.kind == Kind::Datagram {
            self.autobind()?;
        }
        let capacity = self.common.send_buffer() as usize;
        if buf.remaining() > capacity.saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        if let Some(error) = self.common.take_error() {
            return Err(error);
        }
        if self.write_shut() {
            return Err(Errno::EPIPE);
        }
        if self.account.used() >= capacity {
            return Err(Errno::EAGAIN);
        }
        let theirs = (peer.kind == Kind::Datagram).then(|| peer.state.lock().peer.clone()).flatten();
        let connected_here = theirs.as_ref().is_some_and(|theirs| theirs.ptr_eq(&self.itself));
        if theirs.is_some() && !connected_here {
            return Err(Errno::EPERM);
        }
        let Incoming::Inbox(inbox) = &peer.incoming else { return Err(Errno::EPROTOTYPE) };
        let mutual = connected_here || self.kind == Kind::SeqPacket || std::ptr::eq(&raw const *peer, self);
        let delivery = Delivery {
            sender: &self.account,
            capacity,
            from: &self.address,
            credentials: self.sender(message, || Some(peer.clone())),
            files: &mut message.files,
            time: socket::arrival(&peer.common),
            blocked: (!mutual).then(|| self.itself.clone()),
        };
        let count = inbox.push(buf, delivery)?;
        peer.wake(PollEvents::READABLE);
        Ok(count)
    }

    fn receive_stream(&self, flow: &Flow, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        if request.flags & c::MSG_OOB != 0 {
            return Err(Errno::EINVAL);
        }
        let Some(link) = self.link.get() else { return Err(Errno::EINVAL) };
        let pass = self.common.is(Flag::PassCredentials);
        let offset = usize::try_from(self.common.peek_offset.load(Ordering::Relaxed)).ok();
        let taken = if peeks(request) {
            flow.peek(buf, offset.unwrap_or(request.copied), request, pass)?
        } else {
            let peer = link.peer.upgrade();
            flow.take(buf, request, pass, peer.as_ref().map(|peer| &peer.common.queue))?
        };
        let Some(mut received) = taken else { return self.end_of_stream(flow, request) };
        if let Some(offset) = offset {
            let moved = if peeks(request) { offset + received.count } else { offset.saturating_sub(received.count) };
            self.common.peek_offset.store(i32::try_from(moved).unwrap_or(i32::MAX), Ordering::Relaxed);
        }
        if request.name {
            received.name = link.peer_name.get().map(|name| Address::to_name(Some(name)));
        }
        Ok(received)
    }

    /// What a stream that has nothing to read says.
    fn end_of_stream(&self, flow: &Flow, request: &Request) -> SysResult<Received> {
        if request.copied == 0
            && let Some(error) = self.common.take_error()
        {
            return Err(error);
        }
        // A peek that has seen all waits for more only if more can come.
        if flow.is_shut() { Ok(Received::default()) } else { Err(Errno::EAGAIN) }
    }

    fn receive_packet(&self, inbox: &Inbox, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        if request.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.kind == Kind::SeqPacket && self.link.get().is_none() {
            return Err(Errno::ENOTCONN);
        }
        if let Some(error) = self.common.take_error() {
            return Err(error);
        }
        if let Some(received) = inbox.pop(&self.common, buf, request)? {
            return Ok(received);
        }
        let ends = self.kind == Kind::SeqPacket || request.flags & c::MSG_DONTWAIT == 0;
        if ends && inbox.status().2 { Ok(Received::default()) } else { Err(Errno::EAGAIN) }
    }

    /// Shows all files that wait in this socket's queue, or in those of connections that wait for it; `false` when one is in use.
    pub(crate) fn queued_files(&self, f: &mut dyn FnMut(&Arc<File>)) -> bool {
        let Some(state) = self.state.try_lock() else { return false };
        // Connections that nobody has accepted have none that wait for them: they can't listen.
        let pending = state.listening.iter().flat_map(|listening| listening.pending.iter().map(|socket| &socket.incoming));
        std::iter::once(&self.incoming).chain(pending).all(|incoming| match incoming {
            Incoming::Flow(flow) => flow.files(f),
            Incoming::Inbox(inbox) => inbox.files(f),
        })
    }

    /// Drops what waits in this socket's queues; returns connections that nobody can accept any more.
    pub(crate) fn purge(&self) -> VecDeque<Arc<Self>> {
        match &self.incoming {
            Incoming::Flow(flow) => {
                flow.close();
            }
            Incoming::Inbox(inbox) => inbox.purge(),
        }
        let pending = self.state.lock().listening.as_mut().map(|listening| std::mem::take(&mut listening.pending));
        let pending = pending.unwrap_or_default();
        pending.iter().for_each(|socket| socket.close());
        pending
    }

    fn poll_stream(&self, flow: &Flow) -> PollEvents {
        if let Some(listening) = &self.state.lock().listening {
            let readable = !listening.pending.is_empty();
            return if readable { PollEvents::READABLE } else { PollEvents::empty() };
        }
        let mut events = PollEvents::empty();
        let (unread, shut) = flow.status();
        if unread > 0 || shut {
            events |= PollEvents::READABLE;
        }
        if shut {
            events |= PollEvents::RDHUP;
        }
        events | self.writability(shut)
    }

    fn poll_packet(&self, inbox: &Inbox) -> PollEvents {
        let peer = {
            let state = self.state.lock();
            if let Some(listening) = &state.listening {
                let readable = !listening.pending.is_empty();
                return if readable { PollEvents::READABLE } else { PollEvents::empty() };
            }
            state.peer.as_ref().and_then(Weak::upgrade)
        };
        let mut events = PollEvents::empty();
        let (_, first, shut) = inbox.status();
        if first.is_some() || shut {
            events |= PollEvents::READABLE;
        }
        if shut {
            events |= PollEvents::RDHUP;
        }
        events |= self.writability(shut);
        if events.contains(PollEvents::OUT)
            && let Some(peer) = peer
            && !peer.state.lock().peer.as_ref().is_some_and(|theirs| theirs.ptr_eq(&self.itself))
            && let Incoming::Inbox(theirs) = &peer.incoming
            && !theirs.has_room(&self.itself)
        {
            events -= PollEvents::WRITABLE | PollEvents::WRBAND;
        }
        events
    }

    /// Hang-up and room.
    fn writability(&self, read_shut: bool) -> PollEvents {
        let mut events = PollEvents::empty();
        if read_shut && self.write_shut() || self.kind != Kind::Datagram && self.link.get().is_none() {
            events |= PollEvents::HUP;
        }
        if self.unread_by_peer() * 4 <= self.common.send_buffer() as usize {
            events |= PollEvents::WRITABLE | PollEvents::WRBAND;
        }
        events
    }

    /// Who the peer was, for `SO_PEERCRED` and the like.
    fn peer_identity(&self) -> Option<Identity> {
        if let Some(link) = self.link.get() {
            return Some(link.peer_identity.clone());
        }
        let state = self.state.lock();
        state.listening.as_ref().map(|listening| listening.identity.clone()).or_else(|| state.peer_identity.clone())
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        // One that no descriptor has ever referred to.
        self.end();
    }
}

impl Socket for Unix {
    fn common(&self) -> &Common {
        &self.common
    }

    fn is_stream(&self) -> bool {
        self.kind == Kind::Stream
    }

    fn bind(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        self.bind_to(caller, address)
    }

    fn connect(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        self.connect_to(caller, address)
    }

    fn listen(self: Arc<Self>, caller: &dyn Caller, backlog: i32) -> SysResult<()> {
        self.start_listening(caller, backlog)
    }

    fn accept(&self) -> SysResult<(Arc<dyn Socket>, Name)> {
        let accepted = self.take_pending()?;
        let name = accepted.peer_name().unwrap_or_default();
        Ok((accepted, name))
    }

    fn name(&self) -> SysResult<Name> {
        Ok(Address::to_name(self.address()))
    }

    fn peer_name(&self) -> SysResult<Name> {
        match self.link.get() {
            Some(link) => Ok(Address::to_name(link.peer_name.get())),
            None => self.peer().map(|peer| Address::to_name(peer.address())).ok_or(Errno::ENOTCONN),
        }
    }

    fn send(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        let search = !message.files.is_empty();
        let result = if self.kind == Kind::Stream { self.send_stream(buf, message) } else { self.send_packet(buf, message) };
        if search {
            collect_if_due();
        }
        result
    }

    fn receive(&self, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        match &self.incoming {
            Incoming::Flow(flow) => self.receive_stream(flow, buf, request),
            Incoming::Inbox(inbox) => self.receive_packet(inbox, buf, request),
        }
    }

    fn shutdown(&self, how: Shutdown) -> SysResult<()> {
        let linked = self.link.get();
        if how.read {
            self.incoming.shut();
        }
        match linked {
            Some(link) if how.write => link.out.shut(),
            Some(_) => {}
            None => {
                let mut state = self.state.lock();
                state.shut.read |= how.read;
                state.shut.write |= how.write;
            }
        }
        if let Some(peer) = linked.and_then(|link| link.peer.upgrade()) {
            peer.wake(ALL | PollEvents::HUP);
        }
        self.wake(ALL | PollEvents::HUP);
        Ok(())
    }

    fn option(&self, level: i32, name: i32, room: usize) -> SysResult<OptionValue> {
        if level != c::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        match name {
            c::SO_ACCEPTCONN => Ok(word(self.is_listening().into())),
            c::SO_PEERCRED => match self.peer_identity() {
                Some(peer) => Ok(OptionValue::from_slice(&peer.credentials.to_bytes())),
                None => socket::get_option(&self.common, name),
            },
            c::SO_PEERGROUPS => {
                let groups = self.peer_identity().ok_or(Errno::ENODATA)?.groups;
                // The handler tells the caller how much there would have been.
                if room < groups.len() * 4 {
                    return Err(Errno::ERANGE);
                }
                Ok(groups.iter().flat_map(|group| group.0.to_le_bytes()).collect())
            }
            _ => socket::get_option(&self.common, name),
        }
    }

    fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8]) -> SysResult<()> {
        if level != c::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        socket::set_option(&self.common, caller, name, value)
    }

    fn poll(&self) -> PollEvents {
        let error = if self.common.has_error() { PollEvents::ERR } else { PollEvents::empty() };
        error
            | match &self.incoming {
                Incoming::Flow(flow) => self.poll_stream(flow),
                Incoming::Inbox(inbox) => self.poll_packet(inbox),
            }
    }

    fn ioctl(&self, _: Option<&dyn Caller>, arg: &IoctlArg<'_>) -> SysResult<u64> {
        let bytes = match u64::from(arg.cmd) {
            c::FIONREAD if self.is_listening() => return Err(Errno::EINVAL),
            c::FIONREAD => match &self.incoming {
                Incoming::Inbox(inbox) if self.kind == Kind::Datagram => inbox.status().1.unwrap_or(0),
                incoming => incoming.status().0,
            },
            c::TIOCOUTQ => self.unread_by_peer(),
            _ => return Err(Errno::ENOTTY),
        };
        arg.memory.write(arg.arg, &i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes())?;
        Ok(0)
    }

    fn close(&self) {
        self.end();
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
