//! Who may look into an address space.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use auth::UserNamespace;

use crate::MemoryManager;

/// Who may (prctl(2), `PR_SET_DUMPABLE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dumpable {
    /// Only those with capabilities over it.
    No = 0,
    /// Its user.
    User = 1,
    /// As `No`; core dumps are root's.
    Root = 2,
}

/// What decides that.
pub(crate) struct Guard {
    dumpable: AtomicU8,
    user_ns: Arc<UserNamespace>,
}

impl Guard {
    pub fn new(user_ns: Arc<UserNamespace>) -> Self {
        Self { dumpable: AtomicU8::new(Dumpable::User as u8), user_ns }
    }
}

impl Clone for Guard {
    fn clone(&self) -> Self {
        Self { dumpable: AtomicU8::new(self.dumpable.load(Ordering::SeqCst)), user_ns: self.user_ns.clone() }
    }
}

impl MemoryManager {
    /// Who may look into it.
    #[must_use]
    pub fn dumpable(&self) -> Dumpable {
        match self.guard.dumpable.load(Ordering::SeqCst) {
            0 => Dumpable::No,
            1 => Dumpable::User,
            _ => Dumpable::Root,
        }
    }

    pub fn set_dumpable(&self, dumpable: Dumpable) {
        self.guard.dumpable.store(dumpable as u8, Ordering::SeqCst);
    }

    /// The user namespace of the program: capabilities there open it.
    #[must_use]
    pub fn user_ns(&self) -> &Arc<UserNamespace> {
        &self.guard.user_ns
    }
}
