//! Signals (signal(7), sigaction(2)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest signal number.
pub const MAX_SIGNAL: i32 = 64;

/// A set of signals: bit n-1 is signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// `SIGKILL` and `SIGSTOP`, which can't be blocked.
    pub const UNBLOCKABLE: Self = Self((1 << 8) | (1 << 18));

    /// The set of one signal; empty for what is no signal.
    #[must_use]
    pub fn of(signo: i32) -> Self {
        if (1..=MAX_SIGNAL).contains(&signo) { Self(1 << (signo - 1)) } else { Self(0) }
    }

    #[must_use]
    pub fn contains(self, signo: i32) -> bool {
        self.0 & Self::of(signo).0 != 0
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The lowest signal of the set.
    #[must_use]
    pub fn first(self) -> Option<i32> {
        (self.0 != 0).then(|| self.0.trailing_zeros().cast_signed() + 1)
    }
}

/// `struct sigaction` of rt_sigaction(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: SigSet,
}

/// `SIG_DFL`
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`
pub const SIG_IGN: u64 = 1;
/// `SA_RESTORER`
pub const SA_RESTORER: u64 = 0x0400_0000;

/// `siginfo_t`: 128 bytes, of which these are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pub pad: i32,
    pub fields: [u64; 14],
}

impl SigInfo {
    /// From the kernel itself.
    #[must_use]
    pub fn kernel(signo: i32) -> Self {
        Self { signo, code: libc::SI_KERNEL, ..Self::default() }
    }

    /// Sent by a process: kill(2), tgkill(2).
    #[must_use]
    pub fn from_process(signo: i32, code: i32, pid: i32, uid: u32) -> Self {
        let mut info = Self { signo, code, ..Self::default() };
        info.fields[0] = u64::from(pid.cast_unsigned()) | u64::from(uid) << 32;
        info
    }

    /// A fault at `addr`.
    #[must_use]
    pub fn fault(signo: i32, code: i32, addr: u64) -> Self {
        let mut info = Self { signo, code, ..Self::default() };
        info.fields[0] = addr;
        info
    }

    /// `SIGCHLD`.
    #[must_use]
    pub fn child(code: i32, pid: i32, uid: u32, status: i32) -> Self {
        let mut info = Self::from_process(libc::SIGCHLD, code, pid, uid);
        info.fields[1] = u64::from(status.cast_unsigned());
        info
    }
}

/// `stack_t` of sigaltstack(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigStack {
    pub sp: u64,
    pub flags: i32,
    pub pad: i32,
    pub size: u64,
}

/// `struct ucontext` up to the signal mask, with `struct sigcontext` inside (x86-64).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UContext {
    pub flags: u64,
    pub link: u64,
    pub stack: SigStack,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
    pub sigmask: SigSet,
}
