//! Namespaces (namespaces(7)).

use abi::nr;

use crate::args::int;
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] =
    &[partial(nr::UNSHARE, |t, a| t.unshare(int(a[0]).cast_unsigned().into()).map(|()| 0), "no time namespaces")];
