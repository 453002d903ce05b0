//! Resources that processes have used (getrusage(2), times(2)).
//!
//! User time is what the host charges the address space's guest code; system time is what it charges the sentry's threads that work for it.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::current::Current;
use crate::group::Group;
use crate::tasks::Task;

/// What has been used. Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub user: u64,
    pub system: u64,
    /// Most private memory at a time, in bytes.
    pub max_resident: u64,
    /// Faults handled without, and with, reading a file.
    pub minor_faults: u64,
    pub major_faults: u64,
    /// How often a task has slept.
    pub switches: u64,
    /// Calls like read(2) and write(2), and the bytes they have moved.
    pub io: Io,
}

/// What /proc/pid/io says of reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// The counters of a task, which only its own thread changes.
#[derive(Default)]
pub(crate) struct IoCounters {
    reads: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

/// Adds to what nobody else writes to: cheaper than an atomic addition.
fn count(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl AddAssign for Used {
    fn add_assign(&mut self, other: Self) {
        self.user = self.user.saturating_add(other.user);
        self.system = self.system.saturating_add(other.system);
        self.max_resident = self.max_resident.max(other.max_resident);
        self.minor_faults = self.minor_faults.saturating_add(other.minor_faults);
        self.major_faults = self.major_faults.saturating_add(other.major_faults);
        self.switches = self.switches.saturating_add(other.switches);
        self.io.reads = self.io.reads.saturating_add(other.io.reads);
        self.io.writes = self.io.writes.saturating_add(other.io.writes);
        self.io.read_bytes = self.io.read_bytes.saturating_add(other.io.read_bytes);
        self.io.written_bytes = self.io.written_bytes.saturating_add(other.io.written_bytes);
    }
}

/// What a process keeps of its resources.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// By tasks that have ended and programs that have been replaced.
    pub(crate) gone: Used,
    /// By children that have been waited for, and theirs.
    pub children: Used,
    /// What the address space had used already when this process came into it (vfork(2)).
    pub(crate) inherited: u64,
}

impl Task {
    /// What it has used by itself, but for its user time, which is known for whole address spaces only.
    pub fn used(&self) -> Used {
        Used {
            system: self.clock.get().map_or(0, |clock| clock.ns()),
            minor_faults: self.faults.load(Ordering::Relaxed),
            switches: self.switches.load(Ordering::Relaxed),
            io: self.io.get(),
            ..Used::default()
        }
    }
}

impl IoCounters {
    fn get(&self) -> Io {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Io {
            reads: get(&self.reads),
            writes: get(&self.writes),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
        }
    }
}

impl Task {
    /// CPU time of this thread, in nanoseconds. While it runs, only an estimate: the host tells the time of whole processes.
    pub fn cpu_time(&self) -> u64 {
        let system = self.used().system;
        let alone = !self.group.has_had_threads.load(Ordering::Relaxed);
        let user = if alone && !self.timed.load(Ordering::Relaxed) {
            self.group.used().user
        } else {
            // From now on it is measured.
            self.timed.store(true, Ordering::Relaxed);
            self.user_time.load(Ordering::Relaxed)
        };
        user.saturating_add(system)
    }
}

impl Current {
    /// Notes a call that has read so many bytes.
    pub fn count_read(&self, bytes: u64) {
        count(&self.task.io.reads, 1);
        count(&self.task.io.read_bytes, bytes);
    }

    /// Notes a call that has written so many bytes.
    pub fn count_write(&self, bytes: u64) {
        count(&self.task.io.writes, 1);
        count(&self.task.io.written_bytes, bytes);
    }

    /// CPU time of the calling thread, in nanoseconds.
    pub fn cpu_time(&mut self) -> Used {
        let mut used = self.task.used();
        let alone = !self.task.group.has_had_threads.load(Ordering::Relaxed);
        let known = if alone { None } else { self.ctx.cpu_time(&mut self.regs) };
        used.user = match known {
            Some(user) => self.task.user_time.fetch_max(user, Ordering::Relaxed).max(user),
            None => {
                let user = self.task.group.used().user;
                // What has been told once is never taken back.
                self.task.user_time.fetch_max(user, Ordering::Relaxed).max(user)
            }
        };
        used
    }
}

impl Group {
    /// What the process has used so far.
    #[must_use]
    pub fn used(&self) -> Used {
        let tasks = self.tasks.lock();
        let usage = *self.usage.lock();
        let mut total = usage.gone;
        tasks.iter().for_each(|task| total += task.used());
        if let Some(mm) = tasks.first().and_then(|task| task.lock().mm.clone()) {
            total += Used {
                user: mm.aspace().cpu_time().saturating_sub(usage.inherited),
                max_resident: mm.resident_peak(),
                ..Used::default()
            };
        }
        total
    }

    /// A task ends: what it has used stays.
    pub(crate) fn keep_used(&self, task: &Task) {
        self.usage.lock().gone += task.used();
    }

    /// The process leaves its address space: what was used there stays.
    pub(crate) fn leave_memory(&self, mm: &mm::MemoryManager) {
        let (cpu, resident) = (mm.aspace().cpu_time(), mm.resident_peak());
        let mut usage = self.usage.lock();
        let user = cpu.saturating_sub(usage.inherited);
        usage.inherited = 0;
        usage.gone += Used { user, max_resident: resident, ..Used::default() };
    }
}
