//! A writable directory tree over others that stay unchanged (overlayfs).
#![forbid(unsafe_code)]

mod copy_up;
mod file;
mod names;
mod node;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use sync::Mutex;
use vfs::{Dentry, FileSystemType, MountRequest, SuperBlock, SuperOps, new_dev};

pub use node::Node;

/// Filesystems over each other at most (`FILESYSTEM_MAX_STACK_DEPTH`).
const MAX_DEPTH: u32 = 2;
/// Lower layers at most (`OVL_MAX_STACK`).
const MAX_LOWER: usize = 500;

/// What all nodes of an instance share.
struct Super {
    dev: u64,
    /// Roots of the lower layers, the uppermost first.
    lowers: Vec<Arc<Dentry>>,
    upper: Option<Arc<Dentry>>,
    /// Where files are put together before they get their names; without it, they are made without one.
    work: Option<Arc<Dentry>>,
    next_work: AtomicU64,
    /// Names of the extended attributes that the upper layer is marked with begin so.
    prefix: &'static str,
    options: String,
    /// Nodes by the address of the inode that they show: one file is one node.
    nodes: Mutex<HashMap<usize, Weak<Node>>>,
}

struct Ops(Arc<Super>);

impl SuperOps for Ops {
    fn sync(&self) -> SysResult<()> {
        self.0.upper.as_ref().map_or(Ok(()), |upper| upper.superblock().ops().sync())
    }

    fn show_options(&self) -> String {
        self.0.options.clone()
    }
}

/// The layers of an instance.
pub struct Layers {
    /// The uppermost first.
    pub lowers: Vec<Arc<Dentry>>,
    /// `None`: nothing can be changed.
    pub upper: Option<Arc<Dentry>>,
    /// An empty directory of the upper layer's filesystem.
    pub work: Option<Arc<Dentry>>,
}

/// The type of filesystem.
pub struct OverlayFs;

impl OverlayFs {
    /// An instance; returns its root.
    ///
    /// # Errors
    /// `EINVAL` without a lower layer, or when layers lie too deep; what the layers say.
    pub fn over(layers: Layers, options: String, user_xattrs: bool) -> SysResult<Arc<Dentry>> {
        let Layers { lowers, upper, work } = layers;
        let depth = lowers.iter().chain(&upper).map(|layer| layer.superblock().depth).max().ok_or(Errno::EINVAL)? + 1;
        if lowers.is_empty() || lowers.len() > MAX_LOWER || depth > MAX_DEPTH {
            return Err(Errno::EINVAL);
        }
        let fs = Arc::new(Super {
            dev: new_dev(),
            lowers: lowers.clone(),
            upper: upper.clone(),
            work,
            next_work: AtomicU64::new(1),
            prefix: if user_xattrs { "user.overlay." } else { "trusted.overlay." },
            options,
            nodes: Mutex::default(),
        });
        let root = Node::root(&fs, upper, lowers)?;
        Dentry::root(SuperBlock::stacked("overlay", fs.dev, Box::new(Ops(fs)), depth), root)
    }
}

/// The paths of `lowerdir`: separated by colons, which a backslash makes part of a path.
fn split_paths(text: &[u8]) -> Vec<Vec<u8>> {
    let mut paths = vec![Vec::new()];
    let mut escaped = false;
    for byte in text {
        match (byte, escaped) {
            (b'\\', false) => {
                escaped = true;
                continue;
            }
            (b':', false) => paths.push(Vec::new()),
            _ => {
                if let Some(path) = paths.last_mut() {
                    path.push(*byte);
                }
            }
        }
        escaped = false;
    }
    paths
}

impl FileSystemType for OverlayFs {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn mount(&self, request: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        let (mut lowers, mut upper, mut work, mut text, mut user_xattrs) = (Vec::new(), None, None, String::new(), false);
        let dir = |path: &[u8]| {
            let at = request.resolve(path)?;
            if at.dentry.is_dir() { Ok(at) } else { Err(Errno::ENOTDIR) }
        };
        for option in &request.options {
            let value = option.value.as_deref();
            match &*option.name {
                b"lowerdir" => {
                    let paths = split_paths(value.ok_or(Errno::EINVAL)?);
                    lowers = paths.iter().map(|path| Ok(dir(path)?.dentry)).collect::<SysResult<_>>()?;
                }
                b"lowerdir+" => lowers.push(dir(value.ok_or(Errno::EINVAL)?)?.dentry),
                b"upperdir" => upper = Some(dir(value.ok_or(Errno::EINVAL)?)?),
                b"workdir" => work = Some(dir(value.ok_or(Errno::EINVAL)?)?),
                b"userxattr" => user_xattrs = true,
                b"redirect_dir" | b"index" | b"metacopy" | b"xino" | b"nfs_export" | b"uuid" | b"volatile" => continue,
                _ => return Err(Errno::EINVAL),
            }
            text += &format!(",{}", String::from_utf8_lossy(&option.name));
            if let Some(value) = value {
                text += &format!("={}", String::from_utf8_lossy(value));
            }
        }
        let (upper, work) = match (upper, work) {
            (Some(upper), Some(work)) => {
                let nested = work.dentry.is_below(&upper.dentry) || upper.dentry.is_below(&work.dentry);
                if !Arc::ptr_eq(&upper.mount, &work.mount) || nested {
                    return Err(Errno::EINVAL);
                }
                upper.mount.check_writable()?;
                (Some(upper.dentry), Some(work.dentry))
            }
            (None, _) => (None, None),
            (Some(_), None) => return Err(Errno::EINVAL),
        };
        let read_only = upper.is_none();
        let root = Self::over(Layers { lowers, upper, work }, text, user_xattrs)?;
        if read_only {
            root.superblock().set_flags(abi::c::MS_RDONLY);
        }
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use super::split_paths;

    #[test]
    fn colons_separate_unless_escaped() {
        assert_eq!(split_paths(b"/a:/b\\:c:d"), [&b"/a"[..], b"/b:c", b"d"]);
    }
}
