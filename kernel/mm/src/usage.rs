//! What an address space holds, for /proc.

use std::ops::Range;
use std::sync::atomic::Ordering;

use platform::Prot;
use usermem::{HostFile, PAGE_SIZE};

use crate::vma::{Totals, Vma, VmaFlags};
use crate::{MemoryManager, State};

/// Pages looked at in one go.
const STEP: u64 = 1024;

/// A line of /proc/pid/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub range: Range<u64>,
    pub prot: Prot,
    pub shared: bool,
    pub offset: u64,
    pub dev: u64,
    pub ino: u64,
    pub name: String,
    /// As `VmFlags` of /proc/pid/smaps has them.
    pub flags: String,
}

/// What of a mapping is in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    pub resident: u64,
    /// Each page divided by how many have it.
    pub proportional: u64,
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    pub anonymous: u64,
    pub locked: u64,
}

impl Residency {
    /// Adds another's sums to its own.
    pub fn add(&mut self, other: &Self) {
        self.resident = self.resident.saturating_add(other.resident);
        self.proportional = self.proportional.saturating_add(other.proportional);
        self.shared_clean = self.shared_clean.saturating_add(other.shared_clean);
        self.shared_dirty = self.shared_dirty.saturating_add(other.shared_dirty);
        self.private_clean = self.private_clean.saturating_add(other.private_clean);
        self.private_dirty = self.private_dirty.saturating_add(other.private_dirty);
        self.anonymous = self.anonymous.saturating_add(other.anonymous);
        self.locked = self.locked.saturating_add(other.locked);
    }
}

/// Sums of an address space, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub totals: Totals,
    /// The largest size so far.
    pub peak: u64,
    /// In memory: private pages, pages of files, shared memory; and the largest sum of them that anybody has seen.
    pub anonymous: u64,
    pub file: u64,
    pub shared: u64,
    pub resident_peak: u64,
}

impl Usage {
    /// All that is in memory.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.anonymous.saturating_add(self.file).saturating_add(self.shared)
    }
}

/// Mappings that make up one as /proc shows it.
type Parts = Vec<(Range<u64>, Vma)>;

/// Bytes of a file's range that are in memory.
fn resident(file: &HostFile, offset: u64, len: u64) -> u64 {
    let mut buffer = [0u8; STEP as usize];
    let mut total = 0;
    let mut done = 0;
    while done < len {
        let pages = ((len - done) / PAGE_SIZE).clamp(1, STEP);
        let present = buffer.get_mut(..pages as usize).unwrap_or_default();
        if file.residency(offset + done, present).is_err() {
            break;
        }
        total += present.iter().filter(|byte| **byte != 0).count() as u64 * PAGE_SIZE;
        done += pages * PAGE_SIZE;
    }
    total
}

/// The letters of smaps.
fn letters(vma: &Vma) -> String {
    let prot = |bit: Prot| vma.prot.contains(bit);
    let may = |bit: Prot| !vma.deny.contains(bit);
    let flag = |bit: VmaFlags| vma.flags.contains(bit);
    let all = [
        (prot(Prot::READ), "rd"),
        (prot(Prot::WRITE), "wr"),
        (prot(Prot::EXEC), "ex"),
        (vma.shared(), "sh"),
        (may(Prot::READ), "mr"),
        (may(Prot::WRITE), "mw"),
        (may(Prot::EXEC), "me"),
        (vma.shared(), "ms"),
        (flag(VmaFlags::GROWS_DOWN), "gd"),
        (flag(VmaFlags::LOCKED), "lo"),
        (flag(VmaFlags::SEQUENTIAL), "sr"),
        (flag(VmaFlags::RANDOM), "rr"),
        (flag(VmaFlags::DONT_FORK), "dc"),
        (vma.is_data() && !flag(VmaFlags::NO_RESERVE), "ac"),
        (flag(VmaFlags::NO_RESERVE), "nr"),
        (flag(VmaFlags::WIPE_ON_FORK), "wf"),
        (flag(VmaFlags::DONT_DUMP), "dd"),
        (flag(VmaFlags::HUGE_PAGE), "hg"),
        (flag(VmaFlags::NO_HUGE_PAGE), "nh"),
        (flag(VmaFlags::MERGEABLE), "mg"),
        (flag(VmaFlags::GUARD), "gu"),
        (flag(VmaFlags::SEALED), "sl"),
    ];
    all.iter().filter(|(set, _)| *set).map(|(_, letters)| *letters).collect::<Vec<_>>().join(" ")
}

fn line(range: Range<u64>, vma: &Vma) -> MapInfo {
    let file = vma.file.as_ref();
    MapInfo {
        range,
        prot: vma.prot,
        shared: vma.shared(),
        offset: file.map_or(0, |file| file.1),
        dev: file.map_or(0, |file| file.0.mapped.dev),
        ino: file.map_or(0, |file| file.0.mapped.ino),
        name: file.map_or_else(|| vma.name.to_owned(), |file| file.0.mapped.path.to_string()),
        flags: letters(vma),
    }
}

/// Whether `b` is what follows `a` in one mapping: guards are no mappings of their own.
fn is_one(a: (&Range<u64>, &Vma), b: (&Range<u64>, &Vma)) -> bool {
    let plain = |vma: &Vma| {
        let mut vma = vma.clone();
        vma.flags.remove(VmaFlags::GUARD);
        vma
    };
    let guards = (a.1.flags ^ b.1.flags).contains(VmaFlags::GUARD);
    guards && a.0.end == b.0.start && rangemap::Piece::continues(&plain(a.1), a.0.end - a.0.start, &plain(b.1))
}

impl MemoryManager {
    /// Lines of /proc/pid/maps, in order but for the last, the vDSO's and its elder's.
    #[must_use]
    pub fn maps(&self) -> Vec<MapInfo> {
        self.lines(&self.state.lock()).into_iter().map(|(line, _)| line).collect()
    }

    /// The mappings as /proc shows them, each with what it consists of.
    fn lines(&self, state: &State) -> Vec<(MapInfo, Parts)> {
        let mut lines: Vec<(MapInfo, Parts)> = Vec::new();
        for (range, vma) in state.vmas.iter() {
            if let Some((line, parts)) = lines.last_mut()
                && let Some((last, before)) = parts.last()
                && is_one((last, before), (&range, vma))
            {
                line.range.end = range.end;
                parts.push((range, vma.clone()));
                continue;
            }
            lines.push((line(range.clone(), vma), vec![(range, vma.clone())]));
        }
        if let Some(range) = self.aspace.vdso() {
            let range = range.start..usermem::page_up(range.end).unwrap_or(range.end);
            let (prot, flags) = (Prot::READ | Prot::EXEC, "rd ex mr mw me de".to_owned());
            let vdso = MapInfo { range, prot, shared: false, offset: 0, dev: 0, ino: 0, name: "[vdso]".into(), flags };
            lines.push((vdso, Vec::new()));
        }
        if let Some(range) = self.aspace.vsyscall() {
            let (prot, flags, name) = (Prot::EXEC, "ex".to_owned(), "[vsyscall]".into());
            lines.push((MapInfo { range, prot, shared: false, offset: 0, dev: 0, ino: 0, name, flags }, Vec::new()));
        }
        lines
    }

    /// Lines of /proc/pid/smaps.
    #[must_use]
    pub fn smaps(&self) -> Vec<(MapInfo, Residency)> {
        let state = self.state.lock();
        let sum = |parts: Parts| {
            let mut sum = Residency::default();
            parts.iter().for_each(|(range, vma)| sum.add(&self.residency(&state, range, vma)));
            sum
        };
        self.lines(&state).into_iter().map(|(line, parts)| (line, sum(parts))).collect()
    }

    /// What of a mapping is in memory. Of pages that files have in memory nobody knows who has touched them: all are counted.
    fn residency(&self, state: &State, range: &Range<u64>, vma: &Vma) -> Residency {
        let mut sum = Residency::default();
        if let Some((backing, offset)) = &vma.file {
            let (file, here) = (backing.file(), resident(backing.file(), *offset, range.end - range.start));
            let place = if file.is_memory() { &mut sum.shared_dirty } else { &mut sum.shared_clean };
            *place = here;
            (sum.resident, sum.proportional) = (here, here);
        }
        if !vma.shared() {
            for (run, page) in state.pages.within(range.clone()) {
                let mut done = 0;
                while done < run.end - run.start {
                    let (count, len) = self.arena.references(page.frame + done, run.end - run.start - done);
                    let len = len.max(PAGE_SIZE);
                    let here = resident(&self.arena.file, page.frame + done, len);
                    sum.anonymous += here;
                    sum.resident += here;
                    sum.proportional += here / u64::from(count.max(1));
                    let place = if count > 1 { &mut sum.shared_dirty } else { &mut sum.private_dirty };
                    *place += here;
                    done += len;
                }
            }
        }
        if vma.flags.contains(VmaFlags::LOCKED) {
            sum.locked = sum.proportional;
        }
        sum
    }

    /// Sums for /proc/pid/status and its kin.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        let mut usage = Usage { totals: state.vmas.totals, peak: state.peak, ..Usage::default() };
        for (range, vma) in state.vmas.iter() {
            if let Some((backing, offset)) = &vma.file {
                let here = resident(backing.file(), *offset, range.end - range.start);
                let place = if backing.file().is_memory() && vma.shared() { &mut usage.shared } else { &mut usage.file };
                *place += here;
            }
        }
        usage.anonymous = self.anonymous(&state);
        let peak = self.resident_peak.fetch_max(usage.resident(), Ordering::Relaxed);
        usage.resident_peak = peak.max(usage.resident());
        usage
    }

    /// The most that anybody has seen in memory, and no less than what there is of private pages now. Cheaper than [`MemoryManager::usage`].
    #[must_use]
    pub fn resident_peak(&self) -> u64 {
        let now = self.anonymous(&self.state.lock());
        self.resident_peak.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Bytes of private pages that are in memory.
    fn anonymous(&self, state: &State) -> u64 {
        state.pages.iter().map(|(run, page)| resident(&self.arena.file, page.frame, run.end - run.start)).sum()
    }
}
