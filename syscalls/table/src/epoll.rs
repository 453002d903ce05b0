//! epoll(7) and eventfd(2).

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::signal::SigSet;
use abi::{Errno, SysResult, c, nr};
use anon::{Epoll, EpollEvent, EventFd};
use sync::MonotonicNs;
use task::Current;
use usermem::UserMemoryExt;
use vfs::File;

use crate::args::{after, file, int, timeout, uint};
use crate::fd::install;
use crate::signal::swap_mask;
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    full(nr::EVENTFD, |t, a| eventfd(t, uint(a[0]), 0)),
    full(nr::EVENTFD2, |t, a| eventfd(t, uint(a[0]), int(a[1]))),
    full(nr::EPOLL_CREATE, |t, a| if int(a[0]) <= 0 { Err(Errno::EINVAL) } else { create(t, 0) }),
    full(nr::EPOLL_CREATE1, |t, a| create(t, int(a[0]))),
    partial(nr::EPOLL_CTL, control, "EPOLLEXCLUSIVE wakes all"),
    full(nr::EPOLL_WAIT, |t, a| wait(t, a, millis(a[3]))),
    full(nr::EPOLL_PWAIT, |t, a| {
        mask(t, a[4], a[5])?;
        let result = wait(t, a, millis(a[3]));
        t.restore_mask(&result);
        result
    }),
    full(nr::EPOLL_PWAIT2, |t, a| {
        let deadline = timeout(t, a[3])?.map(after);
        mask(t, a[4], a[5])?;
        let result = wait(t, a, deadline);
        t.restore_mask(&result);
        result
    }),
];

/// A deadline from milliseconds; negative: none.
fn millis(arg: u64) -> Option<MonotonicNs> {
    u64::try_from(int(arg)).ok().map(|ms| if ms == 0 { 0 } else { after(ms * 1_000_000) })
}

fn mask(t: &Current, addr: u64, size: u64) -> SysResult<()> {
    if addr != 0 {
        if size != 8 {
            return Err(Errno::EINVAL);
        }
        let set: SigSet = t.mm.read_obj(addr)?;
        swap_mask(t, set);
    }
    Ok(())
}

fn eventfd(t: &mut Current, count: u32, flags: i32) -> SysResult<u64> {
    if flags & !(c::EFD_CLOEXEC | c::EFD_NONBLOCK | c::EFD_SEMAPHORE) != 0 {
        return Err(Errno::EINVAL);
    }
    let ops = Arc::new(EventFd::new(count.into(), flags & c::EFD_SEMAPHORE != 0));
    let file = File::new(ops, None, c::O_RDWR | flags & c::O_NONBLOCK);
    install(t, file, flags & c::EFD_CLOEXEC != 0, 0)
}

fn create(t: &mut Current, flags: i32) -> SysResult<u64> {
    if flags & !c::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    install(t, File::new(Arc::new(Epoll::default()), None, c::O_RDWR), flags != 0, 0)
}

fn epoll(file: &File) -> SysResult<&Epoll> {
    file.ops.as_any().downcast_ref().ok_or(Errno::EINVAL)
}

fn control(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let op = int(a[1]);
    let event = if op == c::EPOLL_CTL_DEL { EpollEvent::default() } else { t.mm.read_obj(a[3])? };
    let instance = file(t, a[0])?;
    let target = file(t, a[2])?;
    // Files that are always ready are refused before anything else is looked at.
    if target.ops.wait_queue().is_none() {
        return Err(Errno::EPERM);
    }
    epoll(&instance)?.control(op, int(a[2]), &target, event).map(|()| 0)
}

fn wait(t: &mut Current, a: [u64; 6], deadline: Option<MonotonicNs>) -> SysResult<u64> {
    let max = usize::try_from(int(a[2])).ok().filter(|max| (1..=i32::MAX as usize / 12).contains(max)).ok_or(Errno::EINVAL)?;
    let instance = file(t, a[0])?;
    let epoll = epoll(&instance)?;
    let events = if deadline == Some(0) {
        epoll.collect(max)
    } else {
        let attempt = || {
            let events = epoll.collect(max);
            if events.is_empty() { Err(Errno::EAGAIN) } else { Ok(events) }
        };
        match t.block_on(instance.ops.wait_queue(), PollEvents::READABLE, deadline, attempt) {
            Err(Errno::ETIMEDOUT) => Vec::new(),
            Err(Errno::ERESTARTSYS) => return Err(Errno::EINTR),
            result => result?,
        }
    };
    let mut addr = a[1];
    for event in &events {
        t.mm.write_obj(addr, event)?;
        addr = addr.checked_add(12).ok_or(Errno::EFAULT)?;
    }
    Ok(events.len() as u64)
}
