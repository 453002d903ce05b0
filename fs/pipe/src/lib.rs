//! Pipes and fifos (pipe(7)).
#![forbid(unsafe_code)]

mod ring;
mod splice;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use sync::{Mutex, WaitQueue};
use usermem::{IoBuf, UserMemoryExt};
use vfs::{Attr, FileOps, IoctlArg, SetAttr, new_ino};

use crate::ring::Ring;

/// Bytes that a pipe holds unless told otherwise, and at most without privilege (/proc/sys/fs/pipe-max-size).
const CAPACITY: usize = 65536;
const MAX_CAPACITY: usize = 1 << 20;
/// With privilege: what is in pipes is the sentry's memory.
const HARD_CAPACITY: usize = 64 << 20;
/// Writes up to this size are all or nothing (`PIPE_BUF`).
const ATOMIC: usize = 4096;
/// What copies that fail are rounded to, and the largest packet.
const PAGE: usize = 4096;

struct State {
    data: Ring,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// How often it has been opened for reading and for writing.
    opened: (u64, u64),
}

impl Default for State {
    fn default() -> Self {
        Self { data: Ring::default(), capacity: CAPACITY, readers: 0, writers: 0, opened: (0, 0) }
    }
}

impl State {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.data.len())
    }
}

/// The buffer between both ends.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
    ino: u64,
    /// Where it has no inode of a filesystem.
    owner: Mutex<Owner>,
}

/// What fstat(2) shows of a pipe.
struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Default for Pipe {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            queue: WaitQueue::default(),
            ino: new_ino(),
            owner: Mutex::new(Owner { uid: 0, gid: 0, mode: 0o600 }),
        }
    }
}

/// An end, or both of a fifo opened so.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    read: bool,
    write: bool,
    /// Each write is a packet (`O_DIRECT`).
    packets: AtomicBool,
    /// How often it had been opened before, for reading and for writing.
    before: (u64, u64),
    /// Somebody had the other end when it was opened, who may be gone by now.
    met: bool,
}

impl Pipe {
    /// Whether anybody has it open for reading.
    pub fn has_readers(&self) -> bool {
        self.state.lock().readers > 0
    }
}

impl PipeEnd {
    /// Opens an end of `pipe`.
    #[must_use]
    pub fn open(pipe: &Arc<Pipe>, read: bool, write: bool) -> Arc<Self> {
        let mut state = pipe.state.lock();
        state.readers += usize::from(read);
        state.writers += usize::from(write);
        let before = state.opened;
        let met = if write { state.readers > 0 } else { state.writers > 0 };
        state.opened = (before.0 + u64::from(read), before.1 + u64::from(write));
        drop(state);
        pipe.queue.wake(PollEvents::READABLE | PollEvents::WRITABLE);
        Arc::new(Self { pipe: pipe.clone(), read, write, packets: AtomicBool::new(false), before, met })
    }

    /// Whether each write from now on is a packet (`O_DIRECT`).
    pub fn set_packets(&self, on: bool) {
        self.packets.store(on, Ordering::Relaxed);
    }

    /// `F_GETPIPE_SZ`
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pipe.state.lock().capacity
    }

    /// `F_SETPIPE_SZ`: lets the pipe hold at least `bytes`; returns how much it holds now.
    ///
    /// # Errors
    /// `EINVAL`; `EPERM` for more than usual without privilege; `EBUSY` when it holds more already; `ENOMEM`.
    pub fn set_capacity(&self, bytes: usize, privileged: bool) -> SysResult<usize> {
        let size =
            bytes.max(PAGE).checked_next_power_of_two().filter(|size| i32::try_from(*size).is_ok()).ok_or(Errno::EINVAL)?;
        let mut state = self.pipe.state.lock();
        if size > state.capacity && size > MAX_CAPACITY && !privileged {
            return Err(Errno::EPERM);
        }
        if size > HARD_CAPACITY {
            return Err(Errno::ENOMEM);
        }
        if state.data.len() > size {
            return Err(Errno::EBUSY);
        }
        state.data.shrink(size);
        state.capacity = size;
        drop(state);
        self.pipe.queue.wake(PollEvents::WRITABLE);
        Ok(size)
    }

    /// Whether somebody has had the other end since this one was opened: what open(2) of a fifo waits for (fifo(7)).
    #[must_use]
    pub fn has_met(&self) -> bool {
        let opened = self.pipe.state.lock().opened;
        let since = if self.write { opened.0 != self.before.0 } else { opened.1 != self.before.1 };
        self.met || since
    }

    /// A new pipe: reading end and writing end.
    #[must_use]
    pub fn pair() -> (Arc<Self>, Arc<Self>) {
        let pipe = Arc::new(Pipe::default());
        (Self::open(&pipe, true, false), Self::open(&pipe, false, true))
    }
}

/// What of a copy of `want` bytes counts: as on Linux, a page goes as a whole or not at all.
fn whole(copied: SysResult<usize>, want: usize) -> usize {
    match copied {
        Ok(count) if count >= want => want,
        Ok(count) => count / PAGE * PAGE,
        Err(_) => 0,
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
        let readable = state.data.readable();
        let mut total = 0;
        while buf.remaining() > 0 && total < readable {
            let front = state.data.front();
            let want = front.len().min(buf.remaining()).min(readable - total);
            let start = buf.done();
            let result = buf.copy_out(front.get(..want).unwrap_or_default());
            let count = whole(result, want);
            state.data.consume(count);
            total += count;
            if count < want {
                buf.rewind(start + count);
                if total == 0 {
                    return result.and(Err(Errno::EFAULT));
                }
                break;
            }
        }
        state.data.end_read(total, readable);
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
        let (room, wanted) = (state.room(), buf.remaining());
        if room == 0 || wanted <= ATOMIC && room < wanted {
            return Err(Errno::EAGAIN);
        }
        let packets = self.packets.load(Ordering::Relaxed);
        let end = room.min(wanted);
        let (mut total, mut packet) = (0, 0);
        while total < end {
            // A packet is a page at most; more of them follow.
            let most = if packets { (PAGE - packet).min(end - total) } else { end - total };
            let capacity = state.capacity;
            let spare = state.data.spare(most, capacity);
            let want = spare.len();
            let start = buf.done();
            let result = buf.copy_in(spare);
            let count = whole(result, want);
            if packet > 0 {
                state.data.extend_packet(count);
            } else if count > 0 {
                state.data.commit(count, packets);
            }
            packet = if packets { (packet + count) % PAGE } else { 0 };
            total += count;
            if count < want || want == 0 {
                buf.rewind(start + count);
                if total == 0 {
                    return result.and(Err(Errno::EFAULT));
                }
                break;
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
            if state.room() >= ATOMIC {
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
        let owner = self.pipe.owner.lock();
        let (uid, gid, mode) = (owner.uid, owner.gid, c::S_IFIFO | owner.mode);
        Attr { dev: 0xd, ino: self.pipe.ino, nlink: 1, mode, uid, gid, ..Attr::default() }
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        let mut owner = self.pipe.owner.lock();
        owner.uid = set.uid.unwrap_or(owner.uid);
        owner.gid = set.gid.unwrap_or(owner.gid);
        owner.mode = set.mode.map_or(owner.mode, |mode| mode & 0o7777);
        Ok(())
    }

    fn describe(&self) -> String {
        format!("pipe:[{}]", self.pipe.ino)
    }

    fn reopen(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        let mode = flags & c::O_ACCMODE;
        Ok(Self::open(&self.pipe, mode != c::O_WRONLY, mode != c::O_RDONLY))
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

    #[test]
    fn ends_meet_even_if_one_is_gone_again() {
        let pipe = Arc::new(Pipe::default());
        let reader = PipeEnd::open(&pipe, true, false);
        assert!(!reader.has_met());
        drop(PipeEnd::open(&pipe, false, true));
        assert!(reader.has_met());
        assert!(PipeEnd::open(&pipe, false, true).has_met() && PipeEnd::open(&pipe, true, true).has_met());
        drop(reader);
        // Who waits goes on as soon as the other one is there, and may be gone before that one looks.
        let writer = PipeEnd::open(&pipe, false, true);
        assert!(!writer.has_met());
        let reader = PipeEnd::open(&pipe, true, false);
        assert!(writer.has_met());
        drop(writer);
        assert!(reader.has_met());
    }
}
