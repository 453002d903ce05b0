//! A process that restores a terminal when the one that has put it into raw mode is killed.

use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The keeper, as who is kept sees it: not told otherwise, it acts when this is dropped or the process ends.
pub struct Keeper(PipeWriter);

impl Keeper {
    /// Starts one for a terminal that is about to be changed from `before` to `raw`. The caller must have one thread.
    ///
    /// # Errors
    /// `EMFILE`, `EAGAIN`
    pub fn start(terminal: BorrowedFd<'_>, before: &Termios, raw: &Termios) -> std::io::Result<Self> {
        let (mut reader, writer) = pipe()?;
        if jail::fork()?.is_some() {
            return Ok(Self(writer));
        }
        // In a session of its own it is out of the reach of keys and of what is sent to the caller's process group.
        let _ = rustix::process::setsid();
        let kept = jail::close_others(&[terminal.as_raw_fd(), reader.as_raw_fd()]);
        std::mem::forget(writer);
        let killed = kept.is_ok() && reader.read(&mut [0]).is_ok_and(|count| count == 0);
        // Whoever has changed it since knows better.
        if killed && tcgetattr(terminal).is_ok_and(|now| same(&now, raw)) {
            let _ = tcsetattr(terminal, OptionalActions::Now, before);
        }
        // No destructor of the process that this is a copy of.
        std::process::exit(0)
    }

    /// The terminal is restored: there is nothing to do any more.
    pub fn dismiss(mut self) {
        let _ = self.0.write_all(b"!");
    }
}

/// Whether a terminal has these settings.
pub fn same(one: &Termios, other: &Termios) -> bool {
    one.input_modes == other.input_modes
        && one.output_modes == other.output_modes
        && one.control_modes == other.control_modes
        && one.local_modes == other.local_modes
}
