//! Structures of the guest's, written as strace(1) writes them.

use std::net::{Ipv4Addr, Ipv6Addr};

use abi::signal::{SIG_DFL, SIG_IGN, SigInfo};

use super::memory::{Bytes, Memory};
use super::names;
use super::print::{STRING_MAX, choice, device, flags, limit, mode, pointer, quoted, signal, sigset};

/// What a pointer points to.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `int`, shown as `[3]`.
    Int,
    IntPair,
    Long,
    Sigset,
    Sigaction,
    Siginfo,
    Stack,
    Timespec,
    /// Two of them (utimensat).
    Timespecs,
    Timeval,
    Timevals,
    Itimerval,
    Itimerspec,
    Stat,
    Statx,
    Statfs,
    Rlimit,
    Rusage,
    Utsname,
    Sysinfo,
    WaitStatus,
    Flock,
    Winsize,
    Termios,
    CloneArgs,
    OpenHow,
    CapHeader,
    CapData,
    EpollEvent,
    Sigevent,
    Linger,
    Ucred,
    /// The pointer and size of pselect6.
    SigsetAndSize,
}

impl Kind {
    /// Bytes that are needed of it.
    fn size(self) -> usize {
        match self {
            Self::Int | Self::WaitStatus => 4,
            Self::IntPair | Self::Long | Self::Sigset | Self::Winsize | Self::CapHeader | Self::Linger => 8,
            Self::EpollEvent | Self::Ucred => 12,
            Self::Timespec | Self::Timeval | Self::Rlimit | Self::SigsetAndSize => 16,
            Self::Stack | Self::OpenHow | Self::CapData => 24,
            Self::Sigevent => 20,
            Self::Timespecs | Self::Timevals | Self::Itimerval | Self::Itimerspec | Self::Sigaction | Self::Flock => 32,
            Self::Termios => 36,
            Self::CloneArgs => 64,
            Self::Sysinfo => 112,
            Self::Statfs => 120,
            Self::Siginfo => 128,
            Self::Stat | Self::Rusage => 144,
            Self::Statx => 256,
            Self::Utsname => 390,
        }
    }
}

/// A structure, `NULL`, or the address when it can't be read.
pub fn structure(memory: &Memory<'_>, kind: Kind, addr: u64) -> String {
    match memory.bytes(addr, kind.size()) {
        Some(bytes) if addr != 0 => body(memory, kind, &bytes),
        _ => pointer(addr),
    }
}

fn timespec(b: &Bytes, at: usize) -> String {
    format!("{{tv_sec={}, tv_nsec={}}}", b.i64(at), b.i64(at + 8))
}

fn timespec_or_special(b: &Bytes, at: usize) -> String {
    // utimensat(2)
    match b.i64(at + 8) {
        0x3fff_ffff => "UTIME_NOW".to_owned(),
        0x3fff_fffe => "UTIME_OMIT".to_owned(),
        _ => timespec(b, at),
    }
}

fn timeval(b: &Bytes, at: usize) -> String {
    format!("{{tv_sec={}, tv_usec={}}}", b.i64(at), b.i64(at + 8))
}

fn body(memory: &Memory<'_>, kind: Kind, b: &Bytes) -> String {
    match kind {
        Kind::Int => format!("[{}]", b.i32(0)),
        Kind::IntPair => format!("[{}, {}]", b.i32(0), b.i32(4)),
        Kind::Long => format!("[{}]", b.i64(0)),
        Kind::Sigset => sigset(b.u64(0)),
        Kind::Sigaction => sigaction(b),
        Kind::Siginfo => siginfo(b),
        Kind::Stack => {
            format!("{{ss_sp={}, ss_flags={}, ss_size={:#x}}}", pointer(b.u64(0)), flags(b.u32(8).into(), names::SS), b.u64(16))
        }
        Kind::Timespec => timespec(b, 0),
        Kind::Timespecs => format!("[{}, {}]", timespec_or_special(b, 0), timespec_or_special(b, 16)),
        Kind::Timeval => timeval(b, 0),
        Kind::Timevals => format!("[{}, {}]", timeval(b, 0), timeval(b, 16)),
        Kind::Itimerval => format!("{{it_interval={}, it_value={}}}", timeval(b, 0), timeval(b, 16)),
        Kind::Itimerspec => format!("{{it_interval={}, it_value={}}}", timespec(b, 0), timespec(b, 16)),
        Kind::Stat => stat(b),
        Kind::Statx => format!(
            "{{stx_mask={}, stx_attributes={}, stx_mode={}, stx_size={}, ...}}",
            flags(b.u32(0).into(), names::STATX),
            b.u64(8),
            mode(b.u16(28).into()),
            b.u64(40)
        ),
        Kind::Statfs => format!(
            "{{f_type={:#x}, f_bsize={}, f_blocks={}, f_bfree={}, f_bavail={}, f_files={}, f_ffree={}, ...}}",
            b.u64(0),
            b.i64(8),
            b.u64(16),
            b.u64(24),
            b.u64(32),
            b.u64(40),
            b.u64(48)
        ),
        Kind::Rlimit => format!("{{rlim_cur={}, rlim_max={}}}", limit(b.u64(0)), limit(b.u64(8))),
        Kind::Rusage => format!("{{ru_utime={}, ru_stime={}, ...}}", timeval(b, 0), timeval(b, 16)),
        Kind::Utsname => format!("{{sysname={}, nodename={}, ...}}", field(b, 0), field(b, 65)),
        Kind::Sysinfo => format!(
            "{{uptime={}, loads=[{}, {}, {}], totalram={}, freeram={}, sharedram={}, bufferram={}, totalswap={}, freeswap={}, \
             procs={}, totalhigh={}, freehigh={}, mem_unit={}}}",
            b.i64(0),
            b.u64(8),
            b.u64(16),
            b.u64(24),
            b.u64(32),
            b.u64(40),
            b.u64(48),
            b.u64(56),
            b.u64(64),
            b.u64(72),
            b.u16(80),
            b.u64(88),
            b.u64(96),
            b.u32(104)
        ),
        Kind::WaitStatus => format!("[{}]", wait_status(b.u32(0))),
        Kind::Flock => format!(
            "{{l_type={}, l_whence={}, l_start={}, l_len={}}}",
            choice(b.u16(0).into(), names::LOCK_TYPES),
            choice(b.u16(2).into(), names::SEEK),
            b.i64(8),
            b.i64(16)
        ),
        Kind::Winsize => {
            format!("{{ws_row={}, ws_col={}, ws_xpixel={}, ws_ypixel={}}}", b.u16(0), b.u16(2), b.u16(4), b.u16(6))
        }
        Kind::Termios => termios(b),
        Kind::CloneArgs => clone_args(b),
        Kind::OpenHow => format!(
            "{{flags={}, mode={}, resolve={:#x}}}",
            super::print::mixed(b.u64(0), 3, names::ACCESS_MODES, names::OPEN),
            super::print::permissions(b.u32(8)),
            b.u64(16)
        ),
        Kind::CapHeader => {
            let version = match b.u32(0) {
                0x1998_0330 => "_LINUX_CAPABILITY_VERSION_1".to_owned(),
                0x2007_1026 => "_LINUX_CAPABILITY_VERSION_2".to_owned(),
                0x2008_0522 => "_LINUX_CAPABILITY_VERSION_3".to_owned(),
                other => format!("{other:#x}"),
            };
            format!("{{version={version}, pid={}}}", b.i32(4))
        }
        Kind::CapData => {
            let set = |at| format!("{:#x}", u64::from(b.u32(at)) | u64::from(b.u32(at + 12)) << 32);
            format!("{{effective={}, permitted={}, inheritable={}}}", set(0), set(4), set(8))
        }
        Kind::EpollEvent => epoll_event(b, 0),
        Kind::Sigevent => format!(
            "{{sigev_value={{sival_int={}, sival_ptr={}}}, sigev_signo={}, sigev_notify={}}}",
            b.i32(0),
            pointer(b.u64(0)),
            signal(b.u32(8).into()),
            choice(b.u32(12).into(), &[("SIGEV_SIGNAL", 0), ("SIGEV_NONE", 1), ("SIGEV_THREAD", 2), ("SIGEV_THREAD_ID", 4)])
        ),
        Kind::Linger => format!("{{l_onoff={}, l_linger={}}}", b.i32(0), b.i32(4)),
        Kind::Ucred => format!("{{pid={}, uid={}, gid={}}}", b.i32(0), b.u32(4), b.u32(8)),
        Kind::SigsetAndSize => {
            format!("{{sigmask={}, sigsetsize={}}}", structure(memory, Kind::Sigset, b.u64(0)), b.u64(8))
        }
    }
}

/// A field of `struct utsname`.
fn field(b: &Bytes, at: usize) -> String {
    let text = b.part(at, 65);
    quoted(text.split(|byte| *byte == 0).next().unwrap_or_default(), false)
}

fn sigaction(b: &Bytes) -> String {
    let handler = match b.u64(0) {
        SIG_DFL => "SIG_DFL".to_owned(),
        SIG_IGN => "SIG_IGN".to_owned(),
        addr => format!("{addr:#x}"),
    };
    let set = b.u64(8);
    let restorer = if set & abi::signal::SA_RESTORER == 0 { String::new() } else { format!(", sa_restorer={:#x}", b.u64(16)) };
    format!("{{sa_handler={handler}, sa_mask={}, sa_flags={}{restorer}}}", sigset(b.u64(24)), flags(set, names::SA))
}

fn siginfo(b: &Bytes) -> String {
    let mut info = SigInfo { signo: b.i32(0), errno: b.i32(4), code: b.i32(8), ..SigInfo::default() };
    for (at, field) in info.fields.iter_mut().enumerate() {
        *field = b.u64(16 + at * 8);
    }
    info.to_string()
}

fn stat(b: &Bytes) -> String {
    let file_mode = b.u32(24);
    // A device has no size.
    if matches!(file_mode & 0o170_000, 0o020_000 | 0o060_000) {
        return format!("{{st_mode={}, st_rdev={}, ...}}", mode(file_mode), device(b.u64(40)));
    }
    format!("{{st_mode={}, st_size={}, ...}}", mode(file_mode), b.i64(48))
}

/// What wait(2) says, in its macros.
pub fn wait_status(status: u32) -> String {
    let signo = u64::from(status & 0x7f);
    match status & 0xff {
        _ if status == 0xffff => "WIFCONTINUED(s)".to_owned(),
        0 => format!("{{WIFEXITED(s) && WEXITSTATUS(s) == {}}}", status >> 8 & 0xff),
        0x7f => format!("{{WIFSTOPPED(s) && WSTOPSIG(s) == {}}}", signal(u64::from(status >> 8 & 0xff))),
        core if core & 0x80 != 0 => format!("{{WIFSIGNALED(s) && WTERMSIG(s) == {} && WCOREDUMP(s)}}", signal(signo)),
        _ => format!("{{WIFSIGNALED(s) && WTERMSIG(s) == {}}}", signal(signo)),
    }
}

fn termios(b: &Bytes) -> String {
    let (oflag, cflag, lflag) = (b.u32(4), b.u32(8), b.u32(12));
    let speed = match cflag & 0o10017 {
        0o15 => "B9600".to_owned(),
        0o16 => "B19200".to_owned(),
        0o17 => "B38400".to_owned(),
        0o10002 => "B115200".to_owned(),
        other => format!("B{other:#o}"),
    };
    let bit = |set: u32, bit: u32, name: &str| if set & bit == 0 { format!(" -{name}") } else { format!(" {name}") };
    // As stty(1) calls them: OPOST; ISIG, ICANON, ECHO.
    format!(
        "{{{speed}{}{}{}{} ...}}",
        bit(oflag, 1, "opost"),
        bit(lflag, 1, "isig"),
        bit(lflag, 2, "icanon"),
        bit(lflag, 8, "echo")
    )
}

fn clone_args(b: &Bytes) -> String {
    let mut text = format!("{{flags={}", flags(b.u64(0), names::CLONE));
    for (name, at) in [("pidfd", 8), ("child_tid", 16), ("parent_tid", 24)] {
        if b.u64(at) != 0 {
            text += &format!(", {name}={:#x}", b.u64(at));
        }
    }
    text += &format!(", exit_signal={}, stack={}, stack_size={:#x}", signal(b.u64(32)), pointer(b.u64(40)), b.u64(48));
    if b.u64(56) != 0 {
        text += &format!(", tls={:#x}", b.u64(56));
    }
    text + "}"
}

pub fn epoll_event(b: &Bytes, at: usize) -> String {
    let data = b.u64(at + 4);
    format!("{{events={}, data={{u32={}, u64={data}}}}}", flags(b.u32(at).into(), names::EPOLL), data & 0xffff_ffff)
}

/// `[{fd=3, events=POLLIN}]`, or `revents` of those that have some.
pub fn pollfds(memory: &Memory<'_>, addr: u64, count: u64, result: bool) -> String {
    let shown = usize::try_from(count).unwrap_or(STRING_MAX).min(STRING_MAX);
    let Some(b) = memory.bytes(addr, shown * 8).filter(|_| addr != 0) else { return pointer(addr) };
    let item = |at: usize| {
        if result {
            (b.u16(at + 6) != 0).then(|| format!("{{fd={}, revents={}}}", b.i32(at), flags(b.u16(at + 6).into(), names::POLL)))
        } else {
            Some(format!("{{fd={}, events={}}}", b.i32(at), flags(b.u16(at + 4).into(), names::POLL)))
        }
    };
    let mut items: Vec<String> = (0..shown).filter_map(|index| item(index * 8)).collect();
    if count > shown as u64 {
        items.push("...".to_owned());
    }
    format!("[{}]", items.join(", "))
}

/// The descriptors of a set of select(2).
pub fn fd_set(memory: &Memory<'_>, addr: u64, nfds: u64) -> String {
    let nfds = usize::try_from(nfds).unwrap_or(0).min(1024);
    let Some(b) = memory.bytes(addr, nfds.div_ceil(64) * 8).filter(|_| addr != 0) else { return pointer(addr) };
    let set = (0..nfds).filter(|fd| b.u64(fd / 64 * 8) & 1 << (fd % 64) != 0);
    format!("[{}]", set.map(|fd| fd.to_string()).collect::<Vec<_>>().join(" "))
}

/// A socket address of `len` bytes.
pub fn sockaddr(memory: &Memory<'_>, addr: u64, len: u64) -> String {
    let len = usize::try_from(len).unwrap_or(0).min(128);
    let Some(b) = memory.bytes(addr, len).filter(|_| addr != 0 && len >= 2) else { return pointer(addr) };
    let port = u16::from_be(b.u16(2));
    match i32::from(b.u16(0)) {
        abi::c::AF_UNIX => {
            let path = b.part(2, len - 2);
            match path.split_first() {
                None => "{sa_family=AF_UNIX}".to_owned(),
                Some((0, name)) => format!("{{sa_family=AF_UNIX, sun_path=@{}}}", quoted(name, false)),
                Some(_) => {
                    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                    format!("{{sa_family=AF_UNIX, sun_path={}}}", quoted(path, false))
                }
            }
        }
        abi::c::AF_INET if len >= 8 => {
            let host = Ipv4Addr::from(u32::from_be(b.u32(4)));
            format!("{{sa_family=AF_INET, sin_port=htons({port}), sin_addr=inet_addr(\"{host}\")}}")
        }
        abi::c::AF_INET6 if len >= 24 => {
            format!(
                "{{sa_family=AF_INET6, sin6_port=htons({port}), sin6_flowinfo=htonl({}), \
                 inet_pton(AF_INET6, \"{}\", &sin6_addr), sin6_scope_id={}}}",
                u32::from_be(b.u32(4)),
                Ipv6Addr::from(b.array::<16>(8)),
                b.u32(24)
            )
        }
        abi::c::AF_NETLINK if len >= 12 => {
            format!("{{sa_family=AF_NETLINK, nl_pid={}, nl_groups={:08x}}}", b.i32(4), b.u32(8))
        }
        family => {
            let family = choice(u64::from(family.cast_unsigned()), names::FAMILIES);
            format!("{{sa_family={family}, sa_data={}}}", quoted(b.part(2, len - 2), false))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_told_in_macros() {
        assert_eq!(wait_status(0x0300), "{WIFEXITED(s) && WEXITSTATUS(s) == 3}");
        assert_eq!(wait_status(9), "{WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL}");
        assert_eq!(wait_status(0x8b), "{WIFSIGNALED(s) && WTERMSIG(s) == SIGSEGV && WCOREDUMP(s)}");
        assert_eq!(wait_status(0x137f), "{WIFSTOPPED(s) && WSTOPSIG(s) == SIGSTOP}");
    }
}
