//! POSIX message queues.

use std::ffi::CString;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "mqueue", calls: "mq_open mq_unlink mq_timedsend mq_timedreceive mq_getsetattr", run: queue },
    Case { name: "mqueue-waits", calls: "mq_timedsend mq_timedreceive", run: waits },
    Case { name: "mqueue-notifies", calls: "mq_notify", run: notifies },
    Case { name: "mqueue-access", calls: "mq_open mq_unlink", run: access },
];

fn name(what: &str) -> CString {
    CString::new(format!("{what}-{}", unsafe { getpid() })).unwrap()
}

/// A queue for `most` messages of 16 bytes.
fn make(name: &CString, most: i64, flags: i32) -> i32 {
    let mut attr = [0i64, most, 16, 0, 0, 0, 0, 0];
    ok!(SYS_mq_open, name.as_c_str(), O_CREAT | O_RDWR | flags, 0o600, attr.as_mut_ptr()) as i32
}

fn send(fd: i32, text: &[u8], priority: u32) -> Result<i64, i32> {
    sys!(SYS_mq_timedsend, fd, text, text.len(), priority, 0)
}

fn receive(fd: i32) -> Result<(Vec<u8>, u32), i32> {
    let (mut text, mut priority) = ([0u8; 16], 0u32);
    let len = sys!(SYS_mq_timedreceive, fd, text.as_mut_ptr(), 16, &mut priority, 0)?;
    Ok((text[..len as usize].to_vec(), priority))
}

fn nap() {
    std::thread::sleep(std::time::Duration::from_millis(30));
}

fn queue() {
    let q = name("q");
    assert_eq!(sys!(SYS_mq_open, q.as_c_str(), O_RDWR, 0, 0), Err(ENOENT));
    let fd = make(&q, 3, O_NONBLOCK);
    assert_eq!(sys!(SYS_mq_open, q.as_c_str(), O_CREAT | O_EXCL | O_RDWR, 0o600, 0), Err(EEXIST));
    for (text, priority) in [(&b"low"[..], 1), (b"high", 9), (b"high too", 9)] {
        send(fd, text, priority).unwrap();
    }
    assert_eq!(send(fd, b"x", 1), Err(EAGAIN));
    assert_eq!(send(fd, &[0; 17], 1), Err(EMSGSIZE));
    assert_eq!(send(fd, b"x", 32768), Err(EINVAL));
    assert_eq!(sys!(SYS_mq_timedreceive, fd, [0u8; 16].as_mut_ptr(), 15, 0, 0), Err(EMSGSIZE));
    let mut attr = [0i64; 8];
    ok!(SYS_mq_getsetattr, fd, 0, attr.as_mut_ptr());
    assert_eq!(attr[..4], [i64::from(O_NONBLOCK), 3, 16, 3]);
    let mut poll = pollfd { fd, events: POLLIN | POLLOUT, revents: 0 };
    assert_eq!((unsafe { libc::poll(&mut poll, 1, 0) }, poll.revents), (1, POLLIN));
    assert!(get(fd, 80).starts_with(b"QSIZE:15 "), "what is in it, as a text");
    assert_eq!(receive(fd), Ok((b"high".to_vec(), 9)));
    assert_eq!(receive(fd), Ok((b"high too".to_vec(), 9)));
    assert_eq!(receive(fd), Ok((b"low".to_vec(), 1)));
    assert_eq!(receive(fd), Err(EAGAIN));
    ok!(SYS_mq_getsetattr, fd, [0i64; 8].as_mut_ptr(), 0);
    assert_eq!(sys!(SYS_mq_getsetattr, fd, [1i64; 8].as_mut_ptr(), 0), Err(EINVAL));
    ok!(SYS_mq_unlink, q.as_c_str());
    assert_eq!(sys!(SYS_mq_unlink, q.as_c_str()), Err(ENOENT));
    send(fd, b"still there", 0).unwrap();
    assert_eq!(receive(fd), Ok((b"still there".to_vec(), 0)));
    assert_eq!(sys!(SYS_mq_timedsend, new_pipe()[1], 0, 0, 0, 0), Err(EBADF));
    for bad in [[0i64, 0, 16], [0, 3, 0], [0, 1 << 40, 16]] {
        let mut attr = [0i64; 8];
        attr[..3].copy_from_slice(&bad);
        assert_eq!(sys!(SYS_mq_open, q.as_c_str(), O_CREAT | O_RDWR, 0o600, attr.as_mut_ptr()), Err(EINVAL));
    }
    assert_eq!(sys!(SYS_mq_open, c"a/b", O_CREAT | O_RDWR, 0o600, 0), Err(EACCES));
    assert_eq!(sys!(SYS_mq_open, c"", O_CREAT | O_RDWR, 0o600, 0), Err(ENOENT));
}

fn waits() {
    let q = name("w");
    let fd = make(&q, 1, 0);
    ok!(SYS_mq_unlink, q.as_c_str());
    let mut past = ns(1);
    assert_eq!(sys!(SYS_mq_timedreceive, fd, [0u8; 16].as_mut_ptr(), 16, 0, &mut past), Err(ETIMEDOUT));
    let reader = spawn(|| i32::from(receive(fd) != Ok((b"x".to_vec(), 3))));
    nap();
    send(fd, b"x", 3).unwrap();
    assert_eq!(reap(reader), 0);
    send(fd, b"y", 0).unwrap();
    assert_eq!(sys!(SYS_mq_timedsend, fd, &b"z"[..], 1, 0, &mut past), Err(ETIMEDOUT));
    let writer = spawn(|| send(fd, b"z", 0).is_err().into());
    nap();
    assert_eq!(receive(fd), Ok((b"y".to_vec(), 0)));
    assert_eq!(reap(writer), 0);
    assert_eq!(receive(fd), Ok((b"z".to_vec(), 0)));
}

fn notifies() {
    static SEEN: AtomicI64 = AtomicI64::new(0);
    extern "C" fn told(_: i32, info: *mut siginfo_t, _: *mut c_void) {
        let info = unsafe { &*info };
        assert_eq!(info.si_code, SI_MESGQ);
        SEEN.fetch_add(unsafe { info.si_value().sival_ptr } as i64, SeqCst);
    }
    handle(SIGUSR1, told, 0);
    let q = name("n");
    let fd = make(&q, 3, 0);
    ok!(SYS_mq_unlink, q.as_c_str());
    let mut event: sigevent = unsafe { std::mem::zeroed() };
    (event.sigev_notify, event.sigev_signo, event.sigev_value.sival_ptr) = (SIGEV_SIGNAL, SIGUSR1, 7 as *mut c_void);
    ok!(SYS_mq_notify, fd, &mut event);
    assert_eq!(sys!(SYS_mq_notify, fd, &mut event), Err(EBUSY));
    send(fd, b"x", 0).unwrap();
    send(fd, b"y", 0).unwrap();
    assert_eq!(SEEN.load(SeqCst), 7, "once, by the first message");
    // Registered anew, it isn't told while there is something in the queue.
    ok!(SYS_mq_notify, fd, &mut event);
    send(fd, b"z", 0).unwrap();
    for _ in 0..3 {
        receive(fd).unwrap();
    }
    send(fd, b"x", 0).unwrap();
    assert_eq!(SEEN.load(SeqCst), 14);
    ok!(SYS_mq_notify, fd, &mut event);
    ok!(SYS_mq_notify, fd, 0);
    receive(fd).unwrap();
    send(fd, b"x", 0).unwrap();
    assert_eq!(SEEN.load(SeqCst), 14);
    event.sigev_signo = 99;
    assert_eq!(sys!(SYS_mq_notify, fd, &mut event), Err(EINVAL));
    assert_eq!(sys!(SYS_mq_notify, new_pipe()[0], 0), Err(EBADF));
}

fn access() {
    let q = name("a");
    make(&q, 1, 0);
    let status = in_child(|| {
        assert_eq!(unsafe { setresgid(1000, 1000, 1000) | setgroups(0, std::ptr::null()) | setresuid(1000, 1000, 1000) }, 0);
        assert_eq!(sys!(SYS_mq_open, q.as_c_str(), O_RDONLY, 0, 0), Err(EACCES));
        assert_eq!(sys!(SYS_mq_unlink, q.as_c_str()), Err(EPERM));
        // Without privilege queues are short.
        let mut attr = [0i64, 11, 16, 0, 0, 0, 0, 0];
        assert_eq!(sys!(SYS_mq_open, name("b").as_c_str(), O_CREAT | O_RDWR, 0o600, attr.as_mut_ptr()), Err(EINVAL));
        0
    });
    assert_eq!(status, 0);
    ok!(SYS_mq_unlink, q.as_c_str());
    let reader = ok!(SYS_mq_open, q.as_c_str(), O_CREAT | O_RDONLY, 0o600, 0) as i32;
    assert_eq!(send(reader, b"x", 0), Err(EBADF));
    ok!(SYS_mq_unlink, q.as_c_str());
}
