//! Namespaces.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "uts-namespace", calls: "unshare sethostname setdomainname", run: uts },
    Case { name: "user-namespace", calls: "unshare clone", run: user },
    Case { name: "pid-namespace", calls: "unshare clone getpid getppid kill wait4", run: pid },
    Case { name: "namespace-files", calls: "setns ioctl unshare", run: files },
    Case { name: "join-pid-namespace", calls: "setns unshare", run: join_pid },
    Case { name: "namespaces-by-pidfd", calls: "setns pidfd_open", run: by_process },
    Case { name: "mount-namespace", calls: "unshare setns mount", run: mounts },
    Case { name: "pid-namespace-init", calls: "unshare clone kill", run: init },
];

fn needs(flags: i32) {
    // In a child: this process is to stay where it is.
    if in_child(|| i32::from(sys!(SYS_unshare, flags).is_err())) != 0 {
        skip("needs to be able to make namespaces");
    }
}

fn host_name() -> String {
    let mut name: utsname = unsafe { std::mem::zeroed() };
    ok!(SYS_uname, &mut name);
    unsafe { std::ffi::CStr::from_ptr(name.nodename.as_ptr()) }.to_str().unwrap().to_owned()
}

fn uts() {
    assert_eq!(sys!(SYS_unshare, CLONE_PARENT), Err(EINVAL));
    needs(CLONE_NEWUTS);
    let before = host_name();
    let status = in_child(|| {
        ok!(SYS_unshare, CLONE_NEWUTS);
        ok!(SYS_sethostname, c"other", 5);
        ok!(SYS_setdomainname, c"domain", 6);
        assert_eq!(host_name(), "other");
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), "other\n");
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap(), "domain\n");
        assert_eq!(sys!(SYS_sethostname, c"x", 65), Err(EINVAL));
        ok!(SYS_setresuid, 7, 7, 7);
        assert_eq!(sys!(SYS_sethostname, c"x", 1), Err(EPERM));
        assert_eq!(sys!(SYS_unshare, CLONE_NEWUTS), Err(EPERM));
        0
    });
    assert_eq!((status, host_name()), (0, before));
}

fn write(path: &str, text: &str) -> Result<(), i32> {
    std::fs::write(path, text).map_err(|error| error.raw_os_error().unwrap())
}

fn user() {
    needs(CLONE_NEWUSER);
    let root = ok!(SYS_geteuid) == 0;
    let status = in_child(|| {
        if root {
            ok!(SYS_setresgid, 7, 7, 7);
            ok!(SYS_setresuid, 7, 7, 7);
        }
        let (uid, gid) = (ok!(SYS_getuid), ok!(SYS_getgid));
        // Not dumpable since the change of users, its files in /proc would be root's.
        ok!(SYS_prctl, PR_SET_DUMPABLE, 1);
        ok!(SYS_unshare, CLONE_NEWUSER);
        assert_eq!((ok!(SYS_getuid), ok!(SYS_getgid)), (65534, 65534));
        assert_eq!(write("/proc/self/uid_map", "0 0 1"), Err(EPERM));
        assert_eq!(write("/proc/self/uid_map", "0 x 1"), Err(EINVAL));
        write("/proc/self/uid_map", &format!("0 {uid} 1")).unwrap();
        assert_eq!(write("/proc/self/uid_map", &format!("0 {uid} 1")), Err(EPERM));
        assert_eq!(write("/proc/self/gid_map", &format!("0 {gid} 1")), Err(EPERM));
        write("/proc/self/setgroups", "deny").unwrap();
        write("/proc/self/gid_map", &format!("5 {gid} 1")).unwrap();
        assert_eq!((ok!(SYS_getuid), ok!(SYS_geteuid), ok!(SYS_getgid)), (0, 0, 5));
        assert_eq!(std::fs::read_to_string("/proc/self/uid_map").unwrap(), format!("{:10} {uid:10} {:10}\n", 0, 1));
        // All capabilities, but only inside.
        let mut caps = [[0u32; 3]; 2];
        ok!(SYS_capget, [0x2008_0522u32, 0].as_ptr(), &mut caps);
        assert!(caps[0][0] & 1 << 21 != 0);
        assert_eq!(sys!(SYS_sethostname, c"x", 1), Err(EPERM));
        assert_eq!(sys!(SYS_setgroups, 0, 0), Err(EPERM));
        assert_eq!(sys!(SYS_setuid, 1), Err(EINVAL));
        ok!(SYS_unshare, CLONE_NEWUTS);
        ok!(SYS_sethostname, c"x", 1);
        0
    });
    assert_eq!(status, 0);
}

/// Runs `f` as the first process of a pid namespace; returns its wait status.
fn as_init(f: impl FnOnce() -> i32) -> i32 {
    in_child(|| {
        ok!(SYS_unshare, CLONE_NEWPID);
        let status = in_child(f);
        // Nobody is born where the first has ended.
        assert_eq!(sys!(SYS_clone, SIGCHLD, 0, 0, 0, 0), Err(ENOMEM));
        if status & 0x7f == 0 { status >> 8 } else { 128 + (status & 0x7f) }
    })
}

fn pid() {
    needs(CLONE_NEWPID);
    let outer = ok!(SYS_getpid);
    let status = as_init(|| {
        assert_eq!((ok!(SYS_getpid), ok!(SYS_gettid), ok!(SYS_getppid)), (1, 1, 0));
        assert_eq!(sys!(SYS_kill, outer, 0), Err(ESRCH));
        let child = spawn(|| {
            assert_eq!((ok!(SYS_getpid), ok!(SYS_getppid)), (2, 1));
            // The first process has no signals that it doesn't ask for.
            ok!(SYS_kill, 1, SIGKILL);
            ok!(SYS_kill, 1, SIGTERM);
            7
        });
        assert_eq!((child, reap(child)), (2, exited(7)));
        assert_eq!(ok!(SYS_getpgid, 0), 0);
        assert_eq!((ok!(SYS_setsid), ok!(SYS_getsid, 0)), (1, 1));
        let thread = std::thread::spawn(|| (ok!(SYS_getpid), ok!(SYS_gettid))).join().unwrap();
        assert_eq!(thread, (1, 3));
        5
    });
    assert_eq!(status, exited(5));
}

fn init() {
    needs(CLONE_NEWPID);
    let [read, write] = new_pipe();
    // An orphan of an orphan goes with the namespace.
    let status = as_init(|| {
        spawn(|| {
            spawn(|| {
                ok!(SYS_close, read);
                loop {
                    unsafe { pause() };
                }
            });
            0
        });
        while std::fs::metadata("/proc/self").is_ok() && sys!(SYS_kill, 3, 0).is_err() {
            ok!(SYS_sched_yield);
        }
        6
    });
    assert_eq!(status, exited(6));
    ok!(SYS_close, write);
    assert_eq!(get(read, 1), b"");
    // From outside it can be killed.
    let outside = in_child(|| {
        ok!(SYS_unshare, CLONE_NEWPID);
        let child = spawn(|| {
            loop {
                unsafe { pause() };
            }
        });
        assert!(child > 1);
        ok!(SYS_kill, child, SIGKILL);
        i32::from(reap(child) != SIGKILL)
    });
    assert_eq!(outside, 0);
}

fn open_ns(path: &str) -> i64 {
    let path = std::ffi::CString::new(path).unwrap();
    ok!(SYS_openat, AT_FDCWD, path.as_ptr(), O_RDONLY, 0)
}

fn link(path: &str) -> String {
    std::fs::read_link(path).unwrap().to_str().unwrap().to_owned()
}

fn files() {
    needs(CLONE_NEWUTS);
    let own = link("/proc/self/ns/uts");
    let fd = open_ns("/proc/self/ns/uts");
    let mut stat: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fstat, fd, &mut stat);
    assert_eq!(own, format!("uts:[{}]", stat.st_ino));
    let status = in_child(|| {
        ok!(SYS_unshare, CLONE_NEWUTS);
        ok!(SYS_sethostname, c"other", 5);
        assert_ne!(link("/proc/self/ns/uts"), own);
        assert_eq!(sys!(SYS_setns, fd, CLONE_NEWNET), Err(EINVAL));
        ok!(SYS_setns, fd, CLONE_NEWUTS);
        assert_eq!((link("/proc/self/ns/uts"), host_name() == "other"), (own.clone(), false));
        0
    });
    assert_eq!(status, 0);
    assert_eq!(sys!(SYS_setns, new_pipe()[0], 0), Err(EINVAL));
    assert_eq!(sys!(SYS_setns, -1, 0), Err(EBADF));
    // Type, owner and parent.
    const NS_GET_USERNS: i64 = 0xb701;
    const NS_GET_PARENT: i64 = 0xb702;
    const NS_GET_NSTYPE: i64 = 0xb703;
    assert_eq!(ok!(SYS_ioctl, fd, NS_GET_NSTYPE, 0), CLONE_NEWUTS.into());
    let user = ok!(SYS_ioctl, fd, NS_GET_USERNS, 0);
    assert_eq!(ok!(SYS_ioctl, user, NS_GET_NSTYPE, 0), CLONE_NEWUSER.into());
    assert_eq!(sys!(SYS_ioctl, fd, NS_GET_PARENT, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_setns, open_ns("/proc/self/ns/user"), 0), Err(EINVAL));
}

fn join_pid() {
    needs(CLONE_NEWPID);
    let [read, write] = new_pipe();
    let status = in_child(|| {
        ok!(SYS_unshare, CLONE_NEWPID);
        let init = spawn(|| {
            get(read, 1);
            0
        });
        let second = in_child(|| {
            ok!(SYS_setns, open_ns(&format!("/proc/{init}/ns/pid")), CLONE_NEWPID);
            // Only children are in there.
            assert!(ok!(SYS_getpid) > 2);
            in_child(|| i32::from(ok!(SYS_getpid) == 1 || ok!(SYS_getppid) != 0))
        });
        put(write, b"x");
        assert_eq!(reap(init), 0);
        second
    });
    assert_eq!(status, 0);
}

/// Several namespaces of a process at once: all or none.
fn by_process() {
    needs(CLONE_NEWNS);
    let status = in_child(|| {
        let [read, write] = new_pipe();
        let other = spawn(|| {
            ok!(SYS_unshare, CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS);
            put(write, b"x");
            unsafe { pause() }
        });
        get(read, 1);
        let fd = ok!(SYS_pidfd_open, other, 0);
        let same = |name: &str| link(&format!("/proc/self/ns/{name}")) == link(&format!("/proc/{other}/ns/{name}"));
        assert_eq!(sys!(SYS_setns, fd, 0), Err(EINVAL));
        assert_eq!(sys!(SYS_setns, fd, CLONE_NEWUTS | CLONE_VM), Err(EINVAL));
        // Nobody enters the user namespace that it is in.
        assert_eq!(sys!(SYS_setns, fd, CLONE_NEWUTS | CLONE_NEWUSER), Err(EINVAL));
        assert!(!same("uts"));
        ok!(SYS_setns, fd, CLONE_NEWUTS | CLONE_NEWNS);
        assert!(same("uts") && same("mnt") && !same("ipc"));
        ok!(SYS_kill, other, SIGKILL);
        assert_eq!(reap(other), SIGKILL);
        assert_eq!(sys!(SYS_setns, fd, CLONE_NEWIPC), Err(ESRCH));
        0
    });
    assert_eq!(status, 0);
}

fn mounts() {
    needs(CLONE_NEWNS);
    std::fs::create_dir("place").unwrap();
    let status = in_child(|| {
        ok!(SYS_unshare, CLONE_NEWNS);
        ok!(SYS_mount, c"none", c"/", 0, MS_REC | MS_PRIVATE, 0);
        ok!(SYS_mount, c"none", c"place", c"tmpfs", 0, 0);
        std::fs::write("place/file", "x").unwrap();
        0
    });
    assert_eq!((status, std::fs::metadata("place/file").is_err()), (0, true));
    let outer = open_ns("/proc/self/ns/mnt");
    let status = in_child(|| {
        ok!(SYS_unshare, CLONE_NEWNS);
        ok!(SYS_setns, outer, 0);
        i32::from(link("/proc/self/ns/mnt") != link(&format!("/proc/{}/ns/mnt", ok!(SYS_getppid))))
    });
    assert_eq!(status, 0);
}
