//! Raw sockets (raw(7)).

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::Kuid;
use socket::{Caller, Common, Name, OptionValue, Outgoing, Received, Request, Shutdown, Socket, word, word_of};
use sync::Mutex;
use usermem::IoBuf;
use vfs::IoctlArg;

use crate::address::{family, meant, parse, to_name};
use crate::datagram::{Datagram, Ends, Inbox};
use crate::icmp;
use crate::ip::Ip;
use crate::ip_control::SendControl;
use crate::links::Path;
use crate::stack::{Count, Listed, Listing, Stack};
use crate::udp::Udp;
use crate::wire::{self, IpInfo};

/// `ICMP_FILTER` of level `SOL_RAW`, `ICMPV6_FILTER` of `SOL_ICMPV6`, `IPV6_CHECKSUM`.
const FILTER: i32 = 1;
const IPV6_CHECKSUM: i32 = 7;
const SOL_RAW: i32 = 255;
const SOL_ICMPV6: i32 = 58;

struct State {
    ends: Ends,
    /// Types of ICMP messages that are not wanted.
    filter: [u8; 32],
    /// Where the kernel fills in a checksum (`IPV6_CHECKSUM`).
    checksum_at: Option<usize>,
}

/// A raw socket.
pub struct Raw {
    pub(crate) ip: Ip,
    state: Mutex<State>,
    inbox: Inbox,
    itself: Weak<Self>,
}

impl Raw {
    /// A socket of `AF_INET` or `AF_INET6` for a protocol.
    #[must_use]
    pub fn new(stack: &Arc<Stack>, owner: Kuid, domain: i32, protocol: i32) -> Arc<Self> {
        let ip = Ip::new(stack, owner, domain, c::SOCK_RAW, protocol);
        let checksum_at = (domain == c::AF_INET6 && protocol == c::IPPROTO_ICMPV6).then_some(2);
        let state = State { ends: Ends::new(domain), filter: [0; 32], checksum_at };
        let socket =
            Arc::new_cyclic(|itself| Self { ip, state: Mutex::new(state), inbox: Inbox::default(), itself: itself.clone() });
        let listed: Weak<dyn Listed> = Arc::downgrade(&socket) as Weak<dyn Listed>;
        stack.enter(socket.ip.common.ino, listed);
        stack.raw.write().push(Arc::downgrade(&socket));
        socket
    }

    /// Shows a packet to the raw sockets of its protocol; says whether there was one.
    pub fn see(stack: &Stack, info: &IpInfo, payload: &[u8], link: u32) -> bool {
        if stack.raw.read().is_empty() {
            return false;
        }
        let all: Vec<_> = stack.raw.read().iter().filter_map(Weak::upgrade).collect();
        let mut seen = false;
        for socket in all.iter().filter(|socket| socket.wants(info, payload, link)) {
            // Of IPv4, with the header.
            let data = if info.to.is_ipv4() { wire::packet(info, payload) } else { payload.to_vec() };
            let (from, to) = ((info.from, 0).into(), (info.to, 0).into());
            if socket.inbox.push(&socket.ip, Datagram { data, from, to, link, hops: info.hops, class: info.class }) {
                socket.ip.common.queue.wake(PollEvents::READABLE);
            }
            seen = true;
        }
        seen
    }

    /// Shows a UDP datagram, which was never a packet.
    pub fn see_udp(stack: &Stack, datagram: &Datagram) {
        if !stack.raw.read().is_empty() {
            Self::see(stack, &wire::udp_info(datagram), &wire::udp(datagram), datagram.link);
        }
    }

    fn wants(&self, info: &IpInfo, payload: &[u8], link: u32) -> bool {
        let common = &self.ip.common;
        if self.ip.is_v6() != info.to.is_ipv6() || i32::from(info.protocol) != common.protocol {
            return false;
        }
        if common.device() != 0 && common.device() != link {
            return false;
        }
        let state = self.state.lock();
        let kind = usize::from(payload.first().copied().unwrap_or(0));
        let icmp = matches!(common.protocol, c::IPPROTO_ICMP | c::IPPROTO_ICMPV6);
        let filtered = icmp && state.filter.get(kind / 8).is_some_and(|byte| byte >> (kind % 8) & 1 != 0);
        let here = state.ends.local.ip().is_unspecified() || state.ends.local.ip() == info.to;
        !filtered && here && state.ends.remote.is_none_or(|remote| remote.ip() == info.from)
    }

    /// The packet that `data` makes, and what its header says.
    fn assemble(&self, mut data: Vec<u8>, mut info: IpInfo) -> SysResult<(IpInfo, Vec<u8>)> {
        if !self.ip.is_v6() && self.ip.is(c::SOL_IP, c::IP_HDRINCL) {
            if data.len() < wire::IPV4_HEADER {
                return Err(Errno::EINVAL);
            }
            // What is left out is filled in (raw(7)): length, source, identification, checksum.
            let len = u16::try_from(data.len()).map_err(|_| Errno::EMSGSIZE)?;
            if let Some(place) = data.get_mut(2..4) {
                place.copy_from_slice(&len.to_be_bytes());
            }
            if let (Some(place), IpAddr::V4(from)) = (data.get_mut(12..16), info.from)
                && *place == [0; 4]
            {
                place.copy_from_slice(&from.octets());
            }
            wire::set_ipv4_checksum(&mut data);
            let (given, payload) = wire::parse_ipv4(&data).ok_or(Errno::EINVAL)?;
            return Ok((given, data.get(payload).unwrap_or_default().to_vec()));
        }
        if let Some(at) = self.state.lock().checksum_at {
            let place = data.get_mut(at..at + 2).ok_or(Errno::EINVAL)?;
            place.fill(0);
            let start = wire::pseudo_sum(info.from, info.to, info.protocol, data.len());
            let checksum = wire::complement(wire::sum(&data, start));
            if let Some(place) = data.get_mut(at..at + 2) {
                place.copy_from_slice(&checksum.to_be_bytes());
            }
        }
        info.protocol = u8::try_from(self.ip.common.protocol).map_err(|_| Errno::EINVAL)?;
        Ok((info, data))
    }

    /// A packet for an address of ours.
    pub(crate) fn arrive(stack: &Stack, info: &IpInfo, payload: &[u8], link: u32) {
        stack.counters.add(Count::IpIn, 1);
        match i32::from(info.protocol) {
            c::IPPROTO_ICMP if info.to.is_ipv4() => icmp::input(stack, info, payload, link),
            c::IPPROTO_ICMPV6 if info.to.is_ipv6() => icmp::input(stack, info, payload, link),
            protocol => {
                Self::see(stack, info, payload, link);
                if protocol == c::IPPROTO_UDP
                    && let Some(datagram) = wire::parse_udp(info, payload, link)
                {
                    Udp::deliver(stack, datagram);
                }
            }
        }
    }
}

impl Listed for Raw {
    fn ip(&self) -> &Ip {
        &self.ip
    }

    fn listing(&self) -> Option<Listing> {
        // The protocol stands where others have a port.
        let protocol = u16::try_from(self.ip.common.protocol).unwrap_or(0);
        let ends = &self.state.lock().ends;
        Some(ends.listing(&self.ip, &self.inbox, SocketAddr::new(ends.local.ip(), protocol)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.close();
    }
}

impl Socket for Raw {
    fn common(&self) -> &Common {
        &self.ip.common
    }

    fn bind(self: Arc<Self>, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        let addr = crate::bind_address(&self.ip, address)?;
        self.ip.check_bind(caller, &SocketAddr::new(addr.ip(), 0))?;
        self.state.lock().ends.local = SocketAddr::new(addr.ip(), 0);
        Ok(())
    }

    fn connect(self: Arc<Self>, _: &dyn Caller, address: &[u8]) -> SysResult<()> {
        if family(address)? == c::AF_UNSPEC {
            self.state.lock().ends.remote = None;
            return Ok(());
        }
        let to = meant(parse(self.ip.common.domain, address)?);
        let found = self.ip.route(&to, 0)?;
        let mut state = self.state.lock();
        if state.ends.local.ip().is_unspecified() {
            state.ends.local.set_ip(found.source);
        }
        state.ends.remote = Some(to);
        Ok(())
    }

    fn name(&self) -> SysResult<Name> {
        let local = self.state.lock().ends.local;
        let protocol = if self.ip.is_v6() { 0 } else { u16::try_from(self.ip.common.protocol).unwrap_or(0) };
        Ok(to_name(self.ip.common.domain, SocketAddr::new(local.ip(), protocol)))
    }

    fn peer_name(&self) -> SysResult<Name> {
        self.state.lock().ends.peer_name(self.ip.common.domain)
    }

    fn send(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        let len = buf.remaining();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        if message.flags & c::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let control = SendControl::parse(&self.ip, message.control)?;
        let (to, own, shut) = {
            let ends = &self.state.lock().ends;
            (ends.destination(self.ip.common.domain, message)?, ends.local.ip(), ends.shut.write)
        };
        if self.ip.is_v6() && to.is_ipv4() {
            return Err(Errno::EINVAL);
        }
        let found = self.ip.route(&to, control.link)?;
        if let Some(error) = self.ip.common.take_error() {
            return Err(error);
        }
        if shut {
            return Err(Errno::EPIPE);
        }
        let header = if self.ip.is_v6() || self.ip.is(c::SOL_IP, c::IP_HDRINCL) { 0 } else { wire::IPV4_HEADER };
        if len + header > found.mtu.min(65535) as usize && found.path != Path::Local || len + header > 65535 {
            return Err(Errno::EMSGSIZE);
        }
        let mut data = vec![0; len];
        buf.fill(&mut data)?;
        let (hops, class) = self.ip.marks(to.is_ipv4(), found.path);
        let own = Some(own).filter(|own| !own.is_unspecified());
        let info = IpInfo {
            from: control.source.or(own).unwrap_or(found.source),
            to: to.ip(),
            protocol: u8::try_from(self.ip.common.protocol).unwrap_or(0),
            hops: control.hops.unwrap_or(hops),
            class: control.class.unwrap_or(class),
        };
        let (info, payload) = self.assemble(data, info)?;
        self.ip.stack.counters.add(Count::IpOut, 1);
        if found.path != Path::Out {
            Self::arrive(&self.ip.stack, &info, &payload, found.link);
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
        let state = self.state.lock();
        let icmp = self.ip.common.protocol == c::IPPROTO_ICMP;
        match (level, name) {
            (SOL_RAW, FILTER) if icmp => return Ok(state.filter.get(..room.min(4)).unwrap_or_default().into()),
            (SOL_RAW, _) if icmp || !self.ip.is_v6() => return Err(if icmp { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP }),
            (SOL_ICMPV6, FILTER) if self.ip.common.protocol == c::IPPROTO_ICMPV6 => {
                return Ok(state.filter.get(..room.min(32)).unwrap_or_default().into());
            }
            (c::SOL_IPV6 | SOL_RAW, IPV6_CHECKSUM) if self.ip.is_v6() => {
                return Ok(word(state.checksum_at.map_or(-1, |at| i32::try_from(at).unwrap_or(-1))));
            }
            _ => {}
        }
        let remote = state.ends.remote.map(|remote| remote.ip());
        drop(state);
        self.ip.option(level, name, room, remote)
    }

    fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8]) -> SysResult<()> {
        let icmp = self.ip.common.protocol == c::IPPROTO_ICMP;
        match (level, name) {
            (SOL_RAW, FILTER) if icmp => return self.set_filter(value, 4),
            (SOL_ICMPV6, FILTER) if self.ip.common.protocol == c::IPPROTO_ICMPV6 => return self.set_filter(value, 32),
            (SOL_RAW, _) if !self.ip.is_v6() => return Err(if icmp { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP }),
            (c::SOL_IPV6 | SOL_RAW, IPV6_CHECKSUM) if self.ip.is_v6() => {
                if self.ip.common.protocol == c::IPPROTO_ICMPV6 {
                    return Err(Errno::EINVAL);
                }
                let at = word_of(value)?;
                if at > 0 && at % 2 != 0 {
                    return Err(Errno::EINVAL);
                }
                self.state.lock().checksum_at = usize::try_from(at).ok();
                return Ok(());
            }
            _ => {}
        }
        self.ip.set_option(caller, level, name, value, false)
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
        self.ip.stack.raw.write().retain(|other| !other.ptr_eq(&self.itself));
        self.inbox.clear();
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Raw {
    fn set_filter(&self, value: &[u8], size: usize) -> SysResult<()> {
        let mut state = self.state.lock();
        let len = value.len().min(size);
        let given = value.get(..len).unwrap_or_default();
        state.filter.get_mut(..len).unwrap_or_default().copy_from_slice(given);
        Ok(())
    }
}
