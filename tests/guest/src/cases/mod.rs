//! Cases by area.

use crate::Case;

mod aio;
mod bpf;
mod cgroup;
mod creds;
mod epoll;
mod fd;
mod futex;
mod futex_pi;
mod ident;
mod inet;
mod inotify;
mod jobs;
mod landlock;
mod lock;
mod log;
mod mapping;
mod mem;
mod membarrier;
mod memfd;
mod mount;
mod mq;
mod nameless;
mod namespaces;
mod netlink;
mod path;
mod perm;
mod pidfd;
mod pipe;
mod process;
mod procfs;
mod ptrace;
mod rseq;
mod sched;
mod seccomp;
mod signal;
mod socket;
mod sysv;
mod time;
mod timers;
mod transfer;
mod tty;

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        bpf::CASES,
        cgroup::CASES,
        creds::CASES,
        aio::CASES,
        epoll::CASES,
        fd::CASES,
        futex::CASES,
        futex_pi::CASES,
        ident::CASES,
        inet::CASES,
        jobs::CASES,
        inotify::CASES,
        lock::CASES,
        mapping::CASES,
        log::CASES,
        mem::CASES,
        mq::CASES,
        membarrier::CASES,
        memfd::CASES,
        mount::CASES,
        landlock::CASES,
        namespaces::CASES,
        netlink::CASES,
        nameless::CASES,
        path::CASES,
        perm::CASES,
        pipe::CASES,
        pidfd::CASES,
        process::CASES,
        ptrace::CASES,
        rseq::CASES,
        procfs::CASES,
        sched::CASES,
        seccomp::CASES,
        signal::CASES,
        socket::CASES,
        sysv::CASES,
        time::CASES,
        timers::CASES,
        tty::CASES,
        transfer::CASES,
    ]
    .into_iter()
    .flatten()
}
