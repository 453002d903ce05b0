//! Datagrams that wait to be read, and errors about those that were sent.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use socket::{Control, Flag, Memory, Name, Outgoing, Received, Request, Shutdown, timestamp};
use sync::Mutex;
use usermem::{IoBuf, UserMemoryExt};
use vfs::IoctlArg;

use crate::address::{meant, parse_destination, to_name, to_v6, unspecified};
use crate::ip::Ip;
use crate::links::unspecified_like;
use crate::stack::Listing;

/// What a datagram costs beside its bytes (Linux counts its `struct sk_buff` too).
const OVERHEAD: usize = 512;
/// Errors that wait at most.
const MAX_ERRORS: usize = 64;
/// `IP_TOS`'s, `IPV6_TCLASS`'s and their like's numbers as control messages are those of the options.
const IP_ORIGDSTADDR: i32 = c::IP_RECVORIGDSTADDR;
const IPV6_ORIGDSTADDR: i32 = c::IPV6_RECVORIGDSTADDR;

/// A datagram that has arrived.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub data: Vec<u8>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The interface that it came by.
    pub link: u32,
    pub hops: u8,
    pub class: u8,
}

struct Waiting {
    datagram: Datagram,
    time: Option<(i64, i64)>,
    /// Datagrams lost before it.
    dropped: u32,
    _memory: Memory,
}

/// Both ends of a socket.
pub struct Ends {
    pub local: SocketAddr,
    pub remote: Option<SocketAddr>,
    pub shut: Shutdown,
}

impl Ends {
    #[must_use]
    pub fn new(domain: i32) -> Self {
        Self { local: unspecified(domain), remote: None, shut: Shutdown::default() }
    }

    /// Where a message goes.
    ///
    /// # Errors
    /// `EDESTADDRREQ`; what is wrong with its address.
    pub fn destination(&self, domain: i32, message: &Outgoing<'_>) -> SysResult<SocketAddr> {
        match message.to {
            Some(to) => Ok(meant(parse_destination(domain, to)?)),
            None => self.remote.ok_or(Errno::EDESTADDRREQ),
        }
    }

    /// shutdown(2)
    ///
    /// # Errors
    /// `ENOTCONN`, though it is done.
    pub fn shutdown(&mut self, how: Shutdown) -> SysResult<()> {
        self.shut.read |= how.read;
        self.shut.write |= how.write;
        if self.remote.is_some() { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    /// getpeername(2)
    ///
    /// # Errors
    /// `ENOTCONN`, also of a peer without a port.
    pub fn peer_name(&self, domain: i32) -> SysResult<Name> {
        self.remote.filter(|remote| remote.port() != 0).map(|remote| to_name(domain, remote)).ok_or(Errno::ENOTCONN)
    }

    /// How it is listed, called `local`.
    pub fn listing(&self, ip: &Ip, inbox: &Inbox, local: SocketAddr) -> Listing {
        let (receive_queue, _, drops) = inbox.sizes();
        Listing {
            local,
            remote: self.remote.unwrap_or_else(|| (unspecified_like(local.ip()), 0).into()),
            // `TCP_ESTABLISHED`, `TCP_CLOSE`
            state: if self.remote.is_some() { 1 } else { 7 },
            receive_queue,
            send_queue: 0,
            drops,
            uid: ip.owner.0,
            ino: ip.common.ino,
            v6_only: ip.v6_only(),
        }
    }
}

/// An error about a datagram that was sent (`struct sock_extended_err`).
#[derive(Clone, Debug)]
pub struct SendError {
    pub errno: Errno,
    /// `SO_EE_ORIGIN_*`
    pub origin: u8,
    /// Of the ICMP message.
    pub kind: u8,
    pub code: u8,
    pub info: u32,
    pub offender: Option<IpAddr>,
    pub to: SocketAddr,
    pub data: Vec<u8>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    dropped: u32,
    errors: VecDeque<SendError>,
}

/// What has arrived at a datagram socket.
#[derive(Default)]
pub struct Inbox(Mutex<State>);

impl Inbox {
    /// Takes a datagram in, if there is room; says whether there was.
    pub fn push(&self, ip: &Ip, datagram: Datagram) -> bool {
        let cost = datagram.data.len() + OVERHEAD;
        let time = socket::arrival(&ip.common);
        let mut state = self.0.lock();
        let memory = if state.bytes > ip.common.receive_buffer() as usize { None } else { Memory::take(cost).ok() };
        let Some(memory) = memory else {
            state.dropped = state.dropped.wrapping_add(1);
            return false;
        };
        state.bytes += cost;
        let dropped = state.dropped;
        state.waiting.push_back(Waiting { datagram, time, dropped, _memory: memory });
        true
    }

    /// Leaves an error for `MSG_ERRQUEUE`.
    pub fn push_error(&self, error: SendError) {
        let mut state = self.0.lock();
        if state.errors.len() < MAX_ERRORS {
            state.errors.push_back(error);
        }
    }

    /// Bytes that wait, of the first datagram, and datagrams lost.
    pub fn sizes(&self) -> (usize, usize, u64) {
        let state = self.0.lock();
        (state.bytes, state.waiting.front().map_or(0, |first| first.datagram.data.len()), state.dropped.into())
    }

    pub fn clear(&self) {
        let mut state = self.0.lock();
        let old = std::mem::take(&mut state.waiting);
        state.bytes = 0;
        state.errors.clear();
        drop(state);
        drop(old);
    }

    /// recv(2) at a socket that is `shut`.
    ///
    /// # Errors
    /// As that; what has become of datagrams that were sent.
    pub fn receive(
        &self,
        ip: &Ip,
        shut: impl FnOnce() -> Shutdown,
        buf: &mut IoBuf<'_>,
        request: &Request,
    ) -> SysResult<Received> {
        if request.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if request.flags & c::MSG_ERRQUEUE != 0 {
            return self.pop_error(ip, buf);
        }
        if let Some(error) = ip.common.take_error() {
            return Err(error);
        }
        match self.pop(ip, buf, request) {
            Err(Errno::EAGAIN) if request.flags & c::MSG_DONTWAIT == 0 && shut().read => Ok(Received::default()),
            result => result,
        }
    }

    /// What is ready at a socket that is `shut`.
    pub fn poll(&self, ip: &Ip, shut: Shutdown) -> PollEvents {
        let state = self.0.lock();
        let (readable, errors) = (!state.waiting.is_empty(), !state.errors.is_empty());
        drop(state);
        let mut events = PollEvents::WRITABLE | PollEvents::WRBAND;
        if ip.common.has_error() || errors {
            events |= PollEvents::ERR;
            if ip.common.is(Flag::SelectErrorQueue) {
                events |= PollEvents::PRI;
            }
        }
        if shut.read {
            events |= PollEvents::RDHUP;
        }
        if shut.read || readable {
            events |= PollEvents::READABLE;
        }
        if shut.read && shut.write {
            events |= PollEvents::HUP;
        }
        events
    }

    /// `FIONREAD` (`SIOCINQ`): bytes of the first datagram; `TIOCOUTQ`: nothing waits to be sent.
    ///
    /// # Errors
    /// `ENOTTY`, `EFAULT`.
    pub fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        let bytes = match u64::from(arg.cmd) {
            c::FIONREAD => self.sizes().1,
            c::TIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        arg.memory.write(arg.arg, &i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes())?;
        Ok(0)
    }

    /// Hands out the first datagram that `accepts`; those that it doesn't accept are lost (connect(2) has narrowed what is received).
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`.
    pub fn pop(&self, ip: &Ip, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        let mut state = self.0.lock();
        if request.flags & c::MSG_PEEK != 0 {
            let first = state.waiting.front().ok_or(Errno::EAGAIN)?;
            return show(ip, first, buf, request);
        }
        let first = state.waiting.pop_front().ok_or(Errno::EAGAIN)?;
        state.bytes -= first.datagram.data.len() + OVERHEAD;
        drop(state);
        show(ip, &first, buf, request)
    }

    /// Hands out the first error (recvmsg(2), `MSG_ERRQUEUE`).
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`.
    pub fn pop_error(&self, ip: &Ip, buf: &mut IoBuf<'_>) -> SysResult<Received> {
        let error = self.0.lock().errors.pop_front().ok_or(Errno::EAGAIN)?;
        let want = error.data.len().min(buf.remaining());
        let count = if want == 0 { 0 } else { buf.copy_out(error.data.get(..want).unwrap_or_default())? };
        let cut = if want < error.data.len() { c::MSG_TRUNC } else { 0 };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&error.errno.raw().to_le_bytes());
        bytes.extend_from_slice(&[error.origin, error.kind, error.code, 0]);
        bytes.extend_from_slice(&error.info.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let domain = ip.common.domain;
        match error.offender {
            Some(addr) => bytes.extend_from_slice(&to_name(domain, (addr, 0).into())),
            None => bytes.resize(bytes.len() + if ip.is_v6() { 28 } else { 16 }, 0),
        }
        let (level, kind) = if ip.is_v6() { (c::SOL_IPV6, c::IPV6_RECVERR) } else { (c::SOL_IP, c::IP_RECVERR) };
        Ok(Received {
            count,
            full: error.data.len(),
            flags: c::MSG_ERRQUEUE | cut,
            name: Some(to_name(domain, error.to)),
            control: vec![Control::data(level, kind, &bytes)],
            stop: true,
        })
    }
}

/// Copies a datagram out, with what the receiver wants to know of it.
fn show(ip: &Ip, waiting: &Waiting, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
    let datagram = &waiting.datagram;
    let want = datagram.data.len().min(buf.remaining());
    if want > 0 && buf.copy_out(datagram.data.get(..want).unwrap_or_default())? < want {
        return Err(Errno::EFAULT);
    }
    let mut received = Received { count: want, full: datagram.data.len(), ..Received::default() };
    if want < datagram.data.len() {
        received.flags |= c::MSG_TRUNC;
    }
    if request.name {
        received.name = Some(to_name(ip.common.domain, datagram.from));
    }
    if request.control {
        if let Some(time) = waiting.time {
            received.control.extend(timestamp(&ip.common, time));
        }
        if ip.common.is(Flag::QueueOverflow) && waiting.dropped > 0 {
            received.control.push(Control::data(c::SOL_SOCKET, c::SO_RXQ_OVFL, &waiting.dropped.to_le_bytes()));
        }
        about(ip, datagram, &mut received.control);
    }
    Ok(received)
}

/// Control messages about a datagram's header.
fn about(ip: &Ip, datagram: &Datagram, control: &mut Vec<Control>) {
    let options = ip.options.lock();
    let (v4, v6) = (|name| options.is(c::SOL_IP, name), |name| options.is(c::SOL_IPV6, name));
    if ip.is_v6() && v6(c::IPV6_RECVPKTINFO) {
        let bytes = [&to_v6(datagram.to.ip()).octets()[..], &datagram.link.to_le_bytes()].concat();
        control.push(Control::data(c::SOL_IPV6, c::IPV6_PKTINFO, &bytes));
    }
    if let IpAddr::V4(to) = datagram.to.ip() {
        if v4(c::IP_PKTINFO) {
            let links = ip.stack.links.read();
            let own = match links.source(datagram.link, to.into()) {
                _ if links.local(to.into()).is_some() => to,
                Some(IpAddr::V4(own)) => own,
                _ => std::net::Ipv4Addr::UNSPECIFIED,
            };
            drop(links);
            let bytes = [datagram.link.to_le_bytes(), own.octets(), to.octets()].concat();
            control.push(Control::data(c::SOL_IP, c::IP_PKTINFO, &bytes));
        }
        if v4(c::IP_RECVTTL) {
            control.push(Control::word(c::SOL_IP, c::IP_TTL, datagram.hops.into()));
        }
        if v4(c::IP_RECVTOS) {
            control.push(Control::data(c::SOL_IP, c::IP_TOS, &[datagram.class]));
        }
        if v4(c::IP_RECVORIGDSTADDR) {
            control.push(Control::data(c::SOL_IP, IP_ORIGDSTADDR, &to_name(c::AF_INET, datagram.to)));
        }
        return;
    }
    if v6(c::IPV6_RECVHOPLIMIT) {
        control.push(Control::word(c::SOL_IPV6, c::IPV6_HOPLIMIT, datagram.hops.into()));
    }
    if v6(c::IPV6_RECVTCLASS) {
        control.push(Control::word(c::SOL_IPV6, c::IPV6_TCLASS, datagram.class.into()));
    }
    if v6(c::IPV6_RECVORIGDSTADDR) {
        control.push(Control::data(c::SOL_IPV6, IPV6_ORIGDSTADDR, &to_name(c::AF_INET6, datagram.to)));
    }
}
