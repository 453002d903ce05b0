//! The checks of tests/apps in a Debian: natively and inside.

use std::io::Write;
use std::process::{Command, Stdio};

use integration::{Debian, built, palisade};

#[test]
fn programs_that_people_use() {
    // Printed past the test's capture: what didn't run must be seen.
    let say = |text: &str| drop(writeln!(std::io::stderr(), "{text}"));
    let entries = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../apps")).unwrap();
    let count =
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "sh"))).count();
    if !Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n") {
        return say(&format!("skipped: {count} checks of programs: only root can make a Debian"));
    }
    let debian = match Debian::get() {
        Ok(debian) => debian,
        Err(why) => return say(&format!("skipped: {count} checks of programs: {why}")),
    };
    let mut command = Command::new(built("xtask"));
    command.args(["apps", "--rootfs"]).arg(debian.root()).arg("--palisade").arg(palisade());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    // Those that fail natively say nothing of us: they are to be seen.
    let broken: Vec<&str> =
        table.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|word| word != "PASS")).collect();
    let passed = table.lines().filter(|line| line.split_whitespace().nth(2) == Some("PASS")).count();
    say(&format!("{passed} checks of programs pass, as natively"));
    assert!(passed == count && broken.iter().all(|line| line.starts_with("logs:")), "{table}");
}
