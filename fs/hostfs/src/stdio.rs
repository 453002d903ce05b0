//! Host descriptors that the sandbox is given: standard input, output and error.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use rustix::event::{PollFd, PollFlags, poll};
use sync::{Parker, WaitQueue};
use usermem::{Access, IoBuf, UserMemoryExt};
use vfs::{Attr, FileOps, IoctlArg};

/// A terminal, pipe, socket or file of the host, used as a stream.
pub struct HostStream {
    fd: OwnedFd,
    queue: WaitQueue,
    terminal: bool,
    /// Unparked by who wants input and finds none.
    wanted: Parker,
}

impl HostStream {
    /// Wraps a descriptor. Somebody must run [`HostStream::watch`] for reads that wait.
    pub fn new(fd: OwnedFd) -> Arc<Self> {
        let terminal = rustix::termios::isatty(&fd);
        Arc::new(Self { fd, queue: WaitQueue::default(), terminal, wanted: Parker::default() })
    }

    /// Whether it is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    fn ready(&self, timeout: Option<Duration>) -> PollEvents {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN | PollFlags::OUT | PollFlags::HUP)];
        let timeout = timeout.and_then(|timeout| rustix::event::Timespec::try_from(timeout).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return PollEvents::ERR;
        }
        let [fd] = fds;
        let mut events = PollEvents::from_bits_truncate(fd.revents().bits().into());
        if events.contains(PollEvents::IN) {
            events |= PollEvents::READABLE;
        }
        if events.contains(PollEvents::OUT) {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    /// Watches for input, for ever, on a thread of its own: sleeps until somebody has found none, then until the host has some.
    pub fn watch(&self) {
        loop {
            self.wanted.park(None);
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            if poll(&mut fds, None).is_ok() {
                self.queue.wake(PollEvents::READABLE | PollEvents::HUP);
            }
        }
    }
}

impl FileOps for HostStream {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        if !self.ready(Some(Duration::ZERO)).intersects(PollEvents::READABLE | PollEvents::HUP | PollEvents::ERR) {
            self.wanted.unpark();
            return Err(Errno::EAGAIN);
        }
        buf.host_io(Access::Write, &mut |segments| usermem::readv(self.fd.as_fd(), segments))
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let mut total = 0;
        while buf.remaining() > 0 {
            match buf.host_io(Access::Read, &mut |segments| usermem::writev(self.fd.as_fd(), segments)) {
                Ok(count) => total += count,
                // The other side is slow: the host makes us wait, as it would the guest.
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
                    let _ = poll(&mut fds, None);
                }
                Err(Errno::EINTR) => {}
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn poll(&self) -> PollEvents {
        let events = self.ready(Some(Duration::ZERO));
        if !events.intersects(PollEvents::READABLE | PollEvents::HUP) {
            self.wanted.unpark();
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        if !self.terminal {
            return Err(Errno::ENOTTY);
        }
        match u64::from(arg.cmd) {
            c::TCGETS => {
                let termios = rustix::termios::tcgetattr(&self.fd)?;
                let flags = [
                    termios.input_modes.bits(),
                    termios.output_modes.bits(),
                    termios.control_modes.bits(),
                    termios.local_modes.bits(),
                ];
                let mut bytes = [0; 36];
                for (place, flag) in bytes.chunks_exact_mut(4).zip(flags) {
                    place.copy_from_slice(&flag.to_le_bytes());
                }
                arg.memory.write(arg.arg, &bytes)?;
                Ok(0)
            }
            c::TIOCGWINSZ => {
                let size = rustix::termios::tcgetwinsize(&self.fd)?;
                let words = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
                arg.memory.write(arg.arg, &words.map(u16::to_le_bytes).concat())?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn anonymous_attr(&self) -> Attr {
        match rustix::fs::fstat(&self.fd) {
            Ok(stat) => Attr {
                dev: 1,
                ino: stat.st_ino,
                nlink: 1,
                mode: stat.st_mode,
                rdev: stat.st_rdev,
                size: stat.st_size.cast_unsigned(),
                ..Attr::default()
            },
            Err(_) => Attr::default(),
        }
    }

    fn describe(&self) -> String {
        if self.terminal { "/dev/console".into() } else { "host:[stdio]".into() }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
