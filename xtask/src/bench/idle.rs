//! What a box costs whose program sleeps.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// A sleeping box.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Idle {
    pub processes: usize,
    /// Proportional set size of all its processes.
    pub pss_kib: u64,
    /// Clock ticks (10 ms) used in three seconds.
    pub ticks: u64,
}

/// A process and all its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        // Each thread has children of its own.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    pids
}

fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}

/// Looks at a command that sleeps for a minute, and ends it.
pub fn measure(mut command: Command) -> Result<Idle> {
    let mut child = command.stdin(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_secs(2));
    let pids = family(child.id());
    let sum = |what: fn(u32) -> u64| pids.iter().map(|pid| what(*pid)).sum::<u64>();
    let (pss_kib, before) = (sum(pss), sum(ticks));
    std::thread::sleep(Duration::from_secs(3));
    let idle = Idle { processes: pids.len(), pss_kib, ticks: sum(ticks).saturating_sub(before) };
    child.kill()?;
    child.wait()?;
    Ok(idle)
}
