//! Process numbers, and namespaces of them (pid_namespaces(7)).
//!
//! The kernel knows tasks by their numbers in the first namespace. What a guest says is translated by [`PidNamespace::global`], what it is
//! told by [`PidNamespace::local`]; in the first namespace both are the identity.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use auth::{UserNamespace, new_inum};
use sync::{Mutex, WaitQueue};

/// Highest number (kernel.pid_max).
const PID_MAX: i32 = 4_194_304;
/// Where numbers start again: those below are the services' of a booted system.
const RESERVED: i32 = 300;
/// Namespaces within each other at most (`MAX_PID_NS_LEVEL`).
const MAX_LEVEL: usize = 32;
/// `PROC_PID_INIT_INO`
const FIRST_INUM: u64 = 0xefff_fffc;

/// A number of a task, process group or session, taken as long as one of them lives: one in each namespace that sees it.
pub struct Pid {
    /// Outermost first, never empty.
    numbers: Vec<(Arc<PidNamespace>, i32)>,
    inner: Arc<PidNamespace>,
}

impl Pid {
    /// The number in the first namespace.
    #[must_use]
    pub fn global(&self) -> i32 {
        self.numbers.first().map_or(0, |(_, number)| *number)
    }

    /// The number in a namespace; 0 where it isn't seen.
    #[must_use]
    pub fn number_in(&self, ns: &PidNamespace) -> i32 {
        let here = self.numbers.get(ns.level());
        here.filter(|(at, _)| std::ptr::eq(&raw const **at, ns)).map_or(0, |(_, number)| *number)
    }

    /// The numbers in all namespaces from `ns` inwards (`NSpid` of /proc/pid/status).
    pub fn numbers_from(&self, ns: &PidNamespace) -> impl Iterator<Item = i32> {
        self.numbers.iter().skip(ns.level()).map(|(_, number)| *number)
    }

    /// The innermost namespace, which the task is in.
    #[must_use]
    pub fn namespace(&self) -> &Arc<PidNamespace> {
        &self.inner
    }
}

impl Drop for Pid {
    fn drop(&mut self) {
        for (ns, number) in &self.numbers {
            let mut state = ns.state.lock();
            state.numbers.remove(number);
            // The first process could not be made: the next is the first.
            if state.numbers.is_empty() {
                state.last = 0;
            }
        }
    }
}

#[derive(Default)]
struct State {
    numbers: BTreeMap<i32, Weak<Pid>>,
    last: i32,
    /// Its first process has ended: nothing can be born here any more.
    dead: bool,
}

impl State {
    /// A free number, or `wanted` if that is free.
    fn take(&mut self, wanted: Option<i32>) -> SysResult<i32> {
        // Before there is a first process, there is nothing else; after it, nothing new.
        if self.dead || wanted.is_some_and(|number| number != 1) && self.last == 0 && self.numbers.is_empty() {
            return Err(if self.dead { Errno::ENOMEM } else { Errno::EINVAL });
        }
        let number = match wanted {
            Some(number) if self.numbers.contains_key(&number) => return Err(Errno::EEXIST),
            Some(number) => number,
            None => {
                let mut number = self.last;
                loop {
                    number = if number >= PID_MAX - 1 { RESERVED } else { number + 1 };
                    if !self.numbers.contains_key(&number) {
                        break;
                    }
                    if number == self.last {
                        return Err(Errno::EAGAIN);
                    }
                }
                self.last = number;
                number
            }
        };
        // The owner comes when all namespaces have given one.
        self.numbers.insert(number, Weak::new());
        Ok(number)
    }
}

/// A namespace of process numbers.
pub struct PidNamespace {
    pub ino: u64,
    pub user_ns: Arc<UserNamespace>,
    /// Outermost first, without this one.
    ancestors: Vec<Arc<Self>>,
    state: Mutex<State>,
    /// Woken when a process of it is forgotten.
    pub(crate) queue: WaitQueue,
}

impl PidNamespace {
    /// The first.
    #[must_use]
    pub fn initial(user_ns: Arc<UserNamespace>) -> Arc<Self> {
        Arc::new(Self { ino: FIRST_INUM, user_ns, ancestors: Vec::new(), state: Mutex::default(), queue: WaitQueue::default() })
    }

    /// One inside of this.
    ///
    /// # Errors
    /// `ENOSPC` when there are too many within each other.
    pub fn child(self: &Arc<Self>, user_ns: Arc<UserNamespace>) -> SysResult<Arc<Self>> {
        if self.ancestors.len() >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let ancestors = self.ancestors.iter().chain([self]).cloned().collect();
        Ok(Arc::new(Self { ino: new_inum(), user_ns, ancestors, state: Mutex::default(), queue: WaitQueue::default() }))
    }

    /// How many namespaces it is in: 0 for the first.
    #[must_use]
    pub fn level(&self) -> usize {
        self.ancestors.len()
    }

    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.ancestors.last()
    }

    /// This one and those around it, inmost first.
    pub fn outwards(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        [self].into_iter().chain(self.ancestors.iter().rev())
    }

    /// Whether this is `other` or an ancestor of it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || other.ancestors.get(self.level()).is_some_and(|ancestor| std::ptr::eq(self, &raw const **ancestor))
    }

    /// Takes a number here and in all namespaces around. `wanted`: certain ones, innermost first (clone3(2), `set_tid`).
    ///
    /// # Errors
    /// `EEXIST` when a wanted number is taken; `EINVAL` when the first one here is to be another than 1; `ENOMEM` when the first process
    /// here has ended; `EAGAIN` when all are taken.
    pub fn new_pid(self: &Arc<Self>, wanted: &[i32]) -> SysResult<Arc<Pid>> {
        let mut numbers = Vec::with_capacity(self.level() + 1);
        let mut wanted = wanted.iter();
        for ns in self.outwards() {
            let number = ns.state.lock().take(wanted.next().copied());
            match number {
                Ok(number) => numbers.push((ns.clone(), number)),
                Err(errno) => {
                    // Gives back what has been taken.
                    drop(Pid { numbers, inner: self.clone() });
                    return Err(errno);
                }
            }
        }
        numbers.reverse();
        let pid = Arc::new(Pid { numbers, inner: self.clone() });
        for (ns, number) in &pid.numbers {
            ns.state.lock().numbers.insert(*number, Arc::downgrade(&pid));
        }
        Ok(pid)
    }

    /// What is called so here.
    #[must_use]
    pub fn find(&self, number: i32) -> Option<Arc<Pid>> {
        self.state.lock().numbers.get(&number)?.upgrade()
    }

    /// The number in the first namespace of what is called `number` here.
    #[must_use]
    pub fn global(&self, number: i32) -> Option<i32> {
        if self.ancestors.is_empty() { Some(number) } else { self.find(number).map(|pid| pid.global()) }
    }

    /// What is called `global` in the first namespace, as it is called here; 0 where it isn't seen.
    #[must_use]
    pub fn local(&self, global: i32) -> i32 {
        let Some(first) = self.ancestors.first().filter(|_| global > 0) else { return global };
        first.find(global).map_or(0, |pid| pid.number_in(self))
    }

    /// The process that gets orphans here, by its number in the first namespace.
    #[must_use]
    pub fn init(&self) -> Option<i32> {
        self.global(1)
    }

    /// Its first process ends: nothing can be born here any more. Returns the others, by their numbers in the first namespace.
    pub(crate) fn end(&self) -> Vec<i32> {
        let mut state = self.state.lock();
        state.dead = true;
        // Not dropped under the lock, which the last owner's drop takes.
        let others: Vec<_> =
            state.numbers.iter().filter(|(number, _)| **number != 1).filter_map(|(_, pid)| pid.upgrade()).collect();
        drop(state);
        others.iter().map(|pid| pid.global()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_by_namespace() {
        let user_ns = UserNamespace::initial();
        let first = PidNamespace::initial(user_ns.clone());
        let outer = first.new_pid(&[]).unwrap();
        let inner_ns = first.child(user_ns).unwrap();
        let inner = inner_ns.new_pid(&[]).unwrap();
        assert_eq!((inner.global(), inner.number_in(&inner_ns), inner.number_in(&first)), (2, 1, 2));
        assert_eq!((outer.number_in(&inner_ns), inner_ns.global(1), inner_ns.local(1), inner_ns.local(2)), (0, Some(2), 0, 1));
        assert!(first.holds(&inner_ns) && !inner_ns.holds(&first) && first.holds(&first));
        assert_eq!(inner.numbers_from(&first).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn numbers_are_free_again_when_nobody_has_them() {
        let first = PidNamespace::initial(UserNamespace::initial());
        let init = first.new_pid(&[]).unwrap();
        let other = first.new_pid(&[77]).unwrap();
        assert_eq!((other.global(), first.new_pid(&[77]).err()), (77, Some(Errno::EEXIST)));
        drop(other);
        assert!(first.find(77).is_none() && first.new_pid(&[77]).is_ok());
        assert_eq!(first.end(), []);
        assert_eq!((init.global(), first.new_pid(&[]).err()), (1, Some(Errno::ENOMEM)));
    }

    #[test]
    fn a_failure_takes_no_number() {
        let first = PidNamespace::initial(UserNamespace::initial());
        let init = first.new_pid(&[]).unwrap();
        let inner = first.child(UserNamespace::initial()).unwrap();
        assert_eq!(inner.new_pid(&[5]).err(), Some(Errno::EINVAL));
        assert_eq!(inner.new_pid(&[1, 1]).err(), Some(Errno::EEXIST));
        assert!(inner.find(1).is_none() && inner.new_pid(&[1, 9]).is_ok());
        drop(init);
    }
}
