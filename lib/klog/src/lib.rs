//! The kernel's log (printk): records with rising numbers and times in a buffer that forgets the oldest.
//!
//! Two ways to read it: as text for syslog(2), whose position is shared by all who read it, and by number for /dev/kmsg.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use abi::poll::PollEvents;
use sync::{Mutex, WaitQueue};

/// Bytes of the buffer (`CONFIG_LOG_BUF_SHIFT` of 18).
pub const SIZE: usize = 1 << 18;

/// What a record costs beside its text.
const OVERHEAD: usize = 64;

/// Longest text of a record.
pub const RECORD_MAX: usize = 1024;

/// `KERN_INFO`
pub const INFO: u8 = 6;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub seq: u64,
    /// 0: the kernel; 1: user programs (syslog(3)).
    pub facility: u32,
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Microseconds since the start.
    pub micros: u64,
    pub text: Vec<u8>,
}

impl Record {
    fn prefix(&self) -> u32 {
        self.facility << 3 | u32::from(self.level)
    }

    /// As syslog(2) shows it: a line for each of the text's.
    #[must_use]
    pub fn lines(&self) -> Vec<u8> {
        let start = format!("<{}>[{:5}.{:06}] ", self.prefix(), self.micros / 1_000_000, self.micros % 1_000_000);
        self.text.split(|byte| *byte == b'\n').flat_map(|line| [start.as_bytes(), line, b"\n"].concat()).collect()
    }

    /// As /dev/kmsg shows it (Documentation/ABI/testing/dev-kmsg).
    #[must_use]
    pub fn kmsg(&self) -> Vec<u8> {
        let mut text = format!("{},{},{},-;", self.prefix(), self.seq, self.micros);
        for byte in &self.text {
            match byte {
                b'\\' => text.push_str("\\x5c"),
                b' '..=b'~' => text.push(char::from(*byte)),
                // A String takes everything.
                other => drop(write!(text, "\\x{other:02x}")),
            }
        }
        text.push('\n');
        text.into_bytes()
    }
}

/// What reading by number comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Record(Arc<Record>),
    /// There is nothing yet.
    Empty,
    /// It has been overwritten; the oldest there is has this number.
    Lost(u64),
}

#[derive(Default)]
struct State {
    records: VecDeque<Arc<Record>>,
    /// Number of the next record.
    next: u64,
    bytes: usize,
    /// Number of the first record after the last clear.
    cleared: u64,
    /// Where syslog(2) reads on: the number, and bytes of its lines that have been read.
    read: (u64, usize),
}

impl State {
    fn first(&self) -> u64 {
        self.records.front().map_or(self.next, |record| record.seq)
    }

    fn from(&self, seq: u64) -> impl Iterator<Item = &Arc<Record>> {
        self.records.iter().filter(move |record| record.seq >= seq)
    }
}

/// The log.
#[derive(Default)]
pub struct Log {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Log {
    /// Adds a record, at this time or that of the last one if that is later.
    pub fn append(&self, facility: u32, level: u8, micros: u64, text: &[u8]) {
        let mut state = self.state.lock();
        let seq = state.next;
        let micros = state.records.back().map_or(micros, |last| micros.max(last.micros));
        let text = text.get(..RECORD_MAX).unwrap_or(text).to_vec();
        state.next += 1;
        state.bytes += text.len() + OVERHEAD;
        state.records.push_back(Arc::new(Record { seq, facility, level, micros, text }));
        while state.bytes > SIZE
            && let Some(oldest) = state.records.pop_front()
        {
            state.bytes -= oldest.text.len() + OVERHEAD;
        }
        drop(state);
        self.queue.wake(PollEvents::READABLE);
    }

    /// Woken when a record is added.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// The record with this number.
    #[must_use]
    pub fn get(&self, seq: u64) -> Next {
        let state = self.state.lock();
        let first = state.first();
        match state.from(seq).next() {
            _ if seq < first => Next::Lost(first),
            Some(record) => Next::Record(record.clone()),
            None => Next::Empty,
        }
    }

    /// Numbers of the oldest record, of the first after the last clear, and of the next to come.
    #[must_use]
    pub fn marks(&self) -> (u64, u64, u64) {
        let state = self.state.lock();
        (state.first(), state.cleared.max(state.first()), state.next)
    }

    /// The newest lines since the last clear that fit into so many bytes; no record in part.
    #[must_use]
    pub fn tail(&self, len: usize, clear: bool) -> Vec<u8> {
        let mut state = self.state.lock();
        let mut room = len;
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for record in state.from(state.cleared).collect::<Vec<_>>().into_iter().rev() {
            let lines = record.lines();
            let Some(left) = room.checked_sub(lines.len()) else { break };
            room = left;
            parts.push(lines);
        }
        if clear {
            state.cleared = state.next;
        }
        parts.reverse();
        parts.concat()
    }

    /// Forgets, for [`Self::tail`], what there is.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.cleared = state.next;
    }

    /// The next bytes of the stream, and takes them from it; empty if there are none.
    #[must_use]
    pub fn read(&self, len: usize) -> Vec<u8> {
        let mut state = self.state.lock();
        let mut text = Vec::new();
        while let Some((record, skip)) = state.unread() {
            let lines = record.lines();
            let rest = lines.get(skip..).unwrap_or_default();
            let part = rest.get(..len - text.len()).unwrap_or(rest);
            text.extend_from_slice(part);
            state.read = if part.len() == rest.len() { (record.seq + 1, 0) } else { (record.seq, skip + part.len()) };
            if text.len() == len {
                break;
            }
        }
        text
    }

    /// How many bytes [`Self::read`] would find.
    #[must_use]
    pub fn unread(&self) -> usize {
        let state = self.state.lock();
        let Some((record, skip)) = state.unread() else { return 0 };
        state.from(record.seq).map(|record| record.lines().len()).sum::<usize>().saturating_sub(skip)
    }
}

impl State {
    /// The first record of which something is unread, and how much has been read.
    fn unread(&self) -> Option<(Arc<Record>, usize)> {
        let (seq, skip) = self.read;
        let record = self.from(seq).next()?;
        Some((record.clone(), if record.seq == seq { skip } else { 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(texts: &[&str]) -> Log {
        let log = Log::default();
        texts.iter().for_each(|text| log.append(0, INFO, 1_500_000, text.as_bytes()));
        log
    }

    #[test]
    fn records_are_shown_in_both_forms() {
        let log = log(&["first", "a\\b\n\x1b"]);
        let Next::Record(record) = log.get(1) else { panic!() };
        assert_eq!(record.kmsg(), b"6,1,1500000,-;a\\x5cb\\x0a\\x1b\n");
        assert_eq!(log.get(2), Next::Empty);
        assert_eq!(log.tail(100, false), b"<6>[    1.500000] first\n<6>[    1.500000] a\\b\n<6>[    1.500000] \x1b\n");
    }

    #[test]
    fn the_stream_is_read_once_in_pieces() {
        let log = log(&["one", "two"]);
        assert_eq!(log.unread(), 44);
        assert_eq!(log.read(5), b"<6>[ ");
        assert_eq!(log.unread(), 39);
        assert_eq!(log.read(1000), b"   1.500000] one\n<6>[    1.500000] two\n");
        assert_eq!((log.unread(), log.read(10)), (0, Vec::new()));
        log.append(1, 3, 0, b"three");
        assert_eq!(log.read(100), b"<11>[    1.500000] three\n");
    }

    #[test]
    fn the_tail_keeps_whole_records_and_can_be_cleared() {
        let log = log(&["one", "two"]);
        assert_eq!(log.tail(30, false), b"<6>[    1.500000] two\n");
        assert_eq!(log.tail(100, true).len(), 44);
        assert!(log.tail(100, false).is_empty());
        assert_eq!(log.marks(), (0, 2, 2));
        // The stream knows nothing of it.
        assert_eq!(log.unread(), 44);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let log = Log::default();
        let text = [b'x'; RECORD_MAX + 1];
        for _ in 0..300 {
            log.append(1, 6, 0, &text);
        }
        let (first, _, next) = log.marks();
        assert_eq!((first, next), (300 - (SIZE / (RECORD_MAX + OVERHEAD)) as u64, 300));
        assert_eq!(log.get(0), Next::Lost(first));
        assert_eq!(log.read(RECORD_MAX * 2).len(), RECORD_MAX * 2);
    }
}
