//! Filters and what they say.

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use cbpf::{Data, Instruction, Program, Purpose};

use super::notify::Notifier;

/// `AUDIT_ARCH_X86_64`
pub const ARCH: u32 = 0xc000_003e;
/// Size of `struct seccomp_data`.
pub const DATA_SIZE: u32 = 64;
/// Numbers that the bitmap knows.
const KNOWN: usize = 512;
/// Instructions of all filters of a task together, four more for each filter (`MAX_INSNS_PER_PATH`).
const MAX_TOTAL: usize = (1 << 18) / 8;
const OVERHEAD: usize = 4;
const MAX_ERRNO: u16 = 4095;

/// A system call, as filters see it (`struct seccomp_data`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub number: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

impl Invocation {
    /// In its layout.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; DATA_SIZE as usize] {
        let mut bytes = [0; DATA_SIZE as usize];
        let words = [u64::from(self.number) | u64::from(ARCH) << 32, self.ip].into_iter().chain(self.args);
        bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        bytes
    }
}

fn half(word: u64, offset: u32) -> u32 {
    if offset & 4 == 0 { word as u32 } else { (word >> 32) as u32 }
}

impl Data for Invocation {
    fn load(&self, offset: u32, _: u32) -> Option<u32> {
        match offset {
            0 => Some(self.number),
            4 => Some(ARCH),
            8 | 12 => Some(half(self.ip, offset)),
            _ => {
                let index = usize::try_from(offset.checked_sub(16)? / 8).ok()?;
                self.args.get(index).map(|word| half(*word, offset))
            }
        }
    }

    fn len(&self) -> u32 {
        DATA_SIZE
    }
}

/// What is known of a call by its number alone.
struct NumberOnly(u32);

impl Data for NumberOnly {
    fn load(&self, offset: u32, _: u32) -> Option<u32> {
        match offset {
            0 => Some(self.0),
            4 => Some(ARCH),
            // Ends the program with 0, which isn't "allow".
            _ => None,
        }
    }

    fn len(&self) -> u32 {
        DATA_SIZE
    }
}

/// What is done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    KillProcess,
    KillThread,
    Trap(u16),
    /// It returns this number, negated: 0 is success.
    Errno(u16),
    Notify,
    Trace(u16),
    Log,
    Allow,
}

impl Verdict {
    /// What a filter's value means. What isn't known kills.
    fn of(value: u32) -> Self {
        let data = value as u16;
        match value & c::SECCOMP_RET_ACTION_FULL {
            c::SECCOMP_RET_KILL_THREAD => Self::KillThread,
            c::SECCOMP_RET_TRAP => Self::Trap(data),
            c::SECCOMP_RET_ERRNO => Self::Errno(data.min(MAX_ERRNO)),
            c::SECCOMP_RET_USER_NOTIF => Self::Notify,
            c::SECCOMP_RET_TRACE => Self::Trace(data),
            c::SECCOMP_RET_LOG => Self::Log,
            c::SECCOMP_RET_ALLOW => Self::Allow,
            _ => Self::KillProcess,
        }
    }
}

/// A filter.
pub struct Filter {
    pub program: Program,
    pub notifier: Option<Arc<Notifier>>,
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(notifier) = &self.notifier {
            notifier.filter_gone();
        }
    }
}

/// The filters of a task, oldest first. All are asked; the strictest answer counts.
pub struct Filters {
    list: Vec<Arc<Filter>>,
    /// Calls that all allow, whatever their arguments.
    allowed: [u64; KNOWN / 64],
}

impl Filters {
    /// Those of `base` and one more.
    ///
    /// # Errors
    /// `ENOMEM` when they are too long.
    pub fn with(base: Option<&Self>, filter: Filter) -> SysResult<Self> {
        let old = base.map_or(&[][..], |base| &base.list);
        let total: usize = old.iter().map(|filter| filter.program.len() + OVERHEAD).sum();
        if total + filter.program.len() > MAX_TOTAL {
            return Err(Errno::ENOMEM);
        }
        let mut allowed = base.map_or([u64::MAX; KNOWN / 64], |base| base.allowed);
        for (number, word) in (0u32..).step_by(64).zip(&mut allowed) {
            for bit in 0..64 {
                let allows = || filter.program.run(&NumberOnly(number + bit)) == c::SECCOMP_RET_ALLOW;
                if *word & 1 << bit != 0 && !allows() {
                    *word &= !(1 << bit);
                }
            }
        }
        let list = old.iter().cloned().chain([Arc::new(filter)]).collect();
        Ok(Self { list, allowed })
    }

    /// A filter alone, from its instructions.
    ///
    /// # Errors
    /// `EINVAL` for what is no program, `ENOMEM`.
    pub fn alone(instructions: &[Instruction]) -> SysResult<Arc<Self>> {
        let program = Program::check(instructions, Purpose::Seccomp { size: DATA_SIZE })?;
        Self::with(None, Filter { program, notifier: None }).map(Arc::new)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing needs to be asked about a call.
    #[must_use]
    pub fn always_allow(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|at| self.allowed.get(at));
        word.is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// What is to be done with a call, and the filter that says so.
    #[must_use]
    pub fn run(&self, call: &Invocation) -> (Verdict, Option<&Arc<Filter>>) {
        let action = |value: u32| (value & c::SECCOMP_RET_ACTION_FULL).cast_signed();
        let mut strictest = (c::SECCOMP_RET_ALLOW, None);
        // The newest first: of equals, it counts.
        for filter in self.list.iter().rev() {
            let value = filter.program.run(call);
            if action(value) < action(strictest.0) {
                strictest = (value, Some(filter));
            }
        }
        (Verdict::of(strictest.0), strictest.1)
    }

    /// Whether a supervisor listens to one of them.
    #[must_use]
    pub fn has_listener(&self) -> bool {
        self.list.iter().any(|filter| filter.notifier.is_some())
    }

    /// Whether `new` is `old` with some more on top.
    #[must_use]
    pub fn descends(new: Option<&Self>, old: Option<&Self>) -> bool {
        let Some(last) = old.and_then(|old| old.list.last().map(|last| (old.list.len() - 1, last))) else { return true };
        let same = new.and_then(|new| new.list.get(last.0));
        same.is_some_and(|same| Arc::ptr_eq(same, last.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbpf::{Instruction, Purpose};

    fn filter(number: u32, value: u32) -> Filter {
        let i = |code, jt, jf, k| Instruction { code, jt, jf, k };
        let program = [i(0x20, 0, 0, 0), i(0x15, 0, 1, number), i(0x06, 0, 0, value), i(0x06, 0, 0, c::SECCOMP_RET_ALLOW)];
        Filter { program: Program::check(&program, Purpose::Seccomp { size: DATA_SIZE }).unwrap(), notifier: None }
    }

    fn call(number: u32) -> Invocation {
        Invocation { number, ip: 0x1122_3344_5566_7788, args: [1 << 40 | 7, 2, 3, 4, 5, 6] }
    }

    #[test]
    fn the_strictest_answer_counts() {
        let first = Filters::with(None, filter(7, c::SECCOMP_RET_TRACE)).unwrap();
        let second = Filters::with(Some(&first), filter(7, c::SECCOMP_RET_ERRNO | 5)).unwrap();
        let third = Filters::with(Some(&second), filter(7, c::SECCOMP_RET_ERRNO | 6)).unwrap();
        assert_eq!(first.run(&call(7)).0, Verdict::Trace(0));
        assert_eq!(third.run(&call(7)).0, Verdict::Errno(6));
        assert_eq!(third.run(&call(8)).0, Verdict::Allow);
        assert!(third.always_allow(8) && !third.always_allow(7) && !third.always_allow(512));
        assert!(Filters::descends(Some(&third), Some(&first)) && !Filters::descends(Some(&first), Some(&third)));
        assert!(Filters::descends(None, None) && !Filters::descends(None, Some(&first)));
    }

    #[test]
    fn unknown_values_kill() {
        assert_eq!(Verdict::of(0x1234_0000), Verdict::KillProcess);
        assert_eq!(Verdict::of(c::SECCOMP_RET_ERRNO), Verdict::Errno(0));
    }

    #[test]
    fn data_is_laid_out_as_linux_has_it() {
        let (call, bytes) = (call(9), call(9).to_bytes());
        for offset in (0..64).step_by(4) {
            let word = u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
            assert_eq!(call.load(offset as u32, 4), Some(word));
        }
        assert_eq!((call.load(16, 4), call.load(20, 4), call.load(64, 4)), (Some(7), Some(256), None));
    }
}
