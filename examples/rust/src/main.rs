pub mod shoal { tonic::include_proto!("shoal.v1"); }
fn main() {}
