//! futex(2).

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "futex-values", calls: "futex", run: values },
    Case { name: "futex-wakes", calls: "futex", run: wakes },
    Case { name: "futex-bitset", calls: "futex", run: bitset },
    Case { name: "futex-requeue", calls: "futex", run: requeue },
    Case { name: "futex-shared", calls: "futex", run: shared },
    Case { name: "robust-list", calls: "set_robust_list set_tid_address", run: lists },
    Case { name: "mutexes", calls: "futex clone3", run: mutexes },
];

fn values() {
    let word = AtomicU32::new(5);
    assert_eq!(sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT, 4, 0), Err(EAGAIN));
    let start = now();
    assert_eq!(sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 5, &mut ns(20_000_000)), Err(ETIMEDOUT));
    assert!(now() - start >= 20_000_000);
    assert_eq!(sys!(SYS_futex, word.as_ptr(), FUTEX_WAKE, 1), Ok(0));
    assert_eq!(sys!(SYS_futex, word.as_ptr() as u64 + 1, FUTEX_WAIT, 5, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_futex, 0, FUTEX_WAIT, 5, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT, 5, &mut timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }), Err(EINVAL));
    assert_eq!(sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT, 5, &mut timespec { tv_sec: -1, tv_nsec: 0 }), Err(EINVAL));
    assert_eq!(sys!(SYS_futex, word.as_ptr(), 77, 5, 0), Err(ENOSYS));
    let mut past = ns(1);
    assert_eq!(sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT_BITSET, 5, &mut past, 0, u32::MAX), Err(ETIMEDOUT));
    assert_eq!(
        sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 5, &mut past, 0, u32::MAX),
        Err(ETIMEDOUT)
    );
    assert_eq!(sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT_BITSET, 5, 0, 0, 0), Err(EINVAL));
}

/// Starts threads that wait on `word` with a bit set each; returns when all wait.
fn waiters(word: &'static AtomicU32, bits: &[u32]) -> Vec<std::thread::JoinHandle<Result<i64, i32>>> {
    let threads = bits
        .iter()
        .map(|bits| {
            let bits = *bits;
            std::thread::spawn(move || sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, 0, 0, bits))
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(50));
    threads
}

fn wakes() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let threads = waiters(&WORD, &[1, 1, 1]);
    assert_eq!(ok!(SYS_futex, WORD.as_ptr(), FUTEX_WAKE, 1), 0, "private and shared futexes are different ones");
    assert_eq!(ok!(SYS_futex, WORD.as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 2), 2);
    assert_eq!(ok!(SYS_futex, WORD.as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, i32::MAX), 1);
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
}

fn bitset() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let threads = waiters(&WORD, &[1, 2, 4]);
    let wake = |bits: u32| ok!(SYS_futex, WORD.as_ptr(), FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, i32::MAX, 0, 0, bits);
    assert_eq!((wake(8), wake(2), wake(2), wake(5)), (0, 1, 0, 2));
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
}

fn requeue() {
    static ONE: AtomicU32 = AtomicU32::new(0);
    static TWO: AtomicU32 = AtomicU32::new(0);
    let threads = waiters(&ONE, &[1, 1, 1]);
    assert_eq!(sys!(SYS_futex, ONE.as_ptr(), FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, 1, TWO.as_ptr(), 9), Err(EAGAIN));
    assert_eq!(sys!(SYS_futex, ONE.as_ptr(), FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, 1, TWO.as_ptr(), 0), Ok(2));
    assert_eq!(ok!(SYS_futex, TWO.as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 9), 1);
    assert_eq!(ok!(SYS_futex, ONE.as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 9), 1);
    assert_eq!(ok!(SYS_futex, ONE.as_ptr(), FUTEX_REQUEUE | FUTEX_PRIVATE_FLAG, 1, 1, TWO.as_ptr()), 0);
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
}

fn shared() {
    let page = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED);
    let word = unsafe { &*page.cast::<AtomicU32>() };
    let pid = spawn(|| {
        while word.load(SeqCst) == 0 {
            let _ = sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT, 0, 0);
        }
        word.store(2, SeqCst);
        ok!(SYS_futex, word.as_ptr(), FUTEX_WAKE, 1);
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(20));
    word.store(1, SeqCst);
    ok!(SYS_futex, word.as_ptr(), FUTEX_WAKE, 1);
    while word.load(SeqCst) == 1 {
        let _ = sys!(SYS_futex, word.as_ptr(), FUTEX_WAIT, 1, 0);
    }
    assert_eq!(reap(pid), 0);
}

fn lists() {
    let mut head = [0u64; 3];
    assert_eq!(sys!(SYS_set_robust_list, &mut head, 23), Err(EINVAL));
    let mut tid = 0i32;
    let status = in_child(|| {
        ok!(SYS_set_robust_list, &mut [0u64; 3], 24);
        i32::from(ok!(SYS_set_tid_address, &mut tid) as i32 != unsafe { getpid() })
    });
    assert_eq!(status, 0);
}

fn mutexes() {
    use std::sync::{Arc, Barrier, Condvar, Mutex};
    let shared = Arc::new((Mutex::new(0), Condvar::new(), Barrier::new(8)));
    let threads: Vec<_> = (0..8)
        .map(|turn| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                shared.2.wait();
                for round in 0..200 {
                    let mut count = shared.0.lock().unwrap();
                    while *count != round * 8 + turn {
                        count = shared.1.wait(count).unwrap();
                    }
                    *count += 1;
                    shared.1.notify_all();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*shared.0.lock().unwrap(), 1600);
}
