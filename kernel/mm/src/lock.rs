//! What is in memory: mlock(2) and its family, mincore(2), msync(2).

use std::ops::Range;

use abi::{Errno, SysResult, c};
use platform::{MapKind, Prot};
use usermem::PAGE_SIZE;

use crate::protect::covered;
use crate::vma::{Vma, VmaFlags};
use crate::{Limits, MemoryManager, Page, Shown, State, pages_of};

const LOCKS: VmaFlags = VmaFlags::LOCKED.union(VmaFlags::ON_FAULT);

impl MemoryManager {
    /// The whole pages of a range that needn't begin at one.
    fn pages(&self, addr: u64, len: u64) -> SysResult<Range<u64>> {
        let start = usermem::page_down(addr);
        let len = len.checked_add(addr - start).and_then(pages_of).ok_or(Errno::EINVAL)?;
        start.checked_add(len).ok_or(Errno::EINVAL)?;
        Ok(start..start + len)
    }

    /// mlock2(2): brings pages in and keeps them; `on_fault`: keeps those that come.
    ///
    /// # Errors
    /// `EPERM`, `ENOMEM` when more than allowed or not mapped, or when something can't be brought in; `EINVAL`, `EAGAIN`.
    pub fn mlock(&self, addr: u64, len: u64, on_fault: bool, limits: &Limits) -> SysResult<()> {
        if limits.locked == 0 && !limits.may_lock {
            return Err(Errno::EPERM);
        }
        let range = self.pages(addr, len)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        let parts = state.vmas.within(range.clone());
        let already: u64 =
            parts.iter().filter(|(_, vma)| vma.flags.contains(VmaFlags::LOCKED)).map(|(part, _)| part.end - part.start).sum();
        let more = (range.end - range.start).saturating_sub(already);
        if !limits.may_lock && state.vmas.totals.locked.saturating_add(more) > limits.locked {
            return Err(Errno::ENOMEM);
        }
        Self::set_locks(&mut state, &range, if on_fault { LOCKS } else { VmaFlags::LOCKED })?;
        if on_fault {
            return Ok(());
        }
        self.populate(&mut state, range).map_err(|errno| if errno == Errno::EFAULT { Errno::ENOMEM } else { Errno::EAGAIN })
    }

    /// Marks mappings; stops at the first hole.
    fn set_locks(state: &mut State, range: &Range<u64>, locks: VmaFlags) -> SysResult<()> {
        let mut at = range.start;
        for (part, mut vma) in state.vmas.within(range.clone()) {
            if part.start > at {
                break;
            }
            at = part.end;
            vma.flags = (vma.flags - LOCKS) | locks;
            state.vmas.insert(part, vma);
        }
        if at < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// munlock(2)
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL`.
    pub fn munlock(&self, addr: u64, len: u64) -> SysResult<()> {
        let range = self.pages(addr, len)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        Self::set_locks(&mut state, &range, VmaFlags::empty())
    }

    /// mlockall(2)
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`, `ENOMEM`.
    pub fn mlock_all(&self, flags: i32, limits: &Limits) -> SysResult<()> {
        let known = c::MCL_CURRENT | c::MCL_FUTURE | c::MCL_ONFAULT;
        if flags == 0 || flags & !known != 0 || flags == c::MCL_ONFAULT {
            return Err(Errno::EINVAL);
        }
        if limits.locked == 0 && !limits.may_lock {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        self.reap(&mut state);
        if flags & c::MCL_CURRENT != 0 && !limits.may_lock && state.vmas.totals.all > limits.locked {
            return Err(Errno::ENOMEM);
        }
        let locks = if flags & c::MCL_ONFAULT != 0 { LOCKS } else { VmaFlags::LOCKED };
        state.future = if flags & c::MCL_FUTURE != 0 { locks } else { VmaFlags::empty() };
        if flags & c::MCL_CURRENT != 0 {
            self.lock_everything(&mut state, locks);
        }
        Ok(())
    }

    /// munlockall(2)
    pub fn munlock_all(&self) {
        let mut state = self.state.lock();
        state.future = VmaFlags::empty();
        self.lock_everything(&mut state, VmaFlags::empty());
    }

    fn lock_everything(&self, state: &mut State, locks: VmaFlags) {
        let all: Vec<_> = state.vmas.iter().map(|(range, vma)| (range, vma.clone())).collect();
        for (range, mut vma) in all {
            vma.flags = (vma.flags - LOCKS) | locks;
            state.vmas.insert(range.clone(), vma);
            if locks == VmaFlags::LOCKED {
                // What can't be brought in is none of the caller's business here.
                let _ = self.populate(state, range);
            }
        }
    }

    /// Brings in what is mapped in a range.
    ///
    /// # Errors
    /// `EFAULT` at what the guest may not touch; `ENOMEM`.
    pub(crate) fn populate(&self, state: &mut State, range: Range<u64>) -> SysResult<()> {
        for (part, vma) in state.vmas.within(range) {
            if vma.access().is_empty() {
                return Err(Errno::EFAULT);
            }
            if vma.file.is_some() {
                self.populate_file(state, part, &vma);
            } else {
                self.populate_anonymous(state, part, &vma)?;
            }
        }
        Ok(())
    }

    fn populate_file(&self, state: &mut State, part: Range<u64>, vma: &Vma) {
        let Some((backing, offset)) = &vma.file else { return };
        let (prot, kind) = if vma.shared() { (vma.prot, MapKind::Shared) } else { (vma.prot - Prot::WRITE, MapKind::PrivateRo) };
        let mut at = part.start;
        // Around the private pages that are there already.
        let mut rest = if vma.shared() { Vec::new() } else { state.pages.within(part.clone()) };
        rest.push((part.end..part.end, Page { frame: 0, shown: Shown::No }));
        for (run, page) in rest {
            if at < run.start {
                self.aspace.map_populated(at, run.start - at, backing.file(), offset + (at - part.start), prot, kind);
            }
            at = run.end;
            if page.shown == Shown::No && !run.is_empty() {
                self.map_frames(state, run, page.frame, vma.prot, true);
            }
        }
    }

    fn populate_anonymous(&self, state: &mut State, part: Range<u64>, vma: &Vma) -> SysResult<()> {
        let mut at = part.start;
        while at < part.end {
            let (run, page) = match state.pages.get(at) {
                Some((run, page)) => {
                    let mut page = *page;
                    rangemap::Piece::advance(&mut page, at - run.start);
                    (at..run.end.min(part.end), page)
                }
                None => {
                    let next = state.pages.next(at).map_or(part.end, |(next, _)| next.start.min(part.end));
                    let (frame, len) = self.allocate(next - at)?;
                    (at..at + len, Page { frame, shown: Shown::No })
                }
            };
            at = run.end;
            // Mapped anew, what is there already stays as it is: only the host's page tables are filled.
            self.map_frames(state, run, page.frame, vma.prot, true);
        }
        Ok(())
    }

    /// mincore(2): sets a byte for each page of a range, 1 if it is in memory.
    ///
    /// # Errors
    /// `ENOMEM` when part of it isn't mapped.
    pub fn mincore(&self, addr: u64, present: &mut [u8]) -> SysResult<()> {
        let len = (present.len() as u64).checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
        let state = self.state.lock();
        let parts = state.vmas.within(range.clone());
        if covered(&parts) != len {
            return Err(Errno::ENOMEM);
        }
        present.fill(0);
        let index = |at: u64| usize::try_from((at - range.start) / PAGE_SIZE).unwrap_or(usize::MAX);
        for (part, vma) in parts {
            if let Some((backing, offset)) = &vma.file {
                let bytes = present.get_mut(index(part.start)..index(part.end)).unwrap_or_default();
                backing.file().residency(*offset, bytes)?;
            }
            if vma.shared() {
                continue;
            }
            for (run, page) in state.pages.within(part) {
                let bytes = present.get_mut(index(run.start)..index(run.end)).unwrap_or_default();
                self.arena.file.residency(page.frame, bytes)?;
            }
        }
        Ok(())
    }

    /// msync(2): writes back what was changed through shared mappings, if `wait`; `invalidate`: refuses locked memory.
    ///
    /// # Errors
    /// `ENOMEM`, `EBUSY`, `EINVAL`, `EIO`.
    pub fn msync(&self, addr: u64, len: u64, wait: bool, invalidate: bool) -> SysResult<()> {
        let len = pages_of(len).filter(|len| addr.checked_add(*len).is_some()).ok_or(Errno::ENOMEM)?;
        let range = addr..addr + len;
        let mut files = Vec::new();
        let mut at = range.start;
        let mut holes = false;
        for (part, vma) in self.state.lock().vmas.within(range.clone()) {
            holes |= part.start > at;
            at = part.end;
            if invalidate && vma.flags.contains(VmaFlags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            if let Some((backing, _)) = vma.file.filter(|_| vma.flags.contains(VmaFlags::SHARED) && wait) {
                files.push(backing);
            }
        }
        files.dedup_by(|a, b| std::sync::Arc::ptr_eq(a.file(), b.file()));
        for backing in files {
            backing.file().sync()?;
        }
        if holes || at < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}
