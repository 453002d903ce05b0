//! Sockets.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use sync::{Mutex, WaitQueue};
use usermem::{IoBuf, UserMemoryExt};
use vfs::{Attr, FileOps, IoctlArg, new_ino};

use crate::inbox::{Ancillary, Credentials, Inbox, Received};

/// Default of `SO_SNDBUF` and `SO_RCVBUF` (`net.core.wmem_default`).
const BUFFER: usize = 212_992;
/// Largest backlog (`net.core.somaxconn`).
const MAX_BACKLOG: usize = 4096;

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

/// What a socket is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Address {
    #[default]
    Unnamed,
    Path(Vec<u8>),
    /// Without the leading NUL.
    Abstract(Vec<u8>),
}

/// Abstract names in use; the values are [`Socket`]s.
pub type Names = Mutex<BTreeMap<Vec<u8>, Weak<dyn Any + Send + Sync>>>;

/// Which directions shutdown(2) closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shutdown {
    pub read: bool,
    pub write: bool,
}

enum Role {
    /// New, or bound.
    Fresh,
    Listening {
        backlog: usize,
        pending: VecDeque<Arc<Socket>>,
    },
    Connected,
    /// The peer is gone, or reset the connection.
    Orphaned,
}

struct State {
    role: Role,
    /// A connected stream's other end; a datagram socket's default destination.
    peer: Option<Weak<Socket>>,
    peer_credentials: Credentials,
    address: Address,
    peer_address: Address,
    shut: Shutdown,
    /// The peer has shut down its writing side.
    peer_shut_write: bool,
    /// Pending error (`SO_ERROR`).
    error: Option<Errno>,
    send_buffer: usize,
    pass_credentials: bool,
    /// `SO_RCVTIMEO` and `SO_SNDTIMEO`, in nanoseconds; 0: none.
    timeouts: [u64; 2],
}

/// A socket.
pub struct Socket {
    kind: Kind,
    ino: u64,
    credentials: Credentials,
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    queue: WaitQueue,
}

const ALL: PollEvents = PollEvents::READABLE.union(PollEvents::WRITABLE).union(PollEvents::RDHUP);

impl Socket {
    /// A socket made by somebody with `credentials`.
    #[must_use]
    pub fn new(kind: Kind, credentials: Credentials) -> Arc<Self> {
        let state = State {
            role: Role::Fresh,
            peer: None,
            peer_credentials: Credentials::default(),
            address: Address::Unnamed,
            peer_address: Address::Unnamed,
            shut: Shutdown::default(),
            peer_shut_write: false,
            error: None,
            send_buffer: BUFFER,
            pass_credentials: false,
            timeouts: [0; 2],
        };
        Arc::new(Self {
            kind,
            ino: new_ino(),
            credentials,
            state: Mutex::new(state),
            inbox: Mutex::default(),
            queue: WaitQueue::default(),
        })
    }

    fn marry(&self, peer: &Arc<Self>, credentials: Credentials, address: Address) {
        let mut state = self.state.lock();
        state.role = Role::Connected;
        state.peer = Some(Arc::downgrade(peer));
        state.peer_credentials = credentials;
        state.peer_address = address;
    }

    /// socketpair(2).
    #[must_use]
    pub fn pair(kind: Kind, credentials: Credentials) -> (Arc<Self>, Arc<Self>) {
        let (one, other) = (Self::new(kind, credentials), Self::new(kind, credentials));
        one.marry(&other, credentials, Address::Unnamed);
        other.marry(&one, credentials, Address::Unnamed);
        (one, other)
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn is_stream(&self) -> bool {
        self.kind == Kind::Stream
    }

    /// Gives it its name. The caller has made the file, or takes the abstract name by [`Socket::bind_abstract`].
    ///
    /// # Errors
    /// `EINVAL` when it has one.
    pub fn set_address(&self, address: Address) -> SysResult<()> {
        let mut state = self.state.lock();
        if state.address != Address::Unnamed {
            return Err(Errno::EINVAL);
        }
        state.address = address;
        Ok(())
    }

    /// Binds to an abstract name.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EINVAL`.
    pub fn bind_abstract(self: &Arc<Self>, names: &Names, name: &[u8]) -> SysResult<()> {
        let mut names = names.lock();
        if names.get(name).is_some_and(|socket| socket.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        // Amortised, so that many names don't make each bind slow.
        if names.len().is_power_of_two() {
            names.retain(|_, socket| socket.strong_count() > 0);
        }
        self.set_address(Address::Abstract(name.to_vec()))?;
        names.insert(name.to_vec(), self.endpoint());
        Ok(())
    }

    /// What is left at a name for [`Socket::found`].
    #[must_use]
    pub fn endpoint(self: &Arc<Self>) -> Weak<dyn Any + Send + Sync> {
        let any: Arc<dyn Any + Send + Sync> = self.clone();
        Arc::downgrade(&any)
    }

    /// The socket behind a name.
    ///
    /// # Errors
    /// `ECONNREFUSED` when it has been closed.
    pub fn found(endpoint: &Weak<dyn Any + Send + Sync>) -> SysResult<Arc<Self>> {
        endpoint.upgrade().and_then(|any| any.downcast().ok()).ok_or(Errno::ECONNREFUSED)
    }

    #[must_use]
    pub fn address(&self) -> Address {
        self.state.lock().address.clone()
    }

    /// # Errors
    /// `ENOTCONN`
    pub fn peer_address(&self) -> SysResult<Address> {
        let state = self.state.lock();
        match state.role {
            Role::Connected | Role::Orphaned => Ok(state.peer_address.clone()),
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// `SO_PEERCRED`
    #[must_use]
    pub fn peer_credentials(&self) -> Option<Credentials> {
        let state = self.state.lock();
        matches!(state.role, Role::Connected | Role::Orphaned).then_some(state.peer_credentials)
    }

    #[must_use]
    pub fn is_listening(&self) -> bool {
        matches!(self.state.lock().role, Role::Listening { .. })
    }

    /// `SO_ERROR`: takes the pending error.
    #[must_use]
    pub fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// `SO_SNDBUF`, in bytes, as getsockopt(2) shows it.
    #[must_use]
    pub fn send_buffer(&self) -> usize {
        self.state.lock().send_buffer
    }

    /// `SO_SNDBUF`: Linux doubles what it is given, within limits.
    pub fn set_send_buffer(&self, bytes: usize) {
        self.state.lock().send_buffer = bytes.min(BUFFER).saturating_mul(2).max(4608);
    }

    /// `SO_PASSCRED`
    pub fn set_pass_credentials(&self, on: bool) {
        self.state.lock().pass_credentials = on;
    }

    #[must_use]
    pub fn pass_credentials(&self) -> bool {
        self.state.lock().pass_credentials
    }

    /// `SO_RCVTIMEO` or else `SO_SNDTIMEO`, in nanoseconds; 0: none.
    #[must_use]
    pub fn timeout(&self, receive: bool) -> u64 {
        let [receiving, sending] = self.state.lock().timeouts;
        if receive { receiving } else { sending }
    }

    /// Sets what [`Socket::timeout`] says.
    pub fn set_timeout(&self, receive: bool, ns: u64) {
        let mut state = self.state.lock();
        let [receiving, sending] = &mut state.timeouts;
        *(if receive { receiving } else { sending }) = ns;
    }

    /// Where to wait for room at the peer: a datagram's receiver announces it on its own queue.
    #[must_use]
    pub fn send_queue(&self) -> Option<WaitQueue> {
        if self.kind != Kind::Datagram {
            return Some(self.queue.clone());
        }
        let peer = self.state.lock().peer.as_ref().and_then(Weak::upgrade);
        peer.map(|peer| peer.queue.clone())
    }

    /// listen(2).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for datagrams, `EINVAL` when not bound or connected.
    pub fn listen(&self, backlog: i32) -> SysResult<()> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        // A negative backlog is a very large one (it is compared unsigned).
        let limit = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        let mut state = self.state.lock();
        if state.address == Address::Unnamed {
            return Err(Errno::EINVAL);
        }
        match &mut state.role {
            Role::Fresh => state.role = Role::Listening { backlog: limit, pending: VecDeque::new() },
            Role::Listening { backlog, .. } => *backlog = limit,
            _ => return Err(Errno::EINVAL),
        }
        drop(state);
        self.queue.wake(ALL);
        Ok(())
    }

    /// accept(2): the next connection.
    ///
    /// # Errors
    /// `EAGAIN`, `EINVAL` when not listening, `EOPNOTSUPP`.
    pub fn accept(&self) -> SysResult<Arc<Self>> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        let shut = state.shut.read;
        let Role::Listening { pending, .. } = &mut state.role else { return Err(Errno::EINVAL) };
        let next = pending.pop_front();
        drop(state);
        if next.is_some() {
            self.queue.wake(PollEvents::WRITABLE);
        }
        next.ok_or(if shut { Errno::EINVAL } else { Errno::EAGAIN })
    }

    /// Where connectors wait for room in the backlog.
    #[must_use]
    pub fn own_queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// connect(2) to the socket that `address` names.
    ///
    /// # Errors
    /// `ECONNREFUSED`, `EPROTOTYPE`, `EISCONN`, `EAGAIN` when the backlog is full (wait on the listener's queue), `EINVAL`.
    pub fn connect(self: &Arc<Self>, listener: &Arc<Self>, address: &Address) -> SysResult<()> {
        if listener.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if self.kind == Kind::Datagram {
            self.marry(listener, listener.credentials, address.clone());
            return Ok(());
        }
        let own_address = {
            let state = self.state.lock();
            match state.role {
                Role::Fresh => {}
                Role::Connected | Role::Orphaned => return Err(Errno::EISCONN),
                Role::Listening { .. } => return Err(Errno::EINVAL),
            }
            state.address.clone()
        };
        let server = Self::new(self.kind, listener.credentials);
        let mut theirs = listener.state.lock();
        let (name, pass) = (theirs.address.clone(), theirs.pass_credentials);
        if theirs.shut.read {
            return Err(Errno::ECONNREFUSED);
        }
        let Role::Listening { backlog, pending } = &mut theirs.role else { return Err(Errno::ECONNREFUSED) };
        if pending.len() > *backlog {
            return Err(Errno::EAGAIN);
        }
        pending.push_back(server.clone());
        server.state.lock().address = name;
        server.state.lock().pass_credentials = pass;
        server.marry(self, self.credentials, own_address);
        drop(theirs);
        self.marry(&server, listener.credentials, address.clone());
        listener.queue.wake(PollEvents::READABLE);
        self.queue.wake(ALL);
        Ok(())
    }

    /// connect(2) with `AF_UNSPEC`: a datagram socket has no default destination any more.
    ///
    /// # Errors
    /// `EINVAL` for others.
    pub fn disconnect(&self) -> SysResult<()> {
        if self.kind != Kind::Datagram {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        state.peer = None;
        state.role = Role::Fresh;
        Ok(())
    }

    /// shutdown(2), connected or not.
    pub fn shutdown(&self, how: Shutdown) {
        let mut state = self.state.lock();
        state.shut.read |= how.read;
        state.shut.write |= how.write;
        let peer = if self.kind == Kind::Datagram { None } else { state.peer.as_ref().and_then(Weak::upgrade) };
        drop(state);
        if let Some(peer) = peer {
            let mut theirs = peer.state.lock();
            theirs.peer_shut_write |= how.write;
            theirs.shut.write |= how.read;
            drop(theirs);
            peer.queue.wake(ALL | PollEvents::HUP);
        }
        self.queue.wake(ALL | PollEvents::HUP);
    }

    /// Who receives what is sent to `to`, or to the peer.
    fn destination(&self, to: Option<&Arc<Self>>) -> SysResult<(Arc<Self>, usize, Address)> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.shut.write {
            return Err(Errno::EPIPE);
        }
        let found = match (to, &state.role) {
            (Some(_), Role::Connected | Role::Orphaned) if self.kind != Kind::Datagram => return Err(Errno::EISCONN),
            (Some(_), _) if self.kind != Kind::Datagram => return Err(Errno::EOPNOTSUPP),
            (Some(to), _) => Some(to.clone()),
            (None, Role::Connected) => state.peer.as_ref().and_then(Weak::upgrade),
            (None, Role::Orphaned) => None,
            (None, _) => return Err(Errno::ENOTCONN),
        };
        match found {
            Some(peer) => Ok((peer, state.send_buffer, state.address.clone())),
            None if self.kind == Kind::Datagram => Err(Errno::ECONNREFUSED),
            None => Err(Errno::EPIPE),
        }
    }

    /// Sends, with what travels with it. Never waits.
    ///
    /// # Errors
    /// `EAGAIN` (wait on [`Socket::send_queue`] or the destination's own), `EPIPE`, `ENOTCONN`, `ECONNREFUSED`, `EMSGSIZE`,
    /// `EISCONN`, `EPROTOTYPE`, `ETOOMANYREFS`, `EFAULT`.
    pub fn send(&self, buf: &mut IoBuf<'_>, to: Option<&Arc<Self>>, ancillary: &mut Ancillary) -> SysResult<usize> {
        let (peer, capacity, from) = self.destination(to)?;
        if peer.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let refuses = {
            let theirs = peer.state.lock();
            theirs.shut.read
        };
        if refuses {
            return Err(Errno::EPIPE);
        }
        if buf.remaining() == 0 && self.is_stream() {
            return Ok(0);
        }
        let count = peer.inbox.lock().push(buf, self.is_stream(), capacity, ancillary, &from)?;
        peer.queue.wake(PollEvents::READABLE);
        Ok(count)
    }

    /// Receives. Never waits.
    ///
    /// # Errors
    /// `EAGAIN`, `ENOTCONN`, `EINVAL`, `EFAULT`, `ECONNRESET`.
    pub fn receive(&self, buf: &mut IoBuf<'_>, peek: bool) -> SysResult<Received> {
        let mut inbox = self.inbox.lock();
        if inbox.is_empty() {
            drop(inbox);
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            return match state.role {
                Role::Fresh | Role::Listening { .. } if self.kind != Kind::Datagram => {
                    Err(if self.is_stream() { Errno::EINVAL } else { Errno::ENOTCONN })
                }
                Role::Orphaned => Ok(Received::default()),
                _ if state.shut.read || state.peer_shut_write => Ok(Received::default()),
                _ => Err(Errno::EAGAIN),
            };
        }
        let received = inbox.pop(buf, self.is_stream(), peek)?;
        drop(inbox);
        if !peek {
            self.room_again();
        }
        Ok(received)
    }

    /// Tells who may wait for room in our inbox: the peer, and senders of datagrams (they wait on our own queue).
    fn room_again(&self) {
        let peer = self.state.lock().peer.as_ref().and_then(Weak::upgrade);
        if let Some(peer) = peer {
            peer.queue.wake(PollEvents::WRITABLE);
        }
        if self.kind == Kind::Datagram {
            self.queue.wake(PollEvents::WRITABLE);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let unread = !self.inbox.get_mut().is_empty();
        let state = self.state.get_mut();
        let waiting = match &mut state.role {
            Role::Listening { pending, .. } => std::mem::take(pending),
            _ => VecDeque::new(),
        };
        // Connections that nobody accepted end when they are dropped.
        drop(waiting);
        if self.kind != Kind::Datagram
            && let Some(peer) = state.peer.take().and_then(|peer| peer.upgrade())
        {
            let mut theirs = peer.state.lock();
            theirs.role = Role::Orphaned;
            theirs.peer_shut_write = true;
            if unread {
                theirs.error = Some(Errno::ECONNRESET);
            }
            drop(theirs);
            peer.queue.wake(ALL | PollEvents::HUP);
        }
        self.queue.wake(ALL | PollEvents::HUP);
    }
}

impl FileOps for Socket {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() == 0 && self.is_stream() {
            return Ok(0);
        }
        self.receive(buf, false).map(|received| received.count)
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        self.send(buf, None, &mut Ancillary { files: Vec::new(), credentials: self.credentials })
    }

    fn poll(&self) -> PollEvents {
        let (mut events, peer, capacity) = {
            let state = self.state.lock();
            let mut events = PollEvents::empty();
            if state.error.is_some() {
                events |= PollEvents::ERR;
            }
            match &state.role {
                Role::Listening { pending, .. } => {
                    if !pending.is_empty() {
                        events |= PollEvents::READABLE;
                    }
                    return events;
                }
                Role::Fresh if self.kind != Kind::Datagram => {
                    return events | PollEvents::OUT | PollEvents::WRNORM | PollEvents::HUP;
                }
                _ => {}
            }
            let orphaned = matches!(state.role, Role::Orphaned);
            if orphaned || state.peer_shut_write || state.shut.read {
                events |= PollEvents::READABLE | PollEvents::RDHUP;
            }
            if orphaned || state.shut.write && (state.shut.read || state.peer_shut_write) {
                events |= PollEvents::HUP;
            }
            (events, state.peer.as_ref().and_then(Weak::upgrade), state.send_buffer)
        };
        if !self.inbox.lock().is_empty() {
            events |= PollEvents::READABLE;
        }
        if peer.is_none_or(|peer| peer.inbox.lock().writable(capacity)) {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn can_signal(&self) -> bool {
        true
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        let bytes = match u64::from(arg.cmd) {
            c::FIONREAD if self.is_listening() => return Err(Errno::EINVAL),
            c::FIONREAD if self.is_stream() => self.inbox.lock().bytes(),
            c::FIONREAD => self.inbox.lock().first(),
            c::TIOCOUTQ => {
                let peer = self.state.lock().peer.as_ref().and_then(Weak::upgrade);
                peer.map_or(0, |peer| peer.inbox.lock().bytes())
            }
            _ => return Err(Errno::ENOTTY),
        };
        arg.memory.write(arg.arg, &i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes())?;
        Ok(0)
    }

    fn anonymous_attr(&self) -> Attr {
        Attr { dev: 8, ino: self.ino, nlink: 1, mode: c::S_IFSOCK | 0o777, ..Attr::default() }
    }

    fn describe(&self) -> String {
        format!("socket:[{}]", self.ino)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfs::File;

    const NOBODY: Credentials = Credentials { pid: 1, uid: 0, gid: 0 };

    fn send(socket: &Socket, bytes: &[u8], files: Vec<Arc<File>>) -> SysResult<usize> {
        socket.send(&mut IoBuf::kernel(bytes), None, &mut Ancillary { files, credentials: NOBODY })
    }

    fn receive(socket: &Socket, room: usize) -> SysResult<(Vec<u8>, Received)> {
        let mut bytes = vec![0; room];
        let received = socket.receive(&mut IoBuf::kernel_mut(&mut bytes), false)?;
        bytes.truncate(received.count);
        Ok((bytes, received))
    }

    #[test]
    fn streams_join_and_packets_are_cut() {
        let (a, b) = Socket::pair(Kind::Stream, NOBODY);
        send(&a, b"ab", vec![]).unwrap();
        send(&a, b"cd", vec![]).unwrap();
        assert_eq!(receive(&b, 3).unwrap().0, b"abc");
        assert_eq!(receive(&b, 3).unwrap().0, b"d");
        assert!(receive(&b, 3).is_err());
        let (a, b) = Socket::pair(Kind::SeqPacket, NOBODY);
        send(&a, b"abc", vec![]).unwrap();
        send(&a, b"", vec![]).unwrap();
        send(&a, b"x", vec![]).unwrap();
        let (bytes, received) = receive(&b, 2).unwrap();
        assert_eq!((bytes.as_slice(), received.full), (&b"ab"[..], 3));
        assert_eq!(receive(&b, 2).unwrap().0, b"");
        assert_eq!(receive(&b, 2).unwrap().0, b"x");
    }

    #[test]
    fn rights_come_with_the_first_byte_and_stop_a_read() {
        let (a, b) = Socket::pair(Kind::Stream, NOBODY);
        let file = File::new(a.clone(), None, c::O_RDWR);
        send(&a, b"1", vec![]).unwrap();
        send(&a, b"2", vec![file]).unwrap();
        send(&a, b"3", vec![]).unwrap();
        let (bytes, first) = receive(&b, 9).unwrap();
        assert_eq!((bytes.as_slice(), first.files.len()), (&b"1"[..], 0));
        let (bytes, second) = receive(&b, 9).unwrap();
        assert_eq!((bytes.as_slice(), second.files.len()), (&b"2"[..], 1));
        assert_eq!(receive(&b, 9).unwrap().0, b"3");
    }

    #[test]
    fn connections_are_accepted_reset_and_ended() {
        let names = Names::default();
        let listener = Socket::new(Kind::Stream, NOBODY);
        listener.bind_abstract(&names, b"x").unwrap();
        assert_eq!(Socket::new(Kind::Stream, NOBODY).bind_abstract(&names, b"x"), Err(Errno::EADDRINUSE));
        let client = Socket::new(Kind::Stream, NOBODY);
        let address = Address::Abstract(b"x".to_vec());
        assert_eq!(client.connect(&listener, &address), Err(Errno::ECONNREFUSED));
        listener.listen(1).unwrap();
        client.connect(&listener, &address).unwrap();
        assert!(listener.poll().contains(PollEvents::IN));
        let server = listener.accept().unwrap();
        send(&client, b"hi", vec![]).unwrap();
        assert_eq!(receive(&server, 9).unwrap().0, b"hi");
        send(&server, b"unread", vec![]).unwrap();
        drop(client);
        assert_eq!(receive(&server, 9).err(), Some(Errno::ECONNRESET));
        assert_eq!(receive(&server, 9).unwrap().0, b"");
        assert_eq!(send(&server, b"x", vec![]), Err(Errno::EPIPE));
    }

    #[test]
    fn a_long_chain_of_sockets_in_flight_ends_without_nesting() {
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
            let (mut last, _) = Socket::pair(Kind::Stream, NOBODY);
            for _ in 0..10_000 {
                let (a, b) = Socket::pair(Kind::Stream, NOBODY);
                send(&a, b"x", vec![File::new(last, None, c::O_RDWR)]).unwrap();
                last = b;
            }
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn a_full_inbox_blocks_and_room_wakes() {
        let (a, b) = Socket::pair(Kind::Stream, NOBODY);
        let big = vec![7; 1 << 20];
        assert_eq!(send(&a, &big, vec![]), Ok(BUFFER));
        assert_eq!(send(&a, &big, vec![]), Err(Errno::EAGAIN));
        assert!(!a.poll().contains(PollEvents::OUT));
        assert_eq!(receive(&b, 1 << 20).unwrap().1.count, BUFFER);
        assert!(a.poll().contains(PollEvents::OUT));
    }
}
