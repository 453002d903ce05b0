//! Who watches inodes is told what happens to them (inotify(7), F_NOTIFY of fcntl(2)).
//!
//! As long as nobody watches anything, an event costs a load.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::c;
use smallvec::SmallVec;

use crate::attached::Attached;
use crate::dentry::Dentry;
use crate::inode::{Attr, Inode};
use crate::path::Path;
use crate::superblock::SuperBlock;

/// Marks that there are.
static MARKS: AtomicUsize = AtomicUsize::new(0);

/// Whether anybody watches anything.
pub fn active() -> bool {
    MARKS.load(Ordering::Relaxed) != 0
}

/// What happened (`IN_*`).
pub mod event {
    pub const ACCESS: u32 = 0x1;
    pub const MODIFY: u32 = 0x2;
    pub const ATTRIB: u32 = 0x4;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const UNMOUNT: u32 = 0x2000;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const EXCL_UNLINK: u32 = 0x0400_0000;
    pub const ISDIR: u32 = 0x4000_0000;
    pub const ONESHOT: u32 = 0x8000_0000;
}

/// An event, as it is told.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// One of [`event`], perhaps with [`event::ISDIR`].
    pub mask: u32,
    /// What two events of one rename have in common.
    pub cookie: u32,
    /// Of a child of what is watched.
    pub name: Option<&'a [u8]>,
}

/// Somebody who watches.
pub trait Watcher: Send + Sync {
    /// Called with locks of the file tree held: must not wait, nor look into the tree.
    fn tell(&self, mark: &Arc<Mark>, event: &Event<'_>);
}

/// A watch on an inode. Gone when its last holder, the watcher, drops it.
pub struct Mark {
    attached: Arc<Attached>,
    /// Keeps the name in memory: a new one would have another inode.
    dentry: Arc<Dentry>,
    watcher: Weak<dyn Watcher>,
    /// What is wanted, and how.
    pub mask: AtomicU32,
    /// The watcher's own number for it.
    pub number: AtomicI32,
}

impl Mark {
    /// Watches what `dentry` names.
    #[must_use]
    pub fn new(dentry: &Arc<Dentry>, watcher: Weak<dyn Watcher>, mask: u32, number: i32) -> Arc<Self> {
        let inode = dentry.inode();
        let attached = Attached::get(Some(inode), || inode.attr().unwrap_or_default());
        let (mask, number) = (AtomicU32::new(mask), AtomicI32::new(number));
        let mark = Arc::new(Self { attached, dentry: dentry.clone(), watcher, mask, number });
        let mut marks = mark.attached.marks.lock();
        marks.retain(|mark| mark.strong_count() > 0);
        marks.push(Arc::downgrade(&mark));
        drop(marks);
        MARKS.fetch_add(1, Ordering::Relaxed);
        mark
    }

    /// The address of its inode, which is held as long as this is.
    #[must_use]
    pub fn inode_address(&self) -> usize {
        Arc::as_ptr(self.dentry.inode()).addr()
    }

    /// The inode's device and number, for /proc/pid/fdinfo.
    #[must_use]
    pub fn dev_ino(&self) -> (u64, u64) {
        self.attached.dev_ino
    }

    fn tell(self: &Arc<Self>, event: &Event<'_>) {
        if let Some(watcher) = self.watcher.upgrade() {
            watcher.tell(self, event);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        MARKS.fetch_sub(1, Ordering::Relaxed);
        self.attached.marks.lock().retain(|mark| mark.strong_count() > 0);
    }
}

/// The marks on an inode.
fn marks_on(inode: &Arc<dyn Inode>) -> SmallVec<[Arc<Mark>; 4]> {
    let attached = Attached::find(Some(inode), Attr::default);
    attached.map(|attached| attached.marks.lock().iter().filter_map(Weak::upgrade).collect()).unwrap_or_default()
}

/// Tells who watches `inode`. `unlinked`: the name is one that some don't want to hear of any more.
fn tell(inode: &Arc<dyn Inode>, event: &Event<'_>, unlinked: bool) {
    for mark in marks_on(inode) {
        let wanted = mark.mask.load(Ordering::Relaxed);
        if wanted & event.mask & !event::ISDIR != 0 && !(unlinked && wanted & event::EXCL_UNLINK != 0) {
            mark.tell(event);
        }
    }
}

fn dir_bit(dentry: &Dentry) -> u32 {
    if dentry.is_dir() { event::ISDIR } else { 0 }
}

/// Something happened to what a name names: who watches the directory hears of it, and who watches the inode. `file`: it was done with an
/// open file, of which some don't want to hear once its name is gone.
pub(crate) fn happened(dentry: &Arc<Dentry>, mask: u32, file: bool) {
    if !active() {
        return;
    }
    let mask = mask | dir_bit(dentry);
    let unlinked = file && dentry.is_unlinked();
    if let Some((parent, name)) = dentry.parent_and_name() {
        tell(parent.inode(), &Event { mask, cookie: 0, name: Some(&name) }, unlinked);
    }
    tell(dentry.inode(), &Event { mask, cookie: 0, name: None }, unlinked);
}

/// Attributes have changed, the size (`MODIFY`) among them.
pub fn changed(path: &Path, mask: u32) {
    happened(&path.dentry, mask, false);
}

/// What a file of the kernel's own says has changed.
pub fn modified(dentry: &Arc<Dentry>) {
    happened(dentry, event::MODIFY, false);
}

/// A program was loaded from a file.
pub fn executed(path: &Path) {
    for mask in [event::OPEN, event::ACCESS, event::CLOSE_NOWRITE] {
        happened(&path.dentry, mask, true);
    }
}

/// Something happened to the inode, whatever its names.
fn happened_to(dentry: &Dentry, mask: u32) {
    tell(dentry.inode(), &Event { mask, cookie: 0, name: None }, false);
}

/// A name was made.
pub(crate) fn created(dir: &Dentry, child: &Dentry, name: &[u8]) {
    if active() {
        tell(dir.inode(), &Event { mask: event::CREATE | dir_bit(child), cookie: 0, name: Some(name) }, false);
    }
}

/// Another name was made for what `source` names.
pub(crate) fn linked(dir: &Dentry, source: &Dentry, name: &[u8]) {
    if active() {
        happened_to(source, event::ATTRIB);
        created(dir, source, name);
    }
}

/// A name was removed.
pub(crate) fn removed(dir: &Dentry, child: &Arc<Dentry>, name: &[u8]) {
    if !active() {
        return;
    }
    let deleted = Event { mask: event::DELETE | dir_bit(child), cookie: 0, name: Some(name) };
    if child.is_dir() {
        gone(child);
        tell(dir.inode(), &deleted, false);
    } else {
        happened_to(child, event::ATTRIB);
        tell(dir.inode(), &deleted, false);
        gone(child);
    }
}

/// A name was moved, perhaps over another one.
pub(crate) fn moved(
    (dir, name): (&Dentry, &[u8]),
    (new_dir, new_name): (&Dentry, &[u8]),
    child: &Dentry,
    replaced: Option<&Arc<Dentry>>,
) {
    static COOKIE: AtomicU32 = AtomicU32::new(1);
    if !active() {
        return;
    }
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
    let bit = dir_bit(child);
    tell(dir.inode(), &Event { mask: event::MOVED_FROM | bit, cookie, name: Some(name) }, false);
    tell(new_dir.inode(), &Event { mask: event::MOVED_TO | bit, cookie, name: Some(new_name) }, false);
    if let Some(replaced) = replaced.filter(|replaced| !replaced.is_dir()) {
        happened_to(replaced, event::ATTRIB);
    }
    happened_to(child, event::MOVE_SELF);
    if let Some(replaced) = replaced {
        gone(replaced);
    }
}

/// If neither names nor open files are left of what `dentry` named, it is gone, and so are its marks.
pub(crate) fn gone(dentry: &Arc<Dentry>) {
    if !active() || !dentry.is_unlinked() || dentry.is_open() {
        return;
    }
    let marks = marks_on(dentry.inode());
    // What can't be asked any more has no name left.
    if marks.is_empty() || !dentry.is_dir() && dentry.inode().attr().is_ok_and(|attr| attr.nlink > 0) {
        return;
    }
    end(&marks, event::DELETE_SELF);
}

/// The end of marks, for a reason.
fn end(marks: &[Arc<Mark>], mask: u32) {
    for mark in marks {
        if mask == event::UNMOUNT || mark.mask.load(Ordering::Relaxed) & mask != 0 {
            mark.tell(&Event { mask, cookie: 0, name: None });
        }
        mark.tell(&Event { mask: event::IGNORED, cookie: 0, name: None });
    }
}

/// A filesystem is gone, and with it all marks on it.
pub(crate) fn unmounted(superblock: &SuperBlock) {
    if !active() {
        return;
    }
    for attached in Attached::all() {
        let marks: Vec<_> = attached.marks.lock().iter().filter_map(Weak::upgrade).collect();
        let concerned: Vec<_> =
            marks.into_iter().filter(|mark| std::ptr::eq(Arc::as_ptr(mark.dentry.superblock()), superblock)).collect();
        end(&concerned, event::UNMOUNT);
    }
}

/// The event that closing a file is.
pub(crate) fn close_event(flags: i32) -> u32 {
    if flags & c::O_ACCMODE == c::O_RDONLY { event::CLOSE_NOWRITE } else { event::CLOSE_WRITE }
}
