//! Restartable sequences (rseq(2)).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

use libc::*;

use crate::Case;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "rseq-register", calls: "rseq", run: register },
    Case { name: "rseq-inherit", calls: "rseq fork clone", run: inherit },
    Case { name: "rseq-forks-and-threads", calls: "rseq fork exit", run: forks_and_threads },
    Case { name: "rseq-sequence", calls: "rseq", run: sequence },
    Case { name: "rseq-area-gone", calls: "rseq munmap", run: area_gone },
];

const SIGNATURE: u32 = 0x5305_3053;
const LEN: u32 = 32;
const UNREGISTER: u32 = 1;

unsafe extern "C" {
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

/// `struct rseq` as it first was.
#[repr(C, align(32))]
struct Area {
    cpu_id_start: AtomicU32,
    cpu_id: AtomicU32,
    sequence: AtomicU64,
    flags: u32,
}

/// The area that the C library has registered for this thread.
fn of_libc() -> Option<&'static Area> {
    let (offset, size) = unsafe { (__rseq_offset, __rseq_size) };
    let thread: *const u8;
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) thread) };
    (size != 0).then(|| unsafe { &*thread.offset(offset).cast() })
}

/// This thread without the C library's area.
fn free_thread() {
    if let Some(area) = of_libc() {
        ok!(SYS_rseq, std::ptr::from_ref(area), LEN, UNREGISTER, SIGNATURE);
    }
}

/// An area on a page of its own.
fn area() -> &'static Area {
    unsafe { &*memory(4096).cast() }
}

fn is_cpu(area: &Area) -> bool {
    let cpus = unsafe { sysconf(_SC_NPROCESSORS_CONF) } as u32;
    area.cpu_id.load(Relaxed) < cpus && area.cpu_id_start.load(Relaxed) < cpus
}

fn rseq(area: &Area, len: u32, flags: u32, signature: u32) -> Result<i64, i32> {
    sys!(SYS_rseq, std::ptr::from_ref(area), len, flags, signature)
}

fn register() {
    free_thread();
    let (one, other) = (area(), area());
    assert_eq!(rseq(one, LEN, UNREGISTER, SIGNATURE), Err(EINVAL));
    assert_eq!(rseq(one, LEN, 2, SIGNATURE), Err(EINVAL));
    assert_eq!(rseq(one, 31, 0, SIGNATURE), Err(EINVAL));
    assert_eq!(sys!(SYS_rseq, std::ptr::from_ref(one) as usize + 8, LEN, 0, SIGNATURE), Err(EINVAL));
    assert_eq!(sys!(SYS_rseq, 1u64 << 63, LEN, 0, SIGNATURE), Err(EFAULT));
    assert_eq!(rseq(one, LEN, 0, SIGNATURE), Ok(0));
    assert!(is_cpu(one));
    assert_eq!(rseq(one, LEN, 0, SIGNATURE), Err(EBUSY));
    assert_eq!(rseq(one, LEN, 0, 1), Err(EPERM));
    assert_eq!(rseq(other, LEN, 0, SIGNATURE), Err(EINVAL));
    assert_eq!(rseq(other, LEN, UNREGISTER, SIGNATURE), Err(EINVAL));
    assert_eq!(rseq(one, LEN, UNREGISTER, 1), Err(EPERM));
    assert_eq!(rseq(one, LEN, UNREGISTER | 2, SIGNATURE), Err(EINVAL));
    assert_eq!(rseq(one, LEN, UNREGISTER, SIGNATURE), Ok(0));
    assert_eq!(one.cpu_id.load(Relaxed), u32::MAX, "RSEQ_CPU_ID_UNINITIALIZED");
    assert_eq!(rseq(other, LEN, 0, SIGNATURE), Ok(0));
    assert!(is_cpu(other));
}

fn inherit() {
    free_thread();
    let area = area();
    assert_eq!(rseq(area, LEN, 0, SIGNATURE), Ok(0));
    for _ in 0..20 {
        let status = in_child(|| {
            let registered = rseq(area, LEN, 0, SIGNATURE) == Err(EBUSY);
            area.cpu_id.store(77, Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(1));
            // In its own child, too; and that has a page of its own.
            let grandchild = in_child(|| i32::from(!is_cpu(area)));
            i32::from(!registered || grandchild != 0)
        });
        assert_eq!(status, 0);
        assert!(is_cpu(area));
    }
    // A new thread begins without; the C library registers one only where its creator has the C library's.
    let free = std::thread::spawn(|| rseq(crate::cases::rseq::area(), LEN, 0, SIGNATURE));
    assert_eq!(free.join().unwrap(), Ok(0));
}

fn forks_and_threads() {
    // Threads' areas lie on their stacks, which go with them; forks copy what lies beside.
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut turns = 0u64;
                while stop.load(Relaxed) == 0 {
                    turns = std::hint::black_box(turns + 1);
                }
                assert!(of_libc().is_none_or(is_cpu));
            });
        }
        for i in 0..60 {
            assert_eq!(in_child(|| i32::from(!of_libc().is_none_or(is_cpu))), 0);
            let size = 1 << (17 + i % 4);
            let thread = std::thread::Builder::new().stack_size(size).spawn(|| of_libc().is_none_or(is_cpu)).unwrap();
            assert!(thread.join().unwrap());
        }
        stop.store(1, Relaxed);
    });
}

/// Adds one to `counter` in a sequence that starts over when the thread is interrupted; returns how often that was.
///
/// # Safety
/// `area` is this thread's.
unsafe fn add(area: &Area, counter: &AtomicU64, work: u64) -> u64 {
    let mut restarts: u64 = 0;
    unsafe {
        std::arch::asm!(
            // struct rseq_cs: version and flags, start, length, abort handler.
            ".pushsection .data.rseq_cs, \"aw\"",
            ".balign 32",
            "77:",
            ".long 0, 0",
            ".quad 2f, 3f - 2f, 4f",
            ".popsection",
            "jmp 6f",
            ".long 0x53053053",
            "4:",
            "inc {restarts}",
            "6:",
            "lea {t}, [rip + 77b]",
            "mov [{area} + 8], {t}",
            "2:",
            "mov {t}, {work}",
            "5:",
            "dec {t}",
            "jnz 5b",
            "mov {t}, [{counter}]",
            "inc {t}",
            "mov [{counter}], {t}",
            "3:",
            restarts = inout(reg) restarts,
            t = out(reg) _,
            area = in(reg) area,
            work = in(reg) work,
            counter = in(reg) counter.as_ptr(),
        );
    }
    restarts
}

fn sequence() {
    free_thread();
    let area = area();
    assert_eq!(rseq(area, LEN, 0, SIGNATURE), Ok(0));
    let counter = AtomicU64::new(0);
    handle(SIGALRM, on_alarm, SA_RESTART);
    let often = timeval { tv_sec: 0, tv_usec: 500 };
    ok!(SYS_setitimer, ITIMER_REAL, &mut itimerval { it_interval: often, it_value: often }, 0);
    let zero = timeval { tv_sec: 0, tv_usec: 0 };
    let mut restarts = 0;
    for _ in 0..1000 {
        restarts += unsafe { add(area, &counter, 100_000) };
    }
    ok!(SYS_setitimer, ITIMER_REAL, &mut itimerval { it_interval: zero, it_value: zero }, 0);
    assert_eq!(counter.load(Relaxed), 1000);
    assert!(restarts > 0, "a signal every half millisecond, and no sequence of 50 us was interrupted");
}

extern "C" fn on_alarm(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn area_gone() {
    // Whom the kernel can't tell where it runs can't go on.
    let pid = spawn(|| {
        free_thread();
        let area = area();
        let registered = rseq(area, LEN, 0, SIGNATURE).is_ok();
        ok!(SYS_munmap, std::ptr::from_ref(area), 4096);
        if !registered {
            return 1;
        }
        loop {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    let mut status = 0;
    ok!(SYS_wait4, pid, &mut status, 0, 0);
    assert!(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "{status:#x}");
}
