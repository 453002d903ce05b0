//! Guest address spaces: mappings, private pages, faults, copy on write.
//!
//! Two maps describe an address space: `vmas` says what should be where, `pages` which private frames are there already. Pages of files
//! that have not been written are the host file's own.
#![forbid(unsafe_code)]

mod access;
mod advise;
mod arena;
mod core;
mod fault;
mod grace;
mod guard;
mod hole;
mod lock;
mod map;
mod patch;
mod pin;
mod protect;
mod remap;
mod remote;
mod usage;
mod vma;

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::SysResult;
use auth::UserNamespace;
use platform::{AddressSpace, MapKind, Platform, Prot};
use rangemap::{Piece, RangeMap};
use sync::Mutex;
use usermem::{PAGE_SIZE, budget};

pub use core::{CoreSegment, DEFAULT_CORE_FILTER};
pub use fault::Fault;
pub use guard::Dumpable;
pub use map::{Limits, MapRequest, MmapFlags};
pub use remote::Traced;
pub use usage::{MapInfo, Residency, Usage};
pub use vma::{MappedFile, Policy, Totals};

use crate::arena::Arena;
use crate::grace::Grace;
use crate::guard::Guard;
use crate::patch::Patches;
use crate::pin::uncopied;
use crate::vma::{Backing, Vma, VmaFlags, Vmas};

/// Mappings of one address space at most (vm.max_map_count).
const MAX_MAPS: usize = 65530;
/// How far a stack grows unless told otherwise (RLIMIT_STACK's usual default).
const STACK_LIMIT: u64 = 8 << 20;
/// Left to the stack above where mappings are placed.
const STACK_ROOM: u64 = 4 << 30;
/// Bytes that fork(2) copies instead of having them copied when they are written; bytes of one run, used or not; pieces that are used.
const MAX_AHEAD: u64 = 64 * PAGE_SIZE;
const MAX_RUN_AHEAD: u64 = 2 << 20;
const MAX_PIECES: usize = 16;
/// Bits of chance, in pages, in where mappings are placed (`vm.mmap_rnd_bits`).
const RANDOM_BITS: u32 = 28;

/// What the guest's page tables hold of private pages, or will once queued operations have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Nothing.
    No,
    /// Something that can't be written: protection doesn't allow it, or a write must make a copy first.
    ReadOnly,
    /// Something that can be written; no other address space has these frames then.
    Writable,
}

/// Private frames.
#[derive(Clone, Copy, Debug)]
struct Page {
    frame: u64,
    shown: Shown,
}

impl Piece for Page {
    fn advance(&mut self, by: u64) {
        self.frame += by;
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        self.frame + len == next.frame && self.shown == next.shown
    }
}

/// A run of pages that a fork has copied already.
struct Ahead {
    range: Range<u64>,
    frame: u64,
}

/// What has been taken out of an address space and can't be given back yet.
#[derive(Clone)]
struct Dying {
    /// The guest has it until the operation with this number has been applied.
    seq: u64,
    /// The sentry's own copies may use it until this epoch has passed.
    epoch: u64,
    what: Remains,
}

#[derive(Clone)]
enum Remains {
    Frames {
        frame: u64,
        len: u64,
    },
    /// Held for its sake only.
    File {
        _backing: Arc<Backing>,
    },
}

#[derive(Clone, Default)]
struct State {
    vmas: Vmas,
    pages: RangeMap<Page>,
    brk: Range<u64>,
    dying: Vec<Dying>,
    patches: Patches,
    /// What mappings made from now on are besides what they are asked to be (mlockall(2), `MCL_FUTURE`).
    future: VmaFlags,
    /// Mappings are placed below.
    top: u64,
    /// The largest size so far.
    peak: u64,
    /// Addresses of pages that the host writes to; those of several areas several times.
    pinned: Vec<u64>,
}

/// Where things are for /proc.
#[derive(Clone, Debug, Default)]
pub struct ImageInfo {
    pub exe: Vec<u8>,
    pub args: Range<u64>,
    pub env: Range<u64>,
    pub auxv: Vec<u8>,
}

/// An address space and its host counterpart.
pub struct MemoryManager {
    id: u64,
    arena: Arc<Arena>,
    aspace: Arc<dyn AddressSpace>,
    state: Mutex<State>,
    grace: Grace,
    /// Something is in `State::dying`.
    reapable: AtomicBool,
    /// RLIMIT_STACK of the process.
    stack_limit: AtomicU64,
    /// The largest residency that anybody has asked for.
    resident_peak: AtomicU64,
    pub info: Mutex<ImageInfo>,
    /// Kinds of barriers that this address space is registered for (`MEMBARRIER_CMD_REGISTER_*`).
    pub barriers: AtomicU32,
    /// What io_setup(2) has made, by the ring's file.
    pub aio: Mutex<BTreeMap<u64, Arc<dyn Any + Send + Sync>>>,
    guard: Guard,
    /// What a core dump shows (/proc/pid/coredump_filter).
    pub core_filter: AtomicU32,
    /// How many of its tasks are traced: nothing is rewritten meanwhile.
    traced: AtomicU32,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl MemoryManager {
    /// An empty address space of a program that belongs to a user namespace.
    ///
    /// # Errors
    /// `EAGAIN`, `ENOMEM` from the host.
    pub fn new(platform: &dyn Platform, user_ns: Arc<UserNamespace>) -> SysResult<Arc<Self>> {
        let aspace = platform.new_address_space()?;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let shift = (u64::from_le_bytes(random) >> (64 - RANDOM_BITS)) * PAGE_SIZE;
        let top = aspace.user_range().end - STACK_ROOM - shift;
        Ok(Arc::new(Self {
            id: next_id(),
            arena: Arena::new()?,
            aspace,
            state: Mutex::new(State { top, ..State::default() }),
            grace: Grace::default(),
            reapable: AtomicBool::new(false),
            stack_limit: AtomicU64::new(STACK_LIMIT),
            resident_peak: AtomicU64::new(0),
            info: Mutex::default(),
            barriers: AtomicU32::new(0),
            aio: Mutex::default(),
            guard: Guard::new(user_ns),
            core_filter: AtomicU32::new(DEFAULT_CORE_FILTER),
            traced: AtomicU32::new(0),
        }))
    }

    /// The platform's side.
    #[must_use]
    pub fn aspace(&self) -> &Arc<dyn AddressSpace> {
        &self.aspace
    }

    /// How far stacks may grow from now on (RLIMIT_STACK).
    pub fn set_stack_limit(&self, bytes: u64) {
        self.stack_limit.store(bytes, Ordering::Relaxed);
    }

    /// A copy for fork(2). Private pages become copy-on-write. `alone`: no other thread writes to it meanwhile.
    ///
    /// Of what others write, the copy has what came first: who writes to a page that is protected already waits until all is done. Pages that
    /// can't be protected are copied last therefore, and none before.
    ///
    /// # Errors
    /// `EAGAIN`, `ENOMEM` from the host.
    pub fn fork(&self, alone: bool) -> SysResult<Arc<Self>> {
        let mut state = self.state.lock();
        self.reap(&mut state);
        let mut copies = if alone { self.copy_ahead(&state) } else { Vec::new() };
        let pinned = self.reserve_pinned(&state, &mut copies);
        let forked = pinned.and_then(|pinned| {
            self.write_protect(&mut state, &copies);
            let aspace = self.aspace.fork()?;
            self.copy_pinned(&pinned, alone)?;
            Ok(aspace)
        });
        let aspace = match forked {
            Ok(aspace) => aspace,
            Err(errno) => {
                copies.iter().for_each(|copy| self.arena.release(copy.frame, copy.range.end - copy.range.start));
                return Err(errno);
            }
        };
        let mut copy = state.clone();
        copy.dying.clear();
        copy.pinned.clear();
        for ahead in &copies {
            copy.pages.remove(ahead.range.clone());
        }
        copy.future = VmaFlags::empty();
        for (part, vma) in state.vmas.iter().filter(|(_, vma)| vma.flags.intersects(NOT_INHERITED)) {
            if vma.flags.contains(VmaFlags::DONT_FORK) {
                copy.vmas.remove(part.clone());
                copy.pages.remove(part.clone());
                aspace.unmap(part.start, part.end - part.start);
                continue;
            }
            if vma.flags.contains(VmaFlags::WIPE_ON_FORK) {
                copy.pages.remove(part.clone());
                aspace.unmap(part.start, part.end - part.start);
            }
            let mut vma = vma.clone();
            vma.flags.remove(VmaFlags::LOCKED | VmaFlags::ON_FAULT);
            copy.vmas.insert(part, vma);
        }
        copy.vmas.count_for_child();
        copy.peak = copy.vmas.totals.all;
        self.arena.retain(copy.pages.iter().map(|(range, page)| (page.frame, range.end - range.start)));
        for Ahead { range, frame } in copies {
            for (part, vma) in copy.vmas.within(range.clone()) {
                let from = frame + (part.start - range.start);
                aspace.map(part.start, part.end - part.start, &self.arena.file, from, vma.access(), MapKind::Shared);
            }
            copy.pages.insert(range, Page { frame, shown: Shown::Writable });
        }
        drop(state);
        Ok(Arc::new(Self {
            id: next_id(),
            arena: self.arena.clone(),
            aspace,
            state: Mutex::new(copy),
            grace: Grace::default(),
            reapable: AtomicBool::new(false),
            stack_limit: AtomicU64::new(self.stack_limit.load(Ordering::Relaxed)),
            resident_peak: AtomicU64::new(0),
            info: Mutex::new(self.info.lock().clone()),
            barriers: AtomicU32::new(self.barriers.load(Ordering::Relaxed)),
            // A child starts without (io_setup(2)).
            aio: Mutex::default(),
            guard: self.guard.clone(),
            core_filter: AtomicU32::new(self.core_filter.load(Ordering::Relaxed)),
            traced: AtomicU32::new(0),
        }))
    }

    /// Copies, for a fork, what both sides are about to write: small runs of pages that are written to, such as a library's data, the stack of
    /// a thread, a small heap. A fault for each would cost far more than that. Returns nothing where memory is short.
    fn copy_ahead(&self, state: &State) -> Vec<Ahead> {
        let mut copies = Vec::new();
        let mut left = MAX_AHEAD;
        for (range, page) in state.pages.iter().filter(|(_, page)| page.shown == Shown::Writable) {
            let len = range.end - range.start;
            if len > MAX_RUN_AHEAD || budget::is_tight() {
                continue;
            }
            let Ok(pieces) = self.arena.file.data(page.frame..page.frame + len, MAX_PIECES) else { continue };
            let used: u64 = pieces.iter().map(|(_, len)| len).sum();
            let plain = |(_, vma): &(Range<u64>, Vma)| !vma.flags.intersects(NOT_INHERITED);
            if used > left || !state.vmas.within(range.clone()).iter().all(plain) {
                continue;
            }
            let Ok((frame, count)) = self.arena.allocate(len / PAGE_SIZE) else { break };
            let copied = |(at, len): &(u64, u64)| {
                self.copy_frames(frame + (at - page.frame), |done, len| self.arena.file.segment(at + done, len), *len) == *len
            };
            if count * PAGE_SIZE < len || !pieces.iter().all(copied) {
                self.arena.release(frame, count * PAGE_SIZE);
                continue;
            }
            left -= used;
            copies.push(Ahead { range, frame });
        }
        copies
    }

    /// Takes from the guest what lets it write private pages, but for those of `copies`: only what it can write now is touched.
    fn write_protect(&self, state: &mut State, copies: &[Ahead]) {
        let writable = state.pages.iter().filter(|(_, page)| page.shown == Shown::Writable);
        let writable: Vec<(Range<u64>, Page)> = writable.flat_map(|(range, page)| uncopied((range, *page), copies)).collect();
        // Neighbours with one protection go together, whatever frames they have.
        let mut pending: Option<(Range<u64>, Prot)> = None;
        let flush = |pending: Option<(Range<u64>, Prot)>| {
            if let Some((range, prot)) = pending {
                self.aspace.protect(range.start, range.end - range.start, prot - Prot::WRITE);
            }
        };
        for (range, page) in writable {
            for (part, vma) in state.vmas.within(range.clone()) {
                match &mut pending {
                    Some((range, prot)) if range.end == part.start && *prot == vma.prot => range.end = part.end,
                    _ => flush(pending.replace((part, vma.prot))),
                }
            }
            state.pages.insert(range, Page { shown: Shown::ReadOnly, ..page });
        }
        flush(pending);
    }

    /// The last task is about to end: who counts mappings (shared memory segments, seals) is told now, not when the rest goes.
    pub fn let_go(&self) {
        let mut state = self.state.lock();
        let hooked = |vma: &Vma| vma.file.as_ref().is_some_and(|(backing, _)| backing.mapped.hook.is_some());
        let ranges: Vec<_> = state.vmas.iter().filter(|(_, vma)| hooked(vma)).map(|(range, _)| range).collect();
        let gone: Vec<_> = ranges.into_iter().map(|range| state.vmas.remove(range)).collect();
        drop(state);
        drop(gone);
    }

    /// Gives back what nobody uses any more.
    fn reap(&self, state: &mut State) {
        if state.dying.is_empty() {
            return;
        }
        let applied = self.aspace.applied();
        state.dying.retain(|dying| {
            let done = dying.seq <= applied && self.grace.passed(dying.epoch);
            if done && let Remains::Frames { frame, len } = dying.what {
                self.arena.release(frame, len);
            }
            !done
        });
        self.reapable.store(!state.dying.is_empty(), Ordering::Relaxed);
    }

    /// Gives back what nobody uses any more, if there is any. Cheap when there is none: called on every way out of the guest.
    pub fn tidy(&self) {
        if self.reapable.load(Ordering::Relaxed) {
            self.reap(&mut self.state.lock());
        }
    }

    /// Forgets private pages of a range. The caller queues what takes them from the guest.
    fn drop_pages(&self, state: &mut State, range: Range<u64>) {
        for (part, page) in state.pages.remove(range) {
            self.bury(state, Remains::Frames { frame: page.frame, len: part.end - part.start });
        }
    }

    /// Keeps what has been taken out until nobody can be using it.
    fn bury(&self, state: &mut State, what: Remains) {
        state.dying.push(Dying { seq: self.aspace.queued() + 1, epoch: self.grace.now(), what });
        self.reapable.store(true, Ordering::Relaxed);
    }

    /// Takes mappings out of a range; their pages are dealt with by the caller.
    fn drop_vmas(&self, state: &mut State, range: Range<u64>) {
        for (_, vma) in state.vmas.remove(range) {
            if let Some((backing, _)) = vma.file {
                self.bury(state, Remains::File { _backing: backing });
            }
        }
    }
}

/// What makes fork(2) treat a mapping in its own way.
const NOT_INHERITED: VmaFlags = VmaFlags::DONT_FORK.union(VmaFlags::WIPE_ON_FORK).union(VmaFlags::LOCKED);

impl Drop for MemoryManager {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        for (range, page) in state.pages.iter() {
            self.arena.release(page.frame, range.end - range.start);
        }
        for dying in &state.dying {
            if let Remains::Frames { frame, len } = dying.what {
                self.arena.release(frame, len);
            }
        }
    }
}

/// Whole pages that hold `len` bytes; `None` on overflow.
fn pages_of(len: u64) -> Option<u64> {
    usermem::page_up(len).filter(|len| len.is_multiple_of(PAGE_SIZE))
}
