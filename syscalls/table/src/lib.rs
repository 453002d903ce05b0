//! The system call table and its handlers.
//!
//! [`dispatch`] looks a number up in [`ENTRIES`]; handlers decode arguments and call the kernel. What isn't in the table is `ENOSYS`,
//! counted in `Kernel::unknown`.
#![forbid(unsafe_code)]

mod aio;
mod alloc;
mod args;
mod attr;
mod bpf;
mod credentials;
mod epoll;
mod fcntl;
mod fd;
mod futex;
mod futex2;
mod ident;
mod inotify;
mod io;
mod landlock;
mod limits;
mod lock;
mod mem;
mod membarrier;
mod memfd;
mod mempolicy;
mod mount;
mod mount_fd;
mod mq;
mod msg;
mod namespaces;
mod path;
mod pidfd;
mod poll;
mod prctl;
mod process;
mod process_vm;
mod ptrace;
mod sched;
mod seccomp;
mod sem;
mod shm;
mod signal;
mod signalfd;
mod socket;
mod splice;
mod stat;
mod strace;
mod syslog;
mod sysv;
mod time;
mod timers;
mod xattr;

use abi::{Errno, SysResult, nr};
use task::Current;

/// Handles one system call.
pub type Handler = fn(&mut Current, [u64; 6]) -> SysResult<u64>;

/// How much of a call is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Full,
    /// With a note on what is missing.
    Partial(&'static str),
}

/// A line of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    pub nr: u64,
    pub handler: Handler,
    pub level: Level,
}

const fn full(nr: u64, handler: Handler) -> Entry {
    Entry { nr, handler, level: Level::Full }
}

const fn partial(nr: u64, handler: Handler, note: &'static str) -> Entry {
    Entry { nr, handler, level: Level::Partial(note) }
}

/// The table, by area.
const AREAS: &[&[Entry]] = &[
    aio::ENTRIES,
    alloc::ENTRIES,
    attr::ENTRIES,
    bpf::ENTRIES,
    credentials::ENTRIES,
    epoll::ENTRIES,
    fcntl::ENTRIES,
    fd::ENTRIES,
    futex::ENTRIES,
    futex2::ENTRIES,
    ident::ENTRIES,
    inotify::ENTRIES,
    io::ENTRIES,
    lock::ENTRIES,
    landlock::ENTRIES,
    limits::ENTRIES,
    mem::ENTRIES,
    membarrier::ENTRIES,
    memfd::ENTRIES,
    mempolicy::ENTRIES,
    mount::ENTRIES,
    mount_fd::ENTRIES,
    mq::ENTRIES,
    msg::ENTRIES,
    namespaces::ENTRIES,
    path::ENTRIES,
    pidfd::ENTRIES,
    poll::ENTRIES,
    prctl::ENTRIES,
    process::ENTRIES,
    process_vm::ENTRIES,
    ptrace::ENTRIES,
    sched::ENTRIES,
    seccomp::ENTRIES,
    sem::ENTRIES,
    shm::ENTRIES,
    signal::ENTRIES,
    signalfd::ENTRIES,
    socket::ENTRIES,
    splice::ENTRIES,
    stat::ENTRIES,
    syslog::ENTRIES,
    time::ENTRIES,
    timers::ENTRIES,
    xattr::ENTRIES,
];

const SIZE: usize = 512;

/// The table by number.
pub static ENTRIES: [Option<Entry>; SIZE] = {
    let mut table = [None; SIZE];
    let mut area = 0;
    while area < AREAS.len() {
        let mut i = 0;
        while i < AREAS[area].len() {
            let entry = AREAS[area][i];
            assert!(table[entry.nr as usize].is_none(), "two handlers for one call");
            table[entry.nr as usize] = Some(entry);
            i += 1;
        }
        area += 1;
    }
    table
};

/// Runs a system call.
///
/// # Errors
/// What the call comes to; `ENOSYS` when there is none.
pub fn dispatch(current: &mut Current, number: u64, args: [u64; 6]) -> SysResult<u64> {
    if current.task.kernel.trace.is_on() {
        return strace::trace(current, number, args);
    }
    call(current, number, args)
}

fn entry(number: u64) -> Option<&'static Entry> {
    usize::try_from(number).ok().and_then(|at| ENTRIES.get(at)).and_then(Option::as_ref)
}

fn call(current: &mut Current, number: u64, args: [u64; 6]) -> SysResult<u64> {
    match entry(number) {
        Some(entry) => (entry.handler)(current, args),
        None => {
            let mut unknown = current.task.kernel.unknown.lock();
            if unknown.len() < SIZE || unknown.contains_key(&number) {
                *unknown.entry(number).or_default() += 1;
            }
            Err(Errno::ENOSYS)
        }
    }
}

/// How many of Linux's calls are there in full, in part, and not at all.
pub fn counts() -> (usize, usize, usize) {
    let count = |wanted: fn(Option<Level>) -> bool| {
        nr::NAMES.iter().filter(|(number, _)| wanted(entry(*number).map(|entry| entry.level))).count()
    };
    (
        count(|level| level == Some(Level::Full)),
        count(|level| matches!(level, Some(Level::Partial(_)))),
        count(|level| level.is_none()),
    )
}

/// The table for people: number, name and level of every call that Linux has.
pub fn list() -> impl Iterator<Item = (u64, &'static str, String)> {
    nr::NAMES.iter().map(|(number, name)| {
        let level = match entry(*number).map(|entry| entry.level) {
            Some(Level::Full) => "full".to_owned(),
            Some(Level::Partial(note)) => format!("partial: {note}"),
            None => "not implemented (ENOSYS)".to_owned(),
        };
        (*number, *name, level)
    })
}
