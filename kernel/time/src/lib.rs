//! Clocks and timers.
#![forbid(unsafe_code)]
