//! Writes calls as strace(1) does: arguments decoded, flags by name, results with what they mean.
//!
//! [`shape`] says what the arguments of a call are; [`Call::show`] writes one. What is only known afterwards is written afterwards, so
//! that a call that waits is seen.

mod args;
mod calls;
mod memory;
mod names;
mod print;
mod structs;

use abi::{Errno, SysResult, nr};
use task::Current;

use self::args::Call;
use self::calls::{Ret, Shape, shape};
use self::memory::Memory;

/// The name of a call.
fn name(number: u64) -> String {
    nr::name(number).map_or_else(|| format!("syscall_{number:#x}"), str::to_owned)
}

/// Runs a call and writes it to the kernel's trace.
///
/// # Errors
/// Those of the call.
pub fn trace(current: &mut Current, number: u64, args: [u64; 6]) -> SysResult<u64> {
    let (kernel, tid) = (current.task.kernel.clone(), current.task.tid());
    let (name, Shape { args: shapes, ret }) = (name(number), shape(number));
    let mut call = Call { memory: Memory(&current.mm), args, result: 0 };
    // What the kernel fills, and what follows, comes later.
    let known = shapes.iter().position(|arg| arg.is_output()).unwrap_or(shapes.len());
    let mut text = format!("{name}(");
    text += &list(&call, shapes, 0, known);
    if known > 0 && known < shapes.len() {
        text += ", ";
    }
    kernel.trace.begin(tid, &text);
    let result = crate::call(current, number, args);
    // The memory may be another's after execve.
    call = Call { memory: Memory(&current.mm), args, result: result.unwrap_or(0) };
    let mut rest = match result {
        Ok(_) => list(&call, shapes, known, shapes.len()),
        Err(_) => pointers(&call, shapes, known),
    };
    rest += ") = ";
    rest += &ending(&call, ret, result);
    kernel.trace.end(tid, &name, &rest);
    result
}

/// The arguments from one to another.
fn list(call: &Call<'_>, shapes: &[args::Arg], from: usize, to: usize) -> String {
    let wanted = shapes.iter().enumerate().take(to).skip(from).filter(|(_, arg)| arg.is_there(call));
    wanted.map(|(at, arg)| call.show(at, *arg)).collect::<Vec<_>>().join(", ")
}

/// After a failure nothing has been filled: what was to be is shown as its address.
fn pointers(call: &Call<'_>, shapes: &[args::Arg], from: usize) -> String {
    let wanted = shapes.iter().enumerate().skip(from).filter(|(_, arg)| arg.is_there(call));
    let show = |(at, arg): (usize, &args::Arg)| if arg.is_output() { print::pointer(call.arg(at)) } else { call.show(at, *arg) };
    wanted.map(show).collect::<Vec<_>>().join(", ")
}

/// What stands behind the equals sign.
fn ending(call: &Call<'_>, ret: Ret, result: SysResult<u64>) -> String {
    match result {
        _ if ret == Ret::Never => "?".to_owned(),
        Err(Errno::ERESTARTSYS) => "? ERESTARTSYS (To be restarted if SA_RESTART is set)".to_owned(),
        Err(Errno::ERESTARTNOINTR) => "? ERESTARTNOINTR (To be restarted)".to_owned(),
        Err(Errno::ERESTARTNOHAND) => "? ERESTARTNOHAND (To be restarted if no handler)".to_owned(),
        Err(errno) => {
            let text = std::io::Error::from_raw_os_error(errno.raw()).to_string();
            format!("-1 {errno} ({})", text.split(" (os error").next().unwrap_or_default())
        }
        Ok(0) if ret == Ret::Poll => "0 (Timeout)".to_owned(),
        Ok(value) => match ret {
            Ret::Pointer => print::pointer(value).replace("NULL", "0"),
            Ret::Octal => print::permissions(u32::try_from(value).unwrap_or(0)),
            Ret::Poll => format!("{value} ({})", structs::pollfds(&call.memory, call.arg(0), call.arg(1), true)),
            Ret::Number | Ret::Never => value.cast_signed().to_string(),
        },
    }
}
