//! poll(2), select(2).

use std::sync::Arc;

use abi::poll::PollEvents;
use abi::signal::SigSet;
use abi::structs::PollFd;
use abi::{Errno, SysResult, c, nr};
use sync::{MonotonicNs, WaitEntry, monotonic_ns};
use task::Current;
use usermem::UserMemoryExt;
use vfs::File;

use crate::args::{after, int, timeout};
use crate::signal::swap_mask;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::POLL, |t, a| {
        let deadline = u64::try_from(int(a[2])).ok().map(|ms| after(ms * 1_000_000));
        poll(t, a[0], a[1], deadline)
    }),
    full(nr::PPOLL, |t, a| {
        let deadline = timeout(t, a[2])?.map(after);
        if a[3] != 0 {
            if a[4] != 8 {
                return Err(Errno::EINVAL);
            }
            let set: SigSet = t.mm.read_obj(a[3])?;
            swap_mask(t, set);
        }
        let result = poll(t, a[0], a[1], deadline);
        t.restore_mask(&result);
        tell_rest(t, a[2], deadline, result, 1)
    }),
    full(nr::SELECT, |t, a| {
        let deadline = match a[4] {
            0 => None,
            addr => {
                let [sec, usec]: [i64; 2] = t.mm.read_obj(addr)?;
                let (sec, usec) = (u64::try_from(sec), u64::try_from(usec));
                let (sec, usec) = (sec.map_err(|_| Errno::EINVAL)?, usec.map_err(|_| Errno::EINVAL)?);
                Some(after(sec.saturating_mul(1_000_000_000).saturating_add(usec.saturating_mul(1000))))
            }
        };
        let result = select(t, a, deadline);
        tell_rest(t, a[4], deadline, result, 1000)
    }),
    full(nr::PSELECT6, |t, a| {
        let deadline = timeout(t, a[4])?.map(after);
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
        let result = select(t, a, deadline);
        t.restore_mask(&result);
        tell_rest(t, a[4], deadline, result, 1)
    }),
];

/// Writes the time that is left of `deadline` to where the time to wait stood, in seconds and units of `unit` nanoseconds, as Linux does and
/// C libraries hide. Who called may keep it where it can't be written to: that is no error, but then there is no going on either.
fn tell_rest(t: &Current, addr: u64, deadline: Option<MonotonicNs>, result: SysResult<u64>, unit: u64) -> SysResult<u64> {
    let Some(deadline) = deadline.filter(|_| addr != 0 && t.task.lock().personality & STICKY_TIMEOUTS == 0) else {
        return result;
    };
    let left = deadline.saturating_sub(monotonic_ns());
    let told = t.mm.write_obj(addr, &[left / 1_000_000_000, left % 1_000_000_000 / unit]);
    match result {
        Err(Errno::ERESTARTNOHAND) if told.is_err() => Err(Errno::EINTR),
        result => result,
    }
}

/// A personality(2) of programs that don't expect the time to wait to change.
const STICKY_TIMEOUTS: u32 = 0x400_0000;

/// A file and what is waited for on it.
struct Interest {
    file: Option<Arc<File>>,
    mask: PollEvents,
}

/// Waits until something is ready; returns what, file by file.
fn wait(t: &Current, interests: &[Interest], deadline: Option<MonotonicNs>) -> SysResult<Vec<PollEvents>> {
    let look = || -> Vec<PollEvents> {
        let always = PollEvents::ERR | PollEvents::HUP;
        interests
            .iter()
            .map(|interest| match &interest.file {
                Some(file) => file.ops.poll() & (interest.mask | always),
                None => PollEvents::NVAL & interest.mask,
            })
            .collect()
    };
    let done = |ready: &[PollEvents]| ready.iter().any(|events| !events.is_empty());
    let ready = look();
    if done(&ready) || deadline.is_some_and(|deadline| deadline <= monotonic_ns()) {
        return Ok(ready);
    }
    let _entries: Vec<WaitEntry> = interests
        .iter()
        .filter_map(|interest| {
            let queue = interest.file.as_ref()?.ops.wait_queue()?;
            Some(queue.register(interest.mask, t.task.parker.clone()))
        })
        .collect();
    loop {
        let ready = look();
        if done(&ready) {
            return Ok(ready);
        }
        match t.sleep(deadline) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(look()),
            Err(_) => return Err(Errno::ERESTARTNOHAND),
        }
    }
}

fn poll(t: &mut Current, addr: u64, count: u64, deadline: Option<MonotonicNs>) -> SysResult<u64> {
    if count > t.task.group.limit(c::RLIMIT_NOFILE).min(1 << 16) {
        return Err(Errno::EINVAL);
    }
    let mut fds = Vec::new();
    for i in 0..count {
        let fd: PollFd = t.mm.read_obj(addr.checked_add(i * 8).ok_or(Errno::EFAULT)?)?;
        fds.push(fd);
    }
    let interests: Vec<_> = fds
        .iter()
        .map(|fd| {
            let file = t.fds.get(fd.fd).ok();
            let invalid = if fd.fd >= 0 && file.is_none() { PollEvents::NVAL } else { PollEvents::empty() };
            let mask = if file.is_some() { PollEvents::from_bits_truncate(fd.events.into()) } else { invalid };
            Interest { file, mask }
        })
        .collect();
    let ready = wait(t, &interests, deadline)?;
    let mut total = 0;
    for ((i, fd), events) in (0u64..).zip(&mut fds).zip(ready) {
        fd.revents = u16::try_from(events.bits()).unwrap_or(0);
        total += u64::from(fd.revents != 0);
        t.mm.write_obj(addr.wrapping_add(i * 8), fd)?;
    }
    Ok(total)
}

fn select(t: &mut Current, a: [u64; 6], deadline: Option<MonotonicNs>) -> SysResult<u64> {
    let count = usize::try_from(int(a[0])).map_err(|_| Errno::EINVAL)?.min(1 << 16);
    let words = count.div_ceil(64);
    // What each set asks for and what makes a descriptor a member of its result (select(2), "Correspondence").
    let kinds = [
        (PollEvents::READABLE, PollEvents::READABLE | PollEvents::HUP | PollEvents::ERR),
        (PollEvents::WRITABLE, PollEvents::WRITABLE | PollEvents::ERR),
        (PollEvents::PRI, PollEvents::PRI),
    ];
    let mut sets = [vec![0u64; words], vec![0; words], vec![0; words]];
    for (set, addr) in sets.iter_mut().zip([a[1], a[2], a[3]]) {
        for (i, word) in (0u64..).zip(set.iter_mut()).filter(|_| addr != 0) {
            *word = t.mm.read_obj(addr.checked_add(i * 8).ok_or(Errno::EFAULT)?)?;
        }
    }
    let has = |set: &[u64], fd: usize| set.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0);
    let mut fds = Vec::new();
    let mut interests = Vec::new();
    for fd in 0..count {
        let mask =
            sets.iter().zip(kinds).filter(|(set, _)| has(set, fd)).fold(PollEvents::empty(), |mask, (_, kind)| mask | kind.0);
        if !mask.is_empty() {
            interests.push(Interest { file: Some(t.fds.get(i32::try_from(fd).unwrap_or(-1))?), mask });
            fds.push(fd);
        }
    }
    let ready = wait(t, &interests, deadline)?;
    let mut total = 0;
    let mut result = [vec![0u64; words], vec![0; words], vec![0; words]];
    for (fd, events) in fds.iter().zip(ready) {
        for ((from, to), kind) in sets.iter().zip(&mut result).zip(kinds) {
            if has(from, *fd)
                && events.intersects(kind.1)
                && let Some(word) = to.get_mut(fd / 64)
            {
                *word |= 1 << (fd % 64);
                total += 1;
            }
        }
    }
    for (set, addr) in result.iter().zip([a[1], a[2], a[3]]) {
        for (i, word) in (0u64..).zip(set).filter(|_| addr != 0) {
            t.mm.write_obj(addr.wrapping_add(i * 8), word)?;
        }
    }
    Ok(total)
}
