//! Runs small pieces of machine code on the platform.

use std::sync::{Arc, OnceLock};

use platform::{AddressSpace, Context, Exit, MapKind, Platform, Prot, UserRegs};
use systrap::Systrap;
use usermem::HostFile;

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;

fn systrap() -> &'static Systrap {
    static PLATFORM: OnceLock<Systrap> = OnceLock::new();
    PLATFORM.get_or_init(|| {
        // The zygote dies with the thread that made it.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            sender.send(Systrap::new(systrap::host_vdso().unwrap()).expect("the host allows seccomp notifications")).unwrap();
            loop {
                std::thread::park();
            }
        });
        receiver.recv().unwrap()
    })
}

struct Guest {
    arena: Arc<HostFile>,
    space: Arc<dyn AddressSpace>,
    context: Box<dyn Context>,
    regs: UserRegs,
}

fn guest(code: &[u8]) -> Guest {
    let arena = HostFile::memory("arena", 1 << 20).unwrap();
    arena.segment(0, 4096).unwrap().write(code).unwrap();
    let space = systrap().new_address_space().unwrap();
    space.map(CODE, 4096, &arena, 0, Prot::READ | Prot::EXEC, MapKind::Shared);
    space.map(DATA, 8192, &arena, 4096, Prot::READ | Prot::WRITE, MapKind::Shared);
    let regs = UserRegs { rip: CODE, rsp: DATA + 8192, ..UserRegs::default() };
    let context = space.clone().new_context(&regs, None).unwrap();
    Guest { arena, space, context, regs }
}

impl Guest {
    fn switch(&mut self) -> Exit {
        self.context.switch(&mut self.regs)
    }

    fn syscall(&mut self) -> (u64, [u64; 6]) {
        match self.switch() {
            Exit::Syscall { nr, args, .. } => (nr, args),
            other => panic!("{other:x?} at {:x}", self.regs.rip),
        }
    }
}

/// `mov eax, nr; syscall; mov edi, eax; mov eax, 60; syscall`
fn call_then_exit(nr: u8) -> Vec<u8> {
    [&[0xb8, nr, 0, 0, 0, 0x0f, 0x05, 0x89, 0xc7][..], &[0xb8, 60, 0, 0, 0, 0x0f, 0x05]].concat()
}

#[test]
fn notified_and_trapped_calls_carry_arguments_and_results() {
    for nr in [39, 9] {
        let mut guest = guest(&call_then_exit(nr));
        guest.regs.rdi = 5;
        assert_eq!(guest.syscall().0, u64::from(nr));
        assert_eq!(guest.regs.rip, CODE + 7);
        guest.regs.rax = 77;
        let (nr, args) = guest.syscall();
        assert_eq!((nr, args[0]), (60, 77));
    }
}

#[test]
fn full_gives_registers_and_lets_them_be_changed() {
    let mut guest = guest(&call_then_exit(39));
    guest.regs.rbx = 1234;
    let _ = guest.syscall();
    guest.regs.rax = 5;
    assert!(guest.context.full(&mut guest.regs));
    assert_eq!((guest.regs.rip, guest.regs.rax, guest.regs.rsp), (CODE + 7, 5, DATA + 8192));
    guest.regs.rax = 9;
    guest.regs.fs_base = 0x1234_5000;
    assert_eq!(guest.syscall().1[0], 9);
    assert!(guest.context.full(&mut guest.regs));
    assert_eq!(guest.regs.fs_base, 0x1234_5000);
}

#[test]
fn faults_are_reported_and_can_be_repaired() {
    // mov rax, [0x600000]; mov edi, eax; mov eax, 60; syscall
    let code = [0x48, 0x8b, 0x04, 0x25, 0, 0, 0x60, 0, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let mut guest = guest(&code);
    match guest.switch() {
        Exit::Fault { addr, access, .. } => assert_eq!((addr, access), (0x60_0000, Prot::READ)),
        other => panic!("{other:x?}"),
    }
    guest.arena.segment(16384, 4096).unwrap().write(&[42]).unwrap();
    guest.space.map(0x60_0000, 4096, &guest.arena, 16384, Prot::READ, MapKind::Shared);
    assert_eq!(guest.syscall().1[0], 42);
}

#[test]
fn forks_share_nothing_but_what_they_map() {
    let mut parent = guest(&call_then_exit(57));
    let _ = parent.syscall();
    parent.regs.rax = 0;
    assert!(parent.context.full(&mut parent.regs));
    let space = parent.space.fork().unwrap();
    let mut regs = parent.regs;
    regs.rax = 8;
    let mut child = space.clone().new_context(&regs, Some(&parent.context.fp())).unwrap();
    assert_eq!(child.switch(&mut regs), Exit::Syscall { nr: 60, args: [8, 0, 0, 0, 0, 0], hot: false });
    space.unmap(CODE, 4096);
    space.flush();
    regs.rax = 0;
    assert!(matches!(child.switch(&mut regs), Exit::Fault { .. }));
    parent.regs.rax = 3;
    assert_eq!(parent.syscall().1[0], 3);
}

#[test]
fn interrupts_stop_a_loop() {
    // jmp $
    let mut guest = guest(&[0xeb, 0xfe]);
    let bell = guest.context.interrupter();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        bell.interrupt();
    });
    assert_eq!(guest.switch(), Exit::Interrupted);
    assert_eq!(guest.regs.rip, CODE);
    thread.join().unwrap();
}

#[test]
fn many_operations_take_several_batches() {
    let mut guest = guest(&call_then_exit(9));
    let _ = guest.syscall();
    for i in 0..500 {
        guest.space.map(0x1000_0000 + i * 0x10000, 4096, &guest.arena, 0, Prot::READ, MapKind::Shared);
    }
    guest.regs.rax = 1;
    assert_eq!(guest.syscall().1[0], 1);
    guest.space.flush();
    assert_eq!(guest.space.applied(), guest.space.queued());
}
