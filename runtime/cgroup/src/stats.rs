//! What a container uses, as its groups count it.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Cgroup;

/// Numbers of one container; 0 where the host doesn't count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// CPU time in nanoseconds.
    pub cpu_total: u64,
    pub cpu_user: u64,
    pub cpu_kernel: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
    pub periods: u64,
    /// Bytes.
    pub memory: u64,
    pub memory_limit: u64,
    pub memory_peak: u64,
    pub memory_cache: u64,
    pub memory_failures: u64,
    /// Processes that the host has killed because memory was up.
    pub oom_kills: u64,
}

fn number(dir: &Path, file: &str) -> u64 {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// A line `key value` of a file.
fn field(dir: &Path, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or(0)
}

impl Cgroup {
    /// What the groups count.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if self.unified {
            let Some(dir) = self.dir("") else { return stats };
            let cpu = |key| field(dir, "cpu.stat", key).saturating_mul(1000);
            (stats.cpu_total, stats.cpu_user, stats.cpu_kernel) = (cpu("usage_usec"), cpu("user_usec"), cpu("system_usec"));
            (stats.periods, stats.throttled_periods) =
                (field(dir, "cpu.stat", "nr_periods"), field(dir, "cpu.stat", "nr_throttled"));
            stats.throttled_time = cpu("throttled_usec");
            (stats.memory, stats.memory_limit) = (number(dir, "memory.current"), number(dir, "memory.max"));
            (stats.memory_peak, stats.memory_cache) = (number(dir, "memory.peak"), field(dir, "memory.stat", "file"));
            stats.memory_failures = field(dir, "memory.events", "max");
            stats.oom_kills = field(dir, "memory.events", "oom_kill");
            return stats;
        }
        if let Some(dir) = self.dir("cpuacct") {
            // In ticks.
            let ticks = |key| field(dir, "cpuacct.stat", key).saturating_mul(10_000_000);
            (stats.cpu_total, stats.cpu_user, stats.cpu_kernel) = (number(dir, "cpuacct.usage"), ticks("user"), ticks("system"));
        }
        if let Some(dir) = self.dir("cpu") {
            let cpu = |key| field(dir, "cpu.stat", key);
            (stats.periods, stats.throttled_periods, stats.throttled_time) =
                (cpu("nr_periods"), cpu("nr_throttled"), cpu("throttled_time"));
        }
        if let Some(dir) = self.dir("memory") {
            stats.memory = number(dir, "memory.usage_in_bytes");
            stats.memory_limit = number(dir, "memory.limit_in_bytes");
            stats.memory_peak = number(dir, "memory.max_usage_in_bytes");
            stats.memory_failures = number(dir, "memory.failcnt");
            stats.oom_kills = field(dir, "memory.oom_control", "oom_kill");
            stats.memory_cache = field(dir, "memory.stat", "cache");
        }
        stats
    }
}
