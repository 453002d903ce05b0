//! System V IPC.

use libc::*;

use crate::Case;
use crate::cases::mem::faults;
use crate::sys::*;

pub const CASES: &[Case] = &[
    Case { name: "sysv-semaphores", calls: "semget semop semctl", run: semaphores },
    Case { name: "sysv-semaphores-wait", calls: "semop semtimedop semctl", run: waiting },
    Case { name: "sysv-semaphores-undo", calls: "semop", run: undo },
    Case { name: "sysv-messages", calls: "msgget msgsnd msgrcv msgctl", run: messages },
    Case { name: "sysv-messages-wait", calls: "msgsnd msgrcv", run: message_waiting },
    Case { name: "sysv-memory", calls: "shmget shmat shmdt shmctl", run: shared },
    Case { name: "sysv-permissions", calls: "semget msgget shmget", run: permissions },
];

/// `struct sembuf`
fn op(num: u16, op: i16, flg: i32) -> [i16; 3] {
    [num as i16, op, flg as i16]
}

fn semop(id: i64, mut all: Vec<[i16; 3]>) -> Result<i64, i32> {
    sys!(SYS_semop, id, all.as_mut_ptr(), all.len())
}

fn value(id: i64, num: i32) -> i64 {
    ok!(SYS_semctl, id, num, GETVAL)
}

const NOWAIT: i32 = IPC_NOWAIT;

fn nap() {
    std::thread::sleep(std::time::Duration::from_millis(30));
}

fn semaphores() {
    let key = 0x1234_0000 + unsafe { getpid() };
    assert_eq!(sys!(SYS_semget, key, 3, 0), Err(ENOENT));
    let id = ok!(SYS_semget, key, 3, IPC_CREAT | 0o600);
    assert_eq!(sys!(SYS_semget, key, 3, IPC_CREAT | IPC_EXCL), Err(EEXIST));
    assert_eq!(sys!(SYS_semget, key, 2, 0), Ok(id));
    assert_eq!(sys!(SYS_semget, key, 4, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_semget, IPC_PRIVATE, 0, 0), Err(EINVAL));
    assert_eq!(semop(id, vec![op(0, 3, 0), op(1, 1, 0), op(0, -1, 0)]), Ok(0));
    assert_eq!((value(id, 0), value(id, 1), value(id, 2)), (2, 1, 0));
    assert_eq!(semop(id, vec![op(0, -1, 0), op(1, -5, NOWAIT)]), Err(EAGAIN));
    assert_eq!((value(id, 0), value(id, 1)), (2, 1), "all or nothing");
    assert_eq!(semop(id, vec![op(3, 1, 0)]), Err(EFBIG));
    assert_eq!(semop(id, vec![op(0, 32767, 0)]), Err(ERANGE));
    assert_eq!(semop(id, vec![]), Err(EINVAL));
    assert_eq!(semop(id, vec![op(0, 0, 0); 501]), Err(E2BIG));
    assert_eq!(sys!(SYS_semop, id, 8, 1), Err(EFAULT));
    let mut all = [7u16, 8, 9];
    ok!(SYS_semctl, id, 0, SETALL, all.as_mut_ptr());
    all = [0; 3];
    ok!(SYS_semctl, id, 0, GETALL, all.as_mut_ptr());
    assert_eq!(all, [7, 8, 9]);
    assert_eq!(ok!(SYS_semctl, id, 1, GETPID), i64::from(unsafe { getpid() }));
    assert_eq!(sys!(SYS_semctl, id, 1, SETVAL, 40000), Err(ERANGE));
    assert_eq!(sys!(SYS_semctl, id, 3, GETVAL), Err(EINVAL));
    assert_eq!(sys!(SYS_semctl, id, 0, 999), Err(EINVAL));
    let mut ds = [0u64; 13];
    ok!(SYS_semctl, id, 0, IPC_STAT, ds.as_mut_ptr());
    assert_eq!((ds[0] as i32, ds[10]), (key, 3));
    assert!(ds[6] > 0 && ds[8] > 0, "times");
    let text = std::fs::read_to_string("/proc/sysvipc/sem").unwrap();
    let own = text.lines().find(|line| line.split_whitespace().nth(1) == Some(&id.to_string()));
    assert_eq!(own.and_then(|line| line.split_whitespace().nth(3)), Some("3"));
    ok!(SYS_semctl, id, 0, IPC_RMID);
    assert_eq!(semop(id, vec![op(0, 1, 0)]), Err(EINVAL));
    assert_eq!(sys!(SYS_semget, key, 3, 0), Err(ENOENT));
}

fn waiting() {
    let id = ok!(SYS_semget, IPC_PRIVATE, 2, 0o600);
    let timed = |all: [i16; 3], ts: &mut timespec| sys!(SYS_semtimedop, id, &mut [all], 1, ts);
    let start = now();
    assert_eq!(timed(op(0, -1, 0), &mut ns(20_000_000)), Err(EAGAIN));
    assert!(now() - start >= 20_000_000);
    assert_eq!(timed(op(0, -1, 0), &mut timespec { tv_sec: 0, tv_nsec: -1 }), Err(EINVAL));
    // Whose need is larger doesn't keep others waiting.
    let large = spawn(|| semop(id, vec![op(0, -3, 0), op(1, 1, 0)]).is_err().into());
    nap();
    let small = spawn(|| semop(id, vec![op(0, -1, 0)]).is_err().into());
    nap();
    assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT), 2);
    semop(id, vec![op(0, 1, 0)]).unwrap();
    assert_eq!(reap(small), 0);
    let zero = spawn(|| semop(id, vec![op(1, 0, 0)]).is_err().into());
    assert_eq!(reap(zero), 0);
    semop(id, vec![op(1, 5, 0)]).unwrap();
    let zero = spawn(|| semop(id, vec![op(1, 0, 0)]).is_err().into());
    nap();
    assert_eq!((ok!(SYS_semctl, id, 1, GETZCNT), ok!(SYS_semctl, id, 0, GETNCNT)), (1, 1));
    semop(id, vec![op(0, 3, 0)]).unwrap();
    assert_eq!(reap(large), 0);
    ok!(SYS_semctl, id, 1, SETVAL, 0);
    assert_eq!(reap(zero), 0);
    // A signal ends the wait for good, whatever the handler asked for.
    extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}
    let interrupted = spawn(|| {
        handle(SIGUSR1, nothing, SA_RESTART);
        i32::from(semop(id, vec![op(0, -1, 0)]) != Err(EINTR))
    });
    nap();
    unsafe { kill(interrupted, SIGUSR1) };
    assert_eq!(reap(interrupted), 0);
    assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT), 0);
    let removed = spawn(|| i32::from(semop(id, vec![op(0, -1, 0)]) != Err(EIDRM)));
    nap();
    ok!(SYS_semctl, id, 0, IPC_RMID);
    assert_eq!(reap(removed), 0);
}

fn undo() {
    let id = ok!(SYS_semget, IPC_PRIVATE, 1, 0o600);
    semop(id, vec![op(0, 5, 0)]).unwrap();
    let status = in_child(|| {
        semop(id, vec![op(0, -3, SEM_UNDO)]).unwrap();
        // Threads share it.
        std::thread::spawn(move || semop(id, vec![op(0, -1, SEM_UNDO)]).unwrap()).join().unwrap();
        assert_eq!(value(id, 0), 1);
        // A child doesn't.
        assert_eq!(in_child(|| 0), 0);
        assert_eq!(value(id, 0), 1);
        0
    });
    assert_eq!((status, value(id, 0)), (0, 5));
    // Who waits hears of it.
    let ends = new_pipe();
    let holder = spawn(|| {
        semop(id, vec![op(0, -5, SEM_UNDO)]).unwrap();
        put(ends[1], b"x");
        nap();
        0
    });
    get(ends[0], 1);
    semop(id, vec![op(0, -5, 0)]).unwrap();
    assert_eq!(reap(holder), 0);
    // What was set explicitly is not undone.
    let status = in_child(|| {
        semop(id, vec![op(0, 2, SEM_UNDO)]).unwrap();
        ok!(SYS_semctl, id, 0, SETVAL, 7);
        0
    });
    assert_eq!((status, value(id, 0)), (0, 7));
    ok!(SYS_semctl, id, 0, IPC_RMID);
}

#[repr(C)]
struct Message {
    kind: i64,
    text: [u8; 64],
}

fn send(id: i64, kind: i64, byte: u8, len: usize, flags: i32) -> Result<i64, i32> {
    sys!(SYS_msgsnd, id, &mut Message { kind, text: [byte; 64] }, len, flags)
}

fn receive(id: i64, len: usize, kind: i64, flags: i32) -> Result<(i64, u8, i64), i32> {
    let mut message = Message { kind: 0, text: [0; 64] };
    let len = sys!(SYS_msgrcv, id, &mut message, len, kind, flags)?;
    Ok((message.kind, message.text[0], len))
}

fn messages() {
    let id = ok!(SYS_msgget, IPC_PRIVATE, 0o600);
    for kind in [5, 3, 9, 3] {
        send(id, kind, kind as u8, 10, 0).unwrap();
    }
    assert_eq!(send(id, 0, 1, 1, 0), Err(EINVAL));
    assert_eq!(send(id, 1, 1, 8193, 0), Err(EINVAL));
    assert_eq!(receive(id, 64, 2, MSG_COPY | NOWAIT), Ok((9, 9, 10)));
    assert_eq!(receive(id, 64, 7, MSG_COPY | NOWAIT), Err(ENOMSG));
    assert_eq!(receive(id, 64, 0, MSG_COPY), Err(EINVAL));
    assert_eq!(receive(id, 64, -4, 0), Ok((3, 3, 10)));
    assert_eq!(receive(id, 64, 5, MSG_EXCEPT), Ok((9, 9, 10)));
    assert_eq!(receive(id, 64, 8, NOWAIT), Err(ENOMSG));
    assert_eq!(receive(id, 5, 0, NOWAIT), Err(E2BIG));
    assert_eq!(receive(id, 5, 0, MSG_NOERROR), Ok((5, 5, 5)));
    let mut ds = [0u64; 15];
    ok!(SYS_msgctl, id, IPC_STAT, ds.as_mut_ptr());
    assert_eq!((ds[9], ds[10], ds[11]), (10, 1, 16384), "bytes, messages, most bytes");
    assert_eq!(ds[12] as u32, unsafe { getpid() } as u32);
    // The queue takes less from now on.
    ds[11] = 20;
    ok!(SYS_msgctl, id, IPC_SET, ds.as_mut_ptr());
    send(id, 1, 1, 10, NOWAIT).unwrap();
    assert_eq!(send(id, 1, 1, 1, NOWAIT), Err(EAGAIN));
    let text = std::fs::read_to_string("/proc/sysvipc/msg").unwrap();
    assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(&id.to_string())));
    ok!(SYS_msgctl, id, IPC_RMID, 0);
    assert_eq!(receive(id, 64, 0, 0), Err(EINVAL));
}

fn message_waiting() {
    let id = ok!(SYS_msgget, IPC_PRIVATE, 0o600);
    let reader = spawn(|| i32::from(receive(id, 64, 7, 0) != Ok((7, 1, 1))));
    nap();
    send(id, 6, 0, 1, 0).unwrap();
    send(id, 7, 1, 1, 0).unwrap();
    assert_eq!(reap(reader), 0);
    let mut ds = [0u64; 15];
    ok!(SYS_msgctl, id, IPC_STAT, ds.as_mut_ptr());
    ds[11] = 1;
    ok!(SYS_msgctl, id, IPC_SET, ds.as_mut_ptr());
    let writer = spawn(|| send(id, 8, 2, 1, 0).is_err().into());
    nap();
    assert_eq!(receive(id, 64, 0, 0), Ok((6, 0, 1)));
    assert_eq!(receive(id, 64, 8, 0), Ok((8, 2, 1)));
    assert_eq!(reap(writer), 0);
    let removed = spawn(|| i32::from(receive(id, 64, 0, 0) != Err(EIDRM)));
    nap();
    ok!(SYS_msgctl, id, IPC_RMID, 0);
    assert_eq!(reap(removed), 0);
}

/// Attachments, size and mode as `IPC_STAT` has them.
fn stat(id: i64) -> Result<(u64, u64, u32), i32> {
    let mut ds = [0u64; 14];
    sys!(SYS_shmctl, id, IPC_STAT, ds.as_mut_ptr())?;
    Ok((ds[11], ds[6], (ds[2] >> 32) as u32))
}

fn shared() {
    let id = ok!(SYS_shmget, IPC_PRIVATE, 3 * 4096 + 5, 0o600);
    let at = ok!(SYS_shmat, id, 0, 0) as *mut u8;
    let other = ok!(SYS_shmat, id, 0, SHM_RDONLY) as *mut u8;
    unsafe { at.write(7) };
    assert_eq!((unsafe { other.read() }, faults(other, true)), (7, Some(SIGSEGV)));
    assert_eq!(sys!(SYS_mprotect, other, 4096, PROT_READ | PROT_WRITE), Err(EACCES));
    assert_eq!(stat(id), Ok((2, 3 * 4096 + 5, 0o600)));
    let status = in_child(|| {
        assert_eq!(stat(id).unwrap().0, 4);
        unsafe { at.add(1).write(8) };
        ok!(SYS_shmdt, at);
        0
    });
    assert_eq!((status, unsafe { at.add(1).read() }), (0, 8));
    assert_eq!(sys!(SYS_shmat, id, at, 0), Err(EINVAL), "something is there");
    assert_eq!(sys!(SYS_shmat, id, at as u64 + 1, SHM_REMAP), Err(EINVAL));
    assert_eq!(sys!(SYS_shmat, id, at as u64 + 1, SHM_REMAP | SHM_RND), Ok(at as i64));
    assert_eq!(sys!(SYS_shmat, id, 0, SHM_REMAP), Err(EINVAL));
    assert_eq!(sys!(SYS_shmdt, at as u64 + 4096), Err(EINVAL));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(maps.lines().filter(|line| line.ends_with("/SYSV00000000 (deleted)")).count(), 2);
    // Removed, it stays as long as somebody has it.
    ok!(SYS_shmctl, id, IPC_RMID, 0);
    assert_eq!(stat(id).unwrap().2, 0o1600);
    ok!(SYS_shmdt, other);
    unsafe { assert_eq!(at.read(), 7) };
    // Also what is left of it after its middle is gone.
    ok!(SYS_munmap, at.wrapping_add(4096), 4096);
    ok!(SYS_shmdt, at);
    assert_eq!(faults(at.wrapping_add(8192), false), Some(SIGSEGV));
    assert_eq!(stat(id), Err(EINVAL));
    assert_eq!(sys!(SYS_shmget, IPC_PRIVATE, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_shmget, IPC_PRIVATE, u64::MAX, 0), Err(EINVAL));
    let id = ok!(SYS_shmget, IPC_PRIVATE, 1, 0o600);
    ok!(SYS_shmctl, id, SHM_LOCK, 0);
    assert_eq!(stat(id).unwrap().2, 0o2600);
    ok!(SYS_shmctl, id, SHM_UNLOCK, 0);
    let text = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(&id.to_string())));
    ok!(SYS_shmctl, id, IPC_RMID, 0);
}

fn permissions() {
    let sem = ok!(SYS_semget, IPC_PRIVATE, 1, 0o640);
    let msg = ok!(SYS_msgget, IPC_PRIVATE, 0o200);
    let shm = ok!(SYS_shmget, IPC_PRIVATE, 1, 0o604);
    let status = in_child(|| {
        assert_eq!(unsafe { setresgid(1000, 1000, 1000) | setgroups(0, std::ptr::null()) | setresuid(1000, 1000, 1000) }, 0);
        assert_eq!(sys!(SYS_semctl, sem, 0, GETVAL), Err(EACCES));
        assert_eq!(semop(sem, vec![op(0, 1, 0)]), Err(EACCES));
        assert_eq!(sys!(SYS_semctl, sem, 0, IPC_RMID), Err(EPERM));
        assert_eq!(send(msg, 1, 1, 1, 0), Err(EACCES));
        assert_eq!(sys!(SYS_msgctl, msg, IPC_RMID, 0), Err(EPERM));
        assert_eq!(sys!(SYS_shmat, shm, 0, 0), Err(EACCES));
        ok!(SYS_shmat, shm, 0, SHM_RDONLY);
        assert_eq!(sys!(SYS_shmctl, shm, SHM_LOCK, 0), Err(EPERM));
        0
    });
    assert_eq!(status, 0);
    ok!(SYS_semctl, sem, 0, IPC_RMID);
    ok!(SYS_msgctl, msg, IPC_RMID, 0);
    ok!(SYS_shmctl, shm, IPC_RMID, 0);
}
