//! Names, attributes, directories.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "open-flags", calls: "open openat creat", run: open_flags },
    Case { name: "stat", calls: "stat lstat fstat newfstatat statx access faccessat faccessat2", run: stats },
    Case { name: "links", calls: "link linkat symlink symlinkat readlink readlinkat unlink unlinkat", run: links },
    Case { name: "directories-made", calls: "mkdir mkdirat rmdir", run: making },
    Case { name: "sizes-at-once", calls: "write stat fchmod", run: sizes_at_once },
    Case { name: "text-busy", calls: "open truncate execve", run: text_busy },
    Case { name: "special-modes", calls: "chmod utimensat fstatfs fsync", run: special_modes },
    Case { name: "rename-races", calls: "rename renameat2 unlink openat", run: races },
    Case { name: "rename", calls: "rename renameat renameat2", run: renaming },
    Case { name: "modes", calls: "chmod fchmod fchmodat umask", run: modes },
    Case { name: "owners", calls: "chown fchown lchown fchownat", run: owners },
    Case { name: "sizes", calls: "truncate ftruncate", run: sizes },
    Case { name: "working-directory", calls: "chdir fchdir getcwd", run: working },
    Case { name: "nodes", calls: "mknod mknodat", run: nodes },
    Case { name: "times", calls: "utimensat", run: times },
    Case { name: "filesystems", calls: "statfs fstatfs", run: filesystems },
    Case { name: "bad-paths", calls: "open stat", run: bad_paths },
    Case {
        name: "xattr",
        calls: "getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr",
        run: xattrs,
    },
];

fn stat_of(path: &std::ffi::CStr) -> stat {
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_lstat, path, &mut stat);
    stat
}

fn open_flags() {
    assert_eq!(sys!(SYS_open, c"f", O_RDONLY), Err(ENOENT));
    ok!(SYS_open, c"f", O_CREAT | O_EXCL | O_WRONLY, 0o600);
    assert_eq!(sys!(SYS_open, c"f", O_CREAT | O_EXCL, 0o600), Err(EEXIST));
    std::fs::write("f", "content").unwrap();
    ok!(SYS_open, c"f", O_WRONLY | O_TRUNC);
    assert_eq!(std::fs::read("f").unwrap(), b"");
    assert_eq!(sys!(SYS_open, c"f", O_DIRECTORY), Err(ENOTDIR));
    assert_eq!(sys!(SYS_open, c".", O_WRONLY), Err(EISDIR));
    assert_eq!(sys!(SYS_open, c"f/x", O_RDONLY), Err(ENOTDIR));
    assert_eq!(sys!(SYS_open, c"", O_RDONLY), Err(ENOENT));
    ok!(SYS_symlink, c"f", c"l");
    assert_eq!(sys!(SYS_open, c"l", O_RDONLY | O_NOFOLLOW), Err(ELOOP));
    ok!(SYS_symlink, c"loop", c"loop");
    assert_eq!(sys!(SYS_open, c"loop", O_RDONLY), Err(ELOOP));
    ok!(SYS_symlink, c"dangling", c"d");
    assert_eq!(sys!(SYS_open, c"d", O_CREAT | O_EXCL, 0o600), Err(EEXIST));
    ok!(SYS_open, c"d", O_CREAT | O_WRONLY, 0o600);
    stat_of(c"dangling");
    let dir = ok!(SYS_open, c".", O_PATH | O_DIRECTORY) as i32;
    assert_eq!(sys!(SYS_read, dir, &mut [0u8; 1], 1), Err(EBADF));
    ok!(SYS_openat, dir, c"f", O_RDONLY);
    assert_eq!(sys!(SYS_openat, 999, c"f", O_RDONLY), Err(EBADF));
    assert_eq!(sys!(SYS_openat, file(c"f"), c"f", O_RDONLY), Err(ENOTDIR));
    assert_eq!(sys!(SYS_open, 8, O_RDONLY), Err(EFAULT));
}

fn stats() {
    let fd = file(c"f");
    put(fd, b"12345");
    ok!(SYS_symlink, c"f", c"l");
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_stat, c"l", &mut stat);
    assert_eq!((stat.st_size, stat.st_mode & S_IFMT, stat.st_nlink), (5, S_IFREG, 1));
    let ino = stat.st_ino;
    ok!(SYS_fstat, fd, &mut stat);
    assert_eq!((stat.st_size, stat.st_ino), (5, ino));
    ok!(SYS_lstat, c"l", &mut stat);
    assert_eq!((stat.st_size, stat.st_mode & S_IFMT), (1, S_IFLNK));
    ok!(SYS_newfstatat, AT_FDCWD, c"l", &mut stat, AT_SYMLINK_NOFOLLOW);
    assert_eq!(stat.st_mode & S_IFMT, S_IFLNK);
    ok!(SYS_newfstatat, fd, c"", &mut stat, AT_EMPTY_PATH);
    assert_eq!(stat.st_ino, ino);
    assert_eq!(sys!(SYS_newfstatat, fd, c"", &mut stat, 0), Err(ENOENT));
    assert_eq!(sys!(SYS_newfstatat, AT_FDCWD, c"f", &mut stat, 0x4000_0000), Err(EINVAL));
    let mut more: statx = unsafe { std::mem::zeroed() };
    ok!(SYS_statx, AT_FDCWD, c"f", 0, STATX_BASIC_STATS, &mut more);
    assert_eq!((more.stx_size, more.stx_ino, u32::from(more.stx_mode) & S_IFMT), (5, ino, S_IFREG));
    assert_eq!(more.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    assert_eq!(sys!(SYS_statx, AT_FDCWD, c"f", 0, 0x8000_0000u32, &mut more), Err(EINVAL));
    ok!(SYS_access, c"f", R_OK | W_OK);
    assert_eq!(sys!(SYS_access, c"missing", F_OK), Err(ENOENT));
    assert_eq!(sys!(SYS_access, c"f", 8), Err(EINVAL));
    ok!(SYS_faccessat, AT_FDCWD, c"f", R_OK);
    ok!(SYS_faccessat2, AT_FDCWD, c"l", R_OK, AT_SYMLINK_NOFOLLOW);
    // Nobody may execute what nobody may execute, root included.
    assert_eq!(sys!(SYS_access, c"f", X_OK), Err(EACCES));
}

fn links() {
    put(file(c"f"), b"x");
    ok!(SYS_link, c"f", c"h");
    assert_eq!((stat_of(c"f").st_nlink, stat_of(c"f").st_ino), (2, stat_of(c"h").st_ino));
    assert_eq!(sys!(SYS_link, c"f", c"h"), Err(EEXIST));
    assert_eq!(sys!(SYS_link, c"missing", c"n"), Err(ENOENT));
    ok!(SYS_mkdir, c"d", 0o755);
    assert_eq!(sys!(SYS_link, c"d", c"n"), Err(EPERM));
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_linkat, AT_FDCWD, c"l", AT_FDCWD, c"l2", 0);
    assert_eq!(stat_of(c"l2").st_mode & S_IFMT, S_IFLNK);
    ok!(SYS_linkat, AT_FDCWD, c"l", AT_FDCWD, c"h2", AT_SYMLINK_FOLLOW);
    assert_eq!(stat_of(c"h").st_nlink, 3);
    let mut text = [9u8; 8];
    assert_eq!(ok!(SYS_readlink, c"l", &mut text, 8), 1);
    assert_eq!(&text[..2], b"f\x09");
    assert_eq!(sys!(SYS_readlink, c"f", &mut text, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_readlink, c"l", &mut text, 0), Err(EINVAL));
    ok!(SYS_symlinkat, c"a long target", AT_FDCWD, c"long");
    assert_eq!(ok!(SYS_readlinkat, AT_FDCWD, c"long", &mut text, 6), 6);
    assert_eq!(&text[..6], b"a long");
    assert_eq!(sys!(SYS_symlink, c"", c"e"), Err(ENOENT));
    assert_eq!(sys!(SYS_symlink, c"x", c"f"), Err(EEXIST));
    let fd = file(c"f");
    ok!(SYS_unlink, c"f");
    ok!(SYS_unlinkat, AT_FDCWD, c"h", 0);
    ok!(SYS_unlink, c"h2");
    // An open file lives on without a name.
    assert_eq!(get(fd, 1), b"x");
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fstat, fd, &mut stat);
    assert_eq!(stat.st_nlink, 0);
    assert_eq!(sys!(SYS_unlink, c"f"), Err(ENOENT));
    assert_eq!(sys!(SYS_unlink, c"d"), Err(EISDIR));
    assert_eq!(sys!(SYS_unlinkat, AT_FDCWD, c"l", AT_REMOVEDIR), Err(ENOTDIR));
    ok!(SYS_unlinkat, AT_FDCWD, c"d", AT_REMOVEDIR);
}

fn making() {
    ok!(SYS_mkdir, c"d", 0o755);
    assert_eq!(sys!(SYS_mkdir, c"d", 0o755), Err(EEXIST));
    assert_eq!(sys!(SYS_mkdir, c"x/y", 0o755), Err(ENOENT));
    ok!(SYS_mkdirat, AT_FDCWD, c"d/e/", 0o700);
    assert_eq!(stat_of(c"d/e").st_mode, S_IFDIR | 0o700);
    assert_eq!(stat_of(c"d").st_ino, stat_of(c"d/e/..").st_ino);
    assert_eq!(sys!(SYS_rmdir, c"d"), Err(ENOTEMPTY));
    assert_eq!(sys!(SYS_rmdir, c"d/."), Err(EINVAL));
    ok!(SYS_rmdir, c"d/e");
    ok!(SYS_rmdir, c"d/");
    assert_eq!(sys!(SYS_rmdir, c"d"), Err(ENOENT));
    put(file(c"f"), b"x");
    assert_eq!(sys!(SYS_rmdir, c"f"), Err(ENOTDIR));
    assert_eq!(sys!(SYS_open, c"f/", O_RDONLY), Err(ENOTDIR));
}

fn renaming() {
    put(file(c"a"), b"a");
    put(file(c"b"), b"b");
    ok!(SYS_rename, c"a", c"b");
    assert_eq!(std::fs::read("b").unwrap(), b"a");
    assert_eq!(sys!(SYS_rename, c"a", c"c"), Err(ENOENT));
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_mkdir, c"d/e", 0o755);
    assert_eq!(sys!(SYS_rename, c"d", c"d/e/f"), Err(EINVAL));
    assert_eq!(sys!(SYS_rename, c"b", c"d"), Err(EISDIR));
    assert_eq!(sys!(SYS_rename, c"d", c"b"), Err(ENOTDIR));
    ok!(SYS_renameat, AT_FDCWD, c"b", AT_FDCWD, c"d/b");
    ok!(SYS_mkdir, c"full", 0o755);
    put(file(c"full/x"), b"x");
    assert_eq!(sys!(SYS_rename, c"d", c"full"), Err(ENOTEMPTY));
    assert_eq!(sys!(SYS_rename, c"d/e", c"d"), Err(ENOTEMPTY));
    ok!(SYS_rename, c"full", c"d/e");
    assert_eq!(std::fs::read("d/e/x").unwrap(), b"x");
    assert_eq!(sys!(SYS_renameat2, AT_FDCWD, c"d/b", AT_FDCWD, c"d/e/x", 1), Err(EEXIST));
    ok!(SYS_renameat2, AT_FDCWD, c"d/b", AT_FDCWD, c"d/e/y", 1);
    assert_eq!(sys!(SYS_renameat2, AT_FDCWD, c"d/e/y", AT_FDCWD, c"z", 64), Err(EINVAL));
    ok!(SYS_link, c"d/e/y", c"same");
    ok!(SYS_rename, c"d/e/y", c"same");
    assert_eq!(stat_of(c"d/e/y").st_nlink, 2, "two names of one file: nothing happens");
}

fn modes() {
    ok!(SYS_umask, 0o27);
    ok!(SYS_creat, c"f", 0o666);
    assert_eq!(stat_of(c"f").st_mode, S_IFREG | 0o640);
    assert_eq!(ok!(SYS_umask, 0o7777), 0o27);
    assert_eq!(ok!(SYS_umask, 0o22), 0o777);
    ok!(SYS_chmod, c"f", 0o4755);
    assert_eq!(stat_of(c"f").st_mode, S_IFREG | 0o4755);
    ok!(SYS_fchmod, file(c"f"), 0o600);
    ok!(SYS_fchmodat, AT_FDCWD, c"f", 0o611);
    assert_eq!(stat_of(c"f").st_mode, S_IFREG | 0o611);
    assert_eq!(sys!(SYS_chmod, c"missing", 0), Err(ENOENT));
}

fn owners() {
    if ok!(SYS_geteuid) != 0 {
        skip("only root may give files away");
    }
    put(file(c"f"), b"x");
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_chown, c"l", 5, 6);
    assert_eq!((stat_of(c"f").st_uid, stat_of(c"f").st_gid, stat_of(c"l").st_uid), (5, 6, 0));
    ok!(SYS_lchown, c"l", 7, -1);
    assert_eq!((stat_of(c"l").st_uid, stat_of(c"l").st_gid), (7, 0));
    ok!(SYS_fchown, file(c"f"), -1, 9);
    ok!(SYS_fchownat, AT_FDCWD, c"l", 8, -1, AT_SYMLINK_NOFOLLOW);
    assert_eq!((stat_of(c"f").st_uid, stat_of(c"f").st_gid, stat_of(c"l").st_uid), (5, 9, 8));
}

fn sizes() {
    let fd = file(c"f");
    put(fd, b"0123456789");
    ok!(SYS_truncate, c"f", 4);
    ok!(SYS_ftruncate, fd, 8);
    assert_eq!(std::fs::read("f").unwrap(), b"0123\0\0\0\0");
    assert_eq!(sys!(SYS_truncate, c"f", -1), Err(EINVAL));
    assert_eq!(sys!(SYS_ftruncate, fd, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_truncate, c".", 0), Err(EISDIR));
    assert_eq!(sys!(SYS_truncate, c"missing", 0), Err(ENOENT));
    assert_eq!(sys!(SYS_ftruncate, ok!(SYS_open, c"f", O_RDONLY), 1), Err(EINVAL));
    assert_eq!(sys!(SYS_ftruncate, new_pipe()[1], 1), Err(EINVAL));
    ok!(SYS_ftruncate, fd, 1i64 << 40);
    assert_eq!(stat_of(c"f").st_size, 1 << 40);
}

fn working() {
    let here = std::env::current_dir().unwrap();
    ok!(SYS_mkdir, c"d", 0o755);
    let fd = ok!(SYS_open, c".", O_RDONLY);
    ok!(SYS_chdir, c"d");
    let mut text = [0u8; 4096];
    let len = ok!(SYS_getcwd, &mut text, 4096) as usize;
    assert_eq!(&text[..len], format!("{}/d\0", here.display()).as_bytes());
    assert_eq!(sys!(SYS_getcwd, &mut text, 3), Err(ERANGE));
    ok!(SYS_fchdir, fd);
    assert_eq!(sys!(SYS_chdir, c"missing"), Err(ENOENT));
    put(file(c"f"), b"x");
    assert_eq!(sys!(SYS_chdir, c"f"), Err(ENOTDIR));
    assert_eq!(sys!(SYS_fchdir, file(c"f")), Err(ENOTDIR));
    assert_eq!(sys!(SYS_fchdir, 999), Err(EBADF));
}

fn nodes() {
    ok!(SYS_mknod, c"p", S_IFIFO | 0o644, 0);
    assert_eq!(stat_of(c"p").st_mode, S_IFIFO | 0o644);
    let both = ok!(SYS_open, c"p", O_RDWR) as i32;
    put(both, b"fifo");
    assert_eq!(get(ok!(SYS_open, c"p", O_RDONLY | O_NONBLOCK) as i32, 9), b"fifo");
    ok!(SYS_mknodat, AT_FDCWD, c"r", S_IFREG | 0o600, 0);
    assert_eq!(sys!(SYS_mknod, c"r", S_IFREG, 0), Err(EEXIST));
    assert_eq!(sys!(SYS_mknod, c"d", S_IFDIR, 0), Err(EPERM));
    ok!(SYS_mknod, c"s", S_IFSOCK | 0o600, 0);
    assert_eq!(sys!(SYS_open, c"s", O_RDONLY), Err(ENXIO));
}

fn times() {
    put(file(c"f"), b"x");
    let times = [timespec { tv_sec: 100, tv_nsec: 5 }, timespec { tv_sec: 200, tv_nsec: 6 }];
    ok!(SYS_utimensat, AT_FDCWD, c"f", times.as_ptr(), 0);
    let stat = stat_of(c"f");
    assert_eq!((stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec), (100, 5, 200, 6));
    let omit = [timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, timespec { tv_sec: 0, tv_nsec: UTIME_NOW }];
    ok!(SYS_utimensat, file(c"f"), 0, omit.as_ptr(), 0);
    let stat = stat_of(c"f");
    assert!(stat.st_atime == 100 && stat.st_mtime > 1_000_000_000);
    let bad = [timespec { tv_sec: 0, tv_nsec: -5 }, timespec { tv_sec: 0, tv_nsec: 0 }];
    assert_eq!(sys!(SYS_utimensat, AT_FDCWD, c"f", bad.as_ptr(), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_utimensat, AT_FDCWD, c"missing", 0, 0), Err(ENOENT));
}

fn filesystems() {
    let mut one: statfs = unsafe { std::mem::zeroed() };
    ok!(SYS_statfs, c".", &mut one);
    assert!(one.f_bsize > 0 && one.f_namelen == 255);
    let mut proc: statfs = unsafe { std::mem::zeroed() };
    ok!(SYS_fstatfs, ok!(SYS_open, c"/proc/version", O_RDONLY), &mut proc);
    assert_eq!(proc.f_type, 0x9fa0);
    assert_eq!(sys!(SYS_statfs, c"missing", &mut one), Err(ENOENT));
}

fn bad_paths() {
    let long = std::ffi::CString::new("x".repeat(256)).unwrap();
    assert_eq!(sys!(SYS_open, long.as_c_str(), O_RDONLY), Err(ENAMETOOLONG));
    let longer = std::ffi::CString::new("x/".repeat(2048)).unwrap();
    assert_eq!(sys!(SYS_open, longer.as_c_str(), O_RDONLY), Err(ENAMETOOLONG));
    let fits = std::ffi::CString::new("y".repeat(255)).unwrap();
    ok!(SYS_creat, fits.as_c_str(), 0o600);
    let mut stat: stat = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(SYS_stat, c"/", 8), Err(EFAULT));
    ok!(SYS_stat, c"/../../.././/", &mut stat);
    let root = stat.st_ino;
    ok!(SYS_stat, c"/", &mut stat);
    assert_eq!(root, stat.st_ino);
}

fn xattrs() {
    put(file(c"f"), b"x");
    let fd = file(c"f");
    let mut value = [0u8; 8];
    let none = sys!(SYS_getxattr, c"f", c"user.missing", &mut value, 8);
    assert!(matches!(none, Err(ENODATA | EOPNOTSUPP)), "{none:?}");
    assert_eq!(sys!(SYS_lgetxattr, c"missing", c"user.x", &mut value, 8), Err(ENOENT));
    assert_eq!(sys!(SYS_fgetxattr, 999, c"user.x", &mut value, 8), Err(EBADF));
    for list in [sys!(SYS_listxattr, c"f", 0, 0), sys!(SYS_llistxattr, c"f", 0, 0), sys!(SYS_flistxattr, fd, 0, 0)] {
        assert!(list == Ok(0) || list == Err(EOPNOTSUPP), "{list:?}");
    }
    for result in [
        sys!(SYS_setxattr, c"f", c"nonsense.x", c"v", 1, 0),
        sys!(SYS_lsetxattr, c"f", c"nonsense.x", c"v", 1, 0),
        sys!(SYS_fsetxattr, fd, c"nonsense.x", c"v", 1, 0),
        sys!(SYS_removexattr, c"f", c"nonsense.x"),
        sys!(SYS_lremovexattr, c"f", c"nonsense.x"),
        sys!(SYS_fremovexattr, fd, c"nonsense.x"),
    ] {
        assert_eq!(result, Err(EOPNOTSUPP));
    }
}

/// Names that are looked up while they are renamed are either there or not; nothing is lost, and nothing comes up twice.
fn races() {
    const ROUNDS: usize = 400;
    ok!(SYS_mkdir, c"from", 0o755);
    ok!(SYS_mkdir, c"to", 0o755);
    ok!(SYS_mkdir, c"from/tree", 0o755);
    for name in [c"from/tree/f", c"one", c"other"] {
        let fd = file(name);
        put(fd, name.to_bytes());
        ok!(SYS_close, fd);
    }
    let mover = spawn(|| {
        for _ in 0..ROUNDS {
            ok!(SYS_rename, c"from/tree", c"to/tree");
            ok!(SYS_rename, c"to/tree", c"from/tree");
        }
        0
    });
    let swapper = spawn(|| {
        for _ in 0..ROUNDS {
            ok!(SYS_renameat2, AT_FDCWD, c"one", AT_FDCWD, c"other", RENAME_EXCHANGE);
        }
        0
    });
    let maker = spawn(|| {
        for round in 0..ROUNDS {
            let fd = ok!(SYS_openat, AT_FDCWD, c"new", O_CREAT | O_EXCL | O_WRONLY, 0o644) as i32;
            put(fd, b"new");
            ok!(SYS_close, fd);
            if round % 2 == 0 {
                ok!(SYS_unlink, c"new");
            } else {
                // Over what is there, or to where nothing is.
                ok!(SYS_rename, c"new", c"newer");
            }
        }
        0
    });
    let looker = |seed: usize| {
        spawn(move || {
            let mut st: stat = unsafe { std::mem::zeroed() };
            for round in 0..ROUNDS {
                // Neither of those that change places is ever missing.
                for name in [c"one", c"other"] {
                    let fd = ok!(SYS_openat, AT_FDCWD, name, O_RDONLY) as i32;
                    assert!(matches!(&get(fd, 8)[..], b"one" | b"other"));
                    ok!(SYS_close, fd);
                }
                for name in [c"from/tree/f", c"to/tree/f"] {
                    match sys!(SYS_openat, AT_FDCWD, name, O_RDONLY) {
                        Ok(fd) => {
                            assert_eq!(get(fd as i32, 16), b"from/tree/f");
                            ok!(SYS_close, fd);
                        }
                        Err(errno) => assert_eq!(errno, ENOENT),
                    }
                }
                match sys!(SYS_stat, c"new", &mut st) {
                    Ok(_) => assert!(st.st_size == 0 || st.st_size == 3),
                    Err(errno) => assert_eq!(errno, ENOENT),
                }
                if round % 16 == seed {
                    let mut names: Vec<_> = std::fs::read_dir(".").unwrap().map(|entry| entry.unwrap().file_name()).collect();
                    let all = names.len();
                    names.sort();
                    names.dedup();
                    assert_eq!(names.len(), all);
                }
            }
            0
        })
    };
    let lookers = [looker(0), looker(8)];
    for child in [mover, swapper, maker].into_iter().chain(lookers) {
        assert_eq!(reap(child), exited(0));
    }
    assert!(std::path::Path::new("from/tree/f").exists() && std::path::Path::new("newer").exists());
    ok!(SYS_unlink, c"from/tree/f");
    ok!(SYS_rmdir, c"from/tree");
    ok!(SYS_rmdir, c"from");
    ok!(SYS_rmdir, c"to");
}

/// What is run can't be written to, and what is written to can't be run.
fn text_busy() {
    std::fs::copy("/bin/sleep", "p").unwrap();
    let sleeper = std::process::Command::new("./p").arg("30").spawn();
    let mut sleeper = sleeper.unwrap();
    for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC] {
        assert_eq!(sys!(SYS_open, c"p", flags), Err(ETXTBSY));
    }
    assert_eq!(sys!(SYS_truncate, c"p", 0), Err(ETXTBSY));
    // By another name, too; but names and modes may change.
    ok!(SYS_link, c"p", c"q");
    assert_eq!(sys!(SYS_open, c"q", O_WRONLY), Err(ETXTBSY));
    ok!(SYS_chmod, c"p", 0o700);
    ok!(SYS_unlink, c"p");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let writer = ok!(SYS_open, c"q", O_WRONLY) as i32;
    let argv = [c"q".as_ptr(), c"0".as_ptr(), std::ptr::null()];
    let run = || in_child(|| sys!(SYS_execve, c"./q", argv.as_ptr(), 0).unwrap_err());
    assert_eq!(run(), exited(ETXTBSY));
    ok!(SYS_close, writer);
    assert_eq!(run(), exited(0));
    ok!(SYS_unlink, c"q");
}

/// Fifos and sockets have modes, owners and times as files have.
fn special_modes() {
    ok!(SYS_mknod, c"fifo", S_IFIFO | 0o600, 0);
    ok!(SYS_mknod, c"socket", S_IFSOCK | 0o600, 0);
    for name in [c"fifo", c"socket"] {
        let mut st: stat = unsafe { std::mem::zeroed() };
        ok!(SYS_chmod, name, 0o640);
        ok!(SYS_utimensat, AT_FDCWD, name, [1i64, 0, 2, 0].as_ptr(), 0);
        ok!(SYS_stat, name, &mut st);
        assert_eq!((st.st_mode & 0o7777, st.st_atime, st.st_mtime), (0o640, 1, 2), "{name:?}");
        ok!(SYS_unlink, name);
    }
    let [pipe, _] = new_pipe();
    let mut fs: statfs = unsafe { std::mem::zeroed() };
    ok!(SYS_fstatfs, pipe, &mut fs);
    assert_eq!(fs.f_type, 0x5049_5045);
    let dir = ok!(SYS_open, c".", O_RDONLY) as i32;
    ok!(SYS_fsync, dir);
    ok!(SYS_close, dir);
}

/// Who has written sees it at once, whoever else is looking.
fn sizes_at_once() {
    let fd = file(c"grows");
    let (mut looked, mut st): (stat, stat) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let looker = spawn(move || {
        loop {
            ok!(SYS_stat, c"grows", &mut looked);
            if looked.st_size >= 2000 {
                return 0;
            }
        }
    });
    for size in 1..=2000 {
        put(fd, b"x");
        ok!(SYS_stat, c"grows", &mut st);
        assert_eq!(st.st_size, size);
        ok!(SYS_fchmod, fd, 0o600 | (size as i32 % 8));
        ok!(SYS_stat, c"grows", &mut st);
        assert_eq!(st.st_mode & 0o777, 0o600 | (size as u32 % 8));
    }
    assert_eq!(reap(looker), exited(0));
    ok!(SYS_unlink, c"grows");
}
