//! Union of a writable upper and read-only lowers.
#![forbid(unsafe_code)]
