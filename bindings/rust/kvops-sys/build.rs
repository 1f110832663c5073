// Where libkvops.so is: KVOPS_LIB_DIR, else what pkg-config says, else the linker's own folders.
use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-env-changed=KVOPS_LIB_DIR");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo:rustc-link-lib=dylib=kvops");
    let folder = env::var("KVOPS_LIB_DIR").ok().or_else(|| {
        let query = ["--variable=libdir", "kvops"];
        let output = Command::new("pkg-config").args(query).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().to_string()).filter(|t| output.status.success() && !t.is_empty())
    });
    if let Some(folder) = folder {
        println!("cargo:rustc-link-search=native={folder}");
        // The examples find the library where they were linked against it.
        println!("cargo:rustc-link-arg-examples=-Wl,-rpath,{folder}");
    }
}
