//! madvise(2).

use std::ops::Range;

use abi::{Errno, SysResult, c};
use platform::Prot;
use usermem::PAGE_SIZE;

use crate::vma::{Vma, VmaFlags};
use crate::{MAX_MAPS, MemoryManager, Policy, State, pages_of};

// Not in the libc crate.
const MADV_COLLAPSE: i32 = 25;
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// What an advice comes to.
#[derive(Clone, Copy)]
enum Advice {
    /// A hint that is of no use here.
    Nothing,
    /// A hint that locked memory doesn't take.
    NothingUnlessLocked,
    /// Notes something about the mapping.
    Set(VmaFlags),
    Clear(VmaFlags),
    /// Forgets what is there; also where it is locked if so.
    DontNeed(bool),
    Free,
    Remove,
    /// Brings in for reading, or for writing.
    Populate(bool),
    Guard,
    Unguard,
}

fn known(advice: i32) -> SysResult<Advice> {
    Ok(match advice {
        c::MADV_NORMAL => Advice::Clear(VmaFlags::RANDOM.union(VmaFlags::SEQUENTIAL)),
        c::MADV_RANDOM => Advice::Set(VmaFlags::RANDOM),
        c::MADV_SEQUENTIAL => Advice::Set(VmaFlags::SEQUENTIAL),
        c::MADV_WILLNEED => Advice::Nothing,
        c::MADV_DONTNEED => Advice::DontNeed(false),
        c::MADV_DONTNEED_LOCKED => Advice::DontNeed(true),
        c::MADV_FREE => Advice::Free,
        c::MADV_REMOVE => Advice::Remove,
        c::MADV_DONTFORK => Advice::Set(VmaFlags::DONT_FORK),
        c::MADV_DOFORK => Advice::Clear(VmaFlags::DONT_FORK),
        c::MADV_WIPEONFORK => Advice::Set(VmaFlags::WIPE_ON_FORK),
        c::MADV_KEEPONFORK => Advice::Clear(VmaFlags::WIPE_ON_FORK),
        c::MADV_DONTDUMP => Advice::Set(VmaFlags::DONT_DUMP),
        c::MADV_DODUMP => Advice::Clear(VmaFlags::DONT_DUMP),
        c::MADV_HUGEPAGE => Advice::Set(VmaFlags::HUGE_PAGE),
        c::MADV_NOHUGEPAGE => Advice::Set(VmaFlags::NO_HUGE_PAGE),
        c::MADV_MERGEABLE => Advice::Set(VmaFlags::MERGEABLE),
        c::MADV_UNMERGEABLE => Advice::Clear(VmaFlags::MERGEABLE),
        c::MADV_COLD | c::MADV_PAGEOUT => Advice::NothingUnlessLocked,
        c::MADV_POPULATE_READ => Advice::Populate(false),
        c::MADV_POPULATE_WRITE => Advice::Populate(true),
        MADV_GUARD_INSTALL => Advice::Guard,
        MADV_GUARD_REMOVE => Advice::Unguard,
        // There are no huge pages to make.
        MADV_COLLAPSE => return Err(Errno::EINVAL),
        _ => return Err(Errno::EINVAL),
    })
}

impl MemoryManager {
    /// Takes advice.
    ///
    /// # Errors
    /// As madvise(2): `EINVAL`, `ENOMEM`, `EACCES`, `EFAULT`, `EPERM`.
    pub fn madvise(&self, addr: u64, len: u64, advice: i32) -> SysResult<()> {
        let advice = known(advice)?;
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = pages_of(len).filter(|len| addr.checked_add(*len).is_some()).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        let range = self.user(addr, len).ok_or(Errno::ENOMEM)?;
        let mut state = self.state.lock();
        self.reap(&mut state);
        let mut at = range.start;
        let mut holes = false;
        for (part, vma) in state.vmas.within(range.clone()) {
            if part.start > at {
                holes = true;
                if matches!(advice, Advice::Populate(_)) {
                    break;
                }
            }
            at = part.end;
            self.advise_part(&mut state, part, vma, advice)?;
        }
        if holes || at < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn advise_part(&self, state: &mut State, part: Range<u64>, mut vma: Vma, advice: Advice) -> SysResult<()> {
        let (locked, anonymous) = (vma.flags.contains(VmaFlags::LOCKED), vma.file.is_none());
        let discards = matches!(advice, Advice::DontNeed(_) | Advice::Free | Advice::Guard);
        if discards && vma.flags.contains(VmaFlags::SEALED) && anonymous && !vma.prot.contains(Prot::WRITE) {
            return Err(Errno::EPERM);
        }
        match advice {
            Advice::Nothing => Ok(()),
            Advice::NothingUnlessLocked => {
                if locked {
                    Err(Errno::EINVAL)
                } else {
                    Ok(())
                }
            }
            Advice::Set(VmaFlags::WIPE_ON_FORK) if !anonymous => Err(Errno::EINVAL),
            Advice::Set(flags) => {
                let old = vma.flags;
                vma.flags.insert(flags);
                if flags == VmaFlags::RANDOM {
                    vma.flags.remove(VmaFlags::SEQUENTIAL);
                } else if flags == VmaFlags::SEQUENTIAL {
                    vma.flags.remove(VmaFlags::RANDOM);
                } else if flags == VmaFlags::HUGE_PAGE {
                    vma.flags.remove(VmaFlags::NO_HUGE_PAGE);
                } else if flags == VmaFlags::NO_HUGE_PAGE {
                    vma.flags.remove(VmaFlags::HUGE_PAGE);
                }
                Self::note(state, part, vma, old)
            }
            Advice::Clear(flags) => {
                let old = vma.flags;
                vma.flags.remove(flags);
                Self::note(state, part, vma, old)
            }
            Advice::DontNeed(also_locked) => {
                if locked && !also_locked {
                    return Err(Errno::EINVAL);
                }
                self.forget(state, part, &vma);
                Ok(())
            }
            Advice::Free => {
                if locked || !anonymous {
                    return Err(Errno::EINVAL);
                }
                self.forget(state, part, &vma);
                Ok(())
            }
            Advice::Remove => {
                let (backing, offset) = vma.file.as_ref().filter(|_| !locked).ok_or(Errno::EINVAL)?;
                if !vma.shared() || !vma.prot.contains(Prot::WRITE) {
                    return Err(Errno::EACCES);
                }
                backing.file().free(*offset, part.end - part.start)
            }
            Advice::Populate(write) => {
                let needed = if write { Prot::WRITE } else { Prot::READ };
                // What can be written can be read on this CPU.
                let allowed = vma.access().contains(needed) || vma.access().contains(Prot::WRITE);
                if !allowed {
                    return Err(if vma.flags.contains(VmaFlags::GUARD) { Errno::EFAULT } else { Errno::EINVAL });
                }
                let beyond = vma.file.as_ref().is_some_and(|(backing, offset)| {
                    pages_of(backing.file().len()).is_none_or(|end| end < offset + (part.end - part.start))
                });
                self.populate(state, part)?;
                if beyond { Err(Errno::EFAULT) } else { Ok(()) }
            }
            Advice::Guard if locked => Err(Errno::EINVAL),
            Advice::Guard => {
                let old = vma.flags;
                vma.flags.insert(VmaFlags::GUARD);
                Self::note(state, part.clone(), vma, old)?;
                self.drop_pages(state, part.clone());
                self.aspace.unmap(part.start, part.end - part.start);
                Ok(())
            }
            Advice::Unguard => {
                let old = vma.flags;
                vma.flags.remove(VmaFlags::GUARD);
                if vma.flags != old {
                    Self::note(state, part.clone(), vma.clone(), old)?;
                    if !vma.access().is_empty() {
                        self.map_range(state, part, &vma);
                    }
                }
                Ok(())
            }
        }
    }

    /// Puts a mapping whose flags have changed back in place.
    fn note(state: &mut State, part: Range<u64>, vma: Vma, old: VmaFlags) -> SysResult<()> {
        if vma.flags == old {
            return Ok(());
        }
        if state.vmas.len() + 2 > MAX_MAPS {
            return Err(Errno::ENOMEM);
        }
        state.vmas.insert(part, vma);
        Ok(())
    }

    /// mbind(2): notes where memory of a range should come from.
    ///
    /// # Errors
    /// `EFAULT` when part of it isn't mapped; `ENOMEM`.
    pub fn set_policy(&self, range: Range<u64>, policy: Policy) -> SysResult<()> {
        let mut state = self.state.lock();
        let parts = state.vmas.within(range.clone());
        if crate::protect::covered(&parts) != range.end.saturating_sub(range.start) {
            return Err(Errno::EFAULT);
        }
        if state.vmas.len() + 2 > MAX_MAPS {
            return Err(Errno::ENOMEM);
        }
        for (part, mut vma) in parts {
            vma.policy = policy;
            state.vmas.insert(part, vma);
        }
        Ok(())
    }

    /// What mbind(2) has said about the mapping at `addr`.
    ///
    /// # Errors
    /// `EFAULT` when there is none.
    pub fn policy_at(&self, addr: u64) -> SysResult<Policy> {
        self.state.lock().vmas.get(addr).map(|(_, vma)| vma.policy).ok_or(Errno::EFAULT)
    }

    /// Makes private pages zeros, or what the file has, again. Frames that nobody else has are emptied in place, so that the guest keeps them
    /// and needs nobody's help when it uses them again.
    fn forget(&self, state: &mut State, part: Range<u64>, vma: &Vma) {
        if vma.shared() {
            return;
        }
        for (run, page) in state.pages.within(part.clone()) {
            let mut at = run.start;
            while at < run.end {
                let frame = page.frame + (at - run.start);
                let (exclusive, len) = self.arena.exclusive_run(frame, run.end - at);
                let to = at + len.clamp(PAGE_SIZE, run.end - at);
                if exclusive && vma.file.is_none() {
                    self.arena.file.punch(frame, to - at);
                } else {
                    self.drop_pages(state, at..to);
                    match &vma.file {
                        Some(_) if !vma.access().is_empty() => {
                            let mut rest = vma.clone();
                            rangemap::Piece::advance(&mut rest, at - part.start);
                            self.map_range(state, at..to, &rest);
                        }
                        _ => self.aspace.unmap(at, to - at),
                    }
                }
                at = to;
            }
        }
    }
}
