//! Sockets.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::Capability;
use socket::{
    Caller, Common, Control, Credentials, Flag, Memory, Name, OptionValue, Outgoing, Received, Request, Shutdown, Socket, word,
    word_of,
};
use sync::Mutex;
use usermem::{IoBuf, UserMemoryExt};
use vfs::IoctlArg;

use crate::message::{self, Builder};
use crate::{Hub, MAX_GROUPS, diag, route};

/// Longest request.
const MAX_REQUEST: usize = 1 << 18;
/// What a datagram costs beside its bytes.
const OVERHEAD: usize = 512;

/// A datagram that waits.
struct Waiting {
    data: Vec<u8>,
    from: u32,
    /// The group that it was sent to; 0: to this socket alone.
    group: u32,
    _memory: Memory,
}

#[derive(Default)]
struct State {
    /// Port; bound once it isn't 0.
    port: u32,
    /// Bit n is group n + 1.
    groups: u64,
    /// connect(2)'s destination: port and groups.
    peer: Option<(u32, u32)>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// `NETLINK_*` options that are on.
    options: u64,
}

/// A socket.
pub struct Netlink {
    common: Common,
    hub: Arc<Hub>,
    state: Mutex<State>,
    itself: Weak<Self>,
}

/// A `struct sockaddr_nl`.
fn sockaddr(port: u32, groups: u32) -> Name {
    let mut bytes = Name::from_slice(&[c::AF_NETLINK as u8, 0, 0, 0]);
    bytes.extend_from_slice(&port.to_le_bytes());
    bytes.extend_from_slice(&groups.to_le_bytes());
    bytes
}

/// Port and groups.
fn parse(bytes: &[u8]) -> SysResult<(u32, u32)> {
    let family = bytes.first_chunk().map(|family| i32::from(u16::from_le_bytes(*family)));
    if bytes.len() < 12 || family != Some(c::AF_NETLINK) {
        return Err(Errno::EINVAL);
    }
    Ok((message::u32_at(bytes, 4), message::u32_at(bytes, 8)))
}

impl Netlink {
    pub(crate) fn new(hub: &Arc<Hub>, kind: i32, protocol: i32) -> Arc<Self> {
        let common = Common::new(c::AF_NETLINK, kind, protocol);
        Arc::new_cyclic(|itself| Self { common, hub: hub.clone(), state: Mutex::default(), itself: itself.clone() })
    }

    pub(crate) fn ino(&self) -> u64 {
        self.common.ino
    }

    pub(crate) fn port(&self) -> u32 {
        self.state.lock().port
    }

    pub(crate) fn groups(&self) -> u64 {
        self.state.lock().groups
    }

    pub(crate) fn is_member(&self, group: u32) -> bool {
        (1..=MAX_GROUPS).contains(&group) && self.state.lock().groups >> (group - 1) & 1 != 0
    }

    /// Gets a port if it has none.
    fn autobind(&self, caller: Option<&dyn Caller>) -> SysResult<u32> {
        let port = self.port();
        if port != 0 {
            return Ok(port);
        }
        let process = caller.map_or(0, |caller| caller.credentials().pid.cast_unsigned());
        let port = self.hub.bind(&self.itself, self.common.protocol, None, process)?;
        self.state.lock().port = port;
        Ok(port)
    }

    /// Takes a datagram in; one that there is no room for is lost, and the reader told so (`ENOBUFS`).
    pub(crate) fn take_in(&self, data: Vec<u8>, from: u32, group: u32) {
        let cost = data.len() + OVERHEAD;
        let mut state = self.state.lock();
        let full = state.bytes > self.common.receive_buffer() as usize && group != 0;
        let memory = if full { None } else { Memory::take(cost).ok() };
        let Some(memory) = memory else {
            drop(state);
            self.common.set_error(Errno::ENOBUFS);
            return;
        };
        state.bytes += cost;
        state.waiting.push_back(Waiting { data, from, group, _memory: memory });
        drop(state);
        self.common.queue.wake(PollEvents::READABLE);
    }

    /// Answers the requests in a datagram.
    fn serve(&self, caller: &dyn Caller, bytes: &[u8], port: u32) {
        let mut rest = bytes;
        while let Some(request) = message::next(&mut rest) {
            // Notices of the kernel's own kind, and what is no request, are left alone.
            let result = if !request.has(c::NLM_F_REQUEST) || request.kind < 0x10 {
                Ok(Vec::new())
            } else {
                match self.common.protocol {
                    c::NETLINK_ROUTE => route::serve(&self.hub, caller, &request, port),
                    c::NETLINK_SOCK_DIAG => diag::serve(&self.hub, &request, port),
                    _ => Err(Errno::EOPNOTSUPP),
                }
            };
            match result {
                Ok(answers) => {
                    answers.into_iter().for_each(|answer| self.take_in(answer, 0, 0));
                    if request.has(c::NLM_F_ACK) && !request.dumps() {
                        self.acknowledge(&request, 0, port);
                    }
                }
                Err(errno) => self.acknowledge(&request, errno.raw(), port),
            }
        }
    }

    /// An NLMSG_ERROR, which means success with 0.
    fn acknowledge(&self, request: &message::Request<'_>, errno: i32, port: u32) {
        const CAPPED: i32 = 0x100;
        // Without its content, the request's header is all that is shown of it.
        let capped = errno == 0 || self.option_is(c::NETLINK_CAP_ACK);
        let shown = if capped { request.whole.get(..message::HEADER).unwrap_or_default() } else { request.whole };
        let flags = if capped { CAPPED } else { 0 };
        let answer = Builder::new(c::NLMSG_ERROR as u16, flags, request.sequence, port);
        self.take_in(answer.raw(&(-errno).to_le_bytes()).raw(shown).finish(), 0, 0);
    }

    fn option_is(&self, name: i32) -> bool {
        u32::try_from(name).is_ok_and(|bit| bit < 64 && self.state.lock().options >> bit & 1 != 0)
    }

    fn set_membership(&self, caller: &dyn Caller, value: i32, on: bool) -> SysResult<()> {
        let group = u32::try_from(value).ok().filter(|group| (1..=MAX_GROUPS).contains(group)).ok_or(Errno::EINVAL)?;
        self.autobind(Some(caller))?;
        let mut state = self.state.lock();
        let bit = 1 << (group - 1);
        state.groups = if on { state.groups | bit } else { state.groups & !bit };
        Ok(())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for Netlink {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        let (port, groups) = parse(address)?;
        let bound = self.port();
        if bound != 0 && port != bound {
            return Err(Errno::EINVAL);
        }
        if bound == 0 {
            let process = caller.credentials().pid.cast_unsigned();
            let port = self.hub.bind(&self.itself, self.common.protocol, Some(port).filter(|port| *port != 0), process)?;
            self.state.lock().port = port;
        }
        let mut state = self.state.lock();
        state.groups = state.groups & !0xffff_ffff | u64::from(groups);
        Ok(())
    }

    fn connect(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        if address.first_chunk() == Some(&(c::AF_UNSPEC as u16).to_le_bytes()) {
            self.state.lock().peer = None;
            return Ok(());
        }
        let peer = parse(address)?;
        if peer != (0, 0) && !caller.capable(Capability::NET_ADMIN) && self.common.protocol != c::NETLINK_USERSOCK {
            return Err(Errno::EPERM);
        }
        self.autobind(Some(caller))?;
        self.state.lock().peer = Some(peer);
        Ok(())
    }

    fn name(&self) -> SysResult<Name> {
        let state = self.state.lock();
        Ok(sockaddr(state.port, (state.groups & 0xffff_ffff) as u32))
    }

    fn peer_name(&self) -> SysResult<Name> {
        let (port, groups) = self.state.lock().peer.unwrap_or_default();
        Ok(sockaddr(port, groups))
    }

    fn send(&self, buf: &mut IoBuf<'_>, outgoing: &mut Outgoing<'_>) -> SysResult<usize> {
        if outgoing.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (port, groups) = match outgoing.to {
            Some(to) => parse(to)?,
            None => self.state.lock().peer.unwrap_or_default(),
        };
        let own = self.autobind(outgoing.caller)?;
        let len = buf.remaining();
        if len > MAX_REQUEST || len > (self.common.send_buffer() as usize).saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        if len == 0 {
            return Err(Errno::ENODATA);
        }
        let mut data = vec![0; len];
        buf.fill(&mut data)?;
        if groups != 0 {
            self.hub.multicast(self.common.protocol, groups.trailing_zeros() + 1, own, &data);
        }
        if port != 0 {
            let peer = self.hub.find(self.common.protocol, port).ok_or(Errno::ECONNREFUSED)?;
            peer.take_in(data, own, 0);
        } else if groups == 0 {
            match (self.common.protocol, outgoing.caller) {
                (c::NETLINK_ROUTE | c::NETLINK_SOCK_DIAG, Some(caller)) => self.serve(caller, &data, own),
                _ => return Err(Errno::ECONNREFUSED),
            }
        }
        Ok(len)
    }

    fn receive(&self, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        if request.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(error) = self.common.take_error() {
            return Err(error);
        }
        let mut state = self.state.lock();
        let waiting = state.waiting.front().ok_or(Errno::EAGAIN)?;
        let want = waiting.data.len().min(buf.remaining());
        if want > 0 && buf.copy_out(waiting.data.get(..want).unwrap_or_default())? < want {
            return Err(Errno::EFAULT);
        }
        let mut received = Received { count: want, full: waiting.data.len(), ..Received::default() };
        if want < waiting.data.len() {
            received.flags |= c::MSG_TRUNC;
        }
        let (from, group) = (waiting.from, waiting.group);
        if request.name {
            let groups = if group == 0 { 0 } else { 1u32.checked_shl(group - 1).unwrap_or(0) };
            received.name = Some(sockaddr(from, groups));
        }
        let pkt_info = state.options >> c::NETLINK_PKTINFO & 1 != 0;
        if request.flags & c::MSG_PEEK == 0 {
            let done = state.waiting.pop_front();
            state.bytes -= done.map_or(0, |done| done.data.len() + OVERHEAD);
        }
        drop(state);
        if request.control {
            if pkt_info {
                received.control.push(Control::data(c::SOL_NETLINK, c::NETLINK_PKTINFO, &group.to_le_bytes()));
            }
            if self.common.is(Flag::PassCredentials) {
                received.control.push(Control::Credentials(Credentials { pid: 0, uid: 0, gid: 0 }));
            }
        }
        Ok(received)
    }

    fn shutdown(&self, _: Shutdown) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn option(&self, level: i32, name: i32, _: usize) -> SysResult<OptionValue> {
        match (level, name) {
            (c::SOL_SOCKET, name) => socket::get_option(&self.common, name),
            (c::SOL_NETLINK, c::NETLINK_LIST_MEMBERSHIPS) => Ok(self.groups().to_le_bytes().into_iter().collect()),
            (c::SOL_NETLINK, c::NETLINK_PKTINFO..=c::NETLINK_NO_ENOBUFS | c::NETLINK_CAP_ACK..=c::NETLINK_GET_STRICT_CHK) => {
                Ok(word(self.option_is(name).into()))
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8]) -> SysResult<()> {
        match (level, name) {
            (c::SOL_SOCKET, name) => socket::set_option(&self.common, caller, name, value),
            (c::SOL_NETLINK, c::NETLINK_ADD_MEMBERSHIP) => self.set_membership(caller, word_of(value)?, true),
            (c::SOL_NETLINK, c::NETLINK_DROP_MEMBERSHIP) => self.set_membership(caller, word_of(value)?, false),
            (
                c::SOL_NETLINK,
                c::NETLINK_PKTINFO..=c::NETLINK_NO_ENOBUFS
                | c::NETLINK_LISTEN_ALL_NSID
                | c::NETLINK_CAP_ACK..=c::NETLINK_GET_STRICT_CHK,
            ) => {
                let on = word_of(value)? != 0;
                let mut state = self.state.lock();
                state.options = if on { state.options | 1 << name } else { state.options & !(1 << name) };
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn poll(&self) -> PollEvents {
        let mut events = PollEvents::WRITABLE | PollEvents::WRBAND;
        if self.common.has_error() {
            events |= PollEvents::ERR;
        }
        if !self.state.lock().waiting.is_empty() {
            events |= PollEvents::READABLE;
        }
        events
    }

    fn ioctl(&self, _: Option<&dyn Caller>, arg: &IoctlArg<'_>) -> SysResult<u64> {
        if u64::from(arg.cmd) != c::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let len = self.state.lock().waiting.front().map_or(0, |first| first.data.len());
        arg.memory.write(arg.arg, &i32::try_from(len).unwrap_or(i32::MAX).to_le_bytes())?;
        Ok(0)
    }

    fn close(&self) {
        let (port, waiting) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.port), std::mem::take(&mut state.waiting))
        };
        if port != 0 {
            self.hub.leave(self.common.protocol, port);
        }
        drop(waiting);
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
