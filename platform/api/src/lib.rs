//! What the kernel knows of how guest code is run.
//!
//! A [`Platform`] makes address spaces; an [`AddressSpace`] holds guest memory and makes contexts; a [`Context`] runs one guest
//! thread until it leaves guest code ([`Exit`]). Nothing above this crate may assume that a guest is a host process.
//!
//! Guest memory is always a range of a [`HostFile`]: an arena or a file. There is no other kind.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use abi::errno::SysResult;
use usermem::HostFile;

mod regs;

pub use regs::UserRegs;

bitflags::bitflags! {
    /// Access to guest memory, as in mmap(2)'s `prot`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Prot: u32 {
        /// `PROT_READ`
        const READ = 1;
        /// `PROT_WRITE`
        const WRITE = 2;
        /// `PROT_EXEC`
        const EXEC = 4;
    }
}

/// Bytes of a trampoline.
pub const TRAMPOLINE_LEN: usize = 32;

/// How a range of a host file appears in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// The pages themselves: arenas, shared memory, `MAP_SHARED` files.
    Shared,
    /// The pages of a file, never written through this mapping (`MAP_PRIVATE` that has not been copied yet). `prot` must not
    /// contain [`Prot::WRITE`].
    PrivateRo,
}

/// Why [`Context::switch`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest made a system call. Of the registers only `rip` need be valid; see [`Context::full`].
    Syscall {
        /// Number, as the guest had it in `rax`.
        nr: u64,
        /// rdi, rsi, rdx, r10, r8, r9.
        args: [u64; 6],
        /// The call site before `rip` is used often: it pays to rewrite it (see [`AddressSpace::trampoline`]).
        hot: bool,
    },
    /// A page fault. All registers are valid and `rip` is at the faulting instruction.
    Fault {
        /// Faulting address (`CR2`).
        addr: u64,
        /// What was attempted; empty when it isn't known (a non-canonical address, say).
        access: Prot,
        /// The host's signal: `SIGSEGV` or `SIGBUS`.
        signo: i32,
        /// The host's `si_code`.
        code: i32,
        /// x86 trap number, as in `sigcontext`.
        trapno: u64,
        /// x86 error code, as in `sigcontext`.
        error_code: u64,
    },
    /// The guest raised another synchronous signal (`SIGFPE`, `SIGILL`, `SIGTRAP`). All registers are valid.
    Signal {
        /// Signal number.
        signo: i32,
        /// `si_code`
        code: i32,
        /// `si_addr`
        addr: u64,
        /// x86 trap number.
        trapno: u64,
        /// x86 error code.
        error_code: u64,
    },
    /// [`Interrupter::interrupt`] was called. All registers are valid.
    Interrupted,
    /// The host thread that ran the guest is gone (killed by the host, or the guest destroyed its own stub). Nothing is valid; the
    /// task must be killed.
    Dead,
}

/// A way to run guest code.
pub trait Platform: Send + Sync {
    /// Makes an empty address space.
    ///
    /// # Errors
    /// `EAGAIN`/`ENOMEM` when the host refuses another process.
    fn new_address_space(&self) -> SysResult<Arc<dyn AddressSpace>>;

    /// Addresses that guests may use.
    fn user_range(&self) -> Range<u64>;

    /// Waits until the host has ended what some address space runs in, for whatever reason. For one thread only.
    fn wait_for_death(&self);

    /// Whether new address spaces can be made: not when the host has killed what they are made from.
    fn is_alive(&self) -> bool;

    /// Makes every CPU that runs guest code execute a full memory barrier and a serializing instruction before it returns.
    ///
    /// # Errors
    /// `ENOSYS` when the host can't.
    fn barrier(&self) -> SysResult<()>;
}

/// Where a thread has its restartable sequence's state (`struct rseq`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RseqArea {
    /// Address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// What stands before each abort handler.
    pub signature: u32,
}

/// What `struct rseq` is on this platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RseqFeatures {
    /// Bytes in use (`AT_RSEQ_FEATURE_SIZE`).
    pub size: u32,
    /// Alignment (`AT_RSEQ_ALIGN`).
    pub align: u32,
}

/// One guest address space.
///
/// `map`, `unmap` and `protect` are queued in order and applied before the thread that asked for them runs guest code again, by that
/// thread itself: no switch of their own. Whoever frees memory must therefore do so only after [`AddressSpace::flush`] or after the
/// next switch of a context of this address space; [`AddressSpace::queued`] and [`AddressSpace::applied`] tell.
pub trait AddressSpace: Send + Sync {
    /// Maps `len` bytes of `file` from `offset` at `addr`, replacing what is there. All page-aligned.
    fn map(&self, addr: u64, len: u64, file: &Arc<HostFile>, offset: u64, prot: Prot, kind: MapKind);

    /// Like [`AddressSpace::map`], and asks the host to map the present pages at once (`MAP_POPULATE`).
    fn map_populated(&self, addr: u64, len: u64, file: &Arc<HostFile>, offset: u64, prot: Prot, kind: MapKind);

    /// Removes what is mapped in the range.
    fn unmap(&self, addr: u64, len: u64);

    /// Changes the access to what is mapped in the range; ranges without a mapping in between are skipped by the caller.
    fn protect(&self, addr: u64, len: u64, prot: Prot);

    /// Has the host's tools show these arguments, each with a zero byte behind it, as what runs here; once, before anything runs. A platform that
    /// can't does nothing.
    fn describe(&self, _arguments: &[u8]) {}

    /// Sequence number of the last operation queued.
    fn queued(&self) -> u64;

    /// Sequence number up to which operations have been applied in the guest.
    fn applied(&self) -> u64;

    /// Applies what is queued now, without waiting for a thread to run guest code. Costs a switch of its own.
    fn flush(&self);

    /// Makes a copy with the same mappings. Queued operations are applied to both. The caller has write-protected what is to be
    /// copied on write.
    ///
    /// # Errors
    /// `EAGAIN`/`ENOMEM` when the host refuses another process.
    fn fork(&self) -> SysResult<Arc<dyn AddressSpace>>;

    /// Makes a guest thread that starts with `regs` and the floating-point state `fp` (initial state when `None`).
    ///
    /// # Errors
    /// `EAGAIN`/`ENOMEM` when the host refuses another thread.
    fn new_context(self: Arc<Self>, regs: &UserRegs, fp: Option<&[u8]>) -> SysResult<Box<dyn Context>>;

    /// Ends all guest threads of this address space at once: their contexts come back with [`Exit::Dead`].
    fn kill(&self);

    /// Whether guest threads can still run: not when the host has killed what they run in.
    fn is_alive(&self) -> bool;

    /// CPU time that guest code in this address space has used, in nanoseconds.
    fn cpu_time(&self) -> u64;

    /// Addresses that guests may use.
    fn user_range(&self) -> Range<u64>;

    /// Code that, standing at `at`, runs `instruction`, makes the system call and goes on at `back`, faster than the `syscall` instruction
    /// can. `None` when this platform has nothing faster, or the two are too far apart.
    fn trampoline(&self, _at: u64, _instruction: [u8; 5], _back: u64) -> Option<[u8; TRAMPOLINE_LEN]> {
        None
    }

    /// Where the vDSO's ELF header is (`AT_SYSINFO_EHDR`) and how many bytes the vDSO has, if the platform has one.
    fn vdso(&self) -> Option<Range<u64>>;

    /// Restartable sequences, if the platform has them.
    fn rseq(&self) -> Option<RseqFeatures> {
        None
    }

    /// What stands there, for who reads it from outside: as much as there is.
    fn vdso_image(&self) -> &[u8] {
        &[]
    }

    /// Where old programs call gettimeofday(2), time(2) and getcpu(2) at fixed addresses (`[vsyscall]`), if the platform has that.
    fn vsyscall(&self) -> Option<Range<u64>> {
        None
    }
}

/// One guest thread.
pub trait Context: Send {
    /// Runs guest code with `regs` until it leaves. After [`Exit::Syscall`] the caller sets `regs.rax` to the result (or rewinds
    /// `rip`/`rax` after [`Context::full`]) and switches again. The FS base
    /// is `regs.fs_base`, valid like the rest after [`Context::full`].
    fn switch(&mut self, regs: &mut UserRegs) -> Exit;

    /// Makes every register and the floating-point state valid and lets all of them be changed before the next switch. `regs.rax` as
    /// the caller has set it is kept. Does nothing when they are valid already. May cost microseconds.
    ///
    /// Returns false when the thread is gone.
    fn full(&mut self, regs: &mut UserRegs) -> bool;

    /// The XSAVE image in standard format (as in a signal frame, without `fpx_sw_bytes`). Valid after [`Context::full`].
    fn fp(&self) -> Vec<u8>;

    /// Replaces the floating-point state; call [`Context::full`] first.
    ///
    /// # Errors
    /// `EINVAL` when the image isn't one that the CPU would load.
    fn set_fp(&mut self, image: &[u8]) -> SysResult<()>;

    /// CPU time that this guest thread has used so far, in nanoseconds; `None` when the platform can't tell. Makes registers valid
    /// ([`Context::full`]); may cost microseconds.
    fn cpu_time(&mut self, _regs: &mut UserRegs) -> Option<u64> {
        None
    }

    /// From the next switch on the platform keeps this area up to date (rseq(2)). It must be mapped and writable then, and stay so: where
    /// it isn't, the guest thread may be gone at any time. Called where [`AddressSpace::rseq`] gives something.
    fn begin_rseq(&mut self, _area: RseqArea) {}

    /// Nothing writes to this area any more when this returns. Makes registers valid ([`Context::full`]); costs microseconds.
    fn end_rseq(&mut self, _regs: &mut UserRegs, _area: RseqArea) {}

    /// A handle that makes a running [`Context::switch`] come back.
    fn interrupter(&self) -> Arc<dyn Interrupter>;
}

/// Makes a running [`Context::switch`] come back, from another thread.
pub trait Interrupter: Send + Sync {
    /// The current or else the next `switch` returns [`Exit::Interrupted`] soon (or another exit that came first).
    fn interrupt(&self);

    /// From now on the platform may answer call `nr` with `value` by itself, without an exit; with `None` it must not. A platform that
    /// can't does nothing.
    fn set_answer(&self, nr: u64, value: Option<u64>);
}
