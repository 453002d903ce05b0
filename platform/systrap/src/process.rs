//! One stub process: its slots, its creator thread, its descriptors.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use abi::{Errno, SysResult};
use stub::layout::{CMD_FORK, CMD_OPS, CMD_THREAD, Ctx, MAX_FDS, SLOT_COUNT, SLOT_SIZE, SLOTS, STATE_PARKED};
use sync::Mutex;

use crate::host;

/// How long a stub may take to do what it is told before it is taken for hostile and killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to spin for what a stub has been told to do, in nanoseconds: forking takes a while.
const SPIN_NS: u64 = 500_000;

/// Slot of a process's first thread.
const FIRST: u64 = 1;

/// The sentry's view of a process's slots.
pub struct Slots {
    base: *mut u8,
    fd: OwnedFd,
}

// SAFETY: shared memory that is only accessed through atomics and raw copies.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    pub fn new() -> SysResult<Self> {
        let fd = rustix::fs::memfd_create("stub", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, SLOT_SIZE * SLOT_COUNT)?;
        let len = (SLOT_SIZE * SLOT_COUNT) as usize;
        // SAFETY: a fresh mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::ENOMEM);
        }
        Ok(Self { base: base.cast(), fd })
    }

    pub fn ctx(&self, index: u64) -> &Ctx {
        assert!(index < SLOT_COUNT);
        // SAFETY: in the mapping; every field is an atomic or, for `ops`, only accessed by raw copies.
        unsafe { &*self.base.add((index * SLOT_SIZE) as usize).cast::<Ctx>() }
    }

    /// A pointer to `len` bytes at `offset` in slot `index`; `None` outside of it.
    pub fn bytes(&self, index: u64, offset: u64, len: u64) -> Option<*mut u8> {
        if index >= SLOT_COUNT || offset.checked_add(len)? > SLOT_SIZE {
            return None;
        }
        // SAFETY: in the mapping, as just checked.
        Some(unsafe { self.base.add((index * SLOT_SIZE + offset) as usize) })
    }

    /// Makes a slot ready for a thread.
    pub fn prepare(&self, slot: u64) {
        let ctx = self.ctx(slot);
        ctx.state.store(STATE_PARKED, Ordering::Relaxed);
        for word in [&ctx.kind, &ctx.action, &ctx.nops, &ctx.intr, &ctx.rounds, &ctx.looks, &ctx.hello, &ctx.ident_mask] {
            word.store(0, Ordering::Relaxed);
        }
        ctx.ops_error.store(0, Ordering::Relaxed);
        ctx.this.store(SLOTS + slot * SLOT_SIZE, Ordering::Relaxed);
    }

    pub fn raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`; references to it don't outlive `self`.
        unsafe { libc::munmap(self.base.cast(), (SLOT_SIZE * SLOT_COUNT) as usize) };
    }
}

/// Who has which slot.
#[derive(Default)]
struct Allocation {
    used: BTreeSet<u64>,
    /// Where to look next: slots are reused late, so that a dying thread is surely gone.
    next: u64,
}

/// A stub process. Killed on drop.
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub slots: Slots,
    pub socket: OwnedFd,
    /// Number of the last command; held while a command runs.
    command: Mutex<u32>,
    /// The first thread has been started, in slot [`FIRST`], and nobody has taken it yet.
    first: AtomicBool,
    allocation: Mutex<Allocation>,
}

/// Processes that live, to tell a forged pid.
static PIDS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

impl Process {
    /// Takes charge of a child.
    pub fn adopt(pid: i32, slots: Slots, socket: OwnedFd) -> SysResult<Self> {
        let pidfd = host::pidfd_open(pid).map_err(|_| Errno::EAGAIN)?;
        // The number comes from guest-controlled memory: it must be a new child of ours.
        if !host::is_child(&pidfd) || !PIDS.lock().insert(pid) {
            return Err(Errno::EAGAIN);
        }
        let allocation = Allocation { used: BTreeSet::new(), next: FIRST };
        Ok(Self {
            pid,
            pidfd,
            slots,
            socket,
            command: Mutex::new(0),
            first: AtomicBool::new(false),
            allocation: Mutex::new(allocation),
        })
    }

    pub fn kill(&self) {
        host::pidfd_kill(&self.pidfd);
    }

    pub fn alive(&self) -> bool {
        host::pidfd_alive(&self.pidfd)
    }

    /// Waits until a word of the stub's becomes `value`.
    pub fn wait_word(&self, word: &std::sync::atomic::AtomicU32, value: u32) -> SysResult<()> {
        let start = Instant::now();
        if !sync::crowded(sync::monotonic_ns()) && sync::spin(SPIN_NS, || word.load(Ordering::Acquire) == value) {
            return Ok(());
        }
        loop {
            let seen = word.load(Ordering::Acquire);
            if seen == value {
                return Ok(());
            }
            host::futex_wait(word, seen, Duration::from_millis(500));
            if word.load(Ordering::Acquire) == value {
                return Ok(());
            }
            if !self.alive() {
                return Err(Errno::EAGAIN);
            }
            if start.elapsed() > PATIENCE {
                self.kill();
                return Err(Errno::EAGAIN);
            }
        }
    }

    fn run(&self, last: &mut u32, command: u32, arg: u32) -> SysResult<i32> {
        let ctx = self.slots.ctx(0);
        *last = last.wrapping_add(1);
        ctx.cmd.store(command, Ordering::Relaxed);
        ctx.cmd_arg.store(arg, Ordering::Relaxed);
        ctx.cmd_seq.store(*last, Ordering::Release);
        // It does its work where we wait for it: waking another CPU takes longer.
        host::move_here(self.pid);
        host::futex_wake(&ctx.cmd_seq);
        self.result(*last)
    }

    /// Waits for the end of command number `seq`.
    fn result(&self, seq: u32) -> SysResult<i32> {
        let ctx = self.slots.ctx(0);
        self.wait_word(&ctx.cmd_done, seq)?;
        let result = ctx.cmd_result.load(Ordering::Relaxed);
        if result < 0 { Err(Errno::EAGAIN) } else { Ok(result) }
    }

    /// Reserves a slot.
    pub fn take_slot(&self) -> SysResult<u64> {
        let mut allocation = self.allocation.lock();
        let start = allocation.next;
        let free = (start..SLOT_COUNT).chain(1..start).find(|slot| !allocation.used.contains(slot)).ok_or(Errno::EAGAIN)?;
        allocation.used.insert(free);
        allocation.next = if free + 1 < SLOT_COUNT { free + 1 } else { 1 };
        Ok(free)
    }

    pub fn release_slot(&self, slot: u64) {
        self.allocation.lock().used.remove(&slot);
    }

    /// Starts a thread in a slot that has been taken; returns its thread number.
    pub fn start_thread(&self, slot: u64) -> SysResult<i32> {
        let mut command = self.command.lock();
        let tid = if slot == FIRST && self.first.swap(false, Ordering::Relaxed) {
            self.result(1)?
        } else {
            self.slots.prepare(slot);
            self.run(&mut command, CMD_THREAD, slot as u32)?
        };
        host::move_freely(tid);
        Ok(tid)
    }

    /// Runs the operations that stand in slot 0.
    pub fn run_ops(&self) -> SysResult<()> {
        self.run(&mut self.command.lock(), CMD_OPS, 0).map(drop)
    }

    /// Forks the process, and starts the first thread of the new one. No operation may be on its way.
    pub fn fork(&self) -> SysResult<Self> {
        let slots = Slots::new()?;
        let (ours, theirs) = host::socketpair()?;
        let child = slots.ctx(0);
        for i in 0..MAX_FDS {
            child.fds[i].store(self.slots.ctx(0).fds[i].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        slots.prepare(FIRST);
        child.cmd.store(CMD_THREAD, Ordering::Relaxed);
        child.cmd_arg.store(FIRST as u32, Ordering::Relaxed);
        child.cmd_seq.store(1, Ordering::Release);
        let mut command = self.command.lock();
        host::send_fd(&self.socket, slots.raw_fd())?;
        host::send_fd(&self.socket, theirs.as_raw_fd())?;
        let pid = self.run(&mut command, CMD_FORK, 0)?;
        let child = Self::adopt(pid, slots, ours)?;
        *child.command.lock() = 1;
        child.first.store(true, Ordering::Relaxed);
        Ok(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        PIDS.lock().remove(&self.pid);
    }
}
