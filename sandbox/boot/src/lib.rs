//! Assembles kernel, platform and filesystems into a sandbox, and confines it.
#![forbid(unsafe_code)]

mod config;
mod console;
mod error;
mod processes;
mod program;
mod sentry;
mod server;
mod stacks;
mod sysctl;
mod trace;
mod tree;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use control::{Connection, Link, Response};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use abi::structs::Rlimit;
pub use config::{BootConfig, Device, Mount, Propagation, Quota, Source, Writes};
pub use console::Wire;
pub use error::BootError;
pub use systrap::reserve;

use error::failed;

const USERNS_HINT: &str =
    " (the host must allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0)";

/// How long a sandbox may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the first program starts.
pub enum Start {
    /// At once; the sandbox dies with its maker, reports its errors itself, and takes no requests.
    AtOnce,
    /// When it is told so, by its maker or by others.
    WhenTold {
        /// Where others connect.
        listener: UnixListener,
        /// Told the exit status at the end.
        status: File,
    },
}

/// The standard streams of the first program, where they are not the maker's own.
#[derive(Default)]
pub struct Stdio {
    /// Where the other end of its terminal is.
    pub terminal: Option<Wire>,
    /// Which of its streams are on that terminal.
    pub on_terminal: [bool; 3],
    /// Where what the sandbox itself has to say goes, instead of standard error.
    pub errors: Option<OwnedFd>,
    /// Who takes a parent's part in job control: is told when the first process stops, and continues it.
    pub reports: Option<Link>,
}

impl Stdio {
    fn raw_fds(&self) -> Vec<RawFd> {
        let terminal = self.terminal.as_ref().map(Wire::raw_fd);
        let (errors, reports) = (self.errors.as_ref().map(AsRawFd::as_raw_fd), self.reports.as_ref());
        [terminal, errors, reports.map(|link| link.as_fd().as_raw_fd())].into_iter().flatten().collect()
    }

    /// Lets no standard stream of this process lead to what the program sees through its own terminal only.
    fn detach(&mut self) -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let [input, output, _] = self.on_terminal;
        if input {
            rustix::stdio::dup2_stdin(&null)?;
        }
        if output {
            rustix::stdio::dup2_stdout(&null)?;
        }
        match (self.errors.take(), &self.terminal) {
            (Some(errors), _) => rustix::stdio::dup2_stderr(&errors)?,
            // Who waits for the end of the maker's output doesn't wait for the container's (containerd's shim).
            (None, Some(Wire::Pty(pty))) => rustix::stdio::dup2_stderr(pty)?,
            (None, _) => {}
        }
        Ok(())
    }
}

/// A sandbox, as its maker sees it.
pub struct Sandbox {
    /// Number of its process for the caller.
    pub pid: i32,
    stream: UnixStream,
}

/// Makes the process of a sandbox in namespaces of its own, where it waits for [`Sandbox::go`]. When the maker is gone before, it ends. Call
/// [`jail::block_signals`] before. The caller must have one thread.
///
/// # Errors
/// When what is to be mounted can't be opened, or the host forbids namespaces.
pub fn spawn(config: &BootConfig, start: Start, stdio: Stdio) -> Result<Sandbox, BootError> {
    let mounts = tree::prepare(config)
        .map_err(failed("cannot open what is to be mounted", " (see --root, --volume, root.path, mounts)"))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed("cannot make a socket pair", ""))?;
    let spawned = match &config.network {
        None => jail::spawn(true).map_err(failed("cannot make namespaces", USERNS_HINT))?,
        Some(path) => in_network(path, || jail::spawn(false).map_err(failed("cannot make namespaces", USERNS_HINT)))?,
    };
    match spawned {
        Some(pid) => {
            drop(theirs);
            let sandbox = Sandbox { pid, stream: ours };
            jail::map_ids(pid, &config.ids)
                .map_err(failed("cannot map users and groups", " (see linux.uidMappings, gidMappings)"))?;
            Ok(sandbox)
        }
        None => std::process::exit(child(config, mounts, theirs, start, stdio)),
    }
}

/// Forks in another network namespace.
fn in_network(path: &Path, fork: impl FnOnce() -> Result<Option<i32>, BootError>) -> Result<Option<i32>, BootError> {
    let what = "cannot join the network namespace";
    let open = |path: &Path| File::open(path).map_err(|error| failed(what, "")(format!("{}: {error}", path.display())));
    let (own, other) = (open(Path::new("/proc/self/ns/net"))?, open(path)?);
    let enter = |namespace: &File| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| failed(what, "")(format!("{}: {errno}", path.display())))
    };
    enter(&other)?;
    match fork()? {
        // The child stays.
        None => Ok(None),
        Some(pid) => enter(&own).map(|()| Some(pid)),
    }
}

/// What the sandbox's process does; returns its exit status.
fn child(config: &BootConfig, mounts: Vec<tree::Prepared>, mut stream: UnixStream, start: Start, mut stdio: Stdio) -> i32 {
    let mut keep: Vec<RawFd> = vec![0, 1, 2, stream.as_raw_fd()];
    keep.extend(mounts.iter().filter_map(tree::Prepared::raw_fd));
    keep.extend(config.log.iter().map(AsRawFd::as_raw_fd));
    if let Start::WhenTold { listener, status } = &start {
        keep.extend([listener.as_raw_fd(), status.as_raw_fd()]);
    }
    keep.extend(stdio.raw_fds());
    if stdio.detach().is_err() || jail::close_others(&keep).is_err() || stream.read_exact(&mut [0]).is_err() {
        // The maker has given up.
        return 125;
    }
    let told = !matches!(start, Start::AtOnce);
    let report = stream.try_clone();
    sentry::run(config, mounts, stream, start, stdio).unwrap_or_else(|error| {
        if told && let Ok(report) = report {
            let answer = Response::Failed { why: error.to_string(), status: error.status() };
            let _ = Connection::from(report).send(&answer, &[]);
        } else {
            // Standard error may be gone.
            let _ = writeln!(io::stderr(), "palisade: {error}");
        }
        error.status()
    })
}

impl Sandbox {
    /// Lets its process go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn go(&self) -> Result<(), BootError> {
        (&self.stream).write_all(b"g").map_err(failed("cannot start the sandbox", ""))
    }

    /// Waits until the first program can be started; returns a connection on which to do so.
    ///
    /// # Errors
    /// Why it can't.
    pub fn ready(self) -> Result<Connection, BootError> {
        let connection = Connection::from(self.stream);
        connection.set_patience(Some(PATIENCE)).map_err(failed("cannot wait for the sandbox", ""))?;
        match connection.receive().map(|(response, _)| response) {
            Ok(Response::Done) => Ok(connection),
            Ok(Response::Failed { why, status }) => Err(BootError::told(why, status)),
            Ok(other) => Err(failed("the sandbox", "")(format!("unexpected answer {other:?}"))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(failed("the sandbox", "")("its process ended before it was ready"))
            }
            Err(error) => Err(failed("cannot wait for the sandbox", "")(error)),
        }
    }
}
