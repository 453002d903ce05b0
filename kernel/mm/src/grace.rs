//! When nobody looks any more at what has been taken out of an address space.
//!
//! Copies to and from guest memory find their pages under the lock and copy without it. Whatever they may have found is given back only when
//! all that began before it was taken out have ended: two epochs later. An epoch ends when nobody is left that began in the one before.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Default)]
pub struct Grace {
    epoch: AtomicU64,
    /// Those inside, by the parity of the epoch in which they began.
    inside: [AtomicUsize; 2],
}

/// Somebody inside; out on drop.
pub struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Grace {
    fn of(&self, epoch: u64) -> &AtomicUsize {
        let [even, odd] = &self.inside;
        if epoch.is_multiple_of(2) { even } else { odd }
    }

    /// From here on nothing that is found vanishes until the result is dropped.
    pub fn enter(&self) -> Inside<'_> {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let count = self.of(epoch);
            count.fetch_add(1, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return Inside(count);
            }
            count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// What is taken out now may be given back once [`Grace::passed`] with this.
    pub fn now(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether all that could have seen what was taken out at `epoch` have ended. Callers hold a lock that keeps others from calling.
    pub fn passed(&self, epoch: u64) -> bool {
        for _ in 0..2 {
            let now = self.epoch.load(Ordering::SeqCst);
            if now >= epoch + 2 {
                break;
            }
            if self.of(now + 1).load(Ordering::SeqCst) == 0 {
                self.epoch.store(now + 1, Ordering::SeqCst);
            }
        }
        self.epoch.load(Ordering::SeqCst) >= epoch + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_inside_are_waited_for_and_no_others() {
        let grace = Grace::default();
        let first = grace.enter();
        let taken = grace.now();
        assert!(!grace.passed(taken));
        let second = grace.enter();
        assert!(!grace.passed(taken));
        drop(first);
        assert!(grace.passed(taken), "who came later is no hindrance");
        let later = grace.now();
        assert!(!grace.passed(later));
        drop(second);
        assert!(grace.passed(later));
    }
}
