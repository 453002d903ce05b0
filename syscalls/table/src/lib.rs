//! The system call table and its handlers.
#![forbid(unsafe_code)]
