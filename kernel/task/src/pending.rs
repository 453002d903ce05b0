//! Signals that wait to be delivered (signal(7), "Queueing and delivery semantics").

use std::collections::VecDeque;
use std::sync::Arc;

use abi::c;
use abi::signal::{SigInfo, SigSet};
use auth::Charge;

/// Signals that a thread causes itself: delivered before all others, so that the handler's frame shows where it happened.
pub(crate) const SYNCHRONOUS: SigSet = SigSet(
    1 << (c::SIGSEGV - 1)
        | 1 << (c::SIGBUS - 1)
        | 1 << (c::SIGILL - 1)
        | 1 << (c::SIGTRAP - 1)
        | 1 << (c::SIGFPE - 1)
        | 1 << (c::SIGSYS - 1),
);
/// The first real-time signal.
pub(crate) const SIGRTMIN: i32 = 32;

/// What sends one signal again and again and wants to know when it has been taken (a POSIX timer).
pub trait Source: Send + Sync {
    /// The signal is about to be delivered; it may fill in what has happened since it was queued.
    fn taken(&self, info: &mut SigInfo);

    /// The signal was thrown away.
    fn dropped(&self) {}
}

/// A queued signal. What it stands for outlives neither delivery nor discarding.
pub(crate) struct Queued {
    pub info: SigInfo,
    /// Held until it is taken.
    pub _place: Option<Charge>,
    pub source: Option<Arc<dyn Source>>,
}

/// Signals that wait to be delivered, to a thread or to a process.
#[derive(Default)]
pub struct Pending {
    pub set: SigSet,
    queue: VecDeque<Queued>,
}

impl Pending {
    /// Whether a signal may not be added again: standard signals are not queued twice.
    pub(crate) fn has_standard(&self, signo: i32) -> bool {
        signo < SIGRTMIN && self.set.contains(signo)
    }

    /// Adds a signal with what is known of it.
    pub(crate) fn push(&mut self, queued: Queued) {
        self.set = self.set.with(SigSet::of(queued.info.signo));
        self.queue.push_back(queued);
    }

    /// What is known of a signal in the queue, by its place.
    pub(crate) fn peek(&self, at: usize) -> Option<SigInfo> {
        self.queue.get(at).map(|queued| queued.info)
    }

    /// Adds a signal of which nothing is kept but that it came.
    pub(crate) fn mark(&mut self, signo: i32) {
        self.set = self.set.with(SigSet::of(signo));
    }

    /// Takes the first signal outside of `mask`: those that the thread has caused itself, then the lowest.
    pub(crate) fn take(&mut self, mask: SigSet) -> Option<SigInfo> {
        let open = self.set.without(mask);
        let signo = SigSet(open.0 & SYNCHRONOUS.0).first().or_else(|| open.first())?;
        let at = self.queue.iter().position(|queued| queued.info.signo == signo);
        let queued = at.and_then(|at| self.queue.remove(at));
        if !self.queue.iter().any(|queued| queued.info.signo == signo) {
            self.set = self.set.without(SigSet::of(signo));
        }
        let Some(Queued { mut info, source, .. }) = queued else {
            // Sent when the queue was full: as kill(2) by nobody.
            return Some(SigInfo { signo, code: c::SI_USER, ..SigInfo::default() });
        };
        if let Some(source) = source {
            source.taken(&mut info);
        }
        Some(info)
    }

    /// Forgets the signals of a set.
    pub(crate) fn discard(&mut self, set: SigSet) {
        if self.set.0 & set.0 == 0 {
            return;
        }
        self.queue.retain(|queued| {
            let gone = set.contains(queued.info.signo);
            if gone && let Some(source) = &queued.source {
                source.dropped();
            }
            !gone
        });
        self.set = self.set.without(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(signo: i32) -> Queued {
        Queued { info: SigInfo { signo, ..SigInfo::default() }, _place: None, source: None }
    }

    #[test]
    fn faults_come_first_then_the_lowest() {
        let mut pending = Pending::default();
        for signo in [40, c::SIGHUP, c::SIGSEGV, 36] {
            pending.push(queued(signo));
        }
        let order: Vec<_> = std::iter::from_fn(|| pending.take(SigSet(0))).map(|info| info.signo).collect();
        assert_eq!(order, [c::SIGSEGV, c::SIGHUP, 36, 40]);
    }

    #[test]
    fn discarded_signals_are_gone() {
        let mut pending = Pending::default();
        (0..3).for_each(|_| pending.push(queued(40)));
        pending.discard(SigSet::of(40));
        assert!(pending.take(SigSet(0)).is_none() && pending.set == SigSet(0));
    }

    #[test]
    fn a_signal_without_a_place_is_still_told() {
        let mut pending = Pending::default();
        pending.mark(c::SIGUSR1);
        assert!(pending.has_standard(c::SIGUSR1));
        let info = pending.take(SigSet(0)).unwrap();
        assert_eq!((info.signo, info.code), (c::SIGUSR1, c::SI_USER));
        assert!(pending.take(SigSet(0)).is_none());
    }
}
