//! Filters that programs install for themselves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "seccomp-filter", calls: "seccomp prctl", run: filter },
    Case { name: "seccomp-kill", calls: "seccomp prctl", run: kill },
    Case { name: "seccomp-trap", calls: "seccomp", run: trap },
    Case { name: "seccomp-tsync", calls: "seccomp", run: tsync },
    Case { name: "seccomp-notify", calls: "seccomp ioctl", run: notify },
];

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: 0x20, jt: 0, jf: 0, k: offset }
}

const fn unless(k: u32, skip: u8) -> sock_filter {
    sock_filter { code: 0x15, jt: 0, jf: skip, k }
}

const fn ret(k: u32) -> sock_filter {
    sock_filter { code: 0x06, jt: 0, jf: 0, k }
}

/// Answers one call so, if its first argument is `arg` or that doesn't matter, and allows all others.
fn install(nr: i64, arg: Option<u32>, value: u32, flags: u64) -> Result<i64, i32> {
    ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    let mut program = vec![load(0), unless(nr as u32, 1)];
    if let Some(arg) = arg {
        program = vec![load(0), unless(nr as u32, 3), load(16), unless(arg, 1)];
    }
    program.extend([ret(value), ret(SECCOMP_RET_ALLOW)]);
    let fprog = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    sys!(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const fprog)
}

fn filter() {
    for (action, known) in [(SECCOMP_RET_TRAP, true), (SECCOMP_RET_USER_NOTIF, true), (0x1234_0000, false)] {
        let result = sys!(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action);
        assert_eq!(result, if known { Ok(0) } else { Err(EOPNOTSUPP) });
    }
    let mut sizes = [0u16; 3];
    ok!(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &mut sizes);
    assert_eq!(sizes, [80, 24, 64]);
    assert_eq!(sys!(SYS_seccomp, 99, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 1 << 20, 0), Err(EINVAL));
    assert_eq!(ok!(SYS_prctl, PR_GET_SECCOMP), 0);
    ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    let empty = sock_fprog { len: 0, filter: std::ptr::null_mut() };
    assert_eq!(sys!(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const empty), Err(EINVAL));
    // A load that isn't aligned, and a jump out of the program.
    for bad in [load(2), sock_filter { code: 0x05, jt: 0, jf: 0, k: 5 }] {
        let mut program = [bad, ret(SECCOMP_RET_ALLOW)];
        let fprog = sock_fprog { len: 2, filter: program.as_mut_ptr() };
        assert_eq!(sys!(SYS_prctl, PR_SET_SECCOMP, 2, &raw const fprog), Err(EINVAL));
    }
    // By argument, and calls that a kernel might answer on the quick.
    install(SYS_getpid, None, SECCOMP_RET_ERRNO | EDOM as u32, 0).unwrap();
    install(SYS_dup, Some(77), SECCOMP_RET_ERRNO | ENOTNAM as u32, 0).unwrap();
    for _ in 0..3000 {
        assert_eq!(sys!(SYS_getpid), Err(EDOM));
    }
    assert_eq!((sys!(SYS_dup, 77), sys!(SYS_dup, 78)), (Err(ENOTNAM), Err(EBADF)));
    assert_eq!(ok!(SYS_prctl, PR_GET_SECCOMP), 2);
    assert_eq!(in_child(|| i32::from(sys!(SYS_getpid) != Err(EDOM))), 0);
    assert_eq!(sys!(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0), Err(EINVAL));
}

fn kill() {
    let by_filter = |value| {
        in_child(|| {
            install(SYS_getppid, None, value, 0).unwrap();
            ok!(SYS_getppid);
            7
        })
    };
    assert_eq!(by_filter(SECCOMP_RET_KILL_PROCESS) & 0x7f, SIGSYS);
    assert_eq!(by_filter(SECCOMP_RET_KILL_THREAD) & 0x7f, SIGSYS);
    assert_eq!(by_filter(SECCOMP_RET_LOG), exited(7));
    let strict = in_child(|| {
        ok!(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0);
        ok!(SYS_getppid);
        7
    });
    assert_eq!(strict & 0x7f, SIGKILL);
    let strict = in_child(|| {
        ok!(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0);
        ok!(SYS_exit, 7);
        8
    });
    assert_eq!(strict, exited(7));
}

static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

extern "C" fn on_sigsys(_: i32, info: *mut siginfo_t, context: *mut c_void) {
    let (info, context) = unsafe { (info.cast::<u64>(), &mut *context.cast::<ucontext_t>()) };
    let words = unsafe { [info.read(), info.add(1).read(), info.add(2).read(), info.add(3).read()] };
    // Errno in the first word, the address in the third, the call in the fourth.
    SEEN[0].store(words[0] >> 32, Ordering::SeqCst);
    SEEN[1].store(u64::from(words[2] == context.uc_mcontext.gregs[REG_RIP as usize] as u64), Ordering::SeqCst);
    SEEN[2].store(words[3], Ordering::SeqCst);
    SEEN[3].store(context.uc_mcontext.gregs[REG_RAX as usize] as u64, Ordering::SeqCst);
    context.uc_mcontext.gregs[REG_RAX as usize] = 42;
}

fn trap() {
    handle(SIGSYS, on_sigsys, 0);
    install(SYS_getppid, None, SECCOMP_RET_TRAP | 0x99, 0).unwrap();
    assert_eq!(ok!(SYS_getppid), 42);
    let seen: Vec<u64> = SEEN.iter().map(|word| word.load(Ordering::SeqCst)).collect();
    let arch = 0xc000_003e << 32;
    assert_eq!(seen, [0x99, 1, arch | SYS_getppid as u64, SYS_getppid as u64]);
}

fn tsync() {
    let (go, wait) = channel::<()>();
    let (done, result) = channel();
    let thread = std::thread::spawn(move || {
        wait.recv().unwrap();
        done.send(sys!(SYS_getppid)).unwrap();
        wait.recv().unwrap();
        install(SYS_dup, Some(77), SECCOMP_RET_ERRNO | EDOM as u32, 0).unwrap();
        done.send(Ok(ok!(SYS_gettid))).unwrap();
        wait.recv().unwrap();
    });
    install(SYS_getppid, None, SECCOMP_RET_ERRNO | ENOTNAM as u32, SECCOMP_FILTER_FLAG_TSYNC).unwrap();
    go.send(()).unwrap();
    assert_eq!(result.recv().unwrap(), Err(ENOTNAM));
    // Once another thread has filters of its own, it can't be brought along.
    go.send(()).unwrap();
    let tid = result.recv().unwrap();
    assert_eq!(install(SYS_getppid, None, SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_TSYNC), tid);
    let strict = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    assert_eq!(install(SYS_getppid, None, SECCOMP_RET_ALLOW, strict), Err(ESRCH));
    go.send(()).unwrap();
    thread.join().unwrap();
}

const NOTIF_RECV: i64 = 0xc050_2100;
const NOTIF_SEND: i64 = 0xc018_2101;
const NOTIF_ID_VALID: i64 = 0x4008_2102;
const NOTIF_ADDFD: i64 = 0x4018_2103;

fn receive(fd: i64) -> [u64; 10] {
    let mut notification = [0u64; 10];
    ok!(SYS_ioctl, fd, NOTIF_RECV, &mut notification);
    notification
}

fn notify() {
    let (send, fds) = channel();
    let target = std::thread::spawn(move || {
        let fd = install(SYS_dup, Some(77), SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER).unwrap();
        assert_eq!(install(SYS_dup, Some(78), SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER), Err(EBUSY));
        send.send((fd, ok!(SYS_gettid))).unwrap();
        let answers = [sys!(SYS_dup, 77, 5), sys!(SYS_dup, 77), sys!(SYS_dup, 77), sys!(SYS_dup, 77)];
        (answers, sys!(SYS_dup, 77))
    });
    let (fd, tid) = fds.recv().unwrap();
    let [id, who, call, _, first, second, ..] = receive(fd);
    let arch = 0xc000_003e << 32;
    assert_eq!((who, call, first, second), (tid as u64, arch | SYS_dup as u64, 77, 5));
    ok!(SYS_ioctl, fd, NOTIF_ID_VALID, &raw const id);
    ok!(SYS_ioctl, fd, NOTIF_SEND, [id, 1234, 0].as_ptr());
    assert_eq!(sys!(SYS_ioctl, fd, NOTIF_SEND, [id ^ 1 << 60, 1234, 0].as_ptr()), Err(ENOENT));
    let id = receive(fd)[0];
    ok!(SYS_ioctl, fd, NOTIF_SEND, [id, 0, (-EDOM as u32).into()].as_ptr());
    // The call is made after all.
    let id = receive(fd)[0];
    ok!(SYS_ioctl, fd, NOTIF_SEND, [id, 0, 1 << 32].as_ptr());
    // A descriptor as the answer.
    let id = receive(fd)[0];
    let source = new_pipe()[0];
    let added = ok!(SYS_ioctl, fd, NOTIF_ADDFD, [id, 2 | (source as u64) << 32, 0].as_ptr());
    let mut poll = pollfd { fd: fd as i32, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut poll, 1, 10_000), 1);
    // Nobody is there to ask any more.
    ok!(SYS_close, fd);
    let (answers, last) = target.join().unwrap();
    assert_eq!(answers, [Ok(1234), Err(EDOM), Err(EBADF), Ok(added)]);
    assert_eq!(last, Err(ENOSYS));
}
