//! The caller's terminal, while a program inside runs on one of its own.
#![forbid(unsafe_code)]

mod bridge;
mod keeper;
mod pty;
mod tty;

pub use bridge::{Bridge, Child, Program};
pub use pty::for_socket;
pub use tty::Tty;
