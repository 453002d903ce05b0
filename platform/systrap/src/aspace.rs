//! A stub's address space: the queue of operations on it, and how they get there.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abi::{Errno, SysResult};
use platform::{AddressSpace, Context, MapKind, Prot, RseqFeatures, TRAMPOLINE_LEN, UserRegs};
use stub::layout::{MAX_FDS, MAX_OPS, OP_CLOSE, OP_DESCRIBE, OP_MAP, OP_PROTECT, OP_RECV, OP_UNMAP, Op, VDSO};
use sync::Mutex;
use usermem::HostFile;

use crate::context::GuestContext;
use crate::process::Process;
use crate::{USER, host, sites, zygote};

enum Item {
    Map { addr: u64, len: u64, file: Arc<HostFile>, offset: u64, prot: u32, flags: u32 },
    Unmap { addr: u64, len: u64 },
    Protect { addr: u64, len: u64, prot: u32 },
    Describe { len: u64 },
}

/// A batch that a thread of the stub has been told to run.
#[derive(Clone, Copy)]
struct Batch {
    slot: u64,
    /// Value of `ops_done` of the slot when it has been run.
    done: u64,
    /// Sequence number of its last operation.
    seq: u64,
}

thread_local! {
    /// The last operation that this thread has queued (address space and sequence number), if it may not have been applied yet.
    static OWED: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// Which host files the stub has descriptors of.
#[derive(Clone, Default)]
struct Files {
    /// Identity of the file at each index.
    ids: [Option<u64>; MAX_FDS],
    next: usize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    queued: u64,
    applied: u64,
    batch: Option<Batch>,
    files: Files,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An address space in a stub process.
pub struct Space {
    pub process: Arc<Process>,
    id: u64,
    queue: Mutex<Queue>,
    /// CPU time when it was last looked at: a process that has been killed tells no more.
    cpu_time: AtomicU64,
}

/// `write_volatile` of an operation into shared memory.
fn put(process: &Process, slot: u64, index: usize, op: Op) {
    let ops = process.slots.ctx(slot).ops.as_ptr().cast_mut();
    assert!(index < MAX_OPS);
    // SAFETY: inside the array, which is shared memory that only raw accesses touch.
    unsafe { ops.add(index).write_volatile(op) };
}

impl Space {
    pub fn new(process: Process) -> Self {
        Self {
            process: Arc::new(process),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            queue: Mutex::default(),
            cpu_time: AtomicU64::new(0),
        }
    }

    /// Whether operations wait to be applied.
    pub fn dirty(&self) -> bool {
        !self.queue.lock().items.is_empty()
    }

    /// The thread in `slot` has come back: its batch, if any, has been run.
    pub fn finish(&self, slot: u64) -> SysResult<()> {
        let mut queue = self.queue.lock();
        if let Some(batch) = queue.batch.take_if(|batch| batch.slot == slot) {
            queue.applied = batch.seq;
        }
        if self.process.slots.ctx(slot).ops_error.load(Ordering::Relaxed) < 0 {
            // The host could not do what was accounted for: this address space is no longer what the kernel believes.
            self.process.kill();
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Waits for the batch of another thread. Batches must not overlap: the order of operations matters.
    fn settle(&self, queue: &mut Queue) -> SysResult<()> {
        let Some(batch) = queue.batch else { return Ok(()) };
        let done = &self.process.slots.ctx(batch.slot).ops_done;
        let start = Instant::now();
        let mut tries = 0u32;
        while done.load(Ordering::Acquire) < batch.done {
            tries += 1;
            if tries < 50 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(100));
                if !self.process.alive() {
                    return Err(Errno::EAGAIN);
                }
                if start.elapsed() > Duration::from_secs(20) {
                    self.process.kill();
                    return Err(Errno::EAGAIN);
                }
            }
        }
        queue.applied = batch.seq;
        queue.batch = None;
        Ok(())
    }

    /// What this thread has queued is in the guest when its own stub thread goes on, or is about to be put there by that thread:
    /// it may be on its way with another one, and a mapping that is replaced must not be written to any more.
    fn collect_debt(&self, queue: &mut Queue) -> SysResult<()> {
        match OWED.take() {
            Some((id, seq)) if id == self.id && seq > queue.applied => self.settle(queue),
            _ => Ok(()),
        }
    }

    /// [`Self::fill`] for who has nothing to carry.
    ///
    /// # Errors
    /// When the stub is gone or hostile.
    pub fn catch_up(&self) -> SysResult<()> {
        if OWED.get().is_none() {
            return Ok(());
        }
        self.collect_debt(&mut self.queue.lock())
    }

    /// Moves operations from the queue into `slot`, and `last` behind all of them. Returns whether more are left.
    ///
    /// # Errors
    /// When the stub is gone or hostile.
    pub fn fill(&self, slot: u64, last: &mut Option<Op>) -> SysResult<bool> {
        let mut queue = self.queue.lock();
        if queue.items.is_empty() && last.is_none() {
            self.collect_debt(&mut queue)?;
            return Ok(false);
        }
        OWED.set(None);
        self.settle(&mut queue)?;
        let queue = &mut *queue;
        let mut count = 0;
        // An item takes three operations at most: close, receive, map.
        while count + 3 <= MAX_OPS
            && let Some(item) = queue.items.pop_front()
        {
            let op = match item {
                Item::Unmap { addr, len } => Op { code: OP_UNMAP, addr, len, ..Op::default() },
                Item::Describe { len } => Op { code: OP_DESCRIBE, len, ..Op::default() },
                Item::Protect { addr, len, prot } => Op { code: OP_PROTECT, prot, addr, len, ..Op::default() },
                Item::Map { addr, len, file, offset, prot, flags } => {
                    let index = self.descriptor(&mut queue.files, &file, slot, &mut count)?;
                    Op { code: OP_MAP, prot, flags, fd: index as u32, addr, len, off: offset }
                }
            };
            put(&self.process, slot, count, op);
            count += 1;
        }
        if queue.items.is_empty()
            && count < MAX_OPS
            && let Some(op) = last.take()
        {
            put(&self.process, slot, count, op);
            count += 1;
        }
        let ctx = self.process.slots.ctx(slot);
        let done = ctx.ops_done.load(Ordering::Acquire).wrapping_add(1);
        queue.batch = Some(Batch { slot, done, seq: queue.queued - queue.items.len() as u64 });
        ctx.nops.store(count as u32, Ordering::Release);
        Ok(!queue.items.is_empty() || last.is_some())
    }

    /// The index of `file`'s descriptor in the stub; sends it if the stub has none.
    fn descriptor(&self, files: &mut Files, file: &HostFile, slot: u64, count: &mut usize) -> SysResult<usize> {
        if let Some(index) = files.ids.iter().position(|id| *id == Some(file.id())) {
            return Ok(index);
        }
        let index = files.ids.iter().position(Option::is_none).unwrap_or(files.next);
        files.next = (index + 1) % MAX_FDS;
        if files.ids[index].is_some() {
            put(&self.process, slot, *count, Op { code: OP_CLOSE, fd: index as u32, ..Op::default() });
            *count += 1;
        }
        files.ids[index] = None;
        if host::send_fd(&self.process.socket, file.raw_fd()).is_err() {
            self.process.kill();
            return Err(Errno::EAGAIN);
        }
        put(&self.process, slot, *count, Op { code: OP_RECV, fd: index as u32, ..Op::default() });
        *count += 1;
        files.ids[index] = Some(file.id());
        Ok(index)
    }

    fn push(&self, item: Item) {
        let mut queue = self.queue.lock();
        queue.queued += 1;
        if let (
            Some(Item::Map { addr, len, file, offset, prot, flags }),
            Item::Map { addr: a, len: l, file: f, offset: o, prot: p, flags: g },
        ) = (queue.items.back_mut(), &item)
            && *addr + *len == *a
            && *offset + *len == *o
            && file.id() == f.id()
            && (*prot, *flags) == (*p, *g)
        {
            *len += *l;
            // Merged: the sequence counts items.
            queue.queued -= 1;
        } else {
            queue.items.push_back(item);
        }
        OWED.set(Some((self.id, queue.queued)));
    }

    fn push_map(&self, addr: u64, len: u64, file: &Arc<HostFile>, offset: u64, prot: Prot, kind: MapKind, populate: bool) {
        let sharing = match kind {
            MapKind::Shared => libc::MAP_SHARED,
            MapKind::PrivateRo => libc::MAP_PRIVATE,
        };
        let populate = if populate { libc::MAP_POPULATE } else { 0 };
        let flags = (sharing | libc::MAP_FIXED | populate).cast_unsigned();
        self.push(Item::Map { addr, len, file: file.clone(), offset, prot: prot.bits(), flags });
    }

    fn apply_all(&self) -> SysResult<()> {
        while self.dirty() {
            self.fill(0, &mut None)?;
            self.process.run_ops()?;
            self.finish(0)?;
        }
        self.settle(&mut self.queue.lock())
    }
}

impl AddressSpace for Space {
    fn is_alive(&self) -> bool {
        self.process.alive()
    }

    fn map(&self, addr: u64, len: u64, file: &Arc<HostFile>, offset: u64, prot: Prot, kind: MapKind) {
        self.push_map(addr, len, file, offset, prot, kind, false);
    }

    fn map_populated(&self, addr: u64, len: u64, file: &Arc<HostFile>, offset: u64, prot: Prot, kind: MapKind) {
        self.push_map(addr, len, file, offset, prot, kind, true);
    }

    fn unmap(&self, addr: u64, len: u64) {
        self.push(Item::Unmap { addr, len });
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        self.push(Item::Protect { addr, len, prot: prot.bits() });
    }

    fn describe(&self, arguments: &[u8]) {
        let title = &self.process.slots.ctx(0).title;
        for (word, bytes) in title.iter().zip(arguments.chunks(8)) {
            let mut whole = [0; 8];
            whole.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
        self.push(Item::Describe { len: arguments.len() as u64 });
    }

    fn queued(&self) -> u64 {
        self.queue.lock().queued
    }

    fn applied(&self) -> u64 {
        self.queue.lock().applied
    }

    fn flush(&self) {
        if self.apply_all().is_err() {
            self.process.kill();
        }
    }

    fn fork(&self) -> SysResult<Arc<dyn AddressSpace>> {
        self.apply_all()?;
        let child = self.process.fork()?;
        let files = self.queue.lock().files.clone();
        let queue = Queue { files, ..Queue::default() };
        Ok(Arc::new(Self { queue: Mutex::new(queue), ..Self::new(child) }))
    }

    fn new_context(self: Arc<Self>, regs: &UserRegs, fp: Option<&[u8]>) -> SysResult<Box<dyn Context>> {
        Ok(Box::new(GuestContext::new(self, regs, fp)?))
    }

    fn kill(&self) {
        self.cpu_time();
        self.process.kill();
    }

    fn cpu_time(&self) -> u64 {
        // The CPU-time clock of a process, as clock_getcpuclockid(3) computes it.
        let clock = (!self.process.pid << 3) | 2;
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to a local.
        unsafe { libc::clock_gettime(clock, &raw mut ts) };
        let now = ts.tv_sec.cast_unsigned() * 1_000_000_000 + ts.tv_nsec.cast_unsigned();
        now.max(self.cpu_time.fetch_max(now, Ordering::Relaxed))
    }

    fn user_range(&self) -> Range<u64> {
        USER
    }

    fn trampoline(&self, at: u64, instruction: [u8; 5], back: u64) -> Option<[u8; TRAMPOLINE_LEN]> {
        sites::trampoline(at, instruction, back, zygote::header().fast_entry)
    }

    fn vdso_image(&self) -> &[u8] {
        zygote::GUEST_VDSO
    }

    fn vdso(&self) -> Option<Range<u64>> {
        Some(VDSO..VDSO + zygote::vdso_len())
    }

    fn rseq(&self) -> Option<RseqFeatures> {
        host::rseq()
    }

    fn vsyscall(&self) -> Option<Range<u64>> {
        zygote::VSYSCALL.get().cloned()
    }
}
