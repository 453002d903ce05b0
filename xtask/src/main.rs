//! Everything a developer does: `cargo xtask ci`, `test`, `rules`, `bench`.
#![forbid(unsafe_code)]

mod bench;
mod rules;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// The top of the workspace.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| ".".into(), Path::to_owned)
}

/// Runs cargo; its output is the user's.
fn cargo(args: &[&str]) -> Result<()> {
    println!("+ cargo {}", args.join(" "));
    let status = Command::new(env!("CARGO")).args(args).current_dir(top()).status().context("cannot run cargo")?;
    if status.success() { Ok(()) } else { bail!("cargo {} failed", args.join(" ")) }
}

fn test() -> Result<()> {
    // The integration tests run what users run: the release build.
    cargo(&["build", "--release", "--workspace", "--bins"])?;
    cargo(&["test", "--workspace"])
}

fn ci() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    rules::check(&top())?;
    test()
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["ci"] => ci(),
        ["test"] => test(),
        ["rules"] => rules::check(&top()),
        ["bench", options @ ..] => bench::run(&top(), options),
        _ => bail!("usage: cargo xtask ci | test | rules | bench [--busy]"),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
