//! Work that can't be done where it comes up (with locks held, or by who has no time), on a thread of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sync::{Mutex, Parker};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    jobs: Mutex<VecDeque<Job>>,
    parker: Parker,
}

/// A queue of jobs and the thread that does them, one after the other.
#[derive(Default)]
pub struct Worker {
    shared: Arc<Shared>,
    started: AtomicBool,
}

impl Worker {
    /// Starts the thread, once. Without it (the host has none to give) jobs stay undone until a later call succeeds.
    pub fn start(&self) {
        if self.started.swap(true, Ordering::SeqCst) {
            return;
        }
        let shared = self.shared.clone();
        let run = move || {
            loop {
                let job = shared.jobs.lock().pop_front();
                match job {
                    Some(job) => job(),
                    None => drop(shared.parker.park(None)),
                }
            }
        };
        let spawned = std::thread::Builder::new().name("worker".into()).stack_size(128 << 10).spawn(run);
        self.started.store(spawned.is_ok(), Ordering::SeqCst);
    }

    /// Adds a job. It must be short, and who adds it bounds how many there are. May be called with locks held.
    pub fn add(&self, job: impl FnOnce() + Send + 'static) {
        self.shared.jobs.lock().push_back(Box::new(job));
        self.shared.parker.unpark();
    }
}
