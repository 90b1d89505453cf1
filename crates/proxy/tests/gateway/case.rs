//! The table of cases that the proxy alone and the whole product (tests/tests/gateway.rs) are asked.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One line of the table.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) service: String,
    /// Who routes it where there is a kernel beside the proxy.
    #[allow(dead_code, reason = "the proxy alone routes everything")]
    pub(crate) path: String,
    /// Method and target.
    pub(crate) request: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body.
    #[serde(default)]
    pub(crate) send: String,
    /// How often it is sent.
    #[serde(default = "once")]
    pub(crate) times: u32,
    #[serde(default = "ok")]
    pub(crate) status: u16,
    /// Who answers.
    pub(crate) from: Option<String>,
    /// The target that the endpoint sees.
    pub(crate) url: Option<String>,
    /// Headers that the endpoint sees, or does not.
    #[serde(default)]
    pub(crate) sees: BTreeMap<String, Option<String>>,
    /// Headers that the client sees, or does not.
    #[serde(default)]
    pub(crate) answers: BTreeMap<String, Option<String>>,
    pub(crate) body: Option<String>,
    /// Who answers how many of many.
    #[serde(default)]
    pub(crate) shares: BTreeMap<String, f64>,
    /// How many requests arrive at other services' endpoints besides.
    #[serde(default)]
    pub(crate) hits: BTreeMap<String, u64>,
    #[serde(default)]
    pub(crate) at_least_ms: u64,
}

fn once() -> u32 {
    1
}

fn ok() -> u16 {
    200
}
