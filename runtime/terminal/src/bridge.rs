//! What passes between the caller's terminal and the one inside, and between the caller's job control and a program's.

use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use control::{Link, Message};
use jail::{Incoming, Signals};
use rustix::event::{PollFd, PollFlags, poll};

use crate::tty::Tty;

/// What this process stands for.
pub trait Program {
    /// What tells of its end; `None`: `SIGCHLD` does.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Its exit status once it has ended. `ready`: the descriptor has something to say.
    ///
    /// # Errors
    /// When that can't be known.
    fn ended(&mut self, ready: bool) -> io::Result<Option<i32>>;

    /// Sends it a signal, or all of its process group.
    fn signal(&mut self, signo: i32, group: bool);
}

/// A child of this process.
pub struct Child(pub i32);

impl Program for Child {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn ended(&mut self, _: bool) -> io::Result<Option<i32>> {
        jail::reap(self.0)
    }

    fn signal(&mut self, signo: i32, group: bool) {
        jail::send(self.0, signo, group);
    }
}

/// How much somebody inside wants input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    No,
    /// They look whether there is any.
    Polled,
    /// They wait for it.
    Waited,
}

/// Keys, whose signals are for a whole process group.
const KEYS: [i32; 3] = [2, 3, jail::SIGTSTP];

/// Messages dealt with at a time.
const MESSAGES: usize = 16;

/// Everything that passes.
pub struct Bridge {
    link: Option<Link>,
    tty: Option<Tty>,
    /// What the sandbox itself says.
    errors: Option<PipeReader>,
    wanted: Wanted,
    /// Typed, and not sent.
    typed: Vec<u8>,
    /// The terminal stays as it is until somebody wants input.
    lazy: bool,
    /// The terminal is gone.
    gone: bool,
}

/// The signals that a bridge wants to be told of, beside those that are passed on.
const SIGNALS: [i32; 3] = [jail::SIGTSTP, jail::SIGCONT, jail::SIGWINCH];

impl Bridge {
    /// Between a terminal of the caller's and a link, at once.
    #[must_use]
    pub fn new(link: Link, tty: Tty) -> Self {
        let bridge = Self {
            link: Some(link),
            tty: Some(tty),
            errors: None,
            wanted: Wanted::Waited,
            typed: Vec::new(),
            lazy: false,
            gone: false,
        };
        bridge.tell_size();
        bridge
    }

    /// Between a terminal of the caller's, if there is one, and a link, once somebody inside wants input.
    #[must_use]
    pub fn lazily(link: Link, tty: Option<Tty>) -> Self {
        let bridge = Self { link: Some(link), tty, errors: None, wanted: Wanted::No, typed: Vec::new(), lazy: true, gone: false };
        if let Some(tty) = &bridge.tty {
            bridge.tell(&Message::Settings(tty.settings()));
            bridge.tell_size();
            bridge.tell(&Message::Cooked);
        }
        bridge
    }

    /// Shows what comes from a new pipe as well, whose other end is returned.
    ///
    /// # Errors
    /// `EMFILE`
    pub fn show_errors(&mut self) -> io::Result<OwnedFd> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        self.errors = Some(reader);
        Ok(writer.into())
    }

    /// The descriptors that it holds.
    #[must_use]
    pub fn raw_fds(&self) -> Vec<RawFd> {
        let own = [self.link.as_ref().map(|link| link.as_fd().as_raw_fd()), self.errors.as_ref().map(AsRawFd::as_raw_fd)];
        own.into_iter().flatten().chain(self.tty.iter().flat_map(Tty::raw_fds)).collect()
    }

    /// The signals to take: those to be passed on, and the bridge's own.
    #[must_use]
    pub fn signals(passed_on: &[i32]) -> Vec<i32> {
        let stops = [jail::SIGTTIN, jail::SIGTTOU];
        passed_on.iter().filter(|signo| !stops.contains(signo)).chain(&SIGNALS).copied().collect()
    }

    fn tell(&self, message: &Message) {
        let Some(link) = &self.link else { return };
        while let Err(error) = link.send(message) {
            if error.kind() != ErrorKind::WouldBlock || poll(&mut [PollFd::new(link, PollFlags::OUT)], None).is_err() {
                return;
            }
        }
    }

    fn tell_size(&self) {
        if let Some(tty) = &self.tty {
            self.tell(&Message::Size(tty.size()));
        }
    }

    /// Stands for a program until it ends; returns its exit status. The terminal is as it was then.
    ///
    /// # Errors
    /// What waiting says.
    pub fn attend(mut self, program: &mut impl Program, signals: &Signals) -> io::Result<i32> {
        let mut ready = false;
        loop {
            if let Some(status) = program.ended(ready)? {
                self.drain();
                return Ok(status);
            }
            self.settle();
            ready = self.step(program, signals)?;
        }
    }

    /// Waits for something to happen and deals with it; returns whether the program's descriptor has something to say.
    fn step(&mut self, program: &mut impl Program, signals: &Signals) -> io::Result<bool> {
        let input = self.tty.as_ref().filter(|tty| tty.is_raw() && self.typed.is_empty()).and_then(|tty| tty.input.as_ref());
        let on_link = if self.typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let sources: [(Option<BorrowedFd<'_>>, PollFlags); 5] = [
            (Some(signals.as_fd()), PollFlags::IN),
            (program.fd(), PollFlags::IN),
            (self.link.as_ref().map(AsFd::as_fd), on_link),
            (self.errors.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (input.map(AsFd::as_fd), PollFlags::IN),
        ];
        let mut fds: Vec<PollFd<'_>> =
            sources.into_iter().filter_map(|(fd, events)| Some(PollFd::from_borrowed_fd(fd?, events))).collect();
        if poll(&mut fds, None).is_err() {
            return Ok(false);
        }
        let mut events = fds.iter().map(PollFd::revents);
        let ready = sources.map(|(fd, _)| fd.and_then(|_| events.next()).unwrap_or(PollFlags::empty()));
        let [on_signal, on_program, on_link, on_errors, on_input] = ready;
        if !on_errors.is_empty() {
            self.pass_errors();
        }
        if !on_link.is_empty() {
            self.pass_typed();
            self.hear(program);
        }
        if !on_input.is_empty() {
            self.take_typed();
        }
        if !on_signal.is_empty() {
            let signal = signals.next()?;
            self.on_signal(program, signal);
        }
        Ok(!on_program.is_empty())
    }

    /// Takes the terminal for somebody who wants input, once that may be done.
    fn settle(&mut self) {
        let Some(tty) = &mut self.tty else { return };
        if self.wanted == Wanted::No || tty.is_raw() || self.gone {
            return;
        }
        while !tty.is_ours() {
            if self.wanted == Wanted::Polled {
                return;
            }
            // As if the program had read it natively. Where nobody would continue us, there is nothing to be had.
            if !tty.is_there() || !jail::stop_by(jail::SIGTTIN, true) {
                return self.hang_up();
            }
        }
        match tty.make_raw() {
            Ok((ahead, shown)) => {
                let say = if shown { Message::Echoed } else { Message::Data };
                ahead.chunks(control::MAX_DATA).for_each(|piece| self.tell(&say(piece.to_vec())));
                self.tell_size();
            }
            Err(_) => self.hang_up(),
        }
    }

    /// The terminal is gone.
    fn hang_up(&mut self) {
        if let Some(tty) = self.tty.as_mut().filter(|_| !self.gone) {
            tty.input = None;
            tty.leave();
            self.gone = true;
            self.tell(&Message::HungUp);
        }
        self.wanted = Wanted::No;
    }

    fn take_typed(&mut self) {
        let Some(tty) = &mut self.tty else { return };
        match tty.read() {
            Ok(bytes) if bytes.is_empty() && tty.is_there() => tty.input = None,
            Ok(bytes) if bytes.is_empty() => self.hang_up(),
            Ok(bytes) => {
                self.typed = bytes;
                self.pass_typed();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.hang_up(),
        }
    }

    fn pass_typed(&mut self) {
        let Some(link) = &self.link else { return self.typed.clear() };
        while !self.typed.is_empty() {
            match link.send_data(&self.typed) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.typed.clear(),
            }
        }
    }

    /// Hears what has been said inside; not all of it at a time, for keys and signals come between.
    fn hear(&mut self, program: &mut impl Program) {
        for _ in 0..MESSAGES {
            let Some(link) = &self.link else { return };
            match link.receive() {
                Ok(Message::Data(bytes)) => {
                    if let Some(tty) = &self.tty {
                        tty.show(&bytes);
                    }
                }
                Ok(Message::Wanted { urgent }) => {
                    self.wanted = self.wanted.max(if urgent { Wanted::Waited } else { Wanted::Polled });
                    self.settle();
                }
                Ok(Message::Stopped(signo)) => self.stop(program, signo),
                // No business of the other side.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::InvalidData => {}
                Err(_) => self.link = None,
            }
        }
    }

    fn pass_errors(&mut self) {
        let Some(reader) = &mut self.errors else { return };
        let mut buffer = [0; 4096];
        match reader.read(&mut buffer) {
            Ok(0) => self.errors = None,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                let Some(tty) = &self.tty else { return };
                if tty.is_raw() {
                    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
                    tty.show(&lines.join(b"\r\n".as_slice()));
                } else {
                    tty.show(bytes);
                }
            }
            Err(_) => {}
        }
    }

    /// The program has been stopped, or could have been natively: so is this process, for its shell to see.
    fn stop(&mut self, program: &mut impl Program, signo: i32) {
        if ![jail::SIGSTOP, jail::SIGTSTP, jail::SIGTTIN, jail::SIGTTOU].contains(&signo) {
            return;
        }
        let was_raw = self.tty.as_ref().is_some_and(Tty::is_raw);
        if let Some(tty) = &mut self.tty {
            tty.restore();
        }
        // A key that we have got instead of the terminal's own is for the others as well.
        jail::stop_by(signo, was_raw && signo == jail::SIGTSTP);
        self.go_on(program, was_raw);
    }

    /// This process has been continued: so is the program.
    fn go_on(&mut self, program: &mut impl Program, was_raw: bool) {
        if let Some(tty) = &mut self.tty
            && was_raw
        {
            if tty.is_ours() {
                self.wanted = Wanted::Waited;
                self.settle();
            } else if self.lazy {
                self.wanted = Wanted::No;
                self.tell(&Message::Cooked);
            }
        }
        self.tell_size();
        program.signal(jail::SIGCONT, true);
    }

    fn on_signal(&mut self, program: &mut impl Program, signal: Incoming) {
        let Incoming { signo, from_kernel, .. } = signal;
        match signo {
            jail::SIGCHLD => {}
            jail::SIGWINCH if self.tty.is_some() => self.tell_size(),
            jail::SIGCONT => {
                // Somebody has stopped us in a way that can't be seen coming, and may have used the terminal since.
                let was_raw = self.tty.as_ref().is_some_and(Tty::is_raw);
                if let Some(tty) = self.tty.as_mut().filter(|_| was_raw) {
                    tty.leave();
                }
                self.go_on(program, was_raw);
            }
            jail::SIGHUP if self.tty.as_ref().is_some_and(|tty| !tty.is_there()) => self.hang_up(),
            _ => program.signal(signo, from_kernel && KEYS.contains(&signo)),
        }
    }

    /// Shows what is still on its way from a program that has ended.
    fn drain(&mut self) {
        while let Some(Ok(message)) = self.link.as_ref().map(Link::receive) {
            if let (Message::Data(bytes), Some(tty)) = (message, &self.tty) {
                tty.show(&bytes);
            }
        }
        loop {
            let Some(reader) = &mut self.errors else { return };
            let mut fds = [PollFd::new(reader, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            if !poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0) {
                return;
            }
            self.pass_errors();
        }
    }
}
