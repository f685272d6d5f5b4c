//! Compiles the `.proto` files with `protox`, so that a build needs no `protoc`.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "infertrace/v1/span.proto",
        "infertrace/v1/ingest.proto",
        "infertrace/v1/samples.proto",
        "infertrace/v1/partials.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("infertrace_descriptor.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".infertrace.v1.Frame.body")
        .bytes(".infertrace.v1.PackedSpans.body")
        .compile_fds(descriptors)?;
    Ok(())
}
