//! Hooks: programs of the host that are told of a container's life (OCI runtime specification, "POSIX-platform Hooks").

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use control::{Process, Request, Response};

use crate::lifecycle;
use crate::spec::{Hook, List};
use crate::state::Container;

/// What a pipe holds (pipe(7)).
const PIPE: usize = 65_536;

/// Checks hooks before anything is made.
///
/// # Errors
/// With the path of what can't be, and why.
pub fn check(name: &str, hooks: &List<Hook>) -> Result<()> {
    for (i, hook) in hooks.iter().flatten().enumerate() {
        if !hook.path.is_absolute() {
            bail!("hooks.{name}[{i}].path: {:?} isn't absolute", hook.path.display().to_string());
        }
        if hook.timeout.is_some_and(|timeout| timeout <= 0) {
            bail!("hooks.{name}[{i}].timeout: must be above 0");
        }
    }
    Ok(())
}

/// Runs hooks in turn, with the container's state on standard input.
///
/// # Errors
/// What the first one that fails comes to; those after it aren't run.
pub fn run(name: &str, hooks: &List<Hook>, container: &Container) -> Result<()> {
    if hooks.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let state = serde_json::to_vec(&container.json())?;
    for (i, hook) in hooks.iter().flatten().enumerate() {
        run_one(hook, &state).with_context(|| format!("hooks.{name}[{i}]: {}", hook.path.display()))?;
    }
    Ok(())
}

/// Runs hooks whose failure changes nothing; says so where it is heard.
pub fn run_regardless(name: &str, hooks: &List<Hook>, container: &Container) {
    for hook in hooks.iter().flatten() {
        if let Err(error) = run(name, &Some(vec![hook.clone()]), container) {
            let _ = writeln!(std::io::stderr(), "palisade: warning: {error:#}");
        }
    }
}

/// Runs hooks in the container's network, IPC and UTS namespaces. They see the host's files: nothing could be run from the sandbox's empty root.
///
/// # Errors
/// As [`run`].
pub fn run_inside(name: &str, hooks: &List<Hook>, container: &Container) -> Result<()> {
    if hooks.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let (mut ours, mut theirs) = UnixStream::pair()?;
    let Some(pid) = jail::fork().context("cannot fork")? else {
        let result = enter(container).and_then(|()| run(name, hooks, container));
        let status = i32::from(result.is_err());
        if let Err(error) = result {
            let _ = theirs.write_all(format!("{error:#}").as_bytes());
        }
        std::process::exit(status)
    };
    drop(theirs);
    let mut why = String::new();
    ours.read_to_string(&mut why)?;
    rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty())?;
    if why.is_empty() { Ok(()) } else { bail!(why) }
}

/// Moves the caller into a container's namespaces.
fn enter(container: &Container) -> Result<()> {
    // Not root of the host, one must be root of the container to enter.
    let user = (!rustix::process::geteuid().is_root()).then_some("user");
    for kind in user.into_iter().chain(["net", "ipc", "uts"]) {
        let path = format!("/proc/{}/ns/{kind}", container.record.pid);
        let namespace = std::fs::File::open(&path).with_context(|| path.clone())?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), None).with_context(|| format!("cannot enter {path}"))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<()> {
    let mut command = Command::new(&hook.path);
    let mut args = hook.args.iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env_clear();
    for entry in hook.env.iter().flatten() {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(key, value);
    }
    // A group of its own: what it starts ends with it when its time is over.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that doesn't read is fine.
        let _ = stdin.write_all(state);
    }
    match hook.timeout.and_then(|timeout| u64::try_from(timeout).ok()) {
        None => finish(child),
        Some(seconds) => {
            let deadline = Instant::now() + Duration::from_secs(seconds);
            let mut pause = Duration::from_millis(1);
            while child.try_wait()?.is_none() {
                if Instant::now() > deadline {
                    let group = rustix::process::Pid::from_child(&child);
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                    let _ = child.wait();
                    bail!("not done after {seconds} s");
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            finish(child)
        }
    }
}

/// Runs hooks as programs of the container, with the rights of its first one, before that.
///
/// # Errors
/// As [`run`].
pub fn run_as_programs(name: &str, hooks: &List<Hook>, container: &Container, first: &Process) -> Result<()> {
    for (i, hook) in hooks.iter().flatten().enumerate() {
        run_program(hook, container, first).with_context(|| format!("hooks.{name}[{i}]: {}", hook.path.display()))?;
    }
    Ok(())
}

fn run_program(hook: &Hook, container: &Container, first: &Process) -> Result<()> {
    let path = hook.path.display().to_string();
    let mut argv = hook.args.clone().unwrap_or_default();
    // The program is what is looked for by its first argument.
    match argv.first_mut() {
        Some(name) => *name = path,
        None => argv.push(path),
    }
    let process = Process { argv, env: hook.env.clone().unwrap_or_default(), cwd: "/".into(), terminal: None, ..first.clone() };
    let state = serde_json::to_vec(&container.json())?;
    let (stdin, mut feed) = std::io::pipe()?;
    let (mut said, output) = std::io::pipe()?;
    // It fits into a pipe, or a hook that doesn't read would be waited for.
    feed.write_all(state.get(..state.len().min(PIPE)).unwrap_or_default())?;
    drop(feed);
    let connection = lifecycle::connect(container)?;
    connection.set_patience(hook.timeout.and_then(|timeout| u64::try_from(timeout).ok()).map(Duration::from_secs))?;
    let fds = [stdin.as_fd(), output.as_fd(), output.as_fd()];
    lifecycle::ask(container, &connection, &Request::Hook(Box::new(process)), &fds)?;
    drop((stdin, output));
    let status = match connection.receive::<Response>() {
        Ok((Response::Exited { status }, _)) => status,
        Ok((other, _)) => bail!("unexpected answer {other:?}"),
        // The program goes with the connection.
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => bail!("not done after {} s", hook.timeout.unwrap_or(0)),
        Err(error) => return Err(error).context("the container has ended"),
    };
    if status == 0 {
        return Ok(());
    }
    let mut text = Vec::new();
    // What it has started may still have the other end: what is there is enough.
    rustix::io::ioctl_fionbio(&said, true)?;
    let _ = said.read_to_end(&mut text);
    bail!("exit status {status}: {}", String::from_utf8_lossy(&text).trim().replace('\n', "; "))
}

fn finish(child: Child) -> Result<()> {
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    bail!("{}: {}", output.status, said.trim().replace('\n', "; "))
}
