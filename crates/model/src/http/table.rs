//! The compiled route table, and how a request finds its route.
//!
//! Precedence is that of the Gateway API: exact path, then regular expression (which that specification leaves open),
//! then the longest prefix; then a method, more headers, more query parameters, and the order of the file. Finding
//! allocates nothing, except for a header or parameter that a regular expression looks at and that comes several times
//! or percent-encoded.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use regex::bytes::Regex;

use super::{Http, Match, Method, PathMatch, Route, TextMatch, ValueMatch};

/// The head of a request, as far as routes look at it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, H: ?Sized> {
    /// As it was sent.
    pub method: &'a str,
    /// The request target before `?`, as it was sent; empty counts as `/`. What is no path (`*`, an authority) fits
    /// [`PathMatch::everything`] alone.
    pub path: &'a str,
    /// What follows `?`, if there is one.
    pub query: Option<&'a str>,
    /// The fields; `host` has to be among them, also for HTTP/2.
    pub headers: &'a H,
}

/// The fields of a request.
pub trait Headers {
    /// The values of the field with this lower-case name, in order, without surrounding white space.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]>;
}

/// Names in any case, and values.
impl Headers for [(&str, &str)] {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_bytes())
    }
}

/// Which route a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Place of the route in [`Http::routes`].
    pub rule: u16,
    /// Place of the match in [`Route::matches`].
    pub matched: u16,
}

/// The routes of a service, ready to be asked.
#[derive(Debug)]
pub struct RouteTable {
    http: Arc<Http>,
    /// Every match of every route, in the order of precedence.
    pub(super) entries: Vec<Entry>,
    pub(super) exact: HashMap<Arc<str>, Vec<u16>>,
    pub(super) regex: Vec<u16>,
    pub(super) prefix: HashMap<Arc<str>, Vec<u16>>,
    /// The most `/` in a prefix: a path of ten thousand is not cut ten thousand times.
    deepest: usize,
}

/// A match of a route.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) found: Found,
    pub(super) path: PathTest,
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<HeaderTest>,
    pub(super) query: Vec<QueryTest>,
}

#[derive(Debug)]
pub(super) enum PathTest {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    /// With the path of whole segments below which every text lies that it matches.
    Regex(Regex, String),
}

#[derive(Debug)]
pub(super) struct HeaderTest {
    pub(super) name: Arc<str>,
    value: Test,
}

#[derive(Debug)]
pub(super) struct QueryTest {
    pub(super) name: Arc<str>,
    value: Test,
}

#[derive(Debug)]
enum Test {
    Exact(Arc<str>),
    Regex(Regex),
}

impl RouteTable {
    /// Compiles the routes of a service.
    pub fn compile(http: &Arc<Http>) -> Self {
        let mut entries: Vec<Entry> = http.routes.iter().enumerate().flat_map(entries).collect();
        entries.sort_by_cached_key(Entry::precedence);
        let mut table = Self {
            http: Arc::clone(http),
            exact: HashMap::new(),
            regex: Vec::new(),
            prefix: HashMap::new(),
            deepest: 0,
            entries,
        };
        for (index, entry) in (0..).zip(&table.entries) {
            match &entry.path {
                PathTest::Exact(path) => table.exact.entry(Arc::clone(path)).or_default().push(index),
                PathTest::Prefix(path) => {
                    table.prefix.entry(Arc::clone(path)).or_default().push(index);
                    table.deepest = table.deepest.max(slashes(path));
                }
                PathTest::Regex(..) => table.regex.push(index),
            }
        }
        table
    }

    /// What was compiled.
    pub fn http(&self) -> &Arc<Http> {
        &self.http
    }

    /// The route that was found.
    pub fn route(&self, found: Found) -> &Route {
        &self.http.routes[usize::from(found.rule)]
    }

    /// The match that was found.
    pub fn matched(&self, found: Found) -> &Match {
        &self.route(found).matches[usize::from(found.matched)]
    }

    /// The route for a request; `None` is a 404.
    pub fn find<H: Headers + ?Sized>(&self, head: &Head<'_, H>) -> Option<Found> {
        let path = if head.path.is_empty() { "/" } else { head.path };
        let method = Method::read(head.method);
        let first = |indices: &[u16]| {
            let mut entries = indices.iter().filter_map(|index| self.entries.get(usize::from(*index)));
            entries.find(|entry| entry.takes(path, method, head)).map(|entry| entry.found)
        };
        if let Some(found) = self.exact.get(path).and_then(|indices| first(indices)) {
            return Some(found);
        }
        if let Some(found) = first(&self.regex) {
            return Some(found);
        }
        prefixes(path, self.deepest).find_map(|prefix| first(self.prefix.get(prefix)?))
    }
}

fn slashes(path: &str) -> usize {
    path.bytes().filter(|b| *b == b'/').count()
}

/// The prefixes of `path` by whole segments that have at most `deepest` slashes, the longest first; `/` is the last.
pub(super) fn prefixes(path: &str, deepest: usize) -> impl Iterator<Item = &str> {
    let end = path.match_indices('/').nth(deepest).map_or(path.len(), |(end, _)| end);
    let longest = path.get(..end).filter(|path| path.starts_with('/') && path.len() > 1);
    std::iter::successors(longest, parent).chain(std::iter::once("/"))
}

fn parent<'a>(path: &&'a str) -> Option<&'a str> {
    let (parent, _) = path.rsplit_once('/')?;
    (!parent.is_empty()).then_some(parent)
}

fn entries((rule, route): (usize, &Route)) -> impl Iterator<Item = Entry> {
    let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    route.matches.iter().enumerate().filter_map(move |(matched, condition)| {
        let found = Found { rule: number(rule), matched: number(matched) };
        Entry::compile(found, condition)
    })
}

impl Entry {
    /// `None` never happens: patterns have compiled before.
    fn compile(found: Found, condition: &Match) -> Option<Self> {
        let path = match &condition.path {
            PathMatch::Exact(path) => PathTest::Exact(Arc::clone(path)),
            PathMatch::Prefix(path) => PathTest::Prefix(Arc::clone(path)),
            PathMatch::Regex(pattern) => PathTest::Regex(pattern.compile()?, pattern.folder()),
        };
        let headers = condition.headers.iter().map(|header| {
            let value = match &header.value {
                ValueMatch::Exact(value) => Test::Exact(value.as_str().into()),
                ValueMatch::Regex(pattern) => Test::Regex(pattern.compile()?),
            };
            Some(HeaderTest { name: header.name.as_str().into(), value })
        });
        let query = condition.query.iter().map(|parameter| {
            let value = match &parameter.value {
                TextMatch::Exact(value) => Test::Exact(Arc::clone(value)),
                TextMatch::Regex(pattern) => Test::Regex(pattern.compile()?),
            };
            Some(QueryTest { name: Arc::clone(&parameter.name), value })
        });
        Some(Self {
            found,
            path,
            method: condition.method,
            headers: headers.collect::<Option<_>>()?,
            query: query.collect::<Option<_>>()?,
        })
    }

    /// Lower comes first.
    fn precedence(&self) -> impl Ord + use<> {
        let (kind, length) = match &self.path {
            PathTest::Exact(_) => (0, 0),
            PathTest::Regex(..) => (1, 0),
            PathTest::Prefix(path) => (2, path.len()),
        };
        let Found { rule, matched } = self.found;
        let conditions = (Reverse(self.headers.len()), Reverse(self.query.len()));
        (kind, Reverse(length), self.method.is_none(), conditions, rule, matched)
    }

    fn takes<H: Headers + ?Sized>(&self, path: &str, method: Option<Method>, head: &Head<'_, H>) -> bool {
        (self.method.is_none() || self.method == method)
            && match &self.path {
                // Found by their path.
                PathTest::Exact(_) | PathTest::Prefix(_) => true,
                PathTest::Regex(regex, _) => regex.is_match(path.as_bytes()),
            }
            && self.headers.iter().all(|test| test.takes(head.headers))
            && self.query.iter().all(|test| test.takes(head.query.unwrap_or_default()))
    }
}

impl HeaderTest {
    /// The value that it asks for, if it asks for one.
    pub(super) fn exact(&self) -> Option<&Arc<str>> {
        match &self.value {
            Test::Exact(value) => Some(value),
            Test::Regex(_) => None,
        }
    }

    pub(super) fn takes<H: Headers + ?Sized>(&self, headers: &H) -> bool {
        let mut values = headers.values(&self.name);
        let Some(first) = values.next() else { return false };
        match (&self.value, values.next()) {
            (Test::Exact(expected), None) => expected.as_bytes() == first,
            (Test::Regex(regex), None) => regex.is_match(first),
            (Test::Exact(expected), Some(second)) => {
                let rest = std::iter::once(second).chain(values);
                let left = expected.as_bytes().strip_prefix(first);
                let left = rest.fold(left, |left, value| left?.strip_prefix(b", ")?.strip_prefix(value));
                left.is_some_and(<[u8]>::is_empty)
            }
            (Test::Regex(regex), Some(second)) => {
                let mut joined = first.to_vec();
                for value in std::iter::once(second).chain(values) {
                    joined.extend_from_slice(b", ");
                    joined.extend_from_slice(value);
                }
                regex.is_match(&joined)
            }
        }
    }
}

impl QueryTest {
    pub(super) fn takes(&self, query: &str) -> bool {
        let mut parameters = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
        let Some((_, raw)) = parameters.find(|(name, _)| decoded(name).eq(self.name.bytes())) else {
            return false;
        };
        match &self.value {
            Test::Exact(expected) => decoded(raw).eq(expected.bytes()),
            Test::Regex(regex) if !raw.contains(['%', '+']) => regex.is_match(raw.as_bytes()),
            Test::Regex(regex) => regex.is_match(&decoded(raw).collect::<Vec<_>>()),
        }
    }
}

/// The bytes that a part of a query stands for; a `%` that begins no pair of digits stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (&first, behind) = rest.split_first()?;
        rest = behind;
        Some(match (first, behind) {
            (b'+', _) => b' ',
            (b'%', [high, low, behind @ ..]) => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => {
                    rest = behind;
                    high << 4 | low
                }
                _ => b'%',
            },
            (other, _) => other,
        })
    })
}
