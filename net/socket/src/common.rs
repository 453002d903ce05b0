//! What every socket has: type, options, a wait queue, a pending error.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::poll::PollEvents;
use sync::WaitQueue;
use vfs::new_ino;

/// Default of `SO_SNDBUF` and `SO_RCVBUF` (`net.core.wmem_default`).
pub const BUFFER: u32 = 212_992;
/// The most that can be asked for, before it is doubled (`net.core.wmem_max`, as Linux has it since 6.17).
pub const MAX_BUFFER: u32 = 4 << 20;
/// `SOCK_MIN_SNDBUF` and `SOCK_MIN_RCVBUF`.
pub const MIN_SEND_BUFFER: u32 = 4608;
pub const MIN_RECEIVE_BUFFER: u32 = 2304;

/// Options that are on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flag {
    Debug,
    ReuseAddress,
    ReusePort,
    KeepAlive,
    DontRoute,
    Broadcast,
    OobInline,
    NoCheck,
    PassCredentials,
    PassSecurity,
    PassPidFd,
    Timestamp,
    TimestampNs,
    QueueOverflow,
    Wifi,
    NoFcs,
    SelectErrorQueue,
    ZeroCopy,
    PreferBusyPoll,
    LockFilter,
    BufferLocked,
    ReceiveBufferLocked,
    PassRights,
    /// `SO_TIMESTAMP_NEW` and `SO_TIMESTAMPNS_NEW` were asked for.
    NewTimestamp,
    ReceivePriority,
}

/// State that doesn't depend on the family. All of it is read without a lock.
pub struct Common {
    /// `AF_*`
    pub domain: i32,
    /// `SOCK_*`
    pub kind: i32,
    /// `IPPROTO_*` and the like.
    pub protocol: i32,
    pub ino: u64,
    /// Where those wait who read and write.
    pub queue: WaitQueue,
    flags: AtomicU32,
    send_buffer: AtomicU32,
    receive_buffer: AtomicU32,
    /// `SO_RCVTIMEO` and `SO_SNDTIMEO`, in nanoseconds; 0: none.
    receive_timeout: AtomicU64,
    send_timeout: AtomicU64,
    /// `SO_RCVLOWAT`
    pub low_water: AtomicI32,
    /// `SO_LINGER`: seconds, with [`Common::lingers`].
    pub linger: AtomicU32,
    pub lingers: AtomicBool,
    pub priority: AtomicU32,
    pub mark: AtomicU32,
    /// Index of the interface that it is bound to; 0: none.
    device: AtomicU32,
    pub pacing: AtomicU64,
    /// `SO_PEEK_OFF`; -1: none.
    pub peek_offset: AtomicI32,
    pub busy_poll: AtomicU32,
    pub incoming_cpu: AtomicI32,
    /// `SO_TIMESTAMPING`
    pub timestamping: AtomicU32,
    error: AtomicI32,
}

impl Common {
    #[must_use]
    pub fn new(domain: i32, kind: i32, protocol: i32) -> Self {
        let common = Self {
            domain,
            kind,
            protocol,
            ino: new_ino(),
            queue: WaitQueue::default(),
            flags: AtomicU32::new(0),
            send_buffer: AtomicU32::new(BUFFER),
            receive_buffer: AtomicU32::new(BUFFER),
            receive_timeout: AtomicU64::new(0),
            send_timeout: AtomicU64::new(0),
            low_water: AtomicI32::new(1),
            linger: AtomicU32::new(0),
            lingers: AtomicBool::new(false),
            priority: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            device: AtomicU32::new(0),
            pacing: AtomicU64::new(u64::MAX),
            peek_offset: AtomicI32::new(-1),
            busy_poll: AtomicU32::new(0),
            incoming_cpu: AtomicI32::new(-1),
            timestamping: AtomicU32::new(0),
            error: AtomicI32::new(0),
        };
        common.set(Flag::PassRights, true);
        common
    }

    /// Takes the options of the listening socket that it came by.
    pub fn inherit(&self, listener: &Self) {
        let relaxed = Ordering::Relaxed;
        self.flags.store(listener.flags.load(relaxed), relaxed);
        self.send_buffer.store(listener.send_buffer(), relaxed);
        self.receive_buffer.store(listener.receive_buffer(), relaxed);
        self.receive_timeout.store(listener.timeout(true), relaxed);
        self.send_timeout.store(listener.timeout(false), relaxed);
        self.low_water.store(listener.low_water.load(relaxed), relaxed);
        self.linger.store(listener.linger.load(relaxed), relaxed);
        self.lingers.store(listener.lingers.load(relaxed), relaxed);
        self.priority.store(listener.priority.load(relaxed), relaxed);
        self.mark.store(listener.mark.load(relaxed), relaxed);
        self.device.store(listener.device.load(relaxed), relaxed);
        self.pacing.store(listener.pacing.load(relaxed), relaxed);
    }

    #[must_use]
    pub fn is(&self, flag: Flag) -> bool {
        self.flags.load(Ordering::Relaxed) & 1 << flag as u32 != 0
    }

    pub fn set(&self, flag: Flag, on: bool) {
        if on {
            self.flags.fetch_or(1 << flag as u32, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!(1 << flag as u32), Ordering::Relaxed);
        }
    }

    /// `SO_SNDBUF`, as getsockopt(2) shows it.
    #[must_use]
    pub fn send_buffer(&self) -> u32 {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// `SO_RCVBUF`, as getsockopt(2) shows it.
    #[must_use]
    pub fn receive_buffer(&self) -> u32 {
        self.receive_buffer.load(Ordering::Relaxed)
    }

    /// A family's own defaults.
    pub fn set_buffers(&self, send: u32, receive: u32) {
        self.send_buffer.store(send, Ordering::Relaxed);
        self.receive_buffer.store(receive, Ordering::Relaxed);
    }

    /// `SO_SNDBUF` (or `SO_RCVBUF`): Linux doubles what it is given, within limits; only force goes beyond `net.core.wmem_max`.
    pub fn resize(&self, receive: bool, bytes: i32, force: bool) {
        // Without force, a negative size is a very large one.
        let bytes = if force { u32::try_from(bytes).unwrap_or(0).min(1 << 30) } else { bytes.cast_unsigned().min(MAX_BUFFER) };
        if receive {
            self.receive_buffer.store((bytes * 2).max(MIN_RECEIVE_BUFFER), Ordering::Relaxed);
            self.set(Flag::ReceiveBufferLocked, true);
        } else {
            self.send_buffer.store((bytes * 2).max(MIN_SEND_BUFFER), Ordering::Relaxed);
            self.set(Flag::BufferLocked, true);
            // There may be room now.
            self.queue.wake(PollEvents::WRITABLE);
        }
    }

    /// Index of the interface that it is bound to (`SO_BINDTODEVICE`); 0: none.
    #[must_use]
    pub fn device(&self) -> u32 {
        self.device.load(Ordering::Relaxed)
    }

    pub fn set_device(&self, index: u32) {
        self.device.store(index, Ordering::Relaxed);
    }

    /// `SO_RCVTIMEO` or else `SO_SNDTIMEO`, in nanoseconds; 0: none.
    #[must_use]
    pub fn timeout(&self, receive: bool) -> u64 {
        if receive { &self.receive_timeout } else { &self.send_timeout }.load(Ordering::Relaxed)
    }

    /// Sets what [`Common::timeout`] says.
    pub fn set_timeout(&self, receive: bool, ns: u64) {
        if receive { &self.receive_timeout } else { &self.send_timeout }.store(ns, Ordering::Relaxed);
    }

    /// Whether an error is pending.
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.error.load(Ordering::Relaxed) != 0
    }

    /// Takes the pending error (`SO_ERROR`).
    #[must_use]
    pub fn take_error(&self) -> Option<Errno> {
        // Mostly there is none: a load is cheaper than an exchange.
        if !self.has_error() {
            return None;
        }
        match self.error.swap(0, Ordering::Relaxed) {
            0 => None,
            raw => Some(Errno::from_raw(raw)),
        }
    }

    /// Leaves an error for the next call, and wakes everybody.
    pub fn set_error(&self, error: Errno) {
        self.error.store(error.raw(), Ordering::Relaxed);
        self.queue.wake(PollEvents::ERR | PollEvents::READABLE | PollEvents::WRITABLE);
    }
}
