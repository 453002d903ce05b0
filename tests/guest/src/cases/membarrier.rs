//! membarrier(2).

use std::sync::atomic::{AtomicI64, Ordering::Relaxed, Ordering::SeqCst, compiler_fence};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "membarrier", calls: "membarrier", run: commands },
    Case { name: "membarrier-orders", calls: "membarrier", run: orders },
];

fn commands() {
    let query = sys!(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0);
    if query == Err(ENOSYS) {
        skip("the host has no membarrier");
    }
    let has = query.unwrap() as i32;
    assert_ne!(has & MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0);
    assert_eq!(sys!(SYS_membarrier, MEMBARRIER_CMD_QUERY, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_membarrier, 3, 0), Err(EINVAL));
    let status = in_child(|| {
        assert_eq!(sys!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0), Err(EPERM));
        assert_eq!(sys!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0), Err(EPERM));
        ok!(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0);
        ok!(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0);
        ok!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0);
        // Inherited by fork(2).
        in_child(|| ok!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0) as i32)
    });
    assert_eq!(status, 0);
    ok!(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0);
    ok!(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0);
    let (stop, count) = (AtomicI64::new(0), AtomicI64::new(0));
    std::thread::scope(|scope| {
        // One that computes, one that calls, one that sleeps.
        scope.spawn(|| {
            while stop.load(SeqCst) == 0 {
                count.fetch_add(1, Relaxed);
            }
        });
        scope.spawn(|| {
            while stop.load(SeqCst) == 0 {
                ok!(SYS_getppid);
            }
        });
        let pipe = new_pipe();
        scope.spawn(move || get(pipe[0], 1));
        for _ in 0..100 {
            ok!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0);
        }
        stop.store(1, SeqCst);
        put(pipe[1], b"x");
    });
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    ok!(SYS_getcpu, &mut cpu, &mut node, 0);
    assert!(cpu < 4096 && node < 4096);
}

/// Two threads that each write one word and then read the other's: without a barrier both may read what was there before.
fn orders() {
    if sys!(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0) == Err(ENOSYS) {
        skip("the host has no membarrier");
    }
    ok!(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0);
    let [turn, done, fast, slow, seen] = [const { AtomicI64::new(0) }; 5];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                while turn.load(SeqCst) < round {
                    std::hint::spin_loop();
                }
                if turn.load(SeqCst) == i64::MAX {
                    break;
                }
                slow.store(1, Relaxed);
                ok!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0);
                seen.store(fast.load(Relaxed), Relaxed);
                done.store(round, SeqCst);
            }
        });
        for round in 1..2000 {
            fast.store(0, Relaxed);
            slow.store(0, Relaxed);
            turn.store(round, SeqCst);
            fast.store(1, Relaxed);
            compiler_fence(SeqCst);
            let own = slow.load(Relaxed);
            while done.load(SeqCst) < round {
                std::hint::spin_loop();
            }
            assert!(own == 1 || seen.load(Relaxed) == 1, "round {round}");
        }
        turn.store(i64::MAX, SeqCst);
    });
}
