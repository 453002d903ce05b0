//! Containers with a terminal: `process.terminal`, `exec --tty`, `--console-socket`.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use integration::{Bundle, Pty, status};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const IDLE: &str = "while :; do sleep 1; done";

/// A bundle whose program has a terminal.
fn with_terminal(name: &str, script: &str) -> Bundle {
    let bundle = Bundle::new(name, script);
    bundle.edit(|config| {
        config["process"]["terminal"] = true.into();
        config["process"]["env"] = serde_json::json!(["PATH=/usr/bin", "TERM=xterm", "PS1=inside> "]);
    });
    bundle
}

/// A socket, and the terminal that is sent to it while `f` runs.
fn receive(bundle: &Bundle, f: impl FnOnce(&str)) -> Pty {
    let path = bundle.dir.join("console.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    f(path.to_str().unwrap());
    let (stream, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let message = recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(&name[..message.bytes], b"/dev/ptmx");
    let fds: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let [master] = <[OwnedFd; 1]>::try_from(fds).unwrap();
    Pty::of_master(master)
}

const LOOK: &str = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; stat -c '%t,%T %u:%g' $(tty) /dev/console; \
                    (echo by name > /dev/tty); ps -o tty= -p $$ 2>/dev/null | head -c0; echo looked";
const SEEN: &str = "/dev/pts/0\r\n24 80\r\nall\r\n88,0 0:5\r\n88,0 0:5\r\nby name\r\nlooked\r\n";

#[test]
fn run_has_the_callers_terminal() {
    let bundle = with_terminal("run-tty", &format!("{LOOK}; exec bash --norc --noprofile"));
    let mut pty = Pty::new();
    let before = pty.settings();
    let child = pty.start(&bundle.command(&["run", "--bundle", bundle.path(), "one"]));
    assert_eq!(pty.expect("looked\r\n"), SEEN);
    pty.expect("inside> ");
    pty.resize(31, 99);
    pty.send("sh -c 'echo go; exec cat'\n");
    pty.expect("\rgo\r\n");
    pty.send("\x1a");
    pty.expect("Stopped");
    pty.send("fg\n");
    pty.expect("fg\r\n");
    pty.expect("exec cat'\r\n");
    pty.send("x\n");
    pty.expect("x\r\nx\r\n");
    pty.send("\x03");
    pty.expect("inside> ");
    pty.send("echo status=$? size=$(stty size)\n");
    pty.expect("status=130 size=31 99");
    pty.send("exit 6\n");
    assert_eq!(status(child), 6);
    assert_eq!(pty.settings().local_modes, before.local_modes);
    drop(pty.rest());
}

#[test]
fn run_without_a_terminal_says_so() {
    let bundle = with_terminal("run-none", "true");
    for (args, why) in [
        (&["run", "--bundle", bundle.path(), "one"][..], "no standard stream is a terminal"),
        (&["run", "--detach", "--bundle", bundle.path(), "one"], "--console-socket"),
        (&["create", "--bundle", bundle.path(), "one"], "--console-socket"),
        (&["create", "--console-socket", "/no/such", "--bundle", bundle.path(), "one"], "/no/such"),
    ] {
        let outcome = bundle.palisade(args);
        assert!(outcome.status != 0 && outcome.stderr.contains(why), "{args:?}: {outcome:?}");
    }
    bundle.edit(|config| config["process"]["terminal"] = false.into());
    let outcome = bundle.palisade(&["create", "--console-socket", "/no/such", "--bundle", bundle.path(), "one"]);
    assert!(outcome.stderr.contains("process.terminal is false"), "{outcome:?}");
    assert_eq!(bundle.ok(&["list", "--quiet"]), "");
}

#[test]
fn a_terminal_is_sent_to_the_socket() {
    let bundle = with_terminal("socket", &format!("{LOOK}; exec bash --norc --noprofile"));
    bundle.edit(|config| config["process"]["consoleSize"] = serde_json::json!({ "height": 24, "width": 80 }));
    let mut pty = receive(&bundle, |path| {
        bundle.ok(&["create", "--console-socket", path, "--bundle", bundle.path(), "one"]);
    });
    bundle.ok(&["start", "one"]);
    assert_eq!(pty.expect("looked\r\n"), SEEN);
    pty.expect("inside> ");
    pty.send("trap 'echo changed to $(stty size)' WINCH; echo rea''dy\n");
    pty.expect("ready");
    // Readline reads the size and sets it before that.
    pty.expect("inside> ");
    pty.resize(40, 120);
    pty.insist("\n", "changed to 40 120");
    pty.send("sh -c 'echo go; exec sleep 1000'\n");
    pty.expect("\rgo\r\n");
    pty.send("\x03");
    pty.expect("^C");
    pty.send("echo status=$?\n");
    pty.expect("status=130");
    // Nothing of what it says last is lost.
    pty.send("seq 1 5000; exit 4\n");
    let rest = pty.rest();
    assert!(rest.contains("4999\r\n5000\r\n"), "{rest:?}");
    bundle.wait_for("one", "stopped");
    assert_eq!(bundle.ok(&["wait", "one"]), "{\"id\":\"one\",\"exitStatus\":4}\n");
}

#[test]
fn a_detached_run_has_one_too() {
    let bundle = with_terminal("socket-run", "trap 'exit 7' HUP; echo ready; while :; do sleep 0.05; done");
    let mut pty = receive(&bundle, |path| {
        bundle.ok(&["run", "--detach", "--console-socket", path, "--bundle", bundle.path(), "one"]);
    });
    pty.expect("ready");
    // The end of the other side is heard of.
    pty.hang_up();
    bundle.wait_for("one", "stopped");
    assert_eq!(bundle.ok(&["wait", "one"]), "{\"id\":\"one\",\"exitStatus\":7}\n");
}

#[test]
fn exec_has_the_callers_terminal() {
    let bundle = Bundle::new("exec-tty", IDLE);
    bundle.run("one");
    let mut pty = Pty::new();
    let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; exec bash --norc --noprofile";
    let child = pty.start(&bundle.command(&["exec", "--tty", "--env", "PS1=inside> ", "one", "/usr/bin/sh", "-c", script]));
    assert_eq!(pty.expect("all\r\n"), "/dev/pts/0\r\n24 80\r\nall\r\n");
    let start = pty.expect("inside> ");
    assert!(!start.contains("job control"), "{start}");
    // Another at the same time has another terminal.
    let mut other = Pty::new();
    let second = other.start(&bundle.command(&[
        "exec",
        "-t",
        "--user",
        "1000:1000",
        "one",
        "/usr/bin/sh",
        "-c",
        "tty; stat -c %u $(tty); seq 1 5000",
    ]));
    let shown = other.rest();
    assert!(shown.starts_with("/dev/pts/1\r\n1000\r\n") && shown.ends_with("\r\n5000\r\n"), "{shown:?}");
    assert_eq!(status(second), 0);
    pty.resize(33, 77);
    pty.send("sh -c 'echo go; exec sleep 1000'\n");
    pty.expect("\rgo\r\n");
    pty.send("\x03");
    pty.expect("inside> ");
    pty.send("echo status=$? size=$(stty size)\n");
    pty.expect("status=130 size=33 77");
    pty.send("exit 9\n");
    assert!(!pty.rest().contains("error"));
    assert_eq!(status(child), 9);
    let none = bundle.palisade(&["exec", "--tty", "one", "true"]);
    assert!(none.status != 0 && none.stderr.contains("no standard stream is a terminal"), "{none:?}");
}

#[test]
fn a_detached_exec_has_a_terminal() {
    let bundle = Bundle::new("exec-socket", IDLE);
    bundle.run("one");
    let pid_file = bundle.dir.join("pid");
    let start = |script: &str| {
        receive(&bundle, |path| {
            let options = ["exec", "--detach", "--tty", "--console-socket", path, "--pid-file", pid_file.to_str().unwrap()];
            bundle.ok(&[&options[..], &["one", "/usr/bin/sh", "-c", script]].concat());
        })
    };
    let mut pty =
        start("trap 'echo changed to $(stty size)' WINCH; echo ready; until read x; do :; done; echo got $x; seq 1 5000");
    pty.expect("ready\r\n");
    pty.resize(41, 121);
    pty.expect("changed to 41 121");
    pty.send("words\n");
    pty.expect("got words\r\n");
    assert!(pty.rest().ends_with("\r\n5000\r\n"));
    let mut pty = start("trap 'echo hung up > /told; exit' HUP; echo ready; while :; do sleep 0.05; done");
    pty.expect("ready");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    pty.hang_up();
    let start = std::time::Instant::now();
    while std::path::Path::new("/proc").join(&pid).exists() {
        assert!(start.elapsed().as_secs() < 20, "it outlives its terminal");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(std::fs::read_to_string(bundle.dir.join("rootfs/told")).unwrap(), "hung up\n");
}
