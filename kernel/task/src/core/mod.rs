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

/// Bytes that `kernel.core_pattern` has room for.
pub const MAX_CORE_PATTERN: usize = 127;
/// Bytes of a name that is made of it, at most.
const MAX_NAME: usize = 4095;

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
        let written = self.core_file(info.signo).and_then(|file| write::write(self, &file, limit, info, &threads));
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

    /// Its name, as the pattern says.
    fn core_name(&self, signo: i32) -> Vec<u8> {
        let kernel = &self.task.kernel;
        let pattern = kernel.core_pattern.lock().clone();
        let (who, group) = (self.credentials(), &self.task.group);
        let (comm, uts) = {
            let shared = self.task.lock();
            (shared.comm.clone(), shared.ns.uts.clone())
        };
        let hostname = uts.names().host;
        let exe = self.mm.info.lock().exe.clone();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let mut with_pid = false;
        let mut name = expand(&pattern, |letter| {
            with_pid |= letter == b'p';
            let number = match letter {
                b'p' => i64::from(group.own_pid()),
                b'P' => i64::from(group.pid),
                b'i' => i64::from(self.task.own_tid()),
                b'I' => i64::from(self.task.tid()),
                b'u' => i64::from(who.user_ns.from_kuid_munged(who.ruid)),
                b'g' => i64::from(who.user_ns.from_kgid_munged(who.rgid)),
                b'd' => self.mm.dumpable() as i64,
                b's' => i64::from(signo),
                b't' => now,
                b'c' => group.limit(c::RLIMIT_CORE).cast_signed(),
                b'h' => return one_name(&hostname),
                b'e' => return one_name(&comm),
                b'f' => return one_name(exe.rsplit(|byte| *byte == b'/').next().unwrap_or_default()),
                b'E' => return one_name(&exe),
                _ => return Vec::new(),
            };
            number.to_string().into_bytes()
        });
        if !with_pid && kernel.setting("core_uses_pid", 0) != 0 {
            name.extend(format!(".{}", group.own_pid()).into_bytes());
        }
        name
    }

    /// The file: a new one, that no one else has.
    fn core_file(&self, signo: i32) -> SysResult<Arc<File>> {
        let (caller, name) = (self.caller(), self.core_name(signo));
        let name = &*name;
        // An old one goes, if it may.
        let _ = caller.walk(None, name, WalkFlags::empty()).and_then(|at| caller.unlink(&at, false));
        let flags = c::O_CREAT | c::O_EXCL | c::O_WRONLY | c::O_NOFOLLOW;
        let file = caller.open(None, name, OpenHow::new(flags, 0o600), &mut |_, _| Ok(()))?;
        let attr = file.attr()?;
        let plain = attr.mode & c::S_IFMT == c::S_IFREG && attr.nlink == 1 && attr.uid == self.credentials().fsuid.0;
        if plain { Ok(file) } else { Err(Errno::EPERM) }
    }
}

/// A pattern with `%` and a letter replaced by what `value` says.
fn expand(pattern: &[u8], mut value: impl FnMut(u8) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = pattern.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => match rest.next() {
                Some(b'%') => out.push(b'%'),
                Some(letter) => out.extend(value(*letter)),
                None => {}
            },
            byte => out.push(*byte),
        }
    }
    out.truncate(MAX_NAME);
    out
}

/// Text that a program has chosen, so that it leads nowhere else.
fn one_name(text: &[u8]) -> Vec<u8> {
    match text {
        b"" => b"!".to_vec(),
        b"." => b"!".to_vec(),
        b".." => b"!.".to_vec(),
        text => text.iter().map(|byte| if *byte == b'/' { b'!' } else { *byte }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_the_pattern() {
        let value = |letter| if letter == b'p' { b"12".to_vec() } else { one_name(b"../sh") };
        assert_eq!(expand(b"/tmp/core.%p.%e%%%", value), b"/tmp/core.12...!sh%");
        assert_eq!((one_name(b".."), one_name(b"a/b")), (b"!.".to_vec(), b"a!b".to_vec()));
    }
}
