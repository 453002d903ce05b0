//! Terminals: line discipline, job control, both ends of pseudoterminals.
//!
//! A [`Terminal`] has settings, two queues and a session; programs open its [`Slave`]. At its other end is a program with the [`Master`], or
//! the host ([`HostEnd`]): a sandbox's own terminal is one whose other end is a descriptor outside.
#![forbid(unsafe_code)]

mod control;
mod file;
mod ioctl;
mod line;
mod output;
mod terminal;
mod termios;

pub use control::controlling;
pub use file::{Master, Slave};
pub use terminal::{HostEnd, Terminal};
pub use termios::{Termios, WinSize};
