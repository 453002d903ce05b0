//! `exec`: another program in a running container.
//!
//! The program belongs to the connection on which it was asked for. Who holds the other end is its process for the outside: this command, or
//! with `--detach` a fork of it, which has the number that is told. It passes on signals, ends with the program and with its status, and
//! when it is killed, so is the program.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use control::{Connection, Process, Request, Response, Target};
use jail::Signals;
use rustix::event::{PollFd, PollFlags, poll};

use crate::state::{self, Container, Status};
use crate::{console, lifecycle, process, spec};

/// What `exec` is told besides the id.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// A file with the program as the configuration has it.
    pub process: Option<PathBuf>,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
    /// `UID[:GID]`
    pub user: Option<String>,
    pub additional_gids: Vec<u32>,
    pub caps: Vec<String>,
    pub no_new_privs: bool,
    pub tty: bool,
    pub detach: bool,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    /// The number of the program inside is written here.
    pub internal_pid_file: Option<PathBuf>,
}

/// The program: from a file, or the container's own with what is told otherwise.
fn program(container: &Container, options: &ExecOptions) -> Result<Process> {
    if let Some(file) = &options.process {
        let given: spec::Process = spec::read(file)?;
        return process::convert(&given).with_context(|| file.display().to_string());
    }
    let path = container.record.bundle.join("config.json");
    let bundle: spec::Spec = spec::read(&path)?;
    let mut given = bundle.process.unwrap_or_default();
    given.args = Some(options.args.clone());
    given.terminal = options.tty;
    given.console_size = None;
    let env = given.env.get_or_insert_default();
    env.extend(options.env.iter().cloned());
    if let Some(cwd) = &options.cwd {
        given.cwd.clone_from(cwd);
    }
    if let Some(user) = &options.user {
        let number = |text: &str| text.parse().with_context(|| format!("--user {user:?}: give UID or UID:GID as numbers"));
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        given.user.uid = number(uid)?;
        if !gid.is_empty() {
            given.user.gid = number(gid)?;
        }
    }
    given.user.additional_gids.get_or_insert_default().extend(&options.additional_gids);
    for name in &options.caps {
        if process::capability(name).is_none() {
            bail!("--cap {name:?}: there is no such capability");
        }
        let caps = given.capabilities.get_or_insert_default();
        for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted, &mut caps.inheritable, &mut caps.ambient] {
            set.get_or_insert_default().push(name.clone());
        }
    }
    given.no_new_privileges |= options.no_new_privs;
    let mut program = process::convert(&given)?;
    if let Some(profile) = bundle.linux.and_then(|linux| linux.seccomp) {
        program.seccomp = crate::seccomp::compile(&profile)?;
    }
    Ok(program)
}

/// Standard streams of the program, and what becomes of the caller's terminal meanwhile.
struct Streams {
    fds: Vec<OwnedFd>,
    /// The caller's terminal is the program's.
    own: Option<console::Raw>,
}

fn streams(program: &mut Process, options: &ExecOptions) -> Result<Streams> {
    let Some(size) = program.terminal else {
        let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let fds = [input.as_fd(), output.as_fd(), error.as_fd()].map(|fd| fd.try_clone_to_owned());
        return Ok(Streams { fds: fds.into_iter().collect::<Result<_, _>>()?, own: None });
    };
    if let Some(socket) = &options.console_socket {
        return Ok(Streams { fds: vec![console::for_socket(socket, size)?], own: None });
    }
    if options.detach {
        bail!("a terminal and --detach need --console-socket");
    }
    let terminal = std::io::stdin().as_fd().try_clone_to_owned()?;
    let own = console::Raw::make(terminal.as_fd()).context("--tty: standard input is no terminal")?;
    program.terminal = Some(console::size(terminal.as_fd())?);
    Ok(Streams { fds: vec![terminal], own: Some(own) })
}

/// Runs a program in a container; returns its exit status, or 0 when it runs with `detach`.
///
/// # Errors
/// When the container isn't running, or the program can't be run.
pub fn exec(root: &Path, id: &str, options: &ExecOptions) -> Result<i32> {
    let container = Container::load(root, id)?;
    container.require(&[Status::Running], "exec")?;
    let mut program = program(&container, options)?;
    let streams = streams(&mut program, options)?;
    if options.detach {
        return detached(&container, program, streams, options);
    }
    let signals = Signals::take(&jail::catchable())?;
    let (connection, inside) = start(&container, program, &streams)?;
    told(options, std::process::id(), inside)?;
    // The terminal is as before when the streams are dropped.
    attend(&connection, &signals, streams.own.is_some().then(|| streams.fds.first()).flatten())
}

/// Asks for a program; returns its connection and its number inside.
fn start(container: &Container, program: Process, streams: &Streams) -> Result<(Connection, i32)> {
    let connection = lifecycle::connect(container)?;
    let fds: Vec<_> = streams.fds.iter().map(AsFd::as_fd).collect();
    connection.send(&Request::Exec(Box::new(program)), &fds)?;
    match connection.receive().with_context(|| format!("container {} doesn't answer", container.id()))?.0 {
        Response::Started { pid } => {
            connection.set_patience(None)?;
            Ok((connection, pid))
        }
        Response::Failed { why, status } => bail!(lifecycle::Refused::new(why, status)),
        other => bail!("unexpected answer {other:?}"),
    }
}

fn told(options: &ExecOptions, pid: u32, inside: i32) -> Result<()> {
    for (file, pid) in [(&options.pid_file, i64::from(pid)), (&options.internal_pid_file, i64::from(inside))] {
        if let Some(file) = file {
            state::replace(file, pid.to_string().as_bytes())?;
        }
    }
    Ok(())
}

/// Stands for a program until it ends; returns its exit status.
fn attend(connection: &Connection, signals: &Signals, terminal: Option<&OwnedFd>) -> Result<i32> {
    loop {
        let mut fds = [PollFd::new(connection, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let [on_answer, on_signal] = fds.map(|fd| !fd.revents().is_empty());
        if on_answer {
            match connection.receive::<Response>() {
                Ok((Response::Exited { status }, _)) => return Ok(status),
                // To a signal or a size.
                Ok(_) => {}
                // The container has ended.
                Err(_) => return Ok(137),
            }
        }
        if on_signal {
            let request = match signals.next()? {
                signo if signo == jail::SIGWINCH => match terminal.map(|terminal| console::size(terminal.as_fd())) {
                    Some(Ok(size)) => Request::Resize(size),
                    _ => continue,
                },
                signo if signo == jail::SIGCHLD => continue,
                signo => Request::Signal { signo, target: Target::Own },
            };
            let _ = connection.send(&request, &[]);
        }
    }
}

/// Has a fork of this process stand for the program.
fn detached(container: &Container, program: Process, streams: Streams, options: &ExecOptions) -> Result<i32> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let Some(pid) = jail::fork().context("cannot fork")? else {
        drop(ours);
        std::process::exit(stand(container, program, streams, theirs))
    };
    drop(theirs);
    let mut said = String::new();
    ours.read_to_string(&mut said)?;
    let said: Result<i32, (String, i32)> = serde_json::from_str(&said).context("the program's process has ended")?;
    match said {
        Ok(inside) => told(options, u32::try_from(pid)?, inside).map(|()| 0),
        Err((why, status)) => bail!(lifecycle::Refused::new(why, status)),
    }
}

/// What the fork does: tells `maker` how it went, and stands for the program; returns its exit status.
fn stand(container: &Container, program: Process, streams: Streams, mut maker: UnixStream) -> i32 {
    // Whoever the caller's session belongs to has nothing to do with it.
    let _ = rustix::process::setsid();
    let started = Signals::take(&jail::catchable()).map_err(anyhow::Error::from).and_then(|signals| {
        let (connection, inside) = start(container, program, &streams)?;
        Ok((signals, connection, inside))
    });
    let said = match &started {
        Ok((_, _, inside)) => Ok(*inside),
        Err(error) => {
            Err((format!("{error:#}"), error.downcast_ref().map_or(125, |refused: &lifecycle::Refused| refused.status)))
        }
    };
    let Ok((signals, connection, _)) = started else {
        let _ = serde_json::to_writer(maker, &said);
        return 125;
    };
    // A terminal's size is told to the session that it belongs to.
    let terminal = streams.fds.first().filter(|_| streams.fds.len() == 1).and_then(|fd| {
        rustix::process::ioctl_tiocsctty(fd).ok()?;
        fd.try_clone().ok()
    });
    // Other streams are the program's alone from now on: who holds their other ends must see it end.
    drop(streams);
    let mut keep = vec![connection.as_fd().as_raw_fd(), signals.as_fd().as_raw_fd(), maker.as_raw_fd()];
    keep.extend(terminal.iter().map(AsRawFd::as_raw_fd));
    let _ = silence().and_then(|()| Ok(jail::close_others(&[&[0, 1, 2], keep.as_slice()].concat())?));
    let _ = serde_json::to_vec(&said).map(|said| maker.write_all(&said));
    drop(maker);
    attend(&connection, &signals, terminal.as_ref()).unwrap_or(125)
}

/// Lets the standard streams lead nowhere.
fn silence() -> Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
