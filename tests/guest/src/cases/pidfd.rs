//! Signals and processes as files: signalfd, pidfds.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "signalfd", calls: "signalfd signalfd4", run: signals },
    Case { name: "signalfd-child", calls: "signalfd4 fork epoll_wait", run: signals_of_the_reader },
    Case { name: "signalfd-errors", calls: "signalfd signalfd4", run: signal_errors },
    Case { name: "pidfd", calls: "pidfd_open pidfd_send_signal waitid", run: process },
    Case { name: "pidfd-clone", calls: "clone clone3", run: cloned },
    Case { name: "pidfd-getfd", calls: "pidfd_getfd", run: descriptor },
    Case { name: "pidfd-errors", calls: "pidfd_open pidfd_send_signal pidfd_getfd waitid", run: errors },
];

fn set_of(signo: i32) -> u64 {
    1 << (signo - 1)
}

fn block(signo: i32) {
    let set = set_of(signo);
    ok!(SYS_rt_sigprocmask, SIG_BLOCK, &raw const set, 0, 8);
}

fn word(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn signals() {
    block(SIGUSR1);
    let set = set_of(SIGUSR1);
    let fd = ok!(SYS_signalfd4, -1, &raw const set, 8, SFD_NONBLOCK | SFD_CLOEXEC) as i32;
    let mut bytes = [0u8; 256];
    assert_eq!(sys!(SYS_read, fd, bytes.as_mut_ptr(), 256), Err(EAGAIN));
    let pid = ok!(SYS_getpid) as i32;
    ok!(SYS_kill, pid, SIGUSR1);
    let mut poll = pollfd { fd, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &raw mut poll, 1, 1000), 1);
    assert_eq!(ok!(SYS_read, fd, bytes.as_mut_ptr(), 256), 128);
    assert_eq!((word(&bytes, 0), word(&bytes, 8), word(&bytes, 12)), (SIGUSR1, SI_USER, pid));
    // Another set for the same descriptor; a value that comes along.
    block(SIGRTMIN());
    let set = set_of(SIGRTMIN());
    assert_eq!(ok!(SYS_signalfd, fd, &raw const set, 8) as i32, fd);
    ok!(SYS_kill, pid, SIGUSR1);
    assert_eq!(sys!(SYS_read, fd, bytes.as_mut_ptr(), 256), Err(EAGAIN));
    for value in [7, 8] {
        let mut info = [0u8; 128];
        info[8..12].copy_from_slice(&SI_QUEUE.to_le_bytes());
        info[24] = value;
        ok!(SYS_rt_sigqueueinfo, pid, SIGRTMIN(), info.as_ptr());
    }
    assert_eq!(ok!(SYS_read, fd, bytes.as_mut_ptr(), 256), 256);
    assert_eq!((word(&bytes, 44), word(&bytes, 48), word(&bytes, 128 + 44)), (7, 7, 8));
    ok!(SYS_close, fd);
}

/// A descriptor that is inherited has the signals of who reads it.
fn signals_of_the_reader() {
    block(SIGUSR2);
    let set = set_of(SIGUSR2);
    let fd = ok!(SYS_signalfd4, -1, &raw const set, 8, 0) as i32;
    let [read, write] = new_pipe();
    let child = spawn(|| {
        put(write, b"x");
        let bytes = get(fd, 128);
        i32::from(word(&bytes, 0) != SIGUSR2)
    });
    get(read, 1);
    std::thread::sleep(std::time::Duration::from_millis(20));
    ok!(SYS_kill, child, SIGUSR2);
    assert_eq!(reap(child), 0);
    // By epoll, and from another thread's kill.
    let epoll = ok!(SYS_epoll_create1, 0) as i32;
    let mut event = epoll_event { events: EPOLLIN as u32, u64: 5 };
    ok!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &raw mut event);
    assert_eq!(ok!(SYS_epoll_wait, epoll, &raw mut event, 1, 0), 0);
    let pid = ok!(SYS_getpid);
    let sender = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ok!(SYS_kill, pid, SIGUSR2);
    });
    assert_eq!(ok!(SYS_epoll_wait, epoll, &raw mut event, 1, 5000), 1);
    sender.join().unwrap();
    assert_eq!(get(fd, 128).len(), 128);
    ok!(SYS_close, epoll);
    ok!(SYS_close, fd);
}

fn signal_errors() {
    let set = set_of(SIGUSR1);
    assert_eq!(sys!(SYS_signalfd4, -1, &raw const set, 4, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_signalfd4, -1, &raw const set, 8, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_signalfd4, -1, 8, 8, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_signalfd4, 99, &raw const set, 8, 0), Err(EBADF));
    let [read, write] = new_pipe();
    assert_eq!(sys!(SYS_signalfd, read, &raw const set, 8), Err(EINVAL));
    let fd = ok!(SYS_signalfd, -1, &raw const set, 8);
    assert_eq!(sys!(SYS_read, fd, 0, 127), Err(EINVAL));
    for fd in [fd, read.into(), write.into()] {
        ok!(SYS_close, fd);
    }
}

fn poll(fd: i32, timeout: i32) -> i64 {
    let mut poll = pollfd { fd, events: POLLIN, revents: 0 };
    ok!(SYS_poll, &raw mut poll, 1, timeout)
}

fn wait(fd: i32, options: i32) -> Result<(i32, i32), i32> {
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    sys!(SYS_waitid, P_PIDFD, fd, &raw mut info, options, 0)?;
    Ok((info.si_code, unsafe { info.si_status() }))
}

fn process() {
    let child = spawn(|| {
        loop {
            ok!(SYS_pause);
        }
    });
    let fd = ok!(SYS_pidfd_open, child, 0) as i32;
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD), i64::from(FD_CLOEXEC));
    ok!(SYS_pidfd_send_signal, fd, 0, 0, 0);
    assert_eq!(poll(fd, 0), 0);
    assert_eq!(wait(fd, WEXITED | WNOHANG), Ok((0, 0)));
    ok!(SYS_fcntl, fd, F_SETFL, O_NONBLOCK);
    assert_eq!(wait(fd, WEXITED), Err(EAGAIN));
    ok!(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0);
    assert_eq!(poll(fd, 5000), 1);
    assert_eq!(wait(fd, WEXITED), Ok((CLD_KILLED, SIGTERM)));
    // It is gone for good, whoever has its number next.
    assert_eq!(sys!(SYS_pidfd_send_signal, fd, 0, 0, 0), Err(ESRCH));
    assert_eq!(wait(fd, WEXITED), Err(ECHILD));
    assert_eq!(poll(fd, 0), 1);
    ok!(SYS_close, fd);
}

fn cloned() {
    let mut fd = -1i32;
    let child = ok!(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &raw mut fd, 0, 0) as i32;
    if child == 0 {
        // The descriptor is the parent's.
        unsafe { _exit(if fcntl(fd, F_GETFD) == -1 { 4 } else { 5 }) };
    }
    assert!(fd >= 0);
    assert_eq!(poll(fd, 5000), 1);
    assert_eq!(wait(fd, WEXITED), Ok((CLD_EXITED, 4)));
    ok!(SYS_close, fd);
    let mut args = [0u64; 8];
    (args[0], args[1], args[4]) = (CLONE_PIDFD as u64, (&raw mut fd) as u64, SIGCHLD as u64);
    let child = ok!(SYS_clone3, args.as_ptr(), 64) as i32;
    if child == 0 {
        unsafe { _exit(6) };
    }
    assert_eq!(wait(fd, WEXITED), Ok((CLD_EXITED, 6)));
    ok!(SYS_close, fd);
    let both = CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD;
    assert_eq!(sys!(SYS_clone, both, 0, &raw mut fd, 0, 0), Err(EINVAL));
}

fn descriptor() {
    let [read, write] = new_pipe();
    let [ready, tell] = new_pipe();
    let child = spawn(|| {
        let [theirs, other] = new_pipe();
        put(tell, &[theirs as u8, other as u8]);
        get(read, 1);
        assert_eq!(get(theirs, 5), b"hello");
        0
    });
    let numbers = get(ready, 2);
    let pidfd = ok!(SYS_pidfd_open, child, 0);
    let other = ok!(SYS_pidfd_getfd, pidfd, i32::from(numbers[1]), 0) as i32;
    assert_eq!(ok!(SYS_fcntl, other, F_GETFD), i64::from(FD_CLOEXEC));
    put(other, b"hello");
    put(write, b"x");
    assert_eq!(reap(child), 0);
    for fd in [read, write, ready, tell, other, pidfd as i32] {
        ok!(SYS_close, fd);
    }
}

fn errors() {
    let pid = ok!(SYS_getpid);
    assert_eq!(sys!(SYS_pidfd_open, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_pidfd_open, pid, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_pidfd_open, 4_000_000, 0), Err(ESRCH));
    let fd = ok!(SYS_pidfd_open, pid, 0);
    let mut byte = 0u8;
    assert_eq!(sys!(SYS_read, fd, &raw mut byte, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_pidfd_send_signal, fd, 0, 0, 0x100), Err(EINVAL));
    assert_eq!(sys!(SYS_pidfd_send_signal, fd, 65, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_pidfd_send_signal, 99, 0, 0, 0), Err(EBADF));
    assert_eq!(sys!(SYS_pidfd_getfd, fd, 0, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_pidfd_getfd, fd, 99, 0), Err(EBADF));
    assert_eq!(wait(99, WEXITED), Err(EBADF));
    let [read, write] = new_pipe();
    assert_eq!(wait(read, WEXITED), Err(EBADF));
    assert_eq!(sys!(SYS_pidfd_send_signal, read, 0, 0, 0), Err(EBADF));
    for fd in [fd, read.into(), write.into()] {
        ok!(SYS_close, fd);
    }
}
