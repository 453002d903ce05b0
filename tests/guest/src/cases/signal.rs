//! Signals.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "sigaction", calls: "rt_sigaction rt_sigreturn", run: actions },
    Case { name: "sigprocmask", calls: "rt_sigprocmask rt_sigpending", run: masks },
    Case { name: "kill", calls: "kill tkill tgkill", run: killing },
    Case { name: "siginfo", calls: "rt_sigaction kill", run: information },
    Case { name: "faults", calls: "rt_sigaction", run: faults },
    Case { name: "fault-fixed", calls: "rt_sigreturn mprotect", run: fault_fixed },
    Case { name: "altstack", calls: "sigaltstack", run: altstack },
    Case { name: "sigsuspend", calls: "rt_sigsuspend pause", run: suspend },
    Case { name: "mask-of-a-call", calls: "ppoll", run: mask_of_a_call },
    Case { name: "sigtimedwait", calls: "rt_sigtimedwait", run: timed_wait },
    Case { name: "restart", calls: "rt_sigaction read", run: restart },
    Case { name: "realtime", calls: "rt_sigprocmask", run: realtime },
    Case { name: "nested", calls: "rt_sigaction rt_sigreturn", run: nested },
    Case { name: "registers-survive", calls: "rt_sigreturn", run: registers },
    Case { name: "flood", calls: "tgkill rt_sigreturn", run: flood },
    Case { name: "sigchld", calls: "wait4 rt_sigaction", run: sigchld },
];

static COUNT: AtomicI32 = AtomicI32::new(0);
static LAST: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(signo: i32, info: *mut siginfo_t, _: *mut c_void) {
    COUNT.fetch_add(1, SeqCst);
    LAST.store(signo, SeqCst);
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        ADDRESS.store((*info).si_addr() as u64, SeqCst);
    }
}

fn send(signo: i32) {
    ok!(SYS_tgkill, ok!(SYS_getpid), ok!(SYS_gettid), signo);
}

fn bit(signo: i32) -> u64 {
    1 << (signo - 1)
}

fn mask(how: i32, set: u64) -> u64 {
    let mut old = 0u64;
    ok!(SYS_rt_sigprocmask, how, &mut { set }, &mut old, 8);
    old
}

fn actions() {
    handle(SIGUSR1, count, 0);
    send(SIGUSR1);
    assert_eq!((COUNT.load(SeqCst), LAST.load(SeqCst)), (1, SIGUSR1));
    handle(SIGUSR1, count, SA_RESETHAND);
    send(SIGUSR1);
    let mut old: sigaction = unsafe { std::mem::zeroed() };
    unsafe { sigaction(SIGUSR1, std::ptr::null(), &mut old) };
    assert_eq!((COUNT.load(SeqCst), old.sa_sigaction), (2, SIG_DFL));
    let mut action = [0u64; 4];
    assert_eq!(sys!(SYS_rt_sigaction, SIGKILL, &mut action, 0, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigaction, SIGKILL, 0, &mut action, 8), Ok(0));
    assert_eq!(sys!(SYS_rt_sigaction, 65, 0, &mut action, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigaction, 0, 0, &mut action, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigaction, SIGUSR1, 0, &mut action, 4), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigaction, SIGUSR1, 8, 0, 8), Err(EFAULT));
    for (signo, status) in [(SIGTERM, SIGTERM), (SIGUSR2, SIGUSR2), (SIGCHLD, 0), (SIGURG, 0), (SIGWINCH, 0), (SIGCONT, 0)] {
        let seen = in_child(|| {
            send(signo);
            0
        });
        assert_eq!(seen & 0x7f, status);
    }
}

fn masks() {
    handle(SIGUSR1, count, 0);
    assert_eq!(mask(SIG_BLOCK, bit(SIGUSR1)) & bit(SIGUSR1), 0);
    send(SIGUSR1);
    send(SIGUSR1);
    let mut pending = 0u64;
    ok!(SYS_rt_sigpending, &mut pending, 8);
    assert_eq!((COUNT.load(SeqCst), pending), (0, bit(SIGUSR1)));
    mask(SIG_UNBLOCK, bit(SIGUSR1));
    assert_eq!(COUNT.load(SeqCst), 1, "standard signals don't queue");
    mask(SIG_SETMASK, u64::MAX);
    assert_eq!(mask(SIG_SETMASK, 0), !(bit(SIGKILL) | bit(SIGSTOP)));
    assert_eq!(sys!(SYS_rt_sigprocmask, 9, &mut 0u64, 0, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigprocmask, SIG_BLOCK, &mut 0u64, 0, 16), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigprocmask, SIG_BLOCK, 8, 0, 8), Err(EFAULT));
}

fn killing() {
    let pid = spawn(|| {
        loop {
            unsafe { pause() };
        }
    });
    assert_eq!(sys!(SYS_kill, pid, 0), Ok(0));
    assert_eq!(sys!(SYS_kill, pid, 99), Err(EINVAL));
    assert_eq!(sys!(SYS_kill, 99_999_999, 0), Err(ESRCH));
    assert_eq!(sys!(SYS_tgkill, pid, 99_999_999, 0), Err(ESRCH));
    assert_eq!(sys!(SYS_tgkill, -1, pid, 0), Err(EINVAL));
    ok!(SYS_tkill, pid, SIGTERM);
    assert_eq!(reap(pid), SIGTERM);
    assert_eq!(sys!(SYS_kill, pid, 0), Err(ESRCH));
    // A whole group.
    let leader = spawn(|| {
        ok!(SYS_setpgid, 0, 0);
        let inner = spawn(|| {
            loop {
                unsafe { pause() };
            }
        });
        ok!(SYS_kill, 0, SIGUSR2);
        reap(inner)
    });
    assert_eq!(reap(leader), SIGUSR2);
}

fn information() {
    extern "C" fn look(_: i32, info: *mut siginfo_t, _: *mut c_void) {
        unsafe { CODE.store((*info).si_code * 1000 + i32::from((*info).si_pid() == getpid()), SeqCst) };
    }
    handle(SIGUSR1, look, 0);
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    assert_eq!(CODE.load(SeqCst), SI_USER * 1000 + 1);
    send(SIGUSR1);
    assert_eq!(CODE.load(SeqCst), SI_TKILL * 1000 + 1);
}

/// Masks of calls that end without a signal are taken back.
fn mask_of_a_call() {
    handle(SIGUSR1, count, 0);
    mask(SIG_SETMASK, bit(SIGUSR1));
    for _ in 0..3 {
        ok!(SYS_ppoll, 0, 0, &mut ns(1_000_000), &mut bit(SIGUSR2), 8);
        assert_eq!(mask(SIG_BLOCK, 0), bit(SIGUSR1));
    }
    send(SIGUSR1);
    assert_eq!(sys!(SYS_ppoll, 0, 0, &mut ns(1_000_000_000 - 1), &mut 0u64, 8), Err(EINTR));
    assert_eq!((COUNT.load(SeqCst), mask(SIG_BLOCK, 0)), (1, bit(SIGUSR1)));
}

/// Runs `f`, which faults, in a child whose handler reports signal, code and whether the address is `addr`.
fn report(signo: i32, addr: u64, f: impl FnOnce()) -> (i32, i32, bool) {
    static WRITER: AtomicI32 = AtomicI32::new(-1);
    extern "C" fn handler(signo: i32, info: *mut siginfo_t, _: *mut c_void) {
        unsafe {
            let mut bytes = [0u8; 16];
            bytes[..4].copy_from_slice(&signo.to_le_bytes());
            bytes[4..8].copy_from_slice(&(*info).si_code.to_le_bytes());
            bytes[8..].copy_from_slice(&((*info).si_addr() as u64).to_le_bytes());
            put(WRITER.load(SeqCst), &bytes);
            _exit(0)
        }
    }
    let [r, w] = new_pipe();
    WRITER.store(w, SeqCst);
    let pid = spawn(|| {
        handle(signo, handler, 0);
        f();
        1
    });
    assert_eq!(reap(pid), 0);
    let bytes = get(r, 16);
    let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    (word(0), word(4), u64::from_le_bytes(bytes[8..].try_into().unwrap()) == addr)
}

fn faults() {
    let none = map(4096, PROT_NONE, MAP_PRIVATE);
    let readonly = map(4096, PROT_READ, MAP_PRIVATE);
    assert_eq!(report(SIGSEGV, 16, || unsafe { std::arch::asm!("mov byte ptr [{}], 1", in(reg) 16u64) }), (SIGSEGV, 1, true));
    assert_eq!(report(SIGSEGV, none as u64 + 5, || unsafe { none.add(5).write_volatile(1) }), (SIGSEGV, 2, true));
    assert_eq!(report(SIGSEGV, readonly as u64, || unsafe { readonly.write_volatile(1) }), (SIGSEGV, 2, true));
    let wild = 0x8000_0000_0000u64;
    assert_eq!(report(SIGSEGV, 0, || unsafe { std::arch::asm!("mov byte ptr [{}], 1", in(reg) wild) }), (SIGSEGV, 128, true));
    let (signo, code, _) =
        report(SIGFPE, 0, || unsafe { std::arch::asm!("xor edx, edx", "div {}", in(reg) 0u64, out("rax") _, out("rdx") _) });
    assert_eq!((signo, code), (SIGFPE, 1));
    let (signo, code, _) = report(SIGILL, 0, || unsafe { std::arch::asm!("ud2") });
    assert_eq!((signo, code), (SIGILL, 2));
    let (signo, code, _) = report(SIGTRAP, 0, || unsafe { std::arch::asm!("int3") });
    assert_eq!((signo, code), (SIGTRAP, 128));
    let fd = file(c"f");
    let page = ok!(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, fd, 0) as *mut u8;
    assert_eq!(
        report(SIGBUS, page as u64, || unsafe {
            page.read_volatile();
        }),
        (SIGBUS, 2, true)
    );
    assert_eq!(
        in_child(|| unsafe {
            none.write_volatile(1);
            0
        }),
        SIGSEGV
    );
}

fn fault_fixed() {
    static PAGE: AtomicU64 = AtomicU64::new(0);
    extern "C" fn allow(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        ok!(SYS_mprotect, PAGE.load(SeqCst), 4096, PROT_READ | PROT_WRITE);
    }
    let page = map(4096, PROT_NONE, MAP_PRIVATE);
    PAGE.store(page as u64, SeqCst);
    handle(SIGSEGV, allow, 0);
    for _ in 0..10 {
        ok!(SYS_mprotect, page, 4096, PROT_NONE);
        unsafe { page.write_volatile(page.read_volatile() + 1) };
    }
    assert_eq!(unsafe { page.read() }, 10);
}

fn altstack() {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    extern "C" fn look(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        let local = 0u8;
        SEEN.store(std::ptr::from_ref(&local) as u64, SeqCst);
        let mut stack: stack_t = unsafe { std::mem::zeroed() };
        ok!(SYS_sigaltstack, 0, &mut stack);
        CODE.store(stack.ss_flags, SeqCst);
        assert_eq!(sys!(SYS_sigaltstack, &mut stack, 0), Err(EPERM));
    }
    let memory = memory(1 << 16);
    let mut stack = stack_t { ss_sp: memory.cast(), ss_flags: 0, ss_size: 1 << 16 };
    ok!(SYS_sigaltstack, &mut stack, 0);
    handle(SIGUSR1, look, SA_ONSTACK);
    send(SIGUSR1);
    assert!((memory as u64..memory as u64 + (1 << 16)).contains(&SEEN.load(SeqCst)));
    assert_eq!(CODE.load(SeqCst), SS_ONSTACK);
    let mut now: stack_t = unsafe { std::mem::zeroed() };
    ok!(SYS_sigaltstack, 0, &mut now);
    assert_eq!((now.ss_sp, now.ss_size, now.ss_flags), (memory.cast(), 1 << 16, 0));
    stack.ss_size = 100;
    assert_eq!(sys!(SYS_sigaltstack, &mut stack, 0), Err(ENOMEM));
    stack.ss_flags = 77;
    assert_eq!(sys!(SYS_sigaltstack, &mut stack, 0), Err(EINVAL));
    // A stack overflow is caught there.
    let status = in_child(|| {
        extern "C" fn end(_: i32, _: *mut siginfo_t, _: *mut c_void) {
            unsafe { _exit(44) }
        }
        handle(SIGSEGV, end, SA_ONSTACK);
        #[expect(unconditional_recursion, reason = "it is to overflow")]
        fn deep(n: u64) -> u64 {
            std::hint::black_box([n; 100])[0] + deep(n + 1)
        }
        deep(0) as i32
    });
    assert_eq!(status, exited(44));
}

fn suspend() {
    handle(SIGUSR1, count, 0);
    mask(SIG_BLOCK, bit(SIGUSR1));
    send(SIGUSR1);
    assert_eq!(COUNT.load(SeqCst), 0);
    assert_eq!(sys!(SYS_rt_sigsuspend, &mut 0u64, 8), Err(EINTR));
    assert_eq!(COUNT.load(SeqCst), 1);
    assert_eq!(mask(SIG_BLOCK, 0) & bit(SIGUSR1), bit(SIGUSR1), "the mask is as before");
    assert_eq!(sys!(SYS_rt_sigsuspend, &mut 0u64, 4), Err(EINVAL));
}

fn timed_wait() {
    mask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGUSR2));
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    let wait = |info: &mut siginfo_t, time: i64| {
        sys!(SYS_rt_sigtimedwait, &mut (bit(SIGUSR1) | bit(SIGUSR2)), std::ptr::from_mut(info), &mut ns(time), 8)
    };
    assert_eq!(wait(&mut info, 10_000_000), Err(EAGAIN));
    send(SIGUSR2);
    assert_eq!(wait(&mut info, 10_000_000), Ok(i64::from(SIGUSR2)));
    assert_eq!((info.si_signo, info.si_code), (SIGUSR2, SI_TKILL));
    let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ok!(SYS_tgkill, pid, tid, SIGUSR1);
    });
    assert_eq!(wait(&mut info, 10_000_000_000), Ok(i64::from(SIGUSR1)));
    thread.join().unwrap();
    assert_eq!(sys!(SYS_rt_sigtimedwait, &mut 1u64, 0, 0, 4), Err(EINVAL));
}

fn restart() {
    let [r, w] = new_pipe();
    for (flags, expected) in [(SA_RESTART, Ok(1)), (0, Err(EINTR))] {
        handle(SIGUSR1, count, flags);
        let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            ok!(SYS_tgkill, pid, tid, SIGUSR1);
            std::thread::sleep(std::time::Duration::from_millis(30));
            put(w, b"x");
        });
        assert_eq!(sys!(SYS_read, r, &mut [0u8; 1], 1), expected);
        thread.join().unwrap();
    }
    assert_eq!(COUNT.load(SeqCst), 2);
}

fn realtime() {
    static ORDER: [AtomicI32; 6] = [const { AtomicI32::new(0) }; 6];
    extern "C" fn note(signo: i32, _: *mut siginfo_t, _: *mut c_void) {
        ORDER[COUNT.fetch_add(1, SeqCst) as usize].store(signo, SeqCst);
    }
    let signals = [40, 36, 36, 38, 36];
    signals.iter().for_each(|signo| handle(*signo, note, 0));
    // Blocked in the handler, so that they run one after the other.
    let all = signals.iter().fold(0, |set, signo| set | bit(*signo));
    for signo in signals {
        let mut action: sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as *const () as usize;
        action.sa_flags = SA_SIGINFO;
        unsafe {
            sigfillset(&mut action.sa_mask);
            sigaction(signo, &action, std::ptr::null_mut());
        }
    }
    mask(SIG_BLOCK, all);
    signals.iter().for_each(|signo| send(*signo));
    mask(SIG_UNBLOCK, all);
    let order: Vec<_> = ORDER.iter().map(|signo| signo.load(SeqCst)).collect();
    assert_eq!(order, [36, 36, 36, 38, 40, 0]);
}

fn nested() {
    extern "C" fn outer(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        send(SIGUSR2);
        // Its own signal is blocked meanwhile.
        send(SIGUSR1);
        assert_eq!(COUNT.load(SeqCst), 1);
        COUNT.fetch_add(10, SeqCst);
    }
    extern "C" fn again(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        if COUNT.fetch_add(1, SeqCst) < 5 {
            send(SIGALRM);
        }
    }
    handle(SIGUSR2, count, 0);
    handle(SIGUSR1, outer, SA_RESETHAND);
    mask(SIG_BLOCK, 0);
    let status = in_child(|| {
        send(SIGUSR1);
        0
    });
    assert_eq!(status, SIGUSR1, "the second one finds the default action");
    handle(SIGALRM, again, SA_NODEFER);
    send(SIGALRM);
    assert_eq!(COUNT.load(SeqCst), 6);
}

fn registers() {
    handle(SIGUSR1, count, 0);
    let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    let stop = std::sync::Arc::new(AtomicI32::new(0));
    let flag = stop.clone();
    let thread = std::thread::spawn(move || {
        for _ in 0..200 {
            let _ = sys!(SYS_tgkill, pid, tid, SIGUSR1);
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        flag.store(1, SeqCst);
    });
    let mut rounds = 0u64;
    while stop.load(SeqCst) == 0 {
        // Values in general and vector registers across many interrupts.
        let (a, b): (u64, u64);
        unsafe {
            std::arch::asm!(
                "movq xmm5, {seed}", "mov {a}, {seed}", "mov ecx, 2000",
                "2:", "add {a}, 3", "dec ecx", "jnz 2b",
                "movq {b}, xmm5", "stc", "sbb rcx, rcx",
                seed = in(reg) rounds, a = out(reg) a, b = out(reg) b, out("rcx") _, out("xmm5") _,
            );
        }
        assert_eq!((a, b), (rounds + 6000, rounds));
        rounds += 1;
    }
    thread.join().unwrap();
    assert!(COUNT.load(SeqCst) > 0);
}

fn flood() {
    handle(SIGUSR1, count, 0);
    let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    ok!(SYS_tgkill, pid, tid, SIGUSR1);
                }
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        ok!(SYS_getppid);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(COUNT.load(SeqCst) > 0);
}

fn sigchld() {
    handle(SIGCHLD, count, SA_NOCLDSTOP | SA_RESTART);
    assert_eq!(in_child(|| 3), exited(3));
    assert_eq!((COUNT.load(SeqCst), CODE.load(SeqCst)), (1, CLD_EXITED));
    // Ignored: children leave nothing to wait for.
    unsafe { signal(SIGCHLD, SIG_IGN) };
    let pid = spawn(|| 0);
    let mut status = 0;
    assert_eq!(sys!(SYS_wait4, pid, &mut status, 0, 0), Err(ECHILD));
}
