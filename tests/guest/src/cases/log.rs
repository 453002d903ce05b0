//! The kernel's log.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "log-text", calls: "syslog", run: text },
    Case { name: "log-records", calls: "", run: records },
    Case { name: "log-unprivileged", calls: "", run: unprivileged },
];

fn text() {
    let size = ok!(SYS_syslog, 10, 0, 0);
    assert!(size >= 4096);
    let mut buf = vec![0u8; 1 << 16];
    let count = ok!(SYS_syslog, 3, buf.as_mut_ptr(), buf.len()) as usize;
    let text = String::from_utf8_lossy(&buf[..count]).into_owned();
    assert!(text.is_empty() || text.starts_with('<') && text.ends_with('\n'), "{text}");
    // Records whole or not at all, the newest first to be kept.
    let half = ok!(SYS_syslog, 3, buf.as_mut_ptr(), count / 2) as usize;
    let tail = &buf[..half];
    assert!(half <= count / 2 && text.as_bytes().ends_with(tail) && (half == 0 || tail[0] == b'<'));
    assert_eq!(ok!(SYS_syslog, 3, buf.as_mut_ptr(), 0), 0);
    assert_eq!(sys!(SYS_syslog, 3, buf.as_mut_ptr(), -1), Err(EINVAL));
    assert_eq!(sys!(SYS_syslog, 3, 0, 10), Err(EINVAL));
    if ok!(SYS_geteuid) != 0 {
        return;
    }
    for action in [0, 1] {
        assert_eq!(ok!(SYS_syslog, action, 0, 0), 0);
    }
    assert!(ok!(SYS_syslog, 9, 0, 0) >= 0);
    for level in [0, 9] {
        assert_eq!(sys!(SYS_syslog, 8, 0, level), Err(EINVAL));
    }
    assert_eq!(sys!(SYS_syslog, 2, 0, 10), Err(EINVAL));
    assert_eq!(sys!(SYS_syslog, 99, 0, 0), Err(EINVAL));
}

fn records() {
    let fd = match sys!(SYS_open, c"/dev/kmsg", O_RDWR | O_NONBLOCK) {
        // A container, or not root.
        Err(ENOENT | EACCES | EPERM) => return,
        fd => fd.unwrap() as i32,
    };
    let mut buf = [0u8; 8192];
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(sys!(SYS_read, fd, &mut buf, 4), Err(EINVAL));
    let count = ok!(SYS_read, fd, &mut buf, buf.len()) as usize;
    let record = std::str::from_utf8(&buf[..count]).unwrap();
    let (head, text) = record.split_once(';').unwrap();
    let fields: Vec<&str> = head.split(',').collect();
    assert!(text.ends_with('\n'), "{record}");
    let [prefix, seq, micros] = [0, 1, 2].map(|at| fields[at].parse::<u64>().unwrap());
    assert!(prefix < 8 && (micros < 1 << 50) && fields[3].len() == 1, "{record}");
    let count = ok!(SYS_read, fd, &mut buf, buf.len()) as usize;
    let second = std::str::from_utf8(&buf[..count]).unwrap();
    assert_eq!(second.split(',').nth(1).unwrap().parse::<u64>().unwrap(), seq + 1);
    // Behind everything there is nothing, until somebody writes.
    ok!(SYS_lseek, fd, 0, SEEK_END);
    let mut poll = pollfd { fd, events: POLLIN, revents: 0 };
    assert_eq!(sys!(SYS_read, fd, &mut buf, buf.len()), Err(EAGAIN));
    assert_eq!(ok!(SYS_poll, &mut poll, 1, 0), 0);
    let line = c"<14>guest case \\ \x01\n";
    assert_eq!(ok!(SYS_write, fd, line, line.count_bytes()), line.count_bytes() as i64);
    assert_eq!((ok!(SYS_poll, &mut poll, 1, 1000), poll.revents), (1, POLLIN));
    let count = ok!(SYS_read, fd, &mut buf, buf.len()) as usize;
    let own = std::str::from_utf8(&buf[..count]).unwrap();
    assert!(own.starts_with("14,") && own.ends_with(";guest case \\x5c \\x01\n"), "{own}");
    // Nobody is the kernel.
    ok!(SYS_write, fd, c"<6>x\n", 5);
    let count = ok!(SYS_read, fd, &mut buf, buf.len()) as usize;
    assert!(buf[..count].starts_with(b"14,"));
    assert_eq!(sys!(SYS_write, fd, &mut buf, 2000), Err(EINVAL));
    for whence in [SEEK_SET, SEEK_END] {
        assert_eq!(sys!(SYS_lseek, fd, 1, whence), Err(ESPIPE));
    }
    assert_eq!(sys!(SYS_lseek, fd, 0, SEEK_CUR), Err(EINVAL));
    assert_eq!(sys!(SYS_pread64, fd, &mut buf, 100, 7), Err(EAGAIN));
    ok!(SYS_lseek, fd, 0, SEEK_DATA);
    ok!(SYS_close, fd);
}

fn unprivileged() {
    if ok!(SYS_geteuid) != 0 {
        return;
    }
    let restricted = std::fs::read_to_string("/proc/sys/kernel/dmesg_restrict").is_ok_and(|text| text.trim() == "1");
    let status = in_child(|| {
        ok!(SYS_setresuid, 1000, 1000, 1000);
        let allowed = sys!(SYS_syslog, 10, 0, 0).is_ok() != restricted;
        let denied = [0, 1, 2, 4, 5, 6, 7, 8, 9, 99].into_iter().all(|action| sys!(SYS_syslog, action, 0, 0) == Err(EPERM));
        i32::from(!(allowed && denied))
    });
    assert_eq!(status, 0);
}
