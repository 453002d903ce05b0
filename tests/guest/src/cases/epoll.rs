//! epoll(7), eventfd(2).

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "eventfd", calls: "eventfd eventfd2", run: eventfds },
    Case { name: "epoll", calls: "epoll_create epoll_create1 epoll_ctl epoll_wait", run: epolls },
    Case { name: "epoll-edge", calls: "epoll_ctl epoll_wait", run: edge },
    Case { name: "epoll-oneshot", calls: "epoll_ctl epoll_wait", run: oneshot },
    Case { name: "epoll-nested", calls: "epoll_ctl epoll_wait", run: nested },
    Case { name: "epoll-waits", calls: "epoll_wait epoll_pwait epoll_pwait2", run: waits },
    Case { name: "epoll-close", calls: "epoll_ctl close", run: closing },
];

fn eventfds() {
    let fd = ok!(SYS_eventfd, 3) as i32;
    assert_eq!(get(fd, 8), 3u64.to_le_bytes());
    put(fd, &5u64.to_le_bytes());
    put(fd, &6u64.to_le_bytes());
    assert_eq!(get(fd, 16), 11u64.to_le_bytes());
    assert_eq!(sys!(SYS_read, fd, &mut [0u8; 4], 4), Err(EINVAL));
    assert_eq!(sys!(SYS_write, fd, u64::MAX.to_le_bytes().as_slice(), 8), Err(EINVAL));
    let fd = ok!(SYS_eventfd2, 2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC) as i32;
    assert_eq!((get(fd, 8), get(fd, 8)), (1u64.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()));
    assert_eq!(sys!(SYS_read, fd, &mut [0u8; 8], 8), Err(EAGAIN));
    put(fd, &(u64::MAX - 1).to_le_bytes());
    assert_eq!(sys!(SYS_write, fd, 1u64.to_le_bytes().as_slice(), 8), Err(EAGAIN));
    assert_eq!(sys!(SYS_eventfd2, 0, 2), Err(EINVAL));
}

fn control(epoll: i32, op: i32, fd: i32, events: i32) -> Result<i64, i32> {
    let mut event = epoll_event { events: events as u32, u64: fd as u64 };
    sys!(SYS_epoll_ctl, epoll, op, fd, &mut event)
}

fn collect(epoll: i32, timeout: i32) -> Vec<(i32, u64)> {
    let mut events = [epoll_event { events: 0, u64: 0 }; 8];
    let count = ok!(SYS_epoll_wait, epoll, events.as_mut_ptr(), 8, timeout) as usize;
    events[..count].iter().map(|event| (event.events as i32, event.u64)).collect()
}

fn epolls() {
    assert_eq!(sys!(SYS_epoll_create, 0), Err(EINVAL));
    ok!(SYS_epoll_create, 1);
    assert_eq!(sys!(SYS_epoll_create1, 1), Err(EINVAL));
    let epoll = ok!(SYS_epoll_create1, EPOLL_CLOEXEC) as i32;
    let [r, w] = new_pipe();
    assert_eq!(control(epoll, EPOLL_CTL_ADD, r, EPOLLIN), Ok(0));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, r, EPOLLIN), Err(EEXIST));
    assert_eq!(control(epoll, EPOLL_CTL_MOD, w, EPOLLIN), Err(ENOENT));
    assert_eq!(control(epoll, EPOLL_CTL_DEL, w, EPOLLIN), Err(ENOENT));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN), Err(EINVAL));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, 999, EPOLLIN), Err(EBADF));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, file(c"f"), EPOLLIN), Err(EPERM));
    assert_eq!(control(r, EPOLL_CTL_ADD, w, EPOLLIN), Err(EINVAL));
    assert_eq!(control(epoll, 9, w, EPOLLIN), Err(EINVAL));
    assert_eq!(sys!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, w, 8), Err(EFAULT));
    assert_eq!(collect(epoll, 0), []);
    put(w, b"x");
    assert_eq!(collect(epoll, -1), [(EPOLLIN, r as u64)]);
    assert_eq!(collect(epoll, 0), [(EPOLLIN, r as u64)]);
    assert_eq!(control(epoll, EPOLL_CTL_MOD, r, EPOLLOUT), Ok(0));
    assert_eq!(collect(epoll, 0), []);
    assert_eq!(control(epoll, EPOLL_CTL_ADD, w, EPOLLOUT), Ok(0));
    assert_eq!(collect(epoll, 0), [(EPOLLOUT, w as u64)]);
    assert_eq!(control(epoll, EPOLL_CTL_DEL, w, 0), Ok(0));
    ok!(SYS_close, w);
    assert_eq!(collect(epoll, 0), [(EPOLLHUP, r as u64)]);
    assert_eq!(sys!(SYS_epoll_wait, epoll, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_epoll_wait, r, 0, 1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_epoll_wait, epoll, 8, 1, 0), Err(EFAULT));
}

fn edge() {
    let epoll = ok!(SYS_epoll_create1, 0) as i32;
    let [r, w] = new_pipe();
    put(w, b"x");
    assert_eq!(control(epoll, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLET), Ok(0));
    assert_eq!(collect(epoll, 0).len(), 1);
    assert_eq!(collect(epoll, 0).len(), 0);
    put(w, b"x");
    assert_eq!(collect(epoll, 0).len(), 1);
    assert_eq!(control(epoll, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLET), Ok(0));
    assert_eq!(collect(epoll, 0).len(), 1);
    get(r, 10);
    assert_eq!(collect(epoll, 0).len(), 0);
}

fn oneshot() {
    let epoll = ok!(SYS_epoll_create1, 0) as i32;
    let [r, w] = new_pipe();
    put(w, b"x");
    assert_eq!(control(epoll, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLONESHOT), Ok(0));
    assert_eq!(collect(epoll, 0).len(), 1);
    put(w, b"x");
    assert_eq!(collect(epoll, 0).len(), 0);
    ok!(SYS_close, w);
    assert_eq!(collect(epoll, 0).len(), 0);
    assert_eq!(control(epoll, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLONESHOT), Ok(0));
    assert_eq!(collect(epoll, 0), [(EPOLLIN | EPOLLHUP, r as u64)]);
}

fn nested() {
    let (outer, inner) = (ok!(SYS_epoll_create1, 0) as i32, ok!(SYS_epoll_create1, 0) as i32);
    let [r, w] = new_pipe();
    assert_eq!(control(inner, EPOLL_CTL_ADD, r, EPOLLIN), Ok(0));
    assert_eq!(control(outer, EPOLL_CTL_ADD, inner, EPOLLIN), Ok(0));
    assert_eq!(control(inner, EPOLL_CTL_ADD, outer, EPOLLIN), Err(ELOOP));
    assert_eq!(collect(outer, 0), []);
    put(w, b"x");
    assert_eq!(collect(outer, -1), [(EPOLLIN, inner as u64)]);
    let mut one = pollfd { fd: outer, events: POLLIN, revents: 0 };
    assert_eq!(ok!(SYS_poll, &mut one, 1, 0), 1);
}

fn waits() {
    let epoll = ok!(SYS_epoll_create1, 0) as i32;
    let [r, w] = new_pipe();
    assert_eq!(control(epoll, EPOLL_CTL_ADD, r, EPOLLIN), Ok(0));
    let start = now();
    assert_eq!(collect(epoll, 20), []);
    assert!(now() - start >= 20_000_000);
    let mut event = epoll_event { events: 0, u64: 0 };
    assert_eq!(ok!(SYS_epoll_pwait2, epoll, &mut event, 1, &mut ns(1_000_000), 0, 8), 0);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        put(w, b"x");
    });
    assert_eq!(collect(epoll, 10_000), [(EPOLLIN, r as u64)]);
    thread.join().unwrap();
    get(r, 1);
    // A signal ends the wait, with the mask of the call.
    extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
    handle(SIGUSR1, nothing, SA_RESTART);
    let mut set = 1u64 << (SIGUSR1 - 1);
    ok!(SYS_rt_sigprocmask, SIG_BLOCK, &mut set, 0, 8);
    unsafe { raise(SIGUSR1) };
    assert_eq!(ok!(SYS_epoll_pwait, epoll, &mut event, 1, 5, 0, 8), 0);
    assert_eq!(sys!(SYS_epoll_pwait, epoll, &mut event, 1, 5000, &mut 0u64, 8), Err(EINTR));
    assert_eq!(sys!(SYS_epoll_pwait, epoll, &mut event, 1, 0, &mut 0u64, 4), Err(EINVAL));
}

fn closing() {
    let epoll = ok!(SYS_epoll_create1, 0) as i32;
    let [r, w] = new_pipe();
    let copy = ok!(SYS_dup, r) as i32;
    assert_eq!(control(epoll, EPOLL_CTL_ADD, r, EPOLLIN), Ok(0));
    put(w, b"x");
    // The open file lives on through its copy, and is still reported.
    ok!(SYS_close, r);
    assert_eq!(collect(epoll, 0).len(), 1);
    ok!(SYS_close, copy);
    assert_eq!(collect(epoll, 0).len(), 0);
}
