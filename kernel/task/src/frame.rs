//! Signal frames, laid out as Linux does on x86-64 (arch/x86/include/uapi/asm/sigcontext.h): programs read and change them.

use abi::signal::{SA_RESTORER, SS_AUTODISARM, SigAction, SigInfo, SigStack, UContext};
use abi::{Errno, SysResult, c};
use usermem::UserMemoryExt;
use zerocopy::IntoBytes;

use crate::current::Current;

/// `FP_XSTATE_MAGIC1`, in the part of the legacy area that is software's; what follows says how large the image is.
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// `FP_XSTATE_MAGIC2`, after the XSAVE image in a frame.
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where `struct _fpx_sw_bytes` lies in the image: magic, size with the second magic, features (8 bytes), size.
const SW_BYTES: usize = 464;
/// The legacy area, and with the XSAVE header, whose first word says which features the image holds.
const LEGACY: usize = 512;
const HEADER_END: usize = LEGACY + 64;
const RED_ZONE: u64 = 128;
const UCONTEXT_LEN: u64 = size_of::<UContext>() as u64;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`
const UC_FLAGS: u64 = 7;
/// Flags that rt_sigreturn(2) takes from the frame: AC, OF, DF, TF, SF, ZF, AF, PF, CF, RF.
const FRAME_FLAGS: u64 = 0x5_0dd5;
/// RF, TF, DF: clear in handlers.
const NOT_IN_HANDLERS: u64 = 0x1_0500;

/// The CPU's account of the last fault, which frames show from then on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trap {
    pub number: u64,
    pub error: u64,
    pub cr2: u64,
}

/// Puts a little-endian number into an image; offsets are constants inside of it.
fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn word(image: &[u8], at: usize) -> u32 {
    image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The state that a program starts with, in an image of this length.
fn initial_fp(len: usize) -> Vec<u8> {
    let mut image = vec![0; len];
    // Control words; no component is in use.
    put(&mut image, 0, &0x37fu16.to_le_bytes());
    put(&mut image, 24, &0x1f80u32.to_le_bytes());
    image
}

impl Current {
    /// Where a frame goes whose XSAVE image has so many bytes: the address of the image, and that of the return address below it.
    fn frame_place(&self, stack: SigStack, action: &SigAction, fp_len: u64) -> SysResult<(u64, u64)> {
        let rsp = self.regs.rsp;
        let (on_stack, wanted) = (stack.holds(rsp), action.flags & c::SA_ONSTACK as u64 != 0);
        let enters = wanted && !on_stack && stack.size != 0;
        let top = if enters { stack.sp.wrapping_add(stack.size) } else { rsp.wrapping_sub(RED_ZONE) };
        let fp_at = top.wrapping_sub(fp_len + 4) & !63;
        // Return address, context, siginfo; at the handler's entry rsp is 8 below a multiple of 16.
        let frame = (fp_at.wrapping_sub(8 + UCONTEXT_LEN + size_of::<SigInfo>() as u64) & !15).wrapping_sub(8);
        // Overflowing the alternate stack must not go unnoticed.
        if (on_stack || enters) && !stack.covers(frame) {
            return Err(Errno::EFAULT);
        }
        Ok((fp_at, frame))
    }

    /// Builds a frame and enters the handler.
    ///
    /// # Errors
    /// `EFAULT` when there is no place for it, `ESRCH` when the task is gone.
    pub(crate) fn enter_handler(&mut self, info: &SigInfo, action: &SigAction) -> SysResult<()> {
        if !self.ctx.full(&mut self.regs) {
            return Err(Errno::ESRCH);
        }
        if action.flags & SA_RESTORER == 0 {
            return Err(Errno::EFAULT);
        }
        let mut fp = self.ctx.fp();
        let fp_len = fp.len();
        put(&mut fp, SW_BYTES, &FP_XSTATE_MAGIC1.to_le_bytes());
        let size = u32::try_from(fp_len).map_err(|_| Errno::EFAULT)?;
        put(&mut fp, SW_BYTES + 4, &(size + 4).to_le_bytes());
        put(&mut fp, SW_BYTES + 16, &size.to_le_bytes());
        fp.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
        let (saved, mask, stack) = {
            let shared = self.task.lock();
            (shared.saved_mask, shared.mask, shared.altstack)
        };
        let (fp_at, frame) = self.frame_place(stack, action, fp_len as u64)?;
        let mut context = self.context(fp_at);
        (context.stack, context.sigmask) = (stack, saved.unwrap_or(mask));
        context.oldmask = context.sigmask.0;
        let (context_at, info_at) = (frame.wrapping_add(8), frame.wrapping_add(8 + UCONTEXT_LEN));
        self.mm.write(fp_at, &fp)?;
        self.mm.write(frame, &action.restorer.to_le_bytes())?;
        self.mm.write(context_at, context.as_bytes())?;
        if action.flags & c::SA_SIGINFO as u64 != 0 {
            self.mm.write(info_at, info.as_bytes())?;
        }
        {
            let mut shared = self.task.lock();
            shared.saved_mask = None;
            if stack.flags & SS_AUTODISARM != 0 {
                shared.altstack = SigStack::DISABLED;
            }
        }
        (self.regs.rsp, self.regs.rip, self.regs.rax) = (frame, action.handler, 0);
        (self.regs.rdi, self.regs.rsi, self.regs.rdx) = (u64::from(info.signo.cast_unsigned()), info_at, context_at);
        self.regs.eflags &= !NOT_IN_HANDLERS;
        Ok(())
    }

    /// The registers as a frame shows them.
    fn context(&self, fpstate: u64) -> UContext {
        let (regs, trap) = (&self.regs, self.trap);
        UContext {
            flags: UC_FLAGS,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rdi: regs.rdi,
            rsi: regs.rsi,
            rbp: regs.rbp,
            rbx: regs.rbx,
            rdx: regs.rdx,
            rax: regs.rax,
            rcx: regs.rcx,
            rsp: regs.rsp,
            rip: regs.rip,
            eflags: regs.eflags,
            cs: 0x33,
            ss: 0x2b,
            err: trap.error,
            trapno: trap.number,
            cr2: trap.cr2,
            fpstate,
            ..UContext::default()
        }
    }

    /// rt_sigreturn(2): back to where the signal came. All registers are replaced.
    ///
    /// # Errors
    /// `EFAULT` when the frame is bad: the task is to get `SIGSEGV`.
    pub fn sigreturn(&mut self) -> SysResult<()> {
        if !self.ctx.full(&mut self.regs) {
            return Err(Errno::EFAULT);
        }
        let context: UContext = self.mm.read_obj(self.regs.rsp)?;
        self.restore_fp(context.fpstate)?;
        let regs = &mut self.regs;
        [regs.r8, regs.r9, regs.r10, regs.r11] = [context.r8, context.r9, context.r10, context.r11];
        [regs.r12, regs.r13, regs.r14, regs.r15] = [context.r12, context.r13, context.r14, context.r15];
        [regs.rdi, regs.rsi, regs.rbp, regs.rbx] = [context.rdi, context.rsi, context.rbp, context.rbx];
        [regs.rdx, regs.rax, regs.rcx, regs.rsp, regs.rip] = [context.rdx, context.rax, context.rcx, context.rsp, context.rip];
        regs.eflags = regs.eflags & !FRAME_FLAGS | context.eflags & FRAME_FLAGS;
        self.syscall = None;
        self.set_mask(context.sigmask);
        // As on Linux, what can't be is ignored.
        let _ = self.set_altstack(context.stack);
        Ok(())
    }

    /// Takes the floating-point state from a frame.
    fn restore_fp(&mut self, at: u64) -> SysResult<()> {
        let current = self.ctx.fp();
        let len = current.len();
        let mut image = initial_fp(len);
        if at != 0 {
            let mut legacy = [0; LEGACY];
            self.mm.read(at, &mut legacy)?;
            let size = word(&legacy, SW_BYTES + 16) as usize;
            let whole = word(&legacy, SW_BYTES) == FP_XSTATE_MAGIC1
                && (HEADER_END..=len).contains(&size)
                && size <= word(&legacy, SW_BYTES + 4) as usize
                && self.mm.read_obj::<u32>(at.wrapping_add(size as u64)) == Ok(FP_XSTATE_MAGIC2);
            if whole {
                self.mm.read(at, image.get_mut(..size).unwrap_or_default())?;
            } else {
                // No more than the legacy state: x87 and SSE.
                put(&mut image, 0, &legacy);
                put(&mut image, LEGACY, &3u64.to_le_bytes());
            }
        }
        self.ctx.set_fp(&image).map_err(|_| Errno::EFAULT)
    }

    /// Sets the alternate stack (sigaltstack(2)).
    ///
    /// # Errors
    /// `EPERM` while on it, `EINVAL` for unknown flags, `ENOMEM` when it is too small.
    pub fn set_altstack(&self, new: SigStack) -> SysResult<()> {
        let mut shared = self.task.lock();
        if shared.altstack.holds(self.regs.rsp) {
            return Err(Errno::EPERM);
        }
        shared.altstack = match new.flags & !SS_AUTODISARM {
            c::SS_DISABLE => SigStack { flags: new.flags, ..SigStack::DISABLED },
            0 | c::SS_ONSTACK if new.size < c::MINSIGSTKSZ as u64 => return Err(Errno::ENOMEM),
            0 | c::SS_ONSTACK => SigStack { pad: 0, ..new },
            _ => return Err(Errno::EINVAL),
        };
        Ok(())
    }
}
