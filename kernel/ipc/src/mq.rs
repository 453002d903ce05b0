//! POSIX message queues (mq_overview(7)): files of a filesystem with one directory.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use auth::{Capability, Charge, Counted, Credentials, UserNamespace};
use sync::{Mutex, WaitQueue};
use usermem::IoBuf;
use vfs::{Attr, Caching, DirEntry, FileOps, Inode, NewNode, SetAttr, new_dev, new_ino};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Limits (/proc/sys/fs/mqueue), and those of who may go beyond (`CAP_SYS_RESOURCE`).
const QUEUES_MAX: usize = 256;
const MSG_MAX: i64 = 10;
const MSGSIZE_MAX: i64 = 8192;
const HARD_MSG_MAX: i64 = 65536;
const HARD_MSGSIZE_MAX: i64 = 16 << 20;
/// Queues whoever makes them, so that they can't use up all memory by their number.
const HARD_QUEUES_MAX: usize = 4096;
/// `MQUEUE_MAGIC`
const MAGIC: i64 = 0x1980_0202;
/// Bytes that a message costs besides its text (mq_overview(7), RLIMIT_MSGQUEUE: two structures and a pointer).
const OVERHEAD: u64 = 48 + 80;

/// `struct mq_attr`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MqAttr {
    pub flags: i64,
    pub maxmsg: i64,
    pub msgsize: i64,
    pub curmsgs: i64,
    pub reserved: [i64; 4],
}

/// Somebody who wants to be told when a message comes to an empty queue (mq_notify(3)).
pub trait Notifier: Send + Sync {
    /// It has come, from a process of number `pid` and a user.
    fn notify(&self, pid: i32, who: &Credentials);
    /// Number of the process, which may register once only.
    fn pid(&self) -> i32;
    /// `SIGEV_*` and the signal, for who reads the queue's file.
    fn describe(&self) -> (i32, i32);
}

struct State {
    attr: Attr,
    /// By priority, the highest first.
    messages: BTreeMap<Reverse<u32>, VecDeque<Vec<u8>>>,
    count: i64,
    bytes: u64,
    notifier: Option<Arc<dyn Notifier>>,
}

/// A queue.
pub struct MessageQueue {
    state: Mutex<State>,
    maxmsg: i64,
    msgsize: i64,
    waiters: WaitQueue,
    /// Those who wait for a message: who wants to be told isn't, as long as there are any.
    receivers: AtomicUsize,
    _charge: Option<Charge>,
}

/// Somebody who waits for a message.
pub struct Receiver<'a>(&'a MessageQueue);

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        self.0.receivers.fetch_sub(1, Ordering::SeqCst);
    }
}

fn now() -> Timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }
}

impl MessageQueue {
    /// Bytes of a message at most.
    #[must_use]
    pub fn msgsize(&self) -> usize {
        usize::try_from(self.msgsize).unwrap_or(0)
    }

    /// Where to wait.
    #[must_use]
    pub fn waiters(&self) -> &WaitQueue {
        &self.waiters
    }

    /// Counts as one who waits for a message until the result is dropped.
    #[must_use]
    pub fn receiver(&self) -> Receiver<'_> {
        self.receivers.fetch_add(1, Ordering::SeqCst);
        Receiver(self)
    }

    /// As mq_getattr(3) tells, without flags.
    #[must_use]
    pub fn attributes(&self) -> MqAttr {
        MqAttr { maxmsg: self.maxmsg, msgsize: self.msgsize, curmsgs: self.state.lock().count, ..MqAttr::default() }
    }

    /// Puts a message in; who wants to be told is.
    ///
    /// # Errors
    /// `EAGAIN` when it is full.
    pub fn send(&self, text: &[u8], priority: u32, pid: i32, who: &Credentials) -> SysResult<()> {
        let mut state = self.state.lock();
        if state.count >= self.maxmsg {
            return Err(Errno::EAGAIN);
        }
        let first = state.count == 0;
        state.messages.entry(Reverse(priority)).or_default().push_back(text.to_vec());
        state.count += 1;
        state.bytes += text.len() as u64;
        (state.attr.mtime, state.attr.ctime) = (now(), now());
        let waited_for = self.receivers.load(Ordering::SeqCst) > 0;
        let notifier = if first && !waited_for { state.notifier.take() } else { None };
        drop(state);
        self.waiters.wake(PollEvents::READABLE);
        if let Some(notifier) = notifier {
            notifier.notify(pid, who);
        }
        Ok(())
    }

    /// Takes the oldest message of the highest priority; returns both.
    ///
    /// # Errors
    /// `EAGAIN` when there is none.
    pub fn receive(&self) -> SysResult<(Vec<u8>, u32)> {
        let mut state = self.state.lock();
        let mut entry = state.messages.first_entry().ok_or(Errno::EAGAIN)?;
        let priority = entry.key().0;
        let text = entry.get_mut().pop_front().ok_or(Errno::EAGAIN)?;
        if entry.get().is_empty() {
            entry.remove();
        }
        state.count -= 1;
        state.bytes = state.bytes.saturating_sub(text.len() as u64);
        (state.attr.atime, state.attr.ctime) = (now(), now());
        drop(state);
        self.waiters.wake(PollEvents::WRITABLE);
        Ok((text, priority))
    }

    /// mq_notify(3): registers, or with `None` takes back what process `pid` has registered.
    ///
    /// # Errors
    /// `EBUSY` when somebody is registered already.
    pub fn set_notifier(&self, notifier: Option<Arc<dyn Notifier>>, pid: i32) -> SysResult<()> {
        let mut state = self.state.lock();
        match notifier {
            Some(_) if state.notifier.is_some() => return Err(Errno::EBUSY),
            Some(new) => state.notifier = Some(new),
            None if state.notifier.as_ref().is_some_and(|known| known.pid() == pid) => state.notifier = None,
            None => {}
        }
        (state.attr.atime, state.attr.ctime) = (now(), now());
        Ok(())
    }
}

impl Inode for MessageQueue {
    fn attr(&self) -> SysResult<Attr> {
        Ok(self.state.lock().attr)
    }

    fn open(self: Arc<Self>, _: i32) -> SysResult<Arc<dyn FileOps>> {
        Ok(Arc::new(QueueFile(self)))
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        let mut state = self.state.lock();
        let attr = &mut state.attr;
        if let Some(mode) = set.mode {
            attr.mode = attr.mode & c::S_IFMT | mode & 0o7777;
        }
        (attr.uid, attr.gid) = (set.uid.unwrap_or(attr.uid), set.gid.unwrap_or(attr.gid));
        attr.ctime = now();
        Ok(())
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(statfs())
    }
}

fn statfs() -> Statfs {
    Statfs { kind: MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() }
}

/// An open queue.
pub struct QueueFile(pub Arc<MessageQueue>);

impl FileOps for QueueFile {
    /// What cat(1) shows: how much is in the queue, and who wants to be told.
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let text = {
            let state = self.0.state.lock();
            let (kind, signo) = state.notifier.as_ref().map_or((0, 0), |notifier| notifier.describe());
            let pid = state.notifier.as_ref().map_or(0, |notifier| notifier.pid());
            format!("QSIZE:{:<10} NOTIFY:{kind:<5} SIGNO:{signo:<5} NOTIFY_PID:{pid:<6}\n", state.bytes)
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        buf.copy_out(text.as_bytes().get(at..).unwrap_or_default())
    }

    fn poll(&self) -> PollEvents {
        let count = self.0.state.lock().count;
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, count > 0);
        events.set(PollEvents::WRITABLE, count < self.0.maxmsg);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.waiters)
    }

    fn attr(&self) -> Option<Attr> {
        Some(self.0.state.lock().attr)
    }

    fn describe(&self) -> String {
        "mqueue".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The queues of a namespace: the one directory of their filesystem.
pub struct Queues {
    attr: Attr,
    names: Mutex<BTreeMap<Vec<u8>, Arc<MessageQueue>>>,
    me: Weak<Self>,
}

impl Queues {
    #[must_use]
    pub fn new() -> Arc<Self> {
        let time = now();
        let (dev, ino, mode) = (new_dev(), new_ino(), c::S_IFDIR | 0o1777);
        let attr = Attr { dev, ino, mode, nlink: 2, atime: time, mtime: time, ctime: time, ..Attr::default() };
        Arc::new_cyclic(|me| Self { attr, names: Mutex::default(), me: me.clone() })
    }

    /// Of the filesystem.
    #[must_use]
    pub fn dev(&self) -> u64 {
        self.attr.dev
    }

    /// # Errors
    /// `ENOENT` for an empty name, `EACCES` for what is none, `ENAMETOOLONG`.
    pub fn check_name(name: &[u8]) -> SysResult<()> {
        if name.is_empty() {
            return Err(Errno::ENOENT);
        }
        if name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Errno::EACCES);
        }
        if name.len() > 255 { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
    }

    /// # Errors
    /// `ENOENT`
    pub fn find(&self, name: &[u8]) -> SysResult<Arc<MessageQueue>> {
        self.names.lock().get(name).cloned().ok_or(Errno::ENOENT)
    }

    /// Makes a queue. `limit`: RLIMIT_MSGQUEUE.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` for attributes, `ENOSPC`, `EMFILE` beyond the limit.
    pub fn make(
        &self,
        name: &[u8],
        mode: u32,
        attr: Option<MqAttr>,
        who: &Credentials,
        ns: &UserNamespace,
        limit: u64,
    ) -> SysResult<Arc<MessageQueue>> {
        let privileged = who.has_capability_in(ns, Capability::SYS_RESOURCE);
        let (most, largest) = if privileged { (HARD_MSG_MAX, HARD_MSGSIZE_MAX) } else { (MSG_MAX, MSGSIZE_MAX) };
        let (maxmsg, msgsize) = attr.map_or((MSG_MAX, MSGSIZE_MAX), |attr| (attr.maxmsg, attr.msgsize));
        if !(1..=most).contains(&maxmsg) || !(1..=largest).contains(&msgsize) {
            return Err(Errno::EINVAL);
        }
        let cost = maxmsg.cast_unsigned().saturating_mul(msgsize.cast_unsigned() + OVERHEAD);
        let charge = who.user.charge(Counted::MessageQueues, cost, limit).ok_or(Errno::EMFILE)?;
        let mut names = self.names.lock();
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if names.len() >= if privileged { HARD_QUEUES_MAX } else { QUEUES_MAX } {
            return Err(Errno::ENOSPC);
        }
        let time = now();
        let attr = Attr {
            dev: self.attr.dev,
            ino: new_ino(),
            nlink: 1,
            mode: c::S_IFREG | mode & 0o7777,
            uid: who.fsuid.0,
            gid: who.fsgid.0,
            // As on Linux, what a reader of the file would get.
            size: 80,
            atime: time,
            mtime: time,
            ctime: time,
            ..Attr::default()
        };
        let state = State { attr, messages: BTreeMap::new(), count: 0, bytes: 0, notifier: None };
        let queue = Arc::new(MessageQueue {
            state: Mutex::new(state),
            maxmsg,
            msgsize,
            waiters: WaitQueue::default(),
            receivers: AtomicUsize::new(0),
            _charge: Some(charge),
        });
        names.insert(name.to_vec(), queue.clone());
        Ok(queue)
    }

    /// mq_unlink(3): by who owns it or may do as if, because of the directory's sticky bit.
    ///
    /// # Errors
    /// `ENOENT`, `EPERM`.
    pub fn remove(&self, name: &[u8], who: &Credentials) -> SysResult<()> {
        let mut names = self.names.lock();
        let attr = names.get(name).ok_or(Errno::ENOENT)?.state.lock().attr;
        let owner = who.fsuid == attr.kuid() || who.fsuid == self.attr.kuid();
        if !owner && !who.has_capability_over(attr.kuid(), attr.kgid(), Capability::FOWNER) {
            return Err(Errno::EPERM);
        }
        names.remove(name);
        Ok(())
    }
}

impl Inode for Queues {
    fn attr(&self) -> SysResult<Attr> {
        Ok(self.attr)
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Ok(self.find(name)?)
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        let names = self.names.lock();
        let entry = |(name, queue): (&Vec<u8>, &Arc<MessageQueue>)| DirEntry {
            name: name.clone(),
            ino: queue.state.lock().attr.ino,
            kind: c::S_IFREG,
        };
        Ok(names.iter().map(entry).collect())
    }

    fn open(self: Arc<Self>, _: i32) -> SysResult<Arc<dyn FileOps>> {
        Err(Errno::EISDIR)
    }

    fn create(self: Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        if node.mode & c::S_IFMT != c::S_IFREG {
            return Err(Errno::EPERM);
        }
        let who = vfs_owner(node);
        Ok(self.make(name, node.mode, None, &who, &who.user_ns.clone(), u64::MAX)?)
    }

    fn unlink(&self, name: &[u8], _: &Arc<dyn Inode>, _: bool, _: bool) -> SysResult<()> {
        // Who may is checked above.
        self.names.lock().remove(name).map(drop).ok_or(Errno::ENOENT)
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(statfs())
    }

    /// Names come and go by system calls of their own.
    fn caching(&self) -> Caching {
        Caching::None
    }
}

/// Who owns what open(2) makes in the directory.
fn vfs_owner(node: &NewNode) -> Credentials {
    Credentials::new(UserNamespace::initial(), auth::Kuid(node.uid), auth::Kgid(node.gid), Vec::new())
}

impl Queues {
    /// Itself, for a mount.
    ///
    /// # Errors
    /// `ESRCH` when it is going.
    pub fn root(&self) -> SysResult<Arc<dyn Inode>> {
        Ok(self.me.upgrade().ok_or(Errno::ESRCH)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_and_oldest_comes_first() {
        let ns = UserNamespace::initial();
        let who = Credentials::root(ns.clone());
        let queues = Queues::new();
        let attr = MqAttr { maxmsg: 3, msgsize: 10, ..MqAttr::default() };
        let queue = queues.make(b"q", 0o600, Some(attr), &who, &ns, u64::MAX).unwrap();
        for (text, priority) in [(b"a", 1), (b"b", 9), (b"c", 9)] {
            queue.send(text, priority, 1, &who).unwrap();
        }
        assert_eq!(queue.send(b"d", 1, 1, &who), Err(Errno::EAGAIN));
        let all: Vec<_> = std::iter::from_fn(|| queue.receive().ok()).collect();
        assert_eq!(all, [(b"b".to_vec(), 9), (b"c".to_vec(), 9), (b"a".to_vec(), 1)]);
        assert_eq!(queues.make(b"r", 0, Some(attr), &who, &ns, 100).err(), Some(Errno::EMFILE));
        assert_eq!(queues.make(b"q", 0, None, &who, &ns, u64::MAX).err(), Some(Errno::EEXIST));
        queues.remove(b"q", &who).unwrap();
        drop(queue);
        assert_eq!(who.user.used(Counted::MessageQueues), 0);
    }
}
