//! Runs wasm-bindgen at exactly the version that `Cargo.lock` names: `xtask-bindgen INPUT.wasm OUT_DIR NAME`.
//!
//! The generated glue has to match the `wasm-bindgen` crate inside the module to the patch version; linking the
//! generator as a crate makes the lock file the one place where that version is written.
use std::path::PathBuf;

use anyhow::{Context, bail};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [input, out_dir, name] = arguments.as_slice() else {
        bail!("usage: xtask-bindgen INPUT.wasm OUT_DIR NAME");
    };
    let name = name.to_str().context("NAME is not UTF-8")?;
    let mut bindgen = Bindgen::new();
    bindgen
        .input_path(input)
        .out_name(name)
        .typescript(false)
        .remove_name_section(true)
        .remove_producers_section(true)
        .omit_default_module_path(true)
        .web(true)?;
    bindgen.generate(out_dir).with_context(|| format!("wasm-bindgen on {}", input.display()))
}
