//! The program that runs beside guest code. Position-independent, no data, no relocations, no stack of its own but the slot's.
//!
//! Guest code can jump anywhere in here with any registers. Nothing in here may therefore be trusted by the sentry, and the seccomp
//! filter allows these addresses no more than a hijacked stub may have.
#![no_std]
#![no_main]
#![allow(dead_code, reason = "the layout is shared with the sentry")]

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

mod layout;
use layout::*;

const SYS_MMAP: u64 = 9;
const SYS_MPROTECT: u64 = 10;
const SYS_MUNMAP: u64 = 11;
const SYS_RT_SIGRETURN: u64 = 15;
const SYS_SCHED_YIELD: u64 = 24;
const SYS_DUP2: u64 = 33;
const SYS_RECVMSG: u64 = 47;
const SYS_CLOSE: u64 = 3;
const SYS_EXIT: u64 = 60;
const SYS_SIGALTSTACK: u64 = 131;
const SYS_CLOCK_GETTIME: u64 = 228;
const SYS_FUTEX: u64 = 202;
const SYS_PRCTL: u64 = 157;
const SYS_SECCOMP: u64 = 317;

/// Offset in a slot of the registers in the frame at `FULL_FRAME`: behind flags, link and `uc_stack`.
const FULL_REGS: u64 = FULL_FRAME + 5 * 8;

/// `PR_SET_MM`, `PR_SET_MM_MAP`
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;

const SYS_RSEQ: u64 = 334;

const CLOCK_THREAD_CPUTIME_ID: u64 = 3;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`
const LISTENER_FLAGS: u64 = (1 << 3) | (1 << 5);

/// `CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM`
pub const THREAD_FLAGS: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
/// `CLONE_PARENT | SIGCHLD`
pub const FORK_FLAGS: u64 = 0x8000 | 17;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: an undefined instruction; the sentry sees a fault in the stub and kills the task.
        unsafe { asm!("ud2") }
    }
}

global_asm!(
    ".section .text.head,\"ax\",@progbits",
    ".globl stub_head",
    "stub_head:",
    ".quad stub_creator - stub_head",
    ".quad stub_fast_entry - stub_head",
    ".quad stub_publish - stub_head",
    ".quad stub_answered - stub_head",
    ".quad stub_tail - stub_head",
    ".quad stub_tail_end - stub_head",
    ".quad stub_restore - stub_head",
    ".quad stub_restore_end - stub_head",
    ".quad stub_full_ud2 - stub_head",
    ".quad stub_hello_ud2 - stub_head",
    ".quad stub_handler_entry - stub_head",
    ".quad stub_restorer - stub_head",
    // A patched site arrives here: rax = number, rcx = return address, arguments in place; rcx and r11 are dead as after `syscall`.
    ".p2align 6",
    "stub_fast_entry:",
    "mov gs:[{rsp}], rsp",
    "mov gs:[{rax}], rax",
    "mov gs:[{rcx}], rcx",
    "mov gs:[{rdi}], rdi",
    "mov gs:[{rsi}], rsi",
    "mov gs:[{rdx}], rdx",
    "mov gs:[{r10}], r10",
    "mov gs:[{r8}], r8",
    "mov gs:[{r9}], r9",
    // Calls whose answer stands in the slot (IDENT_CALLS): getpid 39, getuid 102, getgid 104, geteuid 107, getegid 108, getppid 110, gettid 186.
    "cmp eax, 186",
    "ja 10f",
    "xor r11d, r11d",
    "cmp eax, 39",
    "je 9f",
    "cmp eax, 102",
    "jb 10f",
    "mov r11d, 1",
    "je 9f",
    "mov r11d, 2",
    "cmp eax, 104",
    "je 9f",
    "mov r11d, 3",
    "cmp eax, 107",
    "je 9f",
    "mov r11d, 4",
    "cmp eax, 108",
    "je 9f",
    "mov r11d, 5",
    "cmp eax, 110",
    "je 9f",
    "mov r11d, 6",
    "cmp eax, 186",
    "jne 10f",
    "9:",
    "bt dword ptr gs:[{ident_mask}], r11d",
    "jnc 10f",
    "mov rax, gs:[{ident} + r11 * 8]",
    ".globl stub_answered",
    "stub_answered:",
    "jmp rcx",
    "10:",
    "mov dword ptr gs:[{kind}], {KIND_FAST}",
    "mov r11d, {STATE_REQUEST}",
    ".globl stub_publish",
    "stub_publish:",
    "xchg dword ptr gs:[{state}], r11d",
    "cmp r11d, {STATE_PARKED}",
    "je 4f",
    // Argument registers are saved: edi counts rounds, esi looks.
    "mov edi, gs:[{rounds}]",
    "2:",
    "mov esi, gs:[{looks}]",
    "3:",
    // GUEST and PARKED, the even ones, say "answered": the sentry may park before this side has looked.
    "test dword ptr gs:[{state}], 1",
    "jz 5f",
    "pause",
    "dec esi",
    "jg 3b",
    "dec edi",
    "jle 3f",
    // Who is to answer may need this CPU.
    "mov eax, {SYS_SCHED_YIELD}",
    "syscall",
    "jmp 2b",
    "3:",
    // Enough: sleep, unless the answer came this moment.
    "mov eax, {STATE_REQUEST}",
    "mov r11d, {STATE_RING}",
    "lock cmpxchg dword ptr gs:[{state}], r11d",
    "jne 5f",
    "4:",
    "mov eax, {RING_NR}",
    "syscall",
    "test dword ptr gs:[{state}], 1",
    "jnz 4b",
    "5:",
    "cmp qword ptr gs:[{action}], 0",
    "jne 6f",
    // From here to the jump, an interrupt starts over at stub_tail (see the handler): everything comes from memory.
    ".globl stub_tail",
    "stub_tail:",
    "cmp dword ptr gs:[{intr}], 0",
    "jne 7f",
    "mov rdi, gs:[{rdi}]",
    "mov rsi, gs:[{rsi}]",
    "mov rdx, gs:[{rdx}]",
    "mov r10, gs:[{r10}]",
    "mov r8, gs:[{r8}]",
    "mov r9, gs:[{r9}]",
    "mov rsp, gs:[{rsp}]",
    "mov rax, gs:[{ret}]",
    "mov rcx, gs:[{rcx}]",
    "mov r11d, 0x246",
    "jmp rcx",
    ".globl stub_tail_end",
    "stub_tail_end:",
    "6:",
    "mov rdi, gs:[{this}]",
    "lea rsp, [rdi + {FAST_STACK_TOP}]",
    "call {reply}",
    "test eax, eax",
    "jz stub_tail",
    "7:",
    "mov dword ptr gs:[{intr}], 0",
    "cmp dword ptr gs:[{xsave_mask}], 0",
    "je 8f",
    // All registers into the frame: those that the fast path has saved, its answer, and those that it doesn't touch.
    "mov r11, gs:[{rdi}]",
    "mov gs:[{f_rdi}], r11",
    "mov r11, gs:[{rsi}]",
    "mov gs:[{f_rsi}], r11",
    "mov r11, gs:[{rdx}]",
    "mov gs:[{f_rdx}], r11",
    "mov r11, gs:[{r10}]",
    "mov gs:[{f_r10}], r11",
    "mov r11, gs:[{r8}]",
    "mov gs:[{f_r8}], r11",
    "mov r11, gs:[{r9}]",
    "mov gs:[{f_r9}], r11",
    "mov r11, gs:[{rsp}]",
    "mov gs:[{f_rsp}], r11",
    "mov r11, gs:[{ret}]",
    "mov gs:[{f_rax}], r11",
    "mov r11, gs:[{rcx}]",
    "mov gs:[{f_rcx}], r11",
    "mov gs:[{f_rip}], r11",
    "mov qword ptr gs:[{f_r11}], 0x246",
    "mov qword ptr gs:[{f_eflags}], 0x246",
    "mov gs:[{f_rbx}], rbx",
    "mov gs:[{f_rbp}], rbp",
    "mov gs:[{f_r12}], r12",
    "mov gs:[{f_r13}], r13",
    "mov gs:[{f_r14}], r14",
    "mov gs:[{f_r15}], r15",
    "rdfsbase r11",
    "mov gs:[{fs_base}], r11",
    "mov eax, gs:[{xsave_mask}]",
    "xor edx, edx",
    "xsave64 gs:[{FULL_XSAVE}]",
    "71:",
    "mov rdi, gs:[{this}]",
    "lea rsp, [rdi + {FAST_STACK_TOP}]",
    "call {full}",
    "test eax, {ACTION_HOST}",
    "jnz 73f",
    // From here to the jump, an interrupt starts over at stub_restore: everything comes from memory.
    ".globl stub_restore",
    "stub_restore:",
    "cmp dword ptr gs:[{intr}], 0",
    "jne 72f",
    "mov eax, gs:[{xsave_mask}]",
    "xor edx, edx",
    "xrstor64 gs:[{FULL_XSAVE}]",
    "mov rsp, gs:[{this}]",
    "lea rsp, [rsp + {FAST_STACK_TOP}]",
    "push qword ptr gs:[{f_eflags}]",
    "popfq",
    "mov rdi, gs:[{f_rdi}]",
    "mov rsi, gs:[{f_rsi}]",
    "mov rdx, gs:[{f_rdx}]",
    "mov r10, gs:[{f_r10}]",
    "mov r8, gs:[{f_r8}]",
    "mov r9, gs:[{f_r9}]",
    "mov rax, gs:[{f_rax}]",
    "mov rcx, gs:[{f_rcx}]",
    "mov r11, gs:[{f_r11}]",
    "mov rbx, gs:[{f_rbx}]",
    "mov rbp, gs:[{f_rbp}]",
    "mov r12, gs:[{f_r12}]",
    "mov r13, gs:[{f_r13}]",
    "mov r14, gs:[{f_r14}]",
    "mov r15, gs:[{f_r15}]",
    "mov rsp, gs:[{f_rsp}]",
    "jmp qword ptr gs:[{f_rip}]",
    ".globl stub_restore_end",
    "stub_restore_end:",
    "72:",
    "mov dword ptr gs:[{intr}], 0",
    "jmp 71b",
    // The sentry writes the general registers into the host's frame again; the others have to be there.
    "73:",
    "mov eax, gs:[{xsave_mask}]",
    "xor edx, edx",
    "xrstor64 gs:[{FULL_XSAVE}]",
    "8:",
    "mov rdi, gs:[{rdi}]",
    "mov rsi, gs:[{rsi}]",
    "mov rdx, gs:[{rdx}]",
    "mov r10, gs:[{r10}]",
    "mov r8, gs:[{r8}]",
    "mov r9, gs:[{r9}]",
    "mov rsp, gs:[{rsp}]",
    "mov rax, gs:[{ret}]",
    "mov rcx, gs:[{rcx}]",
    ".globl stub_full_ud2",
    "stub_full_ud2:",
    "ud2",
    // Signals.
    "stub_handler_entry:",
    "jmp {handler}",
    "stub_restorer:",
    "mov eax, {SYS_RT_SIGRETURN}",
    "syscall",
    "ud2",
    // The zygote enters here once: rdi = top of what it was (unmap [0, rdi)), everything else is set up.
    "stub_creator:",
    "movabs rsp, {CREATOR_STACK}",
    "xor ebp, ebp",
    "jmp {creator}",
    // A new guest thread: rsp = top of its fast stack.
    "stub_thread:",
    "mov rdi, rsp",
    "and rdi, {SLOT_MASK}",
    "wrgsbase rdi",
    "xor ebp, ebp",
    "call {thread}",
    "xor eax, eax",
    ".globl stub_hello_ud2",
    "stub_hello_ud2:",
    "ud2",
    // clone(2) from the creator: rdi = flags, rsi = stack of a thread or 0 for a process, rdx = the child's slot file. A new process runs
    // without a stack until it has its own slots.
    "stub_clone:",
    "push r12",
    "mov r12, rdx",
    "mov r9, rsi",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 1f",
    "pop r12",
    "ret",
    "1:",
    "test r9, r9",
    "jnz stub_thread",
    "movabs rdi, {SLOTS}",
    "mov rsi, {SLOTS_LEN}",
    "mov edx, 3",
    "mov r10d, 0x11",
    "mov r8, r12",
    "xor r9d, r9d",
    "mov eax, {SYS_MMAP}",
    "syscall",
    "movabs rsp, {CREATOR_STACK}",
    "mov rdi, r12",
    "jmp {forked}",
    state = const offset_of!(Ctx, state),
    kind = const offset_of!(Ctx, kind),
    action = const offset_of!(Ctx, action),
    ret = const offset_of!(Ctx, ret),
    intr = const offset_of!(Ctx, intr),
    rounds = const offset_of!(Ctx, rounds),
    looks = const offset_of!(Ctx, looks),
    this = const offset_of!(Ctx, this),
    ident = const offset_of!(Ctx, ident),
    ident_mask = const offset_of!(Ctx, ident_mask),
    rax = const offset_of!(Ctx, regs.rax),
    rdi = const offset_of!(Ctx, regs.rdi),
    rsi = const offset_of!(Ctx, regs.rsi),
    rdx = const offset_of!(Ctx, regs.rdx),
    r10 = const offset_of!(Ctx, regs.r10),
    r8 = const offset_of!(Ctx, regs.r8),
    r9 = const offset_of!(Ctx, regs.r9),
    rcx = const offset_of!(Ctx, regs.rcx),
    rsp = const offset_of!(Ctx, regs.rsp),
    fs_base = const offset_of!(Ctx, fs_base),
    xsave_mask = const offset_of!(Ctx, xsave_mask),
    f_r8 = const FULL_REGS + 0 * 8,
    f_r9 = const FULL_REGS + 1 * 8,
    f_r10 = const FULL_REGS + 2 * 8,
    f_r11 = const FULL_REGS + 3 * 8,
    f_r12 = const FULL_REGS + 4 * 8,
    f_r13 = const FULL_REGS + 5 * 8,
    f_r14 = const FULL_REGS + 6 * 8,
    f_r15 = const FULL_REGS + 7 * 8,
    f_rdi = const FULL_REGS + 8 * 8,
    f_rsi = const FULL_REGS + 9 * 8,
    f_rbp = const FULL_REGS + 10 * 8,
    f_rbx = const FULL_REGS + 11 * 8,
    f_rdx = const FULL_REGS + 12 * 8,
    f_rax = const FULL_REGS + 13 * 8,
    f_rcx = const FULL_REGS + 14 * 8,
    f_rsp = const FULL_REGS + 15 * 8,
    f_rip = const FULL_REGS + 16 * 8,
    f_eflags = const FULL_REGS + 17 * 8,
    FULL_XSAVE = const FULL_XSAVE,
    ACTION_HOST = const ACTION_HOST,
    KIND_FAST = const KIND_FAST,
    STATE_REQUEST = const STATE_REQUEST,
    STATE_PARKED = const STATE_PARKED,
    STATE_RING = const STATE_RING,
    RING_NR = const RING_NR,
    FAST_STACK_TOP = const FAST_STACK_TOP,
    SYS_RT_SIGRETURN = const SYS_RT_SIGRETURN,
    SYS_MMAP = const SYS_MMAP,
    SYS_SCHED_YIELD = const SYS_SCHED_YIELD,
    SLOTS = const SLOTS,
    SLOTS_LEN = const SLOT_SIZE * SLOT_COUNT,
    SLOT_MASK = const -(SLOT_SIZE as i64),
    CREATOR_STACK = const SLOTS + FAST_STACK_TOP - 8,
    reply = sym reply,
    full = sym full,
    handler = sym handler,
    creator = sym creator,
    thread = sym thread,
    forked = sym forked,
);

/// clone(2) by `stub_clone`; returns in the parent only.
///
/// # Safety
/// `stack` is 0 or the top of an unused fast stack.
unsafe fn stub_clone(flags: u64, stack: u64, fd: u64) -> i64 {
    let ret;
    // SAFETY: the callee keeps to the C ABI in the parent; children never come back here.
    unsafe {
        asm!("call stub_clone", inout("rdi") flags => _, inout("rsi") stack => _, inout("rdx") fd => _, lateout("rax") ret,
            clobber_abi("C"));
    }
    ret
}

/// A host system call; the filter decides.
fn syscall(nr: u64, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64 {
    let ret;
    // SAFETY: what the call does to memory is what the caller asks for; registers are declared.
    unsafe {
        asm!("syscall", inlateout("rax") nr => ret, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            out("rcx") _, out("r11") _);
    }
    ret
}

fn futex_wait(word: &core::sync::atomic::AtomicU32, value: u32) {
    syscall(SYS_FUTEX, word.as_ptr() as u64, 0, value.into(), 0, 0, 0);
}

fn futex_wake(word: &core::sync::atomic::AtomicU32) {
    syscall(SYS_FUTEX, word.as_ptr() as u64, 1, 1, 0, 0, 0);
}

fn slot(index: u64) -> &'static Ctx {
    // SAFETY: every slot is mapped for as long as the process lives, all its fields are atomics or plain integers.
    unsafe { &*((SLOTS + index * SLOT_SIZE) as *const Ctx) }
}

/// The sentry may have parked before this side looks, so both words mean an answer.
fn answered(state: u32) -> bool {
    state == STATE_GUEST || state == STATE_PARKED
}

/// Publishes a request and waits for the answer.
fn request(ctx: &Ctx) {
    let state = ctx.state.swap(STATE_REQUEST, SeqCst);
    if state != STATE_PARKED {
        let (mut rounds, looks) = (ctx.rounds.load(Relaxed), ctx.looks.load(Relaxed));
        loop {
            let mut left = looks;
            loop {
                if answered(ctx.state.load(Acquire)) {
                    return;
                }
                if left == 0 {
                    break;
                }
                left -= 1;
                core::hint::spin_loop();
            }
            if rounds <= 1 {
                break;
            }
            rounds -= 1;
            syscall(SYS_SCHED_YIELD, 0, 0, 0, 0, 0, 0);
        }
        if ctx.state.compare_exchange(STATE_REQUEST, STATE_RING, SeqCst, Acquire).is_err() {
            return;
        }
    }
    loop {
        syscall(RING_NR.into(), 0, 0, 0, 0, 0, 0);
        if answered(ctx.state.load(Acquire)) {
            return;
        }
    }
}

/// Tells of the frame that the fast path has made, and does what the answer says. Returns the actions left to the caller.
extern "C" fn full(ctx: &Ctx) -> u32 {
    ctx.kind.store(KIND_FULL, Relaxed);
    request(ctx);
    reply(ctx)
}

/// Does what the sentry's answer says; returns the actions left to the caller (a frame is wanted). Leaves `action` and `nops` zero.
extern "C" fn reply(ctx: &Ctx) -> u32 {
    loop {
        let action = ctx.action.load(Acquire);
        run_ops(ctx);
        ctx.action.store(0, Relaxed);
        if action & ACTION_EXIT != 0 {
            loop {
                syscall(SYS_EXIT, 0, 0, 0, 0, 0, 0);
            }
        }
        if action & ACTION_SET_FS != 0 {
            let base = ctx.fs_base.load(Relaxed);
            // SAFETY: the guest's thread pointer; stub code uses no thread-local storage.
            unsafe { asm!("wrfsbase {}", in(reg) base) };
        }
        if action & ACTION_MORE != 0 {
            ctx.kind.store(KIND_MORE, Relaxed);
            request(ctx);
            continue;
        }
        return action & (ACTION_FULL | ACTION_HOST);
    }
}

fn run_ops(ctx: &Ctx) {
    let count = ctx.nops.load(Acquire);
    if count == 0 {
        return;
    }
    let mut i = 0;
    while i < count as usize && i < MAX_OPS {
        // SAFETY: inside the array; written by the sentry before its answer.
        let op = unsafe { core::ptr::read_volatile(ctx.ops.as_ptr().add(i)) };
        let error = run_op(ctx, &op);
        if error < 0 && ctx.ops_error.load(Relaxed) == 0 {
            ctx.ops_error.store(error as i32, Relaxed);
        }
        i += 1;
    }
    ctx.nops.store(0, Relaxed);
    ctx.ops_done.fetch_add(1, Release);
}

fn fd_word(ctx: &Ctx, op: &Op) -> &'static core::sync::atomic::AtomicI32 {
    // Descriptors belong to the process: they stand in the creator's slot. The index is masked, so there is nothing to check.
    let _ = ctx;
    // SAFETY: masked index into an array of MAX_FDS (a power of two).
    unsafe { &*slot(0).fds.as_ptr().add(op.fd as usize & (MAX_FDS - 1)) }
}

fn run_op(ctx: &Ctx, op: &Op) -> i64 {
    match op.code {
        OP_MAP => {
            let fd = fd_word(ctx, op).load(Relaxed);
            let at = syscall(SYS_MMAP, op.addr, op.len, op.prot.into(), op.flags.into(), fd as u64, op.off);
            if (-4095..0).contains(&at) { at } else { 0 }
        }
        OP_UNMAP => syscall(SYS_MUNMAP, op.addr, op.len, 0, 0, 0, 0),
        OP_PROTECT => syscall(SYS_MPROTECT, op.addr, op.len, op.prot.into(), 0, 0, 0),
        OP_RECV => {
            let fd = receive_fd();
            fd_word(ctx, op).store(fd as i32, Relaxed);
            fd
        }
        OP_CLOSE => syscall(SYS_CLOSE, fd_word(ctx, op).load(Relaxed) as u64, 0, 0, 0, 0, 0),
        OP_CLOSE_RAW => syscall(SYS_CLOSE, op.addr, 0, 0, 0, 0, 0),
        OP_RSEQ => syscall(SYS_RSEQ, op.addr, op.len, op.prot.into(), op.off, 0, 0),
        OP_DESCRIBE => {
            describe(op.len);
            0
        }
        OP_CPU_TIME => {
            let mut time = [0u64; 2];
            let result = syscall(SYS_CLOCK_GETTIME, CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr() as u64, 0, 0, 0, 0);
            // SAFETY: initialised; the kernel has written to it behind the compiler's back.
            let [seconds, nanoseconds] = unsafe { core::ptr::read_volatile(&raw const time) };
            ctx.cpu_time.store(seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds), Relaxed);
            result
        }
        _ => -22,
    }
}

/// Has the host show a command line. Where it can't (CONFIG_CHECKPOINT_RESTORE), it shows none.
fn describe(len: u64) {
    for (i, word) in slot(0).title.iter().enumerate() {
        // SAFETY: inside the page, which the zygote has mapped for this.
        unsafe { core::ptr::write_volatile((TITLE as *mut u64).add(i), word.load(Relaxed)) };
    }
    let (start, end) = (TITLE, TITLE + len.clamp(1, TITLE_WORDS as u64 * 8));
    // struct prctl_mm_map: code, data, heap (start, end each), stack, arguments, environment, auxiliary vector, its size (0) and the
    // program's file (-1: none). But for the arguments they mean nothing to anybody here; the first must not be empty.
    let map = [start, end, start, end, start, start, start, start, end, end, end, 0, 0xffff_ffff_0000_0000];
    syscall(SYS_PRCTL, PR_SET_MM, PR_SET_MM_MAP, map.as_ptr() as u64, size_of_val(&map) as u64, 0, 0);
}

/// Receives one descriptor (`SCM_RIGHTS`) from the sentry.
fn receive_fd() -> i64 {
    let mut byte = 0u8;
    let iov = [&raw mut byte as u64, 1];
    let mut control = [0u64; 3];
    let mut header = [0u64, 0, iov.as_ptr() as u64, 1, control.as_mut_ptr() as u64, 24, 0];
    let got = syscall(SYS_RECVMSG, SOCKET_FD as u64, header.as_mut_ptr() as u64, 0, 0, 0, 0);
    if got < 0 {
        return got;
    }
    // SAFETY: initialised arrays; the kernel has written to them behind the compiler's back.
    let (len, level_type, data) = unsafe {
        (
            core::ptr::read_volatile(&raw const control[0]),
            core::ptr::read_volatile(&raw const control[1]),
            core::ptr::read_volatile(&raw const control[2]),
        )
    };
    if len < 20 || level_type != (1 | (1 << 32)) {
        return -9;
    }
    i64::from(data as u32 as i32)
}

/// Whether a frame of stub code interrupts what the fast path calls.
fn on_fast_stack(base: u64, uc: *const u64) -> bool {
    // SAFETY: uc_mcontext.gregs[REG_RSP] of a frame that the kernel has just written.
    let rsp = unsafe { *uc.add(5 + 15) };
    rsp > base && rsp <= base + FAST_STACK_TOP
}

/// A host signal. The frame is on the slot's alternate stack, where the sentry can read and change it.
extern "C" fn handler(signo: i32, info: *const [u64; 4], uc: *mut u64) {
    let base = uc as u64 & !(SLOT_SIZE - 1);
    // SAFETY: alternate stacks lie in slots, whose first page is a Ctx.
    let ctx = unsafe { &*(base as *const Ctx) };
    // SAFETY: uc_mcontext.gregs[REG_RIP] of the frame that the kernel has just written.
    let rip = unsafe { &mut *uc.add(5 + 16) };
    // SAFETY: the blob starts with its header, at TEXT.
    let header = unsafe { &*(TEXT as *const Header) };
    let offset = rip.wrapping_sub(TEXT);
    if signo == SIGINTERRUPT && offset >= header.fast_entry && offset <= header.publish {
        // Nothing has been asked yet: the guest stands before its call, or after it if the slot has answered. `rcx` is where it returns.
        // SAFETY: uc_mcontext.gregs[REG_RCX] of the same frame.
        let back = unsafe { *uc.add(5 + 14) };
        *rip = if offset == header.answered { back } else { back.wrapping_sub(SITE_LEN) };
    } else if signo == SIGINTERRUPT
        && (offset >= header.fast_entry && offset < header.handler || offset < TEXT_SIZE && on_fast_stack(base, uc))
    {
        // On the way back to the guest, what is called from there included: the end of that way looks at the word.
        ctx.intr.store(1, Relaxed);
        if offset >= header.tail && offset < header.tail_end {
            *rip = TEXT + header.tail;
        } else if offset >= header.restore && offset < header.restore_end {
            *rip = TEXT + header.restore;
        }
        return;
    }
    // SAFETY: the kernel's siginfo: signo and errno, code, then the address union.
    let (code, addr) = unsafe { ((*info)[1] as u32 as i32, (*info)[2]) };
    ctx.signo.store(signo, Relaxed);
    ctx.sigcode.store(code, Relaxed);
    ctx.sigaddr.store(addr, Relaxed);
    ctx.frame.store(uc as u64, Relaxed);
    let fs_base: u64;
    // SAFETY: reads a register.
    unsafe { asm!("rdfsbase {}", out(reg) fs_base) };
    ctx.fs_base.store(fs_base, Relaxed);
    ctx.kind.store(KIND_SIGNAL, Relaxed);
    request(ctx);
    reply(ctx);
}

/// First code of a new guest thread, on its fast stack.
extern "C" fn thread(ctx: &Ctx) {
    let base = ctx as *const Ctx as u64;
    let stack = [base + ALT_STACK, 0, ALT_STACK_SIZE];
    syscall(SYS_SIGALTSTACK, stack.as_ptr() as u64, 0, 0, 0, 0, 0);
    // SAFETY: guests start with no thread pointer.
    unsafe { asm!("wrfsbase {}", in(reg) 0u64) };
    let program = CONSTS + offset_of!(Consts, thread) as u64;
    let listener = syscall(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, LISTENER_FLAGS, program, 0, 0, 0);
    ctx.listener.store(listener as i32, Relaxed);
    ctx.hello.store(1, Release);
    futex_wake(&ctx.hello);
    if listener < 0 {
        loop {
            syscall(SYS_EXIT, 0, 0, 0, 0, 0, 0);
        }
    }
}

/// The zygote's creator thread, in a process that still holds a copy of the sentry's memory below `top`.
extern "C" fn creator(top: u64) -> ! {
    syscall(SYS_MUNMAP, 0, STUB_BASE, 0, 0, 0, 0);
    let slots_end = SLOTS + SLOT_SIZE * SLOT_COUNT;
    syscall(SYS_MUNMAP, slots_end, top - slots_end, 0, 0, 0, 0);
    let program = CONSTS + offset_of!(Consts, base) as u64;
    let done = syscall(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, 0, program, 0, 0, 0);
    let ctx = slot(0);
    ctx.listener.store(done as i32, Relaxed);
    ctx.hello.store(1, Release);
    futex_wake(&ctx.hello);
    serve()
}

/// A forked process's creator thread, with its own slots mapped from `fd`; the socket is the next descriptor.
extern "C" fn forked(fd: u64) -> ! {
    syscall(SYS_CLOSE, fd, 0, 0, 0, 0, 0);
    let socket = slot(0).socket.load(Relaxed);
    syscall(SYS_DUP2, socket.into(), SOCKET_FD as u64, 0, 0, 0, 0);
    syscall(SYS_CLOSE, socket.into(), 0, 0, 0, 0, 0);
    serve()
}

/// Runs the sentry's commands for ever.
fn serve() -> ! {
    let ctx = slot(0);
    let mut seen = 0;
    loop {
        let seq = ctx.cmd_seq.load(Acquire);
        if seq == seen {
            futex_wait(&ctx.cmd_seq, seen);
            continue;
        }
        seen = seq;
        let result = match ctx.cmd.load(Relaxed) {
            CMD_THREAD => {
                let index = u64::from(ctx.cmd_arg.load(Relaxed)) & (SLOT_COUNT - 1);
                // SAFETY: the stack is the new slot's, unused so far.
                unsafe { stub_clone(THREAD_FLAGS, SLOTS + index * SLOT_SIZE + FAST_STACK_TOP, 0) }
            }
            CMD_FORK => fork(),
            CMD_OPS => {
                run_ops(ctx);
                0
            }
            _ => -22,
        };
        ctx.cmd_result.store(result as i32, Relaxed);
        ctx.cmd_done.store(seq, Release);
        futex_wake(&ctx.cmd_done);
    }
}

/// Receives the child's slot file and socket, forks, and drops them here.
fn fork() -> i64 {
    let slots = receive_fd();
    let socket = receive_fd();
    if slots < 0 || socket < 0 {
        return -9;
    }
    // The child reads the socket's number from its own slot 0, which the sentry fills in: numbers are the lowest free ones, so the
    // sentry can't know it. Tell it through the file that the child is about to map.
    let at = SLOTS + SLOT_SIZE * SLOT_COUNT;
    let mapped = syscall(SYS_MMAP, at, 4096, 3, 0x11, slots as u64, 0);
    let result = if mapped == at as i64 {
        // SAFETY: just mapped; the child's first page.
        let child = unsafe { &*(at as *const Ctx) };
        child.socket.store(socket as u32, Relaxed);
        syscall(SYS_MUNMAP, at, 4096, 0, 0, 0, 0);
        // SAFETY: the child runs on registers only until it has its own slots.
        unsafe { stub_clone(FORK_FLAGS, 0, slots as u64) }
    } else {
        mapped
    };
    syscall(SYS_CLOSE, slots as u64, 0, 0, 0, 0, 0);
    syscall(SYS_CLOSE, socket as u64, 0, 0, 0, 0, 0);
    result
}
