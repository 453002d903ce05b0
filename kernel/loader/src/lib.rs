//! execve(2): scripts, ELF images, the initial stack.
#![forbid(unsafe_code)]

mod elf;
mod stack;

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::UserNamespace;
use mm::{MappedFile, MemoryManager};
use platform::Platform;
use usermem::IoBuf;
use vfs::{Caller, FileOps, Path, Running, WalkFlags};

/// Scripts on the way to a program.
const MAX_SCRIPTS: usize = 5;
/// Bytes of arguments and environment at most.
pub const MAX_ARGS: usize = 2 << 20;

/// What to run.
pub struct Program {
    pub file: Path,
    /// As given to execve(2).
    pub path: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    /// The path leads nowhere once the program runs: it goes by a descriptor that is closed then. No script can be run so.
    pub hidden: bool,
    pub user_ns: Arc<UserNamespace>,
}

/// Why a program can't be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// execve(2) fails.
    Refused(Errno),
    /// The old program is gone when Linux finds out: who runs it gets a SIGSEGV.
    Broken,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// Who a program runs as, for its auxiliary vector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// It has more rights than who called it: the dynamic loader is to trust nothing (`AT_SECURE`).
    pub secure: bool,
}

/// Tells who a program runs as, once its file is known: for scripts, the interpreter's.
pub type Identify<'a> = dyn FnMut(&Path) -> SysResult<Identity> + 'a;

/// A loaded program.
pub struct Image {
    pub mm: Arc<MemoryManager>,
    pub entry: u64,
    pub stack: u64,
    /// Command name, 15 bytes at most.
    pub comm: Vec<u8>,
    pub exe: Running,
}

/// An executable file: its contents and how it is mapped.
struct Executable {
    ops: Arc<dyn FileOps>,
    mapped: MappedFile,
    running: Running,
}

impl Executable {
    fn open(at: &Path, caller: &Caller) -> SysResult<Self> {
        let attr = caller.may_exec(at)?;
        let running = Running::new(at)?;
        let ops = at.inode().clone().open(c::O_RDONLY)?;
        let path = String::from_utf8_lossy(&at.show(&caller.places.root)).into_owned();
        let mapped = MappedFile { file: ops.host_file()?, path: path.into(), dev: attr.dev, ino: attr.ino, hook: None };
        vfs::notify::executed(at);
        Ok(Self { ops, mapped, running })
    }

    fn read(&self, offset: u64, dst: &mut [u8]) -> SysResult<usize> {
        let mut done = 0;
        while done < dst.len() {
            let rest = dst.get_mut(done..).unwrap_or_default();
            match self.ops.read(&mut IoBuf::kernel_mut(rest), offset.saturating_add(done as u64))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }
}

/// The interpreter of a script and its one argument.
type Interpreter = (Vec<u8>, Option<Vec<u8>>);

/// What a script's first line asks for; `None` when it is no script.
fn script(head: &[u8]) -> Option<SysResult<Interpreter>> {
    let line = head.strip_prefix(b"#!")?;
    let line = match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => line.get(..end)?,
        None => line,
    };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = line.trim_ascii();
    let (interpreter, rest) = match line.iter().position(blank) {
        Some(end) => (line.get(..end)?, line.get(end..)?.trim_ascii()),
        None => (line, &[][..]),
    };
    if interpreter.is_empty() {
        return Some(Err(Errno::ENOEXEC));
    }
    Some(Ok((interpreter.to_vec(), (!rest.is_empty()).then(|| rest.to_vec()))))
}

/// Loads a program into a new address space.
///
/// # Errors
/// As execve(2), and what `identify` says: `ENOEXEC`, `EACCES`, `ENOENT`, `ELOOP`, `E2BIG`, `ENOMEM`, `ELIBBAD`.
pub fn load(
    platform: &dyn Platform,
    caller: &Caller,
    mut program: Program,
    identify: &mut Identify<'_>,
) -> Result<Image, Failure> {
    let total: usize = program.argv.iter().chain(&program.envp).map(|text| text.len() + 9).sum();
    if total > MAX_ARGS {
        return Err(Errno::E2BIG.into());
    }
    if program.argv.is_empty() {
        program.argv.push(Vec::new());
    }
    let name = program.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let comm = name.get(..name.len().min(15)).unwrap_or_default().to_vec();
    let called = program.path.clone();
    for _ in 0..=MAX_SCRIPTS {
        let file = Executable::open(&program.file, caller)?;
        let mut head = [0; 256];
        let len = file.read(0, &mut head)?;
        let Some(found) = script(head.get(..len).unwrap_or_default()) else {
            let identity = identify(&program.file)?;
            // For AT_EXECFN a script is called by its own name.
            program.path = called;
            return image(platform, caller, &program, &file, comm, identity);
        };
        let (interpreter, argument) = found?;
        if program.hidden {
            return Err(Errno::ENOENT.into());
        }
        program.file = caller.resolve(&interpreter, WalkFlags::FOLLOW)?;
        let rest = program.argv.drain(..).skip(1).collect::<Vec<_>>();
        program.argv = std::iter::once(interpreter).chain(argument).chain([program.path.clone()]).chain(rest).collect();
        program.path = program.argv.first().cloned().unwrap_or_default();
    }
    Err(Errno::ELOOP.into())
}

fn image(
    platform: &dyn Platform,
    caller: &Caller,
    program: &Program,
    file: &Executable,
    comm: Vec<u8>,
    who: Identity,
) -> Result<Image, Failure> {
    let main = elf::parse(file)?;
    // Everything that can be refused is, before the host makes a process.
    let interpreter = match &main.interpreter {
        Some(path) => {
            // Linux opens the working directory, which is no program.
            let path = if path.is_empty() { &b"."[..] } else { path };
            let file = Executable::open(&caller.resolve(path, WalkFlags::FOLLOW)?, caller)?;
            let parsed = elf::parse(&file).map_err(|errno| if errno == Errno::ENOEXEC { Errno::ELIBBAD } else { errno })?;
            Some((file, parsed))
        }
        None => None,
    };
    if main.broken || interpreter.as_ref().is_some_and(|(_, parsed)| parsed.broken) {
        return Err(Failure::Broken);
    }
    let mm = MemoryManager::new(platform, program.user_ns.clone())?;
    let mut random = [0; 32];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(Errno::from)?;
    let shift = u64::from(u16::from_le_bytes([random[16], random[17]])) << 12;
    let loaded = elf::map(&mm, file, &main, Some(0x5555_5555_4000 + (shift << 8)))?;
    mm.set_brk_start(loaded.end);
    let (entry, base) = match &interpreter {
        Some((file, parsed)) => {
            let interpreter = elf::map(&mm, file, parsed, None)?;
            (interpreter.entry, interpreter.base)
        }
        None => (loaded.entry, 0),
    };
    let exe = program.file.text(&caller.places.root).text;
    let stack = stack::build(&mm, program, who, &loaded, base, &random, exe)?;
    Ok(Image { mm, entry, stack, comm, exe: file.running.clone() })
}

#[cfg(test)]
mod tests {
    use super::script;

    #[test]
    fn scripts_have_an_interpreter_and_one_argument() {
        assert!(script(b"\x7fELF").is_none());
        assert_eq!(script(b"#! /bin/sh \n"), Some(Ok((b"/bin/sh".to_vec(), None))));
        assert_eq!(script(b"#!/usr/bin/env -S a b\nx"), Some(Ok((b"/usr/bin/env".to_vec(), Some(b"-S a b".to_vec())))));
        assert!(script(b"#! \n").unwrap().is_err());
    }
}
