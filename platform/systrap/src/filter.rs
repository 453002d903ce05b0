//! The seccomp programs of a stub.
//!
//! The base program holds for every thread of a stub process; each guest thread adds the thread program, whose listener tells the sentry
//! of its calls. Both trust the instruction pointer only to tell stub code from guest code: guest code may jump into the stub, so stub
//! code is allowed nothing that a hijacked stub may not have.

use abi::nr;
use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use stub::layout::{Program, SOCKET_FD, TEXT, TEXT_SIZE};

/// `CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM`: a guest thread.
const THREAD_FLAGS: u32 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
/// `CLONE_PARENT | SIGCHLD`: a process, child of the sentry.
const FORK_FLAGS: u32 = 0x8000 | 17;

const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRAP: u32 = 0x0003_0000;
const DENY: u32 = 0x0005_0000 | 38;

const NR: u32 = 0;
const ARCH: u32 = 4;
const IP_LOW: u32 = 8;
const IP_HIGH: u32 = 12;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// The low word of an argument in `struct seccomp_data`.
const fn arg(index: u32) -> u32 {
    16 + 8 * index
}

/// Calls of guest code that need every register, or change the address space and so want their operations on the reply: the signal path.
/// All others take the cheaper notification.
const TRAPPED: &[u64] = &[
    nr::CLONE,
    nr::CLONE3,
    nr::FORK,
    nr::VFORK,
    nr::EXECVE,
    nr::EXECVEAT,
    nr::RT_SIGRETURN,
    nr::ARCH_PRCTL,
    nr::MMAP,
    nr::MUNMAP,
    nr::MPROTECT,
    nr::MREMAP,
    nr::BRK,
    nr::MADVISE,
    nr::SHMAT,
    nr::SHMDT,
    nr::RSEQ,
];

struct Assembler(Vec<libc::sock_filter>);

impl Assembler {
    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) {
        self.0.push(libc::sock_filter { code: code as u16, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset);
    }

    fn ret(&mut self, action: u32) {
        self.push(BPF_RET | BPF_K, 0, 0, action);
    }

    /// The accumulator equals `k`: `action`.
    fn ret_if(&mut self, k: u32, action: u32) {
        self.push(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, k);
        self.ret(action);
    }

    /// Call `nr` with argument `index` one of `values`: allowed; with another: notified. The accumulator holds the number before.
    fn allow_with(&mut self, nr: u64, index: u32, values: &[u32]) {
        let body = 1 + 2 * values.len() + 1;
        self.push(BPF_JMP | BPF_JEQ | BPF_K, 0, body as u8, nr as u32);
        self.load(arg(index));
        for value in values {
            self.ret_if(*value, ALLOW);
        }
        self.ret(NOTIFY);
    }

    fn program(mut self, address: u64) -> Program {
        let mut code = [0; 128];
        let len = self.0.len();
        assert!(len <= code.len(), "seccomp program of {len} instructions");
        for (slot, i) in code.iter_mut().zip(self.0.drain(..)) {
            *slot = u64::from(i.code) | u64::from(i.jt) << 16 | u64::from(i.jf) << 24 | u64::from(i.k) << 32;
        }
        Program { len: len as u64, pointer: address + std::mem::offset_of!(Program, code) as u64, code }
    }
}

/// Builds a program that will stand at `address`; `creator`: the base program, which also allows what only the creator thread does.
pub fn build(address: u64, creator: bool) -> Program {
    let mut a = Assembler(Vec::new());
    a.load(ARCH);
    // 32-bit calls (int 0x80): there is no such entry in this kernel.
    a.push(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
    a.ret(DENY);

    // Stub code or guest code?
    a.load(IP_HIGH);
    let high_check = a.0.len();
    a.push(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, (TEXT >> 32) as u32);
    a.load(IP_LOW);
    let low_check = a.0.len();
    a.push(BPF_JMP | BPF_JGE | BPF_K, 0, 0, TEXT as u32);
    let end_check = a.0.len();
    a.push(BPF_JMP | BPF_JGE | BPF_K, 0, 0, (TEXT + TEXT_SIZE) as u32);

    stub_rules(&mut a, creator);

    let guest = a.0.len();
    for (at, on_true) in [(high_check, false), (low_check, false), (end_check, true)] {
        let distance = u8::try_from(guest - at - 1).expect("a short program");
        let jump = &mut a.0[at];
        if on_true { jump.jt = distance } else { jump.jf = distance }
    }
    a.load(NR);
    for number in TRAPPED {
        a.ret_if(*number as u32, TRAP);
    }
    a.ret(NOTIFY);
    a.program(address)
}

/// What stub code may do. Whatever else it tries is notified, that is, handled like a guest's call (and refused where no listener is).
fn stub_rules(a: &mut Assembler, creator: bool) {
    a.load(NR);
    // The end of a signal handler. The host checks what it loads; user mode only.
    a.ret_if(nr::RT_SIGRETURN as u32, ALLOW);
    // Mapping what the sentry has sent descriptors for: always at a given place (MAP_FIXED) and never anonymous, so that a stub can't
    // take memory that isn't accounted to an arena.
    a.allow_with(nr::MMAP, 3, &[0x11, 0x12, 0x8011, 0x8012]);
    // Its own address space: at worst it destroys itself.
    a.ret_if(nr::MUNMAP as u32, ALLOW);
    a.ret_if(nr::MPROTECT as u32, ALLOW);
    // The creator waits for commands, new threads report. Only plain waits and wakes.
    a.allow_with(nr::FUTEX, 1, &[0, 1]);
    // Descriptors from the sentry, on the one socket there is.
    a.allow_with(nr::RECVMSG, 0, &[SOCKET_FD.cast_unsigned()]);
    a.ret_if(nr::CLOSE as u32, ALLOW);
    // PR_SET_MM: where its command line is, which the host's `ps` shows. Without capabilities nothing of it reaches further.
    a.allow_with(nr::PRCTL, 0, &[35]);
    // Between looks for an answer: gives up the rest of a time slice, nothing else.
    a.ret_if(nr::SCHED_YIELD as u32, ALLOW);
    // A thread tells the sentry how much CPU time it has used (CLOCK_THREAD_CPUTIME_ID), which nobody else may ask the host.
    a.allow_with(nr::CLOCK_GETTIME, 0, &[3]);
    // A thread's restartable sequence, which the kernel has a place in the guest's memory for. The host writes the number of the CPU there
    // and reads where to go on, both as the thread itself could.
    a.ret_if(nr::RSEQ as u32, ALLOW);
    // The end of a thread.
    a.ret_if(nr::EXIT as u32, ALLOW);
    if creator {
        // A new thread sets its signal stack and its filter before guest code runs in it; the thread program takes both away.
        a.ret_if(nr::SIGALTSTACK as u32, ALLOW);
        a.ret_if(nr::SECCOMP as u32, ALLOW);
        // A new process puts its socket in place.
        a.allow_with(nr::DUP2, 1, &[SOCKET_FD.cast_unsigned()]);
        // Threads and processes, with exactly these flags. Guest code can't get here: its threads have the thread program on top.
        a.allow_with(nr::CLONE, 0, &[THREAD_FLAGS, FORK_FLAGS]);
    }
    a.ret(NOTIFY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_fit_and_end_in_a_return() {
        for creator in [false, true] {
            let program = build(0x1000, creator);
            let last = program.code[program.len as usize - 1];
            assert_eq!(last & 0xffff, u64::from(BPF_RET | BPF_K));
            assert_eq!(program.pointer, 0x1010);
        }
    }
}
