//! Access to a guest's address space.

use abi::structs::Iovec;
use abi::{Errno, SysResult};
use smallvec::SmallVec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::FutexKey;
use crate::copy::Segment;

/// The end of what can be user memory (`TASK_SIZE_MAX`).
const USER_END: u64 = 0x7fff_ffff_f000;

/// Bytes of one read or write at most (`MAX_RW_COUNT`).
pub const MAX_RW: usize = 0x7fff_f000;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A guest's address space.
pub trait UserMemory: Send + Sync {
    /// Calls `f` with the longest accessible prefix of the range (at least one byte) and returns what it returns.
    ///
    /// # Errors
    /// `EFAULT` when the first byte isn't accessible; what `f` says.
    fn with_segments(
        &self,
        addr: u64,
        len: usize,
        access: Access,
        f: &mut dyn FnMut(&[Segment]) -> SysResult<usize>,
    ) -> SysResult<usize>;

    /// What a futex at `addr` is known by.
    ///
    /// # Errors
    /// `EFAULT`
    fn futex_key(&self, addr: u64, private: bool) -> SysResult<FutexKey>;
}

/// What follows from [`UserMemory`].
impl dyn UserMemory + '_ {
    /// Copies as much as is readable; returns how much (`EFAULT` if nothing).
    fn read_some(&self, addr: u64, dst: &mut [u8]) -> SysResult<usize> {
        self.with_segments(addr, dst.len(), Access::Read, &mut |segments| {
            let mut done = 0;
            for segment in segments {
                let Some(part) = dst.get_mut(done..) else { break };
                let len = segment.len().min(part.len());
                let Some(part) = part.get_mut(..len) else { break };
                if segment.read(part).is_err() {
                    break;
                }
                done += len;
            }
            if done == 0 { Err(Errno::EFAULT) } else { Ok(done) }
        })
    }

    fn write_some(&self, addr: u64, src: &[u8]) -> SysResult<usize> {
        self.with_segments(addr, src.len(), Access::Write, &mut |segments| {
            let mut done = 0;
            for segment in segments {
                let rest = src.get(done..).unwrap_or_default();
                let len = segment.len().min(rest.len());
                if segment.write(rest.get(..len).unwrap_or_default()).is_err() {
                    break;
                }
                done += len;
            }
            if done == 0 { Err(Errno::EFAULT) } else { Ok(done) }
        })
    }
}

/// Typed access; all of it or `EFAULT`.
pub trait UserMemoryExt {
    /// # Errors
    /// `EFAULT`
    fn read(&self, addr: u64, dst: &mut [u8]) -> SysResult<()>;
    /// # Errors
    /// `EFAULT`
    fn write(&self, addr: u64, src: &[u8]) -> SysResult<()>;
    /// # Errors
    /// `EFAULT`
    fn read_obj<T: FromBytes + IntoBytes + FromZeros>(&self, addr: u64) -> SysResult<T>;
    /// # Errors
    /// `EFAULT`
    fn write_obj<T: IntoBytes + Immutable>(&self, addr: u64, value: &T) -> SysResult<()>;
    /// A NUL-terminated string of fewer than `max` bytes, without the NUL.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG` when no NUL is among the first `max` bytes.
    fn read_cstr(&self, addr: u64, max: usize) -> SysResult<Vec<u8>>;
    /// # Errors
    /// `EFAULT`; `EINVAL` for more than 1024 or too large ones.
    fn read_iovecs(&self, addr: u64, count: u64) -> SysResult<SmallVec<[Iovec; 8]>>;
    /// # Errors
    /// `EFAULT`, `EINVAL` when not aligned.
    fn load_u32(&self, addr: u64) -> SysResult<u32>;
    /// # Errors
    /// `EFAULT`, `EINVAL` when not aligned.
    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> SysResult<u32>;
}

impl<M: UserMemory + ?Sized + AsDyn> UserMemoryExt for M {
    fn read(&self, addr: u64, dst: &mut [u8]) -> SysResult<()> {
        let mut done = 0;
        while done < dst.len() {
            let at = addr.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            done += self.as_dyn().read_some(at, dst.get_mut(done..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn write(&self, addr: u64, src: &[u8]) -> SysResult<()> {
        let mut done = 0;
        while done < src.len() {
            let at = addr.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            done += self.as_dyn().write_some(at, src.get(done..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn read_obj<T: FromBytes + IntoBytes + FromZeros>(&self, addr: u64) -> SysResult<T> {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    fn write_obj<T: IntoBytes + Immutable>(&self, addr: u64, value: &T) -> SysResult<()> {
        self.write(addr, value.as_bytes())
    }

    fn read_cstr(&self, addr: u64, max: usize) -> SysResult<Vec<u8>> {
        let mut text = Vec::new();
        let mut chunk = [0; 256];
        while text.len() < max {
            let at = addr.checked_add(text.len() as u64).ok_or(Errno::EFAULT)?;
            // Up to the end of the page, so that a string that ends there is read.
            let room = (4096 - at % 4096) as usize;
            let want = chunk.len().min(room).min(max - text.len());
            let part = chunk.get_mut(..want).unwrap_or_default();
            self.read(at, part)?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(part.get(..end).unwrap_or_default());
                return Ok(text);
            }
            text.extend_from_slice(part);
        }
        Err(Errno::ENAMETOOLONG)
    }

    fn read_iovecs(&self, addr: u64, count: u64) -> SysResult<SmallVec<[Iovec; 8]>> {
        let count = usize::try_from(count).ok().filter(|count| *count <= 1024).ok_or(Errno::EINVAL)?;
        let mut iovecs: SmallVec<[Iovec; 8]> = SmallVec::from_elem(Iovec::default(), count);
        self.read(addr, iovecs.as_mut_slice().as_mut_bytes())?;
        if iovecs.iter().any(|iovec| i64::try_from(iovec.len).is_err()) {
            return Err(Errno::EINVAL);
        }
        // What can't be user memory is refused before anything is done.
        if iovecs.iter().any(|iovec| iovec.base.checked_add(iovec.len).is_none_or(|end| end > USER_END)) {
            return Err(Errno::EFAULT);
        }
        Ok(iovecs)
    }

    fn load_u32(&self, addr: u64) -> SysResult<u32> {
        let mut value = 0;
        self.with_segments(addr, 4, Access::Read, &mut |segments| {
            value = segments.first().ok_or(Errno::EFAULT)?.load_u32()?;
            Ok(4)
        })?;
        Ok(value)
    }

    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> SysResult<u32> {
        let mut value = 0;
        self.with_segments(addr, 4, Access::Write, &mut |segments| {
            value = segments.first().ok_or(Errno::EFAULT)?.compare_exchange_u32(old, new)?;
            Ok(4)
        })?;
        Ok(value)
    }
}

/// Lets the extension work on concrete types and trait objects alike.
pub trait AsDyn {
    fn as_dyn(&self) -> &dyn UserMemory;
}

impl<M: UserMemory> AsDyn for M {
    fn as_dyn(&self) -> &dyn UserMemory {
        self
    }
}

impl AsDyn for dyn UserMemory + '_ {
    fn as_dyn(&self) -> &dyn UserMemory {
        self
    }
}

enum Target<'a> {
    User(&'a dyn UserMemory, SmallVec<[Iovec; 8]>),
    KernelMut(&'a mut [u8]),
    Kernel(&'a [u8]),
}

/// Where a read goes to or a write comes from: guest memory or a buffer of the sentry's, with a position.
pub struct IoBuf<'a> {
    target: Target<'a>,
    at: usize,
    len: usize,
}

impl<'a> IoBuf<'a> {
    /// One piece of guest memory, cut to [`MAX_RW`].
    #[must_use]
    pub fn user(memory: &'a dyn UserMemory, base: u64, len: u64) -> Self {
        Self::iovecs(memory, SmallVec::from_slice(&[Iovec { base, len }]))
    }

    /// Several pieces of guest memory, cut to [`MAX_RW`] in total.
    #[must_use]
    pub fn iovecs(memory: &'a dyn UserMemory, iovecs: SmallVec<[Iovec; 8]>) -> Self {
        let total = iovecs.iter().fold(0u64, |sum, iovec| sum.saturating_add(iovec.len));
        let len = usize::try_from(total).unwrap_or(usize::MAX).min(MAX_RW);
        Self { target: Target::User(memory, iovecs), at: 0, len }
    }

    /// A destination in the sentry.
    #[must_use]
    pub fn kernel_mut(bytes: &'a mut [u8]) -> Self {
        let len = bytes.len();
        Self { target: Target::KernelMut(bytes), at: 0, len }
    }

    /// A source in the sentry.
    #[must_use]
    pub fn kernel(bytes: &'a [u8]) -> Self {
        Self { target: Target::Kernel(bytes), at: 0, len: bytes.len() }
    }

    /// Bytes left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.len - self.at
    }

    /// Bytes done.
    #[must_use]
    pub fn done(&self) -> usize {
        self.at
    }

    /// Goes back to a position that [`IoBuf::done`] has given: what came after is to be done again.
    pub fn rewind(&mut self, done: usize) {
        self.at = self.at.min(done);
    }

    /// Cuts it to `count` bytes from here on at most.
    pub fn limit(&mut self, count: usize) {
        self.len = self.len.min(self.at.saturating_add(count));
    }

    /// Takes up to `count` bytes as done; returns how many.
    pub fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.remaining());
        self.at += count;
        count
    }

    /// Takes all that is left as done.
    pub fn skip_rest(&mut self) -> usize {
        let rest = self.remaining();
        self.at = self.len;
        rest
    }

    /// The piece of guest memory at the position.
    fn piece(iovecs: &[Iovec], at: usize) -> Option<(u64, usize)> {
        let mut skip = at as u64;
        for iovec in iovecs {
            if skip < iovec.len {
                let len = usize::try_from(iovec.len - skip).unwrap_or(usize::MAX);
                return Some((iovec.base.checked_add(skip)?, len));
            }
            skip -= iovec.len;
        }
        None
    }

    /// Copies `src` into a destination: all of it, or as much as there is room and memory for.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn copy_out(&mut self, src: &[u8]) -> SysResult<usize> {
        let mut done = 0;
        while done < src.len() && self.remaining() > 0 {
            let rest = src.get(done..).unwrap_or_default();
            let rest = rest.get(..rest.len().min(self.remaining())).unwrap_or_default();
            let result = match &mut self.target {
                Target::User(memory, iovecs) => {
                    let (base, len) = Self::piece(iovecs, self.at).ok_or(Errno::EFAULT)?;
                    memory.write_some(base, rest.get(..rest.len().min(len)).unwrap_or_default())
                }
                Target::KernelMut(bytes) => {
                    let place = bytes.get_mut(self.at..self.at + rest.len()).ok_or(Errno::EFAULT)?;
                    place.copy_from_slice(rest);
                    Ok(rest.len())
                }
                Target::Kernel(_) => Err(Errno::EFAULT),
            };
            match result {
                Ok(count) => {
                    done += count;
                    self.at += count;
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Copies from a source into `dst`: all of it, or as much as there is.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn copy_in(&mut self, dst: &mut [u8]) -> SysResult<usize> {
        let mut done = 0;
        while done < dst.len() && self.remaining() > 0 {
            let remaining = self.remaining();
            let rest = dst.get_mut(done..).unwrap_or_default();
            let want = rest.len().min(remaining);
            let rest = rest.get_mut(..want).unwrap_or_default();
            let result = match &mut self.target {
                Target::User(memory, iovecs) => {
                    let (base, len) = Self::piece(iovecs, self.at).ok_or(Errno::EFAULT)?;
                    memory.read_some(base, rest.get_mut(..want.min(len)).unwrap_or_default())
                }
                Target::Kernel(bytes) => {
                    rest.copy_from_slice(bytes.get(self.at..self.at + want).ok_or(Errno::EFAULT)?);
                    Ok(want)
                }
                Target::KernelMut(_) => Err(Errno::EFAULT),
            };
            match result {
                Ok(count) => {
                    done += count;
                    self.at += count;
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Fills `dst`, or takes nothing.
    ///
    /// # Errors
    /// `EFAULT` unless all of it is there.
    pub fn fill(&mut self, dst: &mut [u8]) -> SysResult<()> {
        let start = self.at;
        if !dst.is_empty() && self.copy_in(dst)? < dst.len() {
            self.rewind(start);
            return Err(Errno::EFAULT);
        }
        Ok(())
    }

    /// Copies between a window on a file and the buffer, as much as both hold: out of the window with [`Access::Write`], into it with
    /// [`Access::Read`] of the buffer. Less when a page of the file is missing.
    ///
    /// # Errors
    /// `EFAULT` when nothing could be copied.
    pub fn copy_window(&mut self, access: Access, window: Segment) -> SysResult<usize> {
        let mut total = 0;
        while total < window.len() && self.remaining() > 0 {
            let mut whole = true;
            let result = self.host_io(access, &mut |segments| {
                let mut done = 0;
                for segment in segments {
                    let part = window.advanced(total + done).truncated(segment.len());
                    let own = segment.truncated(part.len());
                    let copied = if access == Access::Write { own.copy_from(&part) } else { part.copy_from(&own) };
                    if copied.is_err() {
                        whole = false;
                        break;
                    }
                    done += part.len();
                }
                if done == 0 && !whole { Err(Errno::EFAULT) } else { Ok(done) }
            });
            match result {
                Ok(0) => break,
                Ok(count) => total += count,
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
            if !whole {
                break;
            }
        }
        Ok(total)
    }

    /// Hands guest pages to a host call (preadv(2), pwritev(2)); `f` returns how many bytes it has moved. Buffers of the sentry's own
    /// are handed over as they are.
    ///
    /// # Errors
    /// `EFAULT`; what `f` says.
    pub fn host_io(&mut self, access: Access, f: &mut dyn FnMut(&[Segment]) -> SysResult<usize>) -> SysResult<usize> {
        self.host_io_up_to(usize::MAX, access, f)
    }

    /// As [`IoBuf::host_io`], with at most `limit` bytes.
    ///
    /// # Errors
    /// As there.
    pub fn host_io_up_to(
        &mut self,
        limit: usize,
        access: Access,
        f: &mut dyn FnMut(&[Segment]) -> SysResult<usize>,
    ) -> SysResult<usize> {
        let remaining = self.remaining().min(limit);
        if remaining == 0 {
            return Ok(0);
        }
        let count = match &mut self.target {
            Target::User(memory, iovecs) => {
                let (base, len) = Self::piece(iovecs, self.at).ok_or(Errno::EFAULT)?;
                memory.with_segments(base, len.min(remaining), access, f)?
            }
            Target::KernelMut(bytes) => {
                let part = bytes.get_mut(self.at..).unwrap_or_default();
                f(&[Segment { ptr: part.as_mut_ptr(), len: part.len().min(remaining) }])?
            }
            Target::Kernel(bytes) => {
                let part = bytes.get(self.at..).unwrap_or_default();
                if access == Access::Write {
                    return Err(Errno::EFAULT);
                }
                f(&[Segment { ptr: part.as_ptr().cast_mut(), len: part.len().min(remaining) }])?
            }
        };
        let count = count.min(remaining);
        self.at += count;
        Ok(count)
    }
}
