//! Signals (signal(7), sigaction(2)).

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest signal number.
pub const MAX_SIGNAL: i32 = 64;

/// Signals 1 to 31 by their names, without SIG (signal(7), x86-64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
    "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The name of a signal: `SIGINT`, `SIGRT_2`; the number of what is none.
#[must_use]
pub fn name(signo: i32) -> String {
    match usize::try_from(signo).ok().and_then(|signo| NAMES.get(signo.wrapping_sub(1))) {
        Some(name) => format!("SIG{name}"),
        None if signo == 32 => "SIGRTMIN".to_owned(),
        None if (33..=MAX_SIGNAL).contains(&signo) => format!("SIGRT_{}", signo - 32),
        None => signo.to_string(),
    }
}

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

/// As strace(1) writes it.
impl fmt::Display for SigInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.fields;
        // The fields of a signal that a process has sent, or of a child's.
        let (pid, uid) = (first as u32, first >> 32);
        let (status, value) = (second as u32, second);
        write!(f, "{{si_signo={}, si_code={}", name(self.signo), self.code_name())?;
        match (self.signo, self.code) {
            (_, libc::SI_KERNEL) => {}
            (libc::SIGCHLD, 1..) => {
                let status = match self.code {
                    libc::CLD_EXITED => status.to_string(),
                    _ => name(status.cast_signed()),
                };
                let pid = pid.cast_signed();
                write!(f, ", si_pid={pid}, si_uid={uid}, si_status={status}, si_utime={third}, si_stime={fourth}")?;
            }
            (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP, 1..) => match first {
                0 => write!(f, ", si_addr=NULL")?,
                addr => write!(f, ", si_addr={addr:#x}")?,
            },
            (libc::SIGSYS, 1..) => write!(f, ", si_call_addr={first:#x}, si_syscall={}", second as u32)?,
            (libc::SIGIO, 1..) => write!(f, ", si_band={}, si_fd={}", first.cast_signed(), status.cast_signed())?,
            (_, libc::SI_TIMER) => write!(f, ", si_timerid={pid:#x}, si_overrun={uid}, si_value={value:#x}")?,
            (_, libc::SI_QUEUE | libc::SI_MESGQ) => {
                write!(f, ", si_pid={}, si_uid={uid}, si_int={}, si_ptr={value:#x}", pid.cast_signed(), status.cast_signed())?;
            }
            _ => write!(f, ", si_pid={}, si_uid={uid}", pid.cast_signed())?,
        }
        write!(f, "}}")
    }
}

impl SigInfo {
    /// `si_code` by its name, which depends on the signal.
    fn code_name(&self) -> String {
        let names: &[&str] = match (self.signo, self.code) {
            (_, libc::SI_USER) => return "SI_USER".to_owned(),
            (_, libc::SI_KERNEL) => return "SI_KERNEL".to_owned(),
            (_, libc::SI_QUEUE) => return "SI_QUEUE".to_owned(),
            (_, libc::SI_TIMER) => return "SI_TIMER".to_owned(),
            (_, libc::SI_MESGQ) => return "SI_MESGQ".to_owned(),
            (_, libc::SI_ASYNCIO) => return "SI_ASYNCIO".to_owned(),
            (_, libc::SI_SIGIO) => return "SI_SIGIO".to_owned(),
            (_, libc::SI_TKILL) => return "SI_TKILL".to_owned(),
            (libc::SIGCHLD, _) => &["CLD_EXITED", "CLD_KILLED", "CLD_DUMPED", "CLD_TRAPPED", "CLD_STOPPED", "CLD_CONTINUED"],
            (libc::SIGSEGV, _) => &["SEGV_MAPERR", "SEGV_ACCERR", "SEGV_BNDERR", "SEGV_PKUERR"],
            (libc::SIGBUS, _) => &["BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR"],
            (libc::SIGFPE, _) => {
                &["FPE_INTDIV", "FPE_INTOVF", "FPE_FLTDIV", "FPE_FLTOVF", "FPE_FLTUND", "FPE_FLTRES", "FPE_FLTINV", "FPE_FLTSUB"]
            }
            (libc::SIGILL, _) => {
                &["ILL_ILLOPC", "ILL_ILLOPN", "ILL_ILLADR", "ILL_ILLTRP", "ILL_PRVOPC", "ILL_PRVREG", "ILL_COPROC", "ILL_BADSTK"]
            }
            (libc::SIGTRAP, _) => &["TRAP_BRKPT", "TRAP_TRACE"],
            (libc::SIGIO, _) => &["POLL_IN", "POLL_OUT", "POLL_MSG", "POLL_ERR", "POLL_PRI", "POLL_HUP"],
            (libc::SIGSYS, _) => &["SYS_SECCOMP", "SYS_USER_DISPATCH"],
            _ => &[],
        };
        let found = usize::try_from(self.code).ok().and_then(|code| names.get(code.wrapping_sub(1)));
        found.map_or_else(|| format!("{:#x}", self.code), |name| (*name).to_owned())
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

/// `SS_AUTODISARM`: the stack is taken away when a handler enters it, and given back at its return.
pub const SS_AUTODISARM: i32 = i32::MIN;

impl SigStack {
    /// No alternate stack.
    pub const DISABLED: Self = Self { sp: 0, flags: libc::SS_DISABLE, pad: 0, size: 0 };

    /// Whether a stack pointer lies in it.
    #[must_use]
    pub fn covers(self, rsp: u64) -> bool {
        rsp > self.sp && rsp - self.sp <= self.size
    }

    /// Whether who has this stack pointer runs on it, which can't be said of one that disarms itself.
    #[must_use]
    pub fn holds(self, rsp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.covers(rsp)
    }

    /// As sigaltstack(2) shows it to who has this stack pointer.
    #[must_use]
    pub fn shown_to(self, rsp: u64) -> Self {
        let state = match self.size {
            0 => libc::SS_DISABLE,
            _ if self.holds(rsp) => libc::SS_ONSTACK,
            _ => 0,
        };
        Self { flags: state | self.flags & SS_AUTODISARM, ..self }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(
            (name(1), name(31), name(32), name(34)),
            ("SIGHUP".into(), "SIGSYS".into(), "SIGRTMIN".into(), "SIGRT_2".into())
        );
        assert_eq!((name(0), name(65), name(-1)), ("0".into(), "65".into(), "-1".into()));
    }

    #[test]
    fn informations_are_written_as_by_strace() {
        let child = SigInfo::child(libc::CLD_KILLED, 7, 0, 9);
        let expected = "{si_signo=SIGCHLD, si_code=CLD_KILLED, si_pid=7, si_uid=0, si_status=SIGKILL, si_utime=0, si_stime=0}";
        assert_eq!(child.to_string(), expected);
        let fault = SigInfo::fault(libc::SIGSEGV, 1, 0);
        assert_eq!(fault.to_string(), "{si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=NULL}");
        let sent = SigInfo::from_process(libc::SIGUSR1, libc::SI_TKILL, 3, 1000);
        assert_eq!(sent.to_string(), "{si_signo=SIGUSR1, si_code=SI_TKILL, si_pid=3, si_uid=1000}");
    }
}
