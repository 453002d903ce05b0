//! Advisory locks: whole files (flock(2)) and ranges of bytes (fcntl(2): of processes and of open file descriptions).
//!
//! Nothing waits here: a lock that can't be had is `EAGAIN`, and [`File::lock_queue`] is woken when one goes. Who waits for a range tells
//! [`File::wait_for_record`], which finds the circles.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use rangemap::{Piece, RangeMap};
use sync::{Mutex, WaitQueue};

use crate::attached::Attached;
use crate::file::File;
use crate::lease::Lease;

/// Record locks of one sandbox at most: each costs memory that no other limit counts.
const MAX_RECORDS: usize = 1 << 18;
static RECORDS: AtomicUsize = AtomicUsize::new(0);

/// Who owns a record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A descriptor table: what fcntl(2) calls a process.
    Table(u64),
    /// An open file description.
    File(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    Shared,
    Exclusive,
}

impl LockKind {
    /// Whether two owners can't have these at once.
    fn conflicts(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

impl Piece for LockKind {
    fn advance(&mut self, _: u64) {}

    fn continues(&self, _: u64, next: &Self) -> bool {
        self == next
    }
}

/// The record locks of an owner.
struct Records {
    /// The process that took the first, for those who ask.
    pid: i32,
    ranges: RangeMap<LockKind>,
}

impl Drop for Records {
    fn drop(&mut self) {
        RECORDS.fetch_sub(self.ranges.len(), Ordering::Relaxed);
    }
}

/// A lock of a whole file.
struct Flock {
    file: usize,
    kind: LockKind,
    pid: i32,
}

/// The locks of an inode.
#[derive(Default)]
pub struct Locks {
    records: BTreeMap<Owner, Records>,
    flocks: Vec<Flock>,
    pub(crate) leases: Vec<Lease>,
}

/// A record lock that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub owner: Owner,
    pub kind: LockKind,
    pub range: Range<u64>,
    pub pid: i32,
}

impl Locks {
    fn conflict(&self, owner: Owner, kind: LockKind, range: &Range<u64>) -> Option<Conflict> {
        let others = self.records.iter().filter(|(other, _)| **other != owner);
        let found = others.filter_map(|(other, records)| {
            let mut at = range.start;
            while let Some((found, held)) = records.ranges.next(at).filter(|(found, _)| found.start < range.end) {
                if kind.conflicts(*held) {
                    return Some(Conflict { owner: *other, kind: *held, range: found, pid: records.pid });
                }
                at = found.end;
            }
            None
        });
        found.min_by_key(|conflict| conflict.range.start)
    }

    /// Says whether something that others may wait for has gone.
    fn set(&mut self, owner: Owner, pid: i32, kind: Option<LockKind>, range: Range<u64>) -> SysResult<bool> {
        // One more at most: two where the middle is taken out or becomes another kind.
        if RECORDS.load(Ordering::Relaxed) + 2 > MAX_RECORDS {
            return Err(Errno::ENOLCK);
        }
        if kind.is_none() && !self.records.contains_key(&owner) {
            return Ok(false);
        }
        let records = self.records.entry(owner).or_insert_with(|| Records { pid, ranges: RangeMap::default() });
        let before = records.ranges.len();
        let weaker = |held: &LockKind| kind.is_none() || kind == Some(LockKind::Shared) && *held == LockKind::Exclusive;
        let freed = records.ranges.remove(range.clone()).iter().any(|(_, held)| weaker(held));
        if let Some(kind) = kind {
            records.ranges.insert(range, kind);
        }
        RECORDS.fetch_add(records.ranges.len(), Ordering::Relaxed);
        RECORDS.fetch_sub(before, Ordering::Relaxed);
        if records.ranges.is_empty() {
            self.records.remove(&owner);
        }
        Ok(freed)
    }
}

/// Somebody who waits for a record lock of a process: deadlocks are circles of these.
struct Edge {
    id: u64,
    inode: usize,
    waiter: Owner,
    holder: Owner,
}

static EDGES: Mutex<Vec<Edge>> = Mutex::new(Vec::new());

/// The note that somebody waits; gone on drop.
pub struct Waiting(u64);

impl Drop for Waiting {
    fn drop(&mut self) {
        EDGES.lock().retain(|edge| edge.id != self.0);
    }
}

/// Owners that are looked at for a circle: a longer one is not found (Linux looks at ten).
const MAX_CHAIN: usize = 64;

/// Adds an edge unless it closes a circle. Call with the inode's locks held, so that what is waited for is still so.
fn wait(inode: usize, waiter: Owner, holder: Owner) -> SysResult<Waiting> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut edges = EDGES.lock();
    // A process waits for several when its threads do: all of them are followed, each once.
    let (mut seen, mut next) = (vec![holder], 0);
    while let Some(at) = seen.get(next).copied() {
        if at == waiter {
            return Err(Errno::EDEADLK);
        }
        for edge in edges.iter().filter(|edge| edge.waiter == at) {
            if seen.len() < MAX_CHAIN && !seen.contains(&edge.holder) {
                seen.push(edge.holder);
            }
        }
        next += 1;
    }
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    edges.push(Edge { id, inode, waiter, holder });
    Ok(Waiting(id))
}

impl Attached {
    /// A lock has gone: who waits looks again, and until then waits for nobody.
    pub(crate) fn released(&self) {
        let inode = std::ptr::from_ref(self).addr();
        EDGES.lock().retain(|edge| edge.inode != inode);
        self.queue.wake(PollEvents::IN);
    }
}

impl File {
    fn lock_id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The owner of record locks of this open file description.
    #[must_use]
    pub fn lock_owner(&self) -> Owner {
        Owner::File(self.lock_id())
    }

    /// Woken when a lock of the inode has gone.
    pub fn lock_queue(&self) -> WaitQueue {
        self.attached().queue.clone()
    }

    /// flock(2): takes the lock, changes its kind, or gives it up. When the kind can't be changed the lock is lost, as on Linux.
    ///
    /// # Errors
    /// `EAGAIN` when another open file description has one that is in the way.
    pub fn flock(&self, kind: Option<LockKind>, pid: i32) -> SysResult<()> {
        let attached = self.attached();
        let mut locks = attached.locks.lock();
        let id = self.lock_id();
        let own = locks.flocks.iter().position(|lock| lock.file == id);
        if own.is_some_and(|own| locks.flocks.get(own).map(|lock| lock.kind) == kind) {
            return Ok(());
        }
        if let Some(own) = own {
            locks.flocks.swap_remove(own);
            attached.released();
        }
        let Some(kind) = kind else { return Ok(()) };
        if locks.flocks.iter().any(|lock| lock.kind.conflicts(kind)) {
            return Err(Errno::EAGAIN);
        }
        locks.flocks.push(Flock { file: id, kind, pid });
        Ok(())
    }

    /// Locks `range` for `owner`, or unlocks it.
    ///
    /// # Errors
    /// `EAGAIN` when another owner has a lock that is in the way, `ENOLCK` when there are too many.
    pub fn set_record(&self, owner: Owner, pid: i32, kind: Option<LockKind>, range: Range<u64>) -> SysResult<()> {
        let attached = self.attached();
        let mut locks = attached.locks.lock();
        if kind.is_some_and(|kind| locks.conflict(owner, kind, &range).is_some()) {
            return Err(Errno::EAGAIN);
        }
        if locks.set(owner, pid, kind, range)? {
            attached.released();
        }
        Ok(())
    }

    /// As [`File::set_record`], for who will wait: notes whom for.
    ///
    /// # Errors
    /// `EDEADLK` when that one waits for `owner`; `ENOLCK`.
    pub fn wait_for_record(&self, owner: Owner, pid: i32, kind: LockKind, range: Range<u64>) -> SysResult<Option<Waiting>> {
        let attached = self.attached();
        let mut locks = attached.locks.lock();
        match locks.conflict(owner, kind, &range) {
            None => {
                if locks.set(owner, pid, Some(kind), range)? {
                    attached.released();
                }
                Ok(None)
            }
            Some(conflict) => wait(Arc::as_ptr(&attached).addr(), owner, conflict.owner).map(Some),
        }
    }

    /// The first lock that keeps `owner` from locking `range` (F_GETLK).
    #[must_use]
    pub fn test_record(&self, owner: Owner, kind: LockKind, range: &Range<u64>) -> Option<Conflict> {
        self.attached().locks.lock().conflict(owner, kind, range)
    }

    /// Gives up all record locks that `owner` has on the inode.
    pub(crate) fn drop_records(&self, owner: Owner) {
        if RECORDS.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(attached) = self.find_attached() {
            let gone = attached.locks.lock().records.remove(&owner);
            if gone.is_some() {
                attached.released();
            }
        }
    }

    /// Gives up what belongs to this open file description, at its end.
    pub(crate) fn drop_locks(&self, attached: &Attached) {
        let id = self.lock_id();
        let mut locks = attached.locks.lock();
        let before = (locks.flocks.len(), locks.records.len(), locks.leases.len());
        locks.flocks.retain(|lock| lock.file != id);
        locks.records.remove(&Owner::File(id));
        locks.leases.retain(|lease| lease.file != id);
        if before != (locks.flocks.len(), locks.records.len(), locks.leases.len()) {
            attached.released();
        }
    }
}

/// What a lock is, as /proc/locks has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockClass {
    Flock,
    /// Of a process.
    Record,
    /// Of an open file description.
    Ofd,
    /// Whether it is being broken.
    Lease(bool),
}

/// A lock, for /proc/locks and /proc/pid/fdinfo.
#[derive(Clone, Debug)]
pub struct LockInfo {
    pub class: LockClass,
    pub kind: LockKind,
    pub pid: i32,
    pub dev_ino: (u64, u64),
    pub range: Range<u64>,
    /// The open file description or table that has it.
    pub owner: Owner,
}

/// The end of a range that goes to the end of the file.
pub const LOCK_END: u64 = 1 << 63;

impl Attached {
    /// The locks on the inode.
    fn list(&self) -> Vec<LockInfo> {
        let locks = self.locks.lock();
        let info = |class, kind, pid, range, owner| LockInfo { class, kind, pid, dev_ino: self.dev_ino, range, owner };
        let flocks = locks.flocks.iter().map(|l| info(LockClass::Flock, l.kind, l.pid, 0..LOCK_END, Owner::File(l.file)));
        let leases = locks
            .leases
            .iter()
            .map(|lease| info(LockClass::Lease(lease.breaking()), lease.kind, lease.pid, 0..LOCK_END, Owner::File(lease.file)));
        let records = locks.records.iter().flat_map(|(owner, records)| {
            let class = if matches!(owner, Owner::Table(_)) { LockClass::Record } else { LockClass::Ofd };
            records.ranges.iter().map(move |(range, kind)| info(class, *kind, records.pid, range, *owner))
        });
        flocks.chain(records).chain(leases).collect()
    }
}

/// All locks there are.
#[must_use]
pub fn all_locks() -> Vec<LockInfo> {
    Attached::all().iter().flat_map(|attached| attached.list()).collect()
}

impl File {
    /// The locks that `owner` (a table) or this open file description has on the inode.
    #[must_use]
    pub fn locks_of(&self, owner: Owner) -> Vec<LockInfo> {
        let own = self.lock_owner();
        let all = self.find_attached().map(|attached| attached.list()).unwrap_or_default();
        all.into_iter().filter(|lock| lock.owner == owner || lock.owner == own).collect()
    }
}
