//! Programs that are timed inside a box: what users wait for.

use std::path::Path;

/// The row of a whole `run` of `true`.
pub const START: &str = "true, start to finish";

/// Where the commands stand, in the working directory of the box.
pub const FILE: &str = "commands";

/// A row: name (`_` for a space), how often in one round, command, what undoes it, and what it needs.
type Row = (&'static str, u32, &'static str, &'static str, &'static str);

/// Everything happens in a directory on disk; `tree` has 5,000 files in git.
const ROWS: [Row; 17] = [
    ("sh_-c_true", 5, "true", ":", "/bin/sh"),
    ("shell_loop,_20,000_turns", 1, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", ":", "/bin/sh"),
    ("fork+exec_of_true,_100_times", 1, "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done", ":", "/bin/sh"),
    ("pipe_to_cat,_50_times", 1, "i=0; while [ $i -lt 50 ]; do echo x | cat >/dev/null; i=$((i+1)); done", ":", "/bin/sh"),
    ("dd,_20,000_blocks_of_4_KiB", 1, "dd if=/dev/zero of=/dev/null bs=4k count=20000 status=none", ":", "/bin/dd"),
    ("python3_-c_pass", 3, "/usr/bin/python3 -c pass", ":", "/usr/bin/python3"),
    (
        "python3,_imports",
        1,
        "/usr/bin/python3 -c 'import json,asyncio,http.client,sqlite3,decimal,email.message,unittest'",
        ":",
        "/usr/bin/python3",
    ),
    ("node_-e_0", 1, "/usr/bin/node -e 0", ":", "/usr/bin/node"),
    ("git_status,_5,000_files", 3, "git -C tree status --porcelain", ":", "/usr/bin/git"),
    ("find,_5,000_files", 3, "find tree -type f -printf '%s %p\\n'", ":", "/usr/bin/find"),
    ("grep_-r,_5,000_files", 1, "grep -r 'no such text' tree || true", ":", "/bin/grep"),
    ("cp_-r,_5,000_files", 1, "cp -r tree copy", "rm -rf copy", "/bin/cp"),
    ("untar,_5,000_files", 1, "mkdir out && tar xf tree.tar -C out", "rm -rf out", "/bin/tar"),
    ("rm_-r,_5,000_files", 1, "rm -r gone", "mkdir gone && tar xf tree.tar -C gone", "/bin/tar"),
    (
        "gcc,_20_small_files",
        1,
        "mkdir obj && for i in src/*.c; do gcc -c -O1 $i -o obj/${i##*/}.o; done",
        "rm -rf obj",
        "/usr/bin/gcc",
    ),
    (
        "sqlite,_10,000_inserts,_no_sync",
        1,
        "/usr/bin/python3 -c 'import sqlite3; d=sqlite3.connect(\"a.db\",isolation_level=None); d.execute(\"pragma synchronous=off\"); \
         d.execute(\"create table t(a,b)\"); [d.execute(\"insert into t values(?,?)\",(i,\"x\"*50)) for i in range(10000)]'",
        "rm -f a.db*",
        "/usr/bin/python3",
    ),
    (
        "sqlite,_300_transactions,_full_sync",
        1,
        "/usr/bin/python3 -c 'import sqlite3; d=sqlite3.connect(\"b.db\",isolation_level=None); d.execute(\"pragma synchronous=full\"); \
         d.execute(\"create table t(a,b)\"); [d.execute(\"insert into t values(?,?)\",(i,\"x\"*50)) for i in range(300)]'",
        "rm -f b.db*",
        "/usr/bin/python3",
    ),
];

/// What the box needs in its working directory, as a shell script.
pub const SETUP: &str = r#"
set -e
mkdir tree src
i=0
while [ $i -lt 50 ]; do
    mkdir tree/d$i
    j=0
    while [ $j -lt 100 ]; do
        echo "file $i $j, with a line or two of text" > tree/d$i/f$j.c
        j=$((j+1))
    done
    i=$((i+1))
done
tar cf tree.tar tree
mkdir gone
tar xf tree.tar -C gone
if command -v git >/dev/null; then
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
    git -C tree init -q
    git -C tree add .
    git -C tree -c user.name=bench -c user.email=bench@example.org commit -qm tree
fi
i=0
while [ $i -lt 20 ]; do
    printf '#include <stdio.h>\n#include <string.h>\nint f%d(const char *s) { printf("%%zu\\n", strlen(s)); return %d; }\n' $i $i > src/f$i.c
    i=$((i+1))
done
"#;

/// The commands whose programs are there, as `guest-bench --commands` reads them.
pub fn commands() -> String {
    let (there, missing): (Vec<&Row>, Vec<&Row>) = ROWS.iter().partition(|row| Path::new(row.4).exists());
    for (name, .., needs) in missing {
        println!("skipped: {name}: there is no {needs}");
    }
    there.into_iter().map(|(name, times, command, cleanup, _)| format!("{name}\t{times}\t{command}\t{cleanup}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_lines_of_four_fields() {
        assert!(commands().lines().all(|line| line.split('\t').count() == 4 && !line.contains("  ")));
    }
}
