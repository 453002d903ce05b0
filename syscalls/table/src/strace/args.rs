//! What the arguments of a call are, and how each is written.

use super::memory::Memory;
use super::names::{self, Names};
use super::print::{STRING_MAX, choice, device, flags, mixed, permissions, pointer, quoted, signal};
use super::structs::{Kind, epoll_event, fd_set, pollfds, sockaddr, structure};
use crate::args::{int, uint};

/// What an argument is. A number in it is the index of the argument that says the length or count.
#[derive(Clone, Copy)]
pub enum Arg {
    Int,
    Uint,
    Long,
    Size,
    Hex,
    Pointer,
    Fd,
    /// A descriptor or `AT_FDCWD`.
    DirFd,
    Mode,
    /// Shown only where the flags in that argument make a file.
    ModeIfCreated(usize),
    FileMode,
    Device,
    Signal,
    Clock,
    Pid,
    /// A path or another string.
    Text,
    Flags(&'static Names),
    Choice(&'static Names),
    /// A choice in the low bits, flags above.
    Mixed(u64, &'static Names, &'static Names),
    /// Bytes for the kernel.
    In(usize),
    /// Bytes from the kernel: as many as the result says.
    Out,
    /// A string from the kernel, with its end.
    OutText,
    /// Points to a structure that the kernel reads.
    Read(Kind),
    /// Points to a structure that the kernel fills.
    Filled(Kind),
    /// Bytes in pieces, written or read.
    IovIn(usize),
    IovOut(usize),
    SockaddrIn(usize),
    /// Its length stands where that argument points.
    SockaddrOut(usize),
    MsgIn,
    MsgOut,
    Strings,
    /// The environment: only how much of it.
    Environment,
    PollFds(usize),
    /// As many as the result says.
    EpollEvents,
    FdSet(usize),
    Dirents,
    /// All of clone(2), by name.
    Clone,
    FutexOp,
    /// The timeout or second count of futex(2).
    FutexTimeout,
    /// The second word of futex(2), and what its last argument is.
    FutexOther,
    FutexValue,
    /// Third argument of fcntl(2).
    FcntlThird,
    /// Third argument of ioctl(2).
    IoctlThird,
    /// Second argument of prctl(2).
    PrctlSecond,
    /// The option of setsockopt(2), after its level.
    SockOpt,
    /// A value of an option, whose length is in or behind that argument.
    OptIn(usize),
    OptOut(usize),
}

/// One call being written.
pub struct Call<'a> {
    pub memory: Memory<'a>,
    pub args: [u64; 6],
    /// The result, once there is one.
    pub result: u64,
}

impl Arg {
    /// Whether it is known only after the call.
    pub fn is_output(self) -> bool {
        use Arg::*;
        matches!(
            self,
            Out | OutText | IoctlThird | Filled(_) | IovOut(_) | SockaddrOut(_) | MsgOut | EpollEvents | Dirents | OptOut(_)
        )
    }

    /// Whether there is such an argument: some depend on others.
    pub fn is_there(self, call: &Call<'_>) -> bool {
        match self {
            Self::ModeIfCreated(at) => call.arg(at) & 0o100 != 0 || call.arg(at) & 0o20_000_000 != 0,
            Self::FcntlThird => !matches!(call.arg(1) as i32, 1 | 3 | 9 | 11 | 1025 | 1032 | 1034),
            // Of futex(2): all but wakes and unlocks, all that concern two words, all with a value or a mask.
            Self::FutexTimeout => !matches!(call.arg(1) & 0x7f, 1 | 2 | 7 | 8 | 10),
            Self::FutexOther => matches!(call.arg(1) & 0x7f, 3 | 4 | 5 | 11 | 12),
            Self::FutexValue => matches!(call.arg(1) & 0x7f, 4 | 5 | 9 | 10 | 12),
            _ => true,
        }
    }
}

impl Call<'_> {
    pub fn arg(&self, at: usize) -> u64 {
        self.args.get(at).copied().unwrap_or(0)
    }

    /// An argument as text.
    pub fn show(&self, at: usize, arg: Arg) -> String {
        let value = self.arg(at);
        match arg {
            Arg::Int | Arg::Fd | Arg::Pid => int(value).to_string(),
            Arg::Uint => uint(value).to_string(),
            Arg::Long => value.cast_signed().to_string(),
            Arg::Size => value.to_string(),
            // As C's %#x.
            Arg::Hex if value == 0 => "0".to_owned(),
            Arg::Hex => format!("{value:#x}"),
            Arg::Pointer => pointer(value),
            Arg::DirFd if int(value) == abi::c::AT_FDCWD => "AT_FDCWD".to_owned(),
            Arg::DirFd => int(value).to_string(),
            Arg::Mode | Arg::ModeIfCreated(_) => permissions(uint(value)),
            Arg::FileMode => super::print::mode(uint(value)),
            Arg::Device => device(uint(value).into()),
            Arg::Signal => signal(i64::from(int(value)).cast_unsigned()),
            Arg::Clock => choice(uint(value).into(), names::CLOCKS),
            Arg::Text => self.text(value),
            Arg::Flags(names) => flags(uint(value).into(), names),
            Arg::Choice(names) => choice(uint(value).into(), names),
            Arg::Mixed(mask, values, names) => mixed(uint(value).into(), mask, values, names),
            Arg::In(len) => self.buffer(value, self.arg(len)),
            Arg::Out => self.buffer(value, self.result),
            Arg::OutText => self.text(value),
            Arg::Read(kind) | Arg::Filled(kind) => structure(&self.memory, kind, value),
            Arg::IovIn(count) => self.iovecs(value, int(self.arg(count)), u64::MAX),
            Arg::IovOut(count) => self.iovecs(value, int(self.arg(count)), self.result),
            Arg::SockaddrIn(len) => sockaddr(&self.memory, value, uint(self.arg(len)).into()),
            Arg::SockaddrOut(len) => {
                let len = self.memory.bytes(self.arg(len), 4).map_or(0, |bytes| bytes.u32(0));
                sockaddr(&self.memory, value, len.into())
            }
            Arg::MsgIn => self.msghdr(value, u64::MAX),
            Arg::MsgOut => self.msghdr(value, self.result),
            Arg::Strings => self.strings(value),
            Arg::Environment => match self.count(value) {
                Some(count) => format!("{} /* {count} vars */", pointer(value)),
                None => pointer(value),
            },
            Arg::PollFds(count) => pollfds(&self.memory, value, uint(self.arg(count)).into(), false),
            Arg::EpollEvents => self.epoll_events(value),
            Arg::FdSet(nfds) => fd_set(&self.memory, value, self.arg(nfds)),
            Arg::Dirents => self.dirents(value),
            Arg::Clone => self.clone_call(),
            Arg::FutexOp => futex_op(value),
            // A number where the operation has a second count.
            Arg::FutexTimeout if matches!(self.arg(1) & 0x7f, 3 | 4 | 5 | 12) => uint(value).to_string(),
            Arg::FutexTimeout => structure(&self.memory, Kind::Timespec, value),
            Arg::FutexOther => pointer(value),
            Arg::FutexValue if uint(value) == u32::MAX => "FUTEX_BITSET_MATCH_ANY".to_owned(),
            Arg::FutexValue => format!("{:#x}", uint(value)),
            Arg::FcntlThird => self.fcntl(value),
            Arg::IoctlThird => self.ioctl(value),
            Arg::PrctlSecond => self.prctl(value),
            Arg::SockOpt => choice(uint(value).into(), option_names(self.arg(1))),
            Arg::OptIn(len) => self.option(value, uint(self.arg(len))),
            Arg::OptOut(len) => self.option(value, self.memory.bytes(self.arg(len), 4).map_or(0, |bytes| bytes.u32(0))),
        }
    }

    fn text(&self, addr: u64) -> String {
        match self.memory.string(addr).filter(|_| addr != 0) {
            Some(text) => quoted(&text, false),
            None => pointer(addr),
        }
    }

    /// The beginning of a buffer.
    fn buffer(&self, addr: u64, len: u64) -> String {
        let shown = usize::try_from(len).unwrap_or(STRING_MAX).min(STRING_MAX);
        if shown == 0 && addr != 0 {
            return "\"\"".to_owned();
        }
        match self.memory.bytes(addr, shown).filter(|_| addr != 0) {
            Some(bytes) => quoted(bytes.all(), len > shown as u64),
            None => pointer(addr),
        }
    }

    /// Pieces, of which `total` bytes are of interest.
    fn iovecs(&self, addr: u64, count: i32, total: u64) -> String {
        let count = usize::try_from(count).unwrap_or(0);
        let shown = count.min(STRING_MAX);
        let Some(vectors) = self.memory.bytes(addr, shown * 16).filter(|_| addr != 0) else { return pointer(addr) };
        let mut rest = total;
        let item = |at: usize| {
            let (base, len) = (vectors.u64(at * 16), vectors.u64(at * 16 + 8));
            let filled = len.min(rest);
            rest -= filled;
            format!("{{iov_base={}, iov_len={len}}}", self.buffer(base, filled))
        };
        let mut items: Vec<String> = (0..shown).map(item).collect();
        if count > shown {
            items.push("...".to_owned());
        }
        format!("[{}]", items.join(", "))
    }

    fn msghdr(&self, addr: u64, total: u64) -> String {
        let Some(b) = self.memory.bytes(addr, 56).filter(|_| addr != 0) else { return pointer(addr) };
        let name = sockaddr(&self.memory, b.u64(0), b.u32(8).into());
        let count = i32::try_from(b.u64(24)).unwrap_or(i32::MAX);
        let control = if b.u64(40) == 0 {
            "msg_controllen=0".to_owned()
        } else {
            format!("msg_control={}, msg_controllen={}", self.control(b.u64(32), b.u64(40)), b.u64(40))
        };
        format!(
            "{{msg_name={name}, msg_namelen={}, msg_iov={}, msg_iovlen={}, {control}, msg_flags={}}}",
            b.u32(8),
            self.iovecs(b.u64(16), count, total),
            b.u64(24),
            flags(b.u32(48).into(), names::MSG)
        )
    }

    /// Control messages (cmsg(3)).
    fn control(&self, addr: u64, len: u64) -> String {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(1024);
        let Some(b) = self.memory.bytes(addr, len) else { return pointer(addr) };
        let (mut items, mut at) = (Vec::new(), 0);
        while at + 16 <= len && items.len() < STRING_MAX {
            let size = usize::try_from(b.u64(at)).unwrap_or(usize::MAX);
            if size < 16 || size > len - at {
                break;
            }
            let (level, kind) = (b.u32(at + 8), b.u32(at + 12));
            let data = match (level, kind) {
                (1, 1) => {
                    let fds: Vec<String> = (at + 16..at + size).step_by(4).map(|at| b.i32(at).to_string()).collect();
                    format!("[{}]", fds.join(", "))
                }
                (1, 2) => format!("{{pid={}, uid={}, gid={}}}", b.i32(at + 16), b.u32(at + 20), b.u32(at + 24)),
                _ => quoted(b.part(at + 16, (size - 16).min(STRING_MAX)), size - 16 > STRING_MAX),
            };
            let kind = if level == 1 { choice(kind.into(), names::SCM) } else { format!("{kind:#x}") };
            items.push(format!(
                "{{cmsg_len={size}, cmsg_level={}, cmsg_type={kind}, cmsg_data={data}}}",
                choice(level.into(), names::SOL)
            ));
            at += size.next_multiple_of(8);
        }
        format!("[{}]", items.join(", "))
    }

    fn clone_call(&self) -> String {
        let [set, stack, parent_tid, child_tid, tls, _] = self.args;
        let mut text = format!("child_stack={}, flags={}", pointer(stack), flags(set & !0xff, names::CLONE));
        if set & 0xff != 0 {
            text += &format!("|{}", signal(set & 0xff));
        }
        // CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_CHILD_SETTID or CLONE_CHILD_CLEARTID: who uses what.
        for (bits, name, addr) in
            [(0x10_0000, "parent_tid", parent_tid), (0x8_0000, "tls", tls), (0x120_0000, "child_tidptr", child_tid)]
        {
            if set & bits != 0 {
                text += &format!(", {name}={}", pointer(addr));
            }
        }
        text.replace("flags=0|", "flags=")
    }

    /// How many pointers stand before the null.
    fn count(&self, addr: u64) -> Option<u64> {
        (0..100_000).find(|at| self.memory.long(addr.wrapping_add(at * 8)).is_none_or(|pointer| pointer == 0))
    }

    fn strings(&self, addr: u64) -> String {
        if addr == 0 {
            return "NULL".to_owned();
        }
        let mut items = Vec::new();
        for at in 0..=STRING_MAX as u64 {
            match self.memory.long(addr.wrapping_add(at * 8)) {
                None if at == 0 => return pointer(addr),
                None => items.push(pointer(addr.wrapping_add(at * 8))),
                Some(0) => break,
                Some(_) if at == STRING_MAX as u64 => items.push("...".to_owned()),
                Some(text) => {
                    let all = self.memory.string(text);
                    items.push(all.map_or_else(
                        || pointer(text),
                        |all| quoted(all.get(..STRING_MAX).unwrap_or(&all), all.len() > STRING_MAX),
                    ));
                    continue;
                }
            }
            break;
        }
        format!("[{}]", items.join(", "))
    }

    fn epoll_events(&self, addr: u64) -> String {
        let count = usize::try_from(self.result).unwrap_or(0);
        let shown = count.min(STRING_MAX);
        let Some(b) = self.memory.bytes(addr, shown * 12).filter(|_| addr != 0) else { return pointer(addr) };
        let mut items: Vec<String> = (0..shown).map(|at| epoll_event(&b, at * 12)).collect();
        if count > shown {
            items.push("...".to_owned());
        }
        format!("[{}]", items.join(", "))
    }

    /// How many entries getdents64(2) has delivered.
    fn dirents(&self, addr: u64) -> String {
        let len = usize::try_from(self.result).unwrap_or(0);
        let Some(b) = self.memory.bytes(addr, len).filter(|_| addr != 0) else { return pointer(addr) };
        let (mut at, mut count) = (0, 0);
        while at + 18 < len && b.u16(at + 16) != 0 {
            at += usize::from(b.u16(at + 16));
            count += 1;
        }
        format!("{} /* {count} entries */", pointer(addr))
    }

    fn fcntl(&self, value: u64) -> String {
        match int(self.arg(1)) {
            2 => flags(uint(value).into(), names::FD),
            4 => mixed(uint(value).into(), 3, names::ACCESS_MODES, names::OPEN),
            5..=7 | 36..=38 => structure(&self.memory, Kind::Flock, value),
            10 => signal(uint(value).into()),
            1033 => flags(uint(value).into(), names::SEALS),
            _ => int(value).to_string(),
        }
    }

    fn ioctl(&self, value: u64) -> String {
        let kind = match self.arg(1) {
            0x5401..=0x5404 => Kind::Termios,
            0x5413 | 0x5414 => Kind::Winsize,
            // TIOCGPGRP, TIOCSPGRP, TIOCOUTQ, FIONREAD, FIONBIO, TIOCPKT, TIOCGSID, FIOASYNC, TIOCGPTN, TIOCSPTLCK
            0x540f | 0x5410 | 0x5411 | 0x541b | 0x5421 | 0x5420 | 0x5429 | 0x5452 | 0x8004_5430 | 0x4004_5431 => Kind::Int,
            _ => return pointer(value),
        };
        structure(&self.memory, kind, value)
    }

    fn prctl(&self, value: u64) -> String {
        match int(self.arg(0)) {
            // PR_SET_PDEATHSIG
            1 => signal(uint(value).into()),
            // PR_SET_NAME
            15 => self.text(value),
            // PR_GET_PDEATHSIG, PR_GET_CHILD_SUBREAPER
            2 | 37 => pointer(value),
            _ if value < 0x1_0000 => value.to_string(),
            _ => format!("{value:#x}"),
        }
    }

    /// The value of a socket option: an int, mostly.
    fn option(&self, addr: u64, len: u32) -> String {
        let kind = match (self.arg(1), self.arg(2), len) {
            (1, 13, 8..) => Kind::Linger,
            (1, 17, 12..) => Kind::Ucred,
            (1, 20 | 21, 16) => Kind::Timeval,
            (_, _, 4) => Kind::Int,
            _ => return self.buffer(addr, len.into()),
        };
        structure(&self.memory, kind, addr)
    }
}

fn option_names(level: u64) -> &'static Names {
    match level {
        1 => names::SO,
        6 => names::TCP,
        0 => names::IP,
        41 => names::IPV6,
        _ => &[],
    }
}

fn futex_op(value: u64) -> String {
    let name = choice(value & 0x7f, names::FUTEX_OPS);
    let private = if value & 0x80 != 0 { "_PRIVATE" } else { "" };
    let clock = if value & 0x100 != 0 { "|FUTEX_CLOCK_REALTIME" } else { "" };
    format!("{name}{private}{clock}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn futex_operations_have_names() {
        assert_eq!(futex_op(0x189), "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME");
        assert_eq!(futex_op(1), "FUTEX_WAKE");
    }
}
