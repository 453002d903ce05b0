//! signalfd(2).

use abi::signal::SigSet;
use abi::{Errno, SysResult, c, nr};
use task::{Current, SignalFd};
use usermem::UserMemoryExt;
use vfs::File;

use crate::args::{file, int};
use crate::fd::install;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] =
    &[full(nr::SIGNALFD, |t, a| signalfd(t, a, 0)), full(nr::SIGNALFD4, |t, a| signalfd(t, a, int(a[3])))];

fn signalfd(t: &mut Current, a: [u64; 6], flags: i32) -> SysResult<u64> {
    if a[2] != 8 {
        return Err(Errno::EINVAL);
    }
    let set: SigSet = t.mm.read_obj(a[1])?;
    if flags & !(c::SFD_CLOEXEC | c::SFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if int(a[0]) != -1 {
        file(t, a[0])?.ops.as_any().downcast_ref::<SignalFd>().ok_or(Errno::EINVAL)?.set(set);
        return Ok(u64::from(int(a[0]).cast_unsigned()));
    }
    let ops = std::sync::Arc::new(SignalFd::new(set, &t.task.kernel));
    install(t, File::new(ops, None, c::O_RDWR | flags & c::O_NONBLOCK), flags & c::SFD_CLOEXEC != 0, 0)
}
