//! Watching files.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "inotify", calls: "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch", run: calls },
    Case { name: "inotify-files", calls: "inotify_add_watch", run: files },
    Case { name: "inotify-names", calls: "inotify_add_watch", run: names },
    Case { name: "inotify-ends", calls: "inotify_add_watch", run: ends },
    Case { name: "inotify-reads", calls: "read ioctl poll", run: reads },
    Case { name: "inotify-flags", calls: "inotify_add_watch", run: flags },
];

fn init() -> i32 {
    ok!(SYS_inotify_init1, IN_NONBLOCK) as i32
}

fn watch(fd: i32, path: &std::ffi::CStr, mask: u32) -> i32 {
    ok!(SYS_inotify_add_watch, fd, path, mask) as i32
}

/// Events that wait: watch, mask, name; and their cookies.
fn take(fd: i32) -> (Vec<(i32, u32, String)>, Vec<u32>) {
    let (mut events, mut cookies) = (Vec::new(), Vec::new());
    let mut bytes = vec![0u8; 65536];
    while let Ok(count) = sys!(SYS_read, fd, bytes.as_mut_ptr(), bytes.len()) {
        let mut rest = &bytes[..count as usize];
        while !rest.is_empty() {
            let word = |i: usize| u32::from_le_bytes(rest[i * 4..i * 4 + 4].try_into().unwrap());
            let len = word(3) as usize;
            let name = String::from_utf8_lossy(&rest[16..16 + len]).trim_end_matches('\0').to_owned();
            assert_eq!(len % 16, 0);
            events.push((word(0) as i32, word(1), name));
            cookies.push(word(2));
            rest = &rest[16 + len..];
        }
    }
    (events, cookies)
}

fn seen(fd: i32) -> Vec<(i32, u32, String)> {
    take(fd).0
}

fn event(watch: i32, mask: u32, name: &str) -> (i32, u32, String) {
    (watch, mask, name.to_owned())
}

fn calls() {
    let fd = ok!(SYS_inotify_init) as i32;
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL) as i32, O_RDONLY);
    let fd = ok!(SYS_inotify_init1, IN_NONBLOCK | IN_CLOEXEC) as i32;
    assert_eq!((ok!(SYS_fcntl, fd, F_GETFD), ok!(SYS_fcntl, fd, F_GETFL) as i32), (1, O_NONBLOCK));
    assert_eq!(sys!(SYS_inotify_init1, 1), Err(EINVAL));
    std::fs::write("f", "").unwrap();
    let first = watch(fd, c"f", IN_OPEN);
    assert_eq!(watch(fd, c"f", IN_MODIFY), first);
    assert_eq!(watch(fd, c".", IN_OPEN), first + 1);
    assert_eq!(sys!(SYS_inotify_add_watch, fd, c"f", 0), Err(EINVAL));
    assert_eq!(sys!(SYS_inotify_add_watch, fd, c"g", IN_OPEN), Err(ENOENT));
    assert_eq!(sys!(SYS_inotify_add_watch, fd, 8, IN_OPEN), Err(EFAULT));
    assert_eq!(sys!(SYS_inotify_add_watch, -1, c"f", IN_OPEN), Err(EBADF));
    assert_eq!(sys!(SYS_inotify_add_watch, new_pipe()[0], c"f", IN_OPEN), Err(EINVAL));
    assert_eq!(sys!(SYS_inotify_rm_watch, fd, 99), Err(EINVAL));
    assert_eq!(sys!(SYS_inotify_rm_watch, new_pipe()[0], 1), Err(EINVAL));
    ok!(SYS_inotify_rm_watch, fd, first);
    assert_eq!(seen(fd), [event(first, IN_IGNORED, "")]);
    // Numbers aren't used again at once.
    assert_eq!(watch(fd, c"f", IN_OPEN), first + 2);
}

/// The directory hears of it by name, then the file itself.
fn files() {
    let fd = init();
    let dir = watch(fd, c".", IN_ALL_EVENTS);
    let file = file(c"f");
    assert_eq!(seen(fd), [event(dir, IN_CREATE, "f"), event(dir, IN_OPEN, "f")]);
    let own = watch(fd, c"f", IN_ALL_EVENTS);
    let both = |mask: u32| vec![event(dir, mask, "f"), event(own, mask, "")];
    put(file, b"hello");
    assert_eq!(seen(fd), both(IN_MODIFY));
    ok!(SYS_lseek, file, 0, SEEK_SET);
    get(file, 3);
    assert_eq!(seen(fd), both(IN_ACCESS));
    get(file, 9);
    get(file, 9);
    assert_eq!(seen(fd), both(IN_ACCESS));
    ok!(SYS_ftruncate, file, 1);
    assert_eq!(seen(fd), both(IN_MODIFY));
    ok!(SYS_truncate, c"f", 0);
    assert_eq!(seen(fd), both(IN_MODIFY));
    ok!(SYS_fchmod, file, 0o600);
    assert_eq!(seen(fd), both(IN_ATTRIB));
    ok!(SYS_utimensat, AT_FDCWD, c"f", 0, 0);
    assert_eq!(seen(fd), both(IN_ATTRIB));
    let times = [ns(1), timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }];
    ok!(SYS_utimensat, AT_FDCWD, c"f", times.as_ptr(), 0);
    assert_eq!(seen(fd), both(IN_ACCESS));
    ok!(SYS_fallocate, file, 0, 0, 100);
    assert_eq!(seen(fd), both(IN_MODIFY));
    ok!(SYS_close, ok!(SYS_open, c"f", O_RDONLY));
    assert_eq!(seen(fd), [both(IN_OPEN), both(IN_CLOSE_NOWRITE)].concat());
    ok!(SYS_close, ok!(SYS_open, c"f", O_WRONLY | O_TRUNC));
    assert_eq!(seen(fd), [both(IN_OPEN), both(IN_MODIFY), both(IN_CLOSE_WRITE)].concat());
    ok!(SYS_close, ok!(SYS_open, c"f", O_PATH));
    assert_eq!(seen(fd), []);
    // The last duplicate closes it.
    let copy = ok!(SYS_dup, file);
    ok!(SYS_close, file);
    assert_eq!(seen(fd), []);
    ok!(SYS_close, copy);
    assert_eq!(seen(fd), both(IN_CLOSE_WRITE));
}

fn names() {
    let fd = init();
    std::fs::create_dir("d").unwrap();
    std::fs::create_dir("e").unwrap();
    std::fs::write("d/f", "").unwrap();
    let (d, e, f) = (watch(fd, c"d", IN_ALL_EVENTS), watch(fd, c"e", IN_ALL_EVENTS), watch(fd, c"d/f", IN_ALL_EVENTS));
    ok!(SYS_link, c"d/f", c"e/g");
    assert_eq!(seen(fd), [event(f, IN_ATTRIB, ""), event(e, IN_CREATE, "g")]);
    ok!(SYS_rename, c"d/f", c"e/h");
    let (events, cookies) = take(fd);
    assert_eq!(events, [event(d, IN_MOVED_FROM, "f"), event(e, IN_MOVED_TO, "h"), event(f, IN_MOVE_SELF, "")]);
    assert!(cookies[0] != 0 && cookies[0] == cookies[1] && cookies[2] == 0);
    ok!(SYS_symlink, c"x", c"d/s");
    ok!(SYS_mknod, c"d/p", S_IFIFO | 0o600, 0);
    ok!(SYS_mkdir, c"d/m", 0o700);
    let made = [event(d, IN_CREATE, "s"), event(d, IN_CREATE, "p"), event(d, IN_CREATE | IN_ISDIR, "m")];
    assert_eq!(seen(fd), made);
    // What is moved over loses a link.
    ok!(SYS_rename, c"d/s", c"e/h");
    let (events, _) = take(fd);
    assert_eq!(events, [event(d, IN_MOVED_FROM, "s"), event(e, IN_MOVED_TO, "h"), event(f, IN_ATTRIB, "")]);
    let m = watch(fd, c"d/m", IN_ALL_EVENTS);
    ok!(SYS_rename, c"d/m", c"d/n");
    let (events, _) = take(fd);
    let moved = [event(d, IN_MOVED_FROM | IN_ISDIR, "m"), event(d, IN_MOVED_TO | IN_ISDIR, "n"), event(m, IN_MOVE_SELF, "")];
    assert_eq!(events, moved);
    // It is the same directory still.
    std::fs::write("d/n/new", "").unwrap();
    assert_eq!(seen(fd), [event(m, IN_CREATE, "new"), event(m, IN_OPEN, "new"), event(m, IN_CLOSE_WRITE, "new")]);
    ok!(SYS_unlink, c"d/n/new");
    ok!(SYS_rmdir, c"d/n");
    let ended = [event(m, IN_DELETE, "new"), event(m, IN_DELETE_SELF, ""), event(m, IN_IGNORED, "")];
    assert_eq!(seen(fd), [&ended[..], &[event(d, IN_DELETE | IN_ISDIR, "n")]].concat());
    ok!(SYS_close, ok!(SYS_open, c"d", O_RDONLY | O_DIRECTORY));
    assert_eq!(seen(fd), [event(d, IN_OPEN | IN_ISDIR, ""), event(d, IN_CLOSE_NOWRITE | IN_ISDIR, "")]);
}

/// A watch ends with its file: when the last name and the last descriptor are gone.
fn ends() {
    let fd = init();
    let open = file(c"f");
    let f = watch(fd, c"f", IN_ALL_EVENTS);
    ok!(SYS_link, c"f", c"g");
    ok!(SYS_unlink, c"g");
    assert_eq!(seen(fd), [event(f, IN_ATTRIB, "")]);
    ok!(SYS_unlink, c"f");
    assert_eq!(seen(fd), [event(f, IN_ATTRIB, "")]);
    put(open, b"x");
    ok!(SYS_close, open);
    let last = [event(f, IN_MODIFY, ""), event(f, IN_CLOSE_WRITE, ""), event(f, IN_DELETE_SELF, ""), event(f, IN_IGNORED, "")];
    assert_eq!(seen(fd), last);
    assert_eq!(sys!(SYS_inotify_rm_watch, fd, f), Err(EINVAL));
    ok!(SYS_close, file(c"h"));
    let h = watch(fd, c"h", IN_DELETE_SELF);
    ok!(SYS_unlink, c"h");
    assert_eq!(seen(fd), [event(h, IN_DELETE_SELF, ""), event(h, IN_IGNORED, "")]);
    // A new file of that name is another one.
    ok!(SYS_close, file(c"h"));
    assert_eq!(seen(fd), []);
}

fn reads() {
    let fd = init();
    watch(fd, c".", IN_CREATE);
    let mut bytes = [0u8; 64];
    assert_eq!(sys!(SYS_read, fd, &mut bytes, 64), Err(EAGAIN));
    let mut ready = pollfd { fd, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut ready, 1, 0), 0);
    let child = spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write("first", "").unwrap();
        std::fs::write("second", "").unwrap();
        0
    });
    assert_eq!(ok!(SYS_poll, &mut ready, 1, 5000), 1);
    reap(child);
    let mut count = 0i32;
    ok!(SYS_ioctl, fd, FIONREAD, &mut count);
    assert_eq!(count, 64);
    assert_eq!(sys!(SYS_read, fd, &mut bytes, 31), Err(EINVAL));
    // As many as fit.
    assert_eq!(ok!(SYS_read, fd, &mut bytes, 63), 32);
    assert_eq!(&bytes[16..22], b"first\0");
    assert_eq!(ok!(SYS_read, fd, &mut bytes, 64), 32);
    assert_eq!(&bytes[16..23], b"second\0");
    // An event that can't be delivered is lost.
    std::fs::write("third", "").unwrap();
    assert_eq!(sys!(SYS_read, fd, 8, 64), Err(EFAULT));
    assert_eq!(seen(fd), []);
    assert_eq!(sys!(SYS_write, fd, &bytes[..], 1), Err(EBADF));
    // What repeats is told once.
    let file = file(c"first");
    watch(fd, c"first", IN_MODIFY);
    put(file, b"a");
    put(file, b"b");
    assert_eq!(seen(fd).len(), 1);
}

fn flags() {
    let fd = init();
    std::fs::write("f", "").unwrap();
    std::os::unix::fs::symlink("f", "link").unwrap();
    assert_eq!(sys!(SYS_inotify_add_watch, fd, c"f", IN_OPEN | IN_ONLYDIR), Err(ENOTDIR));
    let f = watch(fd, c"link", IN_OPEN);
    let link = watch(fd, c"link", IN_ALL_EVENTS | IN_DONT_FOLLOW);
    assert_ne!(f, link);
    assert_eq!(sys!(SYS_inotify_add_watch, fd, c"f", IN_OPEN | IN_MASK_CREATE), Err(EEXIST));
    assert_eq!(sys!(SYS_inotify_add_watch, fd, c"f", IN_OPEN | IN_MASK_CREATE | IN_MASK_ADD), Err(EINVAL));
    watch(fd, c"f", IN_CLOSE | IN_MASK_ADD);
    ok!(SYS_close, ok!(SYS_open, c"f", O_RDONLY));
    assert_eq!(seen(fd), [event(f, IN_OPEN, ""), event(f, IN_CLOSE_NOWRITE, "")]);
    ok!(SYS_unlink, c"link");
    let (events, _) = take(fd);
    assert_eq!(events, [event(link, IN_ATTRIB, ""), event(link, IN_DELETE_SELF, ""), event(link, IN_IGNORED, "")]);
    // Once, and then no more.
    watch(fd, c"f", IN_OPEN | IN_ONESHOT);
    ok!(SYS_close, ok!(SYS_open, c"f", O_RDONLY));
    assert_eq!(seen(fd), [event(f, IN_OPEN, ""), event(f, IN_IGNORED, "")]);
    // Children without a name are heard of, or not.
    for (mask, expected) in [(0, 1), (IN_EXCL_UNLINK, 0)] {
        let file = file(c"g");
        let dir = watch(fd, c".", IN_MODIFY | mask);
        ok!(SYS_unlink, c"g");
        put(file, b"x");
        assert_eq!(seen(fd).len(), expected);
        ok!(SYS_inotify_rm_watch, fd, dir);
        seen(fd);
    }
    // Who may not read may not watch.
    ok!(SYS_fchmodat, AT_FDCWD, c"f", 0);
    let status = in_child(|| {
        if sys!(SYS_setresuid, 1000, 1000, 1000).is_err() {
            return 0;
        }
        i32::from(sys!(SYS_inotify_add_watch, fd, c"f", IN_OPEN) != Err(EACCES))
    });
    assert_eq!(status, exited(0));
}
