//! Guest address spaces: mappings, private pages, faults, copy on write.
//!
//! Two maps describe an address space: `vmas` says what should be where, `pages` which private frames are there already. Pages of files
//! that have not been written are the host file's own.
#![forbid(unsafe_code)]

mod access;
mod arena;
mod fault;
mod guard;
mod hole;
mod map;
mod patch;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::SysResult;
use auth::UserNamespace;
use platform::{AddressSpace, Platform, Prot};
use rangemap::{Piece, RangeMap};
use sync::Mutex;
use usermem::{HostFile, PAGE_SIZE};

pub use fault::FaultSignal;
pub use guard::Dumpable;
pub use map::{MapRequest, MmapFlags};

use crate::arena::Arena;
use crate::guard::Guard;
use crate::patch::Patches;

/// Mappings of one address space at most (vm.max_map_count).
const MAX_MAPS: usize = 65530;
/// How far a stack grows (RLIMIT_STACK's usual default).
const STACK_LIMIT: u64 = 8 << 20;

/// A file as mapped.
#[derive(Clone)]
pub struct MappedFile {
    pub file: Arc<HostFile>,
    /// For /proc/pid/maps.
    pub path: Arc<str>,
    pub dev: u64,
    pub ino: u64,
}

/// A mapping.
#[derive(Clone)]
struct Vma {
    prot: Prot,
    shared: bool,
    grows_down: bool,
    /// File and offset; anonymous private memory has none. Shared anonymous memory is a memory file.
    file: Option<(MappedFile, u64)>,
    name: &'static str,
}

impl Piece for Vma {
    fn advance(&mut self, by: u64) {
        if let Some((_, offset)) = &mut self.file {
            *offset += by;
        }
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        let same_file = match (&self.file, &next.file) {
            (None, None) => true,
            (Some((a, at)), Some((b, next_at))) => Arc::ptr_eq(&a.file, &b.file) && at.checked_add(len) == Some(*next_at),
            _ => false,
        };
        same_file && (self.prot, self.shared, self.grows_down, self.name) == (next.prot, next.shared, next.grows_down, next.name)
    }
}

/// Private frames.
#[derive(Clone, Copy, Debug)]
struct Page {
    frame: u64,
    /// The guest has a host mapping of it.
    mapped: bool,
}

impl Piece for Page {
    fn advance(&mut self, by: u64) {
        self.frame += by;
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        self.frame + len == next.frame && self.mapped == next.mapped
    }
}

#[derive(Clone, Default)]
struct State {
    vmas: RangeMap<Vma>,
    pages: RangeMap<Page>,
    brk: Range<u64>,
    /// Frames to give back when the operation with this number has been applied: the guest maps them until then.
    dying: Vec<(u64, u64, u64)>,
    patches: Patches,
}

/// Where things are for /proc.
#[derive(Clone, Debug, Default)]
pub struct ImageInfo {
    pub exe: Vec<u8>,
    pub args: Range<u64>,
    pub env: Range<u64>,
    pub auxv: Vec<u8>,
}

/// A line of /proc/pid/maps.
#[derive(Clone, Debug)]
pub struct MapInfo {
    pub range: Range<u64>,
    pub prot: Prot,
    pub shared: bool,
    pub offset: u64,
    pub dev: u64,
    pub ino: u64,
    pub name: String,
}

/// An address space and its host counterpart.
pub struct MemoryManager {
    id: u64,
    arena: Arc<Arena>,
    aspace: Arc<dyn AddressSpace>,
    state: Mutex<State>,
    pub info: Mutex<ImageInfo>,
    /// Kinds of barriers that this address space is registered for (`MEMBARRIER_CMD_REGISTER_*`).
    pub barriers: AtomicU32,
    guard: Guard,
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
        Ok(Arc::new(Self {
            id: next_id(),
            arena: Arena::new()?,
            aspace: platform.new_address_space()?,
            state: Mutex::default(),
            info: Mutex::default(),
            barriers: AtomicU32::new(0),
            guard: Guard::new(user_ns),
        }))
    }

    /// The platform's side.
    #[must_use]
    pub fn aspace(&self) -> &Arc<dyn AddressSpace> {
        &self.aspace
    }

    /// A copy for fork(2). Private pages become copy-on-write.
    ///
    /// # Errors
    /// `EAGAIN`, `ENOMEM` from the host.
    pub fn fork(&self) -> SysResult<Arc<Self>> {
        let mut state = self.state.lock();
        for (range, vma) in state.vmas.iter().filter(|(_, vma)| !vma.shared && vma.prot.contains(Prot::WRITE)) {
            for (part, page) in state.pages.within(range) {
                if page.mapped {
                    self.aspace.protect(part.start, part.end - part.start, vma.prot - Prot::WRITE);
                }
            }
        }
        let aspace = self.aspace.fork()?;
        self.reap(&mut state);
        for (range, page) in state.pages.iter() {
            self.arena.retain(page.frame, range.end - range.start);
        }
        let mut copy = state.clone();
        copy.dying.clear();
        Ok(Arc::new(Self {
            id: next_id(),
            arena: self.arena.clone(),
            aspace,
            state: Mutex::new(copy),
            info: Mutex::new(self.info.lock().clone()),
            barriers: AtomicU32::new(self.barriers.load(Ordering::Relaxed)),
            guard: self.guard.clone(),
        }))
    }

    /// Gives back what the guest no longer maps.
    fn reap(&self, state: &mut State) {
        if state.dying.is_empty() {
            return;
        }
        let applied = self.aspace.applied();
        state.dying.retain(|(seq, frame, len)| {
            let done = *seq <= applied;
            if done {
                self.arena.release(*frame, *len);
            }
            !done
        });
    }

    /// Forgets private pages of a range. The caller queues what takes them from the guest.
    fn drop_pages(&self, state: &mut State, range: Range<u64>) {
        let parts = state.pages.remove(range);
        let seq = self.aspace.queued() + 1;
        state.dying.extend(parts.iter().map(|(part, page)| (seq, page.frame, part.end - part.start)));
    }

    /// Lines of /proc/pid/maps.
    #[must_use]
    pub fn maps(&self) -> Vec<MapInfo> {
        let state = self.state.lock();
        let mut lines: Vec<_> = state
            .vmas
            .iter()
            .map(|(range, vma)| MapInfo {
                range,
                prot: vma.prot,
                shared: vma.shared,
                offset: vma.file.as_ref().map_or(0, |file| file.1),
                dev: vma.file.as_ref().map_or(0, |file| file.0.dev),
                ino: vma.file.as_ref().map_or(0, |file| file.0.ino),
                name: vma.file.as_ref().map_or_else(|| vma.name.to_owned(), |file| file.0.path.to_string()),
            })
            .collect();
        if let Some(range) = self.aspace.vdso() {
            let range = range.start..usermem::page_up(range.end).unwrap_or(range.end);
            let prot = Prot::READ | Prot::EXEC;
            lines.push(MapInfo { range, prot, shared: false, offset: 0, dev: 0, ino: 0, name: "[vdso]".into() });
        }
        lines
    }

    /// Bytes mapped and bytes of private pages.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state.lock();
        let sum = |total: u64, range: Range<u64>| total.saturating_add(range.end - range.start);
        (state.vmas.iter().map(|(range, _)| range).fold(0, sum), state.pages.iter().map(|(range, _)| range).fold(0, sum))
    }
}

impl Drop for MemoryManager {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        for (range, page) in state.pages.iter() {
            self.arena.release(page.frame, range.end - range.start);
        }
        for (_, frame, len) in &state.dying {
            self.arena.release(*frame, *len);
        }
    }
}

/// Whole pages that hold `len` bytes; `None` on overflow.
fn pages_of(len: u64) -> Option<u64> {
    usermem::page_up(len).filter(|len| len.is_multiple_of(PAGE_SIZE))
}
