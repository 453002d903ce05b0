//! clone(2), execve(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::signal::{SIG_DFL, SIG_IGN, SigStack};
use abi::{Errno, SysResult, c};
use auth::{Credentials, ExecOutcome};
use loader::Identity;
use mm::Dumpable;
use platform::UserRegs;
use sync::Mutex;
use usermem::UserMemoryExt;
use vfs::Dentry;

use crate::current::Current;
use crate::tasks::{Group, Task};

/// What clone(2) and clone3(2) ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneRequest {
    /// `CLONE_*`, without the exit signal.
    pub flags: u64,
    pub exit_signal: i32,
    /// Stack pointer of the child; 0 keeps the parent's.
    pub stack: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    pub tls: u64,
}

/// Flags that are implemented.
const KNOWN: u64 = (c::CLONE_VM
    | c::CLONE_FS
    | c::CLONE_FILES
    | c::CLONE_SIGHAND
    | c::CLONE_THREAD
    | c::CLONE_SYSVSEM
    | c::CLONE_SETTLS
    | c::CLONE_PARENT_SETTID
    | c::CLONE_CHILD_CLEARTID
    | c::CLONE_CHILD_SETTID
    | c::CLONE_DETACHED
    | c::CLONE_VFORK) as u32 as u64;

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
    /// Makes a task; returns its number.
    ///
    /// # Errors
    /// `EINVAL` for flags that don't go together or aren't implemented, `EAGAIN`, `ENOMEM`.
    pub fn clone_task(&mut self, request: CloneRequest) -> SysResult<u64> {
        let has = |flag: i32| request.flags & u64::from(flag.cast_unsigned()) != 0;
        let (thread, vm, sighand) = (has(c::CLONE_THREAD), has(c::CLONE_VM), has(c::CLONE_SIGHAND));
        if thread && !sighand || sighand && !vm || request.flags & !KNOWN != 0 || sighand && !thread {
            return Err(Errno::EINVAL);
        }
        if !self.ctx.full(&mut self.regs) {
            return Err(Errno::EAGAIN);
        }
        let kernel = self.task.kernel.clone();
        let charge = Task::charge_process(self.credentials(), self.task.group.limit(c::RLIMIT_NPROC))?;
        let tid = kernel.new_pid()?;
        let mut regs: UserRegs = self.regs;
        regs.rax = 0;
        if request.stack != 0 {
            regs.rsp = request.stack;
        }
        let mm = if vm { self.mm.clone() } else { self.mm.fork()? };
        let tls = if has(c::CLONE_SETTLS) { request.tls } else { regs.fs_base };
        regs.fs_base = 0;
        let ctx = mm.aspace().clone().new_context(&regs, Some(&self.ctx.fp()))?;
        regs.fs_base = tls;
        let fds = if has(c::CLONE_FILES) { self.fds.share() } else { self.fds.fork() };
        let fs = if has(c::CLONE_FS) { self.fs.clone() } else { Arc::new(Mutex::new(self.fs_context())) };
        let group = if thread { self.task.group.clone() } else { Group::new(tid, Some(&self.task.group), request.exit_signal) };
        let (comm, exe, mask, altstack, slack, net) = {
            let shared = self.task.lock();
            (shared.comm.clone(), shared.exe.clone(), shared.mask, shared.altstack, shared.timer_slack, shared.net.clone())
        };
        let task = Task::new(&kernel, tid, &group, mm.clone(), self.credentials().clone(), charge, fds, fs, &comm);
        {
            let mut shared = task.lock();
            (shared.exe, shared.mask) = (exe, mask);
            (shared.timer_slack, shared.default_timer_slack) = (slack, slack);
            shared.net = net;
            if !vm || has(c::CLONE_VFORK) {
                shared.altstack = altstack;
            }
            if has(c::CLONE_CHILD_CLEARTID) {
                shared.clear_child_tid = request.child_tid;
            }
        }
        task.inherit_seccomp(&self.task);
        if !thread {
            group.creator.store(self.task.tid, Ordering::Relaxed);
            kernel.groups.lock().insert(tid, group.clone());
            self.task.group.children.lock().push(group.clone());
        }
        if has(c::CLONE_PARENT_SETTID) {
            // As on Linux, a bad address is nobody's error.
            let _ = self.mm.write_obj(request.parent_tid, &tid);
        }
        if has(c::CLONE_CHILD_SETTID) {
            let _ = mm.write_obj(request.child_tid, &tid);
        }
        if let Err(errno) = Self::start(task.clone(), ctx, regs) {
            task.forget();
            return Err(errno);
        }
        if has(c::CLONE_VFORK) {
            // Only the end of the process breaks this wait, as on Linux.
            let _ = self.block_on(Some(&task.released_queue), PollEvents::IN, None, || {
                if task.released.load(Ordering::SeqCst) || self.task.group.ending().is_some() {
                    Ok(())
                } else {
                    Err(Errno::EAGAIN)
                }
            });
        }
        Ok(tid.cast_unsigned().into())
    }

    /// execve(2): replaces the program. All registers are replaced.
    ///
    /// # Errors
    /// As execve(2).
    pub fn exec(&mut self, file: Arc<Dentry>, path: Vec<u8>, argv: Vec<Vec<u8>>, envp: Vec<Vec<u8>>) -> SysResult<()> {
        let kernel = self.task.kernel.clone();
        let program = loader::Program { file, path, argv, envp, user_ns: self.credentials().user_ns.clone() };
        let mut outcome = None;
        let image = loader::load(&*kernel.platform, &self.fs_context(), program, &mut |file| {
            let ExecOutcome { credentials, secure } = self.exec_credentials(file)?;
            let identity = identity(&credentials, secure);
            outcome = Some((credentials, secure));
            Ok(identity)
        })?;
        let (credentials, secure) = outcome.ok_or(Errno::ENOEXEC)?;
        let regs = UserRegs { rip: image.entry, rsp: image.stack, eflags: 0x202, ..UserRegs::default() };
        let ctx = image.mm.aspace().clone().new_context(&regs, None)?;
        // From here on there is no way back. The other threads go first.
        self.end_siblings();
        self.release_futexes(false);
        let group = self.task.group.clone();
        group.exit_signal.store(c::SIGCHLD, Ordering::Relaxed);
        for action in group.actions.lock().iter_mut() {
            if action.handler != SIG_IGN {
                action.handler = SIG_DFL;
            }
            (action.flags, action.mask) = (0, abi::signal::SigSet(0));
        }
        self.fds = self.fds.unshare();
        self.fds.close_on_exec();
        self.ctx = ctx;
        self.regs = regs;
        let old = std::mem::replace(&mut self.mm, image.mm);
        {
            let mut shared = self.task.lock();
            shared.bell = Some(self.ctx.interrupter());
            shared.mm = Some(self.mm.clone());
            shared.fds = self.fds.clone();
            shared.exe = Some(image.exe);
            shared.comm = image.comm;
            shared.altstack = SigStack { flags: c::SS_DISABLE, ..SigStack::default() };
        }
        // Who was not quite itself before doesn't show what it runs.
        let before = self.credentials();
        if before.euid != before.ruid || before.egid != before.rgid {
            self.mm.set_dumpable(Dumpable::No);
        }
        if secure {
            self.task.lock().pdeath_signal = 0;
        }
        self.commit_credentials(credentials);
        self.task.tell_identity();
        drop(old);
        self.task.release();
        self.syscall = None;
        Ok(())
    }
}
