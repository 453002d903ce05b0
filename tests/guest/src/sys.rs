//! Raw system calls for cases.

use std::ffi::CStr;

/// A case's way out when the machine can't run it.
pub struct Skip(pub &'static str);

/// Ends the case as skipped.
pub fn skip(reason: &'static str) -> ! {
    std::panic::panic_any(Skip(reason))
}

/// What can be put into a register.
pub trait Arg {
    fn arg(self) -> i64;
}

macro_rules! number {
    ($($t:ty),*) => { $(impl Arg for $t { fn arg(self) -> i64 { self as i64 } })* };
}
number!(i32, u32, i64, u64, usize, isize);

impl<T> Arg for *const T {
    fn arg(self) -> i64 {
        self as i64
    }
}

impl<T> Arg for *mut T {
    fn arg(self) -> i64 {
        self as i64
    }
}

impl Arg for &CStr {
    fn arg(self) -> i64 {
        self.as_ptr() as i64
    }
}

impl<T> Arg for &mut T {
    fn arg(self) -> i64 {
        std::ptr::from_mut(self) as i64
    }
}

impl Arg for &[u8] {
    fn arg(self) -> i64 {
        self.as_ptr() as i64
    }
}

/// Makes a system call; the error is the errno.
pub fn call(nr: i64, args: &[i64]) -> Result<i64, i32> {
    let at = |i: usize| args.get(i).copied().unwrap_or(0);
    let result = unsafe { libc::syscall(nr, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result == -1 { Err(unsafe { *libc::__errno_location() }) } else { Ok(result) }
}

/// `sys!(SYS_read, fd, buffer, len)`: the result, or the errno.
macro_rules! sys {
    ($nr:expr $(, $arg:expr)* $(,)?) => { $crate::sys::call($nr, &[$($crate::sys::Arg::arg($arg)),*]) };
}

/// As [`sys!`], for calls that must succeed.
macro_rules! ok {
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        sys!($nr $(, $arg)*).unwrap_or_else(|errno| panic!("{}: errno {errno}", stringify!($nr)))
    };
}

/// Runs `f` in a forked child; returns its wait status.
pub fn in_child(f: impl FnOnce() -> i32) -> i32 {
    let pid = spawn(f);
    reap(pid)
}

/// Runs `f` in a forked child.
pub fn spawn(f: impl FnOnce() -> i32) -> i32 {
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(101);
        unsafe { libc::_exit(status) }
    }
    pid
}

/// waitpid(2).
pub fn reap(pid: i32) -> i32 {
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

/// Wait status of exit(2).
pub const fn exited(code: i32) -> i32 {
    code << 8
}

/// A pipe: reading and writing end.
pub fn new_pipe() -> [i32; 2] {
    let mut fds = [0; 2];
    ok!(libc::SYS_pipe2, fds.as_mut_ptr(), 0);
    fds
}

/// Opens or makes a file for reading and writing.
pub fn file(path: &CStr) -> i32 {
    ok!(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDWR | libc::O_CREAT, 0o644) as i32
}

pub fn put(fd: i32, bytes: &[u8]) -> i64 {
    ok!(libc::SYS_write, fd, bytes, bytes.len())
}

pub fn get(fd: i32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let count = ok!(libc::SYS_read, fd, bytes.as_mut_ptr(), len);
    bytes.truncate(count as usize);
    bytes
}

/// Anonymous memory.
pub fn map(len: usize, prot: i32, flags: i32) -> *mut u8 {
    ok!(libc::SYS_mmap, 0, len, prot, flags | libc::MAP_ANONYMOUS, -1, 0) as *mut u8
}

/// Private, readable and writable memory.
pub fn memory(len: usize) -> *mut u8 {
    map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    let mut ts: libc::timespec = unsafe { std::mem::zeroed() };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// A `timespec` of so many nanoseconds.
pub fn ns(ns: i64) -> libc::timespec {
    libc::timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 }
}

/// Installs a handler.
pub fn handle(signo: i32, handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void), flags: i32) {
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    assert_eq!(unsafe { libc::sigaction(signo, &action, std::ptr::null_mut()) }, 0);
}
