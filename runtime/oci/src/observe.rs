//! What a container does: `ps`, `events`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use control::{ProcessInfo, Request, Response, Stats};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use crate::lifecycle::{ask, connect};
use crate::state::{Container, Status};

/// A container's processes, as it numbers them itself.
///
/// # Errors
/// When it isn't running.
pub fn processes(root: &Path, id: &str) -> Result<Vec<ProcessInfo>> {
    let container = Container::load(root, id)?;
    container.require(&[Status::Created, Status::Running, Status::Paused], "list processes")?;
    match ask(&container, &connect(&container)?, &Request::Processes, &[])? {
        Response::Processes(mut all) => {
            all.sort_by_key(|process| process.pid);
            Ok(all)
        }
        other => bail!("unexpected answer {other:?}"),
    }
}

/// Numbers on the host of what runs a container's processes: the host process behind each address space inside, which the host's `ps` shows
/// under the command line of the program in it.
///
/// # Errors
/// When it isn't running.
pub fn host_processes(root: &Path, id: &str) -> Result<Vec<i32>> {
    let container = Container::load(root, id)?;
    container.require(&[Status::Created, Status::Running, Status::Paused], "list processes")?;
    let own = container.record.pid;
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{own}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
        // The one that others are made from has no program, and no command line.
        all.extend(children.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())));
    }
    if all.is_empty() {
        // Not started yet, or a host that shows no command lines.
        all.push(own);
    }
    all.sort_unstable();
    Ok(all)
}

/// What a container uses, in runc's form.
///
/// # Errors
/// When it isn't running.
pub fn stats(root: &Path, id: &str) -> Result<Value> {
    let container = Container::load(root, id)?;
    container.require(&[Status::Created, Status::Running, Status::Paused], "show statistics")?;
    let inside = match ask(&container, &connect(&container)?, &Request::Stats, &[])? {
        Response::Stats(stats) => stats,
        other => bail!("unexpected answer {other:?}"),
    };
    Ok(json!({ "type": "stats", "id": id, "data": data(&container, inside) }))
}

fn data(container: &Container, inside: Stats) -> Value {
    let host = match &container.record.cgroup {
        Some(cgroup) => cgroup.stats(),
        None => without_cgroup(container.record.pid),
    };
    let memory = |usage: u64, limit: u64, max: u64, failures: u64| json!({ "limit": limit, "usage": usage, "max": max, "failcnt": failures });
    json!({
        "cpu": {
            "usage": { "total": host.cpu_total, "kernel": host.cpu_kernel, "user": host.cpu_user },
            "throttling": { "periods": host.periods, "throttledPeriods": host.throttled_periods, "throttledTime": host.throttled_time }
        },
        "cpuset": {},
        "memory": {
            "cache": host.memory_cache,
            "usage": memory(host.memory, host.memory_limit, host.memory_peak, host.memory_failures),
            "swap": memory(0, 0, 0, 0),
            "kernel": memory(0, 0, 0, 0),
            "kernelTCP": memory(0, 0, 0, 0),
            "raw": { "cache": host.memory_cache }
        },
        "pids": { "current": inside.tasks, "limit": inside.task_limit },
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null
    })
}

/// CPU time and memory of a sandbox that has no groups: of its own process and its children, as far as /proc tells.
fn without_cgroup(pid: i32) -> cgroup::Stats {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> =
        text.rsplit_once(')').map_or("", |split| split.1).split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // proc_pid_stat(5): utime, stime in ticks; rss in pages.
    let at = |index: usize| fields.get(index).copied().unwrap_or(0);
    let (user, kernel) = (at(11) * 10_000_000, at(12) * 10_000_000);
    cgroup::Stats {
        cpu_total: user + kernel,
        cpu_user: user,
        cpu_kernel: kernel,
        memory: at(21) * 4096,
        ..cgroup::Stats::default()
    }
}

/// Kills inside because memory was up.
fn oom_kills(container: &Container) -> Option<u64> {
    let inside = match ask(container, &connect(container).ok()?, &Request::Stats, &[]) {
        Ok(Response::Stats(stats)) => stats.oom_kills,
        _ => return None,
    };
    Some(inside)
}

fn host_oom_kills(container: &Container) -> u64 {
    container.record.cgroup.as_ref().map_or(0, |cgroup| cgroup.stats().oom_kills)
}

/// Prints statistics, once or for as long as the container lives; then also, as soon as that is noticed, that memory was up.
///
/// # Errors
/// When it isn't running.
pub fn events(root: &Path, id: &str, once: bool, interval: Duration, mut print: impl FnMut(&Value)) -> Result<()> {
    print(&stats(root, id)?);
    if once {
        return Ok(());
    }
    let container = Container::load(root, id)?;
    let oom = json!({ "type": "oom", "id": id });
    // The sandbox tells of its end, or closes the connection when it is killed.
    let end = connect(&container)?;
    end.send(&Request::Wait { pid: None }, &[])?;
    // Inside, and by the host.
    let mut known = (0, 0);
    loop {
        let pause = rustix::event::Timespec::try_from(interval)?;
        let ended =
            poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&pause)).is_ok_and(|count| count > 0) || !container.alive();
        let now = if ended { None } else { oom_kills(&container) };
        let inside = now.or_else(|| container.oom_kills()).unwrap_or(known.0);
        let now = (inside, host_oom_kills(&container));
        if now.0 > known.0 || now.1 > known.1 {
            print(&oom);
        }
        known = now;
        if ended {
            return Ok(());
        }
        // One that ends meanwhile is looked at once more.
        if let Ok(stats) = stats(root, id) {
            print(&stats);
        }
    }
}
