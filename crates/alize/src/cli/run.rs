//! `alize run` and `alize agent`: the agent in this process.

use std::path::PathBuf;

use alize_agent::{Bundles, Options, Ready};
use alize_datapath::Opened;
use alize_datapath::bundle::Trust;
use alize_proxy::Store;
use tracing::{info, warn};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{fmt, registry};

use super::args::{AgentArgs, Global, LogFormat, StartProxy};
use super::check::{plural, remarks};
use super::{block_on, socket_in};
use crate::failure::Failure;
use crate::output::{Output, say};
use crate::style::Tone;

pub(crate) fn run(global: &Global, args: AgentArgs, file: PathBuf, output: Output) -> Result<(), Failure> {
    log(global, args.log_format, output)?;
    let announce = match args.log_format {
        LogFormat::Text => banner,
        LogFormat::Json => record,
    };
    let options = options(global, args, file)?;
    let store_of = (options.datapath.run_dir.clone(), options.datapath.instance.clone());
    block_on(async {
        // Not before the agent is sure that it is the only one of its instance.
        let ready = |ready: &Ready| {
            match Store::listen(&store_of.0, &store_of.1) {
                Ok(store) => drop(tokio::spawn(store.serve())),
                Err(error) => warn!("connections end with the proxy, should it be killed: {error}"),
            }
            announce(ready, output);
        };
        let ran = alize_agent::run(options, ready).await;
        ran.map_err(|error| refused(error, output))
    })
}

fn options(global: &Global, args: AgentArgs, file: PathBuf) -> Result<Options, Failure> {
    let cgroups = match args.cgroups.is_empty() {
        false => args.cgroups,
        true => vec![alize_datapath::cgroup2_root().ok_or(alize_datapath::Error::NoCgroup2)?],
    };
    let proxy = super::proxy::for_agent(global, &args.place, &cgroups, args.log_format)?;
    let instance = global.instance.clone();
    let socket = global.socket.clone().unwrap_or_else(|| socket_in(&args.place.run_dir, &instance));
    let datapath = alize_datapath::Options {
        instance,
        bpffs: args.place.bpffs,
        run_dir: args.place.run_dir,
        cgroups,
        budgets: args.budgets.budgets(),
    };
    let bundles = Bundles {
        file: args.bundle,
        folder: Some(args.bundles.bundles),
        keep: args.bundles.keep_bundles,
        trust: Trust::of_folder(&args.bundles.keys, args.bundles.allow_unsigned)?,
    };
    // Others ask for the file by the name that the agent tells, wherever they are.
    let file = std::path::absolute(&file).unwrap_or(file);
    let proxy = match args.proxy {
        StartProxy::Auto => Some(proxy),
        StartProxy::Off => None,
    };
    let options = Options::new(datapath);
    Ok(Options {
        config: Some(file),
        socket,
        metrics: args.metrics.0,
        observe: args.observe.into(),
        proxy,
        path_templates: args.path_templates,
        otlp: args.otlp,
        otlp_spans: args.otlp_spans,
        bundles,
        ..options
    })
}

/// What is said once, when the mesh is up.
fn banner(ready: &Ready, output: Output) {
    let paint = output.error_paint;
    let opened = match ready.opened {
        Opened::Fresh => "loaded into the kernel".to_owned(),
        Opened::Adopted { services, .. } => {
            format!("adopted from the kernel with {}", plural(services as usize, "service"))
        }
    };
    let metrics = match ready.metrics {
        Some(address) => format!("http://{address}/metrics"),
        None => "off".into(),
    };
    let title = format!("alize {} is ready", env!("CARGO_PKG_VERSION"));
    say(&paint.tone(Tone::Good, &title));
    let services = plural(ready.services as usize, "service");
    say(&format!("  meshed     {services}, {}", plural(ready.endpoints as usize, "endpoint")));
    say(&format!("  data path  {opened}, pinned in {}", ready.pins.display()));
    say(&format!("  socket     {}", ready.socket.display()));
    say(&format!("  metrics    {metrics}"));
    remarks(&ready.warnings, "", output);
    if !ready.refused.is_empty() {
        remarks(&ready.refused, "", output);
        output.remark("the file was refused; what was found in the kernel stays in force");
    }
}

/// The same for a log that programs read: one record, and one for each remark.
fn record(ready: &Ready, _: Output) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        services = ready.services,
        endpoints = ready.endpoints,
        adopted = matches!(ready.opened, Opened::Adopted { .. }),
        pins = %ready.pins.display(),
        socket = %ready.socket.display(),
        metrics = ready.metrics.map(display),
        "ready"
    );
    for diagnostic in ready.warnings.iter().chain(&ready.refused) {
        warn!("{diagnostic}");
    }
}

/// A refused file is shown as `alize check` shows it.
fn refused(error: alize_agent::Error, output: Output) -> Failure {
    match error {
        alize_agent::Error::Refused(diagnostics) => {
            remarks(&diagnostics.0, "", output);
            Failure::BadFile
        }
        error => Failure::Agent(error),
    }
}

/// Logs to standard error. A closed standard error is no reason to end: what is lost is the log.
pub(super) fn log(global: &Global, form: LogFormat, output: Output) -> Result<(), Failure> {
    let level = match (global.verbose, global.quiet) {
        (0, 0) => LevelFilter::INFO,
        (1, _) => LevelFilter::DEBUG,
        (2.., _) => LevelFilter::TRACE,
        (0, 1) => LevelFilter::WARN,
        (0, _) => LevelFilter::ERROR,
    };
    // Libraries speak of their own inner life below warnings.
    let levels = Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(
        ["alize", "alize_agent", "alize_datapath", "alize_proxy"].map(|target| (target, level)),
    );
    let layer = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let installed = match form {
        LogFormat::Text => {
            let layer = layer.without_time().with_target(false).with_ansi(output.error_paint.is_coloured());
            registry().with(layer.with_filter(levels)).try_init()
        }
        LogFormat::Json => registry().with(layer.json().flatten_event(true).with_filter(levels)).try_init(),
    };
    installed.map_err(|error| Failure::Other(anyhow::anyhow!("cannot start the log: {error}")))
}
