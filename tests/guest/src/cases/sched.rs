//! Scheduling attributes and resource limits.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case {
        name: "scheduler",
        calls: "sched_setscheduler sched_getscheduler sched_setparam sched_getparam sched_get_priority_max sched_get_priority_min \
                sched_rr_get_interval sched_setattr sched_getattr",
        run: scheduler,
    },
    Case { name: "affinity", calls: "sched_setaffinity sched_getaffinity", run: affinity },
    Case { name: "priority", calls: "getpriority setpriority ioprio_get ioprio_set", run: priority },
    Case { name: "limits", calls: "getrlimit setrlimit prlimit64", run: limits },
    Case { name: "limit-of-processes", calls: "prlimit64 clone execve", run: processes },
];

fn scheduler() {
    assert_eq!((ok!(SYS_sched_getscheduler, 0), ok!(SYS_sched_get_priority_max, SCHED_FIFO)), (0, 99));
    assert_eq!((ok!(SYS_sched_get_priority_min, SCHED_RR), ok!(SYS_sched_get_priority_max, SCHED_OTHER)), (1, 0));
    assert_eq!(sys!(SYS_sched_get_priority_max, 99), Err(EINVAL));
    let mut param = 7;
    ok!(SYS_sched_getparam, 0, &mut param);
    assert_eq!(param, 0);
    assert_eq!(sys!(SYS_sched_getscheduler, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_getscheduler, 99_999_999), Err(ESRCH));
    assert_eq!(sys!(SYS_sched_setscheduler, 0, SCHED_OTHER, [5i32].as_ptr()), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_setparam, 0, 0), Err(EINVAL));
    let mut slice = ns(1);
    ok!(SYS_sched_rr_get_interval, 0, &mut slice);
    ok!(SYS_sched_setscheduler, 0, SCHED_BATCH | SCHED_RESET_ON_FORK, [0i32].as_ptr());
    assert_eq!(ok!(SYS_sched_getscheduler, 0), (SCHED_BATCH | SCHED_RESET_ON_FORK).into());
    assert_eq!(in_child(|| ok!(SYS_sched_getscheduler, 0) as i32), exited(SCHED_BATCH));
    // size, policy, flags, nice and priority, times, hints
    let mut attr = [56 | (SCHED_BATCH as u64) << 32, 1, 5, 0, 0, 0, 0];
    ok!(SYS_sched_setattr, 0, &mut attr, 0);
    attr = [0; 7];
    ok!(SYS_sched_getattr, 0, &mut attr, 48, 0);
    assert_eq!(attr[..3], [48 | (SCHED_BATCH as u64) << 32, 1, 5]);
    assert_eq!(sys!(SYS_sched_getattr, 0, &mut attr, 47, 0), Err(EINVAL));
    attr[0] = 7;
    assert_eq!(sys!(SYS_sched_setattr, 0, &mut attr, 0), Err(E2BIG));
    assert!(attr[0] as u32 >= 56);
}

fn affinity() {
    let mut before = [0u8; 128];
    let len = ok!(SYS_sched_getaffinity, 0, 128, &mut before);
    assert!(len % 8 == 0 && len > 0 && before.iter().any(|byte| *byte != 0));
    assert_eq!(sys!(SYS_sched_getaffinity, 0, len - 1, &mut before), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_getaffinity, 99_999_999, 128, &mut before), Err(ESRCH));
    assert_eq!(sys!(SYS_sched_setaffinity, 0, 128, &mut [0u8; 128]), Err(EINVAL));
    let mut one = [0u8; 128];
    let at = before.iter().position(|byte| *byte != 0).unwrap();
    one[at] = 1 << before[at].trailing_zeros();
    ok!(SYS_sched_setaffinity, 0, 128, &mut one);
    let mut now = [0u8; 128];
    // Children have it, too.
    assert_eq!(
        in_child(|| {
            ok!(SYS_sched_getaffinity, 0, 128, &mut now);
            i32::from(now != one)
        }),
        0
    );
    ok!(SYS_sched_setaffinity, 0, 128, &mut before);
}

fn priority() {
    assert_eq!(ok!(SYS_getpriority, PRIO_PROCESS, 0), 20);
    ok!(SYS_setpriority, PRIO_PROCESS, 0, 5);
    assert_eq!(ok!(SYS_getpriority, PRIO_PROCESS, 0), 15);
    assert_eq!(in_child(|| ok!(SYS_getpriority, PRIO_PROCESS, ok!(SYS_getpid)) as i32), exited(15));
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let words: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!(words[15..17], ["25", "5"]);
    assert_eq!(sys!(SYS_getpriority, 3, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_getpriority, PRIO_PROCESS, 99_999_999), Err(ESRCH));
    let root = ok!(SYS_geteuid) == 0;
    let lower = in_child(|| {
        if root {
            ok!(SYS_setresuid, 7, 7, 7);
        }
        assert_eq!(sys!(SYS_setpriority, PRIO_PROCESS, 0, -5), Err(EACCES));
        if root {
            assert_eq!(sys!(SYS_setpriority, PRIO_PROCESS, ok!(SYS_getppid), 19), Err(EPERM));
        }
        0
    });
    assert_eq!(lower, 0);
    assert_eq!(ok!(SYS_ioprio_get, 1, 0), 0);
    ok!(SYS_ioprio_set, 1, 0, 3 << 13);
    assert_eq!(ok!(SYS_ioprio_get, 1, 0), 3 << 13);
    assert_eq!(sys!(SYS_ioprio_set, 1, 0, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_ioprio_get, 4, 0), Err(EINVAL));
}

fn limits() {
    let mut old = [0u64; 2];
    ok!(SYS_getrlimit, RLIMIT_CORE, &mut old);
    assert!(old[0] <= old[1]);
    assert_eq!(sys!(SYS_getrlimit, 16, &mut old), Err(EINVAL));
    assert_eq!(sys!(SYS_setrlimit, RLIMIT_CORE, [5u64, 4].as_ptr()), Err(EINVAL));
    let status = in_child(|| {
        ok!(SYS_setrlimit, RLIMIT_FSIZE, [5u64, 8].as_ptr());
        let mut now = [0u64; 2];
        ok!(SYS_prlimit64, ok!(SYS_getpid), RLIMIT_FSIZE, 0, &mut now);
        assert_eq!(now, [5, 8]);
        if ok!(SYS_geteuid) == 0 {
            ok!(SYS_setresuid, 7, 7, 7);
            assert_eq!(sys!(SYS_prlimit64, ok!(SYS_getppid), RLIMIT_FSIZE, 0, &mut now), Err(EPERM));
        }
        assert_eq!(sys!(SYS_setrlimit, RLIMIT_FSIZE, [5u64, 9].as_ptr()), Err(EPERM));
        assert_eq!(sys!(SYS_prlimit64, 99_999_999, RLIMIT_FSIZE, 0, &mut now), Err(ESRCH));
        assert_eq!(sys!(SYS_setrlimit, RLIMIT_NOFILE, [5u64, 1 << 40].as_ptr()), Err(EPERM));
        0
    });
    assert_eq!(status, 0);
}

fn processes() {
    if ok!(SYS_geteuid) != 0 {
        skip("needs root");
    }
    let status = in_child(|| {
        ok!(SYS_setrlimit, RLIMIT_NPROC, [2u64, 2].as_ptr());
        ok!(SYS_setresuid, 54_321, 54_321, 54_321);
        let child = spawn(|| {
            loop {
                unsafe { pause() };
            }
        });
        assert_eq!(sys!(SYS_clone, SIGCHLD, 0, 0, 0, 0), Err(EAGAIN));
        ok!(SYS_kill, child, SIGKILL);
        reap(child);
        assert_eq!(in_child(|| 0), 0);
        0
    });
    assert_eq!(status, 0);
    // Too many after a change of user: the next program can't be run.
    let status = in_child(|| {
        ok!(SYS_setrlimit, RLIMIT_NPROC, [0u64, 0].as_ptr());
        ok!(SYS_setresuid, 54_321, 54_321, 54_321);
        let args = [c"true".as_ptr(), std::ptr::null()];
        i32::from(sys!(SYS_execve, c"/bin/true", args.as_ptr(), 0) != Err(EAGAIN))
    });
    assert_eq!(status, 0);
}
