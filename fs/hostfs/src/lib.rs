//! Host directories (directfs).
#![forbid(unsafe_code)]
