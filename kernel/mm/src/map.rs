//! mmap(2), munmap(2), brk(2).

use std::ops::Range;

use abi::{Errno, SysResult};
use platform::Prot;
use usermem::{HostFile, PAGE_SIZE};

use crate::vma::{Backing, Vma, VmaFlags};
use crate::{MAX_MAPS, MappedFile, MemoryManager, Policy, State, pages_of};

/// End of user addresses on Linux (`TASK_SIZE`).
pub(crate) const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// Where `MAP_32BIT` maps.
const LOW: Range<u64> = 0x4000_0000..0x8000_0000;

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
        const LOCKED = 16;
        const POPULATE = 32;
        const NO_RESERVE = 64;
        /// `MAP_32BIT`
        const LOW = 128;
    }
}

/// Resource limits of who maps (getrlimit(2)), in bytes; none by default.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// RLIMIT_AS
    pub address_space: u64,
    /// RLIMIT_DATA
    pub data: u64,
    /// RLIMIT_MEMLOCK
    pub locked: u64,
    /// CAP_IPC_LOCK: RLIMIT_MEMLOCK doesn't count.
    pub may_lock: bool,
    /// More than this is never mapped writable at once: memory and swap of the machine (`vm.overcommit_memory` 0).
    pub sane: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { address_space: u64::MAX, data: u64::MAX, locked: u64::MAX, may_lock: true, sane: u64::MAX }
    }
}

/// What mmap(2) is asked for.
#[derive(Default)]
pub struct MapRequest {
    pub addr: u64,
    pub len: u64,
    pub prot: Prot,
    /// What mprotect(2) must not give later.
    pub deny: Prot,
    pub flags: MmapFlags,
    pub file: Option<(MappedFile, u64)>,
    /// For /proc/pid/maps.
    pub name: &'static str,
    pub limits: Limits,
}

impl MemoryManager {
    pub(crate) fn user(&self, addr: u64, len: u64) -> Option<Range<u64>> {
        let end = addr.checked_add(len)?;
        let user = self.aspace.user_range();
        (addr >= user.start && end <= user.end).then_some(addr..end)
    }

    /// Maps memory; returns where.
    ///
    /// # Errors
    /// As mmap(2): `EINVAL`, `ENOMEM`, `EEXIST`, `EOVERFLOW`, `EPERM`, `EAGAIN`.
    pub fn mmap(&self, request: MapRequest) -> SysResult<u64> {
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = pages_of(request.len).filter(|len| *len > 0 && *len <= TASK_SIZE).ok_or(Errno::ENOMEM)?;
        let flags = request.flags;
        let shared = flags.contains(MmapFlags::SHARED);
        if flags.contains(MmapFlags::GROWS_DOWN) && (shared || request.file.is_some()) {
            return Err(Errno::EINVAL);
        }
        let file = self.backing(&request, len)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        if state.vmas.len() >= MAX_MAPS {
            return Err(Errno::ENOMEM);
        }
        let range = self.place(&mut state, request.addr, len, flags)?;
        let mut vma_flags = state.future;
        vma_flags.set(VmaFlags::SHARED, shared);
        vma_flags.set(VmaFlags::GROWS_DOWN, flags.contains(MmapFlags::GROWS_DOWN));
        vma_flags.set(VmaFlags::NO_RESERVE, flags.contains(MmapFlags::NO_RESERVE));
        if flags.contains(MmapFlags::LOCKED) {
            vma_flags.insert(VmaFlags::LOCKED);
        }
        let (prot, deny) = (request.prot, request.deny);
        let vma = Vma { prot, deny, flags: vma_flags, file, name: request.name, policy: Policy::default() };
        Self::may_expand(&state, &range, &vma, &request.limits)?;
        if vma.is_data() && !vma.flags.contains(VmaFlags::NO_RESERVE) && len > request.limits.sane {
            return Err(Errno::ENOMEM);
        }
        if !state.vmas.is_free(&range) {
            Self::check_unsealed(&state, &range)?;
            self.clear(&mut state, range.clone());
        }
        state.vmas.insert(range.clone(), vma.clone());
        state.peak = state.peak.max(state.vmas.totals.all);
        let locked = vma.flags.contains(VmaFlags::LOCKED) && !vma.flags.contains(VmaFlags::ON_FAULT);
        if locked || flags.contains(MmapFlags::POPULATE) {
            // What can't be brought in now is brought in when it is used.
            let _ = self.populate(&mut state, range.clone());
        } else if vma.file.is_some() {
            if is_program_data(&state, &range, &vma) {
                let _ = self.copy_from_file(&mut state, range.start, &range, &vma);
            }
            let shown = state.pages.get(range.start).is_some_and(|(run, _)| run.end >= range.end);
            if !vma.prot.is_empty() && !shown {
                self.map_range(&mut state, range.clone(), &vma);
            }
        } else if len <= EAGER && vma.prot.contains(Prot::WRITE) {
            let first = if vma.flags.contains(VmaFlags::GROWS_DOWN) { range.end - PAGE_SIZE } else { range.start };
            let _ = self.fill_anonymous(&mut state, first, &range, &vma, true);
        }
        Ok(range.start)
    }

    /// The file behind a new mapping; memory that is shared is a file of its own.
    fn backing(&self, request: &MapRequest, len: u64) -> SysResult<Option<(std::sync::Arc<Backing>, u64)>> {
        let shared = request.flags.contains(MmapFlags::SHARED);
        if let Some((file, offset)) = &request.file {
            let end = offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
            if end > i64::MAX.cast_unsigned() {
                return Err(Errno::EOVERFLOW);
            }
            let writes = shared && !request.deny.contains(Prot::WRITE);
            return Ok(Some((Backing::new(file.clone(), writes)?, *offset)));
        }
        if !shared {
            return Ok(None);
        }
        let memory = HostFile::memory("shared", len)?;
        let ino = memory.id();
        let file = MappedFile { file: memory, path: "/dev/zero (deleted)".into(), dev: 1, ino, hook: None };
        Ok(Some((Backing::new(file, false)?, 0)))
    }

    /// Checks resource limits before `vma` is put on `range`, whatever is there now.
    ///
    /// # Errors
    /// `ENOMEM`; `EPERM`, `EAGAIN` for locked memory.
    pub(crate) fn may_expand(state: &State, range: &Range<u64>, vma: &Vma, limits: &Limits) -> SysResult<()> {
        let len = range.end.saturating_sub(range.start);
        let replaced: u64 = state
            .vmas
            .meeting(range.clone())
            .map(|(part, _)| part.end.min(range.end).saturating_sub(part.start.max(range.start)))
            .fold(0, u64::saturating_add);
        let totals = &state.vmas.totals;
        if totals.all.saturating_sub(replaced).saturating_add(len) > limits.address_space {
            return Err(Errno::ENOMEM);
        }
        if vma.is_data() && totals.data.saturating_add(len) > limits.data {
            return Err(Errno::ENOMEM);
        }
        if vma.flags.contains(VmaFlags::LOCKED) && !limits.may_lock {
            if limits.locked == 0 {
                return Err(Errno::EPERM);
            }
            if totals.locked.saturating_add(len) > limits.locked {
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }

    pub(crate) fn check_unsealed(state: &State, range: &Range<u64>) -> SysResult<()> {
        let sealed = state.vmas.meeting(range.clone()).any(|(_, vma)| vma.flags.contains(VmaFlags::SEALED));
        if sealed { Err(Errno::EPERM) } else { Ok(()) }
    }

    pub(crate) fn place(&self, state: &mut State, addr: u64, len: u64, flags: MmapFlags) -> SysResult<Range<u64>> {
        let user = self.aspace.user_range();
        if flags.intersects(MmapFlags::FIXED | MmapFlags::NO_REPLACE) {
            if !addr.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::EINVAL);
            }
            if addr < user.start {
                // vm.mmap_min_addr, which nobody gets around here.
                return Err(Errno::EPERM);
            }
            let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
            if flags.contains(MmapFlags::NO_REPLACE) && !state.vmas.is_free(&range) {
                return Err(Errno::EEXIST);
            }
            return Ok(range);
        }
        let low = flags.contains(MmapFlags::LOW);
        let hint = usermem::page_down(addr);
        if hint != 0
            && let Some(range) = self.user(hint, len)
            && (!low || range.end <= LOW.end)
            && state.vmas.has_room(&range)
        {
            return Ok(range);
        }
        let within = if low { LOW } else { user.start..state.top };
        let start = state.vmas.gap_below(len, within, !low);
        // Above the usual place there is room as well, if nowhere else.
        let start = start.or_else(|| if low { None } else { state.vmas.gap_below(len, user, false) });
        start.map(|start| start..start + len).ok_or(Errno::ENOMEM)
    }

    /// Unmaps a range that may hold anything.
    pub(crate) fn clear(&self, state: &mut State, range: Range<u64>) {
        self.drop_pages(state, range.clone());
        self.drop_vmas(state, range.clone());
        self.aspace.unmap(range.start, range.end - range.start);
    }

    /// Unmaps memory.
    ///
    /// # Errors
    /// `EINVAL`; `ENOMEM` when a mapping would be cut in two and there are too many; `EPERM` for sealed ones.
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
        if state.vmas.is_free(&range) {
            return Ok(());
        }
        Self::check_unsealed(&state, &range)?;
        let cuts = state.vmas.get(range.start).is_some_and(|(whole, _)| whole.start < range.start && whole.end > range.end);
        if cuts && state.vmas.len() >= MAX_MAPS {
            return Err(Errno::ENOMEM);
        }
        self.clear(&mut state, range);
        Ok(())
    }

    /// Sets where the heap starts, after loading an image.
    pub fn set_brk_start(&self, start: u64) {
        self.state.lock().brk = start..start;
    }

    /// Moves the end of the heap; returns where it is then, as brk(2) does.
    pub fn brk(&self, end: u64, limits: Limits) -> u64 {
        let brk = self.state.lock().brk.clone();
        if end < brk.start || brk.start == 0 || end - brk.start > limits.data {
            return brk.end;
        }
        let (Some(old_top), Some(new_top)) = (pages_of(brk.end), pages_of(end)) else { return brk.end };
        let done = if new_top > old_top {
            let request = MapRequest {
                addr: old_top,
                len: new_top - old_top,
                prot: Prot::READ | Prot::WRITE,
                flags: MmapFlags::NO_REPLACE,
                name: "[heap]",
                limits,
                ..MapRequest::default()
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

/// Whether a new mapping is the data of a program or library, whose code is mapped just below: the dynamic linker is about to write to it.
fn is_program_data(state: &State, range: &Range<u64>, vma: &Vma) -> bool {
    let file = |vma: &Vma| vma.file.as_ref().map(|(backing, _)| backing.file().id());
    let below = || state.vmas.before(range.start).filter(|(below, _)| below.end == range.start);
    !vma.shared() && vma.prot.contains(Prot::WRITE) && below().is_some_and(|(_, below)| file(below) == file(vma))
}
