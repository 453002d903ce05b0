//! mremap(2), remap_file_pages(2).

use std::ops::Range;

use abi::{Errno, SysResult, c};
use platform::Prot;
use rangemap::Piece;
use usermem::PAGE_SIZE;

use crate::map::TASK_SIZE;
use crate::vma::{Vma, VmaFlags};
use crate::{Limits, MapRequest, MemoryManager, MmapFlags, Page, Shown, State, pages_of};

const MREMAP_DONTUNMAP: i32 = 4;

/// What mremap(2) is asked for.
struct Move {
    old: Range<u64>,
    new_len: u64,
    /// Where to, if that is given.
    fixed: Option<u64>,
    hint: u64,
    /// The old mapping stays, empty.
    keep: bool,
}

impl MemoryManager {
    /// Resizes or moves a mapping; returns where it is then.
    ///
    /// # Errors
    /// As mremap(2): `EINVAL`, `EFAULT`, `ENOMEM`, `EAGAIN`; `EPERM` when sealed.
    pub fn mremap(&self, old: u64, old_len: u64, new_len: u64, flags: i32, new_addr: u64, limits: &Limits) -> SysResult<u64> {
        let has = |flag: i32| flags & flag != 0;
        let (may_move, fixed, keep) = (has(c::MREMAP_MAYMOVE), has(c::MREMAP_FIXED), has(MREMAP_DONTUNMAP));
        if flags & !(c::MREMAP_MAYMOVE | c::MREMAP_FIXED | MREMAP_DONTUNMAP) != 0
            || (fixed || keep) && !may_move
            || !old.is_multiple_of(PAGE_SIZE)
        {
            return Err(Errno::EINVAL);
        }
        let old_len = pages_of(old_len).ok_or(Errno::EINVAL)?;
        let new_len = pages_of(new_len).filter(|len| *len > 0 && *len <= TASK_SIZE).ok_or(Errno::EINVAL)?;
        if keep && old_len != new_len {
            return Err(Errno::EINVAL);
        }
        old.checked_add(old_len).filter(|end| *end <= TASK_SIZE).ok_or(Errno::EINVAL)?;
        let old_range = self.user(old, old_len).ok_or(Errno::EFAULT)?;
        if fixed {
            let to = new_addr.checked_add(new_len).filter(|end| *end <= TASK_SIZE && new_addr.is_multiple_of(PAGE_SIZE));
            let end = to.ok_or(Errno::EINVAL)?;
            if new_addr < old_range.end && old_range.start < end {
                return Err(Errno::EINVAL);
            }
        }
        let mut state = self.state.lock();
        self.reap(&mut state);
        let (whole, vma) = state.vmas.get(old).map(|(range, vma)| (range, vma.clone())).ok_or(Errno::EFAULT)?;
        if vma.flags.contains(VmaFlags::SEALED) {
            return Err(Errno::EPERM);
        }
        if !fixed && !keep && new_len <= old_len {
            if new_len < old_len {
                Self::check_unsealed(&state, &(old + new_len..old_range.end))?;
                self.clear(&mut state, old + new_len..old_range.end);
            }
            return Ok(old);
        }
        // Nothing of a private mapping can be had a second time.
        if old_len == 0 && !vma.shared() {
            return Err(Errno::EINVAL);
        }
        if old_range.end > whole.end {
            return Err(Errno::EFAULT);
        }
        let mut moved = vma;
        moved.advance(old - whole.start);
        self.may_grow(&state, &moved, old_len, new_len, keep, limits)?;
        let at_end = whole.end == old_range.end && old_len > 0;
        if !fixed && !keep && at_end && self.grow_here(&mut state, &old_range, new_len, &moved) {
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let fixed = fixed.then_some(new_addr);
        self.relocate(&mut state, &Move { old: old_range, new_len, fixed, hint: new_addr, keep }, moved)
    }

    fn may_grow(&self, state: &State, vma: &Vma, old_len: u64, new_len: u64, keep: bool, limits: &Limits) -> SysResult<()> {
        if let Some((_, offset)) = &vma.file {
            offset.checked_add(new_len).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EINVAL)?;
        }
        let more = if keep { new_len } else { new_len.saturating_sub(old_len) };
        let totals = &state.vmas.totals;
        let locked = vma.flags.contains(VmaFlags::LOCKED) && !limits.may_lock;
        if locked && totals.locked.saturating_add(more) > limits.locked {
            return Err(Errno::EAGAIN);
        }
        let data = vma.is_data() && totals.data.saturating_add(more) > limits.data;
        if data || totals.all.saturating_add(more) > limits.address_space {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Makes a mapping longer where it is, if there is room.
    fn grow_here(&self, state: &mut State, old: &Range<u64>, new_len: u64, vma: &Vma) -> bool {
        let Some(grown) = self.user(old.start, new_len) else { return false };
        let tail = old.end..grown.end;
        if !state.vmas.has_room(&tail) {
            return false;
        }
        state.vmas.insert(grown, vma.clone());
        state.peak = state.peak.max(state.vmas.totals.all);
        if vma.flags.contains(VmaFlags::LOCKED) && !vma.flags.contains(VmaFlags::ON_FAULT) {
            let _ = self.populate(state, tail);
        } else if vma.file.is_some() {
            let mut rest = vma.clone();
            rest.advance(old.end - old.start);
            self.map_range(state, tail, &rest);
        }
        true
    }

    fn relocate(&self, state: &mut State, what: &Move, vma: Vma) -> SysResult<u64> {
        let old_len = what.old.end - what.old.start;
        let to = match what.fixed {
            Some(at) => {
                let to = self.user(at, what.new_len).ok_or(Errno::ENOMEM)?;
                Self::check_unsealed(state, &to)?;
                self.clear(state, to.clone());
                to
            }
            None => self.place(state, what.hint, what.new_len, MmapFlags::empty())?,
        };
        let taken = what.old.start..what.old.start + old_len.min(what.new_len);
        self.unpatch(state, what.old.clone(), true);
        let pages = state.pages.remove(taken.clone());
        if old_len == 0 {
            // The same memory a second time.
        } else if what.keep {
            self.aspace.unmap(what.old.start, old_len);
            let mut left = vma.clone();
            left.flags.remove(VmaFlags::LOCKED | VmaFlags::ON_FAULT);
            state.vmas.insert(what.old.clone(), left);
        } else {
            self.clear(state, what.old.clone());
        }
        state.vmas.insert(to.clone(), vma.clone());
        state.peak = state.peak.max(state.vmas.totals.all);
        for (run, page) in pages {
            let at = to.start + (run.start - taken.start);
            state.pages.insert(at..at + (run.end - run.start), Page { shown: Shown::No, ..page });
        }
        if !vma.access().is_empty() {
            self.map_range(state, to.clone(), &vma);
        }
        Ok(to.start)
    }

    /// shmdt(2): unmaps what was attached at `addr`, if it is of a device `dev`; returns its inode number.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn detach(&self, addr: u64, dev: u64) -> SysResult<u64> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        self.reap(&mut state);
        // The first page may be gone: what tells is where the segment's first page would be.
        let at_start = |range: &Range<u64>, offset: u64| range.start.checked_sub(addr) == Some(offset);
        let mut found = None;
        let mut parts = Vec::new();
        for (range, vma) in state.vmas.meeting(addr..u64::MAX) {
            let Some((backing, offset)) =
                vma.file.as_ref().filter(|(backing, _)| backing.mapped.dev == dev && backing.mapped.hook.is_some())
            else {
                continue;
            };
            if !at_start(&range, *offset) || found.as_ref().is_some_and(|first| !std::sync::Arc::ptr_eq(first, backing)) {
                continue;
            }
            found.get_or_insert_with(|| backing.clone());
            parts.push(range);
        }
        let found = found.ok_or(Errno::EINVAL)?;
        for part in parts {
            self.clear(&mut state, part);
        }
        Ok(found.mapped.ino)
    }

    /// remap_file_pages(2): shows other pages of a shared mapping's file in part of it.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn remap_file_pages(&self, addr: u64, len: u64, page: u64, limits: Limits) -> SysResult<()> {
        let start = usermem::page_down(addr);
        let len = usermem::page_down(len);
        let offset = page.checked_mul(PAGE_SIZE).ok_or(Errno::EINVAL)?;
        let range = self.user(start, len).filter(|range| !range.is_empty()).ok_or(Errno::EINVAL)?;
        offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EINVAL)?;
        let state = self.state.lock();
        let (_, vma) = state.vmas.get(range.start).filter(|(_, vma)| vma.shared()).ok_or(Errno::EINVAL)?;
        let (backing, _) = vma.file.as_ref().ok_or(Errno::EINVAL)?;
        // All of it must show one file in one way.
        let mut at = range.start;
        for (part, other) in state.vmas.meeting(range.clone()) {
            let same = other.file.as_ref().is_some_and(|(file, _)| std::sync::Arc::ptr_eq(file.file(), backing.file()));
            if part.start > at || !same || other.flags != vma.flags || other.prot != vma.prot {
                return Err(Errno::EINVAL);
            }
            at = part.end;
        }
        if at < range.end {
            return Err(Errno::EINVAL);
        }
        let mut flags = MmapFlags::SHARED | MmapFlags::FIXED | MmapFlags::POPULATE;
        flags.set(MmapFlags::LOCKED, vma.flags.contains(VmaFlags::LOCKED));
        let request = MapRequest {
            addr: range.start,
            len,
            prot: vma.prot & (Prot::READ | Prot::WRITE | Prot::EXEC),
            deny: vma.deny,
            flags,
            file: Some((backing.mapped.clone(), offset)),
            name: vma.name,
            limits,
        };
        drop(state);
        self.mmap(request).map(drop)
    }
}
