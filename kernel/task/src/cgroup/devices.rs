//! Programs that decide who in a group may use devices (bpf(2), `BPF_CGROUP_DEVICE`; Documentation/admin-guide/cgroup-v2.rst, "Device controller").

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult, c};
use ebpf::DeviceAccess;
use vfs::Access;
use vfs::devices::{DeviceUse, Wish};

use super::Cgroup;
use crate::bpf::BpfProgram;
use crate::kernel::Kernel;

/// Programs of one group at most (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// Flags of attaching (`BPF_F_*`): groups below may have a program instead; or besides, as may this one; one is to go.
pub const ALLOW_OVERRIDE: u32 = 1;
pub const ALLOW_MULTI: u32 = 2;
pub const REPLACE: u32 = 4;

/// `BPF_DEVCG_ACC_*` and `BPF_DEVCG_DEV_*`
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// What is attached to a group.
#[derive(Clone)]
pub struct Attached {
    pub flags: u32,
    /// Counts changes, from 1 on.
    pub revision: u64,
    pub programs: Vec<Arc<BpfProgram>>,
}

impl Default for Attached {
    fn default() -> Self {
        Self { flags: 0, revision: 1, programs: Vec::new() }
    }
}

impl Attached {
    /// Whether it has changed since somebody looked, 0 if nobody has.
    fn check_revision(&self, seen: u64) -> SysResult<()> {
        if seen != 0 && seen != self.revision { Err(Errno::ESTALE) } else { Ok(()) }
    }

    fn place(&self, program: &Arc<BpfProgram>) -> Option<usize> {
        self.programs.iter().position(|there| Arc::ptr_eq(there, program))
    }

    /// Puts a program in, in place of another if there is to be one; returns that.
    fn add(&mut self, new: Arc<BpfProgram>, flags: u32, replace: Option<Arc<BpfProgram>>) -> SysResult<Option<Arc<BpfProgram>>> {
        let mode = flags & (ALLOW_OVERRIDE | ALLOW_MULTI);
        if !self.programs.is_empty() && self.flags != mode {
            return Err(Errno::EPERM);
        }
        if self.programs.len() >= MAX_PROGRAMS {
            return Err(Errno::E2BIG);
        }
        let again = self.place(&new).is_some() && !replace.as_ref().is_some_and(|old| Arc::ptr_eq(old, &new));
        let place = match replace {
            _ if mode & ALLOW_MULTI == 0 => (!self.programs.is_empty()).then_some(0),
            _ if again => return Err(Errno::EINVAL),
            Some(old) => Some(self.place(&old).ok_or(Errno::ENOENT)?),
            None => None,
        };
        self.flags = mode;
        self.revision += 1;
        match place.and_then(|place| self.programs.get_mut(place)) {
            Some(there) => Ok(Some(std::mem::replace(there, new))),
            None => {
                self.programs.push(new);
                Ok(None)
            }
        }
    }

    fn take(&mut self, program: Option<&Arc<BpfProgram>>) -> SysResult<Arc<BpfProgram>> {
        let place = match program {
            // There is one at most, whatever the caller calls it.
            _ if self.flags & ALLOW_MULTI == 0 => 0,
            Some(program) => self.place(program).ok_or(Errno::ENOENT)?,
            None => return Err(Errno::EINVAL),
        };
        if place >= self.programs.len() {
            return Err(Errno::ENOENT);
        }
        let gone = self.programs.remove(place);
        self.revision += 1;
        if self.programs.is_empty() {
            self.flags = 0;
        }
        Ok(gone)
    }
}

impl Cgroup {
    /// Whether those above let a program be attached to it.
    fn may_attach(&self) -> bool {
        for above in self.upwards().skip(1) {
            let attached = above.devices.lock();
            if attached.flags & ALLOW_MULTI != 0 {
                return true;
            }
            if !attached.programs.is_empty() {
                return attached.flags & ALLOW_OVERRIDE != 0;
            }
        }
        true
    }

    /// What is attached to it.
    #[must_use]
    pub fn attached(&self) -> Attached {
        self.devices.lock().clone()
    }

    /// The programs that decide in it: its own or, without any, those of the nearest above that has some; and of all further up that allow
    /// others besides.
    #[must_use]
    pub fn effective(&self) -> Vec<Arc<BpfProgram>> {
        let mut all = Vec::new();
        for at in self.upwards() {
            let attached = at.devices.lock();
            if all.is_empty() || attached.flags & ALLOW_MULTI != 0 {
                all.extend(attached.programs.iter().cloned());
            }
        }
        all
    }
}

impl Kernel {
    /// Attaches a program to a group. `seen`: its revision, or 0.
    ///
    /// # Errors
    /// `EINVAL` for flags that exclude each other and for a program that is there; `EPERM` where a group above, or what is there, doesn't
    /// allow it; `E2BIG` when there are too many; `ENOENT` without the one to replace, or when the group is gone; `ESTALE`.
    pub fn attach_program(
        &self,
        to: &Cgroup,
        program: Arc<BpfProgram>,
        flags: u32,
        replace: Option<Arc<BpfProgram>>,
        seen: u64,
    ) -> SysResult<()> {
        let both = ALLOW_OVERRIDE | ALLOW_MULTI;
        if flags & both == both || flags & (REPLACE | ALLOW_MULTI) == REPLACE {
            return Err(Errno::EINVAL);
        }
        let turn = self.cgroups.turn.lock();
        if to.is_gone() {
            return Err(Errno::ENOENT);
        }
        to.devices.lock().check_revision(seen)?;
        if !to.may_attach() {
            return Err(Errno::EPERM);
        }
        let old = to.devices.lock().add(program, flags, replace)?;
        if old.is_none() {
            self.cgroups.guards.fetch_add(1, Ordering::SeqCst);
        }
        drop(turn);
        Ok(())
    }

    /// Detaches a program; where there can be but one, any.
    ///
    /// # Errors
    /// `ENOENT` when it isn't there; `EINVAL` without a program where there can be several; `ESTALE`.
    pub fn detach_program(&self, from: &Cgroup, program: Option<&Arc<BpfProgram>>, seen: u64) -> SysResult<()> {
        let turn = self.cgroups.turn.lock();
        let gone = {
            let mut attached = from.devices.lock();
            attached.check_revision(seen)?;
            attached.take(program)?
        };
        self.cgroups.guards.fetch_sub(1, Ordering::SeqCst);
        drop((turn, gone));
        Ok(())
    }

    /// The group is gone. Under the groups' turn.
    pub(super) fn detach_all(&self, from: &Cgroup) {
        let attached = std::mem::take(&mut *from.devices.lock());
        self.cgroups.guards.fetch_sub(attached.programs.len(), Ordering::SeqCst);
    }
}

/// Whether the programs of the group that the running task is in let it use a device.
pub fn may_use_device(wanted: DeviceUse) -> bool {
    let Some(task) = crate::current() else { return true };
    if task.kernel.cgroups.guards.load(Ordering::SeqCst) == 0 {
        return true;
    }
    let wish = match wanted.wish {
        Wish::Make => MAKE,
        Wish::Access(access) => {
            let bit = |wish, bit| if access.contains(wish) { bit } else { 0 };
            bit(Access::READ, READ) | bit(Access::WRITE, WRITE)
        }
    };
    let kind = if wanted.block { BLOCK } else { CHARACTER };
    let access = DeviceAccess { access_type: wish << 16 | kind, major: c::major(wanted.rdev), minor: c::minor(wanted.rdev) };
    task.group.cgroup(&task.kernel).effective().iter().all(|program| program.program.run(access))
}
