//! Create, start, kill, delete.
#![forbid(unsafe_code)]
