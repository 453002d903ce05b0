//! Memory.

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "mmap-anonymous", calls: "mmap munmap", run: anonymous },
    Case { name: "mmap-fixed", calls: "mmap", run: fixed },
    Case { name: "mmap-file", calls: "mmap msync", run: files },
    Case { name: "mmap-errors", calls: "mmap munmap mprotect", run: errors },
    Case { name: "mprotect", calls: "mprotect", run: protect },
    Case { name: "mremap", calls: "mremap", run: remap },
    Case { name: "brk", calls: "brk", run: brk },
    Case { name: "madvise", calls: "madvise mlock munlock", run: advise },
    Case { name: "copy-on-write", calls: "fork mmap", run: copy_on_write },
    Case { name: "shared-after-fork", calls: "fork mmap", run: shared_after_fork },
    Case { name: "file-end", calls: "mmap ftruncate", run: file_end },
    Case { name: "stack-grows", calls: "mmap", run: stack_grows },
];

/// Whether reading (or writing) a byte faults: tried in a child.
pub fn faults(at: *mut u8, write: bool) -> Option<i32> {
    let status = in_child(|| {
        unsafe {
            if write {
                at.write_volatile(1)
            } else {
                at.read_volatile();
            }
        }
        0
    });
    (status != 0).then_some(status & 0x7f)
}

fn anonymous() {
    let page = memory(3 * 4096);
    unsafe {
        assert_eq!(page.read(), 0);
        page.add(3 * 4096 - 1).write(7);
    }
    ok!(SYS_munmap, page.wrapping_add(4096), 4096);
    assert_eq!(faults(page.wrapping_add(4096), false), Some(SIGSEGV));
    assert_eq!(faults(page.wrapping_add(4095), true), None);
    assert_eq!(unsafe { page.add(3 * 4096 - 1).read() }, 7);
    ok!(SYS_munmap, page, 3 * 4096);
    assert_eq!(faults(page, false), Some(SIGSEGV));
    // A gigabyte that isn't touched costs nothing.
    let big = memory(1 << 30);
    unsafe { big.add(1 << 29).write(1) };
    ok!(SYS_munmap, big, 1 << 30);
}

fn fixed() {
    let page = memory(4 * 4096);
    unsafe { page.write_bytes(5, 4 * 4096) };
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    let middle = page.wrapping_add(4096);
    assert_eq!(ok!(SYS_mmap, middle, 4096, PROT_READ, flags | MAP_FIXED, -1, 0), middle as i64);
    unsafe { assert_eq!((page.read(), middle.read(), page.add(8192).read()), (5, 0, 5)) };
    assert_eq!(sys!(SYS_mmap, middle, 4096, PROT_READ, flags | MAP_FIXED_NOREPLACE, -1, 0), Err(EEXIST));
    // A hint is taken when the place is free.
    ok!(SYS_munmap, middle, 4096);
    assert_eq!(ok!(SYS_mmap, middle, 4096, PROT_READ, flags, -1, 0), middle as i64);
    assert_ne!(ok!(SYS_mmap, middle, 4096, PROT_READ, flags, -1, 0), middle as i64);
    assert_eq!(sys!(SYS_mmap, page.wrapping_add(1), 4096, PROT_READ, flags | MAP_FIXED, -1, 0), Err(EINVAL));
}

fn files() {
    let fd = file(c"f");
    put(fd, &[b'a'; 5000]);
    let shared = ok!(SYS_mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) as *mut u8;
    let private = ok!(SYS_mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) as *mut u8;
    unsafe {
        shared.write(b'S');
        assert_eq!(private.read(), b'S');
        private.add(1).write(b'P');
        assert_eq!(shared.add(1).read(), b'a');
        // Beyond the end, up to the page's, there are zeros.
        assert_eq!(shared.add(5001).read(), 0);
    }
    ok!(SYS_msync, shared, 8192, MS_SYNC);
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(get(fd, 3), b"Saa");
    ok!(SYS_pwrite64, fd, &b"W"[..], 1, 4096);
    assert_eq!(unsafe { shared.add(4096).read() }, b'W');
    ok!(SYS_munmap, shared, 8192);
    assert_eq!(sys!(SYS_msync, shared, 8192, MS_SYNC), Err(ENOMEM));
    assert_eq!(sys!(SYS_msync, private, 8192, MS_SYNC | MS_ASYNC), Err(EINVAL));
    assert_eq!(sys!(SYS_msync, private as u64 + 1, 8192, MS_SYNC), Err(EINVAL));
    let second = ok!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 4096) as *mut u8;
    assert_eq!(unsafe { second.read() }, b'W');
    // The mapping outlives the descriptor.
    ok!(SYS_close, fd);
    assert_eq!(unsafe { second.add(1).read() }, b'a');
}

fn errors() {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    assert_eq!(sys!(SYS_mmap, 0, 0, PROT_READ, flags, -1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_ANONYMOUS, -1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mmap, 0, 1u64 << 47, PROT_READ, flags, -1, 0), Err(ENOMEM));
    assert_eq!(sys!(SYS_mmap, 0, u64::MAX, PROT_READ, flags, -1, 0), Err(ENOMEM));
    assert_eq!(sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, 999, 0), Err(EBADF));
    assert_eq!(sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, file(c"f"), 1), Err(EINVAL));
    assert_eq!(sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, new_pipe()[0], 0), Err(ENODEV));
    let readonly = ok!(SYS_open, c"f", O_RDONLY) as i32;
    assert_eq!(sys!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, readonly, 0), Err(EACCES));
    ok!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, readonly, 0);
    let writeonly = ok!(SYS_open, c"f", O_WRONLY) as i32;
    assert_eq!(sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, writeonly, 0), Err(EACCES));
    assert_eq!(sys!(SYS_munmap, 1, 4096), Err(EINVAL));
    assert_eq!(sys!(SYS_munmap, 4096, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_munmap, 0, u64::MAX), Err(EINVAL));
    assert_eq!(sys!(SYS_munmap, 4096, 4096), Ok(0));
    assert_eq!(sys!(SYS_mprotect, 1, 4096, PROT_READ), Err(EINVAL));
    assert_eq!(sys!(SYS_mprotect, 4096, 4096, PROT_READ), Err(ENOMEM));
}

fn protect() {
    let page = memory(3 * 4096);
    unsafe { page.write_bytes(3, 3 * 4096) };
    ok!(SYS_mprotect, page.wrapping_add(4096), 4096, PROT_READ);
    assert_eq!(faults(page.wrapping_add(4096), true), Some(SIGSEGV));
    assert_eq!(faults(page.wrapping_add(4096), false), None);
    assert_eq!(faults(page.wrapping_add(8192), true), None);
    ok!(SYS_mprotect, page.wrapping_add(4096), 4096, PROT_NONE);
    assert_eq!(faults(page.wrapping_add(4096), false), Some(SIGSEGV));
    ok!(SYS_mprotect, page, 3 * 4096, PROT_READ | PROT_WRITE);
    assert_eq!(unsafe { page.add(4096).read() }, 3);
    // Code that is written, then run: mov eax, 42; ret.
    unsafe { page.copy_from([0xb8, 42, 0, 0, 0, 0xc3].as_ptr(), 6) };
    ok!(SYS_mprotect, page, 4096, PROT_READ | PROT_EXEC);
    let code: extern "C" fn() -> i32 = unsafe { std::mem::transmute(page) };
    assert_eq!(code(), 42);
    ok!(SYS_munmap, page.wrapping_add(8192), 4096);
    assert_eq!(sys!(SYS_mprotect, page, 3 * 4096, PROT_READ), Err(ENOMEM));
}

fn remap() {
    let page = memory(4 * 4096);
    unsafe { page.write_bytes(9, 2 * 4096) };
    // Shrinks in place.
    assert_eq!(ok!(SYS_mremap, page, 2 * 4096, 4096, 0), page as i64);
    assert_eq!(faults(page.wrapping_add(4096), false), Some(SIGSEGV));
    assert_eq!(sys!(SYS_mremap, page, 4096, 64 * 4096, 0), Err(ENOMEM));
    let moved = ok!(SYS_mremap, page, 4096, 64 * 4096, MREMAP_MAYMOVE) as *mut u8;
    unsafe { assert_eq!((moved.read(), moved.add(4096).read()), (9, 0)) };
    assert_eq!(faults(page, false), Some(SIGSEGV));
    let place = memory(8192);
    assert_eq!(ok!(SYS_mremap, moved, 4096, 8192, MREMAP_MAYMOVE | MREMAP_FIXED, place), place as i64);
    unsafe { assert_eq!((place.read(), place.add(4096).read()), (9, 0)) };
    assert_eq!(sys!(SYS_mremap, 1, 4096, 8192, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mremap, place, 4096, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mremap, place, 4096, 8192, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_mremap, place, 4096, 8192, MREMAP_FIXED, place), Err(EINVAL));
    assert_eq!(sys!(SYS_mremap, 4096, 4096, 8192, MREMAP_MAYMOVE), Err(EFAULT));
}

fn brk() {
    let status = in_child(|| {
        let start = ok!(SYS_brk, 0);
        let end = start + 3 * 4096 + 5;
        assert_eq!(ok!(SYS_brk, end), end);
        unsafe { (end as *mut u8).sub(1).write(4) };
        assert_eq!(ok!(SYS_brk, start), start);
        assert_eq!(ok!(SYS_brk, end), end);
        assert_eq!(unsafe { (end as *mut u8).sub(1).read() }, 0, "what comes back is zero");
        assert_eq!(ok!(SYS_brk, 4096), end, "below the start: nothing happens");
        assert_eq!(ok!(SYS_brk, 1i64 << 50), end);
        0
    });
    assert_eq!(status, 0);
}

fn advise() {
    let page = memory(8192);
    unsafe { page.write_bytes(9, 8192) };
    ok!(SYS_madvise, page, 4096, MADV_DONTNEED);
    unsafe { assert_eq!((page.read(), page.add(4096).read()), (0, 9)) };
    ok!(SYS_madvise, page, 8192, MADV_WILLNEED);
    assert_eq!(sys!(SYS_madvise, page as u64 + 1, 4096, MADV_DONTNEED), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, page, 4096, 9999), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, 4096, 4096, MADV_DONTNEED), Err(ENOMEM));
    let fd = file(c"f");
    put(fd, &[b'f'; 4096]);
    let private = ok!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) as *mut u8;
    unsafe { private.write(b'p') };
    ok!(SYS_madvise, private, 4096, MADV_DONTNEED);
    assert_eq!(unsafe { private.read() }, b'f');
    ok!(SYS_mlock, page, 4096);
    ok!(SYS_munlock, page, 4096);
    assert_eq!(sys!(SYS_mlock, 4096, 4096), Err(ENOMEM));
}

fn copy_on_write() {
    let page = memory(64 * 4096);
    unsafe { page.write_bytes(1, 64 * 4096) };
    let status = in_child(|| {
        for i in 0..64 {
            unsafe {
                assert_eq!(page.add(i * 4096).read(), 1);
                page.add(i * 4096).write(2);
            }
        }
        // The child's child sees the child's.
        in_child(|| i32::from(unsafe { page.add(4096).read() } != 2))
    });
    assert_eq!(status, 0);
    assert!((0..64).all(|i| unsafe { page.add(i * 4096).read() } == 1));
    let pid = spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        i32::from(unsafe { page.read() } != 1)
    });
    unsafe { page.write(3) };
    assert_eq!(reap(pid), 0);
}

fn shared_after_fork() {
    let page = map(8192, PROT_READ | PROT_WRITE, MAP_SHARED);
    assert_eq!(
        in_child(|| unsafe {
            page.add(4096).write(8);
            0
        }),
        0
    );
    assert_eq!(unsafe { page.add(4096).read() }, 8);
}

fn file_end() {
    let fd = file(c"f");
    put(fd, &[1; 100]);
    let page = ok!(SYS_mmap, 0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) as *mut u8;
    assert_eq!(faults(page.wrapping_add(4096), false), Some(SIGBUS));
    ok!(SYS_ftruncate, fd, 8192);
    assert_eq!(faults(page.wrapping_add(4096), true), None);
    assert_eq!(faults(page.wrapping_add(8192), true), Some(SIGBUS));
}

fn stack_grows() {
    #[inline(never)]
    fn deep(n: u64) -> u64 {
        let room = std::hint::black_box([n; 512]);
        if n == 0 { room[0] } else { deep(n - 1) + room[511] - n }
    }
    // About four megabytes, on the main thread of a child.
    assert_eq!(in_child(|| i32::try_from(deep(1000)).unwrap()), 0);
}
