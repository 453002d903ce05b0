//! Linux UAPI types, numbers and errnos. Constants are the `libc` crate's, by their C names.
#![forbid(unsafe_code)]

pub mod errno;
pub mod nr;
pub mod poll;
pub mod signal;
pub mod structs;

pub use errno::{Errno, SysResult};
pub use libc as c;
