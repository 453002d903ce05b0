//! What the global options say of the host: where writes go, which network there is, what of the host can be reached by name.

use std::path::Path;

use anyhow::{Result, bail};
use boot::{Mount, Source, Writes};

/// Where writes of containers go (`--overlay2`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlay {
    /// To the host.
    #[default]
    None,
    /// Those to the root are kept in memory, and lost at the end.
    Root,
    /// Those to bind mounts of directories as well.
    All,
}

impl Overlay {
    /// From the command line's text.
    ///
    /// # Errors
    /// What can't be, and what can.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "root:memory" => Ok(Self::Root),
            "all:memory" => Ok(Self::All),
            _ if text.ends_with(":self") || text.contains(":dir=") => {
                bail!("--overlay2={text}: layers are kept in memory only (use root:memory, all:memory or none)")
            }
            _ => bail!("--overlay2={text}: unknown (use root:memory, all:memory or none)"),
        }
    }

    /// What becomes of writes to the root.
    #[must_use]
    pub fn root(self, readonly: bool) -> Writes {
        match self {
            _ if readonly => Writes::No,
            Self::None => Writes::ToHost,
            Self::Root | Self::All => Writes::ToMemory,
        }
    }

    /// What becomes of writes to bind mounts. Files that are mounted alone stay the host's.
    pub fn apply(self, mounts: &mut [Mount]) {
        if self != Self::All {
            return;
        }
        for mount in mounts {
            if let Source::Bind(path, writes @ Writes::ToHost) = &mut mount.source
                && path.is_dir()
            {
                *writes = Writes::ToMemory;
            }
        }
    }
}

/// Refuses what isn't there of `--network`.
///
/// # Errors
/// What can't be, and what can.
pub fn check_network(text: &str) -> Result<()> {
    match text {
        "none" => Ok(()),
        "sandbox" | "host" => {
            bail!("--network={text}: there is no network beyond the sandbox yet (use --network=none; loopback is there)")
        }
        _ => bail!("--network={text}: unknown (use none)"),
    }
}

/// Refuses what isn't there of `--host-uds` and `--host-fifo`.
///
/// # Errors
/// What can't be, and what can.
pub fn check_host_files(uds: &str, fifo: &str) -> Result<()> {
    match uds {
        "none" => {}
        "open" | "create" | "all" => bail!("--host-uds={uds}: Unix sockets of the host can't be reached yet (use none)"),
        _ => bail!("--host-uds={uds}: unknown (use none)"),
    }
    match fifo {
        "none" => Ok(()),
        "open" => bail!("--host-fifo=open: fifos of the host can't be opened yet (use none)"),
        _ => bail!("--host-fifo={fifo}: unknown (use none)"),
    }
}

/// The file that `--debug-log` names.
#[must_use]
pub fn debug_log(pattern: &str, id: &str, command: &str, time: &str) -> String {
    // As runsc has it: a directory gets a file for each command.
    let pattern =
        if pattern.ends_with('/') { format!("{pattern}palisade.log.%TIMESTAMP%.%COMMAND%.txt") } else { pattern.to_owned() };
    pattern.replace("%TIMESTAMP%", time).replace("%COMMAND%", command).replace("%ID%", id)
}

/// Opens it.
///
/// # Errors
/// What the host says.
pub fn open_debug_log(path: &Path) -> Result<std::fs::File> {
    use anyhow::Context;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).with_context(|| format!("--debug-log: {}", dir.display()))?;
    }
    let file = std::fs::File::options().create(true).append(true).open(path);
    file.with_context(|| format!("--debug-log: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_what_they_say() {
        assert_eq!(Overlay::parse("none").unwrap().root(false), Writes::ToHost);
        assert_eq!(Overlay::parse("root:memory").unwrap().root(false), Writes::ToMemory);
        assert_eq!(Overlay::parse("all:memory").unwrap().root(true), Writes::No);
        for bad in ["root:self", "root:dir=/tmp", "memory", ""] {
            let why = Overlay::parse(bad).unwrap_err().to_string();
            assert!(why.starts_with(&format!("--overlay2={bad}: ")) && why.contains("use root:memory"), "{why}");
        }
        let mut mounts = vec![Mount::bind("/d", "/".into(), Writes::ToHost), Mount::bind("/r", "/".into(), Writes::No)];
        Overlay::All.apply(&mut mounts);
        assert_eq!(mounts[0].source, Source::Bind("/".into(), Writes::ToMemory));
        assert_eq!(mounts[1].source, Source::Bind("/".into(), Writes::No));
        assert!(check_network("none").is_ok() && check_network("host").is_err() && check_network("x").is_err());
        assert!(check_host_files("none", "none").is_ok() && check_host_files("all", "none").is_err());
    }

    #[test]
    fn logs_are_named_by_patterns() {
        assert_eq!(debug_log("/l/%ID%.%COMMAND%", "one", "run", "7"), "/l/one.run");
        assert_eq!(debug_log("/l/", "one", "run", "7"), "/l/palisade.log.7.run.txt");
    }
}
