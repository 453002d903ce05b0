//! Cases by area.

use crate::Case;

mod epoll;
mod fd;
mod futex;
mod ident;
mod mem;
mod path;
mod process;
mod signal;
mod socket;
mod time;

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        epoll::CASES,
        fd::CASES,
        futex::CASES,
        ident::CASES,
        mem::CASES,
        path::CASES,
        process::CASES,
        signal::CASES,
        socket::CASES,
        time::CASES,
    ]
    .into_iter()
    .flatten()
}
