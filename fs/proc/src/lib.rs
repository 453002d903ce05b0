//! /proc (proc(5)).
//!
//! Two kinds of nodes: the fixed tree of `system` and the directories of processes in `process`. The text of a file is made when it
//! is opened, and again when it is read from the start.
#![forbid(unsafe_code)]

mod cpuinfo;
mod ipc;
mod locks;
mod mem;
mod memory;
mod mounts;
mod netsys;
mod oom;
mod process;
mod status;
mod sysctl;
mod system;
mod userns;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::poll::PollEvents;
use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use auth::Credentials;
use sync::{Mutex, WaitQueue, monotonic_ns};
use task::{Kernel, PidNamespace, Task};
use usermem::IoBuf;
use vfs::{
    Attr, Caching, Dentry, DirEntry, FileOps, FileSystemType, Inode, MountRequest, NamespaceState, NewNode, Path, Plain, SetAttr,
    SuperBlock, new_dev,
};

use crate::process::{Item, Member};
use crate::system::{Body, Entry};

/// `PROC_SUPER_MAGIC`
const MAGIC: i64 = 0x9fa0;
/// Most that can be written to a file at a time.
const MAX_WRITE: usize = 4096;
/// Nanoseconds of a clock tick (`USER_HZ` is 100).
const TICK: u64 = 10_000_000;

/// The type of filesystem: each mount is an instance of its own.
pub struct ProcFs {
    pub kernel: Arc<Kernel>,
}

impl FileSystemType for ProcFs {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        if request.options.iter().any(|option| !matches!(&*option.name, b"gid" | b"hidepid" | b"subset")) {
            return Err(Errno::EINVAL);
        }
        let dev = new_dev();
        // It shows what who mounts it can see.
        let first = || self.kernel.ns.pid_for_children.clone();
        let ns = task::current().map_or_else(first, |task| task.group.pid_ns().clone());
        Dentry::root(SuperBlock::new("proc", dev, Box::new(Plain)), root(self.kernel.clone(), ns, dev))
    }
}

/// The root directory of a /proc that shows the processes of a pid namespace.
#[must_use]
pub fn root(kernel: Arc<Kernel>, pid_ns: Arc<PidNamespace>, dev: u64) -> Arc<dyn Inode> {
    let uptime = monotonic_ns().saturating_sub(kernel.started);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let now = Timespec { sec: now.tv_sec, nsec: now.tv_nsec }.to_ns();
    let proc = Proc {
        dev,
        load: Mutex::new((0, [0.0; 3])),
        boot_id: uuid().unwrap_or_default(),
        boot_time: now.unwrap_or(0).saturating_sub(uptime),
        cpu_seen: AtomicU64::new(0),
        kernel,
        pid_ns,
    };
    Arc::new(Node { proc: Arc::new(proc), what: What::Fixed(&system::ROOT) })
}

/// What all nodes share.
struct Proc {
    kernel: Arc<Kernel>,
    pid_ns: Arc<PidNamespace>,
    dev: u64,
    /// The load averages: when they were last brought up to date, and what they were.
    load: Mutex<(u64, [f64; 3])>,
    boot_id: Vec<u8>,
    /// Wall clock time, in nanoseconds, at which the sandbox started.
    boot_time: u64,
    /// Most CPU time that was ever shown: it never goes back.
    cpu_seen: AtomicU64,
}

impl Proc {
    /// The task that asks, if it is one.
    fn caller(&self) -> Option<Arc<Task>> {
        task::current().filter(|task| Arc::ptr_eq(&task.kernel, &self.kernel))
    }

    /// Nanoseconds since the sandbox started.
    fn uptime(&self) -> u64 {
        monotonic_ns().saturating_sub(self.kernel.started)
    }
}

/// A line with a random UUID (version 4).
fn uuid() -> SysResult<Vec<u8>> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let value = u128::from_be_bytes(bytes);
    let value = value & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let part = |shift: u32, bits: u32| value >> shift & ((1 << bits) - 1);
    let (a, b, c, d, e) = (part(96, 32), part(80, 16), part(64, 16), part(48, 16), part(0, 48));
    Ok(format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}\n").into_bytes())
}

/// A number as a file name: digits only, no leading zero.
fn number(name: &[u8]) -> Option<i32> {
    let plain = name.iter().all(u8::is_ascii_digit) && (name.len() == 1 || name.first() != Some(&b'0'));
    if plain { std::str::from_utf8(name).ok()?.parse().ok() } else { None }
}

/// A place in /proc.
#[derive(Clone)]
enum What {
    Fixed(&'static Entry),
    Process(Member, Item),
}

/// An inode.
#[derive(Clone)]
struct Node {
    proc: Arc<Proc>,
    what: What,
}

impl Node {
    fn with(&self, what: What) -> Arc<dyn Inode> {
        Arc::new(Self { proc: self.proc.clone(), what })
    }

    /// The text of a file.
    /// The namespace whose mounts it lists, if it is such a file.
    fn mounts(&self) -> Option<Arc<NamespaceState>> {
        let What::Process(member, Item::File(file)) = &self.what else { return None };
        if !mounts::LISTS.contains(&file.name) {
            return None;
        }
        let task = member.view(&self.proc.kernel)?.task?;
        let namespace = task.lock().mount_ns.state().clone();
        Some(namespace)
    }

    fn text(&self) -> SysResult<Vec<u8>> {
        match &self.what {
            What::Fixed(Entry { body: Body::File(make), .. }) => make(&self.proc),
            What::Process(member, Item::File(file)) => {
                let view = member.view(&self.proc.kernel).ok_or(Errno::ESRCH)?;
                (file.make)(&self.proc, &view)
            }
            What::Process(member, Item::FdInfo(fd)) => member.view(&self.proc.kernel).ok_or(Errno::ESRCH)?.fd_info(*fd),
            What::Process(member, Item::NetFile(name)) => {
                let view = member.view(&self.proc.kernel).ok_or(Errno::ESRCH)?;
                view.net()?.text(name).ok_or(Errno::ENOENT)
            }
            What::Fixed(Entry { body: Body::Dir(_) | Body::Dirs(_), .. })
            | What::Process(_, Item::Dir | Item::Tasks | Item::Fds | Item::FdInfos | Item::Net | Item::Namespaces) => {
                Err(Errno::EISDIR)
            }
            _ => Err(Errno::ELOOP),
        }
    }

    /// Type and permissions.
    fn mode(&self) -> u32 {
        match &self.what {
            What::Fixed(entry) => entry.mode(),
            What::Process(_, item) => item.mode(),
        }
    }
}

impl Inode for Node {
    fn attr(&self) -> SysResult<Attr> {
        let (ino, since) = match &self.what {
            What::Fixed(entry) => (entry.ino, 0),
            What::Process(member, item) => {
                let age = member.started().saturating_sub(self.proc.kernel.started);
                (member.ino(*item), age)
            }
        };
        let time = Timespec::from_ns(self.proc.boot_time.saturating_add(since));
        let mode = self.mode();
        let nlink = if mode & c::S_IFMT == c::S_IFDIR { 2 } else { 1 };
        let times = Attr { atime: time, mtime: time, ctime: time, ..Attr::default() };
        let (uid, gid) = match &self.what {
            What::Fixed(_) => (0, 0),
            What::Process(member, item) => member.owner(&self.proc.kernel, *item),
        };
        Ok(Attr { dev: self.proc.dev, ino, nlink, mode, uid, gid, ..times })
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        match &self.what {
            What::Fixed(entry) => {
                let entries = entry.entries()?;
                if let Some(found) = entries.iter().copied().find(|entry| entry.name.as_bytes() == name) {
                    return Ok(self.with(What::Fixed(found)));
                }
                let pid = number(name).filter(|_| entry.ino == system::ROOT.ino);
                let member = pid.and_then(|pid| Member::process(&self.proc, pid));
                Ok(self.with(What::Process(member.ok_or(Errno::ENOENT)?, Item::Dir)))
            }
            What::Process(member, item) => {
                let (member, item) = member.lookup(&self.proc.kernel, *item, name)?;
                Ok(self.with(What::Process(member, item)))
            }
        }
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        match &self.what {
            What::Fixed(entry) => {
                let entries = entry.entries()?;
                let list = entries.iter().copied().map(|entry| DirEntry {
                    name: entry.name.into(),
                    ino: entry.ino,
                    kind: entry.mode() & c::S_IFMT,
                });
                let mut list: Vec<_> = list.collect();
                if entry.ino == system::ROOT.ino {
                    list.extend(Member::list(&self.proc));
                }
                Ok(list)
            }
            What::Process(member, item) => member.readdir(&self.proc.kernel, *item),
        }
    }

    fn readlink(&self) -> SysResult<Vec<u8>> {
        match &self.what {
            What::Fixed(Entry { body: Body::Link(make), .. }) => make(&self.proc),
            What::Fixed(_) => Err(Errno::EINVAL),
            What::Process(member, item) => member.readlink(&self.proc, *item),
        }
    }

    fn magic_link(&self) -> SysResult<Option<Path>> {
        match &self.what {
            What::Fixed(_) => Ok(None),
            What::Process(member, item) => member.follow(&self.proc, *item),
        }
    }

    fn open(self: Arc<Self>, _flags: i32) -> SysResult<Arc<dyn FileOps>> {
        if let What::Process(member, Item::Memory) = &self.what {
            let view = member.view(&self.proc.kernel).ok_or(Errno::ESRCH)?;
            return mem::open(&self.proc, &view);
        }
        let text = Mutex::new(Arc::new(self.text()?));
        let opener = self.proc.caller().map(|task| task.credentials());
        let mounts = self.mounts().map(|namespace| (AtomicU64::new(namespace.changes()), namespace));
        Ok(Arc::new(Text { node: self, text, fresh: AtomicBool::new(true), opener, mounts }))
    }

    fn create(self: Arc<Self>, _name: &[u8], _node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        Err(Errno::ENOENT)
    }

    fn unlink(&self, _name: &[u8], _child: &Arc<dyn Inode>, _dir: bool, _used: bool) -> SysResult<()> {
        Err(Errno::EPERM)
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        // Truncation at open(2) does nothing, as on Linux.
        let other = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        if other { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(Statfs { kind: MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }

    fn caching(&self) -> Caching {
        Caching::None
    }
}

/// An open file.
struct Text {
    node: Arc<Node>,
    text: Mutex<Arc<Vec<u8>>>,
    /// Nobody has read it since it was made.
    fresh: AtomicBool,
    opener: Option<Arc<Credentials>>,
    /// Of a list of mounts: the namespace, and how often it had changed when somebody last asked (poll(2)).
    mounts: Option<(AtomicU64, Arc<NamespaceState>)>,
}

impl FileOps for Text {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        // Those who rewind want news.
        if !self.fresh.swap(false, Ordering::Relaxed) && offset == 0 {
            let text = Arc::new(self.node.text()?);
            *self.text.lock() = text;
        }
        let text = self.text.lock().clone();
        let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        if part.is_empty() { Ok(0) } else { buf.copy_out(part) }
    }

    fn write(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let What::Process(member, Item::File(file)) = &self.node.what else { return Err(Errno::EINVAL) };
        let (Some(write), Some(opener)) = (file.write, &self.opener) else { return Err(Errno::EINVAL) };
        // A page at most, and not in parts.
        let mut text = vec![0; buf.remaining()];
        if offset != 0 || text.len() > MAX_WRITE {
            return Err(Errno::EINVAL);
        }
        let count = buf.copy_in(&mut text)?;
        text.truncate(count);
        let proc = &self.node.proc;
        let start = buf.done() - count;
        let view = member.view(&proc.kernel).ok_or(Errno::ESRCH);
        // What is refused hasn't been written.
        view.and_then(|view| write(proc, &view, &text, opener)).inspect_err(|_| buf.rewind(start))?;
        Ok(count)
    }

    fn poll(&self) -> PollEvents {
        let news = self.mounts.as_ref().is_some_and(|(seen, namespace)| {
            let changes = namespace.changes();
            seen.swap(changes, Ordering::Relaxed) != changes
        });
        let ready = PollEvents::READABLE | PollEvents::WRITABLE;
        if news { ready | PollEvents::PRI | PollEvents::ERR } else { ready }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        self.mounts.as_ref().map(|(_, namespace)| namespace.queue())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
