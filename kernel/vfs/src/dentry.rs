//! Names and path walk (path_resolution(7)).

use std::collections::HashMap;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use sync::Mutex;

use crate::inode::{Inode, NewNode};

/// Longest path (`PATH_MAX`), longest name, most symbolic links in one walk.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
const MAX_LINKS: u32 = 40;
/// Names that one directory remembers; more are forgotten at once. Mounts stay.
const MAX_CHILDREN: usize = 4096;

struct Names {
    name: Vec<u8>,
    parent: Option<Arc<Dentry>>,
}

/// A name in the tree.
pub struct Dentry {
    names: Mutex<Names>,
    inode: Arc<dyn Inode>,
    mount: bool,
    children: Mutex<HashMap<Vec<u8>, Arc<Dentry>>>,
}

impl Dentry {
    /// A root.
    #[must_use]
    pub fn root(inode: Arc<dyn Inode>) -> Arc<Self> {
        let names = Mutex::new(Names { name: Vec::new(), parent: None });
        Arc::new(Self { names, inode, mount: true, children: Mutex::default() })
    }

    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    #[must_use]
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.names.lock().parent.clone()
    }

    fn child(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>, mount: bool) -> Arc<Self> {
        let names = Mutex::new(Names { name: name.to_vec(), parent: Some(self.clone()) });
        let dentry = Arc::new(Self { names, inode, mount, children: Mutex::default() });
        if mount || !self.inode.volatile() {
            let mut children = self.children.lock();
            if children.len() >= MAX_CHILDREN {
                children.retain(|_, child| child.mount || Arc::strong_count(child) > 1);
            }
            if let Some(there) = children.get(name).filter(|_| !mount) {
                return there.clone();
            }
            children.insert(name.to_vec(), dentry.clone());
        }
        dentry
    }

    /// Mounts a filesystem's root over `name` in this directory.
    pub fn mount(self: &Arc<Self>, name: &[u8], root: Arc<dyn Inode>) -> Arc<Self> {
        self.child(name, root, true)
    }

    /// The child called `name`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> SysResult<Arc<Self>> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if let Some(child) = self.children.lock().get(name) {
            return Ok(child.clone());
        }
        let inode = self.inode.clone().lookup(name)?;
        Ok(self.child(name, inode, false))
    }

    fn forget(&self, name: &[u8]) {
        self.children.lock().remove(name);
    }

    /// Makes a node called `name`.
    ///
    /// # Errors
    /// As mknod(2), mkdir(2), symlink(2).
    pub fn create(self: &Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<Self>> {
        match self.lookup(name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let inode = self.inode.clone().create(name, node)?;
        Ok(self.child(name, inode, false))
    }

    /// link(2).
    ///
    /// # Errors
    /// As link(2).
    pub fn link(self: &Arc<Self>, name: &[u8], target: &Arc<Self>) -> SysResult<()> {
        self.inode.link(name, &target.inode)
    }

    /// unlink(2), rmdir(2).
    ///
    /// # Errors
    /// As those; `EBUSY` for a mount.
    pub fn unlink(self: &Arc<Self>, name: &[u8], dir: bool) -> SysResult<()> {
        if self.lookup(name)?.mount {
            return Err(Errno::EBUSY);
        }
        self.inode.unlink(name, dir)?;
        self.forget(name);
        Ok(())
    }

    /// rename(2).
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(self: &Arc<Self>, name: &[u8], new_dir: &Arc<Self>, new_name: &[u8]) -> SysResult<()> {
        let moved = self.lookup(name)?;
        if moved.mount {
            return Err(Errno::EBUSY);
        }
        // A directory can't become its own descendant.
        let mut up = Some(new_dir.clone());
        while let Some(at) = up {
            if Arc::ptr_eq(&at, &moved) {
                return Err(Errno::EINVAL);
            }
            up = at.parent();
        }
        self.inode.rename(name, &new_dir.inode, new_name)?;
        moved.inode.moved(&new_dir.inode, new_name);
        self.forget(name);
        *moved.names.lock() = Names { name: new_name.to_vec(), parent: Some(new_dir.clone()) };
        new_dir.children.lock().insert(new_name.to_vec(), moved);
        Ok(())
    }

    /// The path from `root`, as getcwd(2) shows it.
    #[must_use]
    pub fn path(self: &Arc<Self>, root: &Arc<Self>) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = self.clone();
        while !Arc::ptr_eq(&at, root) {
            let names = at.names.lock();
            let Some(parent) = names.parent.clone() else { break };
            parts.push(names.name.clone());
            drop(names);
            at = parent;
        }
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }
}

/// Root, working directory and file mode mask of a task.
#[derive(Clone)]
pub struct FsContext {
    pub root: Arc<Dentry>,
    pub cwd: Arc<Dentry>,
    pub umask: u32,
}

/// Where a walk ends: the directory, the last name, and what is there.
pub struct Lookup {
    pub dir: Arc<Dentry>,
    pub name: Vec<u8>,
    pub found: Option<Arc<Dentry>>,
    /// The path ended in a slash.
    pub slash: bool,
}

impl Lookup {
    /// What is there.
    ///
    /// # Errors
    /// `ENOENT`; `ENOTDIR` when a slash follows something else than a directory.
    pub fn existing(self) -> SysResult<Arc<Dentry>> {
        let found = self.found.ok_or(Errno::ENOENT)?;
        if self.slash && !found.inode.attr()?.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(found)
    }
}

impl FsContext {
    /// Walks `path` from `start` (the working directory when it is relative and `start` is `None`). `follow`: a symbolic link at the end.
    ///
    /// # Errors
    /// `ENOENT` (of a directory on the way), `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`.
    pub fn walk(&self, start: Option<&Arc<Dentry>>, path: &[u8], follow: bool) -> SysResult<Lookup> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut at = if path.first() == Some(&b'/') { self.root.clone() } else { start.unwrap_or(&self.cwd).clone() };
        let mut rest: Vec<Vec<u8>> = split(path);
        let mut slash = path.last() == Some(&b'/');
        let mut links = 0;
        loop {
            let Some(name) = rest.pop() else {
                return Ok(Lookup { dir: at.clone(), name: b".".to_vec(), found: Some(at), slash });
            };
            let last = rest.is_empty();
            if name == b"." || name == b".." {
                if !at.inode.attr()?.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                if name == b".." && !Arc::ptr_eq(&at, &self.root) {
                    at = at.parent().unwrap_or(at);
                }
                if last {
                    return Ok(Lookup { dir: at.clone(), name, found: Some(at), slash });
                }
                continue;
            }
            let next = match at.lookup(&name) {
                Ok(next) => next,
                Err(Errno::ENOENT) if last => return Ok(Lookup { dir: at, name, found: None, slash }),
                Err(errno) => return Err(errno),
            };
            let attr = next.inode.attr()?;
            if attr.kind() == c::S_IFLNK && (!last || follow || slash) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                if let Some(target) = next.inode.magic_link() {
                    at = target;
                    if last {
                        return Ok(Lookup { dir: at.clone(), name: b".".to_vec(), found: Some(at), slash });
                    }
                    continue;
                }
                let target = next.inode.readlink()?;
                if target.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if target.first() == Some(&b'/') {
                    at = self.root.clone();
                }
                slash |= last && target.last() == Some(&b'/');
                rest.extend(split(&target));
                if rest.len() > PATH_MAX {
                    return Err(Errno::ENAMETOOLONG);
                }
                continue;
            }
            if last {
                return Ok(Lookup { dir: at, name, found: Some(next), slash });
            }
            if !attr.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            at = next;
        }
    }
}

/// Components, last first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).rev().map(<[u8]>::to_vec).collect()
}
