//! Pipes and fifos (pipe(7)).
#![forbid(unsafe_code)]

mod splice;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use sync::{Mutex, WaitQueue};
use usermem::{IoBuf, UserMemoryExt};
use vfs::{Attr, FileOps, IoctlArg, new_ino};

/// Bytes that a pipe holds.
const CAPACITY: usize = 65536;
/// Writes up to this size are all or nothing (`PIPE_BUF`).
const ATOMIC: usize = 4096;
/// Bytes that are copied at once.
const PAGE: usize = 4096;

#[derive(Default)]
struct State {
    data: VecDeque<u8>,
    readers: usize,
    writers: usize,
}

/// The buffer between both ends.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
    ino: u64,
}

impl Default for Pipe {
    fn default() -> Self {
        Self { state: Mutex::default(), queue: WaitQueue::default(), ino: new_ino() }
    }
}

/// An end, or both of a fifo opened so.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    read: bool,
    write: bool,
}

impl PipeEnd {
    /// Opens an end of `pipe`.
    #[must_use]
    pub fn open(pipe: &Arc<Pipe>, read: bool, write: bool) -> Arc<Self> {
        let mut state = pipe.state.lock();
        state.readers += usize::from(read);
        state.writers += usize::from(write);
        drop(state);
        pipe.queue.wake(PollEvents::READABLE | PollEvents::WRITABLE);
        Arc::new(Self { pipe: pipe.clone(), read, write })
    }

    /// A new pipe: reading end and writing end.
    #[must_use]
    pub fn pair() -> (Arc<Self>, Arc<Self>) {
        let pipe = Arc::new(Pipe::default());
        (Self::open(&pipe, true, false), Self::open(&pipe, false, true))
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.read);
        state.writers -= usize::from(self.write);
        drop(state);
        self.pipe.queue.wake(PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::HUP | PollEvents::ERR);
    }
}

impl FileOps for PipeEnd {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.data.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let mut total = 0;
        while buf.remaining() > 0 && !state.data.is_empty() {
            let (front, _) = state.data.as_slices();
            let want = front.len().min(buf.remaining()).min(PAGE);
            let start = buf.done();
            match buf.copy_out(front.get(..want).unwrap_or_default()) {
                Ok(count) if count == want => {
                    state.data.drain(..count);
                    total += count;
                }
                // As on Linux, a page goes as a whole or not at all.
                result => {
                    buf.rewind(start);
                    if total == 0 {
                        return result.and(Err(Errno::EFAULT));
                    }
                    break;
                }
            }
        }
        drop(state);
        self.pipe.queue.wake(PollEvents::WRITABLE);
        Ok(total)
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let room = CAPACITY - state.data.len();
        let wanted = buf.remaining();
        if room == 0 || wanted <= ATOMIC && room < wanted {
            return Err(Errno::EAGAIN);
        }
        let mut left = room.min(wanted);
        let mut total = 0;
        let mut chunk = [0; PAGE];
        while left > 0 {
            let part = chunk.get_mut(..left.min(PAGE)).unwrap_or_default();
            let start = buf.done();
            match buf.copy_in(part) {
                Ok(count) if count == part.len() => {
                    state.data.extend(&*part);
                    total += count;
                    left -= count;
                }
                result => {
                    buf.rewind(start);
                    if total == 0 {
                        return result.and(Err(Errno::EFAULT));
                    }
                    break;
                }
            }
        }
        drop(state);
        self.pipe.queue.wake(PollEvents::READABLE);
        Ok(total)
    }

    fn poll(&self) -> PollEvents {
        let state = self.pipe.state.lock();
        let mut events = PollEvents::empty();
        if self.read {
            if !state.data.is_empty() {
                events |= PollEvents::READABLE;
            }
            if state.writers == 0 {
                events |= PollEvents::HUP;
            }
        }
        if self.write {
            if CAPACITY - state.data.len() >= ATOMIC {
                events |= PollEvents::WRITABLE;
            }
            if state.readers == 0 {
                events |= PollEvents::ERR;
            }
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn can_signal(&self) -> bool {
        true
    }

    fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        if u64::from(arg.cmd) == c::FIONREAD {
            let len = i32::try_from(self.pipe.state.lock().data.len()).unwrap_or(i32::MAX);
            arg.memory.write(arg.arg, &len.to_le_bytes())?;
            return Ok(0);
        }
        Err(Errno::ENOTTY)
    }

    fn anonymous_attr(&self) -> Attr {
        Attr { dev: 0xd, ino: self.pipe.ino, nlink: 1, mode: c::S_IFIFO | 0o600, ..Attr::default() }
    }

    fn describe(&self) -> String {
        format!("pipe:[{}]", self.pipe.ino)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_bytes_and_ends() {
        let (read, write) = PipeEnd::pair();
        let mut bytes = [0; 8];
        assert_eq!(read.read(&mut IoBuf::kernel_mut(&mut bytes), 0), Err(Errno::EAGAIN));
        assert_eq!(write.write(&mut IoBuf::kernel(b"hello"), 0), Ok(5));
        assert!(read.poll().contains(PollEvents::IN));
        assert_eq!(read.read(&mut IoBuf::kernel_mut(&mut bytes), 0), Ok(5));
        assert_eq!(&bytes[..5], b"hello");
        drop(write);
        assert_eq!(read.read(&mut IoBuf::kernel_mut(&mut bytes), 0), Ok(0));
    }

    #[test]
    fn small_writes_are_all_or_nothing() {
        let (read, write) = PipeEnd::pair();
        assert_eq!(write.write(&mut IoBuf::kernel(&vec![1; CAPACITY - 100]), 0), Ok(CAPACITY - 100));
        assert_eq!(write.write(&mut IoBuf::kernel(&[2; 200]), 0), Err(Errno::EAGAIN));
        assert_eq!(write.write(&mut IoBuf::kernel(&vec![2; 5000]), 0), Ok(100));
        drop(read);
        assert_eq!(write.write(&mut IoBuf::kernel(&[1]), 0), Err(Errno::EPIPE));
    }
}
