//! Generates the stubs from the protos, with nothing but crates.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protos");
    println!("cargo:rerun-if-changed={}", protos.display());

    let services = [
        "shoal/v1/admin_service.proto",
        "shoal/v1/collection_service.proto",
        "shoal/v1/record_service.proto",
        "shoal/v1/snapshot_service.proto",
    ];
    let descriptors = protox::compile(services, [&protos])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}
