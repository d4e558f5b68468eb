//! The channel: where to, how safely, and what is tried again.
//!
//! `SHOAL_ADDRESS`   host:port (default localhost:7700)
//! `SHOAL_TLS_CA`    a PEM file of certificates to trust, or `system`; without it there is no TLS
//! `SHOAL_API_KEY`   sent with every call, if given

use std::env;
use std::future::Future;
use std::time::{Duration, Instant};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::{InterceptedService, Interceptor};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::shoal::admin_service_client::AdminServiceClient;
use crate::shoal::collection_service_client::CollectionServiceClient;
use crate::shoal::record_service_client::RecordServiceClient;
use crate::shoal::snapshot_service_client::SnapshotServiceClient;

/// Answers may be so large; tonic by itself takes 4 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The deadline of a call. It is sent along, and the server gives up when it is over.
const TIMEOUT: Duration = Duration::from_secs(60);

const ATTEMPTS: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

pub type Transport = InterceptedService<Channel, PrepareCall>;

#[derive(Clone)]
pub struct Clients {
    pub admin: AdminServiceClient<Transport>,
    pub collections: CollectionServiceClient<Transport>,
    pub records: RecordServiceClient<Transport>,
    pub snapshots: SnapshotServiceClient<Transport>,
}

/// Opens one channel for all services. It connects at the first call.
///
/// For several gateways, `Channel::balance_list` takes an endpoint for each.
pub fn connect() -> Result<Clients, Box<dyn std::error::Error>> {
    let address = env::var("SHOAL_ADDRESS").unwrap_or_else(|_| "localhost:7700".into());
    let endpoint = match env::var("SHOAL_TLS_CA") {
        Err(_) => Endpoint::from_shared(format!("http://{address}"))?,
        Ok(trusted) => {
            let tls = if trusted == "system" {
                ClientTlsConfig::new().with_native_roots()
            } else {
                ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(std::fs::read(trusted)?))
            };
            Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?
        }
    };
    let channel = endpoint.connect_lazy();
    let prepare = PrepareCall {
        authorization: match env::var("SHOAL_API_KEY") {
            Ok(key) => Some(format!("Bearer {key}").parse()?),
            Err(_) => None,
        },
    };
    Ok(Clients {
        admin: AdminServiceClient::with_interceptor(channel.clone(), prepare.clone()),
        collections: CollectionServiceClient::with_interceptor(channel.clone(), prepare.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES),
        records: RecordServiceClient::with_interceptor(channel.clone(), prepare.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES),
        snapshots: SnapshotServiceClient::with_interceptor(channel, prepare)
            .max_decoding_message_size(MAX_ANSWER_BYTES),
    })
}

/// Gives every call the API key, and a deadline unless it has one.
#[derive(Clone)]
pub struct PrepareCall {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Interceptor for PrepareCall {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", authorization.clone());
        }
        if !request.metadata().contains_key("grpc-timeout") {
            request.set_timeout(TIMEOUT);
        }
        Ok(request)
    }
}

/// Makes a call again by the codes of `protos/service_config.json`, which tonic does not read.
///
/// Only for what can be repeated: reads, and writes with a write ID. tonic gives CANCELLED, too, to
/// a call that is past its deadline: that one is not repeated.
pub async fn retry<Response, Call>(mut call: impl FnMut() -> Call) -> Result<Response, Status>
where
    Call: Future<Output = Result<tonic::Response<Response>, Status>>,
{
    let deadline = Instant::now() + TIMEOUT;
    let mut backoff = FIRST_BACKOFF;
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(status) if may_succeed_later(&status) && Instant::now() + backoff < deadline => {
                // With jitter, so that clients that failed together do not come back together.
                tokio::time::sleep(backoff.mul_f64(rand::random_range(0.8..1.2))).await;
                backoff = MAX_BACKOFF.min(backoff * 2);
            }
            done => return done.map(tonic::Response::into_inner),
        }
    }
    call().await.map(tonic::Response::into_inner)
}

fn may_succeed_later(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Aborted | Code::Cancelled
    )
}
