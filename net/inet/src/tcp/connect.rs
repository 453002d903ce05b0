//! How connections begin and end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use socket::{Caller, Flag, Shutdown, Socket};
use sync::monotonic_ns;

use super::flow::Flow;
use super::{Connection, Progress, Stage, State, Tcp, TcpState};
use crate::address::{family, meant, parse, unspecified};
use crate::links::Path;
use crate::ports::{Bound, Place};
use crate::stack::{Count, Stack};

/// Largest backlog (`net.core.somaxconn`).
const MAX_BACKLOG: usize = 4096;
/// How long an end that closed first is remembered (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_NS: u64 = 60_000_000_000;

/// What waits at a listening socket.
pub(crate) struct Listening {
    backlog: usize,
    /// Connections that nobody has accepted.
    pending: VecDeque<Arc<Tcp>>,
    /// Those who wait for a place among them.
    queue: VecDeque<Weak<Tcp>>,
}

impl Listening {
    /// Connections that wait, and how many may.
    pub fn sizes(&self) -> (usize, usize) {
        (self.pending.len(), self.backlog)
    }

    fn full(&self) -> bool {
        self.pending.len() > self.backlog
    }
}

impl Tcp {
    pub(super) fn bound(&self) -> SysResult<Arc<dyn Bound>> {
        let socket = self.itself.upgrade().ok_or(Errno::EINVAL)?;
        Ok(socket)
    }

    fn weak_bound(&self) -> Weak<dyn Bound> {
        let weak: Weak<dyn Bound> = self.itself.clone();
        weak
    }

    pub(super) fn bind_to(&self, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        let addr = crate::bind_address(&self.ip, address)?;
        self.ip.check_bind(caller, &addr)?;
        let mut state = self.state.lock();
        if state.local.port() != 0 || !matches!(state.stage, Stage::Closed) {
            return Err(Errno::EINVAL);
        }
        let place = Place { addr: addr.ip(), v6_only: self.ip.v6_only() };
        let port = self.ip.stack.tcp.bind(&self.bound()?, place, addr.port(), true)?;
        state.local = addr;
        state.local.set_port(port);
        (state.chose_addr, state.chose_port) = (!addr.ip().is_unspecified(), addr.port() != 0);
        Ok(())
    }

    /// Gives up what bind(2) didn't choose.
    fn unbind(&self, state: &mut State, all: bool) {
        if !state.chose_addr || all {
            state.local.set_ip(unspecified(self.ip.common.domain).ip());
        }
        let port = state.local.port();
        if port == 0 {
            return;
        }
        if !state.chose_port || all {
            self.ip.stack.tcp.leave(&self.weak_bound(), port);
            state.local.set_port(0);
        } else {
            let place = Place { addr: state.local.ip(), v6_only: self.ip.v6_only() };
            self.ip.stack.tcp.move_to(&self.weak_bound(), place, port);
        }
    }

    pub(super) fn start_listening(&self, backlog: i32) -> SysResult<()> {
        let backlog = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        let mut state = self.state.lock();
        match state.stage {
            Stage::Listening => {
                if let Some(listening) = self.listening.lock().as_mut() {
                    listening.backlog = backlog;
                }
                drop(state);
                self.admit();
                return Ok(());
            }
            Stage::Closed if state.progress == Progress::Unconnected => {}
            _ => return Err(Errno::EINVAL),
        }
        let place = Place { addr: state.local.ip(), v6_only: self.ip.v6_only() };
        if state.local.port() == 0 {
            let port = self.ip.stack.tcp.bind(&self.bound()?, place, 0, true)?;
            state.local.set_port(port);
        } else if !self.ip.stack.tcp.may_listen(&self.bound()?, state.local.port()) {
            return Err(Errno::EADDRINUSE);
        }
        *self.listening.lock() = Some(Listening { backlog, pending: VecDeque::new(), queue: VecDeque::new() });
        state.stage = Stage::Listening;
        state.shut = Shutdown::default();
        self.listens.store(true, Ordering::Release);
        drop(state);
        self.wake(PollEvents::all());
        Ok(())
    }

    pub(super) fn take_pending(&self) -> SysResult<Arc<Self>> {
        let next = {
            let mut listening = self.listening.lock();
            listening.as_mut().ok_or(Errno::EINVAL)?.pending.pop_front().ok_or(Errno::EAGAIN)?
        };
        self.admit();
        Ok(next)
    }

    /// Lets those in who wait for a place.
    fn admit(&self) {
        loop {
            let next = {
                let mut listening = self.listening.lock();
                let Some(listening) = listening.as_mut().filter(|listening| !listening.full()) else { return };
                listening.queue.pop_front()
            };
            let Some(next) = next else { return };
            let Some(client) = next.upgrade() else { continue };
            let stage = client.state.lock().stage.clone();
            if let Stage::Connecting { remote, listener } = stage
                && listener.ptr_eq(&self.itself)
                && client.join(self, remote)
            {
                client.wake(PollEvents::all());
            }
        }
    }

    /// The listening socket for an address.
    fn listener(stack: &Stack, to: SocketAddr, from: SocketAddr) -> Option<Arc<Self>> {
        let mut best: Option<(u32, Vec<Arc<Self>>)> = None;
        for (place, owner) in stack.tcp.at(to.port()) {
            let Some(socket) = owner.as_tcp().filter(|socket| socket.is_listening()) else { continue };
            let Some(fit) = place.fits(to.ip()) else { continue };
            let score = fit + if socket.ip.common.device() != 0 { 8 } else { 0 };
            match &mut best {
                Some((known, _)) if *known > score => {}
                Some((known, all)) if *known == score => all.push(socket),
                _ => best = Some((score, vec![socket])),
            }
        }
        let (_, all) = best?;
        // Those who share a port share its connections.
        let hash = usize::from(from.port()).wrapping_mul(0x9e37_79b1) >> 7;
        all.get(hash % all.len().max(1)).cloned()
    }

    pub(super) fn connect_to(&self, address: &[u8]) -> SysResult<()> {
        if family(address)? == c::AF_UNSPEC {
            return self.disconnect();
        }
        let to = meant(parse(self.ip.common.domain, address)?);
        let mut state = self.state.lock();
        match (&state.stage, state.progress) {
            (Stage::Listening, _) | (_, Progress::Connected) => return Err(Errno::EISCONN),
            (Stage::Connecting { .. }, Progress::Connecting) => return Err(Errno::EALREADY),
            (_, Progress::Connecting) => {
                drop(state);
                return self.progress();
            }
            (_, Progress::Unconnected) => {}
        }
        let own = state.local.ip();
        let families_differ = own.is_ipv4() != to.is_ipv4() && !own.is_unspecified();
        if self.ip.is_v6() && to.is_ipv4() && self.ip.v6_only() || families_differ {
            return Err(Errno::ENETUNREACH);
        }
        let found = self.ip.stack.links.read().route(to.ip(), self.ip.link_towards(&to))?;
        if matches!(found.path, Path::Broadcast | Path::Multicast) {
            return Err(Errno::ENETUNREACH);
        }
        let source = if own.is_unspecified() { found.source } else { own };
        if state.local.port() == 0 {
            let port = self.ip.stack.tcp.connect(&self.bound()?, source, to)?;
            state.local.set_port(port);
        } else {
            self.ip.stack.tcp.connected(&self.weak_bound(), state.local.port(), source, to)?;
        }
        state.local.set_ip(source);
        state.progress = Progress::Connecting;
        state.shut = Shutdown::default();
        let local = state.local;
        drop(state);
        self.ip.stack.counters.add(Count::TcpActive, 1);
        // Leads nowhere yet: as if all segments were lost.
        if found.path == Path::Out {
            self.state.lock().stage = Stage::Connecting { remote: to, listener: Weak::new() };
            return Err(Errno::EINPROGRESS);
        }
        self.handshake(local, to);
        Err(Errno::EINPROGRESS)
    }

    /// Knocks at an address of ours.
    fn handshake(&self, local: SocketAddr, to: SocketAddr) {
        let stack = &self.ip.stack;
        let Some(listener) = Self::listener(stack, to, local) else {
            if local == to {
                return self.join_itself(to);
            }
            stack.counters.add(Count::TcpAttemptFails, 1);
            stack.counters.add(Count::TcpResetsSent, 1);
            return self.refuse(Errno::ECONNREFUSED);
        };
        let mut listening = listener.listening.lock();
        let Some(waiting) = listening.as_mut() else {
            drop(listening);
            return self.refuse(Errno::ECONNREFUSED);
        };
        if waiting.full() {
            stack.counters.add(Count::ListenOverflows, 1);
            waiting.queue.push_back(self.itself.clone());
            drop(listening);
            self.state.lock().stage = Stage::Connecting { remote: to, listener: Arc::downgrade(&listener) };
            // It may have got room meanwhile.
            listener.admit();
            return;
        }
        drop(listening);
        if !self.join(&listener, to) {
            self.refuse(Errno::ECONNREFUSED);
        }
    }

    /// The attempt has failed.
    fn refuse(&self, errno: Errno) {
        let mut state = self.state.lock();
        state.stage = Stage::Closed;
        self.unbind(&mut state, false);
        drop(state);
        self.ip.common.set_error(errno);
        self.wake(PollEvents::all());
    }

    /// A socket connected to itself: what it sends it receives.
    fn join_itself(&self, remote: SocketAddr) {
        let queue = &self.ip.common.queue;
        let flow = Flow::new(queue, queue);
        let (rx, tx) = (flow.clone(), flow);
        let connection = Connection { rx, tx, peer: self.itself.clone(), local: remote, remote, since: monotonic_ns() };
        self.state.lock().stage = Stage::Connected(Arc::new(connection));
        self.wake(PollEvents::all());
    }

    /// Makes the connection and puts its other end into the listener's queue; says whether it still listens.
    fn join(&self, listener: &Self, remote: SocketAddr) -> bool {
        let server = Self::new(&self.ip.stack, listener.ip.owner, listener.ip.common.domain);
        server.ip.common.inherit(&listener.ip.common);
        *server.ip.options.lock() = {
            let mut options = listener.ip.options.lock().clone();
            options.groups.clear();
            options
        };
        *server.options.lock() = listener.options.lock().clone();
        let (here, there) = (&self.ip.common.queue, &server.ip.common.queue);
        let (to_server, to_client) = (Flow::new(there, here), Flow::new(here, there));
        let since = monotonic_ns();
        let local = self.state.lock().local;
        let theirs = Connection {
            rx: to_server.clone(),
            tx: to_client.clone(),
            peer: self.itself.clone(),
            local: remote,
            remote: local,
            since,
        };
        {
            let mut state = server.state.lock();
            state.local = remote;
            (state.chose_addr, state.chose_port) = (true, true);
            state.stage = Stage::Connected(Arc::new(theirs));
            state.progress = Progress::Connected;
        }
        self.ip.stack.tcp.join(&server.weak_bound(), remote.ip(), remote.port(), local);
        let peer = Arc::downgrade(&server);
        let mut listening = listener.listening.lock();
        let Some(waiting) = listening.as_mut() else {
            drop(listening);
            // Nobody has heard of it: it goes without a word.
            server.state.lock().stage = Stage::Closed;
            server.close();
            return false;
        };
        let ours = Connection { rx: to_client, tx: to_server, peer, local, remote, since };
        self.state.lock().stage = Stage::Connected(Arc::new(ours));
        waiting.pending.push_back(server);
        drop(listening);
        self.ip.stack.counters.add(Count::TcpPassive, 1);
        listener.wake(PollEvents::READABLE);
        self.wake(PollEvents::all());
        true
    }

    /// How far connect(2) has come.
    pub(super) fn progress(&self) -> SysResult<()> {
        let mut state = self.state.lock();
        match &state.stage {
            Stage::Connecting { .. } => Err(Errno::EAGAIN),
            Stage::Connected(_) => {
                state.progress = Progress::Connected;
                Ok(())
            }
            Stage::Closed | Stage::Listening => {
                state.progress = Progress::Unconnected;
                drop(state);
                Err(self.ip.common.take_error().unwrap_or(Errno::ECONNABORTED))
            }
        }
    }

    /// connect(2) with `AF_UNSPEC`: back to the beginning, which resets a connection.
    fn disconnect(&self) -> SysResult<()> {
        let mut state = self.state.lock();
        let stage = std::mem::replace(&mut state.stage, Stage::Closed);
        state.progress = Progress::Unconnected;
        state.shut = Shutdown::default();
        self.unbind(&mut state, false);
        drop(state);
        match stage {
            Stage::Closed => {}
            Stage::Listening => self.stop_listening(),
            Stage::Connecting { .. } => self.ip.common.set_error(Errno::ECONNRESET),
            Stage::Connected(connection) => {
                if connection.state() != TcpState::Close {
                    self.ip.common.set_error(Errno::ECONNRESET);
                    self.abort(&connection);
                }
            }
        }
        self.wake(PollEvents::all());
        Ok(())
    }

    fn stop_listening(&self) {
        self.listens.store(false, Ordering::Release);
        let Some(listening) = self.listening.lock().take() else { return };
        for socket in listening.pending {
            // Reset, whatever it has received.
            if let Some(connection) = socket.connection() {
                socket.abort(&connection);
            }
            socket.close();
        }
        for client in listening.queue.iter().filter_map(Weak::upgrade) {
            // Its next try would be refused.
            let waits = matches!(&client.state.lock().stage, Stage::Connecting { listener, .. } if listener.ptr_eq(&self.itself));
            if waits {
                client.refuse(Errno::ECONNREFUSED);
            }
        }
    }

    /// Resets the other end.
    fn abort(&self, connection: &Connection) {
        self.ip.stack.counters.add(Count::TcpResetsSent, 1);
        connection.rx.deafen();
        let peer = connection.peer.upgrade();
        let theirs = peer.as_ref().and_then(|peer| peer.connection());
        match (peer, theirs) {
            (Some(peer), Some(theirs)) if Arc::ptr_eq(&theirs.rx, &connection.tx) => peer.reset(&theirs),
            _ => {
                connection.rx.cut();
                connection.tx.cut();
            }
        }
    }

    /// Closes this direction: the other end will read an end.
    fn finish(&self, connection: &Connection) {
        let before = connection.state();
        if !matches!(before, TcpState::Established | TcpState::CloseWait) {
            return;
        }
        connection.tx.finish();
        if before == TcpState::CloseWait {
            // The other end closed first: it is the one to be remembered.
            let reuse = connection.peer.upgrade().is_none_or(|peer| peer.ip.common.is(Flag::ReuseAddress));
            let ports = &self.ip.stack.tcp;
            let gone = connection.rx.status().finished && connection.tx.status().deaf;
            if !gone {
                ports.remember(connection.remote, connection.local, reuse, true, TIME_WAIT_NS);
            } else {
                ports.remembered(connection.remote, connection.local, TIME_WAIT_NS);
            }
        }
        if let Some(peer) = connection.peer.upgrade() {
            peer.wake(PollEvents::READABLE | PollEvents::RDHUP | PollEvents::HUP);
        }
    }

    pub(super) fn shut(&self, how: Shutdown) -> SysResult<()> {
        let mut state = self.state.lock();
        let stage = state.stage.clone();
        let closed = match &stage {
            Stage::Closed => true,
            Stage::Connected(connection) => connection.state() == TcpState::Close,
            _ => false,
        };
        match stage {
            Stage::Listening if !how.read => return Ok(()),
            Stage::Listening | Stage::Connecting { .. } => {
                drop(state);
                return self.disconnect();
            }
            Stage::Closed => {}
            Stage::Connected(connection) => {
                state.shut.read |= how.read;
                state.shut.write |= how.write;
                drop(state);
                if how.write {
                    self.finish(&connection);
                }
                self.wake(PollEvents::all());
                return if closed { Err(Errno::ENOTCONN) } else { Ok(()) };
            }
        }
        state.shut.read |= how.read;
        state.shut.write |= how.write;
        drop(state);
        self.wake(PollEvents::all());
        Err(Errno::ENOTCONN)
    }

    /// The last descriptor is gone.
    pub(super) fn end(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.ip.stack.leave(self.ip.common.ino);
        self.ip.leave_groups();
        let (stage, local) = {
            let mut state = self.state.lock();
            let local = state.local;
            (std::mem::replace(&mut state.stage, Stage::Closed), local)
        };
        match stage {
            Stage::Listening => self.stop_listening(),
            Stage::Connected(connection) => self.part(&connection),
            Stage::Closed | Stage::Connecting { .. } => {}
        }
        if local.port() != 0 {
            self.ip.stack.tcp.leave(&self.weak_bound(), local.port());
        }
        self.wake(PollEvents::all());
    }

    /// Leaves a connection: with an end if all has been read, or else with a reset (RFC 2525, 2.17).
    fn part(&self, connection: &Connection) {
        let state = connection.state();
        if state == TcpState::Close {
            return;
        }
        let common = &self.ip.common;
        let at_once = common.lingers.load(Ordering::Relaxed) && common.linger.load(Ordering::Relaxed) == 0;
        let unread = connection.rx.deafen();
        let impatient = self.options.lock().linger2 < 0 && state != TcpState::CloseWait;
        if unread || at_once {
            return self.abort(connection);
        }
        if impatient {
            self.finish(connection);
            return self.abort(connection);
        }
        if state != TcpState::CloseWait {
            // First to close: remembered until the other end closes too, and a while longer.
            let reuse = common.is(Flag::ReuseAddress);
            let ns = self.options.lock().fin_wait_ns();
            self.ip.stack.tcp.remember(connection.local, connection.remote, reuse, false, ns);
        }
        self.finish(connection);
        if state == TcpState::FinWait2 {
            return;
        }
        if let Some(peer) = connection.peer.upgrade() {
            peer.wake(PollEvents::READABLE | PollEvents::RDHUP | PollEvents::HUP | PollEvents::WRITABLE);
        }
    }
}
