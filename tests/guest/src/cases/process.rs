//! Processes and threads.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "fork-wait", calls: "fork wait4 exit exit_group", run: fork_wait },
    Case { name: "wait-options", calls: "wait4 waitid", run: wait_options },
    Case { name: "vfork", calls: "vfork execve", run: vforking },
    Case { name: "clone-flags", calls: "clone clone3", run: clone_flags },
    Case { name: "clone-thread", calls: "clone exit futex gettid", run: clone_thread },
    Case { name: "exec", calls: "execve execveat", run: exec },
    Case { name: "exec-scripts", calls: "execve", run: scripts },
    Case { name: "exec-errors", calls: "execve execveat", run: exec_errors },
    Case { name: "exec-threads", calls: "execve", run: exec_threads },
    Case { name: "exit-threads", calls: "exit_group", run: exit_threads },
    Case { name: "orphans", calls: "getppid wait4", run: orphans },
    Case { name: "limits", calls: "getrlimit setrlimit prlimit64", run: limits },
    Case { name: "prctl", calls: "prctl arch_prctl", run: prctls },
    Case { name: "scheduling", calls: "sched_yield sched_getaffinity", run: scheduling },
    Case { name: "many-threads", calls: "clone3 exit futex", run: many_threads },
    Case { name: "descriptors-after-fork", calls: "fork close execve", run: descriptors },
    Case { name: "no-such-call", calls: "", run: no_such_call },
];

fn fork_wait() {
    assert_eq!(in_child(|| 7), exited(7));
    assert_eq!(in_child(|| ok!(SYS_exit_group, 0x1ff) as i32), exited(0xff));
    assert_eq!(in_child(|| ok!(SYS_exit, 3) as i32), exited(3));
    assert_eq!(in_child(|| unsafe { kill(getpid(), SIGKILL) }), SIGKILL);
    assert_eq!(sys!(SYS_wait4, -1, 0, 0, 0), Err(ECHILD));
    let pids: Vec<_> = (0..20).map(|i| spawn(move || i)).collect();
    let mut seen = 0;
    for _ in 0..20 {
        let mut status = 0;
        let mut usage: rusage = unsafe { std::mem::zeroed() };
        let pid = ok!(SYS_wait4, -1, &mut status, 0, &mut usage) as i32;
        let i = pids.iter().position(|known| *known == pid).unwrap();
        assert_eq!(status, exited(i as i32));
        seen |= 1 << i;
    }
    assert_eq!(seen, (1 << 20) - 1);
    let child = unsafe { syscall(SYS_fork) } as i32;
    if child == 0 {
        unsafe { _exit(9) };
    }
    assert_eq!(reap(child), exited(9));
}

fn wait_options() {
    let [r, w] = new_pipe();
    let pid = spawn(|| {
        get(r, 1);
        5
    });
    assert_eq!(ok!(SYS_wait4, pid, 0, WNOHANG, 0), 0);
    assert_eq!(sys!(SYS_wait4, pid, 0, 0x1000, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_wait4, 99_999_999, 0, 0, 0), Err(ECHILD));
    put(w, b"x");
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    ok!(SYS_waitid, P_PID, pid, &mut info, WEXITED | WNOWAIT, 0);
    let fields = unsafe { (info.si_signo, info.si_code, info.si_pid(), info.si_status()) };
    assert_eq!(fields, (SIGCHLD, CLD_EXITED, pid, 5));
    ok!(SYS_waitid, P_ALL, 0, &mut info, WEXITED, 0);
    assert_eq!(sys!(SYS_waitid, P_ALL, 0, &mut info, WEXITED, 0), Err(ECHILD));
    assert_eq!(sys!(SYS_waitid, P_ALL, 0, &mut info, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_waitid, 99, 0, &mut info, WEXITED, 0), Err(EINVAL));
    // Stopped and continued children are seen when asked for.
    let pid = spawn(|| {
        loop {
            unsafe { pause() };
        }
    });
    unsafe { kill(pid, SIGSTOP) };
    let mut status = 0;
    assert_eq!(ok!(SYS_wait4, pid, &mut status, WUNTRACED, 0) as i32, pid);
    assert_eq!(status, SIGSTOP << 8 | 0x7f);
    assert_eq!(ok!(SYS_wait4, pid, &mut status, WUNTRACED | WNOHANG, 0), 0, "told once");
    unsafe { kill(pid, SIGCONT) };
    assert_eq!(ok!(SYS_wait4, pid, &mut status, WCONTINUED, 0) as i32, pid);
    assert_eq!(status, 0xffff);
    unsafe { kill(pid, SIGTERM) };
    assert_eq!(reap(pid), SIGTERM);
}

fn vforking() {
    // The parent waits until the child has called exec: what it finds then is the new program's doing.
    let output = std::process::Command::new("/bin/echo").arg("spawned").output().unwrap();
    assert_eq!(output.stdout, b"spawned\n");
    let start = now();
    let pid = ok!(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) as i32;
    if pid == 0 {
        std::thread::sleep(std::time::Duration::from_millis(30));
        unsafe { _exit(4) };
    }
    assert!(now() - start >= 30_000_000);
    assert_eq!(reap(pid), exited(4));
}

fn clone_flags() {
    for flags in [CLONE_SIGHAND, CLONE_THREAD, CLONE_THREAD | CLONE_SIGHAND, CLONE_NEWNS | CLONE_FS] {
        assert_eq!(sys!(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0), Err(EINVAL));
    }
    let mut args = [0u64; 11];
    assert_eq!(sys!(SYS_clone3, &mut args, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_clone3, &mut args, 1 << 20), Err(E2BIG));
    args[4] = 999;
    assert_eq!(sys!(SYS_clone3, &mut args, 88), Err(EINVAL));
    args[4] = SIGCHLD as u64;
    let pid = ok!(SYS_clone3, &mut args, 88) as i32;
    if pid == 0 {
        unsafe { _exit(6) };
    }
    assert_eq!(reap(pid), exited(6));
    // The child's number, stored in both.
    let (mut parent, mut child) = (0i32, 0i32);
    let pid = ok!(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &mut parent, &mut child, 0) as i32;
    if pid == 0 {
        let seen = unsafe { std::ptr::read_volatile(&child) };
        unsafe { _exit(i32::from(i64::from(seen) != ok!(SYS_getpid))) };
    }
    assert_eq!((parent, reap(pid)), (pid, 0));
}

fn clone_thread() {
    static STEP: AtomicU32 = AtomicU32::new(0);
    static CLEARED: AtomicU32 = AtomicU32::new(1);
    extern "C" fn body(_: *mut c_void) -> i32 {
        STEP.store(ok!(SYS_gettid) as u32, SeqCst);
        ok!(SYS_exit, 0) as i32
    }
    let stack = memory(1 << 16);
    let flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
    let top = stack.wrapping_add(1 << 16).cast();
    let null = std::ptr::null_mut::<c_void>();
    let tid = unsafe { clone(body, top, flags, null, null, null, CLEARED.as_ptr()) };
    assert!(tid > 0);
    // The thread's end clears the word and wakes who waits for that.
    while CLEARED.load(SeqCst) != 0 {
        let _ = sys!(SYS_futex, CLEARED.as_ptr(), FUTEX_WAIT, 1, 0);
    }
    assert_eq!(STEP.load(SeqCst), tid as u32);
}

fn run(argv: &[&std::ffi::CStr], envp: &[&std::ffi::CStr]) -> impl FnOnce() -> i32 {
    let path = argv[0].as_ptr();
    let list = |all: &[&std::ffi::CStr]| all.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, envp) = (list(argv), list(envp));
    move || sys!(SYS_execve, path, argv.as_ptr(), envp.as_ptr()).unwrap_err()
}

/// Runs `f` in a child and returns its output and status.
fn output(f: impl FnOnce() -> i32) -> (String, i32) {
    let [r, w] = new_pipe();
    let pid = spawn(move || {
        ok!(SYS_dup2, w, 1);
        ok!(SYS_close, r);
        f()
    });
    ok!(SYS_close, w);
    let mut text = Vec::new();
    loop {
        let more = get(r, 4096);
        if more.is_empty() {
            break;
        }
        text.extend(more);
    }
    (String::from_utf8(text).unwrap(), reap(pid))
}

fn exec() {
    let child = run(&[c"/bin/sh", c"-c", c"echo $0 $1 $X; exit 3", c"zero", c"one"], &[c"X=env"]);
    assert_eq!(output(child), ("zero one env\n".to_owned(), exited(3)));
    let (text, _) = output(run(&[c"/usr/bin/env"], &[c"A=1", c"B=2"]));
    assert_eq!(text, "A=1\nB=2\n");
    let dir = ok!(SYS_open, c"/bin", O_PATH | O_DIRECTORY);
    let argv = [c"echo".as_ptr(), c"at".as_ptr(), std::ptr::null()];
    let (text, _) = output(move || sys!(SYS_execveat, dir, c"echo", argv.as_ptr(), 0, 0).unwrap_err());
    assert_eq!(text, "at\n");
    let program = ok!(SYS_open, c"/bin/echo", O_PATH);
    let argv = [c"echo".as_ptr(), c"fd".as_ptr(), std::ptr::null()];
    let (text, _) = output(move || sys!(SYS_execveat, program, c"", argv.as_ptr(), 0, AT_EMPTY_PATH).unwrap_err());
    assert_eq!(text, "fd\n");
    // What was ignored stays ignored; handlers are gone; the mask stays.
    let (text, _) = output(|| {
        unsafe { signal(SIGUSR1, SIG_IGN) };
        extern "C" fn handler(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
        handle(SIGUSR2, handler, 0);
        ok!(SYS_rt_sigprocmask, SIG_SETMASK, &mut (1u64 << (SIGALRM - 1)), 0, 8);
        run(&[c"/bin/grep", c"-E", c"^Sig(Blk|Ign|Cgt)", c"/proc/self/status"], &[])()
    });
    let bits = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    assert_eq!((bits("SigBlk"), bits("SigIgn") & 0xa00, bits("SigCgt") & 0x800), (1 << (SIGALRM - 1), 1 << (SIGUSR1 - 1), 0));
}

fn scripts() {
    std::fs::write("s", "#!/bin/sh -e\necho script $0 $1\n").unwrap();
    ok!(SYS_chmod, c"s", 0o755);
    assert_eq!(output(run(&[c"./s", c"arg"], &[])), ("script ./s arg\n".to_owned(), 0));
    std::fs::write("t", "#! ./s  with blanks \n").unwrap();
    ok!(SYS_chmod, c"t", 0o755);
    assert_eq!(output(run(&[c"./t", c"x"], &[])), ("script ./s with blanks\n".to_owned(), 0));
    std::fs::write("loop", "#!./loop\n").unwrap();
    ok!(SYS_chmod, c"loop", 0o755);
    assert_eq!(in_child(run(&[c"./loop"], &[])), exited(ELOOP));
}

fn exec_errors() {
    assert_eq!(in_child(run(&[c"missing"], &[])), exited(ENOENT));
    std::fs::write("f", "not a program").unwrap();
    assert_eq!(in_child(run(&[c"./f"], &[])), exited(EACCES));
    ok!(SYS_chmod, c"f", 0o755);
    assert_eq!(in_child(run(&[c"./f"], &[])), exited(ENOEXEC));
    assert_eq!(in_child(run(&[c"."], &[])), exited(EACCES));
    std::fs::write("i", "#!/no/such/interpreter\n").unwrap();
    ok!(SYS_chmod, c"i", 0o755);
    assert_eq!(in_child(run(&[c"./i"], &[])), exited(ENOENT));
    assert_eq!(sys!(SYS_execve, 8, 0, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_execve, c"/bin/true", 8, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_execveat, AT_FDCWD, c"", 0, 0, 0), Err(ENOENT));
    // A header that promises more than there is.
    let mut elf = std::fs::read("/bin/true").unwrap();
    elf.truncate(200);
    std::fs::write("e", &elf).unwrap();
    ok!(SYS_chmod, c"e", 0o755);
    let status = in_child(run(&[c"./e"], &[]));
    assert!(status != 0);
}

fn exec_threads() {
    // All other threads end; the number stays, whoever calls.
    let status = in_child(|| {
        let pid = ok!(SYS_getpid);
        for _ in 0..4 {
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            });
        }
        let script = std::ffi::CString::new(format!("test $$ = {pid} && test $(ls /proc/$$/task | wc -l) = 1")).unwrap();
        std::thread::spawn(move || run(&[c"/bin/sh", c"-c", &script], &[c"PATH=/usr/bin:/bin"])()).join().unwrap()
    });
    assert_eq!(status, 0);
}

fn exit_threads() {
    let status = in_child(|| {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
        std::thread::spawn(|| ok!(SYS_exit_group, 8)).join().unwrap() as i32
    });
    assert_eq!(status, exited(8));
}

fn orphans() {
    let [r, w] = new_pipe();
    let pid = spawn(|| {
        let parent = ok!(SYS_getpid);
        spawn(move || {
            while ok!(SYS_getppid) == parent {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            put(w, b"adopted");
            0
        });
        0
    });
    assert_eq!(reap(pid), 0);
    assert_eq!(get(r, 9), b"adopted");
}

fn limits() {
    let status = in_child(|| {
        let mut limit = [0u64; 2];
        ok!(SYS_getrlimit, RLIMIT_NOFILE, &mut limit);
        assert!(limit[0] <= limit[1]);
        ok!(SYS_setrlimit, RLIMIT_NOFILE, &mut [20u64, limit[1]]);
        let mut now = [0u64; 2];
        ok!(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &mut now);
        assert_eq!(now, [20, limit[1]]);
        let mut last = 0;
        while let Ok(fd) = sys!(SYS_dup, 0) {
            last = fd;
        }
        assert_eq!((last, sys!(SYS_dup, 0)), (19, Err(EMFILE)));
        assert_eq!(sys!(SYS_setrlimit, RLIMIT_NOFILE, &mut [30u64, 20]), Err(EINVAL));
        assert_eq!(sys!(SYS_getrlimit, 99, &mut now), Err(EINVAL));
        assert_eq!(sys!(SYS_prlimit64, 99_999_999, 0, 0, &mut now), Err(ESRCH));
        // Children inherit.
        in_child(|| {
            let mut inherited = [0u64; 2];
            ok!(SYS_getrlimit, RLIMIT_NOFILE, &mut inherited);
            i32::from(inherited[0] != 20)
        })
    });
    assert_eq!(status, 0);
}

fn prctls() {
    ok!(SYS_prctl, PR_SET_NAME, c"a name that is too long", 0, 0, 0);
    let mut name = [0u8; 16];
    ok!(SYS_prctl, PR_GET_NAME, &mut name, 0, 0, 0);
    assert_eq!(&name, b"a name that is \0");
    assert_eq!(std::fs::read_to_string("/proc/thread-self/comm").unwrap(), "a name that is \n");
    assert_eq!(sys!(SYS_prctl, 99_999, 0, 0, 0, 0), Err(EINVAL));
    let mut base = 0u64;
    ok!(SYS_arch_prctl, 0x1003, &mut base);
    assert_eq!(unsafe { *(base as *const u64) }, base, "the thread pointer points to itself");
    assert_eq!(sys!(SYS_arch_prctl, 0x1002, 1i64 << 62), Err(EPERM));
    assert_eq!(sys!(SYS_arch_prctl, 0x7777, 0), Err(EINVAL));
}

fn scheduling() {
    ok!(SYS_sched_yield);
    let mut mask = [0u64; 16];
    let size = ok!(SYS_sched_getaffinity, 0, 128, &mut mask);
    assert!(size >= 8 && mask.iter().any(|word| *word != 0));
    assert_eq!(sys!(SYS_sched_getaffinity, 0, 1, &mut mask), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_getaffinity, 99_999_999, 128, &mut mask), Err(ESRCH));
}

fn many_threads() {
    for _ in 0..5 {
        let threads: Vec<_> = (0..50u64).map(|i| std::thread::spawn(move || (0..=i).sum::<u64>())).collect();
        let sum: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(sum, 20_825);
    }
}

fn descriptors() {
    let fd = file(c"f");
    put(fd, b"abc");
    assert_eq!(in_child(|| ok!(SYS_lseek, fd, 1, SEEK_SET) as i32), exited(1));
    assert_eq!(get(fd, 9), b"bc", "the position is shared");
    assert_eq!(in_child(|| ok!(SYS_close, fd) as i32), 0);
    ok!(SYS_lseek, fd, 0, SEEK_CUR);
    let keep = ok!(SYS_dup2, fd, 77);
    ok!(SYS_dup3, fd, 78, O_CLOEXEC);
    let child = run(&[c"/bin/sh", c"-c", c"test -e /proc/self/fd/77 && ! test -e /proc/self/fd/78"], &[]);
    assert_eq!((keep, in_child(child)), (77, 0));
}

fn no_such_call() {
    assert_eq!(sys!(999), Err(ENOSYS));
    assert_eq!(sys!(i64::MAX), Err(ENOSYS));
    assert_eq!(sys!(-1i64), Err(ENOSYS));
}
