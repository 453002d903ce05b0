//! When to spin for the stub's next request instead of sleeping.
//!
//! Asleep, sentry and stub share one CPU and hand it to each other: a few microseconds per call, and nothing wasted. Two kinds of spinning
//! are quicker while the CPUs are otherwise idle:
//!
//! - A thread whose next call usually comes soon is *lively*: both sides look for each other for some microseconds, and let other threads
//!   run in between (`sync::spin`), before they sleep. That also serves threads that take turns with others.
//! - A thread that makes quick calls in a row starts a *session*: sentry and stub are put on two CPUs and look for each other without giving
//!   way. It brings a call below half a microsecond. The first wait for a request that lasts too long, or a sign that others want the CPU,
//!   ends it, and the next one is put off for longer each time. A call that takes so long that the stub has gone to sleep ends it only if
//!   few calls came before: the stub is woken where it is, and the session goes on.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync::{before_sleep, count_spinner, crowded, monotonic_ns, parks, spin};

use crate::host;

/// Quick calls in a row that start a session.
const STREAK: u32 = 32;
/// A call is quick when guest and kernel together took less, in nanoseconds: a hand-off by the scheduler is in it.
const QUICK_NS: u64 = 40_000;
/// The kernel's part of it, in nanoseconds, a few host calls. Who waits for others there takes turns with them and needs no session.
const HANDLED_NS: u64 = 30_000;
/// Quick calls that one which isn't takes off the row: between two files that are made there are enough of them, for instance.
const SLOW_COST: u32 = 8;
/// A call that takes longer than this, in nanoseconds, ends the row.
const TOO_SLOW_NS: u64 = 1_000_000;
/// Calls of a session between two for which the stub went to sleep; with fewer it isn't worth to wake it on another CPU.
const BETWEEN_RINGS: u32 = 8;
/// Where calls came densely the guest may take its time for once, in nanoseconds: it is looked for further, giving way in between.
const PATIENT_NS: u64 = 40_000;
/// Looks at the state word before a wait has failed: some microseconds, about what a hand-off costs.
const LOOKS: u32 = 400;
/// The same for a session's first wait: the stub has to get to another CPU.
const FIRST_LOOKS: u32 = 4000;
/// Rounds in which the stub looks for an answer, and how often in each: alone on its CPU or not.
const STUB_SESSION: (u32, u32) = (40, 32);
const STUB_LIVELY: (u32, u32) = (80, 4);
/// Where the next request usually comes sooner than this, in nanoseconds, it is looked for.
const SOON_NS: u64 = 40_000;
/// For so long, in nanoseconds.
const SPIN_NS: u64 = 25_000;
/// Calls between two looks at whether the host takes the CPU from us.
const CHECK_EVERY: u32 = 512;
/// Calls that make a session worth its start.
const WORTH: u32 = 128;
/// Shortest and longest pause after a session, in nanoseconds.
const PAUSE_NS: u64 = 1_000_000;
const MAX_PAUSE_NS: u64 = 16_000_000;

/// Sessions of all threads: each needs two CPUs.
static SESSIONS: AtomicUsize = AtomicUsize::new(0);
/// Lively threads: with too many of them, giving way takes longer than sleeping.
static LIVELY: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread counts in [`SESSIONS`].
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Gives up this thread's place among the sessions: at its end, or when the kernel makes the thread sleep meanwhile.
fn release() {
    if COUNTED.replace(false) {
        SESSIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is left of a row of quick calls after something that took so long.
fn row(streak: u32, took_ns: u64, quick_ns: u64) -> u32 {
    match took_ns {
        TOO_SLOW_NS.. => 0,
        _ if took_ns > quick_ns => streak.saturating_sub(SLOW_COST),
        _ => streak,
    }
}

/// A thread's policy.
#[derive(Default)]
pub struct Spin {
    session: bool,
    streak: u32,
    /// Calls of this session.
    calls: u32,
    /// How many of them there were when the stub went to sleep last.
    rung: u32,
    /// The stub is being woken.
    waking: bool,
    /// How many calls there were when the guest took its time last.
    waited: u32,
    /// Involuntary context switches at the last look.
    preempted: i64,
    last_ns: u64,
    /// `parks()` then.
    parks: u32,
    not_before_ns: u64,
    pause_ns: u64,
    /// Counted in [`LIVELY`].
    lively: bool,
    /// When the last request was answered, and how long the next one usually takes to come, in nanoseconds.
    answered_ns: u64,
    usual_ns: u64,
}

impl Spin {
    pub fn in_session(&self) -> bool {
        self.session
    }

    /// The stub sleeps, because a call has taken long: whether the session goes on nevertheless. It does when calls came densely before,
    /// and when it hasn't been given up meanwhile because its thread slept too.
    pub fn survives_ring(&mut self) -> bool {
        if !self.session {
            return false;
        }
        // It has only just begun: the stub was on its way to another CPU.
        let young = self.calls == 0;
        let dense = self.calls.wrapping_sub(std::mem::replace(&mut self.rung, self.calls)) >= BETWEEN_RINGS;
        self.waking = (young || dense) && COUNTED.get();
        self.waking
    }

    /// How long the stub is to look for answers: rounds, and looks of each.
    pub fn stub_rounds(&self) -> (u32, u32) {
        match (self.session, self.lively) {
            (true, _) => STUB_SESSION,
            (false, true) => STUB_LIVELY,
            _ => (0, 0),
        }
    }

    /// A request is about to be answered: whether the next one is going to be looked for.
    pub fn plan(&mut self) -> bool {
        let now = monotonic_ns();
        self.answered_ns = now;
        self.set_lively(self.usual_ns < SOON_NS && !crowded(now));
        self.lively
    }

    fn set_lively(&mut self, lively: bool) {
        if lively == self.lively {
            return;
        }
        if lively {
            let room = 2 * host::cpus();
            let taken = LIVELY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < room).then_some(used + 1));
            self.lively = taken.is_ok();
        } else {
            LIVELY.fetch_sub(1, Ordering::Relaxed);
            self.lively = false;
        }
        // The stub, for whom the sentry's side answers.
        if self.lively == lively {
            count_spinner(lively);
        }
    }

    /// Looks for the next request; false when it is time to sleep.
    pub fn look(&self, request: impl FnMut() -> bool) -> bool {
        self.lively && spin(SPIN_NS, request)
    }

    /// A call from a site that isn't rewritten: looking for requests doesn't find those, and would delay the next one.
    pub fn came_notified(&mut self) {
        self.usual_ns = 8 * SOON_NS;
    }

    /// A request has come, however it was waited for.
    pub fn came(&mut self) {
        let gap = (monotonic_ns() - self.answered_ns).min(8 * SOON_NS);
        self.usual_ns = (self.usual_ns * 3 + gap) / 4;
    }

    /// How long to look for the next request.
    pub fn looks(&mut self) -> u32 {
        if std::mem::take(&mut self.waking) || self.calls == 0 { FIRST_LOOKS } else { LOOKS }
    }

    /// The guest takes its time: whether it comes nevertheless, and is worth to be waited for.
    pub fn wait_on(&mut self, request: impl FnMut() -> bool) -> bool {
        let dense = self.calls.wrapping_sub(std::mem::replace(&mut self.waited, self.calls)) >= BETWEEN_RINGS;
        dense && spin(PATIENT_NS, request)
    }

    /// A request has come by a fast path. True when a session starts now.
    pub fn request(&mut self) -> bool {
        if self.session {
            self.calls += 1;
            return false;
        }
        let now = monotonic_ns();
        let took = now - self.last_ns;
        self.streak = row(self.streak, took, QUICK_NS) + u32::from(took < QUICK_NS);
        self.last_ns = now;
        self.parks = parks();
        if self.streak < STREAK || now < self.not_before_ns {
            return false;
        }
        let room = host::cpus() / 2;
        if SESSIONS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < room).then_some(used + 1)).is_err() {
            self.not_before_ns = now + PAUSE_NS;
            return false;
        }
        (self.session, self.calls, self.rung, self.waited, self.waking) = (true, 0, 0, 0, false);
        self.preempted = host::preemptions();
        COUNTED.set(true);
        before_sleep(release);
        true
    }

    /// The request that came last is answered now.
    pub fn answered(&mut self) {
        if self.session || self.streak == 0 {
            return;
        }
        if parks() != self.parks {
            self.streak = 0;
            return;
        }
        let now = monotonic_ns();
        let took = now - self.last_ns;
        if took > HANDLED_NS {
            self.streak = row(self.streak, took, HANDLED_NS);
            // The guest's own time counts from here.
            self.last_ns = now;
        }
    }

    /// Whether the host has taken the CPU from this thread lately: others want it.
    pub fn crowded(&mut self) -> bool {
        if self.calls % CHECK_EVERY != CHECK_EVERY - 1 {
            return false;
        }
        let preempted = host::preemptions();
        std::mem::replace(&mut self.preempted, preempted) != preempted
    }

    /// Ends a session.
    pub fn end(&mut self) {
        if !std::mem::take(&mut self.session) {
            return;
        }
        release();
        self.streak = 0;
        // A session that was worth it costs no pause; others ever longer ones.
        self.pause_ns = if self.calls > WORTH { 0 } else { (self.pause_ns * 2).clamp(PAUSE_NS, MAX_PAUSE_NS) };
        self.not_before_ns = monotonic_ns() + self.pause_ns;
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        self.end();
        self.set_lively(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a session of `calls` calls.
    fn session(calls: u32) -> Spin {
        let mut spin = Spin { streak: STREAK - 1, last_ns: monotonic_ns(), ..Spin::default() };
        // It may be interrupted so long that the row ends.
        while !spin.request() {
            spin.streak = STREAK - 1;
        }
        (0..calls).for_each(|_| assert!(!spin.request()));
        spin
    }

    /// One test: a machine with two CPUs has one session.
    #[test]
    fn what_a_session_survives() {
        if host::cpus() < 2 {
            return;
        }
        let mut spin = session(BETWEEN_RINGS);
        assert!(spin.survives_ring(), "a slow call after quick ones");
        assert_eq!((spin.looks(), spin.looks()), (FIRST_LOOKS, LOOKS), "the stub is being woken, once");
        assert!(!spin.survives_ring(), "a second slow call");
        assert!(spin.in_session(), "who asks ends it");
        spin.end();
        assert!(!spin.survives_ring());

        let mut spin = session(BETWEEN_RINGS);
        assert!(spin.wait_on(|| true), "a guest that takes its time");
        assert!(!spin.wait_on(|| true), "no calls in between");
        (0..BETWEEN_RINGS).for_each(|_| assert!(!spin.request()));
        assert!(!spin.wait_on(|| false), "it doesn't come");
        drop(spin);

        let mut spin = session(BETWEEN_RINGS);
        sync::Parker::default().park(Some(monotonic_ns()));
        assert!(!spin.survives_ring(), "its thread has slept");
    }

    #[test]
    fn a_slow_call_takes_quick_ones_off_the_row() {
        assert_eq!(row(20, 1, HANDLED_NS), 20);
        assert_eq!(row(20, HANDLED_NS + 1, HANDLED_NS), 20 - SLOW_COST);
        assert_eq!(row(2, HANDLED_NS + 1, HANDLED_NS), 0);
        assert_eq!(row(20, TOO_SLOW_NS, HANDLED_NS), 0);
    }
}
