//! What the IP sockets of a network namespace share.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use sync::{Mutex, RwLock};

use crate::ip::Ip;
use crate::links::{LOOPBACK, Links};
use crate::ports::Ports;
use crate::raw::Raw;

/// Groups that sockets are in, by interface, and how many are.
#[derive(Default)]
pub struct Groups(HashMap<(IpAddr, u32), usize>);

impl Groups {
    pub fn join(&mut self, group: IpAddr, link: u32) {
        *self.0.entry((group, link)).or_default() += 1;
    }

    pub fn leave(&mut self, group: IpAddr, link: u32) {
        if let Some(count) = self.0.get_mut(&(group, link)) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&(group, link));
            }
        }
    }

    /// Whether somebody here is in a group; everybody is in that of all hosts.
    #[must_use]
    pub fn has(&self, group: IpAddr, link: u32) -> bool {
        let all = [IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1))];
        all.contains(&group) || self.0.contains_key(&(group, link))
    }

    /// All, with their interfaces and how many are in each.
    #[must_use]
    pub fn all(&self) -> Vec<(IpAddr, u32, usize)> {
        self.0.iter().map(|((group, link), count)| (*group, *link, *count)).collect()
    }
}

/// A protocol's sockets for /proc/net and ss(8).
#[derive(Clone, Debug)]
pub struct Listing {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// `TCP_*`
    pub state: u8,
    /// Bytes that wait to be read and to be sent (for a listening socket: connections, and its backlog).
    pub receive_queue: usize,
    pub send_queue: usize,
    pub drops: u64,
    pub uid: u32,
    pub ino: u64,
    pub v6_only: bool,
}

/// A socket that can be listed.
pub trait Listed: Send + Sync {
    fn ip(&self) -> &Ip;
    fn listing(&self) -> Option<Listing>;
}

/// Names of what is counted, as /proc/net/snmp has them.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub enum Count {
    TcpActive,
    TcpPassive,
    TcpAttemptFails,
    TcpResets,
    TcpResetsSent,
    TcpIn,
    TcpOut,
    UdpIn,
    UdpOut,
    UdpNoPorts,
    UdpErrors,
    IcmpIn,
    IcmpOut,
    IpIn,
    IpOut,
    IpNoRoutes,
    ListenOverflows,
    Last,
}

/// Counters of a namespace.
#[derive(Default)]
pub struct Counters([AtomicU64; Count::Last as usize]);

impl Counters {
    pub fn add(&self, count: Count, more: u64) {
        if let Some(counter) = self.0.get(count as usize) {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.0.get(count as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// The IP side of a network namespace.
pub struct Stack {
    pub links: RwLock<Links>,
    pub groups: Mutex<Groups>,
    pub tcp: Ports,
    pub udp: Ports,
    /// Identifiers of ping sockets, of both families.
    pub ping: [Ports; 2],
    pub raw: RwLock<Vec<Weak<Raw>>>,
    pub counters: Counters,
    sockets: Mutex<BTreeMap<u64, Weak<dyn Listed>>>,
    privileged: AtomicU16,
}

impl Default for Stack {
    fn default() -> Self {
        Self {
            links: RwLock::default(),
            groups: Mutex::default(),
            tcp: Ports::default(),
            udp: Ports::default(),
            ping: Default::default(),
            raw: RwLock::default(),
            counters: Counters::default(),
            sockets: Mutex::default(),
            privileged: AtomicU16::new(1024),
        }
    }
}

impl Stack {
    /// A namespace with its loopback interface up.
    #[must_use]
    pub fn with_loopback() -> Arc<Self> {
        let stack = Self::default();
        let up = abi::c::IFF_UP.cast_unsigned();
        // It is there: it has just been made.
        let _ = stack.links.write().set_flags(LOOPBACK, up, up);
        Arc::new(stack)
    }

    /// The first port that needs no privilege (`net.ipv4.ip_unprivileged_port_start`).
    #[must_use]
    pub fn privileged_ports(&self) -> u16 {
        self.privileged.load(Ordering::Relaxed)
    }

    pub fn set_privileged_ports(&self, first: u16) {
        self.privileged.store(first, Ordering::Relaxed);
    }

    /// Lists a socket.
    pub fn enter(&self, ino: u64, socket: Weak<dyn Listed>) {
        self.sockets.lock().insert(ino, socket);
    }

    pub fn leave(&self, ino: u64) {
        self.sockets.lock().remove(&ino);
    }

    /// Sockets that there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sockets.lock().len()
    }

    /// All sockets of a family, kind and protocol.
    #[must_use]
    pub fn list(&self, domain: i32, kind: i32, protocol: Option<i32>) -> Vec<Listing> {
        let all: Vec<_> = self.sockets.lock().values().filter_map(Weak::upgrade).collect();
        let wanted = |socket: &&Arc<dyn Listed>| {
            let common = &socket.ip().common;
            common.domain == domain && common.kind == kind && protocol.is_none_or(|protocol| common.protocol == protocol)
        };
        all.iter().filter(wanted).filter_map(|socket| socket.listing()).collect()
    }
}
