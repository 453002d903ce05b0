//! Timers: one thread waits for all of them, asleep when none is set.
#![forbid(unsafe_code)]

mod clock;
mod queue;
mod timerfd;

pub use clock::{Clock, Setting, realtime_ns};
pub use queue::{Expire, Timer, Timers};
pub use timerfd::TimerFd;
