//! The sentry: the process that is the sandbox's kernel, pid 1 of its namespace.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::c;
use abi::signal::SigInfo;
use control::Message;
use hostfs::Watcher;
use systrap::Systrap;
use task::Kernel;

use crate::config::BootConfig;
use crate::console::{Console, Wire};
use crate::error::{BootError, failed};
use crate::program::{Launcher, Told, own_streams};
use crate::server::Server;
use crate::{Start, Stdio, tree};

/// Runs the sandbox to its end; returns the exit status of its first program (128+n for a signal).
pub fn run(
    config: &BootConfig,
    mut mounts: Vec<tree::Prepared>,
    stream: UnixStream,
    start: Start,
    stdio: Stdio,
) -> Result<i32, BootError> {
    // Still as who has opened it: another user may not get that far.
    for mount in &mut mounts {
        mount.detach().map_err(failed("cannot detach what is to be mounted", " (it needs Linux 5.12 or newer)"))?;
    }
    jail::become_root().map_err(failed("cannot become root of the user namespace", " (user and group 0 must be mapped)"))?;
    if matches!(start, Start::AtOnce) {
        jail::die_with_parent();
        // If it had died before, its end of the stream would be closed.
        if stream.set_nonblocking(true).is_ok() && rustix::net::recv(&stream, &mut [0; 1], rustix::net::RecvFlags::PEEK).is_ok() {
            return Ok(125);
        }
    }
    // A sentry that isn't whole must not go on: its guests would wait for ever.
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(io::stderr(), "palisade: internal error, please report it: {info}");
        std::process::exit(125);
    }));
    // Terminal signals come by the parent only: stubs must not see them.
    rustix::process::setsid().map_err(failed("setsid", ""))?;
    if let Some(Wire::Pty(pty)) = &stdio.terminal {
        // Tells of changes of its size, and of its end.
        let _ = rustix::process::ioctl_tiocsctty(pty);
    }
    let launcher = Arc::new(build(config, mounts)?);
    let kernel = launcher.kernel.clone();
    kernel.watch_deaths().map_err(failed("cannot start a thread", ""))?;
    let fds = own_streams().map_err(failed("cannot take over standard streams", ""))?;
    let streams = launcher.streams(&config.process, fds, stdio.terminal, stdio.on_terminal);
    let streams = streams.map_err(failed("cannot make a terminal", ""))?;
    launcher.show_console(&streams);
    let console = streams.console().cloned();
    let code = match start {
        Start::AtOnce => {
            let stop = stdio.reports.map(|link| -> task::OnStop {
                Box::new(move |signo| {
                    // Whoever doesn't listen doesn't care.
                    let _ = link.send(&Message::Stopped(signo));
                })
            });
            launcher.start(&config.process, &streams, Told { exit: None, stop })?;
            // What has come until now is the program's.
            forward_signals(&kernel, console.clone());
            let code = exit_status(kernel.wait_init());
            console.inspect(|console| console.finish());
            code
        }
        Start::WhenTold { listener, status } => {
            forward_signals(&kernel, console.clone());
            // What can't be found is told before there is a container.
            launcher.find(&config.process)?;
            let server = Server::new(launcher.clone(), config.process.clone(), streams);
            server.listen(stream, listener).map_err(failed("cannot serve requests", ""))?;
            let code = exit_status(kernel.wait_init());
            console.inspect(|console| console.finish());
            keep(status, code, kernel.oom_kills.load(Ordering::Relaxed));
            server.tell_end(code);
            code
        }
    };
    if launcher.debug.load(Ordering::Relaxed) {
        say_unknown(&kernel, &mut launcher.log());
    }
    Ok(code)
}

/// Says which calls this kernel doesn't have were made, the most frequent first.
fn say_unknown(kernel: &Kernel, log: &mut impl Write) {
    let mut calls: Vec<(u64, u64)> = kernel.unknown.lock().iter().map(|(number, count)| (*number, *count)).collect();
    calls.sort_by_key(|(number, count)| (u64::MAX - count, *number));
    for (number, count) in calls {
        let name = abi::nr::name(number).unwrap_or("unknown");
        // Whoever has closed it doesn't want to know.
        let _ = writeln!(log, "palisade: system call {number} ({name}) is not implemented: made {count} times");
    }
}

/// Leaves where the command line finds them the exit status, and how many processes were killed because memory was up.
fn keep(mut file: File, status: i32, oom_kills: u64) {
    // A full disk must not keep a container from ending.
    let _ = writeln!(file, "{status} {oom_kills}");
}

/// An exit status of a wait status.
pub fn exit_status(status: i32) -> i32 {
    if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) }
}

/// Confines this process and builds the kernel.
fn build(config: &BootConfig, mounts: Vec<tree::Prepared>) -> Result<Launcher, BootError> {
    // Guests have masks of their own.
    rustix::process::umask(rustix::fs::Mode::empty());
    usermem::install_fault_handler();
    sync::watch_load();
    procfs::learn_speed();
    let vdso = systrap::host_vdso().map_err(failed("cannot read /proc/self/maps", ""))?;
    jail::empty_root().map_err(failed("cannot make an empty root", ""))?;
    let privilege = if config.writes_to_host() { jail::Privilege::Write } else { jail::Privilege::Read };
    jail::drop_privileges(privilege).map_err(failed("cannot drop privileges", ""))?;
    let platform = Systrap::new(vdso)
        .map_err(failed("cannot start the platform", " (it needs seccomp user notifications: Linux 5.19 or newer)"))?;
    jail::filter(config.writes_to_host()).map_err(failed("cannot filter system calls", ""))?;

    let net = Arc::new(netns::Namespace::first(auth::UserNamespace::initial()));
    let kernel = Kernel::new(Box::new(platform), syscalls::dispatch, net.clone());
    if let Some(name) = &config.hostname {
        kernel.ns.uts.set_host(name.clone().into_bytes()).map_err(failed("cannot set the host name", ""))?;
    }
    if let Some(name) = &config.domainname {
        kernel.ns.uts.set_domain(name.clone().into_bytes()).map_err(failed("cannot set the domain name", ""))?;
    }
    for (name, value) in &config.sysctls {
        crate::sysctl::set(&kernel, &net, name, value).map_err(failed(&format!("linux.sysctl: {name:?}"), ""))?;
    }
    if let Some(tasks) = config.quota.tasks {
        kernel.quota.set_tasks(tasks);
    }
    kernel.quota.set_memory(config.quota.memory);
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
    kernel.quota.cpus.store(config.quota.cpus.map_or(cpus, |limit| limit.min(cpus)).max(1), Ordering::Relaxed);
    let tree = tree::assemble(config, mounts, &kernel).map_err(failed("cannot assemble the root filesystem", ""))?;
    let watcher = Watcher::start().map_err(failed("cannot start a thread", ""))?;
    let launcher = Launcher {
        kernel,
        mounts: tree.namespace,
        terminals: tree.terminals,
        watcher,
        log: config.log.clone(),
        debug: AtomicBool::new(config.debug),
    };
    if config.strace {
        launcher.kernel.start_trace(launcher.log());
    }
    Ok(launcher)
}

/// Passes on to the first process what this one is sent.
fn forward_signals(kernel: &Arc<Kernel>, console: Option<Arc<Console>>) {
    let kernel = kernel.clone();
    let forward = move || {
        loop {
            let incoming = jail::next_signal();
            let info = SigInfo::kernel(incoming.signo);
            match (incoming.signo, &console, kernel.group(1)) {
                // Of a host's terminal, whose end the console sees.
                (c::SIGWINCH, Some(console), _) => console.take_size(),
                (c::SIGWINCH, None, _) => {}
                (c::SIGHUP, Some(_), _) if incoming.from_kernel => {}
                (c::SIGCONT | c::SIGTSTP, _, None) => {}
                // Not started yet: what would end the program ends the container.
                (signo, _, None) => std::process::exit(128 + signo),
                (c::SIGCONT, _, Some(init)) if incoming.for_group => drop(init.job().signal(info)),
                // A key of the caller's terminal.
                (_, Some(console), _) if incoming.for_group => console.terminal().signal_foreground(info),
                (_, None, Some(init)) if incoming.for_group => drop(init.job().signal(info)),
                (_, _, Some(init)) => init.signal(info),
            }
        }
    };
    let _ = std::thread::Builder::new().name("signals".into()).stack_size(64 << 10).spawn(forward);
}
