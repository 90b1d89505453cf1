//! Asks containerd, which speaks gRPC: for its namespaces, then for the container in each of them.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

use super::engines::Failure;
use super::http::{LARGEST, OF_KUBERNETES};
use super::protobuf::{self, Malformed};

/// Namespaces that are looked in.
const NAMESPACES: usize = 64;
/// How one is named in a call.
const NAMESPACE: &str = "containerd-namespace";
/// Labels that have a name: of nerdctl, and of Kubernetes.
const LABELS: [&str; 2] = ["nerdctl/name", OF_KUBERNETES];

/// Codes of gRPC.
const OK: &str = "0";
const NOT_FOUND: &str = "5";

type Client = SendRequest<Full<Bytes>>;

/// The name of container `id`, if there is one that has a name.
pub(super) async fn name(stream: UnixStream, id: &str) -> Result<Option<String>, Failure> {
    let mut client = client(stream).await?;
    let list = "/containerd.services.namespaces.v1.Namespaces/List";
    let known = call(&mut client, list, None, Vec::new()).await?.unwrap_or_default();
    for namespace in namespaces(&known).map_err(not_understood)? {
        let get = "/containerd.services.containers.v1.Containers/Get";
        let question = protobuf::text(1, id);
        if let Some(answer) = call(&mut client, get, Some(&namespace), question).await?
            && let Some(name) = container_name(&answer, id).map_err(not_understood)?
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

async fn client(stream: UnixStream) -> Result<Client, Failure> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.max_header_list_size(16 << 10).initial_stream_window_size(64 << 10);
    let (client, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| Failure::of("HTTP/2")(&error))?;
    tokio::spawn(connection);
    Ok(client)
}

/// The names in a `ListNamespacesResponse` that can be in a header.
pub(super) fn namespaces(answer: &[u8]) -> Result<Vec<HeaderValue>, Malformed> {
    let mut names = Vec::new();
    for namespace in protobuf::all(answer, 1).take(NAMESPACES) {
        let name = protobuf::first(namespace?, 1)?.unwrap_or_default();
        names.extend(HeaderValue::from_bytes(name).ok().filter(|name| !name.is_empty()));
    }
    Ok(names)
}

/// The name in a `GetContainerResponse`.
pub(super) fn container_name(answer: &[u8], id: &str) -> Result<Option<String>, Malformed> {
    let container = protobuf::first(answer, 1)?.unwrap_or_default();
    if protobuf::first(container, 1)? != Some(id.as_bytes()) {
        return Ok(None);
    }
    let mut names = LABELS.map(|_| None);
    for entry in protobuf::all(container, 2) {
        let entry = entry?;
        let key = protobuf::first(entry, 1)?.unwrap_or_default();
        if let Some(place) = LABELS.iter().position(|label| label.as_bytes() == key) {
            let value = protobuf::first(entry, 2)?.unwrap_or_default();
            names[place] = Some(std::str::from_utf8(value).map_err(|_| Malformed)?.to_owned());
        }
    }
    Ok(names.into_iter().flatten().next())
}

fn not_understood(_: Malformed) -> Failure {
    Failure::Engine("its answer is not understood".into())
}

/// Calls `method` with one message and gives the one that is answered; none if what was asked for is not there.
async fn call(
    client: &mut Client,
    method: &str,
    namespace: Option<&HeaderValue>,
    message: Vec<u8>,
) -> Result<Option<Bytes>, Failure> {
    let failed = Failure::of("gRPC");
    let request = Request::post(format!("http://engine{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(framed(&message)));
    let mut request = request.map_err(|error| failed(&error))?;
    if let Some(namespace) = namespace {
        request.headers_mut().insert(NAMESPACE, namespace.clone());
    }
    client.ready().await.map_err(|error| failed(&error))?;
    let response = client.send_request(request).await.map_err(|error| failed(&error))?;
    read(response).await
}

async fn read(response: Response<Incoming>) -> Result<Option<Bytes>, Failure> {
    if response.status() != StatusCode::OK {
        return Err(Failure::Engine(format!("it answered {}", response.status())));
    }
    // A call that fails at once has its status in the head.
    let (head, body) = response.into_parts();
    let early = head.headers.contains_key("grpc-status") && body.is_end_stream();
    let failed = Failure::of("gRPC");
    let body = Limited::new(body, LARGEST).collect().await.map_err(|error| failed(&error))?;
    let trailers = if early { Some(head.headers) } else { body.trailers().cloned() };
    match status(trailers.as_ref()) {
        Some(OK) => unframed(body.to_bytes()).map(Some).map_err(not_understood),
        Some(NOT_FOUND) => Ok(None),
        other => Err(Failure::Engine(format!("gRPC status {}", other.unwrap_or("none")))),
    }
}

fn status(trailers: Option<&HeaderMap>) -> Option<&str> {
    trailers?.get("grpc-status")?.to_str().ok()
}

/// A message as gRPC sends it: whether it is compressed, its length, itself.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// The only message of `frame`, which was not asked for compressed.
pub(super) fn unframed(frame: Bytes) -> Result<Bytes, Malformed> {
    let (head, message) = frame.split_at_checked(5).ok_or(Malformed)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    match head[0] == 0 && usize::try_from(length) == Ok(message.len()) {
        true => Ok(frame.slice(5..)),
        false => Err(Malformed),
    }
}
