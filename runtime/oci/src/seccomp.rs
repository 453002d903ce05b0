//! `linux.seccomp`: from the configuration's rules to a program of classic BPF (seccomp(2)) for the kernel inside.
//!
//! Calls without conditions form ranges of numbers with one action each, and the program finds its range by halves; calls with conditions
//! are ranges of one number whose leaf tests the arguments.

use std::collections::BTreeMap;

use abi::nr;
use anyhow::{Context, Result, bail};

use crate::spec::{Seccomp, SeccompArg};

/// `struct sock_filter`: code, jump if true, jump if false, value.
pub type Insn = (u16, u8, u8, u32);

// linux/bpf_common.h, linux/filter.h
const LD_W_ABS: u16 = 0x20;
const ALU_AND_K: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JGT_K: u16 = 0x25;
const JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;
/// `BPF_MAXINSNS`
const MAX: usize = 4096;

/// `AUDIT_ARCH_X86_64`
const ARCH: u32 = 0xc000_003e;
/// Numbers from here on are calls of x32.
const X32: u32 = 0x4000_0000;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// The value that a filter returns for an action.
fn action(name: &str, value: Option<u32>) -> Result<u32> {
    let value = value.unwrap_or(EPERM);
    if value > 0xffff {
        bail!("errnoRet: {value} is too large");
    }
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => RET_TRAP,
        "SCMP_ACT_ERRNO" => RET_ERRNO | value,
        "SCMP_ACT_TRACE" => RET_TRACE | value,
        "SCMP_ACT_LOG" => RET_LOG,
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_NOTIFY" => bail!("SCMP_ACT_NOTIFY isn't supported: no host process may decide about a call inside"),
        _ => bail!("{name:?} is unknown"),
    })
}

/// What is done about one call: conditions with their actions, tried in turn, then the last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    conditions: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

/// A comparison of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    index: u32,
    operator: Operator,
    value: u64,
    mask: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

fn condition(arg: &SeccompArg) -> Result<Condition> {
    if arg.index > 5 {
        bail!("index: {} isn't between 0 and 5", arg.index);
    }
    let plain = |operator| Condition { index: arg.index, operator, value: arg.value, mask: u64::MAX };
    Ok(match arg.op.as_str() {
        "SCMP_CMP_NE" => plain(Operator::NotEqual),
        "SCMP_CMP_LT" => plain(Operator::Less),
        "SCMP_CMP_LE" => plain(Operator::LessOrEqual),
        "SCMP_CMP_EQ" => plain(Operator::Equal),
        "SCMP_CMP_GE" => plain(Operator::GreaterOrEqual),
        "SCMP_CMP_GT" => plain(Operator::Greater),
        "SCMP_CMP_MASKED_EQ" => {
            Condition { index: arg.index, operator: Operator::Equal, value: arg.value_two & arg.value, mask: arg.value }
        }
        _ => bail!("op: {:?} is unknown", arg.op),
    })
}

/// A program in the making. Labels are the places of instructions that don't stand yet: jumps are to ends of blocks.
#[derive(Default)]
struct Program(Vec<Insn>);

impl Program {
    fn push(&mut self, code: u16, value: u32) {
        self.0.push((code, 0, 0, value));
    }

    /// A comparison whose "no" (or "yes", if `invert`) leaves the block: `exits` remembers it for [`Program::land`].
    fn leave_unless(&mut self, code: u16, value: u32, exits: &mut Vec<usize>) {
        // Over the jump if true: a conditional jump reaches 255 instructions only.
        self.0.push((code, 1, 0, value));
        exits.push(self.0.len());
        self.push(JA, 0);
    }

    fn leave_if(&mut self, code: u16, value: u32, exits: &mut Vec<usize>) {
        self.0.push((code, 0, 1, value));
        exits.push(self.0.len());
        self.push(JA, 0);
    }

    /// Lets jumps lead to the next instruction.
    fn land(&mut self, exits: &[usize]) {
        let here = self.0.len();
        for at in exits {
            if let Some(insn) = self.0.get_mut(*at) {
                insn.3 = u32::try_from(here - at - 1).unwrap_or(u32::MAX);
            }
        }
    }

    /// Leaves the block unless a condition holds. Arguments are 64 bits wide, the machine 32.
    fn test(&mut self, condition: &Condition, exits: &mut Vec<usize>) {
        let word = |high: bool| 16 + 8 * condition.index + if high { 4 } else { 0 };
        let split = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
        let ((high, low), (high_mask, low_mask)) = (split(condition.value), split(condition.mask));
        self.push(LD_W_ABS, word(true));
        let mut holds = Vec::new();
        match condition.operator {
            Operator::Equal => {
                if high_mask != u32::MAX {
                    self.push(ALU_AND_K, high_mask);
                }
                self.leave_unless(JEQ_K, high, exits);
                self.push(LD_W_ABS, word(false));
                if low_mask != u32::MAX {
                    self.push(ALU_AND_K, low_mask);
                }
                self.leave_unless(JEQ_K, low, exits);
            }
            Operator::NotEqual => {
                let mut equal = Vec::new();
                self.leave_if(JEQ_K, high, &mut equal);
                holds.push(self.0.len());
                self.push(JA, 0);
                self.land(&equal);
                self.push(LD_W_ABS, word(false));
                self.leave_if(JEQ_K, low, exits);
            }
            Operator::Greater | Operator::GreaterOrEqual => {
                self.leave_if(JGT_K, high, &mut holds);
                self.leave_unless(JEQ_K, high, exits);
                self.push(LD_W_ABS, word(false));
                self.leave_unless(if condition.operator == Operator::Greater { JGT_K } else { JGE_K }, low, exits);
            }
            Operator::Less | Operator::LessOrEqual => {
                self.leave_if(JGT_K, high, exits);
                let mut equal = Vec::new();
                self.leave_if(JEQ_K, high, &mut equal);
                holds.push(self.0.len());
                self.push(JA, 0);
                self.land(&equal);
                self.push(LD_W_ABS, word(false));
                self.leave_if(if condition.operator == Operator::Less { JGE_K } else { JGT_K }, low, exits);
            }
        }
        self.land(&holds);
    }

    fn verdict(&mut self, verdict: &Verdict) {
        for (conditions, action) in &verdict.conditions {
            let mut exits = Vec::new();
            for condition in conditions {
                self.test(condition, &mut exits);
            }
            self.push(RET_K, *action);
            self.land(&exits);
        }
        self.push(RET_K, verdict.otherwise);
    }

    /// Finds the range that the number is in: they start where they say and end where the next one starts.
    fn search(&mut self, ranges: &[(u32, &Verdict)]) {
        match ranges {
            [] => {}
            [(_, verdict)] => self.verdict(verdict),
            _ => {
                let (below, above) = ranges.split_at(ranges.len() / 2);
                let mut exits = Vec::new();
                self.leave_if(JGE_K, above.first().map_or(0, |range| range.0), &mut exits);
                self.search(below);
                self.land(&exits);
                self.search(above);
                // The number is lost in a leaf only, which ends.
            }
        }
    }
}

/// Verdicts by number.
fn verdicts(profile: &Seccomp, default: u32) -> Result<BTreeMap<u32, Verdict>> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for (i, rule) in profile.syscalls.iter().flatten().enumerate() {
        let at = || format!("linux.seccomp.syscalls[{i}]");
        let action = action(&rule.action, rule.errno_ret).with_context(|| format!("{}.action", at()))?;
        let mut conditions = Vec::new();
        for (j, arg) in rule.args.iter().flatten().enumerate() {
            conditions.push(condition(arg).with_context(|| format!("{}.args[{j}]", at()))?);
        }
        if action == default {
            // Nothing new.
            continue;
        }
        // Calls of other architectures and newer kernels have no number here: nobody can make them.
        let numbers = rule.names.iter().filter_map(|name| nr::NAMES.iter().find(|(_, known)| known == name));
        for number in numbers.filter_map(|(number, _)| u32::try_from(*number).ok()) {
            let verdict = verdicts.entry(number).or_insert_with(|| Verdict { conditions: Vec::new(), otherwise: default });
            if conditions.is_empty() {
                verdict.otherwise = action;
            } else {
                verdict.conditions.push((conditions.clone(), action));
            }
        }
    }
    Ok(verdicts)
}

/// Makes the program.
///
/// # Errors
/// With the path of what can't be, and why.
pub fn compile(profile: &Seccomp) -> Result<Vec<Insn>> {
    if profile.listener_path.is_some() {
        bail!("linux.seccomp.listenerPath: isn't supported: no host process may decide about a call inside");
    }
    let default = action(&profile.default_action, profile.default_errno_ret).context("linux.seccomp.defaultAction")?;
    let mut verdicts = verdicts(profile, default)?;
    // Docker's profile keeps the host's log from containers. Here it is the sandbox's own, and dmesg is how people see that they are inside.
    verdicts.insert(nr::SYSLOG as u32, Verdict { conditions: Vec::new(), otherwise: RET_ALLOW });
    let plain = Verdict { conditions: Vec::new(), otherwise: default };
    let missing = Verdict { conditions: Vec::new(), otherwise: RET_ERRNO | ENOSYS };
    // Ranges of numbers with one verdict.
    let mut ranges: Vec<(u32, &Verdict)> = vec![(0, &plain)];
    let mut add = |start: u32, verdict| match ranges.last_mut() {
        Some(last) if last.1 == verdict => {}
        Some(last) if last.0 == start => last.1 = verdict,
        _ => ranges.push((start, verdict)),
    };
    for (number, verdict) in &verdicts {
        add(*number, verdict);
        add(number + 1, &plain);
    }
    // Calls younger than the profile: programs fall back on ENOSYS, and not on EPERM.
    let youngest = verdicts.keys().next_back().copied().unwrap_or(0);
    let tell_missing = default & 0xffff_0000 == RET_ERRNO;
    if tell_missing {
        add(youngest + 1, &missing);
    }
    add(X32, if tell_missing { &missing } else { &plain });
    // Neighbours that overwriting has made equal are one.
    ranges.dedup_by(|next, before| next.1 == before.1);
    let mut program = Program::default();
    let mut foreign = Vec::new();
    program.push(LD_W_ABS, 4);
    program.leave_unless(JEQ_K, ARCH, &mut foreign);
    program.push(LD_W_ABS, 0);
    program.search(&ranges);
    program.land(&foreign);
    program.push(RET_K, RET_KILL_PROCESS);
    if program.0.len() > MAX {
        bail!("linux.seccomp: too many rules: {} instructions, at most {MAX}", program.0.len());
    }
    Ok(program.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on a call.
    fn run(program: &[Insn], number: u32, args: [u64; 6]) -> u32 {
        let mut data = vec![number, ARCH, 0, 0];
        data.extend(args.iter().flat_map(|arg| [(arg & 0xffff_ffff) as u32, (arg >> 32) as u32]));
        let (mut at, mut acc) = (0, 0);
        loop {
            let (code, yes, no, value) = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { yes } else { no });
            match code {
                LD_W_ABS => acc = data[value as usize / 4],
                ALU_AND_K => acc &= value,
                JA => at += value as usize,
                JEQ_K => at += jump(acc == value),
                JGT_K => at += jump(acc > value),
                JGE_K => at += jump(acc >= value),
                RET_K => return value,
                _ => panic!("{code}"),
            }
        }
    }

    fn program(json: &str) -> Vec<Insn> {
        compile(&crate::spec::parse(json.as_bytes()).unwrap()).unwrap()
    }

    fn number(name: &str) -> u32 {
        nr::NAMES.iter().find(|(_, known)| *known == name).unwrap().0 as u32
    }

    #[test]
    fn every_call_gets_its_verdict() {
        let names: Vec<&str> = nr::NAMES.iter().map(|(_, name)| *name).filter(|name| name.len() % 3 != 0).collect();
        let json = serde_json::json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            { "names": names, "action": "SCMP_ACT_ALLOW" },
            { "names": ["ptrace", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
        ] });
        let program = program(&json.to_string());
        for (number, name) in nr::NAMES {
            let expected = match *name {
                "ptrace" => RET_ERRNO | 13,
                "syslog" => RET_ALLOW,
                name if name.len() % 3 != 0 => RET_ALLOW,
                _ => RET_ERRNO | EPERM,
            };
            if (*number as u32) <= names.iter().map(|name| self::number(name)).max().unwrap() {
                assert_eq!(run(&program, *number as u32, [0; 6]), expected, "{name}");
            }
        }
        assert_eq!(run(&program, 5000, [0; 6]), RET_ERRNO | ENOSYS);
        assert_eq!(run(&program, X32 + 1, [0; 6]), RET_ERRNO | ENOSYS);
    }

    #[test]
    fn arguments_are_compared_in_full() {
        let big = 0x1_0000_0005u64;
        let cases: [(&str, &[u64], &[u64]); 6] = [
            ("EQ", &[big], &[5, big + 1, 0x2_0000_0005, 0]),
            ("NE", &[5, big + 1, 0x2_0000_0005], &[big]),
            ("LT", &[0, big - 1, 5, 0x0_ffff_ffff], &[big, big + 1, 0x2_0000_0000]),
            ("LE", &[0, big, 0x0_ffff_ffff], &[big + 1, 0x2_0000_0000]),
            ("GT", &[big + 1, 0x2_0000_0000], &[big, 0, 6, 0xffff_ffff]),
            ("GE", &[big, 0x2_0000_0000], &[big - 1, 0xffff_ffff]),
        ];
        for (operator, yes, no) in cases {
            let json = serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "names": ["write"], "action": "SCMP_ACT_TRAP", "args": [{ "index": 2, "value": big, "op": format!("SCMP_CMP_{operator}") }] },
            ] });
            let program = program(&json.to_string());
            for (values, expected) in [(yes, RET_TRAP), (no, RET_ALLOW)] {
                for value in values {
                    assert_eq!(run(&program, number("write"), [0, 0, *value, 0, 0, 0]), expected, "{value:#x} {operator}");
                }
            }
            assert_eq!(run(&program, number("read"), [0, 0, yes[0], 0, 0, 0]), RET_ALLOW);
        }
    }

    #[test]
    fn rules_of_one_call_are_alternatives() {
        // As Docker's profile has it for clone and personality.
        let program = program(
            r#"{ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                { "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" }] },
                { "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] },
                { "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] }] }"#,
        );
        let verdict = |name, arg| run(&program, number(name), [arg, 0, 0, 0, 0, 0]);
        assert_eq!([0, 8, 9].map(|arg| verdict("personality", arg)), [RET_ALLOW, RET_ALLOW, RET_ERRNO | EPERM]);
        assert_eq!([0x11, 0x1000_0011].map(|flags| verdict("clone", flags)), [RET_ALLOW, RET_ERRNO | EPERM]);
    }

    #[test]
    fn bad_profiles_are_told_by_their_path() {
        let why = |json: &str| format!("{:#}", compile(&crate::spec::parse(json.as_bytes()).unwrap()).unwrap_err());
        assert_eq!(why(r#"{"defaultAction":"X"}"#), "linux.seccomp.defaultAction: \"X\" is unknown");
        let arg = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_TRAP","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert_eq!(why(arg), "linux.seccomp.syscalls[0].args[0]: index: 6 isn't between 0 and 5");
    }
}
