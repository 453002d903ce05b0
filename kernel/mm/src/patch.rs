//! Rewriting hot call sites: jumps that lead to a trampoline nearby, which goes on by the platform's fast way.
//!
//! There are two ways to place a jump. *By a hole*: `syscall`, two bytes, becomes a short jump to five bytes that nobody executes, where a
//! jump to the trampoline stands ([`crate::hole`]). *By the instruction before*: `mov $number, %eax` and the like have five bytes, the
//! jump takes their place, and the trampoline does what they did; the `syscall` stays, for who jumps to it.
//!
//! Only private mappings that the guest may execute but not write are touched, a page copied first if it isn't the guest's own. The
//! rewritten bytes are what the guest finds when it reads its code.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use platform::{Prot, TRAMPOLINE_LEN};
use usermem::{PAGE_SIZE, page_down};

use crate::vma::{Vma, VmaFlags};
use crate::{MemoryManager, Policy, State, hole};

/// Bytes of `syscall`, and of the instruction before it or a near jump.
const SYSCALL: u64 = 2;
const MOV: u64 = 5;
/// A do-nothing in place of the instruction before a site.
const NOTHING: [u8; MOV as usize] = [0x0f, 0x1f, 0x44, 0, 0];
/// `mov 8(%rsp), %r9`: the last argument in the C library's syscall(3).
const LAST_ARGUMENT: [u8; MOV as usize] = [0x4c, 0x8b, 0x4c, 0x24, 0x08];
/// Trampolines of one page.
const PER_PAGE: u64 = PAGE_SIZE / TRAMPOLINE_LEN as u64;
/// Pages of trampolines of one address space at most.
const MAX_PAGES: usize = 64;
/// Sites that are remembered at most: a guest that keeps taking its trampolines away could have us remember ever more.
const MAX_SITES: usize = 1 << 15;
/// How far from a site its trampoline may be: a jump reaches two gigabytes.
const REACH: u64 = (1 << 31) - (1 << 20);
/// Name of their mappings in /proc/pid/maps.
pub(crate) const NAME: &str = "[trampolines]";

/// What has been rewritten in an address space.
#[derive(Clone, Default)]
pub(crate) struct Patches {
    /// Pages of trampolines and how many each holds.
    pages: Vec<(u64, u64)>,
    /// Rewritten sites, by the address of their jump.
    sites: BTreeMap<u64, Site>,
    /// Number of the queued operation that maps the newest page: no jump leads there before it has been applied.
    mapped_by: u64,
}

impl Patches {
    /// Puts the program's own bytes in the place of what has been rewritten, in bytes that were read at `addr`.
    pub(crate) fn show_original(&self, addr: u64, bytes: &mut [u8]) {
        if self.sites.is_empty() {
            return;
        }
        let end = addr.saturating_add(bytes.len() as u64);
        let near = page_down(addr).saturating_sub(MOV)..page_down(end).saturating_add(PAGE_SIZE);
        for (at, site) in self.sites.range(near) {
            // It may have been replaced since: then there is no jump.
            let jump = |opcode: u8| at.checked_sub(addr).and_then(|at| bytes.get(at as usize)).is_none_or(|byte| *byte == opcode);
            match site {
                Site::Before(old) if jump(0xe9) => overlay(addr, bytes, *at, old),
                Site::Hole(hole, old) if jump(0xeb) => {
                    overlay(addr, bytes, *at, &[0x0f, 0x05]);
                    overlay(addr, bytes, *hole, old);
                }
                _ => {}
            }
        }
    }
}

/// Puts `old`, which stands at `at`, over bytes that stand at `addr`, as far as they meet.
fn overlay(addr: u64, bytes: &mut [u8], at: u64, old: &[u8]) {
    for (to, byte) in (at..).zip(old) {
        if let Some(place) = to.checked_sub(addr).and_then(|to| bytes.get_mut(to as usize)) {
            *place = *byte;
        }
    }
}

/// How a site was rewritten.
#[derive(Clone, Copy)]
enum Site {
    /// The instruction that stood there.
    Before([u8; MOV as usize]),
    /// Where the hole is, in the same page, and what was in it.
    Hole(u64, [u8; MOV as usize]),
}

impl MemoryManager {
    /// Rewrites the call site whose `syscall` ends at `rip`, if it is one that can be. `alone`: no other thread runs in this address
    /// space, so that the bytes needn't change at once.
    ///
    /// # Errors
    /// `EAGAIN`: next time; others: it can't be.
    pub fn patch_site(&self, rip: u64, nr: u64, alone: bool) -> SysResult<()> {
        let nr = u32::try_from(nr).map_err(|_| Errno::EINVAL)?;
        let call = rip.checked_sub(SYSCALL).ok_or(Errno::EFAULT)?;
        let mut state = self.state.lock();
        if self.traced.load(Ordering::SeqCst) != 0 {
            return Err(Errno::EAGAIN);
        }
        self.reap(&mut state);
        let (range, vma) = state.vmas.get(call).map(|(range, vma)| (range, vma.clone())).ok_or(Errno::EFAULT)?;
        if vma.shared() || vma.prot.contains(Prot::WRITE) || !vma.prot.contains(Prot::EXEC) || vma.name == NAME {
            return Err(Errno::EINVAL);
        }
        if state.patches.sites.len() >= MAX_SITES {
            return Err(Errno::ENOMEM);
        }
        // Holes are for those that have no other way: each serves but one.
        match self.patch_before(&mut state, call, nr, alone, &range, &vma) {
            Err(Errno::EINVAL | Errno::EFAULT) => self.patch_by_hole(&mut state, call, &range, &vma),
            result => result,
        }
    }

    /// By a hole in the same page. `EINVAL` when there is none, or the two bytes of `call` don't change at once.
    fn patch_by_hole(&self, state: &mut State, call: u64, range: &Range<u64>, vma: &Vma) -> SysResult<()> {
        let page = page_down(call);
        let mut code = [0; PAGE_SIZE as usize];
        let rip = call.wrapping_add(SYSCALL);
        let within = (call - page) as usize;
        if call % 16 == 15 {
            return Err(Errno::EINVAL);
        }
        // The end of a file may lie in the page: what can't be read can't be used either.
        self.peek(state, page, range, vma, &mut code).map_err(|_| Errno::EINVAL)?;
        if code.get(within..within + 2) != Some(&[0x0f, 0x05]) {
            return Err(Errno::EINVAL);
        }
        let (at, short) = hole::near(&code, within + SYSCALL as usize).ok_or(Errno::EINVAL)?;
        let hole = page + at as u64;
        let old = code.get(at..).and_then(|code| code.first_chunk()).copied().ok_or(Errno::EINVAL)?;
        let trampoline = self.trampoline(state, hole, rip, NOTHING)?;
        let jump = near_jump(hole, trampoline)?;
        let frame = self.own_page(state, page, range, vma)?;
        // Nobody jumps into the hole before the second write, and who comes through it is led on whatever it says.
        self.arena.file.segment(frame + (hole - page), MOV)?.write(&jump)?;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let at = frame + (call - page);
        self.arena.file.segment(at & !15, 16)?.write_at_once((at % 16) as usize, &[0xeb, short])?;
        state.patches.sites.insert(call, Site::Hole(hole, old));
        Ok(())
    }

    /// By the instruction before `call`.
    fn patch_before(&self, state: &mut State, call: u64, nr: u32, alone: bool, range: &Range<u64>, vma: &Vma) -> SysResult<()> {
        let site = call.checked_sub(MOV).filter(|site| range.contains(site)).ok_or(Errno::EFAULT)?;
        let (page, rip) = (page_down(site), call.wrapping_add(SYSCALL));
        // Two neighbouring words change at once at most.
        if !alone && site % 16 + MOV > 16 || page != page_down(rip - 1) {
            return Err(Errno::EINVAL);
        }
        let mut old = [0; (MOV + SYSCALL) as usize];
        self.peek(state, site, range, vma, &mut old)?;
        let [i0, i1, i2, i3, i4, 0x0f, 0x05] = old else { return Err(Errno::EINVAL) };
        let instruction = [i0, i1, i2, i3, i4];
        // Either `mov $nr, %eax` or the other known one: both do the same wherever they stand.
        if !(i0 == 0xb8 && u32::from_le_bytes([i1, i2, i3, i4]) == nr || instruction == LAST_ARGUMENT) {
            return Err(Errno::EINVAL);
        }
        let at = self.trampoline(state, site, rip, instruction)?;
        let jump = near_jump(site, at)?;
        let frame = self.own_page(state, page, range, vma)?;
        self.poke(frame + (site - page), &jump)?;
        state.patches.sites.insert(site, Site::Before(instruction));
        Ok(())
    }

    /// Undoes what has been rewritten in a range: it is going to be moved, and jumps are relative; or somebody else wants to see or write
    /// the program's own bytes. Unless `alone`, what can't change at once stays: a thread may be about to execute it.
    pub(crate) fn unpatch(&self, state: &mut State, range: Range<u64>, alone: bool) {
        let sites: Vec<_> = state.patches.sites.range(range).map(|(site, old)| (*site, *old)).collect();
        for (at, site) in sites {
            if !alone && matches!(site, Site::Before(_)) && at % 16 + MOV > 16 {
                continue;
            }
            state.patches.sites.remove(&at);
            let Some((range, vma)) = state.vmas.get(at).map(|(range, vma)| (range, vma.clone())) else { continue };
            let mut now = [0; 1];
            let opcode = if matches!(site, Site::Hole(..)) { 0xeb } else { 0xe9 };
            // It may have been replaced since.
            if self.peek(state, at, &range, &vma, &mut now).is_err() || now != [opcode] {
                continue;
            }
            let page = page_down(at);
            // Without memory for a copy the guest keeps the jump, and ends by it.
            let Ok(frame) = self.own_page(state, page, &range, &vma) else { continue };
            let _ = match site {
                Site::Before(old) => self.poke(frame + (at - page), &old),
                Site::Hole(hole, old) => self
                    .arena
                    .file
                    .segment(frame + (at - page), SYSCALL)
                    .and_then(|segment| segment.write(&[0x0f, 0x05]))
                    .and_then(|()| self.poke(frame + (hole - page), &old)),
            };
        }
    }

    /// The site whose trampoline `rip` is on.
    pub(crate) fn site_of(&self, state: &State, rip: u64) -> Option<u64> {
        let at_hole = |(at, site): (&u64, &Site)| matches!(site, Site::Hole(hole, _) if *hole == rip).then_some(*at);
        let page = page_down(rip);
        if !state.patches.pages.iter().any(|(at, _)| *at == page) {
            return state.patches.sites.range(page..page.saturating_add(PAGE_SIZE)).find_map(at_hole);
        }
        let (range, vma) = state.vmas.get(rip).filter(|(_, vma)| vma.name == NAME)?;
        let at = rip - rip % TRAMPOLINE_LEN as u64;
        let mut code = [0; TRAMPOLINE_LEN];
        self.peek(state, at, &range, vma, &mut code).ok()?;
        // The instruction, and where the call returns to; see `Platform::trampoline`.
        let distance = code.get(8..12).and_then(|bytes| bytes.first_chunk()).map(|bytes| i32::from_le_bytes(*bytes))?;
        let call = at.wrapping_add(12).wrapping_add_signed(distance.into()).wrapping_sub(SYSCALL);
        let before = rip == at && code.first_chunk() != Some(&NOTHING);
        Some(if before { call.wrapping_sub(MOV) } else { call })
    }

    /// Reads code inside one page, from where the guest sees it.
    pub(crate) fn peek(&self, state: &State, addr: u64, range: &Range<u64>, vma: &Vma, bytes: &mut [u8]) -> SysResult<()> {
        let len = bytes.len() as u64;
        if let Some((run, page)) = state.pages.get(addr) {
            return self.arena.file.segment(page.frame + (addr - run.start), len)?.read(bytes);
        }
        let (backing, offset) = vma.file.as_ref().ok_or(Errno::EFAULT)?;
        backing.file().segment(offset + (addr - range.start), len)?.read(bytes)
    }

    /// The frame of a page that is this address space's alone, copied if need be, and mapped.
    pub(crate) fn own_page(&self, state: &mut State, page: u64, range: &Range<u64>, vma: &Vma) -> SysResult<u64> {
        if let Some((run, present)) = state.pages.get(page) {
            let frame = present.frame + (page - run.start);
            if self.arena.exclusive_run(frame, PAGE_SIZE).0 {
                return Ok(frame);
            }
        }
        // Only this page, whatever is around it.
        let part = page..page + PAGE_SIZE;
        let mut vma = vma.clone();
        rangemap::Piece::advance(&mut vma, page - range.start);
        self.bring_in(state, page, &part, &vma, true, true)?.ok_or(Errno::EFAULT)
    }

    fn poke(&self, frame: u64, bytes: &[u8; MOV as usize]) -> SysResult<()> {
        let within = frame % 16;
        if within + MOV > 16 {
            return self.arena.file.segment(frame, MOV)?.write(bytes);
        }
        self.arena.file.segment(frame - within, 16)?.write_at_once(within as usize, bytes)
    }

    /// The address of a new trampoline near `site`.
    fn trampoline(&self, state: &mut State, site: u64, back: u64, instruction: [u8; MOV as usize]) -> SysResult<u64> {
        let near = |at: u64| at.abs_diff(site) < REACH;
        let found = state.patches.pages.iter().position(|(at, used)| near(*at) && *used < PER_PAGE);
        let Some(index) = found else {
            self.new_page(state, site)?;
            return Err(Errno::EAGAIN);
        };
        let (page, used) = state.patches.pages.get(index).copied().ok_or(Errno::EFAULT)?;
        let (range, vma) = match state.vmas.get(page) {
            Some((range, vma)) if vma.name == NAME => (range, vma.clone()),
            // The guest has mapped something else there.
            _ => {
                state.patches.pages.remove(index);
                return Err(Errno::EAGAIN);
            }
        };
        let shared =
            state.pages.get(page).is_none_or(|(run, p)| !self.arena.exclusive_run(p.frame + (page - run.start), PAGE_SIZE).0);
        let frame = self.own_page(state, page, &range, &vma)?;
        if shared {
            // A copy made after fork(2): jumps may lead to it once it is mapped.
            state.patches.mapped_by = self.aspace.queued();
        }
        if self.aspace.applied() < state.patches.mapped_by {
            return Err(Errno::EAGAIN);
        }
        let at = page + used * TRAMPOLINE_LEN as u64;
        let code = self.aspace.trampoline(at, instruction, back).ok_or(Errno::EINVAL)?;
        self.arena.file.segment(frame + (at - page), TRAMPOLINE_LEN as u64)?.write(&code)?;
        if let Some(entry) = state.patches.pages.get_mut(index) {
            entry.1 += 1;
        }
        Ok(at)
    }

    /// Maps a page for trampolines near `site`.
    fn new_page(&self, state: &mut State, site: u64) -> SysResult<()> {
        // Platforms without trampolines have none anywhere.
        self.aspace.trampoline(site, LAST_ARGUMENT, site).ok_or(Errno::ENOSYS)?;
        if state.patches.pages.len() >= MAX_PAGES {
            return Err(Errno::ENOMEM);
        }
        let user = self.aspace.user_range();
        let (site, reach) = (page_down(site), page_down(REACH));
        let below = user.start.max(site.saturating_sub(reach))..site;
        let above = site + PAGE_SIZE..user.end.min(site.saturating_add(reach));
        let mut gap = |within: Range<u64>| if within.is_empty() { None } else { state.vmas.gap_below(PAGE_SIZE, within, false) };
        let page = gap(below).or_else(|| gap(above)).ok_or(Errno::ENOMEM)?;
        let range = page..page + PAGE_SIZE;
        let prot = Prot::READ | Prot::EXEC;
        let flags = VmaFlags::empty();
        let vma = Vma { prot, deny: Prot::empty(), flags, file: None, name: NAME, policy: Policy::default() };
        state.vmas.insert(range.clone(), vma.clone());
        self.fill_anonymous(state, page, &range, &vma, true)?;
        state.patches.pages.push((page, 0));
        state.patches.mapped_by = self.aspace.queued();
        Ok(())
    }
}

/// A jump that stands at `at` and leads to `to`.
fn near_jump(at: u64, to: u64) -> SysResult<[u8; MOV as usize]> {
    let distance = i32::try_from(to.wrapping_sub(at.wrapping_add(MOV)).cast_signed()).map_err(|_| Errno::EINVAL)?;
    let [d0, d1, d2, d3] = distance.to_le_bytes();
    Ok([0xe9, d0, d1, d2, d3])
}
