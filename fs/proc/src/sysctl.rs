//! /proc/sys, but for what system V objects have: limits and switches as they are here. None can be changed.

use std::sync::atomic::Ordering;

use anon::inotify;

use crate::system::{Entry, dir, file, text};

const YAMA: &[Entry] = &[file("ptrace_scope", 301, |_| text("1\n"))];

/// /proc/sys/kernel
pub const KERNEL: &[Entry] = &[
    file("threads-max", 306, |_| text("16384\n")),
    file("core_pattern", 308, |_| text("core\n")),
    file("core_uses_pid", 309, |_| text("0\n")),
    file("core_pipe_limit", 310, |_| text("0\n")),
    file("printk", 311, |_| text("4\t4\t1\t7\n")),
    file("panic", 312, |_| text("0\n")),
    file("panic_on_oops", 313, |_| text("0\n")),
    file("tainted", 314, |_| text("0\n")),
    file("sysrq", 315, |_| text("0\n")),
    file("perf_event_paranoid", 316, |_| text("4\n")),
    file("kptr_restrict", 317, |_| text("0\n")),
    file("dmesg_restrict", 318, |_| text("0\n")),
    file("randomize_va_space", 319, |_| text("2\n")),
    file("modules_disabled", 320, |_| text("1\n")),
    file("sched_rt_runtime_us", 321, |_| text("950000\n")),
    file("sched_rt_period_us", 322, |_| text("1000000\n")),
    file("unprivileged_bpf_disabled", 323, |_| text("2\n")),
    file("io_uring_disabled", 324, |_| text("2\n")),
    dir("yama", 325, YAMA),
];

/// /proc/sys/vm
pub const VM: &[Entry] = &[
    file("swappiness", 327, |_| text("60\n")),
    file("overcommit_kbytes", 328, |_| text("0\n")),
    file("dirty_ratio", 329, |_| text("20\n")),
    file("dirty_background_ratio", 330, |_| text("10\n")),
    file("nr_hugepages", 331, |_| text("0\n")),
    file("nr_overcommit_hugepages", 332, |_| text("0\n")),
    file("min_free_kbytes", 333, |_| text("67584\n")),
    file("vfs_cache_pressure", 334, |_| text("100\n")),
    file("page-cluster", 335, |_| text("3\n")),
    file("legacy_va_layout", 336, |_| text("0\n")),
    file("zone_reclaim_mode", 337, |_| text("0\n")),
    file("memfd_noexec", 338, |_| text("0\n")),
    file("unprivileged_userfaultfd", 339, |_| text("0\n")),
    file("oom_kill_allocating_task", 340, |_| text("0\n")),
    file("panic_on_oom", 341, |_| text("0\n")),
];

const INOTIFY: &[Entry] = &[
    file("max_user_instances", 342, |_| text(format!("{}\n", inotify::MAX_USER_INSTANCES.load(Ordering::Relaxed)))),
    file("max_user_watches", 343, |_| text(format!("{}\n", inotify::MAX_USER_WATCHES.load(Ordering::Relaxed)))),
    file("max_queued_events", 344, |_| text(format!("{}\n", inotify::MAX_QUEUED_EVENTS.load(Ordering::Relaxed)))),
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
    file("max_inotify_instances", 395, |_| text(format!("{}\n", inotify::MAX_USER_INSTANCES.load(Ordering::Relaxed)))),
    file("max_inotify_watches", 396, |_| text(format!("{}\n", inotify::MAX_USER_WATCHES.load(Ordering::Relaxed)))),
];
