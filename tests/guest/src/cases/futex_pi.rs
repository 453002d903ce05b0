//! Locks that know their owner, and what becomes of locks whose owner ends.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "futex-pi", calls: "futex", run: lock },
    Case { name: "futex-pi-owner-dies", calls: "futex", run: owner_dies },
    Case { name: "futex-pi-deadlock", calls: "futex", run: deadlock },
    Case { name: "futex-requeue-pi", calls: "futex", run: requeue },
    Case { name: "robust-mutex", calls: "set_robust_list get_robust_list", run: robust },
    Case { name: "robust-list-ends", calls: "set_robust_list", run: list_ends },
];

const PRIVATE: i32 = FUTEX_PRIVATE_FLAG;
const LOCK_PI2: i32 = 13;

fn tid() -> u32 {
    ok!(SYS_gettid) as u32
}

fn pi(word: &AtomicU32, op: i32) -> Result<i64, i32> {
    sys!(SYS_futex, word.as_ptr(), op | PRIVATE, 0, 0)
}

fn nap() {
    std::thread::sleep(std::time::Duration::from_millis(30));
}

fn lock() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    assert_eq!(pi(&WORD, FUTEX_UNLOCK_PI), Err(EPERM));
    assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Ok(0));
    assert_eq!(WORD.load(SeqCst), tid());
    assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Err(EDEADLK));
    assert_eq!(pi(&WORD, FUTEX_TRYLOCK_PI), Err(EDEADLK));
    let other = std::thread::spawn(|| {
        assert_eq!(pi(&WORD, FUTEX_TRYLOCK_PI), Err(EAGAIN));
        assert_eq!(pi(&WORD, FUTEX_UNLOCK_PI), Err(EPERM));
        let mut past = ns(1);
        assert_eq!(sys!(SYS_futex, WORD.as_ptr(), FUTEX_LOCK_PI | PRIVATE, 0, &mut past), Err(ETIMEDOUT));
        let mut soon = ns(now() as i64 + 10_000_000);
        assert_eq!(sys!(SYS_futex, WORD.as_ptr(), LOCK_PI2 | PRIVATE, 0, &mut soon), Err(ETIMEDOUT));
        assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Ok(0));
        assert_eq!(WORD.load(SeqCst) & FUTEX_TID_MASK, tid());
        assert_eq!(pi(&WORD, FUTEX_UNLOCK_PI), Ok(0));
    });
    while WORD.load(SeqCst) & FUTEX_WAITERS == 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(sys!(SYS_futex, WORD.as_ptr(), FUTEX_WAKE | PRIVATE, 1), Err(EINVAL), "who waits for a lock can't be woken");
    assert_eq!(pi(&WORD, FUTEX_UNLOCK_PI), Ok(0));
    other.join().unwrap();
    assert_eq!(WORD.load(SeqCst), 0);
    // Nobody's number.
    WORD.store(0x3fff_0000, SeqCst);
    assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Err(ESRCH));
    // All of them, for the count.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    WORD.store(0, SeqCst);
    let run = || {
        for _ in 0..100 {
            if WORD.compare_exchange(0, tid(), SeqCst, SeqCst).is_err() {
                assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Ok(0));
            }
            let seen = COUNT.load(SeqCst);
            std::thread::yield_now();
            COUNT.store(seen + 1, SeqCst);
            if WORD.compare_exchange(tid(), 0, SeqCst, SeqCst).is_err() {
                assert_eq!(pi(&WORD, FUTEX_UNLOCK_PI), Ok(0));
            }
        }
    };
    let threads = [std::thread::spawn(run), std::thread::spawn(run), std::thread::spawn(run)];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((COUNT.load(SeqCst), WORD.load(SeqCst)), (300, 0));
}

fn owner_dies() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let owner = std::thread::spawn(|| {
        assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Ok(0));
        while WORD.load(SeqCst) & FUTEX_WAITERS == 0 {
            std::thread::yield_now();
        }
        nap();
    });
    while WORD.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Ok(0));
    owner.join().unwrap();
    assert_eq!(WORD.load(SeqCst) & (FUTEX_TID_MASK | FUTEX_OWNER_DIED), tid() | FUTEX_OWNER_DIED);
    assert_eq!(pi(&WORD, FUTEX_UNLOCK_PI), Ok(0));
    // Without waiters nobody hears of it.
    WORD.store(0, SeqCst);
    std::thread::spawn(|| assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Ok(0))).join().unwrap();
    nap();
    assert_eq!(pi(&WORD, FUTEX_LOCK_PI), Err(ESRCH));
}

fn deadlock() {
    static A: AtomicU32 = AtomicU32::new(0);
    static B: AtomicU32 = AtomicU32::new(0);
    assert_eq!(pi(&A, FUTEX_LOCK_PI), Ok(0));
    let other = std::thread::spawn(|| {
        assert_eq!(pi(&B, FUTEX_LOCK_PI), Ok(0));
        assert_eq!(pi(&A, FUTEX_LOCK_PI), Ok(0));
        assert_eq!(pi(&A, FUTEX_UNLOCK_PI), Ok(0));
        assert_eq!(pi(&B, FUTEX_UNLOCK_PI), Ok(0));
    });
    while A.load(SeqCst) & FUTEX_WAITERS == 0 {
        std::thread::yield_now();
    }
    nap();
    assert_eq!(pi(&B, FUTEX_LOCK_PI), Err(EDEADLK));
    assert_eq!(pi(&A, FUTEX_UNLOCK_PI), Ok(0));
    other.join().unwrap();
}

fn requeue() {
    static COND: AtomicU32 = AtomicU32::new(0);
    static LOCK: AtomicU32 = AtomicU32::new(0);
    let wait = || {
        let op = FUTEX_WAIT_REQUEUE_PI | PRIVATE;
        let result = sys!(SYS_futex, COND.as_ptr(), op, 0, 0, LOCK.as_ptr(), 0);
        assert_eq!(LOCK.load(SeqCst) & FUTEX_TID_MASK, tid());
        assert_eq!(pi(&LOCK, FUTEX_UNLOCK_PI), Ok(0));
        result
    };
    let op = FUTEX_WAIT_REQUEUE_PI | PRIVATE;
    assert_eq!(sys!(SYS_futex, COND.as_ptr(), op, 1, 0, LOCK.as_ptr(), 0), Err(EAGAIN));
    assert_eq!(sys!(SYS_futex, COND.as_ptr(), op, 0, &mut ns(now() as i64 + 10_000_000), LOCK.as_ptr(), 0), Err(ETIMEDOUT));
    assert_eq!(sys!(SYS_futex, COND.as_ptr(), op, 0, 0, COND.as_ptr(), 0), Err(EINVAL));
    let threads = [std::thread::spawn(wait), std::thread::spawn(wait), std::thread::spawn(wait)];
    nap();
    nap();
    let requeue = |one: i32, more: i32, value: i32| {
        sys!(SYS_futex, COND.as_ptr(), FUTEX_CMP_REQUEUE_PI | PRIVATE, one, more, LOCK.as_ptr(), value)
    };
    assert_eq!(sys!(SYS_futex, COND.as_ptr(), FUTEX_WAKE | PRIVATE, 1), Err(EINVAL));
    assert_eq!(requeue(1, 9, 7), Err(EAGAIN));
    assert_eq!(requeue(2, 9, 0), Err(EINVAL));
    assert_eq!(pi(&LOCK, FUTEX_LOCK_PI), Ok(0));
    assert_eq!(requeue(1, 0, 0), Ok(1));
    assert_eq!(requeue(1, 9, 0), Ok(2));
    assert_eq!(pi(&LOCK, FUTEX_UNLOCK_PI), Ok(0));
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
    assert_eq!(requeue(1, 9, 0), Ok(0));
    assert_eq!(LOCK.load(SeqCst), 0);
    // The lock is free: the first has it at once.
    let threads = [std::thread::spawn(wait), std::thread::spawn(wait)];
    nap();
    nap();
    assert_eq!(requeue(1, 9, 0), Ok(2));
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(0)));
}

/// A robust mutex in memory that parent and child share.
fn robust() {
    let place = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED).cast::<pthread_mutex_t>();
    for protocol in [PTHREAD_PRIO_NONE, PTHREAD_PRIO_INHERIT] {
        unsafe {
            let mut attr: pthread_mutexattr_t = std::mem::zeroed();
            pthread_mutexattr_init(&mut attr);
            pthread_mutexattr_setrobust(&mut attr, PTHREAD_MUTEX_ROBUST);
            pthread_mutexattr_setpshared(&mut attr, PTHREAD_PROCESS_SHARED);
            pthread_mutexattr_setprotocol(&mut attr, protocol);
            assert_eq!(pthread_mutex_init(place, &attr), 0);
        }
        let (ends, goes) = (new_pipe(), new_pipe());
        let pid = spawn(|| {
            assert_eq!(unsafe { pthread_mutex_lock(place) }, 0);
            put(ends[1], b"x");
            get(goes[0], 1);
            0
        });
        get(ends[0], 1);
        assert_eq!(unsafe { pthread_mutex_trylock(place) }, EBUSY);
        put(goes[1], b"x");
        // Waits, most likely, before the owner ends.
        unsafe {
            assert_eq!(pthread_mutex_lock(place), EOWNERDEAD);
            assert_eq!(pthread_mutex_consistent(place), 0);
            assert_eq!(pthread_mutex_unlock(place), 0);
            assert_eq!(pthread_mutex_lock(place), 0);
            assert_eq!(pthread_mutex_unlock(place), 0);
        }
        assert_eq!(reap(pid), 0);
        // execve(2) ends the program that held it as well.
        let pid = spawn(|| {
            assert_eq!(unsafe { pthread_mutex_lock(place) }, 0);
            let path = c"/proc/self/exe";
            let argv = [path.as_ptr(), c"--list".as_ptr(), std::ptr::null()];
            unsafe { dup2(ok!(SYS_openat, AT_FDCWD, c"/dev/null", O_WRONLY) as i32, 1) };
            let _ = sys!(SYS_execve, path, argv.as_ptr(), [std::ptr::null::<u8>()].as_ptr());
            1
        });
        assert_eq!(reap(pid), 0);
        assert_eq!(unsafe { pthread_mutex_lock(place) }, EOWNERDEAD);
    }
    let (mut head, mut len) = (0u64, 0u64);
    ok!(SYS_get_robust_list, 0, &mut head, &mut len);
    assert_eq!(len, 24);
    let (mut same, own) = (0u64, tid());
    ok!(SYS_get_robust_list, own, &mut same, &mut len);
    assert_eq!(same, head);
    let mut other = 0u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ok!(SYS_get_robust_list, own, &mut other, &mut 0u64);
        });
    });
    assert_eq!(other, head);
    assert_eq!(sys!(SYS_get_robust_list, 0x3fff_0000, &mut head, &mut len), Err(ESRCH));
    assert_eq!(sys!(SYS_get_robust_list, 0, 0, &mut len), Err(EFAULT));
}

/// Lists that go in circles or nowhere end; what stands on them before is marked.
fn list_ends() {
    let words = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED).cast::<u64>();
    // Entry: next, word. The head's second word is the distance between both.
    let entry = |i: usize| unsafe { words.add(i * 2) };
    for last in [0, 8, 0x10] {
        unsafe { words.write_bytes(0, 512) };
        let status = in_child(|| {
            let mut head = [entry(0) as u64, 8, entry(2) as u64];
            unsafe {
                entry(0).write(entry(1) as u64);
                entry(1).write(if last == 0x10 { entry(0) as u64 } else { last });
                for i in 0..3 {
                    entry(i).add(1).write(u64::from(tid()) | u64::from(FUTEX_WAITERS));
                }
            }
            ok!(SYS_set_robust_list, &mut head, 24);
            ok!(SYS_exit, 0) as i32
        });
        assert_eq!(status, 0);
        let marked = |i: usize| unsafe { entry(i).add(1).read() as u32 == FUTEX_WAITERS | FUTEX_OWNER_DIED };
        // What was about to be taken comes after the list, if that ends well.
        assert_eq!([marked(0), marked(1), marked(2)], [true, true, last == 0x10], "{last}");
    }
}
