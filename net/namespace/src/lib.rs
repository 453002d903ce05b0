//! Network namespaces (network_namespaces(7)): which sockets can be made, and what they share.
#![forbid(unsafe_code)]

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::UserNamespace;
use inet::Stack;
use netlink::Hub;
use socket::{Caller, Socket};
use task::NetNamespace;
use unix::{Kind, Names, Unix};

/// A network namespace.
pub struct Namespace {
    ino: u64,
    user_ns: Arc<UserNamespace>,
    pub unix: Arc<Names>,
    pub inet: Arc<Stack>,
    netlink: Arc<Hub>,
}

impl Namespace {
    /// The first namespace, whose loopback interface is up.
    #[must_use]
    pub fn first(user_ns: Arc<UserNamespace>) -> Self {
        Self::with(user_ns, Stack::with_loopback())
    }

    /// A namespace of a user namespace, with a loopback interface that is down.
    #[must_use]
    pub fn new(user_ns: Arc<UserNamespace>) -> Self {
        Self::with(user_ns, Arc::default())
    }

    fn with(user_ns: Arc<UserNamespace>, inet: Arc<Stack>) -> Self {
        let unix = Arc::<Names>::default();
        Self { ino: auth::new_inum(), user_ns, netlink: Hub::new(inet.clone(), unix.clone()), unix, inet }
    }

    /// The namespace behind what a task has.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` when it is somebody else's.
    pub fn of(namespace: &Arc<dyn NetNamespace>) -> SysResult<Arc<Self>> {
        namespace.clone().as_any().downcast().map_err(|_| Errno::EAFNOSUPPORT)
    }

    /// A new socket (socket(2)); `kind` without flags.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EPERM`, `EINVAL`.
    pub fn socket(&self, caller: &dyn Caller, domain: i32, kind: i32, protocol: i32) -> SysResult<Arc<dyn Socket>> {
        match domain {
            c::AF_NETLINK => Ok(self.netlink.socket(kind, protocol)?),
            c::AF_INET | c::AF_INET6 => inet::socket(&self.inet, caller, domain, kind, protocol),
            c::AF_UNIX => Ok(Unix::new(&self.unix, unix_kind(kind, protocol)?)),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// Two connected sockets (socketpair(2)).
    ///
    /// # Errors
    /// As [`Namespace::socket`]; `EOPNOTSUPP` for families without pairs.
    pub fn pair(&self, caller: &dyn Caller, domain: i32, kind: i32, protocol: i32) -> SysResult<[Arc<dyn Socket>; 2]> {
        if domain == c::AF_UNIX {
            let (one, other) = Unix::pair(&self.unix, unix_kind(kind, protocol)?, caller);
            return Ok([one, other]);
        }
        self.socket(caller, domain, kind, protocol)?.close();
        Err(Errno::EOPNOTSUPP)
    }
}

impl Namespace {
    /// /proc/net/netlink
    fn netlink_text(&self) -> Vec<u8> {
        let mut out = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n".to_owned();
        for (protocol, port, groups, ino) in self.netlink.list() {
            let groups = groups & 0xffff_ffff;
            out.push_str(&format!(
                "{:016x} {protocol:<3} {port:<10} {groups:08x} 0        0        0     2        0        {ino}\n",
                0
            ));
        }
        out.into_bytes()
    }
}

/// Files of /proc/net.
const FILES: &[&str] = &[
    "arp",
    "dev",
    "dev_mcast",
    "fib_trie",
    "icmp",
    "icmp6",
    "if_inet6",
    "igmp",
    "igmp6",
    "ipv6_route",
    "netlink",
    "netstat",
    "packet",
    "protocols",
    "psched",
    "ptype",
    "raw",
    "raw6",
    "route",
    "snmp",
    "snmp6",
    "sockstat",
    "sockstat6",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "unix",
];

fn unix_kind(kind: i32, protocol: i32) -> SysResult<Kind> {
    if protocol != 0 && protocol != c::AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Kind::from_raw(kind)
}

impl NetNamespace for Namespace {
    fn ino(&self) -> u64 {
        self.ino
    }

    fn user_ns(&self) -> &Arc<UserNamespace> {
        &self.user_ns
    }

    fn fresh(&self, user_ns: Arc<UserNamespace>) -> Arc<dyn NetNamespace> {
        Arc::new(Self::new(user_ns))
    }

    fn files(&self) -> &'static [&'static str] {
        FILES
    }

    fn text(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            "unix" => Some(self.unix.text()),
            "ip_unprivileged_port_start" => Some(format!("{}\n", self.inet.privileged_ports()).into_bytes()),
            "sockstat" => Some(
                [format!("sockets: used {}\n", self.unix.count() + self.inet.count()).into_bytes(), self.inet.text(name)?]
                    .concat(),
            ),
            // What there is none of.
            "packet" => Some(b"sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n".to_vec()),
            "netlink" => Some(self.netlink_text()),
            _ => self.inet.text(name),
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
