//! Copying to the upper layer what is about to change.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult, c};
use usermem::IoBuf;
use vfs::{Dentry, FileOps, Inode, NewNode, SetAttr};

use crate::node::Node;

/// Bytes copied at once.
const CHUNK: usize = 256 << 10;

/// Which contents of a file are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    Copied,
    /// It is about to be emptied.
    Empty,
}

impl Node {
    /// Sees to it that there is an upper name: parents are copied first.
    ///
    /// # Errors
    /// `EROFS` without an upper layer; `ENOSPC` and what the layers say.
    pub(crate) fn copy_up(self: &Arc<Self>, contents: Contents) -> SysResult<()> {
        if self.upper.get().is_some() {
            return Ok(());
        }
        if self.fs.upper.is_none() {
            return Err(Errno::EROFS);
        }
        let mut missing = vec![self.clone()];
        while let Some(place) = missing.last().and_then(|node| node.place.as_ref())
            && place.parent.upper.get().is_none()
        {
            missing.push(place.parent.clone());
        }
        while let Some(node) = missing.pop() {
            let _copying = node.copying.lock();
            if node.upper.get().is_none() {
                node.copy(contents)?;
            }
        }
        Ok(())
    }

    /// The same for who has no `Arc`.
    pub(crate) fn copy_up_shared(&self, contents: Contents) -> SysResult<()> {
        if self.upper.get().is_some() {
            return Ok(());
        }
        self.this.upgrade().ok_or(Errno::EIO)?.copy_up(contents)
    }

    /// Copies this one; its parent is there.
    fn copy(self: &Arc<Self>, contents: Contents) -> SysResult<()> {
        let place = self.place.as_ref().ok_or(Errno::EROFS)?;
        let (dir, lower) = (place.parent.upper()?, self.lowers.first().ok_or(Errno::EIO)?);
        let inode = lower.inode();
        let attr = inode.attr()?;
        let node = NewNode {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            target: if attr.kind() == c::S_IFLNK { inode.readlink()? } else { Vec::new() },
            acl: inode.acl(false)?,
            default_acl: inode.acl(true)?,
        };
        let above = dir.inode().attr()?;
        let nameless = self.nameless.load(Ordering::SeqCst);
        let made = if attr.kind() == c::S_IFREG || nameless {
            self.assemble(dir, &node, inode, contents)?
        } else {
            dir.make(&place.name, &node)?
        };
        for name in inode.list_xattr()? {
            if let Ok(value) = inode.get_xattr(&name) {
                // What the upper layer has no room or no right for is left behind, as Linux does with what isn't essential.
                let _ = made.inode().set_xattr(&name, &value, 0);
            }
        }
        let times = SetAttr { atime: Some(attr.atime), mtime: Some(attr.mtime), ..SetAttr::default() };
        made.inode().set_attr(&times)?;
        let named = if attr.kind() != c::S_IFREG || nameless {
            made
        } else if let Some(work) = &self.fs.work {
            let name = made.name();
            drop(made);
            work.rename_to(&name, dir, &place.name, 0)?;
            dir.lookup(&place.name)?
        } else {
            dir.make_link(&place.name, &made)?
        };
        // Making it has changed its directory's times.
        let times = SetAttr { atime: Some(above.atime), mtime: Some(above.mtime), ..SetAttr::default() };
        let _ = dir.inode().set_attr(&times);
        self.set_upper(named);
        Ok(())
    }

    /// Makes a file with the contents of `inode`, without a name or with one in the work directory.
    fn assemble(&self, dir: &Arc<Dentry>, node: &NewNode, inode: &Arc<dyn Inode>, contents: Contents) -> SysResult<Arc<Dentry>> {
        let made = match &self.fs.work {
            Some(work) => {
                let number = self.fs.next_work.fetch_add(1, Ordering::Relaxed);
                work.make(format!("#{number:x}").as_bytes(), node)?
            }
            None => dir.make_nameless(node)?,
        };
        if contents == Contents::Copied && node.mode & c::S_IFMT == c::S_IFREG {
            let (from, to) = (inode.clone().open(c::O_RDONLY)?, made.inode().clone().open(c::O_WRONLY)?);
            let size = inode.attr()?.size;
            let copied = copy_contents(&*from, &*to, size);
            if copied.is_ok() && made.inode().attr()?.size < size {
                made.inode().set_attr(&SetAttr { size: Some(size), ..SetAttr::default() })?;
            }
            if let (Err(errno), Some(work)) = (copied, &self.fs.work) {
                let _ = work.remove(&made.name(), false);
                return Err(errno);
            }
            copied?;
        }
        Ok(made)
    }
}

/// Copies data; holes stay.
fn copy_contents(from: &dyn FileOps, to: &dyn FileOps, size: u64) -> SysResult<()> {
    let mut chunk = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let mut at = 0;
    while at < size {
        at = match from.seek_data(at, size, false) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return Ok(()),
            Err(_) => at,
        };
        let end = from.seek_data(at, size, true).unwrap_or(size).max(at + 1);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.get_mut(..want).unwrap_or_default();
            let count = from.read(&mut IoBuf::kernel_mut(part), at)?;
            if count == 0 {
                return Ok(());
            }
            let mut written = 0;
            while written < count {
                let rest = chunk.get(written..count).unwrap_or_default();
                written += to.write(&mut IoBuf::kernel(rest), at + written as u64)?;
            }
            at += count as u64;
        }
    }
    Ok(())
}
