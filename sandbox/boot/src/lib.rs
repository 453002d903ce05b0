//! Assembles kernel, platform and filesystems into a sandbox, and confines it.
#![forbid(unsafe_code)]

mod config;
mod control;
mod tree;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use abi::c;
use abi::signal::SigInfo;
use auth::Credentials;
use hostfs::HostStream;
use systrap::Systrap;
use task::{InitRequest, Kernel};
use vfs::{Dentry, File};

pub use abi::structs::Rlimit;
pub use config::{BootConfig, Mount, Source, Writes};

/// What went wrong, for one line on the terminal.
#[derive(Debug)]
pub struct BootError {
    what: String,
    cause: String,
    hint: &'static str,
}

impl std::fmt::Display for BootError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}{}", self.what, self.cause, self.hint)
    }
}

impl std::error::Error for BootError {}

impl BootError {
    /// The exit status for it, as docker run has them: 127: no such program; 126: not executable; 125: the sandbox itself.
    fn status(&self) -> i32 {
        match self.cause.as_str() {
            "ENOENT" => 127,
            "EACCES" | "ENOEXEC" => 126,
            _ => 125,
        }
    }
}

fn failed<E: std::fmt::Display>(what: &str, hint: &'static str) -> impl FnOnce(E) -> BootError {
    let what = what.to_owned();
    move |error| BootError { what, cause: error.to_string(), hint }
}

const USERNS_HINT: &str =
    " (the host must allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0)";

/// How a container is controlled from outside; `do` has none.
pub struct Control {
    /// Where clients connect.
    pub listener: UnixListener,
    /// Told `ok` or `error` and why, one line, when the container is there to be started.
    pub ready: UnixStream,
}

/// Runs a sandbox in a child process; returns the exit status of its first program (128+n for a signal). With `control`, the program
/// starts when told so.
///
/// # Errors
/// When the sandbox can't be built. The child reports its own errors and exits with 125.
pub fn run(config: &BootConfig, control: Option<Control>) -> Result<i32, BootError> {
    let mounts = tree::prepare(config)
        .map_err(failed("cannot open what is to be mounted", " (see --root, --volume, root.path, mounts)"))?;
    jail::block_signals();
    jail::enter_namespaces().map_err(failed("cannot make namespaces", USERNS_HINT))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed("cannot make a socket pair", ""))?;
    match jail::fork().map_err(failed("cannot fork", ""))? {
        Some(child) => {
            drop(theirs);
            let control = control.map(|control| (control.listener, report(&ours, control.ready)));
            let control = control.as_ref().map(|(listener, ())| (listener, &ours));
            jail::supervise(child, control).map_err(failed("cannot wait for the sandbox", ""))
        }
        None => {
            drop(ours);
            let commands = control.map(|_| theirs);
            let status = sentry(config, mounts, commands).unwrap_or_else(|error| {
                // Standard error may be gone.
                let _ = writeln!(io::stderr(), "palisade: {error}");
                error.status()
            });
            std::process::exit(status)
        }
    }
}

/// Passes on whether the sentry is ready.
fn report(sentry: &UnixStream, mut ready: UnixStream) {
    let (mut line, mut byte, mut from) = (Vec::new(), [0], sentry);
    while from.read(&mut byte).is_ok_and(|count| count == 1) && byte != *b"\n" {
        line.extend_from_slice(&byte);
    }
    line.push(b'\n');
    // Who asked may have given up.
    let _ = ready.write_all(&line);
}

/// The sentry, as pid 1 of its namespace.
fn sentry(config: &BootConfig, mounts: Vec<tree::Prepared>, commands: Option<UnixStream>) -> Result<i32, BootError> {
    jail::die_with_parent();
    // A sentry that isn't whole must not go on: its guests would wait for ever.
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(io::stderr(), "palisade: internal error, please report it: {info}");
        std::process::exit(125);
    }));
    let commands_error = commands.as_ref().and_then(|stream| stream.try_clone().ok());
    let built = build(config, mounts);
    if let (Some(mut stream), Err(error)) = (commands_error, &built) {
        let _ = stream.write_all(format!("error {error}\n").as_bytes());
    }
    let (kernel, request) = built?;
    let name = config.argv.first().cloned().unwrap_or_default();
    let starter = kernel.clone();
    let mut request = Some(request);
    let mut start = move || -> Result<(), BootError> {
        let request = request.take().ok_or_else(|| failed("cannot start", "")("it has been started"))?;
        starter.start_init(request).map_err(failed(&format!("cannot run {name:?}"), ""))
    };
    let forward = kernel.clone();
    std::thread::spawn(move || {
        loop {
            let signo = jail::next_signal();
            match forward.group(1) {
                Some(init) => init.signal(SigInfo::kernel(signo)),
                // Not started yet: what would end the program ends the container.
                None => std::process::exit(128 + signo),
            }
        }
    });
    match commands {
        None => start()?,
        Some(mut stream) => {
            stream.write_all(b"ok\n").map_err(failed("cannot report", ""))?;
            let kernel = kernel.clone();
            std::thread::spawn(move || control::serve(stream, &kernel, start));
        }
    }
    let status = kernel.wait_init();
    Ok(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) })
}

/// Confines this process and builds the kernel.
fn build(config: &BootConfig, mounts: Vec<tree::Prepared>) -> Result<(Arc<Kernel>, InitRequest), BootError> {
    // Terminal signals come by the parent only: stubs must not see them.
    rustix::process::setsid().map_err(failed("setsid", ""))?;
    // Guests have masks of their own.
    rustix::process::umask(rustix::fs::Mode::empty());
    usermem::install_fault_handler();
    let vdso = systrap::host_vdso().map_err(failed("cannot read /proc/self/maps", ""))?;
    jail::empty_root().map_err(failed("cannot make an empty root", ""))?;
    jail::drop_privileges().map_err(failed("cannot drop privileges", ""))?;
    let platform = Systrap::new(vdso)
        .map_err(failed("cannot start the platform", " (it needs seccomp user notifications: Linux 5.19 or newer)"))?;
    jail::filter(config.writes_to_host()).map_err(failed("cannot filter system calls", ""))?;

    let kernel = Kernel::new(Box::new(platform), syscalls::dispatch);
    kernel.set_trace(config.strace);
    if let Some(name) = &config.hostname {
        *kernel.hostname.lock() = name.clone().into_bytes();
    }
    let root = tree::assemble(mounts, &kernel).map_err(failed("cannot assemble the root filesystem", ""))?;
    let bytes = |texts: &[String]| texts.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>();
    let stdio = standard_streams().map_err(failed("cannot take over standard streams", ""))?;
    let argv = bytes(&config.argv);
    let given = argv.first().cloned().unwrap_or_default();
    let path = search(&root, &given, &config.env).unwrap_or(given);
    let request = InitRequest {
        root,
        cwd: config.cwd.clone().into_bytes(),
        path,
        argv,
        envp: bytes(&config.env),
        stdio,
        credentials: Credentials::root(kernel.user_ns.clone()),
        limits: config.limits.clone(),
    };
    Ok((kernel, request))
}

/// Finds a command along PATH, as execvp(3) does.
fn search(root: &Arc<Dentry>, name: &[u8], env: &[String]) -> Option<Vec<u8>> {
    if name.contains(&b'/') {
        return None;
    }
    let fs = vfs::FsContext { root: root.clone(), cwd: root.clone(), umask: 0 };
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH="))?;
    path.split(':').find_map(|dir| {
        let full = [dir.as_bytes(), b"/", name].concat();
        let found = fs.walk(None, &full, true).ok()?.existing().ok()?;
        let attr = found.inode().attr().ok()?;
        (attr.kind() == c::S_IFREG && attr.mode & 0o111 != 0).then_some(full)
    })
}

/// Standard input, output and error of this process.
fn standard_streams() -> io::Result<Vec<Arc<File>>> {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let fds = [(input.as_fd(), c::O_RDONLY), (output.as_fd(), c::O_WRONLY), (error.as_fd(), c::O_WRONLY)];
    let mut files = Vec::new();
    for (i, (fd, mode)) in fds.into_iter().enumerate() {
        let stream = HostStream::new(fd.try_clone_to_owned()?);
        if i == 0 {
            let watched = stream.clone();
            std::thread::Builder::new().name("stdin".into()).stack_size(64 << 10).spawn(move || watched.watch())?;
        }
        // A terminal is one thing for reading and writing.
        let mode = if stream.is_terminal() { c::O_RDWR } else { mode };
        files.push(File::new(stream, None, mode));
    }
    Ok(files)
}
