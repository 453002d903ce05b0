//! Programs: from the configuration's form to the sandbox's.

use std::path::Path;

use anyhow::{Context, Result, bail};
use control::{Capabilities, Process, User, WindowSize};

use crate::spec;

/// Names of capabilities (capabilities(7)) by number, without `CAP_`.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Names of resources (getrlimit(2)) by number, without `RLIMIT_`.
const RESOURCES: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// The bit of a capability, with or without `CAP_`; `None` for one that this kernel doesn't have.
pub fn capability(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    CAPABILITIES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// Bits of capabilities. One that isn't known can't be given, and is passed over, as runc does.
fn bits(names: &spec::List<String>) -> u64 {
    names.iter().flatten().filter_map(|name| capability(name)).fold(0, |bits, bit| bits | bit)
}

fn capabilities(given: Option<&spec::Capabilities>) -> Capabilities {
    given.map_or_else(Capabilities::default, |given| Capabilities {
        bounding: bits(&given.bounding),
        effective: bits(&given.effective),
        inheritable: bits(&given.inheritable),
        permitted: bits(&given.permitted),
        ambient: bits(&given.ambient),
    })
}

fn limits(given: &spec::List<spec::Rlimit>) -> Result<Vec<(usize, u64, u64)>> {
    let mut limits: Vec<(usize, u64, u64)> = Vec::new();
    for (i, limit) in given.iter().flatten().enumerate() {
        let at = || format!("rlimits[{i}]");
        let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or_default();
        let number = RESOURCES
            .iter()
            .position(|known| *known == name)
            .with_context(|| format!("{}.type: {:?} is unknown", at(), limit.kind))?;
        if limit.soft > limit.hard {
            bail!("{}: the soft limit ({}) is above the hard one ({})", at(), limit.soft, limit.hard);
        }
        if limits.iter().any(|(other, ..)| *other == number) {
            bail!("{}.type: {} is given twice", at(), limit.kind);
        }
        limits.push((number, limit.soft, limit.hard));
    }
    Ok(limits)
}

/// What a program is to be run with. Errors are told as of `process`.
///
/// # Errors
/// With the path of what can't be, and why.
pub fn convert(process: &spec::Process) -> Result<Process> {
    checked(process).map_err(|error| anyhow::anyhow!("process.{error:#}"))
}

/// The first program of a bundle.
///
/// # Errors
/// When the configuration has none, or one that can't be run.
pub fn of_bundle(bundle: &Path) -> Result<Process> {
    let spec: spec::Spec = spec::read(&bundle.join("config.json"))?;
    let mut process = convert(spec.process.as_ref().context("process: missing")?)?;
    if let Some(profile) = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
        process.seccomp = crate::seccomp::compile(profile)?;
    }
    Ok(process)
}

fn checked(process: &spec::Process) -> Result<Process> {
    let argv = process.args.clone().filter(|args| !args.is_empty()).context("args: missing or empty")?;
    let text = |what: &str, texts: &[String]| match texts.iter().find(|text| text.contains('\0')) {
        Some(text) => bail!("{what}: {text:?} has a zero byte in it"),
        None => Ok(()),
    };
    text("args", &argv)?;
    let env = process.env.clone().unwrap_or_default();
    text("env", &env)?;
    if !Path::new(&process.cwd).is_absolute() {
        bail!("cwd: {:?} isn't absolute", process.cwd.display().to_string());
    }
    let adjust = process.oom_score_adj;
    if adjust.is_some_and(|adjust| !(-1000..=1000).contains(&adjust)) {
        bail!("oomScoreAdj: {} isn't between -1000 and 1000", adjust.unwrap_or(0));
    }
    // Programs run when the host lets them.
    for (name, given) in [("scheduler", &process.scheduler), ("ioPriority", &process.io_priority)] {
        if given.is_some() {
            bail!("{name}: can't be honoured: the host schedules (limit CPUs and block I/O by linux.resources)");
        }
    }
    let size = process.console_size.map_or_else(WindowSize::default, |size| WindowSize {
        rows: size.height,
        columns: size.width,
        ..WindowSize::default()
    });
    Ok(Process {
        argv,
        env,
        cwd: process.cwd.display().to_string(),
        user: User {
            uid: process.user.uid,
            gid: process.user.gid,
            additional_gids: process.user.additional_gids.clone().unwrap_or_default(),
            umask: process.user.umask,
        },
        capabilities: Some(capabilities(process.capabilities.as_ref())),
        no_new_privs: process.no_new_privileges,
        limits: limits(&process.rlimits)?,
        oom_score_adj: adjust,
        terminal: process.terminal.then_some(size),
        seccomp: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(json: &str) -> String {
        convert(&spec::parse(json.as_bytes()).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn bad_input_is_told_by_its_path() {
        assert_eq!(why(r#"{"cwd":"/"}"#), "process.args: missing or empty");
        assert_eq!(why(r#"{"args":["a"],"cwd":"x"}"#), "process.cwd: \"x\" isn't absolute");
        let limit = r#"{"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_X","soft":1,"hard":1}]}"#;
        assert_eq!(why(limit), "process.rlimits[0].type: \"RLIMIT_X\" is unknown");
    }

    #[test]
    fn capabilities_have_numbers() {
        assert_eq!(capability("CAP_CHOWN"), Some(1));
        assert_eq!(capability("sys_admin"), Some(1 << 21));
        assert_eq!(capability("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(capability("CAP_NONSENSE"), None);
    }
}
