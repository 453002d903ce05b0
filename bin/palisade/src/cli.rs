//! Commands and options.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs programs under a kernel of their own, in user space.
#[derive(Parser)]
#[command(name = "palisade", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options before the command.
#[derive(Args)]
pub struct Global {
    /// Where the state of containers is kept (default: /run/palisade).
    #[arg(long = "root", value_name = "DIR")]
    pub state_root: Option<PathBuf>,
    /// Append errors to this file too.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Say more about errors, and at the end which system calls were missed.
    #[arg(long, global = true)]
    pub debug: bool,
    /// Append what there is to say for developers to this file: %ID%, %COMMAND% and %TIMESTAMP% stand for those; a name that ends in / is a
    /// directory for such files.
    #[arg(long, value_name = "FILE")]
    pub debug_log: Option<String>,
    /// Network of containers: none, sandbox (the kernel inside with interfaces of the container's network namespace), host.
    #[arg(long, value_name = "KIND", default_value = "none")]
    pub network: String,
    /// Where writes go: none (to the host), root:memory or all:memory (kept in memory, and lost at the end; all: bind mounts too).
    #[arg(long, value_name = "WHAT:WHERE", default_value = "none")]
    pub overlay2: String,
    /// What programs may do with Unix sockets of the host: none, open, create, all.
    #[arg(long, value_name = "WHAT", default_value = "none")]
    pub host_uds: String,
    /// What programs may do with fifos of the host: none, open.
    #[arg(long, value_name = "WHAT", default_value = "none")]
    pub host_fifo: String,
    /// Write every system call of containers that are made.
    #[arg(long)]
    pub strace: bool,
    /// Have systemd make control groups; cgroupsPath is slice:prefix:name.
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Make no control groups.
    #[arg(long)]
    pub ignore_cgroups: bool,
    /// Do without what only root may do (auto: unless root asks).
    #[arg(long, value_enum, default_value = "auto", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub rootless: Rootless,
    /// How guest code is run.
    #[arg(long, value_enum, default_value = "systrap")]
    pub platform: Platform,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    Auto,
    True,
    False,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// Host processes whose every system call is stopped.
    Systrap,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Warning,
    Info,
    Debug,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
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
    /// Send the other end of the container's terminal to this socket.
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Write every system call to standard error.
    #[arg(long)]
    pub strace: bool,
    /// Descriptors beside the standard ones can't be passed: 0 only.
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub preserve_fds: u32,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
}

#[derive(Args)]
pub struct ExecArgs {
    /// Name of the container.
    pub id: String,
    /// A file with the program as config.json's `process` has it.
    #[arg(long, short = 'p', value_name = "FILE")]
    pub process: Option<PathBuf>,
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set an environment variable.
    #[arg(long, short = 'e', value_name = "K=V")]
    pub env: Vec<String>,
    #[arg(long, short = 'u', value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Be in this group too.
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Have this capability too.
    #[arg(long, short = 'c', value_name = "CAP")]
    pub cap: Vec<String>,
    #[arg(long)]
    pub no_new_privs: bool,
    /// Give it a terminal: the caller's, or one whose other end goes to --console-socket.
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Return as soon as it runs.
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// Write the number of the program's process on the host here: it passes on signals, and ends with the program.
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Write the number of the program inside here.
    #[arg(long, value_name = "FILE")]
    pub internal_pid_file: Option<PathBuf>,
    /// Send the other end of the program's terminal to this socket.
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required_unless_present = "process", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Descriptors beside the standard ones can't be passed: 0 only.
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub preserve_fds: u32,
    /// The container's own control group only.
    #[arg(long, value_name = "PATH", hide = true)]
    pub cgroup: Vec<String>,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub apparmor: Option<String>,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub process_label: Option<String>,
    /// Accepted for runc's sake: a paused container isn't resumed for it.
    #[arg(long, hide = true)]
    pub ignore_paused: bool,
}

#[derive(Args)]
pub struct DockerArgs {
    /// Its name there: docker run --runtime=NAME.
    #[arg(long, value_name = "NAME", default_value = "palisade")]
    pub runtime: String,
    /// Docker's configuration.
    #[arg(long, value_name = "FILE", default_value = docker::CONFIG)]
    pub config_file: PathBuf,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["stacks", "ps", "log_level", "strace"])))]
pub struct DebugArgs {
    pub id: String,
    /// Print what each task is doing, and the threads of the sandbox's kernel.
    #[arg(long)]
    pub stacks: bool,
    /// List processes.
    #[arg(long)]
    pub ps: bool,
    /// What the container says of itself at its end: `debug` adds the system calls that were missed.
    #[arg(long, value_enum)]
    pub log_level: Option<LogLevel>,
    /// Write every system call to standard output until the container ends, or end that.
    #[arg(long, value_enum)]
    pub strace: Option<Switch>,
}

#[derive(Args)]
pub struct UpdateArgs {
    /// Name of the container.
    pub id: String,
    /// A file (or - for standard input) with what linux.resources may hold.
    #[arg(long, short = 'r', value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Bytes; -1 for no limit.
    #[arg(long, short = 'm', allow_negative_numbers = true)]
    pub memory: Option<i64>,
    #[arg(long, allow_negative_numbers = true)]
    pub memory_reservation: Option<i64>,
    /// Of memory and swap together.
    #[arg(long, allow_negative_numbers = true)]
    pub memory_swap: Option<i64>,
    /// Microseconds of CPU in a period.
    #[arg(long, allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    #[arg(long)]
    pub cpu_period: Option<u64>,
    #[arg(long, visible_alias = "cpu-shares")]
    pub cpu_share: Option<u64>,
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    #[arg(long)]
    pub blkio_weight: Option<u16>,
    /// Tasks; -1 for no limit.
    #[arg(long, allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub cpu_rt_period: Option<u64>,
    /// Accepted for runc's sake.
    #[arg(long, hide = true, allow_negative_numbers = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub kernel_memory: Option<i64>,
    /// Accepted for runc's sake.
    #[arg(long, hide = true)]
    pub kernel_memory_tcp: Option<i64>,
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
        /// Leave it where it has ended: `delete` removes it.
        #[arg(long)]
        keep: bool,
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
        #[arg(long, short = 'f', value_enum, default_value = "table")]
        format: Format,
    },
    /// Run another program in a running container.
    Exec(Box<ExecArgs>),
    /// Stop a container's programs where they are.
    Pause { id: String },
    /// Let a paused container's programs go on.
    Resume { id: String },
    /// Wait for a container's end, print its exit status as JSON.
    Wait {
        id: String,
        /// Wait for this process inside.
        #[arg(long)]
        pid: Option<i32>,
    },
    /// List a container's processes: as it numbers them itself, or (json) as the host does.
    Ps {
        id: String,
        #[arg(long, short = 'f', value_enum, default_value = "table")]
        format: Format,
        /// Accepted for runc's sake.
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Print what a container uses, as JSON.
    Events {
        id: String,
        /// Once.
        #[arg(long)]
        stats: bool,
        /// Between two, such as 5s.
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        interval: Duration,
    },
    /// Change what a container may use.
    Update(Box<UpdateArgs>),
    /// Not there: containers can't be saved.
    #[command(hide = true)]
    Checkpoint {
        id: String,
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Not there: containers can't be saved.
    #[command(hide = true)]
    Restore {
        id: String,
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Print what this runtime can do, as JSON.
    Features,
    /// Write a config.json to start from.
    Spec {
        #[arg(long, short = 'b', value_name = "DIR")]
        bundle: Option<PathBuf>,
        /// With the caller as the only user.
        #[arg(long)]
        rootless: bool,
    },
    /// Look into a running container.
    Debug(DebugArgs),
    /// Make palisade known to Docker as a runtime.
    Install {
        #[command(flatten)]
        docker: DockerArgs,
        /// Options that Docker is to run it with.
        #[arg(last = true)]
        flags: Vec<String>,
    },
    /// Make it unknown to Docker again.
    Uninstall {
        #[command(flatten)]
        docker: DockerArgs,
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

impl Command {
    /// Its name and the container that it is about, for the names of log files.
    #[must_use]
    pub fn name_and_id(&self) -> (&'static str, &str) {
        match self {
            Self::Do(_) => ("do", ""),
            Self::Run { create, .. } => ("run", &create.id),
            Self::Create(create) => ("create", &create.id),
            Self::Start { id } => ("start", id),
            Self::State { id } => ("state", id),
            Self::Kill { id, .. } => ("kill", id),
            Self::Delete { id, .. } => ("delete", id),
            Self::List { .. } => ("list", ""),
            Self::Exec(args) => ("exec", &args.id),
            Self::Pause { id } => ("pause", id),
            Self::Resume { id } => ("resume", id),
            Self::Wait { id, .. } => ("wait", id),
            Self::Ps { id, .. } => ("ps", id),
            Self::Events { id, .. } => ("events", id),
            Self::Update(args) => ("update", &args.id),
            Self::Checkpoint { id, .. } => ("checkpoint", id),
            Self::Restore { id, .. } => ("restore", id),
            Self::Features => ("features", ""),
            Self::Spec { .. } => ("spec", ""),
            Self::Debug(args) => ("debug", &args.id),
            Self::Install { .. } => ("install", ""),
            Self::Uninstall { .. } => ("uninstall", ""),
            Self::Help { .. } => ("help", ""),
        }
    }
}
