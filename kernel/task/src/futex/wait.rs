//! Waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};
use sync::{MonotonicNs, ParkResult};
use usermem::{FutexKey, UserMemory, UserMemoryExt};

use super::pi::PiWaiter;
use super::{IN_PI_TABLE, Kind, Waiter};
use crate::current::Current;

/// A futex as a program names it: its address, and whether only this address space uses it.
#[derive(Clone, Copy, Debug)]
pub struct FutexWord {
    pub addr: u64,
    pub private: bool,
}

/// One of the futexes that futex_waitv(2) waits for.
#[derive(Clone, Copy, Debug)]
pub struct Interest {
    pub word: FutexWord,
    pub value: u32,
}

impl Current {
    /// What a futex is known by.
    ///
    /// # Errors
    /// `EFAULT`
    pub fn futex_key(&self, word: FutexWord) -> SysResult<FutexKey> {
        self.mm.futex_key(word.addr, word.private)
    }

    /// Sleeps until `done`.
    ///
    /// # Errors
    /// `ETIMEDOUT`; `EINTR` when a signal comes first.
    pub(super) fn futex_sleep(&self, deadline: Option<MonotonicNs>, done: impl Fn() -> bool) -> SysResult<()> {
        self.task.sleeping.store(true, Ordering::Relaxed);
        let result = loop {
            if done() {
                break Ok(());
            }
            if self.task.signal_pending() {
                break Err(Errno::EINTR);
            }
            if self.task.parker.park(deadline) == ParkResult::TimedOut {
                break Err(Errno::ETIMEDOUT);
            }
        };
        self.task.sleeping.store(false, Ordering::Relaxed);
        result
    }

    /// What an interrupted wait comes to: with a deadline it is not started again after a handler.
    fn interrupted(errno: Errno, deadline: Option<MonotonicNs>) -> Errno {
        match (errno, deadline) {
            (Errno::EINTR, None) => Errno::ERESTARTSYS,
            (Errno::EINTR, Some(_)) => Errno::ERESTARTNOHAND,
            _ => errno,
        }
    }

    /// Waits while the word is `value`.
    ///
    /// # Errors
    /// `EAGAIN` when it isn't, `ETIMEDOUT`, `EFAULT`, `ERESTARTSYS`, `ERESTARTNOHAND`.
    pub fn futex_wait(&mut self, word: FutexWord, value: u32, bitset: u32, deadline: Option<MonotonicNs>) -> SysResult<()> {
        let key = self.futex_key(word)?;
        let (kernel, waiter) = (&self.task.kernel, &self.waiter);
        let check = || if self.mm.load_u32(word.addr)? == value { Ok(()) } else { Err(Errno::EAGAIN) };
        kernel.futexes.enqueue(key, bitset, Kind::Plain, waiter, check)?;
        match self.futex_sleep(deadline, || waiter.woken()) {
            Err(errno) if kernel.futexes.take_back(waiter).is_some() => Err(Self::interrupted(errno, deadline)),
            _ => Ok(()),
        }
    }

    /// futex_waitv(2): waits for any of several futexes; returns the index of the last that was woken.
    ///
    /// # Errors
    /// As [`Current::futex_wait`].
    pub fn futex_wait_any(&mut self, interests: &[Interest], deadline: Option<MonotonicNs>) -> SysResult<usize> {
        let kernel = &self.task.kernel;
        let mut waiters: Vec<Arc<Waiter>> = Vec::with_capacity(interests.len());
        let mut queued = Ok(());
        for Interest { word, value } in interests {
            let waiter = Waiter::new(self.task.parker.clone(), self.task.tid());
            let check = || if self.mm.load_u32(word.addr)? == *value { Ok(()) } else { Err(Errno::EAGAIN) };
            queued = self.futex_key(*word).and_then(|key| kernel.futexes.enqueue(key, u32::MAX, Kind::Plain, &waiter, check));
            if queued.is_err() {
                break;
            }
            waiters.push(waiter);
        }
        let slept = queued.and_then(|()| {
            let result = self.futex_sleep(deadline, || waiters.iter().any(|waiter| waiter.woken()));
            result.map_err(|errno| Self::interrupted(errno, deadline))
        });
        // All are taken back, and of those that were woken the last counts.
        let mut last = None;
        for (index, waiter) in waiters.iter().enumerate() {
            if kernel.futexes.take_back(waiter).is_none() {
                last = Some(index);
            }
        }
        match (last, slept) {
            (Some(index), _) => Ok(index),
            (None, Err(errno)) => Err(errno),
            (None, Ok(())) => Err(Errno::EAGAIN),
        }
    }

    /// FUTEX_WAIT_REQUEUE_PI: waits while the word is `value` to be moved to the lock `lock`, and then for that.
    ///
    /// # Errors
    /// `EAGAIN` when it isn't, or when a signal comes while it waits for the lock, `ETIMEDOUT`, `EINVAL` when both are the same, `EFAULT`,
    /// `ERESTARTNOINTR`.
    pub fn futex_wait_requeue_pi(
        &mut self,
        word: FutexWord,
        value: u32,
        bitset: u32,
        lock: FutexWord,
        deadline: Option<MonotonicNs>,
    ) -> SysResult<()> {
        let (key, target) = (self.futex_key(word)?, self.futex_key(lock)?);
        if key == target {
            return Err(Errno::EINVAL);
        }
        let (kernel, waiter) = (&self.task.kernel, &self.waiter);
        let check = || if self.mm.load_u32(word.addr)? == value { Ok(()) } else { Err(Errno::EAGAIN) };
        let later = PiWaiter { task: self.task.clone(), mm: self.mm.clone(), addr: lock.addr, waiter: waiter.clone() };
        kernel.futexes.enqueue(key, bitset, Kind::RequeuePi(target, Box::new(later)), waiter, check)?;
        let result = self.futex_sleep(deadline, || waiter.woken());
        let Err(errno) = result else { return Ok(()) };
        match kernel.futexes.take_back(waiter) {
            None => Ok(()),
            Some(_) if errno == Errno::ETIMEDOUT => Err(errno),
            // From here on starting again would wait on the first futex: the program has to find out.
            Some(IN_PI_TABLE) => Err(Errno::EAGAIN),
            Some(_) => Err(Errno::ERESTARTNOINTR),
        }
    }
}
