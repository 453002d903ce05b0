//! Locks, leases, and signals about files.

use std::sync::atomic::{AtomicI64, Ordering};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "flock", calls: "flock", run: whole_files },
    Case { name: "flock-waits", calls: "flock", run: flock_waits },
    Case { name: "record-locks", calls: "fcntl", run: records },
    Case { name: "record-locks-end", calls: "fcntl close execve", run: records_end },
    Case { name: "record-locks-wait", calls: "fcntl", run: records_wait },
    Case { name: "record-locks-deadlock", calls: "fcntl", run: deadlock },
    Case { name: "ofd-locks", calls: "fcntl", run: ofd },
    Case { name: "leases", calls: "fcntl open", run: leases },
    Case { name: "file-owner", calls: "fcntl", run: owner },
    Case { name: "file-signals", calls: "fcntl ioctl", run: signals },
    Case { name: "fcntl-places", calls: "fcntl", run: places },
    Case { name: "fdinfo", calls: "openat read", run: fd_info },
    Case { name: "sys-tree", calls: "openat read", run: sys_tree },
];

fn reopen(path: &std::ffi::CStr, flags: i32) -> i32 {
    ok!(SYS_openat, AT_FDCWD, path, flags, 0) as i32
}

fn whole_files() {
    let (a, b) = (file(c"f"), file(c"f"));
    assert_eq!(sys!(SYS_flock, a, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_flock, a, LOCK_SH | LOCK_EX), Err(EINVAL));
    assert_eq!(sys!(SYS_flock, -1, LOCK_SH), Err(EBADF));
    ok!(SYS_flock, a, LOCK_SH);
    ok!(SYS_flock, b, LOCK_SH | LOCK_NB);
    assert_eq!(sys!(SYS_flock, b, LOCK_EX | LOCK_NB), Err(EWOULDBLOCK));
    // A change that fails costs the lock.
    ok!(SYS_flock, a, LOCK_EX | LOCK_NB);
    // A duplicate is the same holder, and unlocks it.
    let copy = ok!(SYS_dup, a) as i32;
    assert_eq!(sys!(SYS_flock, b, LOCK_SH | LOCK_NB), Err(EWOULDBLOCK));
    ok!(SYS_flock, copy, LOCK_UN);
    ok!(SYS_flock, b, LOCK_EX | LOCK_NB);
    // The last descriptor gives it up.
    let other = ok!(SYS_dup, b) as i32;
    ok!(SYS_close, b);
    assert_eq!(sys!(SYS_flock, a, LOCK_SH | LOCK_NB), Err(EWOULDBLOCK));
    ok!(SYS_close, other);
    ok!(SYS_flock, a, LOCK_SH | LOCK_NB);
    // Both ends of a pipe are one file, and a directory can be locked.
    let [r, w] = new_pipe();
    ok!(SYS_flock, r, LOCK_EX | LOCK_NB);
    assert_eq!(sys!(SYS_flock, w, LOCK_EX | LOCK_NB), Err(EWOULDBLOCK));
    ok!(SYS_flock, reopen(c".", O_RDONLY), LOCK_EX | LOCK_NB);
    assert_eq!(sys!(SYS_flock, reopen(c"f", O_PATH), LOCK_SH), Err(EBADF));
}

fn flock_waits() {
    let a = file(c"f");
    ok!(SYS_flock, a, LOCK_EX);
    let [r, w] = new_pipe();
    let child = spawn(|| {
        let b = file(c"f");
        put(w, b"x");
        ok!(SYS_flock, b, LOCK_EX);
        put(w, b"y");
        0
    });
    assert_eq!(get(r, 1), b"x");
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut ready = pollfd { fd: r, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut ready, 1, 0), 0);
    ok!(SYS_flock, a, LOCK_UN);
    assert_eq!(get(r, 1), b"y");
    assert_eq!(reap(child), exited(0));
    // A signal breaks the wait.
    extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
    handle(SIGALRM, nothing, 0);
    ok!(SYS_flock, a, LOCK_EX);
    let b = file(c"f");
    let me = std::process::id();
    let child = spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ok!(SYS_kill, me, SIGALRM);
        0
    });
    assert_eq!(sys!(SYS_flock, b, LOCK_EX), Err(EINTR));
    reap(child);
}

fn lock(kind: i32, start: i64, len: i64) -> flock {
    let mut lock: flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (kind as i16, SEEK_SET as i16, start, len);
    lock
}

fn set(fd: i32, kind: i32, start: i64, len: i64) -> Result<i64, i32> {
    sys!(SYS_fcntl, fd, F_SETLK, &mut lock(kind, start, len))
}

/// What keeps another process from locking all of `f`, as (type, start, length, pid).
fn seen_from(start: i64, kind: i32) -> (i32, i64, i64, i32) {
    let [r, w] = new_pipe();
    let status = in_child(|| {
        let mut found = lock(kind, start, 0);
        ok!(SYS_fcntl, file(c"f"), F_GETLK, &mut found);
        let words = [i64::from(found.l_type), found.l_start, found.l_len, i64::from(found.l_pid)];
        put(w, &words.map(i64::to_le_bytes).concat());
        0
    });
    assert_eq!(status, exited(0));
    let bytes = get(r, 32);
    let word = |i: usize| i64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap());
    (word(0) as i32, word(1), word(2), word(3) as i32)
}

fn records() {
    let fd = file(c"f");
    let me = std::process::id() as i32;
    assert_eq!(set(fd, 99, 0, 1), Err(EINVAL));
    assert_eq!(set(fd, F_RDLCK, -1, 1), Err(EINVAL));
    assert_eq!(set(fd, F_RDLCK, i64::MAX, 2), Err(EOVERFLOW));
    assert_eq!(set(reopen(c"f", O_RDONLY), F_WRLCK, 0, 1), Err(EBADF));
    assert_eq!(set(reopen(c"f", O_WRONLY), F_RDLCK, 0, 1), Err(EBADF));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETLK, 8), Err(EFAULT));
    assert_eq!(sys!(SYS_fcntl, fd, F_GETLK, &mut lock(F_UNLCK, 0, 1)), Err(EINVAL));
    set(fd, F_WRLCK, 10, 20).unwrap();
    assert_eq!(seen_from(0, F_RDLCK), (F_WRLCK, 10, 20, me));
    // The middle becomes shared: three parts.
    set(fd, F_RDLCK, 15, 5).unwrap();
    assert_eq!(seen_from(12, F_RDLCK), (F_WRLCK, 10, 5, me));
    assert_eq!(seen_from(15, F_RDLCK), (F_WRLCK, 20, 10, me));
    assert_eq!(seen_from(15, F_WRLCK), (F_RDLCK, 15, 5, me));
    // And one again.
    set(fd, F_WRLCK, 14, 7).unwrap();
    assert_eq!(seen_from(0, F_RDLCK), (F_WRLCK, 10, 20, me));
    // To the end of the file, backwards, relative.
    set(fd, F_UNLCK, 0, 0).unwrap();
    assert_eq!(seen_from(0, F_WRLCK).0, F_UNLCK);
    set(fd, F_WRLCK, 100, 0).unwrap();
    assert_eq!(seen_from(0, F_RDLCK), (F_WRLCK, 100, 0, me));
    set(fd, F_UNLCK, 0, 0).unwrap();
    set(fd, F_WRLCK, 100, -10).unwrap();
    assert_eq!(seen_from(0, F_RDLCK), (F_WRLCK, 90, 10, me));
    put(fd, b"12345");
    let mut end = lock(F_WRLCK, -2, 2);
    end.l_whence = SEEK_END as i16;
    ok!(SYS_fcntl, fd, F_SETLK, &mut end);
    assert_eq!(seen_from(0, F_RDLCK), (F_WRLCK, 3, 2, me));
    // A process is never in its own way.
    let mut own = lock(F_WRLCK, 0, 0);
    ok!(SYS_fcntl, file(c"f"), F_GETLK, &mut own);
    assert_eq!(i32::from(own.l_type), F_UNLCK);
    let status = in_child(|| {
        let fd = file(c"f");
        assert_eq!(set(fd, F_RDLCK, 3, 1), Err(EAGAIN));
        set(fd, F_WRLCK, 0, 3).unwrap();
        assert_eq!(set(fd, F_WRLCK, 0, 0), Err(EAGAIN));
        0
    });
    assert_eq!(status, exited(0));
}

fn records_end() {
    let (a, b) = (file(c"f"), file(c"f"));
    set(a, F_WRLCK, 0, 10).unwrap();
    // Closing any descriptor of the file gives up all.
    ok!(SYS_close, b);
    assert_eq!(seen_from(0, F_RDLCK).0, F_UNLCK);
    // They go with the process, and aren't inherited.
    let [r, w] = new_pipe();
    set(a, F_WRLCK, 0, 10).unwrap();
    let status = in_child(|| i32::from(set(a, F_WRLCK, 5, 1) != Err(EAGAIN)));
    assert_eq!(status, exited(0));
    let child = spawn(|| {
        set(a, F_WRLCK, 20, 10).unwrap();
        put(w, b"x");
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    });
    get(r, 1);
    assert_eq!(set(a, F_WRLCK, 20, 1), Err(EAGAIN));
    ok!(SYS_kill, child, SIGKILL);
    reap(child);
    set(a, F_WRLCK, 20, 1).unwrap();
    // They survive execve(2).
    let child = spawn(|| {
        set(a, F_WRLCK, 40, 10).unwrap();
        ok!(SYS_dup2, w, 1);
        let args = [c"/bin/sh".as_ptr(), c"-c".as_ptr(), c"echo x; exec sleep 1000".as_ptr(), std::ptr::null()];
        unsafe { execv(args[0], args.as_ptr()) };
        1
    });
    get(r, 2);
    assert_eq!(set(a, F_WRLCK, 40, 1), Err(EAGAIN));
    ok!(SYS_kill, child, SIGKILL);
    reap(child);
}

fn records_wait() {
    let fd = file(c"f");
    set(fd, F_WRLCK, 0, 10).unwrap();
    let [r, w] = new_pipe();
    let child = spawn(|| {
        let fd = file(c"f");
        put(w, b"x");
        ok!(SYS_fcntl, fd, F_SETLKW, &mut lock(F_RDLCK, 5, 1));
        put(w, b"y");
        0
    });
    assert_eq!(get(r, 1), b"x");
    std::thread::sleep(std::time::Duration::from_millis(20));
    // Not the part that is waited for.
    set(fd, F_UNLCK, 0, 5).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut ready = pollfd { fd: r, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut ready, 1, 0), 0);
    // Weaker is enough.
    set(fd, F_RDLCK, 5, 5).unwrap();
    assert_eq!(get(r, 1), b"y");
    assert_eq!(reap(child), exited(0));
}

fn deadlock() {
    let fd = file(c"f");
    let [r, w] = new_pipe();
    set(fd, F_WRLCK, 0, 1).unwrap();
    let child = spawn(|| {
        let fd = file(c"f");
        set(fd, F_WRLCK, 1, 1).unwrap();
        put(w, b"x");
        // Waits for the parent, which is told that it can't wait for this.
        ok!(SYS_fcntl, fd, F_SETLKW, &mut lock(F_WRLCK, 0, 1));
        0
    });
    assert_eq!(get(r, 1), b"x");
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETLKW, &mut lock(F_WRLCK, 1, 1)), Err(EDEADLK));
    set(fd, F_UNLCK, 0, 1).unwrap();
    assert_eq!(reap(child), exited(0));
}

fn ofd() {
    const F_OFD_GETLK: i32 = 36;
    const F_OFD_SETLK: i32 = 37;
    const F_OFD_SETLKW: i32 = 38;
    let (a, b) = (file(c"f"), file(c"f"));
    let mut bad = lock(F_WRLCK, 0, 1);
    bad.l_pid = 1;
    assert_eq!(sys!(SYS_fcntl, a, F_OFD_SETLK, &mut bad), Err(EINVAL));
    ok!(SYS_fcntl, a, F_OFD_SETLK, &mut lock(F_WRLCK, 0, 10));
    assert_eq!(sys!(SYS_fcntl, b, F_OFD_SETLK, &mut lock(F_RDLCK, 5, 1)), Err(EAGAIN));
    // Even of the same process.
    assert_eq!(set(b, F_RDLCK, 5, 1), Err(EAGAIN));
    let mut found = lock(F_RDLCK, 5, 1);
    ok!(SYS_fcntl, b, F_OFD_GETLK, &mut found);
    assert_eq!((i32::from(found.l_type), found.l_start, found.l_len, found.l_pid), (F_WRLCK, 0, 10, -1));
    // A child shares it through the descriptor, and its end doesn't end it.
    assert_eq!(in_child(|| i32::from(sys!(SYS_fcntl, a, F_OFD_SETLK, &mut lock(F_WRLCK, 0, 10)) != Ok(0))), exited(0));
    assert_eq!(sys!(SYS_fcntl, b, F_OFD_SETLK, &mut lock(F_RDLCK, 5, 1)), Err(EAGAIN));
    ok!(SYS_close, a);
    ok!(SYS_fcntl, b, F_OFD_SETLKW, &mut lock(F_RDLCK, 5, 1));
}

static SEEN: [AtomicI64; 4] = [const { AtomicI64::new(0) }; 4];

/// Notes signal, code, descriptor and band.
extern "C" fn note(signo: i32, info: *mut siginfo_t, _: *mut c_void) {
    let words = info.cast::<i32>();
    let (code, band, fd) = unsafe { (*words.add(2), *words.add(4), *words.add(6)) };
    SEEN[1].store(code.into(), Ordering::SeqCst);
    SEEN[2].store(fd.into(), Ordering::SeqCst);
    SEEN[3].store(band.into(), Ordering::SeqCst);
    SEEN[0].store(signo.into(), Ordering::SeqCst);
}

/// What was noted, within a second.
fn noted() -> [i64; 4] {
    for _ in 0..100 {
        if SEEN[0].load(Ordering::SeqCst) != 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    [0, 1, 2, 3].map(|i: usize| SEEN[i].swap(0, Ordering::SeqCst))
}

fn leases() {
    let fd = ok!(SYS_open, c"f", O_RDWR | O_CREAT, 0o600) as i32;
    assert_eq!(sys!(SYS_fcntl, new_pipe()[0], F_SETLEASE, F_RDLCK), Err(EINVAL));
    match sys!(SYS_fcntl, fd, F_SETLEASE, F_WRLCK) {
        Err(EINVAL | EAGAIN) => skip("no leases on this filesystem"),
        result => assert_eq!(result, Ok(0)),
    }
    assert_eq!(ok!(SYS_fcntl, fd, F_GETLEASE), i64::from(F_WRLCK));
    handle(SIGIO, note, 0);
    assert_eq!(sys!(SYS_open, c"f", O_RDONLY | O_NONBLOCK), Err(EWOULDBLOCK));
    assert_eq!(noted()[0], i64::from(SIGIO));
    assert_eq!(ok!(SYS_fcntl, fd, F_GETLEASE), i64::from(F_RDLCK));
    // The opener waits until it is given up.
    let child = spawn(|| i32::from(sys!(SYS_open, c"f", O_RDONLY).is_err()));
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(sys!(SYS_wait4, child, 0, WNOHANG, 0), Ok(0));
    ok!(SYS_fcntl, fd, F_SETLEASE, F_UNLCK);
    assert_eq!(reap(child), exited(0));
    assert_eq!(ok!(SYS_fcntl, fd, F_GETLEASE), i64::from(F_UNLCK));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETLEASE, F_UNLCK), Err(EAGAIN));
    // Open for writing: no lease for readers. Open twice: none for writers.
    assert_eq!(sys!(SYS_fcntl, fd, F_SETLEASE, F_RDLCK), Err(EAGAIN));
    let other = reopen(c"f", O_RDONLY);
    assert_eq!(sys!(SYS_fcntl, fd, F_SETLEASE, F_WRLCK), Err(EAGAIN));
    ok!(SYS_close, fd);
    ok!(SYS_fcntl, other, F_SETLEASE, F_RDLCK);
    ok!(SYS_close, reopen(c"f", O_RDONLY));
    ok!(SYS_fcntl, other, 10, SIGRTMIN());
    handle(SIGRTMIN(), note, 0);
    assert_eq!(sys!(SYS_open, c"f", O_WRONLY | O_NONBLOCK), Err(EWOULDBLOCK));
    let seen = noted();
    assert_eq!((seen[0], seen[2]), (i64::from(SIGRTMIN()), i64::from(other)));
}

fn owner() {
    let [r, _] = new_pipe();
    let me = std::process::id() as i32;
    assert_eq!(ok!(SYS_fcntl, r, F_GETOWN), 0);
    ok!(SYS_fcntl, r, F_SETOWN, me);
    assert_eq!(ok!(SYS_fcntl, r, F_GETOWN), i64::from(me));
    let mut owner = [9i32; 2];
    ok!(SYS_fcntl, r, 16, &mut owner);
    assert_eq!(owner, [1, me]);
    assert_eq!(sys!(SYS_fcntl, r, F_SETOWN, 4_000_000), Err(ESRCH));
    assert_eq!(sys!(SYS_fcntl, r, F_SETOWN, i32::MIN), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, r, 15, &mut [7i32, me]), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, r, 15, 8), Err(EFAULT));
    ok!(SYS_fcntl, r, 15, &mut [0i32, ok!(SYS_gettid) as i32]);
    ok!(SYS_fcntl, r, 16, &mut owner);
    assert_eq!(owner, [0, ok!(SYS_gettid) as i32]);
    ok!(SYS_fcntl, r, F_SETOWN, 0);
    assert_eq!(ok!(SYS_fcntl, r, F_GETOWN), 0);
    // An owner that is gone is nobody.
    let child = spawn(|| 0);
    ok!(SYS_fcntl, r, F_SETOWN, child);
    reap(child);
    assert_eq!(ok!(SYS_fcntl, r, F_GETOWN), 0);
    assert_eq!(ok!(SYS_fcntl, r, 11), 0);
    ok!(SYS_fcntl, r, 10, SIGUSR1);
    assert_eq!(ok!(SYS_fcntl, r, 11), i64::from(SIGUSR1));
    assert_eq!(sys!(SYS_fcntl, r, 10, 65), Err(EINVAL));
}

fn signals() {
    let [r, w] = new_pipe();
    handle(SIGIO, note, 0);
    handle(SIGRTMIN(), note, 0);
    ok!(SYS_fcntl, r, F_SETOWN, std::process::id());
    put(w, b"x");
    assert_eq!(SEEN[0].load(Ordering::SeqCst), 0);
    ok!(SYS_fcntl, r, F_SETFL, O_ASYNC);
    assert_eq!(ok!(SYS_fcntl, r, F_GETFL) as i32 & O_ASYNC, O_ASYNC);
    put(w, b"x");
    assert_eq!(noted()[0], i64::from(SIGIO));
    ok!(SYS_fcntl, r, 10, SIGRTMIN());
    put(w, b"x");
    // POLL_IN, POLLIN | POLLRDNORM
    assert_eq!(noted(), [SIGRTMIN().into(), 1, r.into(), 0x41]);
    ok!(SYS_ioctl, r, FIOASYNC, &mut 0i32);
    put(w, b"x");
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(SEEN[0].load(Ordering::SeqCst), 0);
    // Where there is nothing to signal the flag isn't kept.
    let fd = file(c"f");
    ok!(SYS_fcntl, fd, F_SETFL, O_ASYNC);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL) as i32 & O_ASYNC, 0);
}

fn places() {
    let fd = file(c"f");
    let place = reopen(c"f", O_PATH);
    for cmd in [F_SETFL, F_GETLK, F_SETLK, F_SETLEASE, F_GETLEASE, F_GETOWN, F_SETOWN, 10, 11] {
        assert_eq!(sys!(SYS_fcntl, place, cmd, 0), Err(EBADF), "{cmd}");
    }
    assert_eq!(ok!(SYS_fcntl, place, F_GETFL) as i32, O_PATH);
    let copy = ok!(SYS_fcntl, place, F_DUPFD_CLOEXEC, 100) as i32;
    assert_eq!((copy, ok!(SYS_fcntl, copy, F_GETFD)), (100, 1));
    // Files opened by name are large ones.
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL) as i32, O_RDWR | 0o100_000);
    assert_eq!(ok!(SYS_fcntl, new_pipe()[0], F_GETFL) as i32, O_RDONLY);
    let mut limit = rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe { getrlimit(RLIMIT_NOFILE, &mut limit) };
    assert_eq!(sys!(SYS_fcntl, fd, F_DUPFD, limit.rlim_cur), Err(EINVAL));
    assert_eq!(sys!(SYS_dup2, fd, limit.rlim_cur), Err(EBADF));
}

/// What /proc tells of descriptors and of locks.
fn fd_info() {
    let fd = ok!(SYS_open, c"f", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o600) as i32;
    put(fd, b"hello");
    set(fd, F_WRLCK, 3, 4).unwrap();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    assert!(text.starts_with("pos:\t5\nflags:\t02102002\nmnt_id:\t"), "{text}");
    let me = std::process::id();
    let lock = format!("POSIX  ADVISORY  WRITE {me} ");
    assert!(text.lines().any(|line| line.starts_with("lock:\t1: ") && line.contains(&lock) && line.ends_with(" 3 6")), "{text}");
    let all = std::fs::read_to_string("/proc/locks").unwrap();
    assert!(all.lines().any(|line| line.contains(&lock) && line.ends_with(" 3 6")), "{all}");
    let counter = ok!(SYS_eventfd2, 7, 0) as i32;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{counter}")).unwrap();
    assert!(text.contains("eventfd-count:                7\n"), "{text}");
    assert!(std::fs::metadata("/proc/self/fdinfo/999").is_err());
}

/// The processors in /sys are those that there are.
fn sys_tree() {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let count = unsafe { sysconf(_SC_NPROCESSORS_ONLN) };
    let expected = if count == 1 { "0\n".to_owned() } else { format!("0-{}\n", count - 1) };
    assert_eq!(online, expected);
    assert!(std::fs::metadata("/sys/devices/system/cpu/cpu0/topology/core_id").is_ok());
    assert_eq!(std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap(), "65536\n");
    let mut fs: statfs = unsafe { std::mem::zeroed() };
    ok!(SYS_statfs, c"/sys", &mut fs);
    assert_eq!(fs.f_type, 0x6265_6572);
    assert!(std::fs::write("/sys/devices/system/cpu/online", "1").is_err());
}
