//! The platform that runs guest code in host processes whose every system call seccomp stops.
//!
//! Each guest address space is a stub process (a fork of the zygote) with the blob of the `stub` crate in a region of its own; each guest
//! thread is a thread of it, driven by one thread of the sentry. See the README for the protocol.

mod aspace;
mod context;
mod elf;
mod filter;
mod frame;
mod host;
mod process;
mod sites;
mod spin;
mod zygote;

use std::ops::Range;
use std::sync::Arc;

use abi::{Errno, SysResult};
use platform::{AddressSpace, Platform};
use stub::layout::STUB_BASE;

use crate::aspace::Space;
use crate::process::Process;
pub use crate::zygote::{HostVdso, host_vdso, reserve};

/// Where guests may map: above the first pages, below the stub.
const USER: Range<u64> = 0x1_0000..STUB_BASE;

/// The platform: the zygote.
pub struct Systrap {
    zygote: Process,
    /// The host has the memory barriers that the zygote registers for.
    barriers: bool,
}

impl Systrap {
    /// Starts the zygote. Call while the process has one thread, with the capabilities that it will keep, before its system calls are
    /// filtered.
    ///
    /// # Errors
    /// What the host says; `EAGAIN` when the zygote did not come up.
    pub fn new(vdso: HostVdso) -> SysResult<Self> {
        sync::allowed_cpus();
        host::rseq();
        host::short_slices();
        host::disown_children();
        let needed = libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED | libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
        let barriers = host::membarrier(libc::MEMBARRIER_CMD_QUERY).is_ok_and(|has| has & needed == needed);
        Ok(Self { zygote: zygote::spawn(vdso)?, barriers })
    }
}

impl Platform for Systrap {
    fn new_address_space(&self) -> SysResult<Arc<dyn AddressSpace>> {
        Ok(Arc::new(Space::new(self.zygote.fork()?)))
    }

    fn user_range(&self) -> Range<u64> {
        USER
    }

    fn wait_for_death(&self) {
        host::wait_for_child();
    }

    fn is_alive(&self) -> bool {
        self.zygote.alive()
    }

    fn barrier(&self) -> SysResult<()> {
        if !self.barriers {
            return Err(Errno::ENOSYS);
        }
        host::membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED).map(drop)
    }
}
