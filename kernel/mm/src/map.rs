//! mmap(2) and its family.

use std::ops::Range;

use abi::{Errno, SysResult, c};
use platform::Prot;
use usermem::{HostFile, PAGE_SIZE};

use crate::{MAX_MAPS, MappedFile, MemoryManager, State, Vma, pages_of};

/// End of user addresses on Linux (`TASK_SIZE`).
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// Anonymous mappings up to this size are mapped at once: the operation rides on the call's own answer.
const EAGER: u64 = 2 << 20;

bitflags::bitflags! {
    /// mmap(2)'s flags as far as they matter here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MmapFlags: u32 {
        const SHARED = 1;
        const FIXED = 2;
        const NO_REPLACE = 4;
        const GROWS_DOWN = 8;
    }
}

/// What mmap(2) is asked for.
pub struct MapRequest {
    pub addr: u64,
    pub len: u64,
    pub prot: Prot,
    pub flags: MmapFlags,
    pub file: Option<(MappedFile, u64)>,
    /// For /proc/pid/maps.
    pub name: &'static str,
}

impl MemoryManager {
    fn user(&self, addr: u64, len: u64) -> Option<Range<u64>> {
        let end = addr.checked_add(len)?;
        let user = self.aspace.user_range();
        (addr >= user.start && end <= user.end).then_some(addr..end)
    }

    /// Maps memory; returns where.
    ///
    /// # Errors
    /// As mmap(2): `EINVAL`, `ENOMEM`, `EEXIST`.
    pub fn mmap(&self, request: MapRequest) -> SysResult<u64> {
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = pages_of(request.len).filter(|len| *len > 0).ok_or(Errno::ENOMEM)?;
        let mut file = request.file;
        if let Some((_, offset)) = &file {
            let end = offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
            if end > i64::MAX.cast_unsigned() {
                return Err(Errno::EOVERFLOW);
            }
        } else if request.flags.contains(MmapFlags::SHARED) {
            let memory = HostFile::memory("shared", len)?;
            let ino = memory.id();
            file = Some((MappedFile { file: memory, path: "/dev/zero (deleted)".into(), dev: 1, ino }, 0));
        }
        let mut state = self.state.lock();
        self.reap(&mut state);
        if state.vmas.len() >= MAX_MAPS {
            return Err(Errno::ENOMEM);
        }
        let range = self.place(&state, request.addr, len, request.flags)?;
        if !state.vmas.is_free(&range) {
            self.clear(&mut state, range.clone());
        }
        let vma = Vma {
            prot: request.prot,
            shared: request.flags.contains(MmapFlags::SHARED),
            grows_down: request.flags.contains(MmapFlags::GROWS_DOWN),
            file,
            name: request.name,
        };
        state.vmas.insert(range.clone(), vma.clone());
        if vma.file.is_some() {
            if !vma.prot.is_empty() {
                self.map_range(&mut state, range.clone(), &vma);
            }
        } else if len <= EAGER && vma.prot.contains(Prot::WRITE) && !vma.grows_down {
            self.fill_anonymous(&mut state, range.start, &range, &vma, true)?;
        }
        Ok(range.start)
    }

    fn place(&self, state: &State, addr: u64, len: u64, flags: MmapFlags) -> SysResult<Range<u64>> {
        if flags.intersects(MmapFlags::FIXED | MmapFlags::NO_REPLACE) {
            if !addr.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::EINVAL);
            }
            let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
            if flags.contains(MmapFlags::NO_REPLACE) && !state.vmas.is_free(&range) {
                return Err(Errno::EEXIST);
            }
            return Ok(range);
        }
        let hint = usermem::page_down(addr);
        if hint != 0
            && let Some(range) = self.user(hint, len)
            && state.vmas.is_free(&range)
        {
            return Ok(range);
        }
        let user = self.aspace.user_range();
        // The top is left to the stack.
        let top = user.end - (1 << 32);
        let start = state.vmas.gap_below(len, user.start..top).ok_or(Errno::ENOMEM)?;
        Ok(start..start + len)
    }

    /// Unmaps a range that may hold anything.
    fn clear(&self, state: &mut State, range: Range<u64>) {
        self.drop_pages(state, range.clone());
        state.vmas.remove(range.clone());
        self.aspace.unmap(range.start, range.end - range.start);
    }

    /// Unmaps memory.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn munmap(&self, addr: u64, len: u64) -> SysResult<()> {
        let len = pages_of(len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let end = addr.checked_add(len).filter(|end| *end <= TASK_SIZE).ok_or(Errno::EINVAL)?;
        // Where guests can't map there is nothing to unmap.
        let user = self.aspace.user_range();
        let range = addr.max(user.start)..end.min(user.end);
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        self.reap(&mut state);
        if !state.vmas.is_free(&range) {
            self.clear(&mut state, range);
        }
        Ok(())
    }

    /// Changes protection.
    ///
    /// # Errors
    /// `EINVAL`; `ENOMEM` when part of the range isn't mapped; `EACCES` when the file does not allow it.
    pub fn mprotect(&self, addr: u64, len: u64, prot: Prot) -> SysResult<()> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = pages_of(len).ok_or(Errno::ENOMEM)?;
        if len == 0 {
            return Ok(());
        }
        let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        let parts = state.vmas.within(range.clone());
        let mut at = range.start;
        for (part, mut vma) in parts {
            if part.start != at {
                return Err(Errno::ENOMEM);
            }
            at = part.end;
            if vma.shared && prot.contains(Prot::WRITE) && vma.file.as_ref().is_some_and(|(file, _)| !file.file.writable()) {
                return Err(Errno::EACCES);
            }
            let was_mapped = vma.file.is_some() && !vma.prot.is_empty();
            vma.prot = prot;
            state.vmas.insert(part.clone(), vma.clone());
            self.protect_part(&mut state, part, &vma, was_mapped);
        }
        if at == range.end { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Shows a new protection in the guest.
    fn protect_part(&self, state: &mut State, part: Range<u64>, vma: &Vma, was_mapped: bool) {
        let file_prot = if vma.shared { vma.prot } else { vma.prot - Prot::WRITE };
        let protect = |range: Range<u64>, prot| self.aspace.protect(range.start, range.end - range.start, prot);
        if vma.file.is_some() && !was_mapped {
            self.map_range(state, part, vma);
            return;
        }
        let mut at = part.start;
        for (run, page) in state.pages.within(part.clone()) {
            if at < run.start && was_mapped {
                protect(at..run.start, file_prot);
            }
            at = run.end;
            if !page.mapped {
                continue;
            }
            let mut from = run.start;
            while from < run.end {
                let (exclusive, len) = self.arena.exclusive_run(page.frame + (from - run.start), run.end - from);
                let to = from + len.clamp(PAGE_SIZE, run.end - from);
                protect(from..to, if exclusive { vma.prot } else { vma.prot - Prot::WRITE });
                from = to;
            }
        }
        if at < part.end && was_mapped {
            protect(at..part.end, file_prot);
        }
    }

    /// Resizes or moves a mapping; returns where it is then.
    ///
    /// # Errors
    /// As mremap(2): `EINVAL`, `EFAULT`, `ENOMEM`.
    pub fn mremap(&self, old: u64, old_len: u64, new_len: u64, flags: i32, new_addr: u64) -> SysResult<u64> {
        if flags & !(c::MREMAP_MAYMOVE | c::MREMAP_FIXED) != 0
            || flags & c::MREMAP_FIXED != 0 && flags & c::MREMAP_MAYMOVE == 0
            || !old.is_multiple_of(PAGE_SIZE)
        {
            return Err(Errno::EINVAL);
        }
        let old_len = pages_of(old_len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let new_len = pages_of(new_len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let old_range = self.user(old, old_len).ok_or(Errno::EFAULT)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        let (whole, vma) = state.vmas.get(old).map(|(range, vma)| (range, vma.clone())).ok_or(Errno::EFAULT)?;
        if whole.end < old_range.end {
            return Err(Errno::EFAULT);
        }
        let mut moved = vma;
        rangemap::Piece::advance(&mut moved, old - whole.start);
        let fixed = flags & c::MREMAP_FIXED != 0;
        if !fixed && new_len <= old_len {
            if new_len < old_len {
                self.clear(&mut state, old + new_len..old + old_len);
            }
            return Ok(old);
        }
        if !fixed
            && let Some(grown) = self.user(old, new_len)
            && whole.end == old_range.end
            && state.vmas.is_free(&(old_range.end..grown.end))
        {
            state.vmas.insert(grown.clone(), moved.clone());
            if moved.file.is_some() {
                let mut tail = moved;
                rangemap::Piece::advance(&mut tail, old_len);
                self.map_range(&mut state, old_range.end..grown.end, &tail);
            }
            return Ok(old);
        }
        if flags & c::MREMAP_MAYMOVE == 0 {
            return Err(Errno::ENOMEM);
        }
        let to = if fixed {
            let to = self.user(new_addr, new_len).filter(|_| new_addr.is_multiple_of(PAGE_SIZE)).ok_or(Errno::EINVAL)?;
            if to.start < old_range.end && old_range.start < to.end {
                return Err(Errno::EINVAL);
            }
            self.clear(&mut state, to.clone());
            to
        } else {
            self.place(&state, 0, new_len, MmapFlags::empty())?
        };
        let keep = old_len.min(new_len);
        self.unpatch(&mut state, old_range.clone());
        let pages = state.pages.remove(old..old + keep);
        self.clear(&mut state, old_range);
        state.vmas.insert(to.clone(), moved.clone());
        for (run, mut page) in pages {
            page.mapped = false;
            state.pages.insert(to.start + (run.start - old)..to.start + (run.end - old), page);
        }
        if !moved.prot.is_empty() {
            self.map_range(&mut state, to.clone(), &moved);
        }
        Ok(to.start)
    }

    /// Takes advice. Only `MADV_DONTNEED` changes anything; other known kinds are hints that need nothing done.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM`.
    pub fn madvise(&self, addr: u64, len: u64, advice: i32) -> SysResult<()> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = pages_of(len).ok_or(Errno::EINVAL)?;
        let known = [
            c::MADV_NORMAL,
            c::MADV_RANDOM,
            c::MADV_SEQUENTIAL,
            c::MADV_WILLNEED,
            c::MADV_DONTNEED,
            c::MADV_FREE,
            c::MADV_HUGEPAGE,
            c::MADV_NOHUGEPAGE,
            c::MADV_DONTDUMP,
            c::MADV_DODUMP,
            c::MADV_COLD,
        ];
        if !known.contains(&advice) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        let parts = state.vmas.within(range.clone());
        let covered: u64 = parts.iter().map(|(part, _)| part.end - part.start).sum();
        if advice == c::MADV_DONTNEED {
            for (part, vma) in &parts {
                if vma.shared {
                    continue;
                }
                self.drop_pages(&mut state, part.clone());
                self.aspace.unmap(part.start, part.end - part.start);
                if vma.file.is_some() && !vma.prot.is_empty() {
                    self.map_range(&mut state, part.clone(), vma);
                }
            }
        }
        if covered == len { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Checks that a range is mapped, for calls that need nothing else (msync(2), mlock(2)).
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL`.
    pub fn check_mapped(&self, addr: u64, len: u64) -> SysResult<()> {
        let len = pages_of(len).ok_or(Errno::EINVAL)?;
        let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
        let covered: u64 = self.state.lock().vmas.within(range).iter().map(|(part, _)| part.end - part.start).sum();
        if covered == len { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Sets where the heap starts, after loading an image.
    pub fn set_brk_start(&self, start: u64) {
        self.state.lock().brk = start..start;
    }

    /// Moves the end of the heap; returns where it is then, as brk(2) does.
    pub fn brk(&self, end: u64) -> u64 {
        let brk = self.state.lock().brk.clone();
        if end < brk.start || brk.start == 0 {
            return brk.end;
        }
        let (Some(old_top), Some(new_top)) = (pages_of(brk.end), pages_of(end)) else { return brk.end };
        let done = if new_top > old_top {
            let request = MapRequest {
                addr: old_top,
                len: new_top - old_top,
                prot: Prot::READ | Prot::WRITE,
                flags: MmapFlags::NO_REPLACE,
                file: None,
                name: "[heap]",
            };
            self.mmap(request).map(drop)
        } else if new_top < old_top {
            self.munmap(new_top, old_top - new_top)
        } else {
            Ok(())
        };
        match done {
            Ok(()) => {
                self.state.lock().brk.end = end;
                end
            }
            Err(_) => brk.end,
        }
    }
}
