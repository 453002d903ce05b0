//! What the kernel knows of how guest code is run.
