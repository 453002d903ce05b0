//! Who a program is and what it may do.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "setuid", calls: "setuid setreuid setresuid setfsuid", run: setuid },
    Case { name: "setgid", calls: "setgid setregid setresgid setfsgid setgroups", run: setgid },
    Case { name: "capabilities", calls: "capget capset prctl", run: capabilities },
    Case { name: "ambient-capabilities", calls: "prctl execve", run: ambient },
    Case { name: "set-user-id-programs", calls: "execve prctl", run: programs },
    Case { name: "prctl-options", calls: "prctl", run: prctl },
    Case { name: "parent-death", calls: "prctl", run: parent_death },
    Case { name: "subreaper", calls: "prctl", run: subreaper },
    Case { name: "kill-permissions", calls: "kill tgkill", run: kill_permissions },
];

/// Most of this needs root.
fn root() {
    if ok!(SYS_geteuid) != 0 {
        skip("needs root");
    }
}

/// Real, effective and saved user.
fn users() -> [u32; 3] {
    let [mut r, mut e, mut s] = [9u32; 3];
    ok!(SYS_getresuid, &mut r, &mut e, &mut s);
    [r, e, s]
}

fn groups() -> [u32; 3] {
    let [mut r, mut e, mut s] = [9u32; 3];
    ok!(SYS_getresgid, &mut r, &mut e, &mut s);
    [r, e, s]
}

/// Runs `f` in a child that must end well.
fn child(f: impl FnOnce()) {
    assert_eq!(
        in_child(|| {
            f();
            0
        }),
        0
    );
}

/// Becomes a user without any rights.
fn drop_to(uid: u32) {
    ok!(SYS_setresgid, uid, uid, uid);
    ok!(SYS_setresuid, uid, uid, uid);
}

fn setuid() {
    assert_eq!(sys!(SYS_setuid, -1), Err(EINVAL));
    root();
    child(|| {
        ok!(SYS_setresuid, 1, 2, 3);
        assert_eq!((users(), ok!(SYS_getuid), ok!(SYS_geteuid)), ([1, 2, 3], 1, 2));
        assert_eq!(sys!(SYS_setresuid, -1, 4, -1), Err(EPERM));
        ok!(SYS_setresuid, 3, 1, -1);
        assert_eq!(users(), [3, 1, 3]);
    });
    child(|| {
        ok!(SYS_setreuid, -1, 5);
        assert_eq!(users(), [0, 5, 5]);
        // Back by the real user.
        ok!(SYS_setuid, 0);
        assert_eq!(users(), [0, 0, 5]);
        ok!(SYS_setuid, 6);
        assert_eq!(users(), [6, 6, 6]);
        assert_eq!(sys!(SYS_setuid, 0), Err(EPERM));
        assert_eq!(sys!(SYS_setreuid, 0, -1), Err(EPERM));
    });
    child(|| {
        assert_eq!(ok!(SYS_setfsuid, 7), 0);
        assert_eq!(ok!(SYS_setfsuid, -1), 7);
        drop_to(8);
        assert_eq!(ok!(SYS_setfsuid, 0), 8);
        assert_eq!(ok!(SYS_setfsuid, -1), 8);
    });
}

fn setgid() {
    assert_eq!(sys!(SYS_setgid, -1), Err(EINVAL));
    root();
    child(|| {
        ok!(SYS_setgroups, 3, [30u32, 10, 20].as_ptr());
        let mut list = [0u32; 3];
        assert_eq!(ok!(SYS_getgroups, 3, &mut list), 3);
        list.sort_unstable();
        assert_eq!(list, [10, 20, 30]);
        assert_eq!(sys!(SYS_getgroups, 2, &mut list), Err(EINVAL));
        assert_eq!(sys!(SYS_getgroups, 3, 8), Err(EFAULT));
        assert_eq!(sys!(SYS_setgroups, 65537, 0), Err(EINVAL));
        assert_eq!(sys!(SYS_setgroups, 1, 8), Err(EFAULT));
        ok!(SYS_setresgid, 1, 2, 3);
        assert_eq!((groups(), ok!(SYS_getgid), ok!(SYS_getegid)), ([1, 2, 3], 1, 2));
        ok!(SYS_setregid, 4, -1);
        assert_eq!(groups(), [4, 2, 2]);
        assert_eq!(ok!(SYS_setfsgid, 9), 2);
        ok!(SYS_setgid, 5);
        assert_eq!(groups(), [5, 5, 5]);
        ok!(SYS_setuid, 5);
        assert_eq!(sys!(SYS_setgid, 6), Err(EPERM));
        assert_eq!(sys!(SYS_setregid, 6, -1), Err(EPERM));
        assert_eq!(sys!(SYS_setgroups, 0, 0), Err(EPERM));
        assert_eq!(ok!(SYS_setfsgid, 9), 5);
        assert_eq!(ok!(SYS_setfsgid, -1), 5);
    });
}

const VERSION_3: u32 = 0x2008_0522;

/// Effective, permitted and inheritable capabilities, low and high words.
fn caps() -> [[u32; 3]; 2] {
    let mut sets = [[9u32; 3]; 2];
    ok!(SYS_capget, [VERSION_3, 0].as_ptr(), &mut sets);
    sets
}

fn set_caps(sets: [[u32; 3]; 2]) -> Result<i64, i32> {
    sys!(SYS_capset, [VERSION_3, 0].as_ptr(), sets.as_ptr())
}

fn capabilities() {
    let mut header = [1u32, 0];
    assert_eq!(sys!(SYS_capget, &mut header, 0), Ok(0));
    assert_eq!(header, [VERSION_3, 0]);
    assert_eq!(sys!(SYS_capget, [VERSION_3, u32::MAX].as_ptr(), &mut [0u32; 6]), Err(EINVAL));
    assert_eq!(sys!(SYS_capget, [VERSION_3, 99_999_999].as_ptr(), &mut [0u32; 6]), Err(ESRCH));
    assert_eq!(sys!(SYS_prctl, PR_CAPBSET_READ, 64), Err(EINVAL));
    root();
    child(|| {
        let chown = 1 << 0;
        let [mut low, high] = caps();
        assert!(low[0] & chown != 0);
        low[0] &= !chown;
        set_caps([low, high]).unwrap();
        assert_eq!(caps(), [low, high]);
        low[1] &= !chown;
        set_caps([low, high]).unwrap();
        // What isn't permitted any more is gone.
        let back = [low[0], low[1] | chown, low[2]];
        assert_eq!(set_caps([back, high]), Err(EPERM));
        assert_eq!(ok!(SYS_prctl, PR_CAPBSET_READ, 0), 1);
        ok!(SYS_prctl, PR_CAPBSET_DROP, 0);
        assert_eq!(ok!(SYS_prctl, PR_CAPBSET_READ, 0), 0);
        assert_eq!(sys!(SYS_capset, [VERSION_3, 1].as_ptr(), [0u32; 6].as_ptr()), Err(EPERM));
        // KEEPCAPS keeps what is permitted.
        ok!(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
        assert_eq!(ok!(SYS_prctl, PR_GET_KEEPCAPS), 1);
        ok!(SYS_setuid, 7);
        let now = caps();
        assert!(now[0][0] == 0 && now[0][1] == low[1], "{now:?}");
        assert_eq!(sys!(SYS_prctl, PR_CAPBSET_DROP, 1), Err(EPERM));
        assert_eq!(sys!(SYS_prctl, PR_SET_SECUREBITS, 1), Err(EPERM));
    });
    child(|| {
        ok!(SYS_setuid, 7);
        assert_eq!(caps(), [[0; 3]; 2]);
    });
}

/// Lines of /proc/self/status as `program` sees them.
fn status_of(program: &str) -> String {
    Command::new(program).arg("/proc/self/status").output().map(|out| String::from_utf8(out.stdout).unwrap()).unwrap()
}

/// A word of a line of status.
fn word(status: &str, name: &str, at: usize) -> String {
    let line =
        status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_else(|| panic!("{name} in {status:?}"));
    line.split_whitespace().nth(at + 1).unwrap().to_owned()
}

fn ambient() {
    root();
    let kill = 1u32 << 5;
    child(|| {
        assert_eq!(sys!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 5, 0, 0), Err(EPERM));
        let [[e, p, i], high] = caps();
        set_caps([[e, p, i | kill], high]).unwrap();
        ok!(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
        drop_to(7);
        ok!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 5, 0, 0);
        assert_eq!(ok!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 5, 0, 0), 1);
        let status = status_of("cat");
        for set in ["CapEff", "CapPrm", "CapAmb"] {
            assert_eq!(word(&status, set, 0), format!("{kill:016x}"), "{status}");
        }
        ok!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        assert_eq!(word(&status_of("cat"), "CapPrm", 0), format!("{:016x}", 0));
    });
}

fn programs() {
    root();
    std::fs::copy("/bin/cat", "cat").unwrap();
    std::fs::set_permissions("cat", std::fs::Permissions::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(".", std::fs::Permissions::from_mode(0o755)).unwrap();
    child(|| {
        drop_to(7);
        let status = status_of("./cat");
        assert_eq!([0, 1, 2, 3].map(|at| word(&status, "Uid", at)), ["7", "0", "0", "0"]);
        assert_eq!([0, 1, 2, 3].map(|at| word(&status, "Gid", at)), ["7", "0", "0", "0"]);
        assert_eq!(word(&status, "CapEff", 0), word(&status, "CapBnd", 0));
        ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        assert_eq!(ok!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
        assert_eq!(sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), Err(EINVAL));
        let status = status_of("./cat");
        assert_eq!((word(&status, "Uid", 1), word(&status, "CapPrm", 0)), ("7".to_owned(), format!("{:016x}", 0)));
        assert_eq!(word(&status, "NoNewPrivs", 0), "1");
    });
}

fn prctl() {
    ok!(SYS_prctl, PR_SET_NAME, c"a name that is too long");
    let mut name = [9u8; 16];
    ok!(SYS_prctl, PR_GET_NAME, &mut name);
    assert_eq!(&name, b"a name that is \0");
    assert_eq!(ok!(SYS_prctl, PR_GET_DUMPABLE), 1);
    ok!(SYS_prctl, PR_SET_DUMPABLE, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_DUMPABLE), 0);
    assert_eq!(sys!(SYS_prctl, PR_SET_DUMPABLE, 2), Err(EINVAL));
    ok!(SYS_prctl, PR_SET_DUMPABLE, 1);
    ok!(SYS_prctl, PR_SET_TIMERSLACK, 77);
    assert_eq!(std::thread::spawn(|| ok!(SYS_prctl, PR_GET_TIMERSLACK)).join().unwrap(), 77);
    ok!(SYS_prctl, PR_SET_TIMERSLACK, 0);
    assert_eq!(ok!(SYS_prctl, PR_GET_TIMERSLACK), 50_000);
    assert_eq!(ok!(SYS_prctl, PR_GET_TIMING), 0);
    let mut signo = 9;
    ok!(SYS_prctl, PR_GET_PDEATHSIG, &mut signo);
    assert_eq!(signo, 0);
    assert_eq!(sys!(SYS_prctl, PR_SET_PDEATHSIG, 65), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, PR_SET_KEEPCAPS, 2, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, 0x7fff_ffff, 0, 0, 0, 0), Err(EINVAL));
}

fn parent_death() {
    let [read, write] = new_pipe();
    // A child of a child, which ends first.
    child(|| {
        spawn(|| {
            ok!(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
            put(write, b"x");
            loop {
                ok!(SYS_close, read);
                unsafe { pause() };
            }
        });
        get(read, 1);
    });
    ok!(SYS_close, write);
    // Only when it is gone is the pipe without writers.
    assert_eq!(get(read, 1), b"");
}

fn subreaper() {
    let mut on = 9;
    ok!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
    ok!(SYS_prctl, PR_GET_CHILD_SUBREAPER, &mut on);
    assert_eq!(on, 1);
    let [read, write] = new_pipe();
    let first = spawn(|| {
        let own = ok!(SYS_getpid);
        let orphan = spawn(|| {
            while ok!(SYS_getppid) == own {
                ok!(SYS_sched_yield);
            }
            ok!(SYS_getppid) as i32 & 0x7f
        });
        put(write, &orphan.to_le_bytes());
        0
    });
    let orphan = i32::from_le_bytes(get(read, 4).try_into().unwrap());
    assert_eq!(reap(first), 0);
    assert_eq!(reap(orphan), exited(ok!(SYS_getpid) as i32 & 0x7f));
}

fn kill_permissions() {
    root();
    let (own, tid) = (ok!(SYS_getpid), ok!(SYS_gettid));
    child(|| {
        drop_to(7);
        assert_eq!(sys!(SYS_kill, own, SIGTERM), Err(EPERM));
        assert_eq!(sys!(SYS_kill, own, 0), Err(EPERM));
        assert_eq!(sys!(SYS_tgkill, own, tid, SIGTERM), Err(EPERM));
        // To one's own session, at least this.
        ok!(SYS_kill, own, SIGCONT);
    });
    // The real user may, whoever is effective.
    let mut sleeper = Command::new("sleep").arg("100").stdout(Stdio::null()).spawn().unwrap();
    child(|| {
        ok!(SYS_setresuid, 0, 7, 7);
        ok!(SYS_kill, sleeper.id(), SIGTERM);
    });
    sleeper.wait().unwrap();
}
