//! docs/compatibility.md says what is.

use std::process::Command;

use integration::{built, palisade};

#[test]
fn the_document_matches_the_table() {
    let output = Command::new(built("xtask")).args(["compat", "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn calls_that_are_missing_are_said_at_the_end() {
    let script = "import ctypes; libc = ctypes.CDLL(None); [libc.syscall(156) for _ in range(3)]";
    let output = Command::new(palisade()).args(["--debug", "do", "--", "python3", "-S", "-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("palisade: system call 156 (_sysctl) is not implemented: made 3 times"), "{text}");
}
