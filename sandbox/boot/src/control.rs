//! Commands to a running sandbox: one line each, answered by one line: `ok`, or `error` and why.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use abi::signal::SigInfo;
use task::Kernel;

use crate::BootError;

/// Serves commands until the other side is gone. `start` runs the first process; where it can't, the container ends once that is told.
pub fn serve(stream: UnixStream, kernel: &Arc<Kernel>, mut start: impl FnMut() -> Result<(), BootError>) {
    let Ok(reader) = stream.try_clone() else { return };
    let mut stream = stream;
    let mut started = false;
    for line in BufReader::new(reader).lines() {
        let Ok(line) = line else { return };
        let mut failed = None;
        let result = run(&line, kernel, || {
            if std::mem::replace(&mut started, true) {
                return Err("it has been started already".to_owned());
            }
            start().map_err(|error| {
                failed = Some(error.status());
                error.to_string()
            })
        });
        let answer = match result {
            Ok(()) => "ok\n".to_owned(),
            Err(why) => format!("error {}\n", why.replace('\n', " ")),
        };
        let told = stream.write_all(answer.as_bytes());
        if let Some(status) = failed {
            kernel.give_up(status << 8);
        }
        if told.is_err() {
            return;
        }
    }
}

fn run(line: &str, kernel: &Arc<Kernel>, start: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
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
