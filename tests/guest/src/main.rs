//! Runs cases: `guest-cases` all, `guest-cases NAME…` some, `guest-cases --list` prints names and the calls they test.
#![allow(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc, reason = "this is guest code: it may do what it likes")]

#[macro_use]
mod sys;
mod cases;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use sys::Skip;

/// A test of some system calls.
pub struct Case {
    pub name: &'static str,
    /// Names of the calls tested, separated by blanks.
    pub calls: &'static str,
    pub run: fn(),
}

/// Runs one case in this process, in an empty directory.
fn run_here(case: &Case) -> ExitCode {
    let dir = std::env::temp_dir().join(format!("cases-{}", std::process::id()));
    // One that was killed may have left its own, with the same number.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).unwrap();
    std::env::set_current_dir(&dir).unwrap();
    // A hang is a failure.
    unsafe { libc::alarm(30) };
    let result = std::panic::catch_unwind(case.run);
    let _ = std::fs::remove_dir_all(&dir);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(payload) => match payload.downcast_ref::<Skip>() {
            Some(Skip(reason)) => {
                println!("{reason}");
                ExitCode::from(77)
            }
            None => ExitCode::FAILURE,
        },
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let all: Vec<&Case> = cases::all().collect();
    match args.first().map(String::as_str) {
        Some("--list") => {
            all.iter().for_each(|case| println!("{}: {}", case.name, case.calls));
            return ExitCode::SUCCESS;
        }
        Some("--one") => {
            std::panic::set_hook(Box::new(|info| {
                if !info.payload().is::<Skip>() {
                    println!("{info}");
                }
            }));
            let case = all.iter().find(|case| Some(case.name) == args.get(1).map(String::as_str));
            return case.map_or(ExitCode::from(2), |case| run_here(case));
        }
        _ => {}
    }
    let mut failed = false;
    for case in all.iter().filter(|case| args.is_empty() || args.iter().any(|name| name == case.name)) {
        let output = Command::new("/proc/self/exe").args(["--one", case.name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().replace('\n', " | ");
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => println!("ok {}", case.name),
            (Some(77), _) => println!("skip {}: {text}", case.name),
            (code, signal) => {
                failed = true;
                println!("FAIL {}: {text} (exit {code:?}, signal {signal:?})", case.name);
            }
        }
    }
    ExitCode::from(u8::from(failed))
}
