//! Builds the two programs that systrap embeds: the stub blob (from the `stub` crate's sources) and the guests' vDSO.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let out = env::var("OUT_DIR").expect("set by cargo");
    let stub = Path::new(&manifest).join("../stub");
    for file in ["src/blob.rs", "src/layout.rs", "stub.ld"] {
        println!("cargo::rerun-if-changed={}", stub.join(file).display());
    }
    println!("cargo::rerun-if-changed=vdso");
    build_stub(&stub, Path::new(&out));
    build_vdso(&Path::new(&manifest).join("vdso"), Path::new(&out));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} failed: {status}");
}

/// Compiles `blob.rs` into a flat, position-independent binary.
fn build_stub(stub: &Path, out: &Path) {
    let object = out.join("stub.o");
    run(Command::new(env::var("RUSTC").expect("set by cargo"))
        .args(["--edition", "2024", "--crate-name", "blob", "--crate-type", "bin", "--emit", "obj"])
        .args(["--target", "x86_64-unknown-linux-gnu", "-C", "opt-level=2", "-C", "panic=abort", "-C", "relocation-model=pie"])
        .args(["-C", "codegen-units=1", "-C", "no-redzone=yes", "-C", "debuginfo=0", "-C", "overflow-checks=off"])
        .args(["-C", "target-feature=-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2", "-C", "force-unwind-tables=no"])
        .arg("-o")
        .arg(&object)
        .arg(stub.join("src/blob.rs")));
    let elf = out.join("stub.elf");
    run(Command::new("ld")
        .args(["-nostdlib", "-static", "--gc-sections", "-e", "0", "-z", "noexecstack", "-u", "stub_head", "-T"])
        .arg(stub.join("stub.ld"))
        .arg("-o")
        .arg(&elf)
        .arg(&object));
    run(Command::new("objcopy").args(["-O", "binary", "-j", ".text"]).arg(&elf).arg(out.join("stub.bin")));
    let size = fs::metadata(out.join("stub.bin")).expect("just written").len();
    assert!(size > 0 && size <= 0x1_0000, "stub blob has {size} bytes");
}

/// Links the vDSO: a shared object whose functions go to the host's through a table in the stub's read-only page.
fn build_vdso(source: &Path, out: &Path) {
    run(Command::new(env::var("CC").unwrap_or_else(|_| "cc".into()))
        .args([
            "-shared",
            "-nostdlib",
            "-fPIC",
            "-Wl,-soname,linux-vdso.so.1",
            "-Wl,--hash-style=both",
            "-Wl,-z,max-page-size=4096",
        ])
        .args(["-Wl,-z,noseparate-code", "-Wl,--build-id=none", "-Wl,-Bsymbolic", "-Wl,--no-undefined"])
        .arg(format!("-Wl,-T,{}", source.join("vdso.ld").display()))
        .args(["-Wl,-z,norelro"])
        .arg(format!("-Wl,--version-script={}", source.join("vdso.map").display()))
        .arg("-o")
        .arg(out.join("vdso.so"))
        .arg(source.join("vdso.S")));
    let size = fs::metadata(out.join("vdso.so")).expect("just written").len();
    assert!(size <= 0x4000, "vDSO has {size} bytes");
}
