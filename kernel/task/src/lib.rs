//! Tasks, thread groups, signals, futexes, wait.
#![forbid(unsafe_code)]
