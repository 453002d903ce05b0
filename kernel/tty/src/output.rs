//! What a terminal shows: output processing (termios(3), `c_oflag`) and the cursor's column.

use std::collections::VecDeque;

use abi::c;

use crate::termios::Termios;

/// Bytes that wait to be read by the other end before writers have to wait.
pub const ROOM: usize = 8192;
/// Bytes of echo at most that wait beyond that; more is not shown.
const ECHO_ROOM: usize = 4096;

/// Columns of a tab.
const TAB: usize = 8;

/// Whether `byte` continues a character that began before.
pub fn continues(byte: u8, termios: &Termios) -> bool {
    termios.input(c::IUTF8) && byte & 0xc0 == 0x80
}

/// The queue to the other end.
#[derive(Default)]
pub struct Output {
    queue: VecDeque<u8>,
    /// Echo that waits for the terminal to go on.
    held: VecDeque<u8>,
    column: usize,
    /// Where the line that is being typed began.
    pub line_column: usize,
    /// Stopped by a character, by tcflow(3).
    pub stopped: bool,
    pub held_up: bool,
}

impl Output {
    /// Whether nothing may be written now.
    pub fn is_stopped(&self) -> bool {
        self.stopped || self.held_up
    }

    /// Bytes that may be written now.
    pub fn room(&self) -> usize {
        if self.is_stopped() { 0 } else { ROOM.saturating_sub(self.queue.len()) }
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Removes up to `max` bytes.
    pub fn take(&mut self, max: usize) -> Vec<u8> {
        let count = max.min(self.queue.len());
        let bytes = self.queue.drain(..count).collect();
        self.release();
        bytes
    }

    /// Bytes at the front, as far as they lie in one piece.
    pub fn front(&self) -> &[u8] {
        self.queue.as_slices().0
    }

    /// Forgets what waits.
    pub fn flush(&mut self) {
        self.queue.clear();
        self.held.clear();
    }

    /// Lets echo through that has been held back, if it may go.
    pub fn release(&mut self) {
        while self.room() > 0
            && let Some(byte) = self.held.pop_front()
        {
            self.queue.push_back(byte);
        }
    }

    /// Sends a byte as it is, before all that waits for room.
    pub fn put(&mut self, byte: u8) {
        self.show_echo(byte);
    }

    /// What is shown for a byte, and moves the column accordingly.
    fn process(&mut self, byte: u8, termios: &Termios, show: &mut impl FnMut(&mut Self, u8)) {
        let mut byte = byte;
        match byte {
            _ if !termios.output(c::OPOST) => {}
            b'\n' => {
                if termios.output(c::ONLRET) || termios.output(c::ONLCR) {
                    (self.column, self.line_column) = (0, 0);
                } else {
                    self.line_column = self.column;
                }
                if termios.output(c::ONLCR) {
                    show(self, b'\r');
                }
            }
            b'\r' if termios.output(c::ONOCR) && self.column == 0 => return,
            b'\r' if termios.output(c::OCRNL) => {
                byte = b'\n';
                if termios.output(c::ONLRET) {
                    (self.column, self.line_column) = (0, 0);
                }
            }
            b'\r' => (self.column, self.line_column) = (0, 0),
            b'\t' => {
                let spaces = TAB - self.column % TAB;
                self.column += spaces;
                if termios.oflag & c::TABDLY == c::XTABS {
                    (0..spaces).for_each(|_| show(self, b' '));
                    return;
                }
            }
            8 => self.column = self.column.saturating_sub(1),
            _ => {
                if termios.output(c::OLCUC) {
                    byte = byte.to_ascii_uppercase();
                }
                if !byte.is_ascii_control() && !continues(byte, termios) {
                    self.column += 1;
                }
            }
        }
        show(self, byte);
    }

    /// Writes bytes as far as there is room; returns how many of them.
    pub fn write(&mut self, bytes: &[u8], termios: &Termios) -> usize {
        let mut done = 0;
        for byte in bytes {
            // The most that one byte becomes.
            let need = match byte {
                b'\t' if termios.oflag & (c::OPOST | c::TABDLY) == c::OPOST | c::XTABS => TAB,
                b'\n' if termios.oflag & (c::OPOST | c::ONLCR) == c::OPOST | c::ONLCR => 2,
                _ => 1,
            };
            if self.room() < need {
                break;
            }
            self.process(*byte, termios, &mut |own, byte| own.queue.push_back(byte));
            done += 1;
        }
        done
    }

    /// Shows a byte of input as it is, but for output processing.
    pub fn echo(&mut self, byte: u8, termios: &Termios) {
        self.process(byte, termios, &mut Self::show_echo);
    }

    /// Shows a byte of input, control characters by `^` and a letter where that is wanted.
    pub fn echo_visibly(&mut self, byte: u8, termios: &Termios) {
        if termios.local(c::ECHOCTL) && byte.is_ascii_control() && byte != b'\t' {
            self.column += 2;
            self.show_echo(b'^');
            self.show_echo(byte ^ 0x40);
        } else {
            self.echo(byte, termios);
        }
    }

    /// Moves back over a tab that began `columns` after the start of the line, or after another tab.
    pub fn erase_tab(&mut self, columns: usize, after_tab: bool) {
        let at = if after_tab { columns } else { columns + self.line_column };
        for _ in 0..TAB - at % TAB {
            self.column = self.column.saturating_sub(1);
            self.show_echo(8);
        }
    }

    /// Remembers that a line begins here.
    pub fn mark_line(&mut self) {
        self.line_column = self.column;
    }

    fn show_echo(&mut self, byte: u8) {
        if self.held.is_empty() && self.room() > 0 {
            self.queue.push_back(byte);
        } else if self.held.len() < ECHO_ROOM {
            self.held.push_back(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(termios: &Termios, bytes: &[u8]) -> Vec<u8> {
        let mut output = Output::default();
        assert_eq!(output.write(bytes, termios), bytes.len());
        output.take(usize::MAX)
    }

    #[test]
    fn newlines_returns_and_tabs() {
        let set = |oflag| Termios { oflag, ..Termios::default() };
        assert_eq!(shown(&set(0), b"a\tb\r\n"), b"a\tb\r\n");
        assert_eq!(shown(&set(c::OPOST | c::ONLCR), b"a\n"), b"a\r\n");
        assert_eq!(shown(&set(c::OPOST | c::OCRNL), b"a\r"), b"a\n");
        assert_eq!(shown(&set(c::OPOST | c::ONOCR), b"\ra\r"), b"a\r");
        assert_eq!(shown(&set(c::OPOST | c::XTABS), b"ab\tc"), b"ab      c");
        assert_eq!(shown(&set(c::OPOST | c::OLCUC), b"ab"), b"AB");
    }

    #[test]
    fn writers_wait_for_room_and_while_stopped() {
        let (mut output, termios) = (Output::default(), Termios::default());
        assert_eq!(output.write(&vec![b'x'; ROOM - 1], &termios), ROOM - 1);
        assert_eq!(output.write(b"\n", &termios), 0, "it would become two");
        output.take(1);
        assert_eq!(output.write(b"\n", &termios), 1);
        output.flush();
        output.stopped = true;
        assert_eq!(output.write(b"x", &termios), 0);
        output.echo_visibly(3, &termios);
        assert!(output.is_empty());
        output.stopped = false;
        output.release();
        assert_eq!(output.take(9), b"^C");
    }
}
