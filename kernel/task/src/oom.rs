//! When memory is up: the process that has most of it goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::c;
use sync::monotonic_ns;

use crate::current::Current;
use crate::group::Group;
use crate::kernel::Kernel;

/// How long who needs memory waits for the end of who had it, before it looks again.
const WAIT: Duration = Duration::from_millis(20);

/// Nobody takes this one (`OOM_SCORE_ADJ_MIN`).
const NEVER: i32 = -1000;

/// Bytes that a process has in memory.
fn resident(group: &Group) -> u64 {
    let tasks = group.tasks.lock().clone();
    let mm = tasks.iter().find_map(|task| task.lock().mm.clone());
    mm.map_or(0, |mm| mm.usage().resident())
}

impl Kernel {
    /// How much there is to win from the end of a process: what it has in memory, and a thousandth of all memory for each point of its adjustment.
    /// `None`: it isn't to be ended.
    #[must_use]
    pub fn oom_points(&self, group: &Group) -> Option<u64> {
        let adjust = group.oom_score_adj.load(Ordering::Relaxed);
        let (total, _) = usermem::budget::total_and_free();
        let share = i64::try_from(total / 1000).unwrap_or(i64::MAX).saturating_mul(adjust.into());
        (adjust != NEVER).then(|| resident(group).saturating_add_signed(share))
    }

    /// Ends the process that has most memory, unless one is ending already; returns it.
    fn kill_largest(&self) -> Option<Arc<Group>> {
        let groups: Vec<_> = self.groups.lock().values().filter(|group| !group.is_zombie()).cloned().collect();
        if let Some(ending) = groups.iter().find(|group| group.ending().is_some()) {
            return Some(ending.clone());
        }
        let points = |group: Arc<Group>| Some((self.oom_points(&group)?, group));
        let largest = groups.into_iter().filter_map(points).max_by_key(|(points, _)| *points);
        let (_, group) = largest?;
        self.oom_kills.fetch_add(1, Ordering::Relaxed);
        group.end(c::SIGKILL);
        Some(group)
    }
}

impl Current {
    /// Makes room, or time for room to be made: then the guest tries again, unless it is who had to go.
    pub(crate) fn out_of_memory(&self) {
        let Some(victim) = self.task.kernel.kill_largest() else { return };
        if Arc::ptr_eq(&victim, &self.task.group) {
            return;
        }
        let deadline = monotonic_ns() + u64::try_from(WAIT.as_nanos()).unwrap_or(0);
        while !victim.is_zombie() && monotonic_ns() < deadline && !self.task.signal_pending() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
