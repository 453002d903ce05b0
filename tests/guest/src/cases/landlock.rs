//! Giving up accesses for good.

use std::fs;

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "landlock", calls: "landlock_create_ruleset landlock_add_rule landlock_restrict_self", run: landlock },
    Case { name: "landlock-ports", calls: "landlock_create_ruleset landlock_add_rule bind connect", run: ports },
];

const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_REG: u64 = 1 << 8;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap(), |_| 0)
}

/// Denies `handled` but for `allowed` below the directory `open`.
fn restrict(handled: u64, allowed: u64) {
    let set = ok!(SYS_landlock_create_ruleset, [handled].as_ptr(), 8, 0);
    if allowed != 0 {
        let dir = ok!(SYS_openat, AT_FDCWD, c"open", O_PATH, 0);
        ok!(SYS_landlock_add_rule, set, 1, [allowed, dir as u64].as_ptr(), 0);
    }
    ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ok!(SYS_landlock_restrict_self, set, 0);
    ok!(SYS_close, set);
}

fn child(f: impl FnOnce()) {
    assert_eq!(
        in_child(|| {
            f();
            0
        }),
        0
    );
}

fn ports() {
    match sys!(SYS_landlock_create_ruleset, 0, 0, 1) {
        Ok(version) if version >= 4 => {}
        _ => skip("no landlock, or an old one"),
    }
    const BIND: u64 = 1;
    const CONNECT: u64 = 2;
    let address = |port: u16| sockaddr_in {
        sin_family: AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: in_addr { s_addr: u32::from_be_bytes([127, 0, 0, 1]).to_be() },
        sin_zero: [0; 8],
    };
    let socket = |kind: i32| ok!(SYS_socket, AF_INET, kind, 0);
    child(|| {
        let set = ok!(SYS_landlock_create_ruleset, [0u64, BIND | CONNECT].as_ptr(), 16, 0);
        assert_eq!(sys!(SYS_landlock_add_rule, set, 2, [0u64, 1].as_ptr(), 0), Err(ENOMSG));
        assert_eq!(sys!(SYS_landlock_add_rule, set, 2, [BIND, 70000].as_ptr(), 0), Err(EINVAL));
        assert_eq!(sys!(SYS_landlock_add_rule, set, 2, [4u64, 1].as_ptr(), 0), Err(EINVAL));
        ok!(SYS_landlock_add_rule, set, 2, [BIND, 40001].as_ptr(), 0);
        ok!(SYS_landlock_add_rule, set, 2, [CONNECT, 40002].as_ptr(), 0);
        ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        ok!(SYS_landlock_restrict_self, set, 0);
        assert_eq!(sys!(SYS_bind, socket(SOCK_STREAM), &mut address(40003), 16), Err(EACCES));
        ok!(SYS_bind, socket(SOCK_STREAM), &mut address(40001), 16);
        assert_eq!(sys!(SYS_connect, socket(SOCK_STREAM), &mut address(40001), 16), Err(EACCES));
        assert_eq!(sys!(SYS_connect, socket(SOCK_STREAM), &mut address(40002), 16), Err(ECONNREFUSED));
        // Only TCP is meant.
        ok!(SYS_bind, socket(SOCK_DGRAM), &mut address(40003), 16);
    });
}

fn landlock() {
    match sys!(SYS_landlock_create_ruleset, 0, 0, 1) {
        Ok(version) if version >= 3 => {}
        _ => skip("no landlock, or an old one"),
    }
    assert_eq!(sys!(SYS_landlock_create_ruleset, [0u64].as_ptr(), 8, 0), Err(ENOMSG));
    assert_eq!(sys!(SYS_landlock_create_ruleset, [1u64 << 63].as_ptr(), 8, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_landlock_restrict_self, new_pipe()[0], 0), Err(EBADFD));
    for dir in ["open", "shut", "open/deep"] {
        fs::create_dir(dir).unwrap();
        fs::write(format!("{dir}/file"), "text").unwrap();
    }
    let all = READ_FILE | WRITE_FILE | MAKE_REG | REMOVE_FILE | REFER | TRUNCATE | EXECUTE;
    child(|| {
        restrict(all, all);
        assert_eq!(
            (errno(fs::read("open/file")), errno(fs::read("open/deep/file")), errno(fs::read("shut/file"))),
            (0, 0, EACCES)
        );
        assert_eq!((errno(fs::write("open/new", "x")), errno(fs::write("shut/new", "x"))), (0, EACCES));
        assert_eq!(errno(fs::rename("open/new", "open/deep/new")), 0);
        assert_eq!(errno(fs::rename("open/deep/new", "shut/new")), EACCES);
        assert_eq!((errno(fs::remove_file("open/deep/new")), errno(fs::remove_file("shut/file"))), (0, EACCES));
        let args = [c"true".as_ptr(), std::ptr::null()];
        assert_eq!(sys!(SYS_execve, c"/bin/true", args.as_ptr(), 0), Err(EACCES));
        // Another layer takes more, never gives back.
        restrict(READ_FILE, 0);
        assert_eq!((errno(fs::read("open/file")), errno(fs::write("open/file", "y"))), (EACCES, 0));
        child(|| assert_eq!(errno(fs::read("open/file")), EACCES));
    });
    child(|| {
        restrict(TRUNCATE, 0);
        let open = |flags| ok!(SYS_openat, AT_FDCWD, c"open/file", flags, 0);
        assert_eq!(sys!(SYS_truncate, c"open/file", 0), Err(EACCES));
        assert_eq!(sys!(SYS_openat, AT_FDCWD, c"open/file", O_WRONLY | O_TRUNC, 0), Err(EACCES));
        assert_eq!(sys!(SYS_ftruncate, open(O_WRONLY), 0), Err(EACCES));
    });
    // From one directory to another only where that is said.
    child(|| {
        restrict(MAKE_REG, MAKE_REG);
        assert_eq!(errno(fs::rename("open/file", "open/deep/moved")), EXDEV);
        assert_eq!(errno(fs::hard_link("open/file", "open/second")), 0);
    });
}
