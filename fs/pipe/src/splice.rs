//! Moving bytes between pipes and other files without a way through user space (splice(2)).

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult};

use crate::PipeEnd;

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
        match state.room() {
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
        let (room, capacity) = (state.room(), state.capacity);
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let spare = state.data.spare(room.min(max).min(CHUNK), capacity);
        let count = f(spare)?.min(spare.len());
        if count > 0 {
            state.data.commit(count, false);
        }
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
        let front = state.data.front();
        let (most, front) = (front.len().min(max), front.get(..front.len().min(max)).unwrap_or_default());
        let count = f(front)?.min(most);
        state.data.consume(count);
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
        let (room, capacity) = (dest.room(), dest.capacity);
        let count = source.data.readable().min(room).min(max);
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        dest.data.extend(&source.data.copy(count), capacity);
        if consume {
            source.data.consume(count);
        }
        drop((source, dest));
        to.pipe.queue.wake(PollEvents::READABLE);
        if consume {
            self.pipe.queue.wake(PollEvents::WRITABLE);
        }
        Ok(count)
    }
}
