//! Hostile guests: they end themselves or get an errno; the sandbox goes on, and the sentry never panics.

use integration::{built, sandboxed};

/// Runs an attack inside, then asks the sandbox whether it is alive; returns what the attack has said.
fn attack(args: &str) -> String {
    let program = built("guest-hostile").display().to_string();
    let script = format!("{program} {args}; echo \"status $?\"; sh -c 'echo alive; uname -r'");
    let outcome = sandboxed(&["sh", "-c", &script]);
    assert!(!outcome.stderr.contains("internal error"), "{outcome:?}");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(outcome.stdout.ends_with("status 0\nalive\n6.12.0-palisade\n"), "{outcome:?}");
    outcome.stdout
}

#[test]
fn jumping_into_the_stub() {
    assert!(attack("jump").contains("jumped"));
}

#[test]
fn overwriting_its_shared_memory() {
    assert!(attack("overwrite").contains("overwritten"));
}

#[test]
fn racing_for_its_shared_memory() {
    assert!(attack("race").contains("raced"));
}

#[test]
fn unmapping_it() {
    assert!(attack("unmap").contains("still mapped"));
}

#[test]
fn each_rule_of_its_filter_from_inside() {
    assert!(attack("hijack").contains("hijacked"));
}

#[test]
fn rewritten_sites_from_their_middle() {
    assert!(attack("halfway").contains("halfway"));
}

#[test]
fn wild_pointers_to_every_call() {
    assert!(attack("wild").contains("wild"));
}

#[test]
fn forged_signal_frames() {
    assert!(attack("frames").contains("framed"));
}

#[test]
fn exhaustion() {
    assert!(attack("exhaust").contains("exhausted"));
}

#[test]
fn random_calls() {
    // Longer by hand: FUZZ_SECONDS=300 cargo test -p integration --test hostile random_calls
    let seconds = std::env::var("FUZZ_SECONDS").unwrap_or_else(|_| "20".to_owned());
    assert!(attack(&format!("fuzz {seconds}")).contains("fuzzed"));
}

#[test]
fn nothing_of_the_host_is_reachable() {
    assert!(attack("escape").contains("nothing of the host's"));
}
