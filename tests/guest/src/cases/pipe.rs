//! Pipes: sizes, packets, and what is written as a whole.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "pipe-size", calls: "fcntl pipe2", run: size },
    Case { name: "pipe-packets", calls: "pipe2 fcntl", run: packets },
    Case { name: "pipe-bytes", calls: "pipe2 read write", run: bytes },
];

fn write_some(fd: i32, bytes: &[u8]) -> Result<i64, i32> {
    sys!(SYS_write, fd, bytes, bytes.len())
}

fn nonblocking(flags: i32) -> [i32; 2] {
    let mut fds = [0; 2];
    ok!(SYS_pipe2, fds.as_mut_ptr(), O_NONBLOCK | flags);
    fds
}

fn size() {
    let [read, write] = nonblocking(0);
    assert_eq!(ok!(SYS_fcntl, read, F_GETPIPE_SZ), 65536);
    assert_eq!(ok!(SYS_fcntl, write, F_SETPIPE_SZ, 5000), 8192);
    assert_eq!(write_some(write, &[1; 20000]), Ok(8192));
    assert_eq!(write_some(write, &[1]), Err(EAGAIN));
    assert_eq!(sys!(SYS_fcntl, read, F_SETPIPE_SZ, 4096), Err(EBUSY));
    assert_eq!(ok!(SYS_fcntl, read, F_SETPIPE_SZ, 1 << 20), 1 << 20);
    assert_eq!(write_some(write, &vec![2; 2 << 20]), Ok((1 << 20) - 8192));
    assert_eq!(get(read, 8192), [1; 8192]);
    assert_eq!(get(read, 2 << 20), vec![2; (1 << 20) - 8192]);
    assert_eq!(ok!(SYS_fcntl, read, F_SETPIPE_SZ, 0), 4096);
    assert_eq!(sys!(SYS_fcntl, read, F_SETPIPE_SZ, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, file(c"f"), F_GETPIPE_SZ), Err(EBADF));
    let status = in_child(|| {
        assert_eq!(unsafe { setresuid(1000, 1000, 1000) }, 0);
        assert_eq!(sys!(SYS_fcntl, read, F_SETPIPE_SZ, 2 << 20), Err(EPERM));
        0
    });
    assert_eq!(status, 0);
}

fn packets() {
    let [read, write] = nonblocking(O_DIRECT);
    for text in [&b"one"[..], b"two", b"three"] {
        put(write, text);
    }
    assert_eq!(get(read, 100), b"one");
    assert_eq!(get(read, 2), b"tw");
    assert_eq!(get(read, 100), b"three", "what a read has no room for is gone");
    // Long writes are several packets.
    put(write, &[7; 5000]);
    assert_eq!((get(read, 9000).len(), get(read, 9000).len()), (4096, 904));
    ok!(SYS_fcntl, write, F_SETFL, O_NONBLOCK);
    put(write, b"a");
    put(write, b"b");
    assert_eq!(get(read, 100), b"ab");
}

fn bytes() {
    let [read, write] = nonblocking(0);
    // Small writes are all or nothing, large ones what there is room for.
    assert_eq!(write_some(write, &[1; 65000]), Ok(65000));
    assert_eq!(write_some(write, &[2; 4096]), Err(EAGAIN));
    get(read, 65000);
    // Around the end of whatever it is kept in.
    let mut next = (0..=255u8).cycle();
    let mut expected = (0..=255u8).cycle();
    for round in 0..200usize {
        let text: Vec<u8> = next.by_ref().take(3000 + round * 7).collect();
        put(write, &text);
        let mut left = text.len();
        while left > 0 {
            let part = get(read, 1700);
            assert!(part.iter().all(|byte| Some(*byte) == expected.next()), "round {round}");
            left -= part.len();
        }
    }
    assert_eq!(sys!(SYS_read, read, [0u8; 4].as_mut_ptr(), 4), Err(EAGAIN));
    assert_eq!(sys!(SYS_write, write, 8, 10), Err(EFAULT));
    put(write, b"x");
    assert_eq!(sys!(SYS_read, read, 8, 10), Err(EFAULT));
    assert_eq!(get(read, 10), b"x", "what couldn't be copied is still there");
}
