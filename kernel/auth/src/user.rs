//! What a user's processes use together, which some resource limits bound (getrlimit(2): NPROC, SIGPENDING, MEMLOCK, MSGQUEUE).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::Kuid;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Tasks, by real user.
    Processes,
    /// Queued signals.
    Signals,
    /// Bytes of locked memory.
    LockedMemory,
    /// Bytes of POSIX message queues.
    MessageQueues,
}

const KINDS: usize = 4;

/// A user in a user namespace. What it uses counts for who made the namespace as well.
#[derive(Debug)]
pub struct User {
    pub uid: Kuid,
    above: Option<Arc<Self>>,
    used: [AtomicU64; KINDS],
}

/// Something a user uses; given back on drop.
#[derive(Debug)]
pub struct Charge {
    user: Arc<User>,
    what: Counted,
    amount: u64,
}

impl User {
    pub(crate) fn new(uid: Kuid, above: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { uid, above, used: Default::default() })
    }

    fn slot(&self, what: Counted) -> &AtomicU64 {
        let [processes, signals, memory, queues] = &self.used;
        match what {
            Counted::Processes => processes,
            Counted::Signals => signals,
            Counted::LockedMemory => memory,
            Counted::MessageQueues => queues,
        }
    }

    /// What it uses now.
    #[must_use]
    pub fn used(&self, what: Counted) -> u64 {
        self.slot(what).load(Ordering::Relaxed)
    }

    /// Counts `amount` more, unless that would be more than `limit`.
    #[must_use]
    pub fn charge(self: &Arc<Self>, what: Counted, amount: u64, limit: u64) -> Option<Charge> {
        let more = |used: u64| used.checked_add(amount).filter(|total| *total <= limit);
        self.slot(what).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let mut at = &self.above;
        while let Some(user) = at {
            user.slot(what).fetch_add(amount, Ordering::Relaxed);
            at = &user.above;
        }
        Some(Charge { user: self.clone(), what, amount })
    }
}

impl Charge {
    /// Who pays.
    #[must_use]
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut at = Some(&self.user);
        while let Some(user) = at {
            user.slot(self.what).fetch_sub(self.amount, Ordering::Relaxed);
            at = user.above.as_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_charges_go_back() {
        let above = User::new(Kuid(1), None);
        let user = User::new(Kuid(2), Some(above.clone()));
        let first = user.charge(Counted::Signals, 2, 3).unwrap();
        assert!(user.charge(Counted::Signals, 2, 3).is_none());
        assert!(user.charge(Counted::Signals, u64::MAX, u64::MAX).is_none());
        assert_eq!((user.used(Counted::Signals), above.used(Counted::Signals)), (2, 2));
        drop(first);
        assert_eq!((user.used(Counted::Signals), above.used(Counted::Signals)), (0, 0));
    }
}
