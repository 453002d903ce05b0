//! System call cases: the same binary on the host's Linux first, then inside.

use std::collections::{BTreeMap, BTreeSet};

use integration::{Outcome, built, native, sandboxed};

/// Results by case: `ok`, `skip`, `FAIL`, with what came after.
fn results(outcome: &Outcome) -> BTreeMap<String, (String, String)> {
    let line = |line: &str| {
        let (result, rest) = line.split_once(' ')?;
        let (name, text) = rest.split_once(": ").unwrap_or((rest, ""));
        ["ok", "skip", "FAIL"].contains(&result).then(|| (name.to_owned(), (result.to_owned(), text.to_owned())))
    };
    outcome.stdout.lines().filter_map(line).collect()
}

fn program() -> String {
    built("guest-cases").display().to_string()
}

/// Cases and the calls that each tests.
fn cases() -> Vec<(String, Vec<String>)> {
    let list = native(&[&program(), "--list"]);
    let line = |line: &str| {
        let (name, calls) = line.split_once(':')?;
        Some((name.to_owned(), calls.split_whitespace().map(str::to_owned).collect()))
    };
    list.stdout.lines().filter_map(line).collect()
}

#[test]
fn cases_pass_natively_and_inside() {
    let names: BTreeSet<_> = cases().into_iter().map(|(name, _)| name).collect();
    let program = program();
    let (outside, inside) = (results(&native(&[&program])), results(&sandboxed(&[&program])));
    let expected: BTreeMap<_, _> = include_str!("expectations.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(": "))
        .collect();
    let mut wrong = Vec::new();
    let mut counts = BTreeMap::<&str, usize>::new();
    for name in &names {
        let lost = ("FAIL".to_owned(), "no result".to_owned());
        let (native, ours) = (outside.get(name).unwrap_or(&lost), inside.get(name).unwrap_or(&lost));
        match (native.0.as_str(), ours.0.as_str(), expected.get(name.as_str())) {
            ("FAIL", ..) => wrong.push(format!("{name}: fails on the host: {}", native.1)),
            ("skip", ..) => {
                println!("skipped {name}: {}", native.1);
                *counts.entry("skipped").or_default() += 1;
            }
            (_, "ok", None) => *counts.entry("ok").or_default() += 1,
            (_, "ok", Some(_)) => wrong.push(format!("{name}: passes inside: take it out of expectations.txt")),
            (_, _, Some(reason)) => {
                println!("deviates {name}: {reason}");
                *counts.entry("deviating").or_default() += 1;
            }
            _ => wrong.push(format!("{name}: inside: {} {}", ours.0, ours.1)),
        }
    }
    println!("system call cases: {} in all, {counts:?}", names.len());
    assert!(names.len() > 80, "cases are missing: {}", names.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_call_of_the_table_has_a_case() {
    let tested: BTreeSet<String> = cases().into_iter().flat_map(|(_, calls)| calls).collect();
    let table = native(&[&built("palisade").display().to_string(), "help", "syscalls"]);
    let implemented: BTreeSet<String> = table
        .stdout
        .lines()
        .filter(|line| !line.contains("not implemented"))
        .filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned))
        .collect();
    assert!(implemented.len() > 150, "{}", table.stdout);
    let untested: Vec<_> = implemented.difference(&tested).collect();
    let unknown: Vec<_> = tested.difference(&implemented).collect();
    println!("{} calls implemented, {} of them tested", implemented.len(), implemented.len() - untested.len());
    assert!(untested.is_empty() && unknown.is_empty(), "without a case: {untested:?}; cases for what isn't there: {unknown:?}");
}
