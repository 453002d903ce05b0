//! A guest that attacks: `guest-hostile NAME`. Only for the inside of a sandbox. Each attack says what it has seen; that the sandbox goes
//! on is for the caller to check.
#![allow(clippy::undocumented_unsafe_blocks, dead_code, reason = "this is guest code; it shares helpers with the cases")]

#[macro_use]
mod sys;

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use libc::*;
use sys::*;

/// Where the platform's stub lies (platform/stub, layout).
const STUB_BASE: u64 = 0x7ff0_0000_0000;
const TEXT_LEN: u64 = 0x1_0000;
const SLOTS: u64 = STUB_BASE + 0x1000_0000;
const SLOT_SIZE: u64 = 0x1_0000;

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        "jump" => jump(),
        "overwrite" => overwrite(),
        "race" => race(),
        "unmap" => unmap(),
        "hijack" => hijack(),
        "halfway" => halfway(),
        "padding" => padding(),
        "wild" => wild(),
        "frames" => frames(),
        "tracer" => tracer(),
        "deaf" => deaf(),
        "exhaust" => exhaust(),
        "fuzz" => fuzz(std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(1)),
        "escape" => escape(),
        "swap" => swap(&std::env::args().nth(2).unwrap_or_default()),
        _ => {
            eprintln!("unknown attack {name:?}");
            std::process::exit(2);
        }
    }
}

/// Runs `f` in a child that is killed if it hasn't ended after `ms`; returns its wait status.
fn bounded(ms: u64, f: impl FnOnce() -> i32) -> i32 {
    let pid = spawn(|| {
        // What it writes is nobody's.
        let null = file(c"/dev/null");
        for fd in 0..3 {
            ok!(SYS_dup2, null, fd);
        }
        f()
    });
    let deadline = now() + ms * 1_000_000;
    loop {
        let mut status = 0;
        let told = ok!(SYS_wait4, pid, &mut status, WNOHANG, 0) != 0;
        // It may have made us its tracer.
        let stopped = told && status & 0xff == 0x7f;
        if told && !stopped {
            return status;
        }
        if stopped || now() > deadline {
            unsafe { kill(pid, SIGKILL) };
            return reap(pid);
        }
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
}

/// A small generator of bad numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A value that calls are likely to trip over.
    fn nasty(&mut self) -> u64 {
        let values = [
            0,
            1,
            2,
            3,
            7,
            8,
            100,
            255,
            4095,
            4096,
            4097,
            0xffff,
            1 << 20,
            1 << 31,
            (1 << 31) - 1,
            1 << 32,
            1 << 47,
            (1 << 47) - 4096,
            1 << 63,
            u64::MAX,
            u64::MAX - 1,
            u64::MAX - 4095,
            0x8000_0000_0000_0000 - 1,
            STUB_BASE,
            SLOTS,
            SLOTS + SLOT_SIZE,
            STUB_BASE - 4096,
            u64::from(u32::MAX),
            0xdead_beef_0000,
        ];
        match self.next() % 8 {
            0 => self.next(),
            1 => self.next() % 64,
            2 => SCRATCH.load(SeqCst).wrapping_add(self.next() % 8192),
            _ => values[(self.next() % values.len() as u64) as usize],
        }
    }
}

/// Two accessible pages with a hole after them.
static SCRATCH: AtomicU64 = AtomicU64::new(0);

/// Jumps to every place of the stub's code.
fn jump() {
    let mut ends = [0; 3];
    let mut offset = 0;
    while offset < 0x1800 {
        let status = bounded(100, || unsafe {
            asm!("jmp {}", in(reg) STUB_BASE + offset, in("rdi") 0, in("rsi") STUB_BASE, in("rdx") u64::MAX, options(noreturn));
        });
        ends[usize::from(status & 0x7f != 0)] += 1;
        offset += 13;
    }
    println!("jumped: {} exits, {} signals", ends[0], ends[1]);
}

/// Fills the thread's own shared page with garbage, then makes calls.
fn overwrite() {
    let mut random = Random(0x1234_5678_9abc);
    for round in 0..60u64 {
        let slot = SLOTS + (round % 6) * SLOT_SIZE;
        bounded(300, || unsafe {
            for _ in 0..1 + round {
                let at = slot + random.next() % 0x900 / 8 * 8;
                (at as *mut u64).write_volatile(random.nasty());
            }
            for _ in 0..50 {
                let _ = sys!(SYS_getppid);
                let page = memory(4096);
                page.write_volatile(1);
                let _ = sys!(SYS_munmap, page, 4096);
            }
            0
        });
    }
    println!("overwritten");
}

/// Writes to the shared pages while other threads make calls.
fn race() {
    for seed in 1..12u64 {
        bounded(1000, || {
            for thread in 0..2 {
                std::thread::spawn(move || {
                    let mut random = Random(seed * 7919 + thread);
                    loop {
                        let at = SLOTS + random.next() % 5 * SLOT_SIZE + random.next() % 0x300 / 4 * 4;
                        unsafe { (at as *mut u32).write_volatile(random.nasty() as u32) };
                    }
                });
            }
            for _ in 0..300 {
                let page = memory(8192);
                unsafe { page.write_volatile(1) };
                let _ = sys!(SYS_mprotect, page, 4096, PROT_READ);
                let _ = sys!(SYS_munmap, page, 8192);
                let mut time = ns(1000);
                let _ = sys!(SYS_nanosleep, &mut time, 0);
            }
            0
        });
    }
    println!("raced");
}

/// Tries to take the stub's region.
fn unmap() {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    for at in [STUB_BASE, STUB_BASE + 0x1_0000, STUB_BASE + 0x4_0000, SLOTS, SLOTS + SLOT_SIZE] {
        assert!(sys!(SYS_mmap, at, 4096, PROT_READ | PROT_WRITE, flags, -1, 0).is_err());
        assert!(sys!(SYS_mprotect, at, 4096, PROT_READ | PROT_WRITE).is_err());
        assert!(sys!(SYS_mremap, at, 4096, 8192, MREMAP_MAYMOVE).is_err());
        let _ = sys!(SYS_munmap, at, 4096);
        let _ = sys!(SYS_madvise, at, 4096, MADV_DONTNEED);
        // It isn't memory that calls can be pointed to.
        assert_eq!(sys!(SYS_write, new_pipe()[1], at, 8), Err(EFAULT));
        assert_eq!(sys!(SYS_read, file(c"/dev/zero"), at, 8), Err(EFAULT));
    }
    // All of it and more.
    let _ = sys!(SYS_munmap, STUB_BASE - 4096, 0x7fff_ffff_f000u64 - (STUB_BASE - 4096));
    ok!(SYS_getpid);
    println!("still mapped");
}

/// The address of `syscall; ud2` in the stub.
fn gadget() -> u64 {
    let text = unsafe { std::slice::from_raw_parts(STUB_BASE as *const u8, TEXT_LEN as usize / 4) };
    let at = text.windows(4).position(|bytes| bytes == [0x0f, 0x05, 0x0f, 0x0b]).expect("a system call in the stub");
    STUB_BASE + at as u64
}

/// Makes a system call by an instruction of the stub's: what its filter lets pass, it lets pass for us.
fn by_stub(nr: i64, args: &[i64]) -> i64 {
    static RESULT: AtomicU64 = AtomicU64::new(0);
    static BACK: AtomicU64 = AtomicU64::new(0);
    extern "C" fn caught(_: i32, _: *mut siginfo_t, context: *mut c_void) {
        unsafe {
            let context = &mut *context.cast::<ucontext_t>();
            RESULT.store(context.uc_mcontext.gregs[REG_RAX as usize] as u64, SeqCst);
            context.uc_mcontext.gregs[REG_RIP as usize] = BACK.load(SeqCst) as i64;
        }
    }
    handle(SIGILL, caught, SA_NODEFER);
    let at = |i: usize| args.get(i).copied().unwrap_or(0);
    unsafe {
        asm!(
            "lea r11, [rip + 2f]",
            "mov [{back}], r11",
            "jmp {gadget}",
            "2:",
            back = in(reg) BACK.as_ptr(),
            gadget = in(reg) gadget(),
            inout("rax") nr => _,
            in("rdi") at(0), in("rsi") at(1), in("rdx") at(2), in("r10") at(3), in("r8") at(4), in("r9") at(5),
            out("rcx") _, out("r11") _,
        );
    }
    RESULT.load(SeqCst) as i64
}

/// Each rule of the stub's filter, from inside the stub.
fn hijack() {
    let check = |what: &str, got: i64, expected: i64| assert_eq!(got, expected, "{what}");
    let errno = |errno: i32| -i64::from(errno);
    // What isn't on its list is handled as if we had called it ourselves.
    check("getpid", by_stub(SYS_getpid, &[]), ok!(SYS_getpid));
    check("getppid", by_stub(SYS_getppid, &[]), ok!(SYS_getppid));
    let fd = by_stub(SYS_openat, &[AT_FDCWD.into(), c"/proc/version".as_ptr() as i64, 0]);
    assert!(String::from_utf8(get(fd as i32, 100)).unwrap().contains("palisade"), "the sandbox's file, not the host's");
    check("socket", by_stub(SYS_socket, &[99, SOCK_STREAM.into(), 0]), errno(EAFNOSUPPORT));
    check("kill", by_stub(SYS_kill, &[99_999_999, 0]), errno(ESRCH));
    check("rt_sigaction", by_stub(SYS_rt_sigaction, &[SIGKILL.into(), 8, 0, 8]), errno(EFAULT));
    // The creator's alone.
    check("seccomp", by_stub(SYS_seccomp, &[1, 0, 8]), errno(EFAULT));
    check("clone, its flags", by_stub(SYS_clone, &[0x1_0000, 0, 0, 0, 0]), errno(EINVAL));
    let spare = ok!(SYS_dup, 1);
    check("dup2 to its socket", by_stub(SYS_dup2, &[spare, 3]), 3);
    check("sigaltstack", by_stub(SYS_sigaltstack, &[8, 0]), errno(EFAULT));
    // Allowed with certain arguments, otherwise handled as ours.
    check("futex wake", by_stub(SYS_futex, &[SLOTS as i64, 1, 1]), 0);
    check("futex requeue", by_stub(SYS_futex, &[8, FUTEX_CMP_REQUEUE.into(), 1, 1, 8, 0]), errno(EFAULT));
    check("recvmsg elsewhere", by_stub(SYS_recvmsg, &[900, 8, 0]), errno(EBADF));
    let mut header = [0u64; 7];
    check("recvmsg, nothing there", by_stub(SYS_recvmsg, &[3, header.as_mut_ptr() as i64, MSG_DONTWAIT.into()]), errno(EAGAIN));
    let anonymous = by_stub(SYS_mmap, &[0, 4096, PROT_READ.into(), (MAP_PRIVATE | MAP_ANONYMOUS).into(), -1, 0]);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains(&format!("{anonymous:x}")), "anonymous memory is the kernel's: {anonymous:#x}");
    check("mmap of what it hasn't got", by_stub(SYS_mmap, &[0x10_0000, 4096, 1, 0x11, 900, 0]), errno(EBADF));
    check("mmap of its socket", by_stub(SYS_mmap, &[0x10_0000, 4096, 1, 0x11, 3, 0]), errno(ENODEV));
    check("rseq with flags that don't exist", by_stub(SYS_rseq, &[8, 32, 2, 0]), errno(EINVAL));
    check("close of what it hasn't got", by_stub(SYS_close, &[900]), errno(EBADF));
    // Its own descriptors lead to arenas only: none is a directory or can be reopened.
    for fd in 0..64 {
        let result = by_stub(SYS_mmap, &[0x10_0000, 4096, 3, 0x11, fd, 0]);
        assert!(result == 0x10_0000 || result < 0, "{result:#x}");
    }
    // Whatever the kernel hasn't got, the stub hasn't either.
    let mut same = 0;
    for nr in (0..512).filter(|nr| {
        ![
            SYS_fork,
            SYS_vfork,
            SYS_clone,
            SYS_exit,
            SYS_exit_group,
            SYS_rt_sigreturn,
            SYS_pause,
            SYS_select,
            SYS_pselect6,
            SYS_ppoll,
            SYS_rt_sigsuspend,
            // Strict mode: the end of everything else.
            SYS_seccomp,
            // PTRACE_TRACEME: nobody here would let it go on.
            SYS_ptrace,
            // Waits at the queue that msgget(2) has made.
            SYS_msgrcv,
        ]
        .contains(nr)
    }) {
        // uretprobe and uprobe: Linux passes them by every filter, and ends who isn't one with SIGILL.
        if ![335, 336].contains(&nr) && sys!(nr, 0, 0, 0, 0, 0, 0) == Err(ENOSYS) {
            check(&format!("call {nr}"), by_stub(nr, &[]), errno(ENOSYS));
            same += 1;
        }
    }
    assert!(same > 100);
    // It may end itself.
    assert_eq!(bounded(1000, || by_stub(SYS_munmap, &[STUB_BASE as i64, TEXT_LEN as i64]) as i32) & 0x7f, SIGKILL);
    println!("hijacked: {same} calls refused alike");
}

/// Executes a rewritten call site from its middle.
fn halfway() {
    // mov eax, 39; syscall; ret
    let page = memory(4096);
    unsafe { page.copy_from([0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3].as_ptr(), 8) };
    ok!(SYS_mprotect, page, 4096, PROT_READ | PROT_EXEC);
    let whole: extern "C" fn() -> i32 = unsafe { std::mem::transmute(page) };
    for _ in 0..200 {
        assert_eq!(i64::from(whole()), ok!(SYS_getpid));
    }
    assert_eq!(unsafe { page.read() }, 0xe9, "the site is rewritten by now");
    // At its `syscall`, with a number of our own.
    let mut result: i64;
    unsafe { asm!("call {}", in(reg) page.add(5), inout("rax") SYS_getppid => result, out("rcx") _, out("r11") _) };
    assert_eq!(result, ok!(SYS_getppid));
    for middle in 1..5 {
        bounded(200, || unsafe {
            asm!("call {}", in(reg) page.add(middle), in("rax") 0, out("rcx") _, out("r11") _);
            0
        });
    }
    // Moved away, it is what it was.
    let moved = ok!(SYS_mremap, page, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, memory(4096)) as *mut u8;
    let elsewhere: extern "C" fn() -> i32 = unsafe { std::mem::transmute(moved) };
    for _ in 0..100 {
        assert_eq!(i64::from(elsewhere()), ok!(SYS_getpid));
    }
    println!("halfway");
}

/// Executes the padding in which the jump of a rewritten call site stands, and the jump itself.
fn padding() {
    // mov %edi, %eax; syscall; ret; nopw 0(%rax,%rax); mov $7, %eax; ret
    let code = [0x89, 0xf8, 0x0f, 0x05, 0xc3, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0xb8, 7, 0, 0, 0, 0xc3];
    let page = memory(4096);
    unsafe { page.copy_from(code.as_ptr(), code.len()) };
    ok!(SYS_mprotect, page, 4096, PROT_READ | PROT_EXEC);
    let call: extern "C" fn(i64) -> i32 = unsafe { std::mem::transmute(page) };
    let seven: extern "C" fn() -> i32 = unsafe { std::mem::transmute(page.add(5)) };
    for _ in 0..200 {
        assert_eq!(i64::from(call(SYS_getpid)), ok!(SYS_getpid));
        assert_eq!(seven(), 7);
    }
    let now: [u8; 19] = unsafe { page.cast::<[u8; 19]>().read() };
    assert_eq!((now[2], now[8]), (0xeb, 0xe9), "the site is rewritten by now");
    assert_eq!((&now[..2], &now[4..8], &now[13..]), (&code[..2], &code[4..8], &code[13..]));
    for middle in (3..13).filter(|at| *at != 5) {
        bounded(200, || unsafe {
            asm!("call {}", in(reg) page.add(middle), in("rax") 0, out("rcx") _, out("r11") _);
            0
        });
    }
    let moved = ok!(SYS_mremap, page, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, memory(4096)) as *mut u8;
    assert_eq!(unsafe { moved.cast::<[u8; 19]>().read() }, code);
    println!("padding");
}

/// Makes the scratch pages.
fn scratch() {
    let pages = memory(3 * 4096);
    ok!(SYS_munmap, pages.wrapping_add(8192), 4096);
    SCRATCH.store(pages as u64, SeqCst);
}

/// Wild pointers to every call.
fn wild() {
    scratch();
    let mut random = Random(0xfeed_beef);
    for nr in 0..512i64 {
        for _ in 0..3 {
            let args: Vec<i64> = (0..6).map(|_| random.nasty() as i64).collect();
            bounded(100, || {
                let _ = call(nr, &args);
                0
            });
        }
    }
    println!("wild");
}

/// Returns from signals that never were.
fn frames() {
    let mut random = Random(0x0bad_f00d);
    for round in 0..200u64 {
        bounded(100, || {
            let stack = memory(1 << 16);
            let words = unsafe { std::slice::from_raw_parts_mut(stack.cast::<u64>(), 8192) };
            words.iter_mut().for_each(|word| *word = random.nasty());
            if round % 2 == 0 {
                // A frame that holds pointers into the stub.
                words[4096 + 21] = STUB_BASE + random.next() % 0x2000;
                words[4096 + 28] = SLOTS;
            }
            unsafe {
                asm!("mov rsp, {}", "mov eax, 15", "syscall", "ud2", in(reg) stack as u64 + 8 * 4096, options(noreturn));
            }
        });
    }
    println!("framed");
}

/// Forks, opens, maps until refused.
fn exhaust() {
    let status = bounded(20_000, || {
        let mut fds = 0;
        while sys!(SYS_openat, AT_FDCWD, c"/dev/null", O_RDONLY).is_ok() {
            fds += 1;
        }
        assert!(fds > 500, "{fds}");
        0
    });
    assert_eq!(status, 0);
    let status = bounded(20_000, || {
        let mut maps = 0u64;
        while maps < 100_000
            && sys!(SYS_mmap, 0, 1u64 << 40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0).is_ok()
        {
            maps += 1;
        }
        assert!(maps < 200, "{maps} terabytes");
        0
    });
    assert_eq!(status, 0);
    let status = bounded(20_000, || {
        let mut maps = 0;
        while maps < 70_000 {
            // Every other page, so that they don't join.
            let at = 0x1000_0000_0000u64 + maps * 8192;
            if sys!(SYS_mmap, at, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0).is_err() {
                break;
            }
            maps += 1;
        }
        assert!((60_000..=65_600).contains(&maps), "{maps} mappings");
        0
    });
    assert_eq!(status, 0);
    let status = bounded(60_000, || {
        let mut children = Vec::new();
        for _ in 0..400 {
            let pid = unsafe { fork() };
            match pid {
                0 => loop {
                    unsafe { pause() };
                },
                pid if pid < 0 => break,
                pid => children.push(pid),
            }
        }
        assert!(children.len() > 50);
        for pid in &children {
            unsafe { kill(*pid, SIGKILL) };
        }
        children.iter().for_each(|pid| assert_eq!(reap(*pid), SIGKILL));
        0
    });
    assert_eq!(status, 0);
    println!("exhausted");
}

/// Random calls with random arguments for so many seconds.
fn fuzz(seconds: u64) {
    scratch();
    let deadline = now() + seconds * 1_000_000_000;
    let mut random = Random(now() | 1);
    let mut calls = 0u64;
    while now() < deadline {
        let seed = random.next();
        bounded(500, || {
            let mut random = Random(seed | 1);
            for _ in 0..200 {
                let nr = (random.next() % 470) as i64;
                // Those that end or stop the child without telling anything.
                if [SYS_exit, SYS_exit_group, SYS_pause, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_kill, SYS_tkill, SYS_tgkill]
                    .contains(&nr)
                {
                    continue;
                }
                let args: Vec<i64> = (0..6).map(|_| random.nasty() as i64).collect();
                // What ends the sandbox's first processes, of which this one's parent is: no CPU time left, say.
                let by_first = [SYS_prlimit64, SYS_process_vm_writev].contains(&nr);
                if by_first && [1, 2].contains(&args[0]) || nr == SYS_ptrace && [1, 2].contains(&args[1]) {
                    continue;
                }
                let _ = call(nr, &args);
            }
            0
        });
        calls += 200;
    }
    println!("fuzzed: up to {calls} calls");
}

/// In a directory that is the host's: puts links that lead out of it in the place of a file, while that is changed by its name.
fn swap(dir: &str) {
    std::env::set_current_dir(dir).unwrap();
    let swapping = std::thread::spawn(|| {
        let deadline = now() + 4_000_000_000;
        while now() < deadline {
            let _ = std::fs::write("f", "");
            let _ = std::os::unix::fs::symlink("../victim", "l");
            let _ = std::fs::rename("l", "f");
            let _ = std::fs::write("n", "");
            let _ = std::fs::rename("n", "f");
        }
    });
    while !swapping.is_finished() {
        let times = [timespec { tv_sec: 1, tv_nsec: 0 }, timespec { tv_sec: 1, tv_nsec: 0 }];
        let _ = sys!(SYS_chmod, c"f", 0o777);
        let _ = sys!(SYS_truncate, c"f", 0);
        let _ = sys!(SYS_chown, c"f", 1, 1);
        let _ = sys!(SYS_utimensat, AT_FDCWD, c"f", times.as_ptr(), 0);
        if let Ok(fd) = sys!(SYS_open, c"f", O_WRONLY | O_TRUNC) {
            let _ = sys!(SYS_write, fd, &b"reached"[..], 7);
            let _ = sys!(SYS_close, fd);
        }
    }
    println!("swapped");
}

/// Runs with its stack pointer where the stub's own code has its stack: interrupts are no less its business there.
fn deaf() {
    static HEARD: AtomicU64 = AtomicU64::new(0);
    extern "C" fn heard(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        HEARD.store(1, SeqCst);
    }
    let status = bounded(5000, || {
        handle(SIGALRM, heard, SA_ONSTACK);
        let stack = stack_t { ss_sp: memory(1 << 16).cast(), ss_flags: 0, ss_size: 1 << 16 };
        ok!(SYS_sigaltstack, std::ptr::from_ref(&stack), 0);
        let soon = timeval { tv_sec: 0, tv_usec: 20_000 };
        ok!(SYS_setitimer, ITIMER_REAL, &mut itimerval { it_interval: soon, it_value: soon }, 0);
        unsafe {
            asm!(
                "mov {kept}, rsp",
                "rdgsbase {at}",
                "lea rsp, [{at} + 0x2000]",
                "2:",
                "pause",
                "cmp qword ptr [{flag}], 0",
                "je 2b",
                "mov rsp, {kept}",
                kept = out(reg) _, at = out(reg) _, flag = in(reg) HEARD.as_ptr(),
            );
        }
        0
    });
    assert_eq!(status, 0, "it heard nothing");
    println!("heard");
}

/// Looks for the host.
fn escape() {
    let exe = std::fs::read_link("/proc/self/exe").unwrap();
    assert!(exe.ends_with("guest-hostile"), "{exe:?}");
    for fd in 0..1024 {
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).map(|link| link.display().to_string());
        assert!(link.is_err() || fd <= 2, "inherited descriptor {fd}: {link:?}");
    }
    // No process but ours.
    let pids: Vec<i32> =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    assert!(pids.len() <= 4 && pids.contains(&1), "{pids:?}");
    assert_eq!(sys!(SYS_open_by_handle_at, 1, 1, 0), Err(ENOSYS));
    for path in ["/proc/1/root/proc/1/environ", "/proc/kcore", "/dev/mem", "/dev/kvm", "/proc/sysrq-trigger"] {
        let found = std::fs::File::open(path);
        assert!(found.is_err() || path.ends_with("environ"), "{path}");
    }
    // There are no symbols, as in a kernel that keeps them to itself.
    assert_eq!(std::fs::read("/proc/kallsyms").unwrap_or_default(), b"");
    // Up and out.
    let up = "/..".repeat(64) + "/proc/version";
    assert!(std::fs::read_to_string(up).unwrap().contains("palisade"));
    println!("nothing of the host's");
}

/// A task that makes calls, faults and signals until it is killed.
fn restless() -> ! {
    unsafe { signal(SIGUSR1, SIG_IGN) };
    loop {
        let _ = sys!(SYS_getppid);
        let _ = sys!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
        let page = memory(4096);
        unsafe { page.write_volatile(1) };
        let _ = sys!(SYS_munmap, page, 4096);
    }
}

/// Does to tracees what no debugger would; tracees trace each other, too.
fn tracer() {
    const REQUESTS: [u32; 16] = [
        PTRACE_CONT,
        PTRACE_SYSCALL,
        PTRACE_SINGLESTEP,
        31,
        32,
        PTRACE_POKEUSER,
        PTRACE_POKEDATA,
        PTRACE_SETREGS,
        PTRACE_SETFPREGS,
        PTRACE_SETREGSET,
        PTRACE_SETSIGINFO,
        PTRACE_SETOPTIONS,
        PTRACE_INTERRUPT,
        PTRACE_LISTEN,
        PTRACE_DETACH,
        PTRACE_KILL,
    ];
    let mut random = Random(0x07ac_e07a_ce07);
    for round in 0..60u64 {
        let seed = random.next();
        bounded(1500, || {
            let mut random = Random(seed);
            let first = spawn(|| restless());
            let second = spawn(|| {
                let _ = sys!(SYS_ptrace, PTRACE_SEIZE, first, 0, 0x10_00ffu64);
                let _ = sys!(SYS_ptrace, PTRACE_INTERRUPT, first, 0, 0);
                restless()
            });
            let third = spawn(|| restless());
            let all = [first, second, third];
            for pid in all {
                let request = if round % 2 == 0 { PTRACE_SEIZE } else { PTRACE_ATTACH };
                let _ = sys!(SYS_ptrace, request, pid, 0, random.next() & 0x10_00ff);
            }
            for _ in 0..150 {
                let pid = all[random.next() as usize % 3];
                let mut words = [0u64; 512];
                let _ = sys!(SYS_ptrace, PTRACE_GETREGS, pid, 0, &mut words);
                for _ in 0..random.next() % 4 {
                    words[random.next() as usize % 27] = random.nasty();
                }
                if random.next().is_multiple_of(3) {
                    words[16] = STUB_BASE + random.next() % TEXT_LEN;
                }
                let place = &raw mut words as u64;
                let vector = [place, random.next() % 4096];
                let request = REQUESTS[random.next() as usize % REQUESTS.len()];
                let (addr, data) = match request {
                    PTRACE_POKEUSER => (random.next() % 115 * 8, random.nasty()),
                    PTRACE_POKEDATA => (random.nasty(), random.nasty()),
                    PTRACE_SETREGS | PTRACE_SETFPREGS | PTRACE_SETSIGINFO => (0, place),
                    PTRACE_SETREGSET => ([1, 2, 0x202][random.next() as usize % 3], &raw const vector as u64),
                    PTRACE_SETOPTIONS => (0, random.next() & 0x10_00ff),
                    _ => (0, random.next() % 70),
                };
                let _ = sys!(SYS_ptrace, request, pid, addr, data);
                for _ in 0..30 {
                    if sys!(SYS_wait4, -1, &mut 0i32, WNOHANG | __WALL, 0) != Ok(0) {
                        break;
                    }
                    unsafe { usleep(20) };
                }
                if random.next().is_multiple_of(8) {
                    let _ = sys!(SYS_kill, pid, [SIGSTOP, SIGCONT, SIGTRAP, SIGSEGV][random.next() as usize % 4]);
                }
            }
            for pid in all {
                let _ = sys!(SYS_kill, pid, SIGKILL);
            }
            0
        });
    }
    println!("traced");
}
