//! The API's client: HTTP over the agent's unix socket, each step bounded in time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use std::marker::PhantomData;

use alize_model::Mode;
use alize_model::api::{
    Applied, Event, ModeChange, ObservedRequest, Refusal, ServiceStatus, Status, TraceLine, TrafficReport,
    Trial, Upgraded,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::failure::Exit;

/// How long the agent may be silent within one answer. It writes 10,000 services in under a second.
const SILENCE: Duration = Duration::from_secs(5);
/// How long it may take to put a file in force.
const APPLYING: Duration = Duration::from_secs(60);
/// How long attaching the observing programs may take: the verifier reads them first.
const ATTACHING: Duration = Duration::from_secs(30);
/// No answer is longer: 1,048,576 endpoints of about 500 bytes.
const LONGEST_ANSWER: usize = 512 << 20;
/// No line is longer.
const LONGEST_EVENT: usize = 1 << 20;

/// Why there is no answer, or which.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the agent of instance {instance:?} does not run: {path} {why}", path = socket.display())]
    Absent { instance: String, socket: PathBuf, why: &'static str },
    #[error("not permitted to open {path}", path = socket.display())]
    Denied { socket: PathBuf },
    #[error("cannot connect to {path}: {source}", path = socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the agent at {path} has not answered for {} s", waited.as_secs(), path = socket.display())]
    Silent { socket: PathBuf, waited: Duration },
    #[error("{path} does not answer as an agent does: {what}", path = socket.display())]
    Garbled { socket: PathBuf, what: String },
    #[error("the agent at {path} has gone", path = socket.display())]
    Gone { socket: PathBuf },
    #[error("{}", .0.error)]
    Refused(Refusal, StatusCode),
}

impl Error {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Error::Denied { .. } => Exit::Environment,
            Error::Refused(refusal, _) if !refusal.diagnostics.is_empty() => Exit::BadFile,
            Error::Refused(_, StatusCode::BAD_REQUEST) => Exit::Usage,
            Error::Refused(..) => Exit::Failed,
            _ => Exit::NoAgent,
        }
    }

    /// What the user can do.
    pub(crate) fn mend(&self) -> Option<String> {
        match self {
            Error::Absent { .. } => Some(
                "start it with `sudo alize run FILE` or `systemctl start alize`; \
                 for another instance use --instance NAME, for another place --socket PATH"
                    .into(),
            ),
            Error::Denied { socket } => Some(format!("use sudo, or {}", admission(socket))),
            Error::Connect { .. } => Some("check --socket".into()),
            Error::Silent { .. } => Some("it may be stopped or very busy: see its log".into()),
            Error::Gone { .. } => Some("it was stopped or has died: see its log".into()),
            Error::Garbled { .. } => {
                Some("check that --socket is Alizé's and that `alize version` is that of the agent".into())
            }
            // Units, requests and trials can be missing too; their refusals say themselves what to look at.
            Error::Refused(refusal, StatusCode::NOT_FOUND)
                if refusal.error.starts_with("there is no service") =>
            {
                Some("`alize services` lists all".into())
            }
            Error::Refused(..) => None,
        }
    }
}

/// How to be let in: by the socket's group, or by whoever guards the folder above it.
fn admission(socket: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = std::fs::metadata(socket) else {
        let folder = socket.parent().unwrap_or(Path::new("/"));
        return format!("let this user enter the folder {}", folder.display());
    };
    match found.gid() {
        0 => "make a group for it: `groupadd --system alize`, add users to it, start the agent anew".into(),
        gid => format!("join the group of the socket: `usermod --append --groups {} USER`", group_name(gid)),
    }
}

fn group_name(gid: u32) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let mut fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2).is_some_and(|number| *number == gid.to_string()));
    found.map_or_else(|| gid.to_string(), |fields| fields[0].to_owned())
}

/// Where an agent listens.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    instance: String,
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(instance: String, socket: PathBuf) -> Self {
        Self { instance, socket }
    }

    pub(crate) async fn status(&self) -> Result<Status, Error> {
        self.get("/v1/status").await
    }

    pub(crate) async fn services(&self) -> Result<Vec<ServiceStatus>, Error> {
        self.get("/v1/services").await
    }

    pub(crate) async fn service(&self, name: &str) -> Result<ServiceStatus, Error> {
        self.get(&format!("/v1/services/{}", percent_encoded(name))).await
    }

    /// Puts `text` in force; `name` is how remarks about it call it.
    pub(crate) async fn apply(&self, name: &str, text: String) -> Result<Applied, Error> {
        self.post(&format!("/v1/apply?name={}", percent_encoded(name)), text).await
    }

    /// Puts the file in force that the agent watches.
    pub(crate) async fn reload(&self) -> Result<Applied, Error> {
        self.post("/v1/apply", String::new()).await
    }

    /// Lets `mode` hold for a service in place of the file's, for `time` or for ever; without, the file's holds again.
    pub(crate) async fn set_mode(
        &self,
        service: &str,
        mode: Option<Mode>,
        time: Option<Duration>,
    ) -> Result<ModeChange, Error> {
        let mut query = format!("/v1/mode?service={}", percent_encoded(service));
        if let Some(mode) = mode {
            let word = match mode {
                Mode::Observe => "observe",
                Mode::Shadow => "shadow",
                Mode::Enforce => "enforce",
            };
            query += &format!("&mode={word}");
        }
        if let Some(time) = time {
            query += &format!("&seconds={}", time.as_secs_f64());
        }
        self.post(&query, String::new()).await
    }

    /// Puts the kernel programs of a bundle in force; of an empty one those of the agent's own binary.
    pub(crate) async fn upgrade(&self, bundle: Vec<u8>) -> Result<Upgraded, Error> {
        let response = self.ask(Method::POST, "/v1/upgrade", bundle.into(), APPLYING).await?;
        self.answer(response).await
    }

    /// Puts the kernel programs of a bundle to work for some.
    pub(crate) async fn try_out(&self, bundle: Vec<u8>, query: &[(&str, String)]) -> Result<Trial, Error> {
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
        let path = format!("/v1/trial?{}", query.join("&"));
        let response = self.ask(Method::POST, &path, bundle.into(), APPLYING).await?;
        self.answer(response).await
    }

    /// The version on trial.
    pub(crate) async fn trial(&self) -> Result<Trial, Error> {
        self.get("/v1/trial").await
    }

    /// All get the version on trial.
    pub(crate) async fn promote(&self) -> Result<Upgraded, Error> {
        self.post("/v1/trial/promote", String::new()).await
    }

    /// None gets the version on trial.
    pub(crate) async fn abort_trial(&self) -> Result<serde_json::Value, Error> {
        self.post("/v1/trial/abort", String::new()).await
    }

    /// Puts kernel programs in force that were so before.
    pub(crate) async fn roll_back(&self, version: Option<&str>) -> Result<Upgraded, Error> {
        let version =
            version.map_or(String::new(), |version| format!("?version={}", percent_encoded(version)));
        self.post(&format!("/v1/rollback{version}"), String::new()).await
    }

    /// The last `recent` events, then all that come.
    pub(crate) async fn events(&self, recent: u32) -> Result<Lines<Event>, Error> {
        self.lines(&format!("/v1/events?recent={recent}"), SILENCE).await
    }

    /// Requests that all of `conditions` hold for, as they end.
    pub(crate) async fn trace(&self, conditions: &[(&str, String)]) -> Result<Lines<TraceLine>, Error> {
        let conditions: Vec<String> =
            conditions.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
        self.lines(&format!("/v1/trace?{}", conditions.join("&")), ATTACHING).await
    }

    /// Requests that the kernel kept: those that failed, or the slowest.
    pub(crate) async fn recorded(&self, failed: bool) -> Result<Vec<ObservedRequest>, Error> {
        let which = if failed { "failed" } else { "slowest" };
        let response =
            self.ask(Method::GET, &format!("/v1/requests?{which}"), Bytes::new(), ATTACHING).await?;
        self.answer(response).await
    }

    /// The request with this id, as a trace has shown it.
    pub(crate) async fn request(&self, id: &str) -> Result<ObservedRequest, Error> {
        let path = format!("/v1/requests?id={}", percent_encoded(id));
        let response = self.ask(Method::GET, &path, Bytes::new(), ATTACHING).await?;
        self.answer(response).await
    }

    /// What was counted of HTTP.
    pub(crate) async fn traffic(&self) -> Result<TrafficReport, Error> {
        let response = self.ask(Method::GET, "/v1/traffic", Bytes::new(), ATTACHING).await?;
        self.answer(response).await
    }

    async fn lines<T>(&self, path: &str, patience: Duration) -> Result<Lines<T>, Error> {
        let response = self.ask(Method::GET, path, Bytes::new(), patience).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        Ok(Lines {
            socket: self.socket.clone(),
            body: response.into_body(),
            pending: Vec::new(),
            read: 0,
            what: PhantomData,
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let response = self.ask(Method::GET, path, Bytes::new(), SILENCE).await?;
        self.answer(response).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, text: String) -> Result<T, Error> {
        let response = self.ask(Method::POST, path, text.into(), APPLYING).await?;
        self.answer(response).await
    }

    /// Sends one request over a connection of its own and waits for the head of the answer.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "alize")
            .header("content-type", "application/yaml")
            .body(Full::new(body))
            .map_err(|error| self.garbled(error))?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends when the answer has been read or dropped; its errors reach us through the body.
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        match timeout(patience, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.garbled(error)),
            Err(_) => Err(self.silent(patience)),
        }
    }

    async fn answer<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, Error> {
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let body = self.read(response.into_body()).await?;
        serde_json::from_slice(&body).map_err(|error| self.garbled(error))
    }

    async fn refusal(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = match self.read(response.into_body()).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice(&body) {
            Ok(refusal) => Error::Refused(refusal, status),
            Err(_) => self.garbled(format!("HTTP status {status}")),
        }
    }

    async fn read(&self, body: Incoming) -> Result<Vec<u8>, Error> {
        let mut body = Limited::new(body, LONGEST_ANSWER);
        let mut all = Vec::new();
        loop {
            match timeout(SILENCE, body.frame()).await {
                Err(_) => return Err(self.silent(SILENCE)),
                Ok(None) => return Ok(all),
                Ok(Some(Err(error))) => return Err(self.garbled(error)),
                Ok(Some(Ok(frame))) => all.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> Error {
        let socket = self.socket.clone();
        let absent =
            |why| Error::Absent { instance: self.instance.clone(), socket: self.socket.clone(), why };
        match error.kind() {
            io::ErrorKind::NotFound => absent("does not exist"),
            io::ErrorKind::ConnectionRefused => absent("is there, but nobody listens on it"),
            io::ErrorKind::PermissionDenied => Error::Denied { socket },
            _ => Error::Connect { socket, source: error },
        }
    }

    fn silent(&self, waited: Duration) -> Error {
        Error::Silent { socket: self.socket.clone(), waited }
    }

    fn garbled(&self, what: impl ToString) -> Error {
        Error::Garbled { socket: self.socket.clone(), what: what.to_string() }
    }
}

/// A running stream of objects, one a line.
pub(crate) struct Lines<T> {
    socket: PathBuf,
    body: Incoming,
    /// What came and was not handed on.
    pending: Vec<u8>,
    /// How much of it was handed on after all.
    read: usize,
    what: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next object; `None` when the agent has closed the stream or is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            let unread = &self.pending[self.read..];
            if let Some(end) = unread.iter().position(|&b| b == b'\n') {
                let line = &unread[..end];
                self.read += end + 1;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(line).map(Some).map_err(|error| self.garbled(error));
            }
            self.pending.drain(..self.read);
            self.read = 0;
            if self.pending.len() > LONGEST_EVENT {
                return Err(self.garbled("a line without end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data))
                }
                // A killed agent breaks the stream off; a stopped one ends it. Both mean: connect again.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }

    /// What the end of a stream means to whoever had not seen enough.
    pub(crate) fn gone(&self) -> Error {
        Error::Gone { socket: self.socket.clone() }
    }

    fn garbled(&self, what: impl ToString) -> Error {
        Error::Garbled { socket: self.socket.clone(), what: what.to_string() }
    }
}

/// `text` as one path segment or query value (RFC 3986, 2.1 and 2.3).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_their_segment() {
        assert_eq!(percent_encoded("web.v2_x-1~"), "web.v2_x-1~");
        assert_eq!(percent_encoded("team/web?x=1 ä"), "team%2Fweb%3Fx%3D1%20%C3%A4");
        assert_eq!(percent_encoded("a\r\nb"), "a%0D%0Ab");
    }
}
