//! Programs that are loaded (bpf(2)).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use auth::Kuid;
use ebpf::{Instruction, Program, Refusal};
use sync::{Mutex, monotonic_ns};

/// Instructions of all programs together, at most: what they are kept in, some 40 bytes each, is the sentry's memory. One as long as may be
/// fits.
const MAX_INSTRUCTIONS: usize = 1 << 20;

/// A program, alive as long as a descriptor or a control group has it.
pub struct BpfProgram {
    pub id: u32,
    pub name: [u8; 16],
    pub program: Program,
    /// When it was loaded, in monotonic time.
    pub loaded: u64,
    pub uid: Kuid,
    /// Its licence is one that Linux's is compatible with.
    pub gpl: bool,
    room: Room,
}

impl Drop for BpfProgram {
    fn drop(&mut self) {
        self.room.programs.table.lock().remove(&self.id);
    }
}

/// Room for instructions, taken from what there is.
pub struct Room {
    programs: Arc<Programs>,
    count: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.programs.instructions.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// All programs.
#[derive(Default)]
pub struct Programs {
    table: Mutex<BTreeMap<u32, Weak<BpfProgram>>>,
    instructions: AtomicUsize,
    /// Held by who verifies a program, which takes up to 20 MiB for what is known of its branches.
    verifier: Mutex<()>,
}

impl Programs {
    /// Room for a program that is to be loaded.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn reserve(self: &Arc<Self>, count: usize) -> SysResult<Room> {
        let take = |used: usize| used.checked_add(count).filter(|used| *used <= MAX_INSTRUCTIONS);
        self.instructions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| Errno::ENOMEM)?;
        Ok(Room { programs: self.clone(), count })
    }

    /// Verifies a program, one at a time.
    ///
    /// # Errors
    /// As [`ebpf::Program::check`].
    pub fn check(&self, source: &[Instruction]) -> Result<Program, Refusal> {
        let _turn = self.verifier.lock();
        Program::check(source)
    }

    /// Adds a program, which gets a number.
    ///
    /// # Errors
    /// `ENOSPC` when there is none left.
    pub fn add(&self, room: Room, program: Program, name: [u8; 16], uid: Kuid, gpl: bool) -> SysResult<Arc<BpfProgram>> {
        let mut table = self.table.lock();
        let last = table.last_key_value().map_or(0, |(id, _)| *id);
        // The next one; when those are used up, one that is free again.
        let id = last.checked_add(1).or_else(|| (1..last).find(|id| !table.contains_key(id))).ok_or(Errno::ENOSPC)?;
        let new = Arc::new(BpfProgram { id, name, program, loaded: monotonic_ns(), uid, gpl, room });
        table.insert(id, Arc::downgrade(&new));
        Ok(new)
    }

    /// The program with a number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Arc<BpfProgram>> {
        self.table.lock().get(&id)?.upgrade()
    }

    /// The first number after another.
    #[must_use]
    pub fn after(&self, id: u32) -> Option<u32> {
        let first = id.checked_add(1)?;
        self.table.lock().range(first..).next().map(|(id, _)| *id)
    }
}
