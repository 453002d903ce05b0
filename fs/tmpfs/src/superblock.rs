//! The type of filesystem, and what an instance has as a whole: its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::structs::Statfs;
use abi::{Errno, SysResult, c};
use sync::Mutex;
use vfs::{Dentry, DeviceOpener, FileSystemType, MountOption, MountRequest, NewNode, SuperBlock, SuperOps, new_dev};

use crate::node::Node;

/// `TMPFS_MAGIC`
const MAGIC: i64 = 0x0102_1994;
/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Options of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Blocks and inodes at most.
    blocks: u64,
    inodes: u64,
}

/// Half of the machine's memory, as Linux has it.
fn default_blocks() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram.saturating_mul(info.mem_unit.max(1).into()) / BLOCK / 2).max(1)
}

impl Options {
    fn new() -> Self {
        let half = default_blocks();
        Self { mode: 0o1777, uid: 0, gid: 0, blocks: half, inodes: half }
    }

    fn apply(&mut self, caller: Option<&auth::Credentials>, options: &[MountOption]) -> SysResult<()> {
        let limit = |count: u64| if count == 0 { u64::MAX } else { count };
        for option in options {
            let id = || option.number(10).and_then(|id| u32::try_from(id).map_err(|_| Errno::EINVAL));
            match &*option.name {
                b"mode" => self.mode = u32::try_from(option.number(8)?).map_err(|_| Errno::EINVAL)? & 0o7777,
                b"uid" => {
                    let uid = id()?;
                    self.uid = caller.map_or(Some(uid), |who| Some(who.user_ns.make_kuid(uid)?.0)).ok_or(Errno::EINVAL)?;
                }
                b"gid" => {
                    let gid = id()?;
                    self.gid = caller.map_or(Some(gid), |who| Some(who.user_ns.make_kgid(gid)?.0)).ok_or(Errno::EINVAL)?;
                }
                b"size" => self.blocks = limit(option.size(default_blocks().saturating_mul(2 * BLOCK))?.div_ceil(BLOCK)),
                b"nr_blocks" => self.blocks = limit(option.size(0)?),
                b"nr_inodes" => self.inodes = limit(option.size(0)?),
                // Where pages live is the host's business; all numbers have 64 bits here.
                b"huge" | b"mpol" | b"inode64" | b"inode32" | b"noswap" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(())
    }
}

/// The type of filesystem.
pub struct TmpFs {
    /// `tmpfs`, or `ramfs`, which has no limits.
    pub name: &'static str,
    pub devices: Arc<DeviceOpener>,
}

impl TmpFs {
    /// A new instance with these options; returns its root.
    ///
    /// # Errors
    /// `EINVAL` for options it doesn't know.
    pub fn instance(&self, caller: Option<&auth::Credentials>, options: &[MountOption]) -> SysResult<Arc<Dentry>> {
        let mut wanted = Options::new();
        if self.name == "ramfs" {
            // It has but one option, and doesn't mind others.
            (wanted.blocks, wanted.inodes, wanted.mode) = (u64::MAX, u64::MAX, 0o755);
            wanted.apply(caller, &options.iter().filter(|option| option.name == b"mode").cloned().collect::<Vec<_>>())?;
        } else {
            wanted.apply(caller, options)?;
        }
        Super::new(&self.devices, wanted).root(self.name)
    }
}

impl FileSystemType for TmpFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        self.instance(Some(&request.caller.who), &request.options)
    }
}

/// An instance.
pub struct Super {
    pub dev: u64,
    pub devices: Arc<DeviceOpener>,
    used_blocks: AtomicU64,
    max_blocks: AtomicU64,
    used_inodes: AtomicU64,
    max_inodes: AtomicU64,
    options: Mutex<Options>,
}

/// Takes up to `wanted` of what is left; returns how much.
fn take(used: &AtomicU64, max: u64, wanted: u64) -> u64 {
    let mut got = 0;
    let _ = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        got = max.saturating_sub(used).min(wanted);
        Some(used.saturating_add(got))
    });
    got
}

impl Super {
    fn new(devices: &Arc<DeviceOpener>, wanted: Options) -> Arc<Self> {
        Arc::new(Self {
            dev: new_dev(),
            devices: devices.clone(),
            used_blocks: AtomicU64::new(0),
            max_blocks: AtomicU64::new(wanted.blocks),
            used_inodes: AtomicU64::new(0),
            max_inodes: AtomicU64::new(wanted.inodes),
            options: Mutex::new(wanted),
        })
    }

    /// One without limits or devices, for files without names.
    pub fn internal() -> Arc<Self> {
        let devices: Arc<DeviceOpener> = Arc::new(|_, _| Err(Errno::ENXIO));
        Self::new(&devices, Options { blocks: u64::MAX, inodes: u64::MAX, ..Options::new() })
    }

    /// Its root directory.
    ///
    /// # Errors
    /// `ENOSPC`
    pub fn root(self: Arc<Self>, kind: &'static str) -> SysResult<Arc<Dentry>> {
        let wanted = *self.options.lock();
        let node = NewNode { uid: wanted.uid, gid: wanted.gid, ..NewNode::plain(c::S_IFDIR | wanted.mode) };
        let root = Node::new(&self, &node)?;
        Dentry::root(SuperBlock::new(kind, self.dev, Box::new(Ops(self))), root)
    }

    /// Takes up to `wanted` blocks; returns how many.
    pub fn take_blocks(&self, wanted: u64) -> u64 {
        take(&self.used_blocks, self.max_blocks.load(Ordering::Relaxed), wanted)
    }

    /// Takes exactly `wanted` blocks.
    ///
    /// # Errors
    /// `ENOSPC`
    pub fn charge_blocks(&self, wanted: u64) -> SysResult<()> {
        let got = self.take_blocks(wanted);
        if got < wanted {
            self.free_blocks(got);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    pub fn free_blocks(&self, count: u64) {
        self.used_blocks.fetch_sub(count, Ordering::Relaxed);
    }

    /// # Errors
    /// `ENOSPC`
    pub fn charge_inode(&self) -> SysResult<()> {
        if take(&self.used_inodes, self.max_inodes.load(Ordering::Relaxed), 1) == 1 { Ok(()) } else { Err(Errno::ENOSPC) }
    }

    pub fn free_inode(&self) {
        self.used_inodes.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn statfs(&self) -> Statfs {
        let limited = |max: u64, used: u64| if max == u64::MAX { (0, 0) } else { (max, max.saturating_sub(used)) };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (blocks, bfree) = limited(load(&self.max_blocks), load(&self.used_blocks));
        let (files, ffree) = limited(load(&self.max_inodes), load(&self.used_inodes));
        let block = BLOCK.cast_signed();
        Statfs {
            kind: MAGIC,
            bsize: block,
            frsize: block,
            namelen: 255,
            blocks,
            bfree,
            bavail: bfree,
            files,
            ffree,
            ..Statfs::default()
        }
    }
}

struct Ops(Arc<Super>);

impl SuperOps for Ops {
    fn show_options(&self) -> String {
        let (now, usual) = (*self.0.options.lock(), Options::new());
        let mut text = String::new();
        if now.blocks != usual.blocks && now.blocks != u64::MAX {
            text += &format!(",size={}k", now.blocks.saturating_mul(BLOCK / 1024));
        }
        if now.inodes != usual.inodes && now.inodes != u64::MAX {
            text += &format!(",nr_inodes={}", now.inodes);
        }
        if now.mode != usual.mode {
            text += &format!(",mode={:o}", now.mode);
        }
        for (name, id) in [("uid", now.uid), ("gid", now.gid)] {
            if id != 0 {
                text += &format!(",{name}={id}");
            }
        }
        text
    }

    fn reconfigure(&self, options: &[MountOption]) -> SysResult<()> {
        let mut options_now = self.0.options.lock();
        let mut wanted = *options_now;
        wanted.apply(None, options)?;
        let used = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        if wanted.blocks < used(&self.0.used_blocks) || wanted.inodes < used(&self.0.used_inodes) {
            return Err(Errno::EINVAL);
        }
        self.0.max_blocks.store(wanted.blocks, Ordering::Relaxed);
        self.0.max_inodes.store(wanted.inodes, Ordering::Relaxed);
        *options_now = Options { mode: options_now.mode, uid: options_now.uid, gid: options_now.gid, ..wanted };
        Ok(())
    }
}
