//! epoll(7).
//!
//! Each watched file has an [`Item`] that the file's wait queue wakes; a wake puts the item on the ready list. Collecting takes items off
//! the list, asks their files what is ready, and puts level-triggered ones back. Locks are never held while a file is asked.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use sync::{Mutex, WaitEntry, WaitQueue, Wake};
use vfs::{File, FileOps};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Epolls may watch each other so deep (`EP_MAX_NESTS`).
const MAX_NESTING: usize = 5;
/// Epolls that one epoll may watch: with the depth it bounds what looking through them costs, which nothing can interrupt.
const MAX_NESTED: usize = 16;
/// Files that all epolls may watch together (`fs.epoll.max_user_watches`).
const MAX_WATCHES: usize = 1 << 20;
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// A place among [`MAX_WATCHES`].
struct Watch;

impl Watch {
    fn take() -> SysResult<Self> {
        let free = |used: usize| (used < MAX_WATCHES).then_some(used + 1);
        WATCHES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).map_err(|_| Errno::ENOSPC)?;
        Ok(Self)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `struct epoll_event` (packed on x86-64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EpollEvent {
    pub events: u32,
    pub data: [u32; 2],
}

const FLAGS: u32 = (c::EPOLLET | c::EPOLLONESHOT | c::EPOLLWAKEUP | c::EPOLLEXCLUSIVE).cast_unsigned();
/// What is told of whether it is asked for or not.
const ALWAYS: u32 = PollEvents::ERR.union(PollEvents::HUP).bits();
const EDGE: u32 = c::EPOLLET.cast_unsigned();
const ONESHOT: u32 = c::EPOLLONESHOT.cast_unsigned();
const EXCLUSIVE: u32 = c::EPOLLEXCLUSIVE.cast_unsigned();

/// The items that may be ready, and who waits for them.
#[derive(Default)]
struct Ready {
    list: Mutex<VecDeque<Arc<Item>>>,
    queue: WaitQueue,
}

/// A watched file.
struct Item {
    file: Weak<File>,
    ready: Weak<Ready>,
    /// Locked after the ready list where both are needed.
    state: Mutex<ItemState>,
}

struct ItemState {
    event: EpollEvent,
    /// Is on the ready list.
    listed: bool,
    /// Removed, or replaced: to be dropped from the ready list when met there.
    gone: bool,
}

impl Item {
    /// Puts it on the ready list; says whether it is new there.
    fn list(self: &Arc<Self>, ready: &Ready) -> bool {
        let mut list = ready.list.lock();
        let mut state = self.state.lock();
        let new = !state.listed && !state.gone;
        if new {
            state.listed = true;
            list.push_back(self.clone());
        }
        new
    }

    /// What is ready of what is asked for, and what was asked for.
    fn poll(&self) -> (PollEvents, EpollEvent) {
        let event = {
            let state = self.state.lock();
            if state.gone {
                return (PollEvents::empty(), state.event);
            }
            state.event
        };
        // One-shot items that have fired ask for nothing, not even errors.
        if event.events & !FLAGS == 0 {
            return (PollEvents::empty(), event);
        }
        let asked = PollEvents::from_bits_truncate(event.events);
        (self.file.upgrade().map_or(PollEvents::empty(), |file| file.ops.poll() & asked), event)
    }
}

/// What the wait queue of a watched file holds.
struct Waker(Arc<Item>);

impl Wake for Waker {
    fn wake(&self, events: PollEvents) {
        let Some(ready) = self.0.ready.upgrade() else { return };
        let asked = self.0.state.lock().event.events;
        let relevant = events.bits() & asked & !FLAGS != 0;
        if relevant && self.0.list(&ready) {
            ready.queue.wake(PollEvents::READABLE);
        }
    }
}

/// Descriptor and open file: the same file may be watched through several descriptors.
type Key = (i32, usize);

struct Watched {
    item: Arc<Item>,
    /// Keeps the item in the file's wait queue.
    _entry: WaitEntry,
    _watch: Watch,
}

/// An epoll instance.
#[derive(Default)]
pub struct Epoll {
    items: Mutex<BTreeMap<Key, Watched>>,
    ready: Arc<Ready>,
}

impl Epoll {
    fn key(fd: i32, file: &Arc<File>) -> Key {
        (fd, Arc::as_ptr(file).addr())
    }

    /// Files watched that are epolls themselves.
    fn nested(&self) -> Vec<Arc<File>> {
        let files: Vec<_> = self.items.lock().values().filter_map(|watched| watched.item.file.upgrade()).collect();
        files.into_iter().filter(|file| file.ops.as_any().is::<Self>()).collect()
    }

    /// How deep epolls are nested below this one.
    fn depth(&self, limit: usize) -> usize {
        if limit == 0 {
            return 1;
        }
        let files = self.nested();
        let below = files.iter().filter_map(|file| file.ops.as_any().downcast_ref::<Self>());
        1 + below.map(|epoll| epoll.depth(limit - 1)).max().unwrap_or(0)
    }

    /// Whether `other` is watched from here, directly or not.
    fn reaches(&self, other: &Self, limit: usize) -> bool {
        if std::ptr::eq(self, other) || limit == 0 {
            return true;
        }
        let files = self.nested();
        let mut below = files.iter().filter_map(|file| file.ops.as_any().downcast_ref::<Self>());
        below.any(|epoll| epoll.reaches(other, limit - 1))
    }

    /// Drops items whose files have been closed.
    fn sweep(items: &mut BTreeMap<Key, Watched>) -> Vec<Watched> {
        let dead: Vec<_> = items.iter().filter(|(_, w)| w.item.file.strong_count() == 0).map(|(key, _)| *key).collect();
        dead.iter().filter_map(|key| items.remove(key)).collect()
    }

    fn insert(&self, key: Key, file: &Arc<File>, event: EpollEvent) -> SysResult<()> {
        // Files that are always ready can't be waited for (epoll_ctl(2), EPERM).
        let queue = file.ops.wait_queue().ok_or(Errno::EPERM)?;
        let watch = Watch::take()?;
        let state = ItemState { event, listed: false, gone: false };
        let item = Arc::new(Item { file: Arc::downgrade(file), ready: Arc::downgrade(&self.ready), state: Mutex::new(state) });
        let entry = queue.register(PollEvents::all(), Arc::new(Waker(item.clone())));
        let swept = {
            let mut items = self.items.lock();
            // Amortised: a sweep costs as much as there is.
            let swept = if items.len().is_power_of_two() { Self::sweep(&mut items) } else { Vec::new() };
            items.insert(key, Watched { item: item.clone(), _entry: entry, _watch: watch });
            swept
        };
        drop(swept);
        self.look(&item);
        Ok(())
    }

    /// Lists an item that is ready right now.
    fn look(&self, item: &Arc<Item>) {
        if !item.poll().0.is_empty() && item.list(&self.ready) {
            self.ready.queue.wake(PollEvents::READABLE);
        }
    }

    /// epoll_ctl(2).
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EPERM` for files that are always ready, `ELOOP` for cycles and deep nesting, `ENOSPC`, `EINVAL` (also for
    /// too many epolls in one).
    pub fn control(&self, op: i32, fd: i32, file: &Arc<File>, event: EpollEvent) -> SysResult<()> {
        let nested = file.ops.as_any().downcast_ref::<Self>();
        if nested.is_some_and(|nested| std::ptr::eq(nested, self)) {
            return Err(Errno::EINVAL);
        }
        let key = Self::key(fd, file);
        let known = self.items.lock().get(&key).map(|watched| watched.item.clone());
        match (op, known) {
            (c::EPOLL_CTL_ADD, Some(_)) => Err(Errno::EEXIST),
            (c::EPOLL_CTL_ADD, None) => {
                if event.events & EXCLUSIVE != 0 {
                    let allowed =
                        (PollEvents::IN | PollEvents::OUT | PollEvents::ERR | PollEvents::HUP).bits() | FLAGS & !ONESHOT;
                    if nested.is_some() || event.events & !allowed != 0 {
                        return Err(Errno::EINVAL);
                    }
                }
                if nested.is_some_and(|nested| nested.reaches(self, MAX_NESTING) || nested.depth(MAX_NESTING) >= MAX_NESTING) {
                    return Err(Errno::ELOOP);
                }
                if nested.is_some() && self.nested().len() >= MAX_NESTED {
                    return Err(Errno::EINVAL);
                }
                self.insert(key, file, EpollEvent { events: event.events | ALWAYS, ..event })
            }
            (c::EPOLL_CTL_MOD, Some(item)) => {
                if (item.state.lock().event.events | event.events) & EXCLUSIVE != 0 {
                    return Err(Errno::EINVAL);
                }
                item.state.lock().event = EpollEvent { events: event.events | ALWAYS, ..event };
                self.look(&item);
                Ok(())
            }
            (c::EPOLL_CTL_DEL, Some(item)) => {
                item.state.lock().gone = true;
                let removed = self.items.lock().remove(&key);
                drop(removed);
                Ok(())
            }
            (c::EPOLL_CTL_MOD | c::EPOLL_CTL_DEL, None) => Err(Errno::ENOENT),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Takes up to `max` events. Never waits.
    #[must_use]
    pub fn collect(&self, max: usize) -> Vec<EpollEvent> {
        let mut events = Vec::new();
        let mut again = Vec::new();
        // Each item is looked at once, so that a level-triggered one can't keep others out.
        let listed = self.ready.list.lock().len();
        for _ in 0..listed {
            if events.len() >= max {
                break;
            }
            let Some(item) = self.ready.list.lock().pop_front() else { break };
            // From here on a wake lists it again: nothing is lost between the look and the list.
            item.state.lock().listed = false;
            let (ready, event) = item.poll();
            if ready.is_empty() {
                continue;
            }
            events.push(EpollEvent { events: ready.bits(), data: event.data });
            if event.events & ONESHOT != 0 {
                item.state.lock().event.events &= FLAGS;
            } else if event.events & EDGE == 0 {
                again.push(item);
            }
        }
        for item in again {
            item.list(&self.ready);
        }
        events
    }
}

impl FileOps for Epoll {
    fn is_stream(&self) -> bool {
        true
    }

    /// lseek(2) does nothing, and says so.
    fn pinned(&self) -> bool {
        true
    }

    fn poll(&self) -> PollEvents {
        let listed: Vec<_> = self.ready.list.lock().iter().cloned().collect();
        if listed.iter().any(|item| !item.poll().0.is_empty()) { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.ready.queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[eventpoll]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventFd;
    use usermem::IoBuf;

    const IN: u32 = 1;

    fn eventfd() -> Arc<File> {
        File::new(Arc::new(EventFd::new(0, false)), None, c::O_RDWR)
    }

    fn signal(file: &File) {
        file.write(&mut IoBuf::kernel(&1u64.to_le_bytes()), None).unwrap();
    }

    fn event(events: u32, data: u32) -> EpollEvent {
        EpollEvent { events, data: [data, 0] }
    }

    #[test]
    fn level_and_edge() {
        let (epoll, level, edge) = (Epoll::default(), eventfd(), eventfd());
        epoll.control(c::EPOLL_CTL_ADD, 3, &level, event(IN, 3)).unwrap();
        epoll.control(c::EPOLL_CTL_ADD, 4, &edge, event(IN | EDGE, 4)).unwrap();
        assert_eq!(epoll.collect(8), []);
        signal(&level);
        signal(&edge);
        assert_eq!(epoll.collect(8), [event(IN, 3), event(IN, 4)]);
        assert_eq!(epoll.collect(8), [event(IN, 3)]);
        signal(&edge);
        assert_eq!(epoll.collect(8), [event(IN, 3), event(IN, 4)]);
    }

    #[test]
    fn one_shot_fires_once_until_rearmed() {
        let (epoll, file) = (Epoll::default(), eventfd());
        epoll.control(c::EPOLL_CTL_ADD, 3, &file, event(IN | ONESHOT, 7)).unwrap();
        signal(&file);
        assert_eq!(epoll.collect(8), [event(IN, 7)]);
        signal(&file);
        assert_eq!(epoll.collect(8), []);
        epoll.control(c::EPOLL_CTL_MOD, 3, &file, event(IN | ONESHOT, 8)).unwrap();
        assert_eq!(epoll.collect(8), [event(IN, 8)]);
    }

    #[test]
    fn nesting_wakes_and_cycles_are_refused() {
        let (outer, inner) = (Arc::new(Epoll::default()), Arc::new(Epoll::default()));
        let file = eventfd();
        let (outer_file, inner_file) = (File::new(outer.clone(), None, c::O_RDWR), File::new(inner.clone(), None, c::O_RDWR));
        inner.control(c::EPOLL_CTL_ADD, 3, &file, event(IN, 1)).unwrap();
        outer.control(c::EPOLL_CTL_ADD, 4, &inner_file, event(IN, 2)).unwrap();
        assert_eq!(inner.control(c::EPOLL_CTL_ADD, 5, &outer_file, event(IN, 3)), Err(Errno::ELOOP));
        signal(&file);
        assert_eq!(outer.collect(8), [event(IN, 2)]);
    }

    #[test]
    fn one_epoll_watches_few_others() {
        let outer = Epoll::default();
        let inner: Vec<_> = (0..=MAX_NESTED).map(|_| File::new(Arc::new(Epoll::default()), None, c::O_RDWR)).collect();
        let added = inner.iter().filter(|file| outer.control(c::EPOLL_CTL_ADD, 3, file, event(IN, 1)).is_ok()).count();
        assert_eq!(added, MAX_NESTED);
    }

    #[test]
    fn closed_files_are_forgotten() {
        let (epoll, file) = (Epoll::default(), eventfd());
        epoll.control(c::EPOLL_CTL_ADD, 3, &file, event(IN, 7)).unwrap();
        signal(&file);
        drop(file);
        assert_eq!(epoll.collect(8), []);
        for fd in 4..100 {
            epoll.control(c::EPOLL_CTL_ADD, fd, &eventfd(), event(IN, 7)).unwrap();
        }
        assert!(epoll.items.lock().len() < 70);
    }
}
