//! Which process goes when memory is up (proc_pid_oom_score(5), proc_pid_oom_score_adj(5)).

use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use auth::{Capability, Credentials};

use crate::Proc;
use crate::process::View;

/// `OOM_SCORE_ADJ_MAX`
const MAX: i32 = 1000;
/// `OOM_DISABLE`, `OOM_ADJUST_MAX`: the older file's.
const OLD_DISABLE: i32 = -17;
const OLD_MAX: i32 = 15;

/// /proc/pid/oom_score: from 0 to 2000, in thousandths of all memory.
pub fn score(proc: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let (total, _) = usermem::budget::total_and_free();
    let points = proc.kernel.oom_points(&view.group).unwrap_or(0);
    let score = u128::from(points) * 1000 / u128::from(total.max(1));
    Ok(format!("{}\n", score.min(2000)).into_bytes())
}

fn current(view: &View) -> i32 {
    view.group.oom_score_adj.load(Ordering::Relaxed)
}

/// /proc/pid/oom_score_adj
pub fn adjustment(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    Ok(format!("{}\n", current(view)).into_bytes())
}

/// /proc/pid/oom_adj: the same on a scale from -17 to 15.
pub fn old_adjustment(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let value = current(view);
    let old = if value == MAX { OLD_MAX } else { value * -OLD_DISABLE / MAX };
    Ok(format!("{old}\n").into_bytes())
}

fn number(text: &[u8]) -> SysResult<i32> {
    std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)
}

/// `EACCES`: only with `CAP_SYS_RESOURCE` a process may become less likely to go than it has been made with that.
fn set(proc: &Proc, view: &View, value: i32, least: i32, who: &Credentials) -> SysResult<()> {
    let group = &view.group;
    let privileged = who.has_capability_in(&proc.kernel.user_ns, Capability::SYS_RESOURCE);
    if !privileged && value < least {
        return Err(Errno::EACCES);
    }
    group.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

pub fn write_adjustment(proc: &Proc, view: &View, text: &[u8], who: &Credentials) -> SysResult<()> {
    let value = number(text)?;
    if !(-MAX..=MAX).contains(&value) {
        return Err(Errno::EINVAL);
    }
    set(proc, view, value, view.group.oom_score_adj_min.load(Ordering::Relaxed), who)?;
    if who.has_capability_in(&proc.kernel.user_ns, Capability::SYS_RESOURCE) {
        view.group.oom_score_adj_min.store(value, Ordering::Relaxed);
    }
    Ok(())
}

pub fn write_old_adjustment(proc: &Proc, view: &View, text: &[u8], who: &Credentials) -> SysResult<()> {
    let value = number(text)?;
    if !(OLD_DISABLE..=OLD_MAX).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let value = if value == OLD_MAX { MAX } else { value * MAX / -OLD_DISABLE };
    set(proc, view, value, current(view), who)
}
