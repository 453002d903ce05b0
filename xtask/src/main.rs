//! Everything a developer does: `cargo xtask help` lists it.
#![forbid(unsafe_code)]

mod apps;
mod bench;
mod compat;
mod conformance;
mod rules;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Everything a developer does.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask")]
enum Task {
    /// All that must hold before a change lands.
    Ci,
    /// Builds the release programs and runs all tests.
    Test,
    /// Checks layering, unsafe code and sizes of files.
    Rules,
    Bench(Box<bench::Options>),
    Compat(compat::Options),
    Conformance(Box<conformance::Options>),
    Apps(Box<apps::Options>),
}

/// The top of the workspace.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| ".".into(), Path::to_owned)
}

/// Where cargo builds.
fn target(top: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), PathBuf::from)
}

/// A program of the release build.
fn built(top: &Path, name: &str) -> PathBuf {
    target(top).join("release").join(name)
}

/// Where results are kept that stand in the documents.
fn results(top: &Path) -> Result<PathBuf> {
    let dir = top.join("docs/results");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
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
    match Task::parse() {
        Task::Ci => ci(),
        Task::Test => test(),
        Task::Rules => rules::check(&top()),
        Task::Bench(options) => bench::run(&top(), &options),
        Task::Compat(options) => compat::run(&top(), &options),
        Task::Conformance(options) => conformance::run(&top(), &options),
        Task::Apps(options) => apps::run(&top(), &options),
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
