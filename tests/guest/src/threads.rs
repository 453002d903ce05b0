//! Eight threads that share a counter, a queue and a barrier: `guest-threads` prints what they come to.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use std::thread;

const THREADS: u64 = 8;
const TURNS: u64 = 20_000;

/// All add to one number.
fn counter() -> u64 {
    let counter = Arc::new(Mutex::new(0));
    let add = |_| {
        let counter = counter.clone();
        thread::spawn(move || (0..TURNS).for_each(|_| *counter.lock().unwrap() += 1))
    };
    let threads: Vec<_> = (0..THREADS).map(add).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    Arc::into_inner(counter).unwrap().into_inner().unwrap()
}

/// Each waits for its turn, which the one before passes on.
fn in_turn() -> Vec<u64> {
    let state = Arc::new((Mutex::new((0, Vec::new())), Condvar::new()));
    let wait = |own: u64| {
        let state = state.clone();
        thread::spawn(move || {
            let (lock, turn) = &*state;
            for round in 0..50 {
                let mut guard = turn.wait_while(lock.lock().unwrap(), |(next, _)| *next != round * THREADS + own).unwrap();
                guard.0 += 1;
                guard.1.push(own);
                turn.notify_all();
            }
        })
    };
    let threads: Vec<_> = (0..THREADS).map(wait).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    Arc::into_inner(state).unwrap().0.into_inner().unwrap().1
}

/// Words counted by all, gathered by one.
fn words() -> BTreeMap<String, usize> {
    let (sender, receiver) = channel();
    let (barrier, shared) = (Arc::new(Barrier::new(THREADS as usize)), Arc::new(RwLock::new(0)));
    for own in 0..THREADS {
        let (sender, barrier, shared) = (sender.clone(), barrier.clone(), shared.clone());
        thread::spawn(move || {
            *shared.write().unwrap() += 1;
            barrier.wait();
            assert_eq!(*shared.read().unwrap(), THREADS);
            for word in "all work and no play makes all threads dull and dull".split(' ') {
                sender.send((own, word.to_owned())).unwrap();
            }
        });
    }
    drop(sender);
    receiver.into_iter().fold(BTreeMap::new(), |mut words, (_, word)| {
        *words.entry(word).or_default() += 1;
        words
    })
}

fn main() {
    println!("counter {}", counter());
    let order = in_turn();
    println!("in turn {} {}", order.len(), order.chunks(8).all(|round| round.is_sorted()));
    println!("words {:?}", words());
}
