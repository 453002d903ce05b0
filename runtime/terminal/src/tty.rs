//! The terminal outside.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use control::{Settings, WindowSize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};

use crate::keeper::{Keeper, same};

/// Control characters in the order of the kernel's `c_cc`.
const CHARS: [SpecialCodeIndex; 17] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VTIME,
    SpecialCodeIndex::VMIN,
    SpecialCodeIndex::VSWTC,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];

/// Bytes that are typed ahead at most.
const AHEAD: usize = 4096;

/// A terminal of the host, and what passes through it.
pub struct Tty {
    /// Whose settings are changed.
    control: OwnedFd,
    /// Where what is typed comes from; `None` when nothing more does.
    pub(crate) input: Option<OwnedFd>,
    output: OwnedFd,
    /// How it was.
    before: Termios,
    /// How it is now, as far as we have changed it.
    raw: Option<Termios>,
    keeper: Option<Keeper>,
    /// It is restored even if this process is killed.
    kept: bool,
}

/// Whether bytes can be read, written.
fn modes(fd: BorrowedFd<'_>) -> (bool, bool) {
    match fcntl_getfl(fd).map(|flags| flags & OFlags::RWMODE) {
        Ok(OFlags::WRONLY) => (false, true),
        Ok(OFlags::RDWR) => (true, true),
        _ => (true, false),
    }
}

/// Whether two descriptors are on the same terminal; /dev/tty is whichever it is.
fn on_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let any = rustix::fs::makedev(5, 0);
    let device = |fd| rustix::fs::fstat(fd).map(|stat| stat.st_rdev);
    matches!((device(one), device(other)), (Ok(a), Ok(b)) if a == b || a == any || b == any)
}

impl Tty {
    /// The terminal of the standard streams, and which of them are on it. `None` where none is on any.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn of_streams() -> io::Result<Option<(Self, [bool; 3])>> {
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
        let Some(first) = streams.into_iter().find(|fd| isatty(fd)) else { return Ok(None) };
        let on = streams.map(|fd| isatty(fd) && on_same(fd, first));
        let those = || streams.into_iter().zip(on).filter(|(_, on)| *on).map(|(fd, _)| fd);
        let tty = || std::fs::File::options().read(true).write(true).open("/dev/tty").map(OwnedFd::from);
        let one = |usable: fn((bool, bool)) -> bool| match those().find(|fd| usable(modes(*fd))) {
            Some(fd) => fd.try_clone_to_owned(),
            None => tty(),
        };
        // A terminal that can only be written to, and isn't the session's, has nothing to read.
        let typed = one(|(read, _)| read).ok();
        let shown = one(|(_, write)| write)?;
        Ok(Some((Self::new(first.try_clone_to_owned()?, typed, shown)?, on)))
    }

    /// A terminal with the standard streams for what is typed and shown, whatever they are: one of them is on it. `None` where none is.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn beside_streams() -> io::Result<Option<Self>> {
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
        let Some(tty) = streams.into_iter().find(|fd| isatty(fd)) else { return Ok(None) };
        let clone = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        Self::new(clone(tty)?, Some(clone(input.as_fd())?), clone(output.as_fd())?).map(Some)
    }

    /// A pseudoterminal that is nobody else's. Where this process leads a session without a terminal, it hears of changes of its size.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn own(slave: OwnedFd) -> io::Result<Self> {
        let _ = rustix::process::ioctl_tiocsctty(&slave);
        // Waiting is done with poll(2), and writing must not fail for want of room.
        rustix::fs::fcntl_setfl(&slave, fcntl_getfl(&slave)? - OFlags::NONBLOCK)?;
        let (typed, shown) = (slave.try_clone()?, slave.try_clone()?);
        let mut tty = Self::new(slave, Some(typed), shown)?;
        tty.kept = false;
        Ok(tty)
    }

    fn new(control: OwnedFd, input: Option<OwnedFd>, output: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&control)?;
        Ok(Self { control, input, output, before, raw: None, keeper: None, kept: true })
    }

    /// The descriptors that it holds.
    pub(crate) fn raw_fds(&self) -> Vec<RawFd> {
        let all = [Some(&self.control), self.input.as_ref(), Some(&self.output)];
        all.into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let Termios { input_modes, output_modes, control_modes, local_modes, special_codes, .. } = &self.before;
        let mut chars = [0; 19];
        chars.iter_mut().zip(CHARS).for_each(|(place, index)| *place = special_codes[index]);
        Settings { flags: [input_modes.bits(), output_modes.bits(), control_modes.bits(), local_modes.bits()], chars }
    }

    /// The size of its window.
    #[must_use]
    pub fn size(&self) -> WindowSize {
        tcgetwinsize(&self.control).map_or_else(
            |_| WindowSize::default(),
            |size| WindowSize { rows: size.ws_row, columns: size.ws_col, width: size.ws_xpixel, height: size.ws_ypixel },
        )
    }

    /// Whether this process may use it: it is in the foreground, or there is no job control.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        match tcgetpgrp(&self.control) {
            Ok(group) => group == rustix::process::getpgrp(),
            // It isn't the terminal of this process's session.
            Err(Errno::NOTTY) => true,
            // Of a session that this process doesn't see.
            Err(Errno::OPNOTSUPP) => true,
            Err(_) => false,
        }
    }

    /// Whether it passes on every byte.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.raw.is_some()
    }

    /// Whether it is still there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let mut fds = [PollFd::new(&self.control, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && !fds.iter().any(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR))
    }

    /// Has it pass on every byte: lines, echo and signals are made by the terminal inside. Call in the foreground.
    ///
    /// # Errors
    /// `EIO` when it is gone.
    /// Returns what had been typed before, and whether that has been shown.
    pub fn make_raw(&mut self) -> io::Result<(Vec<u8>, bool)> {
        // Whoever was in the foreground meanwhile may have changed it.
        let now = tcgetattr(&self.control)?;
        if !self.raw.as_ref().is_some_and(|raw| same(&now, raw)) {
            self.before = now;
        }
        let mut raw = self.before.clone();
        raw.make_raw();
        if self.kept {
            self.dismiss();
            self.keeper = Some(Keeper::start(self.control.as_fd(), &self.before, &raw)?);
        }
        let mut ahead = self.typed_ahead();
        tcsetattr(&self.control, OptionalActions::Now, &raw)?;
        self.raw = Some(raw);
        // The beginning of a line.
        if !self.is_still() {
            ahead.extend(self.read()?);
        }
        let shown = self.before.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO);
        Ok((ahead, shown))
    }

    /// Whether nothing has been typed.
    fn is_still(&self) -> bool {
        let Some(input) = &self.input else { return true };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !poll(&mut [PollFd::new(input, PollFlags::IN)], Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Whole lines that have been typed: an end of input among them could not be told later.
    fn typed_ahead(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        let edited = self.raw.is_none() && self.before.local_modes.contains(LocalModes::ICANON);
        while edited && lines.len() < AHEAD && !self.is_still() {
            match self.read() {
                Ok(line) if line.is_empty() && self.is_there() => lines.push(self.before.special_codes[SpecialCodeIndex::VEOF]),
                Ok(line) if !line.is_empty() => lines.extend(line),
                _ => break,
            }
        }
        lines
    }

    /// Leaves it as it was, unless somebody else uses it by now.
    pub fn restore(&mut self) {
        if self.raw.take().is_some() && self.is_ours() {
            let _ = tcsetattr(&self.control, OptionalActions::Now, &self.before);
        }
        self.dismiss();
    }

    /// It isn't raw any more, by somebody else's doing.
    pub fn leave(&mut self) {
        self.raw = None;
        self.dismiss();
    }

    fn dismiss(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.dismiss();
        }
    }

    /// Shows bytes. What can't be shown is lost: nobody looks.
    pub fn show(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(&self.output, bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // The caller's descriptor may be somebody else's too, who doesn't want to wait.
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.output, PollFlags::OUT)], None);
                }
                Err(_) => return,
            }
        }
    }

    /// What has been typed; empty at the end of what isn't a terminal.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, anything else when the terminal is gone.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let Some(input) = &self.input else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut buffer = [0; control::MAX_DATA];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(input, &mut buffer))?;
        Ok(buffer.get(..count).unwrap_or_default().to_vec())
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.restore();
    }
}
