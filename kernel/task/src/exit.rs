//! The end of tasks, and wait4(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::poll::PollEvents;
use abi::signal::{SIG_IGN, SigInfo};
use abi::{Errno, SysResult, c};

use crate::current::Current;
use crate::tasks::{Group, Task, Wait};

impl Task {
    /// Lets a vfork(2) parent go on.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.released_queue.wake(PollEvents::IN);
    }

    /// Takes a task out of all tables.
    pub(crate) fn forget(&self) {
        let fds = std::mem::take(&mut self.lock().fds);
        fds.leave();
        self.kernel.tasks.lock().remove(&self.tid);
        self.group.tasks.lock().retain(|task| task.tid != self.tid);
        self.group.child_queue.wake(PollEvents::IN);
    }
}

impl Current {
    /// exit(2): ends this task alone, if others are left; the process otherwise.
    pub fn exit(&mut self, status: i32) {
        if self.task.group.tasks.lock().len() == 1 {
            self.task.group.end(status);
        }
        self.task.lock().pending.discard(abi::signal::SigSet(u64::MAX));
        // The run loop asks the group; a lone thread's end is its own.
        self.lone_exit = true;
        self.task.attention.store(true, Ordering::SeqCst);
    }

    /// Ends all other threads of the process (execve(2)).
    pub(crate) fn end_siblings(&mut self) {
        let group = self.task.group.clone();
        let others: Vec<_> = group.tasks.lock().iter().filter(|task| task.tid != self.task.tid).cloned().collect();
        for task in &others {
            task.ordered_to_exit.store(true, Ordering::SeqCst);
            task.kick();
        }
        let _ = self.block_on(Some(&group.child_queue), PollEvents::IN, None, || {
            if group.tasks.lock().len() > 1 && group.ending().is_none() { Err(Errno::EAGAIN) } else { Ok(()) }
        });
    }

    /// The last thing a task's thread does.
    pub(crate) fn leave(mut self, status: i32) {
        let task = self.task.clone();
        trace_end(&task, status);
        self.release_futexes(true);
        self.tell_children();
        let cpu = self.mm.aspace().cpu_time();
        let gone = {
            let mut shared = task.lock();
            (shared.charge.take(), shared.filters.take())
        };
        drop(gone);
        // The shared state keeps nothing alive that others wait for the end of.
        {
            let mut shared = task.lock();
            (shared.mm, shared.bell, shared.exe) = (None, None, None);
        }
        let fds = std::mem::take(&mut self.fds);
        task.lock().fds = Arc::default();
        drop(self);
        fds.leave();
        task.release();
        let group = task.group.clone();
        let last = {
            let mut tasks = group.tasks.lock();
            tasks.retain(|other| other.tid != task.tid);
            tasks.is_empty()
        };
        task.kernel.tasks.lock().remove(&task.tid);
        group.child_queue.wake(PollEvents::IN);
        if last {
            *group.cpu.lock() = cpu;
            let _ = group.last_credentials.set(task.credentials());
            group.end(status);
            task.kernel.group_ended(&group);
        }
    }

    /// wait4(2), waitid(2): a child that has ended (or stopped, or continued): its number, wait status and group.
    ///
    /// # Errors
    /// `ECHILD`, `ERESTARTSYS`.
    pub fn wait_child(&self, which: i32, options: i32) -> SysResult<Option<(i32, i32, Arc<Group>)>> {
        let own = self.task.group.clone();
        let pgid = own.pgid.load(Ordering::Relaxed);
        let attempt = || {
            let mut children = own.children.lock();
            let fits = |child: &Group| match which {
                -1 => true,
                0 => child.pgid.load(Ordering::Relaxed) == pgid,
                pid if pid > 0 => child.pid == pid,
                pid => child.pgid.load(Ordering::Relaxed) == -pid,
            };
            if !children.iter().any(|child| fits(child)) {
                return Err(Errno::ECHILD);
            }
            if options & c::WEXITED != 0
                && let Some(at) = children.iter().position(|child| fits(child) && child.is_zombie())
            {
                let child = if options & c::WNOWAIT == 0 { children.remove(at) } else { children[at].clone() };
                if options & c::WNOWAIT == 0 {
                    self.task.kernel.groups.lock().remove(&child.pid);
                }
                return Ok(Some((child.pid, child.ending().unwrap_or(0), child.clone())));
            }
            for child in children.iter().filter(|child| fits(child)) {
                let mut news = child.news.lock();
                let status = match *news {
                    Some(Wait::Stopped(signo)) if options & c::WUNTRACED != 0 => signo << 8 | 0x7f,
                    Some(Wait::Continued) if options & c::WCONTINUED != 0 => 0xffff,
                    _ => continue,
                };
                if options & c::WNOWAIT == 0 {
                    *news = None;
                }
                drop(news);
                return Ok(Some((child.pid, status, child.clone())));
            }
            if options & c::WNOHANG != 0 { Ok(None) } else { Err(Errno::EAGAIN) }
        };
        self.block_on(Some(&own.child_queue), PollEvents::IN, None, attempt)
    }
}

impl crate::kernel::Kernel {
    /// Who gets the children of a process that ends: the nearest ancestor that wants them, or the first process.
    fn reaper(&self, group: &Arc<Group>) -> Option<Arc<Group>> {
        let mut at = group.parent.lock().upgrade();
        while let Some(ancestor) = at {
            if ancestor.child_subreaper.load(Ordering::SeqCst) && ancestor.ending().is_none() {
                return Some(ancestor);
            }
            at = ancestor.parent.lock().upgrade();
        }
        self.group(1)
    }

    /// A process has no task left: its parent hears of it, its children get a new one.
    fn group_ended(&self, group: &Arc<Group>) {
        let status = group.ending().unwrap_or(0);
        let orphans = std::mem::take(&mut *group.children.lock());
        if group.pid == 1 {
            // Nobody outlives the first process.
            let all: Vec<_> = self.groups.lock().values().cloned().collect();
            all.iter().filter(|other| other.pid != 1).for_each(|other| other.end(c::SIGKILL));
            self.init_ended(status);
            return;
        }
        if let Some(init) = self.reaper(group) {
            for orphan in orphans {
                *orphan.parent.lock() = Arc::downgrade(&init);
                orphan.exit_signal.store(c::SIGCHLD, Ordering::Relaxed);
                let tasks = orphan.tasks.lock().clone();
                tasks.iter().for_each(|task| task.tell_identity());
                let zombie = orphan.is_zombie();
                init.children.lock().push(orphan.clone());
                if zombie {
                    init.child_queue.wake(PollEvents::IN);
                    init.signal(SigInfo::child(c::CLD_EXITED, orphan.pid, 0, 0));
                }
            }
        }
        group.set_zombie();
        let parent = group.parent.lock().upgrade();
        let Some(parent) = parent else {
            self.groups.lock().remove(&group.pid);
            return;
        };
        let action = parent.action(c::SIGCHLD);
        if action.handler == SIG_IGN || action.flags & c::SA_NOCLDWAIT as u64 != 0 {
            parent.children.lock().retain(|child| child.pid != group.pid);
            self.groups.lock().remove(&group.pid);
        }
        let exit_signal = group.exit_signal.load(Ordering::Relaxed);
        if exit_signal != 0 {
            let (code, value) = match status & 0x7f {
                0 => (c::CLD_EXITED, status >> 8 & 0xff),
                signo => (c::CLD_KILLED, signo),
            };
            let mut info = SigInfo::child(code, group.pid, 0, value);
            info.signo = exit_signal;
            parent.signal(info);
        }
        parent.child_queue.wake(PollEvents::IN);
    }
}

/// Writes the end of a task to the trace, as strace(1) does.
fn trace_end(task: &Task, status: i32) {
    let trace = &task.kernel.trace;
    if !trace.is_on() {
        return;
    }
    let how = match status & 0x7f {
        0 => format!("exited with {}", status >> 8 & 0xff),
        signo if status & 0x80 != 0 => format!("killed by {} (core dumped)", abi::signal::name(signo)),
        signo => format!("killed by {}", abi::signal::name(signo)),
    };
    trace.note(task.tid, &format!("+++ {how} +++"));
}
