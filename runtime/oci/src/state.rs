//! What is remembered of a container: a directory below the state root with a lock, `state.json`, the sandbox's socket and exit status.
//!
//! `state.json` is replaced as a whole, so that who reads it needs no lock; who changes it, or does anything to the container that takes
//! several steps, holds the lock. A command that is killed half-way leaves its record, from which `delete --force` cleans up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use cgroup::{Cgroup, Resources};
use control::{Connection, Request, Response};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::spec::Hooks;

/// Files of a container's directory.
const LOCK: &str = "lock";
const STATE: &str = "state.json";
const SOCKET: &str = "control.sock";
const EXIT_STATUS: &str = "exit-status";

/// How long another command may hold the lock.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a sandbox may take to say how far it is.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// Where state is kept unless said otherwise.
#[must_use]
pub fn state_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !rustix::process::geteuid().is_root() => Path::new(&dir).join("palisade"),
        _ => "/run/palisade".into(),
    }
}

/// Status of a container (OCI runtime specification, "State"; `paused` is runc's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What `state.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    /// `creating`, or `created` and anything after: how far it is then its sandbox knows. Commands that are killed, and full disks, can't make
    /// it wrong that way.
    pub status: Status,
    /// The sandbox's process; 0 before there is one.
    pub pid: i32,
    /// Start of that process in clock ticks since boot, so that a number used again isn't taken for it.
    pub started: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub annotations: BTreeMap<String, String>,
    pub created: String,
    pub cgroup: Option<Cgroup>,
    pub resources: Resources,
    pub hooks: Hooks,
}

/// A container.
pub struct Container {
    dir: PathBuf,
    pub record: Record,
}

/// Keeps other commands from changing a container.
pub struct Guard(#[allow(dead_code, reason = "held, not used")] File);

/// Start time of a process that lives: not there, or a zombie, is `None`.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name in parentheses may hold anything; state is the next field, start time the 20th from there.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first().is_some_and(|state| ["Z", "X"].contains(state)) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Whether a name can be one of a directory (as runc has it).
fn check_id(id: &str) -> Result<()> {
    let fine = !id.is_empty() && id.len() <= 255 && id.chars().all(|c| c.is_ascii_alphanumeric() || "_+-.".contains(c));
    if fine && id != "." && id != ".." { Ok(()) } else { bail!("container id {id:?}: use letters, digits and _ + - .") }
}

/// Locks a directory; `None` where another command has it and `wait` is over.
fn lock(dir: &Path, wait: Duration) -> Result<Option<Guard>> {
    let path = dir.join(LOCK);
    let deadline = Instant::now() + wait;
    loop {
        let file =
            File::options().create(true).write(true).truncate(false).open(&path).with_context(|| path.display().to_string())?;
        let mut pause = Duration::from_micros(500);
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        // Who had it may have removed the directory, and somebody may have made another.
        match fs::metadata(&path) {
            Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(Some(Guard(file))),
            Ok(_) => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
}

/// Replaces a file as a whole.
///
/// # Errors
/// What the host says; the file is as before.
pub fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} isn't a file", path.display()))?;
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| path.display().to_string())
}

/// No container of this name.
#[derive(Debug)]
pub struct NotFound(String);

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Docker and containerd look for these very words.
        write!(f, "container {} does not exist", self.0)
    }
}

impl std::error::Error for NotFound {}

impl Container {
    /// Makes the directory of a new container and locks it.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn reserve(root: &Path, record: Record) -> Result<(Self, Guard)> {
        check_id(&record.id)?;
        fs::DirBuilder::new().recursive(true).mode(0o711).create(root).with_context(|| root.display().to_string())?;
        let dir = root.join(&record.id);
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("container {} exists (remove it: palisade delete {0})", record.id)
            }
            result => result.with_context(|| dir.display().to_string())?,
        }
        let guard = lock(&dir, PATIENCE)?.with_context(|| format!("container {} is in use", record.id))?;
        let container = Self { dir, record };
        if let Err(error) = container.save() {
            let _ = container.forget();
            return Err(error);
        }
        Ok((container, guard))
    }

    /// Finds a container.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let dir = root.join(id);
        let path = dir.join(STATE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(NotFound(id.to_owned())),
            text => text.with_context(|| path.display().to_string())?,
        };
        let record = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        Ok(Self { dir, record })
    }

    /// Finds a container and keeps others from changing it.
    ///
    /// # Errors
    /// When there is none of that name, or another command doesn't finish.
    pub fn lock(root: &Path, id: &str) -> Result<(Self, Guard)> {
        check_id(id)?;
        let dir = root.join(id);
        if !dir.is_dir() {
            bail!(NotFound(id.to_owned()));
        }
        let guard = match lock(&dir, PATIENCE) {
            Ok(guard) => guard.with_context(|| format!("container {id} is in use by another command"))?,
            // Removed meanwhile.
            Err(_) if !dir.is_dir() => bail!(NotFound(id.to_owned())),
            Err(error) => return Err(error),
        };
        Ok((Self::load(root, id)?, guard))
    }

    /// Removes what a command that was killed has left before it could say what it was making. `false`: there is nothing of the kind.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn sweep(root: &Path, id: &str) -> Result<bool> {
        check_id(id)?;
        let dir = root.join(id);
        if !dir.is_dir() || dir.join(STATE).exists() {
            return Ok(false);
        }
        let Some(_guard) = lock(&dir, PATIENCE)? else { return Ok(false) };
        if dir.join(STATE).exists() {
            return Ok(false);
        }
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(true)
    }

    /// All containers below `root`.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn all(root: &Path) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| root.display().to_string())?,
        };
        let mut ids: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids.iter().filter_map(|id| Self::load(root, id).ok()).collect())
    }

    /// Writes the record.
    ///
    /// # Errors
    /// What the host says; the old one is still there.
    pub fn save(&self) -> Result<()> {
        replace(&self.dir.join(STATE), &serde_json::to_vec_pretty(&self.record)?)
    }

    /// Records what has become of it.
    ///
    /// # Errors
    /// What the host says.
    pub fn become_status(&mut self, status: Status) -> Result<()> {
        self.record.status = status;
        self.save()
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Whether its sandbox lives.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.record.pid > 0 && start_time(self.record.pid) == Some(self.record.started)
    }

    #[must_use]
    pub fn status(&self) -> Status {
        match self.record.status {
            // Somebody is at it, or was when killed.
            Status::Creating if matches!(lock(&self.dir, Duration::ZERO), Ok(None)) => Status::Creating,
            Status::Creating => Status::Stopped,
            _ if !self.alive() => Status::Stopped,
            _ => self.ask_status(),
        }
    }

    /// How far a sandbox that lives is.
    fn ask_status(&self) -> Status {
        let asked = self.connect().and_then(|connection| {
            connection.set_patience(Some(STATUS_PATIENCE))?;
            connection.send(&Request::Status, &[])?;
            Ok(connection.receive::<Response>()?.0)
        });
        match asked {
            Ok(Response::Status { started: false, .. }) => Status::Created,
            Ok(Response::Status { paused: true, .. }) => Status::Paused,
            // It takes no requests any more: about to end, or killed meanwhile.
            Err(_) if !self.alive() => Status::Stopped,
            // Or it is stopped itself, and can't say.
            _ => Status::Running,
        }
    }

    /// Status, which must be one of these for `what`.
    ///
    /// # Errors
    /// When it isn't.
    pub fn require(&self, wanted: &[Status], what: &str) -> Result<()> {
        let status = self.status();
        if wanted.contains(&status) {
            return Ok(());
        }
        if status == Status::Stopped {
            // Docker and containerd look for these very words.
            bail!("cannot {what}: container {} is not running", self.id());
        }
        bail!("cannot {what}: container {} is {status}", self.id())
    }

    /// Where the sandbox's socket is, however long the directory's path is: that of a socket ends after 107 bytes. Good as long as the file is.
    fn socket(&self) -> Result<(File, PathBuf)> {
        use std::os::fd::AsRawFd;
        let dir = File::open(&self.dir).with_context(|| self.dir.display().to_string())?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).into();
        Ok((dir, path))
    }

    /// Makes the socket on which the sandbox is to take requests.
    ///
    /// # Errors
    /// What the host says.
    pub fn listen(&self) -> Result<std::os::unix::net::UnixListener> {
        let (_dir, path) = self.socket()?;
        std::os::unix::net::UnixListener::bind(path).with_context(|| format!("{}/{SOCKET}", self.dir.display()))
    }

    /// Connects to the sandbox.
    ///
    /// # Errors
    /// When it has ended.
    pub fn connect(&self) -> Result<Connection> {
        let (_dir, path) = self.socket()?;
        Connection::connect(&path).with_context(|| format!("container {} is not running", self.id()))
    }

    /// The file that the sandbox is to leave its exit status in.
    ///
    /// # Errors
    /// What the host says.
    pub fn exit_status_file(&self) -> Result<File> {
        let path = self.dir.join(EXIT_STATUS);
        File::create(&path).with_context(|| path.display().to_string())
    }

    /// The exit status that the sandbox has left: none if it was killed.
    #[must_use]
    pub fn exit_status(&self) -> Option<i32> {
        self.end()?.0.try_into().ok()
    }

    /// How many of its processes were killed because memory was up: of a sandbox that has ended by itself.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        self.end()?.1.try_into().ok()
    }

    /// What the sandbox has left at its end.
    fn end(&self) -> Option<(i64, i64)> {
        let text = fs::read_to_string(self.dir.join(EXIT_STATUS)).ok()?;
        let (status, kills) = text.trim().split_once(' ')?;
        Some((status.parse().ok()?, kills.parse().ok()?))
    }

    /// A handle of the sandbox's process, if it lives.
    fn process(&self) -> Option<OwnedFd> {
        let process = pidfd_open(Pid::from_raw(self.record.pid)?, PidfdFlags::empty()).ok()?;
        // Only now is it sure whose number it is.
        self.alive().then_some(process)
    }

    /// Kills the sandbox, and with it all that is inside.
    ///
    /// # Errors
    /// When the host forbids it.
    pub fn terminate_without_waiting(&self) -> Result<()> {
        let Some(process) = self.process() else { return Ok(()) };
        match pidfd_send_signal(&process, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            result => result.with_context(|| format!("cannot kill container {}", self.id())),
        }
    }

    /// Kills the sandbox and waits for its end.
    ///
    /// # Errors
    /// When it doesn't end.
    pub fn terminate(&self) -> Result<()> {
        let Some(process) = self.process() else { return Ok(()) };
        self.terminate_without_waiting()?;
        let mut fds = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&patience))? == 0 {
            bail!("container {} doesn't end", self.id());
        }
        // Where it is our own child.
        let _ = rustix::process::waitpid(Pid::from_raw(self.record.pid), rustix::process::WaitOptions::NOHANG);
        Ok(())
    }

    /// The state as the specification has it, for hooks and `state`, in runc's order.
    #[must_use]
    pub fn json(&self) -> State<'_> {
        let status = self.status();
        State {
            oci_version: "1.0.2",
            id: self.id(),
            pid: if status == Status::Stopped { 0 } else { self.record.pid },
            status,
            bundle: &self.record.bundle,
            rootfs: &self.record.rootfs,
            created: &self.record.created,
            annotations: &self.record.annotations,
            owner: self.owner(),
        }
    }

    /// The name of the user who made it.
    fn owner(&self) -> String {
        let Ok(uid) = fs::metadata(&self.dir).map(|meta| meta.uid()) else { return String::new() };
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        found.unwrap_or_else(|| format!("#{uid}"))
    }

    /// Forgets it.
    ///
    /// # Errors
    /// When its directory can't be removed.
    pub fn forget(&self) -> Result<()> {
        // The record goes last but one: a command killed half-way leaves it.
        for name in [SOCKET, EXIT_STATUS, STATE] {
            let _ = fs::remove_file(self.dir.join(name));
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.with_context(|| self.dir.display().to_string()),
        }
    }
}

/// What `state` and `list` print and hooks are told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    pub oci_version: &'static str,
    pub id: &'a str,
    pub pid: i32,
    pub status: Status,
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    pub created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
    pub owner: String,
}

/// Now, as state has it.
#[must_use]
pub fn now() -> String {
    humantime::format_rfc3339_nanos(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories() {
        assert!(check_id("web-1_a+b.c").is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_lock_is_of_the_directory_that_is_there() {
        let dir = std::env::temp_dir().join(format!("palisade-lock-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let first = lock(&dir, Duration::ZERO).unwrap().unwrap();
        assert!(lock(&dir, Duration::ZERO).unwrap().is_none());
        let path = dir.clone();
        let waiter = std::thread::spawn(move || lock(&path, Duration::from_secs(20)).map(|guard| guard.is_some()));
        std::thread::sleep(Duration::from_millis(20));
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        let second = lock(&dir, Duration::ZERO).unwrap().unwrap();
        drop(first);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished(), "it has the lock of a directory that is gone");
        drop(second);
        assert!(waiter.join().unwrap().unwrap());
        fs::remove_dir_all(&dir).unwrap();
    }
}
