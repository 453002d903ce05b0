//! Programs of the host, natively first and then in a sandbox: same output, same status.

use integration::{Outcome, native, same, sandboxed};

#[test]
fn shells_and_pipelines() {
    same("for i in 1 2 3; do echo $i | sed s/./x/; done");
    same("echo a | cat | tr a b; echo $?; false; echo $?");
    same("x=$(echo $(echo nested)); echo $x; (exit 7); echo $?");
    same("bash -c 'trap \"echo got\" USR1; kill -USR1 $$; for ((i=0;i<100;i++)); do :; done; echo end'");
    same("seq 1 20000 | sort -rn | head -3; seq 1 100000 | wc");
    same("cat <<X | md5sum\nhello\nX\n");
    same("sleep 0.05 & wait $!; echo $?");
    same("exit 42");
}

#[test]
fn files_and_directories() {
    same(
        "cd /tmp && mkdir -p pal.$$/a/b && cd pal.$$ && echo hi > a/f && ln -s f a/l && ln a/f a/h && cat a/l a/h && stat -c '%h %s %F' a/f a/l \
          && mv a/f a/b/g && ls -R . && rm -r a/b && ls a; cd ..; rm -r pal.$$; echo $?",
    );
    same(
        "cd /tmp && f=pal.f.$$ && dd if=/dev/zero of=$f bs=1000 count=100 2>/dev/null && truncate -s 5 $f && od -c $f && echo x >> $f && wc -c < $f; rm $f",
    );
    same("find /usr/share/perl5 -type f | sort | head -50 | xargs cat | sha256sum");
    same("tar cf - /etc/default /usr/share/base-files 2>/dev/null | tar tf - | sort");
    same("gzip -c /etc/services | gunzip | cmp - /etc/services && echo same");
    same("cat /nonexistent; echo $?");
    same(
        "head -c 100000 /dev/zero | tr '\\0' x | md5sum; head -c 16 /dev/urandom | wc -c; echo lost > /dev/null; echo full > /dev/full; echo $?",
    );
}

#[test]
fn interpreters_and_compilers() {
    same(
        "perl -e 'print join(\",\", map { $_ ** 2 } 1..10), \"\\n\"; my $p = fork; if (!$p) { exit 3 } waitpid $p, 0; print $? >> 8, \"\\n\"'",
    );
    same("python3 -c 'print(sum(range(10**6)))'");
    // AT_EXECFN of a script is the script.
    same(
        "cd /tmp && printf '#!/usr/bin/env python3\\nimport ctypes\\nf=ctypes.CDLL(None).getauxval\\nf.restype=ctypes.c_char_p\\nprint(f(31))\\n' > palisade-script && chmod +x palisade-script && ./palisade-script; rm palisade-script",
    );
    same(
        "python3 -c '\nimport threading\nn=[0]\nl=threading.Lock()\ndef f():\n  for _ in range(1000):\n    with l: n[0]+=1\nt=[threading.Thread(target=f) for _ in range(8)]\n[x.start() for x in t]; [x.join() for x in t]; print(n)'",
    );
    same(
        "cd /tmp && d=$(mktemp -d) && cd $d && printf '#include <stdio.h>\\nint main(void){puts(\"compiled\");return 5;}' > h.c && gcc -O1 h.c -o h && ./h; echo $?; cd /; rm -r $d",
    );
}

#[test]
fn ends_are_told_as_on_linux() {
    assert_eq!(sandboxed(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).status, 137);
    // The first process is spared what it does to itself (pid_namespaces(7)).
    assert_eq!(sandboxed(&["sh", "-c", "kill -9 $$; exit 5"]).status, 5);
    assert_eq!(sandboxed(&["sh", "-c", "exit 3"]).status, 3);
    same("sh -c 'kill -TERM $$'; echo $?");
    same("perl -e 'kill SEGV => $$'; echo $?");
    let missing = sandboxed(&["no-such-program"]);
    assert_eq!(missing.status, 127);
    assert_eq!(missing.stderr, "palisade: exec: \"no-such-program\": executable file not found in $PATH\n");
}

#[test]
fn the_kernel_is_ours() {
    let uname = sandboxed(&["uname", "-r"]);
    assert_eq!(uname.stdout, "6.12.0-palisade\n");
    assert_ne!(native(&["uname", "-r"]).stdout, uname.stdout);
    let Outcome { stdout, .. } = sandboxed(&["dmesg"]);
    let lines: Vec<_> = stdout.lines().collect();
    assert!((10..=16).contains(&lines.len()), "{stdout}");
    assert!(lines.last().unwrap().ends_with("] Ready!"), "{stdout}");
    assert!(lines.is_sorted_by(|a, b| a[..14] < b[..14]), "{stdout}");
}

#[test]
fn writes_stay_inside() {
    let path = format!("/var/palisade-test-{}", std::process::id());
    let script = format!("echo secret > {path} && cat {path} && rm -rf /etc/default && ls /etc/default");
    let inside = sandboxed(&["sh", "-c", &script]);
    assert_eq!((inside.stdout.as_str(), inside.status), ("secret\n", 2));
    assert!(!std::path::Path::new(&path).exists());
    assert!(std::path::Path::new("/etc/default").exists());
}

#[test]
fn nothing_is_left_behind() {
    // Under a name of its own: other tests run sandboxes too.
    let program = std::env::temp_dir().join(format!("left-{}", std::process::id()));
    std::fs::copy(integration::palisade(), &program).unwrap();
    let name = format!("left-{}", std::process::id());
    let count = || native(&["pgrep", "-c", "-x", &name]).stdout.trim().parse::<u32>().unwrap();
    let started = std::time::Instant::now();
    let mut child = std::process::Command::new(&program).args(["do", "--", "sleep", "1000"]).spawn().unwrap();
    while count() < 3 {
        assert!(started.elapsed().as_secs() < 20, "it doesn't start: {}", count());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while count() > 0 {
        assert!(started.elapsed().as_secs() < 40, "processes are left: {}", count());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::fs::remove_file(&program).unwrap();
}

#[test]
fn interrupts_reach_the_program() {
    let script = "trap 'echo stopped; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = std::process::Command::new(integration::palisade())
        .args(["do", "--", "sh", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let killed = native(&["kill", "-INT", &child.id().to_string()]);
    assert_eq!(killed.status, 0);
    assert_eq!(lines.next().unwrap().unwrap(), "stopped");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn options_are_told_from_the_command() {
    let palisade = integration::palisade().display().to_string();
    let run = |args: &[&str]| native(&[&[palisade.as_str()], args].concat());
    assert_eq!(run(&["do", "--debug", "--", "echo", "--debug"]).stdout, "--debug\n");
    assert_eq!(run(&["do", "sh", "-c", "echo $0", "--root"]).stdout, "--root\n");
    let unknown = run(&["do", "--nonsense", "--", "true"]);
    assert!(unknown.status == 2 && unknown.stderr.contains("--nonsense"), "{unknown:?}");
}
