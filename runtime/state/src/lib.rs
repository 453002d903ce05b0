//! State directory.
#![forbid(unsafe_code)]
