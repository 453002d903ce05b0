//! Starting programs: from what the command line says to what the kernel wants.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::structs::Rlimit;
use abi::{Errno, SysResult, c};
use auth::{CapSet, Credentials, Kgid, Kuid};
use control::Process;
use hostfs::{HostStream, Watcher};
use task::{Kernel, OnExit, ProcessRequest};
use vfs::{Caller, File, FsContext, MountNamespace, WalkFlags};

use crate::error::BootError;

/// Starts programs in a kernel.
pub struct Launcher {
    pub kernel: Arc<Kernel>,
    pub mounts: Arc<MountNamespace>,
    pub watcher: Arc<Watcher>,
}

fn bytes(texts: &[String]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.clone().into_bytes()).collect()
}

impl Launcher {
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

    /// Starts a program; returns its number. `streams`: standard input, output and error, or its terminal alone.
    ///
    /// # Errors
    /// When it isn't there or can't be run.
    pub fn start(&self, process: &Process, streams: Vec<OwnedFd>, on_exit: Option<OnExit>) -> Result<i32, BootError> {
        let name = process.argv.first().map(String::as_str).unwrap_or_default();
        let path = self.find(process)?;
        let request = ProcessRequest {
            mount_ns: self.mounts.clone(),
            cwd: process.cwd.clone().into_bytes(),
            umask: process.user.umask.unwrap_or(0o022),
            path,
            argv: bytes(&process.argv),
            envp: bytes(&process.env),
            stdio: self.streams(streams).map_err(|errno| BootError::exec(name, errno))?,
            credentials: self.credentials(process),
            no_new_privs: process.no_new_privs,
            filter: (!process.seccomp.is_empty()).then(|| process.seccomp.iter().map(instruction).collect()),
            limits: process.limits.iter().map(|(resource, cur, max)| (*resource, Rlimit { cur: *cur, max: *max })).collect(),
            on_exit,
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
    fn streams(&self, fds: Vec<OwnedFd>) -> SysResult<Vec<Arc<File>>> {
        let file = |fd: OwnedFd, mode| {
            let stream = HostStream::new(fd, &self.watcher);
            // A terminal is one thing for reading and writing.
            let mode = if stream.is_terminal() { c::O_RDWR } else { mode };
            File::new(stream, None, mode)
        };
        let count = fds.len();
        let mut files = fds.into_iter().enumerate().map(|(i, fd)| file(fd, if i == 0 { c::O_RDONLY } else { c::O_WRONLY }));
        match count {
            1 => files.next().map(|terminal| vec![terminal; 3]).ok_or(Errno::EBADF),
            3 => Ok(files.collect()),
            _ => Err(Errno::EBADF),
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
