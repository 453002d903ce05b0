//! Spinning that gives way.
//!
//! Waking a sleeping CPU costs tens of microseconds, a switch on the spot a few; who spins, and lets others run in between, is reached
//! in less than either, wherever the two threads are. That holds while nobody else wants the CPU: then giving way costs a whole slice
//! of the scheduler's, and it is better to sleep. Giving way tells: if it takes long, the machine is crowded, and nobody here spins for
//! a while.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{MonotonicNs, monotonic_ns};

/// Looks between giving way twice: about a microsecond.
const LOOKS: u32 = 32;
/// The same while another thread takes turns on this CPU, which is so when giving way takes longer than this, in nanoseconds.
const LOOKS_SHARED: u32 = 4;
const SHARED_NS: u64 = 700;
/// Giving way takes no longer than this where only threads that take turns with us run, in nanoseconds.
const CROWDED_NS: u64 = 250_000;
/// Shortest and longest time without spinning, in nanoseconds.
const PAUSE_NS: u64 = 4_000_000;
const MAX_PAUSE_NS: u64 = 1_000_000_000;

/// Until when nobody spins, and how long that was.
static CROWDED_UNTIL: AtomicU64 = AtomicU64::new(0);
static PAUSE: AtomicU64 = AtomicU64::new(PAUSE_NS);

/// Whether others wanted the CPU lately.
#[must_use]
pub fn crowded(now: MonotonicNs) -> bool {
    now < CROWDED_UNTIL.load(Ordering::Relaxed)
}

/// Notes that the host has taken the CPU away for long: nobody spins for a while, longer each time it goes on so.
pub fn note_crowd(now: MonotonicNs) {
    let until = CROWDED_UNTIL.load(Ordering::Relaxed);
    if now < until {
        return;
    }
    let last = PAUSE.load(Ordering::Relaxed);
    let pause = if now - until < 4 * last { (2 * last).min(MAX_PAUSE_NS) } else { PAUSE_NS };
    PAUSE.store(pause, Ordering::Relaxed);
    CROWDED_UNTIL.store(now + pause, Ordering::Relaxed);
}

/// Spins until `ready` or the budget (in nanoseconds) is used up, letting other threads run in between; returns whether it is ready.
pub fn spin(budget_ns: u64, mut ready: impl FnMut() -> bool) -> bool {
    let start = monotonic_ns();
    let mut looks = LOOKS;
    loop {
        for _ in 0..looks {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        let before = monotonic_ns();
        std::thread::yield_now();
        let after = monotonic_ns();
        if after - before > CROWDED_NS {
            note_crowd(after);
            return ready();
        }
        if after - start > budget_ns {
            return ready();
        }
        // Somebody else is on this CPU: perhaps the one that is waited for.
        looks = if after - before > SHARED_NS { LOOKS_SHARED } else { LOOKS };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_and_readiness_is_seen() {
        let mut looks = 0;
        assert!(!spin(1, || {
            looks += 1;
            false
        }));
        assert!(looks > 0);
        assert!(spin(u64::MAX, || {
            looks += 1;
            looks > 100
        }));
    }
}
