//! /proc/pid/mem: the memory of a process, by address.

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult, c};
use mm::MemoryManager;
use task::Access;
use usermem::IoBuf;
use vfs::FileOps;

use crate::Proc;
use crate::process::Member;

/// Bytes that are copied at a time.
const CHUNK: usize = 64 << 10;

/// Moves a piece of what is left, at an address; returns how much.
type Step<'a> = &'a mut dyn FnMut(&mut IoBuf<'_>, u64, &mut [u8]) -> SysResult<usize>;

/// An open one. It stays with the program that ran when it was opened, and shows nothing when that is gone.
struct Memory {
    mm: Weak<MemoryManager>,
    proc: Arc<Proc>,
    member: Member,
}

/// Opens it.
///
/// # Errors
/// `EACCES` when the caller may not attach to the task (ptrace(2)).
pub fn open(proc: &Arc<Proc>, member: &Member) -> SysResult<Arc<dyn FileOps>> {
    let view = member.view(&proc.kernel).ok_or(Errno::ESRCH)?;
    let task = view.task.as_ref().ok_or(Errno::ESRCH)?;
    if proc.caller().is_some_and(|caller| !caller.may_attach(task, Access::Files)) {
        return Err(Errno::EACCES);
    }
    let mm = view.mm().map(|mm| Arc::downgrade(&mm)).unwrap_or_default();
    Ok(Arc::new(Memory { mm, proc: proc.clone(), member: member.clone() }))
}

impl Memory {
    /// The memory, if the process still runs in it: that of one that ends may live a little longer.
    fn get(&self) -> Option<Arc<MemoryManager>> {
        let now = self.member.view(&self.proc.kernel)?.mm()?;
        self.mm.upgrade().filter(|mm| Arc::ptr_eq(mm, &now))
    }

    /// Moves pieces by `step` until there is no more; returns how much that was.
    fn transfer(buf: &mut IoBuf<'_>, step: Step<'_>, at: u64) -> SysResult<usize> {
        let mut piece = vec![0; buf.remaining().min(CHUNK)];
        let mut done = 0;
        while buf.remaining() > 0 {
            let len = buf.remaining().min(CHUNK);
            let Some(part) = piece.get_mut(..len) else { break };
            match step(buf, at.wrapping_add(done as u64), part) {
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
                Ok(moved) => {
                    done += moved;
                    if moved < len {
                        break;
                    }
                }
            }
        }
        Ok(done)
    }
}

impl FileOps for Memory {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let Some(mm) = self.get() else { return Ok(0) };
        let mut step = |buf: &mut IoBuf<'_>, at: u64, piece: &mut [u8]| {
            let read = mm.read_remote(at, piece, true).map_err(|_| Errno::EIO)?;
            buf.copy_out(piece.get(..read).unwrap_or_default())
        };
        Self::transfer(buf, &mut step, offset)
    }

    fn write(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let Some(mm) = self.get() else { return Ok(0) };
        let mut step = |buf: &mut IoBuf<'_>, at: u64, piece: &mut [u8]| {
            let start = buf.done();
            let count = buf.copy_in(piece)?;
            let written = mm.write_remote(at, piece.get(..count).unwrap_or_default(), true).map_err(|_| Errno::EIO);
            // What wasn't written stays with the caller.
            buf.rewind(start + *written.as_ref().unwrap_or(&0));
            written
        };
        Self::transfer(buf, &mut step, offset)
    }

    fn seek(&self, _offset: i64, whence: i32) -> Option<SysResult<u64>> {
        // There is no end.
        (whence == c::SEEK_END).then_some(Err(Errno::EINVAL))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
