//! Memory that the host itself writes to on a guest thread's behalf (rseq(2)): it must stay writable in the guest, for there is no fault that
//! could be handled. Private pages of it are copied when the address space is, instead of being write-protected.

use std::ops::Range;

use abi::{Errno, SysResult};
use platform::Prot;
use usermem::{PAGE_SIZE, page_down};

use crate::{Ahead, MemoryManager, Page, Shown, State};

/// How often pinned pages that go on changing are copied.
const MAX_COPIES: u32 = 8;

impl MemoryManager {
    /// Makes the pages of a range writable in the guest now, and keeps fork(2) from changing that until [`Self::unpin`]. What the guest
    /// itself does to them later is its own affair.
    ///
    /// # Errors
    /// `EFAULT` where the guest can't write; `ENOMEM`.
    pub fn pin(&self, addr: u64, len: u64) -> SysResult<()> {
        let mut state = self.state.lock();
        self.reap(&mut state);
        let pages = pages(addr, len)?;
        for page in pages.clone() {
            let (range, vma) = self.find_or_grow(&mut state, page).ok_or(Errno::EFAULT)?;
            if !vma.access().contains(Prot::WRITE) {
                return Err(Errno::EFAULT);
            }
            let writable = state.pages.get(page).is_some_and(|(_, page)| page.shown == Shown::Writable);
            if vma.shared() || !writable {
                self.bring_in(&mut state, page, &range, &vma, true, true)?;
            }
        }
        state.pinned.extend(pages);
        Ok(())
    }

    /// The range no longer matters to the host.
    pub fn unpin(&self, addr: u64, len: u64) {
        let mut state = self.state.lock();
        for page in pages(addr, len).into_iter().flatten() {
            if let Some(at) = state.pinned.iter().position(|pinned| *pinned == page) {
                state.pinned.swap_remove(at);
            }
        }
    }

    /// Reserves room in `copies` for pinned pages that aren't among them, for a fork: where each is, and where it is to be copied to.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(crate) fn reserve_pinned(&self, state: &State, copies: &mut Vec<Ahead>) -> SysResult<Vec<(u64, u64)>> {
        let mut moves = Vec::new();
        for page in &state.pinned {
            let private = state.pages.get(*page).filter(|(_, present)| present.shown == Shown::Writable);
            let Some((run, present)) = private else { continue };
            if copies.iter().any(|copy| copy.range.contains(page)) {
                continue;
            }
            let from = present.frame + (page - run.start);
            let (frame, _) = self.arena.allocate(1)?;
            copies.push(Ahead { range: *page..page + PAGE_SIZE, frame });
            moves.push((from, frame));
        }
        copies.sort_unstable_by_key(|copy| copy.range.start);
        Ok(moves)
    }

    /// Copies pages to where there is room for them. If others run, until nothing has changed from one time to the next: then all are of one
    /// moment. Whoever goes on writing there, all else being protected, writes to its own stack, of which nobody in the child knows.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(crate) fn copy_pinned(&self, moves: &[(u64, u64)], alone: bool) -> SysResult<()> {
        let copied = |(from, to): &(u64, u64)| {
            self.copy_frames(*to, |at, len| self.arena.file.segment(from + at, len), PAGE_SIZE) == PAGE_SIZE
        };
        let mut before = Vec::new();
        for _ in 0..MAX_COPIES {
            if !moves.iter().all(copied) {
                return Err(Errno::ENOMEM);
            }
            if alone {
                break;
            }
            let mut now = vec![0; moves.len() * PAGE_SIZE as usize];
            for (page, (_, to)) in now.chunks_exact_mut(PAGE_SIZE as usize).zip(moves) {
                self.arena.file.segment(*to, PAGE_SIZE)?.read(page)?;
            }
            if now == before {
                break;
            }
            before = now;
        }
        Ok(())
    }
}

/// The addresses of a range's pages.
fn pages(addr: u64, len: u64) -> SysResult<impl Iterator<Item = u64> + Clone> {
    let end = addr.checked_add(len).ok_or(Errno::EFAULT)?;
    Ok((page_down(addr)..end).step_by(PAGE_SIZE as usize))
}

/// What of a run isn't copied for a fork: `copies` are in order.
pub(crate) fn uncopied(run: (Range<u64>, Page), copies: &[Ahead]) -> Vec<(Range<u64>, Page)> {
    let (range, page) = run;
    let mut at = range.start;
    let mut parts = Vec::new();
    let mut keep = |part: Range<u64>| {
        if !part.is_empty() {
            parts.push((part.clone(), Page { frame: page.frame + (part.start - range.start), ..page }));
        }
    };
    let first = copies.partition_point(|copy| copy.range.end <= range.start);
    for copy in copies.iter().skip(first).take_while(|copy| copy.range.start < range.end) {
        keep(at..copy.range.start.max(at));
        at = copy.range.end;
    }
    keep(at.min(range.end)..range.end);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_is_left_out() {
        let page = Page { frame: 0x10_0000, shown: Shown::Writable };
        let copy = |start: u64, end: u64| Ahead { range: start..end, frame: 0 };
        let parts = |copies: &[Ahead]| -> Vec<_> {
            uncopied((0x4000..0x9000, page), copies).into_iter().map(|(range, page)| (range, page.frame)).collect()
        };
        assert_eq!(parts(&[]), [(0x4000..0x9000, 0x10_0000)]);
        assert_eq!(parts(&[copy(0x4000, 0x9000)]), []);
        assert_eq!(
            parts(&[copy(0x1000, 0x2000), copy(0x5000, 0x6000), copy(0x9000, 0xa000)]),
            [(0x4000..0x5000, 0x10_0000), (0x6000..0x9000, 0x10_2000)]
        );
    }
}
