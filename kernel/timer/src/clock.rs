//! The clocks that timers go by.

use abi::structs::Timespec;
use abi::{Errno, SysResult, c};
use sync::{MonotonicNs, monotonic_ns};

/// Nanoseconds since the epoch.
#[must_use]
pub fn realtime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.to_ns().unwrap_or(0)
}

/// A clock that goes on whoever runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME: the sandbox isn't suspended without its host.
    Monotonic,
    /// CLOCK_REALTIME and CLOCK_TAI, whose offset nobody sets.
    Realtime,
}

impl Clock {
    /// By `CLOCK_*`.
    ///
    /// # Errors
    /// `EINVAL` for what is none of these.
    pub fn of(id: i32) -> SysResult<Self> {
        match id {
            c::CLOCK_MONOTONIC | c::CLOCK_BOOTTIME | c::CLOCK_BOOTTIME_ALARM => Ok(Self::Monotonic),
            c::CLOCK_REALTIME | c::CLOCK_REALTIME_ALARM | c::CLOCK_TAI => Ok(Self::Realtime),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The clock's time now.
    #[must_use]
    pub fn now(self) -> u64 {
        match self {
            Self::Monotonic => monotonic_ns(),
            Self::Realtime => realtime_ns(),
        }
    }

    /// The monotonic time at which this clock will show `at`, as it goes now.
    #[must_use]
    pub fn to_monotonic(self, at: u64) -> MonotonicNs {
        match self {
            Self::Monotonic => at,
            Self::Realtime => monotonic_ns().saturating_add(at.saturating_sub(realtime_ns())),
        }
    }
}

/// What a timer is set to: when it goes off first, on its clock, and then how often. 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    pub at: u64,
    pub interval: u64,
}

impl Setting {
    /// From `struct itimerspec`'s times in nanoseconds, relative to `now` unless `absolute`.
    #[must_use]
    pub fn new(value: u64, interval: u64, absolute: bool, now: u64) -> Self {
        let at = match value {
            0 => 0,
            value if absolute => value,
            value => now.saturating_add(value),
        };
        Self { at, interval: if at == 0 { 0 } else { interval } }
    }

    /// Nanoseconds until it goes off: never 0 for one that is set and hasn't.
    #[must_use]
    pub fn remaining(&self, now: u64) -> u64 {
        if self.at == 0 { 0 } else { self.at.saturating_sub(now).max(1) }
    }

    /// How often it has gone off by `now`; it is set to the next time, if there is one.
    pub fn expire(&mut self, now: u64) -> u64 {
        if self.at == 0 || now < self.at {
            return 0;
        }
        if self.interval == 0 {
            self.at = 0;
            return 1;
        }
        let times = (now - self.at) / self.interval + 1;
        self.at = self.at.saturating_add(self.interval.saturating_mul(times));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_expire_as_often_as_their_interval_fits() {
        let mut once = Setting::new(10, 0, false, 100);
        assert_eq!((once.expire(109), once.remaining(109), once.expire(110), once.remaining(110)), (0, 1, 1, 0));
        let mut often = Setting::new(10, 5, false, 100);
        assert_eq!((often.expire(121), often.at, often.remaining(121)), (3, 125, 4));
        let mut edge = Setting::new(u64::MAX, 1, true, 0);
        assert_eq!(edge.expire(u64::MAX), 1);
        assert_eq!(Setting::new(0, 7, false, 100), Setting::default());
    }
}
