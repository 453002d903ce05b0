//! The wire between a terminal inside and the caller's outside: messages on a socket that keeps their bounds, a letter and what it is about.
//!
//! The sandbox holds this socket instead of the caller's terminal: it can show and be told, and do nothing else to the terminal. Whoever
//! serves the other end takes what comes from it as the word of a stranger.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, recv, sendmsg, socketpair};

use crate::WindowSize;

/// Longest piece of data of one message.
pub const MAX_DATA: usize = 4096;

/// Flags and control characters of a terminal, as `struct termios` of the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of input, output, control, and local ones.
    pub flags: [u32; 4],
    pub chars: [u8; 19],
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What has been typed, or is to be shown.
    Data(Vec<u8>),
    /// To the inside: what has been typed, and shown, while the caller's terminal wasn't in raw mode yet.
    Echoed(Vec<u8>),
    /// To the inside: the settings of the caller's terminal, before anything runs.
    Settings(Settings),
    /// To the inside: rows, columns, and the width and height in pixels of the caller's terminal.
    Size(WindowSize),
    /// To the inside: the caller's terminal processes input and output itself (it isn't in raw mode, or no longer): say so when input is wanted.
    Cooked,
    /// To the inside: the caller's terminal is gone.
    HungUp,
    /// To the outside: input is wanted (`urgent`: waited for), so all that is to be shown from now on has been processed.
    Wanted { urgent: bool },
    /// To the outside: the first process has been stopped by this signal.
    Stopped(i32),
}

impl Message {
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Data(bytes) => (b'd', bytes.clone()),
            Self::Echoed(bytes) => (b'e', bytes.clone()),
            Self::Settings(Settings { flags, chars }) => {
                (b't', [&flags.map(u32::to_le_bytes).concat(), chars.as_slice()].concat())
            }
            Self::Size(size) => (b's', [size.rows, size.columns, size.width, size.height].map(u16::to_le_bytes).concat()),
            Self::Cooked => (b'c', Vec::new()),
            Self::HungUp => (b'h', Vec::new()),
            Self::Wanted { urgent } => (b'w', vec![(*urgent).into()]),
            Self::Stopped(signo) => (b'z', signo.to_le_bytes().to_vec()),
        }
    }

    /// `None`: nonsense.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, body) = bytes.split_first()?;
        let short = |at: usize| body.get(at * 2..at * 2 + 2)?.try_into().ok().map(u16::from_le_bytes);
        let long = |at: usize| body.get(at * 4..at * 4 + 4)?.try_into().ok().map(u32::from_le_bytes);
        Some(match tag {
            b'd' => Self::Data(body.to_vec()),
            b'e' => Self::Echoed(body.to_vec()),
            b't' => {
                let flags = [long(0)?, long(1)?, long(2)?, long(3)?];
                Self::Settings(Settings { flags, chars: body.get(16..)?.try_into().ok()? })
            }
            b's' => Self::Size(WindowSize { rows: short(0)?, columns: short(1)?, width: short(2)?, height: short(3)? }),
            b'c' => Self::Cooked,
            b'h' => Self::HungUp,
            b'w' => Self::Wanted { urgent: *body.first()? != 0 },
            b'z' => Self::Stopped(long(0)?.cast_signed()),
            _ => return None,
        })
    }
}

/// One end.
#[derive(Clone, Debug)]
pub struct Link(Arc<OwnedFd>);

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// A connected pair.
    ///
    /// # Errors
    /// `EMFILE`
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((a.into(), b.into()))
    }

    /// The descriptor, to wait on.
    #[must_use]
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.0
    }

    /// Sends a message, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, `EPIPE` when the other side is gone.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let (tag, body) = message.encode();
        self.post(tag, &body)
    }

    /// Sends data, without waiting: [`MAX_DATA`] bytes of it at most, all or nothing of that; returns how many.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_data(&self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..MAX_DATA).unwrap_or(bytes);
        self.post(b'd', part).map(|()| part.len())
    }

    fn post(&self, tag: u8, body: &[u8]) -> io::Result<()> {
        let pieces = [IoSlice::new(std::slice::from_ref(&tag)), IoSlice::new(body)];
        loop {
            let mut nothing = SendAncillaryBuffer::default();
            match sendmsg(&self.0, &pieces, &mut nothing, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives a message, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, `UnexpectedEof` when the other side is gone, `InvalidData` for what is none.
    pub fn receive(&self) -> io::Result<Message> {
        let mut buffer = [0; MAX_DATA + 1];
        loop {
            match recv(&self.0, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((count, _)) => {
                    let message = Message::decode(buffer.get(..count).unwrap_or_default());
                    return message.ok_or_else(|| io::ErrorKind::InvalidData.into());
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds() {
        let (ours, theirs) = Link::pair().unwrap();
        let size = WindowSize { rows: 1, columns: 2, width: 3, height: 4 };
        let settings = Settings { flags: [1, 2, 3, 4], chars: [7; 19] };
        let all = [
            Message::Data(b"abc".to_vec()),
            Message::Data(Vec::new()),
            Message::Echoed(b"d".to_vec()),
            Message::Settings(settings),
            Message::Size(size),
            Message::Cooked,
            Message::HungUp,
            Message::Wanted { urgent: true },
            Message::Stopped(20),
        ];
        all.iter().for_each(|message| ours.send(message).unwrap());
        for message in &all {
            assert_eq!(&theirs.receive().unwrap(), message);
        }
        assert_eq!(theirs.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(ours.send_data(&[b'x'; MAX_DATA + 1]).unwrap(), MAX_DATA);
        while ours.send(&Message::Cooked).is_ok() {}
        assert_eq!(ours.send(&Message::Cooked).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert_eq!(theirs.receive().unwrap(), Message::Data(vec![b'x'; MAX_DATA]));
        while theirs.receive().is_ok() {}
        assert_eq!(theirs.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [b"".as_slice(), b"x", b"s1234", b"w", b"t", b"z123"] {
            assert_eq!(Message::decode(bytes), None, "{bytes:?}");
        }
    }
}
