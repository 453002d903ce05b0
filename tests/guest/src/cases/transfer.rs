//! Bytes from file to file, and where they may go.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "sendfile", calls: "sendfile", run: send },
    Case { name: "copy-file-range", calls: "copy_file_range", run: copy_range },
    Case { name: "splice", calls: "splice", run: splicing },
    Case { name: "splice-waits", calls: "splice vmsplice", run: splice_waits },
    Case { name: "tee", calls: "tee", run: teeing },
    Case { name: "vmsplice", calls: "vmsplice", run: from_memory },
    Case { name: "vectors-with-flags", calls: "preadv2 pwritev2", run: vectors },
    Case { name: "file-size-limit", calls: "write pwrite64 truncate ftruncate fallocate sendfile", run: size_limit },
    Case { name: "fallocate", calls: "fallocate", run: allocate },
    Case { name: "sparse", calls: "lseek fallocate", run: sparse },
    Case { name: "readahead", calls: "readahead sync_file_range fadvise64 sync syncfs", run: advice },
    Case { name: "append-together", calls: "write pwrite64", run: append_together },
    Case { name: "half-a-buffer", calls: "read write readv writev pread64", run: half },
];

fn filled(path: &std::ffi::CStr, len: usize) -> (i32, Vec<u8>) {
    let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
    let fd = file(path);
    put(fd, &bytes);
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    (fd, bytes)
}

fn content(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn at(fd: i32) -> i64 {
    ok!(SYS_lseek, fd, 0, SEEK_CUR)
}

fn send() {
    let (from, bytes) = filled(c"from", 200_000);
    let to = file(c"to");
    assert_eq!(ok!(SYS_sendfile, to, from, 0, 1000), 1000);
    assert_eq!((at(from), at(to)), (1000, 1000));
    let mut offset = 500i64;
    assert_eq!(ok!(SYS_sendfile, to, from, &mut offset, 1 << 20), 199_500);
    assert_eq!((offset, at(from), at(to)), (200_000, 1000, 200_500));
    assert_eq!(content("to"), [&bytes[..1000], &bytes[500..]].concat());
    assert_eq!(ok!(SYS_sendfile, to, from, &mut offset, 10), 0);
    assert_eq!(sys!(SYS_sendfile, to, from, &mut -1i64, 10), Err(EINVAL));
    assert_eq!(sys!(SYS_sendfile, to, from, 8, 10), Err(EFAULT));
    let append = ok!(SYS_open, c"to", O_WRONLY | O_APPEND) as i32;
    assert_eq!(sys!(SYS_sendfile, append, from, 0, 10), Err(EINVAL));
    assert_eq!(sys!(SYS_sendfile, from, append, 0, 10), Err(EBADF));
    let [r, w] = new_pipe();
    put(w, b"abc");
    assert_eq!(sys!(SYS_sendfile, to, r, &mut 0i64, 1), Err(ESPIPE));
    // Into a pipe: as much as it holds.
    let mut fds = [0i32; 2];
    ok!(SYS_pipe2, &mut fds, O_NONBLOCK);
    ok!(SYS_lseek, from, 0, SEEK_SET);
    assert_eq!(ok!(SYS_sendfile, fds[1], from, 0, 200_000), 65536);
    assert_eq!(at(from), 65536);
    assert_eq!(sys!(SYS_sendfile, fds[1], from, 0, 10), Err(EAGAIN));
    assert_eq!(get(fds[0], 65536), &bytes[..65536]);
}

fn copy_range() {
    let (from, bytes) = filled(c"from", 100_000);
    let to = file(c"to");
    assert_eq!(ok!(SYS_copy_file_range, from, 0, to, 0, 5000, 0), 5000);
    let (mut a, mut b) = (90_000i64, 10_000i64);
    assert_eq!(ok!(SYS_copy_file_range, from, &mut a, to, &mut b, 50_000, 0), 10_000);
    assert_eq!((a, b, at(from), at(to)), (100_000, 20_000, 5000, 5000));
    assert_eq!(content("to"), [&bytes[..5000], &[0; 5000], &bytes[90_000..]].concat());
    assert_eq!(ok!(SYS_copy_file_range, from, &mut a, to, &mut b, 1, 0), 0);
    assert_eq!(sys!(SYS_copy_file_range, from, &mut 0i64, from, &mut 5i64, 10, 0), Err(EINVAL));
    assert_eq!(ok!(SYS_copy_file_range, from, &mut 0i64, from, &mut 10i64, 10, 0), 10);
    assert_eq!(sys!(SYS_copy_file_range, from, 0, to, 0, 1, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_copy_file_range, from, 0, new_pipe()[1], 0, 1, 0), Err(EINVAL));
    let dir = ok!(SYS_open, c".", O_RDONLY) as i32;
    assert_eq!(sys!(SYS_copy_file_range, dir, 0, to, 0, 1, 0), Err(EISDIR));
    let append = ok!(SYS_open, c"to", O_WRONLY | O_APPEND) as i32;
    assert_eq!(sys!(SYS_copy_file_range, from, &mut 0i64, append, 0, 1, 0), Err(EBADF));
    assert_eq!(sys!(SYS_copy_file_range, append, 0, from, 0, 1, 0), Err(EBADF));
}

fn splicing() {
    let (from, bytes) = filled(c"from", 100_000);
    let to = file(c"to");
    let [r, w] = new_pipe();
    assert_eq!(sys!(SYS_splice, from, 0, to, 0, 10, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_splice, r, 0, w, 0, 10, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_splice, from, 0, w, 0, 10, 64), Err(EINVAL));
    assert_eq!(sys!(SYS_splice, from, 0, w, &mut 0i64, 10, 0), Err(ESPIPE));
    assert_eq!(sys!(SYS_splice, w, 0, to, 0, 10, 0), Err(EBADF));
    assert_eq!(ok!(SYS_splice, from, 0, w, 0, 3000, 0), 3000);
    let mut offset = 50_000i64;
    assert_eq!(ok!(SYS_splice, from, &mut offset, w, 0, 2000, 0), 2000);
    assert_eq!((at(from), offset), (3000, 52_000));
    assert_eq!(ok!(SYS_splice, r, 0, to, 0, 1000, 0), 1000);
    let mut place = 100i64;
    assert_eq!(ok!(SYS_splice, r, 0, to, &mut place, 1 << 20, 0), 4000);
    assert_eq!((at(to), place), (1000, 4100));
    let all = [&bytes[..3000], &bytes[50_000..52_000]].concat();
    assert_eq!(content("to"), [&all[..100], &all[1000..]].concat());
    // At the end of the file, of the pipe, and when there is nothing yet.
    ok!(SYS_lseek, from, 0, SEEK_END);
    assert_eq!(ok!(SYS_splice, from, 0, w, 0, 10, 0), 0);
    assert_eq!(sys!(SYS_splice, r, 0, to, 0, 10, 2), Err(EAGAIN));
    let append = ok!(SYS_open, c"to", O_WRONLY | O_APPEND) as i32;
    assert_eq!(sys!(SYS_splice, r, 0, append, 0, 10, 2), Err(EINVAL));
    let [other, into] = new_pipe();
    put(w, b"abcdef");
    assert_eq!(ok!(SYS_splice, r, 0, into, 0, 4, 0), 4);
    assert_eq!(get(other, 9), b"abcd");
    ok!(SYS_close, w);
    assert_eq!(ok!(SYS_splice, r, 0, to, 0, 10, 0), 2);
    assert_eq!(ok!(SYS_splice, r, 0, to, 0, 10, 0), 0);
    ok!(SYS_close, other);
    assert_eq!(sys!(SYS_splice, file(c"from"), 0, into, 0, 10, 0), Err(EPIPE));
}

fn splice_waits() {
    let (from, bytes) = filled(c"from", 100_000);
    let [r, w] = new_pipe();
    let [done, tell] = new_pipe();
    // A full pipe makes the mover wait, an empty one too.
    assert_eq!(ok!(SYS_splice, from, 0, w, 0, 65536, 0), 65536);
    let child = spawn(|| {
        put(tell, &ok!(SYS_splice, from, 0, w, 0, 4096, 0).to_le_bytes());
        let [empty, feed] = new_pipe();
        let writer = spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            put(feed, b"xyz");
            0
        });
        let count = ok!(SYS_splice, empty, 0, file(c"to"), 0, 100, 0);
        reap(writer);
        i32::from(count != 3)
    });
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut ready = pollfd { fd: done, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut ready, 1, 0), 0);
    assert_eq!(get(r, 65536), &bytes[..65536]);
    assert_eq!(get(done, 8), 4096i64.to_le_bytes());
    assert_eq!(reap(child), exited(0));
    assert_eq!(content("to"), b"xyz");
}

fn teeing() {
    let ([r, w], [r2, w2]) = (new_pipe(), new_pipe());
    put(w, b"abcdef");
    assert_eq!(ok!(SYS_tee, r, w2, 4, 0), 4);
    assert_eq!(get(r2, 9), b"abcd");
    assert_eq!(ok!(SYS_tee, r, w2, 100, 0), 6);
    assert_eq!(get(r, 9), b"abcdef");
    assert_eq!(sys!(SYS_tee, r, w2, 4, 2), Err(EAGAIN));
    assert_eq!(sys!(SYS_tee, r, w, 4, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_tee, file(c"f"), w2, 4, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_tee, w, w2, 4, 0), Err(EBADF));
    ok!(SYS_close, w);
    assert_eq!(ok!(SYS_tee, r, w2, 4, 0), 0);
}

fn from_memory() {
    let [r, w] = new_pipe();
    let (one, two) = (*b"abc", *b"defgh");
    let vectors =
        [iovec { iov_base: one.as_ptr() as *mut _, iov_len: 3 }, iovec { iov_base: two.as_ptr() as *mut _, iov_len: 5 }];
    assert_eq!(ok!(SYS_vmsplice, w, vectors.as_ptr(), 2, 0), 8);
    assert_eq!(get(r, 9), b"abcdefgh");
    assert_eq!(sys!(SYS_vmsplice, w, vectors.as_ptr(), 2, 64), Err(EINVAL));
    assert_eq!(sys!(SYS_vmsplice, w, vectors.as_ptr(), 2000, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_vmsplice, file(c"f"), vectors.as_ptr(), 2, 0), Err(EBADF));
    // The other way.
    put(w, b"12345");
    let (mut a, mut b) = ([0u8; 2], [0u8; 9]);
    let vectors = [iovec { iov_base: a.as_mut_ptr().cast(), iov_len: 2 }, iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 9 }];
    assert_eq!(ok!(SYS_vmsplice, r, vectors.as_ptr(), 2, 0), 5);
    assert_eq!((&a, &b[..4]), (b"12", &b"345\0"[..]));
    assert_eq!(sys!(SYS_vmsplice, r, vectors.as_ptr(), 2, 2), Err(EAGAIN));
}

fn vectors() {
    let (fd, _) = filled(c"f", 10);
    let mut bytes = [0u8; 4];
    let vector = [iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 4 }];
    assert_eq!(ok!(SYS_preadv2, fd, vector.as_ptr(), 1, 2, 0, 0), 4);
    assert_eq!(at(fd), 0);
    // -1: the position.
    assert_eq!(ok!(SYS_preadv2, fd, vector.as_ptr(), 1, -1i64, 0, 0), 4);
    assert_eq!(at(fd), 4);
    assert_eq!(sys!(SYS_preadv2, fd, vector.as_ptr(), 1, -2i64, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_preadv2, fd, vector.as_ptr(), 1, 0, 0, 1 << 20), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_preadv2, new_pipe()[0], vector.as_ptr(), 1, 0, 0, 0), Err(ESPIPE));
    // RWF_APPEND, RWF_DSYNC
    assert_eq!(ok!(SYS_pwritev2, fd, vector.as_ptr(), 1, 0, 0, 0x10 | 0x2), 4);
    assert_eq!(content("f").len(), 14);
    assert_eq!(at(fd), 4);
    let [r, w] = new_pipe();
    put(w, b"abcd");
    assert_eq!(ok!(SYS_preadv2, r, vector.as_ptr(), 1, -1i64, 0, 0), 4);
    // RWF_NOWAIT
    assert_eq!(sys!(SYS_preadv2, r, vector.as_ptr(), 1, -1i64, 0, 8), Err(EAGAIN));
}

fn size_limit() {
    static SEEN: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
    extern "C" fn count(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    let seen = || SEEN.swap(0, std::sync::atomic::Ordering::SeqCst);
    let fd = file(c"f");
    let (from, _) = filled(c"from", 3000);
    handle(SIGXFSZ, count, 0);
    let limit = rlimit { rlim_cur: 1000, rlim_max: RLIM_INFINITY };
    unsafe { setrlimit(RLIMIT_FSIZE, &limit) };
    assert_eq!(put(fd, &[1; 1500]), 1000);
    assert_eq!(seen(), 0);
    assert_eq!(sys!(SYS_write, fd, &[1u8; 1][..], 1), Err(EFBIG));
    assert_eq!(seen(), 1);
    assert_eq!(sys!(SYS_write, fd, &[1u8; 1][..], 0), Ok(0));
    assert_eq!(ok!(SYS_pwrite64, fd, &[1u8; 10][..], 10, 995), 5);
    assert_eq!(sys!(SYS_ftruncate, fd, 1001), Err(EFBIG));
    assert_eq!(sys!(SYS_truncate, c"f", 1001), Err(EFBIG));
    assert_eq!(sys!(SYS_fallocate, fd, 0, 500, 501), Err(EFBIG));
    assert_eq!(seen(), 3);
    ok!(SYS_ftruncate, fd, 900);
    let append = ok!(SYS_open, c"f", O_WRONLY | O_APPEND) as i32;
    assert_eq!(put(append, &[1; 500]), 100);
    assert_eq!(sys!(SYS_write, append, &[1u8; 1][..], 1), Err(EFBIG));
    assert_eq!(seen(), 1);
    ok!(SYS_lseek, fd, 500, SEEK_SET);
    assert_eq!(ok!(SYS_sendfile, fd, from, 0, 3000), 500);
    // Pipes have no size.
    assert_eq!(put(new_pipe()[1], &[1; 2000]), 2000);
}

fn allocate() {
    let fd = file(c"f");
    assert_eq!(sys!(SYS_fallocate, fd, 0, -1i64, 10), Err(EINVAL));
    assert_eq!(sys!(SYS_fallocate, fd, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_fallocate, fd, 0, i64::MAX, 1), Err(EFBIG));
    assert_eq!(sys!(SYS_fallocate, fd, 0x1000, 0, 1), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE, 0, 1), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_fallocate, new_pipe()[1], 0, 0, 1), Err(ESPIPE));
    assert_eq!(sys!(SYS_fallocate, ok!(SYS_open, c"f", O_RDONLY), 0, 0, 1), Err(EBADF));
    assert_eq!(sys!(SYS_fallocate, ok!(SYS_open, c"/dev/null", O_RDWR), 0, 0, 1), Err(ENODEV));
    ok!(SYS_fallocate, fd, 0, 0, 10_000);
    let size = |fd| ok!(SYS_lseek, fd, 0, SEEK_END);
    assert_eq!(size(fd), 10_000);
    ok!(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, 10_000, 10_000);
    assert_eq!(size(fd), 10_000);
    ok!(SYS_pwrite64, fd, &[7u8; 10_000][..], 10_000, 0);
    ok!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4000, 4500);
    assert_eq!(content("f"), [&[7; 4000][..], &[0; 4500], &[7; 1500]].concat());
}

fn sparse() {
    let fd = file(c"f");
    ok!(SYS_pwrite64, fd, &[1u8; 10][..], 10, 1 << 20);
    ok!(SYS_ftruncate, fd, 4 << 20);
    let seek = |at: i64, whence: i32| sys!(SYS_lseek, fd, at, whence);
    assert_eq!(seek(0, SEEK_DATA), Ok(1 << 20));
    assert_eq!(seek(0, SEEK_HOLE), Ok(0));
    assert_eq!(seek(1 << 20, SEEK_HOLE), Ok((1 << 20) + 4096));
    assert_eq!(seek((1 << 20) + 4096, SEEK_DATA), Err(ENXIO));
    assert_eq!(seek((2 << 20) + 1, SEEK_HOLE), Ok((2 << 20) + 1));
    assert_eq!(seek(4 << 20, SEEK_HOLE), Err(ENXIO));
    assert_eq!(seek(-1, SEEK_DATA), Err(ENXIO));
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fstat, fd, &mut stat);
    assert_eq!((stat.st_size, stat.st_blocks), (4 << 20, 8));
}

fn advice() {
    let fd = file(c"f");
    put(fd, b"abc");
    ok!(SYS_readahead, fd, 0, 4096);
    assert_eq!(sys!(SYS_readahead, -1, 0, 1), Err(EBADF));
    assert_eq!(sys!(SYS_readahead, new_pipe()[0], 0, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_readahead, ok!(SYS_open, c"f", O_WRONLY), 0, 1), Err(EBADF));
    ok!(SYS_sync_file_range, fd, 0, 0, 7);
    assert_eq!(sys!(SYS_sync_file_range, fd, 0, 0, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_sync_file_range, fd, -1i64, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_sync_file_range, new_pipe()[1], 0, 0, 0), Err(ESPIPE));
    ok!(SYS_fadvise64, fd, 0, 0, POSIX_FADV_WILLNEED);
    assert_eq!(sys!(SYS_fadvise64, fd, 0, 0, 99), Err(EINVAL));
    assert_eq!(sys!(SYS_fadvise64, fd, 0, -1i64, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_fadvise64, new_pipe()[1], 0, 0, 0), Err(ESPIPE));
    ok!(SYS_syncfs, fd);
    assert_eq!(sys!(SYS_syncfs, -1), Err(EBADF));
    ok!(SYS_sync);
}

/// Two open file descriptions that append don't overwrite each other.
fn append_together() {
    let open = || ok!(SYS_open, c"f", O_WRONLY | O_CREAT | O_APPEND, 0o600) as i32;
    let children: Vec<_> = (0..2)
        .map(|i| {
            spawn(|| {
                let fd = open();
                for _ in 0..200 {
                    put(fd, &[b'a' + i; 10]);
                }
                0
            })
        })
        .collect();
    children.into_iter().for_each(|child| assert_eq!(reap(child), exited(0)));
    let all = content("f");
    assert_eq!(all.len(), 4000);
    assert!(all.chunks(10).all(|chunk| chunk.iter().all(|byte| *byte == chunk[0])));
    assert_eq!(all.iter().filter(|byte| **byte == b'a').count(), 2000);
    // The offset of pwrite(2) counts for nothing (BUGS).
    assert_eq!(ok!(SYS_pwrite64, open(), &b"end"[..], 3, 0), 3);
    assert!(content("f").ends_with(b"end"));
}

/// What lies before the end of memory is transferred, and nothing is when nothing does.
fn half() {
    let (fd, bytes) = filled(c"f", 8000);
    let page = memory(8192);
    ok!(SYS_munmap, page.wrapping_add(4096), 4096);
    let edge = page.wrapping_add(4000);
    assert_eq!(ok!(SYS_read, fd, edge, 4096), 96);
    assert_eq!(at(fd), 96);
    assert_eq!(unsafe { std::slice::from_raw_parts(edge, 96) }, &bytes[..96]);
    assert_eq!(sys!(SYS_read, fd, page.wrapping_add(4096), 1), Err(EFAULT));
    assert_eq!(ok!(SYS_pwrite64, fd, edge, 4096, 7000), 96);
    assert_eq!(sys!(SYS_pwrite64, fd, page.wrapping_add(4096), 1, 0), Err(EFAULT));
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_END), 8000);
    let vectors = [
        iovec { iov_base: page.cast(), iov_len: 10 },
        iovec { iov_base: page.wrapping_add(4096).cast(), iov_len: 10 },
        iovec { iov_base: page.cast(), iov_len: 10 },
    ];
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(ok!(SYS_readv, fd, vectors.as_ptr(), 3), 10);
    assert_eq!(ok!(SYS_writev, fd, vectors.as_ptr(), 3), 10);
    // A vector that can't be is refused as a whole.
    let beyond = [vectors[0], iovec { iov_base: (1usize << 48) as *mut _, iov_len: 10 }];
    assert_eq!(sys!(SYS_readv, fd, beyond.as_ptr(), 2), Err(EFAULT));
    let [r, w] = new_pipe();
    assert_eq!(sys!(SYS_write, w, edge, 4096), Err(EFAULT));
    put(w, b"0123456789");
    assert_eq!(sys!(SYS_read, r, page.wrapping_add(4091), 10), Err(EFAULT));
}
