//! The command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use boot::BootConfig;
use clap::{Parser, Subcommand};

/// Runs programs under a kernel of their own, in user space.
#[derive(Parser)]
#[command(name = "palisade", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command over a host directory, which stays unchanged: writes go to memory.
    Do {
        /// Directory that becomes the root.
        #[arg(long, default_value = "/")]
        root: PathBuf,
        /// Working directory inside.
        #[arg(long, default_value = "/")]
        cwd: String,
        /// Set an environment variable.
        #[arg(long = "env", short = 'e', value_name = "K=V")]
        env: Vec<String>,
        /// Write every system call to standard error.
        #[arg(long)]
        strace: bool,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Explain a topic.
    Help {
        #[command(subcommand)]
        topic: Topic,
    },
}

#[derive(Subcommand)]
enum Topic {
    /// List all system calls and how much of each is there.
    Syscalls,
}

/// The environment inside: what is given, and what every program expects.
fn environment(given: Vec<String>) -> Vec<String> {
    let defaults = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME", "/root".to_owned()),
        ("TERM", std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned())),
    ];
    let mut env = given;
    for (key, value) in defaults {
        let prefix = format!("{key}=");
        if !env.iter().any(|entry| entry.starts_with(&prefix)) {
            env.push(prefix + &value);
        }
    }
    env
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Do { root, cwd, env, strace, command } => {
            let config = BootConfig { root, cwd, argv: command, env: environment(env), strace };
            match boot::run(&config) {
                Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
                Err(error) => {
                    eprintln!("palisade: {error}");
                    ExitCode::from(125)
                }
            }
        }
        Command::Help { topic: Topic::Syscalls } => {
            for (number, name, level) in syscalls::list() {
                println!("{number:4} {name:24} {level}");
            }
            ExitCode::SUCCESS
        }
    }
}
