//! Mappings: what should be where.

use std::ops::Range;
use std::sync::Arc;

use abi::SysResult;
use platform::Prot;
use rangemap::{Piece, RangeMap};
use usermem::{HostFile, MapHook};

/// What is left free below a mapping that grows downwards, so that a stack doesn't run into what is below it (`stack_guard_gap`).
pub(crate) const GUARD_GAP: u64 = 256 << 12;

/// A file as mapped.
#[derive(Clone)]
pub struct MappedFile {
    pub file: Arc<HostFile>,
    /// For /proc/pid/maps.
    pub path: Arc<str>,
    pub dev: u64,
    pub ino: u64,
    /// Who wants to know of mappings of it.
    pub hook: Option<Arc<dyn MapHook>>,
}

/// A file behind mappings of one address space or several.
pub(crate) struct Backing {
    pub mapped: MappedFile,
    writes: bool,
}

impl Backing {
    /// `writes`: by a shared mapping that may become writable.
    ///
    /// # Errors
    /// What the hook says.
    pub fn new(mapped: MappedFile, writes: bool) -> SysResult<Arc<Self>> {
        if let Some(hook) = &mapped.hook {
            hook.map(writes)?;
        }
        Ok(Arc::new(Self { mapped, writes }))
    }

    /// For another address space: itself, unless somebody counts.
    pub fn for_child(self: &Arc<Self>) -> Arc<Self> {
        let Some(hook) = &self.mapped.hook else { return self.clone() };
        hook.mapped(self.writes);
        Arc::new(Self { mapped: self.mapped.clone(), writes: self.writes })
    }

    pub fn file(&self) -> &Arc<HostFile> {
        &self.mapped.file
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(hook) = &self.mapped.hook {
            hook.unmapped(self.writes);
        }
    }
}

bitflags::bitflags! {
    /// What a mapping is, besides its protection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub(crate) struct VmaFlags: u32 {
        const SHARED = 1;
        const GROWS_DOWN = 2;
        const LOCKED = 4;
        /// Locked pages are not brought in at once (`MLOCK_ONFAULT`).
        const ON_FAULT = 8;
        const DONT_FORK = 16;
        const WIPE_ON_FORK = 32;
        const DONT_DUMP = 64;
        const NO_RESERVE = 128;
        /// Any access faults (`MADV_GUARD_INSTALL`). A mapping of its own here, of one with its neighbours in /proc.
        const GUARD = 256;
        /// mseal(2)
        const SEALED = 512;
        const HUGE_PAGE = 1024;
        const NO_HUGE_PAGE = 2048;
        const MERGEABLE = 4096;
        const RANDOM = 8192;
        const SEQUENTIAL = 16384;
    }
}

/// Where memory should come from (mbind(2)): kept and told, of no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// `MPOL_*` with its flags.
    pub mode: u32,
    pub nodes: u64,
}

/// A mapping.
#[derive(Clone)]
pub(crate) struct Vma {
    pub prot: Prot,
    /// What mprotect(2) must not give.
    pub deny: Prot,
    pub flags: VmaFlags,
    /// File and offset; anonymous private memory has none. Shared anonymous memory is a memory file.
    pub file: Option<(Arc<Backing>, u64)>,
    pub name: &'static str,
    pub policy: Policy,
}

impl Vma {
    pub fn shared(&self) -> bool {
        self.flags.contains(VmaFlags::SHARED)
    }

    /// What the guest may do now.
    pub fn access(&self) -> Prot {
        if self.flags.contains(VmaFlags::GUARD) { Prot::empty() } else { self.prot }
    }

    /// Counts against RLIMIT_DATA.
    pub fn is_data(&self) -> bool {
        self.prot.contains(Prot::WRITE) && !self.flags.intersects(VmaFlags::SHARED | VmaFlags::GROWS_DOWN)
    }
}

impl Piece for Vma {
    fn advance(&mut self, by: u64) {
        if let Some((_, offset)) = &mut self.file {
            *offset += by;
        }
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        let same_file = match (&self.file, &next.file) {
            (None, None) => true,
            (Some((a, at)), Some((b, next_at))) => Arc::ptr_eq(a.file(), b.file()) && at.checked_add(len) == Some(*next_at),
            _ => false,
        };
        same_file
            && (self.prot, self.deny, self.flags) == (next.prot, next.deny, next.flags)
            && (self.name, self.policy) == (next.name, next.policy)
    }
}

/// Sums over mappings, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub all: u64,
    pub locked: u64,
    /// Private and writable.
    pub data: u64,
    pub stack: u64,
    /// Executable.
    pub exec: u64,
}

impl Totals {
    fn count(&mut self, vma: &Vma, len: u64, add: bool) {
        let fields = [
            (&mut self.all, true),
            (&mut self.locked, vma.flags.contains(VmaFlags::LOCKED)),
            (&mut self.data, vma.is_data()),
            (&mut self.stack, vma.flags.contains(VmaFlags::GROWS_DOWN)),
            (&mut self.exec, vma.prot.contains(Prot::EXEC) && !vma.prot.contains(Prot::WRITE)),
        ];
        for (sum, _) in fields.into_iter().filter(|(_, counts)| *counts) {
            *sum = if add { sum.saturating_add(len) } else { sum.saturating_sub(len) };
        }
    }
}

/// The mappings of an address space, their sums, and where to look for room.
#[derive(Clone, Default)]
pub(crate) struct Vmas {
    map: RangeMap<Vma>,
    pub totals: Totals,
    /// Above this there is no gap larger than [`Vmas::hole`].
    search_end: u64,
    hole: u64,
}

impl Vmas {
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn get(&self, at: u64) -> Option<(Range<u64>, &Vma)> {
        self.map.get(at)
    }

    pub fn next(&self, at: u64) -> Option<(Range<u64>, &Vma)> {
        self.map.next(at)
    }

    pub fn before(&self, at: u64) -> Option<(Range<u64>, &Vma)> {
        self.map.before(at)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &Vma)> {
        self.map.iter()
    }

    pub fn meeting(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &Vma)> {
        self.map.meeting(range)
    }

    pub fn within(&self, range: Range<u64>) -> Vec<(Range<u64>, Vma)> {
        self.map.within(range)
    }

    pub fn is_free(&self, range: &Range<u64>) -> bool {
        self.map.is_free(range)
    }

    /// Whether `range` keeps its distance from a stack above it as well.
    pub fn has_room(&self, range: &Range<u64>) -> bool {
        self.is_free(range) && self.next(range.end).is_none_or(|(next, vma)| range.end <= start_with_gap(&next, vma))
    }

    /// Takes everything out of `range`.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<(Range<u64>, Vma)> {
        let parts = self.take(range.clone());
        if !parts.is_empty() {
            let gap_end = self.map.next(range.start).map_or(u64::MAX, |(next, _)| next.start);
            self.search_end = self.search_end.max(gap_end);
        }
        parts
    }

    fn take(&mut self, range: Range<u64>) -> Vec<(Range<u64>, Vma)> {
        let parts = self.map.remove(range);
        for (part, vma) in &parts {
            self.totals.count(vma, part.end - part.start, false);
        }
        parts
    }

    /// Puts a mapping on `range`, replacing what is there.
    pub fn insert(&mut self, range: Range<u64>, vma: Vma) {
        self.take(range.clone());
        self.totals.count(&vma, range.end.saturating_sub(range.start), true);
        self.map.insert(range, vma);
    }

    /// This is the copy of a child's: who counts mappings counts these.
    pub fn count_for_child(&mut self) {
        let hooked = |vma: &Vma| vma.file.as_ref().filter(|(backing, _)| backing.mapped.hook.is_some()).cloned();
        let all: Vec<_> = self.map.iter().filter_map(|(range, vma)| Some((range, hooked(vma)?.0))).collect();
        let mut copies: Vec<(Arc<Backing>, Arc<Backing>)> = Vec::new();
        for (range, old) in all {
            let known = copies.iter().find(|(from, _)| Arc::ptr_eq(from, &old)).map(|(_, to)| to.clone());
            let new = known.unwrap_or_else(|| {
                let new = old.for_child();
                copies.push((old, new.clone()));
                new
            });
            let Some((_, vma)) = self.map.get(range.start) else { continue };
            let mut vma = vma.clone();
            if let Some((backing, _)) = &mut vma.file {
                *backing = new;
            }
            self.map.insert(range, vma);
        }
    }

    /// The highest free range of `len` in `within`. With `remember` the search goes on where the last one ended, if what is above was too
    /// small then.
    pub fn gap_below(&mut self, len: u64, within: Range<u64>, remember: bool) -> Option<u64> {
        let resume = remember && len > self.hole && self.search_end > within.start && self.search_end < within.end;
        let from = if resume { self.search_end } else { within.end };
        let hole = if resume { self.hole } else { 0 };
        let (found, hole) = self.search(len, within.start..from, hole);
        if remember && let Some(start) = found {
            (self.search_end, self.hole) = (start, hole);
        }
        if found.is_none() && resume {
            self.search_end = u64::MAX;
            return self.gap_below(len, within, remember);
        }
        found
    }

    /// The highest free range of `len`, and the largest gap above it (`hole` to begin with).
    fn search(&self, len: u64, within: Range<u64>, mut hole: u64) -> (Option<u64>, u64) {
        let mut end = within.end;
        while let Some((range, vma)) = self.map.before(end).filter(|(range, _)| range.end > within.start) {
            let gap = end.saturating_sub(range.end);
            if gap >= len {
                return (Some(end - len), hole);
            }
            hole = hole.max(gap);
            end = start_with_gap(&range, vma);
            if end <= within.start {
                return (None, hole);
            }
        }
        let room = end.checked_sub(within.start).filter(|room| *room >= len);
        (room.map(|_| end - len), hole)
    }
}

/// Where a mapping starts, with what must stay free below it.
fn start_with_gap(range: &Range<u64>, vma: &Vma) -> u64 {
    let gap = if vma.flags.contains(VmaFlags::GROWS_DOWN) { GUARD_GAP } else { 0 };
    range.start.saturating_sub(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vma(prot: Prot, flags: VmaFlags) -> Vma {
        Vma { prot, deny: Prot::empty(), flags, file: None, name: "", policy: Policy::default() }
    }

    #[test]
    fn sums_follow_what_is_mapped() {
        let mut vmas = Vmas::default();
        let (rw, rx) = (Prot::READ | Prot::WRITE, Prot::READ | Prot::EXEC);
        vmas.insert(0..100, vma(rw, VmaFlags::LOCKED));
        vmas.insert(50..150, vma(rx, VmaFlags::empty()));
        vmas.insert(200..210, vma(rw, VmaFlags::GROWS_DOWN));
        assert_eq!(vmas.totals, Totals { all: 160, locked: 50, data: 50, stack: 10, exec: 100 });
        vmas.remove(10..120);
        assert_eq!(vmas.totals, Totals { all: 50, locked: 10, data: 10, stack: 10, exec: 30 });
    }

    /// What is found with memory of earlier searches is what is found without, unless mappings were made at given places.
    #[test]
    fn searches_that_go_on_find_what_searches_from_the_top_find() {
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let mut vmas = Vmas { search_end: u64::MAX, ..Vmas::default() };
        let within = 100..4000;
        for _ in 0..20_000 {
            if random(2) == 0 {
                let len = random(60) + 1;
                let plain = vmas.clone().gap_below(len, within.clone(), false);
                let found = vmas.gap_below(len, within.clone(), true);
                assert_eq!(found, plain);
                if let Some(start) = found {
                    // Neighbours must not join, to have gaps of all kinds.
                    let flags = VmaFlags::from_bits_truncate(random(2) as u32 * VmaFlags::RANDOM.bits());
                    vmas.insert(start..start + len, vma(Prot::READ, flags));
                }
            } else {
                let start = 100 + random(3900);
                vmas.remove(start..start + random(80) + 1);
            }
        }
    }

    #[test]
    fn stacks_keep_their_distance() {
        let mut vmas = Vmas::default();
        let top = 100 << 20;
        vmas.insert(top - 4096..top, vma(Prot::READ, VmaFlags::GROWS_DOWN));
        assert_eq!(vmas.gap_below(4096, 0..top, false), Some(top - 8192 - GUARD_GAP));
        assert!(!vmas.has_room(&(top - 8192..top - 4096)));
    }
}
