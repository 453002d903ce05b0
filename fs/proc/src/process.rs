//! Directories of processes and threads, and the links in them.

use std::sync::{Arc, Weak};

use abi::{Errno, SysResult, c};
use mm::Dumpable;
use task::{Access, Group, Kernel, NetNamespace, PidNamespace, Task};
use vfs::{DirEntry, File, Path, Places};

use crate::status::{FILES, TextFile};
use crate::{Proc, locks, number};

/// A process, or a thread of it in /proc/pid/task.
#[derive(Clone)]
pub struct Member {
    pid: i32,
    thread: Option<i32>,
    /// In a directory task/; threads have one in /proc itself, too, which isn't listed.
    pub nested: bool,
    group: Weak<Group>,
    /// Whose numbers are names.
    ns: Arc<PidNamespace>,
}

/// A link to a place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Exe,
    Cwd,
    Root,
}

/// What there is in a member's directory.
#[derive(Clone, Copy)]
pub enum Item {
    /// The directory itself.
    Dir,
    File(&'static TextFile),
    /// mem
    Memory,
    Link(Link),
    /// fd/
    Fds,
    /// fd/N
    Fd(i32),
    /// fdinfo/
    FdInfos,
    /// fdinfo/N
    FdInfo(i32),
    /// task/
    Tasks,
    /// ns/
    Namespaces,
    /// ns/NAME
    Namespace(&'static str),
    /// net/
    Net,
    /// net/NAME
    NetFile(&'static str),
}

/// Whether the caller may follow a task's links.
fn may_look(proc: &Proc, task: &Task) -> SysResult<()> {
    let may = proc.caller().is_none_or(|caller| caller.may_access(task, Access::Files));
    if may { Ok(()) } else { Err(Errno::EACCES) }
}

/// Where a name is in a list, for inode numbers.
fn position(names: &[&str], name: &str) -> u32 {
    names.iter().position(|known| *known == name).and_then(|at| u32::try_from(at).ok()).unwrap_or(0)
}

/// Names in ns/.
const NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"];

const LINKS: &[(&str, Link)] = &[("exe", Link::Exe), ("cwd", Link::Cwd), ("root", Link::Root)];

impl Item {
    /// Type and permissions.
    pub fn mode(self) -> u32 {
        match self {
            Self::Dir | Self::FdInfos | Self::Tasks | Self::Net => c::S_IFDIR | 0o555,
            Self::Fds => c::S_IFDIR | 0o500,
            Self::Namespaces => c::S_IFDIR | 0o511,
            Self::NetFile(_) | Self::FdInfo(_) => c::S_IFREG | 0o444,
            Self::Memory => c::S_IFREG | 0o600,
            Self::File(file) => c::S_IFREG | file.mode(),
            Self::Link(_) | Self::Namespace(_) => c::S_IFLNK | 0o777,
            Self::Fd(_) => c::S_IFLNK | 0o700,
        }
    }
}

/// A process or thread as it is now.
pub struct View {
    pub group: Arc<Group>,
    /// The thread, or the leader of the process, or what is left of it.
    pub task: Option<Arc<Task>>,
    /// The threads of the process.
    pub tasks: Vec<Arc<Task>>,
    /// Number of the thread, or of the process, for the kernel.
    pub id: i32,
    /// Whose numbers are shown.
    pub ns: Arc<PidNamespace>,
    /// Only of the thread, as in task/: not of the whole process.
    pub one: bool,
}

impl View {
    /// The task's root and working directory.
    pub fn places(&self) -> Option<Arc<Places>> {
        places_of(self.task.as_deref()?).into()
    }

    /// The task's file mode mask.
    pub fn umask(&self) -> Option<u32> {
        Some(self.task.as_ref()?.lock().fs.umask())
    }

    /// Its address space.
    pub fn mm(&self) -> Option<Arc<mm::MemoryManager>> {
        self.task.as_ref()?.lock().mm.clone()
    }

    /// Its network namespace.
    pub fn net(&self) -> SysResult<Arc<dyn NetNamespace>> {
        Ok(self.task.as_ref().ok_or(Errno::ENOENT)?.lock().ns.net.clone())
    }

    /// The text of fdinfo/N: position, flags, mount, number, locks, and what the file itself has to say.
    pub fn fd_info(&self, fd: i32) -> SysResult<Vec<u8>> {
        let task = self.task.as_ref().ok_or(Errno::ENOENT)?;
        let fds = task.lock().fds.clone();
        let (file, cloexec) = (fds.get(fd).map_err(|_| Errno::ENOENT)?, fds.cloexec(fd).unwrap_or(false));
        let flags = file.flags() | if cloexec { c::O_CLOEXEC } else { 0 };
        let mount = file.path.as_ref().map_or(0, |path| path.mount.id());
        let ino = file.attr().map_or(0, |attr| attr.ino);
        let mut text = format!("pos:\t{}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{ino}\n", file.position());
        for (number, lock) in (1..).zip(file.locks_of(fds.lock_table())) {
            text.push_str(&format!("lock:\t{number}: {}\n", locks::line(&lock)));
        }
        text.push_str(&file.ops.fd_info());
        Ok(text.into_bytes())
    }

    fn file(&self, fd: i32) -> SysResult<Arc<File>> {
        let task = self.task.as_ref().ok_or(Errno::ENOENT)?;
        let fds = task.lock().fds.clone();
        fds.get(fd).map_err(|_| Errno::ENOENT)
    }
}

fn places_of(task: &Task) -> Arc<Places> {
    let fs = task.lock().fs.clone();
    fs.places()
}

impl Member {
    /// The process with this number, or with a thread of this number.
    pub(crate) fn process(proc: &Proc, number: i32) -> Option<Self> {
        let (kernel, pid) = (&proc.kernel, proc.pid_ns.global(number)?);
        let group = kernel.group(pid).or_else(|| Some(kernel.task(pid)?.group.clone()))?;
        let thread = (pid != group.pid).then_some(pid);
        Some(Self { pid: group.pid, thread, nested: false, group: Arc::downgrade(&group), ns: proc.pid_ns.clone() })
    }

    /// Entries of all processes.
    pub(crate) fn list(proc: &Proc) -> Vec<DirEntry> {
        let groups: Vec<_> = proc.kernel.groups.lock().keys().copied().collect();
        let entry = |pid: i32| {
            let member = Self { pid, thread: None, nested: false, group: Weak::new(), ns: proc.pid_ns.clone() };
            let number = proc.pid_ns.local(pid);
            (number != 0).then(|| member.entry(number.to_string(), Item::Dir))
        };
        groups.into_iter().filter_map(entry).collect()
    }

    /// What is known of it, unless it is gone.
    pub fn view(&self, kernel: &Kernel) -> Option<View> {
        let group = self.group.upgrade()?;
        if !kernel.group(self.pid).is_some_and(|now| Arc::ptr_eq(&now, &group)) {
            return None;
        }
        let tasks = group.tasks.lock().clone();
        let id = self.thread.unwrap_or(self.pid);
        let task = tasks.iter().find(|task| task.tid() == id);
        if self.thread.is_some() && task.is_none() {
            return None;
        }
        let task = task.or(tasks.first()).cloned();
        Some(View { group, task, tasks, id, ns: self.ns.clone(), one: self.nested })
    }

    /// Whether a task is one of the process's.
    pub fn is_of(&self, task: &Option<Arc<Task>>) -> bool {
        task.as_ref().is_some_and(|task| std::ptr::eq(Arc::as_ptr(&task.group), self.group.as_ptr()))
    }

    /// Whether the caller may open a file: some show, or change, what the program has in memory.
    ///
    /// # Errors
    /// `ESRCH` when the process is gone; `EACCES`.
    pub(crate) fn check_open(&self, proc: &Proc, item: Item) -> SysResult<()> {
        let view = self.view(&proc.kernel).ok_or(Errno::ESRCH)?;
        let guarded = match item {
            Item::Memory | Item::FdInfo(_) => true,
            Item::File(file) => file.guarded,
            _ => false,
        };
        match &view.task {
            Some(task) if guarded => may_look(proc, task),
            _ => Ok(()),
        }
    }

    /// How many files it has open.
    pub fn open_files(&self, kernel: &Kernel) -> u64 {
        let task = self.view(kernel).and_then(|view| view.task);
        let fds = task.map(|task| task.lock().fds.clone());
        fds.map_or(0, |fds| fds.list().len() as u64)
    }

    /// Mode of a link in fd/: as the file was opened.
    pub fn fd_mode(&self, kernel: &Kernel, fd: i32) -> u32 {
        let file = self.view(kernel).and_then(|view| view.file(fd).ok());
        let flags = file.map_or(c::O_RDONLY, |file| file.flags());
        let bits = match flags & c::O_ACCMODE {
            _ if flags & c::O_PATH != 0 => 0,
            c::O_RDONLY => 0o500,
            c::O_WRONLY => 0o300,
            _ => 0o700,
        };
        c::S_IFLNK | bits
    }

    /// Directories in the directory `item`.
    pub fn subdirectories(&self, kernel: &Kernel, item: Item) -> u64 {
        match item {
            Item::Dir => self.items().filter(|(_, item)| item.mode() & c::S_IFMT == c::S_IFDIR).count() as u64,
            Item::Tasks => self.view(kernel).map_or(0, |view| view.tasks.len() as u64),
            _ => 0,
        }
    }

    /// Monotonic time at which the process started.
    pub fn started(&self) -> u64 {
        self.group.upgrade().map_or(0, |group| group.started)
    }

    /// 22 bits of pid or tid, 8 bits of what it is, 32 bits of descriptor.
    pub fn ino(&self, item: Item) -> u64 {
        let (kind, extra) = match item {
            Item::Dir => (1, 0),
            Item::Fds => (2, 0),
            Item::Tasks => (3, 0),
            Item::Net => (8, 0),
            Item::Namespaces => (10, 0),
            Item::Namespace(name) => (11, position(NAMESPACES, name)),
            Item::NetFile(name) => (9, name.bytes().fold(7, |hash, byte| u32::wrapping_mul(hash, 31).wrapping_add(byte.into()))),
            Item::Fd(fd) => (4, fd.cast_unsigned()),
            Item::FdInfos => (12, 0),
            Item::Memory => (14, 0),
            Item::FdInfo(fd) => (13, fd.cast_unsigned()),
            Item::Link(link) => (5 + link as u64, 0),
            Item::File(file) => (16 + file.number, 0),
        };
        let kind = kind | if self.nested { 0x80 } else { 0 };
        let id = self.thread.unwrap_or(self.pid);
        u64::from(id.cast_unsigned()) << 40 | kind << 32 | u64::from(extra)
    }

    /// Owner and group of its files: those of its program, unless others may not look into it. The directory itself is always its own.
    pub fn owner(&self, kernel: &Kernel, item: Item) -> (u32, u32) {
        let Some(view) = self.view(kernel) else { return (0, 0) };
        let who = view.task.as_ref().map(|task| task.credentials()).or_else(|| view.group.credentials());
        let open = || view.mm().is_none_or(|mm| mm.dumpable() == Dumpable::User);
        match who {
            Some(who) if matches!(item, Item::Dir) || open() => (who.euid.0, who.egid.0),
            _ => (0, 0),
        }
    }

    fn entry(&self, name: impl Into<Vec<u8>>, item: Item) -> DirEntry {
        DirEntry { name: name.into(), ino: self.ino(item), kind: item.mode() & c::S_IFMT }
    }

    fn thread(&self, tid: i32) -> Self {
        Self { thread: Some(tid), nested: true, ..self.clone() }
    }

    /// Fixed names of the directory.
    fn items(&self) -> impl Iterator<Item = (&'static str, Item)> {
        let files = FILES.iter().map(|file| (file.name, Item::File(file)));
        let links = LINKS.iter().map(|(name, link)| (*name, Item::Link(*link)));
        let tasks = (!self.nested).then_some(("task", Item::Tasks));
        let dirs = [("fd", Item::Fds), ("fdinfo", Item::FdInfos), ("net", Item::Net), ("ns", Item::Namespaces)];
        let files = files.chain([("mem", Item::Memory)]).filter(|(name, _)| self.nested || *name != "children");
        files.chain(links).chain(dirs).chain(tasks)
    }

    /// What `name` is in the directory `item`.
    pub fn lookup(&self, kernel: &Kernel, item: Item, name: &[u8]) -> SysResult<(Self, Item)> {
        let view = || self.view(kernel).ok_or(Errno::ENOENT);
        match item {
            Item::Dir => {
                view()?;
                let found = self.items().find(|(known, _)| known.as_bytes() == name);
                found.map(|(_, item)| (self.clone(), item)).ok_or(Errno::ENOENT)
            }
            Item::Fds | Item::FdInfos => {
                let fd = number(name).ok_or(Errno::ENOENT)?;
                view()?.file(fd)?;
                Ok((self.clone(), if matches!(item, Item::Fds) { Item::Fd(fd) } else { Item::FdInfo(fd) }))
            }
            Item::Tasks => {
                let tid = number(name).and_then(|number| self.ns.global(number));
                let member = self.thread(tid.ok_or(Errno::ENOENT)?);
                member.view(kernel).ok_or(Errno::ENOENT)?;
                Ok((member, Item::Dir))
            }
            Item::Namespaces => {
                view()?;
                let found = NAMESPACES.iter().find(|known| known.as_bytes() == name);
                Ok((self.clone(), Item::Namespace(found.ok_or(Errno::ENOENT)?)))
            }
            Item::Net => {
                let net = view()?.net()?;
                let found = net.files().iter().find(|known| known.as_bytes() == name);
                Ok((self.clone(), Item::NetFile(found.ok_or(Errno::ENOENT)?)))
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Entries of the directory `item`.
    pub fn readdir(&self, kernel: &Kernel, item: Item) -> SysResult<Vec<DirEntry>> {
        let view = || self.view(kernel).ok_or(Errno::ENOENT);
        match item {
            Item::Dir => {
                view()?;
                Ok(self.items().map(|(name, item)| self.entry(name, item)).collect())
            }
            Item::Fds | Item::FdInfos => {
                let Some(task) = view()?.task else {
                    return Ok(Vec::new());
                };
                let fds = task.lock().fds.clone();
                let list = fds.list().into_iter();
                let what = |fd| if matches!(item, Item::Fds) { Item::Fd(fd) } else { Item::FdInfo(fd) };
                Ok(list.map(|(fd, _)| self.entry(fd.to_string(), what(fd))).collect())
            }
            Item::Tasks => {
                let mut tids: Vec<_> = view()?.tasks.iter().map(|task| task.tid()).collect();
                tids.sort_unstable();
                let entry = |tid: &i32| self.thread(*tid).entry(self.ns.local(*tid).to_string(), Item::Dir);
                Ok(tids.iter().map(entry).collect())
            }
            Item::Namespaces => {
                view()?;
                Ok(NAMESPACES.iter().map(|name| self.entry(*name, Item::Namespace(name))).collect())
            }
            Item::Net => {
                let files = view()?.net()?.files();
                Ok(files.iter().map(|name| self.entry(*name, Item::NetFile(name))).collect())
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Where a link leads.
    pub fn target(&self, kernel: &Kernel, item: Item) -> Option<Path> {
        let view = self.view(kernel)?;
        match item {
            Item::Namespace(name) => view.task.as_ref()?.namespace(name)?.path().ok(),
            Item::Link(Link::Exe) => view.task.as_ref()?.lock().exe.as_ref().map(|exe| exe.path.clone()),
            Item::Link(Link::Cwd) => Some(view.places()?.cwd.clone()),
            Item::Link(Link::Root) => Some(view.places()?.root.clone()),
            Item::Fd(fd) => view.file(fd).ok()?.path.clone(),
            _ => None,
        }
    }

    /// Where a link leads, if the caller may know: to a place, or to an open file that has none.
    ///
    /// # Errors
    /// `EACCES`; `ENOENT` when it is gone.
    pub(crate) fn follow(&self, proc: &Proc, item: Item) -> SysResult<Option<Path>> {
        if matches!(item, Item::Link(_) | Item::Fd(_) | Item::Namespace(_))
            && let Some(task) = self.view(&proc.kernel).and_then(|view| view.task)
        {
            may_look(proc, &task)?;
        }
        match (self.target(&proc.kernel, item), item) {
            (None, Item::Fd(fd)) => vfs::nameless(&self.view(&proc.kernel).ok_or(Errno::ENOENT)?.file(fd)?).map(Some),
            (target, _) => Ok(target),
        }
    }

    /// What a link says.
    pub fn readlink(&self, proc: &Proc, item: Item) -> SysResult<Vec<u8>> {
        if !matches!(item, Item::Link(_) | Item::Fd(_) | Item::Namespace(_)) {
            return Err(Errno::EINVAL);
        }
        let view = self.view(&proc.kernel).ok_or(Errno::ESRCH)?;
        if let Item::Namespace(name) = item {
            let task = view.task.as_ref().ok_or(Errno::ENOENT)?;
            may_look(proc, task)?;
            return Ok(task.namespace(name).ok_or(Errno::ENOENT)?.text().into_bytes());
        }
        if let Some(target) = self.target(&proc.kernel, item) {
            let places = proc.caller().map(|task| places_of(&task)).or_else(|| view.places());
            return Ok(target.show(&places.ok_or(Errno::ENOENT)?.root));
        }
        match item {
            Item::Fd(fd) => Ok(view.file(fd)?.ops.describe().into_bytes()),
            _ => Err(Errno::ENOENT),
        }
    }
}
