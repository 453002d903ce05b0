//! /proc (proc(5)).
//!
//! Two kinds of nodes: the fixed tree of `system` and the directories of processes in `process`. The text of a file is made when it
//! is opened, and again when it is read from the start.
#![forbid(unsafe_code)]

mod cpuinfo;
mod ipc;
mod load;
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
mod tasks;
mod text;
mod userns;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use auth::Credentials;
use sync::{Mutex, monotonic_ns};
use task::{Kernel, PidNamespace, Task};
use vfs::{
    Access, Attr, Caching, Dentry, DirEntry, FileOps, FileSystemType, Inode, MountRequest, NewNode, Path, Plain, SetAttr,
    SuperBlock, generic_permission, new_dev,
};

pub use crate::cpuinfo::learn_speed;
use crate::process::{Item, Member};
use crate::system::{Body, Entry};

/// `PROC_SUPER_MAGIC`
const MAGIC: i64 = 0x9fa0;
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
    fn text(&self) -> SysResult<Vec<u8>> {
        match &self.what {
            What::Fixed(Entry { body: Body::File(make) | Body::Setting(make, _), .. }) => make(&self.proc),
            What::Fixed(Entry { name, body: Body::Numbers(numbers), .. }) => Ok(numbers.text(&self.proc.kernel, name)),
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

    /// Takes what `opener` has opened the file for to write.
    fn write(&self, text: &[u8], opener: &Credentials) -> SysResult<()> {
        match &self.what {
            What::Process(member, Item::File(file)) => {
                let write = file.write.ok_or(Errno::EINVAL)?;
                let view = member.view(&self.proc.kernel).ok_or(Errno::ESRCH)?;
                write(&self.proc, &view, text, opener)
            }
            What::Fixed(Entry { body: Body::Setting(_, write), .. }) => write(&self.proc, text),
            What::Fixed(Entry { name, body: Body::Numbers(numbers), .. }) => numbers.set(&self.proc.kernel, name, text),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Type and permissions.
    fn mode(&self) -> u32 {
        match &self.what {
            What::Fixed(entry) => entry.mode(),
            What::Process(member, Item::Fd(fd)) => member.fd_mode(&self.proc.kernel, *fd),
            What::Process(_, item) => item.mode(),
        }
    }

    /// Directories in it.
    fn subdirectories(&self) -> u64 {
        match &self.what {
            What::Fixed(entry) => entry.subdirectories(),
            What::Process(member, item) => member.subdirectories(&self.proc.kernel, *item),
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
        let nlink = if mode & c::S_IFMT == c::S_IFDIR { 2 + self.subdirectories() } else { 1 };
        let size = match &self.what {
            What::Process(member, Item::Fds) => member.open_files(&self.proc.kernel),
            _ => 0,
        };
        let times = Attr { atime: time, mtime: time, ctime: time, ..Attr::default() };
        let (uid, gid) = match &self.what {
            What::Fixed(_) => (0, 0),
            What::Process(member, item) => member.owner(&self.proc.kernel, *item),
        };
        Ok(Attr { dev: self.proc.dev, ino, nlink, mode, uid, gid, size, ..times })
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

    fn permission(&self, who: &Credentials, access: Access) -> SysResult<()> {
        let usual = self.attr().and_then(|attr| generic_permission(who, &attr, None, access));
        match &self.what {
            What::Process(member, Item::Dir) if !member.nested && member.view(&self.proc.kernel).is_none() => Err(Errno::ESRCH),
            // Whoever a process has become, its own descriptors are its own.
            What::Process(member, Item::Fds) if usual.is_err() && member.is_of(&self.proc.caller()) => Ok(()),
            _ => usual,
        }
    }

    fn process(&self) -> Option<i32> {
        match &self.what {
            What::Process(member, Item::Dir) if !member.nested => Some(member.view(&self.proc.kernel)?.group.pid),
            _ => None,
        }
    }

    fn own_rules(&self) -> bool {
        matches!(&self.what, What::Process(member, Item::Dir) if !member.nested)
    }

    fn open(self: Arc<Self>, _flags: i32) -> SysResult<Arc<dyn FileOps>> {
        text::open(self)
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
