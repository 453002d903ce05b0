//! mprotect(2), mseal(2).

use std::ops::Range;

use abi::{Errno, SysResult};
use platform::Prot;
use usermem::PAGE_SIZE;

use crate::vma::{Vma, VmaFlags};
use crate::{Limits, MAX_MAPS, MemoryManager, Page, Shown, State, pages_of};

impl MemoryManager {
    /// Changes protection. `grows_down`: from the start of the mapping at `addr`, which must be a stack (`PROT_GROWSDOWN`).
    ///
    /// # Errors
    /// `EINVAL`; `ENOMEM` when part of the range isn't mapped, or there would be too many mappings or too much data; `EACCES` when the file
    /// does not allow it; `EPERM` when sealed.
    pub fn mprotect(&self, addr: u64, len: u64, prot: Prot, grows_down: bool, limits: &Limits) -> SysResult<()> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = pages_of(len).ok_or(Errno::ENOMEM)?;
        if len == 0 {
            return Ok(());
        }
        let mut range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        if grows_down {
            let (whole, vma) = state.vmas.next(range.start).filter(|(whole, _)| whole.start < range.end).ok_or(Errno::ENOMEM)?;
            if !vma.flags.contains(VmaFlags::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            range.start = whole.start;
        }
        let parts = state.vmas.within(range.clone());
        let mut at = range.start;
        for (part, mut vma) in parts {
            if part.start != at {
                return Err(Errno::ENOMEM);
            }
            at = part.end;
            if vma.prot == prot {
                continue;
            }
            if vma.deny.intersects(prot) {
                return Err(Errno::EACCES);
            }
            if vma.flags.contains(VmaFlags::SEALED) {
                return Err(Errno::EPERM);
            }
            if state.vmas.len() >= MAX_MAPS {
                return Err(Errno::ENOMEM);
            }
            let (was_data, was) = (vma.is_data(), vma.access());
            vma.prot = prot;
            let more = part.end - part.start;
            if vma.is_data() && !was_data && state.vmas.totals.data.saturating_add(more) > limits.data {
                return Err(Errno::ENOMEM);
            }
            state.vmas.insert(part.clone(), vma.clone());
            self.show(&mut state, part, &vma, vma.file.is_some() && !was.is_empty());
        }
        if at == range.end { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Shows a new protection in the guest. `file_shown`: the guest has the file's pages mapped where there are no private ones.
    pub(crate) fn show(&self, state: &mut State, part: Range<u64>, vma: &Vma, file_shown: bool) {
        let access = vma.access();
        let file_prot = if vma.shared() { access } else { access - Prot::WRITE };
        let protect = |range: Range<u64>, prot| self.aspace.protect(range.start, range.end - range.start, prot);
        if vma.file.is_some() && !file_shown {
            self.map_range(state, part, vma);
            return;
        }
        let mut at = part.start;
        for (run, page) in state.pages.within(part.clone()) {
            if at < run.start && file_shown {
                protect(at..run.start, file_prot);
            }
            at = run.end;
            if page.shown != Shown::No {
                self.show_frames(state, run, page, access);
            }
        }
        if at < part.end && file_shown {
            protect(at..part.end, file_prot);
        }
    }

    /// Changes the protection of frames that the guest has mapped.
    pub(crate) fn show_frames(&self, state: &mut State, run: Range<u64>, page: Page, access: Prot) {
        let mut from = run.start;
        while from < run.end {
            let frame = page.frame + (from - run.start);
            let (exclusive, len) = self.arena.exclusive_run(frame, run.end - from);
            let to = from + len.clamp(PAGE_SIZE, run.end - from);
            let prot = if exclusive { access } else { access - Prot::WRITE };
            self.aspace.protect(from, to - from, prot);
            let shown = if prot.contains(Prot::WRITE) { Shown::Writable } else { Shown::ReadOnly };
            if shown != page.shown {
                state.pages.insert(from..to, Page { frame, shown });
            }
            from = to;
        }
    }

    /// mseal(2): what is mapped in the range can't be unmapped, moved or protected otherwise any more.
    ///
    /// # Errors
    /// `EINVAL`; `ENOMEM` when part of it isn't mapped.
    pub fn seal(&self, addr: u64, len: u64) -> SysResult<()> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = pages_of(len).ok_or(Errno::EINVAL)?;
        let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
        self.change_flags(range, |flags| flags.insert(VmaFlags::SEALED))
    }

    /// Changes the flags of all mappings in a range, if all of it is mapped.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(crate) fn change_flags(&self, range: Range<u64>, change: impl Fn(&mut VmaFlags)) -> SysResult<()> {
        let mut state = self.state.lock();
        self.reap(&mut state);
        let parts = state.vmas.within(range.clone());
        if covered(&parts) != range.end - range.start || state.vmas.len() + 2 > MAX_MAPS {
            return Err(Errno::ENOMEM);
        }
        for (part, mut vma) in parts {
            change(&mut vma.flags);
            state.vmas.insert(part, vma);
        }
        Ok(())
    }
}

/// Bytes that parts of mappings make up.
pub(crate) fn covered(parts: &[(Range<u64>, Vma)]) -> u64 {
    parts.iter().map(|(part, _)| part.end - part.start).sum()
}
