//! Commands and options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs programs under a kernel of their own, in user space.
#[derive(Parser)]
#[command(name = "palisade", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Where the state of containers is kept (default: /run/palisade).
    #[arg(long = "root", value_name = "DIR")]
    pub state_root: Option<PathBuf>,
    /// Append errors to this file too.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Say more about errors.
    #[arg(long, global = true)]
    pub debug: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Args)]
pub struct DoArgs {
    /// Directory that becomes the root.
    #[arg(long, default_value = "/")]
    pub root: PathBuf,
    /// Working directory inside.
    #[arg(long, default_value = "/")]
    pub cwd: String,
    /// Show a host file or directory inside, writable unless `ro`.
    #[arg(long, short = 'v', value_name = "SRC:DST[:ro]")]
    pub volume: Vec<String>,
    /// Set an environment variable.
    #[arg(long = "env", short = 'e', value_name = "K=V")]
    pub env: Vec<String>,
    /// Write every system call to standard error.
    #[arg(long)]
    pub strace: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true)]
    pub command: Vec<String>,
}

#[derive(Args)]
pub struct CreateArgs {
    /// Name of the container.
    pub id: String,
    /// Directory with config.json (default: the current one).
    #[arg(long, short = 'b', value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Write the number of the container's process here.
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Write every system call to standard error.
    #[arg(long)]
    pub strace: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a command over a host directory, which stays unchanged: writes go to memory.
    Do(DoArgs),
    /// Create a container from a bundle, run it to its end, and remove it.
    Run {
        #[command(flatten)]
        create: CreateArgs,
        /// Return as soon as it runs.
        #[arg(long, short = 'd')]
        detach: bool,
    },
    /// Make a container from a bundle; `start` runs its program.
    Create(CreateArgs),
    /// Run the program of a created container.
    Start { id: String },
    /// Print a container's state as JSON.
    State { id: String },
    /// Send a signal to a container's first process.
    Kill {
        id: String,
        /// Number or name.
        #[arg(default_value = "TERM")]
        signal: String,
        /// To all of its processes.
        #[arg(long, short = 'a')]
        all: bool,
    },
    /// Remove a container that has ended.
    Delete {
        id: String,
        /// End it first.
        #[arg(long, short = 'f')]
        force: bool,
    },
    /// List containers.
    List {
        /// Names only.
        #[arg(long, short = 'q')]
        quiet: bool,
    },
    /// Write a config.json to start from.
    Spec {
        #[arg(long, short = 'b', value_name = "DIR")]
        bundle: Option<PathBuf>,
    },
    /// Look into a running container.
    Debug {
        id: String,
        /// Write every system call to standard output until the container ends, or end that.
        #[arg(long, value_enum)]
        strace: Switch,
    },
    /// Explain a topic.
    Help {
        #[command(subcommand)]
        topic: Topic,
    },
}

#[derive(Subcommand)]
pub enum Topic {
    /// List all system calls and how much of each is there.
    Syscalls,
}
