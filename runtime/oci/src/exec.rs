//! `exec`: another program in a running container.
//!
//! The program belongs to the connection on which it was asked for. Who holds the other end is its process for the outside: this command, or
//! with `--detach` a fork of it, which has the number that is told. It passes on signals, ends with the program and with its status, and
//! when it is killed, so is the program.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use control::{Connection, Link, Process, Request, Response, Target};
use jail::Signals;
use terminal::{Bridge, Program, Tty};

use crate::create::console;
use crate::state::{self, Container, Status};
use crate::{lifecycle, process, spec};

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

/// Standard streams of the program, and what serves its terminal meanwhile.
struct Streams {
    fds: Vec<OwnedFd>,
    /// Nothing passes here without a terminal.
    bridge: Bridge,
}

fn streams(program: &Process, options: &ExecOptions) -> Result<Streams> {
    let (ours, theirs) = Link::pair()?;
    let Some(size) = program.terminal else {
        let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let fds = [input.as_fd(), output.as_fd(), error.as_fd()].map(|fd| fd.try_clone_to_owned());
        return Ok(Streams { fds: fds.into_iter().collect::<Result<_, _>>()?, bridge: Bridge::lazily(ours, None) });
    };
    let fds = vec![theirs.as_fd().try_clone_to_owned()?];
    let tty = match &options.console_socket {
        Some(socket) => Tty::own(console(socket, size)?)?,
        None if options.detach => bail!("a terminal and --detach need --console-socket"),
        None => Tty::beside_streams()?.context("--tty: no standard stream is a terminal")?,
    };
    Ok(Streams { fds, bridge: Bridge::new(ours, tty) })
}

/// The program as a client of its sandbox sees it.
struct Remote(Connection);

impl Program for Remote {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn ended(&mut self, ready: bool) -> std::io::Result<Option<i32>> {
        if !ready {
            return Ok(None);
        }
        Ok(match self.0.receive::<Response>() {
            Ok((Response::Exited { status }, _)) => Some(status),
            // To a signal.
            Ok(_) => None,
            // The container has ended.
            Err(_) => Some(137),
        })
    }

    fn signal(&mut self, signo: i32, _: bool) {
        let _ = self.0.send(&Request::Signal { signo, target: Target::Own }, &[]);
    }
}

/// Runs a program in a container; returns its exit status, or 0 when it runs with `detach`.
///
/// # Errors
/// When the container isn't running, or the program can't be run.
pub fn exec(root: &Path, id: &str, options: &ExecOptions) -> Result<i32> {
    let container = Container::load(root, id)?;
    container.require(&[Status::Running], "exec")?;
    let program = program(&container, options)?;
    if options.detach {
        return detached(&container, program, options);
    }
    let Streams { fds, bridge } = streams(&program, options)?;
    let signals = Signals::take(&Bridge::signals(&jail::catchable()))?;
    let (connection, inside) = start(&container, program, fds)?;
    told(options, std::process::id(), inside)?;
    Ok(bridge.attend(&mut Remote(connection), &signals)?)
}

/// Asks for a program; returns its connection and its number inside.
fn start(container: &Container, program: Process, fds: Vec<OwnedFd>) -> Result<(Connection, i32)> {
    let connection = lifecycle::connect(container)?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
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

/// Has a fork of this process stand for the program.
fn detached(container: &Container, program: Process, options: &ExecOptions) -> Result<i32> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let Some(pid) = jail::fork().context("cannot fork")? else {
        drop(ours);
        std::process::exit(stand(container, program, options, theirs))
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
fn stand(container: &Container, program: Process, options: &ExecOptions, mut maker: UnixStream) -> i32 {
    // Whoever the caller's session belongs to has nothing to do with it. A terminal of the program's own belongs to this one.
    let _ = rustix::process::setsid();
    let started = Signals::take(&Bridge::signals(&jail::catchable())).map_err(anyhow::Error::from).and_then(|signals| {
        let Streams { fds, bridge } = streams(&program, options)?;
        // The streams are the program's alone from now on: who holds their other ends must see it end.
        let (connection, inside) = start(container, program, fds)?;
        Ok((signals, bridge, connection, inside))
    });
    let said = match &started {
        Ok((.., inside)) => Ok(*inside),
        Err(error) => {
            Err((format!("{error:#}"), error.downcast_ref().map_or(125, |refused: &lifecycle::Refused| refused.status)))
        }
    };
    let Ok((signals, bridge, connection, _)) = started else {
        let _ = serde_json::to_writer(maker, &said);
        return 125;
    };
    let mut keep = vec![0, 1, 2, connection.as_fd().as_raw_fd(), signals.as_fd().as_raw_fd(), maker.as_raw_fd()];
    keep.extend(bridge.raw_fds());
    let _ = silence().and_then(|()| Ok(jail::close_others(&keep)?));
    let _ = serde_json::to_vec(&said).map(|said| maker.write_all(&said));
    drop(maker);
    bridge.attend(&mut Remote(connection), &signals).unwrap_or(125)
}

/// Lets the standard streams lead nowhere.
fn silence() -> Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
