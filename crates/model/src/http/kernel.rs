//! Which requests the kernel may route alone, lowered from the route table.
//!
//! Paths are divided into classes: "the requests whose most specific pattern is this one". For each class and method
//! there is one verdict, or a short list of them by headers that have just some value. It names a rule only if
//! [`RouteTable::find`] gives that rule for *every* request of the class with that method and those headers, whatever
//! else is in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::ServiceName;

use super::table::{Entry, HeaderTest, PathTest};
use super::{
    Action, Circuit, HashOn, Headers, Http, HttpBalance, Method, Reason, Route, RouteTable, Upstream,
    has_prefix,
};

/// What the kernel may do with the requests of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTable {
    /// Every request that has a method other than CONNECT and TRACE goes by this rule; there are no classes then.
    pub any: Option<u16>,
    /// Sorted by pattern; [`KernelPattern::Prefix`] of `/` is among them. Empty if `any` is given.
    pub classes: Vec<KernelClass>,
    /// What headers are held against, at most [`KernelTable::CONDITIONS`].
    pub conditions: Vec<KernelCondition>,
    /// What verdicts by header name, all together at most [`KernelTable::CHOICES`] long.
    pub choices: Vec<Vec<KernelChoice>>,
}

/// A header that has to have just this value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelCondition {
    /// In lower case: letters, digits and `-`, at most [`KernelCondition::NAME`].
    pub name: Arc<str>,
    /// At most [`KernelCondition::VALUE`] bytes, and not empty.
    pub value: Arc<str>,
}

impl KernelCondition {
    /// The longest name, in bytes.
    pub const NAME: usize = 24;
    /// The longest value, in bytes.
    pub const VALUE: usize = 32;
}

/// The first whose conditions a request meets is its verdict; the last one has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelChoice {
    /// Bit `i`: [`KernelTable::conditions`]`[i]`.
    pub mask: u8,
    /// Never [`KernelVerdict::Headers`].
    pub verdict: KernelVerdict,
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
    /// By its headers: the place of a list in [`KernelTable::choices`].
    Headers(u16),
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
    /// So many conditions on headers the kernel holds a request against.
    pub const CONDITIONS: usize = 8;
    /// So many choices a service may have.
    pub const CHOICES: usize = 64;

    /// A table with one rule for every request.
    pub fn of_rule(rule: u16) -> Self {
        Self { any: Some(rule), classes: Vec::new(), conditions: Vec::new(), choices: Vec::new() }
    }

    /// The verdict for a request with these headers: as [`KernelTable::verdict`], and never one by header.
    pub fn decide<H: Headers + ?Sized>(&self, method: Method, path: &str, headers: &H) -> KernelVerdict {
        let verdict = self.verdict(method, path);
        let KernelVerdict::Headers(list) = verdict else { return verdict };
        let mut met = 0u8;
        for (bit, condition) in self.conditions.iter().enumerate() {
            let mut values = headers.values(&condition.name);
            match (values.next(), values.next()) {
                (Some(value), None) if value == condition.value.as_bytes() => met |= 1 << bit,
                // Values of a header that comes twice are joined, which is the proxy's work.
                (Some(_), Some(_)) => return KernelVerdict::Proxy(Reason::HeaderMatch),
                _ => {}
            }
        }
        let choices = self.choices.get(usize::from(list)).map_or(&[][..], Vec::as_slice);
        let choice = choices.iter().find(|choice| met & choice.mask == choice.mask);
        choice.map_or(KernelVerdict::Proxy(Reason::NoRoute), |choice| choice.verdict)
    }

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
        let Self { upstream, balance, pool, circuit, outlier, .. } = self;
        // Connections are the proxy's. Who waits for one is there anyway, and requests are counted on both sides.
        let connections = |circuit: &Circuit| circuit.max_connections.is_some();
        match balance {
            _ if *upstream == Upstream::H2c => Some(Reason::Http2),
            HttpBalance::ConsistentHash(HashOn::Header(_) | HashOn::Cookie(_))
                if self.hashed_header().is_none() =>
            {
                Some(Reason::ConsistentHash)
            }
            _ if circuit.as_ref().is_some_and(connections) => Some(Reason::Circuit),
            _ if outlier.is_some() => Some(Reason::Outlier),
            _ if pool.response_timeout.is_some() => Some(Reason::ResponseTimeout),
            _ => None,
        }
    }
}

impl Http {
    /// The same for requests that come by a route of another service: by a header the kernel balances only those of the service
    /// whose table it is.
    pub fn reason_as_target(&self) -> Option<Reason> {
        let by_header = self.hashed_header().map(|_| Reason::ConsistentHash);
        self.proxy_reason().or(by_header)
    }

    /// The header by whose value the kernel can balance requests, if that is how they are balanced.
    pub fn hashed_header(&self) -> Option<&str> {
        match &self.balance {
            HttpBalance::ConsistentHash(HashOn::Header(name)) => {
                Some(name.as_str()).filter(|name| is_looked_for(name))
            }
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
    /// so: its [`Http::reason_as_target`].
    pub fn kernel(&self, elsewhere: impl Fn(&ServiceName) -> Option<Reason>) -> KernelTable {
        let http = self.http();
        if let Some(reason) = http.proxy_reason() {
            let pattern = KernelPattern::Prefix("/".into());
            let verdicts = Method::ALL.map(|method| KernelVerdict::Proxy(method_reason(method, reason)));
            return KernelTable {
                any: None,
                classes: vec![KernelClass { pattern, verdicts }],
                conditions: Vec::new(),
                choices: Vec::new(),
            };
        }
        let reasons = self.reasons(elsewhere);
        let told_apart = self.told_apart();
        let conditions = self.conditions();
        let mut choices = Choices::default();
        let mut class = |pattern: &KernelPattern| {
            let candidates = self.candidates(pattern, &told_apart, &conditions);
            KernelClass {
                pattern: pattern.clone(),
                verdicts: Method::ALL.map(|method| choices.verdict(&lower(&candidates, method, &reasons))),
            }
        };
        let classes: Vec<KernelClass> = told_apart.patterns.iter().map(&mut class).collect();
        match sole_rule(&classes) {
            Some(rule) => KernelTable::of_rule(rule),
            None if choices.lists.is_empty() => KernelTable {
                any: None,
                classes: without_repetition(classes),
                conditions: Vec::new(),
                choices: Vec::new(),
            },
            None => KernelTable {
                any: None,
                classes: without_repetition(classes),
                conditions,
                choices: choices.lists,
            },
        }
    }

    /// The conditions on headers that the kernel can hold requests against, in the order of precedence.
    fn conditions(&self) -> Vec<KernelCondition> {
        let mut conditions: Vec<KernelCondition> = Vec::new();
        // One is for the header that requests are balanced by.
        let most = KernelTable::CONDITIONS - usize::from(self.http().hashed_header().is_some());
        for test in self.entries.iter().flat_map(|entry| &entry.headers) {
            if let Some(condition) = condition(test)
                && conditions.len() < most
                && !conditions.contains(&condition)
            {
                conditions.push(condition);
            }
        }
        conditions
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
        let conditions = self.conditions();
        let mut choices = Choices::default();
        for class in &told_apart.patterns {
            let candidates = self.candidates(class, &told_apart, &conditions);
            for method in Method::ALL.into_iter().filter(|m| !matches!(m, Method::Connect | Method::Trace)) {
                let steps = lower(&candidates, method, &reasons);
                let full = choices.verdict(&steps) == KernelVerdict::Proxy(Reason::HeaderMatch);
                for (step, rule) in
                    steps.iter().flat_map(|step| step.rules.iter().map(move |rule| (step, rule)))
                {
                    let Some(way) = ways.get_mut(usize::from(*rule)) else { continue };
                    match step.verdict {
                        KernelVerdict::Proxy(reason) => way.proxied(reason, class),
                        _ if full => way.proxied(Reason::HeaderMatch, class),
                        verdict => way.kernel |= verdict == KernelVerdict::Rule(*rule),
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
    fn candidates(
        &self,
        class: &KernelPattern,
        told_apart: &ToldApart,
        conditions: &[KernelCondition],
    ) -> Vec<Candidate> {
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
            let mask = mask(entry, conditions);
            let unsure = match path_stand(&entry.path, class, &told_apart.patterns) {
                Stand::None => return None,
                Stand::Some(reason) => Some(reason),
                Stand::All if mask.is_none() => Some(Reason::HeaderMatch),
                Stand::All if !entry.query.is_empty() => Some(Reason::QueryMatch),
                Stand::All => None,
            };
            let mask = mask.unwrap_or(0);
            Some(Candidate { rule: entry.found.rule, method: entry.method, unsure, mask })
        };
        entries.filter_map(candidate).collect()
    }
}

/// A match that requests of a class may have.
#[derive(Clone, Copy)]
struct Candidate {
    rule: u16,
    method: Option<Method>,
    /// Why it may not take all of them, beside what headers say.
    unsure: Option<Reason>,
    /// Of those that meet these conditions. 0: whatever their headers.
    mask: u8,
}

impl Candidate {
    fn takes_all(&self) -> bool {
        self.unsure.is_none() && self.mask == 0
    }
}

/// The verdict on what is left behind the steps before it, if it meets the conditions; and for which rules it stands.
struct Step {
    mask: u8,
    verdict: KernelVerdict,
    rules: Vec<u16>,
}

/// The lists of choices of a table, each once.
#[derive(Default)]
struct Choices {
    lists: Vec<Vec<KernelChoice>>,
    length: usize,
}

impl Choices {
    fn verdict(&mut self, steps: &[Step]) -> KernelVerdict {
        if let [step] = steps {
            return step.verdict;
        }
        let list: Vec<KernelChoice> =
            steps.iter().map(|step| KernelChoice { mask: step.mask, verdict: step.verdict }).collect();
        let known = self.lists.iter().position(|known| *known == list);
        let place = known.unwrap_or(self.lists.len());
        if known.is_none() {
            if self.length + list.len() > KernelTable::CHOICES {
                return KernelVerdict::Proxy(Reason::HeaderMatch);
            }
            self.length += list.len();
            self.lists.push(list);
        }
        u16::try_from(place).map_or(KernelVerdict::Proxy(Reason::HeaderMatch), KernelVerdict::Headers)
    }
}

impl Way {
    fn proxied(&mut self, reason: Reason, class: &KernelPattern) {
        let patterns = self.proxy.entry(reason).or_default();
        // Classes come one after the other.
        if patterns.last() != Some(class) {
            patterns.push(class.clone());
        }
    }
}

/// Whether the kernel can look for the header of this name.
fn is_looked_for(name: &str) -> bool {
    /// What makes or ends a message is the parser's, and the proxy may see it changed.
    const FRAMING: [&str; 10] = [
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let plain = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    plain && name.len() <= KernelCondition::NAME && !FRAMING.contains(&name)
}

/// What the kernel can look for in a header, if that is all the test asks.
fn condition(test: &HeaderTest) -> Option<KernelCondition> {
    let value = test.exact()?;
    let fits = is_looked_for(&test.name) && (1..=KernelCondition::VALUE).contains(&value.len());
    fits.then(|| KernelCondition { name: Arc::clone(&test.name), value: Arc::clone(value) })
}

/// The conditions that a match has on headers; `None`: one of them is the proxy's to look at.
fn mask(entry: &Entry, conditions: &[KernelCondition]) -> Option<u8> {
    entry.headers.iter().try_fold(0, |mask, test| {
        let wanted = condition(test)?;
        let bit = conditions.iter().position(|known| *known == wanted)?;
        Some(mask | 1 << bit)
    })
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
    all.take_while(move |candidate| !std::mem::replace(&mut ended, candidate.takes_all()))
}

/// The verdicts for the requests of a class with one method, by their headers; the last one is for whatever is left.
fn lower(candidates: &[Candidate], method: Method, reasons: &[Option<Reason>]) -> Vec<Step> {
    let rest = |verdict, rules| vec![Step { mask: 0, verdict, rules }];
    if matches!(method, Method::Connect | Method::Trace) {
        return rest(KernelVerdict::Proxy(Reason::Method), Vec::new());
    }
    let possible: Vec<Candidate> = possible(candidates, method).collect();
    let (Some(first), Some(last)) = (possible.first(), possible.last()) else {
        return rest(KernelVerdict::Proxy(Reason::NoRoute), Vec::new());
    };
    let of_rule = |rule: u16| match reasons.get(usize::from(rule)).copied().flatten() {
        Some(reason) => KernelVerdict::Proxy(reason),
        None => KernelVerdict::Rule(rule),
    };
    let rules = |candidates: &[Candidate]| candidates.iter().map(|candidate| candidate.rule).collect();
    // Several matches do no harm if all of them have the same route, and the last of them takes the rest.
    if last.takes_all() && possible.iter().all(|candidate| candidate.rule == first.rule) {
        return rest(of_rule(first.rule), rules(&possible));
    }
    let mut steps: Vec<Step> = Vec::new();
    for (place, candidate) in possible.iter().enumerate() {
        if let Some(reason) = candidate.unsure {
            // What this one may take, and all behind it, only the proxy can tell.
            let rules = rules(possible.get(place..).unwrap_or_default());
            steps.push(Step { mask: 0, verdict: KernelVerdict::Proxy(reason), rules });
            break;
        }
        let verdict = of_rule(candidate.rule);
        steps.push(Step { mask: candidate.mask, verdict, rules: vec![candidate.rule] });
    }
    if steps.last().is_none_or(|step| step.mask != 0) {
        steps.push(Step { mask: 0, verdict: KernelVerdict::Proxy(Reason::NoRoute), rules: Vec::new() });
    }
    without_needless(steps)
}

/// Takes out steps that decide as what is left behind them.
fn without_needless(mut steps: Vec<Step>) -> Vec<Step> {
    while let [.., before, last] = steps.as_mut_slice() {
        let same = match (before.verdict, last.verdict) {
            // All the same to the kernel.
            (KernelVerdict::Proxy(_), KernelVerdict::Proxy(_)) => true,
            (one, other) => one == other,
        };
        if !same {
            break;
        }
        // The reason that comes first is told.
        last.verdict = before.verdict;
        last.rules.splice(0..0, before.rules.drain(..));
        let place = steps.len() - 2;
        steps.remove(place);
    }
    steps
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
        KernelVerdict::Proxy(_) | KernelVerdict::Headers(_) => return None,
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
