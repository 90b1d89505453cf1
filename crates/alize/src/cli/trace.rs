//! `alize trace`: HTTP requests, connections and DNS queries as the kernel sees them, a line each.

mod connections;
mod lookups;

use alize_model::api::{Lost, ObservedRequest, TraceLine};

use super::args::{ConditionArgs, Form, TraceArgs};
use super::live::output_closed;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, print};
use crate::style::{Paint, Tone, visible};
use crate::units::utc;

/// Wider texts shift what comes behind them, on their line alone.
const WIDEST: usize = 48;

pub(crate) async fn trace(client: &Client, args: TraceArgs, output: Output) -> Result<(), Failure> {
    makes_sense(&args)?;
    match args.last {
        Some(last) => recorded(client, last, &args, output).await,
        None => tokio::select! {
            ended = follow(client, &args, output) => ended,
            () = output_closed() => Err(Failure::OutputClosed),
        },
    }
}

async fn recorded(client: &Client, last: u64, args: &TraceArgs, output: Output) -> Result<(), Failure> {
    let mut requests = client.recorded(args.failed).await?;
    requests.truncate(usize::try_from(last).unwrap_or(usize::MAX));
    if output.form() != Form::Table {
        let mut lines = requests.into_iter().map(|request| TraceLine::Request(Box::new(request)));
        return lines.try_for_each(|line| output.item(&line, String::new));
    }
    if requests.is_empty() {
        return print("no requests were kept; the kernel keeps them while HTTP is observed\n");
    }
    let mut columns = Columns::with_ids(args.ids);
    requests.iter().for_each(|request| columns.fit(request));
    let lines = requests.iter().map(|request| columns.line(request, output.paint));
    print(&(heading(&columns.head(), output.paint) + &lines.collect::<String>()))
}

async fn follow(client: &Client, args: &TraceArgs, output: Output) -> Result<(), Failure> {
    let mut lines = client.trace(&conditions(&args.conditions)).await?;
    let mut columns = Columns::with_ids(args.ids);
    if output.form() == Form::Table {
        print(&heading(&head(&args.conditions, &columns), output.paint))?;
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(line) = lines.next().await? else {
            return Err(lines.gone().into());
        };
        match &line {
            TraceLine::Request(request) => {
                left -= 1;
                output.item(&line, || {
                    columns.fit(request);
                    columns.line(request, output.paint)
                })?;
            }
            TraceLine::Tcp(event) => {
                left -= 1;
                output.item(&line, || connections::line(event, output.paint))?;
            }
            TraceLine::Dns(lookup) => {
                left -= 1;
                output.item(&line, || lookups::line(lookup, output.paint))?;
            }
            TraceLine::Lost(lost) if output.form() == Form::Table => output.remark(&in_words(lost)),
            TraceLine::Lost(_) => output.item(&line, String::new)?,
        }
    }
    Ok(())
}

/// What is asked of requests alone says nothing of connections and queries, and would be passed over in silence.
fn makes_sense(args: &TraceArgs) -> Result<(), Failure> {
    let asked = &args.conditions;
    if shows_requests(asked) {
        return Ok(());
    }
    let of_requests = [
        ("--status", asked.status.is_some()),
        ("--method", asked.method.is_some()),
        ("--path-prefix", asked.path_prefix.is_some()),
        ("--ids", args.ids),
    ];
    let kind = if asked.tcp { "--tcp" } else { "--dns" };
    match of_requests.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::Usage(format!(
            "{flag} is for HTTP requests, and {kind} shows none: leave one of them out, or add --http"
        ))),
        None => Ok(()),
    }
}

fn shows_requests(conditions: &ConditionArgs) -> bool {
    conditions.http || !(conditions.tcp || conditions.dns)
}

/// The conditions in the words of the API.
pub(crate) fn conditions(args: &ConditionArgs) -> Vec<(&'static str, String)> {
    let kinds = [(args.http, "http"), (args.tcp, "tcp"), (args.dns, "dns")];
    let kinds: Vec<&str> = kinds.into_iter().filter(|(asked, _)| *asked).map(|(_, kind)| kind).collect();
    let conditions = [
        ("kinds", (!kinds.is_empty()).then(|| kinds.join(","))),
        ("service", args.service.clone()),
        ("status", args.status.clone()),
        ("method", args.method.clone()),
        ("path_prefix", args.path_prefix.clone()),
        ("min_latency", args.min_latency.map(|time| time.as_secs_f64().to_string())),
        ("pid", args.pid.map(|pid| pid.to_string())),
        ("comm", args.comm.clone()),
        ("unit", args.unit.clone()),
        ("cgroup", args.cgroup_path.clone()),
        ("sample", args.sample.map(|sample| sample.to_string())),
        ("rate_limit", args.rate_limit.map(|limit| limit.to_string())),
    ];
    conditions.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

pub(crate) fn in_words(lost: &Lost) -> String {
    let parts = [
        (lost.ring, "because the kernel's buffer was full"),
        (lost.reader, "because this reader was too slow"),
        (lost.limited, "held back by the rate limit"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, why)| format!("{count} {why}")).collect();
    format!("not shown: {}", parts.join(", "))
}

/// Widths of the columns, which grow with what was shown so far: a stream has no end to wait for.
pub(crate) struct Columns {
    /// Whether each request has its id at the end.
    ids: bool,
    comm: usize,
    destination: usize,
    target: usize,
}

impl Columns {
    pub(crate) fn new() -> Self {
        Self { ids: false, comm: 10, destination: 20, target: 20 }
    }

    fn with_ids(ids: bool) -> Self {
        Self { ids, ..Self::new() }
    }

    pub(crate) fn fit(&mut self, request: &ObservedRequest) {
        let grow = |width: &mut usize, text: &str| *width = (*width).max(text.chars().count().min(WIDEST));
        grow(&mut self.comm, &who(request).1);
        grow(&mut self.destination, &whom(request));
        grow(&mut self.target, &target(request));
    }

    pub(crate) fn line(&self, request: &ObservedRequest, paint: Paint) -> String {
        let Self { ids, comm: comm_width, destination, target: target_width } = self;
        let id = if *ids { format!("  {}", visible(&request.id)) } else { String::new() };
        let (pid, comm) = who(request);
        // 2026-11-23T00:40:05.123Z
        let time = utc(request.time).get(11..).unwrap_or_default().to_owned();
        let status = request.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        format!(
            "{}  {pid:>7}  {comm:<comm_width$}  ->  {:<destination$}  {:<7}  {:<target_width$}  {}  {:>11.3}  {:>9}  {}{id}\n",
            paint.tone(Tone::Faint, &time),
            whom(request),
            visible(&request.method),
            target(request),
            paint.tone(status_tone(request.status), &format!("{status:>6}")),
            request.latency * 1e3,
            request.response_bytes,
            label(request),
        )
    }

    pub(crate) fn head(&self) -> String {
        let Self { ids, comm, destination, target } = self;
        let id = if *ids { "  ID" } else { "" };
        format!(
            "{:<13}  {:>7}  {:<comm$}  ->  {:<destination$}  {:<7}  {:<target$}  {:>6}  {:>11}  {:>9}  {}{id}",
            "TIME",
            "PID",
            "COMM",
            "SERVICE/ENDPOINT",
            "METHOD",
            "PATH",
            "STATUS",
            "LATENCY(ms)",
            "BYTES",
            "PATH-LABEL"
        )
    }
}

/// That of requests where there are any, because they have the most columns.
fn head(asked: &ConditionArgs, columns: &Columns) -> String {
    match (shows_requests(asked), asked.tcp) {
        (true, _) => columns.head(),
        (false, true) => connections::head("SERVICE/REMOTE", "EVENT"),
        (false, false) => connections::head("SERVER", "QUERY"),
    }
}

fn heading(head: &str, paint: Paint) -> String {
    paint.tone(Tone::Heading, head) + "\n"
}

/// Process and name of the client; from elsewhere, its address.
fn who(request: &ObservedRequest) -> (String, String) {
    let Some(client) = &request.client else {
        return ("-".into(), request.client_address.ip().to_string());
    };
    let name = client.comm.as_ref().unwrap_or(&client.workload.name);
    (client.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()), visible(name))
}

fn whom(request: &ObservedRequest) -> String {
    format!("{}/{}", visible(request.service.as_deref().unwrap_or("-")), request.endpoint)
}

fn target(request: &ObservedRequest) -> String {
    format!("{}{}", visible(&request.target), if request.target_cut { "..." } else { "" })
}

/// The way it took; how a call of gRPC ended, and whether something of it was missed.
fn label(request: &ObservedRequest) -> String {
    let mut label = visible(&request.path_label);
    if let Some(call) = &request.grpc {
        let number = || call.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        label += &format!("  grpc {}", call.status_name.clone().unwrap_or_else(number));
    }
    if request.partial {
        label += "  partial";
    }
    label
}

/// What a status means.
pub(crate) fn status_tone(status: Option<u16>) -> Tone {
    match status {
        Some(500..) | None => Tone::Bad,
        Some(400..500) => Tone::Caution,
        Some(200..300) => Tone::Good,
        Some(_) => Tone::Plain,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alize_model::api::{ObservedCall, ObservedConnection, Peer, Workload};

    use super::*;

    pub(crate) fn workload(name: &str) -> Workload {
        Workload {
            name: name.into(),
            kind: "unit".into(),
            cgroup: format!("/{name}"),
            unit: Some(name.into()),
            container: None,
            container_name: None,
            runtime: None,
            pod: None,
        }
    }

    pub(crate) fn connection() -> ObservedConnection {
        ObservedConnection {
            time: 1_700_000_000.25,
            event: "closed".into(),
            reason: Some("reset-received".into()),
            side: "client".into(),
            owner: None,
            local: ([127, 0, 0, 1], 40_000).into(),
            remote: ([127, 0, 0, 1], 80).into(),
            service: Some("web".into()),
            duration: Some(1.5),
            bytes_sent: 7,
            bytes_received: 9,
            retransmits: 2,
            rtt: Some(0.000_05),
        }
    }

    pub(crate) fn request() -> ObservedRequest {
        ObservedRequest {
            id: "1f-9c40".into(),
            time: 1_700_000_000.25,
            client: Some(Peer {
                workload: workload("shop.service"),
                pid: Some(4711),
                uid: Some(0),
                comm: Some("cu\u{1b}rl".into()),
                command: None,
            }),
            client_address: ([127, 0, 0, 1], 40_000).into(),
            server: None,
            endpoint: ([127, 0, 0, 1], 8080).into(),
            service: Some("web".into()),
            dialled: false,
            method: "GET".into(),
            host: None,
            target: "/users/7?x=\u{1b}[2J".into(),
            target_cut: true,
            status: Some(503),
            latency: 0.012_345_6,
            first_byte: None,
            request_bytes: 70,
            response_bytes: 153,
            path_label: "observed".into(),
            side: "client".into(),
            reused: false,
            pipelined: false,
            broken: false,
            protocol: "http/1".into(),
            grpc: None,
            partial: false,
            trace_parent: None,
        }
    }

    #[test]
    fn a_request_is_one_line_under_its_header() {
        let mut columns = Columns::new();
        let request = request();
        columns.fit(&request);
        let shown = format!("{}\n{}", columns.head(), columns.line(&request, Paint::PLAIN));
        assert_eq!(
            shown,
            "TIME               PID  COMM        ->  SERVICE/ENDPOINT      METHOD   PATH                  STATUS  LATENCY(ms)      BYTES  PATH-LABEL\n\
             22:13:20.250Z     4711  cu\u{fffd}rl       ->  web/127.0.0.1:8080    GET      /users/7?x=\u{fffd}[2J...       503       12.346        153  observed\n"
        );
    }

    #[test]
    fn a_call_of_grpc_says_how_it_ended() {
        let call = ObservedCall {
            service: "shop.Orders".into(),
            method: "Get".into(),
            status: Some(5),
            status_name: Some("NOT_FOUND".into()),
        };
        let request = ObservedRequest { grpc: Some(call), partial: true, ..request() };
        let line = Columns::new().line(&request, Paint::PLAIN);
        assert!(line.ends_with("  observed  grpc NOT_FOUND  partial\n"), "{line}");
    }

    #[test]
    fn ids_come_last() {
        let mut columns = Columns::with_ids(true);
        columns.fit(&request());
        assert!(columns.head().ends_with("  PATH-LABEL  ID"));
        assert!(columns.line(&request(), Paint::PLAIN).ends_with("  observed  1f-9c40\n"));
    }

    #[test]
    fn a_client_from_elsewhere_is_an_address() {
        let remote = ObservedRequest { client: None, service: None, status: None, ..request() };
        let line = Columns::new().line(&remote, Paint::PLAIN);
        assert!(line.contains("      -  127.0.0.1   ->  -/127.0.0.1:8080 "), "{line}");
        assert!(line.contains("       -       12.346"), "{line}");
    }

    #[test]
    fn what_is_missing_is_told_with_its_reason() {
        let lost = Lost { ring: 3, reader: 0, limited: 12 };
        assert_eq!(
            in_words(&lost),
            "not shown: 3 because the kernel's buffer was full, 12 held back by the rate limit"
        );
    }
}
