//! /sys (sysfs(5)): what programs look for of processors, memory and devices.
#![forbid(unsafe_code)]

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use abi::structs::Statfs;
use abi::{Errno, SysResult, c};
use usermem::IoBuf;
use vfs::{Attr, Dentry, DirEntry, FileOps, FileSystemType, Inode, MountRequest, Plain, SuperBlock, new_dev, new_ino};

/// `SYSFS_MAGIC`
const MAGIC: i64 = 0x6265_6572;

/// Directories that are there and have nothing in them.
const EMPTY: &[&str] = &[
    "block",
    "bus",
    "class/block",
    "class/tty",
    "dev/block",
    "dev/char",
    "firmware",
    // A place for the groups to be mounted on.
    "fs/cgroup",
    "hypervisor",
    "kernel/debug",
    "module",
    "power",
];

/// Files that are the same everywhere.
const FILES: &[(&str, &str)] = &[
    ("devices/system/cpu/offline", "\n"),
    ("devices/system/cpu/isolated", "\n"),
    ("devices/system/cpu/kernel_max", "8191\n"),
    ("devices/system/cpu/smt/active", "0\n"),
    ("devices/system/cpu/smt/control", "notsupported\n"),
    ("devices/system/node/online", "0\n"),
    ("devices/system/node/possible", "0\n"),
    ("devices/system/node/has_cpu", "0\n"),
    ("devices/system/node/has_memory", "0\n"),
    ("devices/system/node/has_normal_memory", "0\n"),
    ("devices/system/node/node0/distance", "10\n"),
    ("kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"),
    ("kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n"),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n"),
    ("kernel/mm/transparent_hugepage/use_zero_page", "1\n"),
    ("kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0\n"),
    ("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n"),
    ("kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "0\n"),
    ("kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages", "0\n"),
    ("class/net/lo/address", "00:00:00:00:00:00\n"),
    ("class/net/lo/addr_len", "6\n"),
    ("class/net/lo/broadcast", "00:00:00:00:00:00\n"),
    ("class/net/lo/carrier", "1\n"),
    ("class/net/lo/flags", "0x9\n"),
    ("class/net/lo/ifindex", "1\n"),
    ("class/net/lo/iflink", "1\n"),
    ("class/net/lo/mtu", "65536\n"),
    ("class/net/lo/operstate", "unknown\n"),
    ("class/net/lo/tx_queue_len", "1000\n"),
    ("class/net/lo/type", "772\n"),
];

/// `0` or `0-3`
fn list(cpus: usize) -> String {
    if cpus <= 1 { "0\n".to_owned() } else { format!("0-{}\n", cpus - 1) }
}

/// The processors as a mask: 32 bits a word, highest first.
fn mask(which: impl Fn(usize) -> bool, cpus: usize) -> String {
    let words = cpus.div_ceil(32).max(1);
    let word = |at: usize| (0..32).filter(|bit| which(at * 32 + bit)).fold(0u32, |word, bit| word | 1 << bit);
    let text: Vec<String> = (0..words).rev().map(|at| format!("{:08x}", word(at))).collect();
    text.join(",") + "\n"
}

/// What a processor's directory has: one core of its own each, all in one package.
fn processor(cpu: usize, cpus: usize) -> Vec<(String, String)> {
    let (own, all) = (format!("{cpu}\n"), list(cpus));
    let (own_mask, all_mask) = (mask(|at| at == cpu, cpus), mask(|at| at < cpus, cpus));
    let topology = [
        ("core_id", own.clone()),
        ("physical_package_id", "0\n".into()),
        ("die_id", "0\n".into()),
        ("core_cpus", own_mask.clone()),
        ("core_cpus_list", own.clone()),
        ("thread_siblings", own_mask),
        ("thread_siblings_list", own.clone()),
        ("core_siblings", all_mask.clone()),
        ("core_siblings_list", all.clone()),
        ("package_cpus", all_mask),
        ("package_cpus_list", all.clone()),
    ];
    let base = format!("devices/system/cpu/cpu{cpu}");
    let mut files: Vec<_> = topology.into_iter().map(|(name, text)| (format!("{base}/topology/{name}"), text)).collect();
    let caches = [
        ("1", "Data", "32K", &own),
        ("1", "Instruction", "32K", &own),
        ("2", "Unified", "1024K", &own),
        ("3", "Unified", "32768K", &all),
    ];
    for (index, (level, kind, size, shared)) in caches.into_iter().enumerate() {
        let entries = [("level", level), ("type", kind), ("size", size), ("coherency_line_size", "64")];
        files.extend(entries.map(|(name, text)| (format!("{base}/cache/index{index}/{name}"), format!("{text}\n"))));
        files.push((format!("{base}/cache/index{index}/shared_cpu_list"), shared.clone()));
    }
    if cpu > 0 {
        files.push((format!("{base}/online"), "1\n".into()));
    }
    files
}

/// A file or directory: made once, and never changed.
struct Node {
    dev: u64,
    ino: u64,
    body: Body,
}

enum Body {
    Directory(BTreeMap<Vec<u8>, Arc<Node>>),
    File(Vec<u8>),
}

/// A directory that is being filled.
#[derive(Default)]
struct Draft {
    directories: BTreeMap<String, Draft>,
    files: BTreeMap<String, String>,
}

impl Draft {
    /// The directory at `path`, made if it isn't there.
    fn directory(&mut self, path: &str) -> &mut Self {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(self, |at, name| at.directories.entry(name.to_owned()).or_default())
    }

    fn file(&mut self, path: &str, text: &str) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.directory(dir).files.insert(name.to_owned(), text.to_owned());
    }

    fn finish(self, dev: u64) -> Arc<Node> {
        let node = |body| Arc::new(Node { dev, ino: new_ino(), body });
        let directories = self.directories.into_iter().map(|(name, draft)| (name.into_bytes(), draft.finish(dev)));
        let files = self.files.into_iter().map(|(name, text)| (name.into_bytes(), node(Body::File(text.into_bytes()))));
        node(Body::Directory(directories.chain(files).collect()))
    }
}

impl Node {
    fn mode(&self) -> u32 {
        match self.body {
            Body::Directory(_) => c::S_IFDIR | 0o755,
            Body::File(_) => c::S_IFREG | 0o444,
        }
    }
}

impl Inode for Node {
    fn attr(&self) -> SysResult<Attr> {
        let (size, nlink) = if matches!(self.body, Body::File(_)) { (4096, 1) } else { (0, 2) };
        Ok(Attr { dev: self.dev, ino: self.ino, mode: self.mode(), nlink, size, ..Attr::default() })
    }

    fn lookup(self: Arc<Self>, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        let Body::Directory(entries) = &self.body else { return Err(Errno::ENOTDIR) };
        Ok(entries.get(name).cloned().ok_or(Errno::ENOENT)?)
    }

    fn readdir(&self) -> SysResult<Vec<DirEntry>> {
        let Body::Directory(entries) = &self.body else { return Err(Errno::ENOTDIR) };
        let entry =
            |(name, node): (&Vec<u8>, &Arc<Self>)| DirEntry { name: name.clone(), ino: node.ino, kind: node.mode() & c::S_IFMT };
        Ok(entries.iter().map(entry).collect())
    }

    fn open(self: Arc<Self>, _: i32) -> SysResult<Arc<dyn FileOps>> {
        Ok(Arc::new(Text(self)))
    }

    fn statfs(&self) -> SysResult<Statfs> {
        Ok(Statfs { kind: MAGIC, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }
}

/// An open file.
struct Text(Arc<Node>);

impl FileOps for Text {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let Body::File(text) = &self.0.body else { return Err(Errno::EISDIR) };
        let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        if part.is_empty() { Ok(0) } else { buf.copy_out(part) }
    }

    fn write(&self, _: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        Err(Errno::EIO)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The tree of a machine with so many processors.
fn tree(cpus: usize) -> Draft {
    let cpus = cpus.max(1);
    let mut root = Draft::default();
    for path in EMPTY {
        root.directory(path);
    }
    for (path, text) in FILES {
        root.file(path, text);
    }
    for name in ["online", "possible", "present"] {
        root.file(&format!("devices/system/cpu/{name}"), &list(cpus));
    }
    root.file("devices/system/node/node0/cpulist", &list(cpus));
    root.file("devices/system/node/node0/cpumap", &mask(|at| at < cpus, cpus));
    for cpu in 0..cpus {
        for (path, text) in processor(cpu, cpus) {
            root.file(&path, &text);
        }
    }
    root
}

/// The root of a /sys for a machine with so many processors.
///
/// # Errors
/// None in practice: what the root says of its attributes.
pub fn dentry(cpus: usize) -> SysResult<Arc<Dentry>> {
    let dev = new_dev();
    Dentry::root(SuperBlock::new("sysfs", dev, Box::new(Plain)), tree(cpus).finish(dev))
}

/// sysfs as mount(2) knows it.
pub struct SysFs {
    /// How many processors there are to show.
    pub cpus: Box<dyn Fn() -> usize + Send + Sync>,
}

impl FileSystemType for SysFs {
    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn mount(&self, _: &MountRequest<'_>) -> SysResult<Arc<Dentry>> {
        dentry((self.cpus)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_its_processors() {
        let root: Arc<dyn Inode> = tree(2).finish(1);
        let find = |path: &str| path.split('/').try_fold(root.clone(), |at, name| at.lookup(name.as_bytes()));
        let mut text = [0; 16];
        let count =
            find("devices/system/cpu/cpu1/topology/core_id").unwrap().open(0).unwrap().read(&mut IoBuf::kernel_mut(&mut text), 0);
        assert_eq!((count, &text[..2]), (Ok(2), &b"1\n"[..]));
        assert!(find("block").unwrap().readdir().unwrap().is_empty());
        assert_eq!(find("devices/system/cpu/cpu2").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn processors_are_listed() {
        assert_eq!((list(1), list(4)), ("0\n".into(), "0-3\n".into()));
        assert_eq!(mask(|at| at < 4, 4), "0000000f\n");
        assert_eq!(mask(|at| at == 33, 40), "00000002,00000000\n");
    }
}
