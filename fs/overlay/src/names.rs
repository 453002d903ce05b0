//! Names that are made, removed and moved. The directories of the overlay that are concerned are locked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult, c};
use vfs::{Dentry, Inode, NewNode, Rename, WHITEOUT_DEV};

use crate::copy_up::Contents;
use crate::node::{Node, Place, find, is_whiteout};

fn whiteout() -> NewNode {
    NewNode { rdev: WHITEOUT_DEV, ..NewNode::plain(c::S_IFCHR) }
}

/// Takes a whiteout off a name, so that something can be made there. Whether there was one.
fn uncover(dir: &Arc<Dentry>, name: &[u8]) -> SysResult<bool> {
    match find(dir, name)? {
        Some(found) if is_whiteout(&found)? => {
            drop(found);
            dir.remove(name, false)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

impl Node {
    pub(crate) fn create_name(self: &Arc<Self>, name: &[u8], node: &NewNode) -> SysResult<Arc<dyn Inode>> {
        self.copy_up(Contents::Copied)?;
        let dir = self.upper()?;
        let covered = uncover(dir, name)?;
        let made = dir.make(name, node).inspect_err(|_| {
            if covered {
                let _ = dir.make(name, &whiteout());
            }
        })?;
        if made.is_dir() && (covered || self.lower_has(name)?) {
            self.set_mark(&made, "opaque", b"y")?;
        }
        let place = Some(Place { parent: self.clone(), name: name.into() });
        Ok(Self::new(&self.fs, Some(made), Vec::new(), place)?)
    }

    pub(crate) fn link_name(&self, name: &[u8], target: &Arc<Self>) -> SysResult<()> {
        self.copy_up_shared(Contents::Copied)?;
        target.copy_up(Contents::Copied)?;
        let dir = self.upper()?;
        uncover(dir, name)?;
        dir.make_link(name, target.upper()?).map(drop)
    }

    /// `ENOTEMPTY` unless a directory has no entries in any layer; whiteouts in its upper one go.
    fn clear(&self) -> SysResult<()> {
        if self.kind != c::S_IFDIR {
            return Ok(());
        }
        if !self.entries()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        if let Some(dir) = self.upper.get() {
            for entry in dir.inode().readdir()? {
                dir.remove(&entry.name, false)?;
            }
        }
        Ok(())
    }

    pub(crate) fn remove_name(&self, name: &[u8], child: &Arc<Self>, dir: bool) -> SysResult<()> {
        self.copy_up_shared(Contents::Copied)?;
        let above = self.upper()?;
        let covers = self.lower_has(name)?;
        if dir {
            child.clear()?;
        }
        // Nobody copies it up to this name from here on.
        let _copying = child.copying.lock();
        if child.upper.get().is_some() {
            above.remove(name, dir)?;
        }
        child.nameless.store(true, Ordering::SeqCst);
        if covers {
            above.make(name, &whiteout())?;
        }
        Ok(())
    }

    /// Marks an upper directory for its new place: where its lower ones are, or that it has none.
    fn mark_moved(&self, covers: bool) -> SysResult<()> {
        if self.kind != c::S_IFDIR {
            return Ok(());
        }
        let upper = self.upper()?;
        match self.lowers.first() {
            Some(lower) => {
                let root = self.fs.lowers.iter().find(|root| lower.is_below(root)).ok_or(Errno::EXDEV)?;
                let (mut parts, mut at) = (Vec::new(), lower.clone());
                while !Arc::ptr_eq(&at, root) {
                    parts.push(at.name());
                    at = at.parent().ok_or(Errno::EXDEV)?;
                }
                let path: Vec<u8> = parts.iter().rev().flat_map(|part| [b"/", &**part].concat()).collect();
                self.set_mark(upper, "redirect", &path)
            }
            None if covers => self.set_mark(upper, "opaque", b"y"),
            None => Ok(()),
        }
    }

    pub(crate) fn rename_name(&self, rename: &Rename<'_>) -> SysResult<()> {
        let exchange = rename.flags & c::RENAME_EXCHANGE != 0;
        if rename.flags & !c::RENAME_EXCHANGE != 0 {
            return Err(Errno::EINVAL);
        }
        let (to, child) = (self.own(rename.new_dir)?, self.own(rename.child)?);
        let target = rename.target.map(|target| self.own(target)).transpose()?;
        self.copy_up_shared(Contents::Copied)?;
        to.copy_up(Contents::Copied)?;
        child.copy_up(Contents::Copied)?;
        let (above, new_above) = (self.upper()?, to.upper()?);
        let (covers_old, covers_new) = (self.lower_has(rename.name)?, to.lower_has(rename.new_name)?);
        if exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            target.copy_up(Contents::Copied)?;
            child.mark_moved(covers_new)?;
            target.mark_moved(covers_old)?;
            return above.rename_to(rename.name, new_above, rename.new_name, c::RENAME_EXCHANGE);
        }
        if let Some(target) = &target {
            target.clear()?;
        }
        child.mark_moved(covers_new)?;
        if child.kind == c::S_IFDIR {
            uncover(new_above, rename.new_name)?;
        }
        let held = target.as_ref().map(|target| target.copying.lock());
        above.rename_to(rename.name, new_above, rename.new_name, 0)?;
        if let Some(target) = &target {
            target.nameless.store(true, Ordering::SeqCst);
        }
        drop(held);
        if covers_old {
            above.make(rename.name, &whiteout())?;
        }
        Ok(())
    }
}
