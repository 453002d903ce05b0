//! What is attached to inodes in use, whatever filesystem they belong to: locks, leases and watches.
//!
//! Few inodes have any, so it isn't kept in them: a table finds it by the inode's address, which is its own as long as it is held here.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use sync::{Mutex, WaitQueue};

use crate::inode::{Attr, Caching, Inode};
use crate::lock::Locks;
use crate::notify::Mark;

/// What an inode is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Inode(usize),
    /// Device and number of a file without an inode here, where both ends of a pipe are one, or with one that is made anew each time.
    Anonymous(u64, u64),
}

static TABLE: LazyLock<Mutex<HashMap<Key, Weak<Attached>>>> = LazyLock::new(Mutex::default);

/// What is attached to an inode. Lives as long as somebody holds it: files that have used it.
pub struct Attached {
    key: Key,
    /// Keeps the address its own.
    _inode: Option<Arc<dyn Inode>>,
    /// Its device and number, for /proc/locks.
    pub(crate) dev_ino: (u64, u64),
    pub(crate) locks: Mutex<Locks>,
    /// Who watches it.
    pub(crate) marks: Mutex<Vec<Weak<Mark>>>,
    /// Where those wait who can't have a lock yet.
    pub(crate) queue: WaitQueue,
}

impl Attached {
    /// That of `inode`, or of a file without an inode whose attributes are `attr`; made if there is none.
    pub(crate) fn get(inode: Option<&Arc<dyn Inode>>, attr: impl Fn() -> Attr) -> Arc<Self> {
        let key = Self::key(inode, &attr);
        if let Some(there) = TABLE.lock().get(&key).and_then(Weak::upgrade) {
            return there;
        }
        let attr = attr();
        let dev_ino = (attr.dev, attr.ino);
        let new = Arc::new(Self {
            key,
            _inode: inode.cloned(),
            dev_ino,
            locks: Mutex::default(),
            marks: Mutex::default(),
            queue: WaitQueue::default(),
        });
        let mut table = TABLE.lock();
        match table.get(&key).and_then(Weak::upgrade) {
            Some(there) => {
                drop(table);
                there
            }
            None => {
                table.insert(key, Arc::downgrade(&new));
                new
            }
        }
    }

    /// That of `inode`, if there is one.
    pub(crate) fn find(inode: Option<&Arc<dyn Inode>>, attr: impl Fn() -> Attr) -> Option<Arc<Self>> {
        let key = Self::key(inode, &attr);
        TABLE.lock().get(&key).and_then(Weak::upgrade)
    }

    fn key(inode: Option<&Arc<dyn Inode>>, attr: impl Fn() -> Attr) -> Key {
        match inode {
            // Another one each time that it is looked up, but the same all the same (/proc).
            Some(inode) if inode.caching() == Caching::None => {
                let attr = inode.attr().unwrap_or_default();
                Key::Anonymous(attr.dev, attr.ino)
            }
            Some(inode) => Key::Inode(Arc::as_ptr(inode).addr()),
            None => {
                let attr = attr();
                Key::Anonymous(attr.dev, attr.ino)
            }
        }
    }

    /// All there are.
    pub(crate) fn all() -> Vec<Arc<Self>> {
        TABLE.lock().values().filter_map(Weak::upgrade).collect()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        // Somebody may have made a new one meanwhile.
        if table.get(&self.key).is_some_and(|there| there.strong_count() == 0) {
            table.remove(&self.key);
        }
    }
}
