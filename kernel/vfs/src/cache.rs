//! What bounds the memory of remembered names: a queue of all, in which those that have been used since get a second chance.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use sync::Mutex;

use crate::dentry::Dentry;

/// Names that are remembered, over all filesystems, if nobody holds them.
const MAX_REMEMBERED: usize = 1 << 16;
/// Names looked at for each one that is added: more than one, so that the queue shrinks again.
const STEPS: usize = 4;

static QUEUE: Mutex<VecDeque<Weak<Dentry>>> = Mutex::new(VecDeque::new());

/// A name is remembered: another one may have to go.
pub fn added(dentry: &Arc<Dentry>) {
    let mut queue = QUEUE.lock();
    queue.push_back(Arc::downgrade(dentry));
    if queue.len() <= MAX_REMEMBERED {
        return;
    }
    let oldest: [Option<Weak<Dentry>>; STEPS] = std::array::from_fn(|_| queue.pop_front());
    drop(queue);
    // No lock is held here: letting go of a name can end a filesystem.
    for dentry in oldest.into_iter().flatten() {
        let Some(held) = dentry.upgrade() else { continue };
        if held.is_unlinked() {
            continue;
        }
        if held.used.swap(false, Ordering::Relaxed) || !held.evict() {
            QUEUE.lock().push_back(dentry);
        }
    }
}
