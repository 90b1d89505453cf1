//! Which requests the kernel may route alone, lowered from the route table.
//!
//! Paths are divided into classes: "the requests whose most specific pattern is this one". For each class and method
//! there is one verdict, and it names a rule only if [`RouteTable::find`] gives that rule for *every* request of the
//! class with that method, whatever its headers and query.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// Which way requests of one route take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Some are routed in the kernel.
    pub kernel: bool,
    /// Some are routed by the proxy: why, and which, as far as their paths tell; no pattern is every request.
    pub proxy: BTreeMap<Reason, Vec<KernelPattern>>,
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
        if let Some(reason) = http.proxy_reason() {
            let pattern = KernelPattern::Prefix("/".into());
            let verdicts = Method::ALL.map(|method| KernelVerdict::Proxy(method_reason(method, reason)));
            return KernelTable { any: None, classes: vec![KernelClass { pattern, verdicts }] };
        }
        let reasons = self.reasons(elsewhere);
        let told_apart = self.told_apart();
        let class = |pattern: &KernelPattern| {
            let candidates = self.candidates(pattern, &told_apart);
            KernelClass {
                pattern: pattern.clone(),
                verdicts: Method::ALL.map(|method| lower(&candidates, method, &reasons)),
            }
        };
        let classes: Vec<KernelClass> = told_apart.patterns.iter().map(class).collect();
        match sole_rule(&classes) {
            Some(rule) => KernelTable { any: Some(rule), classes: Vec::new() },
            None => KernelTable { any: None, classes: without_repetition(classes) },
        }
    }

    /// Which way the requests of each route take, in the order of [`Http::routes`], and why they take it; `elsewhere` as in
    /// [`RouteTable::kernel`].
    pub fn ways(&self, elsewhere: impl Fn(&ServiceName) -> Option<Reason>) -> Vec<Way> {
        let http = self.http();
        let mut ways = vec![Way::default(); http.routes.len()];
        if let Some(reason) = http.proxy_reason() {
            ways.iter_mut().for_each(|way| drop(way.proxy.insert(reason, Vec::new())));
            return ways;
        }
        let reasons = self.reasons(elsewhere);
        let told_apart = self.told_apart();
        for class in &told_apart.patterns {
            let candidates = self.candidates(class, &told_apart);
            for method in Method::ALL.into_iter().filter(|m| !matches!(m, Method::Connect | Method::Trace)) {
                let verdict = lower(&candidates, method, &reasons);
                for candidate in possible(&candidates, method) {
                    let Some(way) = ways.get_mut(usize::from(candidate.rule)) else { continue };
                    match verdict {
                        KernelVerdict::Rule(rule) => way.kernel |= rule == candidate.rule,
                        KernelVerdict::Proxy(reason) => {
                            let patterns = way.proxy.entry(reason).or_default();
                            // Classes come one after the other.
                            if patterns.last() != Some(class) {
                                patterns.push(class.clone());
                            }
                        }
                    }
                }
            }
        }
        ways
    }

    /// Why the kernel cannot do what a route does, by its number.
    fn reasons(&self, elsewhere: impl Fn(&ServiceName) -> Option<Reason>) -> Vec<Option<Reason>> {
        let reason = |route: &Route| route.proxy_reason().or_else(|| route.others().find_map(&elsewhere));
        self.http().routes.iter().map(reason).collect()
    }

    /// The patterns by which requests are told apart, and what is not told apart by them.
    fn told_apart(&self) -> ToldApart {
        let mut patterns: BTreeSet<KernelPattern> = self.entries.iter().filter_map(pattern).collect();
        patterns.insert(KernelPattern::Prefix("/".into()));
        let mut within: HashMap<String, Vec<u16>> = HashMap::new();
        for (index, entry) in (0..).zip(&self.entries) {
            let path: &str = match &entry.path {
                PathTest::Exact(path) | PathTest::Prefix(path) if told_apart(path).is_err() => path,
                PathTest::Regex(_, folder) => folder,
                PathTest::Exact(_) | PathTest::Prefix(_) => continue,
            };
            if let Some(closest) = closest_class(path, &patterns) {
                within.entry(closest.to_owned()).or_default().push(index);
            }
        }
        ToldApart { patterns, within }
    }

    /// The matches that requests of a class may have as far as their path tells, in the order of precedence.
    fn candidates(&self, class: &KernelPattern, told_apart: &ToldApart) -> Vec<Candidate> {
        let above = || super::table::prefixes(class.path(), usize::MAX);
        let mut indices: Vec<u16> = match class {
            KernelPattern::Exact(path) => {
                self.exact.get(path).into_iter().chain([&self.regex]).flatten().copied().collect()
            }
            // A regular expression that begins in a folder around the class may go on into it.
            KernelPattern::Prefix(_) => {
                above().filter_map(|prefix| told_apart.within.get(prefix)).flatten().copied().collect()
            }
        };
        indices.extend(above().filter_map(|prefix| self.prefix.get(prefix)).flatten());
        indices.sort_unstable();
        indices.dedup();
        let entries = indices.into_iter().filter_map(|index| self.entries.get(usize::from(index)));
        let candidate = |entry: &Entry| {
            let unsure = match path_stand(&entry.path, class, &told_apart.patterns) {
                Stand::None => return None,
                Stand::Some(reason) => Some(reason),
                Stand::All if !entry.headers.is_empty() => Some(Reason::HeaderMatch),
                Stand::All if !entry.query.is_empty() => Some(Reason::QueryMatch),
                Stand::All => None,
            };
            Some(Candidate { rule: entry.found.rule, method: entry.method, unsure })
        };
        entries.filter_map(candidate).collect()
    }
}

/// A match that requests of a class may have.
#[derive(Clone, Copy)]
struct Candidate {
    rule: u16,
    method: Option<Method>,
    /// Why it may not take all of them.
    unsure: Option<Reason>,
}

/// The patterns of the kernel, and what lies within each without being told apart.
struct ToldApart {
    patterns: BTreeSet<KernelPattern>,
    /// By the prefix of the closest class around it: matches whose path is not told apart, and regular expressions by the
    /// folder in which they begin.
    within: HashMap<String, Vec<u16>>,
}

/// The matches that requests with one method may have; behind one that takes all there is no other.
fn possible(candidates: &[Candidate], method: Method) -> impl Iterator<Item = Candidate> {
    let mut ended = false;
    let fits = move |candidate: &Candidate| candidate.method.is_none_or(|only| only == method);
    let all = candidates.iter().copied().filter(fits);
    all.take_while(move |candidate| !std::mem::replace(&mut ended, candidate.unsure.is_none()))
}

/// The verdict for the requests of a class with one method.
fn lower(candidates: &[Candidate], method: Method, reasons: &[Option<Reason>]) -> KernelVerdict {
    if matches!(method, Method::Connect | Method::Trace) {
        return KernelVerdict::Proxy(Reason::Method);
    }
    let mut possible = possible(candidates, method);
    let Some(first) = possible.next() else { return KernelVerdict::Proxy(Reason::NoRoute) };
    let (mut alike, mut last) = (true, first);
    for next in possible {
        alike &= next.rule == first.rule;
        last = next;
    }
    // Several matches do no harm if all of them have the same route, and the last of them takes the rest.
    match (first.unsure, last.unsure) {
        (_, None) if alike => match reasons.get(usize::from(first.rule)).copied().flatten() {
            Some(reason) => KernelVerdict::Proxy(reason),
            None => KernelVerdict::Rule(first.rule),
        },
        (Some(reason), _) => KernelVerdict::Proxy(reason),
        (None, _) => KernelVerdict::Proxy(Reason::NoRoute),
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
