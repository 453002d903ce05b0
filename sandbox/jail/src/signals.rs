//! Signals from outside: who is told, and the end of a child.

use std::fs;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

use crate::check;

/// The signals that are passed on to the guest.
pub const FORWARDED: [i32; 6] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

fn forwarded() -> libc::sigset_t {
    // SAFETY: initialises a local.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        FORWARDED.iter().for_each(|signo| {
            libc::sigaddset(&raw mut set, *signo);
        });
        set
    }
}

/// Blocks [`FORWARDED`] for this thread and those it starts, so that [`next_signal`] gets them.
pub fn block_signals() {
    let set = forwarded();
    // SAFETY: a valid set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for one of [`FORWARDED`].
#[must_use]
pub fn next_signal() -> i32 {
    let set = forwarded();
    let mut signo = 0;
    // SAFETY: a valid set and a local.
    while unsafe { libc::sigwait(&raw const set, &raw mut signo) } != 0 {}
    signo
}

/// Passes [`FORWARDED`] on to the child `pid` until it ends; returns its exit status (128+n for a signal). Call [`block_signals`] before the
/// child is made.
///
/// # Errors
/// What waitpid(2) says.
pub fn supervise(pid: i32) -> io::Result<i32> {
    let mut set = forwarded();
    // SAFETY: a valid set; the descriptor is new and ours.
    let mut signals = unsafe {
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        fs::File::from_raw_fd(check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC).into())? as i32)
    };
    loop {
        let mut status = 0;
        // SAFETY: writes to a local; the child isn't reaped but here.
        let reaped = check(unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) }.into())?;
        if reaped != 0 {
            return Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) });
        }
        // struct signalfd_siginfo: the number is its first word.
        let mut info = [0; 128];
        signals.read_exact(&mut info)?;
        let signo = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        if signo != libc::SIGCHLD {
            // SAFETY: our own child, not reaped yet.
            unsafe { libc::kill(pid, signo) };
        }
    }
}
