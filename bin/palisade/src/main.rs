//! The command line.
#![forbid(unsafe_code)]

mod cli;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use boot::{BootConfig, BootError, Mount, Quota, Source, Start, Writes};
use clap::Parser;
use control::Process;
use jail::IdMaps;
use oci::{Container, CreateOptions};

use cli::{Cli, Command, CreateArgs, DoArgs, Switch, Topic};

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

/// `SRC:DST[:ro]`
fn volume(text: &str) -> Result<Mount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, writes) = match parts.as_slice() {
        [source, target] | [source, target, "rw"] => (source, target, Writes::ToHost),
        [source, target, "ro"] => (source, target, Writes::No),
        _ => bail!("--volume {text:?}: give SRC:DST or SRC:DST:ro"),
    };
    if source.is_empty() || !target.starts_with('/') {
        bail!("--volume {text:?}: DST must be an absolute path");
    }
    Ok(Mount { target: (*target).to_owned(), source: Source::Bind(PathBuf::from(source), writes) })
}

fn run_do(args: DoArgs) -> Result<i32> {
    let mut mounts = BootConfig::usual_mounts();
    for text in &args.volume {
        mounts.push(volume(text)?);
    }
    let config = BootConfig {
        root: args.root,
        writes: Writes::ToMemory,
        mounts,
        hostname: None,
        process: Process { argv: args.command, env: environment(args.env), cwd: args.cwd, ..Process::default() },
        ids: IdMaps::default(),
        network: None,
        quota: Quota::default(),
        strace: args.strace,
    };
    jail::block_signals();
    let sandbox = boot::spawn(&config, Start::AtOnce)?;
    sandbox.go()?;
    jail::supervise(sandbox.pid).context("cannot wait for the sandbox")
}

/// A signal by number or name, with or without SIG.
fn signal(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { bail!("signal {number}: between 1 and 64") };
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    // signal(7), x86-64.
    let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
        "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR",
        "SYS",
    ];
    let found = names.iter().position(|known| *known == name).with_context(|| format!("signal {text:?} is unknown"))?;
    Ok(i32::try_from(found + 1)?)
}

fn create_options(args: &CreateArgs) -> CreateOptions {
    CreateOptions {
        bundle: args.bundle.clone().unwrap_or_else(|| ".".into()),
        pid_file: args.pid_file.clone(),
        strace: args.strace,
    }
}

/// Does what is asked; returns the exit status.
fn execute(cli: Cli) -> Result<i32> {
    let root = cli.state_root.unwrap_or_else(oci::state_root);
    let find = |id: &str| Container::load(&root, id);
    match cli.command {
        Command::Do(args) => return run_do(args),
        Command::Run { create, detach } => return oci::run(&root, &create.id, &create_options(&create), detach),
        Command::Create(args) => drop(oci::create(&root, &args.id, &create_options(&args))?),
        Command::Start { id } => oci::start(&find(&id)?)?,
        Command::State { id } => println!("{}", serde_json::to_string_pretty(&find(&id)?.json())?),
        Command::Kill { id, signal: text, all } => oci::kill(&find(&id)?, signal(&text)?, all)?,
        Command::Delete { id, force } => match find(&id) {
            Ok(container) => oci::delete(&container, force)?,
            // As runc: what isn't there is deleted.
            Err(_) if force => {}
            Err(error) => return Err(error),
        },
        Command::List { quiet } => list(&Container::all(&root)?, quiet),
        Command::Spec { bundle } => {
            let path = oci::write_spec(&bundle.unwrap_or_else(|| ".".into()))?;
            println!("{}", path.display());
        }
        Command::Debug { id, strace } => oci::strace(&find(&id)?, strace == Switch::On)?,
        Command::Help { topic: Topic::Syscalls } => {
            for (number, name, level) in syscalls::list() {
                println!("{number:4} {name:24} {level}");
            }
        }
    }
    Ok(0)
}

fn list(all: &[Container], quiet: bool) {
    if !quiet {
        println!("{:24} {:>8} {:10} {:24} BUNDLE", "ID", "PID", "STATUS", "CREATED");
    }
    for container in all {
        if quiet {
            println!("{}", container.id());
            continue;
        }
        let status = format!("{:?}", container.status()).to_lowercase();
        println!(
            "{:24} {:>8} {status:10} {:24} {}",
            container.id(),
            container.pid(),
            container.created(),
            container.bundle().display()
        );
    }
}

/// Writes an error where errors are wanted: standard error, and the log as containerd and Docker read it.
fn report(error: &anyhow::Error, log: Option<&PathBuf>, json: bool, debug: bool) {
    let line = format!("{error:#}");
    let _ =
        if debug { writeln!(std::io::stderr(), "palisade: {error:?}") } else { writeln!(std::io::stderr(), "palisade: {line}") };
    let Some(path) = log else { return };
    let entry =
        if json { serde_json::json!({ "level": "error", "msg": line }).to_string() } else { format!("level=error msg={line:?}") };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "{entry}"));
}

/// Starts this program anew if its addresses are where guests' must be.
fn reserve() -> Result<()> {
    // Told by a variable, lest a host that always chooses the same addresses keep it at that.
    const TRIES: &str = "PALISADE_STARTS";
    if boot::reserve() {
        return Ok(());
    }
    let tries: u32 = std::env::var(TRIES).ok().and_then(|tries| tries.parse().ok()).unwrap_or(0);
    if tries >= 16 {
        bail!("the addresses from 0x7ff000000000 on are taken in every new process of this host");
    }
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let error = std::process::Command::new("/proc/self/exe").arg0(name).args(args).env(TRIES, (tries + 1).to_string()).exec();
    Err(error).context("cannot start /proc/self/exe")
}

fn main() -> ExitCode {
    if let Err(error) = reserve() {
        eprintln!("palisade: {error:#}");
        return ExitCode::from(125);
    }
    let cli = Cli::parse();
    let (log, json, debug) = (cli.log.clone(), cli.log_format == cli::LogFormat::Json, cli.debug);
    match execute(cli) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            report(&error, log.as_ref(), json, debug);
            let status = error.downcast_ref::<BootError>().map_or(125, BootError::status);
            ExitCode::from(u8::try_from(status).unwrap_or(125))
        }
    }
}
