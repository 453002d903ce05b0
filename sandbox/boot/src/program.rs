//! Starting programs: from what the command line says to what the kernel wants.

use std::fs::File as HostFileHandle;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use abi::structs::Rlimit;
use abi::{Errno, SysResult, c};
use auth::{CapSet, Credentials, Kgid, Kuid};
use control::Process;
use hostfs::{HostStream, Watcher};
use task::{Group, Kernel, OnExit, OnStop, ProcessRequest, Sink};
use tty::Slave;
use vfs::{Caller, File, FsContext, MountNamespace, OpenHow, WalkFlags};

use crate::console::{Console, Wire};
use crate::error::BootError;
use crate::tree;

/// Starts programs in a kernel.
pub struct Launcher {
    pub kernel: Arc<Kernel>,
    pub mounts: Arc<MountNamespace>,
    /// Where terminals are made.
    pub terminals: Arc<devpts::Instance>,
    pub watcher: Arc<Watcher>,
    /// Where the trace and what is said at the end go; `None`: to standard error.
    pub log: Option<Arc<HostFileHandle>>,
    /// Say at the end which system calls were missed.
    pub debug: AtomicBool,
}

/// What a program has for its standard input, output and error.
pub struct Streams {
    /// Of the host; `None`: its terminal.
    host: [Option<OwnedFd>; 3],
    console: Option<Arc<Console>>,
}

impl Streams {
    /// The program's terminal.
    pub fn console(&self) -> Option<&Arc<Console>> {
        self.console.as_ref()
    }
}

/// Who is told what becomes of a program.
#[derive(Default)]
pub struct Told {
    /// Its end.
    pub exit: Option<OnExit>,
    /// That it has been stopped.
    pub stop: Option<OnStop>,
}

fn bytes(texts: &[String]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.clone().into_bytes()).collect()
}

impl Launcher {
    /// Where what people are to read is written.
    pub fn log(&self) -> Sink {
        match &self.log {
            Some(file) => Box::new(file.clone()),
            None => Box::new(io::stderr()),
        }
    }

    /// Where the program of `process` is.
    ///
    /// # Errors
    /// When it isn't there or can't be run.
    pub fn find(&self, process: &Process) -> Result<Vec<u8>, BootError> {
        let name = process.argv.first().map(String::as_str).unwrap_or_default();
        let who = Arc::new(self.credentials(process));
        let fs = FsContext::new(self.mounts.root(), 0);
        let cwd = Caller::new(&fs, who.clone()).resolve(process.cwd.as_bytes(), WalkFlags::FOLLOW);
        cwd.and_then(|cwd| fs.set_cwd(cwd)).map_err(|errno| BootError::cwd(&process.cwd, errno))?;
        search(&Caller::new(&fs, who), name, process).map_err(|errno| BootError::exec(name, errno))
    }

    /// Standard streams: these of the host, but for those that are on a terminal whose other end is at `wire`.
    ///
    /// # Errors
    /// `EBADF` when there are too few, `ENOSPC` when there are too many terminals.
    pub fn streams(
        &self,
        process: &Process,
        fds: Vec<OwnedFd>,
        wire: Option<Wire>,
        on_terminal: [bool; 3],
    ) -> SysResult<Streams> {
        let mut fds = fds.into_iter();
        let host = on_terminal.map(|on| fds.next().filter(|_| !on));
        if host.iter().zip(on_terminal).any(|(fd, on)| fd.is_none() && !(on && wire.is_some())) {
            return Err(Errno::EBADF);
        }
        let console = match wire {
            Some(wire) => {
                let size = process.terminal.unwrap_or_default();
                Some(Console::new(self.terminals.allocate_for(process.user.uid)?, wire, size, &self.watcher))
            }
            None => None,
        };
        Ok(Streams { host, console })
    }

    /// Starts a program; returns its number.
    ///
    /// # Errors
    /// When it isn't there or can't be run.
    pub fn start(&self, process: &Process, streams: &Streams, told: Told) -> Result<i32, BootError> {
        let name = process.argv.first().map(String::as_str).unwrap_or_default();
        let path = self.find(process)?;
        let terminal = streams.console().map(|console| console.terminal().clone());
        let Told { exit, stop } = told;
        let prepare = move |process: &Arc<Group>| {
            if let Some(terminal) = terminal {
                terminal.offer_to(process);
            }
            if let Some(stop) = stop {
                process.on_stop(stop);
            }
        };
        let request = ProcessRequest {
            mount_ns: self.mounts.clone(),
            cwd: process.cwd.clone().into_bytes(),
            umask: process.user.umask.unwrap_or(0o022),
            path,
            argv: bytes(&process.argv),
            envp: bytes(&process.env),
            stdio: self.files(streams).map_err(|errno| BootError::exec(name, errno))?,
            credentials: self.credentials(process),
            no_new_privs: process.no_new_privs,
            filter: (!process.seccomp.is_empty()).then(|| process.seccomp.iter().map(instruction).collect()),
            limits: process.limits.iter().map(|(resource, cur, max)| (*resource, Rlimit { cur: *cur, max: *max })).collect(),
            prepare: Some(Box::new(prepare)),
            oom_score_adj: process.oom_score_adj.unwrap_or(0),
            on_exit: exit,
        };
        self.kernel.start_process(request).map_err(|errno| BootError::exec(name, errno))
    }

    /// Who runs the program.
    fn credentials(&self, process: &Process) -> Credentials {
        let user = &process.user;
        let groups = user.additional_gids.iter().map(|gid| Kgid(*gid)).collect();
        let mut own = Credentials::new(self.kernel.user_ns.clone(), Kuid(user.uid), Kgid(user.gid), groups);
        if let Some(given) = process.capabilities {
            let set = CapSet::from_bits;
            (own.bounding, own.inheritable) = (set(given.bounding), set(given.inheritable));
            (own.permitted, own.effective) = (set(given.permitted), set(given.effective));
            own.ambient = set(given.ambient).and(own.permitted).and(own.inheritable);
        }
        own
    }

    /// Files for standard input, output and error.
    fn files(&self, streams: &Streams) -> SysResult<Vec<Arc<File>>> {
        let terminal = streams.console().map(|console| self.open_terminal(console)).transpose()?;
        let file = |fd: &OwnedFd, mode| -> SysResult<Arc<File>> {
            let stream = HostStream::new(fd.try_clone()?, &self.watcher);
            // A terminal is one thing for reading and writing.
            let mode = if stream.is_terminal() { c::O_RDWR } else { mode };
            Ok(File::new(stream, None, mode))
        };
        let modes = [c::O_RDONLY, c::O_WRONLY, c::O_WRONLY];
        let files = streams.host.iter().zip(modes).map(|(fd, mode)| match fd {
            Some(fd) => file(fd, mode),
            None => terminal.clone().ok_or(Errno::EBADF),
        });
        files.collect()
    }

    /// Somebody who may do everything, at the root.
    fn root(&self) -> Caller {
        Caller::at_root(self.mounts.root(), Arc::new(Credentials::root(self.kernel.user_ns.clone())))
    }

    /// Where a terminal is, if its filesystem is mounted where it should be.
    fn terminal_path(&self, console: &Console) -> Option<vfs::Path> {
        let path = self.root().resolve(console.terminal().name().as_bytes(), WalkFlags::FOLLOW).ok()?;
        path.dentry.inode().attr().is_ok_and(|attr| attr.rdev == console.terminal().rdev()).then_some(path)
    }

    /// Opens a terminal by its name, so that programs find that (ttyname(3)).
    fn open_terminal(&self, console: &Console) -> SysResult<Arc<File>> {
        match self.terminal_path(console) {
            Some(path) => self.root().open_path(&path, OpenHow::new(c::O_RDWR | c::O_NOCTTY, 0), false, &mut |_, _| Ok(())),
            None => Ok(File::new(Slave::open(console.terminal(), c::O_RDWR | c::O_NOCTTY)?, None, c::O_RDWR)),
        }
    }

    /// Shows the first program's terminal at /dev/console, as far as the tree lets us.
    pub fn show_console(&self, streams: &Streams) {
        if let Some(path) = streams.console().and_then(|console| self.terminal_path(console)) {
            let _ = tree::show_console(&self.mounts, &self.root(), &path);
        }
    }
}

fn instruction(&(code, jt, jf, k): &(u16, u8, u8, u32)) -> cbpf::Instruction {
    cbpf::Instruction { code, jt, jf, k }
}

/// Finds a program along PATH, as execvp(3) does.
fn search(caller: &Caller, name: &str, process: &Process) -> SysResult<Vec<u8>> {
    let check = |path: &[u8]| caller.may_exec(&caller.resolve(path, WalkFlags::FOLLOW)?).map(drop);
    if name.contains('/') {
        return check(name.as_bytes()).map(|()| name.as_bytes().to_vec());
    }
    let path = process.env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut worst = Errno::ENOENT;
    for dir in path.split(':').filter(|_| !name.is_empty()) {
        let full = [dir.as_bytes(), b"/", name.as_bytes()].concat();
        match check(&full) {
            Ok(()) => return Ok(full),
            Err(Errno::EACCES) => worst = Errno::EACCES,
            Err(_) => {}
        }
    }
    Err(worst)
}

/// Copies of this process's own standard streams.
///
/// # Errors
/// `EMFILE`
pub fn own_streams() -> std::io::Result<Vec<OwnedFd>> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let fds: [BorrowedFd<'_>; 3] = [input.as_fd(), output.as_fd(), error.as_fd()];
    fds.into_iter().map(|fd| fd.try_clone_to_owned()).collect()
}
