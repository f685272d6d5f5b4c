//! A server that takes every request and drops it: it measures the generator alone. Not a gateway: its OK means
//! nothing.

use std::net::SocketAddr;

use bytes::Bytes;
use infertrace_proto::v1;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

/// Drops spans and says OK; for measuring the load generator alone.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:4317")]
    pub listen: SocketAddr,
    /// Spans to acknowledge for each request
    #[arg(long, default_value_t = 1_000)]
    pub spans_per_request: u64,
    /// Partitions of the map to hand out
    #[arg(long, default_value_t = 8)]
    pub partitions: u32,
}

const FRAME_BYTES: u32 = (1 << 24) - 1;
const WINDOW_BYTES: u32 = 64 << 20;

/// Serves `listener` until the task is dropped.
pub async fn serve(listener: TcpListener, args: Args) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, args.clone()));
    }
}

async fn connection(stream: TcpStream, args: Args) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, args.clone()));
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    args: Args,
) {
    let (head, mut body) = request.into_parts();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
    }
    let message = match head.uri.path() {
        "/infertrace.v1.IngestService/GetPartitionMap" => {
            v1::PartitionMap { version: 1, topic: "none".into(), partitions: args.partitions }.encode_to_vec()
        }
        "/infertrace.v1.IngestService/Export" => {
            v1::ExportResponse { accepted_spans: args.spans_per_request, ..Default::default() }
                .encode_to_vec()
        }
        _ => Vec::new(),
    };
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    let response = http::Response::builder().header("content-type", "application/grpc").body(());
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    // A client that hung up needs no answer.
    if let Ok(response) = response
        && let Ok(mut stream) = respond.send_response(response, false)
        && stream.send_data(Bytes::from(framed), false).is_ok()
    {
        let _ = stream.send_trailers(trailers);
    }
}
