//! Memory for anonymous and copied pages: frames of a sparse memory file, counted by reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::{Errno, SysResult};
use sync::Mutex;
use usermem::{HostFile, PAGE_SIZE};

/// Frames of one arena at most: 256 GiB.
const MAX_FRAMES: usize = 64 << 20;

#[derive(Default)]
struct State {
    /// References to each frame.
    refs: Vec<u32>,
    /// Free frames below the end: start and count.
    free: BTreeMap<usize, usize>,
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
        let mut state = self.state.lock();
        let want = usize::try_from(pages).map_err(|_| Errno::ENOMEM)?;
        // The first piece that is large enough, else new frames: contiguity saves mappings.
        let found = state.free.iter().find(|(_, count)| **count >= want).map(|(start, count)| (*start, *count));
        let (start, count) = match found {
            Some((start, count)) => {
                state.free.remove(&start);
                if count > want {
                    state.free.insert(start + want, count - want);
                }
                (start, want)
            }
            None if state.refs.len() + want <= MAX_FRAMES => {
                let start = state.refs.len();
                state.refs.resize(start + want, 0);
                (start, want)
            }
            None => {
                let (start, count) = state.free.pop_first().ok_or(Errno::ENOMEM)?;
                (start, count)
            }
        };
        state.refs.get_mut(start..start + count).ok_or(Errno::ENOMEM)?.fill(1);
        Ok((start as u64 * PAGE_SIZE, count as u64))
    }

    /// Another reference to each frame of a range.
    pub fn retain(&self, offset: u64, len: u64) {
        let (start, count) = ((offset / PAGE_SIZE) as usize, (len / PAGE_SIZE) as usize);
        if let Some(refs) = self.state.lock().refs.get_mut(start..start + count) {
            refs.iter_mut().for_each(|count| *count = count.saturating_add(1));
        }
    }

    /// Gives up one reference to each frame of a range; frees those that were the last.
    pub fn release(&self, offset: u64, len: u64) {
        let (start, count) = ((offset / PAGE_SIZE) as usize, (len / PAGE_SIZE) as usize);
        let mut state = self.state.lock();
        let mut i = start;
        while i < start + count {
            let run = i;
            while i < start + count
                && let Some(refs) = state.refs.get_mut(i)
            {
                *refs = refs.saturating_sub(1);
                if *refs > 0 {
                    break;
                }
                i += 1;
            }
            if i > run {
                // Under the lock: nobody may get the frames before they are empty.
                self.file.punch(run as u64 * PAGE_SIZE, (i - run) as u64 * PAGE_SIZE);
                let (mut from, mut to) = (run, i);
                if let Some((before, len)) = state.free.range(..run).next_back().map(|(a, b)| (*a, *b))
                    && before + len == run
                {
                    state.free.remove(&before);
                    from = before;
                }
                if let Some(len) = state.free.remove(&i) {
                    to += len;
                }
                state.free.insert(from, to - from);
            }
            i = i.max(run + 1);
        }
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
