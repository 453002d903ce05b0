//! UDP sockets (udp(7)).

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::Kuid;
use socket::{Caller, Common, Flag, Name, OptionValue, Outgoing, Received, Request, Shutdown, Socket, word, word_of};
use sync::Mutex;
use usermem::IoBuf;
use vfs::IoctlArg;

use crate::address::{family, meant, parse, to_name, unspecified};
use crate::datagram::{Datagram, Ends, Inbox, SendError};
use crate::ip::Ip;
use crate::ip_control::SendControl;
use crate::links::{Found, Path, unspecified_like};
use crate::ports::{Bound, Place};
use crate::stack::{Count, Listed, Listing, Stack};

/// Longest payloads: 65535 without the headers that count.
const MAX_V4: usize = 65507;
const MAX_V6: usize = 65527;
/// Options of level `SOL_UDP` that are on or off.
const UDP_CORK: i32 = 1;
/// Finds the path, but sends nothing.
const MSG_PROBE: i32 = 0x10;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;

struct State {
    ends: Ends,
    /// Chosen by bind(2), not by the first use.
    chose_addr: bool,
    chose_port: bool,
    /// Held back by `UDP_CORK` or `MSG_MORE`, and where to.
    held: Option<(SocketAddr, Vec<u8>)>,
    cork: bool,
    no_check: [bool; 2],
}

/// A socket.
pub struct Udp {
    pub(crate) ip: Ip,
    state: Mutex<State>,
    inbox: Inbox,
    itself: Weak<Self>,
}

impl Udp {
    /// A socket of `AF_INET` or `AF_INET6`.
    #[must_use]
    pub fn new(stack: &Arc<Stack>, owner: Kuid, domain: i32) -> Arc<Self> {
        let ip = Ip::new(stack, owner, domain, c::SOCK_DGRAM, c::IPPROTO_UDP);
        let state = State {
            ends: Ends::new(domain),
            chose_addr: false,
            chose_port: false,
            held: None,
            cork: false,
            no_check: [false; 2],
        };
        let socket =
            Arc::new_cyclic(|itself| Self { ip, state: Mutex::new(state), inbox: Inbox::default(), itself: itself.clone() });
        let listed: Weak<dyn Listed> = Arc::downgrade(&socket) as Weak<dyn Listed>;
        stack.enter(socket.ip.common.ino, listed);
        socket
    }

    fn bound(&self) -> SysResult<Arc<dyn Bound>> {
        let socket = self.itself.upgrade().ok_or(Errno::EINVAL)?;
        Ok(socket)
    }

    fn place(&self, addr: IpAddr) -> Place {
        Place { addr, v6_only: self.ip.v6_only() }
    }

    /// Gets a port if it has none.
    fn autobind(&self, state: &mut State) -> SysResult<()> {
        if state.ends.local.port() == 0 {
            let port =
                self.ip.stack.udp.bind(&self.bound()?, self.place(state.ends.local.ip()), 0, false).map_err(|_| Errno::EAGAIN)?;
            state.ends.local.set_port(port);
        }
        Ok(())
    }

    fn unbind(&self, state: &mut State) {
        let port = state.ends.local.port();
        if port != 0 {
            let itself: Weak<dyn Bound> = self.itself.clone();
            self.ip.stack.udp.leave(&itself, port);
            state.ends.local.set_port(0);
        }
    }

    /// Takes another address for receiving, at the port that it has.
    fn move_to(&self, state: &mut State, addr: IpAddr) {
        state.ends.local.set_ip(addr);
        if state.ends.local.port() != 0 {
            let itself: Weak<dyn Bound> = self.itself.clone();
            self.ip.stack.udp.move_to(&itself, self.place(addr), state.ends.local.port());
        }
    }

    fn disconnect(&self) {
        let mut state = self.state.lock();
        state.ends.remote = None;
        if !state.chose_addr {
            let any = unspecified(self.ip.common.domain).ip();
            self.move_to(&mut state, any);
        }
        if !state.chose_port {
            self.unbind(&mut state);
        }
    }

    /// How a destination is reached, and from which address; `chosen`: bind(2) has chosen the local one.
    fn route(&self, to: &SocketAddr, local: IpAddr, chosen: bool, control: &SendControl) -> SysResult<(Found, IpAddr)> {
        // An address that connect(2) has chosen doesn't keep a socket of IPv6 from sending by IPv4.
        let local = if !chosen && local.is_ipv6() && to.is_ipv4() { unspecified_like(local) } else { local };
        if to.is_ipv4() && self.ip.is_v6() && (self.ip.v6_only() || local.is_ipv6() && !local.is_unspecified()) {
            return Err(Errno::ENETUNREACH);
        }
        if to.is_ipv6() && local.is_ipv4() && !local.is_unspecified() {
            return Err(Errno::EAFNOSUPPORT);
        }
        let found = self.ip.route(to, control.link)?;
        let source = match (control.source, local) {
            (Some(source), _) => Some(source),
            (None, local) if !local.is_unspecified() && !local.is_multicast() => Some(local),
            (None, _) if found.path == Path::Multicast && to.is_ipv4() => {
                let source = self.ip.options.lock().multicast_source;
                Some(IpAddr::V4(source)).filter(|_| !source.is_unspecified())
            }
            _ => None,
        };
        let source = source.filter(|addr| !matches!(addr, IpAddr::V4(addr) if addr.is_broadcast()));
        Ok((found, source.unwrap_or(found.source)))
    }

    /// Somebody has said that what was sent to `to` could not be delivered.
    pub(crate) fn refused(&self, to: SocketAddr, data: &[u8]) {
        let connected = self.state.lock().ends.remote == Some(to);
        let (wants, kind, code, origin) = match to {
            SocketAddr::V4(_) => (self.ip.is(c::SOL_IP, c::IP_RECVERR), 3, 3, 2),
            SocketAddr::V6(_) => (self.ip.is(c::SOL_IPV6, c::IPV6_RECVERR), 1, 4, 3),
        };
        if !connected && !wants {
            return;
        }
        let errno = Errno::ECONNREFUSED;
        if wants {
            let offender = Some(to.ip());
            self.inbox.push_error(SendError { errno, origin, kind, code, info: 0, offender, to, data: data.to_vec() });
        }
        self.ip.common.set_error(errno);
    }

    /// A datagram that no packet could carry, for those who want to know (`SO_EE_ORIGIN_LOCAL`; of IPv6 only).
    fn too_large(&self, to: SocketAddr, found: &Found) {
        let (level, name) = if self.ip.is_v6() { (c::SOL_IPV6, c::IPV6_RECVERR) } else { (c::SOL_IP, c::IP_RECVERR) };
        if to.is_ipv6() && self.ip.is(level, name) {
            let info = found.mtu;
            let data = Vec::new();
            let error = SendError { errno: Errno::EMSGSIZE, origin: 1, kind: 0, code: 0, info, offender: None, to, data };
            self.inbox.push_error(error);
        }
    }

    fn accepts(&self, datagram: &Datagram, device_of: u32) -> Option<u32> {
        let device = self.ip.common.device();
        if device != 0 && device != device_of && device != datagram.link {
            return None;
        }
        let state = self.state.lock();
        if state.ends.shut.read && state.ends.shut.write && state.ends.remote.is_none() && state.ends.local.port() == 0 {
            return None;
        }
        let bonus = match state.ends.remote {
            Some(remote) if remote != datagram.from => return None,
            Some(_) => 8,
            None => 0,
        };
        Some(bonus + if device != 0 { 4 } else { 0 })
    }

    fn take_in(&self, datagram: Datagram) {
        let counters = &self.ip.stack.counters;
        if self.inbox.push(&self.ip, datagram) {
            counters.add(Count::UdpIn, 1);
            self.ip.common.queue.wake(PollEvents::READABLE);
        } else {
            counters.add(Count::UdpErrors, 1);
        }
    }

    /// The socket that receives a datagram for one address: the one that is bound and connected most narrowly, among equals the latest,
    /// or one of those that share the port.
    fn receiver(stack: &Stack, datagram: &Datagram) -> Option<Arc<Self>> {
        let mut best: Option<(u32, Vec<Arc<Self>>)> = None;
        for (place, owner) in stack.udp.at(datagram.to.port()) {
            let Some(fit) = place.fits(datagram.to.ip()) else { continue };
            let Some(socket) = owner.as_udp() else { continue };
            let Some(bonus) = socket.accepts(datagram, datagram.link) else { continue };
            let score = fit + bonus;
            match &mut best {
                Some((known, _)) if *known > score => {}
                Some((known, all)) if *known == score => {
                    let shares = |socket: &Arc<Self>| socket.ip.common.is(Flag::ReusePort);
                    if shares(&socket) && all.iter().all(shares) {
                        all.push(socket);
                    }
                }
                _ => best = Some((score, vec![socket])),
            }
        }
        let (_, all) = best?;
        // The same sender always comes to the same socket.
        let hash = usize::from(datagram.from.port()).wrapping_mul(0x9e37_79b1) >> 7;
        all.get(hash % all.len().max(1)).cloned()
    }

    /// Delivers a datagram to a socket here; says whether there was one.
    pub(crate) fn deliver(stack: &Stack, datagram: Datagram) -> bool {
        match Self::receiver(stack, &datagram) {
            Some(socket) => {
                socket.take_in(datagram);
                true
            }
            None => false,
        }
    }

    /// Delivers a broadcast or multicast to all sockets here that want it.
    pub(crate) fn deliver_to_all(stack: &Stack, datagram: &Datagram) {
        let to = datagram.to.ip();
        if to.is_multicast() && !stack.groups.lock().has(to, datagram.link) {
            return;
        }
        for (place, owner) in stack.udp.at(datagram.to.port()) {
            let Some(socket) = owner.as_udp() else { continue };
            if place.fits(to).is_none() || socket.accepts(datagram, datagram.link).is_none() {
                continue;
            }
            let (level, name) =
                if to.is_ipv4() { (c::SOL_IP, c::IP_MULTICAST_ALL) } else { (c::SOL_IPV6, c::IPV6_MULTICAST_ALL) };
            let options = socket.ip.options.lock();
            let member = options.groups.iter().any(|group| group.group == to && group.link == datagram.link);
            let takes = !to.is_multicast() || member || options.is(level, name);
            drop(options);
            if takes {
                socket.take_in(datagram.clone());
            }
        }
    }

    /// Sends one datagram on its way.
    fn transmit(&self, data: Vec<u8>, from: SocketAddr, to: SocketAddr, found: &Found, control: &SendControl) {
        let stack = &self.ip.stack;
        stack.counters.add(Count::UdpOut, 1);
        let (hops, class) = self.ip.marks(to.is_ipv4(), found.path);
        let datagram = Datagram {
            data,
            from,
            to,
            link: found.link,
            hops: control.hops.unwrap_or(hops),
            class: control.class.unwrap_or(class),
        };
        crate::raw::Raw::see_udp(stack, &datagram);
        match found.path {
            Path::Local => {
                // Kept for the error, if there is one to tell.
                let start = datagram.data.get(..datagram.data.len().min(512)).unwrap_or_default().to_vec();
                if !Self::deliver(stack, datagram) {
                    stack.counters.add(Count::UdpNoPorts, 1);
                    self.refused(to, &start);
                }
            }
            Path::Broadcast => Self::deliver_to_all(stack, &datagram),
            Path::Multicast => {
                let loops = if to.is_ipv4() {
                    self.ip.is(c::SOL_IP, c::IP_MULTICAST_LOOP)
                } else {
                    self.ip.is(c::SOL_IPV6, c::IPV6_MULTICAST_LOOP)
                };
                if loops || found.link == crate::links::LOOPBACK {
                    Self::deliver_to_all(stack, &datagram);
                }
            }
            // No interface leads anywhere yet.
            Path::Out => {}
        }
    }

    fn udp_option(&self, name: i32) -> SysResult<OptionValue> {
        let state = self.state.lock();
        let [tx, rx] = state.no_check;
        match name {
            UDP_CORK => Ok(word(state.cork.into())),
            UDP_NO_CHECK6_TX => Ok(word(tx.into())),
            UDP_NO_CHECK6_RX => Ok(word(rx.into())),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_udp_option(&self, name: i32, value: &[u8]) -> SysResult<()> {
        let on = word_of(value)? != 0;
        let mut state = self.state.lock();
        let [tx, rx] = &mut state.no_check;
        match name {
            UDP_NO_CHECK6_TX => *tx = on,
            UDP_NO_CHECK6_RX => *rx = on,
            UDP_CORK => {
                state.cork = on;
                let held = if on { None } else { state.held.take() };
                let local = state.ends.local;
                drop(state);
                if let Some((to, data)) = held {
                    let control = SendControl::default();
                    let (found, source) = self.route(&to, local.ip(), true, &control)?;
                    self.transmit(data, (source, local.port()).into(), to, &found, &control);
                }
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}

impl Bound for Udp {
    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn as_udp(&self) -> Option<Arc<Udp>> {
        self.itself.upgrade()
    }
}

impl Listed for Udp {
    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn listing(&self) -> Option<Listing> {
        let ends = &self.state.lock().ends;
        (ends.local.port() != 0).then(|| ends.listing(&self.ip, &self.inbox, ends.local))
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for Udp {
    fn common(&self) -> &Common {
        &self.ip.common
    }

    fn bind(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        let addr = crate::bind_address(&self.ip, address)?;
        let mut state = self.state.lock();
        self.ip.check_bind(caller, &addr)?;
        if state.ends.local.port() != 0 || state.ends.remote.is_some() {
            return Err(Errno::EINVAL);
        }
        let port = self.ip.stack.udp.bind(&self.bound()?, self.place(addr.ip()), addr.port(), false)?;
        state.ends.local = addr;
        state.ends.local.set_port(port);
        state.chose_addr = !addr.ip().is_unspecified();
        state.chose_port = addr.port() != 0;
        Ok(())
    }

    fn connect(self: Arc<Self>, _: &dyn Caller, address: &[u8]) -> SysResult<()> {
        if family(address)? == c::AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        let to = meant(parse(self.ip.common.domain, address)?);
        let mut state = self.state.lock();
        let (_, source) = self.route(&to, state.ends.local.ip(), true, &SendControl::default())?;
        self.autobind(&mut state)?;
        if state.ends.local.ip().is_unspecified() {
            self.move_to(&mut state, source);
        }
        state.ends.remote = Some(to);
        Ok(())
    }

    fn name(&self) -> SysResult<Name> {
        Ok(to_name(self.ip.common.domain, self.state.lock().ends.local))
    }

    fn peer_name(&self) -> SysResult<Name> {
        self.state.lock().ends.peer_name(self.ip.common.domain)
    }

    fn send(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        if message.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if buf.remaining() > 65535 && !self.ip.is_v6() {
            return Err(Errno::EMSGSIZE);
        }
        let control = SendControl::parse(&self.ip, message.control)?;
        let mut state = self.state.lock();
        let to = match &state.held {
            Some((to, _)) => *to,
            None => state.ends.destination(self.ip.common.domain, message)?,
        };
        if message.to.is_some() && to.port() == 0 {
            return Err(Errno::EINVAL);
        }
        let (found, source) = self.route(&to, state.ends.local.ip(), state.chose_addr, &control)?;
        self.autobind(&mut state)?;
        if let Some(error) = self.ip.common.take_error() {
            return Err(error);
        }
        if state.ends.shut.write {
            return Err(Errno::EPIPE);
        }
        let before = state.held.as_ref().map_or(0, |(_, data)| data.len());
        if before + buf.remaining() > if to.is_ipv4() { MAX_V4 } else { MAX_V6 } {
            self.too_large(to, &found);
            return Err(Errno::EMSGSIZE);
        }
        let mut data = state.held.take().map(|(_, data)| data).unwrap_or_default();
        let len = buf.remaining();
        data.resize(before + len, 0);
        buf.fill(data.get_mut(before..).unwrap_or_default())?;
        if state.cork || message.flags & c::MSG_MORE != 0 {
            state.held = Some((to, data));
            return Ok(len);
        }
        let from = (source, state.ends.local.port()).into();
        drop(state);
        if message.flags & MSG_PROBE == 0 {
            self.transmit(data, from, to, &found, &control);
        }
        Ok(len)
    }

    fn receive(&self, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
        self.inbox.receive(&self.ip, || self.state.lock().ends.shut, buf, request)
    }

    fn shutdown(&self, how: Shutdown) -> SysResult<()> {
        let result = self.state.lock().ends.shutdown(how);
        self.ip.common.queue.wake(PollEvents::all());
        result
    }

    fn option(&self, level: i32, name: i32, room: usize) -> SysResult<OptionValue> {
        if level == c::SOL_UDP {
            return self.udp_option(name);
        }
        let remote = self.state.lock().ends.remote.map(|remote| remote.ip());
        self.ip.option(level, name, room, remote)
    }

    fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8]) -> SysResult<()> {
        if level == c::SOL_UDP {
            return self.set_udp_option(name, value);
        }
        let bound = self.state.lock().ends.local.port() != 0;
        self.ip.set_option(caller, level, name, value, bound)
    }

    fn poll(&self) -> PollEvents {
        self.inbox.poll(&self.ip, self.state.lock().ends.shut)
    }

    fn ioctl(&self, _: Option<&dyn Caller>, arg: &IoctlArg<'_>) -> SysResult<u64> {
        self.inbox.ioctl(arg)
    }

    fn close(&self) {
        self.ip.stack.leave(self.ip.common.ino);
        self.ip.leave_groups();
        self.unbind(&mut self.state.lock());
        self.inbox.clear();
        self.ip.common.queue.wake(PollEvents::all());
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
