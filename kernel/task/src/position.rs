//! Where tasks are, for who looks at them from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use platform::UserRegs;
use sync::monotonic_ns;

use crate::current::Current;
use crate::kernel::Kernel;
use crate::tasks::Task;

/// How long a task may take to say where it is.
const WAIT: Duration = Duration::from_millis(50);

/// Where a task was when it last went to sleep or was last asked. Its parts are read one by one: they may be of different moments.
#[derive(Default)]
pub struct Position {
    /// The call that it is in, plus one; 0: none.
    call: AtomicU64,
    args: [AtomicU64; 6],
    rip: AtomicU64,
    rsp: AtomicU64,
    /// Changes each time.
    told: AtomicU64,
}

/// What is known of where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The system call that it is in, and its arguments.
    pub call: Option<(u64, [u64; 6])>,
    pub rip: u64,
    pub rsp: u64,
}

impl Position {
    pub(crate) fn tell(&self, regs: &UserRegs, call: Option<u64>) {
        self.call.store(call.map_or(0, |call| call.wrapping_add(1)), Ordering::Relaxed);
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        for (slot, arg) in self.args.iter().zip(args) {
            slot.store(arg, Ordering::Relaxed);
        }
        self.rip.store(regs.rip, Ordering::Relaxed);
        self.rsp.store(regs.rsp, Ordering::Relaxed);
        self.told.fetch_add(1, Ordering::Release);
    }

    fn place(&self) -> Place {
        let args = self.args.each_ref().map(|arg| arg.load(Ordering::Relaxed));
        Place {
            call: self.call.load(Ordering::Relaxed).checked_sub(1).map(|call| (call, args)),
            rip: self.rip.load(Ordering::Relaxed),
            rsp: self.rsp.load(Ordering::Relaxed),
        }
    }
}

impl Current {
    pub(crate) fn tell_position(&self) {
        self.task.position.tell(&self.regs, self.syscall);
    }
}

impl Kernel {
    /// Where all tasks are, by their numbers. Those that run are interrupted for it.
    #[must_use]
    pub fn places(&self) -> Vec<(Arc<Task>, Place)> {
        let tasks: Vec<_> = self.tasks.lock().values().cloned().collect();
        let running: Vec<_> = tasks.iter().filter(|task| !task.sleeping.load(Ordering::SeqCst)).collect();
        let before: Vec<u64> = running.iter().map(|task| task.position.told.load(Ordering::Acquire)).collect();
        running.iter().for_each(|task| task.kick());
        let deadline = monotonic_ns().saturating_add(u64::try_from(WAIT.as_nanos()).unwrap_or(0));
        let silent = || running.iter().zip(&before).any(|(task, before)| task.position.told.load(Ordering::Acquire) == *before);
        while silent() && monotonic_ns() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        tasks.into_iter().map(|task| (task.clone(), task.position.place())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_with_their_arguments() {
        let position = Position::default();
        assert_eq!(position.place().call, None);
        let regs = UserRegs { rip: 1, rsp: 2, rdi: 3, r9: 4, ..UserRegs::default() };
        position.tell(&regs, Some(0));
        assert_eq!(position.place(), Place { call: Some((0, [3, 0, 0, 0, 0, 4])), rip: 1, rsp: 2 });
        position.tell(&regs, None);
        assert_eq!(position.place().call, None);
    }
}
