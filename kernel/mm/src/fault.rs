//! Faults: bringing pages in, copying on write, growing stacks.

use std::ops::Range;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult, c};
use platform::{MapKind, Prot};
use rangemap::Piece;
use usermem::{PAGE_SIZE, budget, page_down};

use crate::vma::{GUARD_GAP, Vma, VmaFlags};
use crate::{MemoryManager, Page, Shown, State};

/// Anonymous memory comes in pieces of this size: a sparse file costs nothing until it is touched.
const CHUNK: u64 = 2 << 20;
/// Pages that one copy-on-write fault copies.
const COPY_AROUND: u64 = 16 * PAGE_SIZE;
/// How much further than asked a stack grows, if it may.
const GROW_AHEAD: u64 = 7 * PAGE_SIZE;

/// Why a fault can't be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest is to get this signal.
    Signal { signo: i32, code: i32 },
    /// There is no memory left: somebody has to go.
    OutOfMemory,
}

const MAPERR: Fault = Fault::Signal { signo: c::SIGSEGV, code: 1 };
const ACCERR: Fault = Fault::Signal { signo: c::SIGSEGV, code: 2 };
const ADRERR: Fault = Fault::Signal { signo: c::SIGBUS, code: 2 };

impl MemoryManager {
    /// Handles a page fault of the guest.
    ///
    /// # Errors
    /// What it comes to if it can't be.
    pub fn handle_fault(&self, addr: u64, access: Prot, host_signo: i32) -> Result<(), Fault> {
        let mut state = self.state.lock();
        self.reap(&mut state);
        let page = page_down(addr);
        let (range, vma) = self.find_or_grow(&mut state, page).ok_or(MAPERR)?;
        if vma.flags.contains(VmaFlags::GUARD) {
            return Err(MAPERR);
        }
        // x86 can't map without reading; writing implies it.
        let allowed = if vma.prot.is_empty() { Prot::empty() } else { vma.prot | Prot::READ };
        if !allowed.contains(access) || access.is_empty() {
            return Err(ACCERR);
        }
        if host_signo == c::SIGBUS {
            // A file's end; where our own memory can't be had, the host has none.
            let ours = !vma.shared() && state.pages.get(page).is_some();
            return Err(if ours { Fault::OutOfMemory } else { ADRERR });
        }
        match self.bring_in(&mut state, page, &range, &vma, access.contains(Prot::WRITE), true) {
            Ok(_) => Ok(()),
            Err(Errno::ENOMEM) => Err(Fault::OutOfMemory),
            Err(_) => Err(ADRERR),
        }
    }

    /// The mapping at `page`; a stack below whose end it lies grows.
    pub(crate) fn find_or_grow(&self, state: &mut State, page: u64) -> Option<(Range<u64>, Vma)> {
        if let Some((range, vma)) = state.vmas.get(page) {
            return Some((range, vma.clone()));
        }
        let (range, vma) = state.vmas.next(page).filter(|(_, vma)| vma.flags.contains(VmaFlags::GROWS_DOWN))?;
        let vma = vma.clone();
        // Away from what is below, unless nobody can touch that, or it is a stack itself.
        let lowest = match state.vmas.before(page) {
            Some((below, other)) if !other.access().is_empty() && !other.flags.contains(VmaFlags::GROWS_DOWN) => {
                below.end.checked_add(GUARD_GAP)?
            }
            Some((below, _)) => below.end,
            None => self.aspace.user_range().start,
        };
        let lowest = lowest.max(range.end.saturating_sub(self.stack_limit.load(Ordering::Relaxed)));
        if page < lowest {
            return None;
        }
        let start = page_down(page.saturating_sub(GROW_AHEAD).max(lowest).saturating_add(PAGE_SIZE - 1)).min(page);
        let grown = start..range.end;
        state.vmas.insert(grown.clone(), vma.clone());
        state.peak = state.peak.max(state.vmas.totals.all);
        Some((grown, vma))
    }

    /// Makes the page at `page` present, for writing if `write`, and maps it (`map`) with what is around it. Returns where its bytes are
    /// when they are private.
    ///
    /// # Errors
    /// `ENOMEM`; `EFAULT` when a file ends before it.
    pub(crate) fn bring_in(
        &self,
        state: &mut State,
        page: u64,
        range: &Range<u64>,
        vma: &Vma,
        write: bool,
        map: bool,
    ) -> SysResult<Option<u64>> {
        if vma.shared() {
            if map {
                self.map_file(vma, range.clone(), range.start);
            }
            return Ok(None);
        }
        if let Some((run, present)) = state.pages.get(page) {
            let present = *present;
            return self.bring_in_present(state, page, &run, present, range, vma, write, map).map(Some);
        }
        if vma.file.is_some() {
            if write {
                return self.copy_from_file(state, page, range, vma).map(Some);
            }
            if map {
                self.map_range(state, range.clone(), vma);
            }
            return Ok(None);
        }
        self.fill_anonymous(state, page, range, vma, map).map(Some)
    }

    /// The whole of a file mapping, where there are no private pages (over those it would be wrong).
    fn map_file(&self, vma: &Vma, part: Range<u64>, vma_start: u64) {
        let Some((backing, offset)) = &vma.file else { return };
        let at = offset + (part.start - vma_start);
        let (prot, kind) = if vma.shared() { (vma.prot, MapKind::Shared) } else { (vma.prot - Prot::WRITE, MapKind::PrivateRo) };
        self.aspace.map(part.start, part.end - part.start, backing.file(), at, prot, kind);
    }

    /// Maps what a mapping's range shows: its file, then its private pages. `vma` begins at `part`.
    pub(crate) fn map_range(&self, state: &mut State, part: Range<u64>, vma: &Vma) {
        if vma.flags.contains(VmaFlags::GUARD) {
            return;
        }
        if vma.file.is_some() {
            self.map_file(vma, part.clone(), part.start);
        }
        if vma.shared() {
            return;
        }
        for (run, page) in state.pages.within(part) {
            self.map_frames(state, run, page.frame, vma.prot, false);
        }
    }

    /// Maps frames, read-only where they are shared with another address space. `populate`: the host is to fill its page tables at once.
    pub(crate) fn map_frames(&self, state: &mut State, run: Range<u64>, frame: u64, prot: Prot, populate: bool) {
        let mut at = run.start;
        while at < run.end {
            let offset = frame + (at - run.start);
            let (exclusive, len) = self.arena.exclusive_run(offset, run.end - at);
            let len = len.clamp(PAGE_SIZE, run.end - at);
            let prot = if exclusive { prot } else { prot - Prot::WRITE };
            let shown = if prot.contains(Prot::WRITE) { Shown::Writable } else { Shown::ReadOnly };
            if populate {
                self.aspace.map_populated(at, len, &self.arena.file, offset, prot, MapKind::Shared);
            } else {
                self.aspace.map(at, len, &self.arena.file, offset, prot, MapKind::Shared);
            }
            state.pages.insert(at..at + len, Page { frame: offset, shown });
            at += len;
        }
    }

    fn bring_in_present(
        &self,
        state: &mut State,
        page: u64,
        run: &Range<u64>,
        mut present: Page,
        range: &Range<u64>,
        vma: &Vma,
        write: bool,
        map: bool,
    ) -> SysResult<u64> {
        let frame = present.frame + (page - run.start);
        if present.shown == Shown::Writable && !map {
            return Ok(frame);
        }
        let exclusive = !write || present.shown == Shown::Writable || self.arena.exclusive_run(frame, PAGE_SIZE).0;
        if exclusive {
            if map {
                // A piece around the fault, not the whole of a large heap.
                let start = run.start.max(range.start).max(page.saturating_sub(CHUNK / 2));
                let end = run.end.min(range.end).min(page.saturating_add(CHUNK / 2));
                present.advance(start - run.start);
                if write && present.shown == Shown::ReadOnly && vma.prot.contains(Prot::WRITE) {
                    // What was copied on write is this address space's alone again: the pages stay in the guest's tables.
                    self.show_frames(state, start..end, present, vma.prot);
                } else {
                    self.map_frames(state, start..end, present.frame, vma.prot, false);
                }
            }
            return Ok(frame);
        }
        // Copy this page and those after it that are shared too.
        let end = run.end.min(range.end).min(page + COPY_AROUND);
        let (_, shared) = self.arena.exclusive_run(frame, end - page);
        let (copy, len) = self.allocate(shared.clamp(PAGE_SIZE, end - page))?;
        let copied = self.copy_frames(copy, |at, len| self.arena.file.segment(frame + at, len), len);
        if copied < len {
            self.arena.release(copy, len);
            return Err(Errno::EFAULT);
        }
        self.drop_pages(state, page..page + len);
        self.map_frames(state, page..page + len, copy, vma.prot, false);
        Ok(copy)
    }

    /// Frames in a row, fewer than asked for if need be: offset and bytes.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(crate) fn allocate(&self, len: u64) -> SysResult<(u64, u64)> {
        let want = if budget::is_tight() { len.min(budget::SMALL_GRANT) } else { len };
        let got = self.arena.allocate(want / PAGE_SIZE).or_else(|errno| {
            // The limit is met, or nearly.
            if want <= budget::SMALL_GRANT { Err(errno) } else { self.arena.allocate(budget::SMALL_GRANT / PAGE_SIZE) }
        });
        got.map(|(frame, count)| (frame, count * PAGE_SIZE))
    }

    /// Copies `len` bytes from what `source` gives to frames; returns how many, in whole pages.
    pub(crate) fn copy_frames(&self, frame: u64, source: impl Fn(u64, u64) -> SysResult<usermem::Segment>, len: u64) -> u64 {
        let mut done = 0;
        while done < len {
            // All at once, unless a page is missing somewhere: then as far as it goes.
            let whole =
                source(done, len - done).and_then(|src| self.arena.file.copy_from(frame + done, &src).map(|()| src.len() as u64));
            let copied = whole.or_else(|_| {
                let src = source(done, PAGE_SIZE)?;
                self.arena.file.copy_from(frame + done, &src).map(|()| src.len() as u64)
            });
            match copied {
                Ok(copied) if copied >= PAGE_SIZE => done += copied,
                _ => break,
            }
        }
        done
    }

    /// Private copies of file pages, for a write.
    pub(crate) fn copy_from_file(&self, state: &mut State, page: u64, range: &Range<u64>, vma: &Vma) -> SysResult<u64> {
        let Some((backing, offset)) = &vma.file else { return Err(Errno::EFAULT) };
        let next = state.pages.next(page).map_or(range.end, |(next, _)| next.start);
        let end = range.end.min(next).min(page + COPY_AROUND);
        let (frame, len) = self.allocate(end - page)?;
        let offset = offset + (page - range.start);
        let copied = self.copy_frames(frame, |at, len| backing.file().segment(offset + at, len), len);
        if copied < len {
            self.arena.release(frame + copied, len - copied);
        }
        if copied == 0 {
            return Err(Errno::EFAULT);
        }
        self.map_frames(state, page..page + copied, frame, vma.prot, false);
        Ok(frame)
    }

    /// Zeroed frames around `page`, where there are none yet.
    pub(crate) fn fill_anonymous(
        &self,
        state: &mut State,
        page: u64,
        range: &Range<u64>,
        vma: &Vma,
        map: bool,
    ) -> SysResult<u64> {
        let chunk = if budget::is_tight() { budget::SMALL_GRANT } else { CHUNK };
        let from = page & !(chunk - 1);
        let before = state.pages.before(page).map_or(range.start, |(run, _)| run.end.max(range.start));
        let after = state.pages.next(page).map_or(range.end, |(next, _)| next.start.min(range.end));
        let start = before.max(from);
        let end = after.min(from + chunk);
        let (frame, len) = self.allocate(end - start)?;
        // Fewer frames than wanted must still cover the page.
        let start = if start + len > page { start } else { page };
        let fits = len.min(end - start);
        if fits < len {
            self.arena.release(frame + fits, len - fits);
        }
        if map {
            self.map_frames(state, start..start + fits, frame, vma.prot, false);
        } else {
            state.pages.insert(start..start + fits, Page { frame, shown: Shown::No });
        }
        Ok(frame + (page - start))
    }
}
