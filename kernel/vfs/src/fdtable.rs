//! Descriptor tables.

use std::sync::Arc;

use abi::{Errno, SysResult};
use sync::Mutex;

use crate::file::File;

/// Descriptors of one table at most (RLIMIT_NOFILE's hard limit here).
const MAX_FDS: usize = 1 << 20;

type Slots = Vec<Option<(Arc<File>, bool)>>;

/// Descriptors of a process.
#[derive(Default)]
pub struct FdTable(Mutex<Slots>);

impl FdTable {
    fn index(fd: i32) -> SysResult<usize> {
        usize::try_from(fd).map_err(|_| Errno::EBADF)
    }

    /// # Errors
    /// `EBADF`
    pub fn get(&self, fd: i32) -> SysResult<Arc<File>> {
        let slots = self.0.lock();
        slots.get(Self::index(fd)?).and_then(Option::as_ref).map(|slot| slot.0.clone()).ok_or(Errno::EBADF)
    }

    /// The lowest free descriptor from `min` on, below `limit`.
    ///
    /// # Errors
    /// `EMFILE`
    pub fn install(&self, file: Arc<File>, cloexec: bool, min: i32, limit: u64) -> SysResult<i32> {
        let mut slots = self.0.lock();
        let min = usize::try_from(min).map_err(|_| Errno::EINVAL)?;
        let limit = usize::try_from(limit).unwrap_or(MAX_FDS).min(MAX_FDS);
        let free = (min..slots.len()).find(|fd| slots.get(*fd).is_some_and(Option::is_none)).unwrap_or(slots.len().max(min));
        if free >= limit {
            return Err(Errno::EMFILE);
        }
        if free >= slots.len() {
            slots.resize(free + 1, None);
        }
        if let Some(slot) = slots.get_mut(free) {
            *slot = Some((file, cloexec));
        }
        i32::try_from(free).map_err(|_| Errno::EMFILE)
    }

    /// Puts `file` at `fd`, closing what is there.
    ///
    /// # Errors
    /// `EBADF` outside the limit.
    pub fn set(&self, fd: i32, file: Arc<File>, cloexec: bool, limit: u64) -> SysResult<()> {
        let index = Self::index(fd)?;
        if index as u64 >= limit || index >= MAX_FDS {
            return Err(Errno::EBADF);
        }
        let mut slots = self.0.lock();
        if index >= slots.len() {
            slots.resize(index + 1, None);
        }
        let old = slots.get_mut(index).and_then(|slot| slot.replace((file, cloexec)));
        drop(slots);
        drop(old);
        Ok(())
    }

    /// # Errors
    /// `EBADF`
    pub fn close(&self, fd: i32) -> SysResult<()> {
        let old = self.0.lock().get_mut(Self::index(fd)?).and_then(Option::take);
        old.map(drop).ok_or(Errno::EBADF)
    }

    /// # Errors
    /// `EBADF`
    pub fn cloexec(&self, fd: i32) -> SysResult<bool> {
        self.0.lock().get(Self::index(fd)?).and_then(Option::as_ref).map(|slot| slot.1).ok_or(Errno::EBADF)
    }

    /// # Errors
    /// `EBADF`
    pub fn set_cloexec(&self, fd: i32, on: bool) -> SysResult<()> {
        let mut slots = self.0.lock();
        slots.get_mut(Self::index(fd)?).and_then(Option::as_mut).ok_or(Errno::EBADF)?.1 = on;
        Ok(())
    }

    /// Closes or marks all of `first..=last` (close_range(2)).
    pub fn close_range(&self, first: u32, last: u32, only_mark: bool) {
        let mut slots = self.0.lock();
        let mut gone = Vec::new();
        for slot in slots.iter_mut().take((last as usize).saturating_add(1)).skip(first as usize) {
            if only_mark {
                if let Some(slot) = slot {
                    slot.1 = true;
                }
            } else {
                gone.extend(slot.take());
            }
        }
        drop(slots);
    }

    /// A copy for fork(2).
    #[must_use]
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self(Mutex::new(self.0.lock().clone())))
    }

    /// Closes what is marked so, at execve(2).
    pub fn close_on_exec(&self) {
        let gone: Vec<_> =
            self.0.lock().iter_mut().filter(|slot| slot.as_ref().is_some_and(|slot| slot.1)).filter_map(Option::take).collect();
        drop(gone);
    }

    /// Closes all, when the last task goes.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.0.lock());
        drop(gone);
    }

    /// Open descriptors.
    #[must_use]
    pub fn list(&self) -> Vec<(i32, Arc<File>)> {
        let slots = self.0.lock();
        let open = slots.iter().enumerate().filter_map(|(fd, slot)| Some((fd, slot.as_ref()?)));
        open.filter_map(|(fd, slot)| Some((i32::try_from(fd).ok()?, slot.0.clone()))).collect()
    }
}
