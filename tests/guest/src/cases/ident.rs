//! Who and where.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "pids", calls: "getpid gettid getppid", run: pids },
    Case { name: "groups", calls: "getpgrp getpgid setpgid getsid setsid", run: groups },
    Case { name: "users", calls: "getuid geteuid getgid getegid getresuid getresgid getgroups", run: users },
    Case { name: "uname", calls: "uname sethostname sysinfo", run: names },
    Case { name: "personality", calls: "personality uname", run: personality },
    Case { name: "random", calls: "getrandom getcpu", run: random },
];

fn pids() {
    let pid = ok!(SYS_getpid);
    assert_eq!(pid, ok!(SYS_gettid));
    assert_eq!(pid, std::fs::read_link("/proc/self").unwrap().to_str().unwrap().parse::<i64>().unwrap());
    let status = in_child(|| i32::from(ok!(SYS_getppid) != pid || ok!(SYS_getpid) == pid));
    assert_eq!(status, 0);
    let (own, thread) = (pid, std::thread::spawn(|| (ok!(SYS_getpid), ok!(SYS_gettid))).join().unwrap());
    assert!(thread.0 == own && thread.1 != own);
}

fn groups() {
    let status = in_child(|| {
        let (pid, before) = (ok!(SYS_getpid), ok!(SYS_getpgrp));
        assert_eq!(ok!(SYS_getpgid, 0), before);
        ok!(SYS_setpgid, 0, 0);
        assert_eq!((ok!(SYS_getpgrp), ok!(SYS_getpgid, pid)), (pid, pid));
        assert_eq!(sys!(SYS_setsid), Err(EPERM));
        assert_eq!(sys!(SYS_setpgid, 0, -1), Err(EINVAL));
        assert_eq!(sys!(SYS_getpgid, 99_999_999), Err(ESRCH));
        assert_eq!(sys!(SYS_getsid, 99_999_999), Err(ESRCH));
        in_child(|| {
            let pid = ok!(SYS_getpid);
            assert_eq!(ok!(SYS_setsid), pid);
            i32::from(ok!(SYS_getsid, 0) != pid || ok!(SYS_getpgrp) != pid)
        })
    });
    assert_eq!(status, 0);
}

fn users() {
    let (mut r, mut e, mut s) = (9u32, 9u32, 9u32);
    ok!(SYS_getresuid, &mut r, &mut e, &mut s);
    assert_eq!((i64::from(r), i64::from(e)), (ok!(SYS_getuid), ok!(SYS_geteuid)));
    ok!(SYS_getresgid, &mut r, &mut e, &mut s);
    assert_eq!((i64::from(r), i64::from(e)), (ok!(SYS_getgid), ok!(SYS_getegid)));
    assert_eq!(sys!(SYS_getresuid, 8, 8, 8), Err(EFAULT));
    let count = ok!(SYS_getgroups, 0, 0);
    assert!(count >= 0);
    assert_eq!(sys!(SYS_getgroups, -1, 0), Err(EINVAL));
}

fn names() {
    let mut name: utsname = unsafe { std::mem::zeroed() };
    ok!(SYS_uname, &mut name);
    let text = |field: &[c_char]| unsafe { std::ffi::CStr::from_ptr(field.as_ptr()) }.to_str().unwrap().to_owned();
    assert_eq!((text(&name.sysname).as_str(), text(&name.machine).as_str()), ("Linux", "x86_64"));
    let version = std::fs::read_to_string("/proc/version").unwrap();
    assert!(version.starts_with(&format!("Linux version {} ", text(&name.release))), "{version}");
    assert!(version.trim().ends_with(&text(&name.version)), "{version}");
    assert_eq!(sys!(SYS_uname, 8), Err(EFAULT));
    assert_eq!(sys!(SYS_sethostname, c"x", 65), Err(if ok!(SYS_geteuid) == 0 { EINVAL } else { EPERM }));
    let mut info: sysinfo = unsafe { std::mem::zeroed() };
    ok!(SYS_sysinfo, &mut info);
    assert!(info.totalram >= info.freeram && info.procs > 0 && info.mem_unit > 0);
}

fn random() {
    let mut bytes = [[0u8; 32]; 2];
    assert_eq!(ok!(SYS_getrandom, &mut bytes[0], 32, 0), 32);
    assert_eq!(ok!(SYS_getrandom, &mut bytes[1], 32, GRND_NONBLOCK), 32);
    assert_ne!(bytes[0], bytes[1]);
    assert_eq!(sys!(SYS_getrandom, &mut bytes, 1, 64), Err(EINVAL));
    assert_eq!(sys!(SYS_getrandom, 8, 1, 0), Err(EFAULT));
    let (mut cpu, mut node) = (999u32, 999u32);
    ok!(SYS_getcpu, &mut cpu, &mut node, 0);
    assert!(cpu < 512 && node < 64);
}

fn personality() {
    assert_eq!(ok!(SYS_personality, 0xffff_ffffu32), 0);
    assert_eq!(ok!(SYS_personality, 8), 0);
    let mut name: utsname = unsafe { std::mem::zeroed() };
    ok!(SYS_uname, &mut name);
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(name.machine.as_ptr()) }, c"i686");
    assert_eq!(in_child(|| ok!(SYS_personality, 0) as i32), exited(8));
    assert_eq!(ok!(SYS_personality, 0), 8);
}
