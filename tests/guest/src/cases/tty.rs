//! Pseudoterminals: /dev/ptmx, /dev/pts, /dev/tty.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "pty", calls: "openat ioctl", run: pair },
    Case { name: "pty-job", calls: "openat ioctl setsid", run: job },
    Case { name: "pty-errors", calls: "openat ioctl", run: errors },
];

const TIOCGPTPEER: u64 = 0x5441;

fn master() -> i32 {
    ok!(SYS_openat, AT_FDCWD, c"/dev/ptmx".as_ptr(), O_RDWR | O_NOCTTY, 0) as i32
}

/// A new terminal, unlocked: master and slave.
fn open() -> (i32, i32) {
    let master = master();
    let unlocked = 0i32;
    ok!(SYS_ioctl, master, TIOCSPTLCK, &raw const unlocked);
    let slave = ok!(SYS_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    (master, slave as i32)
}

fn pair() {
    let (master, slave) = open();
    let mut number = -1i32;
    ok!(SYS_ioctl, master, TIOCGPTN, &raw mut number);
    // Its name, by the descriptor and in the directory.
    let name = format!("/dev/pts/{number}");
    assert_eq!(std::fs::read_link(format!("/proc/self/fd/{slave}")).unwrap().to_str(), Some(name.as_str()));
    let other = std::fs::OpenOptions::new().read(true).write(true).open(&name).unwrap();
    drop(other);
    // A line is edited before it is read, and shown with what is typed.
    put(master, b"cay\x7ft\n");
    assert_eq!(get(slave, 256), b"cat\n");
    assert_eq!(get(master, 256), b"cay\x08 \x08t\r\n");
    put(slave, b"out\n");
    assert_eq!(get(master, 256), b"out\r\n");
    // End of file is nothing to read.
    put(master, &[4]);
    assert_eq!(get(slave, 256), b"");
    let size = winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    ok!(SYS_ioctl, master, TIOCSWINSZ, &raw const size);
    let mut seen: winsize = unsafe { std::mem::zeroed() };
    ok!(SYS_ioctl, slave, TIOCGWINSZ, &raw mut seen);
    assert_eq!((seen.ws_row, seen.ws_col), (24, 80));
    // Without the other end: gone, and the name with it.
    ok!(SYS_close, master);
    assert_eq!(get(slave, 256), b"");
    assert_eq!(sys!(SYS_write, slave, b"x".as_ptr(), 1), Err(EIO));
    assert!(std::fs::metadata(&name).is_err());
    ok!(SYS_close, slave);
}

/// In a session of its own: the terminal is /dev/tty, Ctrl-C interrupts, and hangup ends.
fn job() {
    let (master, slave) = open();
    let child = spawn(|| {
        ok!(SYS_setsid);
        assert_eq!(sys!(SYS_openat, AT_FDCWD, c"/dev/tty".as_ptr(), O_RDWR, 0), Err(ENXIO));
        ok!(SYS_ioctl, slave, TIOCSCTTY, 0);
        let tty = ok!(SYS_openat, AT_FDCWD, c"/dev/tty".as_ptr(), O_RDWR, 0) as i32;
        let mut group = 0i32;
        ok!(SYS_ioctl, tty, TIOCGPGRP, &raw mut group);
        assert_eq!(i64::from(group), ok!(SYS_getpid));
        ok!(SYS_close, master);
        put(tty, b"ready");
        loop {
            ok!(SYS_pause);
        }
    });
    assert_eq!(get(master, 256), b"ready");
    put(master, &[3]);
    assert_eq!(reap(child), SIGINT);
    assert_eq!(get(master, 256), b"^C");
    ok!(SYS_close, slave);
    ok!(SYS_close, master);
}

fn errors() {
    let master = master();
    let mut number = -1i32;
    ok!(SYS_ioctl, master, TIOCGPTN, &raw mut number);
    let name = std::ffi::CString::new(format!("/dev/pts/{number}")).unwrap();
    // Locked until somebody says otherwise.
    assert_eq!(sys!(SYS_openat, AT_FDCWD, name.as_ptr(), O_RDWR | O_NOCTTY, 0), Err(EIO));
    assert_eq!(sys!(SYS_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY), Err(EIO));
    ok!(SYS_close, master);
    assert_eq!(sys!(SYS_openat, AT_FDCWD, name.as_ptr(), O_RDWR | O_NOCTTY, 0), Err(ENOENT));
    let null = ok!(SYS_openat, AT_FDCWD, c"/dev/null".as_ptr(), O_RDWR, 0);
    assert_eq!(sys!(SYS_ioctl, null, TIOCGPTPEER, O_RDWR), Err(ENOTTY));
    ok!(SYS_close, null);
}
