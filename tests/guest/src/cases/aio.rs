//! Asynchronous input and output.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "aio", calls: "io_setup io_destroy io_submit io_getevents", run: basic },
    Case { name: "aio-ring", calls: "io_submit io_getevents mremap", run: ring },
    Case { name: "aio-errors", calls: "io_setup io_submit io_destroy", run: errors },
    Case { name: "aio-poll", calls: "io_submit io_cancel io_pgetevents", run: polls },
];

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: i32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: i32,
}

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const POLL: u16 = 5;
const PREADV: u16 = 7;

const IO_PGETEVENTS: i64 = 333;

/// data, obj, res, res2
type Event = [i64; 4];

fn setup(count: u32) -> u64 {
    let mut context = 0u64;
    match sys!(SYS_io_setup, count, &mut context) {
        Err(ENOSYS) => skip("no asynchronous I/O here"),
        result => assert_eq!(result, Ok(0)),
    }
    context
}

fn iocb(opcode: u16, fd: i32, bytes: &[u8], offset: i64) -> Iocb {
    Iocb { data: 7, opcode, fd, buf: bytes.as_ptr() as u64, nbytes: bytes.len() as u64, offset, ..Iocb::default() }
}

fn submit(context: u64, requests: &[&Iocb]) -> Result<i64, i32> {
    let pointers: Vec<_> = requests.iter().map(|iocb| std::ptr::from_ref::<Iocb>(iocb)).collect();
    sys!(SYS_io_submit, context, pointers.len(), pointers.as_ptr())
}

fn events(context: u64, min: i64, max: i64, timeout: i64) -> Vec<Event> {
    let mut events = vec![[0i64; 4]; max as usize];
    let count = ok!(SYS_io_getevents, context, min, max, events.as_mut_ptr(), &mut ns(timeout));
    events.truncate(count as usize);
    events
}

fn basic() {
    let context = setup(8);
    let fd = file(c"f");
    let (write, bytes) = (iocb(PWRITE, fd, b"hello", 3), [0u8; 8]);
    assert_eq!(submit(context, &[&write]), Ok(1));
    let [[data, obj, res, res2]] = events(context, 1, 8, 1_000_000_000)[..] else { panic!() };
    assert_eq!((data, obj, res, res2), (7, std::ptr::from_ref(&write) as i64, 5, 0));
    let eventfd = ok!(SYS_eventfd2, 0, EFD_NONBLOCK) as i32;
    let read = Iocb { flags: 1, resfd: eventfd, ..iocb(PREAD, fd, &bytes, 0) };
    let vector = [iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: 2 }];
    let readv = Iocb { buf: vector.as_ptr() as u64, nbytes: 1, ..iocb(PREADV, fd, b"", 4) };
    let bad = iocb(PWRITE, ok!(SYS_dup, fd) as i32, &b"x"[..], 0);
    let bad = Iocb { buf: 8, ..bad };
    let sync = Iocb { buf: 0, ..iocb(FSYNC, fd, b"", 0) };
    assert_eq!(submit(context, &[&read, &readv, &bad, &sync]), Ok(4));
    let mut seen = events(context, 4, 8, 1_000_000_000);
    seen.sort_by_key(|event| event[1] != std::ptr::from_ref(&read) as i64);
    assert_eq!(seen[0][2], 8);
    let mut results: Vec<_> = seen.iter().map(|event| event[2]).collect();
    results.sort_unstable();
    assert_eq!(results, [-i64::from(EFAULT), 0, 2, 8]);
    assert_eq!(get(eventfd, 8), 1u64.to_le_bytes());
    // The vector was read over the start.
    assert_eq!(unsafe { std::ptr::from_ref(&bytes).read_volatile() }, *b"el\0hello");
    assert!(events(context, 1, 8, 1_000_000).is_empty());
    ok!(SYS_io_destroy, context);
    assert_eq!(sys!(SYS_io_destroy, context), Err(EINVAL));
}

/// The ring can be read without a call, and be moved.
fn ring() {
    let context = setup(8);
    let word = |context: u64, i: usize| unsafe { (context as *const u32).add(i).read_volatile() };
    assert_eq!((word(context, 4), word(context, 7)), (0xa10a_10a1, 32));
    let fd = file(c"f");
    let write = iocb(PWRITE, fd, b"hello", 0);
    assert_eq!(submit(context, &[&write, &write]), Ok(2));
    let (head, tail, nr) = (word(context, 2), word(context, 3), word(context, 1));
    assert_eq!((tail + nr - head) % nr, 2);
    // Takes the first by itself.
    let first = unsafe { (context as *const Event).add(1 + head as usize).read_volatile() };
    assert_eq!(first, [7, std::ptr::from_ref(&write) as i64, 5, 0]);
    unsafe { (context as *mut u32).add(2).write_volatile((head + 1) % nr) };
    assert_eq!(events(context, 1, 8, 1_000_000_000).len(), 1);
    let len = (32 + nr as usize * 32).next_multiple_of(4096);
    let place = map(len, PROT_READ, MAP_PRIVATE);
    let moved = ok!(SYS_mremap, context, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, place) as u64;
    assert_eq!(submit(context, &[&write]), Err(EINVAL));
    assert_eq!(submit(moved, &[&write]), Ok(1));
    assert_eq!(events(moved, 1, 8, 1_000_000_000).len(), 1);
    // What can't be read isn't there.
    ok!(SYS_mprotect, moved, 4096, PROT_NONE);
    assert_eq!(submit(moved, &[&write]), Err(EINVAL));
    assert_eq!(sys!(SYS_io_destroy, moved), Err(EINVAL));
}

fn errors() {
    assert_eq!(sys!(SYS_io_setup, 0, &mut 0u64), Err(EINVAL));
    assert_eq!(sys!(SYS_io_setup, 1, &mut 1u64), Err(EINVAL));
    assert_eq!(sys!(SYS_io_setup, 1, 8), Err(EFAULT));
    assert_eq!(sys!(SYS_io_setup, 1_000_000, &mut 0u64), Err(EAGAIN));
    let context = setup(4);
    let fd = file(c"f");
    let good = iocb(PWRITE, fd, b"hello", 0);
    assert_eq!(submit(context + 4096, &[&good]), Err(EINVAL));
    assert_eq!(sys!(SYS_io_submit, context, -1i64, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_io_submit, context, 1, 8), Err(EFAULT));
    assert_eq!(submit(context, &[]), Ok(0));
    assert_eq!(submit(context, &[&Iocb { offset: -1, ..good }]), Err(EINVAL));
    assert_eq!(submit(context, &[&Iocb { reserved: 1, ..good }]), Err(EINVAL));
    assert_eq!(submit(context, &[&Iocb { opcode: 99, ..good }]), Err(EINVAL));
    assert_eq!(submit(context, &[&Iocb { fd: -1, ..good }]), Err(EBADF));
    assert_eq!(submit(context, &[&Iocb { flags: 1, resfd: fd, ..good }]), Err(EINVAL));
    assert_eq!(submit(context, &[&Iocb { flags: 1, resfd: -1, ..good }]), Err(EBADF));
    let readonly = ok!(SYS_open, c"f", O_RDONLY) as i32;
    assert_eq!(submit(context, &[&Iocb { fd: readonly, ..good }]), Err(EBADF));
    // What comes before an error is done.
    assert_eq!(submit(context, &[&good, &Iocb { opcode: 99, ..good }]), Ok(1));
    assert_eq!(events(context, 1, 4, 1_000_000_000).len(), 1);
    assert_eq!(sys!(SYS_io_getevents, context, 2, 1, 8, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_io_getevents, context, -1i64, 1, 8, 0), Err(EINVAL));
    // There is no room for more than the ring holds.
    let mut submitted = 0;
    while submit(context, &[&good]) == Ok(1) {
        submitted += 1;
        assert!(submitted < 100_000);
    }
    assert!(submitted >= 4);
    // A child has none.
    assert_eq!(in_child(|| i32::from(submit(context, &[&good]) != Err(EINVAL))), exited(0));
}

fn polls() {
    let context = setup(4);
    let [r, w] = new_pipe();
    let poll = Iocb { data: 3, opcode: POLL, fd: r, buf: POLLIN as u64, ..Iocb::default() };
    assert_eq!(submit(context, &[&poll]), Ok(1));
    assert!(events(context, 1, 4, 1_000_000).is_empty());
    put(w, b"x");
    let seen = events(context, 1, 4, 1_000_000_000);
    assert_eq!((seen[0][0], seen[0][2] & i64::from(POLLIN)), (3, i64::from(POLLIN)));
    // At once when it is ready already.
    assert_eq!(submit(context, &[&poll]), Ok(1));
    assert_eq!(events(context, 1, 4, 1_000_000_000).len(), 1);
    get(r, 1);
    assert_eq!(submit(context, &[&poll]), Ok(1));
    let mut event = [0i64; 4];
    match sys!(SYS_io_cancel, context, &poll as *const Iocb, &mut event) {
        Err(EINPROGRESS) => {
            let mut found = [0i64; 4];
            let count = ok!(IO_PGETEVENTS, context, 1, 1, &mut found, &mut ns(1_000_000_000), 0);
            assert_eq!((count, found[0]), (1, 3));
        }
        result => panic!("{result:?}"),
    }
    assert_eq!(sys!(SYS_io_cancel, context, &poll as *const Iocb, &mut event), Err(EINVAL));
    // What is destroyed waits no more.
    assert_eq!(submit(context, &[&poll]), Ok(1));
    ok!(SYS_io_destroy, context);
    put(w, b"x");
}
