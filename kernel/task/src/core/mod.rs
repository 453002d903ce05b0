//! Core dumps (core(5)): what is left of a program that a signal has ended, for a debugger.
//!
//! The task that takes the signal stops all others of its process, each of which leaves its registers, and writes the file. A SIGKILL ends
//! that as it ends all else.

mod notes;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::poll::PollEvents;
use abi::signal::{SigInfo, SigSet};
use abi::{Errno, SysResult, c};
use mm::Dumpable;
use platform::UserRegs;
use sync::{Mutex, monotonic_ns};
use usermem::PAGE_SIZE;
use vfs::{File, OpenHow, WalkFlags};

use crate::current::Current;

/// The name of the file (`kernel.core_pattern`), in the working directory.
pub const CORE_PATTERN: &str = "core";

/// In a wait status: there is a core dump.
const DUMPED: i32 = 0x80;

/// How long the other tasks may take to stop, in nanoseconds: one that waits for the host may not come at once.
const PATIENCE: u64 = 5_000_000_000;

/// A task, as it was.
pub(crate) struct Thread {
    tid: i32,
    regs: UserRegs,
    fp: Vec<u8>,
    pending: SigSet,
    mask: SigSet,
}

/// The tasks of a process that have stopped to be dumped.
#[derive(Default)]
pub(crate) struct Dump {
    /// One is under way: looked at where signals are.
    pub wanted: AtomicBool,
    threads: Mutex<Vec<Thread>>,
}

impl Current {
    fn as_thread(&mut self) -> Option<Thread> {
        if !self.ctx.full(&mut self.regs) {
            return None;
        }
        let rip = self.mm.original_rip(self.regs.rip);
        let mut regs = UserRegs { rip, ..self.regs };
        if let Some((number, errno)) = self.interrupted {
            (regs.orig_rax, regs.rax) = (number, errno.to_rax());
        }
        let fp = self.ctx.fp();
        let shared = self.task.lock();
        Some(Thread { tid: shared.number.number_in(self.pid_ns()), regs, fp, pending: shared.pending.set, mask: shared.mask })
    }

    /// Another task dumps the process: leaves the registers for it, and waits for the end.
    pub(crate) fn join_dump(&mut self) {
        let Some(thread) = self.as_thread() else { return };
        let group = self.task.group.clone();
        group.dump.threads.lock().push(thread);
        group.child_queue.wake(PollEvents::IN);
        while !group.doomed.load(Ordering::SeqCst) && group.dump.wanted.load(Ordering::SeqCst) {
            self.task.parker.park(None);
        }
    }

    /// A signal ends the process, which is dumped before if that is wanted.
    pub(crate) fn end_with_core(&mut self, info: &SigInfo) {
        let group = self.task.group.clone();
        let limit = group.limit(c::RLIMIT_CORE);
        let wanted = limit >= PAGE_SIZE && self.mm.dumpable() == Dumpable::User;
        if wanted && group.dump.wanted.swap(true, Ordering::SeqCst) {
            // Another task does so already: this one joins it.
            return;
        }
        let dumped = if wanted && self.dump_core(info, limit) { DUMPED } else { 0 };
        group.end(info.signo | dumped);
    }

    /// Returns whether there is a dump.
    fn dump_core(&mut self, info: &SigInfo, limit: u64) -> bool {
        let Some(own) = self.as_thread() else { return false };
        let group = self.task.group.clone();
        let tasks = group.tasks.lock().clone();
        tasks.iter().filter(|task| !Arc::ptr_eq(task, &self.task)).for_each(|task| task.kick());
        self.gather();
        let others = std::mem::take(&mut *group.dump.threads.lock());
        let threads: Vec<_> = std::iter::once(own).chain(others).collect();
        let written = self.core_file().and_then(|file| write::write(self, &file, limit, info, &threads));
        written.is_ok() && !group.doomed.load(Ordering::SeqCst)
    }

    /// Waits until all others have stopped or ended.
    fn gather(&self) {
        let group = &self.task.group;
        let deadline = monotonic_ns().saturating_add(PATIENCE);
        let _entry = group.child_queue.register(PollEvents::IN, self.task.parker.clone());
        let all = || group.dump.threads.lock().len() + 1 >= group.tasks.lock().len();
        while !all() && !group.doomed.load(Ordering::SeqCst) && monotonic_ns() < deadline {
            self.task.parker.park(Some(deadline));
        }
    }

    /// The file: a new one, that no one else has.
    fn core_file(&self) -> SysResult<Arc<File>> {
        let (caller, name) = (self.caller(), CORE_PATTERN.as_bytes());
        // An old one goes, if it may.
        let _ = caller.walk(None, name, WalkFlags::empty()).and_then(|at| caller.unlink(&at, false));
        let flags = c::O_CREAT | c::O_EXCL | c::O_WRONLY | c::O_NOFOLLOW;
        let file = caller.open(None, name, OpenHow::new(flags, 0o600), &mut |_, _| Ok(()))?;
        let attr = file.attr()?;
        let plain = attr.mode & c::S_IFMT == c::S_IFREG && attr.nlink == 1 && attr.uid == self.credentials().fsuid.0;
        if plain { Ok(file) } else { Err(Errno::EPERM) }
    }
}
