//! Terminals of the host: the caller's own, or a new one whose other end somebody else holds.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use control::WindowSize;
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// A terminal as it was before; restored on drop.
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Has a terminal pass on every byte: lines, echo and signals are the business of the terminal inside.
    ///
    /// # Errors
    /// `ENOTTY`
    pub fn make(terminal: BorrowedFd<'_>) -> Result<Self> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns of a terminal.
///
/// # Errors
/// `ENOTTY`
pub fn size(terminal: BorrowedFd<'_>) -> Result<WindowSize> {
    let size = tcgetwinsize(terminal)?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Makes a terminal, sends its other end to a socket, and returns this one.
///
/// # Errors
/// When the socket can't be reached.
pub fn for_socket(socket: &Path, size: WindowSize) -> Result<OwnedFd> {
    let told = || format!("--console-socket {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(told)?;
    let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("cannot make a terminal")?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let name = ptsname(&outer, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inner = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).context("cannot open a terminal")?;
    if size.rows != 0 && size.columns != 0 {
        tcsetwinsize(&outer, Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    }
    let fds = [outer.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    // The receiver (containerd, say) makes a file of this name of it.
    sendmsg(&stream, &[IoSlice::new(b"/dev/ptmx")], &mut ancillary, SendFlags::NOSIGNAL).with_context(told)?;
    Ok(inner)
}
