//! Decoded arguments and results.
#![forbid(unsafe_code)]
