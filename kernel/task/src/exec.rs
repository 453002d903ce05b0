//! execve(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::SigStack;
use abi::{Errno, SysResult, c};
use auth::{Credentials, ExecOutcome};
use loader::{Failure, Identity};
use mm::Dumpable;
use platform::UserRegs;

use crate::current::Current;
use crate::frame::Trap;
use crate::futex::Waiter;
use crate::ptrace::Ptracer;

/// `READ_IMPLIES_EXEC`, `ADDR_NO_RANDOMIZE`, `ADDR_COMPAT_LAYOUT`, `MMAP_PAGE_ZERO`
const PER_CLEAR_ON_SETID: u32 = 0x0040_0000 | 0x0004_0000 | 0x0020_0000 | 0x0010_0000;

/// What a program is told of who it is.
pub(crate) fn identity(who: &Credentials, secure: bool) -> Identity {
    let ns = &who.user_ns;
    Identity {
        uid: ns.from_kuid_munged(who.ruid),
        euid: ns.from_kuid_munged(who.euid),
        gid: ns.from_kgid_munged(who.rgid),
        egid: ns.from_kgid_munged(who.egid),
        secure,
    }
}

impl Current {
    /// Ends all other threads of the process and takes the place of its leader.
    ///
    /// # Errors
    /// `EAGAIN` when another thread does the same or the process ends: this one goes with it.
    fn become_only_thread(&mut self) -> SysResult<()> {
        let group = self.task.group.clone();
        let others: Vec<_> = {
            let tasks = group.tasks.lock();
            let mut signals = group.signals.lock();
            let taken = signals.execer.as_ref().and_then(std::sync::Weak::upgrade);
            if signals.end.is_some() || taken.is_some_and(|task| !Arc::ptr_eq(&task, &self.task)) {
                return Err(Errno::EAGAIN);
            }
            signals.execer = Some(Arc::downgrade(&self.task));
            tasks.iter().filter(|task| !Arc::ptr_eq(task, &self.task)).cloned().collect()
        };
        for task in &others {
            task.ordered_to_exit.store(true, Ordering::SeqCst);
            task.lock().halt.stopped = false;
            task.kick();
        }
        let alone = || if group.tasks.lock().len() == 1 { Ok(()) } else { Err(Errno::EAGAIN) };
        let result = self.block_killable(&group.child_queue, alone);
        group.signals.lock().execer = None;
        result.map_err(|_| Errno::EAGAIN)?;
        if !self.task.is_leader() {
            let old = self.task.tid();
            self.task.kernel.forget_leader(&group);
            self.task.become_leader();
            self.task.kernel.retrace_leader(&self.task);
            // Who was allowed to attach to the old one isn't to this.
            *group.ptracer.lock() = Ptracer::Nobody;
            self.waiter = Waiter::new(self.task.parker.clone(), group.pid);
            let children = group.children.lock();
            let own = children.iter().filter(|child| child.parent_tid.load(Ordering::Relaxed) == old);
            own.for_each(|child| child.parent_tid.store(group.pid, Ordering::Relaxed));
        }
        Ok(())
    }

    /// execve(2): replaces the program. All registers are replaced.
    ///
    /// # Errors
    /// As execve(2).
    pub fn exec(&mut self, program: loader::Program) -> SysResult<()> {
        let kernel = self.task.kernel.clone();
        let mut outcome = None;
        let image = loader::load(&*kernel.platform, &self.caller(), program, &mut |file| {
            let ExecOutcome { credentials, secure } = self.exec_credentials(file)?;
            let identity = identity(&credentials, secure);
            outcome = Some((credentials, secure));
            Ok(identity)
        });
        let image = match image {
            Ok(image) => image,
            Err(Failure::Refused(errno)) => return Err(errno),
            Err(Failure::Broken) => {
                self.task.group.end(c::SIGSEGV);
                return Err(Errno::ENOEXEC);
            }
        };
        let (credentials, secure) = outcome.ok_or(Errno::ENOEXEC)?;
        let orig_rax = self.regs.orig_rax;
        let regs = UserRegs { rip: image.entry, rsp: image.stack, eflags: 0x202, orig_rax, ..UserRegs::default() };
        let old_number = self.number_for_tracer(&self.task);
        let ctx = image.mm.aspace().clone().new_context(&regs, None)?;
        // The locks are known by the number that it has now.
        self.release_futexes(false);
        self.become_only_thread()?;
        // From here on there is no way back.
        let group = self.task.group.clone();
        group.note_exec();
        group.signals.lock().reset_handlers();
        group.delete_posix_timers();
        self.fds = self.fds.unshare();
        self.fds.close_on_exec();
        self.ctx = ctx;
        self.regs = regs;
        (self.trap, self.resumption) = (Trap::default(), None);
        image.mm.core_filter.store(self.mm.core_filter.load(Ordering::Relaxed), Ordering::Relaxed);
        let old = std::mem::replace(&mut self.mm, image.mm);
        group.leave_memory(&old);
        {
            let mut shared = self.task.lock();
            shared.bell = Some(self.ctx.interrupter());
            shared.mm = Some(self.mm.clone());
            shared.fds = self.fds.clone();
            shared.exe = Some(image.exe);
            shared.comm = image.comm;
            shared.altstack = SigStack::DISABLED;
            shared.rseq = None;
        }
        // Who was not quite itself before doesn't show what it runs.
        let before = self.credentials();
        if before.euid != before.ruid || before.egid != before.rgid {
            self.mm.set_dumpable(Dumpable::No);
        }
        if secure {
            let mut shared = self.task.lock();
            shared.pdeath_signal = 0;
            // What would make a program with more rights easier to attack.
            shared.personality &= !PER_CLEAR_ON_SETID;
        }
        self.commit_credentials(credentials);
        self.task.tell_identity();
        drop(old);
        self.task.release();
        self.syscall = None;
        if self.task.is_traced() {
            self.armed = false;
            self.trace_memory();
            self.stop_at_exec(old_number);
        }
        Ok(())
    }
}
