//! What an HTTP service does with a request: its routes, and how it treats its endpoints.
//!
//! The meaning follows the Gateway API's HTTPRoute for services (GAMMA); the words are those of the file. A value of
//! these types has been checked: header names are tokens, patterns compile, backends exist, at least one weight is
//! above 0. [`RouteTable`] is the one compiled form; the proxy executes it, and [`RouteTable::kernel`] lowers it to what
//! the kernel can decide alone.

mod action;
mod field;
mod hash;
mod kernel;
mod limits;
mod matching;
mod pattern;
mod reason;
mod show;
mod table;
mod walk;

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

pub use action::*;
pub use field::{FieldName, FieldValue};
pub use hash::{Caller, PLACES, hash, rendezvous, value_place};
pub use kernel::{
    KernelChoice, KernelClass, KernelCondition, KernelPattern, KernelTable, KernelVerdict, Way,
};
pub use limits::*;
pub use matching::*;
pub use pattern::Pattern;
pub use reason::Reason;
pub use table::{Found, Head, Headers, RouteTable};
pub use walk::{Considered, Miss};

/// The HTTP side of a service with `protocol: http`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Http {
    /// What endpoints are spoken to with.
    pub upstream: Upstream,
    /// How an endpoint is chosen for each request.
    pub balance: HttpBalance,
    /// Connections kept open to each endpoint.
    pub pool: Pool,
    /// Bounds for each endpoint.
    pub circuit: Option<Circuit>,
    /// Ejection of endpoints by their answers.
    pub outlier: Option<Outlier>,
    /// For the whole service.
    pub rate_limit: Option<RateLimit>,
    /// Whether answers that the proxy makes itself carry `server: alize` and `x-alize-reason`.
    pub reason_header: bool,
    /// In the order of the file; never empty, at most [`Http::MOST_ROUTES`]. A rule's number is its place here.
    pub routes: Vec<Route>,
}

impl Http {
    /// So many routes may one service have.
    pub const MOST_ROUTES: usize = 1024;
    /// So many matches may all routes of one service have together.
    pub const MOST_MATCHES: usize = 4096;
    /// So many backends may one route have.
    pub const MOST_BACKENDS: usize = 256;
    /// The name of the route of a service that has none in the file.
    pub const DEFAULT_ROUTE: &'static str = "default";

    /// What a service without `http` and `routes` gets, one for all of them: every request to every endpoint.
    pub fn plain() -> Arc<Self> {
        static PLAIN: LazyLock<Arc<Http>> = LazyLock::new(|| Arc::new(Http::default()));
        Arc::clone(&PLAIN)
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            upstream: Upstream::default(),
            balance: HttpBalance::default(),
            pool: Pool::default(),
            circuit: None,
            outlier: None,
            rate_limit: None,
            reason_header: true,
            routes: vec![Route::to(Self::DEFAULT_ROUTE, vec![Backend::all()])],
        }
    }
}

/// One rule: which requests it is for, and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Unique in the service; on metrics and traces.
    pub name: Arc<str>,
    /// One of them has to fit; never empty.
    pub matches: Vec<Match>,
    /// What becomes of the request.
    pub action: Action,
    /// Edits of the response, whoever made it.
    pub response_headers: HeaderEdit,
    /// Cross-origin requests of browsers.
    pub cors: Option<Cors>,
    /// Faults put in on purpose, before anything else is done.
    pub fault: Option<Fault>,
    /// For this route alone, beside the service's.
    pub rate_limit: Option<RateLimit>,
}

impl Route {
    /// A route that forwards every request, and does nothing else.
    pub fn to(name: &str, backends: Vec<Backend>) -> Self {
        Self {
            name: name.into(),
            matches: vec![Match::default()],
            action: Action::Forward(Forward::to(backends)),
            response_headers: HeaderEdit::default(),
            cors: None,
            fault: None,
            rate_limit: None,
        }
    }
}
