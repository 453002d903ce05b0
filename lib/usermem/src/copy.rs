//! Copies that survive a missing page.

use std::arch::{asm, naked_asm};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, SysResult};
use smallvec::SmallVec;

/// A piece of guest memory as mapped in the sentry. Other threads and the guest may change it at any time.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub(crate) ptr: *mut u8,
    pub(crate) len: usize,
}

/// Copies `len` bytes; returns how many were left when a page was missing. The handler finds the instruction by this function's
/// address.
#[unsafe(naked)]
unsafe extern "C" fn copy_recoverable(dst: *mut u8, src: *const u8, len: usize) -> usize {
    naked_asm!("mov rcx, rdx", "rep movsb", "mov rax, rcx", "ret")
}

/// Loads a word, zero-extended; [`MISSING`] when its page is.
#[unsafe(naked)]
unsafe extern "C" fn load_recoverable(src: *const u32) -> u64 {
    naked_asm!("mov eax, [rdi]", "ret")
}

/// Compares and exchanges a word; what was there, zero-extended, or [`MISSING`].
#[unsafe(naked)]
unsafe extern "C" fn exchange_recoverable(at: *mut u32, old: u32, new: u32) -> u64 {
    naked_asm!("mov eax, esi", "lock cmpxchg [rdi], edx", "ret")
}

/// No word is that large.
const MISSING: u64 = u64::MAX;

/// The instructions that may fault: offset in their function and length.
const MOVSB: (u64, u64) = (3, 2);
const LOAD: (u64, u64) = (0, 2);
const EXCHANGE: (u64, u64) = (2, 4);

/// `lock cmpxchg16b` at `at`, which is aligned and present; returns what was there.
fn compare_exchange_16(at: *mut u8, old: [u8; 16], new: [u8; 16]) -> [u8; 16] {
    let (old, new) = (u128::from_le_bytes(old), u128::from_le_bytes(new));
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: 16 aligned bytes of a window, seen present (arena pages never vanish). rbx is LLVM's own: swapped around the instruction.
    unsafe {
        asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [{at}]",
            "mov rbx, {new_low}",
            at = in(reg) at,
            new_low = inout(reg) new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
        );
    }
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

impl Segment {
    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "segments are never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address in the sentry, for vectored host I/O.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// The first `len` bytes at most.
    #[must_use]
    pub fn truncated(self, len: usize) -> Self {
        Self { ptr: self.ptr, len: self.len.min(len) }
    }

    /// What follows the first `by` bytes; nothing if there are no more.
    #[must_use]
    pub fn advanced(self, by: usize) -> Self {
        let by = by.min(self.len);
        Self { ptr: self.ptr.wrapping_add(by), len: self.len - by }
    }

    /// Copies out of guest memory; both have the same length.
    ///
    /// # Errors
    /// `EFAULT` when a page is missing.
    pub fn read(&self, dst: &mut [u8]) -> SysResult<()> {
        let len = dst.len().min(self.len);
        // SAFETY: `ptr..ptr+len` is a window that is mapped as long as its HostFile lives; faults are recovered.
        let left = unsafe { copy_recoverable(dst.as_mut_ptr(), self.ptr, len) };
        if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies into guest memory.
    ///
    /// # Errors
    /// `EFAULT` when a page is missing.
    pub fn write(&self, src: &[u8]) -> SysResult<()> {
        let len = src.len().min(self.len);
        // SAFETY: as in `read`; windows of arenas are writable, and a read-only one faults, which is recovered.
        let left = unsafe { copy_recoverable(self.ptr, src.as_ptr(), len) };
        if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copies from another piece of guest memory, as much as both hold.
    ///
    /// # Errors
    /// `EFAULT` when a page of either is missing.
    pub fn copy_from(&self, src: &Self) -> SysResult<()> {
        let len = self.len.min(src.len);
        // SAFETY: both are windows; faults are recovered.
        let left = unsafe { copy_recoverable(self.ptr, src.ptr, len) };
        if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Changes bytes so that other CPUs see all of them or none: inside the first 16 bytes, which must be aligned.
    ///
    /// # Errors
    /// `EINVAL` when they don't lie there, `EFAULT` when the page is missing.
    pub fn write_at_once(&self, offset: usize, bytes: &[u8]) -> SysResult<()> {
        let mut old = [0; 16];
        if self.len < 16 || !self.ptr.addr().is_multiple_of(16) {
            return Err(Errno::EINVAL);
        }
        self.read(&mut old)?;
        loop {
            let mut new = old;
            new.get_mut(offset..offset + bytes.len()).ok_or(Errno::EINVAL)?.copy_from_slice(bytes);
            let seen = compare_exchange_16(self.ptr, old, new);
            if seen == old {
                return Ok(());
            }
            old = seen;
        }
    }

    /// Loads an aligned word.
    ///
    /// # Errors
    /// `EFAULT` when the page is missing, `EINVAL` when not aligned.
    pub fn load_u32(&self) -> SysResult<u32> {
        let word = self.word()?;
        // SAFETY: an aligned word of a window; a fault is recovered.
        u32::try_from(unsafe { load_recoverable(word) }).map_err(|_| Errno::EFAULT)
    }

    /// Compares and exchanges an aligned word; returns what was there.
    ///
    /// # Errors
    /// As [`Segment::load_u32`].
    pub fn compare_exchange_u32(&self, old: u32, new: u32) -> SysResult<u32> {
        let word = self.word()?;
        // SAFETY: as in `load_u32`.
        u32::try_from(unsafe { exchange_recoverable(word, old, new) }).map_err(|_| Errno::EFAULT)
    }

    fn word(&self) -> SysResult<*mut u32> {
        if self.len < 4 || !self.ptr.addr().is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        Ok(self.ptr.cast())
    }
}

/// Addresses of the instructions that may fault, set before the handler.
static COPY_AT: AtomicU64 = AtomicU64::new(0);
static LOAD_AT: AtomicU64 = AtomicU64::new(0);
static EXCHANGE_AT: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_fault(signo: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the host hands a ucontext to SA_SIGINFO handlers.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let gregs = &mut context.uc_mcontext.gregs;
    let rip = gregs[libc::REG_RIP as usize].cast_unsigned();
    if rip == COPY_AT.load(Ordering::Relaxed) {
        gregs[libc::REG_RIP as usize] = (rip + MOVSB.1).cast_signed();
        return;
    }
    for (at, len) in [(&LOAD_AT, LOAD.1), (&EXCHANGE_AT, EXCHANGE.1)] {
        if rip == at.load(Ordering::Relaxed) {
            gregs[libc::REG_RIP as usize] = (rip + len).cast_signed();
            gregs[libc::REG_RAX as usize] = MISSING.cast_signed();
            return;
        }
    }
    // SAFETY: not ours: let it kill us as it would have.
    unsafe {
        libc::signal(signo, libc::SIG_DFL);
        asm!("", options(nomem));
    }
}

/// Makes copies recoverable in this process. Idempotent; call before the first access to guest memory.
pub fn install_fault_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        COPY_AT.store((copy_recoverable as *const ()).addr() as u64 + MOVSB.0, Ordering::Relaxed);
        LOAD_AT.store((load_recoverable as *const ()).addr() as u64 + LOAD.0, Ordering::Relaxed);
        EXCHANGE_AT.store((exchange_recoverable as *const ()).addr() as u64 + EXCHANGE.0, Ordering::Relaxed);
        // SAFETY: a zeroed sigaction is a valid one; the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = (on_fault as *const ()).addr();
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

fn host_vectored(fd: BorrowedFd<'_>, segments: &[Segment], offset: Option<u64>, write: bool) -> SysResult<usize> {
    let iovecs: SmallVec<[libc::iovec; 8]> =
        segments.iter().map(|segment| libc::iovec { iov_base: segment.ptr.cast(), iov_len: segment.len }).collect();
    let count = i32::try_from(iovecs.len()).map_err(|_| Errno::EINVAL)?;
    let (fd, pointer) = (fd.as_raw_fd(), iovecs.as_ptr());
    let at = offset.map(|at| i64::try_from(at).map_err(|_| Errno::EINVAL)).transpose()?;
    // SAFETY: every segment is a window that stays mapped during the call; the host copes with pages that are missing.
    let done = unsafe {
        match (at, write) {
            (Some(at), false) => libc::preadv(fd, pointer, count, at),
            (Some(at), true) => libc::pwritev(fd, pointer, count, at),
            (None, false) => libc::readv(fd, pointer, count),
            (None, true) => libc::writev(fd, pointer, count),
        }
    };
    usize::try_from(done).map_err(|_| std::io::Error::last_os_error().into())
}

/// preadv(2) into guest memory.
///
/// # Errors
/// As preadv(2).
pub fn preadv(fd: BorrowedFd<'_>, segments: &[Segment], offset: u64) -> SysResult<usize> {
    host_vectored(fd, segments, Some(offset), false)
}

/// pwritev(2) from guest memory.
///
/// # Errors
/// As pwritev(2).
pub fn pwritev(fd: BorrowedFd<'_>, segments: &[Segment], offset: u64) -> SysResult<usize> {
    host_vectored(fd, segments, Some(offset), true)
}

/// readv(2) into guest memory.
///
/// # Errors
/// As readv(2).
pub fn readv(fd: BorrowedFd<'_>, segments: &[Segment]) -> SysResult<usize> {
    host_vectored(fd, segments, None, false)
}

/// writev(2) from guest memory.
///
/// # Errors
/// As writev(2).
pub fn writev(fd: BorrowedFd<'_>, segments: &[Segment]) -> SysResult<usize> {
    host_vectored(fd, segments, None, true)
}

/// Writes from guest memory at the end of a file, wherever that is by then (pwritev2(2), RWF_APPEND).
///
/// # Errors
/// As pwritev2(2).
pub fn append(fd: BorrowedFd<'_>, segments: &[Segment]) -> SysResult<usize> {
    let iovecs: SmallVec<[libc::iovec; 8]> =
        segments.iter().map(|segment| libc::iovec { iov_base: segment.ptr.cast(), iov_len: segment.len }).collect();
    let count = i32::try_from(iovecs.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: as in `host_vectored`.
    let done = unsafe { libc::pwritev2(fd.as_raw_fd(), iovecs.as_ptr(), count, 0, libc::RWF_APPEND) };
    usize::try_from(done).map_err(|_| std::io::Error::last_os_error().into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::HostFile;

    /// What is beyond the end of a host file is missing in every way to look at it, and kills nobody.
    #[test]
    fn missing_pages_are_recovered_from() {
        install_fault_handler();
        let fd: OwnedFd = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        let file = HostFile::new(fd, true);
        let there = file.segment(8, 4).unwrap();
        assert_eq!(there.compare_exchange_u32(0, 7), Ok(0));
        assert_eq!(there.compare_exchange_u32(0, 8), Ok(7));
        assert_eq!(there.load_u32(), Ok(7));
        let beyond = file.segment(8192, 4).unwrap();
        assert_eq!(beyond.load_u32(), Err(Errno::EFAULT));
        assert_eq!(beyond.compare_exchange_u32(0, 7), Err(Errno::EFAULT));
        assert_eq!(beyond.read(&mut [0; 4]), Err(Errno::EFAULT));
        assert_eq!(file.segment(6, 4).unwrap().load_u32(), Err(Errno::EINVAL));
    }
}
