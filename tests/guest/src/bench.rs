//! Times single operations: `guest-bench [ROW…]` prints `ROW NANOSECONDS` per operation, median of several batches.
//!
//! `guest-bench --commands FILE` times shell commands instead: lines of `NAME<TAB>TIMES<TAB>COMMAND<TAB>CLEANUP`.
#![allow(clippy::undocumented_unsafe_blocks, dead_code, reason = "this is guest code; it shares helpers with the cases")]

#[macro_use]
mod sys;

use std::arch::asm;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use libc::*;
use sys::*;

/// What a batch should take: long enough for the clock, short enough for many.
const BATCH_NS: u64 = 8_000_000;
const BATCHES: usize = 7;

/// A row: name and one operation, repeated so many times.
type Row = (&'static str, fn(u64));

const ROWS: &[Row] = &[
    ("getppid-patched", |n| (0..n).for_each(|_| getppid_patched())),
    ("getppid-unpatched", |n| (0..n).for_each(|_| getppid_unpatched())),
    ("getppid-cold", getppid_cold),
    ("clock_gettime", |n| {
        for _ in 0..n {
            std::hint::black_box(now());
        }
    }),
    ("futex-pingpong", futex_pingpong),
    ("pipe-pingpong-threads", |n| pingpong(n, &[new_pipe(), new_pipe()], false)),
    ("pipe-pingpong-processes", |n| pingpong(n, &[new_pipe(), new_pipe()], true)),
    ("unix-pingpong", |n| {
        let pair = || {
            let mut fds = [0i32; 2];
            ok!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut fds);
            fds
        };
        pingpong(n, &[pair(), pair()], true);
    }),
    ("unix-stream-4k", unix_stream),
    ("read-zero", |n| {
        let fd = ok!(SYS_openat, AT_FDCWD, c"/dev/zero", O_RDONLY) as i32;
        (0..n).for_each(|_| assert!(one(read, fd)));
        ok!(SYS_close, fd);
    }),
    ("signal-self", signal_self),
    ("futex-wake", |n| {
        static WORD: AtomicU32 = AtomicU32::new(0);
        for _ in 0..n {
            ok!(SYS_futex, WORD.as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
        }
    }),
    ("page-fault", page_fault),
    ("cow-fault", cow_fault),
    ("mmap-touch-munmap", |n| {
        for _ in 0..n {
            unsafe {
                let flags = MAP_PRIVATE | MAP_ANONYMOUS;
                let page = mmap(std::ptr::null_mut(), 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
                page.cast::<u8>().write_volatile(1);
                assert_eq!(munmap(page, 4096), 0);
            }
        }
    }),
    ("mprotect", |n| {
        let page = memory(4096);
        unsafe { page.write_volatile(1) };
        for _ in 0..n / 2 {
            unsafe {
                assert_eq!(mprotect(page.cast(), 4096, PROT_READ), 0);
                assert_eq!(mprotect(page.cast(), 4096, PROT_READ | PROT_WRITE), 0);
            }
        }
        ok!(SYS_munmap, page, 4096);
    }),
    ("fork-exit", |n| (0..n).for_each(|_| assert_eq!(in_child(|| 0), 0))),
    ("fork-exec", |n| {
        for _ in 0..n {
            assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        }
    }),
    ("open-close", |n| {
        for _ in 0..n {
            unsafe {
                let fd = open(c"/etc/services".as_ptr(), O_RDONLY);
                assert!(fd >= 0);
                assert_eq!(close(fd), 0);
            }
        }
    }),
    ("stat", |n| {
        let mut stat: stat = unsafe { std::mem::zeroed() };
        for _ in 0..n {
            assert_eq!(unsafe { libc::stat(c"/etc/services".as_ptr(), &mut stat) }, 0);
        }
    }),
    ("pread-4k", |n| {
        let fd = ok!(SYS_openat, AT_FDCWD, c"/etc/services", O_RDONLY) as i32;
        let mut bytes = vec![0u8; 4096];
        for _ in 0..n {
            assert_eq!(unsafe { pread(fd, bytes.as_mut_ptr().cast(), 4096, 0) }, 4096);
        }
        ok!(SYS_close, fd);
    }),
    ("pwrite-4k", |n| {
        let fd = ok!(SYS_openat, AT_FDCWD, c"/tmp/bench", O_RDWR | O_CREAT, 0o600) as i32;
        let bytes = vec![0u8; 4096];
        for _ in 0..n {
            assert_eq!(unsafe { pwrite(fd, bytes.as_ptr().cast(), 4096, 0) }, 4096);
        }
        ok!(SYS_close, fd);
    }),
    ("nanosleep-50us", |n| {
        for _ in 0..n {
            assert_eq!(unsafe { nanosleep(&ns(50_000), std::ptr::null_mut()) }, 0);
        }
    }),
];

/// A call as the C library makes it: number, then `syscall`.
#[inline(never)]
fn getppid_patched() {
    unsafe { asm!("mov eax, 110", "syscall", out("rax") _, out("rcx") _, out("r11") _) };
}

/// A call whose number comes from elsewhere.
#[inline(never)]
fn getppid_unpatched() {
    unsafe { asm!("mov rax, {}", "nop", "syscall", in(reg) 110u64, out("rax") _, out("rcx") _, out("r11") _) };
}

/// A call every millisecond: what a call costs when everything has cooled down.
fn getppid_cold(n: u64) {
    // The work is taken off: only the calls are counted. See `measure`.
    let mut spent = 0;
    for _ in 0..n {
        let start = now();
        while now() - start < 1_000_000 {
            std::hint::spin_loop();
        }
        let before = now();
        getppid_patched();
        spent += now() - before;
    }
    OVERRIDE.store((spent / n.max(1)) as u32, SeqCst);
}

/// Nanoseconds per operation that a row has measured itself.
static OVERRIDE: AtomicU32 = AtomicU32::new(0);

fn futex_pingpong(n: u64) {
    static WORD: AtomicU32 = AtomicU32::new(0);
    fn turn(own: u32, n: u64) {
        for _ in 0..n {
            while WORD.load(SeqCst) != own {
                let _ = sys!(SYS_futex, WORD.as_ptr(), FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1 - own, 0);
            }
            WORD.store(1 - own, SeqCst);
            ok!(SYS_futex, WORD.as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
        }
    }
    WORD.store(0, SeqCst);
    let other = std::thread::spawn(move || turn(1, n));
    turn(0, n);
    other.join().unwrap();
}

unsafe extern "C" fn write_one(fd: i32, byte: *mut c_void, len: usize) -> isize {
    unsafe { write(fd, byte, len) }
}

/// Moves one byte; false at the end.
fn one(call: unsafe extern "C" fn(i32, *mut c_void, usize) -> isize, fd: i32) -> bool {
    let mut byte = 0u8;
    let count = unsafe { call(fd, (&raw mut byte).cast(), 1) };
    assert!(count >= 0);
    count == 1
}

/// One byte there and back through two channels.
fn pingpong(n: u64, channels: &[[i32; 2]; 2], processes: bool) {
    let [[there_r, there_w], [back_r, back_w]] = *channels;
    let answer = move || {
        for _ in 0..n {
            if !one(read, there_r) {
                break;
            }
            one(write_one, back_w);
        }
        0
    };
    let ask = || {
        for _ in 0..n {
            one(write_one, there_w);
            one(read, back_r);
        }
    };
    if processes {
        let pid = spawn(answer);
        ask();
        assert_eq!(reap(pid), 0);
    } else {
        let thread = std::thread::spawn(answer);
        ask();
        thread.join().unwrap();
    }
    for fd in channels.iter().flatten() {
        ok!(SYS_close, *fd);
    }
}

fn page_fault(n: u64) {
    let len = n as usize * 4096;
    let pages = memory(len);
    for i in 0..n as usize {
        unsafe { pages.add(i * 4096).write_volatile(1) };
    }
    ok!(SYS_munmap, pages, len);
}

/// Faults on pages that a child shares.
fn cow_fault(n: u64) {
    let len = n as usize * 4096;
    let pages = memory(len);
    let touch = || (0..n as usize).for_each(|i| unsafe { pages.add(i * 4096).write_volatile(1) });
    touch();
    let [read, write] = new_pipe();
    let pid = spawn(|| {
        // Keeps the pages shared until it is told to end.
        ok!(SYS_close, write);
        i32::from(one(libc::read, read))
    });
    let start = now();
    touch();
    OVERRIDE.store(((now() - start) / n.max(1)).max(1) as u32, SeqCst);
    for fd in [read, write] {
        ok!(SYS_close, fd);
    }
    assert_eq!(reap(pid), 0);
    ok!(SYS_munmap, pages, len);
}

/// A process reads what another writes, 4 KiB a call.
fn unix_stream(n: u64) {
    let mut fds = [0i32; 2];
    ok!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut fds);
    let pid = spawn(|| {
        ok!(SYS_close, fds[0]);
        let mut bytes = vec![0u8; 1 << 16];
        let mut left = n as isize * 4096;
        while left > 0 {
            let count = unsafe { read(fds[1], bytes.as_mut_ptr().cast(), bytes.len()) };
            assert!(count > 0);
            left -= count;
        }
        0
    });
    ok!(SYS_close, fds[1]);
    let bytes = vec![0u8; 4096];
    for _ in 0..n {
        assert_eq!(unsafe { write(fds[0], bytes.as_ptr().cast(), bytes.len()) }, 4096);
    }
    assert_eq!(reap(pid), 0);
    ok!(SYS_close, fds[0]);
}

extern "C" fn on_signal(_: i32) {}

fn signal_self(n: u64) {
    unsafe { signal(SIGUSR1, on_signal as *const () as usize) };
    for _ in 0..n {
        assert_eq!(unsafe { raise(SIGUSR1) }, 0);
    }
}

/// Nanoseconds of each of a command's runs, the median; `None` if one fails.
fn time_command(times: usize, command: &str, cleanup: &str) -> Option<u64> {
    let shell =
        |text: &str| std::process::Command::new("/bin/sh").args(["-c", text]).stdout(std::process::Stdio::null()).status();
    let mut all = Vec::new();
    for _ in 0..times {
        let start = now();
        let status = shell(command);
        all.push(now() - start);
        shell(cleanup).ok()?;
        if !status.is_ok_and(|status| status.success()) {
            return None;
        }
    }
    all.sort_unstable();
    all.get(times / 2).copied()
}

fn commands(file: &str) {
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, times, command, cleanup] = fields[..] else { panic!("{line:?}: four fields") };
        match time_command(times.parse().unwrap(), command, cleanup) {
            Some(ns) => println!("{name} {ns}"),
            None => eprintln!("{name}: failed"),
        }
    }
}

/// Nanoseconds per operation.
fn measure(run: fn(u64)) -> f64 {
    let timed = |n: u64| {
        OVERRIDE.store(0, SeqCst);
        let start = now();
        run(n);
        let spent = now() - start;
        match OVERRIDE.load(SeqCst) {
            0 => (spent, spent as f64 / n as f64),
            own => (spent, f64::from(own)),
        }
    };
    let mut n = 2;
    while n < 1 << 20 && timed(n).0 < BATCH_NS {
        n *= 2;
    }
    let mut all: Vec<f64> = (0..BATCHES).map(|_| timed(n).1).collect();
    all.sort_by(f64::total_cmp);
    all[BATCHES / 2]
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let [option, file] = &wanted[..]
        && option == "--commands"
    {
        return commands(file);
    }
    for (name, run) in ROWS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|row| row == name)) {
        println!("{name} {:.1}", measure(*run));
    }
}
