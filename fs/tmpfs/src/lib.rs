//! Files in memory.
#![forbid(unsafe_code)]
