//! Signals that are read from a file (signalfd(2)).

use std::any::Any;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::signal::{SigInfo, SigSet};
use abi::{Errno, SysResult, c};
use sync::{Mutex, WaitQueue};
use usermem::IoBuf;
use vfs::FileOps;

use crate::kernel::Kernel;
use crate::tasks::current;

/// Size of `struct signalfd_siginfo`.
const SIZE: usize = 128;

/// Signals of a set, of whoever reads.
pub struct SignalFd {
    set: Mutex<SigSet>,
    kernel: Arc<Kernel>,
}

impl SignalFd {
    #[must_use]
    pub fn new(set: SigSet, kernel: &Arc<Kernel>) -> Self {
        Self { set: Mutex::new(set.without(SigSet::UNBLOCKABLE)), kernel: kernel.clone() }
    }

    /// Changes the set.
    pub fn set(&self, set: SigSet) {
        *self.set.lock() = set.without(SigSet::UNBLOCKABLE);
        self.kernel.signal_queue.wake(PollEvents::READABLE);
    }

    fn take(&self) -> Option<SigInfo> {
        current()?.take_signal(*self.set.lock())
    }
}

impl FileOps for SignalFd {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if buf.remaining() < SIZE {
            return Err(Errno::EINVAL);
        }
        let start = buf.done();
        while buf.remaining() >= SIZE {
            let Some(info) = self.take() else { break };
            match buf.copy_out(&encode(&info)) {
                Err(errno) if buf.done() == start => return Err(errno),
                Ok(SIZE) => {}
                _ => break,
            }
        }
        if buf.done() == start { Err(Errno::EAGAIN) } else { Ok(buf.done() - start) }
    }

    fn poll(&self) -> PollEvents {
        let set = *self.set.lock();
        let has = current().is_some_and(|task| task.has_signal(set));
        if has { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.kernel.signal_queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[signalfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `struct signalfd_siginfo`: as `siginfo_t`, but each field has a place of its own.
fn encode(info: &SigInfo) -> [u8; SIZE] {
    let mut out = [0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = out.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    let [first, second, third, fourth, ..] = info.fields;
    let halves = |value: u64| {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        ([a, b, c, d], [e, f, g, h])
    };
    put(0, &info.signo.to_le_bytes());
    put(4, &info.errno.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    let (low, high) = halves(first);
    let (status, upper) = halves(second);
    match (info.signo, info.code) {
        (c::SIGSEGV | c::SIGBUS | c::SIGILL | c::SIGFPE | c::SIGTRAP, 1..=0x7f) => put(72, &first.to_le_bytes()),
        (c::SIGSYS, 1..=0x7f) => {
            put(88, &first.to_le_bytes());
            put(84, &status);
            put(96, &upper);
        }
        // si_band is cut to 32 bits here.
        (c::SIGIO, 1..=0x7f) | (_, c::SI_SIGIO) => {
            put(28, &low);
            put(20, &status);
        }
        (c::SIGCHLD, 1..=0x7f) => {
            put(12, &low);
            put(16, &high);
            put(40, &status);
            put(56, &third.to_le_bytes());
            put(64, &fourth.to_le_bytes());
        }
        (_, c::SI_TIMER) => {
            put(24, &low);
            put(32, &high);
            put(44, &status);
            put(48, &second.to_le_bytes());
        }
        (_, code) => {
            put(12, &low);
            put(16, &high);
            if code < 0 && code != c::SI_TKILL {
                put(44, &status);
                put(48, &second.to_le_bytes());
            }
        }
    }
    out
}
