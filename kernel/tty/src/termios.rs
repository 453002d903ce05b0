//! Settings of a terminal (termios(3)).

use abi::c;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Control characters.
const NCCS: usize = 19;

/// `struct termios2` of the kernel; its beginning is `struct termios`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
    pub ispeed: u32,
    pub ospeed: u32,
}

/// Bytes of `struct termios` and of `struct termios2`.
pub const TERMIOS_LEN: usize = 36;
pub const TERMIOS2_LEN: usize = 44;

/// `struct termio` of System V: the low halves of the flags, eight control characters.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termio {
    flags: [u16; 4],
    line: u8,
    cc: [u8; 8],
    pad: u8,
}

/// `struct winsize`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WinSize {
    pub rows: u16,
    pub columns: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

/// Speeds by number: below `CBAUDEX`, and from it on.
const SPEEDS: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
const FAST_SPEEDS: [u32; 16] = [
    0, 57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000, 2_500_000,
    3_000_000, 3_500_000, 4_000_000,
];
/// Shift of the input speed in `c_cflag` (`IBSHIFT`).
const IBSHIFT: u32 = 16;

const fn control(letter: u8) -> u8 {
    letter & 0x1f
}

impl Default for Termios {
    /// What a new terminal has (`tty_std_termios`).
    fn default() -> Self {
        let mut cc = [0; NCCS];
        cc[c::VINTR] = control(b'C');
        cc[c::VQUIT] = control(b'\\');
        cc[c::VERASE] = 0x7f;
        cc[c::VKILL] = control(b'U');
        cc[c::VEOF] = control(b'D');
        cc[c::VMIN] = 1;
        cc[c::VSTART] = control(b'Q');
        cc[c::VSTOP] = control(b'S');
        cc[c::VSUSP] = control(b'Z');
        cc[c::VREPRINT] = control(b'R');
        cc[c::VDISCARD] = control(b'O');
        cc[c::VWERASE] = control(b'W');
        cc[c::VLNEXT] = control(b'V');
        Self {
            iflag: c::ICRNL | c::IXON,
            oflag: c::OPOST | c::ONLCR,
            cflag: c::B38400 | c::CS8 | c::CREAD,
            lflag: c::ISIG | c::ICANON | c::ECHO | c::ECHOE | c::ECHOK | c::ECHOCTL | c::ECHOKE | c::IEXTEN,
            line: 0,
            cc,
            ispeed: 38400,
            ospeed: 38400,
        }
    }
}

impl Termios {
    pub fn input(&self, flag: u32) -> bool {
        self.iflag & flag != 0
    }

    pub fn output(&self, flag: u32) -> bool {
        self.oflag & flag != 0
    }

    pub fn local(&self, flag: u32) -> bool {
        self.lflag & flag != 0
    }

    /// Whether input is given out line by line, and not for the other side to edit (`EXTPROC`).
    pub fn canonical(&self) -> bool {
        self.local(c::ICANON) && !self.local(c::EXTPROC)
    }

    /// The character at `index` (`VINTR` and the like), unless it is disabled.
    pub fn char(&self, index: usize) -> Option<u8> {
        self.cc.get(index).copied().filter(|byte| *byte != 0)
    }

    /// Whether `byte` is the character at `index`.
    pub fn is(&self, index: usize, byte: u8) -> bool {
        self.char(index) == Some(byte)
    }

    /// Bytes that a read waits for (`VMIN`), where there are no lines.
    pub fn minimum(&self) -> usize {
        self.cc.get(c::VMIN).copied().unwrap_or(0).into()
    }

    /// Nanoseconds that a read waits (`VTIME`), where there are no lines.
    pub fn time(&self) -> u64 {
        u64::from(self.cc.get(c::VTIME).copied().unwrap_or(0)) * 100_000_000
    }

    /// Whether flow control is by the usual characters: what packet mode tells of.
    pub fn usual_flow(&self) -> bool {
        self.input(c::IXON) && self.is(c::VSTOP, control(b'S')) && self.is(c::VSTART, control(b'Q'))
    }

    /// Makes the speeds agree with `c_cflag`, unless that says that they are given themselves (`BOTHER`).
    pub fn settle_speeds(&mut self) {
        let speed = |bits: u32| {
            let table = if bits & c::CBAUDEX != 0 { &FAST_SPEEDS } else { &SPEEDS };
            table.get((bits & 0xf) as usize).copied().unwrap_or(0)
        };
        let (out, input) = (self.cflag & c::CBAUD, self.cflag >> IBSHIFT & c::CBAUD);
        if out != c::BOTHER {
            self.ospeed = speed(out);
        }
        match input {
            // The same for both.
            0 => self.ispeed = self.ospeed,
            c::BOTHER => {}
            input => self.ispeed = speed(input),
        }
        // A pseudoterminal has whole bytes only.
        self.cflag = self.cflag & !(c::CSIZE | c::PARENB) | c::CS8 | c::CREAD;
    }

    /// As `struct termio`.
    pub fn termio(&self) -> Termio {
        let mut old =
            Termio { flags: [self.iflag, self.oflag, self.cflag, self.lflag].map(|flag| flag as u16), ..Termio::default() };
        old.line = self.line;
        old.cc.iter_mut().zip(self.cc).for_each(|(to, from)| *to = from);
        old
    }

    /// With what a `struct termio` says.
    pub fn with_termio(mut self, old: &Termio) -> Self {
        let [input, output, control, local] = old.flags.map(u32::from);
        for (flag, low) in
            [(&mut self.iflag, input), (&mut self.oflag, output), (&mut self.cflag, control), (&mut self.lflag, local)]
        {
            *flag = *flag & 0xffff_0000 | low;
        }
        self.line = old.line;
        self.cc.iter_mut().zip(old.cc).for_each(|(to, from)| *to = from);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!((size_of::<Termios>(), size_of::<Termio>()), (TERMIOS2_LEN, 18));
    }

    #[test]
    fn speeds_follow_the_flags() {
        let mut termios = Termios { cflag: c::B115200, ispeed: 0, ospeed: 0, ..Termios::default() };
        termios.settle_speeds();
        assert_eq!((termios.ispeed, termios.ospeed, termios.cflag & c::CS8), (115_200, 115_200, c::CS8));
        let mut termios = Termios { cflag: c::BOTHER, ospeed: 12_345, ..Termios::default() };
        termios.settle_speeds();
        assert_eq!((termios.ispeed, termios.ospeed), (12_345, 12_345));
    }
}
