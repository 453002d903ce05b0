//! What /proc says of interrupts, memory zones and stalls: the host's are not told, so these are the sandbox's own few numbers, and zeros.

use std::fmt::Write;

use abi::SysResult;
use usermem::PAGE_SIZE;

use crate::Proc;
use crate::system::{Entry, file, text};

/// /proc/pressure: nothing is known to stall.
pub const PRESSURE: &[Entry] = &[
    file("cpu", 419, |_| text(stalls(&["some", "full"]))),
    file("io", 420, |_| text(stalls(&["some", "full"]))),
    file("memory", 421, |_| text(stalls(&["some", "full"]))),
];

/// As the files of [`PRESSURE`] and those of control groups have them.
fn stalls(kinds: &[&str]) -> String {
    kinds.iter().map(|kind| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")).collect()
}

/// A table with a column for each processor, and zeros in it.
fn columns(proc: &Proc, width: usize, rows: &[(&str, &str)]) -> String {
    let cpus = proc.kernel.quota.cpus();
    let mut out = " ".repeat(width + 1);
    (0..cpus).for_each(|cpu| _ = write!(out, "{:<11}", format!("CPU{cpu}")));
    out.push('\n');
    for (name, about) in rows {
        let _ = write!(out, "{name:>width$}:");
        (0..cpus).for_each(|_| _ = write!(out, "{:>11}", 0));
        let _ = writeln!(out, "{about}");
    }
    out
}

pub fn interrupts(proc: &Proc) -> SysResult<Vec<u8>> {
    text(columns(proc, 4, &[("LOC", "   Local timer interrupts"), ("RES", "   Rescheduling interrupts")]))
}

pub fn softirqs(proc: &Proc) -> SysResult<Vec<u8>> {
    let names = ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];
    text(columns(proc, 12, &names.map(|name| (name, ""))))
}

pub fn schedstat(proc: &Proc) -> SysResult<Vec<u8>> {
    let up = proc.uptime() / 4_000_000;
    let cpus = (0..proc.kernel.quota.cpus()).map(|cpu| format!("cpu{cpu} 0 0 0 0 0 0 0 0 0\n"));
    text(format!("version 15\ntimestamp {up}\n{}", cpus.collect::<String>()))
}

fn free_pages() -> u64 {
    usermem::budget::total_and_free().1 / PAGE_SIZE
}

pub fn buddyinfo(_: &Proc) -> SysResult<Vec<u8>> {
    // All that is free lies in the largest blocks, and a rest.
    let (blocks, rest) = (free_pages() >> 10, free_pages() & 0x3ff);
    let mut out = String::from("Node 0, zone   Normal ");
    (0..10).for_each(|order| _ = write!(out, "{:>6} ", rest >> order & 1));
    let _ = writeln!(out, "{blocks:>6} ");
    text(out)
}

pub fn zoneinfo(_: &Proc) -> SysResult<Vec<u8>> {
    let (total, free) = usermem::budget::total_and_free();
    let (total, free) = (total / PAGE_SIZE, free / PAGE_SIZE);
    let head =
        format!("Node 0, zone   Normal\n  pages free     {free}\n        boost    0\n        min      0\n        low      0\n");
    text(head + &format!("        high     0\n        spanned  {total}\n        present  {total}\n        managed  {total}\n"))
}

/// What vmstat(8) looks for.
pub fn vmstat(proc: &Proc) -> SysResult<Vec<u8>> {
    let groups: Vec<_> = proc.kernel.groups.lock().values().cloned().collect();
    let (mut minor, mut major) = (0u64, 0u64);
    for used in groups.iter().map(|group| group.used()) {
        minor = minor.saturating_add(used.minor_faults);
        major = major.saturating_add(used.major_faults);
    }
    let (total, free) = usermem::budget::total_and_free();
    let lines = [
        ("nr_free_pages", free / PAGE_SIZE),
        ("nr_anon_pages", total.saturating_sub(free) / PAGE_SIZE),
        ("nr_mapped", 0),
        ("nr_file_pages", 0),
        ("nr_dirty", 0),
        ("nr_writeback", 0),
        ("nr_shmem", 0),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", minor.saturating_add(major)),
        ("pgmajfault", major),
        ("oom_kill", 0),
    ];
    text(lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect::<String>())
}
