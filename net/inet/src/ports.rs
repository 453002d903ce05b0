//! Who is bound to which port.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use socket::Flag;
use sync::{MonotonicNs, Mutex, monotonic_ns};

use crate::icmp::Ping;
use crate::ip::Ip;
use crate::tcp::Tcp;
use crate::udp::Udp;

/// `net.ipv4.ip_local_port_range`
pub const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// A socket that can be bound.
pub trait Bound: Send + Sync {
    fn ip(&self) -> &Ip;

    /// Waits for connections. Called under the table's lock: must take none.
    fn is_listening(&self) -> bool {
        false
    }

    fn as_udp(&self) -> Option<Arc<Udp>> {
        None
    }

    fn as_tcp(&self) -> Option<Arc<Tcp>> {
        None
    }

    fn as_ping(&self) -> Option<Arc<Ping>> {
        None
    }
}

/// An address in the sense of bind(2): what it receives for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub addr: IpAddr,
    /// An unspecified IPv6 address doesn't mean IPv4 too.
    pub v6_only: bool,
}

impl Place {
    /// Whether there is an address that both receive for.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let all = |place: &Self| place.addr.is_ipv6() && place.addr.is_unspecified() && !place.v6_only;
        if self.addr.is_ipv4() != other.addr.is_ipv4() {
            return all(self) || all(other);
        }
        self.addr == other.addr || self.addr.is_unspecified() || other.addr.is_unspecified()
    }

    /// Whether it receives for an address, and how well it fits: better for one address than for all, better for one family than for both.
    #[must_use]
    pub fn fits(&self, addr: IpAddr) -> Option<u32> {
        if self.addr == addr {
            return Some(5);
        }
        let same_family = self.addr.is_ipv4() == addr.is_ipv4();
        let all = self.addr.is_unspecified() && (same_family || self.addr.is_ipv6() && !self.v6_only);
        all.then_some(u32::from(same_family))
    }
}

/// A socket at a port.
struct Binding {
    place: Place,
    owner: Weak<dyn Bound>,
    /// What a connection is to.
    remote: Option<SocketAddr>,
}

/// Sockets that were looked at under the lock. They must not end there: that takes the lock.
type Seen = Vec<Arc<dyn Bound>>;

/// What is left of a connection whose end closed first (RFC 9293, TIME-WAIT; also FIN-WAIT-2 without a process).
struct Waiting {
    local: SocketAddr,
    remote: SocketAddr,
    until: MonotonicNs,
    /// Its socket let others have its address.
    reuse: bool,
    /// The other end has closed too.
    both: bool,
}

#[derive(Default)]
struct Table {
    bindings: HashMap<u16, Vec<Binding>>,
    waiting: HashMap<u16, Vec<Waiting>>,
    waiting_total: usize,
    next: u16,
}

/// Ends of connections that are remembered at most (`net.ipv4.tcp_max_tw_buckets`).
const MAX_WAITING: usize = 16384;
/// Sockets at one port at most: looking for one must not take for ever.
const MAX_SHARED: usize = 4096;

/// The ports of one protocol.
#[derive(Default)]
pub struct Ports(Mutex<Table>);

/// Whether a socket at an address keeps another from it.
fn conflicts(new: &Ip, place: &Place, there: &Binding, strict: bool, stream: bool, seen: &mut Seen) -> bool {
    let Some(owner) = there.owner.upgrade() else { return false };
    seen.push(owner.clone());
    let old = owner.ip();
    let (device, other) = (new.common.device(), old.common.device());
    if !place.overlaps(&there.place) || device != 0 && other != 0 && device != other {
        return false;
    }
    if strict {
        return true;
    }
    let both = |flag| new.common.is(flag) && old.common.is(flag);
    let shares_address = both(Flag::ReuseAddress) && !(stream && owner.is_listening());
    let shares_port = both(Flag::ReusePort) && new.owner == old.owner;
    !shares_address && !shares_port
}

impl Table {
    fn taken(&self, port: u16, new: &Ip, place: &Place, strict: bool, stream: bool, seen: &mut Seen) -> bool {
        let all = self.bindings.get(&port);
        let bound = all.is_some_and(|all| all.iter().any(|there| conflicts(new, place, there, strict, stream, seen)));
        let now = monotonic_ns();
        let waits = |waiting: &Waiting| {
            let there = Place { addr: waiting.local.ip(), v6_only: false };
            waiting.until > now && place.overlaps(&there) && (strict || !(waiting.reuse && new.common.is(Flag::ReuseAddress)))
        };
        bound || self.waiting.get(&port).is_some_and(|all| all.iter().any(waits))
    }

    /// Ports to choose from, in an order that nobody guesses.
    fn candidates(&mut self) -> impl Iterator<Item = u16> + use<> {
        let (first, count) = (*EPHEMERAL.start(), EPHEMERAL.end() - EPHEMERAL.start() + 1);
        if self.next == 0 {
            self.next = u16::try_from(RandomState::new().hash_one(0) % u64::from(count)).unwrap_or(0);
        }
        let start = self.next;
        // A small random step, so that ports in a row don't tell how many there have been.
        let step = 1 + u16::try_from(RandomState::new().hash_one(start) % 7).unwrap_or(0);
        self.next = (start + step) % count;
        (0..count).map(move |i| first + (start + i) % count)
    }

    fn enter(&mut self, port: u16, binding: Binding) -> SysResult<()> {
        let all = self.bindings.entry(port).or_default();
        if all.len() >= MAX_SHARED {
            return Err(Errno::EADDRINUSE);
        }
        all.push(binding);
        Ok(())
    }
}

impl Ports {
    /// Binds to a port, or to one of its own choice; returns it.
    ///
    /// # Errors
    /// `EADDRINUSE`
    pub fn bind(&self, owner: &Arc<dyn Bound>, place: Place, port: u16, stream: bool) -> SysResult<u16> {
        let mut seen = Seen::new();
        let mut table = self.0.lock();
        let ip = owner.ip();
        let port = match port {
            0 => {
                let mut candidates = table.candidates();
                candidates.find(|port| !table.taken(*port, ip, &place, true, stream, &mut seen)).ok_or(Errno::EADDRINUSE)?
            }
            port if table.taken(port, ip, &place, false, stream, &mut seen) => return Err(Errno::EADDRINUSE),
            port => port,
        };
        table.enter(port, Binding { place, owner: Arc::downgrade(owner), remote: None })?;
        drop(table);
        Ok(port)
    }

    /// Takes a port for a connection to `remote`: one that nobody has, or else one that only other connections have.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`
    pub fn connect(&self, owner: &Arc<dyn Bound>, addr: IpAddr, remote: SocketAddr) -> SysResult<u16> {
        let mut table = self.0.lock();
        let place = Place { addr, v6_only: false };
        let mut candidates = table.candidates();
        let free = |port: &u16| table.bindings.get(port).is_none_or(Vec::is_empty);
        let other = |there: &Binding| there.remote.is_some_and(|other| other != remote);
        let shareable = |port: &u16| table.bindings.get(port).is_some_and(|all| all.len() < MAX_SHARED && all.iter().all(other));
        let port = candidates.find(free).or_else(|| EPHEMERAL.clone().find(shareable)).ok_or(Errno::EADDRNOTAVAIL)?;
        table.enter(port, Binding { place, owner: Arc::downgrade(owner), remote: Some(remote) })?;
        Ok(port)
    }

    /// Says that the socket at a port is connected to `remote`, if no other is from the same place.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when one is.
    pub fn connected(&self, owner: &Weak<dyn Bound>, port: u16, addr: IpAddr, remote: SocketAddr) -> SysResult<()> {
        let mut table = self.0.lock();
        let all = table.bindings.entry(port).or_default();
        if all.iter().any(|there| there.place.addr == addr && there.remote == Some(remote) && !there.owner.ptr_eq(owner)) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        for own in all.iter_mut().filter(|there| there.owner.ptr_eq(owner)) {
            (own.place, own.remote) = (Place { addr, v6_only: false }, Some(remote));
        }
        Ok(())
    }

    /// Adds a connection to its listener's port.
    pub fn join(&self, owner: &Weak<dyn Bound>, addr: IpAddr, port: u16, remote: SocketAddr) {
        let place = Place { addr, v6_only: false };
        // More than fit are not found by those who look for conflicts, and that is all.
        let _ = self.0.lock().enter(port, Binding { place, owner: owner.clone(), remote: Some(remote) });
    }

    /// Gives a socket another place at its port.
    pub fn move_to(&self, owner: &Weak<dyn Bound>, place: Place, port: u16) {
        let mut table = self.0.lock();
        let all = table.bindings.entry(port).or_default();
        all.iter_mut().filter(|there| there.owner.ptr_eq(owner)).for_each(|own| (own.place, own.remote) = (place, None));
    }

    /// Whether a socket may wait for connections where it is bound.
    #[must_use]
    pub fn may_listen(&self, owner: &Arc<dyn Bound>, port: u16) -> bool {
        let mut seen = Seen::new();
        let table = self.0.lock();
        let itself = Arc::downgrade(owner);
        let all = table.bindings.get(&port).map(Vec::as_slice).unwrap_or_default();
        let Some(own) = all.iter().find(|there| there.owner.ptr_eq(&itself)) else { return true };
        let in_way = all.iter().any(|there| {
            let listening = there.owner.upgrade().is_some_and(|owner| {
                let listening = owner.is_listening();
                seen.push(owner);
                listening
            });
            listening && !there.owner.ptr_eq(&itself) && conflicts(owner.ip(), &own.place, there, false, true, &mut seen)
        });
        drop(table);
        !in_way
    }

    /// Gives a place up.
    pub fn leave(&self, owner: &Weak<dyn Bound>, port: u16) {
        let mut table = self.0.lock();
        if let Some(all) = table.bindings.get_mut(&port) {
            all.retain(|there| !there.owner.ptr_eq(owner));
            if all.is_empty() {
                table.bindings.remove(&port);
            }
        }
    }

    /// Those at a port, the latest first.
    #[must_use]
    pub fn at(&self, port: u16) -> Vec<(Place, Arc<dyn Bound>)> {
        let table = self.0.lock();
        let all = table.bindings.get(&port).into_iter().flatten().rev();
        all.filter_map(|binding| Some((binding.place, binding.owner.upgrade()?))).collect()
    }

    /// Remembers an end of a connection that nobody has open any more, for as long as it says.
    pub fn remember(&self, local: SocketAddr, remote: SocketAddr, reuse: bool, both: bool, ns: u64) {
        let mut table = self.0.lock();
        let now = monotonic_ns();
        if table.waiting_total >= MAX_WAITING {
            table.waiting.values_mut().for_each(|all| all.retain(|waiting| waiting.until > now));
            table.waiting.retain(|_, all| !all.is_empty());
            table.waiting_total = table.waiting.values().map(Vec::len).sum();
            if table.waiting_total >= MAX_WAITING {
                return;
            }
        }
        let all = table.waiting.entry(local.port()).or_default();
        let before = all.len();
        all.retain(|waiting| waiting.until > now && (waiting.local, waiting.remote) != (local, remote));
        all.push(Waiting { local, remote, until: now.saturating_add(ns), reuse, both });
        let after = all.len();
        table.waiting_total = table.waiting_total + after - before;
    }

    /// The other end of a remembered one has closed too; says whether it was still remembered.
    pub fn remembered(&self, local: SocketAddr, remote: SocketAddr, ns: u64) -> bool {
        let mut table = self.0.lock();
        let now = monotonic_ns();
        let all = table.waiting.get_mut(&local.port());
        let found = all.and_then(|all| all.iter_mut().find(|waiting| (waiting.local, waiting.remote) == (local, remote)));
        match found {
            Some(waiting) if waiting.until > now => {
                (waiting.both, waiting.until) = (true, now.saturating_add(ns));
                true
            }
            _ => false,
        }
    }

    /// What is remembered: both ends, whether both have closed, and for how many nanoseconds yet.
    #[must_use]
    pub fn all_remembered(&self) -> Vec<(SocketAddr, SocketAddr, bool, u64)> {
        let now = monotonic_ns();
        let table = self.0.lock();
        let all = table.waiting.values().flatten().filter(|waiting| waiting.until > now);
        all.map(|waiting| (waiting.local, waiting.remote, waiting.both, waiting.until - now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(addr: &str, v6_only: bool) -> Place {
        Place { addr: addr.parse().unwrap(), v6_only }
    }

    #[test]
    fn places_overlap_as_they_receive() {
        let cases = [
            ("0.0.0.0", false, "127.0.0.1", true),
            ("127.0.0.1", false, "127.0.0.2", false),
            ("::", false, "127.0.0.1", true),
            ("::", true, "0.0.0.0", false),
            ("::1", false, "0.0.0.0", false),
            ("::1", false, "::", true),
        ];
        for (one, v6_only, other, overlaps) in cases {
            let (one, other) = (place(one, v6_only), place(other, false));
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (overlaps, overlaps), "{one:?} {other:?}");
        }
    }

    #[test]
    fn the_best_fit_is_the_narrowest() {
        let to: IpAddr = "127.0.0.1".parse().unwrap();
        let fits = |addr, v6_only| place(addr, v6_only).fits(to);
        assert!(fits("127.0.0.1", false) > fits("0.0.0.0", false) && fits("0.0.0.0", false) > fits("::", false));
        assert_eq!((fits("::", true), fits("127.0.0.2", false), fits("::1", false)), (None, None, None));
    }
}
