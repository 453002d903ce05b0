//! Mounts.

use std::ffi::CString;

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "mount-tmpfs", calls: "mount umount2", run: tmpfs },
    Case { name: "mount-bind", calls: "mount umount2", run: binds },
    Case { name: "mount-flags", calls: "mount", run: flags },
    Case { name: "mount-move", calls: "mount", run: moving },
    Case { name: "mount-propagation", calls: "mount umount2", run: propagation },
    Case { name: "mount-expire", calls: "umount2", run: expiry },
    Case { name: "mount-removed-elsewhere", calls: "unlink rmdir rename", run: removed_elsewhere },
    Case { name: "mount-shared-for-long", calls: "mount umount2", run: shared_for_long },
    Case { name: "mount-watched", calls: "poll", run: watched },
    Case { name: "pivot-root", calls: "pivot_root chroot", run: pivot },
    Case {
        name: "mount-by-descriptor",
        calls: "fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr",
        run: descriptors,
    },
    Case { name: "getdents-legacy", calls: "getdents", run: legacy_entries },
    Case { name: "chroot", calls: "chroot", run: chroots },
];

const NONE: i64 = 0;

/// Mounts of our own: what happens here must not reach the machine's. Where there are no namespaces, the machine is a sandbox.
fn own_mounts() {
    if ok!(SYS_geteuid) != 0 {
        skip("only root mounts");
    }
    match sys!(SYS_unshare, CLONE_NEWNS) {
        Ok(_) | Err(ENOSYS) => {}
        Err(_) => skip("mount namespaces are forbidden here"),
    }
    ok!(SYS_mount, NONE, c"/", NONE, MS_REC | MS_PRIVATE, NONE);
}

fn mount_tmpfs(at: &std::ffi::CStr) {
    ok!(SYS_mkdir, at, 0o755);
    ok!(SYS_mount, c"none", at, c"tmpfs", 0, NONE);
}

/// Makes a file, and leaves it closed: open files keep mounts busy.
fn make(path: &std::ffi::CStr, bytes: &[u8]) {
    let fd = file(path);
    put(fd, bytes);
    ok!(SYS_close, fd);
}

fn exists(path: &str) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// The line of mountinfo for a place below the working directory: fields.
fn info(place: &str) -> Option<Vec<String>> {
    let place = std::env::current_dir().unwrap().join(place).display().to_string();
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(&place))?;
    Some(line.split(' ').map(str::to_owned).collect())
}

fn tmpfs() {
    own_mounts();
    ok!(SYS_mkdir, c"m", 0o755);
    ok!(SYS_mount, c"word", c"m", c"tmpfs", MS_NOSUID | MS_NODEV, c"mode=0711,uid=3,gid=4");
    let stat = std::fs::metadata("m").unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o711, 3, 4));
    make(c"m/f", b"x");
    assert_eq!(std::fs::metadata("m/..").unwrap().ino(), std::fs::metadata(".").unwrap().ino());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().last().unwrap();
    assert!(line.starts_with("word /") && line.contains("/m tmpfs rw,nosuid,nodev,relatime"), "{line}");
    let fd = ok!(SYS_open, c"m", O_RDONLY);
    assert_eq!(sys!(SYS_umount2, c"m", 0), Err(EBUSY));
    ok!(SYS_close, fd);
    assert_eq!(sys!(SYS_rmdir, c"m"), Err(EBUSY));
    ok!(SYS_umount2, c"m", 0);
    assert!(!exists("m/f") && info("m").is_none());
    assert_eq!(sys!(SYS_umount2, c"m", 0), Err(EINVAL));
    assert_eq!(sys!(SYS_umount2, c"m", 64), Err(EINVAL));
    assert_eq!(sys!(SYS_mount, c"x", c"m", c"nonsense", 0, NONE), Err(ENODEV));
    assert_eq!(sys!(SYS_mount, c"x", c"missing", c"tmpfs", 0, NONE), Err(ENOENT));
    assert_eq!(sys!(SYS_mount, c"x", c"m", c"tmpfs", 0, c"nonsense=1"), Err(EINVAL));
    make(c"f", b"x");
    assert_eq!(sys!(SYS_mount, c"x", c"f", c"tmpfs", 0, NONE), Err(ENOTDIR));
    // One over another: the last one shows, and is on the first.
    ok!(SYS_mount, c"a", c"m", c"tmpfs", 0, NONE);
    make(c"m/first", b"x");
    ok!(SYS_mount, c"b", c"m", c"tmpfs", 0, NONE);
    assert!(!exists("m/first"));
    ok!(SYS_umount2, c"m", MNT_DETACH);
    assert!(exists("m/first"));
    let fd = ok!(SYS_open, c"m", O_RDONLY);
    ok!(SYS_umount2, c"m", MNT_DETACH);
    ok!(SYS_openat, fd, c"first", O_RDONLY);
}

fn binds() {
    own_mounts();
    mount_tmpfs(c"t");
    ok!(SYS_mkdir, c"t/sub", 0o755);
    make(c"t/sub/f", b"f");
    ok!(SYS_mkdir, c"b", 0o755);
    ok!(SYS_mount, c"t/sub", c"b", NONE, MS_BIND, NONE);
    assert_eq!(std::fs::read("b/f").unwrap(), b"f");
    assert_eq!(info("b").unwrap()[3], "/sub");
    make(c"g", b"g");
    make(c"b/over", b"");
    ok!(SYS_mount, c"g", c"b/over", NONE, MS_BIND, NONE);
    assert_eq!(std::fs::read("b/over").unwrap(), b"g");
    assert_eq!(std::fs::read("t/sub/over").unwrap(), b"", "the mount is on b only");
    assert_eq!(sys!(SYS_mount, c"g", c"b", NONE, MS_BIND, NONE), Err(ENOTDIR));
    ok!(SYS_mkdir, c"r", 0o755);
    ok!(SYS_mount, c"b", c"r", NONE, MS_BIND, NONE);
    assert_eq!(std::fs::read("r/over").unwrap(), b"");
    ok!(SYS_umount2, c"r", 0);
    ok!(SYS_mount, c"b", c"r", NONE, MS_BIND | MS_REC, NONE);
    assert_eq!(std::fs::read("r/over").unwrap(), b"g");
    assert_eq!(sys!(SYS_umount2, c"r", 0), Err(EBUSY));
    ok!(SYS_umount2, c"r", MNT_DETACH);
    assert_eq!(sys!(SYS_rename, c"t/sub/f", c"b/f2"), Err(EXDEV), "another mount, though the same filesystem");
    assert_eq!(sys!(SYS_mount, NONE, c"r", NONE, MS_BIND, NONE), Err(EINVAL));
}

fn flags() {
    own_mounts();
    mount_tmpfs(c"t");
    make(c"t/f", b"x");
    ok!(SYS_mkdir, c"b", 0o755);
    ok!(SYS_mount, c"t", c"b", NONE, MS_BIND, NONE);
    ok!(SYS_mount, NONE, c"b", NONE, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOEXEC, NONE);
    assert_eq!(sys!(SYS_open, c"b/f", O_RDWR), Err(EROFS));
    assert_eq!(sys!(SYS_creat, c"b/n", 0o644), Err(EROFS));
    assert_eq!(sys!(SYS_mkdir, c"b/n", 0o755), Err(EROFS));
    assert_eq!(sys!(SYS_unlink, c"b/f"), Err(EROFS));
    assert_eq!(sys!(SYS_chmod, c"b/f", 0o600), Err(EROFS));
    assert_eq!(sys!(SYS_access, c"b/f", W_OK), Err(EROFS));
    make(c"t/n", b"x");
    // struct statfs: its flags are the eleventh word.
    let mut one = [0u64; 15];
    ok!(SYS_statfs, c"b", &mut one);
    assert_eq!(one[10] & (ST_RDONLY | ST_NOEXEC | ST_NOSUID), ST_RDONLY | ST_NOEXEC);
    // noexec
    std::fs::copy("/bin/true", "t/true").unwrap();
    ok!(SYS_chmod, c"t/true", 0o755);
    let run = |path: &str| std::process::Command::new(path).status();
    assert!(run("./t/true").unwrap().success());
    assert_eq!(run("./b/true").unwrap_err().raw_os_error(), Some(EACCES));
    assert_eq!(sys!(SYS_access, c"b/true", X_OK), Err(EACCES));
    // A filesystem can't become read-only while somebody writes.
    let fd = ok!(SYS_open, c"t/f", O_RDWR);
    assert_eq!(sys!(SYS_mount, NONE, c"t", NONE, MS_REMOUNT | MS_RDONLY, NONE), Err(EBUSY));
    ok!(SYS_close, fd);
    ok!(SYS_mount, NONE, c"t", NONE, MS_REMOUNT | MS_RDONLY, NONE);
    assert_eq!(sys!(SYS_creat, c"t/o", 0o644), Err(EROFS));
    // nodev
    ok!(SYS_mount, NONE, c"t", NONE, MS_REMOUNT | MS_NODEV, NONE);
    ok!(SYS_mknod, c"t/null", S_IFCHR | 0o666, makedev(1, 3));
    assert_eq!(sys!(SYS_open, c"t/null", O_RDONLY), Err(EACCES));
    ok!(SYS_open, c"t/null", O_PATH);
    assert_eq!(sys!(SYS_mount, NONE, c"t/f", NONE, MS_REMOUNT, NONE), Err(EINVAL));
}

fn moving() {
    own_mounts();
    mount_tmpfs(c"t");
    make(c"t/f", b"x");
    ok!(SYS_mkdir, c"t/d", 0o755);
    ok!(SYS_mkdir, c"to", 0o755);
    ok!(SYS_mount, c"t", c"to", NONE, MS_MOVE, NONE);
    assert!(exists("to/f") && !exists("t/f"));
    assert_eq!(sys!(SYS_mount, c"to", c"to/d", NONE, MS_MOVE, NONE), Err(ELOOP));
    assert_eq!(sys!(SYS_mount, c"to/d", c"t", NONE, MS_MOVE, NONE), Err(EINVAL));
    ok!(SYS_umount2, c"to", 0);
}

fn propagation() {
    own_mounts();
    mount_tmpfs(c"s");
    ok!(SYS_mkdir, c"s/m", 0o755);
    ok!(SYS_mount, NONE, c"s", NONE, MS_SHARED, NONE);
    for (name, kind) in [(c"peer", 0), (c"slave", MS_SLAVE), (c"private", MS_PRIVATE)] {
        ok!(SYS_mkdir, name, 0o755);
        ok!(SYS_mount, c"s", name, NONE, MS_BIND, NONE);
        if kind != 0 {
            ok!(SYS_mount, NONE, name, NONE, kind, NONE);
        }
    }
    let tags = |place: &str| {
        let fields = info(place).unwrap();
        fields.into_iter().skip(6).take_while(|field| field != "-").collect::<Vec<_>>()
    };
    let group = tags("s")[0].strip_prefix("shared:").unwrap().to_owned();
    assert_eq!(tags("peer"), [format!("shared:{group}")]);
    assert_eq!(tags("slave"), [format!("master:{group}")]);
    assert!(tags("private").is_empty());
    ok!(SYS_mount, c"none", c"s/m", c"tmpfs", 0, NONE);
    make(c"s/m/f", b"x");
    assert!(exists("peer/m/f") && exists("slave/m/f") && !exists("private/m/f"));
    ok!(SYS_mkdir, c"s/n", 0o755);
    ok!(SYS_mount, c"none", c"slave/n", c"tmpfs", 0, NONE);
    make(c"slave/n/f", b"x");
    assert!(!exists("s/n/f") && !exists("peer/n/f"), "slaves tell nobody");
    ok!(SYS_umount2, c"peer/m", 0);
    assert!(!exists("s/m/f") && !exists("slave/m/f"));
    // Unbindable mounts can't be bound, and are left out of trees.
    ok!(SYS_mount, c"none", c"private/m", c"tmpfs", 0, NONE);
    ok!(SYS_mount, NONE, c"private/m", NONE, MS_UNBINDABLE, NONE);
    make(c"private/m/f", b"x");
    ok!(SYS_mkdir, c"to", 0o755);
    assert_eq!(sys!(SYS_mount, c"private/m", c"to", NONE, MS_BIND, NONE), Err(EINVAL));
    ok!(SYS_mount, c"private", c"to", NONE, MS_BIND | MS_REC, NONE);
    assert!(exists("to/m") && !exists("to/m/f"));
    assert_eq!(sys!(SYS_mount, NONE, c"s", NONE, MS_SHARED | MS_PRIVATE, NONE), Err(EINVAL));
    assert_eq!(sys!(SYS_mount, NONE, c"s/n", NONE, MS_PRIVATE, NONE), Err(EINVAL));
}

fn expiry() {
    own_mounts();
    mount_tmpfs(c"t");
    assert_eq!(sys!(SYS_umount2, c"t", MNT_EXPIRE | MNT_DETACH), Err(EINVAL));
    assert_eq!(sys!(SYS_umount2, c"t", MNT_EXPIRE), Err(EAGAIN));
    ok!(SYS_umount2, c"t", MNT_EXPIRE);
    ok!(SYS_symlink, c"u", c"l");
    mount_tmpfs(c"u");
    assert_eq!(sys!(SYS_umount2, c"l", UMOUNT_NOFOLLOW), Err(EINVAL));
    ok!(SYS_umount2, c"l", 0);
}

fn pivot() {
    own_mounts();
    mount_tmpfs(c"new");
    ok!(SYS_mkdir, c"new/old", 0o755);
    ok!(SYS_mkdir, c"plain", 0o755);
    make(c"new/f", b"x");
    let here = std::env::current_dir().unwrap();
    assert!(matches!(sys!(SYS_pivot_root, c"plain", c"plain"), Err(EINVAL | EBUSY)));
    assert_eq!(sys!(SYS_pivot_root, c"/", c"/"), Err(EBUSY));
    assert_eq!(sys!(SYS_pivot_root, c"new/f", c"new/old"), Err(ENOTDIR));
    let status = in_child(|| {
        if sys!(SYS_unshare, CLONE_NEWNS).is_err() {
            return 7;
        }
        ok!(SYS_pivot_root, c"new", c"new/old");
        ok!(SYS_chdir, c"/");
        assert!(exists("/f") && exists("/old/bin"));
        ok!(SYS_umount2, c"/old", MNT_DETACH);
        assert!(!exists("/old/bin"));
        let path = CString::new(here.join("new").display().to_string()).unwrap();
        assert_eq!(sys!(SYS_chdir, path.as_c_str()), Err(ENOENT));
        0
    });
    assert!(status == 0 || status == exited(7), "{status:#x}");
}

fn chroots() {
    if ok!(SYS_geteuid) != 0 {
        skip("only root changes its root");
    }
    ok!(SYS_mkdir, c"r", 0o755);
    make(c"r/f", b"x");
    ok!(SYS_symlink, c"/f", c"r/l");
    assert_eq!(sys!(SYS_chroot, c"r/f"), Err(ENOTDIR));
    assert_eq!(sys!(SYS_chroot, c"missing"), Err(ENOENT));
    let status = in_child(|| {
        ok!(SYS_chroot, c"r");
        let mut text = [0u8; 64];
        let len = ok!(SYS_getcwd, &mut text, 64) as usize;
        assert!(text[..len].starts_with(b"(unreachable)/"));
        ok!(SYS_chdir, c"/");
        assert!(exists("/f") && exists("/../f") && exists("/l"));
        assert_eq!(std::fs::read("/l").unwrap(), b"x");
        let len = ok!(SYS_getcwd, &mut text, 64) as usize;
        assert_eq!(&text[..len], b"/\0");
        0
    });
    assert_eq!(status, 0);
}

fn descriptors() {
    own_mounts();
    ok!(SYS_mkdir, c"m", 0o755);
    assert_eq!(sys!(SYS_fsopen, c"tmpfs", 8), Err(EINVAL));
    assert_eq!(sys!(SYS_fsopen, c"nonsense", 0), Err(ENODEV));
    let fs = ok!(SYS_fsopen, c"tmpfs", 1);
    assert_eq!(sys!(SYS_fsmount, fs, 0, 0), Err(EINVAL));
    ok!(SYS_fsconfig, fs, 1, c"source", c"word", 0);
    assert_eq!(sys!(SYS_fsconfig, fs, 1, c"source", c"again", 0), Err(EINVAL));
    ok!(SYS_fsconfig, fs, 1, c"mode", c"711", 0);
    ok!(SYS_fsconfig, fs, 6, NONE, NONE, 0);
    assert_eq!(sys!(SYS_fsconfig, fs, 6, NONE, NONE, 0), Err(EBUSY));
    let tree = ok!(SYS_fsmount, fs, 1, 4);
    assert_eq!(sys!(SYS_fsmount, fs, 0, 0), Err(EBUSY));
    // It can be used before it is anywhere.
    ok!(SYS_mkdirat, tree, c"d", 0o755);
    ok!(SYS_move_mount, tree, c"", AT_FDCWD, c"m", 4);
    assert!(exists("m/d") && info("m").unwrap()[5].contains("nodev"));
    assert_eq!(sys!(SYS_move_mount, tree, c"", AT_FDCWD, c"m/d", 0), Err(ENOENT));
    ok!(SYS_close, tree);
    // A copy is a mount of its own; it goes with its descriptor.
    assert_eq!(sys!(SYS_open_tree, AT_FDCWD, c"m", 0x8000), Err(EINVAL));
    let copy = ok!(SYS_open_tree, AT_FDCWD, c"m", 1);
    let set = [1u64, 0, 0, 0];
    assert_eq!(sys!(SYS_mount_setattr, copy, c"", AT_EMPTY_PATH, set.as_ptr(), 8), Err(EINVAL));
    ok!(SYS_mount_setattr, copy, c"", AT_EMPTY_PATH, set.as_ptr(), 32);
    assert_eq!(sys!(SYS_mkdirat, copy, c"e", 0o755), Err(EROFS));
    ok!(SYS_mkdir, c"m/e", 0o755);
    ok!(SYS_close, copy);
    let plain = ok!(SYS_open_tree, AT_FDCWD, c"m", 0);
    ok!(SYS_faccessat, plain, c"e", F_OK);
    ok!(SYS_close, plain);
    // The filesystem itself becomes read-only.
    let picked = ok!(SYS_fspick, AT_FDCWD, c"m", 0);
    ok!(SYS_fsconfig, picked, 0, c"ro", NONE, 0);
    ok!(SYS_fsconfig, picked, 7, NONE, NONE, 0);
    assert_eq!(sys!(SYS_mkdir, c"m/f", 0o755), Err(EROFS));
    assert_eq!(sys!(SYS_fspick, AT_FDCWD, c"m/d", 0), Err(EINVAL));
    ok!(SYS_close, picked);
    ok!(SYS_close, fs);
    ok!(SYS_umount2, c"m", 0);
}

fn legacy_entries() {
    make(c"file", b"x");
    ok!(SYS_mkdir, c"dir", 0o755);
    let fd = ok!(SYS_open, c".", O_RDONLY | O_DIRECTORY);
    let mut bytes = [0u8; 4096];
    let len = ok!(SYS_getdents, fd, &mut bytes, 4096) as usize;
    let (mut at, mut found) = (0, Vec::new());
    while at < len {
        let size = usize::from(u16::from_le_bytes([bytes[at + 16], bytes[at + 17]]));
        let name: Vec<u8> = bytes[at + 18..at + size - 1].iter().copied().take_while(|byte| *byte != 0).collect();
        found.push((String::from_utf8(name).unwrap(), bytes[at + size - 1]));
        at += size;
    }
    found.sort();
    let expected = [(".", DT_DIR), ("..", DT_DIR), ("dir", DT_DIR), ("file", DT_REG)];
    assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert_eq!(sys!(SYS_getdents, ok!(SYS_open, c".", O_PATH), &mut bytes, 4096), Err(EBADF));
}

/// A name on which another namespace has something mounted can be removed and replaced: the mount goes with it.
fn removed_elsewhere() {
    own_mounts();
    for dir in [c"d", c"e", c"moved"] {
        ok!(SYS_mkdir, dir, 0o755);
    }
    for name in [c"f", c"g", c"new"] {
        make(name, b"below");
    }
    make(c"over", b"above");
    let ([told, tell], [wait, go]) = (new_pipe(), new_pipe());
    let child = spawn(|| {
        ok!(SYS_close, go);
        ok!(SYS_unshare, CLONE_NEWNS);
        for name in [c"d", c"e", c"moved"] {
            ok!(SYS_mount, c"none", name, c"tmpfs", 0, NONE);
        }
        for name in [c"f", c"g"] {
            ok!(SYS_mount, c"over", name, NONE, MS_BIND, NONE);
        }
        make(c"moved/inside", b"x");
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        // Here it is mounted on.
        assert_eq!(sys!(SYS_rmdir, c"d"), Err(EBUSY));
        assert_eq!(sys!(SYS_unlink, c"f"), Err(EBUSY));
        assert_eq!(sys!(SYS_rename, c"over", c"f"), Err(EBUSY));
        put(tell, b"x");
        get(wait, 1);
        let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        assert_eq!(before - after, 4);
        // What has moved has taken its mount along.
        assert!(exists("there/inside"));
        assert_eq!(std::fs::read("g").unwrap(), b"below");
        0
    });
    assert_eq!(get(told, 1), b"x");
    ok!(SYS_rmdir, c"d");
    ok!(SYS_unlink, c"f");
    ok!(SYS_rename, c"new", c"g");
    ok!(SYS_rename, c"moved", c"there");
    ok!(SYS_mkdir, c"empty", 0o755);
    ok!(SYS_rename, c"empty", c"e");
    assert!(!exists("there/inside"));
    ok!(SYS_close, go);
    assert_eq!(reap(child), exited(0));
}

/// What a namespace has shared outlives it, and there can be many of it.
fn shared_for_long() {
    own_mounts();
    mount_tmpfs(c"s");
    ok!(SYS_mount, NONE, c"s", NONE, MS_SHARED, NONE);
    ok!(SYS_mkdir, c"s/d", 0o755);
    let child = in_child(|| {
        ok!(SYS_unshare, CLONE_NEWNS);
        ok!(SYS_mount, c"none", c"s/d", c"tmpfs", 0, NONE);
        make(c"s/d/f", b"x");
        0
    });
    assert_eq!(child, exited(0));
    assert!(exists("s/d/f"));
    ok!(SYS_umount2, c"s/d", 0);
    // Each bind doubles how many there are, on the root of the tmpfs and on that.
    ok!(SYS_mount, c"s", c"s", NONE, MS_BIND, NONE);
    ok!(SYS_mount, NONE, c"s", NONE, MS_SHARED, NONE);
    let count = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let before = count();
    let start = std::time::Instant::now();
    for _ in 0..12 {
        ok!(SYS_mount, c"s", c"s", NONE, MS_BIND, NONE);
    }
    assert_eq!(count() - before, 2 * ((1 << 12) - 1));
    // A peer of all of them goes, and all but the first with it.
    while count() > before {
        ok!(SYS_umount2, c"s", MNT_DETACH);
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// poll(2) on a list of mounts tells of changes, once.
fn watched() {
    own_mounts();
    let list = ok!(SYS_openat, AT_FDCWD, c"/proc/self/mountinfo", O_RDONLY) as i32;
    let news = || {
        let mut fd = pollfd { fd: list, events: POLLPRI, revents: 0 };
        ok!(SYS_poll, &mut fd, 1, 0) == 1 && fd.revents & POLLPRI != 0
    };
    assert!(!news());
    mount_tmpfs(c"m");
    assert!(news() && !news());
    ok!(SYS_umount2, c"m", 0);
    assert!(news() && !news());
    let child = spawn(|| {
        let mut fd = pollfd { fd: list, events: POLLPRI, revents: 0 };
        ok!(SYS_poll, &mut fd, 1, 20_000) as i32
    });
    ok!(SYS_nanosleep, [0i64, 50_000_000].as_ptr(), 0);
    ok!(SYS_mount, c"none", c"m", c"tmpfs", 0, NONE);
    assert_eq!(reap(child), exited(1));
}
