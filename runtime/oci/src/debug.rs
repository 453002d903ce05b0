//! `debug`: what a container is doing, for people who look for what hangs.

use std::fmt::Write;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Result, bail};
use control::{Request, Response};

use crate::lifecycle::{ask, connect, order, order_with};
use crate::state::Container;

/// Writes the system calls of a container to standard output, until it ends or another call switches it off; or switches it off.
///
/// # Errors
/// When it isn't running.
pub fn strace(root: &Path, id: &str, on: bool) -> Result<()> {
    let container = Container::load(root, id)?;
    let connection = connect(&container)?;
    if !on {
        return order(&container, &connection, &Request::Trace(false));
    }
    let (mut reader, writer) = std::io::pipe()?;
    // The sandbox must not wait for us for ever: we may be stopped.
    rustix::io::ioctl_fionbio(&writer, true)?;
    order_with(&container, &connection, &Request::Trace(true), &[writer.as_fd()])?;
    drop(writer);
    std::io::copy(&mut reader, &mut std::io::stdout())?;
    Ok(())
}

/// Changes whether the container says at its end which system calls were missed.
///
/// # Errors
/// When it isn't running.
pub fn set_log_level(root: &Path, id: &str, debug: bool) -> Result<()> {
    let container = Container::load(root, id)?;
    order(&container, &connect(&container)?, &Request::Debug(debug))
}

/// What each task of a container is doing, and each thread of the sandbox's kernel.
///
/// # Errors
/// When it isn't running.
pub fn stacks(root: &Path, id: &str) -> Result<String> {
    let container = Container::load(root, id)?;
    match ask(&container, &connect(&container)?, &Request::Stacks, &[])? {
        Response::Text(mut text) => {
            text.push_str(&threads(container.record.pid));
            Ok(text)
        }
        other => bail!("unexpected answer {other:?}"),
    }
}

/// The threads of the sandbox's process, as the host knows them: name, state, what they wait for, and in which of the host's system calls.
fn threads(pid: i32) -> String {
    let mut out = format!("sentry: host process {pid}\n");
    let mut all: Vec<i32> = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    all.sort_unstable();
    for tid in all {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}")).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).map_or("gone", str::trim);
        let call = read("syscall");
        let call = match call.split_whitespace().next().map(str::parse::<u64>) {
            Some(Ok(number)) => format!(" in {}", abi::nr::name(number).unwrap_or("unknown")),
            _ => String::new(),
        };
        let place = read("wchan");
        let place = if place.is_empty() || place == "0" { String::new() } else { format!(" ({place})") };
        let _ = writeln!(out, "  thread {tid} [{}], {state}{call}{place}", read("comm").trim());
    }
    out
}
