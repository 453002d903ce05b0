//! When memory is up: the process that has most of it goes.

use std::sync::Arc;
use std::time::Duration;

use abi::c;
use sync::monotonic_ns;

use crate::current::Current;
use crate::group::Group;
use crate::kernel::Kernel;

/// How long who needs memory waits for the end of who had it, before it looks again.
const WAIT: Duration = Duration::from_millis(20);

/// Bytes that a process has in memory.
fn weight(group: &Group) -> u64 {
    let tasks = group.tasks.lock().clone();
    let mm = tasks.iter().find_map(|task| task.lock().mm.clone());
    mm.map_or(0, |mm| mm.usage().resident())
}

impl Kernel {
    /// Ends the process that has most memory, unless one is ending already; returns it.
    fn kill_largest(&self) -> Option<Arc<Group>> {
        let groups: Vec<_> = self.groups.lock().values().filter(|group| !group.is_zombie()).cloned().collect();
        if let Some(ending) = groups.iter().find(|group| group.ending().is_some()) {
            return Some(ending.clone());
        }
        let largest = groups.into_iter().map(|group| (weight(&group), group)).max_by_key(|(weight, _)| *weight);
        let (_, group) = largest?;
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
