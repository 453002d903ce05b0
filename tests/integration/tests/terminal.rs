//! `palisade do` on the caller's terminal: it feels as natively.

use std::path::PathBuf;
use std::process::Command;

use integration::{Pty, native, palisade, status};

/// `palisade do`.
fn inside(argv: &[&str]) -> Command {
    let mut command = Command::new(palisade());
    command.args(["do", "--env", "PS1=inside> ", "--"]).args(argv);
    command
}

/// A shell on the terminal, outside.
fn shell(pty: &Pty) -> std::process::Child {
    let mut command = Command::new("bash");
    command.args(["--norc", "--noprofile", "--noediting", "-i"]);
    let child = pty.start(&command);
    pty.expect("outside> ");
    child
}

fn done(pty: &mut Pty, child: std::process::Child) -> (String, i32) {
    (pty.rest(), status(child))
}

/// A directory of the host for a test.
fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("palisade-terminal-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Whether a program is there to be tried.
fn has(name: &str) -> bool {
    let there = native(&["sh", "-c", &format!("command -v {name}")]).status == 0;
    if !there {
        println!("skipped {name}: it isn't there (apt-get install {name})");
    }
    there
}

#[test]
fn lines_are_edited_and_shown() {
    let mut pty = Pty::new();
    let child = pty.start(&inside(&["cat"]));
    pty.send("abx\x7fc\n");
    // Typed before the program wants it, it is the outer terminal that edits; the outcome is the same.
    pty.expect("\r\nabc\r\n");
    pty.send("one two\x17three\n");
    pty.expect("one two\x08 \x08\x08 \x08\x08 \x08three\r\none three\r\n");
    pty.send("\x16\x03\n");
    pty.expect("^C\r\n\x03\r\n");
    pty.send("end\x04\x04");
    pty.expect("endend");
    assert_eq!(done(&mut pty, child), (String::new(), 0));
}

#[test]
fn a_shell_controls_its_jobs() {
    let mut pty = Pty::new();
    let child = pty.start(&inside(&["bash", "--norc", "--noprofile"]));
    let start = pty.expect("inside> ");
    assert!(!start.contains("job control") && !start.contains("ioctl"), "{start:?}");
    pty.send("tty; stty size\n");
    pty.expect("/dev/pts/0\r\n24 80\r\n");
    pty.send("echo g''o; cat\n");
    pty.expect("go\r\n");
    pty.send("line\n");
    pty.expect("line\r\nline\r\n");
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.send("jobs; fg\n");
    pty.expect("jobs; fg\r\n");
    pty.expect("cat\r\ncat\r\n");
    pty.send("more\n");
    pty.expect("more\r\nmore\r\n");
    pty.insist("\x03", "inside> ");
    pty.send("echo status=$?\n");
    pty.expect("status=130");
    // Reading in the background stops.
    pty.send("cat & until jobs -s | grep -q cat; do sleep 0.05; done; jobs\n");
    pty.expect("Stopped");
    pty.expect("inside> ");
    pty.send("fg\n");
    pty.expect("fg\r\n");
    pty.expect("cat\r\n");
    pty.send("y\n");
    pty.expect("y\r\ny\r\n");
    pty.send("\x04");
    pty.expect("inside> ");
    pty.send("exit 7\n");
    assert_eq!(done(&mut pty, child).1, 7);
}

#[test]
fn programs_see_the_window() {
    let mut pty = Pty::new();
    let child = pty.start(&inside(&["bash", "--norc", "--noprofile"]));
    pty.expect("inside> ");
    pty.send("trap 'echo changed to $(stty size)' WINCH; echo rea''dy\n");
    pty.expect("ready");
    // Readline reads the size and sets it before that.
    pty.expect("inside> ");
    pty.resize(30, 100);
    pty.insist("\n", "changed to 30 100");
    pty.send("exit\n");
    assert_eq!(done(&mut pty, child).1, 0);
}

#[test]
fn each_stream_is_what_it_is_outside() {
    let script = "for fd in 0 1 2; do if test -t $fd; then on=\"$on$fd \"; fi; done; echo ${on}end >&2";
    let dir = directory("streams");
    let out = dir.join("out");
    for (redirection, expected) in [
        ("", "0 1 2 end"),
        ("</dev/null", "1 2 end"),
        (&*format!(">{}", out.display()), "0 2 end"),
        ("| cat", "0 2 end"),
        ("2>&1 | cat", "0 end"),
        ("</dev/null 2>&1 | cat", "end"),
    ] {
        let show = |command: &str| {
            let mut pty = Pty::new();
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{command} sh -c '{script}' {redirection}")]);
            let child = pty.start(&shell);
            done(&mut pty, child)
        };
        let palisade = palisade();
        let inside = show(&format!("{} do --", palisade.display()));
        assert_eq!(inside, show(""), "{redirection}");
        assert_eq!(inside.0.trim(), expected, "{redirection}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_pipeline_leaves_the_keys_to_who_wants_them() {
    let mut pty = Pty::new();
    let child = shell(&pty);
    let palisade = palisade();
    // The one inside doesn't want input: all of it is the outer one's.
    pty.send(&format!("{} do -- sh -c 'echo started >&2; exec sleep 1000' | cat /dev/tty\n", palisade.display()));
    pty.expect("\r\nstarted\r\n");
    pty.send("for cat\n");
    pty.expect("for cat\r\nfor cat\r\n");
    pty.insist("\x03", "outside> ");
    // Keys that are signals reach both ends of a pipeline.
    pty.send("echo status=${PIPESTATUS[*]}\n");
    pty.expect("status=130 130");
    // It wants input from the terminal, whatever its standard input is.
    pty.send(&format!("echo x | {} do -- sh -c 'cat; echo star''ted; read y < /dev/tty; echo got $y'\n", palisade.display()));
    pty.expect("x\r\nstarted\r\n");
    pty.send("hello\n");
    pty.expect("\r\ngot hello\r\n");
    pty.expect("outside> ");
    pty.send("exit\n");
    assert_eq!(done(&mut pty, child).1, 0);
}

#[test]
fn it_is_a_job_of_the_callers_shell() {
    let mut pty = Pty::new();
    let child = shell(&pty);
    let palisade = palisade();
    // Stopped by a key and gone on with, twice: with a program that reads, and one that doesn't.
    pty.send(&format!("{} do -- sh -c 'echo started; exec cat'\n", palisade.display()));
    pty.expect("\r\nstarted\r\n");
    pty.send("one\n");
    pty.expect("\r\none\r\n");
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.expect("outside> ");
    // In the background it may not read.
    pty.send("bg; until jobs -s | grep -q cat; do sleep 0.05; done; jobs\n");
    pty.expect("jobs\r\n");
    pty.expect("Stopped");
    pty.expect("outside> ");
    pty.send("fg\n");
    pty.expect("exec cat'\r\n");
    pty.send("two\n");
    pty.expect("\r\ntwo\r\n");
    pty.send("\x04");
    pty.expect("outside> ");
    pty.send(&format!("{} do -- sh -c 'echo started; exec sleep 1000'\n", palisade.display()));
    pty.expect("\r\nstarted\r\n");
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.expect("outside> ");
    pty.send("fg\n");
    pty.expect("sleep 1000'\r\n");
    pty.insist("\x03", "outside> ");
    pty.send("echo status=$?\n");
    pty.expect("status=130");
    // In the background from the start.
    pty.send(&format!(
        "{} do -- sh -c 'echo there; read x; echo got $x' & until jobs -s | grep -q there; do sleep 0.05; done\n",
        palisade.display()
    ));
    pty.expect("\r\nthere\r\n");
    pty.send("jobs\n");
    pty.expect("Stopped");
    pty.expect("outside> ");
    pty.send("fg\n");
    pty.expect("echo got $x'\r\n");
    pty.send("three\n");
    pty.expect("\r\ngot three\r\n");
    pty.expect("outside> ");
    pty.send("exit\n");
    assert_eq!(done(&mut pty, child).1, 0);
}

#[test]
fn a_job_without_a_terminal_of_its_own_stops_too() {
    let mut pty = Pty::new();
    let child = shell(&pty);
    let dir = directory("stops");
    let (out, palisade) = (dir.join("out"), palisade());
    let script = "echo started; read x < /fifo/in; echo went on";
    assert_eq!(native(&["mkfifo", dir.join("in").to_str().unwrap()]).status, 0);
    let line = format!(
        "{} do --volume {}:/fifo -- sh -c '{script}' < /dev/null 2>&1 > {} | cat",
        palisade.display(),
        dir.display(),
        out.display()
    );
    // A fifo inside is the sandbox's own: nobody writes to it, and the program waits until it is ended.
    pty.send(&format!("{line}\n"));
    let start = std::time::Instant::now();
    while std::fs::read_to_string(&out).unwrap_or_default() != "started\n" {
        assert!(start.elapsed().as_secs() < 60, "it doesn't start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.expect("outside> ");
    pty.send("fg\n");
    pty.expect("| cat\r\n");
    pty.insist("\x03", "outside> ");
    pty.send("echo status=${PIPESTATUS[0]}\n");
    pty.expect("status=130");
    pty.send("exit\n");
    assert_eq!(done(&mut pty, child).1, 0);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_sandbox_holds_no_terminal_of_the_callers() {
    let mut pty = Pty::new();
    let child = pty.start(&inside(&["sh", "-c", "echo started; read x"]));
    pty.expect("started\r\n");
    let pid = child.id();
    let children = native(&["cat", &format!("/proc/{pid}/task/{pid}/children")]).stdout;
    let sandbox = children.split_whitespace().next().unwrap().to_owned();
    let held = |pid: &str| native(&["find", &format!("/proc/{pid}/fd"), "-lname", "/dev/pts/*"]).stdout;
    assert!(!held(&pid.to_string()).is_empty(), "its maker holds it");
    assert_eq!(held(&sandbox), "");
    for stub in native(&["cat", &format!("/proc/{sandbox}/task/{sandbox}/children")]).stdout.split_whitespace() {
        assert_eq!(held(stub), "");
    }
    pty.send("\n");
    assert_eq!(done(&mut pty, child).1, 0);
}

#[test]
fn the_terminal_is_left_as_it_was() {
    let same = |pty: &Pty, before: &rustix::termios::Termios| {
        let start = std::time::Instant::now();
        loop {
            let now = pty.settings();
            let same = (now.input_modes, now.output_modes, now.local_modes)
                == (before.input_modes, before.output_modes, before.local_modes);
            if same {
                return;
            }
            assert!(start.elapsed().as_secs() < 20, "{now:?} isn't {before:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    // How it is ended: from inside, by killing the sandbox, by killing the process that the caller sees.
    for end in ["exit 3\n", "sandbox", "palisade"] {
        let mut pty = Pty::new();
        let before = pty.settings();
        let child = pty.start(&inside(&["bash", "--norc", "--noprofile"]));
        pty.expect("inside> ");
        assert!(!pty.settings().local_modes.contains(rustix::termios::LocalModes::ICANON), "it isn't raw");
        let pid = child.id().to_string();
        let expected = match end {
            "sandbox" => {
                let children = native(&["cat", &format!("/proc/{pid}/task/{pid}/children")]).stdout;
                // The sandbox was the first.
                let sandbox = children.split_whitespace().next().unwrap().to_owned();
                assert_eq!(native(&["kill", "-KILL", &sandbox]).status, 0);
                137
            }
            "palisade" => {
                assert_eq!(native(&["kill", "-KILL", &pid]).status, 0);
                137
            }
            text => {
                pty.send(text);
                3
            }
        };
        assert_eq!(status(child), expected, "{end}");
        same(&pty, &before);
        drop(pty.rest());
    }
}

#[test]
fn a_closed_window_is_heard_of() {
    let dir = directory("hangup");
    let mut pty = Pty::new();
    let mut command = Command::new(palisade());
    let script = "trap 'echo hung up > /out/told; exit 4' HUP; stty raw; stty cooked; echo ready; while :; do sleep 0.05; done";
    command.args(["do", "--volume", &format!("{}:/out", dir.display()), "--", "sh", "-c", script]);
    let child = pty.start(&command);
    pty.expect("ready");
    pty.hang_up();
    assert_eq!(status(child), 4);
    assert_eq!(std::fs::read_to_string(dir.join("told")).unwrap(), "hung up\n");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_last_bytes_arrive() {
    for script in ["seq 1 30000", "stty -echo; seq 1 30000; kill -9 $$"] {
        let mut pty = Pty::new();
        let child = pty.start(&inside(&["sh", "-c", script]));
        let (shown, _) = done(&mut pty, child);
        let expected: String = (1..=30000).map(|i| format!("{i}\r\n")).collect();
        assert!(
            shown == expected,
            "{} bytes of {}: ...{:?}",
            shown.len(),
            expected.len(),
            &shown[shown.len().saturating_sub(40)..]
        );
    }
}

#[test]
fn it_is_stopped_and_continued_without_a_terminal() {
    let mut command = inside(&["sh", "-c", "echo started; read x; echo went on; exit 5"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = child.id().to_string();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "started\n");
    let state = |wanted: &str| {
        let start = std::time::Instant::now();
        while !native(&["cat", &format!("/proc/{pid}/stat")]).stdout.contains(&format!(") {wanted} ")) {
            assert!(start.elapsed().as_secs() < 20, "its state isn't {wanted}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    // Its process group is this test's own, which has a parent in its session, or there is nobody to continue it and it isn't stopped.
    assert_eq!(native(&["kill", "-STOP", &pid]).status, 0);
    state("T");
    assert_eq!(native(&["kill", "-CONT", &pid]).status, 0);
    state("S");
    drop(child.stdin.take());
    line.clear();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!((line.as_str(), status(child)), ("went on\n", 5));
}

#[test]
fn programs_of_the_whole_screen_draw() {
    let programs = [
        ("top", &["top"][..], "Tasks:", "q"),
        ("less", &["less", "/etc/passwd"], "root:x:0:0", "q"),
        ("vim.tiny", &["vim.tiny", "-u", "NONE", "/etc/passwd"], "root:x:0:0", ":q\r"),
        ("script", &["script", "-q", "-c", "tty; stty size", "/dev/null"], "/dev/pts/1\r\n24 80", ""),
        // It never hears that it has ended when it is process 1, on Linux neither.
        ("screen", &["sh", "-c", "screen -s /bin/sh sh -c 'stty size; read x'; exit $?"], "24 80", "\n"),
        ("tmux", &["tmux", "-f", "/dev/null", "new-session", "stty size; read x"], "23 80", "\n"),
    ];
    let mut skipped = 0;
    for (program, argv, shown, keys) in programs {
        if !has(program) {
            skipped += 1;
            continue;
        }
        let mut pty = Pty::new();
        let mut command = Command::new(palisade());
        command.args(["do", "--env", "TERM=xterm", "--env", "LC_ALL=C.UTF-8", "--"]).args(argv);
        let child = pty.start(&command);
        pty.expect(shown);
        pty.send(keys);
        let (rest, status) = done(&mut pty, child);
        assert_eq!(status, 0, "{program}: {rest:?}");
    }
    println!("{} programs tried, {skipped} skipped", programs.len() - skipped);
}
