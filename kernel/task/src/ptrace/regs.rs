//! `struct user`: the registers as debuggers number them.

use abi::{Errno, SysResult};
use platform::UserRegs;

use super::debug::DebugRegs;

/// `sizeof(struct user)`
pub const USER_LEN: u64 = 912;
/// Where the debug registers are in it.
pub const DEBUG_REGISTERS: u64 = 848;
/// Number of general registers.
pub(crate) const GENERAL: usize = 27;
/// What a tracer may change of `eflags`: CF, PF, AF, ZF, SF, TF, DF, OF, RF, AC.
const FLAGS: u64 = 0x5_0dd5;
/// End of user addresses on Linux (`TASK_SIZE_MAX`).
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// The registers in the order of `struct user_regs_struct`.
pub(crate) fn words(regs: &UserRegs) -> [u64; GENERAL] {
    let r = regs;
    [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.orig_rax, r.rip,
        0x33, r.eflags, r.rsp, 0x2b, r.fs_base, 0, 0, 0, 0, 0,
    ]
}

/// Changes a register.
///
/// # Errors
/// `EIO` for a value that it can't have.
pub(super) fn set_word(regs: &mut UserRegs, index: usize, value: u64) -> SysResult<()> {
    let r = regs;
    let place = match index {
        0 => &mut r.r15,
        1 => &mut r.r14,
        2 => &mut r.r13,
        3 => &mut r.r12,
        4 => &mut r.rbp,
        5 => &mut r.rbx,
        6 => &mut r.r11,
        7 => &mut r.r10,
        8 => &mut r.r9,
        9 => &mut r.r8,
        10 => &mut r.rax,
        11 => &mut r.rcx,
        12 => &mut r.rdx,
        13 => &mut r.rsi,
        14 => &mut r.rdi,
        15 => &mut r.orig_rax,
        16 => &mut r.rip,
        18 => {
            r.eflags = r.eflags & !FLAGS | value & FLAGS;
            return Ok(());
        }
        19 => &mut r.rsp,
        // Segments stay what they are: 64-bit code is all there is. A selector that no user can have is refused, as on Linux.
        17 | 20 => return if value & 3 == 3 && value <= 0xffff { Ok(()) } else { Err(Errno::EIO) },
        21 if value < TASK_SIZE => &mut r.fs_base,
        // The GS base is the platform's.
        22 if value == 0 => return Ok(()),
        23..=26 if value == 0 || value & 3 == 3 && value <= 0xffff => return Ok(()),
        _ => return Err(Errno::EIO),
    };
    *place = value;
    Ok(())
}

/// A word of `struct user`.
///
/// # Errors
/// `EIO` outside of it.
pub(super) fn peek_user(regs: &UserRegs, debug: &DebugRegs, offset: u64) -> SysResult<u64> {
    if !offset.is_multiple_of(8) || offset >= USER_LEN {
        return Err(Errno::EIO);
    }
    let index = (offset / 8) as usize;
    if let Some(word) = words(regs).get(index) {
        return Ok(*word);
    }
    Ok(offset.checked_sub(DEBUG_REGISTERS).map_or(0, |at| debug.get((at / 8) as usize)))
}

/// Changes a word of `struct user`.
///
/// # Errors
/// `EIO`, `EINVAL`
pub(super) fn poke_user(regs: &mut UserRegs, debug: &mut DebugRegs, offset: u64, value: u64) -> SysResult<()> {
    if !offset.is_multiple_of(8) || offset >= USER_LEN {
        return Err(Errno::EIO);
    }
    let index = (offset / 8) as usize;
    if index < GENERAL {
        return set_word(regs, index, value);
    }
    let at = offset.checked_sub(DEBUG_REGISTERS).ok_or(Errno::EIO)?;
    debug.set((at / 8) as usize, value)
}
