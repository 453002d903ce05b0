//! Restartable sequences (rseq(2)). The platform keeps a thread's area up to date; here is who has one.

use abi::{Errno, SysResult};
use platform::RseqArea;
use usermem::UserMemoryExt;

use crate::current::Current;
use crate::tasks::Task;

const RSEQ_FLAG_UNREGISTER: i32 = 1;
/// Size and alignment of the area as it first was.
const ORIG_RSEQ_SIZE: u32 = 32;
/// Largest area: nobody needs more than a page.
const MAX_SIZE: u32 = 4096;
/// Offset of `rseq_cs`.
const RSEQ_CS: u64 = 8;

impl Current {
    /// rseq(2)
    ///
    /// # Errors
    /// `ENOSYS` where the platform has none; `EINVAL` for flags, size, alignment, or another area than the one there is; `EPERM` for another
    /// signature; `EBUSY` when there is one; `EFAULT` for memory that can't be written.
    pub fn rseq(&mut self, area: RseqArea, flags: i32) -> SysResult<()> {
        let features = self.mm.aspace().rseq().ok_or(Errno::ENOSYS)?;
        let old = self.task.lock().rseq;
        let same = |old: RseqArea| match (old.addr, old.len) == (area.addr, area.len) {
            false => Err(Errno::EINVAL),
            true if old.signature != area.signature => Err(Errno::EPERM),
            true => Ok(()),
        };
        if flags & RSEQ_FLAG_UNREGISTER != 0 {
            if flags != RSEQ_FLAG_UNREGISTER {
                return Err(Errno::EINVAL);
            }
            same(old.filter(|old| old.addr == area.addr).ok_or(Errno::EINVAL)?)?;
            self.end_rseq();
            return Ok(());
        }
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        if let Some(old) = old {
            same(old)?;
            return Err(Errno::EBUSY);
        }
        let first = area.len == ORIG_RSEQ_SIZE && area.addr.is_multiple_of(ORIG_RSEQ_SIZE.into());
        let later = area.len > ORIG_RSEQ_SIZE && area.len >= features.size && area.addr.is_multiple_of(features.align.into());
        if !(first || later) || area.len > MAX_SIZE {
            return Err(Errno::EINVAL);
        }
        let user = self.mm.aspace().user_range();
        if area.addr < user.start || area.addr.checked_add(area.len.into()).is_none_or(|end| end > user.end) {
            return Err(Errno::EFAULT);
        }
        self.mm.pin(area.addr, area.len.into())?;
        self.ctx.begin_rseq(area);
        self.task.lock().rseq = Some(area);
        Ok(())
    }

    /// A child of fork(2) has its parent's area, in its own memory.
    pub(crate) fn inherit_rseq(&mut self) -> SysResult<()> {
        let Some(area) = self.task.lock().rseq else { return Ok(()) };
        self.mm.pin(area.addr, area.len.into())?;
        self.ctx.begin_rseq(area);
        Ok(())
    }

    /// Nothing writes to the thread's area any more: its memory may go.
    pub(crate) fn end_rseq(&mut self) {
        let Some(area) = self.task.lock().rseq.take() else { return };
        self.ctx.end_rseq(&mut self.regs, area);
        self.mm.unpin(area.addr, area.len.into());
    }

    /// Whether the process, whose stub is gone, has it to blame on an area that the host could not use: it is gone, or what it says
    /// of a sequence is wrong.
    pub(crate) fn rseq_failed(&self) -> bool {
        self.task.group.threads().iter().any(|task| self.failed(task))
    }

    fn failed(&self, task: &Task) -> bool {
        let Some(area) = task.lock().rseq else { return false };
        self.mm.pin(area.addr, area.len.into()).is_err() || self.mm.read_obj::<u64>(area.addr + RSEQ_CS).is_ok_and(|cs| cs != 0)
    }
}
