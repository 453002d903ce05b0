//! A socket as an open file.

use std::any::Any;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{SysResult, c};
use sync::WaitQueue;
use usermem::IoBuf;
use vfs::{Attr, File, FileOps, IoctlArg};

use crate::{Outgoing, Request, Socket};

/// What a descriptor of a socket refers to. Its end closes the socket.
pub struct SocketFile(Arc<dyn Socket>);

impl SocketFile {
    /// Opens `socket`, with `O_NONBLOCK` in `flags` or not.
    #[must_use]
    pub fn open(socket: Arc<dyn Socket>, flags: i32) -> Arc<File> {
        File::new(Arc::new(Self(socket)), None, c::O_RDWR | flags & c::O_NONBLOCK)
    }

    /// The socket of an open file, if it is one's.
    #[must_use]
    pub fn of(file: &File) -> Option<&Arc<dyn Socket>> {
        file.ops.as_any().downcast_ref().map(|Self(socket)| socket)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl FileOps for SocketFile {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        self.0.receive(buf, &Request::default()).map(|received| received.count)
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        self.0.send(buf, &mut Outgoing::plain(0))
    }

    fn poll(&self) -> PollEvents {
        self.0.poll()
    }

    fn can_signal(&self) -> bool {
        true
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.common().queue)
    }

    fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        self.0.ioctl(None, arg)
    }

    fn anonymous_attr(&self) -> Attr {
        Attr { dev: 8, ino: self.0.common().ino, nlink: 1, mode: c::S_IFSOCK | 0o777, ..Attr::default() }
    }

    fn describe(&self) -> String {
        format!("socket:[{}]", self.0.common().ino)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
