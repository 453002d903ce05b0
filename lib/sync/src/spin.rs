//! Spinning that gives way.
//!
//! Waking a sleeping CPU costs tens of microseconds, a switch on the spot a few; who spins, and lets others run in between, is reached
//! in less than either, wherever the two threads are. That holds while nobody else wants the CPU: then giving way costs a whole slice
//! of the scheduler's, and it is better to sleep. Whether that is so the host tells (the number of threads that want to run), and how
//! long giving way takes; if the machine is crowded, nobody here spins for a while.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
/// How old the host's answer may be, in nanoseconds.
const FRESH_NS: u64 = 1_000_000;

/// Until when nobody spins, and how long that was.
static CROWDED_UNTIL: AtomicU64 = AtomicU64::new(0);
static PAUSE: AtomicU64 = AtomicU64::new(PAUSE_NS);
/// When the host was asked last.
static ASKED: AtomicU64 = AtomicU64::new(0);
/// Threads that run because they spin, stubs' included.
static SPINNERS: AtomicU32 = AtomicU32::new(0);

/// The host's load, and its CPUs.
struct Load {
    file: File,
    cpus: u32,
}

static LOAD: OnceLock<Option<Load>> = OnceLock::new();

/// Opens what tells how many threads of the host want to run. Call while /proc is there; without it only experience tells.
pub fn watch_load() {
    LOAD.get_or_init(|| {
        let file = File::open("/proc/loadavg").ok()?;
        // SAFETY: reads a number.
        let cpus = u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).ok()?;
        Some(Load { file, cpus })
    });
}

impl Load {
    /// Threads that want to run now, the caller included (proc_loadavg(5), fourth field).
    fn running(&self) -> Option<u32> {
        let mut text = [0; 64];
        let count = self.file.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..count)?).ok()?;
        text.split(' ').nth(3)?.split('/').next()?.parse().ok()
    }
}

/// Threads that spin somewhere else begin or end doing so.
pub fn count_spinner(begins: bool) {
    if begins {
        SPINNERS.fetch_add(1, Ordering::Relaxed);
    } else {
        SPINNERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether others want the CPU, as far as is known.
pub fn crowded(now: MonotonicNs) -> bool {
    if now < CROWDED_UNTIL.load(Ordering::Relaxed) {
        return true;
    }
    let asked = ASKED.load(Ordering::Relaxed);
    if now.saturating_sub(asked) < FRESH_NS || ASKED.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return false;
    }
    let Some(Some(load)) = LOAD.get() else { return false };
    let others = load.running().unwrap_or(0).saturating_sub(1 + SPINNERS.load(Ordering::Relaxed));
    let full = others >= load.cpus;
    if full {
        CROWDED_UNTIL.store(now + PAUSE_NS, Ordering::Relaxed);
    }
    full
}

/// Notes that the host has taken the CPU away for long: nobody spins for a while, longer each time it goes on so.
fn note_crowd(now: MonotonicNs) {
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
pub fn spin(budget_ns: u64, ready: impl FnMut() -> bool) -> bool {
    count_spinner(true);
    let result = spin_counted(budget_ns, ready);
    count_spinner(false);
    result
}

fn spin_counted(budget_ns: u64, mut ready: impl FnMut() -> bool) -> bool {
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
