//! What a core dump shows of an address space (core(5)).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::Prot;
use usermem::{PAGE_SIZE, page_up};

use crate::vma::{Vma, VmaFlags};
use crate::{MemoryManager, State};

/// What is dumped unless a program says otherwise (/proc/pid/coredump_filter): private and shared memory without a file, first pages of ELF
/// files.
pub const DEFAULT_CORE_FILTER: u32 = 0x33;

/// Bits of the filter.
const PRIVATE: u32 = 1;
const SHARED: u32 = 1 << 1;
const PRIVATE_FILE: u32 = 1 << 2;
const SHARED_FILE: u32 = 1 << 3;
const ELF_HEADERS: u32 = 1 << 4;

/// Pieces of memory that is shared, at most; more are taken for one.
const MAX_PIECES: usize = 4096;

/// A mapping, as a core dump has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreSegment {
    pub range: Range<u64>,
    pub prot: Prot,
    /// Bytes of it, from the start on, that are dumped.
    pub len: u64,
    /// Path and offset of its file.
    pub file: Option<(Arc<str>, u64)>,
}

impl MemoryManager {
    /// The mappings.
    #[must_use]
    pub fn core_segments(&self) -> Vec<CoreSegment> {
        let state = self.state.lock();
        let filter = self.core_filter.load(Ordering::Relaxed);
        let mut segments: Vec<_> = state.vmas.iter().map(|(range, vma)| self.segment(&state, range, vma, filter)).collect();
        if let Some(vdso) = self.aspace.vdso() {
            let range = vdso.start..page_up(vdso.end).unwrap_or(vdso.end);
            let len = range.end - range.start;
            segments.push(CoreSegment { range, prot: Prot::READ | Prot::EXEC, len, file: None });
        }
        segments.sort_by_key(|segment| segment.range.start);
        segments
    }

    fn segment(&self, state: &State, range: Range<u64>, vma: &Vma, filter: u32) -> CoreSegment {
        let file = vma.file.as_ref().map(|(backing, offset)| (backing.mapped.path.clone(), *offset));
        let len = self.dumped(state, &range, vma, filter);
        CoreSegment { range, prot: vma.access(), len, file }
    }

    /// What of the dumped part of a segment may be other than zero. Asked for one segment at a time: a program has many, and each may lie in
    /// many pieces.
    #[must_use]
    pub fn core_pieces(&self, segment: &CoreSegment) -> Vec<Range<u64>> {
        let state = self.state.lock();
        let wanted = segment.range.start..segment.range.start.saturating_add(segment.len);
        let Some((range, vma)) = state.vmas.get(wanted.start).filter(|_| segment.len > 0) else { return vec![wanted] };
        let mut present = Vec::new();
        if let Some((backing, offset)) = &vma.file {
            let offset = offset + (wanted.start - range.start);
            let pieces = backing.file().data(offset..offset.saturating_add(segment.len), MAX_PIECES);
            let pieces = pieces.unwrap_or_else(|_| vec![(offset, segment.len)]);
            present.extend(pieces.iter().map(|(at, len)| wanted.start + (at - offset)..wanted.start + (at - offset) + len));
        }
        if !vma.shared() {
            present.extend(state.pages.within(wanted).into_iter().map(|(run, _)| run));
        }
        present
    }

    /// How much of a mapping is dumped.
    fn dumped(&self, state: &State, range: &Range<u64>, vma: &Vma, filter: u32) -> u64 {
        let (whole, has) = (range.end - range.start, |bit: u32| filter & bit != 0);
        if vma.flags.intersects(VmaFlags::DONT_DUMP | VmaFlags::GUARD) || vma.name == crate::patch::NAME {
            return 0;
        }
        let Some((backing, offset)) = &vma.file else { return if has(PRIVATE) { whole } else { 0 } };
        // Memory without a file is one that nobody else can open.
        let nameless = backing.mapped.path.ends_with(" (deleted)");
        if vma.shared() {
            return if has(if nameless { SHARED } else { SHARED_FILE }) { whole } else { 0 };
        }
        let changed = !state.pages.within(range.clone()).is_empty();
        if changed && has(PRIVATE) || has(PRIVATE_FILE) {
            return whole;
        }
        // Who looks at the dump finds out by it which file it was.
        if has(ELF_HEADERS) && *offset == 0 && vma.prot.contains(Prot::READ) { PAGE_SIZE.min(whole) } else { 0 }
    }
}
