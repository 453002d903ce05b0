//! Compares single operations, start-up and programs: natively, under the peers that are there, and under palisade, interleaved in one run.

mod bundle;
mod idle;
mod report;
mod rows;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use bundle::{Work, runners};
use report::{Report, Table};

/// Compares single operations and programs natively, under palisade, and under runc, crun and runsc where they are found. Needs root.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// With all CPUs loaded by other work.
    #[arg(long)]
    busy: bool,
    /// Look for runc, crun and runsc here before PATH.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// Rounds; each runner runs once in each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these runners (may be repeated).
    #[arg(long)]
    runner: Vec<String>,
    /// Only these single operations (may be repeated).
    #[arg(long)]
    row: Vec<String>,
    /// Leave out: operations, programs, start, idle (may be repeated).
    #[arg(long)]
    skip: Vec<String>,
    /// Write the results in JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write them to docs/results, and the tables to docs/performance.md.
    #[arg(long)]
    commit: bool,
}

/// No row takes this long.
const PATIENCE: Duration = Duration::from_secs(300);

/// One way to run something.
pub struct Runner {
    pub name: String,
    /// The runtime; natively none.
    runtime: Option<PathBuf>,
    /// Flags of the runtime's.
    flags: &'static [&'static str],
}

/// Waits, but not for ever; whether it ended well.
fn finish(child: &mut Child) -> Result<bool> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command in the box; what it prints.
fn output(command: &mut Command) -> Result<String> {
    let file = std::env::temp_dir().join(format!("bench-output-{}", std::process::id()));
    let what = format!("{command:?}");
    let mut child = command.stdin(Stdio::null()).stdout(std::fs::File::create(&file)?).spawn().context(what)?;
    let fine = finish(&mut child)?;
    let text = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    if !fine {
        println!("{command:?}: failed");
    }
    Ok(text)
}

/// Lines of `ROW NANOSECONDS`.
fn measured(text: &str) -> impl Iterator<Item = (String, f64)> {
    text.lines().filter_map(|line| line.rsplit_once(' ')).filter_map(|(row, ns)| Some((row.to_owned(), ns.parse().ok()?)))
}

/// The time from start to end of `true` in a box of its own.
fn start_to_finish(work: &Work, runner: &Runner) -> Result<Option<f64>> {
    let mut command = work.command(runner, &["/bin/true"])?;
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Not by polling: that would cost what is measured.
    let fine = child.wait()?.success();
    Ok(fine.then(|| start.elapsed().as_secs_f64() * 1e9))
}

/// Measures what the options leave in.
fn measure(options: &Options, work: &Work, all: &[Runner], report: &mut Report) -> Result<()> {
    let wanted = |part: &str| !options.skip.iter().any(|skip| skip == part);
    for round in 0..options.rounds {
        for runner in all {
            eprintln!("round {} of {}: {}", round + 1, options.rounds, runner.name);
            if wanted("operations") {
                let argv: Vec<&str> = std::iter::once("./guest-bench").chain(options.row.iter().map(String::as_str)).collect();
                let text = output(&mut work.command(runner, &argv)?)?;
                measured(&text).for_each(|(row, ns)| report.add(Table::Operations, &row, &runner.name, ns));
            }
            if wanted("start") {
                for _ in 0..5 {
                    if let Some(ns) = start_to_finish(work, runner)? {
                        report.add(Table::Programs, rows::START, &runner.name, ns);
                    }
                }
            }
            if wanted("programs") {
                let text = output(&mut work.command(runner, &["./guest-bench", "--commands", rows::FILE])?)?;
                measured(&text).for_each(|(row, ns)| report.add(Table::Programs, &row.replace('_', " "), &runner.name, ns));
            }
        }
    }
    if wanted("idle") {
        for runner in all.iter().filter(|runner| runner.runtime.is_some()) {
            let idle = idle::measure(work.command(runner, &["/bin/sleep", "60"])?)?;
            report.idle.insert(runner.name.clone(), idle);
            work.end(runner);
        }
    }
    Ok(())
}

/// Work that loads all CPUs, until it is dropped.
struct Load(Vec<Child>);

impl Load {
    fn start(busy: bool) -> Result<Self> {
        let count = if busy { std::thread::available_parallelism()?.get() } else { 0 };
        let hog = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        Ok(Self((0..count).map(hog).collect::<Result<_, _>>()?))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs all rows and prints the tables.
pub fn run(top: &Path, options: &Options) -> Result<()> {
    super::cargo(&["build", "--release", "--package", "palisade", "--package", "guest"])?;
    let mut all = runners(&super::built(top, "palisade"), options.peers.as_deref());
    all.retain(|runner| options.runner.is_empty() || options.runner.contains(&runner.name));
    ensure!(!all.is_empty(), "no such runner");
    let work = Work::new(&super::built(top, "guest-bench"))?;
    work.prepare(&rows::commands())?;
    // Not every runtime runs on every host.
    all.retain(|runner| match start_to_finish(&work, runner) {
        Ok(Some(_)) => true,
        _ => {
            println!("skipped: {} can't run a bundle here", runner.name);
            false
        }
    });
    let mut report = Report::new(options.busy);
    {
        let _load = Load::start(options.busy)?;
        measure(options, &work, &all, &mut report)?;
    }
    println!("{}", report.markdown());
    let json = serde_json::to_string_pretty(&report)? + "\n";
    if let Some(file) = &options.json {
        std::fs::write(file, &json).with_context(|| file.display().to_string())?;
    }
    if options.commit {
        std::fs::write(super::results(top)?.join(format!("bench-{}.json", report.kind())), &json)?;
        report.insert(&top.join("docs/performance.md"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_read() {
        let rows: Vec<_> = measured("getppid-patched 5.1\nsomething else\n").collect();
        assert_eq!(rows, [("getppid-patched".to_owned(), 5.1)]);
    }
}
