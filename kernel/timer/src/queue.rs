//! The queue of all timers of a sandbox and the one thread that waits for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use sync::{MonotonicNs, Mutex, Parker, monotonic_ns};

/// Somebody whom a timer tells.
pub trait Expire: Send + Sync {
    /// The time has come. Called on the timers' thread, without locks; must be short.
    fn expired(&self);
}

/// When, and which of those for the same time.
type Key = (MonotonicNs, u64);

/// All timers of a sandbox.
#[derive(Default)]
pub struct Timers {
    due: Mutex<BTreeMap<Key, Weak<dyn Expire>>>,
    parker: Parker,
    started: AtomicBool,
    next: AtomicU64,
}

impl Timers {
    /// Takes the thread that waits, on first use. Without one (the host gives none) the next use tries again.
    fn start(self: &Arc<Self>) {
        if self.started.swap(true, Ordering::SeqCst) {
            return;
        }
        let own = self.clone();
        let spawned = std::thread::Builder::new().name("timers".into()).stack_size(128 << 10).spawn(move || own.run());
        self.started.store(spawned.is_ok(), Ordering::SeqCst);
    }

    fn run(&self) {
        loop {
            let now = monotonic_ns();
            let (first, next) = {
                let mut due = self.due.lock();
                match due.first_key_value().map(|(key, _)| *key) {
                    Some(key) if key.0 <= now => (due.remove(&key), None),
                    Some((at, _)) => (None, Some(at)),
                    None => (None, None),
                }
            };
            match first {
                Some(waiter) => {
                    if let Some(waiter) = waiter.upgrade() {
                        waiter.expired();
                    }
                }
                None => drop(self.parker.park(next)),
            }
        }
    }
}

/// A timer. Goes off once each time that it is set; goes off no more when it is dropped.
pub struct Timer {
    timers: Arc<Timers>,
    key: Mutex<Option<Key>>,
}

impl Timer {
    /// A timer that isn't set.
    #[must_use]
    pub fn new(timers: &Arc<Timers>) -> Self {
        Self { timers: timers.clone(), key: Mutex::new(None) }
    }

    /// Has `waiter` told at a time, instead of any that was set before. A call for that may be under way already.
    pub fn set(&self, at: MonotonicNs, waiter: Weak<dyn Expire>) {
        self.timers.start();
        let mut own = self.key.lock();
        let key = (at, self.timers.next.fetch_add(1, Ordering::Relaxed));
        let first = {
            let mut due = self.timers.due.lock();
            if let Some(old) = own.replace(key) {
                due.remove(&old);
            }
            due.insert(key, waiter);
            due.first_key_value().is_some_and(|(first, _)| *first == key)
        };
        if first {
            self.timers.parker.unpark();
        }
    }

    /// Takes it back.
    pub fn clear(&self) {
        if let Some(key) = self.key.lock().take() {
            self.timers.due.lock().remove(&key);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bell(AtomicU64, Parker);

    impl Expire for Bell {
        fn expired(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.unpark();
        }
    }

    #[test]
    fn timers_go_off_in_order_and_only_while_set() {
        let timers = Arc::new(Timers::default());
        let bell = Arc::new(Bell(AtomicU64::new(0), Parker::default()));
        let waiter: Weak<dyn Expire> = Arc::downgrade(&(bell.clone() as Arc<dyn Expire>));
        let (late, never, early) = (Timer::new(&timers), Timer::new(&timers), Timer::new(&timers));
        let start = monotonic_ns();
        late.set(start + 20_000_000, waiter.clone());
        never.set(start + 10_000_000, waiter.clone());
        early.set(start + 50_000_000, waiter.clone());
        early.set(start + 5_000_000, waiter);
        never.clear();
        bell.1.park(None);
        let first = monotonic_ns() - start;
        bell.1.park(None);
        let second = monotonic_ns() - start;
        assert!((5_000_000..20_000_000).contains(&first) && second >= 20_000_000, "{first} {second}");
        assert_eq!((bell.0.load(Ordering::SeqCst), timers.due.lock().len()), (2, 0));
    }
}
