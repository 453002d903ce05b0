use abi::Errno;

use crate::{DeviceAccess, Instruction, Program};

fn i(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Instruction {
    Instruction { code, dst, src, off, imm }
}

const EXIT: Instruction = Instruction { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 };

fn mov(dst: u8, imm: i32) -> Instruction {
    i(0xb7, dst, 0, 0, imm)
}

const NULL: DeviceAccess = DeviceAccess { access_type: 2 << 16 | 2, major: 1, minor: 3 };

fn errno(program: &[Instruction]) -> Option<Errno> {
    Program::check(program).err().map(|refusal| refusal.errno)
}

/// What a register holds after instructions: whether it equals a number that is put together from halves.
fn comes_to(program: &[Instruction], register: u8, value: u64) {
    let low = value as u32 as i32;
    let high = (value >> 32) as u32 as i32;
    let end = [i(0x18, 9, 0, 0, low), i(0, 0, 0, 0, high), mov(0, 1), i(0x1d, register, 9, 1, 0), mov(0, 0), EXIT];
    let program = Program::check(&[program, &end].concat()).unwrap();
    assert!(program.run(NULL), "{program:?} isn't {value:#x}");
}

#[test]
fn arithmetic() {
    let minus = |value: i64| value.cast_unsigned();
    comes_to(&[mov(1, -1)], 1, u64::MAX);
    comes_to(&[i(0xb4, 1, 0, 0, -1)], 1, 0xffff_ffff);
    comes_to(&[mov(1, 7), mov(2, -2), i(0x0f, 1, 2, 0, 0)], 1, 5);
    comes_to(&[mov(1, 7), i(0x1c, 1, 1, 0, 0), i(0x14, 1, 0, 0, 1)], 1, 0xffff_ffff);
    comes_to(&[mov(1, -7), i(0x37, 1, 0, 1, 2)], 1, minus(-3));
    comes_to(&[mov(1, -7), i(0x97, 1, 0, 1, 2)], 1, minus(-1));
    comes_to(&[mov(1, 7), mov(2, 0), i(0x3f, 1, 2, 0, 0)], 1, 0);
    comes_to(&[mov(1, 7), mov(2, 0), i(0x9f, 1, 2, 0, 0)], 1, 7);
    comes_to(&[mov(1, 1), mov(2, 65), i(0x6f, 1, 2, 0, 0)], 1, 2);
    comes_to(&[mov(1, -8), i(0xc7, 1, 0, 0, 1)], 1, minus(-4));
    comes_to(&[mov(1, -8), i(0xc4, 1, 0, 0, 1)], 1, 0xffff_fffc);
    comes_to(&[mov(1, -8), i(0x77, 1, 0, 0, 60)], 1, 15);
    comes_to(&[mov(1, 5), i(0x87, 1, 0, 0, 0)], 1, minus(-5));
    comes_to(&[mov(1, 0x80), i(0xbf, 2, 1, 8, 0)], 2, minus(-128));
    comes_to(&[mov(1, 0x1234_5678), i(0xdc, 1, 0, 0, 16)], 1, 0x7856);
    comes_to(&[mov(1, 0x1234_5678), i(0xd4, 1, 0, 0, 16)], 1, 0x5678);
    comes_to(&[mov(1, 0x1234_5678), i(0xd7, 1, 0, 0, 64)], 1, 0x7856_3412_0000_0000);
    // Of 32 bits: by nothing, signs, and shifts by more than there is.
    comes_to(&[mov(1, -7), i(0x34, 1, 0, 1, 2)], 1, 0xffff_fffd);
    comes_to(&[mov(1, -7), i(0x94, 1, 0, 1, 2)], 1, 0xffff_ffff);
    comes_to(&[mov(1, -7), mov(2, 0), i(0x3c, 1, 2, 1, 0)], 1, 0);
    comes_to(&[mov(1, -7), mov(2, 0), i(0x9c, 1, 2, 1, 0)], 1, 0xffff_fff9);
    comes_to(&[mov(1, -7), mov(2, 0), i(0x9c, 1, 2, 0, 0)], 1, 0xffff_fff9);
    comes_to(&[mov(1, 7), mov(2, 33), i(0x6c, 1, 2, 0, 0)], 1, 14);
    comes_to(&[mov(1, -8), mov(2, 33), i(0x7c, 1, 2, 0, 0)], 1, 0x7fff_fffc);
    comes_to(&[mov(1, -8), mov(2, 33), i(0xcc, 1, 2, 0, 0)], 1, 0xffff_fffc);
    comes_to(&[mov(1, i32::MIN), mov(2, -1), i(0x3c, 1, 2, 1, 0)], 1, 0x8000_0000);
    comes_to(&[mov(1, i32::MIN), mov(2, -1), i(0x9c, 1, 2, 1, 0)], 1, 0);
    comes_to(&[mov(1, 0x80), i(0xbc, 2, 1, 8, 0)], 2, 0xffff_ff80);
    comes_to(&[mov(1, 5), i(0x84, 1, 0, 0, 0)], 1, 0xffff_fffb);
    // The most negative number by -1.
    let least = [mov(1, 1), i(0x67, 1, 0, 0, 63), mov(2, -1), i(0x3f, 1, 2, 1, 0)];
    comes_to(&least, 1, 1 << 63);
}

#[test]
fn memory() {
    let program = [
        mov(2, 0x1122_3344),
        i(0x63, 10, 2, -8, 0),
        i(0x62, 10, 0, -4, 5),
        i(0x79, 3, 10, -8, 0),
        i(0xbf, 4, 10, 0, 0),
        i(0x07, 4, 0, 0, -8),
        i(0x69, 5, 4, 2, 0),
    ];
    comes_to(&program, 3, 0x5_1122_3344);
    comes_to(&program, 5, 0x1122);
    // Addresses can be put aside, as a whole.
    let spilled = [i(0x7b, 10, 1, -16, 0), i(0x79, 6, 10, -16, 0), i(0x61, 2, 6, 8, 0)];
    comes_to(&spilled, 2, 3);
    comes_to(&[i(0x61, 2, 1, 0, 0), i(0x77, 2, 0, 0, 16)], 2, 2);
    comes_to(&[i(0x69, 2, 1, 2, 0)], 2, 2);
    comes_to(&[i(0x61, 2, 1, 4, 0)], 2, 1);
    assert_eq!(errno(&[i(0x71, 0, 1, 4, 0), EXIT]), Some(Errno::EACCES), "part of the major number");
    assert_eq!(errno(&[i(0x79, 0, 1, 0, 0), EXIT]), Some(Errno::EACCES));
    assert_eq!(errno(&[i(0x61, 0, 1, 12, 0), EXIT]), Some(Errno::EACCES));
    assert_eq!(errno(&[i(0x61, 0, 1, -4, 0), EXIT]), Some(Errno::EACCES));
    assert_eq!(errno(&[i(0x62, 1, 0, 0, 1), mov(0, 0), EXIT]), Some(Errno::EACCES), "the context is read-only");
    assert_eq!(errno(&[i(0x07, 1, 0, 0, 4), i(0x61, 0, 1, 0, 0), EXIT]), Some(Errno::EACCES));
    for (at, size) in [(0, 0x62), (-516, 0x62), (-4, 0x7a), (i16::MIN, 0x62), (i16::MAX, 0x7a)] {
        assert_eq!(errno(&[i(size, 10, 0, at, 1), mov(0, 0), EXIT]), Some(Errno::EACCES), "{at}");
    }
    assert_eq!(errno(&[i(0x61, 0, 10, -4, 0), EXIT]), Some(Errno::EACCES), "nothing was written there");
    assert_eq!(errno(&[i(0x63, 10, 1, -8, 0), mov(0, 0), EXIT]), Some(Errno::EACCES), "half an address");
    assert_eq!(errno(&[i(0x7b, 10, 1, -8, 0), i(0x61, 0, 10, -8, 0), mov(0, 0), EXIT]), Some(Errno::EACCES));
}

/// As container managers write it: everything is denied but reading and making of 1:3.
#[test]
fn a_list_of_devices() {
    let program = [
        i(0x61, 2, 1, 0, 0),
        i(0xbc, 3, 2, 0, 0),
        i(0x54, 2, 0, 0, 0xffff),
        i(0x74, 3, 0, 0, 16),
        i(0x61, 4, 1, 4, 0),
        i(0x61, 5, 1, 8, 0),
        i(0x55, 2, 0, 7, 2),
        i(0xbc, 1, 3, 0, 0),
        i(0x54, 1, 0, 0, 3),
        i(0x5d, 1, 3, 4, 0),
        i(0x55, 4, 0, 3, 1),
        i(0x55, 5, 0, 2, 3),
        mov(0, 1),
        EXIT,
        mov(0, 0),
        EXIT,
    ];
    let program = Program::check(&program).unwrap();
    let ask = |access: u32, kind: u32, major, minor| program.run(DeviceAccess { access_type: access << 16 | kind, major, minor });
    assert!(ask(2, 2, 1, 3));
    assert!(ask(3, 2, 1, 3));
    assert!(!ask(6, 2, 1, 3));
    assert!(!ask(2, 1, 1, 3));
    assert!(!ask(2, 2, 1, 5));
    assert!(!ask(2, 2, 0x1_0001, 3));
}

#[test]
fn ways() {
    assert_eq!(errno(&[]), Some(Errno::E2BIG));
    assert_eq!(errno(&[EXIT]), Some(Errno::EACCES), "no result");
    assert_eq!(errno(&[mov(0, 0)]), Some(Errno::EINVAL), "no end");
    assert_eq!(errno(&[mov(0, 2), EXIT]), Some(Errno::EINVAL));
    assert_eq!(errno(&[i(0xbf, 0, 1, 0, 0), EXIT]), Some(Errno::EACCES), "an address as the result");
    assert_eq!(errno(&[i(0x05, 0, 0, -1, 0), EXIT]), Some(Errno::EINVAL), "for ever");
    assert_eq!(errno(&[mov(0, 0), i(0x05, 0, 0, 1, 0), EXIT]), Some(Errno::EINVAL), "out");
    assert_eq!(errno(&[mov(0, 0), i(0x05, 0, 0, 1, 0), mov(0, 1), EXIT]), Some(Errno::EINVAL), "nobody comes there");
    assert_eq!(errno(&[i(0x15, 1, 0, 1, 0), mov(2, 0), mov(0, 0), i(0x0f, 0, 2, 0, 0), EXIT]), Some(Errno::EACCES));
    assert_eq!(errno(&[mov(0, 0), i(0x15, 0, 0, 1, 0), i(0x18, 3, 0, 0, 0), i(0, 0, 0, 0, 0), EXIT]), Some(Errno::EINVAL));
    assert_eq!(errno(&[mov(10, 0), mov(0, 0), EXIT]), Some(Errno::EACCES));
    assert_eq!(errno(&[mov(11, 0), mov(0, 0), EXIT]), Some(Errno::EINVAL));
    assert_eq!(errno(&[i(0x85, 0, 0, 0, 5), EXIT]), Some(Errno::EINVAL), "helpers");
    assert_eq!(errno(&[i(0x18, 1, 1, 0, 3), i(0, 0, 0, 0, 0), mov(0, 0), EXIT]), Some(Errno::EINVAL), "maps");
    assert_eq!(errno(&[i(0x18, 1, 0, 0, 3)]), Some(Errno::EINVAL));
    assert_eq!(errno(&[mov(0, 0), i(0x37, 0, 0, 0, 0), EXIT]), Some(Errno::EINVAL));
    assert_eq!(errno(&[mov(0, 0), i(0x67, 0, 0, 0, 64), EXIT]), Some(Errno::EINVAL));
    assert_eq!(errno(&[mov(0, 0), i(0x64, 0, 0, 0, 32), EXIT]), Some(Errno::EINVAL));
    assert_eq!(errno(&[mov(0, 0), i(0xbf, 2, 0, 0, 1), EXIT]), Some(Errno::EINVAL));
    // A result from either way.
    let either = [mov(0, 0), i(0x61, 2, 1, 8, 0), i(0x15, 2, 0, 1, 3), EXIT, mov(0, 1), EXIT];
    assert!(Program::check(&either).unwrap().run(NULL));
    assert_eq!(errno(&[i(0x61, 0, 1, 8, 0), i(0x54, 0, 0, 0, 1), EXIT]), None, "one bit");
    assert_eq!(errno(&[i(0x61, 0, 1, 8, 0), i(0x74, 0, 0, 0, 31), EXIT]), None);
    assert_eq!(errno(&[i(0x61, 0, 1, 8, 0), i(0x77, 0, 0, 0, 30), EXIT]), Some(Errno::EINVAL));
}

#[test]
fn most_entangled() {
    // Every second instruction jumps to a place of its own, which takes too much to remember.
    let mut program = vec![mov(0, 0)];
    program.extend((0..10_000).map(|_| i(0x15, 0, 0, 10_000, 0)));
    program.extend((0..20_000).map(|_| mov(0, 0)));
    program.push(EXIT);
    assert_eq!(errno(&program), Some(Errno::E2BIG));
    let mut long = vec![mov(0, 0); crate::MAX_INSTRUCTIONS - 1];
    long.push(EXIT);
    assert_eq!(errno(&long), None);
    long.push(EXIT);
    assert_eq!(errno(&long), Some(Errno::E2BIG));
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

#[test]
fn any_bytes_are_refused_or_end() {
    let mut random = Random(1);
    for _ in 0..100_000 {
        let program: Vec<_> = (0..=random.next() % 12)
            .map(|_| Instruction::from_bytes((random.next() << 40 ^ random.next() << 20 ^ random.next()).to_le_bytes()))
            .collect();
        if let Ok(program) = Program::check(&program) {
            let _ = program.run(NULL);
        }
        let bytes = program[0].to_bytes();
        assert_eq!(Instruction::from_bytes(bytes), program[0]);
    }
}

/// Programs of sensible instructions: what is accepted says 0 or 1 and does nothing that the machine would refuse, which it shows by ending
/// at its exit with what it has been made to say.
#[test]
fn what_is_verified_behaves() {
    let mut random = Random(7);
    let mut accepted = 0;
    for _ in 0..300_000 {
        let mut program = vec![mov(0, 1)];
        for _ in 0..random.next() % 8 {
            let (a, b) = (random.pick(&[0, 1, 2, 3, 10]), random.pick(&[0, 1, 2, 3, 10]));
            let off = random.pick(&[0, 1, 2, 4, 8, -1, -4, -8, -12, -16, -512, -520]);
            let imm = random.pick(&[0, 1, -1, 2, 8, 31, i32::MIN, i32::MAX]);
            program.push(match random.next() % 6 {
                0 => i(random.pick(&[0x61, 0x69, 0x71, 0x79, 0x81, 0x89, 0x91]), a, b, off, 0),
                1 => i(random.pick(&[0x63, 0x6b, 0x73, 0x7b]), a, b, off, 0),
                2 => i(random.pick(&[0x62, 0x6a, 0x72, 0x7a]), a, 0, off, imm),
                3 => i(random.pick(&[0x07, 0x17, 0x27, 0x57, 0x54, 0x77, 0x74, 0xb7, 0xb4, 0x87]), a, 0, 0, imm),
                4 => i(random.pick(&[0x0f, 0x1f, 0x3f, 0x5f, 0x7c, 0xbf, 0xbc]), a, b, 0, 0),
                _ => i(random.pick(&[0x15, 0x25, 0x56, 0xad, 0x05]), a, 0, off.rem_euclid(4), 0),
            });
        }
        program.push(EXIT);
        if let Ok(program) = Program::check(&program) {
            accepted += 1;
            assert!(crate::machine::ends_well(&program.ops, NULL), "{program:?}");
        }
    }
    assert!(accepted > 10_000, "{accepted}");
}
