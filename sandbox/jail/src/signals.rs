//! Signals from outside: who is told, and the end of a child.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

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

/// Numbers that callers of [`Signals`] look for.
pub const SIGCHLD: i32 = libc::SIGCHLD;
pub const SIGWINCH: i32 = libc::SIGWINCH;

/// All signals that can be passed on: not those that can't be caught, nor those of errors of this process's own.
#[must_use]
pub fn catchable() -> Vec<i32> {
    let own =
        [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];
    // The two after the standard ones belong to the C library.
    (1..=64).filter(|signo| !own.contains(signo) && ![32, 33].contains(signo)).collect()
}

/// Signals to this process, as a descriptor to wait on.
pub struct Signals(fs::File);

impl Signals {
    /// Takes signals away from where they would go: these, and `SIGCHLD`.
    ///
    /// # Errors
    /// `EMFILE`
    pub fn take(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: a valid set; the descriptor is new and ours.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signo in signals.iter().chain(&[libc::SIGCHLD]) {
                libc::sigaddset(&raw mut set, *signo);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC).into())?;
            Ok(Self(fs::File::from_raw_fd(fd as i32)))
        }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn next(&self) -> io::Result<i32> {
        // struct signalfd_siginfo: the number is its first word.
        let mut info = [0; 128];
        (&self.0).read_exact(&mut info)?;
        Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The exit status (128+n for a signal) of a child, once it has ended.
///
/// # Errors
/// `ECHILD`
pub fn reap(pid: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: writes to a local.
    let reaped = check(unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) }.into())?;
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
    Ok((reaped != 0).then_some(code))
}

/// Passes [`FORWARDED`] on to the child `pid` until it ends; returns its exit status (128+n for a signal). Call [`block_signals`] before the
/// child is made.
///
/// # Errors
/// What waitpid(2) says.
pub fn supervise(pid: i32) -> io::Result<i32> {
    let signals = Signals::take(&FORWARDED)?;
    loop {
        if let Some(status) = reap(pid)? {
            return Ok(status);
        }
        let signo = signals.next()?;
        if signo != libc::SIGCHLD {
            // SAFETY: our own child, not reaped yet.
            unsafe { libc::kill(pid, signo) };
        }
    }
}
