//! Guest address spaces.
#![forbid(unsafe_code)]
