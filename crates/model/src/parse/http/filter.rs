//! What a route does to requests and responses.

use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;
use std::time::Duration;

use crate::Position;
use crate::http::{
    Budget, Cors, Fault, FieldName, FieldValue, Fraction, HeaderEdit, PathChange, Redirect, Respond, Retry,
    RetryCause, Rewrite, Scheme, Timeouts,
};

use super::super::keys::http::{
    self as keys, AbortKey, BudgetKey, CorsKey, DelayKey, FaultKey, HeadersKey, RedirectKey, RespondKey,
    RetryKey, RewriteKey, TimeoutKey,
};
use super::super::keys::{Kind, PERCENT, PORT};
use super::super::remarks::Stop;
use super::super::scalar::{self, Choice, Refusal, quote, show};
use super::super::value::What;
use super::super::yaml::{At, Reader, Token};
use super::matching::path;

/// Reads the value of `request-headers` or `response-headers`.
pub(super) fn read_headers<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<HeaderEdit, Stop> {
    let mut edit = HeaderEdit::default();
    let mut seen: Vec<At<FieldName>> = Vec::new();
    let mut empty = true;
    let at = reader.mapping(token, what, |reader, key| {
        empty = false;
        let what = What::of(key);
        match key {
            HeadersKey::Set => edit.set = read_fields(reader, what, &mut seen)?,
            HeadersKey::Add => edit.add = read_fields(reader, what, &mut seen)?,
            HeadersKey::Remove => {
                let token = reader.next()?;
                reader.list(token, what, |reader, item| {
                    let what = What { name: &"header", expected: &Kind::HeaderName };
                    if let Some(name) = reader.scalar_from(item, what, edited)? {
                        refuse_second(reader, &name, &mut seen);
                        edit.remove.push(name.value);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    })?;
    if let (Some(at), true) = (at, empty) {
        reader.refuse_empty(at, what);
    }
    Ok(edit)
}

fn read_fields(
    reader: &mut Reader<'_>,
    what: What<'_>,
    seen: &mut Vec<At<FieldName>>,
) -> Result<Vec<(FieldName, FieldValue)>, Stop> {
    let mut all = Vec::new();
    reader.named(what, edited, |reader, name| {
        refuse_second(reader, &name, seen);
        let shown = format_args!("header {}", name.value.as_str());
        let what = What { name: &shown, expected: &"a text" };
        let value = reader.scalar(what, scalar::header_value)?;
        all.extend(value.map(|value| (name.value, value.value)));
        Ok(())
    })?;
    Ok(all)
}

/// Two edits of one header would contradict each other.
fn refuse_second(reader: &mut Reader<'_>, name: &At<FieldName>, seen: &mut Vec<At<FieldName>>) {
    match seen.iter().find(|first| first.value == name.value) {
        Some(first) => {
            let first = reader.remarks.place(first.at);
            reader.remarks.error(
                name.at,
                format!("header {} is edited twice", quote(name.value.as_str())),
                format!("first at {first}; keep one"),
            );
        }
        None => seen.push(name.clone()),
    }
}

/// A header that a route may edit: those that frame a message are the connection's.
fn edited(text: &str) -> Result<FieldName, Refusal> {
    const FRAMING: [&str; 9] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    ];
    let name = scalar::header_name(text)?;
    match name.as_str() {
        "host" => Err(Refusal::new("is not edited here", "write `rewrite: {host: ...}`")),
        name if FRAMING.contains(&name) => {
            Err(Refusal::new("belongs to the connection", "it frames messages and cannot be edited"))
        }
        _ => Ok(name),
    }
}

/// The path or the prefix that a mapping gives, with the place of the prefix; both are an error.
#[derive(Default)]
struct Change {
    full: Option<At<Arc<str>>>,
    prefix: Option<At<Arc<str>>>,
}

impl Change {
    fn check(self, reader: &mut Reader<'_>, title: &str) -> Option<At<PathChange>> {
        if let (Some(full), Some(prefix)) = (&self.full, &self.prefix) {
            reader.remarks.error(
                full.at.max(prefix.at),
                format!("{title} has both `path` and `prefix`"),
                "the first is the whole path, the second the part that matched: take one out",
            );
        }
        let full = self.full.map(|full| full.map(PathChange::Full));
        full.or_else(|| {
            self.prefix.map(|prefix| {
                prefix.map(|prefix| match prefix.trim_end_matches('/') {
                    "" => PathChange::Prefix("/".into()),
                    prefix => PathChange::Prefix(prefix.into()),
                })
            })
        })
    }
}

/// Where a change of a prefix stands, which needs every match to be a prefix.
pub(super) type PrefixAt = Option<Position>;

fn prefix_at(change: Option<&At<PathChange>>) -> PrefixAt {
    change.filter(|change| matches!(change.value, PathChange::Prefix(_))).map(|change| change.at)
}

/// Reads the value of `rewrite`.
pub(super) fn read_rewrite<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<(Rewrite, PrefixAt), Stop> {
    let mut change = Change::default();
    let mut host = None;
    let mut empty = true;
    let at = reader.mapping(token, what, |reader, key| {
        empty = false;
        let what = What::of(key);
        match key {
            RewriteKey::Path => change.full = reader.scalar(what, path)?,
            RewriteKey::Prefix => change.prefix = reader.scalar(what, path)?,
            RewriteKey::Host => host = reader.scalar(what, |text| scalar::host(text).map(Arc::from))?,
        }
        Ok(())
    })?;
    if let (Some(at), true) = (at, empty) {
        reader.refuse_empty(at, what);
    }
    let change = change.check(reader, "rewrite");
    let at = prefix_at(change.as_ref());
    Ok((Rewrite { path: change.map(|change| change.value), host: host.map(|host| host.value) }, at))
}

/// Reads the value of `redirect`.
pub(super) fn read_redirect<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<(Redirect, PrefixAt), Stop> {
    let mut change = Change::default();
    let mut redirect =
        Redirect { scheme: None, host: None, path: None, port: None, status: keys::DEFAULT_REDIRECT };
    let mut elsewhere = false;
    let at = reader.mapping(token, what, |reader, key| {
        elsewhere |= !matches!(key, RedirectKey::Status);
        let what = What::of(key);
        match key {
            RedirectKey::Scheme => redirect.scheme = reader.scalar(what, Scheme::read)?.map(|at| at.value),
            RedirectKey::Host => {
                let host = reader.scalar(what, host_alone)?;
                redirect.host = host.map(|host| host.value);
            }
            RedirectKey::Path => change.full = reader.scalar(what, path)?,
            RedirectKey::Prefix => change.prefix = reader.scalar(what, path)?,
            RedirectKey::Port => {
                let port = reader.plain(what, |text| PORT.read(text))?;
                redirect.port = port.and_then(|port| NonZeroU16::new(port.value));
            }
            RedirectKey::Status => {
                let status = reader.plain(what, redirect_status)?;
                redirect.status = status.map_or(redirect.status, |status| status.value);
            }
        }
        Ok(())
    })?;
    if let (Some(at), false) = (at, elsewhere) {
        let help = "add `scheme`, `host`, `path`, `prefix` or `port`";
        reader.remarks.error(at, "redirect leads to where the client already is", help);
    }
    let change = change.check(reader, "redirect");
    let at = prefix_at(change.as_ref());
    redirect.path = change.map(|change| change.value);
    Ok((redirect, at))
}

fn host_alone(text: &str) -> Result<Arc<str>, Refusal> {
    let host = scalar::host(text)?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare.is_none() && host.contains(':') {
        true => Err(Refusal::new("holds ':'", "give the port as `port`; IPv6 stands in brackets")),
        false => Ok(host.into()),
    }
}

fn redirect_status(text: &str) -> Result<u16, Refusal> {
    match keys::REDIRECT.read(text) {
        Ok(status @ (301 | 302 | 303 | 307 | 308)) => Ok(status),
        Ok(_) | Err(_) => Err(Refusal::new("is no redirect", "write 301, 302, 303, 307 or 308")),
    }
}

/// Reads the value of `respond`.
pub(super) fn read_respond<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Option<Respond>, Stop> {
    let (mut status, mut body, mut content_type) = (None, None, None);
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            RespondKey::Status => status = reader.plain(what, |text| keys::ANSWER.read::<u16>(text))?,
            RespondKey::Body => body = reader.scalar(what, read_body)?,
            RespondKey::ContentType => content_type = reader.scalar(what, scalar::header_value)?,
        }
        Ok(())
    })?;
    if let (None, Some(content_type)) = (&body, &content_type) {
        let content_type: &At<FieldValue> = content_type;
        reader.remarks.error(
            content_type.at,
            "content-type is of no use without `body`",
            "add `body`, or take it out",
        );
    }
    if let (Some(body), Some(At { value: status @ (204 | 205 | 304), .. })) = (&body, &status) {
        reader.remarks.error(body.at, format!("status {status} has no body"), "take `body` out");
    }
    Ok(status.map(|status| Respond {
        status: status.value,
        body: body.map(|body: At<Arc<str>>| body.value),
        content_type: content_type.map(|content_type| content_type.value),
    }))
}

fn read_body(text: &str) -> Result<Arc<str>, Refusal> {
    match text.len() {
        0..=keys::LONGEST_BODY => Ok(text.into()),
        length => {
            Err(Refusal::new(format!("has {length} bytes"), format!("at most {} bytes", keys::LONGEST_BODY)))
        }
    }
}

/// Reads the value of `cors`.
pub(super) fn read_cors<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Cors, Stop> {
    let mut cors = Cors {
        allow_origins: Vec::new(),
        allow_methods: Vec::new(),
        allow_headers: Vec::new(),
        expose_headers: Vec::new(),
        allow_credentials: false,
        max_age: None,
    };
    let mut credentials = None;
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            CorsKey::AllowOrigins => cors.allow_origins = read_words(reader, what, origin)?,
            CorsKey::AllowMethods => cors.allow_methods = read_words(reader, what, token_or_star)?,
            CorsKey::AllowHeaders => cors.allow_headers = read_words(reader, what, header_or_star)?,
            CorsKey::ExposeHeaders => cors.expose_headers = read_words(reader, what, header_or_star)?,
            CorsKey::AllowCredentials => credentials = reader.plain(what, scalar::boolean)?,
            CorsKey::MaxAge => cors.max_age = reader.scalar(what, max_age)?.map(|at| at.value),
        }
        Ok(())
    })?;
    if let Some(credentials) = credentials {
        cors.allow_credentials = credentials.value;
        if credentials.value && cors.allow_origins.iter().any(|origin| &**origin == "*") {
            reader.remarks.error(
                credentials.at,
                "credentials cannot be allowed to every origin",
                "name the origins instead of `*`",
            );
        }
    }
    Ok(cors)
}

/// A list of texts, none twice and at least one.
fn read_words(
    reader: &mut Reader<'_>,
    what: What<'_>,
    read: impl Fn(&str) -> Result<Arc<str>, Refusal>,
) -> Result<Vec<Arc<str>>, Stop> {
    let token = reader.next()?;
    let mut all: Vec<Arc<str>> = Vec::new();
    let mut empty = true;
    let at = reader.list(token, what, |reader, item| {
        empty = false;
        let word = reader.scalar_from(item, What { name: what.name, expected: &"a text" }, &read)?;
        match word {
            Some(word) if all.contains(&word.value) => reader.remarks.error(
                word.at,
                format!("{} is given twice", quote(&word.value)),
                "take one out",
            ),
            Some(word) => all.push(word.value),
            None => {}
        }
        Ok(())
    })?;
    if let (Some(at), true) = (at, empty) {
        reader.refuse_empty(at, what);
    }
    Ok(all)
}

fn origin(text: &str) -> Result<Arc<str>, Refusal> {
    let refuse = || Refusal::new("is no origin", "*, https://shop.example or https://*.example");
    if text == "*" {
        return Ok("*".into());
    }
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(refuse)?;
    scalar::host(host.strip_prefix("*.").unwrap_or(host)).map_err(|_| refuse())?;
    Ok(text.to_ascii_lowercase().into())
}

fn token_or_star(text: &str) -> Result<Arc<str>, Refusal> {
    scalar::header_name(text).map(|_| text.into())
}

fn header_or_star(text: &str) -> Result<Arc<str>, Refusal> {
    scalar::header_name(text).map(|name| name.as_str().into())
}

fn max_age(text: &str) -> Result<Duration, Refusal> {
    let age = keys::MAX_AGE.read(text)?;
    match age.subsec_nanos() {
        0 => Ok(age),
        _ => Err(Refusal::new("is not in whole seconds", format!("write {}s", age.as_secs()))),
    }
}

/// Reads the value of `fault`.
pub(super) fn read_fault<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Fault, Stop> {
    let mut fault = Fault { delay: None, abort: None };
    let mut empty = true;
    let at = reader.mapping(token, what, |reader, key| {
        empty = false;
        let what = What::of(key);
        let token = reader.next()?;
        match key {
            FaultKey::Delay => fault.delay = read_delay(reader, token, what)?,
            FaultKey::Abort => fault.abort = read_abort(reader, token, what)?,
        }
        Ok(())
    })?;
    if let (Some(at), true) = (at, empty) {
        reader.refuse_empty(at, what);
    }
    Ok(fault)
}

fn read_delay<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Option<(Duration, Fraction)>, Stop> {
    let (mut time, mut fraction) = (None, Fraction::ALL);
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            DelayKey::Time => time = reader.scalar(what, |text| keys::REQUEST.read(text))?,
            DelayKey::Percent => fraction = read_percent(reader, what)?,
        }
        Ok(())
    })?;
    Ok(time.map(|time| (time.value, fraction)))
}

fn read_abort<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Option<(u16, Fraction)>, Stop> {
    let (mut status, mut fraction) = (None, Fraction::ALL);
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            AbortKey::Status => status = reader.plain(what, |text| keys::ANSWER.read(text))?,
            AbortKey::Percent => fraction = read_percent(reader, what)?,
        }
        Ok(())
    })?;
    Ok(status.map(|status| (status.value, fraction)))
}

pub(super) fn read_percent(reader: &mut Reader<'_>, what: What<'_>) -> Result<Fraction, Stop> {
    Ok(reader.plain(what, scalar::percent)?.map_or(Fraction::ALL, |fraction| fraction.value))
}

/// Reads the value of `timeout`: that of the whole request, or a mapping.
pub(super) fn read_timeout<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<Timeouts, Stop> {
    if let Token::Scalar(_) = token.value {
        let request = reader.scalar_from(token, what, |text| keys::REQUEST.read(text))?;
        return Ok(Timeouts { request: request.map(|request| request.value), per_try: None });
    }
    let (mut request, mut per_try): (Option<At<Duration>>, Option<At<Duration>>) = (None, None);
    let mut empty = true;
    let at = reader.mapping(token, what, |reader, key| {
        empty = false;
        let what = What::of(key);
        let lapse = reader.scalar(what, |text| keys::REQUEST.read(text))?;
        match key {
            TimeoutKey::Request => request = lapse,
            TimeoutKey::Try => per_try = lapse,
        }
        Ok(())
    })?;
    if let (Some(at), true) = (at, empty) {
        reader.refuse_empty(at, what);
    }
    if let (Some(request), Some(per_try)) = (request, per_try)
        && per_try.value > request.value
    {
        reader.remarks.error(
            per_try.at,
            format!("try {} is above request {}", show(per_try.value), show(request.value)),
            "a try is a part of the request: lower `try` or raise `request`",
        );
    }
    Ok(Timeouts { request: request.map(|at| at.value), per_try: per_try.map(|at| at.value) })
}

/// A failure that is tried again.
enum Failure {
    Status(u16),
    Cause(RetryCause),
}

/// Reads the value of `retry`; with the place of `timeout` in `on`, which needs a timeout of tries.
pub(super) fn read_retry<'a>(
    reader: &mut Reader<'a>,
    token: At<Token<'a>>,
    what: What<'_>,
) -> Result<(Retry, Option<Position>), Stop> {
    let mut attempts = keys::DEFAULT_ATTEMPTS;
    let mut on: Option<Vec<At<Failure>>> = None;
    let (mut backoff, mut max_backoff): (Option<At<Duration>>, Option<At<Duration>>) = (None, None);
    let mut budget = None;
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            RetryKey::Attempts => {
                let given = reader.plain(what, |text| keys::ATTEMPTS.read(text))?;
                attempts = given.map_or(attempts, |given| given.value);
            }
            RetryKey::On => on = Some(read_failures(reader, what)?),
            RetryKey::Backoff => backoff = reader.scalar(what, |text| keys::BACKOFF.read(text))?,
            RetryKey::MaxBackoff => max_backoff = reader.scalar(what, |text| keys::BACKOFF.read(text))?,
            RetryKey::Budget => budget = Some(read_budget(reader, what)?),
        }
        Ok(())
    })?;
    let first = backoff.map_or(keys::DEFAULT_BACKOFF, |backoff| backoff.value);
    if let Some(max) = max_backoff.filter(|max| max.value < first) {
        reader.remarks.error(
            max.at,
            format!("max-backoff {} is below the backoff {}", show(max.value), show(first)),
            "raise `max-backoff` or lower `backoff`",
        );
    }
    let mut retry = Retry {
        attempts: NonZeroU8::new(attempts).unwrap_or(NonZeroU8::MIN),
        statuses: Vec::new(),
        causes: if on.is_none() { vec![RetryCause::Connect] } else { Vec::new() },
        backoff: first,
        max_backoff: max_backoff.map_or((first * 10).min(keys::BACKOFF.max), |max| max.value),
        budget,
    };
    let mut timeout_at = None;
    for failure in on.into_iter().flatten() {
        match failure.value {
            Failure::Status(status) => retry.statuses.push(status),
            Failure::Cause(cause) => {
                timeout_at = timeout_at.or((cause == RetryCause::Timeout).then_some(failure.at));
                retry.causes.push(cause);
            }
        }
    }
    retry.statuses.sort_unstable();
    retry.causes.sort_unstable();
    Ok((retry, timeout_at))
}

fn read_failures(reader: &mut Reader<'_>, what: What<'_>) -> Result<Vec<At<Failure>>, Stop> {
    let token = reader.next()?;
    let mut all = Vec::new();
    let mut seen = std::collections::HashMap::new();
    let mut empty = true;
    let at = reader.list(token, what, |reader, item| {
        let at = item.at;
        empty = false;
        let what = What { name: &"failure", expected: &"a status from 400 on, connect, reset or timeout" };
        let failure = reader.scalar_from(item, what, |text| {
            let failure = match text.bytes().all(|b| b.is_ascii_digit()) {
                true => keys::FAILURE.read(text).map(Failure::Status),
                false => RetryCause::read(text).map(Failure::Cause),
            };
            failure.map(|failure| (text.to_string(), failure))
        })?;
        let Some(At { value: (text, failure), .. }) = failure else { return Ok(()) };
        match seen.insert(text.clone(), at) {
            None => all.push(At { at, value: failure }),
            Some(_) => reader.remarks.error(at, format!("{text} is given twice"), "take one out"),
        }
        Ok(())
    })?;
    if let (Some(at), true) = (at, empty) {
        reader.refuse_empty(at, what);
    }
    Ok(all)
}

fn read_budget(reader: &mut Reader<'_>, what: What<'_>) -> Result<Budget, Stop> {
    let mut budget = Budget { percent: keys::DEFAULT_BUDGET, min_per_second: keys::DEFAULT_MIN_PER_SECOND };
    let token = reader.next()?;
    reader.mapping(token, what, |reader, key| {
        let what = What::of(key);
        match key {
            BudgetKey::Percent => {
                let percent = reader.plain(what, |text| PERCENT.read(text))?;
                budget.percent = percent.map_or(budget.percent, |percent| percent.value);
            }
            BudgetKey::MinPerSecond => {
                let least = reader.plain(what, |text| keys::MIN_PER_SECOND.read(text))?;
                budget.min_per_second = least.map_or(budget.min_per_second, |least| least.value);
            }
        }
        Ok(())
    })?;
    Ok(budget)
}
