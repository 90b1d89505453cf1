//! Bounds that both executions keep together: buckets of rate limits, requests outstanding at endpoints.

use std::sync::Mutex;

use alize_datapath::http::{Draw, Limits, Load, Loads, Rate, RouterOptions};
use alize_model::http::Caller;

use crate::back::lock;

/// What the kernel and the proxy share of them. Where the kernel's part is missing, because programs of an earlier version
/// run, those leave every service with bounds to the proxy, which keeps them alone.
pub(super) struct Bounds {
    options: RouterOptions,
    limits: Mutex<Option<Limits>>,
    loads: Option<Loads>,
}

impl Bounds {
    pub(super) fn open(options: &RouterOptions) -> Self {
        let loads = Loads::open(options)
            .inspect_err(|error| tracing::warn!("bounds on requests are kept by the proxy alone: {error}"));
        let bounds = Self { options: options.clone(), limits: Mutex::default(), loads: loads.ok() };
        bounds.look_after();
        bounds
    }

    /// Forgets buckets that nobody needs; to be called now and then.
    pub(super) fn look_after(&self) {
        let mut limits = lock(&self.limits);
        let swept = match &*limits {
            Some(limits) => limits.sweep().map(drop),
            None => Limits::open(&self.options).map(|opened| *limits = Some(opened)),
        };
        if let Err(error) = swept {
            tracing::debug!(%error, "buckets of rate limits are not looked after");
        }
    }

    pub(super) fn draw(&self, rates: [Option<Rate>; 2], caller: &Caller) -> Option<Draw> {
        let limits = lock(&self.limits);
        let drawn = limits.as_ref()?.draw(rates, caller);
        drawn.inspect_err(|error| tracing::warn!("a rate limit is kept by the proxy alone: {error}")).ok()
    }

    pub(super) fn load(&self, endpoint: u32) -> Option<Load> {
        let load = self.loads.as_ref()?.of(endpoint);
        load.inspect_err(|error| tracing::warn!("endpoint {endpoint} is counted by the proxy alone: {error}"))
            .ok()
    }
}
