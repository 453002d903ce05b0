//! Tracing of processes, and access to their memory.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "trace-calls", calls: "ptrace", run: calls },
    Case { name: "trace-emulation", calls: "ptrace", run: emulation },
    Case { name: "trace-memory", calls: "ptrace", run: memory },
    Case { name: "trace-breakpoint", calls: "ptrace", run: breakpoint },
    Case { name: "trace-steps", calls: "ptrace", run: steps },
    Case { name: "trace-watchpoint", calls: "ptrace", run: watchpoint },
    Case { name: "trace-signals", calls: "ptrace wait4", run: signals },
    Case { name: "trace-seize", calls: "ptrace waitid", run: seize },
    Case { name: "trace-group-stop", calls: "ptrace", run: group_stop },
    Case { name: "trace-events", calls: "ptrace clone", run: events },
    Case { name: "trace-exec", calls: "ptrace execve", run: exec },
    Case { name: "trace-threads", calls: "ptrace wait4", run: threads },
    Case { name: "trace-registers", calls: "ptrace", run: registers },
    Case { name: "trace-end-of-tracer", calls: "ptrace", run: end_of_tracer },
    Case { name: "trace-not-the-parent", calls: "ptrace wait4", run: not_the_parent },
    Case { name: "trace-refused", calls: "ptrace prctl", run: refused },
    Case { name: "trace-restart", calls: "ptrace restart_syscall", run: restart },
    Case { name: "trace-seccomp", calls: "ptrace seccomp", run: seccomp_trace },
    Case { name: "memory-as-a-file", calls: "pread64 pwrite64", run: memory_file },
    Case { name: "trace-in-proc", calls: "ptrace", run: in_proc },
    Case { name: "core-dump", calls: "kill wait4 prctl", run: core_dump },
    Case { name: "memory-of-others", calls: "process_vm_readv process_vm_writev", run: memory_of_others },
];

const GOOD: i32 = SIGTRAP | 0x80;

fn at_event(event: i32) -> i32 {
    SIGTRAP | event << 8
}

fn trace(request: u32, pid: i32, addr: u64, data: u64) -> Result<i64, i32> {
    sys!(SYS_ptrace, request, pid, addr, data)
}

/// Waits until a tracee stops; the code that it stops with.
fn stopped(pid: i32) -> i32 {
    let mut status = 0;
    assert_eq!(ok!(SYS_wait4, pid, &mut status, __WALL, 0), pid.into());
    assert_eq!(status & 0xff, 0x7f, "status {status:#x}");
    status >> 8
}

/// Lets it go on and waits for its end.
fn finish(pid: i32) -> i32 {
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    reap(pid)
}

fn regs(pid: i32) -> user_regs_struct {
    let mut regs = unsafe { std::mem::zeroed() };
    ok!(SYS_ptrace, PTRACE_GETREGS, pid, 0, &mut regs);
    regs
}

fn set_regs(pid: i32, mut regs: user_regs_struct) {
    ok!(SYS_ptrace, PTRACE_SETREGS, pid, 0, &mut regs);
}

fn peek(pid: i32, addr: u64) -> Result<u64, i32> {
    let mut word = 0u64;
    sys!(SYS_ptrace, PTRACE_PEEKDATA, pid, addr, &mut word)?;
    Ok(word)
}

fn raise(signo: i32) {
    ok!(SYS_tgkill, ok!(SYS_getpid), ok!(SYS_gettid), signo);
}

/// A child that is traced, stands still, and does `f` then.
fn traced(f: impl FnOnce() -> i32) -> i32 {
    let pid = spawn(|| {
        trace(PTRACE_TRACEME, 0, 0, 0).unwrap();
        raise(SIGSTOP);
        f()
    });
    assert_eq!(stopped(pid), SIGSTOP);
    pid
}

fn to_call(pid: i32, code: i32) -> user_regs_struct {
    trace(PTRACE_SYSCALL, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), code);
    regs(pid)
}

fn calls() {
    let pid = traced(|| {
        let number = ok!(SYS_getppid);
        let missing = sys!(SYS_close, 77);
        i32::from(number != 4242 || missing != Err(EBADF))
    });
    trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD as u64).unwrap();
    // The end of what stopped it, if that is seen, then the beginning of the first.
    let mut at = to_call(pid, GOOD);
    while at.orig_rax != SYS_getppid as u64 {
        at = to_call(pid, GOOD);
    }
    assert_eq!((at.rax as i64, at.cs, at.ss), (-i64::from(ENOSYS), 0x33, 0x2b));
    let mut info = [0u64; 11];
    assert_eq!(ok!(SYS_ptrace, 0x420e, pid, 88, &mut info), 80);
    assert_eq!((info[0] as u8, info[0] >> 32, info[1], info[2], info[3]), (1, 0xc000_003e, at.rip, at.rsp, SYS_getppid as u64));
    let mut at = to_call(pid, GOOD);
    assert_eq!(at.rax, u64::from(std::process::id()));
    assert_eq!(ok!(SYS_ptrace, 0x420e, pid, 88, &mut info), 33);
    assert_eq!((info[0] as u8, info[3], info[4] as u8), (2, at.rax, 0));
    at.rax = 4242;
    set_regs(pid, at);
    assert_eq!(to_call(pid, GOOD).rdi, 77);
    assert_eq!(to_call(pid, GOOD).rax as i64, -i64::from(EBADF));
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    ok!(SYS_ptrace, PTRACE_GETSIGINFO, pid, 0, &mut info);
    assert_eq!((info.si_signo, info.si_code), (SIGTRAP, GOOD));
    assert_eq!(finish(pid), exited(0));
    assert_eq!(trace(PTRACE_CONT, pid, 0, 0), Err(ESRCH));
}

fn emulation() {
    let pid = traced(|| i32::from(ok!(SYS_getppid) != 99 || sys!(SYS_getppid) != Err(ENOSYS)));
    // Calls are not made; what is in rax is their result.
    trace(PTRACE_SYSEMU, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGTRAP);
    let mut at = regs(pid);
    assert_eq!(at.orig_rax, SYS_getppid as u64);
    at.rax = 99;
    set_regs(pid, at);
    // A call that is taken away isn't made.
    assert_eq!(to_call(pid, SIGTRAP).rax, 99, "the end of the first");
    let mut at = to_call(pid, SIGTRAP);
    at.orig_rax = u64::MAX;
    set_regs(pid, at);
    assert_eq!(to_call(pid, SIGTRAP).rax as i64, -i64::from(ENOSYS));
    assert_eq!(finish(pid), exited(0));
}

static WORDS: [AtomicU64; 2] = [AtomicU64::new(11), AtomicU64::new(22)];
static CONSTANT: [u64; 512] = [5; 512];

fn memory() {
    let pid = traced(|| {
        let constant = unsafe { (&raw const CONSTANT[7]).read_volatile() };
        i32::from(WORDS[0].load(SeqCst) != 33 || WORDS[1].load(SeqCst) != 22 || constant != 6)
    });
    let word = &raw const WORDS[0] as u64;
    assert_eq!((peek(pid, word), peek(pid, word + 8)), (Ok(11), Ok(22)));
    assert_eq!(peek(pid, word + 4).map(|word| word >> 32), Ok(22), "any address will do");
    trace(PTRACE_POKEDATA, pid, word, 33).unwrap();
    // What the program itself can't write becomes its own.
    trace(PTRACE_POKETEXT, pid, &raw const CONSTANT[7] as u64, 6).unwrap();
    assert_eq!(peek(pid, 8), Err(EIO));
    assert_eq!(trace(PTRACE_POKEDATA, pid, 8, 1), Err(EIO));
    assert_eq!(finish(pid), exited(0));
    assert_eq!((WORDS[0].load(SeqCst), unsafe { (&raw const CONSTANT[7]).read_volatile() }), (11, 5));
}

std::arch::global_asm!(
    ".p2align 4",
    ".globl traced_call",
    "traced_call:",
    "mov eax, 110",
    "traced_call_site:",
    "syscall",
    "ret",
    ".p2align 4",
    ".globl traced_steps",
    "traced_steps:",
    "mov eax, 1",
    "add eax, 2",
    "ret"
);
unsafe extern "C" {
    fn traced_call() -> i32;
    fn traced_steps() -> i32;
}

/// The bytes of `traced_call`.
const CODE: u64 = 0x0005_0f00_0000_6eb8;

fn breakpoint() {
    static ROUNDS: AtomicI32 = AtomicI32::new(0);
    let shared = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS).cast::<AtomicI32>();
    let rounds = unsafe { &*shared };
    let pid = spawn(|| {
        let _ = sys!(SYS_prctl, PR_SET_PTRACER, u64::MAX);
        // Often enough for whatever makes calls faster.
        loop {
            ROUNDS.store(unsafe { traced_call() }, SeqCst);
            rounds.fetch_add(1, SeqCst);
        }
    });
    while rounds.load(SeqCst) < 500 {
        unsafe { sched_yield() };
    }
    let (entry, site) = (traced_call as *const () as u64, traced_call as *const () as u64 + 5);
    // Who only looks sees what the program says.
    let mut code = 0u64;
    let (mut own, mut other) =
        (iovec { iov_base: (&raw mut code).cast(), iov_len: 8 }, iovec { iov_base: entry as *mut c_void, iov_len: 8 });
    assert_eq!(ok!(SYS_process_vm_readv, pid, &mut own, 1, &mut other, 1, 0), 8);
    assert_eq!(code << 8 >> 8, CODE);
    trace(PTRACE_ATTACH, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGSTOP);
    let old = peek(pid, site).unwrap();
    assert_eq!(old as u16, 0x050f, "a call");
    trace(PTRACE_POKETEXT, pid, site, old & !0xff | 0xcc).unwrap();
    for _ in 0..3 {
        trace(PTRACE_CONT, pid, 0, 0).unwrap();
        assert_eq!(stopped(pid), SIGTRAP);
        let mut at = regs(pid);
        assert_eq!((at.rip, at.rax), (site + 1, 110));
        let before = rounds.load(SeqCst);
        // Over it, as a debugger does.
        at.rip = site;
        set_regs(pid, at);
        trace(PTRACE_POKETEXT, pid, site, old).unwrap();
        trace(PTRACE_SINGLESTEP, pid, 0, 0).unwrap();
        assert_eq!(stopped(pid), SIGTRAP);
        let at = regs(pid);
        assert_eq!((at.rip, at.rax), (site + 2, u64::from(std::process::id())));
        trace(PTRACE_POKETEXT, pid, site, old & !0xff | 0xcc).unwrap();
        assert_eq!(rounds.load(SeqCst), before);
    }
    trace(PTRACE_POKETEXT, pid, site, old).unwrap();
    trace(PTRACE_DETACH, pid, 0, 0).unwrap();
    let before = rounds.load(SeqCst);
    while rounds.load(SeqCst) < before + 500 {
        unsafe { sched_yield() };
    }
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(reap(pid), SIGKILL);
}

fn steps() {
    let pid = traced(|| unsafe { traced_steps() });
    let entry = traced_steps as *const () as u64;
    let old = peek(pid, entry).unwrap();
    trace(PTRACE_POKETEXT, pid, entry, old & !0xff | 0xcc).unwrap();
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGTRAP);
    trace(PTRACE_POKETEXT, pid, entry, old).unwrap();
    let mut at = regs(pid);
    at.rip = entry;
    set_regs(pid, at);
    for (rip, rax) in [(entry + 5, 1), (entry + 8, 3)] {
        trace(PTRACE_SINGLESTEP, pid, 0, 0).unwrap();
        assert_eq!(stopped(pid), SIGTRAP);
        let at = regs(pid);
        assert_eq!((at.rip, at.rax, at.eflags & 0x100), (rip, rax, 0));
        let mut info: siginfo_t = unsafe { std::mem::zeroed() };
        ok!(SYS_ptrace, PTRACE_GETSIGINFO, pid, 0, &mut info);
        assert_eq!(info.si_code, 2, "TRAP_TRACE");
    }
    assert_eq!(finish(pid), exited(3));
}

fn watchpoint() {
    const DEBUG: u64 = 848;
    let pid = traced(|| {
        WORDS[1].store(1, SeqCst);
        WORDS[0].store(2, SeqCst);
        3
    });
    trace(PTRACE_POKEUSER, pid, DEBUG, &raw const WORDS[0] as u64).unwrap();
    // Writes of eight bytes.
    trace(PTRACE_POKEUSER, pid, DEBUG + 7 * 8, 1 | 0x9 << 16).unwrap();
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGTRAP);
    assert_eq!((peek(pid, &raw const WORDS[0] as u64), peek(pid, &raw const WORDS[1] as u64)), (Ok(2), Ok(1)));
    let mut status = 0u64;
    ok!(SYS_ptrace, PTRACE_PEEKUSER, pid, DEBUG + 6 * 8, &mut status);
    assert_eq!(status & 0xf, 1);
    assert_eq!(trace(PTRACE_POKEUSER, pid, DEBUG, u64::MAX), Err(EINVAL));
    assert_eq!(trace(PTRACE_POKEUSER, pid, 912, 0), Err(EIO));
    trace(PTRACE_POKEUSER, pid, DEBUG + 7 * 8, 0).unwrap();
    assert_eq!(finish(pid), exited(3));
}

static GOT: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signo: i32, info: *mut siginfo_t, _: *mut c_void) {
    GOT.store(signo * 1000 + unsafe { (*info).si_code }.abs(), SeqCst);
}

fn signals() {
    let pid = traced(|| {
        handle(SIGUSR1, note, 0);
        handle(SIGUSR2, note, 0);
        raise(SIGUSR1);
        assert_eq!(GOT.load(SeqCst), 0, "taken away");
        raise(SIGUSR1);
        assert_eq!(GOT.load(SeqCst), SIGUSR2 * 1000, "another, from the tracer");
        raise(SIGUSR1);
        assert_eq!(GOT.load(SeqCst), SIGUSR1 * 1000 + 7, "with other news");
        raise(SIGURG);
        raise(SIGKILL);
        1
    });
    let next = |signo: i32| {
        trace(PTRACE_CONT, pid, 0, signo as u64).unwrap();
        stopped(pid)
    };
    assert_eq!(next(0), SIGUSR1);
    assert_eq!(next(0), SIGUSR1);
    assert_eq!(next(SIGUSR2), SIGUSR1);
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    ok!(SYS_ptrace, PTRACE_GETSIGINFO, pid, 0, &mut info);
    assert_eq!((info.si_signo, info.si_code), (SIGUSR1, SI_TKILL));
    info.si_code = -7;
    ok!(SYS_ptrace, PTRACE_SETSIGINFO, pid, 0, &mut info);
    let mut mask = 0u64;
    ok!(SYS_ptrace, 0x420a, pid, 8, &mut mask);
    assert_eq!(sys!(SYS_ptrace, 0x420a, pid, 4, &mut mask), Err(EINVAL));
    assert_eq!(next(SIGUSR1), SIGURG, "what nobody handles is seen, too");
    assert_eq!(trace(PTRACE_CONT, pid, 0, 65), Err(EIO));
    // SIGKILL is not.
    assert_eq!(finish(pid), SIGKILL);
}

fn idle() -> i32 {
    spawn(|| {
        loop {
            unsafe { pause() };
        }
    })
}

fn wait_info(pid: i32, options: i32) -> Result<(i32, i32), i32> {
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    sys!(SYS_waitid, P_PID, pid, &mut info, options, 0)?;
    Ok(unsafe { (info.si_code, info.si_status()) })
}

fn seize() {
    const STOP: i32 = 128;
    let pid = idle();
    assert_eq!(trace(PTRACE_INTERRUPT, pid, 0, 0), Err(ESRCH));
    trace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD as u64).unwrap();
    assert_eq!(trace(PTRACE_CONT, pid, 0, 0), Err(ESRCH), "it runs");
    trace(PTRACE_INTERRUPT, pid, 0, 0).unwrap();
    assert_eq!(wait_info(pid, WSTOPPED | WNOWAIT), Ok((CLD_TRAPPED, at_event(STOP))));
    assert_eq!(stopped(pid), at_event(STOP));
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    ok!(SYS_kill, pid, SIGSTOP);
    assert_eq!(stopped(pid), SIGSTOP);
    trace(PTRACE_CONT, pid, 0, SIGSTOP as u64).unwrap();
    assert_eq!(stopped(pid), SIGSTOP | STOP << 8);
    trace(PTRACE_LISTEN, pid, 0, 0).unwrap();
    assert_eq!(trace(PTRACE_CONT, pid, 0, 0), Err(ESRCH));
    ok!(SYS_kill, pid, SIGCONT);
    assert_eq!(stopped(pid), at_event(STOP), "it hears that it was continued");
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGCONT);
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(reap(pid), SIGKILL);
}

fn group_stop() {
    let pid = idle();
    ok!(SYS_kill, pid, SIGSTOP);
    assert_eq!(wait_info(pid, WSTOPPED), Ok((CLD_STOPPED, SIGSTOP)));
    // It is the tracer's from now on, without running in between.
    trace(PTRACE_ATTACH, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGSTOP);
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(SYS_ptrace, PTRACE_GETSIGINFO, pid, 0, &mut info), Err(EINVAL), "no signal");
    // Without a tracer job control has it again.
    trace(PTRACE_DETACH, pid, 0, 0).unwrap();
    ok!(SYS_kill, pid, SIGCONT);
    assert_eq!(wait_info(pid, WCONTINUED), Ok((CLD_CONTINUED, SIGCONT)));
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(reap(pid), SIGKILL);
}

fn message(pid: i32) -> u64 {
    let mut message = 0u64;
    ok!(SYS_ptrace, PTRACE_GETEVENTMSG, pid, 0, &mut message);
    message
}

fn events() {
    let pid = traced(|| {
        let child = spawn(|| 3);
        assert_eq!(reap(child), exited(3));
        #[expect(deprecated, reason = "the child only ends")]
        let child = unsafe { vfork() };
        if child == 0 {
            unsafe { _exit(4) };
        }
        assert_eq!(reap(child), exited(4));
        5
    });
    let options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT;
    trace(PTRACE_SETOPTIONS, pid, 0, options as u64).unwrap();
    assert_eq!(trace(PTRACE_SETOPTIONS, pid, 0, 1 << 30), Err(EINVAL));
    let next = |pid: i32| {
        trace(PTRACE_CONT, pid, 0, 0).unwrap();
        let mut code = stopped(pid);
        while code == SIGCHLD {
            trace(PTRACE_CONT, pid, 0, SIGCHLD as u64).unwrap();
            code = stopped(pid);
        }
        code
    };
    let end = |child: i32, status: i32| {
        assert_eq!(stopped(child), SIGSTOP, "a child is traced from its beginning");
        assert_eq!(next(child), at_event(PTRACE_EVENT_EXIT));
        assert_eq!(message(child), status as u64);
        trace(PTRACE_CONT, child, 0, 0).unwrap();
        assert_eq!(reap(child), status);
    };
    assert_eq!(next(pid), at_event(PTRACE_EVENT_FORK));
    let child = message(pid) as i32;
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    end(child, exited(3));
    let mut code = stopped(pid);
    while code == SIGCHLD {
        trace(PTRACE_CONT, pid, 0, 0).unwrap();
        code = stopped(pid);
    }
    assert_eq!(code, at_event(PTRACE_EVENT_VFORK));
    let child = message(pid) as i32;
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    end(child, exited(4));
    let mut code = stopped(pid);
    while code == SIGCHLD {
        trace(PTRACE_CONT, pid, 0, 0).unwrap();
        code = stopped(pid);
    }
    assert_eq!((code, message(pid) as i32), (at_event(PTRACE_EVENT_VFORK_DONE), child));
    assert_eq!(next(pid), at_event(PTRACE_EVENT_EXIT));
    assert_eq!(message(pid), exited(5) as u64);
    assert_eq!(finish(pid), exited(5));
}

fn exec() {
    let run = || {
        let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
        unsafe { execv(argv[0], argv.as_ptr()) };
        9
    };
    // A signal without options, an event with.
    let pid = traced(run);
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGTRAP);
    assert_eq!(finish(pid), exited(0));
    let pid = traced(run);
    trace(PTRACE_SETOPTIONS, pid, 0, (PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD) as u64).unwrap();
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!((stopped(pid), message(pid) as i32), (at_event(PTRACE_EVENT_EXEC), pid));
    let at = to_call(pid, GOOD);
    assert_eq!((at.orig_rax, at.rax), (SYS_execve as u64, 0), "the end of the call");
    assert_eq!(peek(pid, at.rsp), Ok(1), "the new program's stack begins with argc");
    assert_eq!(finish(pid), exited(0));
}

fn threads() {
    let pid = traced(|| {
        let thread = std::thread::spawn(|| ok!(SYS_gettid) as i32);
        i32::from(thread.join().unwrap() == 0)
    });
    trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE as u64).unwrap();
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), at_event(PTRACE_EVENT_CLONE));
    let tid = message(pid) as i32;
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!(stopped(tid), SIGSTOP);
    trace(PTRACE_CONT, tid, 0, 0).unwrap();
    let mut status = -1;
    assert_eq!(ok!(SYS_wait4, tid, &mut status, __WALL, 0), tid.into());
    assert_eq!(status, 0, "a thread's end is told, too");
    assert_eq!(reap(pid), exited(0));
}

fn registers() {
    let pid = traced(|| 0);
    let mut set = regs(pid);
    let mut got: user_regs_struct = unsafe { std::mem::zeroed() };
    let size = size_of::<user_regs_struct>();
    let mut iov = iovec { iov_base: (&raw mut got).cast(), iov_len: 4096 };
    ok!(SYS_ptrace, PTRACE_GETREGSET, pid, 1, &mut iov);
    assert_eq!((iov.iov_len, got.rip, got.rsp), (size, set.rip, set.rsp));
    iov.iov_len = 16;
    ok!(SYS_ptrace, PTRACE_GETREGSET, pid, 1, &mut iov);
    assert_eq!(iov.iov_len, 16);
    iov.iov_len = 17;
    assert_eq!(sys!(SYS_ptrace, PTRACE_GETREGSET, pid, 1, &mut iov), Err(EINVAL));
    assert_eq!(sys!(SYS_ptrace, PTRACE_GETREGSET, pid, 0x999, &mut iov), Err(EINVAL));
    let mut image = vec![0u8; 16384];
    let mut iov = iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
    ok!(SYS_ptrace, PTRACE_GETREGSET, pid, 0x202, &mut iov);
    assert!(iov.iov_len >= 576, "{}", iov.iov_len);
    assert_eq!(image[464] & 3, 3, "x87 and SSE");
    let mut fp: user_fpregs_struct = unsafe { std::mem::zeroed() };
    ok!(SYS_ptrace, PTRACE_GETFPREGS, pid, 0, &mut fp);
    fp.xmm_space[8] = 0x1234_5678;
    ok!(SYS_ptrace, PTRACE_SETFPREGS, pid, 0, &mut fp);
    ok!(SYS_ptrace, PTRACE_GETREGSET, pid, 0x202, &mut iov);
    assert_eq!(image[160 + 32..160 + 36], 0x1234_5678u32.to_le_bytes());
    ok!(SYS_ptrace, PTRACE_SETREGSET, pid, 0x202, &mut iov);
    let mut rseq = [0u64; 3];
    let len = sys!(SYS_ptrace, 0x420f, pid, 24, &mut rseq);
    assert!(len == Ok(24) || len == Err(EIO), "{len:?}");
    fp.mxcsr = u32::MAX;
    assert_eq!(sys!(SYS_ptrace, PTRACE_SETFPREGS, pid, 0, &mut fp), Err(EINVAL));
    set.fs_base = 1 << 63;
    assert_eq!(sys!(SYS_ptrace, PTRACE_SETREGS, pid, 0, &mut set), Err(EIO));
    let mut rip = 0u64;
    ok!(SYS_ptrace, PTRACE_PEEKUSER, pid, 16 * 8, &mut rip);
    assert_eq!(rip, set.rip);
    assert_eq!(sys!(SYS_ptrace, PTRACE_PEEKUSER, pid, 3, &mut rip), Err(EIO));
    assert_eq!(finish(pid), exited(0));
}

fn end_of_tracer() {
    for (options, status) in [(0, exited(0)), (PTRACE_O_EXITKILL, SIGKILL)] {
        let go = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS).cast::<AtomicI32>();
        let go = unsafe { &*go };
        let pid = spawn(|| {
            let _ = sys!(SYS_prctl, PR_SET_PTRACER, u64::MAX);
            while go.load(SeqCst) < 2 {
                unsafe { usleep(1000) };
                if go.load(SeqCst) == 0 {
                    go.store(1, SeqCst);
                }
            }
            0
        });
        while go.load(SeqCst) == 0 {
            unsafe { usleep(1000) };
        }
        let tracer = spawn(|| {
            trace(PTRACE_SEIZE, pid, 0, options as u64).unwrap();
            trace(PTRACE_INTERRUPT, pid, 0, 0).unwrap();
            assert_eq!(stopped(pid), at_event(128));
            0
        });
        assert_eq!(reap(tracer), exited(0));
        go.store(2, SeqCst);
        assert_eq!(reap(pid), status);
    }
}

/// The tracer hears of the end first, then the parent.
fn not_the_parent() {
    let go = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS).cast::<AtomicI32>();
    let go = unsafe { &*go };
    let pid = spawn(|| {
        let _ = sys!(SYS_prctl, PR_SET_PTRACER, u64::MAX);
        go.store(1, SeqCst);
        loop {
            unsafe { pause() };
        }
    });
    while go.load(SeqCst) == 0 {
        unsafe { usleep(1000) };
    }
    let tracer = spawn(|| {
        trace(PTRACE_SEIZE, pid, 0, 0).unwrap();
        go.store(2, SeqCst);
        while go.load(SeqCst) != 3 {
            unsafe { usleep(1000) };
        }
        let mut status = 0;
        assert_eq!(ok!(SYS_wait4, pid, &mut status, 0, 0), pid.into());
        assert_eq!(status, SIGKILL);
        0
    });
    while go.load(SeqCst) != 2 {
        unsafe { usleep(1000) };
    }
    ok!(SYS_kill, pid, SIGKILL);
    unsafe { usleep(20_000) };
    let mut status = 0;
    assert_eq!(ok!(SYS_wait4, pid, &mut status, WNOHANG, 0), 0);
    go.store(3, SeqCst);
    assert_eq!(reap(pid), SIGKILL);
    assert_eq!(reap(tracer), exited(0));
}

fn refused() {
    assert_eq!(trace(PTRACE_ATTACH, ok!(SYS_getpid) as i32, 0, 0), Err(EPERM), "itself");
    assert_eq!(trace(PTRACE_ATTACH, 99_999_999, 0, 0), Err(ESRCH));
    assert_eq!(trace(PTRACE_CONT, ok!(SYS_getppid) as i32, 0, 0), Err(ESRCH), "no tracee");
    let pid = idle();
    assert_eq!(trace(PTRACE_SEIZE, pid, 1, 0), Err(EIO));
    assert_eq!(trace(PTRACE_SEIZE, pid, 0, 1 << 30), Err(EIO));
    trace(PTRACE_SEIZE, pid, 0, 0).unwrap();
    assert_eq!(trace(PTRACE_SEIZE, pid, 0, 0), Err(EPERM), "traced already");
    let status = in_child(|| i32::from(trace(PTRACE_SEIZE, pid, 0, 0) != Err(EPERM)));
    assert_eq!(status, exited(0));
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(reap(pid), SIGKILL);
    let status = in_child(|| {
        trace(PTRACE_TRACEME, 0, 0, 0).unwrap();
        i32::from(trace(PTRACE_TRACEME, 0, 0, 0) != Err(EPERM))
    });
    assert_eq!(status, exited(0));
}

fn restart() {
    let pid = traced(|| {
        let mut left = ns(0);
        sys!(SYS_nanosleep, &mut ns(150_000_000), &mut left).map_or(1, |_| 0)
    });
    trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD as u64).unwrap();
    let nanosleep = |at: &user_regs_struct| [SYS_nanosleep, SYS_clock_nanosleep].contains(&(at.orig_rax as i64));
    let mut at = to_call(pid, GOOD);
    while !nanosleep(&at) {
        at = to_call(pid, GOOD);
    }
    let began = now();
    trace(PTRACE_SYSCALL, pid, 0, 0).unwrap();
    unsafe { usleep(30_000) };
    ok!(SYS_kill, pid, SIGWINCH);
    assert_eq!(stopped(pid), GOOD);
    assert_eq!(regs(pid).rax as i64, -516, "ERESTART_RESTARTBLOCK");
    trace(PTRACE_SYSCALL, pid, 0, 0).unwrap();
    assert_eq!(stopped(pid), SIGWINCH);
    assert_eq!(to_call(pid, GOOD).orig_rax, SYS_restart_syscall as u64);
    assert_eq!(finish(pid), exited(0));
    assert!(now() - began >= 140_000_000);
}

fn seccomp_trace() {
    let filter = |code: u16, jt: u8, jf: u8, k: u32| sock_filter { code, jt, jf, k };
    let pid = traced(|| {
        let mut program = [
            filter(0x20, 0, 0, 0),
            filter(0x15, 0, 1, SYS_getppid as u32),
            filter(0x06, 0, 0, SECCOMP_RET_TRACE | 77),
            filter(0x06, 0, 0, SECCOMP_RET_ALLOW),
        ];
        let mut program = sock_fprog { len: 4, filter: program.as_mut_ptr() };
        ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        ok!(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &mut program);
        i32::from(ok!(SYS_getppid) != ok!(SYS_getpid) || sys!(SYS_getppid) != Err(ENOSYS))
    });
    trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP as u64).unwrap();
    trace(PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!((stopped(pid), message(pid)), (at_event(PTRACE_EVENT_SECCOMP), 77));
    // Another call instead.
    let mut at = regs(pid);
    assert_eq!(at.orig_rax, SYS_getppid as u64);
    at.orig_rax = SYS_getpid as u64;
    set_regs(pid, at);
    trace(PTRACE_SETOPTIONS, pid, 0, 0).unwrap();
    // Nobody wants to hear of the second: it isn't there.
    assert_eq!(finish(pid), exited(0));
}

fn memory_of_others() {
    let memory = map(3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    unsafe { memory.write_bytes(7, 3 * 4096) };
    let pid = idle();
    ok!(SYS_mprotect, memory.wrapping_add(8192), 4096, PROT_NONE);
    unsafe { memory.write_bytes(0, 8192) };
    let mut own = [0u8; 6000];
    let piece = |base: *mut u8, len: usize| iovec { iov_base: base.cast(), iov_len: len };
    let mut local = [piece(own.as_mut_ptr(), 1000), piece(own.as_mut_ptr().wrapping_add(1000), 5000)];
    let mut remote = [piece(memory.wrapping_add(100), 10), piece(memory.wrapping_add(4000), 4000)];
    let (local, remote) = (local.as_mut_ptr(), remote.as_mut_ptr());
    assert_eq!(ok!(SYS_process_vm_readv, pid, local, 2, remote, 2, 0), 4010);
    assert!(own[..4010].iter().all(|byte| *byte == 7) && own[4010] == 0);
    own.fill(9);
    assert_eq!(ok!(SYS_process_vm_writev, pid, local, 1, remote, 2, 0), 1000);
    assert_eq!(ok!(SYS_process_vm_readv, pid, local, 2, remote, 2, 0), 4010);
    assert!(own[..1000].iter().all(|byte| *byte == 9) && own[1000] == 7);
    assert_eq!(unsafe { memory.wrapping_add(100).read_volatile() }, 0, "ours is another");
    let mut missing = piece(null_mut(), 8);
    assert_eq!(sys!(SYS_process_vm_readv, pid, local, 2, &mut missing, 1, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_process_vm_readv, pid, local, 2, remote, 2, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_process_vm_readv, 99_999_999, local, 2, remote, 2, 0), Err(ESRCH));
    // Not what the program itself can't write.
    let mut constant = piece((&raw const CONSTANT).cast_mut().cast(), 8);
    assert_eq!(sys!(SYS_process_vm_writev, pid, local, 1, &mut constant, 1, 0), Err(EFAULT));
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(reap(pid), SIGKILL);
}

/// /proc/PID/mem
fn memory_file() {
    let word = &raw const CONSTANT[3] as u64;
    let path = std::ffi::CString::new("/proc/self/mem").unwrap();
    let own = ok!(SYS_openat, AT_FDCWD, &*path, O_RDWR) as i32;
    let mut bytes = [0u8; 8];
    assert_eq!(ok!(SYS_pread64, own, &mut bytes, 8, word), 8);
    assert_eq!(u64::from_le_bytes(bytes), 5);
    assert_eq!(sys!(SYS_pread64, own, &mut bytes, 8, 8), Err(EIO));
    assert_eq!(sys!(SYS_pwrite64, own, &mut bytes, 8, 8), Err(EIO));
    // What the program itself can't write.
    assert_eq!(ok!(SYS_pwrite64, own, &mut 77u64, 8, word), 8);
    assert_eq!(unsafe { (&raw const CONSTANT[3]).read_volatile() }, 77);
    ok!(SYS_pwrite64, own, &mut 5u64, 8, word);
    let pid = idle();
    let other = std::fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
    let other = std::os::fd::AsRawFd::as_raw_fd(&other);
    assert_eq!(ok!(SYS_pwrite64, other, &mut 88u64, 8, word), 8);
    assert_eq!(ok!(SYS_pread64, other, &mut bytes, 8, word), 8);
    assert_eq!((u64::from_le_bytes(bytes), CONSTANT[3]), (88, 5));
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(reap(pid), SIGKILL);
    // The program is gone, and its memory with it.
    assert_eq!(ok!(SYS_pread64, other, &mut bytes, 8, word), 0);
}

fn in_proc() {
    let pid = traced(|| i32::from(ok!(SYS_getppid) == 0));
    trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD as u64).unwrap();
    let mut at = to_call(pid, GOOD);
    while at.orig_rax != SYS_getppid as u64 {
        at = to_call(pid, GOOD);
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("TracerPid:\t{}\n", std::process::id())), "{status}");
    assert!(status.contains("State:\tt (tracing stop)"), "{status}");
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    assert!(
        call.starts_with(&format!("{SYS_getppid} 0x")) && call.ends_with(&format!("{:#x} {:#x}\n", at.rsp, at.rip)),
        "{call}"
    );
    assert_eq!(finish(pid), exited(0));
}

fn core_dump() {
    if std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap() != "core\n" {
        skip("core dumps go elsewhere");
    }
    let crash = |limit: u64, dumpable: i32| {
        in_child(move || {
            let mut limit = rlimit { rlim_cur: limit, rlim_max: limit };
            ok!(SYS_setrlimit, RLIMIT_CORE, &mut limit);
            ok!(SYS_prctl, PR_SET_DUMPABLE, dumpable);
            WORDS[0].store(0x1122_3344_5566_7788, SeqCst);
            std::thread::spawn(|| unsafe { pause() });
            std::fs::write("/proc/self/coredump_filter", "0x13").unwrap();
            assert_eq!(std::fs::read_to_string("/proc/self/coredump_filter").unwrap(), "00000013\n");
            unsafe { usleep(20_000) };
            raise(SIGQUIT);
            0
        })
    };
    assert_eq!(crash(0, 1), SIGQUIT);
    assert_eq!(crash(1 << 30, 0), SIGQUIT);
    assert!(std::fs::metadata("core").is_err());
    std::fs::write("core", "an old one").unwrap();
    assert_eq!(crash(1 << 30, 1), SIGQUIT | 0x80);
    let core = std::fs::read("core").unwrap();
    let word = |at: usize| u64::from_le_bytes(core[at..at + 8].try_into().unwrap());
    assert_eq!((&core[..4], core[16], core[18]), (&b"\x7fELF"[..], 4, 62));
    let headers: Vec<_> = (0..usize::from(core[56]) + (usize::from(core[57]) << 8)).map(|index| 64 + 56 * index).collect();
    // What the program had in its memory.
    let place = &raw const WORDS[0] as u64;
    let holds = |at: &&usize| core[**at] == 1 && (word(**at + 16)..word(**at + 16) + word(**at + 32)).contains(&place);
    let at = *headers.iter().find(holds).expect("the mapping with the word");
    assert_eq!(word(word(at + 8) as usize + (place - word(at + 16)) as usize), 0x1122_3344_5566_7788);
    // The notes begin with the status of who got the signal; there is one for each thread.
    let (from, len) = (word(headers[0] + 8) as usize, word(headers[0] + 32) as usize);
    let (mut notes, mut at) = (Vec::new(), from);
    while at < from + len {
        let (name, content, kind) = (word(at) as u32 as usize, (word(at) >> 32) as usize, word(at + 8) as u32);
        notes.push((kind, content));
        if notes.len() == 1 {
            assert_eq!(word(at + 20) as i32, SIGQUIT);
        }
        at += 12 + name.next_multiple_of(4) + content.next_multiple_of(4);
    }
    let of = |kind: u32| notes.iter().filter(|note| note.0 == kind).map(|note| note.1).collect::<Vec<_>>();
    assert_eq!((of(1), of(2), of(3), of(0x5349_4749)), (vec![336; 2], vec![512; 2], vec![136], vec![128]));
    assert_eq!((of(0x202).len(), of(6).len(), of(0x4649_4c45).len()), (2, 1, 1));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata("core").unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Another name, where that may be said.
    let ours = std::fs::read_to_string("/proc/version").unwrap().contains("palisade");
    if ours && std::fs::write("/proc/sys/kernel/core_pattern", "core-of-%e-%s%%\n").is_ok() {
        assert_eq!(crash(1 << 30, 1), SIGQUIT | 0x80);
        std::fs::write("/proc/sys/kernel/core_pattern", "core\n").unwrap();
        let names = std::fs::read_dir(".").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> = names.collect();
        assert!(names.iter().any(|name| name.starts_with("core-of-") && name.ends_with("-3%")), "{names:?}");
    }
    // One that is cut off is one as well.
    assert_eq!(crash(8192, 1), SIGQUIT | 0x80);
    assert!((4096..=8192).contains(&std::fs::metadata("core").unwrap().len()));
}
