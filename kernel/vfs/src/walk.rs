//! Path walk (path_resolution(7)).

use std::borrow::Cow;

use abi::{Errno, SysResult};
use auth::Credentials;
use bitflags::bitflags;

use crate::caller::Caller;
use crate::path::Path;
use crate::permission::may_search;

/// Longest path (`PATH_MAX`), most symbolic links in one walk (`MAXSYMLINKS`).
pub const PATH_MAX: usize = 4096;
const MAX_LINKS: usize = 40;

bitflags! {
    /// How to walk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct WalkFlags: u32 {
        /// Follow a symbolic link at the end.
        const FOLLOW = 1;
        /// The `RESOLVE_*` of openat2(2).
        const NO_XDEV = 1 << 1;
        const NO_MAGICLINKS = 1 << 2;
        const NO_SYMLINKS = 1 << 3;
        const BENEATH = 1 << 4;
        const IN_ROOT = 1 << 5;
        /// The mount that it leads to isn't used by that (umount2(2), `MNT_EXPIRE`).
        const KEEP_EXPIRING = 1 << 6;
    }
}

impl WalkFlags {
    /// [`Self::FOLLOW`] or nothing.
    #[must_use]
    pub fn follow(follow: bool) -> Self {
        if follow { Self::FOLLOW } else { Self::empty() }
    }
}

/// What the last component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Name,
    /// There is none: the path was `/`.
    Root,
    Dot,
    DotDot,
}

/// Where a walk ends: the directory, the last name, and what is there.
pub struct Lookup<'a> {
    pub parent: Path,
    /// The last name; empty unless `last` says that it is one.
    pub name: Cow<'a, [u8]>,
    pub last: Last,
    pub found: Option<Path>,
    /// The path ended in a slash.
    pub slash: bool,
}

impl Lookup<'_> {
    /// What is there.
    ///
    /// # Errors
    /// `ENOENT`; `ENOTDIR` when a slash follows something else than a directory.
    pub fn existing(self) -> SysResult<Path> {
        let found = self.found.ok_or(Errno::ENOENT)?;
        if self.slash && !found.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(found)
    }
}

/// What is left to be walked: the path, and above it the targets of links met on the way.
struct Rest<'a> {
    path: &'a [u8],
    links: Vec<(Vec<u8>, usize)>,
}

/// A component, wherever it stands.
struct Component<'a> {
    name: Cow<'a, [u8]>,
    last: bool,
    /// Slashes follow.
    slash: bool,
}

/// Takes the first component off; what remains has no leading slashes.
fn split(text: &[u8]) -> (&[u8], &[u8], bool) {
    let end = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let skip = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
    (name, rest.get(skip..).unwrap_or_default(), !rest.is_empty())
}

fn skip_slashes(text: &[u8]) -> &[u8] {
    let skip = text.iter().position(|byte| *byte != b'/').unwrap_or(text.len());
    text.get(skip..).unwrap_or_default()
}

impl<'a> Rest<'a> {
    fn next(&mut self) -> Option<Component<'a>> {
        while let Some((text, at)) = self.links.last_mut() {
            let rest = skip_slashes(text.get(*at..).unwrap_or_default());
            if rest.is_empty() {
                self.links.pop();
                continue;
            }
            let (name, left, slash) = split(rest);
            let name = Cow::Owned(name.to_vec());
            *at = text.len() - left.len();
            let ended = |(text, at): &(Vec<u8>, usize)| *at >= text.len();
            let last = self.links.iter().all(ended) && self.path.is_empty();
            return Some(Component { name, last, slash });
        }
        if self.path.is_empty() {
            return None;
        }
        let (name, left, slash) = split(self.path);
        self.path = left;
        Some(Component { name: Cow::Borrowed(name), last: left.is_empty(), slash })
    }
}

impl Caller {
    /// Walks `path` from `start` (the working directory when it is relative and `start` is `None`).
    ///
    /// # Errors
    /// `ENOENT` (of a directory on the way), `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`, `EACCES`; `EXDEV`, `ELOOP`, `EAGAIN` as openat2(2) has them.
    pub fn walk<'a>(&self, start: Option<&Path>, path: &'a [u8], flags: WalkFlags) -> SysResult<Lookup<'a>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let start = start.unwrap_or(&self.places.cwd);
        let scoped = flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT);
        let root = if scoped { start } else { &self.places.root };
        let absolute = path.first() == Some(&b'/');
        if absolute && flags.contains(WalkFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let walk = Walk {
            who: &self.who,
            root,
            flags,
            at: if absolute { root.clone() } else { start.clone() },
            links: 0,
            slash: false,
            trailing: false,
        };
        if absolute && flags.contains(WalkFlags::NO_XDEV) && !walk.same_mount(&start.mount) {
            return Err(Errno::EXDEV);
        }
        let found = walk.run(Rest { path: skip_slashes(path), links: Vec::new() })?;
        if !flags.contains(WalkFlags::KEEP_EXPIRING) {
            found.found.as_ref().unwrap_or(&found.parent).mount.used();
        }
        Ok(found)
    }
}

/// A walk on its way.
struct Walk<'r> {
    who: &'r Credentials,
    root: &'r Path,
    flags: WalkFlags,
    at: Path,
    links: usize,
    /// Slashes follow the last component.
    slash: bool,
    /// Slashes follow a link that was the last component.
    trailing: bool,
}

impl Walk<'_> {
    fn same_mount(&self, mount: &std::sync::Arc<crate::Mount>) -> bool {
        std::sync::Arc::ptr_eq(mount, &self.at.mount)
    }

    fn end<'a>(self, last: Last) -> Lookup<'a> {
        Lookup { parent: self.at.clone(), name: Cow::Borrowed(b""), last, found: Some(self.at), slash: self.slash }
    }

    fn run<'a>(mut self, mut rest: Rest<'a>) -> SysResult<Lookup<'a>> {
        loop {
            let Some(Component { name, last, slash }) = rest.next() else { return Ok(self.end(Last::Root)) };
            if !self.at.dentry.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            may_search(self.who, &self.at.dentry)?;
            self.slash = last && (slash || self.trailing);
            match &*name {
                b"." if last => return Ok(self.end(Last::Dot)),
                b"." => continue,
                b".." => {
                    self.up()?;
                    if last {
                        return Ok(self.end(Last::DotDot));
                    }
                    continue;
                }
                _ => {}
            }
            let child = match self.at.dentry.lookup(&name) {
                Ok(child) => child,
                Err(Errno::ENOENT) if last => {
                    return Ok(Lookup { parent: self.at, name, last: Last::Name, found: None, slash: self.slash });
                }
                Err(errno) => return Err(errno),
            };
            if child.is_symlink() && (!last || self.flags.contains(WalkFlags::FOLLOW) || self.slash) {
                let link = self.at.with(child);
                self.trailing |= self.slash;
                if self.follow(&link, &mut rest)? && last {
                    return Ok(self.end(Last::Root));
                }
                continue;
            }
            let mut next = self.at.with(child);
            if next.dentry.is_mountpoint() {
                next.enter_mounts();
                if self.flags.contains(WalkFlags::NO_XDEV) && !self.same_mount(&next.mount) {
                    return Err(Errno::EXDEV);
                }
            }
            if last {
                return Ok(Lookup { parent: self.at, name, last: Last::Name, found: Some(next), slash: self.slash });
            }
            self.at = next;
        }
    }

    /// `..`
    fn up(&mut self) -> SysResult<()> {
        if self.at.same(self.root) {
            return if self.flags.contains(WalkFlags::BENEATH) { Err(Errno::EXDEV) } else { Ok(()) };
        }
        let crossed = self.at.go_up(self.root);
        if crossed && self.flags.contains(WalkFlags::NO_XDEV) {
            return Err(Errno::EXDEV);
        }
        // Somebody may have moved the directory that we are in out of the one that we must stay in.
        if self.flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT) && !self.at.is_below(self.root) {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }

    /// Follows a link: its text comes next. Returns whether it led to its end at once.
    fn follow(&mut self, link: &Path, rest: &mut Rest<'_>) -> SysResult<bool> {
        self.links += 1;
        if self.links > MAX_LINKS || self.flags.contains(WalkFlags::NO_SYMLINKS) || link.mount.no_symfollow() {
            return Err(Errno::ELOOP);
        }
        if let Some(target) = link.inode().magic_link()? {
            if self.flags.contains(WalkFlags::NO_MAGICLINKS) {
                return Err(Errno::ELOOP);
            }
            let strange = self.flags.contains(WalkFlags::NO_XDEV) && !self.same_mount(&target.mount);
            if strange || self.flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT) {
                return Err(Errno::EXDEV);
            }
            self.at = target;
            return Ok(true);
        }
        let target = link.inode().readlink()?;
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.first() == Some(&b'/') {
            if self.flags.contains(WalkFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            if self.flags.contains(WalkFlags::NO_XDEV) && !self.same_mount(&self.root.mount) {
                return Err(Errno::EXDEV);
            }
            self.at = self.root.clone();
        }
        // Links that are through needn't be remembered: no more than one per link that isn't.
        rest.links.retain(|(text, at)| *at < text.len());
        rest.links.push((target, 0));
        Ok(false)
    }
}
