//! The fixed tree: files about the whole system.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{SysResult, c};
use task::{Kernel, MAX_NAME, RELEASE, Task, UtsNamespace, VERSION};

use crate::sysctl::{self, Numbers};
use crate::{Proc, TICK, cpuinfo, ipc, load, locks, netsys, uuid};

/// A node of the fixed tree.
pub struct Entry {
    pub name: &'static str,
    pub ino: u64,
    pub body: Body,
}

type Make = fn(&Proc) -> SysResult<Vec<u8>>;
type Take = fn(&Proc, &[u8]) -> SysResult<()>;

/// What a node is.
pub enum Body {
    Dir(&'static [Entry]),
    /// A directory whose entries stand in several places.
    Dirs(&'static [&'static [Entry]]),
    File(Make),
    /// A file that can be written to.
    Setting(Make, Take),
    /// Numbers that are kept, and change nothing here: of swapping, of disks, of what the host does.
    Numbers(Numbers),
    Link(Make),
}

impl Entry {
    /// What is in it, if it is a directory.
    pub fn entries(&self) -> SysResult<Vec<&'static Self>> {
        match self.body {
            Body::Dir(entries) => Ok(entries.iter().collect()),
            Body::Dirs(lists) => Ok(lists.iter().copied().flatten().collect()),
            _ => Err(abi::Errno::ENOTDIR),
        }
    }

    /// Directories in it.
    pub fn subdirectories(&self) -> u64 {
        let entries = self.entries().unwrap_or_default();
        entries.iter().filter(|entry| entry.mode() & c::S_IFMT == c::S_IFDIR).count() as u64
    }

    /// Type and permissions.
    pub fn mode(&self) -> u32 {
        match self.body {
            Body::Dir(_) | Body::Dirs(_) => c::S_IFDIR | 0o555,
            Body::File(_) => c::S_IFREG | 0o444,
            Body::Setting(..) | Body::Numbers(_) => c::S_IFREG | 0o644,
            Body::Link(_) => c::S_IFLNK | 0o777,
        }
    }
}

pub const fn file(name: &'static str, ino: u64, make: Make) -> Entry {
    Entry { name, ino, body: Body::File(make) }
}

pub const fn setting(name: &'static str, ino: u64, make: Make, take: Take) -> Entry {
    Entry { name, ino, body: Body::Setting(make, take) }
}

/// Numbers from `min` to `max` that are `first` at first.
pub const fn numbers(name: &'static str, ino: u64, first: &'static [i64], min: i64, max: i64) -> Entry {
    Entry { name, ino, body: Body::Numbers(Numbers { first, min, max }) }
}

const fn link(name: &'static str, ino: u64, make: Make) -> Entry {
    Entry { name, ino, body: Body::Link(make) }
}

pub const fn dir(name: &'static str, ino: u64, entries: &'static [Entry]) -> Entry {
    Entry { name, ino, body: Body::Dir(entries) }
}

/// A directory whose entries stand in several places.
const fn dirs(name: &'static str, ino: u64, entries: &'static [&'static [Entry]]) -> Entry {
    Entry { name, ino, body: Body::Dirs(entries) }
}

/// The root directory.
pub static ROOT: Entry = dir(
    "",
    1,
    &[
        file("version", 2, |_| text(format!("Linux version {RELEASE} (palisade@palisade) (rustc) {VERSION}\n"))),
        file("meminfo", 3, meminfo),
        file("cpuinfo", 4, |proc| text(cpuinfo::text(proc.kernel.quota.cpus()))),
        file("stat", 5, stat),
        file("uptime", 6, uptime),
        file("loadavg", 7, loadavg),
        file("filesystems", 8, filesystems),
        file("cmdline", 9, |_| text("\n")),
        link("mounts", 10, |_| text("self/mounts")),
        link("net", 13, |_| text("self/net")),
        link("self", 11, own),
        link("thread-self", 12, own_thread),
        dir("sys", 20, SYS),
        dir("sysvipc", 60, ipc::DIR),
        file("swaps", 397, |_| text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
        file("partitions", 398, |_| text("major minor  #blocks  name\n\n")),
        file("diskstats", 399, |_| text("")),
        file("modules", 400, |_| text("")),
        file("kallsyms", 401, |_| text("")),
        file("crypto", 402, |_| text("")),
        file("misc", 403, |_| text("")),
        file("devices", 404, |_| {
            text("Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n")
        }),
        file("interrupts", 405, load::interrupts),
        file("softirqs", 408, load::softirqs),
        file("vmstat", 409, load::vmstat),
        file("schedstat", 410, load::schedstat),
        file("buddyinfo", 411, load::buddyinfo),
        file("zoneinfo", 412, load::zoneinfo),
        file("consoles", 413, |_| text("")),
        file("execdomains", 414, |_| text("0-0\tLinux           \t[kernel]\n")),
        file("iomem", 415, |_| text("")),
        file("ioports", 416, |_| text("")),
        file("key-users", 417, |_| text("")),
        dir("pressure", 418, load::PRESSURE),
        dir("driver", 422, &[]),
        dir("bus", 423, &[]),
        dir("fs", 424, &[]),
        dir("irq", 425, &[]),
        dir("tty", 426, &[]),
        file("cgroups", 406, cgroups),
        file("locks", 407, locks::text),
    ],
);

/// Highest value of most settings.
pub const MAX: i64 = i32::MAX as i64;

const SYS: &[Entry] = &[
    dirs("kernel", 21, &[KERNEL, sysctl::KERNEL]),
    dirs("vm", 22, &[VM, sysctl::VM]),
    dirs("fs", 23, &[FS, sysctl::FS]),
    dir("net", 24, netsys::DIR),
    dir("user", 25, sysctl::USER),
];

const KERNEL: &[Entry] = &[
    file("osrelease", 30, |_| text(format!("{RELEASE}\n"))),
    file("ostype", 31, |_| text("Linux\n")),
    setting("hostname", 32, hostname, |proc, text| uts(proc).set_host(sysctl::line(text, MAX_NAME))),
    setting("domainname", 38, domainname, |proc, text| uts(proc).set_domain(sysctl::line(text, MAX_NAME))),
    file("version", 33, |_| text(format!("{VERSION}\n"))),
    file("pid_max", 34, |_| text("4194304\n")),
    dir("random", 35, RANDOM),
    file("sem", 64, |_| text("32000\t1024000000\t500\t32000\n")),
    file("msgmax", 65, |_| text("8192\n")),
    file("msgmnb", 66, |_| text("16384\n")),
    file("msgmni", 67, |_| text("32000\n")),
    file("shmmax", 68, |_| text("18446744073692774399\n")),
    file("shmall", 69, |_| text("18446744073692774399\n")),
    file("shmmni", 70, |_| text("4096\n")),
    file("shm_rmid_forced", 71, |_| text("0\n")),
    file("overflowuid", 90, |_| text(format!("{}\n", auth::OVERFLOW_ID))),
    file("overflowgid", 91, |_| text(format!("{}\n", auth::OVERFLOW_ID))),
    file("cap_last_cap", 92, |_| text(format!("{}\n", auth::CapSet::LAST))),
    file("ngroups_max", 93, |_| text("65536\n")),
    dirs("seccomp", 94, &[SECCOMP]),
];

const SECCOMP: &[Entry] =
    &[file("actions_avail", 95, |_| text("kill_process kill_thread trap errno user_notif trace log allow\n"))];

const RANDOM: &[Entry] = &[file("boot_id", 36, |proc| Ok(proc.boot_id.clone())), file("uuid", 37, |_| uuid())];

const VM: &[Entry] = &[
    // Only what is larger than the machine is refused.
    file("overcommit_memory", 40, |_| text("0\n")),
    numbers("overcommit_ratio", 42, &[50], 0, MAX),
    file("mmap_min_addr", 43, |_| text("65536\n")),
    file("max_map_count", 41, |_| text("65530\n")),
];

const FS: &[Entry] = &[
    dir("mqueue", 52, ipc::LIMITS),
    file("file-max", 50, |_| text("9223372036854775807\n")),
    file("pipe-max-size", 51, |_| text("1048576\n")),
];

/// The controllers of version 1, none of which has a hierarchy: who looks knows version 2 by that.
fn cgroups(_: &Proc) -> SysResult<Vec<u8>> {
    let lines = ["cpuset", "cpu", "cpuacct", "memory", "pids"].map(|name| format!("{name}\t0\t1\t1\n"));
    text(format!("#subsys_name\thierarchy\tnum_cgroups\tenabled\n{}", lines.concat()))
}

fn filesystems(proc: &Proc) -> SysResult<Vec<u8>> {
    let line = |kind: &std::sync::Arc<dyn vfs::FileSystemType>| {
        format!("{}\t{}\n", if kind.nodev() { "nodev" } else { "" }, kind.name())
    };
    text(proc.kernel.filesystems.list().iter().map(line).collect::<String>())
}

pub fn text(text: impl Into<Vec<u8>>) -> SysResult<Vec<u8>> {
    Ok(text.into())
}

fn own(proc: &Proc) -> SysResult<Vec<u8>> {
    let task = proc.caller().ok_or(abi::Errno::ENOENT)?;
    match task.group.pid_in(&proc.pid_ns) {
        0 => Err(abi::Errno::ENOENT),
        pid => text(pid.to_string()),
    }
}

fn own_thread(proc: &Proc) -> SysResult<Vec<u8>> {
    let task = proc.caller().ok_or(abi::Errno::ENOENT)?;
    match task.group.pid_in(&proc.pid_ns) {
        0 => Err(abi::Errno::ENOENT),
        pid => text(format!("{pid}/task/{}", task.tid_in(&proc.pid_ns))),
    }
}

/// The names that the reader sees.
pub fn uts(proc: &Proc) -> Arc<UtsNamespace> {
    proc.caller().map_or_else(|| proc.kernel.ns.uts.clone(), |task| task.lock().ns.uts.clone())
}

fn domainname(proc: &Proc) -> SysResult<Vec<u8>> {
    let mut name = uts(proc).names().domain;
    name.push(b'\n');
    Ok(name)
}

fn hostname(proc: &Proc) -> SysResult<Vec<u8>> {
    let mut name = uts(proc).names().host;
    name.push(b'\n');
    Ok(name)
}

fn meminfo(_: &Proc) -> SysResult<Vec<u8>> {
    let info = rustix::system::sysinfo();
    let bytes = |units: u64| units.saturating_mul(info.mem_unit.max(1).into());
    let (total, free) = usermem::budget::total_and_free();
    // With a limit, what else the machine has is none of the sandbox's.
    let limited = total < bytes(info.totalram);
    let host = |units: u64| if limited { 0 } else { bytes(units) };
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free.saturating_add(host(info.bufferram))),
        ("Buffers", host(info.bufferram)),
        // sysinfo(2) doesn't tell these.
        ("Cached", 0),
        ("SwapCached", 0),
        ("SwapTotal", host(info.totalswap)),
        ("SwapFree", host(info.freeswap)),
        ("Shmem", host(info.sharedram)),
    ];
    let mut out = String::new();
    for (name, bytes) in lines {
        let _ = writeln!(out, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    }
    text(out)
}

/// CPU time of all processes.
fn total_cpu(proc: &Proc) -> u64 {
    let groups: Vec<_> = proc.kernel.groups.lock().values().cloned().collect();
    let used = groups.iter().map(|group| group.used());
    let total = used.fold(0u64, |sum, used| sum.saturating_add(used.user).saturating_add(used.system));
    // What processes that are gone have used must not be taken back.
    proc.cpu_seen.fetch_max(total, Ordering::Relaxed).max(total)
}

/// Tasks that neither sleep nor are stopped, and all.
fn running(kernel: &Kernel) -> (usize, usize) {
    let tasks: Vec<_> = kernel.tasks.lock().values().cloned().collect();
    let idle = |task: &Task| task.sleeping.load(Ordering::Relaxed) || task.group.is_stopped();
    (tasks.iter().filter(|task| !idle(task)).count(), tasks.len())
}

fn stat(proc: &Proc) -> SysResult<Vec<u8>> {
    let (cpus, used) = (proc.kernel.quota.cpus() as u64, total_cpu(proc) / TICK);
    let up = proc.uptime() / TICK;
    let idle = up.saturating_mul(cpus).saturating_sub(used);
    let mut out = format!("cpu  {used} 0 0 {idle} 0 0 0 0 0 0\n");
    // Who ran where isn't known: each has its share.
    for cpu in 0..cpus {
        let (used, idle) = (used / cpus, idle / cpus);
        let _ = writeln!(out, "cpu{cpu} {used} 0 0 {idle} 0 0 0 0 0 0");
    }
    let boot = proc.boot_time / 1_000_000_000;
    let forks = proc.kernel.forks.load(Ordering::Relaxed);
    let (running, _) = running(&proc.kernel);
    let _ = writeln!(out, "intr 0\nctxt 0\nbtime {boot}\nprocesses {forks}");
    let _ = writeln!(out, "procs_running {running}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0");
    text(out)
}

fn uptime(proc: &Proc) -> SysResult<Vec<u8>> {
    let up = proc.uptime() / TICK;
    let all = up.saturating_mul(proc.kernel.quota.cpus() as u64);
    let idle = all.saturating_sub(total_cpu(proc) / TICK);
    text(format!("{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100))
}

fn loadavg(proc: &Proc) -> SysResult<Vec<u8>> {
    let (running, total) = running(&proc.kernel);
    let last = proc.kernel.tasks.lock().keys().next_back().copied().unwrap_or(0);
    // Nobody counts in between: what runs now is taken to have run since the last look.
    let (mut load, now) = (proc.load.lock(), proc.uptime());
    let passed = now.saturating_sub(load.0) as f64 / 1e9;
    for (average, minutes) in load.1.iter_mut().zip([1.0, 5.0, 15.0]) {
        let kept = (-passed / (60.0 * minutes)).exp();
        *average = *average * kept + running as f64 * (1.0 - kept);
    }
    load.0 = now;
    let [one, five, fifteen] = load.1;
    drop(load);
    text(format!("{one:.2} {five:.2} {fifteen:.2} {running}/{total} {last}\n"))
}
