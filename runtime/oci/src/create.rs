//! `create` and `run`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use boot::{BootConfig, Start, Stdio, Wire};
use cgroup::Cgroup;
use control::{Connection, Link, WindowSize};
use jail::Signals;
use terminal::{Bridge, Child, Tty};

use crate::spec::Spec;
use crate::state::{self, Container, Guard, Record, Status};
use crate::{Options, bundle, hooks, lifecycle, mounts};

/// What `create` and `run` are told besides the id.
#[derive(Default)]
pub struct CreateOptions {
    pub bundle: PathBuf,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
}

/// What `run` does when the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Returns.
    Return,
    /// Waits for its end, and removes the container.
    Remove,
    /// Waits for its end.
    Keep,
}

/// Makes a container that waits to be started.
///
/// # Errors
/// One line with cause and what to do; nothing is left behind.
pub fn create(options: &Options, id: &str, create: &CreateOptions) -> Result<()> {
    make(options, id, create, None).map(drop)
}

/// Where the terminal of the first program leads, if it has one: to whom the socket belongs, or to the caller of `run`.
fn stdio(terminal: Option<WindowSize>, socket: Option<&Path>, foreground: Option<&mut Option<Bridge>>) -> Result<Stdio> {
    let (wire, errors) = match (terminal, socket, foreground) {
        (None, None, _) => return Ok(Stdio::default()),
        (None, Some(_), _) => bail!("--console-socket: process.terminal is false"),
        (Some(size), Some(socket), _) => (Wire::Pty(console(socket, size)?.into()), None),
        (Some(_), None, None) => bail!("process.terminal: needs --console-socket, or a run without --detach"),
        (Some(_), None, Some(place)) => {
            let tty = Tty::beside_streams()?.context("process.terminal: no standard stream is a terminal")?;
            let (ours, theirs) = Link::pair()?;
            let bridge = place.insert(Bridge::new(ours, tty));
            (Wire::Link(theirs), Some(bridge.show_errors()?))
        }
    };
    Ok(Stdio { terminal: Some(wire), on_terminal: [true; 3], errors, reports: None })
}

/// A new terminal whose other end goes to a socket.
pub fn console(socket: &Path, size: WindowSize) -> Result<OwnedFd> {
    terminal::for_socket(socket, size).with_context(|| format!("--console-socket {}", socket.display()))
}

/// Makes a container and what belongs to it; it stays locked.
/// `foreground`: where what serves the caller's terminal goes, if that may be the program's.
fn make(
    options: &Options,
    id: &str,
    create: &CreateOptions,
    foreground: Option<&mut Option<Bridge>>,
) -> Result<(Container, Guard, Connection)> {
    let bundle = create.bundle.canonicalize().with_context(|| format!("bundle {}", create.bundle.display()))?;
    let (spec, config) = bundle::load(&bundle, options)?;
    let record = Record {
        id: id.to_owned(),
        status: Status::Creating,
        pid: 0,
        started: 0,
        rootfs: config.root.clone(),
        annotations: spec.annotations.clone().unwrap_or_default(),
        created: state::now(),
        cgroup: None,
        resources: spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default(),
        hooks: spec.hooks.clone().unwrap_or_default(),
        bundle,
    };
    let stdio = stdio(config.process.terminal, create.console_socket.as_deref(), foreground)?;
    let (mut container, guard) = Container::reserve(&options.root, record)?;
    let built = build(options, &mut container, &spec, &config, stdio).and_then(|connection| {
        container.become_status(Status::Created)?;
        if let Some(file) = &create.pid_file {
            state::replace(file, container.record.pid.to_string().as_bytes())?;
        }
        Ok(connection)
    });
    match built {
        Ok(connection) => Ok((container, guard, connection)),
        Err(error) => {
            // What went wrong first is told; that it can't be undone can't be.
            let _ = lifecycle::destroy(&container);
            Err(error)
        }
    }
}

/// Makes the control groups and the sandbox, and runs hooks at the moments that the specification gives them. Each step is recorded before what
/// it makes could be lost.
fn build(options: &Options, container: &mut Container, spec: &Spec, config: &BootConfig, stdio: Stdio) -> Result<Connection> {
    let path = spec.linux.as_ref().and_then(|linux| linux.cgroups_path.as_deref()).filter(|path| !path.is_empty());
    let wanted = options.cgroups_wanted(path, &container.record.resources);
    if wanted && !options.systemd_cgroup {
        let made = Cgroup::name(path, container.id(), &container.record.resources).and_then(|cgroup| {
            container.record.cgroup = cgroup;
            container.save()?;
            container.record.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.make(&container.record.resources))
        });
        options.cgroup_error(made)?;
    }
    if config.writes == boot::Writes::No {
        mounts::make_places(&config.root, &config.mounts)?;
    }
    let start = Start::WhenTold { listener: container.listen()?, status: container.exit_status_file()? };
    jail::block_signals();
    let sandbox = boot::spawn(config, start, stdio)?;
    container.record.pid = sandbox.pid;
    container.record.started = state::start_time(sandbox.pid).context("the sandbox ended before it was ready")?;
    container.save()?;
    if wanted && options.systemd_cgroup {
        let made = Cgroup::make_unit(path, container.id(), sandbox.pid, &container.record.resources);
        container.record.cgroup = options.cgroup_error(made)?.flatten();
        container.save()?;
    } else if let Some(cgroup) = &container.record.cgroup {
        options.cgroup_error(cgroup.join(sandbox.pid))?;
    }
    let given = container.record.hooks.clone();
    hooks::run("prestart", &given.prestart, container)?;
    hooks::run("createRuntime", &given.create_runtime, container)?;
    hooks::run_inside("createContainer", &given.create_container, container)?;
    sandbox.go()?;
    Ok(sandbox.ready()?)
}

/// Creates a container and runs it to its end, unless `then` says otherwise; returns its exit status, or 0 when it runs.
///
/// # Errors
/// As `create` and `start`.
pub fn run(options: &Options, id: &str, create: &CreateOptions, then: Then) -> Result<i32> {
    let mut bridge = None;
    let (container, guard, connection) = make(options, id, create, (then != Then::Return).then_some(&mut bridge))?;
    if let Err(error) = lifecycle::start_on(&container, &connection) {
        let _ = lifecycle::destroy(&container);
        return Err(error);
    }
    drop(guard);
    if then == Then::Return {
        return Ok(0);
    }
    let pid = container.record.pid;
    let status = match bridge {
        Some(bridge) => {
            let signals = Signals::take(&Bridge::signals(&jail::FORWARDED))?;
            bridge.attend(&mut Child(pid), &signals)
        }
        None => jail::supervise(pid),
    };
    let status = status.context("cannot wait for the container")?;
    if then == Then::Keep {
        return Ok(status);
    }
    // Somebody else may have been faster.
    match lifecycle::delete(&options.root, id, true) {
        Err(error) if error.downcast_ref::<state::NotFound>().is_none() => Err(error),
        _ => Ok(status),
    }
}
