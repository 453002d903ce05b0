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
    Case { name: "futex-wake-op", calls: "futex", run: wake_op },
    Case { name: "futex-waitv", calls: "futex_waitv futex_wait futex_wake futex_requeue", run: waitv },
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

/// FUTEX_OP(3): what to do, with what, how to compare, with what.
fn op(op: i32, operand: i32, cmp: i32, limit: i32) -> i32 {
    op << 28 | cmp << 24 | (operand & 0xfff) << 12 | limit & 0xfff
}

fn wake_op() {
    static ONE: AtomicU32 = AtomicU32::new(0);
    static TWO: AtomicU32 = AtomicU32::new(0);
    let call = |code: i32| {
        let flag = FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG;
        sys!(SYS_futex, ONE.as_ptr(), flag, 9, 9, TWO.as_ptr(), code)
    };
    let threads: Vec<_> = waiters(&ONE, &[1]).into_iter().chain(waiters(&TWO, &[1, 1])).collect();
    assert_eq!(call(op(FUTEX_OP_ADD, -3, FUTEX_OP_CMP_GT, 0)), Ok(1));
    assert_eq!(TWO.load(SeqCst) as i32, -3);
    assert_eq!(call(op(FUTEX_OP_SET, 6, FUTEX_OP_CMP_LE, -3)), Ok(2));
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
    for (code, expected) in [
        (op(FUTEX_OP_OR, 1, FUTEX_OP_CMP_EQ, 6), 7),
        (op(FUTEX_OP_ANDN, 2, FUTEX_OP_CMP_NE, 6), 5),
        (op(FUTEX_OP_XOR, 4, FUTEX_OP_CMP_LT, 6), 1),
        (op(FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT, 4, FUTEX_OP_CMP_GE, 6), 17),
    ] {
        assert_eq!(call(code), Ok(0));
        assert_eq!(TWO.load(SeqCst), expected);
    }
    assert_eq!(call(op(6, 0, 0, 0)), Err(ENOSYS));
    assert_eq!(call(op(FUTEX_OP_SET, 0, 9, 0)), Err(ENOSYS));
    assert_eq!(sys!(SYS_futex, ONE.as_ptr(), FUTEX_WAKE_OP, 1, 1, 4096, 0), Err(EFAULT));
}

/// `struct futex_waitv`
#[repr(C)]
struct Waitv {
    val: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

fn waitv() {
    const FUTEX_WAKE2: i64 = 454;
    const FUTEX_WAIT2: i64 = 455;
    const FUTEX_REQUEUE2: i64 = 456;
    static WORDS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
    let list = |value: u64| [0, 1, 2].map(|i| Waitv { val: value, addr: WORDS[i].as_ptr() as u64, flags: 2 | 128, reserved: 0 });
    if sys!(SYS_futex_waitv, 0, 0, 0, 0, 0) == Err(ENOSYS) {
        skip("no futex_waitv");
    }
    assert_eq!(sys!(SYS_futex_waitv, &mut list(1), 3, 0, 0, 0), Err(EAGAIN));
    assert_eq!(sys!(SYS_futex_waitv, &mut list(0), 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_futex_waitv, &mut list(0), 129, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_futex_waitv, &mut list(0), 3, 1, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_futex_waitv, &mut list(1 << 32), 3, 0, 0, 0), Err(EINVAL));
    let soon = |clock| {
        let mut ts = ns(0);
        unsafe { clock_gettime(clock, &mut ts) };
        ns(ts.tv_sec * 1_000_000_000 + ts.tv_nsec + 20_000_000)
    };
    assert_eq!(sys!(SYS_futex_waitv, &mut list(0), 3, 0, &mut soon(CLOCK_MONOTONIC), CLOCK_MONOTONIC), Err(ETIMEDOUT));
    assert_eq!(sys!(SYS_futex_waitv, &mut list(0), 3, 0, &mut soon(CLOCK_REALTIME), CLOCK_REALTIME), Err(ETIMEDOUT));
    assert_eq!(sys!(SYS_futex_waitv, &mut list(0), 3, 0, &mut soon(CLOCK_BOOTTIME), CLOCK_BOOTTIME), Err(EINVAL));
    let thread = std::thread::spawn(move || sys!(SYS_futex_waitv, &mut list(0), 3, 0, 0, 0));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(ok!(SYS_futex, WORDS[1].as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1), 1);
    assert_eq!(thread.join().unwrap(), Ok(1));
    assert_eq!(ok!(SYS_futex, WORDS[0].as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1), 0, "nothing is left behind");
    if sys!(FUTEX_WAKE2, WORDS[0].as_ptr(), 1, 0, 2) == Err(ENOSYS) {
        skip("no futex2");
    }
    let flags = 2 | 128;
    let all = u32::MAX as u64;
    assert_eq!(sys!(FUTEX_WAIT2, WORDS[0].as_ptr(), 1, all, flags, 0, 0), Err(EAGAIN));
    assert_eq!(sys!(FUTEX_WAIT2, WORDS[0].as_ptr(), 0, 0, flags, 0, 0), Err(EINVAL));
    let ts = &mut soon(CLOCK_MONOTONIC);
    assert_eq!(sys!(FUTEX_WAIT2, WORDS[0].as_ptr(), 0, all, flags, ts, CLOCK_MONOTONIC), Err(ETIMEDOUT));
    let wait = move || sys!(FUTEX_WAIT2, WORDS[0].as_ptr(), 0, u32::MAX as u64, 2 | 128, 0, 0);
    let threads = [std::thread::spawn(wait), std::thread::spawn(wait), std::thread::spawn(wait)];
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(sys!(FUTEX_WAKE2, WORDS[0].as_ptr(), all, 0, flags), Ok(0));
    assert_eq!(sys!(FUTEX_REQUEUE2, &mut list(1), 0, 1, 1), Err(EAGAIN));
    assert_eq!(sys!(FUTEX_REQUEUE2, &mut list(0), 0, 1, 1), Ok(2));
    assert_eq!(sys!(FUTEX_WAKE2, WORDS[1].as_ptr(), all, 9, flags), Ok(1));
    assert_eq!(sys!(FUTEX_WAKE2, WORDS[0].as_ptr(), all, 9, flags), Ok(1));
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
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
