//! Signals that tell the owner of a file that it is ready (O_ASYNC of fcntl(2)) or that its lease is to go.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::c;
use abi::poll::PollEvents;
use abi::signal::SigInfo;
use sync::Wake;
use vfs::{File, FileOwner};

use crate::kernel::Kernel;

/// `si_code` of a signal about a file.
const POLL_IN: i32 = 1;
const POLL_OUT: i32 = 2;
const POLL_MSG: i32 = 3;
const POLL_ERR: i32 = 4;
const POLL_PRI: i32 = 5;
const POLL_HUP: i32 = 6;

/// Sends the owner of a file a signal when it is woken: by the worker, because who wakes may hold locks that signals need.
pub struct SigIo {
    kernel: Weak<Kernel>,
    file: Weak<File>,
    /// The descriptor that O_ASYNC was set by: what the signal says.
    fd: i32,
    /// What has happened since the last signal.
    events: AtomicU32,
    me: Weak<Self>,
}

impl SigIo {
    /// For a file as descriptor `fd`.
    #[must_use]
    pub fn new(kernel: &Arc<Kernel>, file: &Arc<File>, fd: i32) -> Arc<Self> {
        kernel.worker.start();
        let (kernel, file) = (Arc::downgrade(kernel), Arc::downgrade(file));
        Arc::new_cyclic(|me| Self { kernel, file, fd, events: AtomicU32::new(0), me: me.clone() })
    }

    fn send(&self) {
        let events = PollEvents::from_bits_truncate(self.events.swap(0, Ordering::SeqCst));
        let (Some(kernel), Some(file)) = (self.kernel.upgrade(), self.file.upgrade()) else { return };
        let owner = file.owner();
        let info = if owner.signo == 0 { SigInfo::kernel(c::SIGIO) } else { info(owner.signo, events, self.fd) };
        kernel.signal_owner(owner, info);
    }
}

/// What a signal of the owner's choice says.
fn info(signo: i32, events: PollEvents, fd: i32) -> SigInfo {
    let kinds = [
        (PollEvents::MSG, POLL_MSG, PollEvents::READABLE | PollEvents::MSG),
        (PollEvents::READABLE, POLL_IN, PollEvents::READABLE),
        (PollEvents::WRITABLE, POLL_OUT, PollEvents::WRITABLE | PollEvents::WRBAND),
        (PollEvents::PRI, POLL_PRI, PollEvents::PRI | PollEvents::RDBAND),
        (PollEvents::ERR, POLL_ERR, PollEvents::ERR),
        (PollEvents::HUP, POLL_HUP, PollEvents::HUP | PollEvents::ERR),
    ];
    let found = kinds.into_iter().find(|(kind, ..)| events.intersects(*kind));
    let (_, code, band) = found.unwrap_or((PollEvents::IN, POLL_IN, PollEvents::READABLE));
    let mut info = SigInfo { signo, code, ..SigInfo::default() };
    // si_band, si_fd
    info.fields[0] = u64::from(band.bits());
    info.fields[1] = u64::from(fd.cast_unsigned());
    info
}

impl Wake for SigIo {
    fn wake(&self, events: PollEvents) {
        let before = self.events.fetch_or(events.bits(), Ordering::SeqCst);
        if before == 0
            && let (Some(kernel), Some(me)) = (self.kernel.upgrade(), self.me.upgrade())
        {
            kernel.worker.add(move || me.send());
        }
    }
}

impl Kernel {
    /// Sends a signal to the owner of a file.
    pub fn signal_owner(&self, owner: FileOwner, info: SigInfo) {
        match owner.kind {
            _ if owner.id == 0 => {}
            F_OWNER_TID => self.task(owner.id).iter().for_each(|task| task.signal(info)),
            F_OWNER_PID => self.group(owner.id).iter().for_each(|group| group.signal(info)),
            _ => {
                if let Some(group) = self.process_group(owner.id) {
                    group.signal(info);
                }
            }
        }
    }

    /// Whether there is somebody whom an owner of files names.
    #[must_use]
    pub fn has_owner(&self, kind: i32, id: i32) -> bool {
        match kind {
            F_OWNER_TID => self.task(id).is_some(),
            F_OWNER_PID => self.group(id).is_some(),
            _ => self.process_group(id).is_some(),
        }
    }
}

/// Kinds of owners (F_SETOWN_EX).
pub const F_OWNER_TID: i32 = 0;
pub const F_OWNER_PID: i32 = 1;
pub const F_OWNER_PGRP: i32 = 2;
