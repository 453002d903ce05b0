//! Text of the files of a process.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::{SIG_DFL, SIG_IGN, SigSet};
use abi::{Errno, SysResult, c};
use auth::{Credentials, MapKind};
use mm::{ImageInfo, MapInfo};
use task::Access;
use usermem::{PAGE_SIZE, UserMemoryExt};

use crate::memory::{self, map_lines};
use crate::process::View;
use crate::{Proc, TICK, mounts, oom, tasks, userns};

/// Most that is read of arguments and environment.
const MAX_STRINGS: u64 = 128 << 10;
/// Longest name of a task.
const COMM_LEN: usize = 15;

/// Takes what is written to a file: who has opened it may count as much as who writes.
type Take = fn(&Proc, &View, &[u8], &Credentials) -> SysResult<()>;

/// A file in a member's directory.
pub struct TextFile {
    pub name: &'static str,
    /// For the inode number.
    pub number: u64,
    pub make: fn(&Proc, &View) -> SysResult<Vec<u8>>,
    /// Takes what is written, all at once.
    pub write: Option<Take>,
    /// Only for those who may look into the process; for its owner alone by its mode, too.
    pub guarded: bool,
    pub private: bool,
}

impl TextFile {
    pub const NONE: Self = Self { name: "", number: 0, make: |_, _| Ok(Vec::new()), write: None, guarded: false, private: false };

    /// Permissions.
    pub fn mode(&self) -> u32 {
        let write = if self.write.is_some() { 0o200 } else { 0 };
        write | if self.private { 0o400 } else { 0o444 }
    }
}

/// Those for who may look into the process.
const GUARDED: TextFile = TextFile { guarded: true, ..TextFile::NONE };
/// Those that nobody else may open.
const PRIVATE: TextFile = TextFile { private: true, ..GUARDED };

/// All of them.
pub static FILES: &[TextFile] = &[
    TextFile { name: "stat", number: 0, make: stat, ..TextFile::NONE },
    TextFile { name: "statm", number: 1, make: memory::statm, ..TextFile::NONE },
    TextFile { name: "status", number: 2, make: status, ..TextFile::NONE },
    TextFile { name: "cmdline", number: 3, make: |_, view| Ok(strings(view, |info| info.args.clone())), ..TextFile::NONE },
    TextFile { name: "environ", number: 4, make: |_, view| Ok(strings(view, |info| info.env.clone())), ..PRIVATE },
    TextFile { name: "comm", number: 5, make: comm_file, write: Some(write_comm), ..TextFile::NONE },
    TextFile { name: "maps", number: 6, make: memory::maps, ..GUARDED },
    TextFile { name: "auxv", number: 7, make: |_, view| Ok(info(view).auxv), ..PRIVATE },
    TextFile { name: "mounts", number: 8, make: mounts::mounts, ..TextFile::NONE },
    TextFile { name: "mountinfo", number: 9, make: mounts::mountinfo, ..TextFile::NONE },
    TextFile { name: "limits", number: 10, make: limits, ..TextFile::NONE },
    TextFile { name: "cgroup", number: 11, make: tasks::cgroup, ..TextFile::NONE },
    TextFile { name: "smaps", number: 12, make: memory::smaps, ..GUARDED },
    TextFile { name: "smaps_rollup", number: 13, make: memory::smaps_rollup, ..GUARDED },
    TextFile { name: "mountstats", number: 14, make: mounts::mountstats, ..TextFile::NONE },
    TextFile { name: "io", number: 15, make: tasks::io, ..PRIVATE },
    TextFile { name: "children", number: 18, make: tasks::children, ..TextFile::NONE },
    TextFile { name: "schedstat", number: 19, make: tasks::schedstat, ..TextFile::NONE },
    TextFile { name: "sched", number: 20, make: tasks::sched, ..TextFile::NONE },
    TextFile { name: "cpuset", number: 21, make: |_, _| Ok(b"/\n".to_vec()), ..TextFile::NONE },
    TextFile { name: "numa_maps", number: 22, make: memory::numa_maps, ..GUARDED },
    TextFile { name: "wchan", number: 40, make: |_, _| Ok(b"0".to_vec()), ..TextFile::NONE },
    TextFile { name: "syscall", number: 47, make: syscall, ..PRIVATE },
    TextFile { name: "personality", number: 41, make: tasks::personality, ..PRIVATE },
    TextFile { name: "loginuid", number: 42, make: tasks::loginuid, write: Some(tasks::write_loginuid), ..TextFile::NONE },
    TextFile { name: "sessionid", number: 43, make: tasks::sessionid, ..TextFile::NONE },
    TextFile { name: "oom_score", number: 44, make: oom::score, ..TextFile::NONE },
    TextFile { name: "oom_score_adj", number: 16, make: oom::adjustment, write: Some(oom::write_adjustment), ..TextFile::NONE },
    TextFile { name: "oom_adj", number: 17, make: oom::old_adjustment, write: Some(oom::write_old_adjustment), ..TextFile::NONE },
    TextFile {
        name: "coredump_filter",
        number: 45,
        make: |_, view| {
            let filter = view.mm().map_or(0, |mm| mm.core_filter.load(Ordering::Relaxed));
            Ok(format!("{filter:08x}\n").into_bytes())
        },
        write: Some(write_core_filter),
        ..TextFile::NONE
    },
    TextFile {
        name: "timerslack_ns",
        number: 46,
        make: |_, view| {
            let slack = view.task.as_ref().map_or(0, |task| task.lock().timer_slack);
            Ok(format!("{slack}\n").into_bytes())
        },
        ..TextFile::NONE
    },
    TextFile {
        name: "uid_map",
        number: 30,
        make: |proc, view| userns::map(proc, view, MapKind::Users),
        write: Some(userns::write_uid_map),
        ..TextFile::NONE
    },
    TextFile {
        name: "gid_map",
        number: 31,
        make: |proc, view| userns::map(proc, view, MapKind::Groups),
        write: Some(userns::write_gid_map),
        ..TextFile::NONE
    },
    TextFile { name: "setgroups", number: 32, make: userns::setgroups, write: Some(userns::write_setgroups), ..TextFile::NONE },
];

/// State letter and word.
fn state(view: &View) -> (char, &'static str) {
    match &view.task {
        None => ('Z', "zombie"),
        Some(_) if view.group.is_zombie() => ('Z', "zombie"),
        Some(task) if task.is_trapped() => ('t', "tracing stop"),
        Some(_) if view.group.is_stopped() => ('T', "stopped"),
        Some(task) if task.sleeping.load(Ordering::Relaxed) => ('S', "sleeping"),
        Some(_) => ('R', "running"),
    }
}

/// The call that a task is in; only of one that stands still for its tracer that is known.
fn syscall(proc: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let task = view.task.as_ref().ok_or(Errno::ESRCH)?;
    if proc.caller().is_some_and(|caller| !caller.may_attach(task, Access::Files)) {
        return Err(Errno::EPERM);
    }
    let text = match task.trapped_registers() {
        None => "running\n".to_owned(),
        Some(regs) if regs.orig_rax.cast_signed() < 0 => format!("-1 {:#x} {:#x}\n", regs.rsp, regs.rip),
        Some(regs) => {
            let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
            let args: String = args.iter().map(|arg| format!(" {arg:#x}")).collect();
            format!("{}{args} {:#x} {:#x}\n", regs.orig_rax, regs.rsp, regs.rip)
        }
    };
    Ok(text.into_bytes())
}

fn comm(view: &View) -> Vec<u8> {
    let mut comm = view.task.as_ref().map(|task| task.lock().comm.clone()).unwrap_or_default();
    comm.truncate(COMM_LEN);
    comm
}

/// With newlines and backslashes escaped, as `status` has it.
fn comm_escaped(view: &View) -> Vec<u8> {
    let escape = |byte: &u8| match *byte {
        b'\n' => b"\\n".to_vec(),
        b'\\' => b"\\\\".to_vec(),
        byte => vec![byte],
    };
    comm(view).iter().flat_map(escape).collect()
}

fn comm_file(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut text = comm(view);
    text.push(b'\n');
    Ok(text)
}

/// A number as C writes it.
fn write_core_filter(_: &Proc, view: &View, text: &[u8], _: &Credentials) -> SysResult<()> {
    const KNOWN: u32 = 0x1ff;
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?.trim_end();
    let filter = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8),
        None => text.parse(),
    };
    let mm = view.mm().ok_or(Errno::ESRCH)?;
    mm.core_filter.store(filter.map_err(|_| Errno::EINVAL)? & KNOWN, Ordering::Relaxed);
    Ok(())
}

/// A thread's name may be set by the threads of its process.
fn write_comm(proc: &Proc, view: &View, text: &[u8], _: &Credentials) -> SysResult<()> {
    let own = proc.caller().is_some_and(|task| std::sync::Arc::ptr_eq(&task.group, &view.group));
    let task = view.task.as_ref().filter(|_| own).ok_or(Errno::EINVAL)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    task.lock().comm = text.get(..text.len().min(COMM_LEN)).unwrap_or_default().to_vec();
    Ok(())
}

fn parent(view: &View) -> i32 {
    let parent = view.group.parent.lock().upgrade();
    parent.map_or(0, |parent| parent.pid_in(&view.ns))
}

/// Sets of signals.
#[derive(Default)]
struct Signals {
    own: SigSet,
    shared: SigSet,
    blocked: SigSet,
    ignored: SigSet,
    caught: SigSet,
}

fn signals(view: &View) -> Signals {
    let mut sets = Signals::default();
    if let Some(task) = &view.task {
        let shared = task.lock();
        (sets.own, sets.blocked) = (shared.pending.set, shared.mask);
    }
    let actions = {
        let signals = view.group.signals.lock();
        sets.shared = signals.pending.set;
        signals.actions()
    };
    for (signo, action) in (0i32..).zip(actions) {
        match action.handler {
            SIG_DFL => {}
            SIG_IGN => sets.ignored = sets.ignored.with(SigSet::of(signo)),
            _ => sets.caught = sets.caught.with(SigSet::of(signo)),
        }
    }
    sets
}

fn info(view: &View) -> ImageInfo {
    view.mm().map(|mm| mm.info.lock().clone()).unwrap_or_default()
}

fn writable(map: &MapInfo) -> bool {
    map.prot.bits() & 2 != 0
}

fn executable(map: &MapInfo) -> bool {
    map.prot.bits() & 4 != 0
}

fn stat(proc: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let (group, image, maps, sets) = (&view.group, info(view), map_lines(view), signals(view));
    let named = |name: &[u8], which: &dyn Fn(&MapInfo) -> bool| {
        let found = maps.iter().find(|map| map.name.as_bytes() == name && which(map));
        found.map_or(0..0, |map| map.range.clone())
    };
    let any = |_: &MapInfo| true;
    let code = named(&image.exe, &executable);
    let data = named(&image.exe, &writable);
    let heap = named(b"[heap]", &any);
    // Where the vectors start was not kept: the strings are right above them.
    let stack = if image.args.start == 0 { named(b"[stack]", &any).end } else { image.args.start };
    let usage = memory::usage(view).unwrap_or_default();
    let (size, resident) = (usage.totals.all, usage.resident());
    // Only the process's time is known: it shows once in all threads.
    let (used, children) = if view.id == group.pid { (group.used(), group.usage.lock().children) } else { Default::default() };
    let since = group.started.saturating_sub(proc.kernel.started);
    let status = if state(view).0 == 'Z' { group.ending().unwrap_or(0) } else { 0 };
    let low = |set: SigSet| set.0 & 0x7fff_ffff;
    let exit_signal = if view.id == group.pid { group.exit_signal.load(std::sync::atomic::Ordering::Relaxed) } else { -1 };

    let mut out = format!("{} (", view.ns.local(view.id)).into_bytes();
    out.extend(comm_escaped(view));
    let mut rest = format!(") {}", state(view).0);
    // ppid pgrp session tty_nr tpgid flags
    let (pgid, sid) = (view.ns.local(group.pgid()), view.ns.local(group.sid()));
    let (tty, foreground) = group.terminal.lock().as_ref().map_or((0, -1), |tty| (tty.rdev(), view.ns.local(tty.foreground())));
    let _ = write!(rest, " {} {pgid} {sid} {tty} {foreground} 0", parent(view));
    // minflt cminflt majflt cmajflt utime stime cutime cstime
    let _ = write!(rest, " {} {} {} {}", used.minor_faults, children.minor_faults, used.major_faults, children.major_faults);
    let times = [used.user, used.system, children.user, children.system].map(|time| time / TICK);
    let _ = write!(rest, " {} {} {} {}", times[0], times[1], times[2], times[3]);
    // priority nice num_threads itrealvalue starttime
    let scheduling = view.task.as_ref().map(|task| task.lock().scheduling).unwrap_or_default();
    let priority = if scheduling.is_realtime() { -1 - scheduling.priority } else { 20 + scheduling.nice };
    let _ = write!(rest, " {priority} {} {} 0 {}", scheduling.nice, view.tasks.len().max(1), since / TICK);
    // vsize rss rsslim
    let _ = write!(rest, " {size} {} {}", resident / PAGE_SIZE, group.limit(c::RLIMIT_RSS));
    // startcode endcode startstack kstkesp kstkeip
    let _ = write!(rest, " {} {} {stack} 0 0", code.start, code.end);
    // signal blocked sigignore sigcatch
    let (own, blocked) = (low(sets.own), low(sets.blocked));
    let _ = write!(rest, " {own} {blocked} {} {}", low(sets.ignored), low(sets.caught));
    // wchan nswap cnswap exit_signal processor rt_priority policy
    let _ = write!(rest, " 0 0 0 {exit_signal} 0 {} {}", scheduling.priority, scheduling.policy);
    // delayacct_blkio_ticks guest_time cguest_time start_data end_data start_brk
    let _ = write!(rest, " 0 0 0 {} {} {}", data.start, data.end, heap.start);
    // arg_start arg_end env_start env_end exit_code
    let (args, env) = (&image.args, &image.env);
    let _ = writeln!(rest, " {} {} {} {} {status}", args.start, args.end, env.start, env.end);
    out.extend(rest.into_bytes());
    Ok(out)
}

/// Who a task is; of one that has ended, nobody knows.
fn credentials(proc: &Proc, view: &View) -> Arc<Credentials> {
    let last = || view.group.credentials();
    let nobody = || Arc::new(Credentials::root(proc.kernel.user_ns.clone()));
    view.task.as_ref().map(|task| task.credentials()).or_else(last).unwrap_or_else(nobody)
}

/// The lines of `status` with user and group numbers, as the reader's user namespace has them.
fn identity(proc: &Proc, who: &Credentials) -> String {
    let ns = proc.caller().map_or_else(|| proc.kernel.user_ns.clone(), |task| task.credentials().user_ns.clone());
    let mut text = String::from("Uid:");
    for uid in [who.ruid, who.euid, who.suid, who.fsuid] {
        let _ = write!(text, "\t{}", ns.from_kuid_munged(uid));
    }
    text.push_str("\nGid:");
    for gid in [who.rgid, who.egid, who.sgid, who.fsgid] {
        let _ = write!(text, "\t{}", ns.from_kgid_munged(gid));
    }
    text.push_str("\nGroups:\t");
    for gid in who.groups.iter() {
        let _ = write!(text, "{} ", ns.from_kgid_munged(*gid));
    }
    if who.groups.is_empty() {
        text.push(' ');
    }
    text.push('\n');
    text
}

/// The lines of `status` with the numbers of a process and a thread in all namespaces from the reader's on.
fn numbers(view: &View) -> String {
    let own = view.task.as_ref().map_or_else(|| view.group.number.clone(), |task| task.lock().number.clone());
    let job = view.group.job();
    let lines = [("NStgid", &view.group.number), ("NSpid", &own), ("NSpgid", job.number()), ("NSsid", job.session.number())];
    let mut text = String::new();
    for (name, number) in lines {
        let _ = write!(text, "{name}:");
        number.numbers_from(&view.ns).for_each(|number| _ = write!(text, "\t{number}"));
        text.push('\n');
    }
    text
}

fn status(proc: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let (letter, word) = state(view);
    let mut out = b"Name:\t".to_vec();
    out.extend(comm_escaped(view));
    let mut rest = String::from("\n");
    if let Some(umask) = view.umask() {
        let _ = writeln!(rest, "Umask:\t{umask:04o}");
    }
    let _ = write!(rest, "State:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\n", view.group.pid_in(&view.ns));
    let tracer = view.task.as_ref().and_then(|task| task.tracer()).map_or(0, |tracer| view.ns.local(tracer.tid()));
    let _ = write!(rest, "Pid:\t{}\nPPid:\t{}\nTracerPid:\t{tracer}\n", view.ns.local(view.id), parent(view));
    let who = credentials(proc, view);
    rest.push_str(&identity(proc, &who));
    rest.push_str(&numbers(view));
    rest.push_str(&memory::status_lines(view));
    let _ = writeln!(rest, "Threads:\t{}", view.tasks.len().max(1));
    let sets = signals(view);
    let sets = [
        ("SigPnd", sets.own),
        ("ShdPnd", sets.shared),
        ("SigBlk", sets.blocked),
        ("SigIgn", sets.ignored),
        ("SigCgt", sets.caught),
    ];
    for (name, set) in sets {
        let _ = writeln!(rest, "{name}:\t{:016x}", set.0);
    }
    let sets =
        [("Inh", who.inheritable), ("Prm", who.permitted), ("Eff", who.effective), ("Bnd", who.bounding), ("Amb", who.ambient)];
    for (name, caps) in sets {
        let _ = writeln!(rest, "Cap{name}:\t{:016x}", caps.bits());
    }
    let no_new_privs = view.task.as_ref().is_some_and(|task| task.no_new_privs.load(Ordering::Relaxed));
    let (mode, filters) = view.task.as_ref().map_or((0, 0), |task| (task.seccomp_mode(), task.seccomp_filters()));
    let _ = write!(rest, "NoNewPrivs:\t{}\nSeccomp:\t{mode}\nSeccomp_filters:\t{filters}\n", u8::from(no_new_privs));
    out.extend(rest.into_bytes());
    Ok(out)
}

/// A range of guest memory, as far as it can be read.
fn strings(view: &View, range: impl Fn(&ImageInfo) -> Range<u64>) -> Vec<u8> {
    let (Some(mm), range) = (view.mm(), range(&info(view))) else {
        return Vec::new();
    };
    let end = range.end.min(range.start.saturating_add(MAX_STRINGS));
    let (mut at, mut text) = (range.start, Vec::new());
    while at < end {
        let next = (usermem::page_down(at).saturating_add(PAGE_SIZE)).min(end);
        let mut chunk = vec![0; usize::try_from(next - at).unwrap_or(0)];
        if mm.read(at, &mut chunk).is_err() {
            break;
        }
        text.extend(chunk);
        at = next;
    }
    text
}

/// Names and units, by `RLIMIT_*`.
const LIMITS: &[(&str, &str)] = &[
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut out = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let limits = *view.group.limits.lock();
    let value = |limit: u64| {
        if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
    };
    for ((name, unit), limit) in LIMITS.iter().zip(limits) {
        let (cur, max) = (value(limit.cur), value(limit.max));
        let _ = writeln!(out, "{name:<25} {cur:<20} {max:<20} {unit:<10}");
    }
    Ok(out.into_bytes())
}
