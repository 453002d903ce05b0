//! Faults: bringing pages in, copying on write, growing stacks.

use std::ops::Range;

use abi::{Errno, SysResult, c};
use platform::{MapKind, Prot};
use usermem::{PAGE_SIZE, page_down};

use crate::{MemoryManager, Page, STACK_LIMIT, State, Vma};

/// Anonymous memory comes in pieces of this size: a sparse file costs nothing until it is touched.
const CHUNK: u64 = 2 << 20;
/// Pages that one copy-on-write fault copies.
const COPY_AROUND: u64 = 16 * PAGE_SIZE;

/// What the guest is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSignal {
    pub signo: i32,
    pub code: i32,
}

const MAPERR: FaultSignal = FaultSignal { signo: c::SIGSEGV, code: 1 };
const ACCERR: FaultSignal = FaultSignal { signo: c::SIGSEGV, code: 2 };
const ADRERR: FaultSignal = FaultSignal { signo: c::SIGBUS, code: 2 };

impl MemoryManager {
    /// Handles a page fault of the guest.
    ///
    /// # Errors
    /// The signal that it causes.
    pub fn handle_fault(&self, addr: u64, access: Prot, host_signo: i32) -> Result<(), FaultSignal> {
        let mut state = self.state.lock();
        self.reap(&mut state);
        let page = page_down(addr);
        let (range, vma) = self.find_or_grow(&mut state, page).ok_or(MAPERR)?;
        // x86 can't map without reading; writing implies it.
        let allowed = if vma.prot.is_empty() { Prot::empty() } else { vma.prot | Prot::READ };
        if !allowed.contains(access) || access.is_empty() {
            return Err(ACCERR);
        }
        if host_signo == c::SIGBUS {
            return Err(ADRERR);
        }
        self.bring_in(&mut state, page, &range, &vma, access.contains(Prot::WRITE), true).map(drop).map_err(|_| ADRERR)
    }

    /// The mapping at `page`; a stack below whose end it lies grows.
    pub(crate) fn find_or_grow(&self, state: &mut State, page: u64) -> Option<(Range<u64>, Vma)> {
        if let Some((range, vma)) = state.vmas.get(page) {
            return Some((range, vma.clone()));
        }
        let (range, vma) = state.vmas.next(page).filter(|(_, vma)| vma.grows_down)?;
        let vma = vma.clone();
        let top = range.end;
        if top - page > STACK_LIMIT || !state.vmas.is_free(&(page.checked_sub(PAGE_SIZE)?..range.start)) {
            return None;
        }
        state.vmas.insert(page..top, vma.clone());
        Some((page..top, vma))
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
        if vma.shared {
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
        let Some((file, offset)) = &vma.file else { return };
        let at = offset + (part.start - vma_start);
        let (prot, kind) = if vma.shared { (vma.prot, MapKind::Shared) } else { (vma.prot - Prot::WRITE, MapKind::PrivateRo) };
        self.aspace.map(part.start, part.end - part.start, &file.file, at, prot, kind);
    }

    /// Maps what a mapping's range shows: its file, then its private pages.
    pub(crate) fn map_range(&self, state: &mut State, part: Range<u64>, vma: &Vma) {
        if vma.file.is_some() {
            self.map_file(vma, part.clone(), part.start);
        }
        if vma.shared {
            return;
        }
        for (run, page) in state.pages.within(part) {
            self.map_frames(state, run, page.frame, vma.prot);
        }
    }

    /// Maps frames, read-only where they are shared with another address space.
    fn map_frames(&self, state: &mut State, run: Range<u64>, frame: u64, prot: Prot) {
        let mut at = run.start;
        while at < run.end {
            let offset = frame + (at - run.start);
            let (exclusive, len) = self.arena.exclusive_run(offset, run.end - at);
            let len = len.clamp(PAGE_SIZE, run.end - at);
            let prot = if exclusive { prot } else { prot - Prot::WRITE };
            self.aspace.map(at, len, &self.arena.file, offset, prot, MapKind::Shared);
            at += len;
        }
        state.pages.insert(run, Page { frame, mapped: true });
    }

    fn bring_in_present(
        &self,
        state: &mut State,
        page: u64,
        run: &Range<u64>,
        present: Page,
        range: &Range<u64>,
        vma: &Vma,
        write: bool,
        map: bool,
    ) -> SysResult<u64> {
        let frame = present.frame + (page - run.start);
        let (exclusive, _) = self.arena.exclusive_run(frame, PAGE_SIZE);
        if !write || exclusive {
            if map {
                // A piece around the fault, not the whole of a large heap.
                let start = run.start.max(range.start).max(page.saturating_sub(CHUNK / 2));
                let end = run.end.min(range.end).min(page.saturating_add(CHUNK / 2));
                self.map_frames(state, start..end, present.frame + (start - run.start), vma.prot);
            }
            return Ok(frame);
        }
        // Copy this page and those after it that are shared too.
        let end = run.end.min(range.end).min(page + COPY_AROUND);
        let (_, shared) = self.arena.exclusive_run(frame, end - page);
        let (copy, count) = self.arena.allocate(shared / PAGE_SIZE)?;
        let len = count * PAGE_SIZE;
        let result = (|| {
            let mut buffer = [0; PAGE_SIZE as usize];
            for at in (0..len).step_by(PAGE_SIZE as usize) {
                self.arena.file.segment(frame + at, PAGE_SIZE)?.read(&mut buffer)?;
                self.arena.file.segment(copy + at, PAGE_SIZE)?.write(&buffer)?;
            }
            Ok(())
        })();
        if let Err(errno) = result {
            self.arena.release(copy, len);
            return Err(errno);
        }
        self.drop_pages(state, page..page + len);
        self.map_frames(state, page..page + len, copy, vma.prot);
        Ok(copy)
    }

    /// Private copies of file pages, for a write.
    fn copy_from_file(&self, state: &mut State, page: u64, range: &Range<u64>, vma: &Vma) -> SysResult<u64> {
        let Some((file, offset)) = &vma.file else { return Err(Errno::EFAULT) };
        let next = state.pages.next(page).map_or(range.end, |(next, _)| next.start);
        let end = range.end.min(next).min(page + COPY_AROUND);
        let (frame, count) = self.arena.allocate((end - page) / PAGE_SIZE)?;
        let mut copied = 0;
        let mut buffer = [0; PAGE_SIZE as usize];
        for i in 0..count {
            let at = offset + (page - range.start) + i * PAGE_SIZE;
            let read = file.file.segment(at, PAGE_SIZE).and_then(|segment| segment.read(&mut buffer));
            let written = read.and_then(|()| self.arena.file.segment(frame + i * PAGE_SIZE, PAGE_SIZE)?.write(&buffer));
            if written.is_err() {
                break;
            }
            copied += PAGE_SIZE;
        }
        let len = count * PAGE_SIZE;
        if copied < len {
            self.arena.release(frame + copied, len - copied);
        }
        if copied == 0 {
            return Err(Errno::EFAULT);
        }
        self.map_frames(state, page..page + copied, frame, vma.prot);
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
        let before = state.pages.within(range.start..page).last().map_or(range.start, |(run, _)| run.end);
        let after = state.pages.next(page).map_or(range.end, |(next, _)| next.start);
        let start = before.max(page & !(CHUNK - 1));
        let end = range.end.min(after).min((page & !(CHUNK - 1)) + CHUNK);
        let (frame, count) = self.arena.allocate((end - start) / PAGE_SIZE)?;
        // Fewer frames than wanted must still cover the page.
        let start = if start + count * PAGE_SIZE > page { start } else { page };
        let len = (count * PAGE_SIZE).min(end - start);
        if len < count * PAGE_SIZE {
            self.arena.release(frame + len, count * PAGE_SIZE - len);
        }
        if map {
            self.map_frames(state, start..start + len, frame, vma.prot);
        } else {
            state.pages.insert(start..start + len, Page { frame, mapped: false });
        }
        Ok(frame + (page - start))
    }
}
