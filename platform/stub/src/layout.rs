//! Addresses and shared structures.
//!
//! Everything in a [`Ctx`] can be written by guest code at any time: the sentry copies a field once and validates the copy.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};

/// First address of the stub's region; guests live below.
pub const STUB_BASE: u64 = 0x7ff0_0000_0000;
/// The blob's code (read, execute).
pub const TEXT: u64 = STUB_BASE;
/// Bytes reserved for the blob.
pub const TEXT_SIZE: u64 = 0x1_0000;
/// Read-only page(s) with the seccomp programs and the host's vDSO entry points: [`Consts`].
pub const CONSTS: u64 = STUB_BASE + 0x1_0000;
/// Bytes reserved for [`Consts`].
pub const CONSTS_SIZE: u64 = 0x4000;
/// The vDSO that guests are told of.
pub const VDSO: u64 = STUB_BASE + 0x2_0000;
/// Bytes reserved for it.
pub const VDSO_SIZE: u64 = 0x4000;
/// Where the host's `[vvar]` and `[vdso]` are moved.
pub const HOST_VDSO: u64 = STUB_BASE + 0x4_0000;
/// Bytes reserved for them.
pub const HOST_VDSO_SIZE: u64 = 0x4_0000;
/// The process's command line, for the host's `ps`: private memory, because the host shows no other.
pub const TITLE: u64 = STUB_BASE + 0x9_0000;
/// Bytes reserved for it.
pub const TITLE_SIZE: u64 = 0x1000;
/// Longest command line, in words of 64 bits.
pub const TITLE_WORDS: usize = 128;
/// Thread slots; slot 0 belongs to the creator thread.
pub const SLOTS: u64 = STUB_BASE + 0x1000_0000;
/// Bytes of one slot. A power of two: a thread finds its slot from its stack pointer.
pub const SLOT_SIZE: u64 = 0x1_0000;
/// Slots of one process, the creator's included.
pub const SLOT_COUNT: u64 = 4096;
/// End of the region.
pub const STUB_END: u64 = 0x7fff_ffff_f000;

/// Offset in a slot of the stack that stub code runs on outside signal handlers (end, grows down).
pub const FAST_STACK_TOP: u64 = 0x3000;
/// Offset in a slot of the frame that the fast path makes itself: laid out as the host's `ucontext` (uc_flags to fpstate).
pub const FULL_FRAME: u64 = 0x3000;
/// Offset in a slot of that frame's XSAVE image.
pub const FULL_XSAVE: u64 = 0x3100;
/// Room for the image; a CPU that needs more gets its frames from the host.
pub const FULL_XSAVE_SIZE: u64 = ALT_STACK - FULL_XSAVE;
/// Offset in a slot of the alternate signal stack.
pub const ALT_STACK: u64 = 0x4000;
/// Bytes of the alternate signal stack.
pub const ALT_STACK_SIZE: u64 = SLOT_SIZE - ALT_STACK;

/// Descriptor number of the socket on which a stub receives what it may map.
pub const SOCKET_FD: i32 = 3;
/// System call number by which stub code waits for the sentry (no such call exists; the filter turns it into a notification).
pub const RING_NR: u32 = 0x3ff;
/// The signal that interrupts guest code (`SIGURG`: ignored by default should a handler ever be missing).
pub const SIGINTERRUPT: i32 = 23;

/// [`Ctx::state`]: the guest runs, the sentry spins for its next request; or, written by the sentry, "answered".
pub const STATE_GUEST: u32 = 0;
/// The stub has a request and spins for the answer (or is on its way to ring).
pub const STATE_REQUEST: u32 = 1;
/// The guest runs, the sentry sleeps in a notification receive: the stub must ring.
pub const STATE_PARKED: u32 = 2;
/// The stub gave up spinning: it rings, and the sentry must receive that before it answers.
pub const STATE_RING: u32 = 3;

/// [`Ctx::kind`]: a system call from a patched site.
pub const KIND_FAST: u32 = 1;
/// A host signal; the frame is at [`Ctx::frame`].
pub const KIND_SIGNAL: u32 = 2;
/// A batch of operations is done and more are announced.
pub const KIND_MORE: u32 = 3;
/// All registers of a thread in the fast path are in the frame at [`FULL_FRAME`].
pub const KIND_FULL: u32 = 4;

/// [`Ctx::action`]: after the operations, come back with all registers (a signal frame).
pub const ACTION_FULL: u32 = 1;
/// End this thread.
pub const ACTION_EXIT: u32 = 2;
/// Load [`Ctx::fs_base`].
pub const ACTION_SET_FS: u32 = 4;
/// After the operations, make a [`KIND_MORE`] request.
pub const ACTION_MORE: u32 = 8;

/// Exchange the frame at [`FULL_FRAME`] for one of the host's.
pub const ACTION_HOST: u32 = 16;

/// [`Op::code`]: map a file.
pub const OP_MAP: u32 = 1;
/// Unmap.
pub const OP_UNMAP: u32 = 2;
/// Change protection.
pub const OP_PROTECT: u32 = 3;
/// Receive a descriptor from [`SOCKET_FD`] into `Ctx::fds[fd]`.
pub const OP_RECV: u32 = 4;
/// Close the descriptor in `Ctx::fds[fd]`.
pub const OP_CLOSE: u32 = 5;
/// Close descriptor `addr`.
pub const OP_CLOSE_RAW: u32 = 6;
/// Register a restartable-sequence area (`addr`, `len`, flags in `prot`, signature in `off`).
pub const OP_RSEQ: u32 = 7;
/// Have the host show `len` bytes of `Ctx::title` of slot 0 as the process's command line.
pub const OP_DESCRIBE: u32 = 8;

/// Store the thread's CPU time in [`Ctx::cpu_time`].
pub const OP_CPU_TIME: u32 = 9;

/// Creator commands ([`Ctx::cmd`]): start a thread in slot `cmd_arg`.
pub const CMD_THREAD: u32 = 1;
/// Fork: receives the child's slot file and socket first.
pub const CMD_FORK: u32 = 2;
/// Run the operations in this slot.
pub const CMD_OPS: u32 = 3;

/// Bytes of a call site's `syscall`, or of the jump in its place.
pub const SITE_LEN: u64 = 2;

/// Operations of one batch.
pub const MAX_OPS: usize = 48;
/// Descriptors that a stub keeps for mapping.
pub const MAX_FDS: usize = 16;

/// One change to the address space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Op {
    /// `OP_*`
    pub code: u32,
    /// Protection bits of mmap(2).
    pub prot: u32,
    /// mmap(2) flags.
    pub flags: u32,
    /// Index into [`Ctx::fds`].
    pub fd: u32,
    /// Address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// File offset.
    pub off: u64,
}

/// Registers that the fast path saves, at fixed offsets.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SavedRegs {
    pub rax: AtomicU64,
    pub rdi: AtomicU64,
    pub rsi: AtomicU64,
    pub rdx: AtomicU64,
    pub r10: AtomicU64,
    pub r8: AtomicU64,
    pub r9: AtomicU64,
    /// Where the call returns to.
    pub rcx: AtomicU64,
    pub rsp: AtomicU64,
}

/// Number of [`Ctx::ident`] values.
pub const IDENTS: usize = 8;
/// The calls that [`Ctx::ident`] answers: getpid, getuid, getgid, geteuid, getegid, getppid, gettid.
pub const IDENT_CALLS: [u64; 7] = [39, 102, 104, 107, 108, 110, 186];

/// One thread's shared page: the first page of its slot.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Ctx {
    /// `STATE_*`; the one word on which both sides meet.
    pub state: AtomicU32,
    /// `KIND_*`
    pub kind: AtomicU32,
    /// `ACTION_*`, with [`Ctx::nops`] read as one 64-bit word by the fast path.
    pub action: AtomicU32,
    /// Operations to run before going on.
    pub nops: AtomicU32,
    /// Result of a fast-path call.
    pub ret: AtomicU64,
    /// Set by the stub's handler when an interrupt hit the fast path.
    pub intr: AtomicU32,
    /// How many rounds the stub looks for an answer before it rings; after each it gives way to other threads.
    pub rounds: AtomicU32,
    /// Looks of one round.
    pub looks: AtomicU32,
    /// What XSAVE is to save in frames of the fast path's; 0: there are none.
    pub xsave_mask: AtomicU32,
    /// Address of this structure in the stub.
    pub this: AtomicU64,
    pub regs: SavedRegs,
    /// Address of the `ucontext` that the host has put on the alternate stack.
    pub frame: AtomicU64,
    /// FS base while in a handler.
    pub fs_base: AtomicU64,
    /// CPU time of the thread in nanoseconds, when it was asked for.
    pub cpu_time: AtomicU64,
    pub signo: AtomicI32,
    pub sigcode: AtomicI32,
    pub sigaddr: AtomicU64,
    /// Becomes 1 when a new thread has its listener.
    pub hello: AtomicU32,
    /// The listener's descriptor in the stub, or a negative errno.
    pub listener: AtomicI32,
    /// Operations that have been run so far, in total.
    pub ops_done: AtomicU64,
    /// First error of an operation (negative errno), sticky.
    pub ops_error: AtomicI32,
    /// Creator: number of the command to run next.
    pub cmd_seq: AtomicU32,
    /// Creator: `CMD_*`
    pub cmd: AtomicU32,
    pub cmd_arg: AtomicU32,
    /// Creator: number of the last command done.
    pub cmd_done: AtomicU32,
    /// Creator: its result (pid, tid or negative errno).
    pub cmd_result: AtomicI32,
    /// Bit i: `ident[i]` answers its call.
    pub ident_mask: AtomicU32,
    /// Fork: the number that the child's socket has before it is moved to [`SOCKET_FD`].
    pub socket: AtomicU32,
    pub ident: [AtomicU64; IDENTS],
    /// Descriptors received and kept.
    pub fds: [AtomicI32; MAX_FDS],
    pub ops: [Op; MAX_OPS],
    /// Creator: a command line on its way to [`TITLE`].
    pub title: [AtomicU64; TITLE_WORDS],
}

const _: () = assert!(core::mem::size_of::<Ctx>() <= 4096);

/// The blob's header: offsets from its start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// First instruction of the creator: entered by the zygote.
    pub creator: u64,
    /// Where patched sites jump to.
    pub fast_entry: u64,
    /// The instruction that publishes a request: before it, nothing has happened yet.
    pub publish: u64,
    /// The jump back to the guest with an answer of the slot's.
    pub answered: u64,
    /// Start of the restartable end of the fast path.
    pub tail: u64,
    /// Its end.
    pub tail_end: u64,
    /// Start of the restartable way from a frame of the fast path's to the guest.
    pub restore: u64,
    /// Its end.
    pub restore_end: u64,
    /// The `ud2` by which the fast path asks for a frame of the host's.
    pub full_ud2: u64,
    /// The `ud2` by which a new thread reports.
    pub hello_ud2: u64,
    /// Signal handler.
    pub handler: u64,
    /// Signal restorer.
    pub restorer: u64,
}

/// A classic BPF program of at most 128 instructions and its descriptor, as seccomp(2) wants it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Program {
    /// `struct sock_fprog`: length, then (aligned) the address of `code`.
    pub len: u64,
    pub pointer: u64,
    pub code: [u64; 128],
}

/// What the read-only page(s) at [`CONSTS`] hold.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Consts {
    /// Entry points in the host's vDSO: clock_gettime, gettimeofday, time, clock_getres, getcpu; 0 where there is none.
    pub vdso: [u64; 8],
    /// Filter of every stub process.
    pub base: Program,
    /// Filter that each guest thread adds, with a listener.
    pub thread: Program,
}

const _: () = assert!(core::mem::size_of::<Consts>() as u64 <= CONSTS_SIZE);
