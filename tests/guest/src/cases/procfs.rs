//! /proc: what it shows of processes, and what can be written there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "proc-io", calls: "read write", run: io },
    Case { name: "proc-oom-score-adj", calls: "openat write", run: oom_score_adj },
    Case { name: "proc-tasks", calls: "clone gettid", run: tasks },
    Case { name: "proc-memory", calls: "pread64 pwrite64 lseek", run: memory_file },
    Case { name: "proc-access", calls: "setresuid openat", run: access },
    Case { name: "proc-hostname", calls: "unshare sethostname epoll_ctl poll", run: hostname },
    Case { name: "proc-login", calls: "write", run: login },
    Case { name: "pidfd-by-proc", calls: "pidfd_send_signal", run: pidfd_by_proc },
    Case { name: "poll-time-left", calls: "ppoll pselect6 select", run: time_left },
    Case { name: "fstatfs-pipes", calls: "fstatfs", run: statfs_pipes },
];

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

fn io() {
    std::thread::spawn(|| {
        let path = format!("/proc/self/task/{}/io", ok!(SYS_gettid));
        let before = fs::read_to_string(&path).unwrap();
        let [r, w] = new_pipe();
        for _ in 0..10 {
            put(w, b"abcd");
            get(r, 4);
        }
        let after = fs::read_to_string(&path).unwrap();
        assert_eq!(field(&after, "syscw") - field(&before, "syscw"), 10);
        assert_eq!(field(&after, "wchar") - field(&before, "wchar"), 40);
        assert!(field(&after, "syscr") - field(&before, "syscr") >= 10);
    })
    .join()
    .unwrap();
}

fn oom_score_adj() {
    let status = in_child(|| {
        let path = "/proc/self/oom_score_adj";
        fs::write(path, "321").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "321\n");
        assert_eq!(fs::write(path, "1001").unwrap_err().raw_os_error(), Some(EINVAL));
        assert_eq!(fs::write(path, "x").unwrap_err().raw_os_error(), Some(EINVAL));
        in_child(|| i32::from(fs::read_to_string(path).unwrap() != "321\n"))
    });
    assert_eq!(status, 0);
}

fn tasks() {
    let links = || fs::metadata("/proc/self/task").unwrap().nlink();
    let before = links();
    let (ready, wait) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        ready.send(ok!(SYS_gettid)).unwrap();
        let _ = ended.recv();
    });
    let tid = wait.recv().unwrap();
    assert_eq!(links(), before + 1);
    // A thread has a directory in /proc, too, though it isn't listed there.
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap();
    assert_eq!((field(&status, "Pid"), field(&status, "Tgid")), (tid as u64, ok!(SYS_getpid) as u64));
    assert!(fs::metadata(format!("/proc/{tid}/task/{tid}")).unwrap().is_dir());
    drop(end);
    thread.join().unwrap();
    let children = format!("/proc/self/task/{}/children", ok!(SYS_gettid));
    let pid = spawn(|| unsafe { pause() });
    let text = fs::read_to_string(children).unwrap();
    assert!(text.split(' ').any(|word| word == pid.to_string()), "{text}");
    unsafe { kill(pid, SIGKILL) };
    reap(pid);
}

fn memory_file() {
    let mut word = *b"some word";
    let fd = ok!(SYS_openat, AT_FDCWD, c"/proc/self/mem", O_RDWR);
    let mut copy = [0u8; 9];
    assert_eq!(ok!(SYS_pread64, fd, &mut copy, 9, &mut word), 9);
    assert_eq!(&copy, b"some word");
    assert_eq!(ok!(SYS_pwrite64, fd, b"same".as_ptr(), 4, &mut word), 4);
    assert_eq!(unsafe { std::ptr::read_volatile(&word) }, *b"same word");
    assert_eq!(sys!(SYS_pread64, fd, &mut copy, 9, 8), Err(EIO));
    assert_eq!(sys!(SYS_lseek, fd, 0, SEEK_END), Err(EINVAL));
    ok!(SYS_close, fd);
}

fn access() {
    if ok!(SYS_geteuid) != 0 {
        skip("needs root");
    }
    let parent = ok!(SYS_getpid);
    let status = in_child(|| {
        ok!(SYS_setresuid, 65534, 65534, 65534);
        for name in ["maps", "mem", "environ", "auxv", "io", "fd", "fd/0"] {
            let path = std::ffi::CString::new(format!("/proc/{parent}/{name}")).unwrap();
            assert_eq!(sys!(SYS_openat, AT_FDCWD, path.as_c_str(), O_RDONLY), Err(EACCES), "{name}");
        }
        fs::read(format!("/proc/{parent}/stat")).unwrap();
        // Its own, though not dumpable now.
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() >= 3);
        0
    });
    assert_eq!(status, 0);
    let mode = |path: &str| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("/proc/self/fd"), mode("/proc/self/mem"), mode("/proc/self/environ")), (0o500, 0o600, 0o400));
}

fn hostname() {
    let status = in_child(|| {
        if sys!(SYS_unshare, CLONE_NEWUTS).is_err() {
            return 77;
        }
        let fd = ok!(SYS_openat, AT_FDCWD, c"/proc/sys/kernel/hostname", O_RDONLY) as i32;
        let mut poll = pollfd { fd, events: POLLPRI, revents: 0 };
        assert_eq!(ok!(SYS_poll, &mut poll, 1, 0), 0);
        let epoll = ok!(SYS_epoll_create1, 0);
        let mut event = epoll_event { events: 0, u64: 7 };
        ok!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &mut event);
        assert_eq!(ok!(SYS_epoll_wait, epoll, &mut event, 1, 0), 0);
        ok!(SYS_sethostname, b"other".as_ptr(), 5);
        assert_eq!(ok!(SYS_epoll_wait, epoll, &mut event, 1, 1000), 1);
        assert_eq!({ event.events } & EPOLLERR as u32, EPOLLERR as u32);
        assert_eq!(ok!(SYS_epoll_wait, epoll, &mut event, 1, 0), 0, "told once");
        fs::write("/proc/sys/kernel/hostname", "third\n").unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), "third\n");
        0
    });
    if status == exited(77) {
        skip("needs a namespace of names");
    }
    assert_eq!(status, 0);
}

fn login() {
    // What a first login writes; one more needs a capability.
    let text = fs::read_to_string("/proc/self/loginuid");
    let Ok(text) = text else { skip("no audit in this kernel") };
    text.parse::<u32>().unwrap();
    fs::read_to_string("/proc/self/sessionid").unwrap().parse::<u32>().unwrap();
    assert_eq!(in_child(|| i32::from(fs::write("/proc/self/loginuid", "x").is_ok())), 0);
    let other = spawn(|| unsafe { pause() });
    assert_eq!(fs::write(format!("/proc/{other}/loginuid"), "0").unwrap_err().raw_os_error(), Some(EPERM));
    unsafe { kill(other, SIGKILL) };
    reap(other);
}

fn pidfd_by_proc() {
    let pid = spawn(|| unsafe { pause() });
    let path = std::ffi::CString::new(format!("/proc/{pid}")).unwrap();
    let fd = ok!(SYS_openat, AT_FDCWD, path.as_c_str(), O_DIRECTORY);
    assert_eq!(sys!(SYS_pidfd_send_signal, 0, 0, 0, 0), Err(EBADF));
    assert_eq!(sys!(SYS_pidfd_send_signal, fd, 0, 0, 0x100), Err(EINVAL));
    ok!(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0);
    assert_eq!(reap(pid), SIGTERM);
    assert!(matches!(sys!(SYS_pidfd_send_signal, fd, 0, 0, 0), Err(ESRCH | EBADF)));
    ok!(SYS_close, fd);
}

fn time_left() {
    let left = |time: timespec| time.tv_sec * 1_000_000_000 + time.tv_nsec;
    let mut time = timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    assert_eq!(ok!(SYS_ppoll, 0, 0, &mut time, 0, 0), 0);
    assert_eq!(left(time), 0);
    let [r, w] = new_pipe();
    put(w, b"x");
    let mut time = timespec { tv_sec: 100, tv_nsec: 0 };
    let mut poll = pollfd { fd: r, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_ppoll, &mut poll, 1, &mut time, 0, 0), 1);
    assert!((1..100_000_000_000).contains(&left(time)), "{}", left(time));
    let mut time = timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    assert_eq!(ok!(SYS_pselect6, 0, 0, 0, 0, &mut time, 0), 0);
    assert_eq!(left(time), 0);
    let mut time = timeval { tv_sec: 0, tv_usec: 1000 };
    assert_eq!(ok!(SYS_select, 0, 0, 0, 0, &mut time), 0);
    assert_eq!((time.tv_sec, time.tv_usec), (0, 0));
}

fn statfs_pipes() {
    let [r, _] = new_pipe();
    let mut info: statfs = unsafe { std::mem::zeroed() };
    ok!(SYS_fstatfs, r, &mut info);
    assert_eq!((info.f_type, info.f_namelen), (0x5049_5045, 255));
}
