//! Assembles kernel, platform and filesystems into a sandbox, and confines it.
#![forbid(unsafe_code)]

use std::fs::File as HostFileHandle;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::SigInfo;
use abi::{SysResult, c};
use hostfs::{HostInode, HostStream};
use systrap::Systrap;
use task::{InitRequest, Kernel};
use vfs::{Dentry, File, Inode, NewNode};

/// What to run.
pub struct BootConfig {
    /// The host directory that becomes the root, read-only below a layer in memory.
    pub root: PathBuf,
    pub cwd: String,
    pub argv: Vec<String>,
    pub env: Vec<String>,
    /// Write every system call to standard error.
    pub strace: bool,
}

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

fn failed<E: std::fmt::Display>(what: &str, hint: &'static str) -> impl FnOnce(E) -> BootError {
    let what = what.to_owned();
    move |error| BootError { what, cause: error.to_string(), hint }
}

const USERNS_HINT: &str =
    " (the host must allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0)";

/// Runs a sandbox in a child process; returns the exit status of its first program (128+n for a signal).
///
/// # Errors
/// When the sandbox can't be built. The child reports its own errors and exits with 125.
pub fn run(config: &BootConfig) -> Result<i32, BootError> {
    let root = HostFileHandle::open(&config.root)
        .map_err(failed(&format!("cannot open root {}", config.root.display()), " (give a directory with --root)"))?;
    jail::block_signals();
    let uid_error = failed("cannot make namespaces", USERNS_HINT);
    jail::enter_namespaces().map_err(uid_error)?;
    match jail::fork().map_err(failed("cannot fork", ""))? {
        Some(child) => jail::forward_until_exit(child).map_err(failed("cannot wait for the sandbox", "")),
        None => {
            let status = sentry(config, root.into()).unwrap_or_else(|error| {
                eprintln!("palisade: {error}");
                // As docker run: the sandbox itself failed; 127 and 126: no such program, not executable.
                match error.cause.as_str() {
                    "ENOENT" => 127,
                    "EACCES" | "ENOEXEC" => 126,
                    _ => 125,
                }
            });
            std::process::exit(status)
        }
    }
}

/// The sentry, as pid 1 of its namespace.
fn sentry(config: &BootConfig, root: OwnedFd) -> Result<i32, BootError> {
    jail::die_with_parent();
    // Terminal signals come by the parent only: stubs must not see them.
    rustix::process::setsid().map_err(failed("setsid", ""))?;
    usermem::install_fault_handler();
    let vdso = systrap::host_vdso().map_err(failed("cannot read /proc/self/maps", ""))?;
    jail::empty_root().map_err(failed("cannot make an empty root", ""))?;
    jail::drop_privileges().map_err(failed("cannot drop privileges", ""))?;
    let platform = Systrap::new(vdso)
        .map_err(failed("cannot start the platform", " (it needs seccomp user notifications: Linux 5.19 or newer)"))?;
    jail::filter().map_err(failed("cannot filter system calls", ""))?;

    let kernel = Kernel::new(Box::new(platform), syscalls::dispatch);
    kernel.trace.store(config.strace, Ordering::Relaxed);
    let root = root_tree(root, &kernel).map_err(failed("cannot assemble the root filesystem", ""))?;
    let bytes = |texts: &[String]| texts.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>();
    let stdio = standard_streams().map_err(failed("cannot take over standard streams", ""))?;
    let argv = bytes(&config.argv);
    let given = argv.first().cloned().unwrap_or_default();
    let path = search(&root, &given, &config.env).unwrap_or(given);
    let name = config.argv.first().cloned().unwrap_or_default();
    let request = InitRequest { root, cwd: config.cwd.clone().into_bytes(), path, argv, envp: bytes(&config.env), stdio };
    kernel.start_init(request).map_err(failed(&format!("cannot run {name:?}"), ""))?;
    let forward = kernel.clone();
    std::thread::spawn(move || {
        loop {
            let signo = jail::next_signal();
            if let Some(init) = forward.group(1) {
                init.signal(SigInfo::kernel(signo));
            }
        }
    });
    let status = kernel.wait_init();
    Ok(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) })
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

/// The host directory under a layer in memory, with our own /dev, /proc, /tmp and /sys.
fn root_tree(fd: OwnedFd, kernel: &Arc<Kernel>) -> SysResult<Arc<Dentry>> {
    let devices = Arc::new(devfs::open);
    let base = tmpfs::Node::root(Some(HostInode::root(fd, false)), 0o755, devices.clone())?;
    let root = Dentry::root(base);
    let dev: Arc<dyn Inode> = tmpfs::Node::root(None, 0o755, devices.clone())?;
    devfs::populate(&dev)?;
    let mounts: [(&[u8], Arc<dyn Inode>); 4] = [
        (b"dev", dev),
        (b"proc", procfs::root(kernel.clone())),
        (b"tmp", tmpfs::Node::root(None, 0o1777, devices.clone())?),
        (b"sys", tmpfs::Node::root(None, 0o555, devices)?),
    ];
    for (name, inode) in mounts {
        if root.lookup(name).is_err() {
            let node = NewNode { mode: c::S_IFDIR | 0o755, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
            root.create(name, &node)?;
        }
        root.mount(name, inode);
    }
    Ok(root)
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
