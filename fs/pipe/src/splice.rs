//! Moving bytes between pipes and other files without a way through user space (splice(2)).

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult};

use crate::{CAPACITY, PipeEnd};

/// Bytes that are moved at once.
const CHUNK: usize = 64 << 10;

impl PipeEnd {
    /// Whether both are ends of one pipe.
    #[must_use]
    pub fn same_pipe(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pipe, &other.pipe)
    }

    /// How many bytes it has room for.
    ///
    /// # Errors
    /// `EAGAIN` when the pipe is full, `EPIPE` when nobody can read it.
    pub fn room(&self) -> SysResult<usize> {
        let state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        match CAPACITY.saturating_sub(state.data.len()) {
            0 => Err(Errno::EAGAIN),
            room => Ok(room),
        }
    }

    /// Lets `f` put up to `max` bytes into the pipe; what it returns is how many. Runs with the pipe locked.
    ///
    /// # Errors
    /// `EAGAIN` when the pipe is full, `EPIPE` when nobody can read it; what `f` says.
    pub fn fill(&self, max: usize, f: &mut dyn FnMut(&mut [u8]) -> SysResult<usize>) -> SysResult<usize> {
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let room = CAPACITY.saturating_sub(state.data.len());
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let mut chunk = vec![0; room.min(max).min(CHUNK)];
        let count = f(&mut chunk)?;
        state.data.extend(chunk.get(..count).unwrap_or_default());
        drop(state);
        if count > 0 {
            self.pipe.queue.wake(PollEvents::READABLE);
        }
        Ok(count)
    }

    /// Lets `f` take up to `max` bytes from the pipe; what it returns is how many it has used. Runs with the pipe locked. 0 at the end.
    ///
    /// # Errors
    /// `EAGAIN` when the pipe is empty; what `f` says.
    pub fn drain(&self, max: usize, f: &mut dyn FnMut(&[u8]) -> SysResult<usize>) -> SysResult<usize> {
        let mut state = self.pipe.state.lock();
        if state.data.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let (front, _) = state.data.as_slices();
        let count = f(front.get(..front.len().min(max)).unwrap_or_default())?;
        let count = count.min(state.data.len());
        state.data.drain(..count);
        drop(state);
        if count > 0 {
            self.pipe.queue.wake(PollEvents::WRITABLE);
        }
        Ok(count)
    }

    /// Copies up to `max` bytes to another pipe, or moves them if `consume`. 0 at the end.
    ///
    /// # Errors
    /// `EPIPE` when nobody can read the other; `EAGAIN` when this one is empty or the other full.
    pub fn transfer(&self, to: &Self, max: usize, consume: bool) -> SysResult<usize> {
        // Two pipes are locked by rising address.
        let from_first = Arc::as_ptr(&self.pipe) < Arc::as_ptr(&to.pipe);
        let (mut source, mut dest);
        if from_first {
            source = self.pipe.state.lock();
            dest = to.pipe.state.lock();
        } else {
            dest = to.pipe.state.lock();
            source = self.pipe.state.lock();
        }
        if source.data.is_empty() && source.writers == 0 {
            return Ok(0);
        }
        if dest.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let room = CAPACITY.saturating_sub(dest.data.len());
        let count = source.data.len().min(room).min(max);
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        if consume {
            dest.data.extend(source.data.drain(..count));
        } else {
            dest.data.extend(source.data.iter().take(count));
        }
        drop((source, dest));
        to.pipe.queue.wake(PollEvents::READABLE);
        if consume {
            self.pipe.queue.wake(PollEvents::WRITABLE);
        }
        Ok(count)
    }
}
