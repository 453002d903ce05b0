//! What went wrong, for one line on the terminal.

/// What went wrong, why, and what can be done about it.
#[derive(Debug)]
pub struct BootError {
    what: String,
    cause: String,
    hint: &'static str,
    status: i32,
}

impl std::fmt::Display for BootError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        if self.cause.is_empty() { Ok(()) } else { write!(f, ": {}{}", self.cause, self.hint) }
    }
}

impl std::error::Error for BootError {}

/// The sandbox itself failed; exit statuses as docker run has them.
const SANDBOX: i32 = 125;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

impl BootError {
    /// The exit status for it.
    #[must_use]
    pub fn status(&self) -> i32 {
        self.status
    }

    /// A program can't be run. Docker tells "not found" from "not executable" by these very words.
    pub fn exec(program: &str, errno: abi::Errno) -> Self {
        let (cause, status) = match errno {
            abi::Errno::ENOENT if !program.contains('/') => ("executable file not found in $PATH".to_owned(), NOT_FOUND),
            abi::Errno::ENOENT => ("no such file or directory".to_owned(), NOT_FOUND),
            abi::Errno::EACCES => ("permission denied".to_owned(), NOT_EXECUTABLE),
            abi::Errno::ENOEXEC => ("exec format error".to_owned(), NOT_EXECUTABLE),
            other => (other.to_string(), SANDBOX),
        };
        Self { what: format!("exec: {program:?}"), cause, hint: "", status }
    }

    /// A working directory isn't there.
    pub fn cwd(path: &str, errno: abi::Errno) -> Self {
        let cause = match errno {
            abi::Errno::ENOENT => "no such file or directory".to_owned(),
            other => other.to_string(),
        };
        Self { what: format!("cannot change to the working directory {path:?}"), cause, hint: "", status: NOT_FOUND }
    }

    /// What a sandbox has told of itself.
    pub fn told(why: String, status: i32) -> Self {
        Self { what: why, cause: String::new(), hint: "", status }
    }
}

/// Makes an error of what the host or the kernel says.
pub fn failed<E: std::fmt::Display>(what: &str, hint: &'static str) -> impl FnOnce(E) -> BootError {
    let what = what.to_owned();
    move |error| BootError { what, cause: error.to_string(), hint, status: SANDBOX }
}
