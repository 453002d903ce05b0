//! Sleeping and waking, one thread at a time.

use std::cell::Cell;
use std::mem::size_of;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

/// Sleeps that are usually shorter than this are spent spinning, for as long as [`SPIN_NS`]; in nanoseconds.
const SHORT_NS: u64 = 100_000;
const SPIN_NS: u64 = 40_000;

thread_local! {
    static BEFORE_SLEEP: Cell<Option<fn()>> = const { Cell::new(None) };
    static PARKS: Cell<u32> = const { Cell::new(0) };
}

/// How often this thread has had to wait in [`Parker::park`] so far, modulo 2^32.
#[must_use]
pub fn parks() -> u32 {
    PARKS.get()
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
    /// How long the owner's last sleeps were, averaged, in nanoseconds.
    usual_ns: AtomicU64,
}

impl Parker {
    /// Sleeps until [`Parker::unpark`] or the deadline. Only its owner may call this.
    pub fn park(&self, deadline: Option<MonotonicNs>) -> ParkResult {
        if self.take_token() {
            return ParkResult::Unparked;
        }
        PARKS.set(PARKS.get().wrapping_add(1));
        let start = monotonic_ns();
        let short =
            self.usual_ns.load(Ordering::Relaxed) < SHORT_NS && deadline.is_none_or(|deadline| deadline > start + SPIN_NS);
        let result =
            if short && !crowded(start) && spin(SPIN_NS, || self.state.load(Ordering::Relaxed) == TOKEN) && self.take_token() {
                ParkResult::Unparked
            } else {
                self.sleep(deadline)
            };
        self.note(monotonic_ns() - start);
        result
    }

    fn take_token(&self) -> bool {
        self.state.compare_exchange(TOKEN, EMPTY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes a sleep into the average: one long sleep is enough to stop spinning, several short ones to start again.
    fn note(&self, slept: u64) {
        let usual = self.usual_ns.load(Ordering::Relaxed);
        self.usual_ns.store((usual * 3 + slept.min(8 * SHORT_NS)) / 4, Ordering::Relaxed);
    }

    fn sleep(&self, deadline: Option<MonotonicNs>) -> ParkResult {
        if let Some(f) = BEFORE_SLEEP.take() {
            f();
        }
        if self.state.compare_exchange(EMPTY, PARKED, Ordering::Acquire, Ordering::Acquire).is_err() {
            self.state.store(EMPTY, Ordering::Release);
            return ParkResult::Unparked;
        }
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
            if self.take_token() {
                return ParkResult::Unparked;
            }
        }
    }

    /// Wakes the owner, now or when it next parks.
    pub fn unpark(&self) {
        if self.state.swap(TOKEN, Ordering::Release) == PARKED {
            // SAFETY: the word outlives the call.
            unsafe {
                libc::syscall(libc::SYS_futex, self.state.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
            }
        }
    }
}
