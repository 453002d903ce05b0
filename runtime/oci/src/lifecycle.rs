//! Create, start, kill, delete.
//!
//! `create` forks a supervisor, whose child is the sandbox. The supervisor is the container's process for the outside: it ends when the
//! container does, with its status. Commands reach the sandbox by a socket in the container's state directory, through the supervisor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use boot::Control;

use crate::bundle;
use crate::state::{Container, Status};

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
    let bundle = options.bundle.canonicalize().with_context(|| format!("bundle {}", options.bundle.display()))?;
    let (spec, mut config) = bundle::load(&bundle)?;
    config.strace = options.strace;
    let dir = Container::reserve(root, id)?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let made = launch(&dir, &config).and_then(|pid| {
        let container = Container::record(&dir, id, pid, &bundle, annotations)?;
        if let Some(file) = &options.pid_file {
            std::fs::write(file, pid.to_string()).with_context(|| file.display().to_string())?;
        }
        Ok(container)
    });
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    made
}

/// Starts the supervisor; returns its number once the sandbox is ready.
fn launch(dir: &Path, config: &boot::BootConfig) -> Result<i32> {
    let listener = UnixListener::bind(dir.join("control.sock")).with_context(|| format!("{}/control.sock", dir.display()))?;
    let (ours, theirs) = UnixStream::pair()?;
    match jail::fork().context("cannot fork")? {
        Some(pid) => {
            drop((listener, theirs));
            let mut line = String::new();
            BufReader::new(ours).read_line(&mut line)?;
            match line.trim_end() {
                "ok" => Ok(pid),
                why => bail!("{}", why.strip_prefix("error ").unwrap_or("the sandbox ended before it was ready")),
            }
        }
        None => {
            drop(ours);
            // The supervisor outlives its parent and belongs to no terminal.
            let _ = rustix::process::setsid();
            let mut report = theirs.try_clone()?;
            let status = boot::run(config, Some(Control { listener, ready: theirs })).unwrap_or_else(|error| {
                let _ = report.write_all(format!("error {error}\n").as_bytes());
                125
            });
            std::process::exit(status)
        }
    }
}

/// Sends a command to a container.
fn command(container: &Container, line: &str) -> Result<()> {
    let ended = || format!("container {} has ended", container.id());
    let mut stream = UnixStream::connect(container.dir().join("control.sock")).with_context(ended)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{line}\n").as_bytes()).with_context(ended)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).with_context(ended)?;
    match answer.trim_end() {
        "ok" => Ok(()),
        "" => bail!(ended()),
        why => bail!("{}", why.strip_prefix("error ").unwrap_or(why).to_owned()),
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
    command(container, "start")?;
    container.mark_started()
}

/// Creates a container, runs it to its end and removes it; returns its exit status. `detach`: returns when it runs.
///
/// # Errors
/// As `create` and `start`.
pub fn run(root: &Path, id: &str, options: &CreateOptions, detach: bool) -> Result<i32> {
    jail::block_signals();
    let container = create(root, id, options)?;
    if let Err(error) = start(&container) {
        delete(&container, true)?;
        return Err(error);
    }
    if detach {
        return Ok(0);
    }
    let status = jail::supervise(container.pid(), None).context("cannot wait for the container")?;
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
        Status::Running => command(container, &format!("signal {signo} {}", if all { "all" } else { "init" })),
    }
}

/// Ends a container's supervisor; the host ends all that depends on it.
fn terminate(container: &Container) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(container.pid()).context("no process")?;
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    while container.status() != Status::Stopped {
        // Where the supervisor is our own child.
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

/// Switches the writing of system calls to the container's standard error on or off.
///
/// # Errors
/// When it isn't running.
pub fn strace(container: &Container, on: bool) -> Result<()> {
    command(container, if on { "strace on" } else { "strace off" })
}
