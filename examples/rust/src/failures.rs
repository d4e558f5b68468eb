//! What an error says: switch on the reason, never on the message.

use tonic::Status;
use tonic_types::{ErrorInfo, StatusExt};

/// Gives the google.rpc.ErrorInfo of a failed call, if it comes from Shoal.
pub fn error_info(status: &Status) -> Option<ErrorInfo> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == "shoal")
}

/// Prints the reason for which a call was refused, and some of its facts.
pub fn refused<T>(result: Result<T, Status>, facts: &[&str]) -> Result<(), Status> {
    let Err(status) = result else {
        panic!("the call should have been refused");
    };
    let Some(info) = error_info(&status) else {
        return Err(status);
    };
    print!("refused: {} (code {})", info.reason, status.code() as i32);
    for fact in facts {
        print!(", {fact} {}", info.metadata[*fact]);
    }
    println!();
    Ok(())
}
