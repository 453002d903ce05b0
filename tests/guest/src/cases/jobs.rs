//! Sessions, process groups, stopping and continuing, queued signals, adoption.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "sessions", calls: "setsid getsid getpgid getpgrp", run: sessions },
    Case { name: "process-groups", calls: "setpgid", run: process_groups },
    Case { name: "orphaned-group", calls: "setpgid kill", run: orphaned_group },
    Case { name: "stop-all-threads", calls: "kill waitid", run: stop_all_threads },
    Case { name: "stop-and-continue", calls: "kill rt_sigpending", run: stop_and_continue },
    Case { name: "stop-news", calls: "rt_sigaction waitid", run: stop_news },
    Case { name: "sleep-goes-on", calls: "nanosleep restart_syscall", run: sleep_goes_on },
    Case { name: "wait-kinds", calls: "wait4 waitid", run: wait_kinds },
    Case { name: "usage-of-children", calls: "wait4 getrusage times", run: usage_of_children },
    Case { name: "sigqueue", calls: "rt_sigqueueinfo rt_tgsigqueueinfo", run: queueing },
    Case { name: "sigqueue-limit", calls: "rt_sigqueueinfo", run: queue_limit },
    Case { name: "sigtimedwait-process", calls: "rt_sigtimedwait kill", run: wait_for_process_signal },
    Case { name: "frame-layout", calls: "rt_sigreturn", run: frame_layout },
    Case { name: "altstack-autodisarm", calls: "sigaltstack", run: autodisarm },
    Case { name: "altstack-overflow", calls: "sigaltstack", run: altstack_overflow },
    Case { name: "fault-while-blocked", calls: "rt_sigprocmask", run: fault_while_blocked },
    Case { name: "parent-death-signal", calls: "prctl", run: parent_death },
    Case { name: "subreaper", calls: "prctl", run: subreaper },
    Case { name: "exec-by-thread", calls: "execve gettid", run: exec_by_thread },
    Case { name: "clone-parent", calls: "clone clone3", run: clone_parent },
    Case { name: "vfork-undisturbed", calls: "vfork", run: vfork_undisturbed },
];

fn bit(signo: i32) -> u64 {
    1 << (signo - 1)
}

fn block(set: u64) {
    ok!(SYS_rt_sigprocmask, SIG_BLOCK, &mut { set }, 0, 8);
}

fn zeroed<T>() -> T {
    unsafe { std::mem::zeroed() }
}

/// A child that only waits for signals.
fn idle() -> i32 {
    spawn(|| {
        loop {
            unsafe { pause() };
        }
    })
}

fn wait_info(pid: i32, options: i32) -> Result<(i32, i32), i32> {
    let mut info: siginfo_t = zeroed();
    sys!(SYS_waitid, P_PID, pid, &mut info, options, 0)?;
    Ok(unsafe { (info.si_code, info.si_status()) })
}

fn end(pid: i32) {
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(reap(pid), SIGKILL);
}

fn sessions() {
    let status = in_child(|| {
        let pid = ok!(SYS_getpid);
        assert_ne!(ok!(SYS_getsid, 0), pid);
        assert_eq!(ok!(SYS_setsid), pid);
        assert_eq!((ok!(SYS_getsid, 0), ok!(SYS_getpgrp), ok!(SYS_getpgid, 0)), (pid, pid, pid));
        assert_eq!(sys!(SYS_setsid), Err(EPERM), "it leads a group already");
        assert_eq!(sys!(SYS_setpgid, 0, 0), Err(EPERM), "a session's leader stays where it is");
        let child = idle();
        assert_eq!((ok!(SYS_getsid, child), ok!(SYS_getpgid, child)), (pid, pid), "children inherit both");
        end(child);
        assert_eq!(sys!(SYS_getsid, 99_999_999), Err(ESRCH));
        assert_eq!(sys!(SYS_getpgid, 99_999_999), Err(ESRCH));
        0
    });
    assert_eq!(status, 0);
    // A group's number isn't free for a session while the group has members.
    let leader = spawn(|| {
        ok!(SYS_setpgid, 0, 0);
        i32::from(sys!(SYS_setsid) != Err(EPERM))
    });
    assert_eq!(reap(leader), 0);
}

fn process_groups() {
    let child = idle();
    assert_eq!(ok!(SYS_getpgid, child), ok!(SYS_getpgrp));
    ok!(SYS_setpgid, child, 0);
    assert_eq!(ok!(SYS_getpgid, child), i64::from(child));
    let other = idle();
    ok!(SYS_setpgid, other, child);
    assert_eq!(ok!(SYS_getpgid, other), i64::from(child));
    assert_eq!(sys!(SYS_setpgid, other, 99_999_999), Err(EPERM));
    assert_eq!(sys!(SYS_setpgid, 0, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_setpgid, 99_999_999, 0), Err(ESRCH));
    // Both by one signal.
    ok!(SYS_kill, -child, SIGTERM);
    assert_eq!((reap(child), reap(other)), (SIGTERM, SIGTERM));
    assert_eq!(sys!(SYS_kill, -child, 0), Err(ESRCH), "a group ends with its members");
    // The parent isn't ours to move; a child is no longer once it runs another program, or in another session.
    let status = in_child(|| i32::from(sys!(SYS_setpgid, ok!(SYS_getppid) as i32, 0) != Err(ESRCH)));
    assert_eq!(status, 0);
    let mut program = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    assert_eq!(sys!(SYS_setpgid, program.id(), 0), Err(EACCES));
    program.kill().unwrap();
    program.wait().unwrap();
    let [r, w] = new_pipe();
    let away = spawn(|| {
        ok!(SYS_setsid);
        put(w, b"x");
        loop {
            unsafe { pause() };
        }
    });
    get(r, 1);
    assert_eq!(sys!(SYS_setpgid, away, 0), Err(EPERM));
    end(away);
}

/// A stopped process whose group nobody in its session could continue is told so.
fn orphaned_group() {
    static SEEN: AtomicI32 = AtomicI32::new(0);
    extern "C" fn note(signo: i32, _: *mut siginfo_t, _: *mut c_void) {
        SEEN.fetch_or(if signo == SIGHUP { 1 } else { 2 }, SeqCst);
    }
    let [r, w] = new_pipe();
    let [r2, w2] = new_pipe();
    let session = spawn(|| {
        ok!(SYS_setsid);
        let child = spawn(|| {
            ok!(SYS_setpgid, 0, 0);
            handle(SIGHUP, note, 0);
            handle(SIGCONT, note, 0);
            // Not orphaned yet: this stops.
            put(w2, b"s");
            ok!(SYS_kill, ok!(SYS_getpid), SIGTSTP);
            while SEEN.load(SeqCst) != 3 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            // Orphaned now: this doesn't.
            ok!(SYS_kill, ok!(SYS_getpid), SIGTSTP);
            ok!(SYS_kill, ok!(SYS_getpid), SIGTTIN);
            put(w, b"told");
            0
        });
        get(r2, 1);
        let mut status = 0;
        ok!(SYS_wait4, child, &mut status, WUNTRACED, 0);
        i32::from(status != SIGTSTP << 8 | 0x7f)
    });
    assert_eq!(reap(session), 0);
    assert_eq!(get(r, 4), b"told");
}

fn stop_all_threads() {
    // Two threads count in shared memory, one sleeps: none does so while the process is stopped.
    let shared = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED).cast::<AtomicU64>();
    let counters = unsafe { std::slice::from_raw_parts(shared, 2) };
    let pid = spawn(|| {
        for counter in counters {
            std::thread::spawn(move || {
                loop {
                    counter.fetch_add(1, SeqCst);
                }
            });
        }
        loop {
            unsafe { pause() };
        }
    });
    let read = || [counters[0].load(SeqCst), counters[1].load(SeqCst)];
    while read().contains(&0) {
        std::thread::yield_now();
    }
    ok!(SYS_kill, pid, SIGSTOP);
    assert_eq!(wait_info(pid, WSTOPPED), Ok((CLD_STOPPED, SIGSTOP)));
    let before = read();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(read(), before);
    assert_eq!(wait_info(pid, WSTOPPED | WNOHANG), Ok((0, 0)), "told once");
    ok!(SYS_kill, pid, SIGCONT);
    assert_eq!(wait_info(pid, WCONTINUED | WNOWAIT), Ok((CLD_CONTINUED, SIGCONT)));
    assert_eq!(wait_info(pid, WCONTINUED), Ok((CLD_CONTINUED, SIGCONT)), "WNOWAIT leaves it");
    while read() == before {
        std::thread::yield_now();
    }
    // SIGKILL ends what is stopped.
    ok!(SYS_kill, pid, SIGSTOP);
    assert_eq!(wait_info(pid, WSTOPPED), Ok((CLD_STOPPED, SIGSTOP)));
    end(pid);
}

fn stop_and_continue() {
    // Each of both forgets the other where it waits.
    let pending = || {
        let mut set = 0u64;
        ok!(SYS_rt_sigpending, &mut set, 8);
        set
    };
    extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
    let pid = ok!(SYS_getpid);
    handle(SIGCONT, nothing, 0);
    block(bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGCONT));
    ok!(SYS_kill, pid, SIGTSTP);
    ok!(SYS_tgkill, pid, ok!(SYS_gettid), SIGTTIN);
    assert_eq!(pending(), bit(SIGTSTP) | bit(SIGTTIN));
    ok!(SYS_kill, pid, SIGCONT);
    assert_eq!(pending(), bit(SIGCONT));
    ok!(SYS_kill, pid, SIGTSTP);
    assert_eq!(pending(), bit(SIGTSTP));
    ok!(SYS_kill, pid, SIGCONT);
    // SIGTERM waits until the process goes on.
    let child = idle();
    ok!(SYS_kill, child, SIGSTOP);
    assert_eq!(wait_info(child, WSTOPPED), Ok((CLD_STOPPED, SIGSTOP)));
    ok!(SYS_kill, child, SIGTERM);
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(wait_info(child, WEXITED | WNOHANG), Ok((0, 0)));
    ok!(SYS_kill, child, SIGCONT);
    assert_eq!(reap(child), SIGTERM);
}

fn stop_news() {
    static CODES: [AtomicI32; 4] = [const { AtomicI32::new(0) }; 4];
    static COUNT: AtomicI32 = AtomicI32::new(0);
    extern "C" fn note(_: i32, info: *mut siginfo_t, _: *mut c_void) {
        CODES[COUNT.fetch_add(1, SeqCst) as usize].store(unsafe { (*info).si_code }, SeqCst);
    }
    let until = |count: i32| {
        while COUNT.load(SeqCst) < count {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    handle(SIGCHLD, note, SA_RESTART);
    let child = idle();
    ok!(SYS_kill, child, SIGSTOP);
    until(1);
    ok!(SYS_kill, child, SIGCONT);
    until(2);
    ok!(SYS_kill, child, SIGTERM);
    until(3);
    assert_eq!([0, 1, 2].map(|i: usize| CODES[i].load(SeqCst)), [CLD_STOPPED, CLD_CONTINUED, CLD_KILLED]);
    reap(child);
    // Who wants to hear of ends only.
    handle(SIGCHLD, note, SA_RESTART | SA_NOCLDSTOP);
    let child = idle();
    ok!(SYS_kill, child, SIGSTOP);
    assert_eq!(wait_info(child, WSTOPPED), Ok((CLD_STOPPED, SIGSTOP)));
    assert_eq!(COUNT.load(SeqCst), 3);
    end(child);
    assert_eq!(COUNT.load(SeqCst), 4);
}

fn sleep_goes_on() {
    // A stop and a continuation don't make a sleep longer.
    let child = spawn(|| {
        let start = now();
        ok!(SYS_nanosleep, &mut ns(300_000_000), 0);
        let slept = now() - start;
        i32::from(!(300_000_000..500_000_000).contains(&slept))
    });
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        ok!(SYS_kill, child, SIGSTOP);
        assert_eq!(wait_info(child, WSTOPPED), Ok((CLD_STOPPED, SIGSTOP)));
        ok!(SYS_kill, child, SIGCONT);
    }
    assert_eq!(reap(child), 0);
    assert_eq!(sys!(SYS_restart_syscall), Err(EINTR), "nothing to go on with");
}

fn wait_kinds() {
    // Children whose end tells of itself by another signal, or by none, are "clone" children.
    for signo in [0, SIGUSR1] {
        unsafe { signal(SIGUSR1, SIG_IGN) };
        let pid = ok!(SYS_clone, signo, 0, 0, 0, 0) as i32;
        if pid == 0 {
            unsafe { _exit(3) };
        }
        assert_eq!(sys!(SYS_wait4, pid, 0, 0, 0), Err(ECHILD));
        let mut status = 0;
        let option = if signo == 0 { __WCLONE } else { __WALL };
        assert_eq!((ok!(SYS_wait4, pid, &mut status, option, 0) as i32, status), (pid, exited(3)));
    }
    let child = spawn(|| 4);
    assert_eq!(sys!(SYS_wait4, child, 0, __WCLONE, 0), Err(ECHILD));
    assert_eq!(wait_info(child, WEXITED | WNOWAIT), Ok((CLD_EXITED, 4)));
    // A zombie is nobody to be stopped or continued.
    assert_eq!(wait_info(child, WSTOPPED), Err(ECHILD));
    // Children of another thread.
    let other = std::thread::spawn(move || sys!(SYS_wait4, child, 0, __WNOTHREAD, 0)).join().unwrap();
    assert_eq!(other, Err(ECHILD));
    assert_eq!(ok!(SYS_wait4, child, 0, __WNOTHREAD, 0) as i32, child);
    // By group.
    let [a, b] = [idle(), idle()];
    ok!(SYS_setpgid, a, 0);
    let mut info: siginfo_t = zeroed();
    ok!(SYS_kill, b, SIGKILL);
    ok!(SYS_kill, a, SIGTERM);
    ok!(SYS_waitid, P_PGID, a, &mut info, WEXITED, 0);
    assert_eq!(unsafe { (info.si_pid(), info.si_code, info.si_status()) }, (a, CLD_KILLED, SIGTERM));
    ok!(SYS_waitid, P_PGID, 0, &mut info, WEXITED, 0);
    assert_eq!(unsafe { info.si_pid() }, b);
    assert_eq!(sys!(SYS_waitid, P_PGID, a, &mut info, WEXITED, 0), Err(ECHILD));
    assert_eq!(sys!(SYS_waitid, P_PID, 0, &mut info, WEXITED, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_waitid, P_ALL, 0, &mut info, WEXITED | 0x100, 0), Err(EINVAL));
}

fn usage_of_children() {
    let busy = |ns: u64| {
        let start = now();
        while now() - start < ns {
            std::hint::spin_loop();
        }
    };
    let micros = |time: timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let child = spawn(|| {
        in_child(|| {
            busy(60_000_000);
            0
        });
        0
    });
    let mut usage: rusage = zeroed();
    ok!(SYS_wait4, child, 0, 0, &mut usage);
    // The grandchild's time is the child's, which has waited for it. The machine may be busy.
    let waited = micros(usage.ru_utime) + micros(usage.ru_stime);
    assert!((5_000..500_000).contains(&waited), "{waited}");
    ok!(SYS_getrusage, RUSAGE_CHILDREN, &mut usage);
    assert!(micros(usage.ru_utime) + micros(usage.ru_stime) >= waited);
    let mut ticks = [0i64; 4];
    ok!(SYS_times, &mut ticks);
    assert!(ticks[2] + ticks[3] >= waited / 10_000 - 1);
}

static COUNT: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_value(_: i32, info: *mut siginfo_t, _: *mut c_void) {
    COUNT.fetch_add(1, SeqCst);
    unsafe {
        assert_eq!((*info).si_pid(), 77);
        VALUE.store((*info).si_value().sival_ptr as u64 + ((*info).si_code as u64) * 1000, SeqCst);
    }
}

/// A siginfo as sigqueue(3) makes it.
fn info(signo: i32, code: i32, value: u64) -> [u64; 16] {
    let mut info = [0; 16];
    info[0] = signo as u64;
    info[1] = u64::from(code as u32);
    (info[2], info[3]) = (77, value);
    info
}

fn queueing() {
    let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    handle(SIGRTMIN() + 1, note_value, 0);
    let signo = SIGRTMIN() + 1;
    ok!(SYS_rt_sigqueueinfo, pid, signo, &mut info(0, SI_QUEUE, 5));
    assert_eq!(VALUE.load(SeqCst) as i64, 5 + i64::from(SI_QUEUE) * 1000);
    ok!(SYS_rt_tgsigqueueinfo, pid, tid, signo, &mut info(0, SI_QUEUE, 6));
    assert_eq!((VALUE.load(SeqCst) as i64, COUNT.load(SeqCst)), (6 + i64::from(SI_QUEUE) * 1000, 2));
    // To others nobody is the kernel.
    let child = idle();
    for code in [SI_USER, SI_TKILL, SI_KERNEL] {
        assert_eq!(sys!(SYS_rt_sigqueueinfo, child, signo, &mut info(0, code, 5)), Err(EPERM));
        assert_eq!(sys!(SYS_rt_tgsigqueueinfo, child, child, signo, &mut info(0, code, 5)), Err(EPERM));
    }
    ok!(SYS_rt_sigqueueinfo, child, 0, &mut info(0, SI_QUEUE, 0));
    assert_eq!(sys!(SYS_rt_sigqueueinfo, child, 65, &mut info(0, SI_QUEUE, 0)), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigqueueinfo, 99_999_999, signo, &mut info(0, SI_QUEUE, 0)), Err(ESRCH));
    assert_eq!(sys!(SYS_rt_sigqueueinfo, child, signo, 8), Err(EFAULT));
    assert_eq!(sys!(SYS_rt_tgsigqueueinfo, -1, child, signo, &mut info(0, SI_QUEUE, 0)), Err(EINVAL));
    ok!(SYS_rt_tgsigqueueinfo, child, child, SIGTERM, &mut info(0, SI_QUEUE, 0));
    assert_eq!(reap(child), SIGTERM);
}

fn queue_limit() {
    let status = in_child(|| {
        let signo = SIGRTMIN() + 1;
        block(bit(signo) | bit(SIGUSR1));
        ok!(SYS_setrlimit, RLIMIT_SIGPENDING, &mut [10u64, 10]);
        let pid = ok!(SYS_getpid);
        let mut sent = 0;
        let last = loop {
            match sys!(SYS_rt_sigqueueinfo, pid, signo, &mut info(0, SI_QUEUE, sent)) {
                Ok(_) => sent += 1,
                Err(errno) => break errno,
            }
        };
        // The user may have others queued elsewhere.
        assert!(last == EAGAIN && sent <= 10, "{last} {sent}");
        // What kill(2) sends is never lost.
        ok!(SYS_kill, pid, SIGUSR1);
        let mut set = 0u64;
        ok!(SYS_rt_sigpending, &mut set, 8);
        assert_eq!(set & bit(SIGUSR1), bit(SIGUSR1));
        // In order, with their values.
        let mut seen: siginfo_t = zeroed();
        for i in 0..sent {
            ok!(SYS_rt_sigtimedwait, &mut { bit(signo) }, &mut seen, 0, 8);
            assert_eq!(unsafe { seen.si_value().sival_ptr as u64 }, i);
        }
        0
    });
    assert_eq!(status, 0);
}

fn wait_for_process_signal() {
    // Sent to the process while all its threads block it: who waits for it gets it.
    block(bit(SIGUSR1));
    let pid = ok!(SYS_getpid);
    let waiter = std::thread::spawn(|| sys!(SYS_rt_sigtimedwait, &mut { bit(SIGUSR1) }, 0, &mut ns(10_000_000_000), 8));
    std::thread::sleep(std::time::Duration::from_millis(30));
    ok!(SYS_kill, pid, SIGUSR1);
    assert_eq!(waiter.join().unwrap(), Ok(i64::from(SIGUSR1)));
    // Other signals interrupt, even where the handler asks for restarts.
    extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
    handle(SIGUSR2, nothing, SA_RESTART);
    let tid = ok!(SYS_gettid);
    let other = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        ok!(SYS_tgkill, pid, tid, SIGUSR2);
    });
    assert_eq!(sys!(SYS_rt_sigtimedwait, &mut { bit(SIGUSR1) }, 0, &mut ns(10_000_000_000), 8), Err(EINTR));
    other.join().unwrap();
}

fn frame_layout() {
    static PASSED: AtomicI32 = AtomicI32::new(0);
    extern "C" fn look(_: i32, info: *mut siginfo_t, context: *mut c_void) {
        let context = unsafe { &mut *context.cast::<ucontext_t>() };
        assert_eq!(unsafe { (*info).si_signo }, SIGUSR1);
        let fp = context.uc_mcontext.fpregs.cast::<u8>();
        let word = |at: usize| unsafe { fp.add(at).cast::<u32>().read_unaligned() };
        // struct _fpx_sw_bytes: magic, size with the second magic, features, size.
        let (magic, extended, size) = (word(464), word(468) as usize, word(480) as usize);
        assert_eq!((magic, extended, word(size)), (0x4650_5853, size + 4, 0x4650_5845));
        assert!(size >= 576 && word(472) & 3 == 3, "x87 and SSE at least");
        assert_eq!(fp as usize % 64, 0);
        assert_eq!(context.uc_flags & 7, 7);
        assert_eq!(context.uc_mcontext.gregs[REG_CSGSFS as usize] as u64 & 0xffff, 0x33);
        assert_eq!(context.uc_sigmask.as_u64() & bit(SIGUSR2), bit(SIGUSR2), "the mask from before");
        // What the handler changes there is what the thread goes on with: xmm7 and the mask.
        unsafe { fp.add(160 + 16 * 7).cast::<u64>().write_unaligned(0x1234) };
        context.uc_sigmask.set(bit(SIGHUP));
        PASSED.store(1, SeqCst);
    }
    handle(SIGUSR1, look, 0);
    block(bit(SIGUSR2));
    let value: u64;
    let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    unsafe {
        std::arch::asm!("pcmpeqd xmm7, xmm7", "syscall", "movq {}, xmm7", out(reg) value, inlateout("rax") SYS_tgkill => _, in("rdi") pid,
            in("rsi") tid, in("rdx") i64::from(SIGUSR1), out("rcx") _, out("r11") _, out("xmm7") _);
    }
    assert_eq!((PASSED.load(SeqCst), value), (1, 0x1234));
    let mut mask = 0u64;
    ok!(SYS_rt_sigprocmask, SIG_BLOCK, 0, &mut mask, 8);
    assert_eq!(mask, bit(SIGHUP));
}

/// The 64 bits of a `sigset_t` that the kernel knows.
trait Bits {
    fn as_u64(&self) -> u64;
    fn set(&mut self, bits: u64);
}

impl Bits for sigset_t {
    fn as_u64(&self) -> u64 {
        unsafe { std::ptr::from_ref(self).cast::<u64>().read() }
    }

    fn set(&mut self, bits: u64) {
        unsafe { std::ptr::from_mut(self).cast::<u64>().write(bits) };
    }
}

const AUTODISARM: i32 = i32::MIN;

fn autodisarm() {
    static FLAGS: AtomicI32 = AtomicI32::new(-1);
    extern "C" fn look(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        let mut stack: stack_t = zeroed();
        ok!(SYS_sigaltstack, 0, &mut stack);
        FLAGS.store(stack.ss_flags, SeqCst);
        // It may be changed: the frame brings the old one back.
        let mut other = stack_t { ss_sp: std::ptr::null_mut(), ss_flags: SS_DISABLE, ss_size: 0 };
        ok!(SYS_sigaltstack, &mut other, 0);
    }
    let memory = memory(1 << 16);
    let mut stack = stack_t { ss_sp: memory.cast(), ss_flags: AUTODISARM, ss_size: 1 << 16 };
    ok!(SYS_sigaltstack, &mut stack, 0);
    handle(SIGUSR1, look, SA_ONSTACK);
    ok!(SYS_tgkill, ok!(SYS_getpid), ok!(SYS_gettid), SIGUSR1);
    assert_eq!(FLAGS.load(SeqCst), SS_DISABLE);
    let mut now: stack_t = zeroed();
    ok!(SYS_sigaltstack, 0, &mut now);
    assert_eq!((now.ss_sp, now.ss_flags, now.ss_size), (memory.cast(), AUTODISARM, 1 << 16));
}

fn altstack_overflow() {
    extern "C" fn deep(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        ok!(SYS_tgkill, ok!(SYS_getpid), ok!(SYS_gettid), SIGUSR1);
    }
    // Handlers nested until the stack is full: the one that doesn't fit any more is a SIGSEGV.
    let status = in_child(|| {
        let size = 64 << 10;
        let mut stack = stack_t { ss_sp: memory(size).cast(), ss_flags: 0, ss_size: size };
        ok!(SYS_sigaltstack, &mut stack, 0);
        handle(SIGUSR1, deep, SA_ONSTACK | SA_NODEFER);
        ok!(SYS_tgkill, ok!(SYS_getpid), ok!(SYS_gettid), SIGUSR1);
        0
    });
    assert_eq!(status & 0x7f, SIGSEGV);
}

fn fault_while_blocked() {
    extern "C" fn unexpected(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        unsafe { _exit(9) }
    }
    let status = in_child(|| {
        handle(SIGSEGV, unexpected, 0);
        block(bit(SIGSEGV));
        unsafe { std::arch::asm!("mov byte ptr [{}], 1", in(reg) 16u64) };
        0
    });
    assert_eq!(status & 0x7f, SIGSEGV, "the handler doesn't run");
    let status = in_child(|| {
        unsafe { signal(SIGSEGV, SIG_IGN) };
        unsafe { std::arch::asm!("mov byte ptr [{}], 1", in(reg) 16u64) };
        0
    });
    assert_eq!(status & 0x7f, SIGSEGV, "nor is it ignored");
}

fn parent_death() {
    let mut signo = 0;
    ok!(SYS_prctl, PR_GET_PDEATHSIG, &mut signo, 0, 0, 0);
    assert_eq!(signo, 0);
    assert_eq!(sys!(SYS_prctl, PR_SET_PDEATHSIG, 65, 0, 0, 0), Err(EINVAL));
    let [r, w] = new_pipe();
    let middle = spawn(|| {
        let [ready, told] = new_pipe();
        spawn(|| {
            block(bit(SIGUSR1));
            ok!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0);
            put(told, b"x");
            let mut info: siginfo_t = zeroed();
            let got = sys!(SYS_rt_sigtimedwait, &mut { bit(SIGUSR1) }, &mut info, &mut ns(10_000_000_000), 8);
            put(w, &[u8::from(got == Ok(i64::from(SIGUSR1)))]);
            0
        });
        get(ready, 1);
        0
    });
    assert_eq!(reap(middle), 0);
    assert_eq!(get(r, 1), [1]);
}

fn subreaper() {
    let mut on = -1;
    ok!(SYS_prctl, PR_GET_CHILD_SUBREAPER, &mut on, 0, 0, 0);
    assert_eq!(on, 0);
    ok!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    ok!(SYS_prctl, PR_GET_CHILD_SUBREAPER, &mut on, 0, 0, 0);
    assert_eq!(on, 1);
    let own = ok!(SYS_getpid);
    let [r, w] = new_pipe();
    let middle = spawn(|| {
        let middle = ok!(SYS_getpid);
        let grandchild = spawn(move || {
            while ok!(SYS_getppid) == middle {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            i32::from(ok!(SYS_getppid) != own)
        });
        put(w, &grandchild.to_le_bytes());
        0
    });
    let grandchild = i32::from_le_bytes(get(r, 4).try_into().unwrap());
    assert_eq!((reap(middle), reap(grandchild)), (0, 0));
}

fn exec_by_thread() {
    // The program that a thread runs has the number of the process, and is its only thread.
    let status = in_child(|| {
        let script = c"test $(cat /proc/self/status | sed -n 's/^Threads:.//p') = 1 && test $$ = $1 && exit 42";
        let pid = std::ffi::CString::new(ok!(SYS_getpid).to_string()).unwrap();
        let argv = [
            c"/bin/sh".as_ptr() as u64,
            c"-c".as_ptr() as u64,
            script.as_ptr() as u64,
            c"sh".as_ptr() as u64,
            pid.as_ptr() as u64,
            0,
        ];
        std::thread::spawn(move || {
            assert_ne!(ok!(SYS_gettid), ok!(SYS_getpid));
            sys!(SYS_execve, c"/bin/sh", argv.as_ptr(), 0)
        });
        loop {
            unsafe { pause() };
        }
    });
    assert_eq!(status, exited(42));
    // Several at once: one wins.
    let status = in_child(|| {
        let argv = [c"/bin/true".as_ptr() as u64, 0];
        for _ in 0..4 {
            std::thread::spawn(move || sys!(SYS_execve, c"/bin/true", argv.as_ptr(), 0));
        }
        loop {
            unsafe { pause() };
        }
    });
    assert_eq!(status, exited(0));
    // The leader's own end by exit(2) isn't the end of the process.
    let status = in_child(|| {
        std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            ok!(SYS_exit, 5);
        });
        ok!(SYS_exit, 6) as i32
    });
    assert_eq!(status, exited(5), "the last one's status counts");
}

fn clone_parent() {
    let own = ok!(SYS_getpid);
    let [r, w] = new_pipe();
    let child = spawn(|| {
        let sibling = ok!(SYS_clone, CLONE_PARENT | SIGUSR1, 0, 0, 0, 0) as i32;
        if sibling == 0 {
            unsafe { _exit(i32::from(ok!(SYS_getppid) != own)) };
        }
        put(w, &sibling.to_le_bytes());
        i32::from(sys!(SYS_wait4, sibling, 0, 0, 0) != Err(ECHILD))
    });
    let sibling = i32::from_le_bytes(get(r, 4).try_into().unwrap());
    assert_eq!((reap(child), reap(sibling)), (0, 0), "a child of ours, with the exit signal of its maker");
    let mut args = [0u64; 11];
    (args[0], args[4]) = (CLONE_PARENT as u64, SIGCHLD as u64);
    assert_eq!(sys!(SYS_clone3, &mut args, 88), Err(EINVAL));
    (args[0], args[4]) = (CLONE_DETACHED as u64, SIGCHLD as u64);
    assert_eq!(sys!(SYS_clone3, &mut args, 88), Err(EINVAL));
    // Handlers are gone on request.
    extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
    handle(SIGUSR1, nothing, 0);
    (args[0], args[4]) = (1 << 32, SIGCHLD as u64);
    let child = ok!(SYS_clone3, &mut args, 88) as i32;
    if child == 0 {
        let mut action = [0u64; 4];
        ok!(SYS_rt_sigaction, SIGUSR1, 0, &mut action, 8);
        unsafe { _exit(i32::from(action[0] != 0)) };
    }
    assert_eq!(reap(child), 0);
}

fn vfork_undisturbed() {
    extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
    handle(SIGUSR1, nothing, 0);
    let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    let disturber = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ok!(SYS_tgkill, pid, tid, SIGUSR1);
    });
    let start = now();
    let child = ok!(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) as i32;
    if child == 0 {
        std::thread::sleep(std::time::Duration::from_millis(60));
        unsafe { _exit(4) };
    }
    assert!(now() - start >= 60_000_000, "the signal has waited");
    assert_eq!(reap(child), exited(4));
    disturber.join().unwrap();
}
