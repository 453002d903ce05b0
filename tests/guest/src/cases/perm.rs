//! Who may do what with files.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "perm-modes", calls: "open access faccessat faccessat2 chdir", run: modes },
    Case { name: "perm-sticky", calls: "unlink rename", run: sticky },
    Case { name: "perm-owners", calls: "chmod fchmodat2 chown", run: owners },
    Case { name: "perm-set-ids", calls: "chown mkdir mkdirat", run: set_ids },
    Case { name: "perm-times", calls: "utime utimes futimesat utimensat", run: times },
    Case { name: "openat2", calls: "openat2", run: resolve },
    Case { name: "sync", calls: "sync syncfs fsync fdatasync", run: syncing },
];

fn mode_of(path: &std::ffi::CStr) -> u32 {
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_lstat, path, &mut stat);
    stat.st_mode & 0o7777
}

fn owner_of(path: &std::ffi::CStr) -> (u32, u32) {
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_lstat, path, &mut stat);
    (stat.st_uid, stat.st_gid)
}

/// Runs as somebody else, in a directory that anybody may use.
fn as_user(uid: u32, gid: u32, f: impl FnOnce()) {
    let status = in_child(|| {
        ok!(SYS_setgroups, 0, 0);
        ok!(SYS_setresgid, gid, gid, gid);
        ok!(SYS_setresuid, uid, uid, uid);
        f();
        0
    });
    assert_eq!(status, 0, "as {uid}:{gid}");
}

fn need_root() {
    if ok!(SYS_geteuid) != 0 {
        skip("only root can be somebody else");
    }
    ok!(SYS_umask, 0);
}

fn modes() {
    need_root();
    ok!(SYS_chmod, c".", 0o777);
    for (name, mode) in [(c"u", 0o700), (c"g", 0o070), (c"o", 0o007), (c"rw", 0o666)] {
        ok!(SYS_creat, name, mode);
        ok!(SYS_chown, name, 100, 200);
    }
    ok!(SYS_mkdir, c"closed", 0o700);
    put(file(c"closed/f"), b"x");
    ok!(SYS_mkdir, c"dark", 0o711);
    put(file(c"dark/f"), b"x");
    as_user(100, 1, || {
        ok!(SYS_open, c"u", O_RDWR);
        assert_eq!(sys!(SYS_open, c"g", O_RDONLY), Err(EACCES), "the owner has the owner's bits only");
        ok!(SYS_access, c"u", R_OK | W_OK | X_OK);
        assert_eq!(sys!(SYS_access, c"o", R_OK), Err(EACCES));
    });
    as_user(101, 200, || {
        ok!(SYS_open, c"g", O_RDWR);
        assert_eq!(sys!(SYS_open, c"o", O_RDONLY), Err(EACCES));
        assert_eq!(sys!(SYS_open, c"u", O_WRONLY), Err(EACCES));
    });
    as_user(102, 2, || {
        ok!(SYS_open, c"o", O_RDWR);
        ok!(SYS_faccessat, AT_FDCWD, c"rw", R_OK | W_OK);
        assert_eq!(sys!(SYS_faccessat2, AT_FDCWD, c"rw", X_OK, AT_EACCESS), Err(EACCES));
        assert_eq!(sys!(SYS_faccessat2, AT_FDCWD, c"rw", X_OK, 1), Err(EINVAL));
        assert_eq!(sys!(SYS_open, c"u", O_RDONLY | O_TRUNC), Err(EACCES));
        for call in [SYS_open, SYS_chdir, SYS_access] {
            assert_eq!(sys!(call, c"closed/f", 0), Err(EACCES));
        }
        assert_eq!(sys!(SYS_chdir, c"closed"), Err(EACCES));
        ok!(SYS_open, c"dark/f", O_RDONLY);
        assert_eq!(sys!(SYS_open, c"dark", O_RDONLY), Err(EACCES));
        ok!(SYS_chdir, c"dark");
        assert_eq!(sys!(SYS_creat, c"n", 0o600), Err(EACCES));
        assert_eq!(sys!(SYS_mkdir, c"n", 0o700), Err(EACCES));
        assert_eq!(sys!(SYS_symlink, c"x", c"n"), Err(EACCES));
        assert_eq!(sys!(SYS_unlink, c"f"), Err(EACCES));
        assert_eq!(sys!(SYS_rename, c"f", c"g"), Err(EACCES));
        assert_eq!(sys!(SYS_truncate, c"f", 0), Err(EACCES));
    });
    // The real user counts for access(2).
    let status = in_child(|| {
        ok!(SYS_setresuid, 102, 0, 0);
        ok!(SYS_open, c"u", O_RDONLY);
        assert_eq!(sys!(SYS_access, c"u", R_OK), Err(EACCES));
        ok!(SYS_faccessat2, AT_FDCWD, c"u", R_OK, AT_EACCESS);
        0
    });
    assert_eq!(status, 0);
    // Root may all, but run what nobody may.
    ok!(SYS_creat, c"none", 0);
    ok!(SYS_access, c"none", R_OK | W_OK);
    assert_eq!(sys!(SYS_access, c"none", X_OK), Err(EACCES));
}

fn sticky() {
    need_root();
    ok!(SYS_chmod, c".", 0o777);
    ok!(SYS_mkdir, c"s", 0o755);
    ok!(SYS_chmod, c"s", 0o1777);
    for name in [c"s/a", c"s/b", c"s/c"] {
        ok!(SYS_creat, name, 0o666);
        ok!(SYS_chown, name, 100, 100);
    }
    as_user(101, 101, || {
        assert_eq!(sys!(SYS_unlink, c"s/a"), Err(EPERM));
        assert_eq!(sys!(SYS_rename, c"s/a", c"s/d"), Err(EPERM));
        ok!(SYS_creat, c"s/mine", 0o600);
        assert_eq!(sys!(SYS_rename, c"s/mine", c"s/a"), Err(EPERM));
        ok!(SYS_unlink, c"s/mine");
    });
    as_user(100, 100, || {
        ok!(SYS_unlink, c"s/a");
        ok!(SYS_rename, c"s/b", c"s/d");
    });
    ok!(SYS_unlink, c"s/c");
}

fn owners() {
    need_root();
    ok!(SYS_creat, c"f", 0o644);
    ok!(SYS_chown, c"f", 100, 100);
    as_user(101, 100, || {
        assert_eq!(sys!(SYS_chmod, c"f", 0o666), Err(EPERM));
        assert_eq!(sys!(SYS_chown, c"f", 101, -1), Err(EPERM));
        assert_eq!(sys!(SYS_chown, c"f", -1, 100), Err(EPERM));
    });
    as_user(100, 100, || {
        ok!(SYS_chmod, c"f", 0o600);
        assert_eq!(sys!(SYS_chown, c"f", 101, -1), Err(EPERM));
        assert_eq!(sys!(SYS_chown, c"f", -1, 101), Err(EPERM));
        ok!(SYS_chown, c"f", 100, 100);
        ok!(SYS_chmod, c"f", 0o2755);
    });
    assert_eq!(mode_of(c"f"), 0o2755);
    ok!(SYS_symlink, c"f", c"l");
    assert_eq!(sys!(SYS_fchmodat2, AT_FDCWD, c"l", 0o600, AT_SYMLINK_NOFOLLOW), Err(EOPNOTSUPP));
    ok!(SYS_fchmodat2, AT_FDCWD, c"l", 0o640, 0);
    assert_eq!(mode_of(c"f"), 0o640);
    let fd = ok!(SYS_open, c"f", O_PATH);
    ok!(SYS_fchmodat2, fd, c"", 0o600, AT_EMPTY_PATH);
    assert_eq!(sys!(SYS_fchmod, fd, 0o644), Err(EBADF));
    assert_eq!(mode_of(c"f"), 0o600);
}

fn set_ids() {
    need_root();
    ok!(SYS_chmod, c".", 0o777);
    // Who gives a file away takes its privileges away, root too.
    ok!(SYS_creat, c"f", 0o755);
    ok!(SYS_chmod, c"f", 0o6755);
    ok!(SYS_chown, c"f", 100, 200);
    assert_eq!(mode_of(c"f"), 0o755);
    // Who isn't in the group can't make its programs.
    as_user(100, 100, || {
        ok!(SYS_chmod, c"f", 0o2755);
        assert_eq!(mode_of(c"f"), 0o755);
    });
    // Writing takes them away, unless root writes.
    ok!(SYS_chmod, c"f", 0o4777);
    put(ok!(SYS_open, c"f", O_WRONLY) as i32, b"x");
    assert_eq!(mode_of(c"f"), 0o4777);
    as_user(101, 101, || {
        put(ok!(SYS_open, c"f", O_WRONLY) as i32, b"x");
    });
    assert_eq!(mode_of(c"f"), 0o777);
    ok!(SYS_chmod, c"f", 0o4777);
    as_user(101, 101, || {
        ok!(SYS_truncate, c"f", 0);
    });
    assert_eq!(mode_of(c"f"), 0o777);
    // In a set-group-id directory the group is the directory's.
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_chown, c"d", 0, 300);
    ok!(SYS_chmod, c"d", 0o2777);
    as_user(100, 100, || {
        ok!(SYS_creat, c"d/f", 0o2755);
        ok!(SYS_mkdir, c"d/sub", 0o755);
        ok!(SYS_mkdirat, AT_FDCWD, c"plain", 0o755);
    });
    assert_eq!((owner_of(c"d/f"), mode_of(c"d/f")), ((100, 300), 0o755));
    assert_eq!((owner_of(c"d/sub"), mode_of(c"d/sub")), ((100, 300), 0o2755));
    assert_eq!((owner_of(c"plain"), mode_of(c"plain")), ((100, 100), 0o755));
}

fn times() {
    need_root();
    ok!(SYS_creat, c"f", 0o666);
    let seconds = [100i64, 200];
    ok!(SYS_utime, c"f", seconds.as_ptr());
    let read = || {
        let mut stat: stat = unsafe { std::mem::zeroed() };
        ok!(SYS_stat, c"f", &mut stat);
        (stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec)
    };
    assert_eq!(read(), (100, 0, 200, 0));
    let micros = [1i64, 2, 3, 4];
    ok!(SYS_utimes, c"f", micros.as_ptr());
    assert_eq!(read(), (1, 2000, 3, 4000));
    let micros = [5i64, 6, 7, 8];
    ok!(SYS_futimesat, AT_FDCWD, c"f", micros.as_ptr());
    assert_eq!(read(), (5, 6000, 7, 8000));
    assert_eq!(sys!(SYS_utimes, c"f", [0i64, 1_000_000, 0, 0].as_ptr()), Err(EINVAL));
    ok!(SYS_futimesat, file(c"f"), 0, 0);
    // Who may write may set the time to now, and to nothing else.
    as_user(100, 100, || {
        ok!(SYS_utime, c"f", 0);
        ok!(SYS_utimensat, AT_FDCWD, c"f", 0, 0);
        assert_eq!(sys!(SYS_utimes, c"f", micros.as_ptr()), Err(EPERM));
        let mixed = [timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }];
        assert_eq!(sys!(SYS_utimensat, AT_FDCWD, c"f", mixed.as_ptr(), 0), Err(EPERM));
    });
    ok!(SYS_chmod, c"f", 0o600);
    as_user(100, 100, || assert_eq!(sys!(SYS_utime, c"f", 0), Err(EACCES)));
}

fn resolve() {
    let how = |flags: i32, mode: u64, resolve: u64| [flags as u64, mode, resolve];
    let open = |dir: i32, path: &std::ffi::CStr, how: [u64; 3]| sys!(SYS_openat2, dir, path, how.as_ptr(), 24);
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_mkdir, c"d/sub", 0o755);
    put(file(c"d/f"), b"x");
    put(file(c"out"), b"x");
    ok!(SYS_symlink, c"../out", c"d/up");
    ok!(SYS_symlink, c"/f", c"d/abs");
    ok!(SYS_symlink, c"f", c"d/l");
    let d = ok!(SYS_open, c"d", O_PATH | O_DIRECTORY) as i32;
    open(d, c"f", how(O_RDONLY, 0, 0)).unwrap();
    open(d, c"sub/../l", how(O_RDONLY, 0, RESOLVE_BENEATH)).unwrap();
    for path in [c"../out", c"up", c"abs", c"/", c"sub/../../d/f"] {
        assert_eq!(open(d, path, how(O_RDONLY, 0, RESOLVE_BENEATH)), Err(EXDEV), "{path:?}");
    }
    for path in [c"abs", c"/f", c"../f", c"sub/../../../f"] {
        open(d, path, how(O_RDONLY, 0, RESOLVE_IN_ROOT)).unwrap();
    }
    assert_eq!(open(d, c"up", how(O_RDONLY, 0, RESOLVE_IN_ROOT)), Err(ENOENT));
    assert_eq!(open(d, c"l", how(O_RDONLY, 0, RESOLVE_NO_SYMLINKS)), Err(ELOOP));
    open(d, c"l", how(O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS)).unwrap();
    open(d, c"l", how(O_RDONLY, 0, RESOLVE_NO_MAGICLINKS)).unwrap();
    assert_eq!(open(AT_FDCWD, c"/proc/self/exe", how(O_RDONLY, 0, RESOLVE_NO_MAGICLINKS)), Err(ELOOP));
    assert_eq!(open(AT_FDCWD, c"/proc/self/stat", how(O_RDONLY, 0, RESOLVE_NO_XDEV)), Err(EXDEV));
    assert_eq!(open(d, c"f", how(O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT)), Err(EINVAL));
    assert_eq!(open(d, c"f", how(O_RDONLY, 0, 1 << 20)), Err(EINVAL));
    assert_eq!(open(d, c"f", how(O_RDONLY, 0o644, 0)), Err(EINVAL), "a mode without O_CREAT");
    assert_eq!(open(d, c"n", how(O_CREAT | O_WRONLY, 0o10644, 0)), Err(EINVAL));
    assert_eq!(open(d, c"f", how(O_PATH | O_RDWR, 0, 0)), Err(EINVAL));
    open(d, c"n", how(O_CREAT | O_WRONLY, 0o600, RESOLVE_BENEATH)).unwrap();
    assert_eq!(mode_of(c"d/n"), 0o600);
    let long = [0u64, 0, 0, 0, 1];
    ok!(SYS_openat2, d, c"f", long.as_ptr(), 32);
    assert_eq!(sys!(SYS_openat2, d, c"f", long.as_ptr(), 40), Err(E2BIG));
    assert_eq!(sys!(SYS_openat2, d, c"f", long.as_ptr(), 16), Err(EINVAL));
}

fn syncing() {
    let fd = file(c"f");
    put(fd, b"x");
    ok!(SYS_fsync, fd);
    ok!(SYS_fdatasync, fd);
    ok!(SYS_syncfs, fd);
    assert_eq!(sys!(SYS_syncfs, 999), Err(EBADF));
    assert_eq!(sys!(SYS_fsync, new_pipe()[1]), Err(EINVAL));
    ok!(SYS_sync);
}
