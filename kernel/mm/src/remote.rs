//! Access to an address space by others than its own tasks: debuggers, /proc/pid/mem, process_vm_readv(2), core dumps.
//!
//! They see and write the program's own bytes: what has been rewritten for the platform's sake ([`crate::patch`]) is translated when it is
//! read, and undone where it is written. While somebody traces the program nothing is rewritten, so that it can be stepped through.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use platform::Prot;
use usermem::{PAGE_SIZE, page_down};

use crate::vma::{Vma, VmaFlags};
use crate::{MemoryManager, State};

/// Somebody traces a task of this address space, as long as this lives.
pub struct Traced(Arc<MemoryManager>);

impl Drop for Traced {
    fn drop(&mut self) {
        self.0.traced.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A part of a range that lies in one page.
fn in_page(addr: u64, len: usize) -> u64 {
    (len as u64).min(PAGE_SIZE - addr % PAGE_SIZE)
}

impl MemoryManager {
    /// Undoes what has been rewritten, and rewrites nothing more while the result lives. `alone`: only one thread runs in this address
    /// space, and that isn't running now.
    #[must_use]
    pub fn begin_trace(self: &Arc<Self>, alone: bool) -> Traced {
        let mut state = self.state.lock();
        self.traced.fetch_add(1, Ordering::SeqCst);
        self.unpatch(&mut state, 0..u64::MAX, alone);
        drop(state);
        Traced(self.clone())
    }

    /// Reads as much as is there; returns how much. `force`: also what the program itself may not read.
    ///
    /// # Errors
    /// `EFAULT` when the first byte isn't there.
    pub fn read_remote(&self, addr: u64, bytes: &mut [u8], force: bool) -> SysResult<usize> {
        let _inside = self.grace.enter();
        let state = self.state.lock();
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let len = in_page(at, rest.len()) as usize;
            let Some(part) = rest.get_mut(..len) else { break };
            if self.read_page(&state, at, part, force).is_err() {
                break;
            }
            done += len;
        }
        if done == 0 && !bytes.is_empty() { Err(Errno::EFAULT) } else { Ok(done) }
    }

    fn read_page(&self, state: &State, addr: u64, bytes: &mut [u8], force: bool) -> SysResult<()> {
        let Some((range, vma)) = state.vmas.get(addr) else { return self.read_vdso(addr, bytes) };
        if vma.flags.contains(VmaFlags::GUARD) || !force && !vma.prot.contains(Prot::READ) {
            return Err(Errno::EFAULT);
        }
        if vma.file.is_none() && state.pages.get(addr).is_none() {
            bytes.fill(0);
            return Ok(());
        }
        self.peek(state, addr, &range, vma, bytes)?;
        state.patches.show_original(addr, bytes);
        Ok(())
    }

    /// The platform's own code, which is no mapping of the program's.
    fn read_vdso(&self, addr: u64, bytes: &mut [u8]) -> SysResult<()> {
        let there = |range: &Range<u64>| (range.start..usermem::page_up(range.end).unwrap_or(range.end)).contains(&addr);
        let at = self.aspace.vdso().filter(there).map(|range| addr - range.start).ok_or(Errno::EFAULT)?;
        let image = usize::try_from(at).ok().and_then(|at| self.aspace.vdso_image().get(at..)).unwrap_or_default();
        bytes.fill(0);
        bytes.iter_mut().zip(image).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    /// Writes as much as can be written; returns how much. `force`: private memory that the program itself may not write, too: a copy is
    /// made then.
    ///
    /// # Errors
    /// `EFAULT` when the first byte can't be written.
    pub fn write_remote(&self, addr: u64, bytes: &[u8], force: bool) -> SysResult<usize> {
        let mut state = self.state.lock();
        self.reap(&mut state);
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let len = in_page(at, rest.len()) as usize;
            let written = self.write_page(&mut state, at, rest.get(..len).unwrap_or_default(), force);
            if written.is_err() {
                break;
            }
            done += len;
        }
        if done == 0 && !bytes.is_empty() { Err(Errno::EFAULT) } else { Ok(done) }
    }

    fn write_page(&self, state: &mut State, addr: u64, bytes: &[u8], force: bool) -> SysResult<()> {
        let (range, vma) = state.vmas.get(addr).map(|(range, vma)| (range, vma.clone())).ok_or(Errno::EFAULT)?;
        let allowed = vma.prot.contains(Prot::WRITE) || force && !vma.shared();
        if !allowed || vma.flags.contains(VmaFlags::GUARD) {
            return Err(Errno::EFAULT);
        }
        if vma.shared() {
            return self.write_shared(addr, bytes, &range, &vma);
        }
        let page = page_down(addr);
        self.unpatch(state, page.saturating_sub(PAGE_SIZE)..page.saturating_add(PAGE_SIZE), true);
        let frame = self.own_page(state, page, &range, &vma)?;
        self.arena.file.segment(frame + (addr - page), bytes.len() as u64)?.write(bytes)
    }

    fn write_shared(&self, addr: u64, bytes: &[u8], range: &Range<u64>, vma: &Vma) -> SysResult<()> {
        let (backing, offset) = vma.file.as_ref().ok_or(Errno::EFAULT)?;
        if !backing.file().writable() {
            return Err(Errno::EFAULT);
        }
        backing.file().segment(offset + (addr - range.start), bytes.len() as u64)?.write(bytes)
    }

    /// Where the program is that is said to be at `rip`: one that was interrupted on a trampoline is at the site that led there.
    #[must_use]
    pub fn original_rip(&self, rip: u64) -> u64 {
        let state = self.state.lock();
        self.site_of(&state, rip).unwrap_or(rip)
    }
}
