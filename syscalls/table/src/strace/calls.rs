//! The arguments of every call, and what its result is.

use abi::nr;

use super::args::Arg::{self, *};
use super::names as n;
use super::structs::Kind;

/// What a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    Number,
    Pointer,
    Octal,
    /// What poll(2) found stands behind the number.
    Poll,
    /// The call doesn't come back.
    Never,
}

/// How a call is written.
#[derive(Clone, Copy)]
pub struct Shape {
    pub args: &'static [Arg],
    pub ret: Ret,
}

/// A call that isn't below.
const UNKNOWN: Shape = Shape { args: &[Hex, Hex, Hex, Hex, Hex, Hex], ret: Ret::Number };

const OPEN_FLAGS: Arg = Mixed(3, n::ACCESS_MODES, n::OPEN);
const MMAP_FLAGS: Arg = Mixed(3, n::MAP_TYPES, n::MAP);
const SOCKET_TYPE: Arg = Mixed(0xf, n::SOCKET_TYPES, n::SOCK);

/// How the call with this number is written.
pub fn shape(number: u64) -> Shape {
    let ret = match number {
        nr::MMAP | nr::BRK | nr::MREMAP | nr::SHMAT => Ret::Pointer,
        nr::UMASK => Ret::Octal,
        nr::POLL | nr::PPOLL => Ret::Poll,
        nr::EXIT | nr::EXIT_GROUP => Ret::Never,
        _ => Ret::Number,
    };
    let args = files(number)
        .or_else(|| descriptors(number))
        .or_else(|| processes(number))
        .or_else(|| signals_and_time(number))
        .or_else(|| sockets(number))
        .or_else(|| memory(number))
        .or_else(|| identity(number))
        .or_else(|| system(number));
    args.map_or(UNKNOWN, |args| Shape { args, ret })
}

/// Calls that take paths.
fn files(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::OPEN => &[Text, OPEN_FLAGS, ModeIfCreated(1)],
        nr::OPENAT => &[DirFd, Text, OPEN_FLAGS, ModeIfCreated(2)],
        nr::OPENAT2 => &[DirFd, Text, Read(Kind::OpenHow), Size],
        nr::CREAT | nr::MKDIR | nr::CHMOD => &[Text, Mode],
        nr::MKDIRAT | nr::FCHMODAT => &[DirFd, Text, Mode],
        nr::FCHMODAT2 => &[DirFd, Text, Mode, Flags(n::AT)],
        nr::STAT | nr::LSTAT => &[Text, Filled(Kind::Stat)],
        nr::NEWFSTATAT => &[DirFd, Text, Filled(Kind::Stat), Flags(n::AT)],
        // The mask comes before what is filled.
        nr::STATX => &[DirFd, Text, Flags(n::AT), Flags(n::STATX), Filled(Kind::Statx)],
        nr::STATFS => &[Text, Filled(Kind::Statfs)],
        nr::ACCESS => &[Text, Flags(n::ACCESS)],
        nr::FACCESSAT => &[DirFd, Text, Flags(n::ACCESS)],
        nr::FACCESSAT2 => &[DirFd, Text, Flags(n::ACCESS), Flags(n::FACCESSAT)],
        nr::CHDIR | nr::CHROOT | nr::RMDIR | nr::UNLINK | nr::ACCT | nr::SWAPOFF | nr::MQ_UNLINK => &[Text],
        nr::UNLINKAT => &[DirFd, Text, Flags(n::AT)],
        nr::LINK | nr::SYMLINK | nr::RENAME | nr::PIVOT_ROOT => &[Text, Text],
        nr::SYMLINKAT => &[Text, DirFd, Text],
        nr::LINKAT => &[DirFd, Text, DirFd, Text, Flags(n::AT)],
        nr::RENAMEAT => &[DirFd, Text, DirFd, Text],
        nr::RENAMEAT2 => &[DirFd, Text, DirFd, Text, Flags(n::RENAME)],
        nr::READLINK => &[Text, Out, Size],
        nr::READLINKAT => &[DirFd, Text, Out, Size],
        nr::CHOWN | nr::LCHOWN => &[Text, Int, Int],
        nr::FCHOWNAT => &[DirFd, Text, Int, Int, Flags(n::AT)],
        nr::MKNOD => &[Text, FileMode, Device],
        nr::MKNODAT => &[DirFd, Text, FileMode, Device],
        nr::TRUNCATE => &[Text, Long],
        nr::GETCWD => &[OutText, Size],
        nr::UTIME => &[Text, Pointer],
        nr::UTIMES => &[Text, Read(Kind::Timevals)],
        nr::FUTIMESAT => &[DirFd, Text, Read(Kind::Timevals)],
        nr::UTIMENSAT => &[DirFd, Text, Read(Kind::Timespecs), Flags(n::AT)],
        nr::SETXATTR | nr::LSETXATTR => &[Text, Text, In(3), Size, Flags(n::XATTR)],
        nr::GETXATTR | nr::LGETXATTR => &[Text, Text, Out, Size],
        nr::LISTXATTR | nr::LLISTXATTR => &[Text, Out, Size],
        nr::REMOVEXATTR | nr::LREMOVEXATTR => &[Text, Text],
        nr::MOUNT => &[Text, Text, Text, Flags(n::MOUNT), Pointer],
        nr::UMOUNT2 => &[Text, Flags(n::UMOUNT)],
        nr::OPEN_TREE => &[DirFd, Text, Hex],
        nr::MOVE_MOUNT => &[DirFd, Text, DirFd, Text, Hex],
        nr::FSOPEN => &[Text, Hex],
        nr::FSPICK => &[DirFd, Text, Hex],
        nr::FSCONFIG => &[Fd, Uint, Text, Pointer, Int],
        nr::FSMOUNT => &[Fd, Hex, Hex],
        nr::MOUNT_SETATTR => &[DirFd, Text, Flags(n::AT), Pointer, Size],
        nr::INOTIFY_ADD_WATCH => &[Fd, Text, Flags(n::INOTIFY)],
        nr::NAME_TO_HANDLE_AT => &[DirFd, Text, Pointer, Pointer, Flags(n::AT)],
        _ => return None,
    })
}

/// Calls on open files.
fn descriptors(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::READ => &[Fd, Out, Size],
        nr::WRITE => &[Fd, In(2), Size],
        nr::PREAD64 => &[Fd, Out, Size, Long],
        nr::PWRITE64 => &[Fd, In(2), Size, Long],
        nr::READV => &[Fd, IovOut(2), Int],
        nr::WRITEV => &[Fd, IovIn(2), Int],
        nr::PREADV => &[Fd, IovOut(2), Int, Long],
        nr::PWRITEV => &[Fd, IovIn(2), Int, Long],
        nr::PREADV2 => &[Fd, IovOut(2), Int, Long, Long, Flags(n::RW)],
        nr::PWRITEV2 => &[Fd, IovIn(2), Int, Long, Long, Flags(n::RW)],
        nr::CLOSE | nr::FSYNC | nr::FDATASYNC | nr::FCHDIR | nr::DUP | nr::SYNCFS => &[Fd],
        nr::CLOSE_RANGE => &[Uint, Uint, Flags(n::CLOSE_RANGE)],
        nr::DUP2 => &[Fd, Fd],
        nr::DUP3 => &[Fd, Fd, Flags(n::OPEN)],
        nr::FSTAT => &[Fd, Filled(Kind::Stat)],
        nr::FSTATFS => &[Fd, Filled(Kind::Statfs)],
        nr::LSEEK => &[Fd, Long, Choice(n::SEEK)],
        nr::FTRUNCATE => &[Fd, Long],
        nr::FALLOCATE => &[Fd, Flags(n::FALLOCATE), Long, Long],
        nr::FADVISE64 => &[Fd, Long, Long, Choice(n::FADVISE)],
        nr::READAHEAD => &[Fd, Long, Size],
        nr::SYNC_FILE_RANGE => &[Fd, Long, Long, Hex],
        nr::FCHMOD => &[Fd, Mode],
        nr::FCHOWN => &[Fd, Int, Int],
        nr::FLOCK => &[Fd, Flags(n::FLOCK)],
        nr::FCNTL => &[Fd, Choice(n::FCNTL), FcntlThird],
        nr::IOCTL => &[Fd, Choice(n::IOCTL), IoctlThird],
        nr::GETDENTS | nr::GETDENTS64 => &[Fd, Dirents, Size],
        nr::FSETXATTR => &[Fd, Text, In(3), Size, Flags(n::XATTR)],
        nr::FGETXATTR => &[Fd, Text, Out, Size],
        nr::FLISTXATTR => &[Fd, Out, Size],
        nr::FREMOVEXATTR => &[Fd, Text],
        nr::PIPE => &[Filled(Kind::IntPair)],
        nr::PIPE2 => &[Filled(Kind::IntPair), Flags(n::PIPE)],
        nr::SENDFILE => &[Fd, Fd, Read(Kind::Long), Size],
        nr::SPLICE => &[Fd, Read(Kind::Long), Fd, Read(Kind::Long), Size, Flags(n::SPLICE)],
        nr::COPY_FILE_RANGE => &[Fd, Read(Kind::Long), Fd, Read(Kind::Long), Size, Hex],
        nr::TEE => &[Fd, Fd, Size, Flags(n::SPLICE)],
        nr::VMSPLICE => &[Fd, IovIn(2), Size, Flags(n::SPLICE)],
        nr::POLL => &[PollFds(1), Uint, Int],
        nr::PPOLL => &[PollFds(1), Uint, Read(Kind::Timespec), Read(Kind::Sigset), Size],
        nr::SELECT => &[Int, FdSet(0), FdSet(0), FdSet(0), Read(Kind::Timeval)],
        nr::PSELECT6 => &[Int, FdSet(0), FdSet(0), FdSet(0), Read(Kind::Timespec), Read(Kind::SigsetAndSize)],
        nr::EPOLL_CREATE => &[Int],
        nr::EPOLL_CREATE1 => &[Flags(n::EPOLL_CREATE)],
        nr::EPOLL_CTL => &[Fd, Choice(n::EPOLL_CTL), Fd, Read(Kind::EpollEvent)],
        nr::EPOLL_WAIT => &[Fd, EpollEvents, Int, Int],
        nr::EPOLL_PWAIT => &[Fd, EpollEvents, Int, Int, Read(Kind::Sigset), Size],
        nr::EPOLL_PWAIT2 => &[Fd, EpollEvents, Int, Read(Kind::Timespec), Read(Kind::Sigset), Size],
        nr::EVENTFD => &[Uint],
        nr::EVENTFD2 => &[Uint, Flags(n::EFD)],
        nr::SIGNALFD => &[Fd, Read(Kind::Sigset), Size],
        nr::SIGNALFD4 => &[Fd, Read(Kind::Sigset), Size, Flags(n::SFD)],
        nr::TIMERFD_CREATE => &[Clock, Flags(n::TFD)],
        nr::TIMERFD_SETTIME => &[Fd, Flags(n::TFD_SET), Read(Kind::Itimerspec), Filled(Kind::Itimerspec)],
        nr::TIMERFD_GETTIME => &[Fd, Filled(Kind::Itimerspec)],
        nr::INOTIFY_INIT => &[],
        nr::INOTIFY_INIT1 => &[Flags(n::INOTIFY_INIT)],
        nr::INOTIFY_RM_WATCH => &[Fd, Int],
        nr::MEMFD_CREATE => &[Text, Flags(n::MEMFD)],
        nr::IO_SETUP => &[Uint, Filled(Kind::Long)],
        nr::IO_DESTROY => &[Pointer],
        nr::IO_SUBMIT => &[Pointer, Long, Pointer],
        nr::IO_GETEVENTS => &[Pointer, Long, Long, Pointer, Read(Kind::Timespec)],
        nr::IO_CANCEL => &[Pointer, Pointer, Pointer],
        nr::IO_URING_SETUP => &[Uint, Pointer],
        nr::IO_URING_ENTER => &[Fd, Uint, Uint, Hex, Pointer, Size],
        nr::IO_URING_REGISTER => &[Fd, Uint, Pointer, Uint],
        nr::CACHESTAT => &[Fd, Pointer, Pointer, Hex],
        _ => return None,
    })
}

fn processes(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::EXECVE => &[Text, Strings, Environment],
        nr::EXECVEAT => &[DirFd, Text, Strings, Environment, Flags(n::AT)],
        nr::FORK | nr::VFORK | nr::GETPID | nr::GETPPID | nr::GETTID | nr::SCHED_YIELD | nr::SETSID | nr::GETPGRP => &[],
        nr::CLONE => &[Clone],
        nr::CLONE3 => &[Read(Kind::CloneArgs), Size],
        nr::EXIT | nr::EXIT_GROUP => &[Int],
        nr::WAIT4 => &[Pid, Filled(Kind::WaitStatus), Flags(n::WAIT4), Filled(Kind::Rusage)],
        nr::WAITID => &[Choice(n::WAIT_FOR), Pid, Filled(Kind::Siginfo), Flags(n::WAIT), Filled(Kind::Rusage)],
        nr::UNSHARE => &[Flags(n::NAMESPACES)],
        nr::SETNS => &[Fd, Flags(n::NAMESPACES)],
        nr::SET_TID_ADDRESS => &[Pointer],
        nr::SET_ROBUST_LIST => &[Pointer, Size],
        nr::GET_ROBUST_LIST => &[Pid, Filled(Kind::Long), Filled(Kind::Long)],
        nr::RSEQ => &[Pointer, Hex, Flags(n::RSEQ), Hex],
        nr::FUTEX => &[Pointer, FutexOp, Uint, FutexTimeout, FutexOther, FutexValue],
        nr::FUTEX_WAITV => &[Pointer, Uint, Hex, Read(Kind::Timespec), Clock],
        nr::FUTEX_WAKE => &[Pointer, Hex, Int, Hex],
        nr::FUTEX_WAIT => &[Pointer, Size, Hex, Hex, Read(Kind::Timespec), Clock],
        nr::SETPGID => &[Pid, Pid],
        nr::GETPGID | nr::GETSID => &[Pid],
        nr::PRCTL => &[Choice(n::PRCTL), PrctlSecond, Hex, Hex, Hex],
        nr::ARCH_PRCTL => &[Choice(n::ARCH), Hex],
        nr::PTRACE => &[Choice(n::PTRACE), Pid, Pointer, Pointer],
        nr::GETPRIORITY => &[Choice(n::PRIO), Int],
        nr::SETPRIORITY => &[Choice(n::PRIO), Int, Int],
        nr::SCHED_SETPARAM => &[Pid, Read(Kind::Int)],
        nr::SCHED_GETPARAM => &[Pid, Filled(Kind::Int)],
        nr::SCHED_SETSCHEDULER => &[Pid, Choice(n::SCHED), Read(Kind::Int)],
        nr::SCHED_GETSCHEDULER => &[Pid],
        nr::SCHED_GET_PRIORITY_MAX | nr::SCHED_GET_PRIORITY_MIN => &[Choice(n::SCHED)],
        nr::SCHED_RR_GET_INTERVAL => &[Pid, Filled(Kind::Timespec)],
        nr::SCHED_SETAFFINITY | nr::SCHED_GETAFFINITY => &[Pid, Size, Pointer],
        nr::SCHED_SETATTR | nr::SCHED_GETATTR => &[Pid, Pointer, Uint],
        nr::IOPRIO_GET => &[Int, Int],
        nr::IOPRIO_SET => &[Int, Int, Hex],
        nr::GETRLIMIT => &[Choice(n::RLIMITS), Filled(Kind::Rlimit)],
        nr::SETRLIMIT => &[Choice(n::RLIMITS), Read(Kind::Rlimit)],
        nr::PRLIMIT64 => &[Pid, Choice(n::RLIMITS), Read(Kind::Rlimit), Filled(Kind::Rlimit)],
        nr::GETRUSAGE => &[Choice(n::RUSAGE), Filled(Kind::Rusage)],
        nr::TIMES => &[Pointer],
        nr::PIDFD_OPEN => &[Pid, Flags(n::PIDFD)],
        nr::PIDFD_GETFD => &[Fd, Fd, Hex],
        nr::PIDFD_SEND_SIGNAL => &[Fd, Signal, Read(Kind::Siginfo), Hex],
        nr::KCMP => &[Pid, Pid, Uint, Hex, Hex],
        nr::SECCOMP => &[Choice(n::SECCOMP), Flags(n::SECCOMP_FLAGS), Pointer],
        nr::GETCPU => &[Filled(Kind::Int), Filled(Kind::Int), Pointer],
        nr::PERSONALITY => &[Hex],
        _ => return None,
    })
}

fn signals_and_time(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::RT_SIGACTION => &[Signal, Read(Kind::Sigaction), Filled(Kind::Sigaction), Size],
        nr::RT_SIGPROCMASK => &[Choice(n::SIG_HOW), Read(Kind::Sigset), Filled(Kind::Sigset), Size],
        nr::RT_SIGPENDING => &[Filled(Kind::Sigset), Size],
        nr::RT_SIGSUSPEND => &[Read(Kind::Sigset), Size],
        nr::RT_SIGTIMEDWAIT => &[Read(Kind::Sigset), Filled(Kind::Siginfo), Read(Kind::Timespec), Size],
        nr::RT_SIGQUEUEINFO => &[Pid, Signal, Read(Kind::Siginfo)],
        nr::RT_TGSIGQUEUEINFO => &[Pid, Pid, Signal, Read(Kind::Siginfo)],
        nr::RT_SIGRETURN | nr::PAUSE | nr::RESTART_SYSCALL => &[],
        nr::SIGALTSTACK => &[Read(Kind::Stack), Filled(Kind::Stack)],
        nr::KILL | nr::TKILL => &[Pid, Signal],
        nr::TGKILL => &[Pid, Pid, Signal],
        nr::NANOSLEEP => &[Read(Kind::Timespec), Filled(Kind::Timespec)],
        nr::CLOCK_NANOSLEEP => &[Clock, Flags(n::TIMER_ABSTIME), Read(Kind::Timespec), Filled(Kind::Timespec)],
        nr::CLOCK_GETTIME | nr::CLOCK_GETRES => &[Clock, Filled(Kind::Timespec)],
        nr::CLOCK_SETTIME => &[Clock, Read(Kind::Timespec)],
        nr::GETTIMEOFDAY => &[Filled(Kind::Timeval), Pointer],
        nr::SETTIMEOFDAY => &[Read(Kind::Timeval), Pointer],
        nr::TIME => &[Filled(Kind::Long)],
        nr::ALARM => &[Uint],
        nr::GETITIMER => &[Choice(n::ITIMERS), Filled(Kind::Itimerval)],
        nr::SETITIMER => &[Choice(n::ITIMERS), Read(Kind::Itimerval), Filled(Kind::Itimerval)],
        nr::TIMER_CREATE => &[Clock, Read(Kind::Sigevent), Filled(Kind::Int)],
        nr::TIMER_SETTIME => &[Int, Flags(n::TIMER_ABSTIME), Read(Kind::Itimerspec), Filled(Kind::Itimerspec)],
        nr::TIMER_GETTIME => &[Int, Filled(Kind::Itimerspec)],
        nr::TIMER_GETOVERRUN | nr::TIMER_DELETE => &[Int],
        nr::ADJTIMEX => &[Pointer],
        nr::CLOCK_ADJTIME => &[Clock, Pointer],
        _ => return None,
    })
}

fn sockets(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::SOCKET => &[Choice(n::FAMILIES), SOCKET_TYPE, Int],
        nr::SOCKETPAIR => &[Choice(n::FAMILIES), SOCKET_TYPE, Int, Filled(Kind::IntPair)],
        nr::BIND | nr::CONNECT => &[Fd, SockaddrIn(2), Uint],
        nr::LISTEN => &[Fd, Int],
        nr::ACCEPT => &[Fd, SockaddrOut(2), Filled(Kind::Int)],
        nr::ACCEPT4 => &[Fd, SockaddrOut(2), Filled(Kind::Int), Flags(n::SOCK)],
        nr::GETSOCKNAME | nr::GETPEERNAME => &[Fd, SockaddrOut(2), Filled(Kind::Int)],
        nr::SHUTDOWN => &[Fd, Choice(n::SHUT)],
        nr::SENDTO => &[Fd, In(2), Size, Flags(n::MSG), SockaddrIn(5), Uint],
        nr::RECVFROM => &[Fd, Out, Size, Flags(n::MSG), SockaddrOut(5), Filled(Kind::Int)],
        nr::SENDMSG => &[Fd, MsgIn, Flags(n::MSG)],
        nr::RECVMSG => &[Fd, MsgOut, Flags(n::MSG)],
        nr::SENDMMSG => &[Fd, Pointer, Uint, Flags(n::MSG)],
        nr::RECVMMSG => &[Fd, Pointer, Uint, Flags(n::MSG), Read(Kind::Timespec)],
        nr::SETSOCKOPT => &[Fd, Choice(n::SOL), SockOpt, OptIn(4), Int],
        nr::GETSOCKOPT => &[Fd, Choice(n::SOL), SockOpt, OptOut(4), Filled(Kind::Int)],
        _ => return None,
    })
}

fn memory(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::MMAP => &[Pointer, Size, Flags(n::PROT), MMAP_FLAGS, Fd, Hex],
        nr::MUNMAP | nr::MLOCK | nr::MUNLOCK => &[Pointer, Size],
        nr::MPROTECT => &[Pointer, Size, Flags(n::PROT)],
        nr::PKEY_MPROTECT => &[Pointer, Size, Flags(n::PROT), Int],
        nr::MREMAP => &[Pointer, Size, Size, Flags(n::MREMAP), Pointer],
        nr::BRK => &[Pointer],
        nr::MADVISE => &[Pointer, Size, Choice(n::MADVISE)],
        nr::MSYNC => &[Pointer, Size, Flags(n::MSYNC)],
        nr::MINCORE => &[Pointer, Size, Pointer],
        nr::MLOCK2 => &[Pointer, Size, Flags(n::MLOCK2)],
        nr::MLOCKALL => &[Flags(n::MLOCKALL)],
        nr::MUNLOCKALL => &[],
        nr::MEMBARRIER => &[Choice(n::MEMBARRIER), Hex, Int],
        nr::PROCESS_VM_READV | nr::PROCESS_VM_WRITEV => &[Pid, Pointer, Size, Pointer, Size, Hex],
        nr::MBIND => &[Pointer, Size, Int, Pointer, Size, Hex],
        nr::SET_MEMPOLICY => &[Int, Pointer, Size],
        nr::GET_MEMPOLICY => &[Filled(Kind::Int), Pointer, Size, Pointer, Hex],
        nr::SHMGET => &[Hex, Size, Flags(n::IPC)],
        nr::SHMAT => &[Int, Pointer, Flags(n::SHM)],
        nr::SHMDT => &[Pointer],
        nr::SHMCTL => &[Int, Choice(n::IPC_CTL), Pointer],
        nr::SEMGET => &[Hex, Int, Flags(n::IPC)],
        nr::SEMOP => &[Int, Pointer, Size],
        nr::SEMTIMEDOP => &[Int, Pointer, Size, Read(Kind::Timespec)],
        nr::SEMCTL => &[Int, Int, Choice(n::IPC_CTL), Hex],
        nr::MSGGET => &[Hex, Flags(n::IPC)],
        nr::MSGSND => &[Int, Pointer, Size, Flags(n::IPC)],
        nr::MSGRCV => &[Int, Pointer, Size, Long, Flags(n::IPC)],
        nr::MSGCTL => &[Int, Choice(n::IPC_CTL), Pointer],
        nr::MQ_OPEN => &[Text, OPEN_FLAGS, ModeIfCreated(1), Pointer],
        nr::MQ_TIMEDSEND => &[Fd, In(2), Size, Uint, Read(Kind::Timespec)],
        nr::MQ_TIMEDRECEIVE => &[Fd, Out, Size, Filled(Kind::Int), Read(Kind::Timespec)],
        nr::MQ_NOTIFY => &[Fd, Read(Kind::Sigevent)],
        nr::MQ_GETSETATTR => &[Fd, Pointer, Pointer],
        _ => return None,
    })
}

fn identity(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::GETUID | nr::GETEUID | nr::GETGID | nr::GETEGID => &[],
        nr::SETUID | nr::SETGID | nr::SETFSUID | nr::SETFSGID => &[Int],
        nr::SETREUID | nr::SETREGID => &[Int, Int],
        nr::SETRESUID | nr::SETRESGID => &[Int, Int, Int],
        nr::GETRESUID | nr::GETRESGID => &[Filled(Kind::Int), Filled(Kind::Int), Filled(Kind::Int)],
        nr::GETGROUPS | nr::SETGROUPS => &[Int, Pointer],
        nr::CAPGET => &[Read(Kind::CapHeader), Filled(Kind::CapData)],
        nr::CAPSET => &[Read(Kind::CapHeader), Read(Kind::CapData)],
        nr::UMASK => &[Mode],
        nr::ADD_KEY => &[Text, Text, In(3), Size, Int],
        nr::KEYCTL => &[Int, Hex, Hex, Hex, Hex],
        nr::LANDLOCK_CREATE_RULESET => &[Pointer, Size, Hex],
        nr::LANDLOCK_ADD_RULE => &[Fd, Int, Pointer, Hex],
        nr::LANDLOCK_RESTRICT_SELF => &[Fd, Hex],
        _ => return None,
    })
}

fn system(number: u64) -> Option<&'static [Arg]> {
    Some(match number {
        nr::UNAME => &[Filled(Kind::Utsname)],
        nr::SYSINFO => &[Filled(Kind::Sysinfo)],
        nr::SYSLOG => &[Choice(n::SYSLOG), Pointer, Int],
        nr::GETRANDOM => &[Out, Size, Flags(n::GRND)],
        nr::SETHOSTNAME | nr::SETDOMAINNAME => &[In(1), Size],
        nr::SYNC | nr::VHANGUP => &[],
        nr::REBOOT => &[Hex, Hex, Hex, Pointer],
        nr::BPF => &[Int, Pointer, Uint],
        nr::PERF_EVENT_OPEN => &[Pointer, Pid, Int, Fd, Hex],
        nr::USERFAULTFD => &[Hex],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_stand_in_arguments_that_are_there() {
        for number in 0..512 {
            let args = shape(number).args;
            assert!(args.len() <= 6);
            for arg in args {
                if let In(at) | IovIn(at) | IovOut(at) | SockaddrIn(at) | SockaddrOut(at) | PollFds(at) | FdSet(at) | OptIn(at)
                | OptOut(at) | ModeIfCreated(at) = arg
                {
                    assert!(*at < args.len(), "call {number}: length in argument {at}");
                }
            }
        }
    }
}
