//! Frames in a slot: the full register state of a stopped guest thread. The host makes them when it delivers a signal to the stub; the
//! stub's fast path makes one itself, laid out alike, which costs no host signal.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use platform::UserRegs;
use stub::layout::{ALT_STACK, Ctx, FULL_FRAME, FULL_XSAVE, FULL_XSAVE_SIZE, SLOT_SIZE, SLOTS};

use crate::process::Slots;

/// Words of `ucontext` up to the end of `sigcontext`'s `fpstate` pointer.
const WORDS: usize = 5 + 24;
/// Word indexes of `sigcontext` in `ucontext` (flags, link and the three words of `uc_stack` come first).
const R8: usize = 5;
const RDI: usize = R8 + 8;
const RSP: usize = R8 + 15;
const RIP: usize = R8 + 16;
const EFLAGS: usize = R8 + 17;
const ERR: usize = R8 + 19;
const TRAPNO: usize = R8 + 20;
const CR2: usize = R8 + 22;
const FPSTATE: usize = R8 + 23;

const LEGACY: usize = 512;
const HEADER_END: usize = LEGACY + 64;
/// Where `struct _fpx_sw_bytes` lies in the legacy area.
const SW_BYTES: usize = 464;
/// Flags that a program may set (Intel SDM vol. 1, 3.4.3): the arithmetic ones, DF and AC.
const USER_FLAGS: u64 = 0x4_0cd5;
/// Flags that are always set: bit 1 and IF.
const FIXED_FLAGS: u64 = 0x202;
/// The trap flag.
pub const TRAP_FLAG: u64 = 0x100;

/// A frame: where it is, with every pointer in it checked.
#[derive(Clone, Copy)]
pub struct Frame {
    slot: u64,
    context: u64,
    fp: u64,
    fp_len: u64,
}

/// What the CPU says about the fault.
#[derive(Default)]
pub struct Trap {
    pub error: u64,
    pub trapno: u64,
    pub cr2: u64,
}

/// Bytes that XSAVE needs for what this host has enabled.
fn xsave_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, 0);
        u64::from(leaf.ebx).max(HEADER_END as u64)
    })
}

/// Reads shared memory that the guest may change meanwhile.
fn copy(slots: &Slots, slot: u64, offset: u64, dst: &mut [u8]) -> SysResult<()> {
    let src = slots.bytes(slot, offset, dst.len() as u64).ok_or(Errno::EFAULT)?;
    // SAFETY: both are valid for the length; a racing guest can only change the bytes that are read.
    unsafe { std::ptr::copy_nonoverlapping(src, dst.as_mut_ptr(), dst.len()) };
    Ok(())
}

fn store(slots: &Slots, slot: u64, offset: u64, src: &[u8]) -> SysResult<()> {
    let dst = slots.bytes(slot, offset, src.len() as u64).ok_or(Errno::EFAULT)?;
    // SAFETY: as in `copy`.
    unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst, src.len()) };
    Ok(())
}

fn words(slots: &Slots, slot: u64, offset: u64) -> SysResult<[u64; WORDS]> {
    let mut bytes = [0; WORDS * 8];
    copy(slots, slot, offset, &mut bytes)?;
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
    }
    Ok(words)
}

fn load(w: &[u64; WORDS], regs: &mut UserRegs) {
    [regs.r8, regs.r9, regs.r10, regs.r11] = [w[R8], w[R8 + 1], w[R8 + 2], w[R8 + 3]];
    [regs.r12, regs.r13, regs.r14, regs.r15] = [w[R8 + 4], w[R8 + 5], w[R8 + 6], w[R8 + 7]];
    [regs.rdi, regs.rsi, regs.rbp, regs.rbx] = [w[RDI], w[RDI + 1], w[RDI + 2], w[RDI + 3]];
    [regs.rdx, regs.rax, regs.rcx, regs.rsp] = [w[RDI + 4], w[RDI + 5], w[RDI + 6], w[RSP]];
    [regs.rip, regs.eflags] = [w[RIP], w[EFLAGS]];
    (regs.cs, regs.ss) = (0x33, 0x2b);
}

impl Frame {
    /// The frame that the thread's fast path makes; `None` where its XSAVE image has no room. To be asked for when the thread has
    /// stopped in a frame of the host's, this one, which tells what an image looks like.
    pub fn of_fast_path(&self, slots: &Slots) -> Option<Self> {
        let mut sw = [0; 48];
        copy(slots, self.slot, self.fp + SW_BYTES as u64, &mut sw).ok()?;
        let features = u32::from_le_bytes(sw[8..12].try_into().expect("four bytes"));
        if self.fp_len > FULL_XSAVE_SIZE || features == 0 {
            return None;
        }
        store(slots, self.slot, FULL_XSAVE + SW_BYTES as u64, &sw).ok()?;
        let ctx: &Ctx = slots.ctx(self.slot);
        ctx.xsave_mask.store(features, Ordering::Relaxed);
        Some(Self { slot: self.slot, context: FULL_FRAME, fp: FULL_XSAVE, fp_len: self.fp_len })
    }

    /// Whether the fast path restores this frame itself.
    pub fn is_of_fast_path(&self) -> bool {
        self.context == FULL_FRAME
    }

    /// Reads the general registers.
    pub fn reload(&self, slots: &Slots, regs: &mut UserRegs) {
        // In range, see `read`.
        if let Ok(w) = words(slots, self.slot, self.context) {
            load(&w, regs);
        }
    }

    /// Reads the frame whose `ucontext` is said to be at `address`.
    ///
    /// # Errors
    /// `EFAULT` when it can't be there.
    pub fn read(slots: &Slots, slot: u64, address: u64, regs: &mut UserRegs) -> SysResult<(Self, Trap)> {
        let base = SLOTS + slot * SLOT_SIZE;
        let context = address.checked_sub(base).filter(|at| *at >= ALT_STACK && at % 8 == 0).ok_or(Errno::EFAULT)?;
        let w = words(slots, slot, context)?;
        let fp = w[FPSTATE].checked_sub(base).filter(|at| *at >= ALT_STACK && at % 64 == 0).ok_or(Errno::EFAULT)?;
        let mut sw = [0; 20];
        copy(slots, slot, fp.checked_add(SW_BYTES as u64).ok_or(Errno::EFAULT)?, &mut sw)?;
        let size = u32::from_le_bytes(sw[16..20].try_into().expect("four bytes"));
        let fp_len = u64::from(size).clamp(HEADER_END as u64, xsave_size());
        slots.bytes(slot, fp, fp_len).ok_or(Errno::EFAULT)?;
        load(&w, regs);
        Ok((Self { slot, context, fp, fp_len }, Trap { error: w[ERR], trapno: w[TRAPNO], cr2: w[CR2] }))
    }

    /// Writes registers back. Segments stay the host's: a guest must not get into 32-bit mode.
    pub fn write(&self, slots: &Slots, regs: &UserRegs) {
        let general = [
            regs.r8,
            regs.r9,
            regs.r10,
            regs.r11,
            regs.r12,
            regs.r13,
            regs.r14,
            regs.r15,
            regs.rdi,
            regs.rsi,
            regs.rbp,
            regs.rbx,
            regs.rdx,
            regs.rax,
            regs.rcx,
            regs.rsp,
            regs.rip,
            if self.is_of_fast_path() { regs.eflags & USER_FLAGS | FIXED_FLAGS } else { regs.eflags },
        ];
        let mut bytes = [0; 18 * 8];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(general) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        // The range was valid when the frame was read, and slots don't move.
        let _ = store(slots, self.slot, self.context + R8 as u64 * 8, &bytes);
    }

    /// The XSAVE image.
    pub fn fp(&self, slots: &Slots) -> Vec<u8> {
        let mut image = vec![0; self.fp_len as usize];
        // In range, see `read`.
        let _ = copy(slots, self.slot, self.fp, &mut image);
        image
    }

    /// Replaces the XSAVE image, keeping the host's own words in it.
    ///
    /// # Errors
    /// `EINVAL` when the CPU would not load it.
    pub fn set_fp(&self, slots: &Slots, image: &[u8]) -> SysResult<()> {
        let mut current = self.fp(slots);
        if image.len() != current.len() {
            return Err(Errno::EINVAL);
        }
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let mxcsr = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        // A zero mask in the host's image stands for the default one (Intel SDM vol. 1, 11.6.6).
        let mask = Some(mxcsr(&current, 28)).filter(|mask| *mask != 0).unwrap_or(0xffbf);
        let features = word(&current, SW_BYTES + 8);
        let clean = image[LEGACY + 8..HEADER_END].iter().all(|byte| *byte == 0);
        if mxcsr(image, 24) & !mask != 0 || word(image, LEGACY) & !features != 0 || !clean {
            return Err(Errno::EINVAL);
        }
        current[..SW_BYTES].copy_from_slice(&image[..SW_BYTES]);
        current[LEGACY..].copy_from_slice(&image[LEGACY..]);
        store(slots, self.slot, self.fp, &current)
    }
}
