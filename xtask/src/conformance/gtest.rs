//! Runs a program of googletest's kind and follows its output: what each case came to, also when the program dies or hangs on the way.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    Skip,
    /// The program died in it.
    Crash,
    /// Nothing more came.
    Hang,
    /// It was never reached: the program doesn't start, or its time was up.
    Lost,
}

/// What the cases of a program came to, by name.
pub type Verdicts = BTreeMap<String, Verdict>;

/// What a program did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub verdicts: Verdicts,
    /// Milliseconds of the longest case that passed.
    pub longest: u64,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a case beginning or ending.
    pub case: Duration,
    /// For everything, restarts included.
    pub program: Duration,
}

/// A line of the program's output that says something about a case.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Begin(String),
    End(String, Verdict, u64),
}

/// Children write to the same output, so a mark may stand anywhere in its line.
fn event(line: &str) -> Option<Event> {
    let name = |rest: &str| {
        let end = rest.find([' ', ',', '\r', '\n']).unwrap_or(rest.len());
        let name = rest.get(..end)?;
        // "1 test, listed below" of the summary has no dot.
        (name.contains('.') && !rest.contains("listed below")).then(|| name.to_owned())
    };
    let after = |mark: &str| line.find(mark).and_then(|at| line.get(at + mark.len()..)).and_then(name);
    if let Some(name) = after("[ RUN      ] ") {
        return Some(Event::Begin(name));
    }
    [("[       OK ] ", Verdict::Pass), ("[  FAILED  ] ", Verdict::Fail), ("[  SKIPPED ] ", Verdict::Skip)]
        .into_iter()
        .find_map(|(mark, verdict)| Some(Event::End(after(mark)?, verdict, milliseconds(line))))
}

/// `(12 ms)` at the end of a line.
fn milliseconds(line: &str) -> u64 {
    let number = line.trim_end().strip_suffix(" ms)").and_then(|line| line.rsplit('(').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// One start of the program.
struct Start {
    outcome: Outcome,
    /// The case in which it ended.
    broken: Option<(String, Verdict)>,
    timed_out: bool,
    /// Whether the program got as far as its summary.
    finished: bool,
}

fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// Starts the program once and follows it. Its output is added to `log`.
fn start(mut command: Command, patience: Patience, deadline: Instant, log: &mut Vec<u8>) -> Result<Start> {
    let what = format!("{command:?}");
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let mut child = command.spawn().context(what)?;
    // The write ends must be the program's only, or its end would not show.
    drop(command);
    let output = lines(reader);
    let mut result = Start { outcome: Outcome::default(), broken: None, timed_out: false, finished: false };
    let mut running: Option<String> = None;
    let mut progress = Instant::now();
    loop {
        let limit = (progress + patience.case).min(deadline);
        match output.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                log.extend_from_slice(line.as_bytes());
                match event(&line) {
                    Some(Event::Begin(name)) => {
                        running = Some(name);
                        progress = Instant::now();
                    }
                    Some(Event::End(name, verdict, ms)) if running.as_ref() == Some(&name) => {
                        if verdict == Verdict::Pass {
                            result.outcome.longest = result.outcome.longest.max(ms);
                        }
                        result.outcome.verdicts.insert(name, verdict);
                        running = None;
                        progress = Instant::now();
                    }
                    _ => {}
                }
                result.finished |= line.contains("[  PASSED  ] ") && running.is_none();
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                result.timed_out = true;
                break;
            }
        }
    }
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Whatever is left of it; there may be nothing.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait()?;
    log.extend_from_slice(format!("({status})\n").as_bytes());
    result.broken = running.map(|name| (name, if result.timed_out { Verdict::Hang } else { Verdict::Crash }));
    Ok(result)
}

/// Linux takes no longer argument.
const FILTER_MAX: usize = 120_000;

/// The filter that selects `rest` among `all`, and how many of `rest` it selects.
fn filter(all: &[String], rest: &[String]) -> (String, usize) {
    let done: Vec<&str> = all.iter().filter(|name| !rest.contains(name)).map(String::as_str).collect();
    if rest.len() == all.len() {
        return ("*".to_owned(), rest.len());
    }
    let negative = format!("-{}", done.join(":"));
    let (mut positive, mut count) = (String::new(), 0);
    for name in rest {
        if positive.len() + name.len() > FILTER_MAX {
            break;
        }
        positive.push_str(name);
        positive.push(':');
        count += 1;
    }
    if negative.len() < positive.len() && negative.len() < FILTER_MAX { (negative, rest.len()) } else { (positive, count) }
}

/// The names of all cases, as the program lists them.
///
/// # Errors
/// The program can't be run, or lists nothing.
pub fn list(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program)
        .arg("--gtest_list_tests")
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.display().to_string())?;
    let names = parse_list(&String::from_utf8_lossy(&output.stdout));
    anyhow::ensure!(!names.is_empty(), "{}: lists no cases", program.display());
    Ok(names)
}

fn parse_list(text: &str) -> Vec<String> {
    let mut suite = "";
    let mut names = Vec::new();
    for line in text.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with("  ") {
            // gtest never runs them by itself.
            if !word.starts_with("DISABLED_") && !suite.contains("DISABLED_") {
                names.push(format!("{suite}{word}"));
            }
        } else if word.ends_with('.') {
            suite = word;
        }
    }
    names
}

/// Runs `cases` of a program; `command` makes the command for a filter. After a crash or a hang it is started again for the rest.
///
/// # Errors
/// The command can't be run.
pub fn run(
    all: &[String],
    cases: &[String],
    patience: Patience,
    command: &dyn Fn(&str) -> Command,
    log: &mut Vec<u8>,
) -> Result<Outcome> {
    let deadline = Instant::now() + patience.program;
    let Outcome { mut verdicts, mut longest } = Outcome::default();
    let mut rest: Vec<String> = cases.to_vec();
    let mut fruitless = 0;
    while !rest.is_empty() && fruitless < 2 && Instant::now() < deadline {
        let (filter, count) = filter(all, &rest);
        let start = start(command(&format!("--gtest_filter={filter}")), patience, deadline, log)?;
        let before = rest.len();
        rest.retain(|name| !start.outcome.verdicts.contains_key(name));
        verdicts.extend(start.outcome.verdicts);
        longest = longest.max(start.outcome.longest);
        if let Some((name, verdict)) = start.broken {
            rest.retain(|other| *other != name);
            verdicts.insert(name, verdict);
        } else if start.finished && count == before {
            break;
        }
        fruitless = if rest.len() == before { fruitless + 1 } else { 0 };
    }
    for name in rest {
        verdicts.insert(name, Verdict::Lost);
    }
    verdicts.retain(|name, _| cases.contains(name));
    Ok(Outcome { verdicts, longest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    const PATIENCE: Patience = Patience { case: Duration::from_millis(500), program: Duration::from_secs(10) };

    #[test]
    fn output_is_understood() {
        assert_eq!(event("[ RUN      ] A.B/0\n"), Some(Event::Begin("A.B/0".into())));
        assert_eq!(event("noise[       OK ] A.B/0 (3 ms)"), Some(Event::End("A.B/0".into(), Verdict::Pass, 3)));
        assert_eq!(event("[  FAILED  ] A.B/0, where GetParam() = 3 (3 ms)"), Some(Event::End("A.B/0".into(), Verdict::Fail, 3)));
        assert_eq!(event("[  SKIPPED ] A.C (0 ms)"), Some(Event::End("A.C".into(), Verdict::Skip, 0)));
        assert_eq!(event("[  FAILED  ] 2 tests, listed below:"), None);
    }

    #[test]
    fn lists_are_understood() {
        let text = "S/T.  # TypeParam = x\n  A\n  B/0  # GetParam() = 1\n  DISABLED_C\nU.\n  A\n";
        assert_eq!(parse_list(text), ["S/T.A", "S/T.B/0", "U.A"]);
    }

    #[test]
    fn filters_select_what_is_left() {
        let all = names(&["A.a", "A.b", "A.c"]);
        assert_eq!(filter(&all, &all), ("*".to_owned(), 3));
        assert_eq!(filter(&all, &names(&["A.b", "A.c"])), ("-A.a".to_owned(), 2));
        assert_eq!(filter(&all, &names(&["A.b"])), ("A.b:".to_owned(), 1));
    }

    /// A program that crashes in b, hangs in c, and passes a and d.
    fn sick(filter: &str) -> Command {
        let script = r#"
            f=${1#--gtest_filter=}
            want() { case $f in '*') ;; -*) case "$f:" in *[-:]$1:*) return 1;; esac;; *) case ":$f" in *:$1:*) ;; *) return 1;; esac;; esac; echo "[ RUN      ] $1"; }
            want A.a && echo "[       OK ] A.a (0 ms)"
            want A.b && kill -SEGV $$
            want A.c && sleep 100
            want A.d && echo "[       OK ] A.d (0 ms)"
            echo "[  PASSED  ] 1 test."
        "#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sick", filter]);
        command
    }

    #[test]
    fn crashes_and_hangs_cost_one_case() {
        let all = names(&["A.a", "A.b", "A.c", "A.d"]);
        let verdicts = run(&all, &all, PATIENCE, &sick, &mut Vec::new()).unwrap().verdicts;
        let expected = [Verdict::Pass, Verdict::Crash, Verdict::Hang, Verdict::Pass];
        assert_eq!(verdicts.into_values().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_program_that_does_not_start_loses_all() {
        let all = names(&["A.a", "A.b"]);
        let verdicts = run(&all, &all, PATIENCE, &|_| Command::new("false"), &mut Vec::new()).unwrap().verdicts;
        assert_eq!(verdicts.into_values().collect::<Vec<_>>(), [Verdict::Lost, Verdict::Lost]);
    }
}
