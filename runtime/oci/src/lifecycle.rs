//! Create, start, kill, delete.
//!
//! `create` makes the sandbox, whose process is the container's process for the outside: it ends when the first program does, with its
//! status. Commands reach it by a socket in the container's state directory.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use boot::Start;
use control::{Connection, Request, Response, Target};

use crate::bundle;
use crate::state::{Container, Status};

/// Files in a container's directory: where its sandbox takes requests, and where it leaves its exit status.
const SOCKET: &str = "control.sock";
const STATUS: &str = "exit-status";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What `create` and `run` are told besides the id.
pub struct CreateOptions {
    pub bundle: PathBuf,
    pub pid_file: Option<PathBuf>,
    pub strace: bool,
}

/// Makes a container that waits to be started.
///
/// # Errors
/// One line with cause and what to do; nothing is left behind.
pub fn create(root: &Path, id: &str, options: &CreateOptions) -> Result<Container> {
    make(root, id, options).map(|(container, _)| container)
}

fn make(root: &Path, id: &str, options: &CreateOptions) -> Result<(Container, Connection)> {
    let bundle = options.bundle.canonicalize().with_context(|| format!("bundle {}", options.bundle.display()))?;
    let (spec, mut config) = bundle::load(&bundle)?;
    config.strace = options.strace;
    let dir = Container::reserve(root, id)?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let made = launch(&dir, &config).and_then(|(pid, connection)| {
        let container = Container::record(&dir, id, pid, &bundle, annotations)?;
        if let Some(file) = &options.pid_file {
            std::fs::write(file, pid.to_string()).with_context(|| file.display().to_string())?;
        }
        Ok((container, connection))
    });
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    made
}

/// Makes the sandbox; returns its process's number and a connection once it is ready to be started.
fn launch(dir: &Path, config: &boot::BootConfig) -> Result<(i32, Connection)> {
    let listener = UnixListener::bind(dir.join(SOCKET)).with_context(|| format!("{}/{SOCKET}", dir.display()))?;
    let status = std::fs::File::create(dir.join(STATUS)).with_context(|| format!("{}/{STATUS}", dir.display()))?;
    jail::block_signals();
    let sandbox = boot::spawn(config, Start::WhenTold { listener, status })?;
    sandbox.go()?;
    let pid = sandbox.pid;
    Ok((pid, sandbox.ready()?))
}

/// Connects to a container's sandbox.
fn connect(container: &Container) -> Result<Connection> {
    let connection =
        Connection::connect(&container.dir().join(SOCKET)).with_context(|| format!("container {} has ended", container.id()))?;
    connection.set_patience(Some(PATIENCE))?;
    Ok(connection)
}

/// Sends a request that is answered by `Done`.
fn order(container: &Container, connection: &Connection, request: &Request) -> Result<()> {
    order_with(container, connection, request, &[])
}

/// The same, with descriptors.
fn order_with(container: &Container, connection: &Connection, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let ended = || format!("container {} has ended", container.id());
    connection.send(request, fds).with_context(ended)?;
    match connection.receive().with_context(ended)?.0 {
        Response::Done => Ok(()),
        Response::Failed { why, .. } => bail!("{why}"),
        other => bail!("unexpected answer {other:?}"),
    }
}

/// Runs the program of a container that has been created.
///
/// # Errors
/// When it isn't in that state, or its program can't be run.
pub fn start(container: &Container) -> Result<()> {
    match container.status() {
        Status::Created => {}
        other => bail!("container {} is {other:?}: only a created one can be started", container.id()),
    }
    order(container, &connect(container)?, &Request::Start)?;
    container.mark_started()
}

/// Creates a container, runs it to its end and removes it; returns its exit status. `detach`: returns when it runs.
///
/// # Errors
/// As `create` and `start`.
pub fn run(root: &Path, id: &str, options: &CreateOptions, detach: bool) -> Result<i32> {
    let (container, connection) = make(root, id, options)?;
    if let Err(error) = order(&container, &connection, &Request::Start).and_then(|()| container.mark_started()) {
        delete(&container, true)?;
        return Err(error);
    }
    if detach {
        return Ok(0);
    }
    let status = jail::supervise(container.pid()).context("cannot wait for the container")?;
    container.forget()?;
    Ok(status)
}

/// Sends a signal to a container's first process, or to all of them.
///
/// # Errors
/// When it isn't running.
pub fn kill(container: &Container, signo: i32, all: bool) -> Result<()> {
    match container.status() {
        Status::Stopped => bail!("container {} is not running", container.id()),
        // There is no program yet: what would end it ends the container.
        Status::Created => terminate(container),
        Status::Running => {
            let target = if all { Target::All } else { Target::Init };
            order(container, &connect(container)?, &Request::Signal { signo, target })
        }
    }
}

/// Ends a container's sandbox; the host ends all that depends on it.
fn terminate(container: &Container) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(container.pid()).context("no process")?;
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    while container.status() != Status::Stopped {
        // Where the sandbox is our own child.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        if Instant::now() > deadline {
            bail!("container {} doesn't end", container.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Removes a container that has ended; with `force`, ends it first.
///
/// # Errors
/// When it still runs.
pub fn delete(container: &Container, force: bool) -> Result<()> {
    if container.status() != Status::Stopped {
        if !force && container.status() == Status::Running {
            bail!("container {} is running (end it first: palisade kill {0} KILL, or delete --force)", container.id());
        }
        terminate(container)?;
    }
    container.forget()
}

/// Writes the system calls of a container to standard output, until it ends or another call switches it off; or switches it off.
///
/// # Errors
/// When it isn't running.
pub fn strace(container: &Container, on: bool) -> Result<()> {
    let connection = connect(container)?;
    if !on {
        return order(container, &connection, &Request::Trace(false));
    }
    let (mut reader, writer) = std::io::pipe()?;
    // The sandbox must not wait for us for ever: we may be stopped.
    rustix::io::ioctl_fionbio(&writer, true)?;
    order_with(container, &connection, &Request::Trace(true), &[writer.as_fd()])?;
    drop(writer);
    std::io::copy(&mut reader, &mut std::io::stdout())?;
    Ok(())
}
