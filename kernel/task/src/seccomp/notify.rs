//! Supervisors that decide about system calls of others (seccomp_unotify(2)).

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use sync::{Mutex, WaitQueue, monotonic_ns};
use vfs::{File, FileOps};

use super::filter::Invocation;
use crate::current::Current;
use crate::tasks::Task;

/// What a supervisor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What the call returns; errors are small negative numbers.
    Return(u64),
    /// The call is made after all.
    Continue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody has it yet.
    New,
    /// The supervisor has it.
    Received,
    Answered(Answer),
}

/// A call that waits.
struct Request {
    task: Arc<Task>,
    call: Invocation,
    progress: Progress,
}

#[derive(Default)]
struct State {
    /// In order of arrival.
    requests: BTreeMap<u64, Request>,
    next: u64,
    /// The supervisor has closed its descriptor.
    deaf: bool,
    /// No task has the filter any more.
    alone: bool,
}

/// Between the tasks under a filter and their supervisor.
pub struct Notifier {
    state: Mutex<State>,
    queue: WaitQueue,
    wait_killable: bool,
}

impl Notifier {
    pub(super) fn new(wait_killable: bool) -> Self {
        // Numbers of one supervisor should mean nothing to another.
        let state = State { next: monotonic_ns() << 16, ..State::default() };
        Self { state: Mutex::new(state), queue: WaitQueue::default(), wait_killable }
    }

    pub(super) fn filter_gone(&self) {
        self.state.lock().alone = true;
        self.queue.wake(PollEvents::HUP);
    }

    fn submit(&self, task: &Arc<Task>, call: Invocation) -> SysResult<u64> {
        let mut state = self.state.lock();
        if state.deaf {
            return Err(Errno::ENOSYS);
        }
        let id = state.next;
        state.next = id.wrapping_add(1);
        state.requests.insert(id, Request { task: task.clone(), call, progress: Progress::New });
        drop(state);
        self.queue.wake(PollEvents::READABLE);
        Ok(id)
    }

    /// The answer, if there is one; whether the supervisor has got the call.
    fn answer(&self, id: u64) -> (Option<Answer>, bool) {
        let mut state = self.state.lock();
        match state.requests.get(&id).map(|request| request.progress) {
            Some(Progress::New) => (None, false),
            Some(Progress::Received) => (None, true),
            Some(Progress::Answered(answer)) => {
                state.requests.remove(&id);
                (Some(answer), true)
            }
            // The supervisor is gone.
            None => (Some(Answer::Return(Errno::ENOSYS.to_rax())), true),
        }
    }

    fn withdraw(&self, id: u64) {
        self.state.lock().requests.remove(&id);
    }
}

impl Current {
    /// Asks a supervisor about a call and waits for what it says.
    pub(super) fn ask_supervisor(&mut self, notifier: &Notifier, call: Invocation) -> SysResult<Answer> {
        let id = notifier.submit(&self.task, call)?;
        loop {
            let (answer, received) = notifier.answer(id);
            if let Some(answer) = answer {
                return Ok(answer);
            }
            if let Err(errno) = self.sleep(None) {
                if received && notifier.wait_killable && !self.task.killed() {
                    // The token that woke us is taken: wait for the next.
                    self.task.parker.park(None);
                    continue;
                }
                notifier.withdraw(id);
                return Err(errno);
            }
        }
    }
}

/// The supervisor's file.
pub struct Listener {
    notifier: Arc<Notifier>,
}

impl Listener {
    pub(super) fn new(notifier: Arc<Notifier>) -> Arc<Self> {
        Arc::new(Self { notifier })
    }

    /// The next call that waits: its number, who makes it, and what it is.
    ///
    /// # Errors
    /// `EAGAIN`; `ENOENT` when no task is left that could make one.
    pub fn receive(&self) -> SysResult<(u64, Arc<Task>, Invocation)> {
        let mut state = self.notifier.state.lock();
        let alone = state.alone;
        let next = state.requests.iter_mut().find(|(_, request)| request.progress == Progress::New);
        let Some((id, request)) = next else { return Err(if alone { Errno::ENOENT } else { Errno::EAGAIN }) };
        request.progress = Progress::Received;
        let found = (*id, request.task.clone(), request.call);
        drop(state);
        self.notifier.queue.wake(PollEvents::WRITABLE);
        Ok(found)
    }

    /// Takes a [`Self::receive`] back.
    pub fn put_back(&self, id: u64) {
        if let Some(request) = self.notifier.state.lock().requests.get_mut(&id) {
            request.progress = Progress::New;
        }
    }

    /// Whether the call with this number still waits for an answer.
    #[must_use]
    pub fn is_waiting(&self, id: u64) -> bool {
        self.notifier.state.lock().requests.get(&id).is_some_and(|request| request.progress == Progress::Received)
    }

    fn waiting(state: &mut State, id: u64) -> SysResult<&mut Request> {
        let request = state.requests.get_mut(&id).ok_or(Errno::ENOENT)?;
        if request.progress == Progress::Received { Ok(request) } else { Err(Errno::EINPROGRESS) }
    }

    /// Answers a call.
    ///
    /// # Errors
    /// `ENOENT` when it doesn't wait any more; `EINPROGRESS` when it has been answered, or not been received.
    pub fn answer(&self, id: u64, answer: Answer) -> SysResult<()> {
        let mut state = self.notifier.state.lock();
        let request = Self::waiting(&mut state, id)?;
        request.progress = Progress::Answered(answer);
        request.task.parker.unpark();
        Ok(())
    }

    /// Gives the task a file, at `fd` or the lowest free number; with `answer` that number is what the call returns.
    ///
    /// # Errors
    /// As [`Self::answer`]; `EMFILE`, `EBADF`.
    pub fn add_file(&self, id: u64, file: Arc<File>, fd: Option<i32>, cloexec: bool, answer: bool) -> SysResult<i32> {
        let mut state = self.notifier.state.lock();
        let request = Self::waiting(&mut state, id)?;
        let (fds, limit) = (request.task.lock().fds.clone(), request.task.group.limit(abi::c::RLIMIT_NOFILE));
        let fd = match fd {
            Some(fd) => fds.set(fd, file, cloexec, limit).map(|()| fd)?,
            None => fds.install(file, cloexec, 0, limit)?,
        };
        if answer {
            request.progress = Progress::Answered(Answer::Return(fd.cast_unsigned().into()));
            request.task.parker.unpark();
        }
        Ok(fd)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let requests = {
            let mut state = self.notifier.state.lock();
            state.deaf = true;
            std::mem::take(&mut state.requests)
        };
        requests.values().for_each(|request| request.task.parker.unpark());
    }
}

impl FileOps for Listener {
    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self) -> PollEvents {
        let state = self.notifier.state.lock();
        let mut events = PollEvents::empty();
        for request in state.requests.values() {
            match request.progress {
                Progress::New => events |= PollEvents::READABLE,
                Progress::Received => events |= PollEvents::WRITABLE,
                Progress::Answered(_) => {}
            }
        }
        if state.alone { events | PollEvents::HUP } else { events }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.notifier.queue)
    }

    fn describe(&self) -> String {
        "anon_inode:seccomp notify".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
