//! Filesystems: their types, and instances of them (what Linux calls superblocks).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, SysResult, c};
use sync::{Mutex, RwLock};

use crate::caller::Caller;
use crate::dentry::Dentry;
use crate::notify;
use crate::path::Path;

/// Flags that belong to the filesystem and not to a mount of it (`SB_*`).
pub const SB_FLAGS: u64 = c::MS_RDONLY | c::MS_SYNCHRONOUS | c::MS_MANDLOCK | c::MS_DIRSYNC | MS_LAZYTIME;
/// `MS_LAZYTIME`
const MS_LAZYTIME: u64 = 1 << 25;

/// What an instance does as a whole. Defaults: nothing to write back, no options.
pub trait SuperOps: Send + Sync {
    /// Writes everything back (syncfs(2)).
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`.
    fn sync(&self) -> SysResult<()> {
        Ok(())
    }

    /// Options as /proc/mounts shows them, each with a comma in front.
    fn show_options(&self) -> String {
        String::new()
    }

    /// How /proc/pid/mountinfo calls what a mount shows of it.
    fn show_root(&self, root: &Arc<Dentry>) -> Vec<u8> {
        root.path_in_filesystem()
    }

    /// Changes options (mount(2) with `MS_REMOUNT`).
    ///
    /// # Errors
    /// `EINVAL` for unknown ones.
    fn reconfigure(&self, _options: &[MountOption]) -> SysResult<()> {
        Ok(())
    }
}

/// An instance without anything of its own.
pub struct Plain;

impl SuperOps for Plain {}

/// A filesystem that is or can be mounted, once or several times.
pub struct SuperBlock {
    /// Name of the type, as in /proc/filesystems.
    pub kind: &'static str,
    pub dev: u64,
    /// `SB_*`
    flags: AtomicU64,
    ops: Box<dyn SuperOps>,
    /// Filesystems below this one (overlays): two at most.
    pub depth: u32,
    /// Mounts of it.
    active: AtomicUsize,
    no_devices: AtomicBool,
    /// Held while a name moves between directories.
    pub(crate) renaming: Mutex<()>,
    /// Files open for writing.
    pub(crate) writers: AtomicU32,
}

impl SuperBlock {
    #[must_use]
    pub fn new(kind: &'static str, dev: u64, ops: Box<dyn SuperOps>) -> Arc<Self> {
        Self::stacked(kind, dev, ops, 0)
    }

    /// One over others.
    #[must_use]
    pub fn stacked(kind: &'static str, dev: u64, ops: Box<dyn SuperOps>, depth: u32) -> Arc<Self> {
        Arc::new(Self {
            kind,
            dev,
            flags: AtomicU64::new(0),
            ops,
            depth,
            active: AtomicUsize::new(0),
            no_devices: AtomicBool::new(false),
            renaming: Mutex::new(()),
            writers: AtomicU32::new(0),
        })
    }

    #[must_use]
    pub fn ops(&self) -> &dyn SuperOps {
        &*self.ops
    }

    #[must_use]
    pub fn flags(&self) -> u64 {
        self.flags.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn read_only(&self) -> bool {
        self.flags() & c::MS_RDONLY != 0
    }

    /// Sets the flags of [`SB_FLAGS`].
    pub fn set_flags(&self, flags: u64) {
        self.flags.store(flags & SB_FLAGS, Ordering::Relaxed);
    }

    /// remount.
    ///
    /// # Errors
    /// `EBUSY` when it would become read-only and files are open for writing; what the filesystem says of the options.
    pub fn reconfigure(&self, flags: u64, options: &[MountOption]) -> SysResult<()> {
        if flags & c::MS_RDONLY != 0 && !self.read_only() && self.writers.load(Ordering::SeqCst) > 0 {
            return Err(Errno::EBUSY);
        }
        self.ops.reconfigure(options)?;
        self.set_flags(flags);
        Ok(())
    }

    /// Devices on it can't be opened from now on: somebody has mounted it who isn't root outside.
    pub fn forbid_devices(&self) {
        self.no_devices.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn no_devices(&self) -> bool {
        self.no_devices.load(Ordering::Relaxed)
    }

    /// Whether it is mounted anywhere.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        self.active.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn mounted(&self) {
        self.active.fetch_add(1, Ordering::SeqCst);
    }

    /// A mount is gone. With the last one, what is remembered of the tree goes too.
    pub(crate) fn unmounted(&self, root: &Arc<Dentry>) {
        if self.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            notify::unmounted(self);
            let mut top = root.clone();
            while let Some(parent) = top.parent() {
                top = parent;
            }
            top.shrink();
        }
    }
}

/// An option of a filesystem: its name, and the value if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOption {
    pub name: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl MountOption {
    /// Takes `name=value,flag,...` apart (mount(8)).
    #[must_use]
    pub fn parse(text: &[u8]) -> Vec<Self> {
        let parts = text.split(|byte| *byte == b',').filter(|part| !part.is_empty());
        let option = |part: &[u8]| match part.iter().position(|byte| *byte == b'=') {
            Some(at) => Self {
                name: part.get(..at).unwrap_or_default().to_vec(),
                value: Some(part.get(at + 1..).unwrap_or_default().to_vec()),
            },
            None => Self { name: part.to_vec(), value: None },
        };
        parts.map(option).collect()
    }

    /// The value as a number.
    ///
    /// # Errors
    /// `EINVAL` when it is none.
    pub fn number(&self, radix: u32) -> SysResult<u64> {
        let text = self.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).ok_or(Errno::EINVAL)?;
        u64::from_str_radix(text, radix).map_err(|_| Errno::EINVAL)
    }

    /// The value as a size: a number of bytes, KiB, MiB or GiB (`k`, `m`, `g`), or a percentage of `whole`.
    ///
    /// # Errors
    /// `EINVAL` when it is none.
    pub fn size(&self, whole: u64) -> SysResult<u64> {
        let text = self.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).ok_or(Errno::EINVAL)?;
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
        let shift = match text.get(digits.len()..).unwrap_or_default() {
            "" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            "t" | "T" => 40,
            "%" => return whole.checked_mul(number).map(|part| part / 100).ok_or(Errno::EINVAL),
            _ => return Err(Errno::EINVAL),
        };
        number.checked_mul(1 << shift).ok_or(Errno::EINVAL)
    }
}

/// What a new instance is asked for.
pub struct MountRequest<'a> {
    /// Device, directory or any word.
    pub source: &'a [u8],
    pub options: Vec<MountOption>,
    /// `MS_*`
    pub flags: u64,
    /// For options that are paths.
    pub caller: &'a Caller,
}

impl MountRequest<'_> {
    /// What a path in an option leads to.
    ///
    /// # Errors
    /// As path_resolution(7).
    pub fn resolve(&self, path: &[u8]) -> SysResult<Path> {
        self.caller.resolve(path, crate::WalkFlags::FOLLOW)
    }
}

/// A type of filesystem.
pub trait FileSystemType: Send + Sync {
    /// As mount(2) and /proc/filesystems have it.
    fn name(&self) -> &'static str;

    /// Whether it needs no block device.
    fn nodev(&self) -> bool {
        true
    }

    /// Whether who is root in a user namespace only may mount it (`FS_USERNS_MOUNT`).
    fn mounted_by_users(&self) -> bool {
        true
    }

    /// Makes an instance, or finds the one that there is; returns its root.
    ///
    /// # Errors
    /// `EINVAL` for options it doesn't know; as mount(2).
    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>>;
}

/// The types that there are.
#[derive(Default)]
pub struct FileSystems(RwLock<Vec<Arc<dyn FileSystemType>>>);

impl FileSystems {
    /// Adds a type.
    pub fn register(&self, kind: Arc<dyn FileSystemType>) {
        self.0.write().push(kind);
    }

    /// The type with this name.
    ///
    /// # Errors
    /// `ENODEV`
    pub fn get(&self, name: &[u8]) -> SysResult<Arc<dyn FileSystemType>> {
        self.0.read().iter().find(|kind| kind.name().as_bytes() == name).cloned().ok_or(Errno::ENODEV)
    }

    /// All, in order of registration.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<dyn FileSystemType>> {
        self.0.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_apart() {
        let options = MountOption::parse(b"size=10k,,ro,mode=0755,lowerdir=");
        assert_eq!(options.len(), 4);
        assert_eq!(options[0].size(0), Ok(10240));
        assert_eq!(options[1], MountOption { name: b"ro".into(), value: None });
        assert_eq!(options[2].number(8), Ok(0o755));
        assert_eq!(options[3].number(8), Err(Errno::EINVAL));
        let half = MountOption { name: b"size".into(), value: Some(b"50%".into()) };
        assert_eq!((half.size(200), half.number(10)), (Ok(100), Err(Errno::EINVAL)));
        let odd = MountOption { name: b"size".into(), value: Some(b"k".into()) };
        assert_eq!(odd.size(0), Err(Errno::EINVAL));
    }
}
