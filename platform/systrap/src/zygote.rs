//! The process that all stubs are forks of.
//!
//! It is forked from the sentry while that still has one thread and few restrictions, drops everything of the sentry's, and
//! then only runs the blob.

use std::fs;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use stub::layout::{
    CONSTS, CONSTS_SIZE, Consts, HOST_VDSO, HOST_VDSO_SIZE, Header, SIGINTERRUPT, SLOT_COUNT, SLOT_SIZE, SLOTS, SOCKET_FD,
    STUB_BASE, STUB_END, TEXT, TEXT_SIZE, TITLE, TITLE_SIZE, VDSO, VDSO_SIZE,
};

use crate::process::{Process, Slots};
use crate::{elf, filter, host};

pub static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stub.bin"));
pub static GUEST_VDSO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

/// The blob's header.
pub fn header() -> Header {
    let mut words = [0u64; 12];
    for (word, bytes) in words.iter_mut().zip(BLOB.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    let [creator, fast_entry, publish, answered, tail, tail_end, restore, restore_end, full_ud2, hello_ud2, handler, restorer] =
        words;
    Header {
        creator,
        fast_entry,
        publish,
        answered,
        tail,
        tail_end,
        restore,
        restore_end,
        full_ud2,
        hello_ud2,
        handler,
        restorer,
    }
}

/// The host's vsyscall page, which every process has. The host makes the calls in it, which its filters stop as others.
pub static VSYSCALL: OnceLock<Range<u64>> = OnceLock::new();

/// The host's vDSO and its data pages.
pub struct HostVdso {
    /// Start and end of each mapping in this process.
    ranges: Vec<(u64, u64)>,
    /// Start of the code.
    code: u64,
}

/// Finds the host's vDSO. Needs /proc.
///
/// # Errors
/// What reading /proc/self/maps says.
pub fn host_vdso() -> SysResult<HostVdso> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut ranges = Vec::new();
    let mut code = 0;
    for line in maps.lines() {
        let name = line.rsplit(' ').next().unwrap_or_default();
        if !matches!(name, "[vvar]" | "[vvar_vclock]" | "[vdso]" | "[vsyscall]") {
            continue;
        }
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).ok_or(Errno::ENOEXEC)?;
        let parse = |text| u64::from_str_radix(text, 16).map_err(|_| Errno::ENOEXEC);
        if name == "[vsyscall]" {
            let _ = VSYSCALL.set(parse(start)?..parse(end)?);
            continue;
        }
        ranges.push((parse(start)?, parse(end)?));
        if name == "[vdso]" {
            code = parse(start)?;
        }
    }
    Ok(HostVdso { ranges, code })
}

/// The read-only page: entry points and filters.
fn consts(ranges: &[(u64, u64)], vdso: u64) -> Vec<u8> {
    let base = ranges.first().map_or(0, |range| range.0);
    let names = ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_clock_getres", "__vdso_getcpu"];
    let mut entries = [0; 8];
    if vdso != 0 {
        let end = ranges.iter().find(|range| range.0 == vdso).map_or(vdso, |range| range.1);
        // SAFETY: the host's vDSO, mapped readable for as long as this process lives.
        let image = unsafe { std::slice::from_raw_parts(vdso as *const u8, (end - vdso) as usize) };
        for (entry, name) in entries.iter_mut().zip(names) {
            *entry = elf::symbol(image, name).map_or(0, |offset| HOST_VDSO + (vdso - base) + offset);
        }
    }
    let at = |offset: usize| CONSTS + offset as u64;
    let consts = Consts {
        vdso: entries,
        base: filter::build(at(std::mem::offset_of!(Consts, base)), true),
        thread: filter::build(at(std::mem::offset_of!(Consts, thread)), false),
    };
    let pointer = (&raw const consts).cast::<u8>();
    // SAFETY: plain words without padding.
    unsafe { std::slice::from_raw_parts(pointer, size_of::<Consts>()) }.to_vec()
}

/// Everything that the child needs, so that it only makes system calls.
struct Plan {
    image: OwnedFd,
    slots: i32,
    socket: i32,
    vdso: Vec<(u64, u64)>,
    header: Header,
    rseq: Option<(u64, u32)>,
}

unsafe extern "C" {
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

/// Where the C library has registered this thread's restartable sequence.
fn rseq_area() -> Option<(u64, u32)> {
    // SAFETY: constants of the C library.
    let (offset, size) = unsafe { (__rseq_offset, __rseq_size) };
    let thread: u64;
    // SAFETY: the first word of the thread control block is its own address (x86-64 psABI).
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) thread) };
    (size > 0).then(|| (thread.wrapping_add_signed(offset as i64), size.max(32)))
}

fn raw(nr: i64, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64 {
    let result: i64;
    // SAFETY: the caller knows what the call does to memory.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") nr => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            in("r9") f, out("rcx") _, out("r11") _);
    }
    result
}

/// Ends a child that can't go on; the status tells where.
fn give_up(step: u64) -> ! {
    loop {
        raw(libc::SYS_exit_group, step, 0, 0, 0, 0, 0);
    }
}

fn check(step: u64, result: i64) {
    if result < 0 {
        give_up(step);
    }
}

/// The child: never returns, allocates nothing, calls nothing of the C library.
fn child(plan: &Plan) -> ! {
    check(1, raw(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0));
    check(2, raw(libc::SYS_prctl, libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0, 0));
    // Over the host's files the sentry may have capabilities; guest code needs none.
    let (header, none) = ([0x2008_0522u32, 0], [0u32; 6]);
    check(2, raw(libc::SYS_capset, header.as_ptr().addr() as u64, none.as_ptr().addr() as u64, 0, 0, 0, 0));
    // What `reserve` has kept free.
    check(3, raw(libc::SYS_munmap, STUB_BASE, RESERVED, 0, 0, 0, 0));
    if let Some((area, size)) = plan.rseq {
        raw(libc::SYS_rseq, area, size.into(), 1, 0x5305_3053, 0, 0);
    }
    // Stubs inherit it: the sentry's barriers reach the CPUs that run them. Hosts that have none are told apart by the sentry.
    raw(libc::SYS_membarrier, libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED as u64, 0, 0, 0, 0, 0);
    let image = plan.image.as_raw_fd() as u64;
    let fixed = (libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE) as u64;
    let (read, exec) = (libc::PROT_READ as u64, (libc::PROT_READ | libc::PROT_EXEC) as u64);
    check(3, raw(libc::SYS_mmap, TEXT, TEXT_SIZE, exec, fixed, image, 0));
    check(4, raw(libc::SYS_mmap, CONSTS, CONSTS_SIZE, read, fixed, image, CONSTS - TEXT));
    check(5, raw(libc::SYS_mmap, VDSO, VDSO_SIZE, exec, fixed, image, VDSO - TEXT));
    let shared = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE) as u64;
    check(6, raw(libc::SYS_mmap, SLOTS, SLOT_SIZE * SLOT_COUNT, 3, shared, plan.slots as u64, 0));
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    check(6, raw(libc::SYS_mmap, TITLE, TITLE_SIZE, 3, private, u64::MAX, 0));
    if let Some((base, _)) = plan.vdso.first() {
        for (start, end) in &plan.vdso {
            let to = HOST_VDSO + (start - base);
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            check(7, raw(libc::SYS_mremap, *start, end - start, end - start, flags, to, 0));
        }
    }
    // struct kernel_sigaction: handler, flags, restorer, mask.
    let base_flags = libc::SA_SIGINFO as u64 | libc::SA_ONSTACK as u64 | 0x0400_0000;
    for signo in [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, SIGINTERRUPT] {
        let restart = if signo == SIGINTERRUPT { libc::SA_RESTART as u64 } else { 0 };
        let action = [TEXT + plan.header.handler, base_flags | restart, TEXT + plan.header.restorer, u64::MAX];
        check(8, raw(libc::SYS_rt_sigaction, signo as u64, action.as_ptr().addr() as u64, 0, 8, 0, 0));
    }
    let none = 0u64;
    check(9, raw(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK as u64, (&raw const none).addr() as u64, 0, 8, 0, 0));
    if plan.socket != SOCKET_FD {
        check(10, raw(libc::SYS_dup2, plan.socket as u64, SOCKET_FD as u64, 0, 0, 0, 0));
    }
    check(11, raw(libc::SYS_close_range, 0, SOCKET_FD as u64 - 1, 0, 0, 0, 0));
    check(12, raw(libc::SYS_close_range, SOCKET_FD as u64 + 1, u64::from(u32::MAX), 0, 0, 0, 0));
    // SAFETY: the blob's entry; it never comes back.
    unsafe {
        std::arch::asm!("jmp {entry}", entry = in(reg) TEXT + plan.header.creator, in("rdi") STUB_END, options(noreturn));
    }
}

/// Bytes of the stubs' region that are used.
const RESERVED: u64 = SLOTS + SLOT_SIZE * SLOT_COUNT - STUB_BASE;

/// Keeps the stubs' region free of what this process will map, so that the zygote, which is forked from it, finds it free. `false`: something
/// is there already, as the host's choice of addresses (ASLR) has it about once in 2,000 starts. The program can only be started anew.
#[must_use]
pub fn reserve() -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new mapping that replaces nothing.
    let place = unsafe { libc::mmap(STUB_BASE as *mut _, RESERVED as usize, libc::PROT_NONE, flags, -1, 0) };
    place.addr() as u64 == STUB_BASE
}

/// Forks the zygote. The calling process must have only one thread.
///
/// # Errors
/// What the host says; `EAGAIN` when the child did not come up (its layout collides with the sentry's, say).
pub fn spawn(host: HostVdso) -> SysResult<Process> {
    let HostVdso { ranges: vdso, code } = host;
    let total = vdso.last().map_or(0, |range| range.1) - vdso.first().map_or(0, |range| range.0);
    if total > HOST_VDSO_SIZE {
        return Err(Errno::ENOEXEC);
    }
    let image = rustix::fs::memfd_create("stub-image", rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&image, VDSO + VDSO_SIZE - TEXT)?;
    rustix::io::pwrite(&image, BLOB, 0)?;
    rustix::io::pwrite(&image, &consts(&vdso, code), CONSTS - TEXT)?;
    rustix::io::pwrite(&image, GUEST_VDSO, VDSO - TEXT)?;
    rustix::fs::fcntl_add_seals(
        &image,
        rustix::fs::SealFlags::SEAL | rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW,
    )?;
    let slots = Slots::new()?;
    let (ours, theirs) = host::socketpair()?;
    let plan = Plan { image, slots: slots.raw_fd(), socket: theirs.as_raw_fd(), vdso, header: header(), rseq: rseq_area() };
    let pid = raw(libc::SYS_clone, libc::SIGCHLD as u64, 0, 0, 0, 0, 0);
    if pid == 0 {
        child(&plan);
    }
    if pid < 0 {
        return Err(Errno::from_raw(-pid as i32));
    }
    let process = Process::adopt(pid as i32, slots, ours)?;
    let ctx = process.slots.ctx(0);
    process.wait_word(&ctx.hello, 1)?;
    if ctx.listener.load(Ordering::Relaxed) < 0 {
        return Err(Errno::EPERM);
    }
    Ok(process)
}

/// Bytes of the guests' vDSO.
pub fn vdso_len() -> u64 {
    GUEST_VDSO.len() as u64
}
