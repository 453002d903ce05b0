//! Host system calls that no library wraps.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use abi::{Errno, SysResult};
use platform::RseqFeatures;
use sync::allowed_cpus;

/// `struct seccomp_notif`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Notification {
    pub id: u64,
    pub pid: u32,
    pub flags: u32,
    pub nr: i32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`
#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

const NOTIF_RECV: u64 = 0xc050_2100;
const NOTIF_SEND: u64 = 0xc018_2101;
const NOTIF_SET_FLAGS: u64 = 0x4008_2104;

fn last() -> Errno {
    std::io::Error::last_os_error().into()
}

/// Waits for the next notification.
///
/// # Errors
/// `ENOENT` when the target is gone or was interrupted meanwhile, `EINTR`.
pub fn notif_recv(fd: &OwnedFd) -> SysResult<Notification> {
    let mut notification = Notification::default();
    // SAFETY: writes to a local of the size that the request number states.
    if unsafe { libc::ioctl(fd.as_raw_fd(), NOTIF_RECV, &raw mut notification) } < 0 { Err(last()) } else { Ok(notification) }
}

/// Answers a notification.
///
/// # Errors
/// `ENOENT` when the target is gone.
pub fn notif_send(fd: &OwnedFd, id: u64, value: u64) -> SysResult<()> {
    let response = Response { id, val: value.cast_signed(), error: 0, flags: 0 };
    // SAFETY: reads a local of the size that the request number states.
    if unsafe { libc::ioctl(fd.as_raw_fd(), NOTIF_SEND, &raw const response) } < 0 { Err(last()) } else { Ok(()) }
}

/// Makes both directions of a listener wake the other side on the same CPU (Linux 6.6). Older hosts do without.
pub fn notif_sync_wake_up(fd: &OwnedFd, on: bool) {
    // SAFETY: the argument is a plain number.
    unsafe { libc::ioctl(fd.as_raw_fd(), NOTIF_SET_FLAGS, u64::from(on)) };
}

/// A handle of a process.
///
/// # Errors
/// `ESRCH`, `EMFILE`.
pub fn pidfd_open(pid: i32) -> SysResult<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: a descriptor that the call has just made.
    if fd < 0 { Err(last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }) }
}

/// A copy of another process's descriptor.
///
/// # Errors
/// `EBADF`, `ESRCH`, `EPERM`, `EMFILE`.
pub fn pidfd_getfd(pidfd: &OwnedFd, target: i32) -> SysResult<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), target, 0) };
    // SAFETY: a descriptor that the call has just made.
    if fd < 0 { Err(last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }) }
}

/// Kills a process. It may be gone already.
pub fn pidfd_kill(pidfd: &OwnedFd) {
    // SAFETY: plain numbers and a null pointer that the call allows.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, 0, 0) };
}

/// Whether a process still runs.
pub fn pidfd_alive(pidfd: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one local entry.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
}

/// Whether `pidfd` is a child of ours.
pub fn is_child(pidfd: &OwnedFd) -> bool {
    // SAFETY: a zeroed siginfo is valid; the call writes to it.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd().cast_unsigned(), &raw mut info, flags) == 0
    }
}

/// Children need not be waited for. Their end is told by a signal nevertheless, which waits for [`wait_for_child`]. Call while there is one thread.
pub fn disown_children() {
    // SAFETY: zeroed structures are valid; no handler runs.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_flags = libc::SA_NOCLDWAIT | libc::SA_NOCLDSTOP;
        libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
        let children = child_set();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const children, std::ptr::null_mut());
    }
}

fn child_set() -> libc::sigset_t {
    // SAFETY: initialises a local.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        set
    }
}

/// Waits until some child ends.
pub fn wait_for_child() {
    let set = child_set();
    let mut signo = 0;
    // SAFETY: a valid set and a local.
    while unsafe { libc::sigwait(&raw const set, &raw mut signo) } != 0 {}
}

/// Sends a signal to one thread. It may be gone already.
pub fn tgkill(pid: i32, tid: i32, signo: i32) {
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signo) };
}

/// Waits until a shared word differs from `value`, for `timeout` at most.
pub fn futex_wait(word: &std::sync::atomic::AtomicU32, value: u32, timeout: Duration) {
    let ts = libc::timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    // SAFETY: the word and the time outlive the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const ts, 0, 0) };
}

/// Wakes who waits for a shared word.
pub fn futex_wake(word: &std::sync::atomic::AtomicU32) {
    // SAFETY: the word outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1, 0, 0, 0) };
}

/// Sends one descriptor with one byte.
///
/// # Errors
/// As sendmsg(2).
pub fn send_fd(socket: &OwnedFd, fd: RawFd) -> SysResult<()> {
    let mut byte = 0u8;
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0u64; 3];
    // SAFETY: the header's pointers are to locals that outlive the call; the control buffer has room for one descriptor.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = 24;
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(first).cast::<i32>().write_unaligned(fd);
        if libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) < 0 {
            return Err(last());
        }
    }
    Ok(())
}

/// A connected pair of sequenced-packet sockets.
///
/// # Errors
/// `EMFILE`
pub fn socketpair() -> SysResult<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: writes two descriptors to a local.
    unsafe {
        if libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) < 0 {
            return Err(last());
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Number of CPUs that this process may use.
pub fn cpus() -> usize {
    // SAFETY: counts bits.
    usize::try_from(unsafe { libc::CPU_COUNT(allowed_cpus()) }).unwrap_or(1)
}

/// The CPU that the caller is on.
pub fn cpu() -> Option<usize> {
    // SAFETY: reads a number.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Keeps a thread off a CPU.
pub fn move_away(tid: i32, cpu: Option<usize>) {
    let mut set = *allowed_cpus();
    // SAFETY: changes a local, and passes it.
    unsafe {
        if let Some(cpu) = cpu {
            libc::CPU_CLR(cpu, &mut set);
        }
        libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Puts a thread on the CPU that the caller is on.
pub fn move_here(tid: i32) {
    // SAFETY: reads a number, changes a local, and passes it.
    unsafe {
        let Ok(here) = usize::try_from(libc::sched_getcpu()) else { return };
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(here, &mut set);
        libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Undoes [`move_away`] and [`move_here`].
pub fn move_freely(tid: i32) {
    // SAFETY: reads a constant.
    unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), allowed_cpus()) };
}

/// membarrier(2) without flags.
///
/// # Errors
/// `ENOSYS`, `EINVAL`.
pub fn membarrier(command: i32) -> SysResult<i32> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(last)
}

/// How often the host has taken the CPU from the calling thread (`ru_nivcsw`).
pub fn preemptions() -> i64 {
    // SAFETY: zeroed is a valid value, and the call writes to it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_nivcsw
    }
}

/// `struct sched_attr` as far as its first version goes.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Time slices of the calling thread, and of all threads and processes that come from it, in nanoseconds.
const SLICE_NS: u64 = 200_000;

/// Asks for short time slices: who wakes then comes before others have used up theirs, which counts where sentry and stubs take turns on a
/// CPU that others want too. The share of the CPU stays the same. Linux 6.12 and newer; older ones don't mind.
pub fn short_slices() {
    // SAFETY: reads a number.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, nice, runtime: SLICE_NS, ..SchedAttr::default() };
    // SAFETY: a structure of the size that it says, for the calling thread. A refusal changes nothing.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}

/// What the host's restartable sequences are; `None` where it has none. Asks once: to be called first before system calls are filtered.
pub fn rseq() -> Option<RseqFeatures> {
    const AT_RSEQ_FEATURE_SIZE: u64 = 27;
    const AT_RSEQ_ALIGN: u64 = 28;
    static FEATURES: OnceLock<Option<RseqFeatures>> = OnceLock::new();
    *FEATURES.get_or_init(|| {
        // SAFETY: flags that don't exist: EINVAL where the call does.
        let result = unsafe { libc::syscall(libc::SYS_rseq, 0, 0, -1, 0) };
        if result != -1 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return None;
        }
        // SAFETY: reads what the host has given this process.
        let value = |key| u32::try_from(unsafe { libc::getauxval(key) }).ok().filter(|value| *value != 0);
        // Before Linux 6.3 it doesn't say: 20 bytes in use, 32 aligned.
        Some(RseqFeatures { size: value(AT_RSEQ_FEATURE_SIZE).unwrap_or(20), align: value(AT_RSEQ_ALIGN).unwrap_or(32) })
    })
}
