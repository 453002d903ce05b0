//! Memory: advice, locks, limits, policies, and the rarer ways to map.

use libc::*;

use crate::Case;
use crate::cases::mem::faults;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "mmap-kinds", calls: "mmap", run: kinds },
    Case { name: "mmap-grows-down", calls: "mmap mprotect", run: grows_down },
    Case { name: "mremap-moves", calls: "mremap", run: moves },
    Case { name: "remap-file-pages", calls: "remap_file_pages", run: file_pages },
    Case { name: "madvise-fork", calls: "madvise fork", run: across_fork },
    Case { name: "madvise-kinds", calls: "madvise", run: advice },
    Case { name: "madvise-guards", calls: "madvise", run: guards },
    Case { name: "mlock", calls: "mlock mlock2 munlock mlockall munlockall msync", run: locks },
    Case { name: "mincore", calls: "mincore", run: residency },
    Case { name: "memory-limits", calls: "prlimit64 mmap brk", run: limits },
    Case { name: "mseal", calls: "mseal", run: seals },
    Case { name: "pkeys", calls: "pkey_alloc pkey_free pkey_mprotect", run: keys },
    Case {
        name: "mempolicy",
        calls: "set_mempolicy get_mempolicy mbind set_mempolicy_home_node migrate_pages move_pages",
        run: policies,
    },
    Case { name: "memory-in-proc", calls: "openat", run: in_proc },
    Case { name: "munmap-while-reading", calls: "munmap pread64", run: unmapped_under_a_read },
];

const ANON: i32 = MAP_PRIVATE | MAP_ANONYMOUS;
const RW: i32 = PROT_READ | PROT_WRITE;

fn page(base: *mut u8, index: usize) -> *mut u8 {
    base.wrapping_add(index * 4096)
}

fn kinds() {
    let low = ok!(SYS_mmap, 0, 4096, RW, ANON | MAP_32BIT, -1, 0);
    assert!(low < 1 << 31, "{low:#x}");
    assert_eq!(sys!(SYS_mmap, 0, 4096, RW, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0), Err(EINVAL));
    let fd = file(c"f");
    put(fd, &[1; 8192]);
    assert_eq!(sys!(SYS_mmap, 0, 4096, RW, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_mmap, 0, 4096, RW, MAP_SHARED_VALIDATE | 0x40_0000, fd, 0), Err(EOPNOTSUPP));
    ok!(SYS_mmap, 0, 4096, RW, MAP_SHARED | 0x40_0000, fd, 0);
    ok!(SYS_mmap, 0, 4096, RW, MAP_SHARED_VALIDATE, fd, 0);
    assert_eq!(sys!(SYS_mmap, 0, 4096, RW, MAP_SHARED | MAP_GROWSDOWN, fd, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mmap, 0, 1 << 21, RW, ANON | MAP_HUGETLB, -1, 0), Err(ENOMEM));
    // Bits of protection that mean nothing.
    ok!(SYS_mmap, 0, 4096, RW | 0x100, ANON, -1, 0);
    // More than there is, unless nobody means to use it.
    assert_eq!(sys!(SYS_mmap, 0, 1i64 << 45, RW, ANON, -1, 0), Err(ENOMEM));
    let big = ok!(SYS_mmap, 0, 1i64 << 45, RW, ANON | MAP_NORESERVE, -1, 0) as *mut u8;
    unsafe { big.add(1 << 44).write(1) };
    ok!(SYS_munmap, big, 1i64 << 45);
    for flags in [MAP_POPULATE, MAP_LOCKED, MAP_STACK] {
        let at = ok!(SYS_mmap, 0, 4 * 4096, RW, ANON | flags, -1, 0) as *mut u8;
        unsafe {
            assert_eq!(page(at, 3).read(), 0);
            page(at, 3).write(1);
        }
    }
    let at = ok!(SYS_mmap, 0, 8192, RW, MAP_PRIVATE | MAP_POPULATE, fd, 0) as *mut u8;
    unsafe {
        page(at, 1).write(2);
        assert_eq!((at.read(), page(at, 1).read()), (1, 2));
    }
    // A file that was opened for reading can't be made writable behind its back.
    let read_only = ok!(SYS_openat, AT_FDCWD, c"f", O_RDONLY) as i32;
    let at = ok!(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, read_only, 0);
    assert_eq!(sys!(SYS_mprotect, at, 4096, RW), Err(EACCES));
    let zero = ok!(SYS_openat, AT_FDCWD, c"/dev/zero", O_RDWR) as i32;
    for kind in [MAP_PRIVATE, MAP_SHARED] {
        let at = ok!(SYS_mmap, 0, 8192, RW, kind, zero, 0) as *mut u8;
        unsafe { at.write(1) };
        let status = in_child(|| unsafe {
            at.write(2);
            i32::from(page(at, 1).read())
        });
        assert_eq!((status, unsafe { at.read() }), (0, if kind == MAP_SHARED { 2 } else { 1 }));
    }
}

fn grows_down() {
    let base = memory(4 << 20);
    ok!(SYS_munmap, base, 4 << 20);
    let top = page(base, 1000);
    let at = ok!(SYS_mmap, top, 4096, RW, ANON | MAP_GROWSDOWN | MAP_FIXED, -1, 0) as *mut u8;
    assert_eq!(at, top);
    // Page by page, as a stack is used.
    for i in (900..1000).rev() {
        unsafe { page(base, i).write(i as u8) };
    }
    assert_eq!(unsafe { page(base, 900).read() }, 900u16 as u8);
    // Something below keeps its distance.
    ok!(SYS_mmap, page(base, 500), 4096, RW, ANON | MAP_FIXED, -1, 0);
    assert_eq!(faults(page(base, 501 + 255), true), Some(SIGSEGV));
    assert_eq!(faults(page(base, 501 + 256), true), None);
    ok!(SYS_mprotect, top, 4096, PROT_READ | PROT_GROWSDOWN);
    assert_eq!(faults(page(base, 950), true), Some(SIGSEGV));
    assert_eq!(faults(page(base, 950), false), None);
    assert_eq!(sys!(SYS_mprotect, memory(4096), 4096, PROT_READ | PROT_GROWSDOWN), Err(EINVAL));
    assert_eq!(sys!(SYS_mprotect, top, 4096, PROT_READ | PROT_GROWSUP), Err(EINVAL));
}

fn moves() {
    const DONTUNMAP: i32 = 4;
    let at = memory(4 * 4096);
    unsafe { at.write_bytes(7, 4 * 4096) };
    let to = ok!(SYS_mremap, at, 4 * 4096, 4 * 4096, MREMAP_MAYMOVE | DONTUNMAP, 0) as *mut u8;
    unsafe { assert_eq!((at.read(), to.read(), page(to, 3).read()), (0, 7, 7)) };
    unsafe { at.write(1) };
    assert_eq!(unsafe { to.read() }, 7);
    assert_eq!(sys!(SYS_mremap, to, 4096, 8192, MREMAP_MAYMOVE | DONTUNMAP, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mremap, to, 4096, 4096, DONTUNMAP, 0), Err(EINVAL));
    // The middle of a mapping, to a given place that is smaller.
    let place = memory(4 * 4096);
    let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    assert_eq!(ok!(SYS_mremap, page(to, 1), 2 * 4096, 4096, flags, page(place, 1)), page(place, 1) as i64);
    unsafe { assert_eq!((place.read(), page(place, 1).read(), page(place, 2).read()), (0, 7, 0)) };
    assert_eq!(faults(page(to, 2), false), Some(SIGSEGV));
    assert_eq!(unsafe { page(to, 3).read() }, 7);
    assert_eq!(sys!(SYS_mremap, place, 8192, 8192, flags, page(place, 1)), Err(EINVAL));
    assert_eq!(sys!(SYS_mremap, place, 8192, 8192, flags, place as u64 + 1), Err(EINVAL));
    // Shared memory, a second time.
    let shared = map(8192, RW, MAP_SHARED);
    unsafe { shared.write(5) };
    let again = ok!(SYS_mremap, shared, 0, 8192, MREMAP_MAYMOVE) as *mut u8;
    unsafe {
        assert_eq!(again.read(), 5);
        again.write(6);
        assert_eq!(shared.read(), 6);
    }
    assert_eq!(sys!(SYS_mremap, memory(4096), 0, 4096, MREMAP_MAYMOVE), Err(EINVAL));
    // Grows where it is, if there is room, and with it what is beyond its end.
    let wide = memory(8 * 4096);
    ok!(SYS_munmap, page(wide, 2), 6 * 4096);
    assert_eq!(ok!(SYS_mremap, wide, 2 * 4096, 8 * 4096, 0), wide as i64);
    unsafe { page(wide, 7).write(1) };
    // Shrinking takes what is there, whatever it is.
    ok!(SYS_mmap, page(wide, 4), 4096, PROT_READ, ANON | MAP_FIXED, -1, 0);
    assert_eq!(ok!(SYS_mremap, wide, 8 * 4096, 4096, 0), wide as i64);
    assert_eq!(faults(page(wide, 4), false), Some(SIGSEGV));
}

fn file_pages() {
    let fd = file(c"f");
    for i in 0..4u8 {
        put(fd, &[i; 4096]);
    }
    let at = ok!(SYS_mmap, 0, 4 * 4096, RW, MAP_SHARED, fd, 0) as *mut u8;
    ok!(SYS_remap_file_pages, at, 4096, 0, 3, 0);
    ok!(SYS_remap_file_pages, page(at, 3), 4096, 0, 0, 0);
    let seen: Vec<u8> = (0..4).map(|i| unsafe { page(at, i).read() }).collect();
    assert_eq!(seen, [3, 1, 2, 0]);
    assert_eq!(sys!(SYS_remap_file_pages, at, 4096, PROT_READ, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_remap_file_pages, memory(4096), 4096, 0, 0, 0), Err(EINVAL));
}

fn across_fork() {
    let at = memory(4 * 4096);
    unsafe { at.write_bytes(9, 4 * 4096) };
    ok!(SYS_madvise, page(at, 1), 4096, MADV_DONTFORK);
    ok!(SYS_madvise, page(at, 2), 4096, MADV_WIPEONFORK);
    let status = in_child(|| {
        assert_eq!(faults(page(at, 1), false), Some(SIGSEGV));
        unsafe { i32::from((at.read(), page(at, 2).read(), page(at, 3).read()) != (9, 0, 9)) }
    });
    assert_eq!(status, 0);
    assert!((0..4).all(|i| unsafe { page(at, i).read() } == 9));
    ok!(SYS_madvise, page(at, 1), 4096, MADV_DOFORK);
    ok!(SYS_madvise, page(at, 2), 4096, MADV_KEEPONFORK);
    assert_eq!(in_child(|| i32::from((0..4).any(|i| unsafe { page(at, i).read() } != 9))), 0);
    let shared = map(4096, RW, MAP_SHARED);
    assert_eq!(sys!(SYS_madvise, shared, 4096, MADV_WIPEONFORK), Err(EINVAL));
    ok!(SYS_madvise, shared, 4096, MADV_DONTFORK);
    assert_eq!(in_child(|| i32::from(faults(shared, false) != Some(SIGSEGV))), 0);
    // Memory that a child shares until somebody writes, given back by one of them.
    let pid = spawn(|| {
        std::thread::sleep(std::time::Duration::from_millis(30));
        i32::from(unsafe { at.read() } != 9)
    });
    ok!(SYS_madvise, at, 4096, MADV_DONTNEED);
    assert_eq!(unsafe { at.read() }, 0);
    assert_eq!(reap(pid), 0);
}

fn advice() {
    let at = memory(4 * 4096);
    unsafe { at.write_bytes(9, 4 * 4096) };
    for kind in [MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_COLD, MADV_DONTDUMP, MADV_DODUMP] {
        ok!(SYS_madvise, at, 4 * 4096, kind);
    }
    assert_eq!(unsafe { at.read() }, 9);
    ok!(SYS_madvise, at, 4096, MADV_FREE);
    assert!([0, 9].contains(&unsafe { at.read() }));
    unsafe { at.write(3) };
    assert_eq!(unsafe { at.read() }, 3);
    // A hole is told of, but what is there is done.
    ok!(SYS_munmap, page(at, 1), 4096);
    assert_eq!(sys!(SYS_madvise, at, 4 * 4096, MADV_DONTNEED), Err(ENOMEM));
    assert_eq!(unsafe { page(at, 3).read() }, 0);
    assert_eq!(sys!(SYS_madvise, 0, u64::MAX - 100, MADV_DONTNEED), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, at, 0, MADV_DONTNEED), Ok(0));
    let fd = file(c"f");
    put(fd, &[5; 3 * 4096]);
    let shared = ok!(SYS_mmap, 0, 3 * 4096, RW, MAP_SHARED, fd, 0) as *mut u8;
    ok!(SYS_madvise, page(shared, 1), 4096, MADV_REMOVE);
    let mut byte = [9u8];
    ok!(SYS_pread64, fd, byte.as_mut_ptr(), 1, 4096);
    assert_eq!((byte[0], unsafe { page(shared, 1).read() }, unsafe { shared.read() }), (0, 0, 5));
    let private = ok!(SYS_mmap, 0, 3 * 4096, RW, MAP_PRIVATE, fd, 0) as *mut u8;
    assert_eq!(sys!(SYS_madvise, private, 4096, MADV_REMOVE), Err(EACCES));
    assert_eq!(sys!(SYS_madvise, at, 4096, MADV_REMOVE), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, private, 4096, MADV_FREE), Err(EINVAL));
    unsafe { page(private, 2).write(1) };
    ok!(SYS_madvise, private, 3 * 4096, MADV_DONTNEED);
    assert_eq!(unsafe { page(private, 2).read() }, 5);
    // Bringing in.
    ok!(SYS_madvise, page(at, 2), 4096, MADV_POPULATE_WRITE);
    ok!(SYS_madvise, private, 4096, MADV_POPULATE_READ);
    assert_eq!(sys!(SYS_madvise, at, 4 * 4096, MADV_POPULATE_READ), Err(ENOMEM));
    ok!(SYS_mprotect, private, 4096, PROT_NONE);
    assert_eq!(sys!(SYS_madvise, private, 4096, MADV_POPULATE_READ), Err(EINVAL));
    ok!(SYS_mprotect, private, 4096, PROT_READ);
    assert_eq!(sys!(SYS_madvise, private, 4096, MADV_POPULATE_WRITE), Err(EINVAL));
    let beyond = ok!(SYS_mmap, 0, 8 * 4096, RW, MAP_SHARED, fd, 0);
    assert_eq!(sys!(SYS_madvise, beyond, 8 * 4096, MADV_POPULATE_READ), Err(EFAULT));
}

fn guards() {
    const INSTALL: i32 = 102;
    const REMOVE: i32 = 103;
    let at = memory(4 * 4096);
    unsafe { at.write_bytes(9, 4 * 4096) };
    if sys!(SYS_madvise, page(at, 1), 4096, INSTALL) == Err(EINVAL) {
        skip("the host has no guards");
    }
    assert_eq!(faults(page(at, 1), false), Some(SIGSEGV));
    assert_eq!(faults(page(at, 2), true), None);
    assert_eq!(sys!(SYS_write, new_pipe()[1], page(at, 1), 1), Err(EFAULT));
    // Nothing but their removal takes them away.
    ok!(SYS_madvise, at, 4 * 4096, MADV_DONTNEED);
    ok!(SYS_mprotect, at, 4 * 4096, PROT_READ);
    ok!(SYS_mprotect, at, 4 * 4096, RW);
    assert_eq!(faults(page(at, 1), true), Some(SIGSEGV));
    let lines = |at: *mut u8| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains(&format!("{:x}", at as usize))).count()
    };
    assert_eq!(lines(page(at, 1)), 0, "a guard is no mapping of its own");
    ok!(SYS_madvise, at, 4 * 4096, REMOVE);
    assert_eq!(unsafe { page(at, 1).read() }, 0);
}

/// Whether a page is locked: MS_INVALIDATE says so.
fn locked(at: *mut u8) -> bool {
    match sys!(SYS_msync, at, 4096, MS_ASYNC | MS_INVALIDATE) {
        Ok(_) => false,
        Err(errno) => {
            assert_eq!(errno, EBUSY);
            true
        }
    }
}

fn locks() {
    let at = memory(4 * 4096);
    ok!(SYS_mlock, at as u64 + 100, 100);
    assert_eq!((locked(at), locked(page(at, 1))), (true, false));
    assert_eq!(sys!(SYS_madvise, at, 4096, MADV_DONTNEED), Err(EINVAL));
    ok!(SYS_munlock, at, 4096);
    ok!(SYS_mlock2, at, 8192, MLOCK_ONFAULT);
    assert!(locked(page(at, 1)));
    assert_eq!(sys!(SYS_mlock2, at, 8192, 2), Err(EINVAL));
    assert_eq!(in_child(|| i32::from(locked(page(at, 1)))), 0, "locks are not inherited");
    let none = map(4096, PROT_NONE, MAP_PRIVATE);
    assert_eq!(sys!(SYS_mlock, none, 4096), Err(ENOMEM));
    assert!(locked(none));
    ok!(SYS_munmap, page(at, 2), 4096);
    assert_eq!(sys!(SYS_mlock, page(at, 1), 3 * 4096), Err(ENOMEM));
    for flags in [0, 8, MCL_ONFAULT] {
        assert_eq!(sys!(SYS_mlockall, flags), Err(EINVAL));
    }
    let status = in_child(|| {
        ok!(SYS_mlockall, MCL_FUTURE);
        let later = memory(4096);
        assert!(locked(later));
        ok!(SYS_munlockall);
        assert!(!locked(later) && !locked(memory(4096)));
        // Without the right to lock more than allowed.
        set_limit(RLIMIT_MEMLOCK, 8192);
        assert_eq!(unsafe { setresuid(1000, 1000, 1000) }, 0);
        let some = memory(4 * 4096);
        assert_eq!(sys!(SYS_mlock, some, 3 * 4096), Err(ENOMEM));
        ok!(SYS_mlock, some, 8192);
        ok!(SYS_mlock, some, 8192);
        assert_eq!(sys!(SYS_mmap, 0, 4096, RW, ANON | MAP_LOCKED, -1, 0), Err(EAGAIN));
        assert_eq!(sys!(SYS_mremap, some, 8192, 64 * 4096, MREMAP_MAYMOVE), Err(EAGAIN));
        assert_eq!(sys!(SYS_mlockall, MCL_CURRENT), Err(ENOMEM));
        set_limit(RLIMIT_MEMLOCK, 0);
        assert_eq!(sys!(SYS_mlock, some, 4096), Err(EPERM));
        assert_eq!(sys!(SYS_mmap, 0, 4096, RW, ANON | MAP_LOCKED, -1, 0), Err(EPERM));
        0
    });
    assert_eq!(status, 0);
}

fn set_limit(resource: __rlimit_resource_t, bytes: u64) {
    let limit = rlimit { rlim_cur: bytes, rlim_max: bytes };
    assert_eq!(unsafe { setrlimit(resource, &limit) }, 0);
}

fn residency() {
    let at = memory(4 * 4096);
    unsafe { page(at, 1).write(1) };
    let mut present = [9u8; 4];
    ok!(SYS_mincore, at, 4 * 4096, present.as_mut_ptr());
    assert_eq!(present.map(|byte| byte & 1), [0, 1, 0, 0]);
    ok!(SYS_madvise, page(at, 1), 4096, MADV_DONTNEED);
    ok!(SYS_mlock, page(at, 2), 8192);
    ok!(SYS_mincore, at, 4 * 4096, present.as_mut_ptr());
    assert_eq!(present.map(|byte| byte & 1), [0, 0, 1, 1]);
    let fd = file(c"f");
    put(fd, &[1; 4096]);
    let shared = ok!(SYS_mmap, 0, 4096, RW, MAP_SHARED, fd, 0);
    ok!(SYS_mincore, shared, 1, present.as_mut_ptr());
    assert_eq!(present[0] & 1, 1);
    assert_eq!(sys!(SYS_mincore, at as u64 + 1, 4096, present.as_mut_ptr()), Err(EINVAL));
    assert_eq!(sys!(SYS_mincore, at, 4096, 0), Err(EFAULT));
    ok!(SYS_munmap, at, 4096);
    assert_eq!(sys!(SYS_mincore, at, 8192, present.as_mut_ptr()), Err(ENOMEM));
}

fn limits() {
    let status = in_child(|| {
        set_limit(RLIMIT_AS, 1 << 30);
        assert_eq!(sys!(SYS_mmap, 0, 2i64 << 30, PROT_NONE, ANON, -1, 0), Err(ENOMEM));
        let at = memory(4096);
        assert_eq!(sys!(SYS_mremap, at, 4096, 2i64 << 30, MREMAP_MAYMOVE), Err(ENOMEM));
        0
    });
    assert_eq!(status, 0);
    let status = in_child(|| {
        set_limit(RLIMIT_DATA, 4 << 20);
        assert_eq!(sys!(SYS_mmap, 0, 64 << 20, RW, ANON, -1, 0), Err(ENOMEM));
        let at = ok!(SYS_mmap, 0, 64 << 20, PROT_READ, ANON, -1, 0);
        assert_eq!(sys!(SYS_mprotect, at, 64 << 20, RW), Err(ENOMEM));
        ok!(SYS_mmap, 0, 64 << 20, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        let end = ok!(SYS_brk, 0);
        assert_eq!(ok!(SYS_brk, end + (64 << 20)), end);
        0
    });
    assert_eq!(status, 0);
    // A stack that may grow less.
    #[inline(never)]
    fn deep(n: u64) -> u64 {
        let room = std::hint::black_box([n; 512]);
        if n == 0 { room[0] } else { deep(n - 1) + room[511] - n }
    }
    let status = in_child(|| {
        set_limit(RLIMIT_STACK, 1 << 20);
        deep(1000) as i32
    });
    assert_eq!(status & 0x7f, SIGSEGV);
}

fn seals() {
    const MSEAL: i64 = 462;
    let at = memory(3 * 4096);
    if sys!(MSEAL, page(at, 1), 4096, 0) == Err(ENOSYS) {
        skip("the host has no mseal");
    }
    assert_eq!(sys!(SYS_munmap, at, 3 * 4096), Err(EPERM));
    assert_eq!(sys!(SYS_mprotect, page(at, 1), 4096, PROT_READ), Err(EPERM));
    assert_eq!(sys!(SYS_mremap, page(at, 1), 4096, 8192, MREMAP_MAYMOVE), Err(EPERM));
    assert_eq!(sys!(SYS_mmap, page(at, 1), 4096, RW, ANON | MAP_FIXED, -1, 0), Err(EPERM));
    unsafe { page(at, 1).write(1) };
    ok!(SYS_munmap, page(at, 2), 4096);
    assert_eq!(sys!(MSEAL, at as u64 + 1, 4096, 0), Err(EINVAL));
    assert_eq!(sys!(MSEAL, at, 4096, 1), Err(EINVAL));
    assert_eq!(sys!(MSEAL, page(at, 1), 8192, 0), Err(ENOMEM));
}

fn keys() {
    if sys!(SYS_pkey_alloc, 0, 0).is_ok() {
        skip("this CPU has protection keys");
    }
    assert!([Err(EINVAL), Err(ENOSPC)].contains(&sys!(SYS_pkey_alloc, 0, 0)));
    assert_eq!(sys!(SYS_pkey_free, 1), Err(EINVAL));
    let at = memory(4096);
    ok!(SYS_pkey_mprotect, at, 4096, PROT_READ, -1);
    assert_eq!(faults(at, true), Some(SIGSEGV));
    assert_eq!(sys!(SYS_pkey_mprotect, at, 4096, PROT_READ, 1), Err(EINVAL));
}

fn policies() {
    const NODE: i32 = 1;
    const ADDR: i32 = 2;
    const MEMS_ALLOWED: i32 = 4;
    let (mut mode, mut nodes) = (9i32, 0u64);
    if sys!(SYS_get_mempolicy, &mut mode, &mut nodes, 64, 0, 0) == Err(ENOSYS) {
        skip("the host has no NUMA policies");
    }
    assert_eq!((mode, nodes), (MPOL_DEFAULT, 0));
    ok!(SYS_get_mempolicy, 0, &mut nodes, 64, 0, MEMS_ALLOWED);
    assert_ne!(nodes & 1, 0);
    nodes = 1;
    ok!(SYS_set_mempolicy, MPOL_BIND, &mut nodes, 64);
    nodes = 0;
    ok!(SYS_get_mempolicy, &mut mode, &mut nodes, 64, 0, 0);
    assert_eq!((mode, nodes), (MPOL_BIND, 1));
    assert_eq!(in_child(|| ok!(SYS_get_mempolicy, &mut mode, 0, 0, 0, 0) as i32 + mode - MPOL_BIND), 0);
    assert_eq!(sys!(SYS_set_mempolicy, 99, &mut nodes, 64), Err(EINVAL));
    assert_eq!(sys!(SYS_set_mempolicy, MPOL_BIND, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_set_mempolicy, MPOL_DEFAULT, &mut nodes, 64), Err(EINVAL));
    ok!(SYS_set_mempolicy, MPOL_DEFAULT, 0, 0);
    assert_eq!(sys!(SYS_get_mempolicy, &mut mode, 0, 0, 0, NODE), Err(EINVAL));
    let at = memory(8192);
    ok!(SYS_mbind, at, 4096, MPOL_PREFERRED, &mut nodes, 64, 0);
    ok!(SYS_get_mempolicy, &mut mode, 0, 0, at, ADDR);
    assert_eq!(mode, MPOL_PREFERRED);
    ok!(SYS_get_mempolicy, &mut mode, 0, 0, page(at, 1), ADDR);
    assert_eq!(mode, MPOL_DEFAULT);
    assert_eq!(sys!(SYS_mbind, at as u64 + 1, 4096, MPOL_BIND, &mut nodes, 64, 0), Err(EINVAL));
    ok!(SYS_mbind, at, 4096, MPOL_BIND, &mut nodes, 64, 0);
    let home = sys!(SYS_set_mempolicy_home_node, at, 4096, 0, 0);
    assert!([Ok(0), Err(ENOSYS)].contains(&home), "{home:?}");
    assert_eq!(sys!(SYS_set_mempolicy_home_node, at, 4096, 0, 1), home.map_or(Err(ENOSYS), |_| Err(EINVAL)));
    ok!(SYS_migrate_pages, 0, 64, &mut nodes, &mut nodes);
    unsafe { at.write(1) };
    let (mut pages, mut status) = ([at as u64, page(at, 1) as u64], [9i32; 2]);
    ok!(SYS_move_pages, 0, 2, &mut pages, 0, &mut status, 0);
    assert_eq!(status, [0, -ENOENT]);
}

fn in_proc() {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        lines.filter_map(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).sum::<u64>()
    };
    let (size, data, locked) = (field("status", "VmSize"), field("status", "VmData"), field("status", "VmLck"));
    let resident = field("status", "RssAnon");
    let at = memory(32 << 20);
    // Whoever helps this program along may map a little as well.
    let about = |more: u64, expected: u64| assert!((expected..expected + 64).contains(&more), "{more}");
    about(field("status", "VmSize") - size, 32 << 10);
    about(field("status", "VmData") - data, 32 << 10);
    assert!(field("status", "RssAnon") < resident + 1024, "what isn't touched isn't there");
    unsafe { at.write_bytes(1, 16 << 20) };
    let more = field("status", "RssAnon") - resident;
    assert!((16 << 10..20 << 10).contains(&more), "{more}");
    assert!(field("status", "VmHWM") >= field("status", "VmRSS"));
    ok!(SYS_mlock, at, 1 << 20);
    assert_eq!(field("status", "VmLck") - locked, 1 << 10);
    let rss = field("smaps", "Rss");
    assert!(rss >= 16 << 10 && field("smaps_rollup", "Anonymous") >= 16 << 10);
    ok!(SYS_munmap, at, 32 << 20);
    about(field("status", "VmSize") - size, 0);
    assert!(field("status", "VmPeak") >= size + (32 << 10));
    assert!(field("smaps", "Rss") + (12 << 10) < rss);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    about(pages * 4 - size, 0);
}

/// One thread reads into memory that another keeps taking away and bringing back: what was there before must be nobody else's yet.
fn unmapped_under_a_read() {
    let fd = file(c"f");
    put(fd, &[0xee; 64 << 10]);
    let spare = file(c"g");
    put(spare, &[1; 64 << 10]);
    let at = memory(64 << 10);
    let elsewhere = memory(64 << 10);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (base, elsewhere) = (at as usize, elsewhere as usize);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let done = sys!(SYS_pread64, fd, base, 64 << 10, 0);
                assert!(done.is_ok() || done == Err(EFAULT), "{done:?}");
            }
        });
        for round in 0..300 {
            ok!(SYS_munmap, base, 64 << 10);
            // Most likely the frames that have just been given up.
            let other = ok!(SYS_mmap, elsewhere, 64 << 10, RW, ANON | MAP_FIXED, -1, 0) as *mut u8;
            unsafe { other.write_bytes(7, 64 << 10) };
            let source = if round % 2 == 0 { -1 } else { spare };
            let kind = if round % 2 == 0 { ANON } else { MAP_SHARED };
            ok!(SYS_mmap, base, 64 << 10, RW, kind | MAP_FIXED, source, 0);
            assert!((0..64 << 10).all(|i| unsafe { other.add(i).read() } == 7), "round {round}");
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
