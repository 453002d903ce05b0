//! Pipes and fifos by name: /proc/self/fd, and open(2) of a fifo.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "reopen-pipe", calls: "", run: reopen },
    Case { name: "reopen-others", calls: "", run: others },
    Case { name: "fifo-open", calls: "", run: fifo },
    Case { name: "pipe-owners", calls: "fchown fchmod ioctl getdents64", run: owners },
    Case { name: "link-by-descriptor", calls: "linkat", run: links },
    Case { name: "directory-links", calls: "", run: directories },
];

fn link(fd: i32) -> std::ffi::CString {
    std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap()
}

fn reopen() {
    let [read, write] = new_pipe();
    let again = ok!(SYS_open, link(read).as_c_str(), O_RDONLY) as i32;
    ok!(SYS_write, write, c"abc", 3);
    let mut buf = [0u8; 8];
    assert_eq!(ok!(SYS_read, again, &mut buf, 1), 1);
    assert_eq!((ok!(SYS_read, read, &mut buf, 8), &buf[..2]), (2, &b"bc"[..]));
    // The other end, by the name of this one.
    let writer = ok!(SYS_open, link(read).as_c_str(), O_WRONLY) as i32;
    ok!(SYS_close, write);
    ok!(SYS_write, writer, c"x", 1);
    ok!(SYS_close, writer);
    assert_eq!(ok!(SYS_read, again, &mut buf, 8), 1);
    assert_eq!(ok!(SYS_read, again, &mut buf, 8), 0);
    let text = |fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    assert_eq!(text(read), text(again));
    assert!(text(again).to_str().unwrap().starts_with("pipe:["));
    let (mut a, mut b): (stat, stat) = unsafe { std::mem::zeroed() };
    ok!(SYS_stat, link(read).as_c_str(), &mut a);
    ok!(SYS_fstat, again, &mut b);
    assert_eq!((a.st_ino, a.st_mode & S_IFMT), (b.st_ino, S_IFIFO));
    for fd in [read, again] {
        ok!(SYS_close, fd);
    }
}

fn others() {
    let event = ok!(SYS_eventfd2, 0, 0) as i32;
    assert_eq!(sys!(SYS_open, link(event).as_c_str(), O_RDWR), Err(ENXIO));
    let mut pair = [0i32; 2];
    ok!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut pair);
    assert_eq!(sys!(SYS_open, link(pair[0]).as_c_str(), O_RDWR), Err(ENXIO));
    assert_eq!(sys!(SYS_open, c"/proc/self/fd/999", O_RDONLY), Err(ENOENT));
    for fd in [event, pair[0], pair[1]] {
        ok!(SYS_close, fd);
    }
}

fn fifo() {
    let dir = std::env::temp_dir().join(format!("fifo-{}", ok!(SYS_getpid)));
    let name = std::ffi::CString::new(dir.to_str().unwrap()).unwrap();
    ok!(SYS_mknod, name.as_c_str(), S_IFIFO | 0o600, 0);
    assert_eq!(sys!(SYS_open, name.as_c_str(), O_WRONLY | O_NONBLOCK), Err(ENXIO));
    let both = ok!(SYS_open, name.as_c_str(), O_RDWR) as i32;
    ok!(SYS_close, both);
    // Who writes waits for who reads.
    let pid = spawn(|| {
        let fd = ok!(SYS_open, name.as_c_str(), O_WRONLY) as i32;
        ok!(SYS_write, fd, c"through", 7);
        0
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    let fd = ok!(SYS_open, name.as_c_str(), O_RDONLY) as i32;
    let mut buf = [0u8; 16];
    assert_eq!((ok!(SYS_read, fd, &mut buf, 16), &buf[..7]), (7, &b"through"[..]));
    assert_eq!(reap(pid), 0);
    assert_eq!(ok!(SYS_read, fd, &mut buf, 16), 0);
    ok!(SYS_close, fd);
    // And who reads for who writes, even if that one is gone at once.
    let pid = spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let fd = ok!(SYS_open, name.as_c_str(), O_WRONLY) as i32;
        ok!(SYS_close, fd);
        0
    });
    let fd = ok!(SYS_open, name.as_c_str(), O_RDONLY) as i32;
    assert_eq!(reap(pid), 0);
    ok!(SYS_close, fd);
    let fd = ok!(SYS_open, name.as_c_str(), O_RDONLY | O_NONBLOCK) as i32;
    assert_eq!(ok!(SYS_read, fd, &mut buf, 16), 0);
    ok!(SYS_close, fd);
    // Whoever of them waits for the other, and however soon they go.
    for _ in 0..100 {
        let pid = spawn(|| {
            let fd = ok!(SYS_open, name.as_c_str(), O_WRONLY) as i32;
            ok!(SYS_close, fd);
            0
        });
        let fd = ok!(SYS_open, name.as_c_str(), O_RDONLY) as i32;
        ok!(SYS_close, fd);
        assert_eq!(reap(pid), 0);
    }
    ok!(SYS_unlink, name.as_c_str());
}

/// find(1) takes a directory with two links for one without directories in it.
fn directories() {
    use std::os::unix::fs::MetadataExt;
    let dir = std::env::temp_dir().join(format!("links-{}", ok!(SYS_getpid)));
    let links = || std::fs::metadata(&dir).unwrap().nlink();
    std::fs::create_dir(&dir).unwrap();
    if links() == 1 {
        // A filesystem that doesn't count says so.
        return std::fs::remove_dir(&dir).unwrap();
    }
    assert_eq!(links(), 2);
    std::fs::create_dir(dir.join("a")).unwrap();
    std::fs::write(dir.join("f"), "x").unwrap();
    assert_eq!(links(), 3);
    std::fs::create_dir(dir.join("b")).unwrap();
    std::fs::rename(dir.join("b"), dir.join("a/b")).unwrap();
    assert_eq!(links(), 3);
    std::fs::remove_dir(dir.join("a/b")).unwrap();
    std::fs::remove_dir(dir.join("a")).unwrap();
    assert_eq!(links(), 2);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Pipes have owners and modes; a mere place (`O_PATH`) can't be asked for anything.
fn owners() {
    let [read, write] = new_pipe();
    let mut st: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fchmod, write, 0o640);
    ok!(SYS_fchown, write, ok!(SYS_geteuid), ok!(SYS_getegid));
    ok!(SYS_fstat, read, &mut st);
    assert_eq!((st.st_mode, i64::from(st.st_uid)), (S_IFIFO | 0o640, ok!(SYS_geteuid)));
    let place = ok!(SYS_open, c"/", O_PATH) as i32;
    let mut on = 1i32;
    for cmd in [FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX] {
        assert_eq!(sys!(SYS_ioctl, place, cmd, &mut on), Err(EBADF), "{cmd:#x}");
    }
    assert_eq!(sys!(SYS_open, c"/", O_RDONLY | O_DIRECT), Err(EINVAL));
    let dir = ok!(SYS_open, c"/", O_RDONLY) as i32;
    let mut bytes = [0u8; 4096];
    assert_eq!(sys!(SYS_getdents64, dir, &mut bytes, u32::MAX), Err(EINVAL));
    let mut pair = [0i32; 2];
    ok!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut pair);
    let (mut own, mut told) = (ok!(SYS_getpid) as i32, 0i32);
    ok!(SYS_ioctl, pair[0], 0x8901, &mut own);
    ok!(SYS_ioctl, pair[0], 0x8904, &mut told);
    assert_eq!(told, own);
    for fd in [read, write, place, dir, pair[0], pair[1]] {
        ok!(SYS_close, fd);
    }
}

/// linkat(2) by descriptor: of who has opened it, or of who may search everywhere.
fn links() {
    let fd = ok!(SYS_openat, AT_FDCWD, c".", O_TMPFILE | O_RDWR, 0o600) as i32;
    if ok!(SYS_geteuid) != 0 {
        skip("only root has capabilities to lose");
    }
    ok!(SYS_linkat, fd, c"", AT_FDCWD, c"one", AT_EMPTY_PATH);
    let child = in_child(|| {
        ok!(SYS_setresuid, 1000, 1000, 1000);
        i32::from(sys!(SYS_linkat, fd, c"", AT_FDCWD, c"two", AT_EMPTY_PATH) != Err(ENOENT))
    });
    assert_eq!(child, exited(0));
    ok!(SYS_close, fd);
}
