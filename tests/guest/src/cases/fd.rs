//! Descriptors, reading and writing.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "read-write", calls: "read write lseek open close creat", run: read_write },
    Case { name: "bad-descriptors", calls: "read write close lseek fstat dup", run: bad_descriptors },
    Case { name: "positional", calls: "pread64 pwrite64 preadv pwritev readv writev", run: positional },
    Case { name: "bad-buffers", calls: "read write readv", run: bad_buffers },
    Case { name: "append", calls: "write fcntl", run: append },
    Case { name: "dup", calls: "dup dup2 dup3 fcntl", run: duplicate },
    Case { name: "close-range", calls: "close_range", run: close_range },
    Case { name: "pipe", calls: "pipe pipe2 read write", run: pipes },
    Case { name: "pipe-nonblocking", calls: "pipe2 fcntl ioctl", run: pipe_nonblocking },
    Case { name: "pipe-broken", calls: "write", run: pipe_broken },
    Case { name: "pipe-blocks", calls: "read write", run: pipe_blocks },
    Case { name: "sync", calls: "fsync fdatasync fadvise64", run: sync },
    Case { name: "poll", calls: "poll ppoll", run: polling },
    Case { name: "select", calls: "select pselect6", run: selecting },
    Case { name: "directories", calls: "getdents64 lseek", run: directories },
    Case { name: "devices", calls: "read write openat", run: devices },
    Case { name: "ioctl", calls: "ioctl", run: ioctls },
];

fn read_write() {
    let fd = ok!(SYS_creat, c"f", 0o600) as i32;
    assert_eq!(put(fd, b"hello"), 5);
    assert_eq!(sys!(SYS_read, fd, &mut [0u8; 4], 4), Err(EBADF));
    ok!(SYS_close, fd);
    let fd = ok!(SYS_open, c"f", O_RDWR) as i32;
    assert_eq!(get(fd, 3), b"hel");
    assert_eq!(get(fd, 9), b"lo");
    assert_eq!(get(fd, 9), b"");
    assert_eq!(ok!(SYS_lseek, fd, -2, SEEK_END), 3);
    assert_eq!(ok!(SYS_lseek, fd, 100, SEEK_SET), 100);
    assert_eq!(sys!(SYS_lseek, fd, -1, SEEK_SET), Err(EINVAL));
    assert_eq!(sys!(SYS_lseek, fd, 0, 77), Err(EINVAL));
    put(fd, b"!");
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_END), 101);
    ok!(SYS_lseek, fd, 4, SEEK_SET);
    assert_eq!(get(fd, 3), b"o\0\0");
    assert_eq!(sys!(SYS_lseek, new_pipe()[0], 0, SEEK_CUR), Err(ESPIPE));
}

fn bad_descriptors() {
    for fd in [-1, 999, i32::MAX, i32::MIN] {
        assert_eq!(sys!(SYS_read, fd, 0, 0), Err(EBADF));
        assert_eq!(sys!(SYS_write, fd, 0, 0), Err(EBADF));
        assert_eq!(sys!(SYS_close, fd), Err(EBADF));
        assert_eq!(sys!(SYS_lseek, fd, 0, 0), Err(EBADF));
        assert_eq!(sys!(SYS_fstat, fd, 0), Err(EBADF));
        assert_eq!(sys!(SYS_dup, fd), Err(EBADF));
    }
    // Only the low half of the register counts.
    let [r, w] = new_pipe();
    put(w, b"x");
    assert_eq!(sys!(SYS_read, r as u64 | 0xdead_0000_0000, &mut [0u8; 1], 1), Ok(1));
}

fn positional() {
    let fd = file(c"f");
    assert_eq!(ok!(SYS_pwrite64, fd, &b"abcdef"[..], 6, 4), 6);
    let mut bytes = [9u8; 12];
    assert_eq!(ok!(SYS_pread64, fd, &mut bytes, 12, 2), 8);
    assert_eq!(&bytes, b"\0\0abcdef\x09\x09\x09\x09");
    assert_eq!(sys!(SYS_pread64, fd, &mut bytes, 1, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_pread64, new_pipe()[0], &mut bytes, 1, 0), Err(ESPIPE));
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 0);
    let (mut one, mut two) = ([0u8; 3], [0u8; 3]);
    let vectors =
        [iovec { iov_base: one.as_mut_ptr().cast(), iov_len: 3 }, iovec { iov_base: two.as_mut_ptr().cast(), iov_len: 3 }];
    assert_eq!(ok!(SYS_preadv, fd, vectors.as_ptr(), 2, 4, 0), 6);
    assert_eq!((&one, &two), (b"abc", b"def"));
    assert_eq!(ok!(SYS_pwritev, fd, vectors.as_ptr(), 2, 0, 0), 6);
    assert_eq!(ok!(SYS_readv, fd, vectors.as_ptr(), 2), 6);
    assert_eq!((&one, &two), (b"abc", b"def"));
    assert_eq!(ok!(SYS_writev, fd, vectors.as_ptr(), 2), 6);
    assert_eq!(sys!(SYS_readv, fd, vectors.as_ptr(), -1), Err(EINVAL));
    assert_eq!(sys!(SYS_readv, fd, vectors.as_ptr(), 1025), Err(EINVAL));
    let huge = [iovec { iov_base: one.as_mut_ptr().cast(), iov_len: usize::MAX }];
    assert_eq!(sys!(SYS_writev, fd, huge.as_ptr(), 1), Err(EINVAL));
}

fn bad_buffers() {
    let fd = file(c"f");
    put(fd, b"0123456789");
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(sys!(SYS_read, fd, 0, 4), Err(EFAULT));
    assert_eq!(sys!(SYS_read, fd, -1i64, 4), Err(EFAULT));
    assert_eq!(sys!(SYS_read, fd, 1u64 << 47, 4), Err(EFAULT));
    assert_eq!(sys!(SYS_read, fd, 0, 0), Ok(0));
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 0);
    assert_eq!(sys!(SYS_write, fd, 8, 4), Err(EFAULT));
    // Half of the buffer is there: a pipe gives what fits.
    let page = memory(8192);
    ok!(SYS_munmap, page.wrapping_add(4096), 4096);
    let [r, w] = new_pipe();
    put(w, b"abcdefgh");
    let result = sys!(SYS_read, r, page.wrapping_add(4092), 8);
    assert!(result == Err(EFAULT) || result == Ok(4), "{result:?}");
    let readonly = map(4096, PROT_READ, MAP_PRIVATE);
    assert_eq!(sys!(SYS_read, fd, readonly, 4), Err(EFAULT));
}

fn append() {
    let (fd, other) = (ok!(SYS_open, c"f", O_RDWR | O_CREAT | O_APPEND, 0o600) as i32, file(c"f"));
    put(fd, b"ab");
    put(other, b"X");
    put(fd, b"cd");
    assert_eq!(std::fs::read("f").unwrap(), b"Xbcd");
    let flags = ok!(SYS_fcntl, fd, F_GETFL) as i32;
    assert_eq!(flags & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDWR | O_APPEND);
    ok!(SYS_fcntl, fd, F_SETFL, O_NONBLOCK);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL) as i32 & (O_APPEND | O_NONBLOCK), O_NONBLOCK);
}

fn duplicate() {
    let fd = file(c"f");
    let copy = ok!(SYS_dup, fd) as i32;
    put(fd, b"ab");
    assert_eq!(ok!(SYS_lseek, copy, 0, SEEK_CUR), 2);
    assert_eq!(ok!(SYS_dup2, fd, 40), 40);
    assert_eq!(ok!(SYS_dup2, fd, fd), i64::from(fd));
    assert_eq!(sys!(SYS_dup3, fd, fd, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_dup3, fd, 41, 1), Err(EINVAL));
    assert_eq!(ok!(SYS_dup3, fd, 41, O_CLOEXEC), 41);
    assert_eq!(ok!(SYS_fcntl, 41, F_GETFD), 1);
    assert_eq!(ok!(SYS_fcntl, 40, F_GETFD), 0);
    ok!(SYS_fcntl, 40, F_SETFD, 1);
    assert_eq!(ok!(SYS_fcntl, 40, F_GETFD), 1);
    assert_eq!(ok!(SYS_fcntl, fd, F_DUPFD, 100), 100);
    assert_eq!(ok!(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 100), 101);
    assert_eq!(ok!(SYS_fcntl, 101, F_GETFD), 1);
    assert_eq!(sys!(SYS_fcntl, fd, F_DUPFD, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, fd, 999), Err(EINVAL));
    assert_eq!(sys!(SYS_dup2, fd, -1), Err(EBADF));
    assert_eq!(sys!(SYS_dup2, fd, 10_000_000), Err(EBADF));
}

fn close_range() {
    let fd = file(c"f");
    for to in 50..60 {
        ok!(SYS_dup2, fd, to);
    }
    ok!(SYS_close_range, 52, 54, 0);
    assert_eq!(sys!(SYS_fcntl, 53, F_GETFD), Err(EBADF));
    ok!(SYS_close_range, 55, u32::MAX, 4);
    assert_eq!((ok!(SYS_fcntl, 51, F_GETFD), ok!(SYS_fcntl, 57, F_GETFD)), (0, 1));
    assert_eq!(sys!(SYS_close_range, 5, 4, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_close_range, 5, 6, 64), Err(EINVAL));
}

fn pipes() {
    let mut fds = [0i32; 2];
    ok!(SYS_pipe, &mut fds);
    let [r, w] = fds;
    put(w, b"one");
    put(w, b"two");
    assert_eq!(get(r, 4), b"onet");
    assert_eq!(get(r, 4), b"wo");
    assert_eq!(sys!(SYS_write, r, &b"x"[..], 1), Err(EBADF));
    ok!(SYS_close, w);
    assert_eq!(get(r, 4), b"");
    assert_eq!(sys!(SYS_pipe2, &mut fds, 0x4000_0000), Err(EINVAL));
    assert_eq!(sys!(SYS_pipe2, 8, 0), Err(EFAULT));
    ok!(SYS_pipe2, &mut fds, O_CLOEXEC | O_NONBLOCK);
    assert_eq!(ok!(SYS_fcntl, fds[0], F_GETFD), 1);
    assert_eq!(ok!(SYS_fcntl, fds[1], F_GETFL) as i32 & (O_NONBLOCK | O_ACCMODE), O_NONBLOCK | O_WRONLY);
}

fn pipe_nonblocking() {
    let mut fds = [0i32; 2];
    ok!(SYS_pipe2, &mut fds, O_NONBLOCK);
    let [r, w] = fds;
    assert_eq!(sys!(SYS_read, r, &mut [0u8; 4], 4), Err(EAGAIN));
    let big = vec![7u8; 200_000];
    assert_eq!(ok!(SYS_write, w, big.as_ptr(), big.len()), 65536);
    assert_eq!(sys!(SYS_write, w, big.as_ptr(), 1), Err(EAGAIN));
    let mut count = 0i32;
    ok!(SYS_ioctl, r, FIONREAD, &mut count);
    assert_eq!(count, 65536);
    let on = &mut 0i32;
    ok!(SYS_ioctl, r, FIONBIO, on);
    assert_eq!(ok!(SYS_fcntl, r, F_GETFL) as i32 & O_NONBLOCK, 0);
}

fn pipe_broken() {
    let [r, w] = new_pipe();
    ok!(SYS_close, r);
    // Rust programs ignore SIGPIPE.
    assert_eq!(sys!(SYS_write, w, &b"x"[..], 1), Err(EPIPE));
    let status = in_child(|| {
        unsafe { signal(SIGPIPE, SIG_DFL) };
        let _ = sys!(SYS_write, w, &b"x"[..], 1);
        0
    });
    assert_eq!(status, SIGPIPE);
}

fn pipe_blocks() {
    let [r, w] = new_pipe();
    let reader = std::thread::spawn(move || {
        let mut total = 0;
        while total < 1_000_000 {
            total += get(r, 30_000).len();
        }
        total
    });
    let big = vec![7u8; 1_000_000];
    assert_eq!(ok!(SYS_write, w, big.as_ptr(), big.len()), 1_000_000);
    assert_eq!(reader.join().unwrap(), 1_000_000);
}

fn sync() {
    let fd = file(c"f");
    ok!(SYS_fsync, fd);
    ok!(SYS_fdatasync, fd);
    ok!(SYS_fadvise64, fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    assert_eq!(sys!(SYS_fsync, new_pipe()[0]), Err(EINVAL));
    assert_eq!(sys!(SYS_fsync, -1), Err(EBADF));
    assert_eq!(sys!(SYS_fadvise64, -1, 0, 0, 0), Err(EBADF));
    assert_eq!(sys!(SYS_fadvise64, new_pipe()[0], 0, 0, 0), Err(ESPIPE));
    assert_eq!(sys!(SYS_fadvise64, fd, 0, 0, 77), Err(EINVAL));
}

fn polling() {
    let [r, w] = new_pipe();
    let mut fds = [pollfd { fd: r, events: POLLIN, revents: 9 }, pollfd { fd: w, events: POLLOUT, revents: 9 }];
    assert_eq!(ok!(SYS_poll, fds.as_mut_ptr(), 2, -1), 1);
    assert_eq!((fds[0].revents, fds[1].revents), (0, POLLOUT));
    put(w, b"x");
    assert_eq!(ok!(SYS_poll, fds.as_mut_ptr(), 2, 0), 2);
    get(r, 1);
    let start = now();
    assert_eq!(ok!(SYS_poll, fds.as_mut_ptr(), 1, 20), 0);
    assert!(now() - start >= 20_000_000);
    let mut time = ns(10_000_000);
    assert_eq!(ok!(SYS_ppoll, fds.as_mut_ptr(), 1, &mut time, 0, 8), 0);
    assert_eq!(sys!(SYS_ppoll, fds.as_mut_ptr(), 1, &mut ns(1_000_000_000 - 1), &mut 0u64, 7), Err(EINVAL));
    fds[1].fd = 999;
    fds[0].fd = -1;
    assert_eq!(ok!(SYS_poll, fds.as_mut_ptr(), 2, 0), 1);
    assert_eq!((fds[0].revents, fds[1].revents), (0, POLLNVAL));
    ok!(SYS_close, w);
    let mut hung = pollfd { fd: r, events: 0, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut hung, 1, -1), 1);
    assert_eq!(hung.revents, POLLHUP);
    assert_eq!(sys!(SYS_poll, 8, 1, 0), Err(EFAULT));
    // A writer wakes a poller.
    let [r, w] = new_pipe();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        put(w, b"x");
    });
    let mut one = pollfd { fd: r, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut one, 1, 10_000), 1);
    thread.join().unwrap();
}

fn selecting() {
    let [r, w] = new_pipe();
    let (mut readers, mut writers) = ([1u64 << r, 0], [1u64 << w, 0]);
    let mut time = [0i64, 10_000];
    assert_eq!(ok!(SYS_select, w.max(r) + 1, &mut readers, &mut writers, 0, &mut time), 1);
    assert_eq!((readers[0], writers[0]), (0, 1 << w));
    readers[0] = 1 << r;
    assert_eq!(ok!(SYS_select, r + 1, &mut readers, 0, 0, &mut [0i64, 10_000]), 0);
    put(w, b"x");
    readers[0] = 1 << r;
    assert_eq!(ok!(SYS_pselect6, r + 1, &mut readers, 0, 0, &mut ns(0), 0), 1);
    assert_eq!(readers[0], 1 << r);
    let mut bad = [1u64 << 63];
    assert_eq!(sys!(SYS_select, 64, &mut bad, 0, 0, &mut [0i64, 0]), Err(EBADF));
    assert_eq!(sys!(SYS_select, -1, 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_select, 0, 0, 0, 0, &mut [-1i64, 0]), Err(EINVAL));
}

fn directories() {
    for name in ["a", "b", "c"] {
        std::fs::write(name, name).unwrap();
    }
    std::fs::create_dir("d").unwrap();
    let fd = ok!(SYS_open, c".", O_RDONLY | O_DIRECTORY) as i32;
    let names = || {
        let mut bytes = vec![0u8; 4096];
        let count = ok!(SYS_getdents64, fd, bytes.as_mut_ptr(), 4096) as usize;
        let mut names = Vec::new();
        let mut at = 0;
        while at < count {
            let len = u16::from_le_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
            let name: Vec<u8> = bytes[at + 19..].iter().copied().take_while(|byte| *byte != 0).collect();
            names.push((String::from_utf8(name).unwrap(), bytes[at + 18]));
            at += len;
        }
        names.sort();
        names
    };
    let expected = [(".", DT_DIR), ("..", DT_DIR), ("a", DT_REG), ("b", DT_REG), ("c", DT_REG), ("d", DT_DIR)];
    assert_eq!(names(), expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert_eq!(names(), []);
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(names().len(), 6);
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(sys!(SYS_getdents64, fd, &mut [0u8; 8], 8), Err(EINVAL));
    assert_eq!(sys!(SYS_getdents64, file(c"a"), &mut [0u8; 64], 64), Err(ENOTDIR));
    assert_eq!(sys!(SYS_read, fd, &mut [0u8; 64], 64), Err(EISDIR));
}

fn devices() {
    let dev = |path: &std::ffi::CStr| ok!(SYS_openat, AT_FDCWD, path, O_RDWR) as i32;
    assert_eq!(get(dev(c"/dev/null"), 4), b"");
    assert_eq!(put(dev(c"/dev/null"), b"abc"), 3);
    assert_eq!(get(dev(c"/dev/zero"), 3), [0, 0, 0]);
    assert_eq!(sys!(SYS_write, dev(c"/dev/full"), &b"abc"[..], 3), Err(ENOSPC));
    assert_ne!(get(dev(c"/dev/urandom"), 16), get(dev(c"/dev/urandom"), 16));
    assert_eq!(ok!(SYS_lseek, dev(c"/dev/null"), 5, SEEK_SET), 0);
}

fn ioctls() {
    let fd = file(c"f");
    assert_eq!(sys!(SYS_ioctl, fd, TCGETS, &mut [0u8; 64]), Err(ENOTTY));
    assert_eq!(sys!(SYS_ioctl, -1, TCGETS, 0), Err(EBADF));
    ok!(SYS_ioctl, fd, FIOCLEX);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD), 1);
    ok!(SYS_ioctl, fd, FIONCLEX);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD), 0);
}
