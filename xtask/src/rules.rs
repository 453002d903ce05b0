//! Rules that the compiler doesn't know: layering, unsafe code, sizes of files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Crates that may contain unsafe code, with the reason in their READMEs.
const UNSAFE: [&str; 7] =
    ["platform/systrap", "platform/stub", "lib/usermem", "lib/sync", "sandbox/jail", "tests/guest", "xtask"];

/// Longest source file, in lines.
const MAX_LINES: usize = 800;

/// What a layer's crates may depend on, by directory prefix.
const LAYERS: [(&str, &[&str]); 14] = [
    ("lib/", &["lib/"]),
    ("platform/", &["lib/", "platform/"]),
    ("kernel/", &["lib/", "kernel/", "platform/api"]),
    ("fs/devpts", &["lib/", "kernel/", "fs/"]),
    ("fs/proc", &["lib/", "kernel/", "fs/", "platform/api"]),
    ("fs/", &["lib/", "kernel/auth", "kernel/vfs", "fs/"]),
    ("net/namespace", &["lib/", "kernel/auth", "kernel/vfs", "kernel/task", "net/"]),
    ("net/", &["lib/", "kernel/auth", "kernel/vfs", "net/"]),
    ("syscalls/", &["lib/", "kernel/", "fs/", "net/", "platform/api", "syscalls/"]),
    ("sandbox/jail", &["lib/"]),
    ("sandbox/control", &["lib/"]),
    ("sandbox/", &["lib/", "kernel/", "fs/", "net/", "platform/", "syscalls/", "sandbox/"]),
    ("runtime/", &["lib/", "sandbox/", "runtime/"]),
    ("bin/", &["lib/", "runtime/", "sandbox/", "syscalls/"]),
];

/// A crate of the workspace: directory and names of the workspace crates that it depends on.
struct Crate {
    dir: String,
    name: String,
    dependencies: Vec<String>,
}

fn parse(dir: &str, manifest: &str) -> Crate {
    let mut section = "";
    let (mut name, mut dependencies) = (String::new(), Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        } else if let Some((key, value)) = line.split_once('=') {
            match section {
                "[package]" if key.trim() == "name" => value.trim().trim_matches('"').clone_into(&mut name),
                "[dependencies]" => dependencies.push(key.trim().trim_end_matches(".workspace").to_owned()),
                _ => {}
            }
        }
    }
    Crate { dir: dir.to_owned(), name, dependencies }
}

/// Violations of the layering.
fn layering(crates: &[Crate]) -> Vec<String> {
    let mut found = Vec::new();
    for one in crates {
        let Some((_, allowed)) = LAYERS.iter().find(|(prefix, _)| one.dir.starts_with(prefix)) else { continue };
        for dependency in &one.dependencies {
            let Some(target) = crates.iter().find(|other| other.name == *dependency) else { continue };
            if !allowed.iter().any(|prefix| target.dir.starts_with(prefix)) {
                found.push(format!("{}: must not depend on {}", one.dir, target.dir));
            }
        }
    }
    found
}

/// Whether a crate's root must forbid unsafe code and doesn't.
fn lacks_forbid(dir: &str, root: &str) -> bool {
    !UNSAFE.contains(&dir) && !root.contains("#![forbid(unsafe_code)]")
}

fn sources(dir: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, all)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
    Ok(())
}

/// Checks all rules.
pub fn check(top: &Path) -> Result<()> {
    let workspace = fs::read_to_string(top.join("Cargo.toml"))?;
    let list = workspace.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).context("no members")?;
    let mut crates = Vec::new();
    let mut found = Vec::new();
    for dir in list.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()) {
        let path = top.join(dir);
        crates.push(parse(dir, &fs::read_to_string(path.join("Cargo.toml"))?));
        let root = ["src/lib.rs", "src/main.rs"].iter().find_map(|file| fs::read_to_string(path.join(file)).ok());
        if root.is_none_or(|root| lacks_forbid(dir, &root)) {
            found.push(format!("{dir}: must say #![forbid(unsafe_code)]"));
        }
        let mut files = Vec::new();
        sources(&path.join("src"), &mut files)?;
        for file in files {
            let lines = fs::read_to_string(&file)?.lines().count();
            if lines > MAX_LINES {
                found.push(format!("{}: {lines} lines, at most {MAX_LINES}", file.display()));
            }
        }
    }
    found.extend(layering(&crates));
    if found.is_empty() {
        println!("rules: {} crates, no violation", crates.len());
        return Ok(());
    }
    found.iter().for_each(|line| eprintln!("{line}"));
    bail!("{} violations of the rules", found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_kept() {
        let mm = parse("kernel/mm", "[package]\nname = \"mm\"\n[dependencies]\nsystrap.workspace = true\n");
        let systrap = parse("platform/systrap", "[package]\nname = \"systrap\"\n[dependencies]\nlibc = \"1\"\n");
        assert_eq!(layering(&[mm, systrap]), ["kernel/mm: must not depend on platform/systrap"]);
    }

    #[test]
    fn unsafe_code_is_forbidden_outside_of_the_list() {
        assert!(lacks_forbid("kernel/mm", "//! Memory."));
        assert!(!lacks_forbid("kernel/mm", "#![forbid(unsafe_code)]"));
        assert!(!lacks_forbid("lib/sync", ""));
    }

    #[test]
    fn the_tree_keeps_the_rules() {
        check(&super::super::top()).unwrap();
    }
}
