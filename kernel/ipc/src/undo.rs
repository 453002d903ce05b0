//! What is undone when a process ends (`SEM_UNDO`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use sync::Mutex;

use crate::sem::SemSet;

/// Adjustments of one process, or of several that share them (`CLONE_SYSVSEM`). Made when the last of them ends.
pub struct UndoList {
    /// Semaphore sets keep adjustments by this number.
    pub(crate) id: u64,
    pid: i32,
    sets: Mutex<Vec<Weak<SemSet>>>,
}

impl UndoList {
    /// An empty list for process `pid`.
    #[must_use]
    pub fn new(pid: i32) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), pid, sets: Mutex::default() })
    }

    /// Remembers a set that has adjustments for this list.
    pub(crate) fn remember(&self, set: &Arc<SemSet>) {
        let mut sets = self.sets.lock();
        if !sets.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(set))) {
            // Sets that are gone need nothing any more.
            if sets.len().is_power_of_two() {
                sets.retain(|known| known.strong_count() > 0);
            }
            sets.push(Arc::downgrade(set));
        }
    }
}

impl Drop for UndoList {
    fn drop(&mut self) {
        for set in self.sets.get_mut().drain(..) {
            if let Some(set) = set.upgrade() {
                set.undo(self.id, self.pid);
            }
        }
    }
}
