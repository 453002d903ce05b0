//! Debug registers: breakpoints and watchpoints of the processor, which the host doesn't give to guests. A task that has some runs step by
//! step, and what they watch is looked at after each. Reads of memory can't be noticed so: a watchpoint for both notices writes.

use abi::{Errno, SysResult};

use crate::current::Current;

/// DR6 and DR7: what has happened, and what is watched.
const STATUS: usize = 6;
const CONTROL: usize = 7;
/// Bits of DR7 that turn the four on, and those that there are besides their kinds and lengths.
const ENABLE: u64 = 0xff;
const RESERVED: u64 = 0xfc00;
/// End of user addresses on Linux (`TASK_SIZE_MAX`).
const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// `TRAP_HWBKPT`
pub(crate) const TRAP_HWBKPT: i32 = 4;

/// What a tracer has put in the debug registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DebugRegs {
    regs: [u64; 8],
    /// What stood at the watched places before the last step.
    seen: [Option<u64>; 4],
}

/// One of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    index: usize,
    addr: u64,
    /// Bytes that are watched; none for a breakpoint.
    len: usize,
}

impl DebugRegs {
    pub fn get(&self, index: usize) -> u64 {
        self.regs.get(index).copied().unwrap_or(0)
    }

    /// # Errors
    /// `EINVAL` for an address that isn't the program's or something that can't be watched; `EIO` for DR4 and DR5.
    pub fn set(&mut self, index: usize, value: u64) -> SysResult<()> {
        match index {
            0..=3 if value >= TASK_SIZE => return Err(Errno::EINVAL),
            4 | 5 => return Err(Errno::EIO),
            CONTROL if value & RESERVED != 0 || !Self::can_watch(value) => return Err(Errno::EINVAL),
            _ => {}
        }
        *self.regs.get_mut(index).ok_or(Errno::EIO)? = value;
        Ok(())
    }

    /// Input and output can't be watched, and a breakpoint has one byte.
    fn can_watch(control: u64) -> bool {
        (0..4).filter(|index| control & 3 << (2 * index) != 0).all(|index| {
            let kind = control >> (16 + 4 * index) & 0xf;
            kind & 3 != 2 && (kind & 3 != 0 || kind == 0)
        })
    }

    pub fn is_on(&self) -> bool {
        self.get(CONTROL) & ENABLE != 0
    }

    fn watches(&self) -> impl Iterator<Item = Watch> {
        let control = self.get(CONTROL);
        let on = (0..4).filter(move |index| control & 3 << (2 * index) != 0);
        on.map(move |index| {
            let kind = control >> (16 + 4 * index) & 0xf;
            let len = match (kind & 3, kind >> 2) {
                (0, _) => 0,
                (_, 0) => 1,
                (_, 1) => 2,
                (_, 2) => 8,
                _ => 4,
            };
            Watch { index, addr: self.get(index), len }
        })
    }
}

impl Current {
    fn watched(&self, watch: Watch) -> Option<u64> {
        let mut bytes = [0; 8];
        let part = bytes.get_mut(..watch.len)?;
        let addr = watch.addr & !(watch.len as u64).saturating_sub(1);
        (self.mm.read_remote(addr, part, true) == Ok(watch.len)).then(|| u64::from_le_bytes(bytes))
    }

    /// Remembers what stands at watched places, before a step.
    pub(super) fn watch_memory(&mut self) {
        if !self.debugged {
            return;
        }
        let Some(debug) = self.task.lock().traced.as_ref().map(|tracee| tracee.debug) else { return };
        let mut seen = [None; 4];
        for watch in debug.watches().filter(|watch| watch.len != 0) {
            if let Some(place) = seen.get_mut(watch.index) {
                *place = self.watched(watch);
            }
        }
        if let Some(tracee) = self.task.lock().traced.as_deref_mut() {
            tracee.debug.seen = seen;
        }
    }

    /// A step of a task with debug registers has ended: whether its tracer is to hear of it, and with which `si_code`. None: it goes on.
    pub(crate) fn step_ended(&mut self, code: i32) -> Option<i32> {
        if !self.debugged {
            return Some(code);
        }
        let Some(debug) = self.task.lock().traced.as_ref().map(|tracee| tracee.debug) else { return Some(code) };
        let hit = |watch: &Watch| match watch.len {
            0 => self.regs.rip == watch.addr,
            _ => debug.seen.get(watch.index).is_some_and(|seen| *seen != self.watched(*watch)),
        };
        let hits = debug.watches().filter(hit).fold(0, |hits, watch| hits | 1u64 << watch.index);
        if hits == 0 {
            return self.stepping.then_some(code);
        }
        if let Some(status) = self.task.lock().traced.as_deref_mut().and_then(|tracee| tracee.debug.regs.get_mut(STATUS)) {
            *status |= hits;
        }
        Some(TRAP_HWBKPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_read_from_the_control_word() {
        let mut debug = DebugRegs::default();
        debug.set(1, 0x1000).unwrap();
        // The second watches four bytes for writes, the first is a breakpoint.
        debug.set(CONTROL, 0b0101 | 0xd << 20).unwrap();
        let watches: Vec<_> = debug.watches().collect();
        assert_eq!(watches, [Watch { index: 0, addr: 0, len: 0 }, Watch { index: 1, addr: 0x1000, len: 4 }]);
        assert_eq!(debug.set(CONTROL, 1 | 2 << 16), Err(Errno::EINVAL), "input and output");
        assert_eq!(debug.set(0, TASK_SIZE), Err(Errno::EINVAL));
        assert_eq!(debug.set(4, 0), Err(Errno::EIO));
    }
}
