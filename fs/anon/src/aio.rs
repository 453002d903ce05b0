//! Contexts of asynchronous input and output (io_setup(2)): a ring of events that the guest maps and may read by itself, as libaio does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use sync::{Mutex, WaitQueue};
use usermem::{HostFile, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct io_event`: what the request was called, where it stood, and what it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoEvent {
    pub data: u64,
    pub obj: u64,
    pub res: i64,
    pub res2: i64,
}

/// `struct aio_ring` without its events.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    id: u32,
    nr: u32,
    head: u32,
    tail: u32,
    magic: u32,
    compat: u32,
    incompat: u32,
    len: u32,
}

/// What libaio looks for before it reads the ring by itself (`AIO_RING_MAGIC`).
const MAGIC: u32 = 0xa10a_10a1;
const HEADER: u64 = size_of::<Header>() as u64;
const EVENT: u64 = size_of::<IoEvent>() as u64;
/// Where the header has its head and tail.
const HEAD: u64 = 8;
const TAIL: u64 = 12;

/// Requests of all contexts together (fs.aio-max-nr), and contexts: each is a file of the host's.
pub const MAX_REQUESTS: usize = 65536;
const MAX_CONTEXTS: usize = 1024;
static REQUESTS: AtomicUsize = AtomicUsize::new(0);
static CONTEXTS: AtomicUsize = AtomicUsize::new(0);

/// Requests that there is room for in all contexts together (fs.aio-nr).
#[must_use]
pub fn aio_requests() -> usize {
    REQUESTS.load(Ordering::Relaxed)
}

/// What a context has of the room for all.
struct Quota(usize);

impl Quota {
    fn take(requests: usize) -> SysResult<Self> {
        let more = |max: usize, by: usize| move |used: usize| used.checked_add(by).filter(|used| *used <= max);
        let relaxed = Ordering::Relaxed;
        CONTEXTS.fetch_update(relaxed, relaxed, more(MAX_CONTEXTS, 1)).map_err(|_| Errno::EAGAIN)?;
        // From here on it is given back.
        let mut quota = Self(0);
        REQUESTS.fetch_update(relaxed, relaxed, more(MAX_REQUESTS, requests)).map_err(|_| Errno::EAGAIN)?;
        quota.0 = requests;
        Ok(quota)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        REQUESTS.fetch_sub(self.0, Ordering::Relaxed);
        CONTEXTS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct State {
    tail: u32,
    /// Requests that are to leave an event.
    running: u32,
    /// io_destroy(2) was called.
    dead: bool,
}

/// A context.
pub struct AioContext {
    ring: Arc<HostFile>,
    /// Places in the ring.
    nr: u32,
    state: Mutex<State>,
    queue: WaitQueue,
    _quota: Quota,
}

impl AioContext {
    /// One for `requests` at a time.
    ///
    /// # Errors
    /// `EAGAIN` when all contexts together would have too many, `ENOMEM`.
    pub fn new(requests: u32) -> SysResult<Arc<Self>> {
        let quota = Quota::take(requests as usize)?;
        // As many as fill whole pages, and one that stays empty so that a full ring can be told from an empty one.
        let len = (u64::from(requests) + 2) * EVENT + HEADER;
        let len = len.next_multiple_of(PAGE_SIZE);
        let nr = u32::try_from((len - HEADER) / EVENT).map_err(|_| Errno::EINVAL)?;
        let ring = HostFile::memory("aio", len)?;
        let header = Header { nr, magic: MAGIC, compat: 1, len: size_of::<Header>() as u32, ..Header::default() };
        ring.segment(0, HEADER)?.write(header.as_bytes())?;
        Ok(Arc::new(Self { ring, nr, state: Mutex::default(), queue: WaitQueue::default(), _quota: quota }))
    }

    /// The ring, to be mapped shared.
    #[must_use]
    pub fn ring(&self) -> &Arc<HostFile> {
        &self.ring
    }

    /// Bytes of the ring.
    #[must_use]
    pub fn len(&self) -> u64 {
        (u64::from(self.nr) * EVENT + HEADER).next_multiple_of(PAGE_SIZE)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nr == 0
    }

    /// Woken when an event comes, or the context goes.
    #[must_use]
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn word(&self, offset: u64) -> SysResult<u32> {
        let mut bytes = [0; 4];
        self.ring.segment(offset, 4)?.read(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn set_word(&self, offset: u64, value: u32) -> SysResult<()> {
        self.ring.segment(offset, 4)?.write(&value.to_le_bytes())
    }

    fn place(&self, index: u32) -> u64 {
        HEADER + u64::from(index) * EVENT
    }

    /// Where the guest has got to: what it says, inside of the ring.
    fn head(&self) -> SysResult<u32> {
        Ok(self.word(HEAD)? % self.nr)
    }

    /// Takes a place for the event of a request.
    ///
    /// # Errors
    /// `EAGAIN` when all are taken; `EINVAL` when the context is gone.
    pub fn start(&self) -> SysResult<()> {
        let mut state = self.state.lock();
        if state.dead {
            return Err(Errno::EINVAL);
        }
        let waiting = (state.tail + self.nr - self.head()?) % self.nr;
        if waiting + state.running + 1 >= self.nr {
            return Err(Errno::EAGAIN);
        }
        state.running += 1;
        Ok(())
    }

    /// Gives the place back: the request was refused.
    pub fn give_up(&self) {
        self.state.lock().running -= 1;
        self.queue.wake(PollEvents::IN);
    }

    /// Leaves the event of a request that was started.
    pub fn complete(&self, event: IoEvent) {
        let mut state = self.state.lock();
        state.running = state.running.saturating_sub(1);
        let written = self.ring.segment(self.place(state.tail), EVENT).and_then(|segment| segment.write(event.as_bytes()));
        // Only a host without memory refuses: then the event is lost, as the guest soon will be.
        if written.is_ok() {
            state.tail = (state.tail + 1) % self.nr;
            let _ = self.set_word(TAIL, state.tail);
        }
        drop(state);
        self.queue.wake(PollEvents::IN);
    }

    /// Takes up to `max` events.
    ///
    /// # Errors
    /// `EINVAL` when the context is gone.
    pub fn collect(&self, max: usize) -> SysResult<Vec<IoEvent>> {
        let state = self.state.lock();
        if state.dead {
            return Err(Errno::EINVAL);
        }
        let (mut head, mut events) = (self.head()?, Vec::new());
        while head != state.tail && events.len() < max {
            let mut event = IoEvent::default();
            // An event may lie across the end of a window on the ring.
            self.ring.segment(self.place(head), EVENT)?.read(event.as_mut_bytes())?;
            events.push(event);
            head = (head + 1) % self.nr;
        }
        if !events.is_empty() {
            self.set_word(HEAD, head)?;
        }
        Ok(events)
    }

    /// Ends it: no request can be made any more.
    pub fn destroy(&self) {
        self.state.lock().dead = true;
        self.queue.wake(PollEvents::IN);
    }

    /// Whether requests are still to be waited for.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.state.lock().running > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: u64) -> IoEvent {
        IoEvent { data, ..IoEvent::default() }
    }

    #[test]
    fn a_ring_goes_round_and_is_full_in_time() {
        let context = AioContext::new(1).unwrap();
        let room = context.nr - 1;
        for round in 0..3 {
            (0..room).for_each(|_| context.start().unwrap());
            assert_eq!(context.start(), Err(Errno::EAGAIN));
            (0..room).for_each(|i| context.complete(event(u64::from(i + round))));
            assert_eq!(context.start(), Err(Errno::EAGAIN));
            let events = context.collect(1000).unwrap();
            assert_eq!(events.len(), room as usize);
            assert!((0..).zip(events).all(|(i, found)| found == event(i + u64::from(round))));
        }
        context.destroy();
        assert_eq!(context.start(), Err(Errno::EINVAL));
    }

    #[test]
    fn a_guest_that_lies_about_its_head_harms_nobody() {
        usermem::install_fault_handler();
        let context = AioContext::new(1).unwrap();
        for head in [u32::MAX, context.nr, 7] {
            context.set_word(HEAD, head).unwrap();
            let _ = context.start();
            context.complete(event(1));
            assert!(context.collect(1000).unwrap().len() <= context.nr as usize);
        }
    }
}
