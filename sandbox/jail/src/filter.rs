//! What the sentry may ask of the host.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter_all_threads,
};

/// Calls that are allowed whatever their arguments, each with who needs it.
const ALLOWED: &[i64] = &[
    // Guest files and standard streams (hostfs, tmpfs): descriptors only, opened beneath the root's with openat2.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    // O_APPEND to host files that others append to as well.
    libc::SYS_pwritev2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_write,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    // Extended attributes and access lists of host files (hostfs), which decide who may what inside: of open descriptors only.
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_lseek,
    libc::SYS_close,
    // Duplicates and flags of descriptors (Rust's OwnedFd checks in debug builds).
    libc::SYS_fcntl,
    // Waiting for standard streams, looking whether a stub lives.
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Guest memory: arenas and files in memory.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    // The sentry's own memory and windows on guest memory. No executable mappings, see below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Which pages of guest memory are there (mincore(2), /proc/pid/smaps): of the sentry's own mappings.
    libc::SYS_mincore,
    libc::SYS_brk,
    // Threads: waiting, stacks, names, end.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    // Stub threads: they must not share a CPU with who spins for them. Others' threads are not ours to move, the host sees to that.
    libc::SYS_sched_setaffinity,
    // Of the calling thread: the platform asks whether the host takes the CPU from it.
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Commands: accepted from the listening socket that the sentry is given, which is the only one it can have (no socket, bind or listen
    // here), and whose path only the user who made the container can reach. Descriptors come with a message (recvmsg) for the streams of
    // programs that are started later: what they are open on, that user has chosen; they are used as streams and never looked up below.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // Stubs: sockets to send descriptors on, handles, interrupts. The pid namespace holds nothing but stubs.
    libc::SYS_socketpair,
    libc::SYS_sendmsg,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_waitid,
    libc::SYS_tgkill,
    // Time and chance for guests; what the vDSO doesn't answer.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    libc::SYS_getcpu,
    // Refused by the other filter: see below.
    libc::SYS_clone3,
];

/// What hostfs needs besides, where the host's files may be changed: names directly below open directories, and nothing that follows a link
/// (fchmodat would: modes are changed by descriptor).
const WRITING: &[i64] = &[
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_fsync,
    // syncfs(2) of guests, on the directory that they are given.
    libc::SYS_syncfs,
    // Owners of new files, and extended attributes, by descriptor; the host checks them against the sentry's few capabilities.
    libc::SYS_fchown,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    // Names of fifos and sockets (devices need a capability that the sentry doesn't have). They are never opened on the host.
    libc::SYS_mknodat,
];

/// Of Linux 6.6; libc doesn't name it everywhere.
const SYS_FCHMODAT2: i64 = 452;

fn condition(arg: u8, op: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value).map_err(io::Error::other)?;
    SeccompRule::new(vec![condition]).map_err(io::Error::other)
}

/// Filters the system calls of all threads from now on. What isn't allowed fails with `EPERM`.
///
/// # Errors
/// What seccomp(2) says.
pub fn filter(writable: bool) -> io::Result<()> {
    let writing = if writable { WRITING } else { &[] };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().chain(writing).map(|nr| (*nr, Vec::new())).collect();
    let no_exec = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    // Windows on guest memory must never be executable here.
    rules.insert(libc::SYS_mmap, vec![condition(2, no_exec.clone(), 0)?]);
    rules.insert(libc::SYS_mprotect, vec![condition(2, no_exec, 0)?]);
    // Threads, not processes.
    let thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![condition(0, thread, libc::CLONE_THREAD as u64)?]);
    if writable {
        // fchmodat2: modes of sockets, which can't be opened. A link at the name is refused, or this condition isn't met.
        let nofollow = condition(3, SeccompCmpOp::Eq, libc::AT_SYMLINK_NOFOLLOW as u64)?;
        rules.insert(SYS_FCHMODAT2, vec![nofollow]);
    }
    // Guests' membarrier(2): a barrier on the CPUs that run processes which have asked to be reached, the stubs among them. No more than an
    // interrupt to others.
    let barrier = SeccompCmpOp::Eq;
    rules.insert(libc::SYS_membarrier, vec![condition(0, barrier, libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED as u64)?]);
    // Names of threads.
    rules.insert(libc::SYS_prctl, vec![condition(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?]);
    // Notifications of stubs (receive, send, flags). Of terminals: settings and sizes may be read, where a container is given one as a standard
    // stream or a pseudoterminal of its own (`--console-socket`; the caller's own terminal never gets here). Nothing may be changed, and
    // nothing typed in somebody's stead (TIOCSTI, TIOCLINUX).
    let ioctls = [0xc050_2100, 0xc018_2101, 0x4008_2104, libc::TCGETS, libc::TIOCGWINSZ, 0x802c_542a];
    let ioctls: io::Result<Vec<_>> = ioctls.iter().map(|cmd| condition(1, SeccompCmpOp::Eq, *cmd)).collect();
    rules.insert(libc::SYS_ioctl, ioctls?);
    let deny = SeccompAction::Errno(libc::EPERM as u32);
    let main = SeccompFilter::new(rules, deny, SeccompAction::Allow, TargetArch::x86_64).map_err(io::Error::other)?;
    let program: seccompiler::BpfProgram = main.try_into().map_err(io::Error::other)?;
    // clone3's flags are in memory, where no filter can look: it is missing, for which the C library falls back to clone. (The main
    // filter could only say EPERM.)
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, missing, TargetArch::x86_64).map_err(io::Error::other)?;
    let clone3: seccompiler::BpfProgram = clone3.try_into().map_err(io::Error::other)?;
    apply_filter_all_threads(&clone3).map_err(io::Error::other)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}
