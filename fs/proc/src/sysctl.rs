//! /proc/sys, but for what system V objects have. What can be written to has an effect, or couldn't have one here.

use std::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, SysResult};
use anon::inotify;
use task::Kernel;

use crate::system::{Entry, MAX, dir, file, numbers, setting, text};

/// Most numbers in a file.
const MAX_NUMBERS: usize = 8;

/// Numbers that are kept as they have been written.
pub struct Numbers {
    pub first: &'static [i64],
    pub min: i64,
    pub max: i64,
}

impl Numbers {
    fn get(&self, kernel: &Kernel, name: &str) -> Vec<i64> {
        kernel.settings.lock().get(name).cloned().unwrap_or_else(|| self.first.to_vec())
    }

    pub fn text(&self, kernel: &Kernel, name: &str) -> Vec<u8> {
        let words: Vec<_> = self.get(kernel, name).iter().map(i64::to_string).collect();
        (words.join("\t") + "\n").into_bytes()
    }

    /// Keeps as many as are there.
    ///
    /// # Errors
    /// `EINVAL` for what is no number, or none of these.
    pub fn set(&self, kernel: &Kernel, name: &'static str, text: &[u8]) -> SysResult<()> {
        let mut kept = self.get(kernel, name);
        for (slot, word) in kept.iter_mut().zip(words(text)?) {
            let value = word.parse().ok().filter(|value| (self.min..=self.max).contains(value));
            *slot = value.ok_or(Errno::EINVAL)?;
        }
        kernel.settings.lock().insert(name, kept);
        Ok(())
    }
}

fn words(text: &[u8]) -> SysResult<Vec<&str>> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let words: Vec<_> = text.split([' ', '\t', '\n', '\0']).filter(|word| !word.is_empty()).take(MAX_NUMBERS).collect();
    if words.is_empty() { Err(Errno::EINVAL) } else { Ok(words) }
}

/// The first line of what is written, as far as there is room for it.
pub fn line(text: &[u8], room: usize) -> Vec<u8> {
    let end = text.iter().position(|byte| matches!(byte, b'\n' | 0)).unwrap_or(text.len());
    text.get(..end.min(room)).unwrap_or_default().to_vec()
}

/// One number.
///
/// # Errors
/// `EINVAL` for what isn't one from `min` to `max`.
pub fn number(text: &[u8], min: i64, max: i64) -> SysResult<i64> {
    let value = words(text)?.first().and_then(|word| word.parse().ok());
    value.filter(|value| (min..=max).contains(value)).ok_or(Errno::EINVAL)
}

fn show(limit: &AtomicUsize) -> SysResult<Vec<u8>> {
    text(format!("{}\n", limit.load(Ordering::Relaxed)))
}

fn store(limit: &AtomicUsize, text: &[u8]) -> SysResult<()> {
    let value = number(text, 0, MAX)?;
    limit.store(usize::try_from(value).map_err(|_| Errno::EINVAL)?, Ordering::Relaxed);
    Ok(())
}

const YAMA: &[Entry] = &[numbers("ptrace_scope", 301, &[1], 0, 3)];

/// /proc/sys/kernel
pub const KERNEL: &[Entry] = &[
    file("threads-max", 306, |_| text("16384\n")),
    setting(
        "core_pattern",
        308,
        |proc| Ok([&**proc.kernel.core_pattern.lock(), b"\n"].concat()),
        |proc, text| {
            // A program that would take it runs outside of all containers on Linux: there is no such place here.
            if text.first() == Some(&b'|') {
                return Err(Errno::EINVAL);
            }
            *proc.kernel.core_pattern.lock() = line(text, task::MAX_CORE_PATTERN);
            Ok(())
        },
    ),
    numbers("core_uses_pid", 309, &[0], 0, 1),
    file("core_pipe_limit", 310, |_| text("0\n")),
    numbers("printk", 311, &[4, 4, 1, 7], 0, 15),
    numbers("panic", 312, &[0], -MAX, MAX),
    numbers("panic_on_oops", 313, &[0], 0, 1),
    file("tainted", 314, |_| text("0\n")),
    numbers("sysrq", 315, &[0], 0, 511),
    file("perf_event_paranoid", 316, |_| text("4\n")),
    file("kptr_restrict", 317, |_| text("0\n")),
    file("dmesg_restrict", 318, |_| text("0\n")),
    file("randomize_va_space", 319, |_| text("2\n")),
    file("modules_disabled", 320, |_| text("1\n")),
    numbers("sched_rt_runtime_us", 321, &[950000], -1, MAX),
    numbers("sched_rt_period_us", 322, &[1000000], 1, MAX),
    file("unprivileged_bpf_disabled", 323, |_| text("2\n")),
    file("io_uring_disabled", 324, |_| text("2\n")),
    dir("yama", 325, YAMA),
];

/// /proc/sys/vm
pub const VM: &[Entry] = &[
    numbers("swappiness", 327, &[60], 0, 200),
    numbers("overcommit_kbytes", 328, &[0], 0, MAX),
    numbers("dirty_ratio", 329, &[20], 0, 100),
    numbers("dirty_background_ratio", 330, &[10], 0, 100),
    file("nr_hugepages", 331, |_| text("0\n")),
    numbers("nr_overcommit_hugepages", 332, &[0], 0, MAX),
    numbers("min_free_kbytes", 333, &[67584], 0, MAX),
    numbers("vfs_cache_pressure", 334, &[100], 0, MAX),
    numbers("page-cluster", 335, &[3], 0, MAX),
    file("legacy_va_layout", 336, |_| text("0\n")),
    numbers("zone_reclaim_mode", 337, &[0], 0, MAX),
    file("memfd_noexec", 338, |_| text("0\n")),
    file("unprivileged_userfaultfd", 339, |_| text("0\n")),
    file("oom_kill_allocating_task", 340, |_| text("0\n")),
    file("panic_on_oom", 341, |_| text("0\n")),
];

const INOTIFY: &[Entry] = &[
    setting(
        "max_user_instances",
        342,
        |_| show(&inotify::MAX_USER_INSTANCES),
        |_, text| store(&inotify::MAX_USER_INSTANCES, text),
    ),
    setting("max_user_watches", 343, |_| show(&inotify::MAX_USER_WATCHES), |_, text| store(&inotify::MAX_USER_WATCHES, text)),
    setting("max_queued_events", 344, |_| show(&inotify::MAX_QUEUED_EVENTS), |_, text| store(&inotify::MAX_QUEUED_EVENTS, text)),
];

const EPOLL: &[Entry] = &[file("max_user_watches", 345, |_| text("1048576\n"))];

/// /proc/sys/fs
pub const FS: &[Entry] = &[
    file("file-nr", 346, |_| text("0\t0\t9223372036854775807\n")),
    file("nr_open", 347, |_| text("1048576\n")),
    file("leases-enable", 348, |_| text("1\n")),
    file("protected_hardlinks", 349, |_| text("1\n")),
    file("protected_symlinks", 350, |_| text("1\n")),
    file("protected_fifos", 351, |_| text("1\n")),
    file("protected_regular", 352, |_| text("2\n")),
    file("suid_dumpable", 353, |_| text("0\n")),
    file("overflowuid", 354, |_| text("65534\n")),
    file("overflowgid", 355, |_| text("65534\n")),
    file("mount-max", 356, |_| text("100000\n")),
    file("aio-max-nr", 357, |_| text(format!("{}\n", anon::MAX_REQUESTS))),
    file("aio-nr", 358, |_| text(format!("{}\n", anon::aio_requests()))),
    file("lease-break-time", 359, |_| text(format!("{}\n", vfs::LEASE_BREAK_TIME.load(Ordering::Relaxed)))),
    dir("inotify", 360, INOTIFY),
    dir("epoll", 361, EPOLL),
];

/// /proc/sys/user
pub const USER: &[Entry] = &[
    file("max_user_namespaces", 389, |_| text("63000\n")),
    file("max_pid_namespaces", 390, |_| text("63000\n")),
    file("max_uts_namespaces", 391, |_| text("63000\n")),
    file("max_ipc_namespaces", 392, |_| text("63000\n")),
    file("max_net_namespaces", 393, |_| text("63000\n")),
    file("max_mnt_namespaces", 394, |_| text("63000\n")),
    setting(
        "max_inotify_instances",
        395,
        |_| show(&inotify::MAX_USER_INSTANCES),
        |_, text| store(&inotify::MAX_USER_INSTANCES, text),
    ),
    setting("max_inotify_watches", 396, |_| show(&inotify::MAX_USER_WATCHES), |_, text| store(&inotify::MAX_USER_WATCHES, text)),
];
