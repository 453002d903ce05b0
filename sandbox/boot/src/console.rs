//! The terminal of a program whose other end is outside: on a link to the caller's, or on a pseudoterminal of the host's own.
//!
//! Lines, echo, job control and all settings are those of the terminal inside (kernel/tty); what is outside only passes bytes on. No system
//! call of a program reaches a descriptor of the host's: bytes and sizes do.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use control::{Link, MAX_DATA, Message, Settings, WindowSize};
use hostfs::{Waiter, Watcher};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sync::Mutex;
use tty::{HostEnd, Terminal, Termios, WinSize};

/// Typed bytes that wait for room inside at most, before more are left where they are.
const BACKLOG: usize = 256 << 10;
/// Seconds that a pseudoterminal's other end may leave output where it is before the rest is given up.
const PATIENCE: u32 = 30;
/// Nothing needs to be asked for: what is outside brings input by itself.
const NEVER: u8 = u8::MAX;

/// What leads outside.
pub enum Wire {
    /// To a process of ours that serves a terminal of the host.
    Link(Link),
    /// The slave of a pseudoterminal of the host that passes on every byte (raw mode) and was made for nothing else. The sentry reads and
    /// writes it and asks for its size: nobody but the holder of the master is on it, so there is nothing to be gained by more.
    Pty(Arc<OwnedFd>),
}

impl Wire {
    /// The descriptor that it holds.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }

    fn fd(&self) -> &Arc<OwnedFd> {
        match self {
            Self::Link(link) => link.descriptor(),
            Self::Pty(pty) => pty,
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Link(link) => link.send_data(bytes),
            Self::Pty(pty) => Ok(rustix::io::retry_on_intr(|| rustix::io::write(pty, bytes))?),
        }
    }

    fn receive(&self) -> io::Result<Message> {
        match self {
            Self::Link(link) => link.receive(),
            Self::Pty(pty) => {
                let mut buffer = [0; MAX_DATA];
                match rustix::io::retry_on_intr(|| rustix::io::read(pty, &mut buffer))? {
                    0 => Err(ErrorKind::UnexpectedEof.into()),
                    count => Ok(Message::Data(buffer.get(..count).unwrap_or_default().to_vec())),
                }
            }
        }
    }
}

/// On its way out.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    /// After them it is said that input is wanted; whether urgently.
    wanted: Option<bool>,
}

/// A terminal and the wire to its other end.
pub struct Console {
    terminal: Arc<Terminal>,
    wire: Wire,
    watcher: Arc<Watcher>,
    own: Weak<Self>,
    /// Taken from the terminal. Held while it is sent: the order of bytes matters.
    out: Mutex<Outgoing>,
    /// There is more to be sent, more to be taken in, than who is at it has seen.
    more: [AtomicBool; 2],
    /// Typed, but there was no room.
    rest: Mutex<Vec<u8>>,
    /// The watcher has been asked to tell of input, of room.
    awaited: [AtomicBool; 2],
    /// How urgently input has been asked for since the other side wants to be asked: not at all, by polling, by waiting.
    asked: AtomicU8,
    /// The other side is.
    gone: AtomicBool,
}

/// Input and room.
const DIRECTIONS: [PollFlags; 2] = [PollFlags::IN, PollFlags::OUT];

impl Console {
    /// Ties a terminal to a wire; what the other side has said already holds from the start.
    pub fn new(terminal: Arc<Terminal>, wire: Wire, size: WindowSize, watcher: &Arc<Watcher>) -> Arc<Self> {
        let console = Arc::new_cyclic(|own: &Weak<Self>| Self {
            terminal,
            wire,
            watcher: watcher.clone(),
            own: own.clone(),
            out: Mutex::default(),
            more: Default::default(),
            rest: Mutex::default(),
            awaited: Default::default(),
            asked: AtomicU8::new(NEVER),
            gone: AtomicBool::new(false),
        });
        console.terminal.connect(console.own.clone());
        console.set_size(size);
        console.take_size();
        console.take_in();
        console
    }

    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }

    fn set_size(&self, size: WindowSize) {
        let WindowSize { rows, columns, width, height } = size;
        self.terminal.set_size(WinSize { rows, columns, xpixel: width, ypixel: height });
    }

    /// Has the size that the host's pseudoterminal has, if it has one.
    pub fn take_size(&self) {
        let Wire::Pty(pty) = &self.wire else { return };
        if let Ok(size) = rustix::termios::tcgetwinsize(pty)
            && (size.ws_row, size.ws_col) != (0, 0)
        {
            let (rows, columns) = (size.ws_row, size.ws_col);
            self.set_size(WindowSize { rows, columns, width: size.ws_xpixel, height: size.ws_ypixel });
        }
    }

    /// Asks to be told once when there is input (0) or room (1).
    fn want(&self, direction: usize) {
        let (Some(awaited), Some(events)) = (self.awaited.get(direction), DIRECTIONS.get(direction)) else { return };
        if !awaited.swap(true, Ordering::SeqCst) {
            self.watcher.add(self.wire.fd().clone(), *events, self.own.clone());
        }
    }

    /// Sends what has been written inside, as far as there is room. False when some is left.
    fn send(&self, out: &mut Outgoing) -> bool {
        loop {
            if out.bytes.is_empty() && out.wanted.is_none() {
                out.bytes = self.terminal.take_output(MAX_DATA);
                if out.bytes.is_empty() {
                    return true;
                }
            }
            let sent = match (&self.wire, out.wanted) {
                (Wire::Link(link), Some(urgent)) if out.bytes.is_empty() => {
                    link.send(&Message::Wanted { urgent }).map(|()| out.wanted = None)
                }
                _ => self.wire.send(&out.bytes).map(|count| drop(out.bytes.drain(..count.min(out.bytes.len())))),
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                // Nobody looks.
                Err(_) => *out = Outgoing::default(),
            }
        }
    }

    /// Sends what has been written inside; if there is no room for it, as soon as there is. Whoever is at it already does it for others.
    fn show(&self) {
        let [more, _] = &self.more;
        more.store(true, Ordering::SeqCst);
        while more.load(Ordering::SeqCst) {
            let Some(mut out) = self.out.try_lock() else { return };
            more.store(false, Ordering::SeqCst);
            if !self.send(&mut out) {
                self.want(1);
                return;
            }
        }
    }

    /// Waits until all that has been written inside is sent, or nobody takes it any more. A link's other end is a process of ours, which takes
    /// it or ends.
    pub fn finish(&self) {
        let mut idle = 0;
        loop {
            let mut out = self.out.lock();
            let before = out.bytes.len();
            if self.send(&mut out) {
                drop(out);
                return self.show();
            }
            idle = if out.bytes.len() == before { idle + 1 } else { 0 };
            drop(out);
            if matches!(self.wire, Wire::Pty(_)) && idle > PATIENCE {
                return;
            }
            let mut fds = [PollFd::from_borrowed_fd(self.wire.fd().as_fd(), PollFlags::OUT)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        }
    }

    /// Takes what comes from outside, as far as there is room inside. Whoever is at it already does it for others.
    fn take_in(&self) {
        let [_, more] = &self.more;
        more.store(true, Ordering::SeqCst);
        while more.load(Ordering::SeqCst) && !self.gone.load(Ordering::SeqCst) {
            let Some(mut rest) = self.rest.try_lock() else { return };
            more.store(false, Ordering::SeqCst);
            self.take_into(&mut rest);
        }
    }

    fn take_into(&self, rest: &mut Vec<u8>) {
        loop {
            while !rest.is_empty() && self.terminal.wants_input() {
                let count = self.terminal.receive(rest);
                rest.drain(..count.min(rest.len()));
            }
            if rest.len() >= BACKLOG {
                // `HostEnd::room` comes back.
                return;
            }
            match self.wire.receive() {
                Ok(Message::Data(bytes)) => rest.extend_from_slice(&bytes),
                Ok(message) => self.hear(&message),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.want(0),
                Err(error) if error.kind() == ErrorKind::InvalidData => {}
                Err(_) => return self.hang_up(),
            }
        }
    }

    /// The other side is gone.
    fn hang_up(&self) {
        if !self.gone.swap(true, Ordering::SeqCst) {
            self.terminal.hang_up();
        }
    }

    fn hear(&self, message: &Message) {
        match message {
            Message::Size(size) => self.set_size(*size),
            Message::Settings(Settings { flags, chars }) => {
                let [iflag, oflag, cflag, lflag] = *flags;
                self.terminal.set_termios(Termios { iflag, oflag, cflag, lflag, line: 0, cc: *chars, ispeed: 0, ospeed: 0 });
            }
            Message::Cooked => {
                let mut out = self.out.lock();
                out.bytes.extend(self.terminal.cook_outside(true));
                self.asked.store(0, Ordering::SeqCst);
                drop(out);
                self.show();
                // Who waits for input asks for it.
                self.terminal.settings_changed();
            }
            Message::HungUp => self.hang_up(),
            Message::Echoed(bytes) => self.terminal.receive_echoed(bytes),
            Message::Data(_) | Message::Wanted { .. } | Message::Stopped(_) => {}
        }
    }
}

impl HostEnd for Console {
    fn output(&self) {
        self.show();
    }

    fn room(&self) {
        self.take_in();
    }

    fn wanted(&self, urgent: bool) {
        let level = 1 + u8::from(urgent);
        if self.asked.load(Ordering::SeqCst) >= level {
            return;
        }
        let mut out = self.out.lock();
        if self.asked.fetch_max(level, Ordering::SeqCst) >= level {
            return;
        }
        // What was written until now was not processed, what is written from now on is.
        out.bytes.extend(self.terminal.cook_outside(false));
        out.wanted = Some(urgent);
        drop(out);
        self.show();
    }
}

impl Waiter for Console {
    fn ready(&self, events: PollFlags) {
        let ended = events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        for (awaited, direction) in self.awaited.iter().zip(DIRECTIONS) {
            if ended || events.intersects(direction) {
                awaited.store(false, Ordering::SeqCst);
            }
        }
        self.show();
        self.take_in();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.hang_up();
        // The watcher holds the descriptor too.
        self.watcher.ring();
    }
}
