//! How sockets find each other, and how they part.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use socket::{Caller, Endpoint, Flag};

use crate::address::{Address, family};
use crate::names::Names;
use crate::rights::collect_if_due;
use crate::socket::{ALL, Identity, Incoming, Kind, Link, Listening, Unix};

/// Largest backlog (`net.core.somaxconn`).
const MAX_BACKLOG: usize = 4096;

impl Unix {
    /// socketpair(2).
    #[must_use]
    pub fn pair(names: &Arc<Names>, kind: Kind, caller: &dyn Caller) -> (Arc<Self>, Arc<Self>) {
        let (one, other) = (Self::new(names, kind), Self::new(names, kind));
        let identity = Identity::of(caller);
        for (this, that) in [(&one, &other), (&other, &one)] {
            if kind == Kind::Datagram {
                let mut state = this.state.lock();
                state.peer = Some(Arc::downgrade(that));
                state.peer_identity = Some(identity.clone());
            } else {
                this.join(that, identity.clone());
            }
        }
        (one, other)
    }

    /// Makes `peer` the other end; says whether there was none.
    fn join(&self, peer: &Arc<Self>, peer_identity: Identity) -> bool {
        let (peer_name, out) = (peer.address.clone(), peer.incoming.clone());
        self.link.set(Link { peer: Arc::downgrade(peer), peer_name, peer_identity, out }).is_ok()
    }

    /// What is left at a name of the filesystem.
    fn endpoint(&self) -> Endpoint {
        let any: Weak<dyn Any + Send + Sync> = self.itself.clone();
        any
    }

    pub(crate) fn autobind(&self) -> SysResult<()> {
        let Some(itself) = self.itself.upgrade() else { return Ok(()) };
        match self.names.bind(&itself, None) {
            // Somebody was faster.
            Err(Errno::EINVAL) => Ok(()),
            result => result,
        }
    }

    pub(crate) fn bind_to(&self, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        match Address::parse(address)? {
            None => self.autobind(),
            Some(Address::Abstract(name)) => {
                if self.address().is_some() {
                    return Err(Errno::EINVAL);
                }
                self.names.bind(&self.itself.upgrade().ok_or(Errno::EINVAL)?, Some(&name))
            }
            Some(Address::Path(path)) => {
                // A name that is taken is told before that this socket has one.
                let bound = self.address().is_some();
                if bound {
                    return match caller.find_path(&path) {
                        Err(Errno::ENOENT) => Err(Errno::EINVAL),
                        _ => Err(Errno::EADDRINUSE),
                    };
                }
                caller.bind_path(&path, self.endpoint())?;
                self.set_address(Address::Path(path))
            }
        }
    }

    /// The socket that has a name.
    pub(crate) fn find(&self, caller: &dyn Caller, address: &Address) -> SysResult<Arc<Self>> {
        let found = match address {
            Address::Abstract(name) => self.names.find(self.kind(), name),
            Address::Path(path) => caller.find_path(path)?.upgrade().and_then(|any| any.downcast::<Self>().ok()),
        };
        found.filter(|socket| !socket.closed.load(Ordering::Acquire)).ok_or(Errno::ECONNREFUSED)
    }

    pub(crate) fn connect_to(&self, caller: &dyn Caller, address: &[u8]) -> SysResult<()> {
        if family(address)? == c::AF_UNSPEC && self.kind() == Kind::Datagram {
            self.point_to(None);
            return Ok(());
        }
        let address = Address::parse(address)?.ok_or(Errno::EINVAL)?;
        if self.common.is(Flag::PassCredentials) && self.address().is_none() {
            self.autobind()?;
        }
        if self.kind() == Kind::Datagram {
            return self.connect_datagram(caller, &address);
        }
        if self.link.get().is_some() {
            return Err(Errno::EISCONN);
        }
        if self.is_listening() {
            return Err(Errno::EINVAL);
        }
        let listener = self.find(caller, &address)?;
        if listener.kind() != self.kind() {
            return Err(Errno::EPROTOTYPE);
        }
        self.queue_at(&listener, caller)
    }

    /// Waits in a listening socket's backlog.
    fn queue_at(&self, listener: &Arc<Self>, caller: &dyn Caller) -> SysResult<()> {
        let itself = self.itself.upgrade().ok_or(Errno::EINVAL)?;
        let server = Self::new(&self.names, self.kind());
        let mut theirs = listener.state.lock();
        let refused = theirs.shut.read;
        let listening = theirs.listening.as_mut().filter(|_| !refused).ok_or(Errno::ECONNREFUSED)?;
        if listening.pending.len() > listening.backlog {
            if !listening.blocked.iter().any(|other| other.ptr_eq(&self.itself)) {
                listening.blocked.push(self.itself.clone());
            }
            return Err(Errno::EAGAIN);
        }
        if !self.join(&server, listening.identity.clone()) {
            return Err(Errno::EISCONN);
        }
        server.join(&itself, Identity::of(caller));
        // It has its listener's name, without the right to it.
        if let Some(address) = listener.address() {
            let _ = server.address.set(address.clone());
        }
        listening.pending.push_back(server);
        drop(theirs);
        listener.wake(PollEvents::READABLE);
        self.wake(ALL);
        Ok(())
    }

    fn connect_datagram(&self, caller: &dyn Caller, address: &Address) -> SysResult<()> {
        let peer = self.find(caller, address)?;
        if peer.kind() != self.kind() {
            return Err(Errno::EPROTOTYPE);
        }
        let taken = peer.state.lock().peer.as_ref().is_some_and(|theirs| !theirs.ptr_eq(&self.itself));
        if taken {
            return Err(Errno::EPERM);
        }
        self.point_to(Some(&peer));
        Ok(())
    }

    /// Changes a datagram socket's default destination. What had come from the old one is lost, and a pair that is broken so is told.
    fn point_to(&self, peer: Option<&Arc<Self>>) {
        let old = std::mem::replace(&mut self.state.lock().peer, peer.map(Arc::downgrade));
        let Some(old) = old.and_then(|old| old.upgrade()) else { return };
        if peer.is_some_and(|peer| Arc::ptr_eq(peer, &old)) {
            return;
        }
        if let Incoming::Inbox(inbox) = &self.incoming
            && inbox.status().1.is_some()
        {
            inbox.purge();
            let mutual = old.state.lock().peer.as_ref().is_some_and(|theirs| theirs.ptr_eq(&self.itself));
            if mutual && !old.closed.load(Ordering::Acquire) {
                old.common.set_error(Errno::ECONNRESET);
            }
        }
        self.wake(ALL);
    }

    pub(crate) fn start_listening(&self, caller: &dyn Caller, backlog: i32) -> SysResult<()> {
        if self.kind() == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        // A negative backlog is a very large one (it is compared unsigned).
        let backlog = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        if self.address().is_none() || self.link.get().is_some() {
            return Err(Errno::EINVAL);
        }
        let identity = Identity::of(caller);
        let mut state = self.state.lock();
        let blocked = match &mut state.listening {
            Some(listening) => {
                (listening.backlog, listening.identity) = (backlog, identity);
                std::mem::take(&mut listening.blocked)
            }
            None => {
                state.listening = Some(Listening { backlog, pending: VecDeque::new(), identity, blocked: Vec::new() });
                Vec::new()
            }
        };
        drop(state);
        wake_all(&blocked);
        self.wake(ALL);
        Ok(())
    }

    pub(crate) fn take_pending(&self) -> SysResult<Arc<Self>> {
        if self.kind() == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        let shut = state.shut.read;
        let listening = state.listening.as_mut().ok_or(Errno::EINVAL)?;
        let Some(next) = listening.pending.pop_front() else {
            return Err(if shut { Errno::EINVAL } else { Errno::EAGAIN });
        };
        let blocked = std::mem::take(&mut listening.blocked);
        drop(state);
        for flag in [Flag::PassCredentials, Flag::PassPidFd, Flag::PassSecurity] {
            next.common.set(flag, self.common.is(flag));
        }
        wake_all(&blocked);
        Ok(next)
    }

    /// Ends it: the last descriptor is gone, or nobody can accept it any more.
    pub(crate) fn end(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.names.leave(self);
        let unread = match &self.incoming {
            Incoming::Flow(flow) => flow.close(),
            Incoming::Inbox(inbox) => inbox.close(),
        };
        if let Some(link) = self.link.get() {
            link.out.shut();
            if let Some(peer) = link.peer.upgrade() {
                if unread {
                    peer.common.set_error(Errno::ECONNRESET);
                }
                peer.wake(ALL | PollEvents::HUP);
            }
        }
        let (listening, old) = {
            let mut state = self.state.lock();
            (state.listening.take(), state.peer.take())
        };
        drop(old);
        if let Some(listening) = listening {
            for socket in &listening.pending {
                // Reset, although it may not have received anything.
                if let Some(peer) = socket.peer() {
                    peer.common.set_error(Errno::ECONNRESET);
                }
                socket.end();
            }
            wake_all(&listening.blocked);
        }
        self.wake(ALL | PollEvents::HUP);
        collect_if_due();
    }
}

fn wake_all(sockets: &[Weak<Unix>]) {
    for socket in sockets.iter().filter_map(Weak::upgrade) {
        socket.wake(PollEvents::WRITABLE);
    }
}
