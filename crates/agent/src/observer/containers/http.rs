//! Engines that speak HTTP and JSON: Docker, Podman, which speaks like Docker, and CRI-O.

use std::collections::HashMap;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::engines::Failure;

/// Largest answer that is read; a container with hundreds of mounts and variables has a tenth of it.
pub(super) const LARGEST: usize = 1 << 20;

/// What Kubernetes has called the container.
pub(super) const OF_KUBERNETES: &str = "io.kubernetes.container.name";

/// The part of the answer that is read. All else is skipped and takes no memory.
#[derive(Deserialize)]
struct Docker {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
}

/// The name of container `id`, if there is one.
pub(super) async fn docker(stream: UnixStream, id: &str) -> Result<Option<String>, Failure> {
    let answer = get(stream, &format!("/containers/{id}/json")).await?;
    answer.map_or(Ok(None), |answer| docker_name(&answer, id))
}

pub(super) fn docker_name(answer: &[u8], id: &str) -> Result<Option<String>, Failure> {
    let container: Docker = serde_json::from_slice(answer).map_err(|error| not_understood(&error))?;
    // Containers are found by name as well, and one may be called like the id of another.
    let name = (container.id == id).then_some(container.name);
    Ok(name.map(|name| name.trim_start_matches('/').to_owned()))
}

#[derive(Deserialize)]
struct CriO {
    name: String,
    labels: Option<HashMap<String, String>>,
}

/// The same of CRI-O, which has HTTP beside gRPC on its socket.
pub(super) async fn cri_o(stream: UnixStream, id: &str) -> Result<Option<String>, Failure> {
    let answer = get(stream, &format!("/containers/{id}")).await?;
    answer.map_or(Ok(None), |answer| cri_o_name(&answer).map(Some))
}

/// As Kubernetes calls it, or else with pod, namespace and number as CRI-O does.
pub(super) fn cri_o_name(answer: &[u8]) -> Result<String, Failure> {
    let container: CriO = serde_json::from_slice(answer).map_err(|error| not_understood(&error))?;
    let label = container.labels.and_then(|mut labels| labels.remove(OF_KUBERNETES));
    Ok(label.unwrap_or(container.name))
}

fn not_understood(error: &serde_json::Error) -> Failure {
    Failure::of("its answer is not understood")(error)
}

/// The body of the answer; none for 404.
async fn get(stream: UnixStream, path: &str) -> Result<Option<Bytes>, Failure> {
    let failed = Failure::of("HTTP");
    let request = Request::get(path).header(HOST, "engine").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    match response.status() {
        StatusCode::OK => {
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            Ok(Some(body.map_err(|error| failed(&error))?.to_bytes()))
        }
        StatusCode::NOT_FOUND => Ok(None),
        other => Err(Failure::Engine(format!("it answered {other}"))),
    }
}
