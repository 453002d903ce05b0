//! ICMP: answers to echo requests, and the sockets that send them without privilege (icmp(7)).

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::Kuid;
use socket::{Caller, Common, Name, OptionValue, Outgoing, Received, Request, Shutdown, Socket};
use sync::Mutex;
use usermem::IoBuf;

use crate::address::{family, meant, parse, to_name};
use crate::datagram::{Datagram, Ends, Inbox};
use crate::ip::Ip;
use crate::ip_control::SendControl;
use crate::links::Path;
use crate::ports::{Bound, Place};
use crate::raw::Raw;
use crate::stack::{Count, Listed, Listing, Stack};
use crate::wire::{self, IpInfo};

/// Types of echo requests and replies.
const ECHO: [u8; 2] = [8, 128];
const REPLY: [u8; 2] = [0, 129];

/// A message for an address of ours: shown to raw sockets, echo requests answered, replies given to who asked.
pub fn input(stack: &Stack, info: &IpInfo, message: &[u8], link: u32) {
    let mut next = Some((*info, message.to_vec()));
    while let Some((info, message)) = next.take() {
        stack.counters.add(Count::IcmpIn, 1);
        Raw::see(stack, &info, &message, link);
        let v6 = usize::from(info.to.is_ipv6());
        let kind = message.first().copied();
        if kind == ECHO.get(v6).copied() && message.len() >= 8 {
            let reply_info = IpInfo { from: info.to, to: info.from, hops: crate::ip::TTL, ..info };
            let mut reply = message;
            if let (Some(place), Some(kind)) = (reply.first_mut(), REPLY.get(v6)) {
                *place = *kind;
            }
            wire::set_icmp_checksum(&mut reply, &reply_info);
            stack.counters.add(Count::IcmpOut, 1);
            next = Some((reply_info, reply));
        } else if kind == REPLY.get(v6).copied() {
            Ping::reply(stack, &info, &message, link);
        }
    }
}

/// A socket for echo requests.
pub struct Ping {
    ip: Ip,
    /// The local port is the identifier.
    state: Mutex<Ends>,
    inbox: Inbox,
    itself: Weak<Self>,
}

impl Ping {
    /// A socket of `AF_INET` or `AF_INET6`.
    #[must_use]
    pub fn new(stack: &Arc<Stack>, owner: Kuid, domain: i32) -> Arc<Self> {
        let protocol = if domain == c::AF_INET6 { c::IPPROTO_ICMPV6 } else { c::IPPROTO_ICMP };
        let ip = Ip::new(stack, owner, domain, c::SOCK_DGRAM, protocol);
        let socket = Arc::new_cyclic(|itself| Self {
            ip,
            state: Mutex::new(Ends::new(domain)),
            inbox: Inbox::default(),
            itself: itself.clone(),
        });
        let listed: Weak<dyn Listed> = Arc::downgrade(&socket) as Weak<dyn Listed>;
        stack.enter(socket.ip.common.ino, listed);
        socket
    }

    fn idents<'a>(ip: &Ip, stack: &'a Stack) -> &'a crate::ports::Ports {
        let [v4, v6] = &stack.ping;
        if ip.is_v6() { v6 } else { v4 }
    }

    fn take_ident(&self, state: &mut Ends, addr: SocketAddr) -> SysResult<()> {
        let owner: Arc<dyn Bound> = self.itself.upgrade().ok_or(Errno::EINVAL)?;
        let place = Place { addr: addr.ip(), v6_only: true };
        let ident = Self::idents(&self.ip, &self.ip.stack).bind(&owner, place, addr.port(), false)?;
        state.local = addr;
        state.local.set_port(ident);
        Ok(())
    }

    /// Gives a reply to the sockets with its identifier.
    fn reply(stack: &Stack, info: &IpInfo, message: &[u8], link: u32) {
        let Some([high, low]) = message.get(4..6).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok()) else { return };
        let [v4, v6] = &stack.ping;
        let all = if info.to.is_ipv6() { v6 } else { v4 };
        for (place, owner) in all.at(u16::from_be_bytes([high, low])) {
            let Some(socket) = owner.as_ping() else { continue };
            let remote = socket.state.lock().remote;
            if place.fits(info.to).is_none() || remote.is_some_and(|remote| remote.ip() != info.from) {
                continue;
            }
            let (from, to) = ((info.from, 0).into(), (info.to, 0).into());
            let datagram = Datagram { data: message.to_vec(), from, to, link, hops: info.hops, class: info.class };
            if socket.inbox.push(&socket.ip, datagram) {
                socket.ip.common.queue.wake(PollEvents::READABLE);
            }
            return;
        }
    }
}

impl Bound for Ping {
    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn as_ping(&self) -> Option<Arc<Ping>> {
        self.itself.upgrade()
    }
}

impl Listed for Ping {
    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn listing(&self) -> Option<Listing> {
        let ends = self.state.lock();
        (ends.local.port() != 0).then(|| ends.listing(&self.ip, &self.inbox, ends.local))
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for Ping {
    fn common(&self) -> &Common {
        &self.ip.common
    }

    fn bind(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        let addr = crate::bind_address(&self.ip, address)?;
        // An identifier is no privileged port.
        self.ip.check_bind(caller, &SocketAddr::new(addr.ip(), 0))?;
        let mut state = self.state.lock();
        if state.local.port() != 0 {
            return Err(Errno::EINVAL);
        }
        self.take_ident(&mut state, addr)
    }

    fn connect(self: Arc<Self>, _: &dyn Caller, address: &[u8]) -> SysResult<()> {
        let mut state = self.state.lock();
        if family(address)? == c::AF_UNSPEC {
            state.remote = None;
            return Ok(());
        }
        let to = meant(parse(self.ip.common.domain, address)?);
        self.ip.route(&to, 0)?;
        if state.local.port() == 0 {
            let any = state.local;
            self.take_ident(&mut state, any)?;
        }
        state.remote = Some(to);
        Ok(())
    }

    fn name(&self) -> SysResult<Name> {
        Ok(to_name(self.ip.common.domain, self.state.lock().local))
    }

    fn peer_name(&self) -> SysResult<Name> {
        self.state.lock().peer_name(self.ip.common.domain)
    }

    fn send(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        let len = buf.remaining();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        if message.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if len < 8 {
            return Err(Errno::EINVAL);
        }
        let v6 = usize::from(self.ip.is_v6());
        let mut data = vec![0; len];
        buf.fill(&mut data)?;
        if data.first() != ECHO.get(v6) || data.get(1) != Some(&0) {
            return Err(Errno::EINVAL);
        }
        let control = SendControl::parse(&self.ip, message.control)?;
        let mut state = self.state.lock();
        let to = state.destination(self.ip.common.domain, message)?;
        if self.ip.is_v6() == to.is_ipv4() {
            return Err(Errno::EINVAL);
        }
        let found = self.ip.route(&to, control.link)?;
        if let Some(error) = self.ip.common.take_error() {
            return Err(error);
        }
        if state.shut.write {
            return Err(Errno::EPIPE);
        }
        if state.local.port() == 0 {
            let any = state.local;
            self.take_ident(&mut state, any)?;
        }
        let own = Some(state.local.ip()).filter(|addr| !addr.is_unspecified() && !addr.is_multicast());
        let ident = state.local.port();
        drop(state);
        if let Some(place) = data.get_mut(4..6) {
            place.copy_from_slice(&ident.to_be_bytes());
        }
        let (hops, class) = self.ip.marks(to.is_ipv4(), found.path);
        let info = IpInfo {
            from: control.source.or(own).unwrap_or(found.source),
            to: to.ip(),
            protocol: self.ip.common.protocol as u8,
            hops: control.hops.unwrap_or(hops),
            class: control.class.unwrap_or(class),
        };
        wire::set_icmp_checksum(&mut data, &info);
        self.ip.stack.counters.add(Count::IcmpOut, 1);
        if found.path == Path::Local {
            input(&self.ip.stack, &info, &data, found.link);
        }
        Ok(len)
    }

    fn receive(&self, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        self.inbox.receive(&self.ip, || self.state.lock().shut, buf, request)
    }

    fn shutdown(&self, how: Shutdown) -> SysResult<()> {
        let result = self.state.lock().shutdown(how);
        self.ip.common.queue.wake(PollEvents::all());
        result
    }

    fn option(&self, level: i32, name: i32, room: usize) -> SysResult<OptionValue> {
        let remote: Option<IpAddr> = self.state.lock().remote.map(|remote| remote.ip());
        self.ip.option(level, name, room, remote)
    }

    fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8]) -> SysResult<()> {
        let bound = self.state.lock().local.port() != 0;
        self.ip.set_option(caller, level, name, value, bound)
    }

    fn poll(&self) -> PollEvents {
        self.inbox.poll(&self.ip, self.state.lock().shut)
    }

    fn close(&self) {
        self.ip.stack.leave(self.ip.common.ino);
        self.ip.leave_groups();
        let mut state = self.state.lock();
        let ident = state.local.port();
        if ident != 0 {
            let itself: Weak<dyn Bound> = self.itself.clone();
            Self::idents(&self.ip, &self.ip.stack).leave(&itself, ident);
            state.local.set_port(0);
        }
        drop(state);
        self.inbox.clear();
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
