//! Clocks and sleeping.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "clocks", calls: "clock_gettime clock_getres gettimeofday time times getrusage", run: clocks },
    Case { name: "vdso", calls: "clock_gettime", run: vdso },
    Case { name: "sleep", calls: "nanosleep clock_nanosleep", run: sleeping },
    Case { name: "sleep-interrupted", calls: "nanosleep pause", run: interrupted },
];

fn clock(id: i32) -> u64 {
    let mut ts: timespec = ns(0);
    ok!(SYS_clock_gettime, id, &mut ts);
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

fn clocks() {
    for id in
        [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID]
    {
        let first = clock(id);
        assert!(clock(id) >= first);
        let mut resolution = ns(9);
        ok!(SYS_clock_getres, id, &mut resolution);
        assert_eq!((resolution.tv_sec, resolution.tv_nsec), (0, 1));
    }
    assert_eq!(sys!(SYS_clock_gettime, 99, &mut ns(0)), Err(EINVAL));
    assert_eq!(sys!(SYS_clock_gettime, CLOCK_MONOTONIC, 8), Err(EFAULT));
    let mut tv = [0i64; 2];
    ok!(SYS_gettimeofday, &mut tv, 0);
    let mut now = 0i64;
    assert_eq!(ok!(SYS_time, &mut now), now);
    assert!((now - tv[0]).abs() <= 1 && (clock(CLOCK_REALTIME) / 1_000_000_000).abs_diff(now as u64) <= 1);
    // CPU time passes when there is work, and not while asleep.
    let before = clock(CLOCK_PROCESS_CPUTIME_ID);
    while clock(CLOCK_PROCESS_CPUTIME_ID) - before < 30_000_000 {
        std::hint::black_box((0..10_000).sum::<u64>());
    }
    let mut usage: rusage = unsafe { std::mem::zeroed() };
    ok!(SYS_getrusage, RUSAGE_SELF, &mut usage);
    assert!(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec >= 20_000 || usage.ru_utime.tv_sec > 0);
    let mut ticks = [0i64; 4];
    assert!(ok!(SYS_times, &mut ticks) > 0);
    assert!(ticks[0] + ticks[1] >= 1);
    assert_eq!(sys!(SYS_getrusage, 99, &mut usage), Err(EINVAL));
}

fn vdso() {
    // By the C library, which asks the vDSO: the same clock as the system call's.
    for _ in 0..1000 {
        let (one, two, three) = (now(), clock(CLOCK_MONOTONIC), now());
        assert!(one <= two && two <= three);
    }
}

fn sleeping() {
    let start = now();
    ok!(SYS_nanosleep, &mut ns(15_000_000), 0);
    assert!(now() - start >= 15_000_000);
    let until = now() + 15_000_000;
    ok!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &mut ns(until as i64), 0);
    assert!(now() >= until);
    ok!(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &mut ns(5), 0);
    assert_eq!(sys!(SYS_nanosleep, &mut timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_nanosleep, &mut timespec { tv_sec: -1, tv_nsec: 0 }, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_nanosleep, 8, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_clock_nanosleep, 99, 0, &mut ns(5), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &mut ns(5), 0), Err(EOPNOTSUPP));
}

extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

/// Sends SIGUSR1 to the calling process in 20 ms.
fn later() -> std::thread::JoinHandle<()> {
    let (pid, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        ok!(SYS_tgkill, pid, tid, SIGUSR1);
    })
}

fn interrupted() {
    handle(SIGUSR1, nothing, SA_RESTART);
    let thread = later();
    let mut rest = ns(0);
    assert_eq!(sys!(SYS_nanosleep, &mut ns(10_000_000_000), &mut rest), Err(EINTR));
    assert!((8..10).contains(&rest.tv_sec), "{}", rest.tv_sec);
    thread.join().unwrap();
    let thread = later();
    assert_eq!(sys!(SYS_pause), Err(EINTR));
    thread.join().unwrap();
}
