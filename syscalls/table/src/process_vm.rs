//! Memory of other processes: process_vm_readv(2), process_vm_writev(2).

use std::sync::Arc;

use abi::structs::Iovec;
use abi::{Errno, SysResult, nr};
use mm::MemoryManager;
use task::{Access, Current};
use usermem::UserMemoryExt;

use crate::args::int;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] =
    &[full(nr::PROCESS_VM_READV, |t, a| transfer(t, a, false)), full(nr::PROCESS_VM_WRITEV, |t, a| transfer(t, a, true))];

/// Bytes that are copied at a time.
const CHUNK: usize = 64 << 10;

/// Pieces of memory, one after the other.
struct Pieces<'a> {
    rest: &'a [Iovec],
    done: u64,
}

impl Pieces<'_> {
    /// Where it goes on, and how much there is in one piece.
    fn next(&mut self) -> Option<(u64, usize)> {
        loop {
            let (first, rest) = self.rest.split_first()?;
            let left = first.len.checked_sub(self.done).filter(|left| *left > 0);
            if let Some(left) = left {
                return Some((first.base.wrapping_add(self.done), usize::try_from(left).unwrap_or(CHUNK)));
            }
            (self.rest, self.done) = (rest, 0);
        }
    }
}

/// # Errors
/// `EINVAL` for flags and too many pieces; `EFAULT` when nothing could be copied; `ESRCH`; `EPERM` when it may not.
fn transfer(t: &mut Current, a: [u64; 6], write: bool) -> SysResult<u64> {
    let [pid, local, local_count, remote, remote_count, flags] = a;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let local = t.mm.read_iovecs(local, local_count)?;
    if local.iter().all(|piece| piece.len == 0) {
        return Ok(0);
    }
    let remote = t.mm.read_iovecs(remote, remote_count)?;
    if remote.iter().all(|piece| piece.len == 0) {
        return Ok(0);
    }
    let target = t.find_task(int(pid)).ok_or(Errno::ESRCH)?;
    let mm = target.lock().mm.clone().ok_or(Errno::ESRCH)?;
    if !t.task.may_access(&target, Access::Real) {
        return Err(Errno::EPERM);
    }
    let (mut here, mut there) = (Pieces { rest: &local, done: 0 }, Pieces { rest: &remote, done: 0 });
    let mut buffer = vec![0; CHUNK];
    let mut total = 0u64;
    while let (Some((own, own_len)), Some((other, other_len))) = (here.next(), there.next()) {
        if t.task.signal_pending() && total != 0 {
            break;
        }
        let len = own_len.min(other_len).min(CHUNK);
        let part = buffer.get_mut(..len).unwrap_or_default();
        let done = if write { give(t, &mm, own, other, part) } else { take(t, &mm, own, other, part) };
        match done {
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
            Ok(done) => {
                total += done as u64;
                (here.done, there.done) = (here.done + done as u64, there.done + done as u64);
                if done < len {
                    break;
                }
            }
        }
    }
    Ok(total)
}

fn take(t: &Current, mm: &Arc<MemoryManager>, own: u64, other: u64, buffer: &mut [u8]) -> SysResult<usize> {
    let read = mm.read_remote(other, buffer, false)?;
    t.mm.write(own, buffer.get(..read).unwrap_or_default())?;
    Ok(read)
}

fn give(t: &Current, mm: &Arc<MemoryManager>, own: u64, other: u64, buffer: &mut [u8]) -> SysResult<usize> {
    t.mm.read(own, buffer)?;
    mm.write_remote(other, buffer, false)
}
