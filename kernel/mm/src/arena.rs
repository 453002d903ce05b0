//! Memory for anonymous and copied pages: frames of a sparse memory file, counted by reference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use abi::{Errno, SysResult};
use sync::Mutex;
use usermem::{HostFile, PAGE_SIZE, budget};

/// Frames of one arena at most: 256 GiB.
const MAX_FRAMES: usize = 64 << 20;

#[derive(Default)]
struct State {
    /// References to each frame.
    refs: Vec<u32>,
    /// Free frames below the end: start and count, and the other way round.
    free: BTreeMap<usize, usize>,
    by_size: BTreeSet<(usize, usize)>,
}

impl State {
    fn add_free(&mut self, start: usize, count: usize) {
        self.free.insert(start, count);
        self.by_size.insert((count, start));
    }

    fn take_free(&mut self, start: usize) -> Option<usize> {
        let count = self.free.remove(&start)?;
        self.by_size.remove(&(count, start));
        Some(count)
    }
}

/// A family of address spaces (related by fork) has one.
pub struct Arena {
    pub file: Arc<HostFile>,
    state: Mutex<State>,
}

impl Arena {
    /// # Errors
    /// `ENOMEM`, `EMFILE`.
    pub fn new() -> SysResult<Arc<Self>> {
        let file = HostFile::memory("guest-memory", MAX_FRAMES as u64 * PAGE_SIZE)?;
        Ok(Arc::new(Self { file, state: Mutex::default() }))
    }

    /// Takes up to `pages` zeroed frames in a row; returns their offset and how many they are.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn allocate(&self, pages: u64) -> SysResult<(u64, u64)> {
        let want = usize::try_from(pages).ok().filter(|want| *want > 0).ok_or(Errno::ENOMEM)?;
        budget::grant(pages * PAGE_SIZE)?;
        let mut state = self.state.lock();
        // The smallest piece that is large enough, else new frames: contiguity saves mappings.
        let found = state.by_size.range((want, 0)..).next().copied();
        let room = state.refs.len().checked_add(want).is_some_and(|end| end <= MAX_FRAMES);
        let (start, count) = match found {
            Some((count, start)) => {
                state.take_free(start);
                if count > want {
                    state.add_free(start + want, count - want);
                }
                (start, want)
            }
            None if room => {
                let start = state.refs.len();
                state.refs.resize(start + want, 0);
                (start, want)
            }
            None => {
                let largest = state.by_size.last().copied();
                let Some((count, start)) = largest else {
                    budget::give_back(pages * PAGE_SIZE);
                    return Err(Errno::ENOMEM);
                };
                state.take_free(start);
                budget::give_back((want - count) as u64 * PAGE_SIZE);
                (start, count)
            }
        };
        state.refs.get_mut(start..start + count).ok_or(Errno::ENOMEM)?.fill(1);
        Ok((start as u64 * PAGE_SIZE, count as u64))
    }

    /// Another reference to each frame of the ranges (offset and bytes).
    pub fn retain(&self, ranges: impl Iterator<Item = (u64, u64)>) {
        let mut state = self.state.lock();
        for (offset, len) in ranges {
            let (start, count) = ((offset / PAGE_SIZE) as usize, (len / PAGE_SIZE) as usize);
            if let Some(refs) = state.refs.get_mut(start..start + count) {
                refs.iter_mut().for_each(|count| *count = count.saturating_add(1));
            }
        }
    }

    /// Gives up one reference to each frame of a range; frees those that were the last.
    pub fn release(&self, offset: u64, len: u64) {
        let (start, count) = ((offset / PAGE_SIZE) as usize, (len / PAGE_SIZE) as usize);
        let mut state = self.state.lock();
        let mut free_from = start;
        for i in start..start + count {
            let Some(refs) = state.refs.get_mut(i) else { break };
            *refs = refs.saturating_sub(1);
            if *refs > 0 {
                self.give_back(&mut state, free_from, i);
                free_from = i + 1;
            }
        }
        self.give_back(&mut state, free_from, start + count);
    }

    /// Puts frames `from..to` on the free list. Under the lock: nobody may get them before they are empty.
    fn give_back(&self, state: &mut State, from: usize, to: usize) {
        if from >= to {
            return;
        }
        self.file.punch(from as u64 * PAGE_SIZE, (to - from) as u64 * PAGE_SIZE);
        budget::give_back((to - from) as u64 * PAGE_SIZE);
        let (mut start, mut end) = (from, to);
        if let Some((before, len)) = state.free.range(..from).next_back().map(|(a, b)| (*a, *b))
            && before + len == from
        {
            state.take_free(before);
            start = before;
        }
        if let Some(len) = state.take_free(to) {
            end += len;
        }
        state.add_free(start, end - start);
    }

    /// How often the frame at `offset` is referenced, and how many bytes from there, of `len`, are so as well.
    pub fn references(&self, offset: u64, len: u64) -> (u32, u64) {
        let (start, count) = ((offset / PAGE_SIZE) as usize, (len / PAGE_SIZE) as usize);
        let state = self.state.lock();
        let refs = state.refs.get(start..start + count).unwrap_or_default();
        let first = refs.first().copied().unwrap_or(0);
        (first, refs.iter().take_while(|refs| **refs == first).count() as u64 * PAGE_SIZE)
    }

    /// How many bytes from `offset`, of `len`, are referenced once (or more than once), and which it is.
    pub fn exclusive_run(&self, offset: u64, len: u64) -> (bool, u64) {
        let (start, count) = ((offset / PAGE_SIZE) as usize, (len / PAGE_SIZE) as usize);
        let state = self.state.lock();
        let refs = state.refs.get(start..start + count).unwrap_or_default();
        let exclusive = refs.first() == Some(&1);
        let run = refs.iter().take_while(|refs| (**refs == 1) == exclusive).count();
        (exclusive, run as u64 * PAGE_SIZE)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let granted = self.state.get_mut().refs.iter().filter(|refs| **refs > 0).count();
        budget::give_back(granted as u64 * PAGE_SIZE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_freed_when_the_last_reference_goes() {
        let arena = Arena::new().unwrap();
        let (a, _) = arena.allocate(4).unwrap();
        arena.retain([(a + PAGE_SIZE, PAGE_SIZE)].into_iter());
        arena.release(a, 4 * PAGE_SIZE);
        assert_eq!(arena.exclusive_run(a + PAGE_SIZE, PAGE_SIZE), (true, PAGE_SIZE));
        assert_eq!(arena.state.lock().free, BTreeMap::from([(0, 1), (2, 2)]));
        arena.release(a + PAGE_SIZE, PAGE_SIZE);
        assert_eq!(arena.state.lock().free, BTreeMap::from([(0, 4)]));
        assert_eq!(arena.allocate(4).unwrap(), (a, 4));
        assert!(arena.state.lock().by_size.is_empty());
    }
}
