//! Sleeping and waking, one thread at a time.
//!
//! Two threads that take turns should share a CPU: waking an idle one costs tens of microseconds, a switch on the spot a few. The host's
//! scheduler rather spreads them, so a waker that usually sleeps soon after puts a sleeper that usually runs but briefly on its own CPU.

use std::cell::Cell;
use std::mem::size_of;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::spin::{crowded, spin};
use crate::{MonotonicNs, monotonic_ns};

/// Whether a thread was woken or its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkResult {
    /// Somebody unparked it.
    Unparked,
    /// The deadline has passed.
    TimedOut,
}

const EMPTY: u32 = 0;
const TOKEN: u32 = 1;
const PARKED: u32 = 2;

/// Who sleeps again so soon after waking somebody takes turns with them, in nanoseconds.
const SOON_NS: u64 = 40_000;
/// Who runs no longer after being woken could as well do so where the waker is.
const BRIEF_NS: u64 = 150_000;
/// Sleeps that are usually shorter than this are spent spinning, for as long as [`SPIN_NS`]; in nanoseconds.
const SHORT_NS: u64 = 100_000;
const SPIN_NS: u64 = 40_000;
/// How often something must have been so to be taken for a habit, and how long it is remembered.
const HABIT: i32 = 3;
const MEMORY: i32 = 8;

/// Counts how often something was so lately.
fn remember(score: i32, so: bool) -> i32 {
    if so { (score + 1).min(MEMORY) } else { (score - 2).max(-MEMORY) }
}

thread_local! {
    /// When this thread last woke another, 0 if it has slept since; and whether it usually sleeps soon after.
    static WOKE_AT: Cell<u64> = const { Cell::new(0) };
    static SLEEPS_SOON: Cell<i32> = const { Cell::new(0) };
    static BEFORE_SLEEP: Cell<Option<fn()>> = const { Cell::new(None) };
    /// When this thread was last woken.
    static WOKEN_AT: Cell<u64> = const { Cell::new(0) };
}

/// Has `f` called on this thread before it next sleeps in [`Parker::park`], once.
pub fn before_sleep(f: fn()) {
    BEFORE_SLEEP.set(Some(f));
}

/// The CPUs that this process may use. Call once before threads are moved: the first call's answer is kept.
pub fn allowed_cpus() -> &'static libc::cpu_set_t {
    static CPUS: OnceLock<libc::cpu_set_t> = OnceLock::new();
    CPUS.get_or_init(|| {
        // SAFETY: zeroed is an empty set, and the call writes to it.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
            set
        }
    })
}

/// Lets one thread sleep until another unparks it. An unpark that comes first is kept.
#[derive(Debug, Default)]
pub struct Parker {
    state: AtomicU32,
    /// The owner, once it has slept.
    tid: AtomicI32,
    /// Whether the owner usually runs but briefly.
    brief: AtomicI32,
    /// The owner has been put on one CPU.
    pinned: AtomicBool,
    /// How long the owner's last sleeps were, averaged, in nanoseconds.
    usual_ns: AtomicU64,
}

impl Parker {
    /// Sleeps until [`Parker::unpark`] or the deadline. Only its owner may call this.
    pub fn park(&self, deadline: Option<MonotonicNs>) -> ParkResult {
        if self.take_token() {
            return ParkResult::Unparked;
        }
        let start = monotonic_ns();
        let usual = self.usual_ns.load(Ordering::Relaxed);
        let short = usual < SHORT_NS && deadline.is_none_or(|deadline| deadline > start + SPIN_NS);
        if short && !crowded(start) && spin(SPIN_NS, || self.state.load(Ordering::Relaxed) == TOKEN) && self.take_token() {
            self.note_sleep(usual, start);
            return ParkResult::Unparked;
        }
        if self.state.compare_exchange(EMPTY, PARKED, Ordering::Acquire, Ordering::Acquire).is_err() {
            self.state.store(EMPTY, Ordering::Release);
            return ParkResult::Unparked;
        }
        if let Some(f) = BEFORE_SLEEP.take() {
            f();
        }
        self.learn();
        let result = self.sleep(deadline);
        self.note_sleep(usual, start);
        WOKEN_AT.set(monotonic_ns());
        self.unpin();
        result
    }

    fn take_token(&self) -> bool {
        self.state.compare_exchange(TOKEN, EMPTY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes a sleep into the average: one long sleep is enough to stop spinning, several short ones to start again.
    fn note_sleep(&self, usual: u64, start: MonotonicNs) {
        let slept = (monotonic_ns() - start).min(8 * SHORT_NS);
        self.usual_ns.store((usual * 3 + slept) / 4, Ordering::Relaxed);
    }

    /// Learns habits.
    fn learn(&self) {
        let now = monotonic_ns();
        if self.tid.load(Ordering::Relaxed) == 0 {
            // SAFETY: reads a number.
            self.tid.store(unsafe { libc::gettid() }, Ordering::Relaxed);
        }
        let woke = WOKE_AT.replace(0);
        if woke != 0 {
            SLEEPS_SOON.set(remember(SLEEPS_SOON.get(), now - woke < SOON_NS));
        }
        let brief = now.saturating_sub(WOKEN_AT.get()) < BRIEF_NS;
        self.brief.store(remember(self.brief.load(Ordering::Relaxed), brief), Ordering::Relaxed);
    }

    fn sleep(&self, deadline: Option<MonotonicNs>) -> ParkResult {
        let ts = deadline
            .map(|ns| libc::timespec { tv_sec: (ns / 1_000_000_000).cast_signed(), tv_nsec: (ns % 1_000_000_000).cast_signed() });
        let ts_ptr = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        loop {
            // SAFETY: the word and the time outlive the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.state.as_ptr(),
                    libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                    PARKED,
                    ts_ptr,
                    std::ptr::null::<u32>(),
                    u32::MAX,
                )
            };
            let timed_out = result < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT);
            if timed_out && self.state.compare_exchange(PARKED, EMPTY, Ordering::Acquire, Ordering::Acquire).is_ok() {
                return ParkResult::TimedOut;
            }
            if self.state.compare_exchange(TOKEN, EMPTY, Ordering::Acquire, Ordering::Acquire).is_ok() {
                return ParkResult::Unparked;
            }
        }
    }

    /// Wakes the owner, now or when it next parks.
    pub fn unpark(&self) {
        if self.state.swap(TOKEN, Ordering::Release) == PARKED {
            if SLEEPS_SOON.get() >= HABIT && self.brief.load(Ordering::Relaxed) >= HABIT {
                self.pin_here();
            }
            WOKE_AT.set(monotonic_ns());
            // SAFETY: the word outlives the call.
            unsafe {
                libc::syscall(libc::SYS_futex, self.state.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
            }
        }
    }

    /// Puts the sleeping owner on the caller's CPU.
    fn pin_here(&self) {
        // SAFETY: reads a number, fills a local, and passes it. A thread that is gone is nobody's loss.
        unsafe {
            let Ok(here) = usize::try_from(libc::sched_getcpu()) else { return };
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(here, &mut set);
            self.pinned.store(true, Ordering::Relaxed);
            libc::sched_setaffinity(self.tid.load(Ordering::Relaxed), size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }

    /// Undoes [`Parker::pin_here`], on the owner's thread: it stays where it is until the host finds a better place.
    fn unpin(&self) {
        if self.pinned.swap(false, Ordering::Relaxed) {
            // SAFETY: reads a constant.
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), allowed_cpus()) };
        }
    }
}
