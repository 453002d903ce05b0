//! Confinement of the sentry: namespaces, an empty root, no capabilities, a system call filter.
//!
//! Order: [`enter_namespaces`] (then fork: the child is pid 1), [`empty_root`], [`drop_privileges`], start of the zygote, [`filter`].

mod filter;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

pub use filter::filter;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Puts the calling process (and, for pids, its next child) in namespaces of their own: user, mount, pid, network, IPC, UTS. In the user
/// namespace the caller is root, as whom it owns on the host what it owned before.
///
/// # Errors
/// `EPERM` where the host forbids user namespaces, `ENOSPC`, `EUSERS`.
pub fn enter_namespaces() -> io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: plain flags.
    check(unsafe { libc::unshare(flags) }.into())?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    Ok(())
}

/// Replaces the root by an empty, read-only file system. Descriptors that are open stay usable.
///
/// # Errors
/// What the host says; the caller must be in namespaces of its own.
pub fn empty_root() -> io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", "/tmp", "tmpfs", flags, c"size=4k,mode=755")?;
    rustix::process::chdir("/tmp")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, c"")?;
    Ok(())
}

/// Gives up all capabilities, for good.
///
/// # Errors
/// What the host says.
pub fn drop_privileges() -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0).into())?;
        // No capability comes back by an execve as root.
        check(libc::prctl(libc::PR_SET_SECUREBITS, 0x2f, 0, 0, 0).into())?;
        for capability in 0..=63 {
            // Numbers that this kernel doesn't know fail.
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
    }
    // struct __user_cap_header_struct (version 3) and two empty data structs.
    let header = [0x2008_0522u32, 0];
    let data = [0u32; 6];
    // SAFETY: both are as capset(2) reads them.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    Ok(())
}

/// Forks; `None` in the child. The caller must have one thread.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: with one thread, the child may go on like the parent.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok((pid > 0).then_some(pid as i32))
}

/// Makes the host kill this process when its parent dies.
pub fn die_with_parent() {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

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

/// Passes [`FORWARDED`] on to `pid` until it ends; returns its exit status (128+n for a signal). Meanwhile, answers whoever connects to
/// `control` by passing a line on to `sentry` and its answer, a line too, back.
///
/// # Errors
/// What waitpid(2) says.
pub fn supervise(pid: i32, control: Option<(&UnixListener, &UnixStream)>) -> io::Result<i32> {
    // No thread can be made here: the next child's pid namespace is another.
    let mut set = forwarded();
    // SAFETY: a valid set; the descriptor is new and ours.
    let signals = unsafe {
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
        let fd = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [fd(signals.as_raw_fd()), fd(control.map_or(-1, |(listener, _)| listener.as_raw_fd()))];
        // SAFETY: two entries.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
        let [on_signal, on_control] = fds.map(|fd| fd.revents != 0);
        if on_signal {
            // struct signalfd_siginfo: the number is its first word.
            let mut info = [0; 128];
            (&signals).read_exact(&mut info)?;
            let signo = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if signo != libc::SIGCHLD {
                // SAFETY: our own child, not reaped yet.
                unsafe { libc::kill(pid, signo) };
            }
        }
        if on_control && let Some((listener, sentry)) = control {
            // A client that misbehaves harms itself.
            let _ = listener.accept().and_then(|(client, _)| relay(client, sentry));
        }
    }
}

/// Passes one line there and one back.
fn relay(client: UnixStream, sentry: &UnixStream) -> io::Result<()> {
    let patience = Some(Duration::from_secs(10));
    client.set_read_timeout(patience)?;
    sentry.set_read_timeout(patience)?;
    let mut line = String::new();
    BufReader::new((&client).take(4096)).read_line(&mut line)?;
    let mut to_sentry = sentry;
    to_sentry.write_all(line.as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while to_sentry.read(&mut byte)? == 1 && byte != *b"\n" {
        answer.extend_from_slice(&byte);
    }
    answer.push(b'\n');
    (&client).write_all(&answer)
}
