//! Directories of the host that guests and the host change: what one does the other sees.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use integration::{Outcome, built, palisade};

/// A directory of the host's own.
fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("palisade-volume-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "100"]).arg(palisade()).args(["do", "--cwd", "/v", "--env", "TMPDIR=/v", "--volume"]);
    command.arg(format!("{}:/v", dir.display())).arg("--");
    command
}

/// Cases of files, in a directory of the host.
const CASES: &[&str] = &[
    "open-flags",
    "links",
    "directories-made",
    "rename",
    "modes",
    "owners",
    "sizes",
    "nodes",
    "times",
    "bad-paths",
    "perm-modes",
    "perm-sticky",
    "perm-owners",
    "openat2",
    "sync",
    "read-write",
    "positional",
    "append",
    "directories",
    "flock",
    "record-locks",
    "leases",
    "inotify",
    "inotify-files",
    "inotify-names",
    "inotify-ends",
    "sendfile",
    "copy-file-range",
    "file-size-limit",
    "readahead",
    "append-together",
    "fifo-open",
    "link-by-descriptor",
    "mmap-kinds",
    "rename-races",
    "sizes-at-once",
    "text-busy",
    "special-modes",
];

#[test]
fn cases_of_files_hold_over_a_directory_of_the_host() {
    let dir = directory("cases");
    let outcome: Outcome = command(&dir).arg(built("guest-cases")).args(CASES).output().unwrap().into();
    std::fs::remove_dir_all(&dir).unwrap();
    let failed: Vec<_> = outcome.stdout.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(failed.is_empty() && outcome.status == 0, "{failed:#?}");
    assert!(outcome.stdout.lines().filter(|line| line.starts_with("ok")).count() * 10 > CASES.len() * 8, "{outcome:?}");
}

/// A Python inside that answers what it is asked.
struct Inside {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Inside {
    fn start(dir: &Path) -> Self {
        let script = "import os,sys,fcntl\nkeep={}\nfor line in sys.stdin:\n  try: print(eval(line),flush=True)\n  except OSError as e: print(e.strerror,flush=True)";
        let mut command = command(dir);
        command.args(["python3", "-S", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (ask, answer) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, ask, answer }
    }

    fn ask(&mut self, expression: &str) -> String {
        writeln!(self.ask, "{expression}").unwrap();
        let mut line = String::new();
        self.answer.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn end(mut self) {
        drop(self.ask);
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn what_the_host_changes_is_seen_inside() {
    let dir = directory("changes");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write("f", "one");
    write("g", "other");
    let mut inside = Inside::start(&dir);
    assert_eq!(inside.ask("open('f').read()"), "one");
    // The same file, then another one in its place, then none.
    write("f", "longer");
    assert_eq!(inside.ask("os.stat('f').st_size, open('f').read()"), "(6, 'longer')");
    let held = inside.ask("keep.setdefault('f', open('f')).fileno() > 2");
    assert_eq!(held, "True");
    std::fs::rename(dir.join("g"), dir.join("f")).unwrap();
    assert_eq!(inside.ask("open('f').read(), keep['f'].read(), os.fstat(keep['f'].fileno()).st_nlink"), "('other', 'longer', 0)");
    assert_eq!(inside.ask("os.path.exists('g')"), "False");
    std::fs::remove_file(dir.join("f")).unwrap();
    assert_eq!(inside.ask("open('f')"), "No such file or directory");
    std::fs::create_dir(dir.join("f")).unwrap();
    write("f/x", "");
    assert_eq!(inside.ask("os.listdir('f'), os.listdir('.')"), "(['x'], ['f'])");
    // A directory that has moved, with somebody in it.
    assert_eq!(inside.ask("keep.setdefault('dir', os.open('f', os.O_PATH)) > 2"), "True");
    std::fs::rename(dir.join("f"), dir.join("moved")).unwrap();
    assert_eq!(inside.ask("os.stat('x', dir_fd=keep['dir']).st_size, os.path.isdir('f')"), "(0, False)");
    // And the other way round.
    assert_eq!(inside.ask("open('made', 'w').write('text') and os.link('made', 'again')"), "None");
    assert_eq!(std::fs::read_to_string(dir.join("again")).unwrap(), "text");
    inside.end();
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_file_that_is_mounted_stays_what_it_is() {
    let dir = directory("file");
    let file = dir.join("f");
    std::fs::write(&file, "old").unwrap();
    std::fs::create_dir(dir.join("v")).unwrap();
    let mut command = command(&dir.join("v"));
    let script = "cat /f; echo; read line; cat /f; echo; read line; cat /f";
    // Before the `--`.
    let mut again = Command::new(command.get_program());
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    again
        .args(&args[..args.len() - 1])
        .arg("--volume")
        .arg(format!("{}:/f", file.display()))
        .arg("--")
        .args(["sh", "-c", script]);
    command = again;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut ask, mut answer) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    let mut next = || answer.next().unwrap().unwrap();
    assert_eq!(next(), "old");
    // Written to, and then replaced, as editors do: what is mounted is the old one.
    std::fs::write(&file, "changed").unwrap();
    writeln!(ask).unwrap();
    assert_eq!(next(), "changed");
    std::fs::write(dir.join("new"), "new").unwrap();
    std::fs::rename(dir.join("new"), &file).unwrap();
    writeln!(ask).unwrap();
    assert_eq!(next(), "changed");
    assert!(child.wait().unwrap().success());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_file_is_one_whatever_it_is_called() {
    let dir = directory("one");
    std::fs::write(dir.join("a"), "text").unwrap();
    std::fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
    let mut inside = Inside::start(&dir);
    assert_eq!(
        inside.ask("os.stat('a').st_ino == os.stat('b').st_ino == [e.inode() for e in os.scandir('.') if e.name == 'b'][0]"),
        "True"
    );
    // A lock by one name is one by the other.
    assert_eq!(inside.ask("fcntl.flock(keep.setdefault('a', open('a')), fcntl.LOCK_EX)"), "None");
    assert_eq!(inside.ask("fcntl.flock(open('b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"), "Resource temporarily unavailable");
    // One of its names is enough to change it.
    assert_eq!(
        inside.ask("open('a').read(), os.unlink('a'), os.chmod('b', 0o600), open('b', 'a').write('!')"),
        "('text', None, None, 1)"
    );
    assert_eq!(std::fs::read_to_string(dir.join("b")).unwrap(), "text!");
    // Renaming one name of a file to another does nothing.
    assert_eq!(inside.ask("os.link('b', 'c'), os.rename('b', 'c'), sorted(os.listdir('.'))"), "(None, None, ['b', 'c'])");
    inside.end();
    std::fs::remove_dir_all(&dir).unwrap();
}
