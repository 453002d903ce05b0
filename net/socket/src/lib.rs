//! What all socket families share (socket(7)).
//!
//! A family implements [`Socket`]; descriptors hold it in a [`SocketFile`]. [`Common`] keeps the options that every socket has. Nothing
//! here waits: calls say `EAGAIN` and where to wait, and the system call's handler does.
#![forbid(unsafe_code)]

mod common;
mod control;
mod file;
mod options;
mod ring;

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use auth::{Capability, Kgid};
use smallvec::SmallVec;
use usermem::IoBuf;
use vfs::{File, IoctlArg};

pub use common::{BUFFER, Common, Flag, MAX_BUFFER, MIN_RECEIVE_BUFFER, MIN_SEND_BUFFER};
pub use control::{Control, ControlReader, arrival, timestamp};
pub use file::SocketFile;
pub use options::{OptionValue, get as get_option, set as set_option, word, word_of};
pub use ring::{Memory, Ring};

/// A socket address as user space sees it (`struct sockaddr_*`).
pub type Name = SmallVec<[u8; 128]>;

/// What is left at a name of the filesystem for those who look for the socket.
pub type Endpoint = Weak<dyn Any + Send + Sync>;

/// `struct ucred`, with ids as the first user namespace numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Credentials {
    /// Of nobody that is known (`overflowuid`).
    pub const NOBODY: Self = Self { pid: 0, uid: 65534, gid: 65534 };

    /// `struct ucred`
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let words = [self.pid.cast_unsigned(), self.uid, self.gid];
        bytes.chunks_exact_mut(4).zip(words).for_each(|(place, word)| place.copy_from_slice(&word.to_le_bytes()));
        bytes
    }
}

/// The task that makes a call.
pub trait Caller {
    /// Process number and effective ids.
    fn credentials(&self) -> Credentials;

    /// Supplementary groups, as the first user namespace numbers them.
    fn groups(&self) -> Arc<[Kgid]>;

    /// Whether it has a capability over its network namespace.
    fn capable(&self, capability: Capability) -> bool;

    /// An open file.
    ///
    /// # Errors
    /// `EBADF`
    fn file(&self, fd: i32) -> SysResult<Arc<File>>;

    /// Makes a socket's file.
    ///
    /// # Errors
    /// `EADDRINUSE` when there is something; as mknod(2).
    fn bind_path(&self, path: &[u8], endpoint: Endpoint) -> SysResult<()>;

    /// Finds what [`Caller::bind_path`] has left.
    ///
    /// # Errors
    /// `ECONNREFUSED` when it is no socket; as open(2).
    fn find_path(&self, path: &[u8]) -> SysResult<Endpoint>;
}

/// What is sent, besides its bytes.
pub struct Outgoing<'a> {
    /// `MSG_*`; `MSG_DONTWAIT` also when the file doesn't block.
    pub flags: i32,
    /// Where to, if said.
    pub to: Option<&'a [u8]>,
    /// Open files that travel along (`SCM_RIGHTS`).
    pub files: Vec<Arc<File>>,
    /// Whom the sender says it is (`SCM_CREDENTIALS`), checked.
    pub credentials: Option<Credentials>,
    /// All control messages, as they came.
    pub control: &'a [u8],
    /// Nobody when a file is written to from within the kernel.
    pub caller: Option<&'a dyn Caller>,
}

impl Outgoing<'_> {
    /// Bytes and nothing else.
    #[must_use]
    pub fn plain(flags: i32) -> Self {
        Self { flags, to: None, files: Vec::new(), credentials: None, control: &[], caller: None }
    }
}

/// What a receiver asks for.
#[derive(Clone, Copy, Default)]
pub struct Request {
    /// `MSG_*`; `MSG_DONTWAIT` also when the file doesn't block.
    pub flags: i32,
    /// The sender's name is asked for.
    pub name: bool,
    /// There is room for control messages.
    pub control: bool,
    /// Bytes that this call has received already: errors wait for the next call.
    pub copied: usize,
}

/// What a receive has found.
#[derive(Default)]
pub struct Received {
    /// Bytes copied.
    pub count: usize,
    /// Bytes that the message had (more than `count` when it was cut).
    pub full: usize,
    /// `MSG_*` for `msg_flags`.
    pub flags: i32,
    /// The sender's name, if asked for and known.
    pub name: Option<Name>,
    pub control: Vec<Control>,
    /// A stream's call ends here, however much was asked for.
    pub stop: bool,
}

/// Which directions shutdown(2) closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shutdown {
    pub read: bool,
    pub write: bool,
}

/// A socket of some family. Defaults say what Linux says where a family can't. Who is told `EAGAIN` waits on the queue of the socket's
/// [`Common`].
pub trait Socket: Send + Sync + Any {
    /// What every socket has.
    fn common(&self) -> &Common;

    /// Whether bytes flow without boundaries.
    fn is_stream(&self) -> bool {
        false
    }

    /// # Errors
    /// As bind(2).
    fn bind(self: Arc<Self>, _caller: &dyn Caller, _address: &[u8]) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// # Errors
    /// As connect(2): `EINPROGRESS` when [`Socket::connected`] is to be waited for; `EAGAIN` when to try again later.
    fn connect(self: Arc<Self>, _caller: &dyn Caller, _address: &[u8]) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// How a connection under way has ended.
    ///
    /// # Errors
    /// `EAGAIN` when it hasn't; as connect(2).
    fn connected(&self) -> SysResult<()> {
        Ok(())
    }

    /// # Errors
    /// As listen(2).
    fn listen(self: Arc<Self>, _caller: &dyn Caller, _backlog: i32) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The next connection, and its peer's name.
    ///
    /// # Errors
    /// As accept(2).
    fn accept(&self) -> SysResult<(Arc<dyn Socket>, Name)> {
        Err(Errno::EOPNOTSUPP)
    }

    /// getsockname(2).
    ///
    /// # Errors
    /// As that.
    fn name(&self) -> SysResult<Name>;

    /// getpeername(2).
    ///
    /// # Errors
    /// `ENOTCONN`
    fn peer_name(&self) -> SysResult<Name> {
        Err(Errno::ENOTCONN)
    }

    /// # Errors
    /// As send(2).
    fn send(&self, buf: &mut IoBuf<'_>, message: &mut Outgoing<'_>) -> SysResult<usize>;

    /// # Errors
    /// As recv(2).
    fn receive(&self, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received>;

    /// # Errors
    /// As shutdown(2).
    fn shutdown(&self, _how: Shutdown) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The value of an option, of which the caller wants up to `room` bytes.
    ///
    /// # Errors
    /// As getsockopt(2).
    fn option(&self, level: i32, name: i32, _room: usize) -> SysResult<OptionValue> {
        if level == abi::c::SOL_SOCKET { get_option(self.common(), name) } else { Err(Errno::EOPNOTSUPP) }
    }

    /// # Errors
    /// As setsockopt(2).
    fn set_option(&self, caller: &dyn Caller, level: i32, name: i32, value: &[u8]) -> SysResult<()> {
        if level == abi::c::SOL_SOCKET { set_option(self.common(), caller, name, value) } else { Err(Errno::ENOPROTOOPT) }
    }

    /// What is ready now.
    fn poll(&self) -> PollEvents;

    /// # Errors
    /// `ENOTTY`; as ioctl(2).
    fn ioctl(&self, _caller: Option<&dyn Caller>, _arg: &IoctlArg<'_>) -> SysResult<u64> {
        Err(Errno::ENOTTY)
    }

    /// The last descriptor is gone.
    fn close(&self);

    /// Access to the concrete type.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}
