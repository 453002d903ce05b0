//! One devpts: a directory of terminals that come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::structs::{Statfs, Timespec};
use abi::{Errno, SysResult, c};
use sync::Mutex;
use tty::{Master, Slave, Terminal};
use vfs::{Attr, Caching, Dentry, DirEntry, FileOps, Inode, MountOption, SetAttr, SuperBlock, SuperOps, new_dev};

use crate::{PTMX_MINOR, TTYAUX_MAJOR};

/// `DEVPTS_SUPER_MAGIC`
const MAGIC: i64 = 0x1cd1;
/// First major number of slaves.
const SLAVE_MAJOR: u32 = 136;
/// Terminals of one instance at most (kernel.pty.max).
const MAX: u32 = 4096;
/// Inode numbers: the directory, ptmx, then the slaves.
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
const FIRST_INO: u64 = 3;

/// Options of mount(8).
#[derive(Clone, Copy)]
struct Options {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: u32,
    ptmx_mode: u32,
    max: u32,
}

impl Options {
    fn parse(list: &[MountOption]) -> SysResult<Self> {
        let mut options = Self { uid: None, gid: None, mode: 0o600, ptmx_mode: 0, max: MAX };
        let number = |option: &MountOption, radix| u32::try_from(option.number(radix)?).map_err(|_| Errno::EINVAL);
        for option in list {
            match option.name.as_slice() {
                b"uid" => options.uid = Some(number(option, 10)?),
                b"gid" => options.gid = Some(number(option, 10)?),
                b"mode" => options.mode = number(option, 8)? & 0o7777,
                b"ptmxmode" => options.ptmx_mode = number(option, 8)? & 0o7777,
                b"max" => options.max = number(option, 10)?.min(MAX),
                // Every instance is one of its own.
                b"newinstance" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

/// What is kept of a node beside what it is.
#[derive(Clone, Copy)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
}

impl Meta {
    fn new(mode: u32, uid: u32, gid: u32) -> Arc<Mutex<Self>> {
        let time = now();
        Arc::new(Mutex::new(Self { mode, uid, gid, atime: time, mtime: time, ctime: time }))
    }
}

fn now() -> Timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: now.tv_sec, nsec: now.tv_nsec }
}

/// A terminal and its node. The number is free again when nobody has the terminal any more.
struct Entry {
    terminal: Weak<Terminal>,
    meta: Arc<Mutex<Meta>>,
}

/// An instance.
pub struct Instance {
    dev: u64,
    options: Mutex<Options>,
    entries: Mutex<BTreeMap<u32, Entry>>,
    root: Arc<Mutex<Meta>>,
    ptmx: Arc<Mutex<Meta>>,
    own: Weak<Self>,
}

impl Instance {
    /// A new one.
    ///
    /// # Errors
    /// `EINVAL` for unknown options.
    pub fn new(options: &[MountOption]) -> SysResult<Arc<Self>> {
        let options = Options::parse(options)?;
        Ok(Arc::new_cyclic(|own| Self {
            dev: new_dev(),
            options: Mutex::new(options),
            entries: Mutex::default(),
            root: Meta::new(c::S_IFDIR | 0o755, 0, 0),
            ptmx: Meta::new(c::S_IFCHR | options.ptmx_mode, 0, 0),
            own: own.clone(),
        }))
    }

    /// Its directory.
    ///
    /// # Errors
    /// `EIO`
    pub fn root(self: &Arc<Self>) -> SysResult<Arc<Dentry>> {
        let superblock = SuperBlock::new("devpts", self.dev, Box::new(Super(self.clone())));
        Dentry::root(superblock, Arc::new(Node { instance: self.clone(), what: What::Root, meta: self.root.clone() }))
    }

    /// A new terminal with the lowest number that is free, owned by the caller.
    ///
    /// # Errors
    /// `ENOSPC` when there are too many.
    pub fn allocate(&self) -> SysResult<Arc<Terminal>> {
        let (uid, gid) = task::current().map_or((0, 0), |task| {
            let who = task.credentials();
            (who.fsuid.0, who.fsgid.0)
        });
        let options = *self.options.lock();
        self.make(options.uid.unwrap_or(uid), options.gid.unwrap_or(gid))
    }

    /// The same for a program that is started from outside: its own, whatever the mount's options say.
    ///
    /// # Errors
    /// `ENOSPC`
    pub fn allocate_for(&self, uid: u32) -> SysResult<Arc<Terminal>> {
        let gid = self.options.lock().gid.unwrap_or(0);
        self.make(uid, gid)
    }

    fn make(&self, uid: u32, gid: u32) -> SysResult<Arc<Terminal>> {
        let options = *self.options.lock();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| entry.terminal.strong_count() > 0);
        let index = (0..options.max).find(|index| !entries.contains_key(index)).ok_or(Errno::ENOSPC)?;
        let terminal = Terminal::new(c::makedev(SLAVE_MAJOR, index), format!("/dev/pts/{index}"));
        let meta = Meta::new(c::S_IFCHR | options.mode, uid, gid);
        entries.insert(index, Entry { terminal: Arc::downgrade(&terminal), meta });
        Ok(terminal)
    }

    /// Opens a new terminal's master.
    ///
    /// # Errors
    /// `ENOSPC`
    pub fn open_master(&self) -> SysResult<Arc<dyn FileOps>> {
        Ok(Master::new(self.allocate()?))
    }

    /// The node of a terminal whose other end is there.
    fn node(&self, index: u32) -> Option<Node> {
        let entries = self.entries.lock();
        let entry = entries.get(&index)?;
        let terminal = entry.terminal.upgrade().filter(|terminal| terminal.is_connected())?;
        let what = What::Slave(index, Arc::downgrade(&terminal));
        Some(Node { instance: self.own.upgrade()?, what, meta: entry.meta.clone() })
    }

    fn numbers(&self) -> Vec<u32> {
        let entries = self.entries.lock();
        let there = |entry: &Entry| entry.terminal.upgrade().is_some_and(|terminal| terminal.is_connected());
        entries.iter().filter(|(_, entry)| there(entry)).map(|(index, _)| *index).collect()
    }
}

/// What mount(8) shows and changes.
struct Super(Arc<Instance>);

impl SuperOps for Super {
    fn show_options(&self) -> String {
        let options = *self.0.options.lock();
        let id = |name: &str, id: Option<u32>| id.map(|id| format!(",{name}={id}")).unwrap_or_default();
        let (uid, gid) = (id("uid", options.uid), id("gid", options.gid));
        format!("{uid}{gid},mode={:03o},ptmxmode={:03o}", options.mode, options.ptmx_mode)
    }

    fn reconfigure(&self, options: &[MountOption]) -> SysResult<()> {
        let options = Options::parse(options)?;
        *self.0.options.lock() = options;
        self.0.ptmx.lock().mode = c::S_IFCHR | options.ptmx_mode;
        Ok(())
    }
}

#[derive(Clone)]
enum What {
    Root,
    Ptmx,
    Slave(u32, Weak<Terminal>),
}

struct Node {
    instance: Arc<Instance>,
    what: What,
    meta: Arc<Mutex<Meta>>,
}

impl Inode for Node {
    fn attr(&self) -> SysResult<Attr> {
        let meta = *self.meta.lock();
        let (ino, nlink, rdev) = match self.what {
            What::Root => (ROOT_INO, 2, 0),
            What::Ptmx => (PTMX_INO, 1, c::makedev(TTYAUX_MAJOR, PTMX_MINOR)),
            What::Slave(index, _) => (FIRST_INO + u64::from(index), 1, c::makedev(SLAVE_MAJOR, index)),
        };
        let Meta { mode, uid, gid, atime, mtime, ctime } = meta;
        Ok(Attr { dev: self.instance.dev, ino, nlink, mode, uid, gid, rdev, atime, mtime, ctime, ..Attr::default() })
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        if !matches!(self.what, What::Root) {
            return Err(Errno::ENOTDIR);
        }
        if name == b"ptmx" {
            let instance = self.instance.clone();
            let meta = instance.ptmx.clone();
            return Ok(Arc::new(Self { instance, what: What::Ptmx, meta }));
        }
        // Digits only, and no zero in front.
        let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let index = text.parse::<u32>().ok().filter(|index| index.to_string() == text).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(self.instance.node(index).ok_or(Errno::ENOENT)?))
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        if !matches!(self.what, What::Root) {
            return Err(Errno::ENOTDIR);
        }
        let entry = |name: String, ino| DirEntry { name: name.into_bytes(), ino, kind: c::S_IFCHR };
        let slaves = self.instance.numbers().into_iter().map(|index| entry(index.to_string(), FIRST_INO + u64::from(index)));
        Ok(slaves.chain([entry("ptmx".into(), PTMX_INO)]).collect())
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        match &self.what {
            What::Root => Err(Errno::EISDIR),
            What::Ptmx => self.instance.open_master(),
            What::Slave(_, terminal) => Ok(Slave::open(&terminal.upgrade().ok_or(Errno::EIO)?, flags)?),
        }
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        if set.size.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut meta = self.meta.lock();
        if let Some(mode) = set.mode {
            meta.mode = meta.mode & c::S_IFMT | mode & 0o7777;
        }
        meta.uid = set.uid.unwrap_or(meta.uid);
        meta.gid = set.gid.unwrap_or(meta.gid);
        meta.atime = set.atime.unwrap_or(meta.atime);
        meta.mtime = set.mtime.unwrap_or(meta.mtime);
        meta.ctime = now();
        Ok(())
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(Statfs { kind: MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }

    fn caching(&self) -> Caching {
        Caching::None
    }
}
