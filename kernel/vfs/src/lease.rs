//! Leases (fcntl(2), F_SETLEASE): who has one is told when somebody else opens the file, and is given time before that open goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use sync::{MonotonicNs, WaitQueue, Wake, monotonic_ns};

use crate::attached::Attached;
use crate::file::File;
use crate::inode::{Attr, Inode};
use crate::lock::LockKind;

/// Leases that there are: without any, opening a file looks no further.
static LEASES: AtomicUsize = AtomicUsize::new(0);

/// Seconds that holders are given (fs.lease-break-time).
pub static LEASE_BREAK_TIME: AtomicU64 = AtomicU64::new(45);

/// A lease of an open file description.
pub struct Lease {
    pub(crate) file: usize,
    pub(crate) kind: LockKind,
    pub(crate) pid: i32,
    /// Tells the holder.
    notify: Arc<dyn Wake>,
    /// What it is to become, and when it is taken away.
    breaking: Option<(Option<LockKind>, MonotonicNs)>,
}

impl Lease {
    fn new(file: usize, kind: LockKind, pid: i32, notify: Arc<dyn Wake>) -> Self {
        LEASES.fetch_add(1, Ordering::SeqCst);
        Self { file, kind, pid, notify, breaking: None }
    }

    /// Whether its holder has been told to give it up.
    pub(crate) fn breaking(&self) -> bool {
        self.breaking.is_some()
    }

    /// Whether it is in the way of an open.
    fn forbids(&self, write: bool) -> bool {
        write || self.kind == LockKind::Exclusive
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        LEASES.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An open that has to wait for a lease's end.
pub struct Breaking {
    attached: Arc<Attached>,
    write: bool,
}

/// Tells those who have leases that are in the way of opening `inode` with `flags`.
///
/// # Errors
/// `EAGAIN` when there are and `flags` say not to wait.
pub fn break_leases(inode: &Arc<dyn Inode>, flags: i32) -> SysResult<Option<Breaking>> {
    if LEASES.load(Ordering::SeqCst) == 0 {
        return Ok(None);
    }
    let Some(attached) = Attached::find(Some(inode), Attr::default) else { return Ok(None) };
    let write = flags & c::O_ACCMODE != c::O_RDONLY || flags & c::O_TRUNC != 0;
    let until = monotonic_ns().saturating_add(LEASE_BREAK_TIME.load(Ordering::Relaxed).saturating_mul(1_000_000_000));
    let mut told = Vec::new();
    for lease in attached.locks.lock().leases.iter_mut().filter(|lease| lease.forbids(write)) {
        let to = if write { None } else { Some(LockKind::Shared) };
        match &mut lease.breaking {
            None => {
                lease.breaking = Some((to, until));
                told.push(lease.notify.clone());
            }
            // It was to be weakened; now it has to go.
            Some((before, _)) if write && before.is_some() => {
                *before = None;
                told.push(lease.notify.clone());
            }
            Some(_) => {}
        }
    }
    told.iter().for_each(|notify| notify.wake(PollEvents::MSG));
    let breaking = Breaking { attached, write };
    match breaking.check() {
        Ok(()) => Ok(None),
        Err(errno) if flags & c::O_NONBLOCK != 0 => Err(errno),
        Err(_) => Ok(Some(breaking)),
    }
}

impl Breaking {
    /// Whether the way is free, or may be taken now because time is up.
    ///
    /// # Errors
    /// `EAGAIN` when not.
    pub fn check(&self) -> SysResult<()> {
        let now = monotonic_ns();
        let mut locks = self.attached.locks.lock();
        for lease in &mut locks.leases {
            if let Some((Some(kind), until)) = lease.breaking
                && until <= now
            {
                (lease.kind, lease.breaking) = (kind, None);
            }
        }
        locks.leases.retain(|lease| !matches!(lease.breaking, Some((None, until)) if until <= now));
        if locks.leases.iter().any(|lease| lease.forbids(self.write)) { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// When the first of those in the way is taken away.
    #[must_use]
    pub fn deadline(&self) -> MonotonicNs {
        let locks = self.attached.locks.lock();
        let ends = locks.leases.iter().filter_map(|lease| lease.breaking.map(|(_, until)| until));
        ends.min().unwrap_or_else(monotonic_ns)
    }

    /// Woken when a lease is given up.
    pub fn queue(&self) -> WaitQueue {
        self.attached.queue.clone()
    }
}

impl File {
    /// Takes a lease, changes it, or gives it up. The caller looks whether the file is open elsewhere, after it has the lease.
    ///
    /// # Errors
    /// `EAGAIN` when there are others that are in the way, or none to give up.
    pub fn set_lease(&self, kind: Option<LockKind>, pid: i32, notify: Arc<dyn Wake>) -> SysResult<()> {
        let attached = self.attached();
        let id = std::ptr::from_ref(self).addr();
        let mut locks = attached.locks.lock();
        let own = locks.leases.iter().position(|lease| lease.file == id);
        let Some(kind) = kind else {
            drop(locks.leases.swap_remove(own.ok_or(Errno::EAGAIN)?));
            attached.released();
            return Ok(());
        };
        let others = locks.leases.iter().filter(|lease| lease.file != id);
        if others.clone().any(|lease| kind == LockKind::Exclusive || lease.breaking() || lease.kind == LockKind::Exclusive) {
            return Err(Errno::EAGAIN);
        }
        let own = own.and_then(|own| locks.leases.get_mut(own));
        match own {
            Some(lease) if lease.breaking.is_some_and(|(to, _)| to != Some(kind)) => return Err(Errno::EAGAIN),
            Some(lease) => {
                (lease.kind, lease.breaking) = (kind, None);
                attached.released();
            }
            None => locks.leases.push(Lease::new(id, kind, pid, notify)),
        }
        Ok(())
    }

    /// The lease it has: what it is, or is to become.
    #[must_use]
    pub fn lease(&self) -> Option<LockKind> {
        if LEASES.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let id = std::ptr::from_ref(self).addr();
        let attached = self.find_attached()?;
        let locks = attached.locks.lock();
        let lease = locks.leases.iter().find(|lease| lease.file == id)?;
        lease.breaking.map_or(Some(lease.kind), |(to, _)| to)
    }
}
