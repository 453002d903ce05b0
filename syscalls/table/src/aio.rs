//! Asynchronous input and output (io_submit(2)).
//!
//! Reads and writes are done when they are submitted, as Linux does wherever it has no direct way to a disk; only polls complete later.

use std::any::Any;
use std::sync::{Arc, LazyLock, Weak};

use abi::poll::PollEvents;
use abi::signal::SigSet;
use abi::{Errno, SysResult, c, nr};
use anon::{AioContext, EventFd, IoEvent, MAX_REQUESTS};
use mm::{MapRequest, MappedFile, MmapFlags};
use platform::Prot;
use sync::{Mutex, WaitEntry, Wake};
use task::{Current, Kernel};
use usermem::{FutexKey, IoBuf, UserMemory, UserMemoryExt};
use vfs::{File, new_dev, new_ino};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::args::{after, timeout};
use crate::io::{read, write};
use crate::mem::limits;
use crate::signal::swap_mask;
use crate::{Entry, full, partial};

const NOTE: &str = "reads and writes are done at once";

pub const ENTRIES: &[Entry] = &[
    full(nr::IO_SETUP, setup),
    full(nr::IO_DESTROY, destroy),
    partial(nr::IO_SUBMIT, submit, NOTE),
    full(nr::IO_CANCEL, cancel),
    full(nr::IO_GETEVENTS, |t, a| get_events(t, a, a[4])),
    full(nr::IO_PGETEVENTS, |t, a| {
        if a[5] != 0 {
            let [set, size]: [u64; 2] = t.mm.read_obj(a[5])?;
            if set != 0 {
                if size != 8 {
                    return Err(Errno::EINVAL);
                }
                let set: SigSet = t.mm.read_obj(set)?;
                swap_mask(t, set);
            }
        }
        let result = get_events(t, a, a[4]);
        t.restore_mask(&result);
        result
    }),
];

/// The device that rings are on: what is mapped tells a context wherever it is mapped.
static DEVICE: LazyLock<u64> = LazyLock::new(new_dev);

/// `struct iocb`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `IOCB_CMD_*`
const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const FDSYNC: u16 = 3;
const POLL: u16 = 5;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;
/// `IOCB_FLAG_RESFD`
const RESFD: u32 = 1;

/// A context as the address space keeps it, with the polls that are waited for.
struct Owned {
    context: Arc<AioContext>,
    polls: Mutex<Vec<Arc<Poll>>>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.context.destroy();
        // Polls and the queues that they stand in hold each other.
        let entries: Vec<_> = self.polls.get_mut().iter().map(|poll| poll.entry.lock().take()).collect();
        drop(entries);
    }
}

fn setup(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let wanted = crate::args::uint(a[0]);
    let present: u64 = t.mm.read_obj(a[1])?;
    if present != 0 || wanted == 0 || wanted > 0x1000_0000 / 32 {
        return Err(Errno::EINVAL);
    }
    let context = Owned { context: AioContext::new(wanted)?, polls: Mutex::default() };
    let (id, path) = (new_ino(), "/[aio] (deleted)".into());
    let file = MappedFile { file: context.context.ring().clone(), path, dev: *DEVICE, ino: id, hook: None };
    let request = MapRequest {
        addr: 0,
        len: context.context.len(),
        prot: Prot::READ | Prot::WRITE,
        deny: Prot::EXEC,
        flags: MmapFlags::SHARED,
        file: Some((file, 0)),
        name: "",
        limits: limits(t),
    };
    let len = context.context.len();
    let at = t.mm.mmap(request)?;
    t.mm.aio.lock().insert(id, Arc::new(context));
    if let Err(errno) = t.mm.write_obj(a[1], &at) {
        t.mm.aio.lock().remove(&id);
        t.mm.munmap(at, len)?;
        return Err(errno);
    }
    Ok(0)
}

/// The context whose ring is mapped at an address, wherever it was at first.
fn context(t: &Current, at: u64) -> SysResult<(u64, Arc<Owned>)> {
    // What can't be read is no context.
    let _: u32 = t.mm.read_obj(at).map_err(|_| Errno::EINVAL)?;
    let id = match t.mm.futex_key(at, false) {
        Ok(FutexKey::Shared(dev, id, 0)) if dev == *DEVICE => id,
        _ => return Err(Errno::EINVAL),
    };
    let found: Option<Arc<dyn Any + Send + Sync>> = t.mm.aio.lock().get(&id).cloned();
    let owned = found.and_then(|any| any.downcast().ok()).ok_or(Errno::EINVAL)?;
    Ok((id, owned))
}

fn destroy(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (id, owned) = context(t, a[0])?;
    if t.mm.aio.lock().remove(&id).is_none() {
        return Err(Errno::EINVAL);
    }
    owned.context.destroy();
    // What polls wait for they wait for no longer.
    let polls = std::mem::take(&mut *owned.polls.lock());
    polls.iter().for_each(|poll| poll.finish(PollEvents::empty()));
    t.mm.munmap(a[0], owned.context.len())?;
    Ok(0)
}

fn submit(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (_, owned) = context(t, a[0])?;
    let count = u64::try_from(a[1].cast_signed()).map_err(|_| Errno::EINVAL)?.min(MAX_REQUESTS as u64);
    for done in 0..count {
        let step = || {
            let at: u64 = t.mm.read_obj(a[2].checked_add(done * 8).ok_or(Errno::EFAULT)?)?;
            submit_one(t, &owned, at)
        };
        match step() {
            Ok(()) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done),
        }
        if t.task.signal_pending() {
            return Ok(done + 1);
        }
    }
    Ok(count)
}

fn submit_one(t: &Current, owned: &Arc<Owned>, at: u64) -> SysResult<()> {
    let iocb: Iocb = t.mm.read_obj(at)?;
    if iocb.reserved != 0 || iocb.nbytes.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let file = t.fds.get(iocb.fd.cast_signed())?;
    let eventfd = if iocb.flags & RESFD == 0 {
        None
    } else {
        let eventfd = t.fds.get(iocb.resfd.cast_signed())?;
        if eventfd.ops.as_any().is::<EventFd>() { Some(eventfd) } else { return Err(Errno::EINVAL) }
    };
    owned.context.start()?;
    let done = Completion { context: Arc::downgrade(&owned.context), data: iocb.data, obj: at, eventfd };
    // The key is what io_cancel(2) looks for.
    let key = t.mm.write_obj(at.wrapping_add(8), &0u32);
    match key
        .and_then(|()| if iocb.opcode == POLL { poll(t, owned, file, &iocb, &done) } else { transfer(t, &file, &iocb, &done) })
    {
        Ok(()) => Ok(()),
        Err(errno) => {
            owned.context.give_up();
            Err(errno)
        }
    }
}

/// Whom to tell of a request's end.
#[derive(Clone)]
struct Completion {
    context: Weak<AioContext>,
    data: u64,
    obj: u64,
    eventfd: Option<Arc<File>>,
}

impl Completion {
    fn complete(&self, res: i64) {
        if let Some(context) = self.context.upgrade() {
            context.complete(IoEvent { data: self.data, obj: self.obj, res, res2: 0 });
        }
        if let Some(eventfd) = &self.eventfd {
            // A counter that is full says enough.
            let _ = eventfd.write(&mut IoBuf::kernel(&1u64.to_le_bytes()), None);
        }
    }
}

/// Does a request that isn't a poll.
///
/// # Errors
/// What is wrong with the request itself; what it comes to is told by its event.
fn transfer(t: &Current, file: &Arc<File>, iocb: &Iocb, done: &Completion) -> SysResult<()> {
    let mode = file.flags() & (c::O_ACCMODE | c::O_PATH);
    if mode & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if matches!(iocb.opcode, FSYNC | FDSYNC) {
        if iocb.buf != 0 || iocb.nbytes != 0 || iocb.offset != 0 {
            return Err(Errno::EINVAL);
        }
        done.complete(result(file.ops.fsync().map(|()| 0)));
        return Ok(());
    }
    let writes = match iocb.opcode {
        PREAD | PREADV => false,
        PWRITE | PWRITEV => true,
        _ => return Err(Errno::EINVAL),
    };
    if mode != c::O_RDWR && mode != if writes { c::O_WRONLY } else { c::O_RDONLY } {
        return Err(Errno::EBADF);
    }
    let offset = u64::try_from(iocb.offset).map_err(|_| Errno::EINVAL)?;
    let mut buf = if matches!(iocb.opcode, PREADV | PWRITEV) {
        IoBuf::iovecs(&*t.mm, t.mm.read_iovecs(iocb.buf, iocb.nbytes)?)
    } else {
        IoBuf::user(&*t.mm, iocb.buf, iocb.nbytes)
    };
    let at = Some(offset).filter(|_| !file.ops.is_stream());
    let outcome = if writes { write(t, file, &mut buf, at) } else { read(t, file, &mut buf, at) };
    done.complete(result(outcome));
    Ok(())
}

/// A result as an event has it. What a signal has broken is not started again.
fn result(outcome: SysResult<u64>) -> i64 {
    match outcome {
        Ok(count) => count.cast_signed(),
        Err(Errno::ERESTARTSYS | Errno::ERESTARTNOHAND | Errno::ERESTARTNOINTR) => Errno::EINTR.to_rax().cast_signed(),
        Err(errno) => errno.to_rax().cast_signed(),
    }
}

/// A poll that is waited for.
struct Poll {
    kernel: Weak<Kernel>,
    owned: Weak<Owned>,
    file: Arc<File>,
    mask: PollEvents,
    done: Completion,
    /// Its place in the file's wait queue, until it is finished.
    entry: Mutex<Option<WaitEntry>>,
    finished: Mutex<bool>,
    me: Weak<Self>,
}

impl Poll {
    /// Leaves the event, once.
    fn finish(&self, events: PollEvents) {
        if std::mem::replace(&mut *self.finished.lock(), true) {
            return;
        }
        let entry = self.entry.lock().take();
        drop(entry);
        if let Some(owned) = self.owned.upgrade() {
            owned.polls.lock().retain(|poll| !std::ptr::eq(&raw const **poll, self));
        }
        self.done.complete(events.bits().into());
    }

    fn look(&self) {
        let ready = self.file.ops.poll() & (self.mask | PollEvents::ERR | PollEvents::HUP);
        if !ready.is_empty() {
            self.finish(ready);
        }
    }
}

impl Wake for Poll {
    fn wake(&self, _: PollEvents) {
        // The file may be locked: the worker looks.
        if let (Some(kernel), Some(me)) = (self.kernel.upgrade(), self.me.upgrade()) {
            kernel.worker.add(move || me.look());
        }
    }
}

fn poll(t: &Current, owned: &Arc<Owned>, file: Arc<File>, iocb: &Iocb, done: &Completion) -> SysResult<()> {
    let bits = u32::try_from(iocb.buf).ok().filter(|bits| *bits <= 0xffff).ok_or(Errno::EINVAL)?;
    if iocb.offset != 0 || iocb.nbytes != 0 || iocb.rw_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mask = PollEvents::from_bits_truncate(bits);
    t.task.kernel.worker.start();
    let poll = Arc::new_cyclic(|me| Poll {
        kernel: Arc::downgrade(&t.task.kernel),
        owned: Arc::downgrade(owned),
        file,
        mask,
        done: done.clone(),
        entry: Mutex::default(),
        finished: Mutex::new(false),
        me: me.clone(),
    });
    owned.polls.lock().push(poll.clone());
    let entry = poll.file.ops.wait_queue().map(|queue| queue.register(mask, poll.clone()));
    *poll.entry.lock() = entry;
    poll.look();
    Ok(())
}

fn cancel(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let key: u32 = t.mm.read_obj(a[1].checked_add(8).ok_or(Errno::EFAULT)?)?;
    if key != 0 {
        return Err(Errno::EINVAL);
    }
    let (_, owned) = context(t, a[0])?;
    let found = owned.polls.lock().iter().find(|poll| poll.done.obj == a[1]).cloned();
    // It ends with an event like all others.
    found.ok_or(Errno::EINVAL)?.finish(PollEvents::empty());
    Err(Errno::EINPROGRESS)
}

fn get_events(t: &mut Current, a: [u64; 6], time: u64) -> SysResult<u64> {
    let deadline = timeout(t, time)?.map(after);
    let (_, owned) = context(t, a[0])?;
    let (min, max) = (a[1].cast_signed(), a[2].cast_signed());
    if min < 0 || min > max {
        return Err(Errno::EINVAL);
    }
    let (min, max) = (usize::try_from(min).unwrap_or(0), usize::try_from(max).unwrap_or(0));
    let mut events = Vec::new();
    let attempt = || {
        events.extend(owned.context.collect(max - events.len())?);
        if events.len() >= min { Ok(()) } else { Err(Errno::EAGAIN) }
    };
    match t.block_on(Some(owned.context.queue()), PollEvents::IN, deadline, attempt) {
        Ok(()) | Err(Errno::ETIMEDOUT) => {}
        Err(_) if !events.is_empty() => {}
        Err(Errno::ERESTARTSYS) => return Err(Errno::EINTR),
        Err(errno) => return Err(errno),
    }
    t.mm.write(a[3], events.as_bytes())?;
    Ok(events.len() as u64)
}
