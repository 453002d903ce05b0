//! Waiting for host descriptors: one thread for all of them, asleep while nobody waits.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

use abi::SysResult;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use sync::Mutex;

/// Who is told that a descriptor is ready, once.
pub trait Waiter: Send + Sync {
    /// `events`: what poll(2) says.
    fn ready(&self, events: PollFlags);
}

struct Entry {
    fd: Arc<OwnedFd>,
    events: PollFlags,
    waiter: Weak<dyn Waiter>,
}

/// Watches descriptors on behalf of streams.
pub struct Watcher {
    added: Mutex<Vec<Entry>>,
    bell: UnixStream,
}

impl Watcher {
    /// Starts the watching thread.
    ///
    /// # Errors
    /// `EMFILE`, `EAGAIN`.
    pub fn start() -> SysResult<Arc<Self>> {
        let (bell, rung) = UnixStream::pair()?;
        let watcher = Arc::new(Self { added: Mutex::default(), bell });
        let own = watcher.clone();
        std::thread::Builder::new().name("watcher".into()).stack_size(64 << 10).spawn(move || own.run(&rung))?;
        Ok(watcher)
    }

    /// Tells `waiter` once when `fd` is ready, unless it is gone by then.
    pub fn add(&self, fd: Arc<OwnedFd>, events: PollFlags, waiter: Weak<dyn Waiter>) {
        self.added.lock().push(Entry { fd, events, waiter });
        self.ring();
    }

    /// Makes the thread look again at who is there.
    pub fn ring(&self) {
        // Full: it has been rung.
        let _ = send(&self.bell, b"!", SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    fn run(&self, rung: &UnixStream) {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            entries.append(&mut self.added.lock());
            entries.retain(|entry| entry.waiter.strong_count() > 0);
            let mut fds = vec![PollFd::new(rung, PollFlags::IN)];
            fds.extend(entries.iter().map(|entry| PollFd::from_borrowed_fd(entry.fd.as_fd(), entry.events)));
            if poll(&mut fds, None).is_err() {
                continue;
            }
            let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
            if events.first().is_some_and(|events| !events.is_empty()) {
                let _ = recv(rung, &mut [0; 64], RecvFlags::DONTWAIT);
            }
            let mut ready = events.into_iter().skip(1);
            entries.retain(|entry| {
                let events = ready.next().unwrap_or(PollFlags::empty());
                if events.is_empty() {
                    return true;
                }
                if let Some(waiter) = entry.waiter.upgrade() {
                    waiter.ready(events);
                }
                false
            });
        }
    }
}
