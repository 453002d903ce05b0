//! eventfd(2).

use std::any::Any;

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use sync::{Mutex, WaitQueue};
use usermem::IoBuf;
use vfs::FileOps;

/// Largest count.
const MAX: u64 = u64::MAX - 1;

/// A counter that can be waited for.
pub struct EventFd {
    count: Mutex<u64>,
    /// `EFD_SEMAPHORE`: reads take one.
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    #[must_use]
    pub fn new(count: u64, semaphore: bool) -> Self {
        Self { count: Mutex::new(count), semaphore, queue: WaitQueue::default() }
    }
}

impl FileOps for EventFd {
    /// lseek(2) does nothing, and says so.
    fn pinned(&self) -> bool {
        true
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = if self.semaphore { 1 } else { *count };
        *count -= taken;
        drop(count);
        self.queue.wake(PollEvents::WRITABLE);
        buf.copy_out(&taken.to_le_bytes())
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let start = buf.done();
        let mut bytes = [0; 8];
        buf.fill(&mut bytes)?;
        let add = u64::from_le_bytes(bytes);
        if add == u64::MAX {
            buf.rewind(start);
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        let Some(sum) = count.checked_add(add).filter(|sum| *sum <= MAX) else {
            buf.rewind(start);
            return Err(Errno::EAGAIN);
        };
        *count = sum;
        drop(count);
        self.queue.wake(PollEvents::READABLE);
        // What is beyond the first eight bytes is ignored.
        buf.skip_rest();
        Ok(8)
    }

    fn poll(&self) -> PollEvents {
        let count = *self.count.lock();
        let mut events = PollEvents::empty();
        if count > 0 {
            events |= PollEvents::READABLE;
        }
        if count < MAX {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fd_info(&self) -> String {
        format!("eventfd-count: {:16x}\n", *self.count.lock())
    }

    fn describe(&self) -> String {
        "anon_inode:[eventfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &EventFd) -> SysResult<u64> {
        let mut bytes = [0; 8];
        file.read(&mut IoBuf::kernel_mut(&mut bytes), 0)?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[test]
    fn counts() {
        let file = EventFd::new(2, false);
        assert_eq!(file.write(&mut IoBuf::kernel(&3u64.to_le_bytes()), 0), Ok(8));
        assert_eq!(read(&file), Ok(5));
        assert_eq!(read(&file), Err(Errno::EAGAIN));
        assert_eq!(file.write(&mut IoBuf::kernel(&MAX.to_le_bytes()), 0), Ok(8));
        assert_eq!(file.write(&mut IoBuf::kernel(&1u64.to_le_bytes()), 0), Err(Errno::EAGAIN));
        assert!(!file.poll().contains(PollEvents::OUT));
    }

    #[test]
    fn semaphores_give_one_at_a_time() {
        let file = EventFd::new(2, true);
        assert_eq!((read(&file), read(&file), read(&file)), (Ok(1), Ok(1), Err(Errno::EAGAIN)));
    }
}
