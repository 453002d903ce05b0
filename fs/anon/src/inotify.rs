//! inotify(7).

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use sync::{Mutex, WaitQueue};
use usermem::{IoBuf, UserMemoryExt};
use vfs::notify::{Event, Mark, Watcher, event};
use vfs::{Dentry, FileOps, IoctlArg};

/// `struct inotify_event` without the name.
const HEADER: usize = 16;
/// Instances, watches of all instances, and events that wait in one (fs.inotify.*).
pub static MAX_USER_INSTANCES: AtomicUsize = AtomicUsize::new(1024);
pub static MAX_USER_WATCHES: AtomicUsize = AtomicUsize::new(1 << 16);
pub static MAX_QUEUED_EVENTS: AtomicUsize = AtomicUsize::new(16384);
static INSTANCES: AtomicUsize = AtomicUsize::new(0);
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// What inotify_add_watch(2) takes besides events.
const ONLYDIR: u32 = 0x0100_0000;
const DONT_FOLLOW: u32 = 0x0200_0000;
const MASK_CREATE: u32 = 0x1000_0000;
const MASK_ADD: u32 = 0x2000_0000;
const ALL_EVENTS: u32 = 0xfff;
const KNOWN: u32 = ALL_EVENTS
    | event::UNMOUNT
    | event::Q_OVERFLOW
    | event::IGNORED
    | ONLYDIR
    | DONT_FOLLOW
    | event::EXCL_UNLINK
    | MASK_CREATE
    | MASK_ADD
    | event::ISDIR
    | event::ONESHOT;

/// An event that waits to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Queued {
    watch: i32,
    mask: u32,
    cookie: u32,
    name: Box<[u8]>,
}

impl Queued {
    /// Bytes of the name, filled up with zeros.
    fn name_len(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.name_len();
        let mut bytes = Vec::with_capacity(HEADER + len);
        bytes.extend(self.watch.to_le_bytes());
        bytes.extend(self.mask.to_le_bytes());
        bytes.extend(self.cookie.to_le_bytes());
        bytes.extend(u32::try_from(len).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&self.name);
        bytes.resize(HEADER + len, 0);
        bytes
    }
}

#[derive(Default)]
struct State {
    watches: BTreeMap<i32, Arc<Mark>>,
    /// Their numbers, by the addresses of inodes (which marks hold).
    by_inode: HashMap<usize, i32>,
    last: i32,
    events: VecDeque<Queued>,
}

impl State {
    /// Takes a watch away.
    fn forget(&mut self, number: i32) -> Option<Arc<Mark>> {
        let mark = self.watches.remove(&number)?;
        self.by_inode.remove(&mark.inode_address());
        WATCHES.fetch_sub(1, Ordering::Relaxed);
        Some(mark)
    }

    /// Adds an event, unless it is the same as the last one that waits. What comes when there are too many is lost, which is told once.
    fn push(&mut self, new: Queued) -> bool {
        if self.events.back() == Some(&new) {
            return false;
        }
        let max = MAX_QUEUED_EVENTS.load(Ordering::Relaxed);
        if self.events.len() < max {
            self.events.push_back(new);
            return true;
        }
        let overflow = Queued { watch: -1, mask: event::Q_OVERFLOW, cookie: 0, name: Box::default() };
        if self.events.back() == Some(&overflow) {
            return false;
        }
        self.events.push_back(overflow);
        true
    }
}

/// An instance.
pub struct Inotify {
    state: Mutex<State>,
    queue: WaitQueue,
    me: Weak<Self>,
}

impl Drop for Inotify {
    fn drop(&mut self) {
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
        WATCHES.fetch_sub(self.state.get_mut().watches.len(), Ordering::Relaxed);
    }
}

impl Inotify {
    /// # Errors
    /// `EMFILE` when there are too many.
    pub fn new() -> SysResult<Arc<Self>> {
        let max = MAX_USER_INSTANCES.load(Ordering::Relaxed);
        let more = |count: usize| (count < max).then_some(count + 1);
        INSTANCES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::EMFILE)?;
        Ok(Arc::new_cyclic(|me| Self { state: Mutex::default(), queue: WaitQueue::default(), me: me.clone() }))
    }

    /// What a mask asks of the walk to what is to be watched: whether to follow a link at its end, and whether it must be a directory.
    ///
    /// # Errors
    /// `EINVAL` for masks that make no sense.
    pub fn check_mask(mask: u32) -> SysResult<(bool, bool)> {
        let both = MASK_ADD | MASK_CREATE;
        if mask & KNOWN == 0 || mask & !KNOWN != 0 || mask & both == both {
            return Err(Errno::EINVAL);
        }
        Ok((mask & DONT_FOLLOW == 0, mask & ONLYDIR != 0))
    }

    /// inotify_add_watch(2): watches what `dentry` names, or changes what is watched for; returns the watch's number.
    ///
    /// # Errors
    /// `EEXIST` with `IN_MASK_CREATE` when it is watched, `ENOSPC` when there are too many watches.
    pub fn add(&self, dentry: &Arc<Dentry>, mask: u32) -> SysResult<i32> {
        let kept = mask & (ALL_EVENTS | event::EXCL_UNLINK | event::ONESHOT);
        let mut state = self.state.lock();
        let address = Arc::as_ptr(dentry.inode()).addr();
        let known = state.by_inode.get(&address).and_then(|number| Some((number, state.watches.get(number)?)));
        if let Some((number, mark)) = known {
            if mask & MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            let before = if mask & MASK_ADD != 0 { mark.mask.load(Ordering::Relaxed) } else { 0 };
            mark.mask.store(before | kept, Ordering::Relaxed);
            return Ok(*number);
        }
        let max = MAX_USER_WATCHES.load(Ordering::Relaxed);
        let more = |count: usize| (count < max).then_some(count + 1);
        WATCHES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::ENOSPC)?;
        // Numbers rise, so that an event of a watch that is gone isn't taken for one of a new watch.
        loop {
            state.last = state.last.checked_add(1).unwrap_or(1);
            if !state.watches.contains_key(&state.last) {
                break;
            }
        }
        let number = state.last;
        let me: Weak<dyn Watcher> = self.me.clone();
        state.watches.insert(number, Mark::new(dentry, me, kept, number));
        state.by_inode.insert(address, number);
        Ok(number)
    }

    /// inotify_rm_watch(2).
    ///
    /// # Errors
    /// `EINVAL` when there is no such watch.
    pub fn remove(&self, number: i32) -> SysResult<()> {
        let mut state = self.state.lock();
        let mark = state.forget(number).ok_or(Errno::EINVAL)?;
        state.push(Queued { watch: number, mask: event::IGNORED, cookie: 0, name: Box::default() });
        drop(state);
        drop(mark);
        self.queue.wake(PollEvents::READABLE);
        Ok(())
    }

    /// Numbers, inodes and masks of the watches, for /proc/pid/fdinfo.
    #[must_use]
    pub fn watches(&self) -> Vec<(i32, (u64, u64), u32)> {
        let state = self.state.lock();
        state.watches.iter().map(|(number, mark)| (*number, mark.dev_ino(), mark.mask.load(Ordering::Relaxed))).collect()
    }
}

impl Watcher for Inotify {
    fn tell(&self, mark: &Arc<Mark>, event: &Event<'_>) {
        let number = mark.number.load(Ordering::Relaxed);
        let mut state = self.state.lock();
        // It may have been removed while this was on its way.
        if !state.watches.get(&number).is_some_and(|known| Arc::ptr_eq(known, mark)) {
            return;
        }
        // Events of what is watched itself don't say that it is a directory.
        let own = event::DELETE_SELF | event::MOVE_SELF;
        let mask = if event.mask & own != 0 { event.mask & !event::ISDIR } else { event.mask };
        let name = event.name.unwrap_or_default().into();
        state.push(Queued { watch: number, mask, cookie: event.cookie, name });
        let ended = mask & event::IGNORED != 0;
        let once = mark.mask.load(Ordering::Relaxed) & event::ONESHOT != 0 && !ended;
        if once {
            state.push(Queued { watch: number, mask: event::IGNORED, cookie: 0, name: Box::default() });
        }
        let gone = if once || ended { state.forget(number) } else { None };
        drop(state);
        drop(gone);
        self.queue.wake(PollEvents::READABLE);
    }
}

impl FileOps for Inotify {
    fn is_stream(&self) -> bool {
        true
    }

    fn pinned(&self) -> bool {
        true
    }

    fn can_signal(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let mut state = self.state.lock();
        let mut total = 0;
        while let Some(next) = state.events.front() {
            let bytes = next.bytes();
            if bytes.len() > buf.remaining() {
                // Not even one fits.
                return if total == 0 { Err(Errno::EINVAL) } else { Ok(total) };
            }
            // As on Linux it is gone even if there is no place to put it.
            state.events.pop_front();
            match buf.copy_out(&bytes) {
                Ok(count) if count == bytes.len() => total += count,
                result if total == 0 => return result.and(Err(Errno::EFAULT)),
                _ => return Ok(total),
            }
        }
        if total == 0 { Err(Errno::EAGAIN) } else { Ok(total) }
    }

    fn poll(&self) -> PollEvents {
        if self.state.lock().events.is_empty() { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        if u64::from(arg.cmd) != c::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes: usize = self.state.lock().events.iter().map(|event| HEADER + event.name_len()).sum();
        arg.memory.write(arg.arg, &i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes())?;
        Ok(0)
    }

    fn fd_info(&self) -> String {
        let line = |(watch, (dev, ino), mask): (i32, (u64, u64), u32)| {
            format!("inotify wd:{watch:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0\n")
        };
        self.watches().into_iter().map(line).collect()
    }

    fn describe(&self) -> String {
        "anon_inode:inotify".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_repeat_are_one_and_too_many_are_told_once() {
        let mut state = State::default();
        let event = |watch, name: &str| Queued { watch, mask: event::MODIFY, cookie: 0, name: name.as_bytes().into() };
        assert!(state.push(event(1, "a")));
        assert!(!state.push(event(1, "a")));
        assert!(state.push(event(1, "b")));
        assert!(state.push(event(1, "a")));
        for i in 0..20_000 {
            state.push(event(i, ""));
        }
        assert_eq!(state.events.len(), 16384 + 1);
        assert_eq!(state.events.back().map(|last| (last.watch, last.mask)), Some((-1, event::Q_OVERFLOW)));
    }

    #[test]
    fn names_are_filled_up() {
        let event = Queued { watch: 1, mask: 2, cookie: 3, name: b"0123456789abcde".as_slice().into() };
        assert_eq!((event.name_len(), event.bytes().len()), (16, 32));
        let longer = Queued { name: b"0123456789abcdef".as_slice().into(), ..event };
        assert_eq!(longer.name_len(), 32);
    }
}
