//! Routes in one line, for people.

use std::fmt;

use super::{Action, Match, PathMatch, Redirect, Route, Scheme, Target, TextMatch, ValueMatch};
use crate::parse::scalar::show;

impl fmt::Display for PathMatch {
    /// `/old`, `/api/*`, `~/users/[0-9]+`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{}/*", path.trim_end_matches('/')),
            Self::Regex(pattern) => write!(f, "~{}", pattern.as_str()),
        }
    }
}

impl fmt::Display for Match {
    /// `GET /api/* x-beta=1 ?q~[0-9]+`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = self.method {
            write!(f, "{} ", method.as_str())?;
        }
        write!(f, "{}", self.path)?;
        for header in &self.headers {
            let name = header.name.as_str();
            match &header.value {
                ValueMatch::Exact(value) => write!(f, " {name}={}", value.as_str())?,
                ValueMatch::Regex(pattern) => write!(f, " {name}~{}", pattern.as_str())?,
            }
        }
        for parameter in &self.query {
            let name = &parameter.name;
            match &parameter.value {
                TextMatch::Exact(value) => write!(f, " ?{name}={value}")?,
                TextMatch::Regex(pattern) => write!(f, " ?{name}~{}", pattern.as_str())?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    /// `all`, `version=v2`, `cart`, `cart version=v2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        if let Some(service) = &self.service {
            write!(f, "{service}")?;
            between = " ";
        }
        for (name, value) in &self.labels {
            write!(f, "{between}{name}={value}")?;
            between = " ";
        }
        if between.is_empty() { f.write_str("all") } else { Ok(()) }
    }
}

impl fmt::Display for Redirect {
    /// `301 to https://shop.example/new`, with what stays as it was asked left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to ", self.status)?;
        if let Some(scheme) = self.scheme {
            f.write_str(if scheme == Scheme::Https { "https://" } else { "http://" })?;
        }
        f.write_str(self.host.as_deref().unwrap_or_default())?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.path {
            Some(super::PathChange::Full(path)) => f.write_str(path),
            Some(super::PathChange::Prefix(path)) => write!(f, "{}/*", path.trim_end_matches('/')),
            None => Ok(()),
        }
    }
}

impl Route {
    /// What it does beside forwarding, a few words each: `timeout 2s`, `redirect 301 to /new`.
    pub fn deeds(&self) -> Vec<String> {
        let mut deeds = Vec::new();
        let mut add = |deed: String| deeds.push(deed);
        match &self.action {
            Action::Redirect(redirect) => add(format!("redirect {redirect}")),
            Action::Respond(respond) => add(format!("respond {}", respond.status)),
            Action::Forward(forward) => {
                if let Some(request) = forward.timeouts.request {
                    add(format!("timeout {}", show(request)));
                }
                if let Some(per_try) = forward.timeouts.per_try {
                    add(format!("timeout {} a try", show(per_try)));
                }
                if let Some(retry) = &forward.retry {
                    add(format!("retry {} times", retry.attempts));
                }
                if forward.rewrite != Default::default() {
                    add("rewrite".into());
                }
                forward.mirrors.iter().for_each(|mirror| add(format!("mirror to {}", mirror.target)));
                if !forward.request_headers.is_empty() {
                    add("request headers".into());
                }
            }
        }
        if !self.response_headers.is_empty() {
            add("response headers".into());
        }
        if self.cors.is_some() {
            add("cors".into());
        }
        if self.fault.is_some() {
            add("faults".into());
        }
        if let Some(limit) = &self.rate_limit {
            add(format!("at most {} requests/s", limit.requests));
        }
        deeds
    }
}
