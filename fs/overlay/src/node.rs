//! What a name of the overlay stands for.

use std::any::Any;
use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use abi::structs::Statfs;
use abi::{Errno, SysResult, c};
use sync::Mutex;
use vfs::{Acl, Attr, Dentry, DirEntry, Endpoint, FileOps, Inode, NewNode, Rename, SetAttr, WHITEOUT_DEV, Writers};

use crate::Super;
use crate::copy_up::Contents;
use crate::file::LowerFile;

/// `OVERLAYFS_SUPER_MAGIC`
const MAGIC: i64 = 0x794c_7630;
/// What tells numbers of the upper layer's inodes from those of lower ones.
const UPPER_INO: u64 = 1 << 56;

/// Where a node that hasn't been copied up is.
pub struct Place {
    pub parent: Arc<Node>,
    pub name: Box<[u8]>,
}

/// An inode: a file of one layer, or a directory of several.
pub struct Node {
    pub(crate) this: Weak<Self>,
    pub(crate) fs: Arc<Super>,
    pub(crate) kind: u32,
    ino: u64,
    pub(crate) upper: OnceLock<Arc<Dentry>>,
    /// The uppermost first. Of anything but a directory at most one.
    pub(crate) lowers: Vec<Arc<Dentry>>,
    /// `None` for the root.
    pub(crate) place: Option<Place>,
    /// Its name is gone: what is copied up gets none.
    pub(crate) nameless: AtomicBool,
    /// Held while it is copied up.
    pub(crate) copying: Mutex<()>,
    pub(crate) writers: Writers,
}

fn address(dentry: &Dentry) -> usize {
    Arc::as_ptr(dentry.inode()).addr()
}

/// Whether it hides a name of lower layers.
pub fn is_whiteout(dentry: &Dentry) -> SysResult<bool> {
    Ok(dentry.kind() == c::S_IFCHR && dentry.inode().attr()?.rdev == WHITEOUT_DEV)
}

/// What shows at a name: the upper one, and lower ones.
type Found = (Option<Arc<Dentry>>, Vec<Arc<Dentry>>);
/// Where to look in a lower layer.
type LowerPlace = (Arc<Dentry>, Box<[u8]>);

/// What there is at a name, if anything.
pub fn find(dir: &Arc<Dentry>, name: &[u8]) -> SysResult<Option<Arc<Dentry>>> {
    match dir.lookup(name) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut nodes = self.fs.nodes.lock();
        for dentry in self.lowers.first().into_iter().chain(self.upper.get()) {
            if nodes.get(&address(dentry)).is_some_and(|there| there.strong_count() == 0) {
                nodes.remove(&address(dentry));
            }
        }
        drop(nodes);
        // How long the chain of parents is that only this one has held is the guest's choice, the stack isn't.
        let mut parent = self.place.take().map(|place| place.parent);
        while let Some(mut node) = parent.and_then(Arc::into_inner) {
            parent = node.place.take().map(|place| place.parent);
        }
    }
}

impl Node {
    pub(crate) fn root(fs: &Arc<Super>, upper: Option<Arc<Dentry>>, lowers: Vec<Arc<Dentry>>) -> SysResult<Arc<Self>> {
        Self::new(fs, upper, lowers, None)
    }

    pub(crate) fn new(
        fs: &Arc<Super>,
        upper: Option<Arc<Dentry>>,
        lowers: Vec<Arc<Dentry>>,
        place: Option<Place>,
    ) -> SysResult<Arc<Self>> {
        let real = upper.as_ref().or(lowers.first()).ok_or(Errno::ENOENT)?.clone();
        // Several lower names of one file are different files here: only one of them is copied up.
        let attr = real.inode().attr()?;
        let shared = upper.is_none() && attr.nlink > 1 && !attr.is_dir();
        let key = address(&real);
        let known = || fs.nodes.lock().get(&key).and_then(Weak::upgrade);
        if !shared && let Some(there) = known() {
            return Ok(there);
        }
        // What is copied up keeps its number.
        let ino = match lowers.first() {
            Some(lower) => lower.inode().attr()?.ino,
            None => attr.ino | UPPER_INO,
        };
        let node = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            fs: fs.clone(),
            kind: real.kind(),
            ino,
            upper: upper.map_or_else(OnceLock::new, OnceLock::from),
            lowers,
            place,
            nameless: AtomicBool::new(false),
            copying: Mutex::new(()),
            writers: Writers::default(),
        });
        if !shared {
            fs.nodes.lock().insert(key, Arc::downgrade(&node));
        }
        Ok(node)
    }

    /// It has been copied up: there it is the same one.
    pub(crate) fn set_upper(self: &Arc<Self>, upper: Arc<Dentry>) {
        self.fs.nodes.lock().insert(address(&upper), Arc::downgrade(self));
        let _ = self.upper.set(upper);
    }

    /// The name that it shows: the upper one, or the uppermost lower one.
    pub(crate) fn real(&self) -> SysResult<&Arc<Dentry>> {
        self.upper.get().or(self.lowers.first()).ok_or(Errno::EIO)
    }

    pub(crate) fn inode(&self) -> SysResult<&Arc<dyn Inode>> {
        Ok(self.real()?.inode())
    }

    /// The name in the upper layer, after [`Self::copy_up`].
    pub(crate) fn upper(&self) -> SysResult<&Arc<Dentry>> {
        self.upper.get().ok_or(Errno::EROFS)
    }

    /// The node of an inode of this filesystem.
    pub(crate) fn own(&self, inode: &Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        let node = any.downcast::<Self>().map_err(|_| Errno::EXDEV)?;
        if Arc::ptr_eq(&node.fs, &self.fs) { Ok(node) } else { Err(Errno::EXDEV) }
    }

    /// Whether the lower layers have something at a name of this directory.
    pub(crate) fn lower_has(&self, name: &[u8]) -> SysResult<bool> {
        for lower in &self.lowers {
            if let Some(found) = find(lower, name)? {
                return Ok(!is_whiteout(&found)?);
            }
        }
        Ok(false)
    }

    /// The mark of a directory, if it has it.
    fn mark(&self, dir: &Dentry, name: &str) -> Option<Vec<u8>> {
        dir.inode().get_xattr(format!("{}{name}", self.fs.prefix).as_bytes()).ok()
    }

    pub(crate) fn set_mark(&self, dir: &Dentry, name: &str, value: &[u8]) -> SysResult<()> {
        dir.inode().set_xattr(format!("{}{name}", self.fs.prefix).as_bytes(), value, 0)
    }

    /// Whether lower directories don't show through it.
    fn is_opaque(&self, dir: &Dentry) -> bool {
        self.mark(dir, "opaque").is_some_and(|value| value == b"y")
    }

    /// Where to look for the lower directories of an upper one that has been renamed: a name in each lower layer.
    fn redirected(&self, path: &[u8]) -> SysResult<Vec<LowerPlace>> {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let Some((last, dirs)) = names.split_last() else { return Ok(Vec::new()) };
        if path.first() != Some(&b'/') {
            return Ok(self.lowers.iter().map(|lower| (lower.clone(), (*last).into())).collect());
        }
        let mut found = Vec::new();
        'layers: for layer in &self.fs.lowers {
            let mut at = layer.clone();
            for name in dirs {
                match find(&at, name)? {
                    Some(next) => at = next,
                    None => continue 'layers,
                }
            }
            found.push((at, (*last).into()));
        }
        Ok(found)
    }

    /// What is at a name, over all layers.
    fn layers_of(&self, name: &[u8]) -> SysResult<Found> {
        let upper = match self.upper.get() {
            Some(dir) => find(dir, name)?,
            None => None,
        };
        let mut redirect = None;
        if let Some(upper) = &upper {
            if is_whiteout(upper)? {
                return Err(Errno::ENOENT);
            }
            let merges = upper.is_dir() && !(self.lowers.is_empty() && self.fs.lowers.is_empty());
            if !merges || self.is_opaque(upper) {
                return Ok((Some(upper.clone()), Vec::new()));
            }
            redirect = self.mark(upper, "redirect");
        }
        let places = match redirect {
            Some(path) => self.redirected(&path)?,
            None => self.lowers.iter().map(|lower| (lower.clone(), name.into())).collect(),
        };
        let mut lowers: Vec<Arc<Dentry>> = Vec::new();
        for (i, (dir, name)) in places.iter().enumerate() {
            let Some(found) = find(dir, name)? else { continue };
            if is_whiteout(&found)? {
                break;
            }
            let first = upper.is_none() && lowers.is_empty();
            if !found.is_dir() {
                if first {
                    lowers.push(found);
                }
                break;
            }
            lowers.push(found.clone());
            if i + 1 < places.len() && self.is_opaque(&found) {
                break;
            }
        }
        Ok((upper, lowers))
    }

    /// Entries of all layers, each once.
    pub(crate) fn entries(&self) -> SysResult<Vec<DirEntry>> {
        let layers: Vec<&Arc<Dentry>> = self.upper.get().into_iter().chain(&self.lowers).collect();
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for (i, layer) in layers.iter().enumerate() {
            for entry in layer.inode().readdir()? {
                // Most directories are of one layer.
                let last = i + 1 == layers.len();
                if (!last || i > 0) && !seen.insert(entry.name.clone()) {
                    continue;
                }
                if entry.kind == c::S_IFCHR && find(layer, &entry.name)?.is_some_and(|found| is_whiteout(&found).unwrap_or(false))
                {
                    continue;
                }
                let ino = if i == 0 && self.upper.get().is_some() { entry.ino | UPPER_INO } else { entry.ino };
                all.push(DirEntry { ino, ..entry });
            }
        }
        Ok(all)
    }

    /// Whether a name of an extended attribute is the overlay's own.
    fn is_private(&self, name: &[u8]) -> bool {
        name.starts_with(self.fs.prefix.as_bytes())
    }
}

impl Inode for Node {
    fn attr(&self) -> SysResult<Attr> {
        let attr = self.inode()?.attr()?;
        // Nobody counts the directories in a merged one.
        let merged = attr.is_dir() && self.upper.get().is_some() && !self.lowers.is_empty();
        Ok(Attr { dev: self.fs.dev, ino: self.ino, nlink: if merged { 1 } else { attr.nlink }, ..attr })
    }

    fn kind(&self) -> SysResult<u32> {
        Ok(self.kind)
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        let (upper, lowers) = self.layers_of(name)?;
        let place = Some(Place { parent: self.clone(), name: name.into() });
        Ok(Self::new(&self.fs, upper, lowers, place)?)
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        self.entries()
    }

    fn readlink(&self) -> SysResult<Vec<u8>> {
        self.inode()?.readlink()
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        let writes = flags & c::O_ACCMODE != c::O_RDONLY || flags & c::O_TRUNC != 0;
        if writes && matches!(self.kind, c::S_IFREG | c::S_IFDIR) {
            self.copy_up(if flags & c::O_TRUNC != 0 { Contents::Empty } else { Contents::Copied })?;
        }
        let ops = self.inode()?.clone().open(flags)?;
        if self.kind != c::S_IFREG || self.upper.get().is_some() {
            return Ok(ops);
        }
        Ok(Arc::new(LowerFile::new(self, ops)))
    }

    fn create(self: Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        self.create_name(name, node)
    }

    fn tmpfile(self: Arc<Self>, node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        self.copy_up(Contents::Copied)?;
        let made = self.upper()?.make_nameless(node)?;
        Ok(Self::new(&self.fs, Some(made), Vec::new(), None)?)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> SysResult<()> {
        self.link_name(name, &self.own(inode)?)
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>, dir: bool, _used: bool) -> SysResult<()> {
        self.remove_name(name, &self.own(child)?, dir)
    }

    fn rename(&self, rename: &Rename<'_>) -> SysResult<()> {
        self.rename_name(rename)
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        self.copy_up_shared(if set.size == Some(0) { Contents::Empty } else { Contents::Copied })?;
        self.upper()?.inode().set_attr(set)
    }

    fn accessed(&self, strict: bool) {
        // Nothing is copied up for that.
        if let Some(upper) = self.upper.get() {
            upper.inode().accessed(strict);
        }
    }

    fn acl(&self, default: bool) -> SysResult<Option<Arc<Acl>>> {
        self.inode()?.acl(default)
    }

    fn set_acl(&self, default: bool, acl: Option<Arc<Acl>>) -> SysResult<()> {
        if acl.is_none() && self.acl(default)?.is_none() {
            return Ok(());
        }
        self.copy_up_shared(Contents::Copied)?;
        self.upper()?.inode().set_acl(default, acl)
    }

    fn get_xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        if self.is_private(name) { Err(Errno::ENODATA) } else { self.inode()?.get_xattr(name) }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> SysResult<()> {
        if self.is_private(name) {
            return Err(Errno::EPERM);
        }
        self.copy_up_shared(Contents::Copied)?;
        self.upper()?.inode().set_xattr(name, value, flags)
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.get_xattr(name)?;
        self.copy_up_shared(Contents::Copied)?;
        self.upper()?.inode().remove_xattr(name)
    }

    fn list_xattr(&self) -> SysResult<Vec<Vec<u8>>> {
        let mut names = self.inode()?.list_xattr()?;
        names.retain(|name| !self.is_private(name));
        Ok(names)
    }

    fn has_capabilities(&self) -> bool {
        self.inode().is_ok_and(|inode| inode.has_capabilities())
    }

    fn writers(&self) -> Option<&Writers> {
        (self.kind == c::S_IFREG).then_some(&self.writers)
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        self.inode().ok()?.endpoint()
    }

    fn statfs(&self) -> SysResult<Statfs> {
        let statfs = match &self.fs.upper {
            Some(upper) => upper.inode().statfs()?,
            None => self.inode()?.statfs()?,
        };
        Ok(Statfs { kind: MAGIC, ..statfs })
    }
}
