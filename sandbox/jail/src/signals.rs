//! Signals from outside: who is told, and the end of a child.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

use crate::check;

/// The signals that are passed on to the guest.
pub const FORWARDED: [i32; 9] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
    // Of a host's terminal: programs hear of the size of their own.
    libc::SIGWINCH,
];

/// What tells a signal for a whole process group from one for a process.
const FOR_GROUP: usize = 1;

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: initialises a local.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        signals.iter().for_each(|signo| {
            libc::sigaddset(&raw mut set, *signo);
        });
        set
    }
}

/// Blocks [`FORWARDED`] for this thread and those it starts, so that [`next_signal`] gets them.
pub fn block_signals() {
    let set = set_of(&FORWARDED);
    // SAFETY: a valid set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// A signal that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    pub signo: i32,
    /// The host's kernel has sent it: a key of a terminal, or its end.
    pub from_kernel: bool,
    /// It has been sent by [`send`] for a whole process group.
    pub for_group: bool,
}

/// Waits for one of [`FORWARDED`].
#[must_use]
pub fn next_signal() -> Incoming {
    let set = set_of(&FORWARDED);
    loop {
        // SAFETY: a valid set and a local, which is written to before it is read. `si_value` is there for every signal with this code.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let signo = libc::sigwaitinfo(&raw const set, &raw mut info);
            if signo > 0 {
                let for_group = info.si_code == libc::SI_QUEUE && info.si_value().sival_ptr as usize == FOR_GROUP;
                return Incoming { signo, from_kernel: info.si_code == libc::SI_KERNEL, for_group };
            }
        }
    }
}

/// Sends a signal to a process that may hear it with [`next_signal`], for itself or for the process group that it stands for.
pub fn send(pid: i32, signo: i32, for_group: bool) {
    let value =
        libc::sigval { sival_ptr: if for_group { std::ptr::without_provenance_mut(FOR_GROUP) } else { std::ptr::null_mut() } };
    // SAFETY: plain numbers.
    unsafe { libc::sigqueue(pid, signo, value) };
}

/// Stops this process by a signal as if nothing were done with it, or all of its process group. Returns when it has been continued, whose
/// `SIGCONT` is taken; false when it wasn't stopped: nobody would continue it.
pub fn stop_by(signo: i32, group: bool) -> bool {
    let (own, cont) = (set_of(&[signo]), set_of(&[libc::SIGCONT]));
    // SAFETY: valid sets, locals and plain numbers.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const cont, &raw mut mask);
        // One from before doesn't count.
        libc::sigtimedwait(&raw const cont, std::ptr::null_mut(), &raw const now);
        libc::kill(if group { 0 } else { libc::getpid() }, signo);
        // It takes effect here.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const own, std::ptr::null_mut());
        let continued = libc::sigtimedwait(&raw const cont, std::ptr::null_mut(), &raw const now) == libc::SIGCONT;
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        continued
    }
}

/// Numbers that callers of [`Signals`] look for.
pub const SIGCHLD: i32 = libc::SIGCHLD;
pub const SIGCONT: i32 = libc::SIGCONT;
pub const SIGHUP: i32 = libc::SIGHUP;
pub const SIGSTOP: i32 = libc::SIGSTOP;
pub const SIGTSTP: i32 = libc::SIGTSTP;
pub const SIGTTIN: i32 = libc::SIGTTIN;
pub const SIGTTOU: i32 = libc::SIGTTOU;
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
        let set = set_of(&[signals, &[libc::SIGCHLD]].concat());
        // SAFETY: a valid set; the descriptor is new and ours.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC).into())?;
            Ok(Self(fs::File::from_raw_fd(fd as i32)))
        }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn next(&self) -> io::Result<Incoming> {
        // struct signalfd_siginfo: number, error, code.
        let mut info = [0; 128];
        (&self.0).read_exact(&mut info)?;
        let [a, b, c, d, _, _, _, _, code @ ..] = info;
        let signo = i32::from_ne_bytes([a, b, c, d]);
        let code = code.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        Ok(Incoming { signo, from_kernel: code == libc::SI_KERNEL, for_group: false })
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
        let Incoming { signo, .. } = signals.next()?;
        if signo != libc::SIGCHLD {
            send(pid, signo, false);
        }
    }
}
