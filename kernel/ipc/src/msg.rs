//! Message queues (msgop(2)).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, UserNamespace};
use sync::{Mutex, WaitQueue};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::{IpcPerm, Owner, Registry, Stat, get_or_make};
use crate::now;

/// Limits (`kernel.msgmax` and its like).
pub const MSGMAX: usize = 8192;
const MSGMNB: u64 = 16384;
const MSGMNI: usize = 32000;
/// Bytes of all messages at most: what Linux charges to who sends them is the sandbox's memory here.
const MAX_TOTAL: usize = 256 << 20;
/// What a message costs besides its text.
const OVERHEAD: usize = 64;

/// `struct msqid64_ds`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MsqidDs {
    pub perm: IpcPerm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
    pub unused: [u64; 2],
}

/// `struct msginfo`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MsgInfo {
    pub msgpool: i32,
    pub msgmap: i32,
    pub msgmax: i32,
    pub msgmnb: i32,
    pub msgmni: i32,
    pub msgssz: i32,
    pub msgtql: i32,
    pub msgseg: u16,
    pub pad: u16,
}

struct Message {
    kind: i64,
    text: Vec<u8>,
}

struct State {
    owner: Owner,
    messages: VecDeque<Message>,
    bytes: u64,
    limit: u64,
    stime: i64,
    rtime: i64,
    ctime: i64,
    lspid: i32,
    lrpid: i32,
    removed: bool,
}

/// A queue.
struct Queue {
    state: Mutex<State>,
    waiters: WaitQueue,
    total: Arc<AtomicUsize>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let all: usize = state.messages.iter().map(|message| message.text.len() + OVERHEAD).sum();
        self.total.fetch_sub(all, Ordering::Relaxed);
    }
}

/// What msgrcv(2) asks for.
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    pub size: usize,
    pub kind: i64,
    pub flags: i32,
}

impl Receive {
    fn has(self, flag: i32) -> bool {
        self.flags & flag != 0
    }

    /// The message that it means.
    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        if self.has(c::MSG_COPY) {
            return usize::try_from(self.kind).ok().filter(|at| *at < messages.len());
        }
        match self.kind {
            0 => {
                if messages.is_empty() {
                    None
                } else {
                    Some(0)
                }
            }
            kind if kind > 0 => {
                let except = self.has(c::MSG_EXCEPT);
                messages.iter().position(|message| (message.kind == kind) != except)
            }
            kind => {
                let most = kind.checked_neg().unwrap_or(i64::MAX);
                let fitting = messages.iter().enumerate().filter(|(_, message)| message.kind <= most);
                fitting.min_by_key(|(_, message)| message.kind).map(|(at, _)| at)
            }
        }
    }
}

/// The queues of a namespace.
#[derive(Default)]
pub struct Messages {
    registry: Mutex<Registry<Queue>>,
    total: Arc<AtomicUsize>,
}

/// A queue that somebody sends to or receives from.
pub struct Opened(Arc<Queue>);

impl Opened {
    /// Where to wait when it says `EAGAIN`.
    #[must_use]
    pub fn waiters(&self) -> &WaitQueue {
        &self.0.waiters
    }

    /// Puts a message in the queue.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room, `EIDRM`, `EACCES`, `ENOMEM`.
    pub fn send(&self, kind: i64, text: &[u8], who: &Credentials, ns: &UserNamespace, pid: i32) -> SysResult<()> {
        let mut state = self.0.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        state.owner.check(who, ns, 0o222)?;
        let bytes = state.bytes.saturating_add(text.len() as u64);
        if bytes > state.limit || state.messages.len() as u64 + 1 > state.limit {
            return Err(Errno::EAGAIN);
        }
        let cost = text.len() + OVERHEAD;
        let room = |used: usize| used.checked_add(cost).filter(|used| *used <= MAX_TOTAL);
        self.0.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map_err(|_| Errno::ENOMEM)?;
        state.messages.push_back(Message { kind, text: text.to_vec() });
        (state.bytes, state.stime, state.lspid) = (bytes, now(), pid);
        drop(state);
        self.0.waiters.wake(PollEvents::IN);
        Ok(())
    }

    /// Takes a message, or copies one: its kind and text.
    ///
    /// # Errors
    /// `EAGAIN` when there is none, `E2BIG`, `EIDRM`, `EACCES`, `EINVAL`, `ENOMSG` for copies.
    pub fn receive(&self, what: Receive, who: &Credentials, ns: &UserNamespace, pid: i32) -> SysResult<(i64, Vec<u8>)> {
        let mut state = self.0.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        state.owner.check(who, ns, 0o444)?;
        let copy = what.has(c::MSG_COPY);
        let at = what.find(&state.messages).ok_or(if copy { Errno::ENOMSG } else { Errno::EAGAIN })?;
        let message = state.messages.get(at).ok_or(Errno::EAGAIN)?;
        let len = message.text.len();
        if len > what.size && !what.has(c::MSG_NOERROR) {
            return Err(Errno::E2BIG);
        }
        if copy {
            // A copy isn't cut.
            return if len > what.size { Err(Errno::EINVAL) } else { Ok((message.kind, message.text.clone())) };
        }
        let mut message = state.messages.remove(at).ok_or(Errno::EAGAIN)?;
        state.bytes = state.bytes.saturating_sub(len as u64);
        (state.rtime, state.lrpid) = (now(), pid);
        drop(state);
        self.0.total.fetch_sub(len + OVERHEAD, Ordering::Relaxed);
        self.0.waiters.wake(PollEvents::OUT);
        message.text.truncate(what.size);
        Ok((message.kind, message.text))
    }
}

impl Messages {
    /// msgget(2)
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`.
    pub fn get(&self, key: i32, flags: i32, who: &Credentials, ns: &UserNamespace) -> SysResult<i32> {
        let mut registry = self.registry.lock();
        let owner = |queue: &Queue| queue.state.lock().owner;
        if let Some(id) = get_or_make(&registry, key, flags, (who, ns), owner, |_| Ok(()))? {
            return Ok(id);
        }
        registry.add(key, MSGMNI, |_, seq| {
            let state = State {
                owner: Owner { seq, ..Owner::new(key, flags, who) },
                messages: VecDeque::new(),
                bytes: 0,
                limit: MSGMNB,
                stime: 0,
                rtime: 0,
                ctime: now(),
                lspid: 0,
                lrpid: 0,
                removed: false,
            };
            Arc::new(Queue { state: Mutex::new(state), waiters: WaitQueue::default(), total: self.total.clone() })
        })
    }

    /// The queue with an identifier.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn open(&self, id: i32) -> SysResult<Opened> {
        self.registry.lock().get(id).cloned().map(Opened)
    }

    /// `IPC_STAT` and its like: the identifier and what there is to tell.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn stat(&self, which: Stat, who: &Credentials, ns: &UserNamespace) -> SysResult<(i32, MsqidDs)> {
        let (id, queue) = self.registry.lock().find(which).map(|(id, queue)| (id, queue.clone()))?;
        let state = queue.state.lock();
        if !matches!(which, Stat::Any(_)) {
            state.owner.check(who, ns, 0o444)?;
        }
        Ok((id, show(&state, who)))
    }

    /// `IPC_SET`
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn change(&self, id: i32, new: &MsqidDs, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let queue = self.open(id)?.0;
        let mut state = queue.state.lock();
        state.owner.check_control(who, ns)?;
        if new.qbytes > MSGMNB && !who.has_capability_in(ns, Capability::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        state.owner.set(&new.perm, who)?;
        (state.limit, state.ctime) = (new.qbytes, now());
        drop(state);
        queue.waiters.wake(PollEvents::IN | PollEvents::OUT);
        Ok(())
    }

    /// `IPC_RMID`: who waits hears of it.
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn remove(&self, id: i32, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let mut registry = self.registry.lock();
        let queue = registry.get(id)?.clone();
        let mut state = queue.state.lock();
        state.owner.check_control(who, ns)?;
        state.removed = true;
        registry.remove(id);
        drop(state);
        drop(registry);
        queue.waiters.wake(PollEvents::IN | PollEvents::OUT);
        Ok(())
    }

    /// `IPC_INFO`, or `MSG_INFO` with what is in use; and the largest slot.
    #[must_use]
    pub fn info(&self, in_use: bool) -> (i32, MsgInfo) {
        let number = |count: u64| i32::try_from(count).unwrap_or(i32::MAX);
        let mut info = MsgInfo {
            msgpool: number(MSGMNI as u64 * MSGMNB / 1024),
            msgmap: number(MSGMNB),
            msgmax: number(MSGMAX as u64),
            msgmnb: number(MSGMNB),
            msgmni: number(MSGMNI as u64),
            msgssz: 16,
            msgtql: number(MSGMNB),
            msgseg: 0xffff,
            pad: 0,
        };
        let registry = self.registry.lock();
        if in_use {
            let (mut messages, mut bytes) = (0u64, 0u64);
            for (_, queue) in registry.iter() {
                let state = queue.state.lock();
                messages += state.messages.len() as u64;
                bytes += state.bytes;
            }
            (info.msgpool, info.msgmap, info.msgtql) = (number(registry.len() as u64), number(messages), number(bytes));
        }
        (registry.last_slot(), info)
    }

    /// /proc/sysvipc/msg
    #[must_use]
    pub fn text(&self, reader: &Credentials) -> String {
        let mut text = String::from(
            "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
        );
        for (id, queue) in self.registry.lock().iter() {
            let d = show(&queue.state.lock(), reader);
            let p = d.perm;
            text.push_str(&format!(
                "{:10} {id:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}\n",
                p.key, p.mode, d.cbytes, d.qnum, d.lspid, d.lrpid, p.uid, p.gid, p.cuid, p.cgid, d.stime, d.rtime, d.ctime
            ));
        }
        text
    }
}

fn show(state: &State, who: &Credentials) -> MsqidDs {
    MsqidDs {
        perm: state.owner.show(who),
        stime: state.stime,
        rtime: state.rtime,
        ctime: state.ctime,
        cbytes: state.bytes,
        qnum: state.messages.len() as u64,
        qbytes: state.limit,
        lspid: state.lspid,
        lrpid: state.lrpid,
        unused: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_picked_by_kind() {
        let ns = UserNamespace::initial();
        let who = Credentials::root(ns.clone());
        let all = Messages::default();
        let id = all.get(c::IPC_PRIVATE, 0o600, &who, &ns).unwrap();
        let queue = all.open(id).unwrap();
        for kind in [5, 3, 9, 3] {
            queue.send(kind, &[kind as u8; 4], &who, &ns, 1).unwrap();
        }
        let take = |kind, flags| queue.receive(Receive { size: 10, kind, flags }, &who, &ns, 2).map(|message| message.0);
        assert_eq!(take(2, c::MSG_COPY), Ok(9));
        assert_eq!(take(-4, 0), Ok(3));
        assert_eq!(take(5, c::MSG_EXCEPT), Ok(9));
        assert_eq!(take(7, 0), Err(Errno::EAGAIN));
        assert_eq!(take(0, 0), Ok(5));
        assert_eq!(queue.receive(Receive { size: 3, kind: 0, flags: 0 }, &who, &ns, 2), Err(Errno::E2BIG));
        assert_eq!(all.info(true).1.msgtql, 4);
        let cut = queue.receive(Receive { size: 3, kind: 0, flags: c::MSG_NOERROR }, &who, &ns, 2);
        assert_eq!(cut, Ok((3, vec![3; 3])));
        queue.send(1, &[0; MSGMAX], &who, &ns, 1).unwrap();
        queue.send(1, &[0; MSGMAX], &who, &ns, 1).unwrap();
        assert_eq!(queue.send(1, &[0], &who, &ns, 1), Err(Errno::EAGAIN));
        all.remove(id, &who, &ns).unwrap();
        assert_eq!(queue.send(1, &[0], &who, &ns, 1), Err(Errno::EIDRM));
        drop(queue);
        assert_eq!(all.total.load(Ordering::Relaxed), 0);
    }
}
