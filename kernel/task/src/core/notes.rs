//! The notes of a core file: registers, signals, names (`elf.h`, `linux/elfcore.h`).

use abi::signal::SigInfo;
use mm::CoreSegment;
use usermem::PAGE_SIZE;

use super::Thread;
use crate::current::Current;
use crate::ptrace::{extended, float, words};

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_X86_XSTATE: u32 = 0x202;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;

/// Bytes of the arguments that `struct elf_prpsinfo` has room for, without the end.
const ARGUMENTS: usize = 79;
const NAME: usize = 15;
/// Bytes of NT_FILE, as Linux bounds it (`MAX_FILE_NOTE_SIZE`): a program maps what it likes, under names as long as it likes.
const MAX_FILES: usize = 4 << 20;

/// Numbers one after the other.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn i32s(&mut self, numbers: &[i32]) -> &mut Self {
        numbers.iter().for_each(|number| self.0.extend(number.to_le_bytes()));
        self
    }

    fn u64s(&mut self, numbers: &[u64]) -> &mut Self {
        numbers.iter().for_each(|number| self.0.extend(number.to_le_bytes()));
        self
    }

    /// Text in a field of `len` bytes, of which the last is zero.
    fn text(&mut self, text: &[u8], len: usize) -> &mut Self {
        let end = self.0.len() + len;
        self.0.extend(text.iter().take(len - 1));
        self.0.resize(end, 0);
        self
    }
}

fn note(out: &mut Vec<u8>, name: &[u8], kind: u32, content: &[u8]) {
    let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
    // No note is that long, see MAX_FILES.
    for len in [name.len(), content.len()] {
        out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    }
    out.extend(kind.to_le_bytes());
    out.extend(name);
    pad(out);
    out.extend(content);
    pad(out);
}

/// All notes.
pub fn all(current: &Current, info: &SigInfo, threads: &[Thread], segments: &[CoreSegment]) -> Vec<u8> {
    let mut out = Vec::new();
    let auxv = current.mm.info.lock().auxv.clone();
    for (index, thread) in threads.iter().enumerate() {
        note(&mut out, b"CORE\0", NT_PRSTATUS, &status(current, info, thread));
        if index == 0 {
            note(&mut out, b"CORE\0", NT_PRPSINFO, &process(current));
            note(&mut out, b"CORE\0", NT_SIGINFO, zerocopy::IntoBytes::as_bytes(info));
            note(&mut out, b"CORE\0", NT_AUXV, &auxv);
            if let Some(files) = files(segments) {
                note(&mut out, b"CORE\0", NT_FILE, &files);
            }
        }
        if let (Ok(legacy), Ok(all)) = (float(&thread.fp), extended(&thread.fp)) {
            note(&mut out, b"CORE\0", NT_PRFPREG, &legacy);
            note(&mut out, b"LINUX\0", NT_X86_XSTATE, &all);
        }
    }
    out
}

/// Numbers of the process, its parent, group and session.
fn family(current: &Current) -> [i32; 4] {
    let group = &current.task.group;
    [group.own_pid(), group.parent_pid(), current.local(group.pgid()), current.local(group.sid())]
}

/// `struct elf_prstatus`
fn status(current: &Current, info: &SigInfo, thread: &Thread) -> Vec<u8> {
    let mut out = Bytes::default();
    let [_, ppid, pgid, sid] = family(current);
    out.i32s(&[info.signo, info.code, info.errno, info.signo]);
    out.u64s(&[thread.pending.0, thread.mask.0]);
    out.i32s(&[thread.tid, ppid, pgid, sid]);
    let (used, children) = (current.task.group.used(), current.task.group.usage.lock().children);
    for ns in [used.user, used.system, children.user, children.system] {
        out.u64s(&[ns / 1_000_000_000, ns % 1_000_000_000 / 1000]);
    }
    out.u64s(&words(&thread.regs)).i32s(&[1, 0]);
    out.0
}

/// `struct elf_prpsinfo`
fn process(current: &Current) -> Vec<u8> {
    let mut out = Bytes::default();
    let (comm, nice) = {
        let shared = current.task.lock();
        (shared.comm.clone(), shared.scheduling.nice)
    };
    out.0.extend([0, b'R', 0, nice.to_le_bytes()[0]]);
    out.i32s(&[0]).u64s(&[0]);
    let (who, ids) = (current.credentials(), family(current));
    out.0.extend(who.user_ns.from_kuid_munged(who.ruid).to_le_bytes());
    out.0.extend(who.user_ns.from_kgid_munged(who.rgid).to_le_bytes());
    out.i32s(&ids);
    let args = current.mm.info.lock().args.clone();
    let mut text = vec![0; usize::try_from(args.end.saturating_sub(args.start)).unwrap_or(0).min(ARGUMENTS)];
    let read = current.mm.read_remote(args.start, &mut text, true).unwrap_or(0);
    text.truncate(read);
    text.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    out.text(&comm, NAME + 1).text(&text, ARGUMENTS + 1);
    out.0
}

/// Which files are mapped where.
/// Which files are mapped; none if that is longer than [`MAX_FILES`].
fn files(segments: &[CoreSegment]) -> Option<Vec<u8>> {
    let mut out = Bytes::default();
    let mapped = || segments.iter().filter_map(|segment| Some((segment, segment.file.as_ref()?)));
    if mapped().map(|(_, (path, _))| 24 + path.len() + 1).sum::<usize>() > MAX_FILES {
        return None;
    }
    out.u64s(&[mapped().count() as u64, PAGE_SIZE]);
    for (segment, (_, offset)) in mapped() {
        out.u64s(&[segment.range.start, segment.range.end, offset / PAGE_SIZE]);
    }
    for (_, (path, _)) in mapped() {
        out.0.extend(path.as_bytes());
        out.0.push(0);
    }
    Some(out.0)
}
