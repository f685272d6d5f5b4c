//! Embeds the built UI: every file of the folder that `INFERTRACE_UI_DIST` names, with its compressed twins.
//!
//! Without it the API serves a page that says how to build one.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=INFERTRACE_UI_DIST");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if let Some(folder) = env::var_os("INFERTRACE_UI_DIST").filter(|folder| !folder.is_empty()) {
        let folder = PathBuf::from(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        if folder.is_dir() {
            collect(&folder.canonicalize()?, "", &mut files)?;
        } else {
            println!("cargo::warning=INFERTRACE_UI_DIST is not a folder: {}", folder.display());
        }
    }
    files.sort();
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut code = fs::File::create(out.join("ui.rs"))?;
    writeln!(code, "pub(super) static FILES: &[(&str, &[u8])] = &[")?;
    let copies = out.join("ui");
    fs::create_dir_all(&copies)?;
    for (index, (name, path)) in files.iter().enumerate() {
        println!("cargo::rerun-if-changed={}", path.display());
        // A copy, since the folder may be built anew while the compiler reads it.
        let copy = copies.join(index.to_string());
        fs::copy(path, &copy)?;
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", copy.display().to_string())?;
    }
    writeln!(code, "];")
}

/// Files below `folder`, by their name below the root of the UI.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            println!("cargo::rerun-if-changed={}", entry.path().display());
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.push((name, entry.path()));
        }
    }
    Ok(())
}
