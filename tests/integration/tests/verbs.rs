//! Commands in random order, some of them killed half-way, on containers that others may be at too: whatever happens, each says in one line how it
//! went, what is remembered stays true, and nothing is left on the host. More of them: `VERB_SEQUENCES=1000`; others: `VERB_SEED=n`.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use integration::{Bundle, Random, nothing_left};
use serde_json::{Value, json};

/// Ends when it is told to.
const SCRIPT: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

/// What one sequence does.
const STEPS: u64 = 8;

/// What the test knows of a container; `None`: there is none.
type Known = Option<&'static str>;

/// A command with options, and what must have become of it given what is known: `Some(true)`: it succeeds, `Some(false)`: it fails.
struct Verb {
    args: &'static [&'static str],
    /// Arguments after the name of the container.
    rest: &'static [&'static str],
    works: fn(Known) -> Option<bool>,
    then: fn(Known) -> Known,
}

const fn verb(
    args: &'static [&'static str],
    rest: &'static [&'static str],
    works: fn(Known) -> Option<bool>,
    then: fn(Known) -> Known,
) -> Verb {
    Verb { args, rest, works, then }
}

fn is(known: Known, wanted: &[&str]) -> Option<bool> {
    Some(known.is_some_and(|known| wanted.contains(&known)))
}

fn same(known: Known) -> Known {
    known
}

fn live(known: Known) -> Option<bool> {
    is(known, &["created", "running", "paused"])
}

const VERBS: [Verb; 24] = [
    verb(&["create", "--bundle", "."], &[], |k| Some(k.is_none()), |_| Some("created")),
    verb(&["create", "--bundle", "."], &[], |k| Some(k.is_none()), |_| Some("created")),
    verb(&["run", "--detach", "--bundle", "."], &[], |k| Some(k.is_none()), |_| Some("running")),
    verb(&["run", "--detach", "--bundle", "."], &[], |k| Some(k.is_none()), |_| Some("running")),
    verb(&["start"], &[], |k| is(k, &["created"]), |_| Some("running")),
    verb(&["start"], &[], |k| is(k, &["created"]), |_| Some("running")),
    verb(&["state"], &[], |k| Some(k.is_some()), same),
    verb(&["kill"], &["KILL"], live, |_| Some("stopped")),
    // A first process isn't ended by what it doesn't expect; where there is none yet, the container is.
    verb(&["kill"], &["USR2"], live, |k| if k == Some("created") { Some("stopped") } else { k }),
    verb(&["kill", "--all"], &["KILL"], |k| Some(k.is_some()), |_| Some("stopped")),
    verb(&["pause"], &[], |k| is(k, &["running"]), |_| Some("paused")),
    verb(&["resume"], &[], |k| is(k, &["paused"]), |_| Some("running")),
    verb(&["resume"], &[], |k| is(k, &["paused"]), |_| Some("running")),
    verb(&["update", "--pids-limit", "50"], &[], live, same),
    verb(&["ps"], &[], live, same),
    verb(&["ps", "--format", "json"], &[], live, same),
    verb(&["events", "--stats"], &[], live, same),
    verb(&["exec"], &["/usr/bin/true"], |k| is(k, &["running"]), same),
    verb(&["exec", "--detach"], &["/usr/bin/sleep", "1000"], |k| is(k, &["running"]), same),
    verb(&["exec", "--env", "A=b", "--user", "7:8"], &["/usr/bin/sh", "-c", "exit 0"], |k| is(k, &["running"]), same),
    verb(&["delete"], &[], |k| is(k, &["created", "stopped"]), |_| None),
    verb(&["delete", "--force"], &[], |_| Some(true), |_| None),
    verb(&["debug", "--strace", "off"], &[], live, same),
    verb(&["debug", "--ps"], &[], live, same),
];

/// How a command ended.
struct Done {
    what: String,
    /// `None`: it was killed.
    status: Option<i32>,
    said: String,
}

/// Runs a command; kills it after `patience`, where that is a moment, or half a minute later at the latest.
fn run(bundle: &Bundle, args: &[&str], patience: Option<Duration>) -> Done {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let said = bundle.dir.join(format!("said.{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let mut command = bundle.command(args);
    command.current_dir(&bundle.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if patience.is_some_and(|patience| start.elapsed() > patience) {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        assert!(start.elapsed().as_secs() < 90, "{args:?} doesn't end");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    };
    let done = Done { what: args.join(" "), status: status.code(), said: std::fs::read_to_string(&said).unwrap() };
    assert!(status.signal().is_none() || patience.is_some(), "{}: {status}", done.what);
    assert!(!done.said.contains("internal error") && !done.said.contains("panicked"), "{}: {}", done.what, done.said);
    done
}

impl Done {
    fn succeeded(&self) -> bool {
        self.status == Some(0)
    }

    /// A failure is told in one line.
    fn check(&self) {
        match self.status {
            Some(0) => assert_eq!(self.said, "", "{}", self.what),
            None => assert!(self.said.lines().count() <= 1, "{}: {}", self.what, self.said),
            Some(125) => assert_eq!(self.said.lines().count(), 1, "{}: {}", self.what, self.said),
            // A program in a container that was killed.
            Some(137) if self.what.starts_with("exec") => {}
            Some(status) => panic!("{}: {status}: {}", self.what, self.said),
        }
    }
}

/// What `state` says; `None`: there is no such container.
fn look(bundle: &Bundle, id: &str) -> Known {
    let done = bundle.command(&["state", id]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if !done.status.success() {
        assert!(said.contains("does not exist"), "state {id}: {said}");
        return None;
    }
    let state: Value = serde_json::from_slice(&done.stdout).unwrap();
    let known = ["creating", "created", "running", "paused", "stopped"];
    Some(known.into_iter().find(|known| state["status"] == *known).unwrap_or_else(|| panic!("{state}")))
}

/// What is known after a command that was killed, or of a container that is about to end.
fn settle(bundle: &Bundle, id: &str, wanted: Known) -> Known {
    let start = Instant::now();
    loop {
        let found = look(bundle, id);
        match wanted {
            Some("stopped") if found.is_some_and(|found| found != "stopped") && start.elapsed().as_secs() < 20 => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return found,
        }
    }
}

fn bundle(name: &str) -> Bundle {
    let bundle = Bundle::new(name, SCRIPT);
    let script = format!("{SCRIPT}; : {}", bundle.path());
    bundle.edit(|config| {
        config["process"]["args"][2] = script.into();
        config["linux"]["resources"] = json!({ "pids": { "limit": 100 } });
    });
    bundle
}

fn ids(name: &str) -> Vec<String> {
    ["a", "b", "c"].iter().map(|letter| format!("{name}-{}-{letter}", std::process::id())).collect()
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Removes all containers: that must work, whatever has been done to them.
fn clean(bundle: &Bundle, ids: &[String], prefix: &str) {
    for id in ids {
        let done = run(bundle, &["delete", "--force", id], None);
        assert!(done.succeeded() && done.said.is_empty(), "{}: {}", done.what, done.said);
    }
    nothing_left(&bundle.dir, prefix);
}

#[test]
fn one_after_the_other() {
    let (bundle, ids) = (bundle("verbs"), ids("verbs"));
    let seed = number("VERB_SEED", 1);
    let mut killed = 0;
    for sequence in 0..number("VERB_SEQUENCES", 25) {
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(sequence));
        let mut known: [Known; 3] = [None; 3];
        let mut story = Vec::new();
        for _ in 0..STEPS {
            let index = usize::try_from(random.below(3)).unwrap();
            let (id, verb) = (&ids[index], random.one_of(&VERBS).unwrap());
            let args: Vec<&str> = verb.args.iter().copied().chain([id.as_str()]).chain(verb.rest.iter().copied()).collect();
            let patience = (random.below(5) == 0).then(|| Duration::from_micros(random.below(60_000)));
            let before = known[index];
            let done = run(&bundle, &args, patience);
            story.push(format!("{before:?}: {} = {:?} {}", done.what, done.status, done.said.trim()));
            let story = || format!("VERB_SEED={seed}, sequence {sequence}: {story:#?}");
            done.check();
            if done.status.is_none() {
                killed += 1;
                known[index] = settle(&bundle, id, None);
                continue;
            }
            if before == Some("creating") {
                known[index] = settle(&bundle, id, None);
                continue;
            }
            if let Some(works) = (verb.works)(before) {
                assert_eq!(done.succeeded(), works, "{}", story());
            }
            if done.succeeded() {
                let then = (verb.then)(before);
                known[index] = settle(&bundle, id, then);
                assert_eq!(known[index], then, "{}", story());
            } else {
                known[index] = look(&bundle, id);
                assert_eq!(known[index], before, "{}", story());
            }
        }
        clean(&bundle, &ids, "verbs-");
    }
    println!("{killed} commands were killed");
}

#[test]
fn several_at_once() {
    let (bundle, ids) = (bundle("verbs-many"), ids("many"));
    let seed = number("VERB_SEED", 1);
    for round in 0..number("VERB_SEQUENCES", 25).div_ceil(4) {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (bundle, ids) = (&bundle, &ids);
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_mul(7_000_003).wrapping_add(round * 4 + thread));
                    for _ in 0..STEPS {
                        let (id, verb) = (random.one_of(ids).unwrap(), random.one_of(&VERBS).unwrap());
                        let args: Vec<&str> =
                            verb.args.iter().copied().chain([id.as_str()]).chain(verb.rest.iter().copied()).collect();
                        let mut patience = (random.below(6) == 0).then(|| Duration::from_micros(random.below(60_000)));
                        if args.first() == Some(&"exec") {
                            // It may be paused, and would wait for long.
                            patience = patience.or(Some(Duration::from_secs(2)));
                        }
                        run(bundle, &args, patience).check();
                    }
                });
            }
        });
        clean(&bundle, &ids, "many-");
    }
}
