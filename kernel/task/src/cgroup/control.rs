//! The files of control groups: what they say, and what is written to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult, c};

use super::{Actor, Cgroup, MAX};
use crate::kernel::Kernel;

pub const PROCS: &str = "cgroup.procs";
pub const EVENTS: &str = "cgroup.events";
/// What a group that is the root of a namespace may set itself, even if namespaces are borders (`CFTYPE_NS_DELEGATABLE`).
const DELEGATED: [&str; 3] = [PROCS, "cgroup.threads", "cgroup.subtree_control"];

/// Which groups have a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    All,
    Root,
    Below,
    /// Where the group above delegates pids.
    Pids,
}

type Make = fn(&Kernel, &Cgroup) -> SysResult<String>;
type Take = fn(&Kernel, &Arc<Cgroup>, &str, &Actor) -> SysResult<()>;

/// A file.
pub struct Control {
    pub name: &'static str,
    place: Where,
    pub make: Option<Make>,
    pub take: Option<Take>,
}

const fn show(name: &'static str, place: Where, make: Make) -> Control {
    Control { name, place, make: Some(make), take: None }
}

const fn set(name: &'static str, place: Where, make: Make, take: Take) -> Control {
    Control { name, place, make: Some(make), take: Some(take) }
}

static CONTROLS: &[Control] = &[
    set(PROCS, Where::All, procs, move_in),
    set("cgroup.threads", Where::All, threads, |_, _, _, _| Err(Errno::EOPNOTSUPP)),
    show("cgroup.controllers", Where::All, |_, at| Ok(if has_pids(at) { "pids\n" } else { "\n" }.into())),
    set("cgroup.subtree_control", Where::All, delegated, delegate),
    set("cgroup.max.depth", Where::All, |_, at| limit(&at.max_depth), |_, at, text, _| set_limit(&at.max_depth, text)),
    set(
        "cgroup.max.descendants",
        Where::All,
        |_, at| limit(&at.max_descendants),
        |_, at, text, _| set_limit(&at.max_descendants, text),
    ),
    show("cgroup.stat", Where::All, |_, at| Ok(format!("nr_descendants {}\nnr_dying_descendants 0\n", at.descendants().len()))),
    show(EVENTS, Where::Below, |_, at| {
        let populated = u8::from(at.live.load(Ordering::SeqCst) > 0);
        Ok(format!("populated {populated}\nfrozen {}\n", u8::from(at.is_frozen())))
    }),
    set("cgroup.type", Where::Below, |_, _| Ok("domain\n".into()), |_, _, _, _| Err(Errno::EOPNOTSUPP)),
    set("cgroup.freeze", Where::Below, |_, at| Ok(format!("{}\n", u8::from(at.freeze.load(Ordering::SeqCst)))), freeze),
    Control { name: "cgroup.kill", place: Where::Below, make: None, take: Some(kill) },
    show("cpu.stat", Where::All, cpu_stat),
    set("pids.max", Where::Pids, |_, at| limit(&at.max_tasks), |_, at, text, _| set_limit(&at.max_tasks, text)),
    show("pids.current", Where::Pids, |kernel, at| Ok(format!("{}\n", kernel.tasks_in(at)))),
    show("pids.events", Where::Pids, |_, at| Ok(format!("max {}\n", at.refused.load(Ordering::Relaxed)))),
    // What the sandbox has been given. As in a container's own namespace, nobody inside may change it.
    show("pids.max", Where::Root, |kernel, _| Ok(format!("{}\n", kernel.quota.tasks.load(Ordering::Relaxed)))),
    show("pids.current", Where::Root, |kernel, at| Ok(format!("{}\n", kernel.tasks_in(at)))),
    show("memory.max", Where::Root, |kernel, _| limit(&kernel.quota.memory)),
    show("memory.high", Where::Root, |_, _| Ok("max\n".into())),
    show("memory.swap.max", Where::Root, |_, _| Ok("0\n".into())),
    show("memory.swap.current", Where::Root, |_, _| Ok("0\n".into())),
    show("memory.current", Where::Root, |_, _| {
        let (total, free) = usermem::budget::total_and_free();
        Ok(format!("{}\n", total.saturating_sub(free)))
    }),
    show("memory.events", Where::Root, |kernel, _| {
        let kills = kernel.oom_kills.load(Ordering::Relaxed);
        Ok(format!("low 0\nhigh 0\nmax {kills}\noom {kills}\noom_kill {kills}\noom_group_kill 0\n"))
    }),
    show("memory.stat", Where::Root, |_, _| {
        let (total, free) = usermem::budget::total_and_free();
        Ok(format!("anon {}\nfile 0\nkernel 0\nshmem 0\ninactive_file 0\nactive_file 0\n", total.saturating_sub(free)))
    }),
    show("cpu.max", Where::Root, cpu_max),
    show("cpu.weight", Where::Root, |_, _| Ok("100\n".into())),
    show("cpuset.cpus.effective", Where::Root, |kernel, _| {
        Ok(match kernel.quota.cpus() {
            1 => "0\n".into(),
            cpus => format!("0-{}\n", cpus - 1),
        })
    }),
    show("cpuset.mems.effective", Where::Root, |_, _| Ok("0\n".into())),
];

/// Names of all files, and their modes.
pub fn files() -> impl Iterator<Item = (&'static str, u32)> {
    CONTROLS.iter().map(|control| (control.name, control.mode()))
}

/// Whether a name is taken by a file.
pub fn is_one(name: &[u8]) -> bool {
    CONTROLS.iter().any(|control| control.name.as_bytes() == name)
}

/// The files of a group.
pub fn of(cgroup: &Cgroup) -> impl Iterator<Item = &'static Control> {
    CONTROLS.iter().filter(|control| control.is_in(cgroup))
}

impl Control {
    pub fn mode(&self) -> u32 {
        match (self.make.is_some(), self.take.is_some()) {
            (true, true) => 0o644,
            (true, false) => 0o444,
            (false, _) => 0o200,
        }
    }

    /// Whether it is for who is outside of the namespace whose root its group is.
    pub fn is_delegated(&self) -> bool {
        DELEGATED.contains(&self.name)
    }

    /// Whether a group has it.
    pub fn is_in(&self, cgroup: &Cgroup) -> bool {
        match self.place {
            Where::All => true,
            Where::Root => cgroup.parent.is_none(),
            Where::Below => cgroup.parent.is_some(),
            Where::Pids => cgroup.parent.is_some() && has_pids(cgroup),
        }
    }
}

/// Whether a group may limit its tasks, or let those below do so.
fn has_pids(cgroup: &Cgroup) -> bool {
    cgroup.parent.as_ref().is_none_or(|parent| parent.delegates_pids.load(Ordering::SeqCst))
}

fn limit(value: &std::sync::atomic::AtomicU64) -> SysResult<String> {
    Ok(match value.load(Ordering::Relaxed) {
        MAX => "max\n".into(),
        value => format!("{value}\n"),
    })
}

fn set_limit(slot: &std::sync::atomic::AtomicU64, text: &str) -> SysResult<()> {
    let value = match text {
        "max" => MAX,
        text => text.parse::<u32>().map_err(|_| Errno::EINVAL)?.into(),
    };
    slot.store(value, Ordering::Relaxed);
    Ok(())
}

/// The namespace whose numbers the caller knows.
fn reader(kernel: &Kernel) -> Arc<crate::PidNamespace> {
    crate::current().map_or_else(|| kernel.ns.pid_for_children.clone(), |task| task.group.pid_ns().clone())
}

fn procs(kernel: &Kernel, at: &Cgroup) -> SysResult<String> {
    let ns = reader(kernel);
    let mut numbers: Vec<_> = kernel.processes_in(at, false).iter().map(|group| group.pid_in(&ns)).collect();
    numbers.sort_unstable();
    Ok(numbers.iter().map(|number| format!("{number}\n")).collect())
}

fn threads(kernel: &Kernel, at: &Cgroup) -> SysResult<String> {
    let ns = reader(kernel);
    let tasks = kernel.processes_in(at, false).into_iter().flat_map(|group| group.threads());
    let mut numbers: Vec<_> = tasks.map(|task| task.tid_in(&ns)).collect();
    numbers.sort_unstable();
    Ok(numbers.iter().map(|number| format!("{number}\n")).collect())
}

fn move_in(kernel: &Kernel, to: &Arc<Cgroup>, text: &str, opener: &Actor) -> SysResult<()> {
    let number: i32 = text.parse().ok().filter(|number| *number >= 0).ok_or(Errno::EINVAL)?;
    let group = match number {
        0 => crate::current().map(|task| task.group.clone()),
        number => {
            let global = reader(kernel).global(number);
            global.and_then(|pid| kernel.group(pid).or_else(|| Some(kernel.task(pid)?.group.clone())))
        }
    };
    let group = group.ok_or(Errno::ESRCH)?;
    kernel.move_process(&group, to, opener)
}

fn delegated(_: &Kernel, at: &Cgroup) -> SysResult<String> {
    Ok(if at.delegates_pids.load(Ordering::SeqCst) { "pids\n".into() } else { String::new() })
}

/// `+pids`, `-pids`, and several of them.
fn delegate(_: &Kernel, at: &Arc<Cgroup>, text: &str, _: &Actor) -> SysResult<()> {
    let mut wanted = None;
    for word in text.split_ascii_whitespace() {
        match word {
            "+pids" => wanted = Some(true),
            "-pids" => wanted = Some(false),
            _ => return Err(Errno::EINVAL),
        }
    }
    let Some(wanted) = wanted else { return Ok(()) };
    if wanted && !has_pids(at) {
        return Err(Errno::ENOENT);
    }
    let used = || at.children.lock().values().any(|child| child.delegates_pids.load(Ordering::SeqCst));
    if !wanted && used() {
        return Err(Errno::EBUSY);
    }
    if at.delegates_pids.swap(wanted, Ordering::SeqCst) && !wanted {
        at.children.lock().values().for_each(|child| child.max_tasks.store(MAX, Ordering::Relaxed));
    }
    Ok(())
}

fn freeze(kernel: &Kernel, at: &Arc<Cgroup>, text: &str, _: &Actor) -> SysResult<()> {
    match text.parse::<i64>() {
        Ok(0) => kernel.freeze_cgroup(at, false),
        Ok(1) => kernel.freeze_cgroup(at, true),
        Ok(_) => return Err(Errno::ERANGE),
        Err(_) => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn kill(kernel: &Kernel, at: &Arc<Cgroup>, text: &str, _: &Actor) -> SysResult<()> {
    match text.parse::<i64>() {
        Ok(1) => {}
        Ok(_) => return Err(Errno::ERANGE),
        Err(_) => return Err(Errno::EINVAL),
    }
    kernel.processes_in(at, true).iter().for_each(|group| group.end(c::SIGKILL));
    Ok(())
}

fn cpu_stat(kernel: &Kernel, at: &Cgroup) -> SysResult<String> {
    let [user, system] = &at.used;
    let (mut user, mut system) = (user.load(Ordering::Relaxed), system.load(Ordering::Relaxed));
    for used in kernel.processes_in(at, true).iter().map(|group| group.used()) {
        (user, system) = (user.saturating_add(used.user), system.saturating_add(used.system));
    }
    let micros = |ns: u64| ns / 1000;
    let all = micros(user.saturating_add(system));
    Ok(format!("usage_usec {all}\nuser_usec {}\nsystem_usec {}\n", micros(user), micros(system)))
}

fn cpu_max(kernel: &Kernel, _: &Cgroup) -> SysResult<String> {
    // What the sandbox has fewer of than the host is what it has been limited to.
    let host = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(match kernel.quota.cpus() {
        cpus if cpus >= host => "max 100000\n".into(),
        cpus => format!("{} 100000\n", cpus * 100_000),
    })
}
