//! Files in memory without a name, and seals.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "memfd", calls: "memfd_create", run: files },
    Case { name: "memfd-seals", calls: "memfd_create fcntl", run: seals },
    Case { name: "memfd-sealed-mappings", calls: "memfd_create mmap mprotect fork", run: mappings },
    Case { name: "memfd-exec", calls: "memfd_create execveat fchmod", run: exec },
];

const NOEXEC_SEAL: u32 = 8;
const EXEC: u32 = 16;
const SEAL_EXEC: i32 = 32;
const RW: i32 = PROT_READ | PROT_WRITE;

fn make(flags: u32) -> i32 {
    ok!(SYS_memfd_create, c"name", flags) as i32
}

fn add(fd: i32, seals: i32) -> Result<i64, i32> {
    sys!(SYS_fcntl, fd, F_ADD_SEALS, seals)
}

fn have(fd: i32) -> i64 {
    ok!(SYS_fcntl, fd, F_GET_SEALS)
}

fn files() {
    for flags in [EXEC | NOEXEC_SEAL, 32, 1 << 26] {
        assert_eq!(sys!(SYS_memfd_create, c"x", flags), Err(EINVAL), "{flags:#x}");
    }
    assert_eq!(sys!(SYS_memfd_create, 8, 0), Err(EFAULT));
    let long = [b"x".repeat(249), vec![0]].concat();
    ok!(SYS_memfd_create, &long[..], 0);
    let longer = [b"x".repeat(250), vec![0]].concat();
    assert_eq!(sys!(SYS_memfd_create, &longer[..], 0), Err(EINVAL));
    let fd = make(MFD_CLOEXEC);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD), i64::from(FD_CLOEXEC));
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL) & i64::from(O_ACCMODE), i64::from(O_RDWR));
    let mut st: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fstat, fd, &mut st);
    assert_eq!((st.st_mode, st.st_nlink, st.st_size), (S_IFREG | 0o777, 0, 0));
    let name = format!("/proc/self/fd/{fd}");
    assert_eq!(std::fs::read_link(&name).unwrap().to_str(), Some("/memfd:name (deleted)"));
    put(fd, b"hello");
    // Another open file of the same bytes.
    let text = std::ffi::CString::new(name).unwrap();
    let again = ok!(SYS_open, text.as_c_str(), O_RDONLY) as i32;
    assert_eq!(get(again, 8), b"hello");
    assert_eq!(sys!(SYS_write, again, c"x", 1), Err(EBADF));
    assert_eq!(add(again, F_SEAL_SHRINK), Err(EPERM));
    let at = ok!(SYS_mmap, 0, 4096, RW, MAP_SHARED, fd, 0) as *mut u8;
    unsafe { at.write(b'j') };
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(get(fd, 8), b"jello");
}

fn seals() {
    assert_eq!(have(make(0)), i64::from(F_SEAL_SEAL));
    assert_eq!(add(make(0), F_SEAL_GROW), Err(EPERM));
    let [pipe, _] = new_pipe();
    assert_eq!(sys!(SYS_fcntl, pipe, F_GET_SEALS), Err(EINVAL));
    let fd = make(MFD_ALLOW_SEALING);
    assert_eq!((have(fd), add(fd, 64)), (0, Err(EINVAL)));
    ok!(SYS_ftruncate, fd, 8192);
    assert_eq!(add(fd, F_SEAL_SHRINK), Ok(0));
    assert_eq!(sys!(SYS_ftruncate, fd, 4096), Err(EPERM));
    ok!(SYS_ftruncate, fd, 8192);
    ok!(SYS_ftruncate, fd, 8193);
    assert_eq!(add(fd, F_SEAL_GROW), Ok(0));
    assert_eq!(sys!(SYS_ftruncate, fd, 8194), Err(EPERM));
    assert_eq!(sys!(SYS_fallocate, fd, 0, 8192, 4096), Err(EPERM));
    // Whole pages that there are, none that would make it larger.
    assert_eq!(sys!(SYS_pwrite64, fd, c"xy", 2, 8192), Err(EPERM));
    assert_eq!(ok!(SYS_pwrite64, fd, &[1u8; 8192][..], 8192, 4096), 4096);
    assert_eq!(ok!(SYS_pwrite64, fd, c"x", 1, 8192), 1);
    assert_eq!(add(fd, F_SEAL_WRITE), Ok(0));
    assert_eq!(sys!(SYS_pwrite64, fd, c"x", 1, 0), Err(EPERM));
    let punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    assert_eq!(sys!(SYS_fallocate, fd, punch, 0, 4096), Err(EPERM));
    let text = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    assert_eq!(sys!(SYS_open, text.as_c_str(), O_RDWR | O_TRUNC), Err(EPERM));
    assert_eq!(add(fd, F_SEAL_SEAL), Ok(0));
    assert_eq!(add(fd, F_SEAL_FUTURE_WRITE), Err(EPERM));
    assert_eq!(have(fd), i64::from(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL));
    // Files of a tmpfs by name can't be sealed, and say so.
    let named = ok!(SYS_openat, AT_FDCWD, c"/dev/shm", O_TMPFILE | O_RDWR, 0o600) as i32;
    assert_eq!((have(named), add(named, F_SEAL_WRITE)), (i64::from(F_SEAL_SEAL), Err(EPERM)));
}

fn mappings() {
    let fd = make(MFD_ALLOW_SEALING);
    ok!(SYS_ftruncate, fd, 8192);
    let map = |prot: i32, kind: i32| sys!(SYS_mmap, 0, 8192, prot, kind, fd, 0);
    let at = map(RW, MAP_SHARED).unwrap();
    assert_eq!(add(fd, F_SEAL_WRITE), Err(EBUSY));
    // What is left of a mapping counts.
    ok!(SYS_munmap, at, 4096);
    assert_eq!(add(fd, F_SEAL_WRITE), Err(EBUSY));
    let [told, tell] = new_pipe();
    let [gone, go] = new_pipe();
    let child = spawn(|| {
        ok!(SYS_close, go);
        put(tell, b"x");
        i32::from(get(gone, 1).len() as u8)
    });
    get(told, 1);
    ok!(SYS_munmap, at + 4096, 4096);
    // The child has it still.
    assert_eq!(add(fd, F_SEAL_WRITE), Err(EBUSY));
    ok!(SYS_close, go);
    assert_eq!(reap(child), exited(0));
    // One that is only read now could be written to later; a private one never.
    let reads = map(PROT_READ, MAP_SHARED).unwrap();
    let private = map(RW, MAP_PRIVATE).unwrap();
    assert_eq!(add(fd, F_SEAL_WRITE), Err(EBUSY));
    ok!(SYS_munmap, reads, 8192);
    assert_eq!(add(fd, F_SEAL_WRITE), Ok(0));
    unsafe { (private as *mut u8).write(1) };
    assert_eq!(map(RW, MAP_SHARED), Err(EPERM));
    ok!(SYS_munmap, private, 8192);
    ok!(SYS_mmap, 0, 8192, RW, MAP_PRIVATE, fd, 0);

    let fd = make(MFD_ALLOW_SEALING);
    ok!(SYS_ftruncate, fd, 4096);
    let at = ok!(SYS_mmap, 0, 4096, RW, MAP_SHARED, fd, 0) as *mut u8;
    assert_eq!(add(fd, F_SEAL_FUTURE_WRITE), Ok(0));
    unsafe { at.write(7) };
    assert_eq!(sys!(SYS_write, fd, c"x", 1), Err(EPERM));
    assert_eq!(sys!(SYS_mmap, 0, 4096, RW, MAP_SHARED, fd, 0), Err(EPERM));
    let reads = ok!(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, fd, 0) as *mut u8;
    assert_eq!(unsafe { reads.read() }, 7);
    assert_eq!(sys!(SYS_mprotect, reads, 4096, RW), Err(EACCES));
}

fn exec() {
    let fd = make(NOEXEC_SEAL);
    let mut st: stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fstat, fd, &mut st);
    assert_eq!((st.st_mode, have(fd)), (S_IFREG | 0o666, i64::from(SEAL_EXEC)));
    assert_eq!(sys!(SYS_fchmod, fd, 0o700), Err(EPERM));
    ok!(SYS_fchmod, fd, 0o600);
    // Sealing what can be run seals what it is.
    let fd = make(EXEC | MFD_ALLOW_SEALING);
    put(fd, &std::fs::read("/bin/true").unwrap());
    assert_eq!(add(fd, SEAL_EXEC), Ok(0));
    let all = SEAL_EXEC | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
    assert_eq!(have(fd), i64::from(all));
    assert_eq!(sys!(SYS_fchmod, fd, 0o600), Err(EPERM));
    let argv = [c"true".as_ptr(), std::ptr::null()];
    let run = || sys!(SYS_execveat, fd, c"", argv.as_ptr(), 0, AT_EMPTY_PATH).unwrap_err();
    assert_eq!(in_child(run), exited(0));
    let text = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    assert_eq!(in_child(|| sys!(SYS_execve, text.as_c_str(), argv.as_ptr(), 0).unwrap_err()), exited(0));
}
