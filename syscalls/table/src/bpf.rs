//! bpf(2): programs that decide who in a control group may use devices.

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use auth::Capability;
use ebpf::{INSTRUCTION, Instruction, Refusal};
use task::{BpfProgram, Cgroup, Current};
use usermem::UserMemoryExt;
use vfs::{File, FileOps};

use crate::args::{int, uint};
use crate::fd::install;
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] = &[partial(
    nr::BPF,
    bpf,
    "programs for devices of control groups only, without loops, maps, helpers, atomic operations, links and pinning",
)];

/// Commands.
const MAP_CREATE: i32 = 0;
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_NEXT_ID: i32 = 11;
const MAP_GET_NEXT_ID: i32 = 12;
const PROG_GET_FD_BY_ID: i32 = 13;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const BTF_GET_FD_BY_ID: i32 = 19;
const BTF_GET_NEXT_ID: i32 = 23;
const LINK_GET_FD_BY_ID: i32 = 30;
const LINK_GET_NEXT_ID: i32 = 31;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`, and where such programs are attached (`BPF_CGROUP_DEVICE`).
const TYPE_DEVICE: u32 = 15;
const AT_DEVICE: u32 = 6;
/// `__MAX_BPF_ATTACH_TYPE`
const ATTACH_TYPES: u32 = 58;
/// `BPF_F_QUERY_EFFECTIVE`
const EFFECTIVE: u32 = 1;
/// Flags of loading that say what isn't done here anyway: alignment, tests of the verifier's.
const LOAD_FLAGS: u32 = 0b1000_1111;
/// Flags of attaching: override, several, replace.
const ATTACH_FLAGS: u32 = 0b111;

/// Bytes of `union bpf_attr`.
const ATTR: usize = 168;
/// Bytes of `struct bpf_prog_info`.
const INFO: usize = 232;

/// A count as a field has it.
fn count_bytes(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes()
}

/// Bytes that hold numbers at fixed places.
struct Fields<const N: usize>([u8; N]);

impl<const N: usize> Fields<N> {
    fn array<const M: usize>(&self, at: usize) -> [u8; M] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; M])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    /// Puts a number there.
    fn put_count(&mut self, at: usize, count: usize) {
        self.put(at, &count_bytes(count));
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            place.copy_from_slice(bytes);
        }
    }

    /// Copies what the guest has: it may know fewer fields, or more if those are zero.
    ///
    /// # Errors
    /// `E2BIG`, `EFAULT`
    fn read(t: &Current, addr: u64, size: usize) -> SysResult<Self> {
        if size > 4096 {
            return Err(Errno::E2BIG);
        }
        let mut bytes = vec![0; size];
        t.mm.read(addr, &mut bytes)?;
        if bytes.iter().skip(N).any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        let mut new = Self([0; N]);
        new.0.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        Ok(new)
    }
}

/// The argument of a command.
struct Attr {
    fields: Fields<ATTR>,
    addr: u64,
    size: usize,
}

impl Attr {
    fn u32(&self, at: usize) -> u32 {
        self.fields.u32(at)
    }

    fn u64(&self, at: usize) -> u64 {
        self.fields.u64(at)
    }

    /// Whether nothing is set but the command's own fields.
    ///
    /// # Errors
    /// `EINVAL`
    fn ends_at(&self, end: usize) -> SysResult<()> {
        if self.fields.0.iter().skip(end).any(|byte| *byte != 0) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Answers in a field.
    fn answer(&self, t: &Current, at: u64, bytes: &[u8]) -> SysResult<()> {
        t.mm.write(self.addr.checked_add(at).ok_or(Errno::EFAULT)?, bytes)
    }
}

/// Capabilities are those over the whole system; `CAP_SYS_ADMIN` is all of them.
fn capable(t: &Current, capability: Capability) -> SysResult<()> {
    let has = |capability| t.credentials().has_capability(capability);
    if has(capability) || has(Capability::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

fn bpf(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let size = uint(a[2]) as usize;
    let attr = Attr { fields: Fields::read(t, a[1], size)?, addr: a[1], size };
    match int(a[0]) {
        PROG_LOAD => load(t, &attr),
        PROG_ATTACH => attach(t, &attr),
        PROG_DETACH => detach(t, &attr),
        PROG_QUERY => query(t, &attr),
        PROG_GET_NEXT_ID => next_id(t, &attr),
        PROG_GET_FD_BY_ID => fd_by_id(t, &attr),
        OBJ_GET_INFO_BY_FD => info(t, &attr),
        // There are none of those.
        MAP_GET_NEXT_ID | MAP_GET_FD_BY_ID | BTF_GET_FD_BY_ID | BTF_GET_NEXT_ID | LINK_GET_FD_BY_ID | LINK_GET_NEXT_ID => {
            if t.credentials().has_capability(Capability::SYS_ADMIN) { Err(Errno::ENOENT) } else { Err(Errno::EPERM) }
        }
        MAP_CREATE.. => capable(t, Capability::BPF).and(Err(Errno::EINVAL)),
        _ => Err(Errno::EINVAL),
    }
}

/// A program by a descriptor.
struct ProgramFile(Arc<BpfProgram>);

impl FileOps for ProgramFile {
    fn describe(&self) -> String {
        "anon_inode:bpf-prog".into()
    }

    fn fd_info(&self) -> String {
        let program = &*self.0;
        let tag: String = program.program.tag().iter().map(|byte| format!("{byte:02x}")).collect();
        let count = program.program.source().len();
        let memory = (count * INSTRUCTION).next_multiple_of(4096);
        format!(
            "prog_type:\t{TYPE_DEVICE}\nprog_jited:\t0\nprog_tag:\t{tag}\nmemlock:\t{memory}\nprog_id:\t{}\nrun_time_ns:\t0\nrun_cnt:\t0\n\
             recursion_misses:\t0\nverified_insns:\t{count}\n",
            program.id
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn open(t: &Current, program: Arc<BpfProgram>) -> SysResult<u64> {
    install(t, File::new(Arc::new(ProgramFile(program)), None, c::O_RDWR), true, 0)
}

/// The program behind a descriptor.
///
/// # Errors
/// `EBADF`; `EINVAL` for other files.
fn program(t: &Current, fd: u32) -> SysResult<Arc<BpfProgram>> {
    let file = t.fds.get(fd.cast_signed())?;
    file.ops.as_any().downcast_ref::<ProgramFile>().map(|file| file.0.clone()).ok_or(Errno::EINVAL)
}

/// The control group behind a descriptor.
///
/// # Errors
/// `EBADF`
fn cgroup(t: &Current, fd: u32) -> SysResult<Arc<Cgroup>> {
    Cgroup::of(&*t.fds.get(fd.cast_signed())?)
}

fn load(t: &Current, attr: &Attr) -> SysResult<u64> {
    if attr.u32(44) & !LOAD_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    capable(t, Capability::BPF)?;
    let count = attr.u32(4) as usize;
    if count == 0 || count > ebpf::MAX_INSTRUCTIONS {
        return Err(Errno::E2BIG);
    }
    let kind = attr.u32(0);
    if kind == TYPE_DEVICE {
        capable(t, Capability::NET_ADMIN)?;
    }
    // Types of the kernel's own data, and a program to attach to.
    if attr.u32(108) != 0 || attr.u32(112) != 0 {
        return Err(Errno::EINVAL);
    }
    let room = t.task.kernel.programs.reserve(count)?;
    let mut bytes = vec![0; count * INSTRUCTION];
    t.mm.read(attr.u64(8), &mut bytes)?;
    let mut license = Vec::new();
    while license.len() < 127 {
        let mut byte = [0];
        t.mm.read(attr.u64(16).checked_add(license.len() as u64).ok_or(Errno::EFAULT)?, &mut byte)?;
        match byte {
            [0] => break,
            [byte] => license.push(byte),
        }
    }
    if kind != TYPE_DEVICE {
        return Err(Errno::EINVAL);
    }
    let name = name(attr.fields.array(48))?;
    let instructions: Vec<_> = bytes.as_chunks().0.iter().map(|bytes| Instruction::from_bytes(*bytes)).collect();
    drop(bytes);
    let checked = t.task.kernel.programs.check(&instructions);
    log(t, attr, checked.as_ref().map(|_| count))?;
    let checked = checked.map_err(|refusal| refusal.errno)?;
    let loaded = t.task.kernel.programs.add(room, checked, name, t.credentials().euid, is_gpl(&license))?;
    open(t, loaded)
}

/// A name as it is allowed.
///
/// # Errors
/// `EINVAL`
fn name(bytes: [u8; 16]) -> SysResult<[u8; 16]> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
    let (text, rest) = bytes.split_at(end);
    let fine = text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(byte));
    if fine && rest.iter().all(|byte| *byte == 0) { Ok(bytes) } else { Err(Errno::EINVAL) }
}

/// Licences that are compatible with Linux's (Documentation/process/license-rules.rst).
fn is_gpl(license: &[u8]) -> bool {
    let known: [&[u8]; 6] = [b"GPL", b"GPL v2", b"GPL and additional rights", b"Dual BSD/GPL", b"Dual MIT/GPL", b"Dual MPL/GPL"];
    known.contains(&license)
}

/// Tells what the verifier says, if somebody wants to know.
///
/// # Errors
/// `EINVAL` for a place that isn't one; `ENOSPC` when it is too small; `EFAULT`.
fn log(t: &Current, attr: &Attr, checked: Result<usize, &Refusal>) -> SysResult<()> {
    const LEVELS: u32 = 0xf;
    /// Where the size of the whole text goes, for who knows of it.
    const TRUE_SIZE: usize = 140;
    let (level, size, addr) = (attr.u32(24), attr.u32(28), attr.u64(32));
    if (addr != 0) != (size != 0) || addr != 0 && level == 0 || level & !LEVELS != 0 || size > u32::MAX >> 2 {
        return Err(Errno::EINVAL);
    }
    if level == 0 {
        return Ok(());
    }
    let mut text = match checked {
        Ok(count) => format!("processed {count} insns (limit {})\n", ebpf::MAX_INSTRUCTIONS),
        Err(refusal) => format!("{}: {}\n", refusal.at, refusal.why),
    };
    text.push('\0');
    if attr.size >= TRUE_SIZE + 4 {
        attr.answer(t, TRUE_SIZE as u64, &count_bytes(text.len()))?;
    }
    if addr == 0 {
        return Ok(());
    }
    let fits = text.len() <= size as usize;
    let mut bytes = text.into_bytes();
    bytes.truncate(size as usize);
    if let Some(last) = bytes.last_mut() {
        *last = 0;
    }
    t.mm.write(addr, &bytes)?;
    if fits { Ok(()) } else { Err(Errno::ENOSPC) }
}

/// The program that a descriptor stands for, which is to be of a kind that can be attached there.
fn attachable(t: &Current, fd: u32, place: u32) -> SysResult<Arc<BpfProgram>> {
    program(t, fd).and_then(|program| if place == AT_DEVICE { Ok(program) } else { Err(Errno::EINVAL) })
}

fn attach(t: &Current, attr: &Attr) -> SysResult<u64> {
    const REPLACE: u32 = 4;
    attr.ends_at(32)?;
    let (place, flags) = (attr.u32(8), attr.u32(12));
    if place >= ATTACH_TYPES || flags & !ATTACH_FLAGS != 0 || attr.u32(20) != 0 {
        return Err(Errno::EINVAL);
    }
    let program = attachable(t, attr.u32(4), place)?;
    let replace = if flags & REPLACE != 0 { Some(attachable(t, attr.u32(16), place)?) } else { None };
    let group = cgroup(t, attr.u32(0))?;
    t.task.kernel.attach_program(&group, program, flags, replace, attr.u64(24)).map(|()| 0)
}

fn detach(t: &Current, attr: &Attr) -> SysResult<u64> {
    attr.ends_at(32)?;
    let place = attr.u32(8);
    if place >= ATTACH_TYPES || attr.u32(12) != 0 || attr.u32(20) != 0 {
        return Err(Errno::EINVAL);
    }
    let group = cgroup(t, attr.u32(0))?;
    if place != AT_DEVICE {
        return if is_of_cgroups(place) { Err(Errno::ENOENT) } else { Err(Errno::EINVAL) };
    }
    let program = program(t, attr.u32(4)).ok();
    t.task.kernel.detach_program(&group, program.as_ref(), attr.u64(24)).map(|()| 0)
}

/// Whether programs are attached to control groups there.
fn is_of_cgroups(place: u32) -> bool {
    matches!(place, 0..=3 | 6 | 8..=15 | 18..=22 | 29..=32 | 34 | 43 | 49..=53)
}

fn query(t: &Current, attr: &Attr) -> SysResult<u64> {
    const REVISION: usize = 56;
    capable(t, Capability::NET_ADMIN)?;
    attr.ends_at(64)?;
    let (place, flags) = (attr.u32(4), attr.u32(8));
    if flags & !EFFECTIVE != 0 || !is_of_cgroups(place) {
        return Err(Errno::EINVAL);
    }
    let (ids, room, id_flags) = (attr.u64(16), attr.u32(24) as usize, attr.u64(32));
    let group = cgroup(t, attr.u32(0))?;
    let effective = flags & EFFECTIVE != 0;
    if effective && id_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut attached = if place == AT_DEVICE { group.attached() } else { task::Attached::default() };
    if effective {
        attached.flags = 0;
        attached.programs = if place == AT_DEVICE { group.effective() } else { Vec::new() };
    }
    attr.answer(t, 12, &attached.flags.to_le_bytes())?;
    attr.answer(t, 24, &count_bytes(attached.programs.len()))?;
    if !effective && attr.size >= REVISION + 8 {
        attr.answer(t, REVISION as u64, &attached.revision.to_le_bytes())?;
    }
    if room == 0 || ids == 0 {
        return Ok(0);
    }
    let shown = attached.programs.get(..room).unwrap_or(&attached.programs);
    let bytes: Vec<u8> = shown.iter().flat_map(|program| program.id.to_le_bytes()).collect();
    t.mm.write(ids, &bytes)?;
    if id_flags != 0 {
        let bytes: Vec<u8> = shown.iter().flat_map(|_| attached.flags.to_le_bytes()).collect();
        t.mm.write(id_flags, &bytes)?;
    }
    if room < attached.programs.len() { Err(Errno::ENOSPC) } else { Ok(0) }
}

fn next_id(t: &Current, attr: &Attr) -> SysResult<u64> {
    attr.ends_at(12)?;
    if !t.credentials().has_capability(Capability::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let next = t.task.kernel.programs.after(attr.u32(0)).ok_or(Errno::ENOENT)?;
    attr.answer(t, 4, &next.to_le_bytes()).map(|()| 0)
}

fn fd_by_id(t: &Current, attr: &Attr) -> SysResult<u64> {
    attr.ends_at(4)?;
    if !t.credentials().has_capability(Capability::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    open(t, t.task.kernel.programs.get(attr.u32(0)).ok_or(Errno::ENOENT)?)
}

fn info(t: &Current, attr: &Attr) -> SysResult<u64> {
    attr.ends_at(16)?;
    let program = program(t, attr.u32(0))?;
    let (size, addr) = (attr.u32(4) as usize, attr.u64(8));
    let mut info: Fields<INFO> = Fields::read(t, addr, size)?;
    let source = program.program.source();
    let (space, to) = (info.u32(20) as usize, info.u64(32));
    let tags = info.u32(180);
    info.put(0, &TYPE_DEVICE.to_le_bytes());
    info.put(4, &program.id.to_le_bytes());
    info.put(8, &program.program.tag());
    // Nothing is compiled.
    info.put(16, &[0; 4]);
    info.put(40, &program.loaded.to_le_bytes());
    info.put(48, &t.credentials().user_ns.from_kuid_munged(program.uid).to_le_bytes());
    info.put(52, &[0; 4]);
    info.put(64, &program.name);
    info.put(80, &[0; 4]);
    info.put(84, &u32::from(program.gpl).to_le_bytes());
    for nothing in [88, 92, 96, 100, 104, 108, 128, 144, 148, 168, 192, 196, 200, 204, 208, 212, 220, 224] {
        info.put(nothing, &[0; 4]);
    }
    for (at, record) in [(132, 8u32), (172, 16), (176, 8)] {
        info.put(at, &record.to_le_bytes());
    }
    info.put_count(216, source.len());
    // Only who may load programs sees what is in them.
    if capable(t, Capability::BPF).is_ok() {
        let bytes: Vec<u8> = source.iter().flat_map(|instruction| instruction.to_bytes()).collect();
        info.put_count(20, bytes.len());
        t.mm.write(to, bytes.get(..space).unwrap_or(&bytes))?;
        info.put(180, &1u32.to_le_bytes());
        if tags != 0 {
            t.mm.write(info.u64(184), &program.program.tag())?;
        }
    } else {
        info.put(20, &[0; 4]);
        info.put(180, &[0; 4]);
    }
    let known = size.min(INFO);
    t.mm.write(addr, info.0.get(..known).unwrap_or_default())?;
    attr.answer(t, 4, &count_bytes(known)).map(|()| 0)
}
