//! AF_NETLINK sockets (netlink(7), rtnetlink(7), sock_diag(7)).
#![forbid(unsafe_code)]

mod change;
mod diag;
mod message;
mod route;
mod socket;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult, c};
use inet::Stack;
use sync::Mutex;
use unix::Names;

pub use crate::socket::Netlink;

/// Groups of one protocol at most.
pub(crate) const MAX_GROUPS: u32 = 64;

/// Protocol and port.
type Key = (i32, u32);

/// The netlink side of a network namespace.
pub struct Hub {
    pub(crate) inet: Arc<Stack>,
    pub(crate) unix: Arc<Names>,
    bound: Mutex<BTreeMap<Key, Weak<Netlink>>>,
}

impl Hub {
    #[must_use]
    pub fn new(inet: Arc<Stack>, unix: Arc<Names>) -> Arc<Self> {
        Arc::new(Self { inet, unix, bound: Mutex::default() })
    }

    /// A new socket; `kind` without flags.
    ///
    /// # Errors
    /// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
    pub fn socket(self: &Arc<Self>, kind: i32, protocol: i32) -> SysResult<Arc<Netlink>> {
        if kind != c::SOCK_RAW && kind != c::SOCK_DGRAM {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        let known = [c::NETLINK_ROUTE, c::NETLINK_SOCK_DIAG, c::NETLINK_KOBJECT_UEVENT, c::NETLINK_USERSOCK];
        if !known.contains(&protocol) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        Ok(Netlink::new(self, kind, protocol))
    }

    /// Takes a port for a socket: the wanted one, or one of its own choice (the process's number, if nobody has it).
    pub(crate) fn bind(&self, socket: &Weak<Netlink>, protocol: i32, wanted: Option<u32>, process: u32) -> SysResult<u32> {
        let mut bound = self.bound.lock();
        let free = |port: u32, bound: &BTreeMap<Key, Weak<Netlink>>| !bound.contains_key(&(protocol, port));
        let port = match wanted {
            Some(port) if free(port, &bound) => port,
            Some(_) => return Err(Errno::EADDRINUSE),
            None if free(process, &bound) => process,
            None => {
                let mut other = (0x8000_0000..=u32::MAX - 4096).rev();
                other.find(|port| free(*port, &bound)).ok_or(Errno::EADDRINUSE)?
            }
        };
        bound.insert((protocol, port), socket.clone());
        Ok(port)
    }

    pub(crate) fn leave(&self, protocol: i32, port: u32) {
        self.bound.lock().remove(&(protocol, port));
    }

    pub(crate) fn find(&self, protocol: i32, port: u32) -> Option<Arc<Netlink>> {
        self.bound.lock().get(&(protocol, port)).and_then(Weak::upgrade)
    }

    fn all(&self, protocol: i32) -> Vec<Arc<Netlink>> {
        self.bound.lock().range((protocol, 0)..=(protocol, u32::MAX)).filter_map(|(_, socket)| socket.upgrade()).collect()
    }

    /// Gives a message to all in a group but its sender.
    pub(crate) fn multicast(&self, protocol: i32, group: u32, from: u32, message: &[u8]) {
        for socket in self.all(protocol) {
            if socket.is_member(group) && (from == 0 || socket.port() != from) {
                socket.take_in(message.to_vec(), from, group);
            }
        }
    }

    /// All sockets: protocol, port, groups, inode (for /proc/net/netlink).
    #[must_use]
    pub fn list(&self) -> Vec<(i32, u32, u64, u64)> {
        let bound: Vec<_> = self.bound.lock().iter().filter_map(|(key, socket)| Some((*key, socket.upgrade()?))).collect();
        bound.iter().map(|((protocol, port), socket)| (*protocol, *port, socket.groups(), socket.ino())).collect()
    }
}
