//! Network namespaces (network_namespaces(7)): which sockets can be made, and what they share.
#![forbid(unsafe_code)]

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::UserNamespace;
use socket::{Caller, Socket};
use task::NetNamespace;
use unix::{Kind, Names, Unix};

/// A network namespace.
pub struct Namespace {
    ino: u64,
    user_ns: Arc<UserNamespace>,
    pub unix: Arc<Names>,
}

impl Namespace {
    /// A namespace of a user namespace.
    #[must_use]
    pub fn new(user_ns: Arc<UserNamespace>) -> Self {
        Self { ino: auth::new_inum(), user_ns, unix: Arc::default() }
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
    pub fn socket(&self, _caller: &dyn Caller, domain: i32, kind: i32, protocol: i32) -> SysResult<Arc<dyn Socket>> {
        match domain {
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

    fn text(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            "unix" => Some(self.unix.text()),
            _ => None,
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
