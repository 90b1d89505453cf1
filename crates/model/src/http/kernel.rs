//! Which requests the kernel may route alone, lowered from the route table.
//!
//! Paths are divided into classes: "the requests whose most specific pattern is this one". For each class and method
//! there is one verdict, and it names a rule only if [`RouteTable::find`] gives that rule for *every* request of the
//! class with that method, whatever its headers and query.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::ServiceName;

use super::table::{Entry, PathTest};
use super::{Action, Http, HttpBalance, Method, Reason, Route, RouteTable, Upstream, has_prefix};

/// What the kernel may do with the requests of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTable {
    /// Every request that has a method other than CONNECT and TRACE goes by this rule; there are no classes then.
    pub any: Option<u16>,
    /// Sorted by pattern; [`KernelPattern::Prefix`] of `/` is among them. Empty if `any` is given.
    pub classes: Vec<KernelClass>,
}

/// Requests whose most specific pattern is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelClass {
    /// Their pattern.
    pub pattern: KernelPattern,
    /// By method, in the order of [`Method::ALL`].
    pub verdicts: [KernelVerdict; Method::ALL.len()],
}

/// A path or the beginning of one. An exact one is more specific than any prefix, a longer prefix than a shorter one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelPattern {
    /// The whole path; at most [`KernelPattern::MAX`] bytes.
    Exact(Arc<str>),
    /// Whole segments from the beginning, without `/` at the end unless it is `/`, which is every path; at most
    /// [`KernelPattern::MAX`] bytes.
    Prefix(Arc<str>),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelVerdict {
    /// The kernel forwards it by the route with this place in [`Http::routes`]: to one of its backends by weight.
    Rule(u16),
    /// The proxy decides.
    Proxy(Reason),
}

impl KernelPattern {
    /// The longest path, in bytes.
    pub const MAX: usize = 60;

    /// The path in it.
    pub fn path(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }

    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => has_prefix(path, prefix),
        }
    }

    fn specificity(&self) -> (bool, usize) {
        (matches!(self, Self::Exact(_)), self.path().len())
    }
}

impl KernelTable {
    /// The verdict for a request: what the kernel's tables have to give. Of a table that the model made every request
    /// has one.
    pub fn verdict(&self, method: Method, path: &str) -> KernelVerdict {
        if matches!(method, Method::Connect | Method::Trace) {
            return KernelVerdict::Proxy(Reason::Method);
        }
        if let Some(rule) = self.any {
            return KernelVerdict::Rule(rule);
        }
        let holding = self.classes.iter().filter(|class| class.pattern.holds(path));
        let class = holding.max_by_key(|class| class.pattern.specificity());
        class.map_or(KernelVerdict::Proxy(Reason::NoRoute), |class| class.verdicts[method as usize])
    }
}

impl Http {
    /// Why no request of the service can be routed in the kernel, if that is so.
    pub fn proxy_reason(&self) -> Option<Reason> {
        let Self { upstream, balance, pool, circuit, outlier, rate_limit, .. } = self;
        match balance {
            _ if *upstream == Upstream::H2c => Some(Reason::Http2),
            HttpBalance::ConsistentHash(_) => Some(Reason::ConsistentHash),
            _ if circuit.is_some() => Some(Reason::Circuit),
            _ if outlier.is_some() => Some(Reason::Outlier),
            _ if rate_limit.is_some() => Some(Reason::RateLimit),
            _ if pool.response_timeout.is_some() => Some(Reason::ResponseTimeout),
            _ => None,
        }
    }
}

impl Route {
    /// Why the kernel cannot do what the route does, if that is so; what it asks of a request is not looked at.
    pub fn proxy_reason(&self) -> Option<Reason> {
        let forward = match &self.action {
            Action::Redirect(_) => return Some(Reason::Redirect),
            Action::Respond(_) => return Some(Reason::Respond),
            Action::Forward(forward) => forward,
        };
        let reasons = [
            (self.fault.is_some(), Reason::Fault),
            (self.rate_limit.is_some(), Reason::RateLimit),
            (self.cors.is_some(), Reason::Cors),
            (!forward.request_headers.is_empty(), Reason::RequestHeaders),
            (forward.rewrite != Default::default(), Reason::Rewrite),
            (!forward.mirrors.is_empty(), Reason::Mirror),
            (forward.timeouts != Default::default(), Reason::Timeout),
            (forward.retry.is_some(), Reason::Retry),
            (!self.response_headers.is_empty(), Reason::ResponseHeaders),
        ];
        reasons.into_iter().find(|(has, _)| *has).map(|(_, reason)| reason)
    }

    fn others(&self) -> impl Iterator<Item = &ServiceName> {
        let backends = match &self.action {
            Action::Forward(forward) => forward.backends.as_slice(),
            Action::Redirect(_) | Action::Respond(_) => &[],
        };
        backends.iter().filter_map(|backend| backend.target.service.as_ref())
    }
}

/// How a match stands to the requests of a class.
enum Stand {
    /// It takes none of them.
    None,
    /// It takes all of them.
    All,
    /// It may take some.
    Some(Reason),
}

impl RouteTable {
    /// Lowers the table. `elsewhere` tells of another service why the kernel cannot speak to its endpoints, if that is
    /// so: its [`Http::proxy_reason`].
    pub fn kernel(&self, elsewhere: impl Fn(&ServiceName) -> Option<Reason>) -> KernelTable {
        let http = self.http();
        let root = KernelPattern::Prefix("/".into());
        if let Some(reason) = http.proxy_reason() {
            let verdicts = Method::ALL.map(|method| KernelVerdict::Proxy(method_reason(method, reason)));
            return KernelTable { any: None, classes: vec![KernelClass { pattern: root, verdicts }] };
        }
        let reason = |route: &Route| route.proxy_reason().or_else(|| route.others().find_map(&elsewhere));
        let reasons: Vec<Option<Reason>> = http.routes.iter().map(reason).collect();
        let mut patterns: BTreeSet<KernelPattern> = self.entries.iter().filter_map(pattern).collect();
        patterns.insert(root);
        let lower = |pattern: &KernelPattern| KernelClass {
            pattern: pattern.clone(),
            verdicts: Method::ALL.map(|method| self.lower(pattern, method, &patterns, &reasons)),
        };
        let classes: Vec<KernelClass> = patterns.iter().map(lower).collect();
        match sole_rule(&classes) {
            Some(rule) => KernelTable { any: Some(rule), classes: Vec::new() },
            None => KernelTable { any: None, classes: without_repetition(classes) },
        }
    }

    /// The verdict for the requests of a class with one method.
    fn lower(
        &self,
        class: &KernelPattern,
        method: Method,
        classes: &BTreeSet<KernelPattern>,
        reasons: &[Option<Reason>],
    ) -> KernelVerdict {
        if matches!(method, Method::Connect | Method::Trace) {
            return KernelVerdict::Proxy(Reason::Method);
        }
        // The first match that may take some, and what it is about: it does no harm if all of them have the same route.
        let mut unsure: Option<(u16, Reason)> = None;
        for entry in &self.entries {
            let rule = entry.found.rule;
            match stand(entry, class, method, classes) {
                Stand::None => {}
                Stand::Some(reason) => match unsure {
                    Some((earlier, reason)) if earlier != rule => return KernelVerdict::Proxy(reason),
                    Some(_) => {}
                    None => unsure = Some((rule, reason)),
                },
                Stand::All => {
                    if let Some((earlier, reason)) = unsure
                        && earlier != rule
                    {
                        return KernelVerdict::Proxy(reason);
                    }
                    return match reasons.get(usize::from(rule)).copied().flatten() {
                        Some(reason) => KernelVerdict::Proxy(reason),
                        None => KernelVerdict::Rule(rule),
                    };
                }
            }
        }
        KernelVerdict::Proxy(unsure.map_or(Reason::NoRoute, |(_, reason)| reason))
    }
}

fn method_reason(method: Method, reason: Reason) -> Reason {
    if matches!(method, Method::Connect | Method::Trace) { Reason::Method } else { reason }
}

/// The pattern that an entry is told apart by, if the kernel can tell it apart.
fn pattern(entry: &Entry) -> Option<KernelPattern> {
    match &entry.path {
        PathTest::Exact(path) => told_apart(path).is_ok().then(|| KernelPattern::Exact(Arc::clone(path))),
        PathTest::Prefix(path) => told_apart(path).is_ok().then(|| KernelPattern::Prefix(Arc::clone(path))),
        PathTest::Regex(_, folder) => {
            told_apart(folder).is_ok().then(|| KernelPattern::Prefix(folder.as_str().into()))
        }
    }
}

/// Whether the kernel can tell a path apart: it is short, and every server reads it the same way.
fn told_apart(path: &str) -> Result<(), Reason> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:@+,=!$".contains(&b);
    let dots = |segment: &str| matches!(segment, "." | "..");
    match path {
        _ if path.len() > KernelPattern::MAX => Err(Reason::LongPath),
        _ if !path.starts_with('/') || !path.bytes().all(plain) => Err(Reason::OddPath),
        _ if path.contains("//") || path.split('/').any(dots) => Err(Reason::OddPath),
        _ => Ok(()),
    }
}

fn stand(entry: &Entry, class: &KernelPattern, method: Method, classes: &BTreeSet<KernelPattern>) -> Stand {
    if entry.method.is_some_and(|only| only != method) {
        return Stand::None;
    }
    match path_stand(&entry.path, class, classes) {
        Stand::All if !entry.headers.is_empty() => Stand::Some(Reason::HeaderMatch),
        Stand::All if !entry.query.is_empty() => Stand::Some(Reason::QueryMatch),
        stand => stand,
    }
}

/// How a condition on the path stands to the paths of a class. What is told apart is a class of its own, so that
/// nothing of it is left in the classes around it; what is not lies in the closest class around it.
fn path_stand(test: &PathTest, class: &KernelPattern, classes: &BTreeSet<KernelPattern>) -> Stand {
    let closest = |path: &str| match class {
        KernelPattern::Exact(_) => false,
        KernelPattern::Prefix(prefix) => {
            has_prefix(path, prefix) && closest_class(path, classes) == Some(&**prefix)
        }
    };
    match test {
        PathTest::Exact(path) => match (class, told_apart(path)) {
            (KernelPattern::Exact(exact), _) if exact == path => Stand::All,
            (_, Err(reason)) if closest(path) => Stand::Some(reason),
            _ => Stand::None,
        },
        PathTest::Prefix(prefix) if has_prefix(class.path(), prefix) => Stand::All,
        PathTest::Prefix(prefix) => match told_apart(prefix) {
            Err(reason) if closest(prefix) => Stand::Some(reason),
            _ => Stand::None,
        },
        PathTest::Regex(regex, folder) => match class {
            KernelPattern::Exact(path) if regex.is_match(path.as_bytes()) => Stand::All,
            KernelPattern::Prefix(prefix) if has_prefix(prefix, folder) || closest(folder) => {
                Stand::Some(Reason::RegexMatch)
            }
            KernelPattern::Exact(_) | KernelPattern::Prefix(_) => Stand::None,
        },
    }
}

/// The longest prefix among the classes that `path` lies below.
fn closest_class<'a>(path: &'a str, classes: &BTreeSet<KernelPattern>) -> Option<&'a str> {
    super::table::prefixes(path, usize::MAX)
        .find(|prefix| classes.contains(&KernelPattern::Prefix((*prefix).into())))
}

/// The rule that all classes have for all methods that the kernel takes.
fn sole_rule(classes: &[KernelClass]) -> Option<u16> {
    let rule = match classes.first()?.verdicts[0] {
        KernelVerdict::Rule(rule) => rule,
        KernelVerdict::Proxy(_) => return None,
    };
    let same = |method: &Method, verdict: &KernelVerdict| {
        matches!(method, Method::Connect | Method::Trace) || *verdict == KernelVerdict::Rule(rule)
    };
    let all = |class: &KernelClass| Method::ALL.iter().zip(&class.verdicts).all(|(m, v)| same(m, v));
    classes.iter().all(all).then_some(rule)
}

/// Takes out the classes that decide as the class around them.
fn without_repetition(classes: Vec<KernelClass>) -> Vec<KernelClass> {
    let prefixes: HashMap<&str, &KernelClass> = classes
        .iter()
        .filter(|class| matches!(class.pattern, KernelPattern::Prefix(_)))
        .map(|class| (class.pattern.path(), class))
        .collect();
    let around = |class: &KernelClass| {
        let path = class.pattern.path();
        let own = matches!(class.pattern, KernelPattern::Exact(_));
        let above = super::table::prefixes(path, usize::MAX);
        above.filter(|prefix| own || *prefix != path).find_map(|prefix| prefixes.get(prefix)).copied()
    };
    let repeats: Vec<bool> =
        classes.iter().map(|class| around(class).is_some_and(|a| a.verdicts == class.verdicts)).collect();
    classes.into_iter().zip(repeats).filter(|(_, repeats)| !repeats).map(|(class, _)| class).collect()
}
