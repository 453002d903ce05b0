//! What a program is to be run with.

use serde::{Deserialize, Serialize};

/// Rows and columns of a terminal, and its size in pixels, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
    #[serde(default)]
    pub width: u16,
    #[serde(default)]
    pub height: u16,
}

/// Whose program it is (numbers inside).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: Option<u32>,
}

/// Sets of capabilities: bit n is capability n (capabilities(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

impl Capabilities {
    /// All that there are.
    pub const ALL: u64 = (1 << 41) - 1;

    /// What root has where nothing is taken away.
    #[must_use]
    pub fn full() -> Self {
        Self { bounding: Self::ALL, effective: Self::ALL, permitted: Self::ALL, inheritable: 0, ambient: 0 }
    }
}

/// A program and what it is run with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program, looked for along `PATH` where its name has no slash, and its arguments.
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: User,
    /// `None`: as root has them.
    pub capabilities: Option<Capabilities>,
    pub no_new_privs: bool,
    /// Resource (`RLIMIT_*`), soft and hard limit.
    pub limits: Vec<(usize, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    /// It has a terminal of its own, of this size.
    pub terminal: Option<WindowSize>,
    /// A seccomp program in the form of `struct sock_filter`: code, jump if true, jump if false, value.
    pub seccomp: Vec<(u16, u8, u8, u32)>,
}
