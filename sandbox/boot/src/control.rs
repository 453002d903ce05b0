//! Commands to a running sandbox: one line each, answered by one line: `ok`, or `error` and why.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use abi::signal::SigInfo;
use task::Kernel;

/// Serves commands until the other side is gone. `start` runs the first process.
pub fn serve(stream: UnixStream, kernel: &Arc<Kernel>, mut start: impl FnMut() -> Result<(), String>) {
    let Ok(reader) = stream.try_clone() else { return };
    let mut stream = stream;
    for line in BufReader::new(reader).lines() {
        let Ok(line) = line else { return };
        let answer = match run(&line, kernel, &mut start) {
            Ok(()) => "ok\n".to_owned(),
            Err(why) => format!("error {}\n", why.replace('\n', " ")),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn run(line: &str, kernel: &Arc<Kernel>, start: &mut impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["start"] => start(),
        ["signal", signo, who] => {
            let signo: i32 = signo.parse().ok().filter(|signo| (1..=64).contains(signo)).ok_or("no such signal")?;
            let info = SigInfo::kernel(signo);
            let init = kernel.group(1).ok_or("the container isn't running")?;
            if *who == "all" {
                let all: Vec<_> = kernel.groups.lock().values().cloned().collect();
                all.iter().for_each(|group| group.signal(info));
            } else {
                init.signal(info);
            }
            Ok(())
        }
        ["strace", state @ ("on" | "off")] => {
            kernel.set_trace(*state == "on");
            Ok(())
        }
        _ => Err(format!("unknown command {line:?}")),
    }
}
