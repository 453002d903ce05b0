//! Runs a suite of syscall test programs: on the host's Linux first, then in a sandbox. What passes there must pass here.

mod gtest;
pub mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use gtest::{Outcome, Patience};
use report::{Expectations, ProgramResult, Results};

/// Where each program of gVisor's belongs.
const GVISOR_AREAS: &str = include_str!("gvisor-areas.txt");

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Suite {
    /// The programs of google/gvisor's test/syscalls/linux, built as plain binaries into one directory.
    Gvisor,
}

/// Runs a suite of syscall tests natively and inside, and compares.
#[derive(Args, Debug)]
pub struct Options {
    #[arg(long, value_enum, default_value = "gvisor")]
    suite: Suite,
    /// The directory of the built test programs.
    #[arg(long)]
    path: PathBuf,
    /// A file of `[area]` lines, each followed by its programs, a line each, instead of the suite's own.
    #[arg(long)]
    areas: Option<PathBuf>,
    /// Only this area (may be repeated).
    #[arg(long)]
    area: Vec<String>,
    /// Only this program (may be repeated).
    #[arg(long)]
    program: Vec<String>,
    /// Programs at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Seconds for one program, restarts included.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Seconds that a case may take natively. Inside it may take twice as long as the longest does, and 15 seconds more.
    #[arg(long, default_value_t = 60)]
    case_timeout: u64,
    /// Known failures: lines of `PROGRAM CASE reason`.
    #[arg(long)]
    expectations: Option<PathBuf>,
    /// Run natively again what an earlier run has recorded.
    #[arg(long)]
    fresh: bool,
    /// Results and logs go here (default: target/conformance).
    #[arg(long)]
    out: Option<PathBuf>,
    /// What the programs do natively is recorded here (default: in `out`).
    #[arg(long)]
    native: Option<PathBuf>,
    /// Also write the counts to docs/results.
    #[arg(long)]
    commit: bool,
    /// The command line to test (default: the release build's).
    #[arg(long)]
    palisade: Option<PathBuf>,
}

/// Programs by area, as an areas file has them.
fn parse_areas(text: &str) -> Vec<(String, Vec<String>)> {
    let mut areas: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(area) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            areas.push((area.to_owned(), Vec::new()));
        } else if let (Some((_, programs)), Some(program)) = (areas.last_mut(), line.split_whitespace().next()) {
            programs.push(program.to_owned());
        }
    }
    areas
}

/// What there is to run: (area, program).
fn selection(options: &Options) -> Result<Vec<(String, String)>> {
    let areas = match &options.areas {
        Some(file) => parse_areas(&fs::read_to_string(file).with_context(|| file.display().to_string())?),
        None => match options.suite {
            Suite::Gvisor => parse_areas(GVISOR_AREAS),
        },
    };
    let wanted = |list: &[String], name: &String| list.is_empty() || list.contains(name);
    let mut all: Vec<(String, String)> = Vec::new();
    for (area, programs) in areas.iter().filter(|(area, _)| wanted(&options.area, area)) {
        let named = programs.iter().filter(|program| wanted(&options.program, program));
        all.extend(named.map(|program| (area.clone(), program.clone())));
    }
    let known: Vec<&String> = areas.iter().flat_map(|(_, programs)| programs).collect();
    all.extend(
        options.program.iter().filter(|program| !known.contains(program)).map(|program| ("other".to_owned(), program.clone())),
    );
    ensure!(!all.is_empty(), "nothing to run: no such area or program");
    let (there, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, program)| options.path.join(program).is_file());
    for (_, program) in &missing {
        println!("not built: {program}");
    }
    ensure!(!there.is_empty(), "{} has none of the programs", options.path.display());
    Ok(there)
}

/// What gVisor's runner tells the tests on Linux: nothing that the hardware does is to be left out.
const ENV: (&str, &str) =
    ("GVISOR_PLATFORM_SUPPORT", "32BIT:TRUE,ALIGNMENT_CHECK:TRUE,INT3:TRUE,MULTIPROCESS:TRUE,VSYSCALL:TRUE");

/// A run of the suite.
struct Run<'a> {
    options: &'a Options,
    path: PathBuf,
    out: PathBuf,
    records: PathBuf,
    palisade: PathBuf,
    expectations: Expectations,
}

impl Run<'_> {
    /// Natively in private namespaces with a /tmp of its own, so that neither host nor programs disturb each other. Natively and inside
    /// a shell comes first: what holds for process 1 alone isn't tested.
    fn native_command(&self, program: &str, filter: &str) -> Command {
        let script = r#"mount -t tmpfs -o mode=1777 tmp /tmp && cd /tmp && { ip link set lo up || true; } && "$@"; exit $?"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", script, "sh"]).arg(self.path.join(program)).arg(filter).env(ENV.0, ENV.1).current_dir("/");
        command
    }

    fn inside_command(&self, program: &str, filter: &str) -> Command {
        let mut command = Command::new(&self.palisade);
        command.arg("do").arg("--volume").arg(format!("{}:/conformance:ro", self.path.display()));
        command.args(["--cwd", "/tmp", "--env"]).arg(format!("{}={}", ENV.0, ENV.1));
        command
            .args(["--", "sh", "-c", r#""$@"; exit $?"#, "sh"])
            .arg(format!("/conformance/{program}"))
            .arg(filter)
            .current_dir("/");
        command
    }

    fn patience(&self, case: Duration) -> Patience {
        Patience { case, program: Duration::from_secs(self.options.timeout) }
    }

    /// What the program does natively: recorded, until the program changes.
    fn native(&self, program: &str, all: &[String]) -> Result<Outcome> {
        let about = fs::metadata(self.path.join(program))?;
        let changed = about.modified()?.duration_since(UNIX_EPOCH)?.as_secs();
        let record = self.records.join(format!("{program}-{}-{changed}.json", about.len()));
        if !self.options.fresh
            && let Ok(text) = fs::read(&record)
        {
            return Ok(serde_json::from_slice(&text)?);
        }
        let mut log = Vec::new();
        let patience = self.patience(Duration::from_secs(self.options.case_timeout));
        let outcome = gtest::run(all, all, patience, &|filter| self.native_command(program, filter), &mut log)?;
        fs::write(self.records.join(format!("{program}.log")), &log)?;
        fs::write(record, serde_json::to_vec_pretty(&outcome)?)?;
        Ok(outcome)
    }

    fn program(&self, program: &str) -> Result<ProgramResult> {
        let all = gtest::list(&self.path.join(program))?;
        let native = self.native(program, &all)?;
        let mut log = Vec::new();
        let cases = report::passing(&native.verdicts);
        let patience = self.patience(Duration::from_millis(native.longest * 2) + Duration::from_secs(15));
        let inside = gtest::run(&all, &cases, patience, &|filter| self.inside_command(program, filter), &mut log)?;
        fs::write(self.out.join("inside").join(format!("{program}.log")), &log)?;
        Ok(ProgramResult::new(program, &native.verdicts, &inside.verdicts, &self.expectations))
    }

    /// Runs them all, `jobs` at a time, and says each one's counts.
    fn all(&self, programs: &[(String, String)]) -> Results {
        let todo = Mutex::new(programs.iter());
        let done: Mutex<BTreeMap<String, BTreeMap<String, ProgramResult>>> = Mutex::default();
        let take = || todo.lock().ok().and_then(|mut todo| todo.next());
        std::thread::scope(|scope| {
            for _ in 0..self.options.jobs.max(1) {
                scope.spawn(|| {
                    while let Some((area, program)) = take() {
                        match self.program(program) {
                            Ok(result) => {
                                println!("{area:26} {program:52} {:5} {:5}", result.native, result.inside);
                                if let Ok(mut done) = done.lock() {
                                    done.entry(area.clone()).or_default().insert(program.clone(), result);
                                }
                            }
                            Err(error) => println!("{area:26} {program:52} {error:#}"),
                        }
                    }
                });
            }
        });
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Results { suite: "gvisor".into(), host, areas: done.into_inner().unwrap_or_default() }
    }
}

/// Runs what the options select.
pub fn run(top: &Path, options: &Options) -> Result<()> {
    if options.palisade.is_none() {
        super::cargo(&["build", "--release", "--package", "palisade"])?;
    }
    let out = options.out.clone().unwrap_or_else(|| super::target(top).join("conformance"));
    let records = options.native.clone().unwrap_or_else(|| out.join("native"));
    fs::create_dir_all(&records)?;
    fs::create_dir_all(out.join("inside"))?;
    let expectations = match &options.expectations {
        Some(file) => fs::read_to_string(file).with_context(|| file.display().to_string())?,
        None => String::new(),
    };
    let run = Run {
        options,
        path: options.path.canonicalize().with_context(|| options.path.display().to_string())?,
        out: out.clone(),
        records,
        palisade: options.palisade.clone().unwrap_or_else(|| super::built(top, "palisade")),
        expectations: Expectations::parse(&expectations),
    };
    println!("{:26} {:52} {:>5} {:>5}", "area", "program", "pass", "inside");
    let mut results = run.all(&selection(options)?);
    let failing: Vec<_> = results.areas.values().flatten().filter(|(_, result)| !result.failing.is_empty()).collect();
    let count: usize = failing.iter().map(|(_, result)| result.failing.len()).sum();
    println!("\n{}", results.table());
    let file = out.join("result.json");
    let failed = count > 0;
    if let Ok(older) = fs::read(&file) {
        results.merge(serde_json::from_slice(&older).with_context(|| file.display().to_string())?);
    }
    fs::write(&file, serde_json::to_vec_pretty(&results)?)?;
    println!("{count} cases fail; their names are in {}, outputs in {}", file.display(), out.join("inside").display());
    if options.commit {
        let mut text = serde_json::to_vec_pretty(&results.summary())?;
        text.push(b'\n');
        fs::write(super::results(top)?.join("conformance.json"), text)?;
    }
    if failed { bail!("not all that passes natively passes inside") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_one_area() {
        let areas = parse_areas(GVISOR_AREAS);
        let mut programs: Vec<_> = areas.iter().flat_map(|(_, programs)| programs).collect();
        let count = programs.len();
        programs.sort_unstable();
        programs.dedup();
        assert_eq!((areas.len(), programs.len()), (13, count));
        assert!(areas.iter().any(|(area, programs)| area == "tty" && programs == &["pty_test"]));
    }
}
