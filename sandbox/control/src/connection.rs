//! Messages on a socket: length (four bytes, little-endian), JSON.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, recvmsg,
    send, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message: arguments and environment of a program may take 2 MiB (execve(2)), several times that as JSON.
const MAX_LEN: usize = 16 << 20;
/// Descriptors that may come with a message: three streams.
pub const MAX_FDS: usize = 8;

/// One end of a connection.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl From<UnixStream> for Connection {
    fn from(stream: UnixStream) -> Self {
        Self(stream)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Connection {
    /// Connects to a sandbox.
    ///
    /// # Errors
    /// `ECONNREFUSED` when it has ended, `ENOENT` when there was none, `EACCES`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self)
    }

    /// A connected pair.
    ///
    /// # Errors
    /// `EMFILE`
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self(a), Self(b)))
    }

    /// A second handle of the same connection.
    ///
    /// # Errors
    /// `EMFILE`
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// How long [`Connection::receive`] waits: for ever if `None`.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(patience)
    }

    /// Sends a message, with descriptors.
    ///
    /// # Errors
    /// `EPIPE` when the other side is gone.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let len =
            u32::try_from(text.len()).ok().filter(|len| *len as usize <= MAX_LEN).ok_or_else(|| invalid("message too long"))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(invalid("too many descriptors"));
        }
        // The length is short enough to go in one piece, and the descriptors with it.
        sendmsg(&self.0, &[IoSlice::new(&len.to_le_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            match send(&self.0, rest, SendFlags::NOSIGNAL) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Receives a message and the descriptors that come with it.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other side is gone, `WouldBlock` when patience is over, `InvalidData` for what is no message.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut head = [0; 4];
        let mut fds = Vec::new();
        let mut got = 0;
        while got < head.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let buffer = head.get_mut(got..).unwrap_or_default();
            let count = match recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => message.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got += count;
        }
        let len = u32::from_le_bytes(head) as usize;
        if len > MAX_LEN {
            return Err(invalid("message too long"));
        }
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while text.len() < len {
            let wanted = (len - text.len()).min(piece.len());
            match recv(&self.0, piece.get_mut(..wanted).unwrap_or_default(), RecvFlags::empty()) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((count, _)) => text.extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok((serde_json::from_slice(&text)?, fds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Process, Request, Response};

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (ours, theirs) = Connection::pair().unwrap();
        let process = Process { argv: vec!["é\n\"".into(); 10_000], ..Process::default() };
        let request = Request::Exec(Box::new(process));
        let sent = request.clone();
        let sender = std::thread::spawn(move || {
            let stdin = io::stdin();
            ours.send(&sent, &[stdin.as_fd(), stdin.as_fd(), stdin.as_fd()]).unwrap();
            ours.send(&Response::Started { pid: 1 }, &[]).unwrap();
            // Longer than any message.
            rustix::io::write(&ours, &u32::MAX.to_le_bytes()).unwrap();
        });
        let (received, fds) = theirs.receive::<Request>().unwrap();
        assert!(received == request && fds.len() == 3);
        let (received, fds) = theirs.receive::<Response>().unwrap();
        assert!(received == Response::Started { pid: 1 } && fds.is_empty());
        assert_eq!(theirs.receive::<Request>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        sender.join().unwrap();
        assert_eq!(theirs.receive::<Request>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nonsense_is_refused() {
        let (ours, theirs) = Connection::pair().unwrap();
        rustix::io::write(&ours, b"\x02\0\0\0{}").unwrap();
        assert_eq!(theirs.receive::<Request>().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
