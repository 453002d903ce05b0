//! Descriptor tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, SysResult};
use sync::RwLock;

use crate::file::File;
use crate::lock::Owner;

/// Descriptors of one table at most (fs.nr_open, and RLIMIT_NOFILE's hard limit here).
pub const MAX_FDS: usize = 1 << 20;

/// A set of descriptors that finds the lowest missing one without looking at each: a second level marks words that are full.
#[derive(Clone, Default)]
struct Bits {
    words: Vec<u64>,
    full: Vec<u64>,
}

impl Bits {
    fn has(&self, fd: usize) -> bool {
        self.words.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0)
    }

    fn set(&mut self, fd: usize, on: bool) {
        if fd / 64 >= self.words.len() {
            if !on {
                return;
            }
            self.words.resize(fd / 64 + 1, 0);
            self.full.resize(self.words.len().div_ceil(64), 0);
        }
        let Some(word) = self.words.get_mut(fd / 64) else { return };
        *word = if on { *word | 1 << (fd % 64) } else { *word & !(1 << (fd % 64)) };
        let full = *word == u64::MAX;
        if let Some(word) = self.full.get_mut(fd / 4096) {
            let bit = 1 << (fd / 64 % 64);
            *word = if full { *word | bit } else { *word & !bit };
        }
    }

    /// The lowest that is not in the set, from `min` on.
    fn lowest_missing(&self, min: usize) -> usize {
        let first = self.words.get(min / 64).map_or(0, |word| word | ((1 << (min % 64)) - 1));
        if min / 64 >= self.words.len() {
            return min;
        }
        if first != u64::MAX {
            return min / 64 * 64 + first.trailing_ones() as usize;
        }
        let mut at = min / 64 + 1;
        while at < self.words.len() {
            let full = self.full.get(at / 64).map_or(0, |word| word | ((1 << (at % 64)) - 1));
            if full == u64::MAX {
                at = (at / 64 + 1) * 64;
                continue;
            }
            at = at / 64 * 64 + full.trailing_ones() as usize;
            return at * 64 + self.words.get(at).map_or(0, |word| word.trailing_ones() as usize);
        }
        self.words.len() * 64
    }
}

#[derive(Clone, Default)]
struct Slots {
    files: Vec<Option<Arc<File>>>,
    open: Bits,
    cloexec: Bits,
}

impl Slots {
    fn get(&self, fd: i32) -> SysResult<&Arc<File>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.files.get(index).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    fn put(&mut self, fd: usize, file: Arc<File>, cloexec: bool) -> Option<Arc<File>> {
        if fd >= self.files.len() {
            // Twice as much each time, so that filling a table costs what it holds.
            let len = (fd + 1).max(self.files.len() * 2).min(MAX_FDS).max(fd + 1);
            self.files.resize(len, None);
        }
        self.open.set(fd, true);
        self.cloexec.set(fd, cloexec);
        self.files.get_mut(fd).and_then(|slot| slot.replace(file))
    }

    fn take(&mut self, fd: usize) -> Option<Arc<File>> {
        let file = self.files.get_mut(fd).and_then(Option::take)?;
        self.open.set(fd, false);
        self.cloexec.set(fd, false);
        Some(file)
    }

    /// Takes those of `first..=last` that `which` picks.
    fn take_all(&mut self, first: usize, last: usize, which: impl Fn(&Self, usize) -> bool) -> Vec<Arc<File>> {
        let end = last.saturating_add(1).min(self.files.len());
        (first..end).filter_map(|fd| if which(self, fd) { self.take(fd) } else { None }).collect()
    }
}

/// Descriptors of a process, or of several that share them (CLONE_FILES).
pub struct FdTable {
    slots: RwLock<Slots>,
    /// Tasks that use it.
    users: AtomicUsize,
    /// Never used twice: record locks belong to tables (fcntl(2): to processes).
    id: u64,
    /// Whether it may own record locks.
    locks: AtomicBool,
}

impl Default for FdTable {
    fn default() -> Self {
        Self::new(Slots::default())
    }
}

impl FdTable {
    fn new(slots: Slots) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { slots: RwLock::new(slots), users: AtomicUsize::new(1), id, locks: AtomicBool::new(false) }
    }

    /// The owner of record locks taken through this table, which from now on are looked for when one of its descriptors is closed.
    pub fn lock_owner(&self) -> Owner {
        self.locks.store(true, Ordering::SeqCst);
        Owner::Table(self.id)
    }

    /// The owner that its record locks have, if it has any.
    #[must_use]
    pub fn lock_table(&self) -> Owner {
        Owner::Table(self.id)
    }

    /// What follows from closing a descriptor of `file`: record locks go with the first of the owner's (fcntl(2)).
    fn closed(&self, file: &Arc<File>) {
        if self.locks.load(Ordering::SeqCst) {
            file.drop_records(Owner::Table(self.id));
        }
    }

    fn all_closed(&self, gone: Vec<Arc<File>>) {
        gone.iter().for_each(|file| self.closed(file));
    }

    /// # Errors
    /// `EBADF`
    pub fn get(&self, fd: i32) -> SysResult<Arc<File>> {
        self.slots.read().get(fd).cloned()
    }

    /// The lowest free descriptor from `min` on, below `limit`.
    ///
    /// # Errors
    /// `EMFILE`
    pub fn install(&self, file: Arc<File>, cloexec: bool, min: i32, limit: u64) -> SysResult<i32> {
        let min = usize::try_from(min).map_err(|_| Errno::EINVAL)?;
        let limit = usize::try_from(limit).unwrap_or(MAX_FDS).min(MAX_FDS);
        let mut slots = self.slots.write();
        let free = slots.open.lowest_missing(min);
        if free >= limit {
            return Err(Errno::EMFILE);
        }
        slots.put(free, file, cloexec);
        i32::try_from(free).map_err(|_| Errno::EMFILE)
    }

    /// Puts `file` at `fd`, closing what is there.
    ///
    /// # Errors
    /// `EBADF` outside the limit.
    pub fn set(&self, fd: i32, file: Arc<File>, cloexec: bool, limit: u64) -> SysResult<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit || index >= MAX_FDS {
            return Err(Errno::EBADF);
        }
        let old = self.slots.write().put(index, file, cloexec);
        old.iter().for_each(|file| self.closed(file));
        Ok(())
    }

    /// # Errors
    /// `EBADF`
    pub fn close(&self, fd: i32) -> SysResult<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let file = self.slots.write().take(index).ok_or(Errno::EBADF)?;
        self.closed(&file);
        Ok(())
    }

    /// # Errors
    /// `EBADF`
    pub fn cloexec(&self, fd: i32) -> SysResult<bool> {
        let slots = self.slots.read();
        slots.get(fd)?;
        Ok(slots.cloexec.has(usize::try_from(fd).map_err(|_| Errno::EBADF)?))
    }

    /// # Errors
    /// `EBADF`
    pub fn set_cloexec(&self, fd: i32, on: bool) -> SysResult<()> {
        let mut slots = self.slots.write();
        slots.get(fd)?;
        slots.cloexec.set(usize::try_from(fd).map_err(|_| Errno::EBADF)?, on);
        Ok(())
    }

    /// Closes or marks all of `first..=last` (close_range(2)).
    pub fn close_range(&self, first: u32, last: u32, only_mark: bool) {
        let (first, last) = (first as usize, last as usize);
        let mut slots = self.slots.write();
        if only_mark {
            let end = last.saturating_add(1).min(slots.files.len());
            for fd in first..end {
                if slots.open.has(fd) {
                    slots.cloexec.set(fd, true);
                }
            }
            return;
        }
        let gone = slots.take_all(first, last, |_, _| true);
        drop(slots);
        self.all_closed(gone);
    }

    /// A copy for fork(2).
    #[must_use]
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self::new(self.slots.read().clone()))
    }

    /// The same table for one more task (CLONE_FILES).
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Arc<Self> {
        self.users.fetch_add(1, Ordering::SeqCst);
        self.clone()
    }

    /// A table of the caller's own (execve(2), unshare(2)): this one if nobody else uses it, a copy otherwise.
    #[must_use]
    pub fn unshare(self: &Arc<Self>) -> Arc<Self> {
        if self.users.load(Ordering::SeqCst) == 1 {
            return self.clone();
        }
        let own = self.fork();
        self.leave();
        own
    }

    /// One task less uses it; the last closes all.
    pub fn leave(&self) {
        if self.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            let gone = std::mem::take(&mut *self.slots.write());
            self.all_closed(gone.files.into_iter().flatten().collect());
        }
    }

    /// Closes what is marked so, at execve(2).
    pub fn close_on_exec(&self) {
        let gone = self.slots.write().take_all(0, MAX_FDS, |slots, fd| slots.cloexec.has(fd));
        self.all_closed(gone);
    }

    /// Open descriptors.
    #[must_use]
    pub fn list(&self) -> Vec<(i32, Arc<File>)> {
        let slots = self.slots.read();
        let open = slots.files.iter().enumerate().filter_map(|(fd, file)| Some((i32::try_from(fd).ok()?, file.clone()?)));
        open.collect()
    }

    /// How many descriptors there is room for, as `FDSize` of /proc/pid/status says: grows by doubling, from 64.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.read().files.len().max(64).next_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain list, around the ends of words and of their second level.
    #[test]
    fn the_lowest_missing_is_found() {
        let mut bits = Bits::default();
        assert_eq!(bits.lowest_missing(0), 0);
        assert_eq!(bits.lowest_missing(5000), 5000);
        (0..10_000).for_each(|fd| bits.set(fd, true));
        for min in [0, 63, 64, 4095, 4096, 9999, 10_000, 10_001, 20_000] {
            assert_eq!(bits.lowest_missing(min), min.max(10_000));
        }
        for hole in [0, 63, 64, 4095, 4096, 8191, 9999] {
            bits.set(hole, false);
            assert_eq!(bits.lowest_missing(0), hole);
            assert_eq!(bits.lowest_missing(hole), hole);
            assert_eq!(bits.lowest_missing(hole + 1), 10_000);
            bits.set(hole, true);
        }
        let mut seed = 1u64;
        let mut model = vec![true; 10_000];
        for _ in 0..2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (fd, min) = ((seed >> 33) as usize % 10_000, (seed >> 13) as usize % 10_000);
            model[fd] = !model[fd];
            bits.set(fd, model[fd]);
            assert_eq!(bits.lowest_missing(min), (min..).find(|fd| model.get(*fd) != Some(&true)).unwrap());
        }
    }
}
