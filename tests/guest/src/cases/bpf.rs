//! bpf(2): programs for the devices of control groups.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use libc::*;

use super::cgroup::in_group;
use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "bpf-devices", calls: "bpf open access mknod", run: devices },
    Case { name: "bpf-verifier", calls: "bpf", run: verifier },
    Case { name: "bpf-attach", calls: "bpf", run: attach },
];

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_NEXT_ID: i32 = 11;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const TYPE_DEVICE: u32 = 15;
const AT_DEVICE: u32 = 6;
const OVERRIDE: u32 = 1;
const MULTI: u32 = 2;

/// An instruction: code, destination, source, offset, number.
type I = (u8, u8, u8, i16, i32);

const EXIT: I = (0x95, 0, 0, 0, 0);
const ALLOW: [I; 2] = [(0xb7, 0, 0, 0, 1), EXIT];

fn load(program: &[I]) -> Result<i64, i32> {
    let bytes: Vec<u8> = program
        .iter()
        .flat_map(|&(code, dst, src, off, imm)| [&[code, dst | src << 4][..], &off.to_le_bytes(), &imm.to_le_bytes()].concat())
        .collect();
    let mut attr = [0u64; 16];
    attr[0] = u64::from(TYPE_DEVICE) | (program.len() as u64) << 32;
    (attr[1], attr[2]) = (bytes.as_ptr() as u64, c"GPL".as_ptr() as u64);
    attr[6] = u64::from_le_bytes(*b"testing\0");
    sys!(SYS_bpf, PROG_LOAD, &mut attr, 128)
}

fn loaded(program: &[I]) -> i32 {
    match load(program) {
        Err(EPERM | ENOSYS) => skip("needs the right to load programs"),
        result => result.unwrap() as i32,
    }
}

fn change(command: i32, group: &File, program: i32, flags: u32) -> Result<i64, i32> {
    let mut attr = [group.as_raw_fd() as u32, program as u32, AT_DEVICE, flags, 0, 0, 0, 0];
    sys!(SYS_bpf, command, &mut attr, 32)
}

/// What is attached: flags and numbers.
fn query(group: &File, how: u32) -> (u32, Vec<u32>) {
    let mut ids = [0u32; 8];
    let mut attr = [0u64; 8];
    attr[0] = group.as_raw_fd() as u64 | u64::from(AT_DEVICE) << 32;
    (attr[1], attr[2], attr[3]) = (how.into(), ids.as_mut_ptr() as u64, 8);
    ok!(SYS_bpf, PROG_QUERY, &mut attr, 64);
    ((attr[1] >> 32) as u32, ids[..(attr[3] & 0xffff_ffff) as usize].to_vec())
}

/// Allows one character device, for some of the accesses: making 1, reading 2, writing 4.
fn only(minor: i32, accesses: i32) -> Vec<I> {
    vec![
        (0x61, 2, 1, 0, 0),
        (0xbc, 3, 2, 0, 0),
        (0x54, 2, 0, 0, 0xffff),
        (0x74, 3, 0, 0, 16),
        (0x61, 4, 1, 4, 0),
        (0x61, 5, 1, 8, 0),
        (0x55, 2, 0, 6, 2),
        (0x54, 3, 0, 0, 7 & !accesses),
        (0x55, 3, 0, 4, 0),
        (0x55, 4, 0, 3, 1),
        (0x55, 5, 0, 2, minor),
        (0xb7, 0, 0, 0, 1),
        EXIT,
        (0xb7, 0, 0, 0, 0),
        EXIT,
    ]
}

fn in_bpf_group(run: fn(&Path)) {
    loaded(&ALLOW);
    in_group(run);
}

fn devices() {
    in_bpf_group(|group| {
        fs::write(group.join("cgroup.procs"), "0").unwrap();
        let place = File::open(group).unwrap();
        let open = |path: &std::ffi::CStr, flags: i32| sys!(SYS_open, path, flags).map(drop);
        let program = loaded(&only(3, 6));
        change(PROG_ATTACH, &place, program, MULTI).unwrap();
        assert_eq!(open(c"/dev/null", O_RDWR), Ok(()));
        assert_eq!(open(c"/dev/zero", O_RDONLY), Err(EPERM));
        assert_eq!(open(c"/dev/zero", O_PATH), Ok(()));
        assert_eq!(sys!(SYS_access, c"/dev/zero", R_OK), Err(EPERM));
        assert_eq!(sys!(SYS_access, c"/dev/zero", F_OK), Err(EPERM));
        assert_eq!(sys!(SYS_mknod, c"null", S_IFCHR | 0o600, makedev(1, 3)), Err(EPERM));
        assert_eq!(sys!(SYS_mknod, c"fifo", S_IFIFO | 0o600, 0), Ok(0));
        // Below, all of them must agree.
        let below = group.join("below");
        fs::create_dir(&below).unwrap();
        let more = loaded(&only(3, 2));
        change(PROG_ATTACH, &File::open(&below).unwrap(), more, MULTI).unwrap();
        fs::write(below.join("cgroup.procs"), "0").unwrap();
        assert_eq!(open(c"/dev/null", O_RDONLY), Ok(()));
        assert_eq!(open(c"/dev/null", O_WRONLY), Err(EPERM));
        fs::write(group.join("cgroup.procs"), "0").unwrap();
        assert_eq!(open(c"/dev/null", O_WRONLY), Ok(()));
        change(PROG_DETACH, &place, program, 0).unwrap();
        assert_eq!(open(c"/dev/zero", O_RDONLY), Ok(()));
        fs::write(group.parent().unwrap().join("cgroup.procs"), "0").unwrap();
        fs::remove_dir(below).unwrap();
    });
}

fn verifier() {
    loaded(&ALLOW);
    let cases: [(&[I], i32); 8] = [
        (&[], E2BIG),
        (&[EXIT], EACCES),
        (&[(0xb7, 0, 0, 0, 2), EXIT], EINVAL),
        (&[(0xb7, 0, 0, 0, 0)], EINVAL),
        (&[(0x61, 0, 1, 12, 0), EXIT], EACCES),
        (&[(0x62, 10, 0, 0, 0), (0xb7, 0, 0, 0, 0), EXIT], EACCES),
        (&[(0xb7, 10, 0, 0, 0), (0xb7, 0, 0, 0, 0), EXIT], EACCES),
        (&[(0xb7, 0, 0, 0, 0), (0x05, 0, 0, 1, 0), EXIT], EINVAL),
    ];
    for (program, errno) in cases {
        assert_eq!(load(program), Err(errno), "{program:?}");
    }
    let mut attr = [0u64; 16];
    attr[0] = 10_000 | 2 << 32;
    (attr[1], attr[2]) = (ALLOW.as_ptr() as u64, c"GPL".as_ptr() as u64);
    assert_eq!(sys!(SYS_bpf, PROG_LOAD, &mut attr, 128), Err(EINVAL));
    attr[0] = u64::from(TYPE_DEVICE) | 2 << 32;
    attr[1] = 0;
    assert_eq!(sys!(SYS_bpf, PROG_LOAD, &mut attr, 128), Err(EFAULT));
    assert_eq!(sys!(SYS_bpf, PROG_LOAD, &mut attr, 4097), Err(E2BIG));
    let nobody = in_child(|| {
        ok!(SYS_setresuid, 1000, 1000, 1000);
        i32::from(load(&ALLOW) != Err(EPERM))
    });
    assert_eq!(nobody, 0);
}

fn attach() {
    in_bpf_group(|group| {
        let (place, below) = (File::open(group).unwrap(), group.join("below"));
        fs::create_dir(&below).unwrap();
        let child = File::open(&below).unwrap();
        let (one, two) = (loaded(&ALLOW), loaded(&ALLOW));
        let file = File::open("/dev/null").unwrap();
        assert_eq!(change(PROG_ATTACH, &file, one, 0), Err(EBADF));
        assert_eq!(change(PROG_ATTACH, &place, file.as_raw_fd(), 0), Err(EINVAL));
        assert_eq!(change(PROG_ATTACH, &place, one, MULTI | OVERRIDE), Err(EINVAL));
        assert_eq!(change(PROG_DETACH, &place, one, 0), Err(ENOENT));
        // One, which those below must bear.
        change(PROG_ATTACH, &place, one, 0).unwrap();
        assert_eq!(change(PROG_ATTACH, &child, two, 0), Err(EPERM));
        change(PROG_ATTACH, &place, two, 0).unwrap();
        let (flags, ids) = query(&place, 0);
        assert_eq!((flags, ids.len()), (0, 1), "the second has replaced the first");
        change(PROG_DETACH, &place, -1, 0).unwrap();
        change(PROG_ATTACH, &place, one, OVERRIDE).unwrap();
        change(PROG_ATTACH, &child, two, OVERRIDE).unwrap();
        assert_eq!(query(&child, 1).1.len(), 1);
        change(PROG_DETACH, &place, one, 0).unwrap();
        change(PROG_ATTACH, &place, one, MULTI).unwrap();
        assert_eq!(change(PROG_ATTACH, &place, one, MULTI), Err(EINVAL));
        assert_eq!(change(PROG_ATTACH, &place, two, 0), Err(EPERM));
        assert_eq!(query(&child, 1).1.len(), 2);
        assert_eq!(query(&place, 0).0, MULTI);
        let id = query(&place, 0).1[0];
        let mut attr = [id, 0, 0, 0];
        let fd = ok!(SYS_bpf, PROG_GET_FD_BY_ID, &mut attr, 4) as i32;
        let mut info = [0u32; 64];
        let at = info.as_mut_ptr() as u64;
        let mut attr = [fd as u64 | 232 << 32, at];
        ok!(SYS_bpf, OBJ_GET_INFO_BY_FD, &mut attr, 16);
        assert_eq!((info[0], info[1]), (TYPE_DEVICE, id));
        assert_eq!((info[5], info[16], info[21]), (16, u32::from_le_bytes(*b"test"), 1));
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        assert!(text.contains(&format!("prog_id:\t{id}\n")), "{text}");
        let mut attr = [id - 1, 0, 0, 0];
        ok!(SYS_bpf, PROG_GET_NEXT_ID, &mut attr, 12);
        assert_eq!(attr[1], id);
        fs::remove_dir(&below).unwrap();
        assert_eq!(change(PROG_ATTACH, &child, two, 0), Err(ENOENT));
    });
}
