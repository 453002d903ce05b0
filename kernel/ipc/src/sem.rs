//! Semaphores (semop(2)).
//!
//! Operations on a set happen at once or not at all. Who has to wait stands in the set's queue; whoever changes a value looks through the
//! queue and carries out, for those who wait, what has become possible.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use abi::{Errno, SysResult, c};
use auth::{Credentials, UserNamespace};
use sync::{Mutex, Parker};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::{IpcPerm, Owner, Registry, Stat, get_or_make};
use crate::now;
use crate::undo::UndoList;

/// Limits (`kernel.sem` and semctl(2)).
const SEMMSL: usize = 32000;
const SEMMNS: i32 = 1_024_000_000;
const SEMMNI: usize = 32000;
pub const SEMOPM: usize = 500;
const SEMVMX: i32 = 32767;
const SEMAEM: i32 = 32767;
/// Semaphores that there may really be: what Linux charges to who makes them is the sandbox's memory here.
const MAX_TOTAL: usize = 4 << 20;

/// `struct semid64_ds`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SemidDs {
    pub perm: IpcPerm,
    pub otime: i64,
    pub unused1: u64,
    pub ctime: i64,
    pub unused2: u64,
    pub nsems: u64,
    pub unused3: [u64; 2],
}

/// `struct seminfo`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SemInfo {
    pub semmap: i32,
    pub semmni: i32,
    pub semmns: i32,
    pub semmnu: i32,
    pub semmsl: i32,
    pub semopm: i32,
    pub semume: i32,
    pub semusz: i32,
    pub semvmx: i32,
    pub semaem: i32,
}

/// `struct sembuf`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Operation {
    pub num: u16,
    pub op: i16,
    pub flg: i16,
}

impl Operation {
    fn has(self, flag: i32) -> bool {
        i32::from(self.flg) & flag != 0
    }
}

/// What semctl(2) asks about one semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SemQuery {
    Value,
    Pid,
    /// Who waits for it to rise; who waits for zero.
    WaitingForMore,
    WaitingForZero,
}

/// [`Waiting::status`]: nothing has happened yet; done; others are errnos.
const ASLEEP: i32 = -1;
const DONE: i32 = 0;

/// Somebody who waits.
pub struct Waiting {
    parker: Arc<Parker>,
    status: AtomicI32,
    set: Arc<SemSet>,
}

impl Waiting {
    /// What it has come to, if anything.
    #[must_use]
    pub fn result(&self) -> Option<SysResult<()>> {
        match self.status.load(Ordering::SeqCst) {
            ASLEEP => None,
            DONE => Some(Ok(())),
            errno => Some(Err(Errno::from_raw(errno))),
        }
    }

    /// Waits no longer. Says what it has come to, should that have happened meanwhile.
    #[must_use]
    pub fn give_up(self: &Arc<Self>) -> Option<SysResult<()>> {
        let mut state = self.set.state.lock();
        if let Some(result) = self.result() {
            return Some(result);
        }
        state.queue.retain(|pending| !Arc::ptr_eq(&pending.waiting, self));
        None
    }
}

struct Pending {
    operations: Vec<Operation>,
    pid: i32,
    undo: Option<Arc<UndoList>>,
    /// What it waits for: the number of a semaphore, and whether that is to be zero.
    on: (usize, bool),
    waiting: Arc<Waiting>,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: i32,
}

struct State {
    owner: Owner,
    all: Vec<Semaphore>,
    queue: VecDeque<Pending>,
    /// Adjustments by undo list.
    undo: BTreeMap<u64, Vec<i16>>,
    otime: i64,
    ctime: i64,
    removed: bool,
}

/// A set of semaphores.
pub(crate) struct SemSet {
    state: Mutex<State>,
}

/// Why operations can't be carried out now.
enum Stuck {
    /// They may later: what is waited for.
    Wait(usize, bool),
    Fail(Errno),
}

/// Those who are to be unparked once locks are given up.
type Woken = Vec<Arc<Waiting>>;

fn wake(woken: &Woken) {
    woken.iter().for_each(|waiting| waiting.parker.unpark());
}

impl State {
    /// Carries operations out, all or none.
    fn try_all(&mut self, operations: &[Operation], undo: Option<&UndoList>, pid: i32) -> Result<(), Stuck> {
        let mut done = 0;
        let mut result = Ok(());
        for operation in operations {
            result = self.try_one(*operation, undo);
            if result.is_err() {
                break;
            }
            done += 1;
        }
        if result.is_ok() {
            for operation in operations {
                if let Some(semaphore) = self.all.get_mut(usize::from(operation.num)) {
                    semaphore.pid = pid;
                }
            }
            return Ok(());
        }
        for operation in operations.iter().take(done).rev() {
            let back = i32::from(operation.op);
            if let Some(semaphore) = self.all.get_mut(usize::from(operation.num)) {
                semaphore.value -= back;
            }
            if let Some(adjustment) = self.adjustment(*operation, undo) {
                *adjustment = adjustment.wrapping_add(operation.op);
            }
        }
        result
    }

    fn adjustment(&mut self, operation: Operation, undo: Option<&UndoList>) -> Option<&mut i16> {
        let list = undo.filter(|_| operation.has(c::SEM_UNDO) && operation.op != 0)?;
        self.undo.get_mut(&list.id)?.get_mut(usize::from(operation.num))
    }

    fn try_one(&mut self, operation: Operation, undo: Option<&UndoList>) -> Result<(), Stuck> {
        let (num, change) = (usize::from(operation.num), i32::from(operation.op));
        let Some(semaphore) = self.all.get_mut(num) else { return Err(Stuck::Fail(Errno::EFBIG)) };
        let value = semaphore.value + change;
        let blocked = if change == 0 { semaphore.value != 0 } else { value < 0 };
        if blocked {
            return Err(if operation.has(c::IPC_NOWAIT) { Stuck::Fail(Errno::EAGAIN) } else { Stuck::Wait(num, change == 0) });
        }
        if value > SEMVMX {
            return Err(Stuck::Fail(Errno::ERANGE));
        }
        semaphore.value = value;
        if let Some(adjustment) = self.adjustment(operation, undo) {
            let new = i32::from(*adjustment) - change;
            match i16::try_from(new).ok().filter(|_| (-SEMAEM - 1..=SEMAEM).contains(&new)) {
                Some(new) => *adjustment = new,
                None => {
                    if let Some(semaphore) = self.all.get_mut(num) {
                        semaphore.value -= change;
                    }
                    return Err(Stuck::Fail(Errno::ERANGE));
                }
            }
        }
        Ok(())
    }

    /// A value has changed: carries out what those who wait have asked for, as far as it has become possible.
    fn settle(&mut self, woken: &mut Woken) {
        let mut at = 0;
        while let Some(pending) = self.queue.get(at) {
            let (operations, undo, pid) = (pending.operations.clone(), pending.undo.clone(), pending.pid);
            let status = match self.try_all(&operations, undo.as_deref(), pid) {
                Ok(()) => DONE,
                Err(Stuck::Fail(errno)) => errno.raw(),
                Err(Stuck::Wait(num, zero)) => {
                    if let Some(pending) = self.queue.get_mut(at) {
                        pending.on = (num, zero);
                    }
                    at += 1;
                    continue;
                }
            };
            let Some(pending) = self.queue.remove(at) else { break };
            pending.waiting.status.store(status, Ordering::SeqCst);
            woken.push(pending.waiting);
            if status == DONE {
                self.otime = now();
                // What changed may have helped those before.
                if operations.iter().any(|operation| operation.op != 0) {
                    at = 0;
                }
            }
        }
    }
}

impl SemSet {
    /// Makes the adjustments of a list.
    pub(crate) fn undo(&self, list: u64, pid: i32) {
        let mut woken = Woken::new();
        let mut state = self.state.lock();
        let Some(adjustments) = state.undo.remove(&list) else { return };
        if state.removed {
            return;
        }
        for (semaphore, adjustment) in state.all.iter_mut().zip(adjustments).filter(|(_, adjustment)| *adjustment != 0) {
            semaphore.value = (semaphore.value + i32::from(adjustment)).clamp(0, SEMVMX);
            semaphore.pid = pid;
        }
        state.otime = now();
        state.settle(&mut woken);
        drop(state);
        wake(&woken);
    }
}

/// The sets of a namespace.
#[derive(Default)]
pub struct Semaphores(Mutex<Sets>);

#[derive(Default)]
struct Sets {
    registry: Registry<SemSet>,
    total: usize,
}

impl Semaphores {
    /// semget(2)
    ///
    /// # Errors
    /// `EINVAL`, `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`.
    pub fn get(&self, key: i32, count: i32, flags: i32, who: &Credentials, ns: &UserNamespace) -> SysResult<i32> {
        let count = usize::try_from(count).ok().filter(|count| *count <= SEMMSL).ok_or(Errno::EINVAL)?;
        let mut sets = self.0.lock();
        let owner = |set: &SemSet| set.state.lock().owner;
        let fits = |set: &SemSet| if count > set.state.lock().all.len() { Err(Errno::EINVAL) } else { Ok(()) };
        if let Some(id) = get_or_make(&sets.registry, key, flags, (who, ns), owner, fits)? {
            return Ok(id);
        }
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        if sets.total + count > MAX_TOTAL {
            return Err(Errno::ENOSPC);
        }
        let id = sets.registry.add(key, SEMMNI, |_, seq| {
            let state = State {
                owner: Owner { seq, ..Owner::new(key, flags, who) },
                all: vec![Semaphore::default(); count],
                queue: VecDeque::new(),
                undo: BTreeMap::new(),
                otime: 0,
                ctime: now(),
                removed: false,
            };
            Arc::new(SemSet { state: Mutex::new(state) })
        })?;
        sets.total += count;
        Ok(id)
    }

    fn set(&self, id: i32) -> SysResult<Arc<SemSet>> {
        self.0.lock().registry.get(id).cloned()
    }

    /// semop(2): carries operations out, or returns who waits for them.
    ///
    /// # Errors
    /// `EINVAL`, `EFBIG`, `EACCES`, `EAGAIN`, `ERANGE`, `ENOMEM`.
    pub fn operate(
        &self,
        id: i32,
        operations: Vec<Operation>,
        who: (&Credentials, &UserNamespace, i32),
        undo: Option<&Arc<UndoList>>,
        parker: &Arc<Parker>,
    ) -> SysResult<Option<Arc<Waiting>>> {
        let (who, ns, pid) = who;
        let set = self.set(id)?;
        let mut woken = Woken::new();
        let mut state = set.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let count = state.all.len();
        if operations.iter().any(|operation| usize::from(operation.num) >= count) {
            return Err(Errno::EFBIG);
        }
        let alters = operations.iter().any(|operation| operation.op != 0);
        state.owner.check(who, ns, if alters { 0o222 } else { 0o444 })?;
        let undoes = operations.iter().any(|operation| operation.has(c::SEM_UNDO));
        let undo = undo.filter(|_| undoes);
        if let Some(list) = undo {
            state.undo.entry(list.id).or_insert_with(|| vec![0; count]);
            list.remember(&set);
        }
        let (num, zero) = match state.try_all(&operations, undo.map(|list| &**list), pid) {
            Ok(()) => {
                state.otime = now();
                if alters {
                    state.settle(&mut woken);
                }
                drop(state);
                wake(&woken);
                return Ok(None);
            }
            Err(Stuck::Fail(errno)) => return Err(errno),
            Err(Stuck::Wait(num, zero)) => (num, zero),
        };
        let waiting = Waiting { parker: parker.clone(), status: AtomicI32::new(ASLEEP), set: set.clone() };
        let waiting = Arc::new(waiting);
        let pending = Pending { operations, pid, undo: undo.cloned(), on: (num, zero), waiting: waiting.clone() };
        state.queue.push_back(pending);
        Ok(Some(waiting))
    }

    /// `IPC_STAT` and its like: the identifier and what there is to tell.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn stat(&self, which: Stat, who: &Credentials, ns: &UserNamespace) -> SysResult<(i32, SemidDs)> {
        let (id, set) = self.0.lock().registry.find(which).map(|(id, set)| (id, set.clone()))?;
        let state = set.state.lock();
        if !matches!(which, Stat::Any(_)) {
            state.owner.check(who, ns, 0o444)?;
        }
        let (perm, nsems) = (state.owner.show(who), state.all.len() as u64);
        Ok((id, SemidDs { perm, otime: state.otime, ctime: state.ctime, nsems, ..SemidDs::default() }))
    }

    /// `IPC_SET`
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn change(&self, id: i32, new: &IpcPerm, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let set = self.set(id)?;
        let mut state = set.state.lock();
        state.owner.check_control(who, ns)?;
        state.owner.set(new, who)?;
        state.ctime = now();
        Ok(())
    }

    /// `IPC_RMID`: who waits hears of it.
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn remove(&self, id: i32, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let mut sets = self.0.lock();
        let set = sets.registry.get(id)?.clone();
        let mut state = set.state.lock();
        state.owner.check_control(who, ns)?;
        state.removed = true;
        state.undo.clear();
        let queue = std::mem::take(&mut state.queue);
        sets.total -= state.all.len();
        sets.registry.remove(id);
        drop(state);
        drop(sets);
        for pending in queue {
            pending.waiting.status.store(Errno::EIDRM.raw(), Ordering::SeqCst);
            pending.waiting.parker.unpark();
        }
        Ok(())
    }

    /// `GETVAL`, `GETPID`, `GETNCNT`, `GETZCNT`.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn query(&self, id: i32, num: i32, query: SemQuery, who: &Credentials, ns: &UserNamespace) -> SysResult<i32> {
        let set = self.set(id)?;
        let state = set.state.lock();
        state.owner.check(who, ns, 0o444)?;
        let num = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
        let semaphore = state.all.get(num).ok_or(Errno::EINVAL)?;
        let waiting =
            |zero| i32::try_from(state.queue.iter().filter(|pending| pending.on == (num, zero)).count()).unwrap_or(i32::MAX);
        Ok(match query {
            SemQuery::Value => semaphore.value,
            SemQuery::Pid => semaphore.pid,
            SemQuery::WaitingForMore => waiting(false),
            SemQuery::WaitingForZero => waiting(true),
        })
    }

    /// `GETALL`
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn values(&self, id: i32, who: &Credentials, ns: &UserNamespace) -> SysResult<Vec<u16>> {
        let set = self.set(id)?;
        let state = set.state.lock();
        state.owner.check(who, ns, 0o444)?;
        Ok(state.all.iter().map(|semaphore| u16::try_from(semaphore.value).unwrap_or(0)).collect())
    }

    /// How many semaphores a set has that the caller may change: what `SETALL` must read.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn count(&self, id: i32, who: &Credentials, ns: &UserNamespace) -> SysResult<usize> {
        let set = self.set(id)?;
        let state = set.state.lock();
        state.owner.check(who, ns, 0o222)?;
        Ok(state.all.len())
    }

    /// `SETVAL` of semaphore `num`, `SETALL` without: adjustments of what is set are forgotten.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`, `ERANGE`, `EIDRM`.
    pub fn assign(&self, id: i32, num: Option<i32>, values: &[i32], who: (&Credentials, &UserNamespace, i32)) -> SysResult<()> {
        let (who, ns, pid) = who;
        let set = self.set(id)?;
        let mut woken = Woken::new();
        let mut state = set.state.lock();
        let first = usize::try_from(num.unwrap_or(0)).map_err(|_| Errno::EINVAL)?;
        if num.is_some() && first >= state.all.len() {
            return Err(Errno::EINVAL);
        }
        if values.iter().any(|value| !(0..=SEMVMX).contains(value)) {
            return Err(Errno::ERANGE);
        }
        state.owner.check(who, ns, 0o222)?;
        if state.removed {
            return Err(Errno::EIDRM);
        }
        for (semaphore, value) in state.all.iter_mut().skip(first).zip(values) {
            (semaphore.value, semaphore.pid) = (*value, pid);
        }
        for adjustments in state.undo.values_mut() {
            adjustments.iter_mut().skip(first).take(values.len()).for_each(|adjustment| *adjustment = 0);
        }
        state.ctime = now();
        state.settle(&mut woken);
        drop(state);
        wake(&woken);
        Ok(())
    }

    /// `IPC_INFO`, or `SEM_INFO` with what is in `use`; and the largest slot.
    #[must_use]
    pub fn info(&self, in_use: bool) -> (i32, SemInfo) {
        let sets = self.0.lock();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let (semusz, semaem) = if in_use { (number(sets.registry.len()), number(sets.total)) } else { (20, SEMAEM) };
        let info = SemInfo {
            semmap: SEMMNS,
            semmni: number(SEMMNI),
            semmns: SEMMNS,
            semmnu: SEMMNS,
            semmsl: number(SEMMSL),
            semopm: number(SEMOPM),
            semume: number(SEMOPM),
            semusz,
            semvmx: SEMVMX,
            semaem,
        };
        (sets.registry.last_slot(), info)
    }

    /// /proc/sysvipc/sem
    #[must_use]
    pub fn text(&self, reader: &Credentials) -> String {
        let mut text = String::from("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
        for (id, set) in self.0.lock().registry.iter() {
            let state = set.state.lock();
            let p = state.owner.show(reader);
            text.push_str(&format!(
                "{:10} {id:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n",
                p.key,
                p.mode,
                state.all.len(),
                p.uid,
                p.gid,
                p.cuid,
                p.cgid,
                state.otime,
                state.ctime
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        sets: Semaphores,
        ns: Arc<UserNamespace>,
        who: Credentials,
    }

    impl World {
        fn new() -> Self {
            let ns = UserNamespace::initial();
            Self { sets: Semaphores::default(), who: Credentials::root(ns.clone()), ns }
        }

        fn make(&self, count: i32) -> i32 {
            self.sets.get(c::IPC_PRIVATE, count, 0o600, &self.who, &self.ns).unwrap()
        }

        fn op(&self, id: i32, all: &[(u16, i16, i32)], undo: Option<&Arc<UndoList>>) -> SysResult<Option<Arc<Waiting>>> {
            let all = all.iter().map(|(num, op, flg)| Operation { num: *num, op: *op, flg: *flg as i16 }).collect();
            self.sets.operate(id, all, (&self.who, &self.ns, 1), undo, &Arc::default())
        }

        fn value(&self, id: i32, num: i32) -> i32 {
            self.sets.query(id, num, SemQuery::Value, &self.who, &self.ns).unwrap()
        }
    }

    #[test]
    fn all_or_nothing_and_waiters_are_served() {
        let w = World::new();
        let id = w.make(2);
        assert!(w.op(id, &[(0, 3, 0)], None).unwrap().is_none());
        // The first alone could be done.
        let waiting = w.op(id, &[(0, -2, 0), (1, -1, 0)], None).unwrap().unwrap();
        assert_eq!((w.value(id, 0), waiting.result()), (3, None));
        assert_eq!(w.sets.query(id, 1, SemQuery::WaitingForMore, &w.who, &w.ns), Ok(1));
        assert!(w.op(id, &[(1, 1, 0)], None).unwrap().is_none());
        assert_eq!((waiting.result(), w.value(id, 0), w.value(id, 1)), (Some(Ok(())), 1, 0));
        assert_eq!(w.op(id, &[(0, -2, c::IPC_NOWAIT)], None).err(), Some(Errno::EAGAIN));
        assert_eq!(w.op(id, &[(2, 1, 0)], None).err(), Some(Errno::EFBIG));
        assert_eq!(w.op(id, &[(0, 32767, 0)], None).err(), Some(Errno::ERANGE));
        let zero = w.op(id, &[(0, 0, 0)], None).unwrap().unwrap();
        let gone = w.op(id, &[(1, -5, 0)], None).unwrap().unwrap();
        assert!(gone.give_up().is_none());
        w.sets.assign(id, Some(0), &[0], (&w.who, &w.ns, 1)).unwrap();
        assert_eq!(zero.result(), Some(Ok(())));
        let last = w.op(id, &[(1, -1, 0)], None).unwrap().unwrap();
        w.sets.remove(id, &w.who, &w.ns).unwrap();
        assert_eq!((last.result(), gone.result()), (Some(Err(Errno::EIDRM)), None));
    }

    #[test]
    fn what_a_process_did_is_undone() {
        let w = World::new();
        let id = w.make(2);
        let undo = UndoList::new(7);
        let flag = c::SEM_UNDO;
        w.op(id, &[(0, 5, flag), (1, 1, 0)], Some(&undo)).unwrap();
        w.op(id, &[(0, -2, flag)], Some(&undo)).unwrap();
        // Failed operations leave no adjustment behind.
        assert_eq!(w.op(id, &[(0, 1, flag), (1, -9, c::IPC_NOWAIT)], Some(&undo)).err(), Some(Errno::EAGAIN));
        assert_eq!((w.value(id, 0), w.value(id, 1)), (3, 1));
        w.op(id, &[(0, 4, 0)], None).unwrap();
        drop(undo);
        assert_eq!((w.value(id, 0), w.value(id, 1)), (4, 1));
        assert_eq!(w.sets.query(id, 0, SemQuery::Pid, &w.who, &w.ns), Ok(7));
        let undo = UndoList::new(8);
        w.op(id, &[(0, -4, flag)], Some(&undo)).unwrap();
        w.sets.assign(id, Some(0), &[1], (&w.who, &w.ns, 1)).unwrap();
        drop(undo);
        assert_eq!(w.value(id, 0), 1);
    }
}
