//! Host descriptors that the sandbox is given: standard input, output and error.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sync::WaitQueue;
use usermem::{Access, IoBuf, UserMemoryExt};
use vfs::{Attr, FileOps, IoctlArg};

use crate::watch::{Waiter, Watcher};

/// A write of this many bytes doesn't block where poll(2) has found room (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;

/// A terminal, pipe, socket or file of the host, used as a stream.
pub struct HostStream {
    fd: Arc<OwnedFd>,
    watcher: Arc<Watcher>,
    own: Weak<Self>,
    queue: WaitQueue,
    terminal: bool,
    /// Bytes of one write.
    piece: usize,
    /// The watcher has been asked to tell of input, of room.
    awaited: [AtomicBool; 2],
}

/// Input and room.
const DIRECTIONS: [PollFlags; 2] = [PollFlags::IN, PollFlags::OUT];

impl HostStream {
    /// Wraps a descriptor.
    pub fn new(fd: OwnedFd, watcher: &Arc<Watcher>) -> Arc<Self> {
        let terminal = rustix::termios::isatty(&fd);
        let regular = rustix::fs::fstat(&fd).is_ok_and(|stat| stat.st_mode & c::S_IFMT == c::S_IFREG);
        Arc::new_cyclic(|own| Self {
            fd: Arc::new(fd),
            watcher: watcher.clone(),
            own: own.clone(),
            queue: WaitQueue::default(),
            terminal,
            piece: if regular { usize::MAX } else { PIECE },
            awaited: Default::default(),
        })
    }

    /// Whether it is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What poll(2) says now.
    fn ready(&self) -> PollEvents {
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN | PollFlags::OUT)];
        if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_err() {
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

    /// Has the queue woken when there is input (0) or room (1).
    fn want(&self, direction: usize) {
        let (Some(awaited), Some(events)) = (self.awaited.get(direction), DIRECTIONS.get(direction)) else { return };
        if !awaited.swap(true, Ordering::SeqCst) {
            self.watcher.add(self.fd.clone(), *events, self.own.clone());
        }
    }
}

impl Waiter for HostStream {
    fn ready(&self, events: PollFlags) {
        let ended = events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        for (awaited, direction) in self.awaited.iter().zip(DIRECTIONS) {
            if ended || events.intersects(direction) {
                awaited.store(false, Ordering::SeqCst);
            }
        }
        let mut told = PollEvents::empty();
        if ended || events.intersects(PollFlags::IN) {
            told |= PollEvents::READABLE | PollEvents::HUP;
        }
        if ended || events.intersects(PollFlags::OUT) {
            told |= PollEvents::WRITABLE;
        }
        self.queue.wake(told);
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        // The watcher holds the descriptor too.
        if self.awaited.iter().any(|awaited| awaited.load(Ordering::SeqCst)) {
            self.watcher.ring();
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
        if !self.ready().intersects(PollEvents::READABLE | PollEvents::HUP | PollEvents::ERR) {
            self.want(0);
            return Err(Errno::EAGAIN);
        }
        buf.host_io(Access::Write, &mut |segments| usermem::readv(self.fd(), segments))
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let mut total = 0;
        while buf.remaining() > 0 {
            // The host's own waiting could not be ended by a signal inside.
            if !self.ready().intersects(PollEvents::WRITABLE | PollEvents::HUP | PollEvents::ERR) {
                self.want(1);
                return if total == 0 { Err(Errno::EAGAIN) } else { Ok(total) };
            }
            match buf.host_io_up_to(self.piece, Access::Read, &mut |segments| usermem::writev(self.fd(), segments)) {
                Ok(count) => total += count,
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    fn poll(&self) -> PollEvents {
        let events = self.ready();
        if !events.intersects(PollEvents::READABLE | PollEvents::HUP) {
            self.want(0);
        }
        if !events.intersects(PollEvents::WRITABLE | PollEvents::HUP | PollEvents::ERR) {
            self.want(1);
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

    fn reopen(self: Arc<Self>, _: i32) -> SysResult<Arc<dyn FileOps>> {
        // The same end: the host's name of it is nobody's business here.
        Ok(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
