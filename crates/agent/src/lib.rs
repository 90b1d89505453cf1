//! The agent: everything between the file and the data path.
//!
//! It reads desired state, keeps the kernel equal to it, asks endpoints whether they are well, hears of connects that
//! failed, and answers questions over a unix socket and over `/metrics`. It can be killed at any time: the data path
//! is pinned and goes on without it.
//!
//! One task, [`run`], owns the data path. All other tasks send it work ([`owner::Handle`]) and never wait for each
//! other.
#![forbid(unsafe_code)]

mod api;
mod difference;
mod ejection;
mod error;
mod events;
mod flood;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod kept;
mod listen;
mod mesh;
mod metrics;
mod modes;
mod notify;
mod observer;
mod otlp;
mod owner;
mod probe;
mod process;
mod proxy;
mod routes;
mod scrape;
mod serve;
mod source;
mod status;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use alize_datapath::Opened;
use alize_datapath::bundle::{Store, Trust};
use alize_model::Diagnostic;

pub use alize_datapath::observe::{PathTemplate, TemplateError};
pub use error::Error;
pub use observer::Observe;
pub use otlp::{Collector, CollectorError};
pub use owner::run;
pub use proxy::ProxyOptions;
pub use source::{LARGEST, host_facts, refusal, text_of};

/// Which kernel programs are loaded, and where others are kept.
#[derive(Clone, Debug, Default)]
pub struct Bundles {
    /// A file in place of what was chosen by hand, or is in this binary.
    pub file: Option<PathBuf>,
    /// Where bundles that were in force are kept; none are without.
    pub folder: Option<PathBuf>,
    /// How many.
    pub keep: usize,
    /// Whose bundles are taken.
    pub trust: Trust,
}

impl Bundles {
    fn store(&self) -> Result<Store, alize_datapath::Error> {
        match &self.folder {
            Some(folder) => Ok(Store::new(folder, self.keep)),
            None => Err(alize_datapath::Error::NoEarlierBundle {
                wanted: "any".into(),
                folder: PathBuf::new(),
                kept: Vec::new(),
            }),
        }
    }
}

/// Where the agent reads, writes and listens.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that is watched; without it only `POST /v1/apply` changes anything.
    pub config: Option<PathBuf>,
    /// The data path: instance, cgroups, budgets, folders.
    pub datapath: alize_datapath::Options,
    /// Unix socket of the API, usually `/run/alize/<instance>.sock`.
    pub socket: PathBuf,
    /// Permissions of that socket, which are its access control.
    pub socket_mode: u32,
    /// TCP address of `/metrics` and `/healthz`; nothing listens when absent.
    pub metrics: Option<SocketAddr>,
    /// When HTTP is observed.
    pub observe: Observe,
    /// How the proxy is started when a service needs it; never when absent.
    pub proxy: Option<ProxyOptions>,
    /// Where what was counted of HTTP is pushed; only with [`Observe::Always`].
    pub otlp: Option<Collector>,
    /// Of one request in so many spans are pushed, too.
    pub otlp_spans: Option<u32>,
    /// Paths that are counted as one, and are the `route` in the metrics.
    pub path_templates: Vec<PathTemplate>,
    /// Which kernel programs are loaded.
    pub bundles: Bundles,
}

impl Options {
    /// Permissions of the API's socket unless told otherwise: owner and group.
    pub const SOCKET_MODE: u32 = 0o660;
    /// Where metrics are served unless told otherwise.
    pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9478);

    /// The usual places for `datapath`, and no file.
    pub fn new(datapath: alize_datapath::Options) -> Self {
        let socket = datapath.run_dir.join(format!("{}.sock", datapath.instance));
        Self {
            config: None,
            datapath,
            socket,
            socket_mode: Self::SOCKET_MODE,
            metrics: Some(Self::METRICS),
            observe: Observe::default(),
            proxy: None,
            otlp: None,
            otlp_spans: None,
            path_templates: Vec::new(),
            bundles: Bundles::default(),
        }
    }
}

/// What is true when the agent is ready: the state is in force, API and metrics listen.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Whether a data path was there already.
    pub opened: Opened,
    /// Folder of the pins.
    pub pins: PathBuf,
    /// Unix socket of the API.
    pub socket: PathBuf,
    /// Where metrics are served, with the port that was given.
    pub metrics: Option<SocketAddr>,
    /// Services in force.
    pub services: u32,
    /// Endpoints in force.
    pub endpoints: u32,
    /// What is in force, as in [`alize_model::api::ConfigStatus::source`].
    pub source: String,
    /// Remarks about it.
    pub warnings: Vec<Diagnostic>,
    /// Why the watched file was refused, when an adopted state is served in its place.
    pub refused: Vec<Diagnostic>,
}
