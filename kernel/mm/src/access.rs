//! The sentry's own access to guest memory.

use abi::{Errno, SysResult};
use platform::Prot;
use smallvec::SmallVec;
use usermem::{Access, FutexKey, PAGE_SIZE, Segment, UserMemory, page_down};

use crate::vma::VmaFlags;
use crate::{MemoryManager, Shown, State};

/// Pieces handed out at once.
const MAX_SEGMENTS: usize = 64;

impl MemoryManager {
    /// Where `len` bytes at `addr` are, as far as they lie in one piece.
    fn locate(&self, state: &mut State, addr: u64, len: u64, access: Access) -> SysResult<Segment> {
        if !self.aspace.user_range().contains(&addr) {
            return Err(Errno::EFAULT);
        }
        let page = page_down(addr);
        let write = access == Access::Write;
        let needed = if write { Prot::WRITE } else { Prot::READ };
        if let Some((range, vma)) = state.vmas.get(addr)
            && vma.access().contains(needed)
            && !vma.shared()
            && let Some((run, present)) = state.pages.get(addr)
            && (!write || present.shown == Shown::Writable)
        {
            // Nothing has to change: the usual case.
            return self.arena.file.segment(present.frame + (addr - run.start), len.min(run.end.min(range.end) - addr));
        }
        let (range, vma) = self.find_or_grow(state, page).ok_or(Errno::EFAULT)?;
        // x86 can't map for writing only.
        let allowed = vma.prot.contains(needed) || vma.prot.contains(Prot::WRITE);
        if !allowed || vma.flags.contains(VmaFlags::GUARD) {
            return Err(Errno::EFAULT);
        }
        // A page that isn't there at all need not be mapped now: the guest's own fault will. One that is there but changes must be.
        match self.bring_in(state, page, &range, &vma, write, false)? {
            Some(frame) => {
                let run = state.pages.get(page).map_or(page + PAGE_SIZE, |(run, _)| run.end).min(range.end);
                let (exclusive, reach) = self.arena.exclusive_run(frame, run - page);
                let reach = if exclusive || !write { reach.max(PAGE_SIZE) } else { PAGE_SIZE };
                self.arena.file.segment(frame + (addr - page), len.min(reach - (addr - page)))
            }
            None => {
                let (backing, offset) = vma.file.as_ref().ok_or(Errno::EFAULT)?;
                if write && !backing.file().writable() {
                    return Err(Errno::EFAULT);
                }
                let next = if vma.shared() { range.end } else { state.pages.next(page).map_or(range.end, |(run, _)| run.start) };
                let end = range.end.min(next);
                backing.file().segment(offset + (addr - range.start), len.min(end - addr))
            }
        }
    }
}

impl UserMemory for MemoryManager {
    fn with_segments(
        &self,
        addr: u64,
        len: usize,
        access: Access,
        f: &mut dyn FnMut(&[Segment]) -> SysResult<usize>,
    ) -> SysResult<usize> {
        if len == 0 {
            return f(&[]);
        }
        // What is found stays where it is until all is done, though another thread unmaps it.
        let _inside = self.grace.enter();
        let mut segments = SmallVec::<[Segment; 8]>::new();
        let mut state = self.state.lock();
        let mut done = 0u64;
        while done < len as u64 && segments.len() < MAX_SEGMENTS {
            let Some(at) = addr.checked_add(done) else { break };
            match self.locate(&mut state, at, len as u64 - done, access) {
                Ok(segment) => {
                    done += segment.len() as u64;
                    segments.push(segment);
                }
                Err(errno) if segments.is_empty() => return Err(errno),
                Err(_) => break,
            }
        }
        drop(state);
        f(&segments)
    }

    fn futex_key(&self, addr: u64, private: bool) -> SysResult<FutexKey> {
        if private {
            return Ok(FutexKey::Private(self.id, addr));
        }
        let mut state = self.state.lock();
        let (range, vma) = self.find_or_grow(&mut state, page_down(addr)).ok_or(Errno::EFAULT)?;
        match &vma.file {
            // What is mapped privately is the file's as long as it can't be written to.
            Some((backing, offset)) if vma.shared() || !vma.prot.contains(Prot::WRITE) && state.pages.get(addr).is_none() => {
                let file = &backing.mapped;
                Ok(FutexKey::Shared(file.dev, file.ino, offset + (addr - range.start)))
            }
            _ => Ok(FutexKey::Unshared(self.id, addr)),
        }
    }
}
