//! Why each rule is, or is not, for a request: for people who ask. Finding a route is [`RouteTable::find`]'s.

use std::sync::Arc;

use super::table::{Entry, PathTest};
use super::{Found, Head, Headers, Method, RouteTable, has_prefix};

/// One match of a route, held against a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Which.
    pub found: Found,
    /// The conditions that do not hold; none: the match is for the request.
    pub misses: Vec<Miss>,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The path is another.
    Path,
    /// The method is another.
    Method,
    /// This header is missing or has another value.
    Header(Arc<str>),
    /// This parameter is missing or has another value.
    Query(Arc<str>),
}

impl RouteTable {
    /// Every match of every route in the order of precedence. The first without a miss is what [`RouteTable::find`] finds.
    pub fn consider<H: Headers + ?Sized>(&self, head: &Head<'_, H>) -> Vec<Considered> {
        self.entries
            .iter()
            .map(|entry| Considered { found: entry.found, misses: misses(entry, head) })
            .collect()
    }
}

fn misses<H: Headers + ?Sized>(entry: &Entry, head: &Head<'_, H>) -> Vec<Miss> {
    let path = if head.path.is_empty() { "/" } else { head.path };
    let fits = match &entry.path {
        PathTest::Exact(exact) => **exact == *path,
        PathTest::Prefix(prefix) => has_prefix(path, prefix),
        PathTest::Regex(regex, _) => regex.is_match(path.as_bytes()),
    };
    let mut misses = Vec::new();
    if !fits {
        misses.push(Miss::Path);
    }
    if entry.method.is_some() && entry.method != Method::read(head.method) {
        misses.push(Miss::Method);
    }
    let headers = entry.headers.iter().filter(|test| !test.takes(head.headers));
    misses.extend(headers.map(|test| Miss::Header(Arc::clone(&test.name))));
    let query = entry.query.iter().filter(|test| !test.takes(head.query.unwrap_or_default()));
    misses.extend(query.map(|test| Miss::Query(Arc::clone(&test.name))));
    misses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budgets, HostFacts, Source, parse};

    #[test]
    fn the_first_without_a_miss_is_what_is_found() {
        let text = "services:\n  - name: web\n    address: 10.96.0.1:80\n    protocol: http\n    endpoints: ['192.0.2.1:80']\n    \
                    routes:\n      - name: exact\n        match: {path: {exact: /api/v1}, method: POST}\n        \
                    respond: {status: 204}\n      - name: beta\n        match: {path: {prefix: /api}, headers: {x-beta: '1'}}\n        \
                    respond: {status: 200}\n      - name: query\n        match: {path: {prefix: /api}, query: {v: '2'}}\n        \
                    respond: {status: 201}\n      - name: rest\n        respond: {status: 404}\n";
        let (snapshot, _) = parse(Source { name: "t", text }, &Budgets::default(), &HostFacts::default())
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        let http = snapshot.get("web").unwrap().http.clone().unwrap();
        let table = RouteTable::compile(&http);
        let headers: &[(&str, &str)] = &[("Host", "web"), ("X-Beta", "1")];
        for method in ["GET", "POST"] {
            for path in ["", "/", "/api", "/api/v1", "/api/v1/x", "/apis", "*"] {
                for query in [None, Some("v=2"), Some("v=1")] {
                    for headers in [headers, &headers[..1]] {
                        let head = Head { method, path, query, headers };
                        let considered = table.consider(&head);
                        let first = considered.iter().find(|each| each.misses.is_empty());
                        assert_eq!(first.map(|each| each.found), table.find(&head), "{head:?}");
                        assert_eq!(considered.len(), 4);
                    }
                }
            }
        }
        let head = Head { method: "GET", path: "/api/v1", query: None, headers: &headers[..1] };
        let misses: Vec<_> = table.consider(&head).into_iter().map(|each| each.misses).collect();
        assert_eq!(misses[0], [Miss::Method]);
        assert_eq!(misses[1], [Miss::Header("x-beta".into())]);
        assert_eq!(misses[2], [Miss::Query("v".into())]);
    }
}
