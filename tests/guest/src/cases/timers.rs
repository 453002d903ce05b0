//! Timers: interval timers, POSIX timers, timerfd, CPU clocks.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "itimer-real", calls: "setitimer getitimer", run: real },
    Case { name: "itimer-cpu", calls: "setitimer getitimer", run: by_cpu },
    Case { name: "alarm", calls: "alarm", run: alarms },
    Case { name: "timer-signal", calls: "timer_create timer_settime timer_gettime timer_getoverrun timer_delete", run: posix },
    Case { name: "timer-thread", calls: "timer_create timer_settime", run: to_a_thread },
    Case { name: "timer-errors", calls: "timer_create timer_settime timer_gettime timer_delete", run: posix_errors },
    Case { name: "timer-ends", calls: "timer_create execve fork", run: ends },
    Case { name: "timerfd", calls: "timerfd_create timerfd_settime timerfd_gettime", run: timerfd },
    Case { name: "timerfd-poll", calls: "timerfd_create poll epoll_wait", run: timerfd_poll },
    Case { name: "thread-clocks", calls: "clock_gettime getrusage", run: thread_clocks },
    Case { name: "cpu-clock-of-others", calls: "clock_gettime clock_nanosleep timer_create", run: cpu_of_others },
    Case { name: "cpu-limit", calls: "setrlimit", run: cpu_limit },
    Case { name: "clocks-unset", calls: "clock_settime settimeofday adjtimex clock_adjtime", run: unset },
];

const MS: u64 = 1_000_000;

static COUNT: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(_: i32, info: *mut siginfo_t, _: *mut c_void) {
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        VALUE.store((*info).si_value().sival_ptr as u64, SeqCst);
    }
    THREAD.store(ok!(SYS_gettid) as i32, SeqCst);
    COUNT.fetch_add(1, SeqCst);
}

fn sleep(ns: u64) {
    std::thread::sleep(std::time::Duration::from_nanos(ns));
}

/// Waits until so many signals have come.
fn until(count: i32) {
    let start = now();
    while COUNT.load(SeqCst) < count {
        assert!(now() - start < 10_000 * MS, "{} of {count} signals", COUNT.load(SeqCst));
        sleep(MS);
    }
}

/// `struct itimerval` of microseconds: interval, value.
fn micros(interval: i64, value: i64) -> [i64; 4] {
    [interval / 1_000_000, interval % 1_000_000, value / 1_000_000, value % 1_000_000]
}

/// `struct itimerspec` of nanoseconds: interval, value.
fn spec(interval: u64, value: u64) -> [i64; 4] {
    let pair = |ns: u64| [(ns / 1_000_000_000) as i64, (ns % 1_000_000_000) as i64];
    let ([a, b], [c, d]) = (pair(interval), pair(value));
    [a, b, c, d]
}

fn left(spec: &[i64; 4]) -> u64 {
    spec[2] as u64 * 1_000_000_000 + spec[3] as u64
}

fn real() {
    handle(SIGALRM, note, 0);
    let start = now();
    let mut old = [9i64; 4];
    ok!(SYS_setitimer, ITIMER_REAL, &mut micros(10_000, 20_000), &mut old);
    // The alarm that the runner has set.
    assert!(old[2] > 0 && old[0] == 0);
    let mut current = [0i64; 4];
    ok!(SYS_getitimer, ITIMER_REAL, &mut current);
    assert!(current[1] == 10_000 && (1..=20_000).contains(&current[3]), "{current:?}");
    until(3);
    assert!(now() - start >= 40 * MS);
    assert_eq!(CODE.load(SeqCst), SI_KERNEL);
    ok!(SYS_setitimer, ITIMER_REAL, &mut [0i64; 4], 0);
    ok!(SYS_getitimer, ITIMER_REAL, &mut current);
    assert_eq!(current, [0; 4]);
    let seen = COUNT.load(SeqCst);
    sleep(30 * MS);
    assert_eq!(COUNT.load(SeqCst), seen, "it is off");
    assert_eq!(sys!(SYS_setitimer, 9, &mut current, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_setitimer, ITIMER_REAL, &mut [0i64, 0, 0, 1_000_000], 0), Err(EINVAL));
    assert_eq!(sys!(SYS_setitimer, ITIMER_REAL, 8, 0), Err(EFAULT));
    // It outlives the program, but isn't inherited.
    let status = in_child(|| {
        ok!(SYS_setitimer, ITIMER_REAL, &mut micros(0, 50_000), 0);
        let argv = [c"/bin/sleep".as_ptr(), c"10".as_ptr(), std::ptr::null()];
        sys!(SYS_execve, c"/bin/sleep", argv.as_ptr(), 0).unwrap_err()
    });
    assert_eq!(status, SIGALRM);
    ok!(SYS_setitimer, ITIMER_REAL, &mut micros(0, 5_000_000), 0);
    let status = in_child(|| {
        let mut current = [9i64; 4];
        ok!(SYS_getitimer, ITIMER_REAL, &mut current);
        i32::from(current != [0; 4])
    });
    assert_eq!(status, 0);
}

fn spin(ns: u64) {
    let mut ts = self::ns(0);
    let time = |ts: &mut timespec| {
        ok!(SYS_clock_gettime, CLOCK_PROCESS_CPUTIME_ID, std::ptr::from_mut(ts));
        ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
    };
    let start = time(&mut ts);
    while time(&mut ts) - start < ns {
        for _ in 0..100_000 {
            std::hint::spin_loop();
        }
    }
}

fn by_cpu() {
    for (which, signo) in [(ITIMER_VIRTUAL, SIGVTALRM), (ITIMER_PROF, SIGPROF)] {
        COUNT.store(0, SeqCst);
        handle(signo, note, 0);
        ok!(SYS_setitimer, which, &mut micros(20_000, 20_000), 0);
        // Asleep, no time passes.
        sleep(60 * MS);
        assert_eq!(COUNT.load(SeqCst), 0);
        spin(150 * MS);
        assert!((2..=8).contains(&COUNT.load(SeqCst)), "{}", COUNT.load(SeqCst));
        ok!(SYS_setitimer, which, &mut [0i64; 4], 0);
    }
}

fn alarms() {
    handle(SIGALRM, note, 0);
    let before = ok!(SYS_alarm, 100);
    assert!((1..=30).contains(&before), "the runner's");
    assert_eq!(ok!(SYS_alarm, 1), 100);
    let start = now();
    assert_eq!(sys!(SYS_pause), Err(EINTR));
    assert!(now() - start >= 900 * MS);
    assert_eq!((COUNT.load(SeqCst), ok!(SYS_alarm, 0)), (1, 0));
}

/// `struct sigevent`.
fn event(notify: i32, signo: i32, value: u64, tid: i64) -> [u64; 8] {
    [value, signo as u64 | (notify as u64) << 32, tid as u64, 0, 0, 0, 0, 0]
}

fn create(clock: i32, event: &mut [u64; 8]) -> i32 {
    let mut id = -1i32;
    ok!(SYS_timer_create, clock, std::ptr::from_mut(event), &mut id);
    id
}

fn posix() {
    let signo = SIGRTMIN() + 2;
    handle(signo, note, 0);
    for clock in [CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME] {
        COUNT.store(0, SeqCst);
        let id = create(clock, &mut event(SIGEV_SIGNAL, signo, 77, 0));
        let mut old = [9i64; 4];
        ok!(SYS_timer_settime, id, 0, &mut spec(0, 20 * MS), &mut old);
        assert_eq!(old, [0; 4]);
        let mut current = [0i64; 4];
        ok!(SYS_timer_gettime, id, &mut current);
        assert!((1..=20 * MS).contains(&left(&current)));
        until(1);
        assert_eq!((CODE.load(SeqCst), VALUE.load(SeqCst)), (SI_TIMER, 77));
        ok!(SYS_timer_gettime, id, &mut current);
        assert_eq!(current, [0; 4]);
        // At a time of the clock, which may be past.
        let mut ts = ns(0);
        ok!(SYS_clock_gettime, clock, &mut ts);
        let at = ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64;
        ok!(SYS_timer_settime, id, TIMER_ABSTIME, &mut spec(0, at + 10 * MS), 0);
        until(2);
        ok!(SYS_timer_settime, id, TIMER_ABSTIME, &mut spec(0, 5), 0);
        until(3);
        ok!(SYS_timer_delete, id);
        assert_eq!(sys!(SYS_timer_delete, id), Err(EINVAL));
    }
    // Those that couldn't be taken are counted, and one signal stands for them.
    COUNT.store(0, SeqCst);
    let id = create(CLOCK_MONOTONIC, &mut event(SIGEV_SIGNAL, signo, 1, 0));
    let mut set = 1u64 << (signo - 1);
    ok!(SYS_rt_sigprocmask, SIG_BLOCK, &mut set, 0, 8);
    ok!(SYS_timer_settime, id, 0, &mut spec(5 * MS, 5 * MS), 0);
    sleep(52 * MS);
    let mut info: siginfo_t = unsafe { std::mem::zeroed() };
    assert_eq!(ok!(SYS_rt_sigtimedwait, &mut set, &mut info, 0, 8), i64::from(signo));
    let overrun = ok!(SYS_timer_getoverrun, id);
    assert!((8..60).contains(&overrun), "{overrun}");
    let in_info = unsafe { std::ptr::from_ref(&info).cast::<i32>().add(5).read() };
    assert_eq!(i64::from(in_info), overrun);
    ok!(SYS_timer_delete, id);
    // Without an event: SIGALRM with the timer's number.
    handle(SIGALRM, note, 0);
    let mut id = -1i32;
    ok!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id);
    ok!(SYS_timer_settime, id, 0, &mut spec(0, MS), 0);
    until(1);
    assert_eq!(VALUE.load(SeqCst) as u32, id as u32);
    ok!(SYS_timer_delete, id);
}

fn to_a_thread() {
    let signo = SIGRTMIN() + 2;
    handle(signo, note, 0);
    let thread = std::thread::spawn(move || {
        let tid = ok!(SYS_gettid);
        let id = create(CLOCK_MONOTONIC, &mut event(SIGEV_THREAD_ID, signo, 5, tid));
        ok!(SYS_timer_settime, id, 0, &mut spec(5 * MS, 5 * MS), 0);
        until(3);
        ok!(SYS_timer_delete, id);
        tid
    });
    assert_eq!(thread.join().unwrap() as i32, THREAD.load(SeqCst));
    let mut id = -1i32;
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, &mut event(SIGEV_THREAD_ID, signo, 5, 99_999_999), &mut id), Err(EINVAL));
}

fn posix_errors() {
    let mut id = -1i32;
    let mut signal = event(SIGEV_SIGNAL, SIGUSR1, 0, 0);
    assert_eq!(sys!(SYS_timer_create, 99, &mut signal, &mut id), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, &mut event(SIGEV_SIGNAL, 65, 0, 0), &mut id), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, &mut event(99, SIGUSR1, 0, 0), &mut id), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, 8, &mut id), Err(EFAULT));
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, &mut signal, 8), Err(EFAULT));
    let none = create(CLOCK_MONOTONIC, &mut event(SIGEV_NONE, 0, 0, 0));
    assert_eq!(sys!(SYS_timer_settime, none, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_settime, none, 0, &mut [0i64, 0, 0, 1_000_000_000], 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_settime, none + 100, 0, &mut spec(0, 1), 0), Err(EINVAL));
    ok!(SYS_timer_settime, none, 0, &mut spec(0, 5 * MS), 0);
    sleep(10 * MS);
    let mut current = [9i64; 4];
    ok!(SYS_timer_gettime, none, &mut current);
    assert_eq!(current, [0; 4], "it is over, and nobody has been told");
    assert_eq!(sys!(SYS_timer_getoverrun, none + 100), Err(EINVAL));
    ok!(SYS_timer_delete, none);
}

/// A program's timers end with it, and children have none.
fn ends() {
    let status = in_child(|| {
        let id = create(CLOCK_MONOTONIC, &mut event(SIGEV_SIGNAL, SIGUSR1, 0, 0));
        let inherited = in_child(|| i32::from(sys!(SYS_timer_delete, id) != Err(EINVAL)));
        assert_eq!(inherited, 0);
        ok!(SYS_timer_settime, id, 0, &mut spec(0, 40 * MS), 0);
        let argv = [c"/bin/sleep".as_ptr(), c"0.1".as_ptr(), std::ptr::null()];
        sys!(SYS_execve, c"/bin/sleep", argv.as_ptr(), 0).unwrap_err()
    });
    assert_eq!(status, 0);
}

fn read_ticks(fd: i64) -> Result<u64, i32> {
    let mut ticks = 0u64;
    sys!(SYS_read, fd, &mut ticks, 8).map(|_| ticks)
}

fn timerfd() {
    for clock in [CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME] {
        let fd = ok!(SYS_timerfd_create, clock, 0);
        let start = now();
        ok!(SYS_timerfd_settime, fd, 0, &mut spec(0, 20 * MS), 0);
        assert_eq!(read_ticks(fd), Ok(1));
        assert!(now() - start >= 20 * MS);
        // Several at once.
        ok!(SYS_timerfd_settime, fd, 0, &mut spec(10 * MS, 10 * MS), 0);
        sleep(55 * MS);
        let ticks = read_ticks(fd).unwrap();
        assert!((5..50).contains(&ticks), "{ticks}");
        let mut current = [0i64; 4];
        ok!(SYS_timerfd_gettime, fd, &mut current);
        assert!((1..=10 * MS).contains(&left(&current)) && current[1] as u64 == 10 * MS);
        let mut old = [0i64; 4];
        ok!(SYS_timerfd_settime, fd, 0, &mut spec(0, 0), &mut old);
        assert_eq!(old[1] as u64, 10 * MS);
        let mut ts = ns(0);
        ok!(SYS_clock_gettime, clock, &mut ts);
        let at = ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64;
        ok!(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &mut spec(0, at - 5 * MS), 0);
        assert_eq!(read_ticks(fd), Ok(1), "it is past");
        ok!(SYS_close, fd);
    }
    let fd = ok!(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    assert_eq!(read_ticks(fd), Err(EAGAIN));
    assert_eq!(sys!(SYS_read, fd, &mut [0u8; 4], 4), Err(EINVAL));
    assert_eq!(sys!(SYS_write, fd, &mut 1u64, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_settime, fd, 99, &mut spec(0, 1), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_settime, fd, 0, &mut [0i64, 0, 0, 1_000_000_000], 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_settime, 0, 0, &mut spec(0, 1), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_create, 99, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_create, CLOCK_MONOTONIC, 1), Err(EINVAL));
}

fn timerfd_poll() {
    let fd = ok!(SYS_timerfd_create, CLOCK_MONOTONIC, 0);
    let mut poll = pollfd { fd: fd as i32, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut poll, 1, 0), 0);
    ok!(SYS_timerfd_settime, fd, 0, &mut spec(0, 20 * MS), 0);
    assert_eq!((ok!(SYS_poll, &mut poll, 1, 10_000), poll.revents), (1, POLLIN));
    assert_eq!(read_ticks(fd), Ok(1));
    // Each expiry is an edge.
    let epoll = ok!(SYS_epoll_create1, 0);
    let mut event = epoll_event { events: (EPOLLIN | EPOLLET) as u32, u64: 7 };
    ok!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &mut event);
    ok!(SYS_timerfd_settime, fd, 0, &mut spec(10 * MS, 10 * MS), 0);
    for _ in 0..3 {
        assert_eq!(ok!(SYS_epoll_wait, epoll, &mut event, 1, 10_000), 1);
        assert!(read_ticks(fd).unwrap() >= 1);
    }
}

fn clock(id: i32) -> u64 {
    let mut ts = ns(0);
    ok!(SYS_clock_gettime, id, &mut ts);
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Each thread has a time of its own.
fn thread_clocks() {
    let usage = || {
        let mut usage: rusage = unsafe { std::mem::zeroed() };
        ok!(SYS_getrusage, RUSAGE_THREAD, &mut usage);
        let micros = |time: timeval| (time.tv_sec * 1_000_000 + time.tv_usec) as u64;
        micros(usage.ru_utime) + micros(usage.ru_stime)
    };
    let own = clock(CLOCK_THREAD_CPUTIME_ID);
    let busy = std::thread::spawn(move || {
        let start = now();
        while clock(CLOCK_THREAD_CPUTIME_ID) < 40 * MS {
            let turn = now();
            while now() - turn < 5 * MS {
                std::hint::spin_loop();
            }
        }
        (clock(CLOCK_THREAD_CPUTIME_ID), usage(), now() - start)
    });
    let (theirs, their_usage, took) = busy.join().unwrap();
    let own = clock(CLOCK_THREAD_CPUTIME_ID) - own;
    assert!(theirs < took + 10 * MS && their_usage > 15_000, "{theirs} {their_usage} {took}");
    assert!(own < theirs / 2, "{own} of {theirs}");
    assert!(clock(CLOCK_PROCESS_CPUTIME_ID) >= theirs);
}

fn cpu_of_others() {
    let child = spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    // clock_getcpuclockid(3)
    let id = !child << 3 | 2;
    let before = clock(id);
    ok!(SYS_clock_nanosleep, id, 0, &mut ns(30 * MS as i64), 0);
    assert!(clock(id) - before >= 30 * MS);
    handle(SIGUSR1, note, 0);
    let timer = create(id, &mut event(SIGEV_SIGNAL, SIGUSR1, 3, 0));
    ok!(SYS_timer_settime, timer, 0, &mut spec(10 * MS, 10 * MS), 0);
    until(3);
    ok!(SYS_timer_delete, timer);
    ok!(SYS_kill, child, SIGKILL);
    reap(child);
    let mut ts = ns(0);
    assert_eq!(sys!(SYS_clock_gettime, id, &mut ts), Err(EINVAL));
    assert_eq!(sys!(SYS_clock_gettime, !child << 3 | 3, &mut ts), Err(EINVAL));
    assert_eq!(sys!(SYS_clock_nanosleep, -1i32 << 3 | 6, 0, &mut ns(5), 0), Err(EINVAL), "one's own thread");
    assert!(clock(-1i32 << 3 | 6) > 0);
}

fn cpu_limit() {
    let status = in_child(|| {
        handle(SIGXCPU, note, 0);
        ok!(SYS_setrlimit, RLIMIT_CPU, &mut [1u64, 2]);
        let start = now();
        loop {
            std::hint::spin_loop();
            if COUNT.load(SeqCst) > 0 && now() - start > 20_000 * MS {
                return 9;
            }
        }
    });
    assert_eq!(status, SIGKILL);
}

fn unset() {
    // Nobody may set the host's clock from in here; outside, only who may.
    let status = in_child(|| {
        if sys!(SYS_setuid, 65534).is_err() {
            return 0;
        }
        let mut now = ns(0);
        ok!(SYS_clock_gettime, CLOCK_REALTIME, &mut now);
        assert_eq!(sys!(SYS_clock_settime, CLOCK_REALTIME, &mut now), Err(EPERM));
        assert_eq!(sys!(SYS_settimeofday, &mut [now.tv_sec, 0], 0), Err(EPERM));
        0
    });
    assert_eq!(status, 0);
    assert_eq!(sys!(SYS_clock_settime, CLOCK_MONOTONIC, &mut ns(5)), Err(EINVAL));
    let mut timex = [0u64; 26];
    assert!((0..=5).contains(&ok!(SYS_adjtimex, &mut timex)));
    assert!((9000..=11_000).contains(&timex[11]) && timex[9] > 1_600_000_000, "{timex:?}");
    assert!((0..=5).contains(&ok!(SYS_clock_adjtime, CLOCK_REALTIME, &mut timex)));
    assert_eq!(sys!(SYS_clock_adjtime, CLOCK_MONOTONIC, &mut timex), Err(EOPNOTSUPP));
}
