//! How the binary is linked: what a start runs through lies side by side, and addresses are fixed up from a compact list (decision 0027).
use std::env;

#[expect(clippy::disallowed_methods, reason = "the environment is how Cargo talks to build scripts")]
fn main() {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build/start.ld");
    // Tests and debug builds are linked as ever, and so is what goes through a linker of somebody's own.
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let own_linker = flags.contains("link") || env::var_os("RUSTC_LINKER").is_some();
    if !is("PROFILE", "release") || !is("TARGET", "x86_64-unknown-linux-gnu") || own_linker || !rusts_own_linker() {
        return;
    }
    if let Ok(folder) = env::var("CARGO_MANIFEST_DIR") {
        println!("cargo:rustc-link-arg-bin=doorward=-Wl,-T,{folder}/build/start.ld");
    }
    // scripts/start-order writes that list, and needs to know which part of the binary came from where.
    if let Ok(folder) = env::var("OUT_DIR") {
        println!("cargo:rustc-link-arg-bin=doorward=-Wl,-Map={folder}/doorward.map");
    }
    // What is built here runs here or on something newer; before 2.36 the C library cannot read the list.
    if is("HOST", "x86_64-unknown-linux-gnu") && libc_version().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bin=doorward=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether the compiler brings its linker with it. Those of distributions often do not; to the system's linker the list would be all there is
/// to link by.
fn rusts_own_linker() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(said) = std::process::Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let Ok(root) = String::from_utf8(said.stdout) else { return false };
    std::path::Path::new(root.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld/ld.lld").exists()
}

/// The C library of this machine, if it is the GNU one.
fn libc_version() -> Option<(u32, u32)> {
    let said = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
