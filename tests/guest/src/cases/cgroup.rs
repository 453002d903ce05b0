//! Control groups, version 2.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "cgroup-files", calls: "mount mkdir rmdir", run: files },
    Case { name: "cgroup-members", calls: "clone3", run: members },
    Case { name: "cgroup-freeze", calls: "kill", run: freeze },
    Case { name: "cgroup-watched", calls: "inotify_add_watch", run: watched },
    Case { name: "cgroup-xattrs", calls: "setxattr getxattr listxattr removexattr", run: xattrs },
    Case { name: "cgroup-namespace", calls: "unshare", run: namespace },
];

/// Runs a case in a group of its own, in a mount namespace with the tree of groups.
pub fn in_group(run: fn(&Path)) {
    let place = std::env::temp_dir().join(format!("cgroup-case-{}", ok!(SYS_getpid)));
    fs::create_dir(&place).unwrap();
    let at = place.clone();
    let status = in_child(move || {
        let name = std::ffi::CString::new(at.to_str().unwrap()).unwrap();
        let private = sys!(SYS_unshare, CLONE_NEWNS).is_ok()
            && sys!(SYS_mount, 0, c"/", 0, MS_REC | MS_PRIVATE, 0).is_ok()
            && sys!(SYS_mount, c"cgroup", name.as_c_str(), c"cgroup2", 0, 0).is_ok();
        if !private {
            return 77;
        }
        let group = at.join(format!("case-{}", ok!(SYS_getpid)));
        if fs::create_dir(&group).is_err() {
            return 77;
        }
        let status = in_child(|| {
            run(&group);
            0
        });
        let _ = fs::write(group.join("cgroup.kill"), "1");
        let gone = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            fs::remove_dir(&group).is_ok()
        });
        i32::from(status != 0 || !gone)
    });
    fs::remove_dir(&place).unwrap();
    if status == exited(77) {
        skip("needs a tree of control groups");
    }
    assert_eq!(status, 0);
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

fn error<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn files() {
    in_group(|group| {
        assert_eq!(read(group.join("cgroup.type")), "domain\n");
        assert!(read(group.join("cgroup.events")).contains("populated 0"));
        assert_eq!(read(group.join("cgroup.max.depth")), "max\n");
        fs::write(group.join("cgroup.max.depth"), "1").unwrap();
        assert_eq!(error(fs::write(group.join("cgroup.max.depth"), "some")), EINVAL);
        fs::create_dir(group.join("a")).unwrap();
        assert_eq!(error(fs::create_dir(group.join("a/b"))), EAGAIN);
        assert!(read(group.join("cgroup.stat")).starts_with("nr_descendants 1\n"));
        assert_eq!(error(fs::remove_dir(group)), EBUSY);
        assert_eq!(error(fs::write(group.join("file"), "")), EACCES);
        let procs = fs::OpenOptions::new().write(true).open(group.join("a/cgroup.procs")).unwrap();
        fs::remove_dir(group.join("a")).unwrap();
        assert_eq!(sys!(SYS_write, procs.as_raw_fd(), b"0".as_ptr(), 1), Err(ENODEV));
        assert!(read(group.join("cpu.stat")).starts_with("usage_usec"));
    });
}

fn members() {
    in_group(|group| {
        let events = fs::File::open(group.join("cgroup.events")).unwrap();
        // Linux tells of changes a little later.
        let changed = |wait: i32| {
            let mut poll = pollfd { fd: events.as_raw_fd(), events: POLLPRI, revents: 0 };
            let ready = ok!(SYS_poll, &mut poll, 1, wait) == 1;
            let mut text = [0u8; 64];
            ok!(SYS_pread64, events.as_raw_fd(), &mut text, 64, 0);
            ready
        };
        changed(0);
        assert!(!changed(20));
        let dir = fs::File::open(group).unwrap();
        let mut args = [0u64; 11];
        (args[0], args[4], args[10]) = (0x2_0000_0000, SIGCHLD as u64, dir.as_raw_fd() as u64);
        let pid = ok!(SYS_clone3, &mut args, 88) as i32;
        if pid == 0 {
            unsafe { pause() };
        }
        assert_eq!(read(group.join("cgroup.procs")), format!("{pid}\n"));
        assert!(read(format!("/proc/{pid}/cgroup").into()).trim_end().ends_with(group.file_name().unwrap().to_str().unwrap()));
        assert!(changed(2000));
        assert_eq!(error(fs::write(group.join("cgroup.procs"), "x")), EINVAL);
        assert_eq!(error(fs::write(group.join("cgroup.procs"), "99999999")), ESRCH);
        fs::write(group.join("cgroup.kill"), "1").unwrap();
        assert_eq!(reap(pid), SIGKILL);
        assert!(changed(2000));
        assert!(read(group.join("cgroup.events")).contains("populated 0"));
        fs::write(group.join("cgroup.procs"), "0").unwrap();
        assert_eq!(read(group.join("cgroup.procs")), format!("{}\n", ok!(SYS_getpid)));
        fs::write(group.parent().unwrap().join("cgroup.procs"), "0").unwrap();
    });
}

fn freeze() {
    in_group(|group| {
        let [r, w] = new_pipe();
        let pid = spawn(|| {
            loop {
                put(w, b"x");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
        get(r, 1);
        fs::write(group.join("cgroup.freeze"), "1").unwrap();
        let frozen = || read(group.join("cgroup.events")).contains("frozen 1");
        assert!((0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            frozen()
        }));
        std::thread::sleep(std::time::Duration::from_millis(20));
        let waiting = || {
            let mut bytes = 0i32;
            ok!(SYS_ioctl, r, FIONREAD, &mut bytes);
            bytes
        };
        let before = waiting();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert_eq!(waiting(), before, "it runs on");
        fs::write(group.join("cgroup.freeze"), "0").unwrap();
        let mut rest = vec![0u8; before as usize + 1];
        for byte in &mut rest {
            ok!(SYS_read, r, std::ptr::from_mut(byte), 1);
        }
        unsafe { kill(pid, SIGKILL) };
        reap(pid);
    });
}

/// inotify(7) tells of changes of cgroup.events.
fn watched() {
    in_group(|group| {
        let fd = ok!(SYS_inotify_init1, IN_NONBLOCK) as i32;
        let name = std::ffi::CString::new(group.join("cgroup.events").to_str().unwrap()).unwrap();
        ok!(SYS_inotify_add_watch, fd, name.as_c_str(), IN_MODIFY);
        let told = || {
            let mut poll = pollfd { fd, events: POLLIN, revents: 0 };
            if ok!(SYS_poll, &mut poll, 1, 2000) == 0 {
                return 0;
            }
            let mut event = [0u32; 4];
            ok!(SYS_read, fd, &mut event, 16);
            event[1]
        };
        for place in [group, group.parent().unwrap()] {
            fs::write(place.join("cgroup.procs"), "0").unwrap();
            assert_eq!(told(), IN_MODIFY);
        }
    });
}

/// Managers note things of groups in `user` attributes.
fn xattrs() {
    in_group(|group| {
        for place in [group.to_owned(), group.join("cgroup.procs")] {
            let path = std::ffi::CString::new(place.to_str().unwrap()).unwrap();
            let path = path.as_c_str();
            let mut value = [0u8; 8];
            assert_eq!(sys!(SYS_getxattr, path, c"user.a", &mut value, 8), Err(ENODATA));
            assert_eq!(sys!(SYS_setxattr, path, c"user.a", c"one", 3, XATTR_REPLACE), Err(ENODATA));
            ok!(SYS_setxattr, path, c"user.a", c"one", 3, 0);
            assert_eq!(sys!(SYS_setxattr, path, c"user.a", c"two", 3, XATTR_CREATE), Err(EEXIST));
            assert_eq!((ok!(SYS_getxattr, path, c"user.a", &mut value, 8), &value[..3]), (3, &b"one"[..]));
            let mut names = [0u8; 64];
            let len = ok!(SYS_listxattr, path, &mut names, 64) as usize;
            assert!(names[..len].split(|byte| *byte == 0).any(|name| name == b"user.a"));
            ok!(SYS_removexattr, path, c"user.a");
            assert_eq!(sys!(SYS_removexattr, path, c"user.a"), Err(ENODATA));
        }
    });
}

fn namespace() {
    in_group(|group| {
        fs::write(group.join("cgroup.procs"), "0").unwrap();
        let status = in_child(|| {
            ok!(SYS_unshare, CLONE_NEWCGROUP);
            let line = |pid: &str| {
                let text = read(format!("/proc/{pid}/cgroup").into());
                text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
            };
            assert_eq!(line("self"), "/");
            // What is mounted lies above the namespace's root.
            let place = format!(" /.. {} ", group.parent().unwrap().display());
            assert!(read("/proc/self/mountinfo".into()).contains(&place));
            fs::write(group.parent().unwrap().join("cgroup.procs"), "0").unwrap();
            assert!(line("self").starts_with("/.."));
            0
        });
        assert_eq!(status, 0);
        fs::write(group.parent().unwrap().join("cgroup.procs"), "0").unwrap();
    });
}
