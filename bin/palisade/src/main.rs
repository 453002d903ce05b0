//! The command line.
#![forbid(unsafe_code)]

mod cli;

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use boot::{BootConfig, BootError, Mount, Quota, Start, Stdio, Wire, Writes};
use clap::Parser;
use control::{Link, Process};
use jail::{IdMaps, Signals};
use oci::{
    BlockIo, Container, Cpu, CreateOptions, ExecOptions, Memory, Options, Overlay, Pids, ProcessInfo, Refused, Resources, Then,
};
use terminal::{Bridge, Child, Tty};

use cli::{
    Cli, Command, CreateArgs, DebugArgs, DoArgs, DockerArgs, ExecArgs, Format, Global, LogLevel, Rootless, Switch, Topic,
    UpdateArgs,
};

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
    Ok(Mount::bind(target, PathBuf::from(source), writes))
}

fn run_do(args: DoArgs, options: Options) -> Result<i32> {
    let mut mounts = BootConfig::usual_mounts();
    for text in &args.volume {
        mounts.push(volume(text)?);
    }
    let config = BootConfig {
        root: args.root,
        writes: Writes::ToMemory,
        mounts,
        devices: Vec::new(),
        masked: Vec::new(),
        read_only: Vec::new(),
        propagation: None,
        hostname: None,
        domainname: None,
        sysctls: Vec::new(),
        process: Process { argv: args.command, env: environment(args.env), cwd: args.cwd, ..Process::default() },
        ids: IdMaps::default(),
        network: None,
        quota: Quota::default(),
        strace: args.strace || options.strace,
        debug: options.debug,
        log: options.debug_log,
    };
    jail::block_signals();
    let (link, theirs) = Link::pair().context("cannot make a socket pair")?;
    let (tty, on_terminal) = Tty::of_streams().context("cannot use the terminal")?.unzip();
    let on_terminal = on_terminal.unwrap_or_default();
    let mut bridge = Bridge::lazily(link, tty);
    let stdio = Stdio {
        terminal: on_terminal.contains(&true).then(|| Wire::Link(theirs.clone())),
        on_terminal,
        // Raw or not, a line is a line.
        errors: on_terminal[2].then(|| bridge.show_errors()).transpose()?,
        reports: Some(theirs),
    };
    let sandbox = boot::spawn(&config, Start::AtOnce, stdio)?;
    sandbox.go()?;
    let signals = Signals::take(&Bridge::signals(&jail::FORWARDED)).context("cannot wait for signals")?;
    bridge.attend(&mut Child(sandbox.pid), &signals).context("cannot wait for the sandbox")
}

/// A signal by number or name, with or without SIG.
fn signal(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { bail!("signal {number}: between 1 and 64") };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // Real-time signals, counted from either end.
    for (base, sign, first) in [("RTMIN", '+', 34), ("RTMAX", '-', 64)] {
        let Some(rest) = name.strip_prefix(base) else { continue };
        let offset =
            if rest.is_empty() { Some(0) } else { rest.strip_prefix(sign).and_then(|offset| offset.parse::<i32>().ok()) };
        let number = offset.filter(|offset| (0..=30).contains(offset));
        let number = number.map(|offset| if sign == '+' { first + offset } else { first - offset });
        return number.with_context(|| format!("signal {text:?} is unknown"));
    }
    // signal(7), x86-64.
    let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
        "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR",
        "SYS",
    ];
    let found = names.iter().position(|known| *known == name).with_context(|| format!("signal {text:?} is unknown"))?;
    Ok(i32::try_from(found + 1)?)
}

/// Refuses `--preserve-fds`.
fn no_more_descriptors(count: u32) -> Result<()> {
    if count > 0 {
        bail!("--preserve-fds={count}: only standard streams can be passed (use 0)");
    }
    Ok(())
}

fn create_options(args: CreateArgs) -> Result<CreateOptions> {
    no_more_descriptors(args.preserve_fds)?;
    Ok(CreateOptions {
        bundle: args.bundle.unwrap_or_else(|| ".".into()),
        pid_file: args.pid_file,
        console_socket: args.console_socket,
    })
}

fn exec_options(args: ExecArgs) -> ExecOptions {
    ExecOptions {
        process: args.process,
        args: args.command,
        env: args.env,
        cwd: args.cwd,
        user: args.user,
        additional_gids: args.additional_gids,
        caps: args.cap,
        no_new_privs: args.no_new_privs,
        tty: args.tty,
        detach: args.detach,
        pid_file: args.pid_file,
        console_socket: args.console_socket,
        internal_pid_file: args.internal_pid_file,
    }
}

fn options(global: &Global, command: &Command) -> Result<Options> {
    oci::check_network(&global.network)?;
    oci::check_host_files(&global.host_uds, &global.host_fifo)?;
    let debug_log = match &global.debug_log {
        None => None,
        Some(pattern) => {
            let (name, id) = command.name_and_id();
            let time = oci::now().replace(':', "");
            Some(Arc::new(oci::open_debug_log(Path::new(&oci::debug_log(pattern, id, name, &time)))?))
        }
    };
    Ok(Options {
        root: global.state_root.clone().unwrap_or_else(oci::state_root),
        systemd_cgroup: global.systemd_cgroup,
        ignore_cgroups: global.ignore_cgroups,
        rootless: match global.rootless {
            Rootless::Auto => None,
            Rootless::True => Some(true),
            Rootless::False => Some(false),
        },
        strace: global.strace,
        debug: global.debug,
        overlay: Overlay::parse(&global.overlay2)?,
        debug_log,
    })
}

/// Does what is asked; returns the exit status. The log for developers is told what was asked, and how it went.
fn execute(cli: Cli) -> Result<i32> {
    let options = options(&cli.global, &cli.command)?;
    let log = options.debug_log.clone();
    let note = |text: &str| {
        if let Some(log) = &log {
            let _ = writeln!(&**log, "{} palisade[{}]: {text}", oci::now(), std::process::id());
        }
    };
    note(&format!("{:?}", std::env::args_os().collect::<Vec<_>>()));
    let result = perform(cli.command, options);
    match &result {
        Ok(status) => note(&format!("exit status {status}")),
        Err(error) => note(&format!("error: {error:#}")),
    }
    result
}

fn perform(command: Command, mut options: Options) -> Result<i32> {
    let root = options.root.clone();
    match command {
        Command::Do(args) => return run_do(args, options),
        Command::Run { create, detach, keep } => {
            options.strace |= create.strace;
            let id = create.id.clone();
            let then = match (detach, keep) {
                (true, _) => Then::Return,
                (false, true) => Then::Keep,
                (false, false) => Then::Remove,
            };
            return oci::run(&options, &id, &create_options(create)?, then);
        }
        Command::Create(create) => {
            options.strace |= create.strace;
            oci::create(&options, &create.id.clone(), &create_options(create)?)?;
        }
        Command::Start { id } => oci::start(&root, &id)?,
        Command::State { id } => println!("{}", serde_json::to_string_pretty(&Container::load(&root, &id)?.json())?),
        Command::Kill { id, signal: text, all } => oci::kill(&root, &id, signal(&text)?, all)?,
        Command::Delete { id, force } => oci::delete(&root, &id, force)?,
        Command::Exec(args) => {
            no_more_descriptors(args.preserve_fds)?;
            if let Some(path) = args.cgroup.iter().find(|path| *path != "/") {
                bail!("--cgroup={path}: programs are in the container's own group only (leave it out)");
            }
            return oci::exec(&root, &args.id.clone(), &exec_options(*args));
        }
        Command::Pause { id } => oci::pause(&root, &id, true)?,
        Command::Resume { id } => oci::pause(&root, &id, false)?,
        Command::Wait { id, pid } => {
            let status = oci::wait(&root, &id, pid)?;
            println!("{}", serde_json::json!({ "id": id, "exitStatus": status }));
        }
        Command::List { quiet, format } => list(&Container::all(&root)?, quiet, format)?,
        Command::Ps { id, format: Format::Json, .. } => println!("{}", serde_json::to_string(&oci::host_processes(&root, &id)?)?),
        Command::Ps { id, .. } => print!("{}", processes(&oci::processes(&root, &id)?)),
        Command::Events { id, stats, interval } => oci::events(&root, &id, stats, interval, |event| println!("{event}"))?,
        Command::Update(args) => oci::update(&root, &args.id, &resources(&args)?)?,
        Command::Checkpoint { .. } | Command::Restore { .. } => {
            bail!("containers can't be saved and restored (pause and resume: palisade pause, resume)")
        }
        Command::Features => println!("{}", serde_json::to_string_pretty(&oci::features())?),
        Command::Spec { bundle, rootless } => {
            let path = oci::write_spec(&bundle.unwrap_or_else(|| ".".into()), rootless)?;
            println!("{}", path.display());
        }
        Command::Debug(args) => debug(&root, &args)?,
        Command::Install { docker: DockerArgs { runtime, config_file }, flags } => {
            let program = std::fs::canonicalize("/proc/self/exe").context("cannot find this program's own file")?;
            let outcome = docker::install(&config_file, &runtime, &program, &flags)?;
            tell(outcome, &config_file, &format!("runtime {runtime:?} is {}", program.display()));
        }
        Command::Uninstall { docker: DockerArgs { runtime, config_file } } => {
            let outcome = docker::uninstall(&config_file, &runtime)?;
            tell(outcome, &config_file, &format!("there is no runtime {runtime:?} any more"));
        }
        Command::Help { topic: Topic::Syscalls } => {
            for (number, name, level) in syscalls::list() {
                println!("{number:4} {name:24} {level}");
            }
            let (full, partial, missing) = syscalls::counts();
            println!("{full} full, {partial} partial, {missing} not implemented");
        }
    }
    Ok(0)
}

/// Looks into a container: all that is asked for, the trace last, for it doesn't end by itself.
fn debug(root: &Path, args: &DebugArgs) -> Result<()> {
    if args.ps {
        print!("{}", processes(&oci::processes(root, &args.id)?));
    }
    if args.stacks {
        print!("{}", oci::stacks(root, &args.id)?);
    }
    if let Some(level) = args.log_level {
        oci::set_log_level(root, &args.id, level == LogLevel::Debug)?;
    }
    if let Some(strace) = args.strace {
        oci::strace(root, &args.id, strace == Switch::On)?;
    }
    Ok(())
}

/// Says what has become of Docker's configuration, and what is to be done.
fn tell(outcome: docker::Outcome, file: &Path, what: &str) {
    match outcome {
        docker::Outcome::Unchanged => println!("{}: {what} (it was so already)", file.display()),
        docker::Outcome::Changed => {
            println!("{}: {what}", file.display());
            println!("Docker must be told: systemctl reload docker (or: kill -HUP $(pidof dockerd))");
        }
    }
}

fn list(all: &[Container], quiet: bool, format: Format) -> Result<()> {
    if quiet {
        all.iter().for_each(|container| println!("{}", container.id()));
        return Ok(());
    }
    let states: Vec<_> = all.iter().map(Container::json).collect();
    if format == Format::Json {
        // runc says null where there is none, which Go reads as an empty list, as it does this.
        println!("{}", serde_json::to_string(&states)?);
        return Ok(());
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|state| {
        [
            state.id.to_owned(),
            state.pid.to_string(),
            state.status.to_string(),
            state.bundle.display().to_string(),
            state.created.to_owned(),
            state.owner.clone(),
        ]
    }));
    print!("{}", table(&rows));
    Ok(())
}

fn processes(all: &[ProcessInfo]) -> String {
    let mut rows = vec![["UID", "PID", "PPID", "STAT", "THREADS", "TIME", "CMD"].map(str::to_owned)];
    rows.extend(all.iter().map(|process| {
        let seconds = process.cpu / 1000;
        [
            process.uid.to_string(),
            process.pid.to_string(),
            process.ppid.to_string(),
            process.state.to_string(),
            process.threads.to_string(),
            format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            process.command.clone(),
        ]
    }));
    table(&rows)
}

/// What `update` is told: a file, and options over it.
fn resources(args: &UpdateArgs) -> Result<Resources> {
    let mut all: Resources = match &args.resources {
        None => Resources::default(),
        Some(file) => {
            let text = if file.as_os_str() == "-" {
                let mut text = Vec::new();
                std::io::stdin().read_to_end(&mut text).context("standard input")?;
                text
            } else {
                std::fs::read(file).with_context(|| file.display().to_string())?
            };
            oci::parse(&text).with_context(|| file.display().to_string())?
        }
    };
    let memory = Memory { limit: args.memory, reservation: args.memory_reservation, swap: args.memory_swap, ..Memory::default() };
    let cpu = Cpu {
        shares: args.cpu_share,
        quota: args.cpu_quota,
        period: args.cpu_period,
        cpus: args.cpuset_cpus.clone(),
        mems: args.cpuset_mems.clone(),
        ..Cpu::default()
    };
    all.update(&Resources {
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: args.pids_limit.map(|limit| Pids { limit }),
        block_io: args.blkio_weight.map(|weight| BlockIo { weight: Some(weight), ..BlockIo::default() }),
        ..Resources::default()
    });
    Ok(all)
}

/// Columns as wide as they must be.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + 2).max(12);
        }
    }
    let line = |row: &[String; N]| {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Writes an error where errors are wanted: standard error, and the log as containerd and Docker read it.
fn report(error: &anyhow::Error, log: Option<&PathBuf>, json: bool, debug: bool) {
    let line = format!("{error:#}");
    let _ =
        if debug { writeln!(std::io::stderr(), "palisade: {error:?}") } else { writeln!(std::io::stderr(), "palisade: {line}") };
    let Some(path) = log else { return };
    let entry = if json {
        serde_json::json!({ "level": "error", "msg": line, "time": oci::now() }).to_string()
    } else {
        format!("time={:?} level=error msg={line:?}", oci::now())
    };
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
    let global = &cli.global;
    let (log, json, debug) = (global.log.clone(), global.log_format == cli::LogFormat::Json, global.debug);
    match execute(cli) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            report(&error, log.as_ref(), json, debug);
            let boot = error.downcast_ref::<BootError>().map(BootError::status);
            let status = boot.or_else(|| error.downcast_ref::<Refused>().map(|refused| refused.status)).unwrap_or(125);
            ExitCode::from(u8::try_from(status).unwrap_or(125))
        }
    }
}
