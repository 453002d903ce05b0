//! The line discipline's input side (termios(3), `c_iflag` and `c_lflag`): editing, echo, signals, flow control.
//!
//! Linux's N_TTY in behaviour, down to what happens at the ends of its 4096-byte buffer: programs and their tests know it.

use std::collections::VecDeque;

use abi::c;

use crate::output::{Output, continues};
use crate::termios::Termios;

/// Bytes of the buffer (`N_TTY_BUF_SIZE`).
const SIZE: usize = 4096;
/// `__DISABLED_CHAR`: what stands in the buffer for an end of file.
const DISABLED: u8 = 0;
const BELL: u8 = 7;
const BACKSPACE: u8 = 8;

/// A byte of input; `ends`: of a line.
#[derive(Clone, Copy)]
struct Cell {
    byte: u8,
    ends: bool,
}

/// What input has led to besides input.
#[derive(Default)]
pub struct Effects {
    /// Signals for the process group in the foreground.
    pub signals: Vec<i32>,
    /// Flow control has stopped the output, or let it go on.
    pub stopped: Option<bool>,
    /// Both queues have been emptied by a signal.
    pub flushed: bool,
}

/// Input that a terminal's readers have not read yet.
#[derive(Default)]
pub struct Line {
    cells: VecDeque<Cell>,
    /// How many at the front are whole lines.
    lines: usize,
    /// The next character is taken as it is (`VLNEXT`).
    literal: bool,
    /// Erased characters are being shown (`ECHOPRT`).
    erasing: bool,
}

/// What one character is handled with.
struct Context<'a> {
    termios: &'a Termios,
    output: &'a mut Output,
    effects: &'a mut Effects,
}

impl Context<'_> {
    fn local(&self, flag: u32) -> bool {
        self.termios.local(flag)
    }

    fn echo_visibly(&mut self, byte: u8) {
        self.output.echo_visibly(byte, self.termios);
    }

    fn echo(&mut self, byte: u8) {
        self.output.echo(byte, self.termios);
    }
}

impl Line {
    /// Processes bytes from the front of `input` as far as there is room.
    pub fn receive(&mut self, input: &mut VecDeque<u8>, termios: &Termios, output: &mut Output, effects: &mut Effects) {
        while let Some(byte) = input.front().copied() {
            if !self.make_room(termios) {
                break;
            }
            input.pop_front();
            self.receive_one(byte, &mut Context { termios, output, effects });
        }
    }

    /// Whether one more byte may come. While a line is being typed it always may, so that it can be ended or erased: it takes the last one's
    /// place.
    fn make_room(&mut self, termios: &Termios) -> bool {
        let marked = if termios.input(c::PARMRK) { 3 } else { 1 };
        let room = (SIZE - self.cells.len()) / marked;
        if room > 1 {
            return true;
        }
        let typing = termios.canonical() && self.lines == 0;
        if typing && room == 0 {
            self.cells.pop_back();
        }
        typing
    }

    fn receive_one(&mut self, byte: u8, at: &mut Context<'_>) {
        let termios = at.termios;
        let mut byte = byte;
        if termios.input(c::ISTRIP) {
            byte &= 0x7f;
        }
        if termios.input(c::IUCLC) && termios.local(c::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if termios.local(c::EXTPROC) {
            self.put(byte, false);
            return;
        }
        if std::mem::take(&mut self.literal) {
            self.receive_plain(byte, at);
            return;
        }
        // Any character lets a stopped terminal go on.
        if at.output.stopped && termios.input(c::IXON) && termios.input(c::IXANY) && !termios.is(c::VSTOP, byte) {
            at.effects.stopped = Some(false);
            at.output.stopped = false;
            at.output.release();
        }
        if termios.input(c::IXON) && self.flow_control(byte, at) || termios.local(c::ISIG) && self.signal(byte, at) {
            return;
        }
        match byte {
            b'\r' if termios.input(c::IGNCR) => return,
            b'\r' if termios.input(c::ICRNL) => byte = b'\n',
            b'\n' if termios.input(c::INLCR) => byte = b'\r',
            _ => {}
        }
        if !(termios.local(c::ICANON) && self.edit(byte, at)) {
            self.receive_plain(byte, at);
        }
    }

    /// Start and stop characters.
    fn flow_control(&mut self, byte: u8, at: &mut Context<'_>) -> bool {
        let stop = at.termios.is(c::VSTOP, byte);
        if !stop && !at.termios.is(c::VSTART, byte) {
            return false;
        }
        if at.output.stopped != stop {
            at.effects.stopped = Some(stop);
        }
        at.output.stopped = stop;
        at.output.release();
        true
    }

    /// Characters that send signals.
    fn signal(&mut self, byte: u8, at: &mut Context<'_>) -> bool {
        let signo = match byte {
            _ if at.termios.is(c::VINTR, byte) => c::SIGINT,
            _ if at.termios.is(c::VQUIT, byte) => c::SIGQUIT,
            _ if at.termios.is(c::VSUSP, byte) => c::SIGTSTP,
            _ => return false,
        };
        at.effects.signals.push(signo);
        if !at.local(c::NOFLSH) {
            self.flush();
            at.output.flush();
            at.effects.flushed = true;
        }
        if at.termios.input(c::IXON) && std::mem::take(&mut at.output.stopped) {
            at.effects.stopped = Some(false);
        }
        if at.local(c::ECHO) {
            at.echo_visibly(byte);
        }
        at.output.release();
        true
    }

    /// Editing of a line.
    fn edit(&mut self, byte: u8, at: &mut Context<'_>) -> bool {
        let termios = at.termios;
        let extended = termios.local(c::IEXTEN);
        if termios.is(c::VERASE, byte) || termios.is(c::VKILL, byte) || extended && termios.is(c::VWERASE, byte) {
            self.erase(byte, at);
            return true;
        }
        if extended && termios.is(c::VLNEXT, byte) {
            self.literal = true;
            if at.local(c::ECHO) {
                self.finish_erasing(at);
                if at.local(c::ECHOCTL) {
                    at.echo(b'^');
                    at.echo(BACKSPACE);
                }
            }
            return true;
        }
        if extended && at.local(c::ECHO) && termios.is(c::VREPRINT, byte) {
            self.finish_erasing(at);
            at.echo_visibly(byte);
            at.echo(b'\n');
            self.cells.iter().skip(self.lines).for_each(|cell| at.echo_visibly(cell.byte));
            return true;
        }
        if byte == b'\n' {
            if at.local(c::ECHO) || at.local(c::ECHONL) {
                at.echo(b'\n');
            }
            self.end_line(byte);
            return true;
        }
        if termios.is(c::VEOF, byte) {
            self.end_line(DISABLED);
            return true;
        }
        if termios.is(c::VEOL, byte) || extended && termios.is(c::VEOL2, byte) {
            if at.local(c::ECHO) {
                if self.typed() == 0 {
                    at.output.mark_line();
                }
                at.echo_visibly(byte);
            }
            self.end_line(byte);
            return true;
        }
        false
    }

    /// A character without a meaning of its own.
    fn receive_plain(&mut self, byte: u8, at: &mut Context<'_>) {
        if at.local(c::ECHO) {
            self.finish_erasing(at);
            if byte == b'\n' {
                at.echo(b'\n');
            } else {
                if self.typed() == 0 {
                    at.output.mark_line();
                }
                at.echo_visibly(byte);
            }
        }
        if byte == 0xff && at.termios.input(c::PARMRK) {
            self.put(byte, false);
        }
        self.put(byte, false);
    }

    fn put(&mut self, byte: u8, ends: bool) {
        if self.cells.len() < SIZE {
            self.cells.push_back(Cell { byte, ends });
        }
    }

    fn end_line(&mut self, byte: u8) {
        self.put(byte, true);
        self.lines = self.cells.len();
    }

    /// Characters of the line that is being typed.
    fn typed(&self) -> usize {
        self.cells.len().saturating_sub(self.lines)
    }

    fn finish_erasing(&mut self, at: &mut Context<'_>) {
        if std::mem::take(&mut self.erasing) {
            at.echo(b'/');
        }
    }

    /// The erase, word erase or kill character `byte`.
    fn erase(&mut self, byte: u8, at: &mut Context<'_>) {
        if self.typed() == 0 {
            return;
        }
        let (single, word) = (at.termios.is(c::VERASE, byte), at.termios.is(c::VWERASE, byte));
        let word = word && !single;
        if !single && !word && !self.kill_visibly(byte, at) {
            return;
        }
        let mut seen_word = false;
        while self.typed() > 0 {
            // A character of several bytes goes as a whole, or stays if its beginning isn't there.
            let tail = self.cells.iter().skip(self.lines).rev().take_while(|cell| continues(cell.byte, at.termios)).count();
            if tail == self.typed() {
                break;
            }
            let Some(first) = self.cells.get(self.cells.len() - tail - 1).map(|cell| cell.byte) else { break };
            if word {
                let of_word = first.is_ascii_alphanumeric() || first == b'_';
                if !of_word && seen_word {
                    break;
                }
                seen_word |= of_word;
            }
            let gone: Vec<u8> = self.cells.drain(self.cells.len() - tail - 1..).map(|cell| cell.byte).collect();
            if at.local(c::ECHO) {
                self.show_erased(&gone, single, at);
            }
            if single {
                break;
            }
        }
        if self.typed() == 0 && at.local(c::ECHO) {
            self.finish_erasing(at);
        }
    }

    /// Kills the line at once, unless its characters are to be seen going: then true.
    fn kill_visibly(&mut self, byte: u8, at: &mut Context<'_>) -> bool {
        let echo = at.local(c::ECHO);
        if echo && at.local(c::ECHOK) && at.local(c::ECHOKE) && at.local(c::ECHOE) {
            return true;
        }
        self.cells.truncate(self.lines);
        if echo {
            self.finish_erasing(at);
            at.echo_visibly(byte);
            if at.local(c::ECHOK) {
                at.echo(b'\n');
            }
        }
        false
    }

    /// Shows that a character is gone.
    fn show_erased(&mut self, gone: &[u8], single: bool, at: &mut Context<'_>) {
        let Some(first) = gone.first().copied() else { return };
        if at.local(c::ECHOPRT) {
            if !std::mem::replace(&mut self.erasing, true) {
                at.echo(b'\\');
            }
            at.echo_visibly(first);
            gone.iter().skip(1).for_each(|byte| at.echo(*byte));
        } else if single && !at.local(c::ECHOE) {
            let erase = at.termios.char(c::VERASE).unwrap_or(BELL);
            at.echo_visibly(erase);
        } else if first == b'\t' {
            let (columns, after_tab) = self.columns_before(at);
            at.output.erase_tab(columns, after_tab);
        } else {
            let control = first.is_ascii_control();
            let width = usize::from(control && at.local(c::ECHOCTL)) + usize::from(!control || at.local(c::ECHOCTL));
            for _ in 0..width {
                [BACKSPACE, b' ', BACKSPACE].into_iter().for_each(|byte| at.echo(byte));
            }
        }
    }

    /// Columns that the line being typed takes, since its start or its last tab.
    fn columns_before(&self, at: &Context<'_>) -> (usize, bool) {
        let mut columns = 0;
        for cell in self.cells.iter().skip(self.lines).rev() {
            if cell.byte == b'\t' {
                return (columns, true);
            }
            columns += match cell.byte {
                byte if byte.is_ascii_control() => 2 * usize::from(at.local(c::ECHOCTL)),
                byte => usize::from(!continues(byte, at.termios)),
            };
        }
        (columns, false)
    }

    /// Forgets all input.
    pub fn flush(&mut self) {
        *self = Self { literal: self.literal, ..Self::default() };
    }

    /// The settings have changed: what is there becomes a line, or lines become just bytes.
    pub fn change(&mut self, old: &Termios, new: &Termios) {
        if (old.lflag ^ new.lflag) & (c::ICANON | c::EXTPROC) == 0 {
            return;
        }
        self.cells.iter_mut().for_each(|cell| cell.ends = false);
        self.lines = 0;
        if new.local(c::ICANON)
            && let Some(last) = self.cells.back_mut()
        {
            last.ends = true;
            self.lines = self.cells.len();
        }
        (self.erasing, self.literal) = (false, false);
    }

    /// Bytes in the buffer, whole lines or not.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether a reader would get something; `minimum`: bytes that it waits for where there are no lines.
    pub fn readable(&self, termios: &Termios, minimum: usize) -> bool {
        if termios.canonical() { self.lines > 0 } else { self.cells.len() >= minimum.max(1) }
    }

    /// Bytes that a reader can get (`FIONREAD`).
    pub fn available(&self, termios: &Termios) -> usize {
        if !termios.canonical() {
            return self.cells.len();
        }
        self.cells.iter().take(self.lines).filter(|cell| !(cell.ends && cell.byte == DISABLED)).count()
    }

    /// The bytes of the next read of up to `max`, and how many places they take in the buffer: an end of file takes one without a byte.
    pub fn peek(&self, termios: &Termios, max: usize) -> (Vec<u8>, usize) {
        if !termios.canonical() {
            let bytes: Vec<u8> = self.cells.iter().take(max).map(|cell| cell.byte).collect();
            let count = bytes.len();
            return (bytes, count);
        }
        let mut bytes = Vec::new();
        for (index, cell) in self.cells.iter().take(self.lines).enumerate() {
            let end_of_file = cell.ends && cell.byte == DISABLED;
            // An end of file right behind what was asked for goes with it.
            if bytes.len() >= max && !end_of_file {
                return (bytes, index);
            }
            if !end_of_file {
                bytes.push(cell.byte);
            }
            if cell.ends {
                return (bytes, index + 1);
            }
        }
        (bytes, self.lines)
    }

    /// Removes what has been read.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.cells.len());
        self.cells.drain(..count);
        self.lines = self.lines.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tester {
        line: Line,
        termios: Termios,
        output: Output,
        effects: Effects,
    }

    impl Tester {
        fn new() -> Self {
            Self { line: Line::default(), termios: Termios::default(), output: Output::default(), effects: Effects::default() }
        }

        fn with(change: impl FnOnce(&mut Termios)) -> Self {
            let mut tester = Self::new();
            change(&mut tester.termios);
            tester
        }

        /// Types; returns what is shown.
        fn typed(&mut self, bytes: &[u8]) -> Vec<u8> {
            let mut input: VecDeque<u8> = bytes.iter().copied().collect();
            self.line.receive(&mut input, &self.termios, &mut self.output, &mut self.effects);
            self.output.take(usize::MAX)
        }

        fn read(&mut self, max: usize) -> Option<Vec<u8>> {
            if !self.line.readable(&self.termios, 1) {
                return None;
            }
            let (bytes, count) = self.line.peek(&self.termios, max);
            self.line.consume(count);
            Some(bytes)
        }
    }

    #[test]
    fn lines_are_edited() {
        let cases: [(&[u8], &[u8], &[u8]); 7] = [
            (b"hello\n", b"hello\n", b"hello\r\n"),
            (b"ab\x7fc\n", b"ac\n", b"ab\x08 \x08c\r\n"),
            (b"a\x01\x7f\n", b"a\n", b"a^A\x08 \x08\x08 \x08\r\n"),
            (b"one two\x17x\n", b"one x\n", b"one two\x08 \x08\x08 \x08\x08 \x08x\r\n"),
            (b"ab\x15c\n", b"c\n", b"ab\x08 \x08\x08 \x08c\r\n"),
            (b"a\x16\x03\n", b"a\x03\n", b"a^\x08^C\r\n"),
            (b"a\tb\x7f\x7f\n", b"a\n", b"a\tb\x08 \x08\x08\x08\x08\x08\x08\x08\x08\r\n"),
        ];
        for (typed, read, shown) in cases {
            let mut tester = Tester::new();
            assert_eq!(tester.typed(typed), shown, "{typed:?}");
            assert_eq!(tester.read(100).as_deref(), Some(read), "{typed:?}");
        }
    }

    #[test]
    fn characters_of_several_bytes_go_as_one() {
        let mut tester = Tester::with(|termios| termios.iflag |= c::IUTF8);
        assert_eq!(tester.typed("ä\x7f\n".as_bytes()), "ä\x08 \x08\r\n".as_bytes());
        assert_eq!(tester.read(10).unwrap(), b"\n");
        let mut tester = Tester::new();
        tester.typed("ä\x7f\n".as_bytes());
        assert_eq!(tester.read(10).unwrap(), b"\xc3\n");
    }

    #[test]
    fn ends_of_files_end_reads() {
        let mut tester = Tester::new();
        tester.typed(b"abc\x04\x04def\n");
        assert_eq!(tester.read(10).unwrap(), b"abc");
        assert_eq!(tester.read(10).unwrap(), b"");
        assert_eq!(tester.read(2).unwrap(), b"de");
        assert_eq!(tester.read(10).unwrap(), b"f\n");
        assert_eq!(tester.read(10), None);
        tester.typed(b"abc\x04");
        assert_eq!(tester.read(3).unwrap(), b"abc");
        assert_eq!(tester.read(3), None, "it has gone with the read that came to it");
    }

    #[test]
    fn a_line_has_4096_bytes_and_its_end() {
        let mut tester = Tester::new();
        let mut long = vec![b'x'; 5000];
        long.push(b'\n');
        tester.typed(&long);
        let line = tester.read(usize::MAX).unwrap();
        assert_eq!((line.len(), line.last()), (4096, Some(&b'\n')));
        assert_eq!(tester.read(1), None);
    }

    #[test]
    fn raw_input_waits_outside_when_there_is_no_room() {
        let mut tester = Tester::with(|termios| termios.lflag = 0);
        let mut input: VecDeque<u8> = std::iter::repeat_n(b'x', 5000).collect();
        tester.line.receive(&mut input, &tester.termios, &mut tester.output, &mut tester.effects);
        assert_eq!((input.len(), tester.line.available(&tester.termios)), (905, 4095));
    }

    #[test]
    fn signals_flush_and_flow_control_stops() {
        let mut tester = Tester::new();
        assert_eq!(tester.typed(b"ab\x03"), b"^C");
        assert_eq!((tester.effects.signals.as_slice(), tester.line.available(&tester.termios)), ([c::SIGINT].as_slice(), 0));
        assert_eq!(tester.typed(b"\x13x"), b"");
        assert!(tester.output.is_stopped());
        assert_eq!(tester.typed(b"\x11"), b"x");
        let mut tester = Tester::with(|termios| termios.lflag |= c::NOFLSH);
        tester.typed(b"ab\n\x1a");
        assert_eq!((tester.read(9).unwrap(), tester.effects.signals), (b"ab\n".to_vec(), vec![c::SIGTSTP]));
    }

    #[test]
    fn changing_modes_keeps_input() {
        let mut tester = Tester::new();
        tester.typed(b"half");
        assert_eq!(tester.read(9), None);
        let raw = Termios { lflag: tester.termios.lflag & !c::ICANON, ..tester.termios };
        tester.line.change(&tester.termios, &raw);
        let cooked = std::mem::replace(&mut tester.termios, raw);
        assert_eq!(tester.read(2).unwrap(), b"ha");
        tester.line.change(&raw, &cooked);
        tester.termios = cooked;
        assert_eq!(tester.read(9).unwrap(), b"lf");
    }
}
