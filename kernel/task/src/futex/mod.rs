//! futex(2): who waits for which word.
//!
//! Waiters stand in buckets, each with a lock of its own; those of priority-inheritance futexes in one table besides ([`pi`]). Lock
//! order: that table, then buckets by rising index, then guest memory. What a [`Waiter`] says changes only under the lock of the place
//! where it stands.

mod pi;
mod robust;
mod wait;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, SysResult};
use smallvec::SmallVec;
use sync::{Mutex, MutexGuard, Parker};
use usermem::FutexKey;

use pi::{PiTable, PiWaiter};

pub use wait::{FutexWord, Interest};

/// A power of two.
const BUCKETS: usize = 256;

/// [`Waiter::place`]: stands nowhere; stands in the priority-inheritance table. Others are indexes of buckets.
const NOWHERE: usize = usize::MAX;
const IN_PI_TABLE: usize = usize::MAX - 1;

/// [`Waiter::outcome`]
const WAITING: u32 = 0;
/// Woken: by FUTEX_WAKE and the like, or made the owner of a lock.
const WOKEN: u32 = 1;

/// Who waits. A task has one that it uses again and again.
pub(crate) struct Waiter {
    parker: Arc<Parker>,
    tid: i32,
    place: AtomicUsize,
    outcome: AtomicU32,
}

impl Waiter {
    pub(crate) fn new(parker: Arc<Parker>, tid: i32) -> Arc<Self> {
        Arc::new(Self { parker, tid, place: AtomicUsize::new(NOWHERE), outcome: AtomicU32::new(WAITING) })
    }

    fn woken(&self) -> bool {
        self.outcome.load(Ordering::SeqCst) == WOKEN
    }

    /// It has been taken from its place, whose lock is held: it need not wait any longer. Unpark it once the lock is given up.
    fn finish(&self) {
        self.place.store(NOWHERE, Ordering::SeqCst);
        self.outcome.store(WOKEN, Ordering::SeqCst);
    }
}

/// What a waiter in a bucket waits for.
enum Kind {
    /// A wake-up.
    Plain,
    /// To be moved to this priority-inheritance futex (FUTEX_WAIT_REQUEUE_PI).
    RequeuePi(FutexKey, Box<PiWaiter>),
}

struct Entry {
    key: FutexKey,
    bitset: u32,
    kind: Kind,
    waiter: Arc<Waiter>,
}

/// In order of arrival.
#[derive(Default)]
#[repr(align(64))]
struct Bucket(Mutex<VecDeque<Entry>>);

/// Those who have been woken under a lock.
type Woken = SmallVec<[Arc<Waiter>; 8]>;

fn unpark(woken: &Woken) {
    for waiter in woken {
        waiter.parker.unpark();
    }
}

/// All futexes of a kernel.
pub struct FutexTable {
    buckets: Box<[Bucket]>,
    pi: Mutex<PiTable>,
    /// Somebody has waited for a lock in that table once.
    pi_used: AtomicBool,
}

impl Default for FutexTable {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(), pi: Mutex::default(), pi_used: AtomicBool::new(false) }
    }
}

/// Spreads keys: addresses differ in their middle bits mostly.
fn index(key: &FutexKey) -> usize {
    let (a, b) = match *key {
        FutexKey::Private(space, addr) => (space, addr),
        FutexKey::Unshared(space, addr) => (space ^ 0x5555, addr),
        FutexKey::Shared(dev, ino, offset) => (ino ^ dev.rotate_left(32), offset),
    };
    let mixed = ((b >> 2) ^ a.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize & (BUCKETS - 1)
}

/// The two buckets of an operation on two futexes, which may be one.
struct Two<'a> {
    first: MutexGuard<'a, VecDeque<Entry>>,
    second: Option<MutexGuard<'a, VecDeque<Entry>>>,
    swapped: bool,
}

impl Two<'_> {
    fn from(&mut self) -> &mut VecDeque<Entry> {
        match &mut self.second {
            Some(second) if self.swapped => second,
            _ => &mut self.first,
        }
    }

    fn to(&mut self) -> &mut VecDeque<Entry> {
        match &mut self.second {
            Some(second) if !self.swapped => second,
            _ => &mut self.first,
        }
    }
}

impl FutexTable {
    fn bucket(&self, at: usize) -> MutexGuard<'_, VecDeque<Entry>> {
        // The index is one that `index` has given, or one less than a power of two at most.
        self.buckets[at & (BUCKETS - 1)].0.lock()
    }

    fn two(&self, from: &FutexKey, to: &FutexKey) -> Two<'_> {
        let (from, to) = (index(from), index(to));
        let first = self.bucket(from.min(to));
        let second = (from != to).then(|| self.bucket(from.max(to)));
        Two { first, second, swapped: from > to }
    }

    /// Takes up to `count` plain waiters of `key` out of `list`.
    fn take(list: &mut VecDeque<Entry>, key: FutexKey, count: usize, bitset: u32, woken: &mut Woken) -> SysResult<usize> {
        let (mut at, mut taken) = (0, 0);
        while taken < count
            && let Some(entry) = list.get(at)
        {
            if entry.key != key {
                at += 1;
                continue;
            }
            if !matches!(entry.kind, Kind::Plain) {
                return Err(Errno::EINVAL);
            }
            if entry.bitset & bitset == 0 {
                at += 1;
                continue;
            }
            if let Some(entry) = list.remove(at) {
                entry.waiter.finish();
                woken.push(entry.waiter);
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// Wakes up to `count` waiters whose bits meet `bitset`; returns how many.
    ///
    /// # Errors
    /// `EINVAL` when somebody waits there in another way (for a lock).
    pub fn wake(&self, key: FutexKey, count: usize, bitset: u32) -> SysResult<usize> {
        let mut woken = Woken::new();
        let result = Self::take(&mut self.bucket(index(&key)), key, count, bitset, &mut woken);
        unpark(&woken);
        if result == Ok(0) && self.is_pi(&key) {
            return Err(Errno::EINVAL);
        }
        result
    }

    /// FUTEX_WAKE_OP: changes a word by `change`, wakes up to `count` waiters of `from`, and up to `count_to` of `to` if `change` said so.
    ///
    /// # Errors
    /// What `change` says; `EINVAL` as [`FutexTable::wake`].
    pub fn wake_op(
        &self,
        from: FutexKey,
        to: FutexKey,
        count: usize,
        count_to: usize,
        change: impl FnOnce() -> SysResult<bool>,
    ) -> SysResult<usize> {
        let mut woken = Woken::new();
        let mut two = self.two(&from, &to);
        let result = change().and_then(|both| {
            let mut total = Self::take(two.from(), from, count, u32::MAX, &mut woken)?;
            if both {
                total += Self::take(two.to(), to, count_to, u32::MAX, &mut woken)?;
            }
            Ok(total)
        });
        drop(two);
        unpark(&woken);
        result
    }

    /// Wakes up to `count`, moves up to `limit` others to another key; returns how many were woken or moved. `check` runs under the locks.
    ///
    /// # Errors
    /// What `check` says; `EINVAL` as [`FutexTable::wake`].
    pub fn requeue(
        &self,
        from: FutexKey,
        to: FutexKey,
        count: usize,
        limit: usize,
        check: impl FnOnce() -> SysResult<()>,
    ) -> SysResult<usize> {
        let mut woken = Woken::new();
        let mut two = self.two(&from, &to);
        let place = index(&to);
        let result = check().and_then(|()| {
            let mut done = Self::take(two.from(), from, count, u32::MAX, &mut woken)?;
            let (mut at, mut moved) = (0, 0);
            // Where both are in one bucket, what has been moved already is of another key, unless the keys are the same.
            let end = two.from().len();
            for _ in 0..end {
                let Some(entry) = two.from().get(at) else { break };
                if moved >= limit {
                    break;
                }
                if entry.key != from {
                    at += 1;
                    continue;
                }
                if !matches!(entry.kind, Kind::Plain) {
                    return Err(Errno::EINVAL);
                }
                let Some(mut entry) = two.from().remove(at) else { break };
                entry.key = to;
                entry.waiter.place.store(place, Ordering::SeqCst);
                two.to().push_back(entry);
                moved += 1;
            }
            done += moved;
            Ok(done)
        });
        drop(two);
        unpark(&woken);
        result
    }

    /// Puts a waiter in the bucket of `key`, if `check` agrees under its lock.
    fn enqueue(
        &self,
        key: FutexKey,
        bitset: u32,
        kind: Kind,
        waiter: &Arc<Waiter>,
        check: impl FnOnce() -> SysResult<()>,
    ) -> SysResult<()> {
        let place = index(&key);
        let mut list = self.bucket(place);
        check()?;
        waiter.outcome.store(WAITING, Ordering::SeqCst);
        waiter.place.store(place, Ordering::SeqCst);
        list.push_back(Entry { key, bitset, kind, waiter: waiter.clone() });
        Ok(())
    }

    /// Takes a waiter from wherever it stands; `None` when it has been woken meanwhile, else where that was.
    fn take_back(&self, waiter: &Arc<Waiter>) -> Option<usize> {
        loop {
            match waiter.place.load(Ordering::SeqCst) {
                NOWHERE => return None,
                IN_PI_TABLE => {
                    let mut table = self.pi.lock();
                    if waiter.place.load(Ordering::SeqCst) == IN_PI_TABLE {
                        table.remove(waiter);
                        waiter.place.store(NOWHERE, Ordering::SeqCst);
                        return Some(IN_PI_TABLE);
                    }
                }
                place => {
                    let mut list = self.bucket(place);
                    // It may have been moved, or woken, before the lock was there.
                    if waiter.place.load(Ordering::SeqCst) == place {
                        list.retain(|entry| !Arc::ptr_eq(&entry.waiter, waiter));
                        waiter.place.store(NOWHERE, Ordering::SeqCst);
                        return Some(place);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(table: &FutexTable, key: FutexKey, bitset: u32) -> Arc<Waiter> {
        let waiter = Waiter::new(Arc::default(), 1);
        table.enqueue(key, bitset, Kind::Plain, &waiter, || Ok(())).unwrap();
        waiter
    }

    #[test]
    fn waiters_are_woken_in_order_and_by_their_bits() {
        let table = FutexTable::default();
        let key = FutexKey::Private(1, 4096);
        let all = [1, 2, 4, 1].map(|bits| wait(&table, key, bits));
        assert_eq!(table.wake(key, 9, 2), Ok(1));
        assert_eq!(table.wake(key, 1, u32::MAX), Ok(1));
        assert_eq!(all.each_ref().map(|waiter| waiter.woken()), [true, true, false, false]);
        assert_eq!(table.take_back(&all[0]), None);
        assert!(table.take_back(&all[3]).is_some());
        assert_eq!(table.wake(key, 9, u32::MAX), Ok(1));
    }

    /// Whatever buckets the two keys are in.
    #[test]
    fn waiters_are_found_where_they_were_moved_to() {
        let table = FutexTable::default();
        let from = FutexKey::Private(1, 4096);
        for offset in 0..2000 {
            let to = FutexKey::Private(2, offset * 4);
            let all = [1, 1, 1, 1].map(|bits| wait(&table, from, bits));
            assert_eq!(table.requeue(from, to, 1, 2, || Ok(())), Ok(3));
            assert_eq!(table.requeue(from, from, 0, 9, || Ok(())), Ok(1));
            assert!(table.take_back(&all[1]).is_some());
            assert_eq!((table.wake(to, 9, u32::MAX), table.wake(from, 9, u32::MAX)), (Ok(1), Ok(1)));
            assert_eq!(all.map(|waiter| waiter.woken()), [true, false, true, true]);
        }
    }
}
