//! What the command line and a running sandbox say to each other.
//!
//! A client connects to the sandbox's socket, sends a [`Request`], and reads [`Response`]s. Most requests have one answer. After
//! [`Request::Exec`] the connection stays with the program: [`Response::Started`], then [`Response::Exited`]; meanwhile signals may be sent on
//! it. When the client is gone, the program is killed.
#![forbid(unsafe_code)]

mod connection;
mod link;
mod process;

use serde::{Deserialize, Serialize};

pub use connection::Connection;
pub use link::{Link, MAX_DATA, Message, Settings};
pub use process::{Capabilities, Process, User, WindowSize};

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The first process.
    Init,
    /// Every process.
    All,
    /// The program that was started on this connection.
    Own,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Run the first program.
    Start,
    Signal {
        signo: i32,
        target: Target,
    },
    /// Run another program. Descriptors: standard input, output and error, or a [`Link`] to its terminal.
    Exec(Box<Process>),
    /// Run a program before the first one, as [`Request::Exec`] does.
    Hook(Box<Process>),
    /// Answer when the first process ends, or the one with this number.
    Wait {
        pid: Option<i32>,
    },
    /// Let no program run until [`Request::Resume`].
    Pause,
    Resume,
    /// How far the sandbox is.
    Status,
    Processes,
    Stats,
    /// Change limits that the kernel inside enforces; those absent stay.
    Limit {
        tasks: Option<u64>,
        memory: Option<u64>,
    },
    /// What each task is doing.
    Stacks,
    /// Say at the end which system calls were missed, or don't.
    Debug(bool),
    /// Write system calls to the descriptor, as long as this connection lasts (to the container's standard error if there is none), or no
    /// longer.
    Trace(bool),
}

/// A process as `ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    pub pid: i32,
    pub ppid: i32,
    pub uid: u32,
    pub threads: u32,
    /// As in /proc/pid/stat.
    pub state: char,
    /// Seconds since the sandbox's start at which it was started.
    pub started: u64,
    /// Milliseconds.
    pub cpu: u64,
    pub command: String,
}

/// What a sandbox uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub tasks: u64,
    pub task_limit: u64,
    /// Nanoseconds, of programs that run and of those that have ended.
    pub cpu: u64,
    /// Processes that were killed because memory was up.
    pub oom_kills: u64,
}

/// What a sandbox answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Done,
    /// A program runs, under this number inside.
    Started {
        pid: i32,
    },
    /// A program has ended, with this exit status (128+n for a signal).
    Exited {
        status: i32,
    },
    Status {
        /// The first program has been started.
        started: bool,
        paused: bool,
    },
    Processes(Vec<ProcessInfo>),
    Stats(Stats),
    Text(String),
    /// It can't be done. `status`: the exit status for it (127: no such program; 126: it can't be run; 125: anything else).
    Failed {
        why: String,
        status: i32,
    },
}
