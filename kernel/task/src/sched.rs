//! Scheduling attributes of tasks (sched(7)).
//!
//! They are kept, checked and inherited as Linux does. The host schedules: policies and nice values don't reach it.

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials};

use crate::current::Current;
use crate::group::Group;
use crate::tasks::Task;

/// Words of a set of CPUs.
const CPU_WORDS: usize = 16;

/// A set of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet([u64; CPU_WORDS]);

impl CpuSet {
    /// The first `count` CPUs.
    #[must_use]
    pub fn first(count: usize) -> Self {
        let word = |at: usize| match count.saturating_sub(at * 64) {
            rest @ 0..64 => (1 << rest) - 1,
            _ => u64::MAX,
        };
        Self(std::array::from_fn(word))
    }

    /// From bytes; those beyond are ignored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().map_or(0, u64::from);
        Self(std::array::from_fn(|word| (0..8).map(|i| byte(word * 8 + i) << (i * 8)).sum()))
    }

    /// Its first words, as bytes.
    #[must_use]
    pub fn to_bytes(&self, len: usize) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).take(len).collect()
    }

    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        both.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        both
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; CPU_WORDS]
    }

    /// The lowest CPU.
    #[must_use]
    pub fn lowest(&self) -> Option<u32> {
        let (at, word) = (0u32..).zip(&self.0).find(|(_, word)| **word != 0)?;
        Some(at * 64 + word.trailing_zeros())
    }
}

/// What a task's scheduling is set to.
#[derive(Clone, Copy, Debug)]
pub struct Scheduling {
    /// `SCHED_*`
    pub policy: i32,
    /// Of real-time policies: 1 to 99; 0 otherwise.
    pub priority: i32,
    /// -20 to 19.
    pub nice: i32,
    pub reset_on_fork: bool,
    /// `None`: all.
    pub affinity: Option<CpuSet>,
    /// ioprio_set(2): class, hint and level.
    pub ioprio: u16,
}

impl Default for Scheduling {
    fn default() -> Self {
        Self { policy: c::SCHED_OTHER, priority: 0, nice: 0, reset_on_fork: false, affinity: None, ioprio: 0 }
    }
}

impl Scheduling {
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        matches!(self.policy, c::SCHED_FIFO | c::SCHED_RR)
    }

    /// What a child starts with.
    #[must_use]
    pub fn for_child(&self) -> Self {
        if !self.reset_on_fork {
            return *self;
        }
        // Only what is better than usual is lost.
        let policy = if self.is_realtime() { c::SCHED_OTHER } else { self.policy };
        let nice = if self.is_realtime() { 0 } else { self.nice.max(0) };
        Self { policy, priority: 0, nice, reset_on_fork: false, ..*self }
    }
}

/// A task whose scheduling is looked at; one that has ended has none any more, but its owner.
pub struct Scheduled {
    pub task: Option<Arc<Task>>,
    pub group: Arc<Group>,
    pub credentials: Arc<Credentials>,
}

impl From<Arc<Task>> for Scheduled {
    fn from(task: Arc<Task>) -> Self {
        Self { group: task.group.clone(), credentials: task.credentials(), task: Some(task) }
    }
}

impl Scheduled {
    /// What it is set to.
    #[must_use]
    pub fn get(&self) -> Scheduling {
        self.task.as_ref().map(|task| task.lock().scheduling).unwrap_or_default()
    }

    /// Changes what it is set to.
    pub fn set(&self, change: impl FnOnce(&mut Scheduling)) {
        if let Some(task) = &self.task {
            change(&mut task.lock().scheduling);
        }
    }
}

impl Current {
    /// The task with a number, 0 for the caller; a process that nobody has waited for yet is there, too.
    ///
    /// # Errors
    /// `ESRCH`
    pub fn scheduled(&self, number: i32) -> SysResult<Scheduled> {
        if number == 0 {
            return Ok(self.task.clone().into());
        }
        if let Some(task) = self.find_task(number) {
            return Ok(task.into());
        }
        let group = self.find_process(number).ok_or(Errno::ESRCH)?;
        let credentials = group.credentials().ok_or(Errno::ESRCH)?;
        Ok(Scheduled { task: None, group, credentials })
    }

    /// Whether it may change others' scheduling beyond their limits.
    #[must_use]
    pub fn may_nice(&self, target: &Scheduled) -> bool {
        self.credentials().has_capability_in(&target.credentials.user_ns, Capability::SYS_NICE)
    }

    /// Whether it is the same user.
    #[must_use]
    pub fn owns(&self, target: &Scheduled) -> bool {
        [target.credentials.euid, target.credentials.ruid].contains(&self.credentials().euid)
    }

    /// Whether a nice value is within RLIMIT_NICE, or the caller is above it.
    #[must_use]
    pub fn can_nice(&self, target: &Scheduled, nice: i32) -> bool {
        let wanted = u64::try_from(20 - nice).unwrap_or(0);
        wanted <= target.group.limit(c::RLIMIT_NICE) || self.credentials().has_capability(Capability::SYS_NICE)
    }

    /// Whether the caller may give `target` this policy.
    ///
    /// # Errors
    /// `EPERM`
    pub fn may_schedule(&self, target: &Scheduled, new: &Scheduling) -> SysResult<()> {
        let old = target.get();
        let fair = |policy| matches!(policy, c::SCHED_OTHER | c::SCHED_BATCH);
        let limit = target.group.limit(c::RLIMIT_RTPRIO);
        let wanted = u64::try_from(new.priority).unwrap_or(0);
        let raises_realtime =
            new.is_realtime() && (new.policy != old.policy && limit == 0 || new.priority > old.priority && wanted > limit);
        let needs = fair(new.policy) && new.nice < old.nice && !self.can_nice(target, new.nice)
            || raises_realtime
            || old.policy == c::SCHED_IDLE && new.policy != c::SCHED_IDLE && !self.can_nice(target, old.nice)
            || !self.owns(target)
            || old.reset_on_fork && !new.reset_on_fork;
        if needs && !self.may_nice(target) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// The CPUs that there are.
    #[must_use]
    pub fn cpu_count(&self) -> usize {
        self.task.kernel.quota.cpus().clamp(1, CPU_WORDS * 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_cpus() {
        let three = CpuSet::first(3);
        assert_eq!((three.to_bytes(8), three.lowest()), (vec![7, 0, 0, 0, 0, 0, 0, 0], Some(0)));
        let high = CpuSet::from_bytes(&[0, 0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!((high.lowest(), high.and(&three).is_empty(), CpuSet::first(64).0[0]), (Some(66), true, u64::MAX));
    }

    #[test]
    fn children_start_anew_when_told_so() {
        let parent = Scheduling { policy: c::SCHED_FIFO, priority: 5, reset_on_fork: true, ..Scheduling::default() };
        let child = parent.for_child();
        assert_eq!((child.policy, child.priority, child.reset_on_fork), (c::SCHED_OTHER, 0, false));
        assert_eq!(Scheduling { nice: -5, reset_on_fork: true, ..Scheduling::default() }.for_child().nice, 0);
    }
}
