//! What is done to containers that are there: start, kill, pause, wait, delete.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cgroup::Resources;
use control::{Connection, Request, Response, Target};
use rustix::process::Signal;

use crate::state::{Container, NotFound, Status};
use crate::{hooks, process};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A request that was refused, with the exit status for it.
#[derive(Debug)]
pub struct Refused {
    why: String,
    pub status: i32,
}

impl Refused {
    pub fn new(why: String, status: i32) -> Self {
        Self { why, status }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refused {}

/// Connects to a container's sandbox.
pub fn connect(container: &Container) -> Result<Connection> {
    let connection = container.connect()?;
    connection.set_patience(Some(PATIENCE))?;
    Ok(connection)
}

/// Sends a request, returns the answer.
///
/// # Errors
/// When it is refused, or the container ends meanwhile.
pub fn ask(container: &Container, connection: &Connection, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response> {
    let ended = || format!("container {} doesn't answer", container.id());
    connection.send(request, fds).with_context(ended)?;
    match connection.receive().with_context(ended)?.0 {
        Response::Failed { why, status } => bail!(Refused { why, status }),
        response => Ok(response),
    }
}

/// Sends a request that is answered by `Done`.
pub fn order(container: &Container, connection: &Connection, request: &Request) -> Result<()> {
    order_with(container, connection, request, &[])
}

/// The same, with descriptors.
pub fn order_with(container: &Container, connection: &Connection, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
    match ask(container, connection, request, fds)? {
        Response::Done => Ok(()),
        other => bail!("unexpected answer {other:?}"),
    }
}

/// Runs the program of a container that is locked and has been created.
pub fn start_on(container: &Container, connection: &Connection) -> Result<()> {
    let given = &container.record.hooks.start_container;
    if given.as_ref().is_some_and(|hooks| !hooks.is_empty()) {
        let run = process::of_bundle(&container.record.bundle)
            .and_then(|first| hooks::run_as_programs("startContainer", given, container, &first));
        if run.is_err() {
            container.terminate()?;
        }
        run?;
    }
    order(container, connection, &Request::Start)?;
    hooks::run_regardless("poststart", &container.record.hooks.poststart, container);
    Ok(())
}

/// Runs the program of a container that has been created.
///
/// # Errors
/// When it isn't in that state, or its program can't be run.
pub fn start(root: &Path, id: &str) -> Result<()> {
    let (container, _guard) = Container::lock(root, id)?;
    container.require(&[Status::Created], "start")?;
    start_on(&container, &connect(&container)?)
}

/// Sends a signal to a container's first process, or to all of them.
///
/// # Errors
/// When it isn't running.
pub fn kill(root: &Path, id: &str, signo: i32, all: bool) -> Result<()> {
    let container = Container::load(root, id)?;
    let status = container.status();
    match status {
        // As runc: all of nothing is nothing.
        Status::Stopped if all => return Ok(()),
        Status::Created | Status::Running | Status::Paused => {}
        _ => container.require(&[Status::Running], "signal")?,
    }
    // Nobody inside can refuse that one, and no sandbox outlives its first process.
    if signo == Signal::KILL.as_raw() {
        return container.terminate_without_waiting();
    }
    if status == Status::Created {
        // There is no program yet: what would end it ends the container.
        return container.terminate();
    }
    let target = if all { Target::All } else { Target::Init };
    order(&container, &connect(&container)?, &Request::Signal { signo, target })
}

/// Stops a container's programs where they are, or lets them go on.
///
/// # Errors
/// When it isn't running, or isn't paused.
pub fn pause(root: &Path, id: &str, on: bool) -> Result<()> {
    let (container, _guard) = Container::lock(root, id)?;
    if on {
        container.require(&[Status::Running], "pause")?;
    } else {
        container.require(&[Status::Paused], "resume")?;
    }
    order(&container, &connect(&container)?, if on { &Request::Pause } else { &Request::Resume })
}

/// How long a sandbox that answers no more may take to be gone: so many times, for so long.
const DYING_LOOKS: u32 = 500;
const DYING_LOOK: Duration = Duration::from_millis(10);

/// Waits for the end of a container, or of one process in it; returns the exit status.
///
/// # Errors
/// When there is no such container or process.
pub fn wait(root: &Path, id: &str, pid: Option<i32>) -> Result<i32> {
    let container = Container::load(root, id)?;
    let answer = container.connect().and_then(|connection| ask(&container, &connection, &Request::Wait { pid }, &[]));
    let error = match answer {
        Ok(Response::Exited { status }) => return Ok(status),
        Ok(other) => bail!("unexpected answer {other:?}"),
        Err(error) => error,
    };
    // It has ended already, or was killed: then the connection may be gone a moment before the process is.
    let refused = error.downcast_ref::<Refused>().is_some();
    for _ in 0..if refused { 0 } else { DYING_LOOKS } {
        if !container.alive() {
            break;
        }
        std::thread::sleep(DYING_LOOK);
    }
    if refused || container.alive() {
        return Err(error);
    }
    Ok(container.exit_status().unwrap_or(128 + Signal::KILL.as_raw()))
}

/// Removes all that belongs to a container that is locked.
///
/// # Errors
/// What can't be removed; the rest is.
pub fn destroy(container: &Container) -> Result<()> {
    container.terminate()?;
    let removed = container.record.cgroup.as_ref().map_or(Ok(()), cgroup::Cgroup::remove);
    hooks::run_regardless("poststop", &container.record.hooks.poststop, container);
    removed.and(container.forget())
}

/// Removes a container that has ended; with `force`, ends it first, and one that isn't there is removed already.
///
/// # Errors
/// When it still runs.
pub fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    let (container, _guard) = match Container::lock(root, id) {
        Err(error) if error.downcast_ref::<NotFound>().is_some() => {
            return if Container::sweep(root, id)? || force { Ok(()) } else { Err(error) };
        }
        locked => locked?,
    };
    // Who makes it holds the lock: it was killed before it could say how it went.
    let status = if container.record.status == Status::Creating { Status::Stopped } else { container.status() };
    if !force && matches!(status, Status::Running | Status::Paused) {
        bail!("container {id} is {status} (end it first: palisade kill {id} KILL, or delete --force)");
    }
    destroy(&container)
}

/// Changes what a container may use; what isn't told stays.
///
/// # Errors
/// When it isn't there, or the host refuses.
pub fn update(root: &Path, id: &str, resources: &Resources) -> Result<()> {
    let (mut container, _guard) = Container::lock(root, id)?;
    container.require(&[Status::Created, Status::Running, Status::Paused], "update")?;
    match &container.record.cgroup {
        Some(cgroup) => cgroup.limit(resources)?,
        None if resources.memory.is_some() || resources.cpu.is_some() => {
            bail!("container {id} has no control groups: only limits of tasks can be changed (give it linux.cgroupsPath)")
        }
        None => {}
    }
    container.record.resources.update(resources);
    let all = &container.record.resources;
    // Without a limit there is still the kernel's own.
    let request = Request::Limit {
        tasks: resources.pids.as_ref().map(|_| all.task_limit().unwrap_or(u64::MAX)),
        memory: all.memory_limit(),
    };
    order(&container, &connect(&container)?, &request)?;
    container.save()
}
