//! What others ask of the mesh.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alize_datapath::conformance::{Outcome, Report};
use alize_datapath::{Opened, ProgramStatus, inspect};
use alize_model::Tls;
use alize_model::api::{Conformance, ConformanceCheck, Program, Status};
use tracing::info;

use super::Mesh;
use crate::observer::Names;
use crate::scrape::{Scrape, ScrapedService};

/// Memory is given back at most this often: pages that are needed again cost a fault each.
const TRIM_PAUSE: Duration = Duration::from_secs(5);

impl Mesh {
    pub(crate) fn status(&self) -> Status {
        let datapath = &self.options.datapath;
        let anomalies = self.datapath.anomalies().unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            instance: datapath.instance.clone(),
            started: self.started,
            cgroups: datapath.cgroups.iter().map(|path| path.display().to_string()).collect(),
            pins: self.datapath.pins().display().to_string(),
            adopted: matches!(self.opened, Opened::Adopted { .. }),
            config: self.config.clone(),
            budgets: self.datapath.budgets(),
            usage: self.datapath.usage(),
            programs: self.programs(),
            kernel_memory: self.datapath.kernel_memory(),
            anomalies: anomalies.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
            proxy: None,
            conformance: self.conformance.as_ref().map(conformance),
            trial: self.trial_now().ok().flatten().map(Box::new),
        }
    }

    /// Takes note of what the kernel was found to do.
    pub(crate) fn set_conformance(&mut self, report: Report) {
        match report.http_path() {
            Ok(()) => info!("this kernel does what serving HTTP in it relies on"),
            Err(why) => info!("HTTP is not served in the kernel: {why}; `alize doctor` tells more"),
        }
        if let (Ok(()), Err(why)) = (report.http_path(), report.remote_path()) {
            info!("requests to other hosts are the proxy's: {why}; `alize doctor` tells more");
        }
        // The way to other hosts first: connections to them are made once requests are routed.
        if let Err(error) = self.datapath.allow_remote(report.remote_path().is_ok()) {
            tracing::warn!("the proxy serves every HTTP request to other hosts: {error}");
        }
        if let Err(error) = self.datapath.allow_http(report.http_path().is_ok()) {
            tracing::warn!("the proxy serves every HTTP request: {error}");
        }
        self.conformance = Some(report);
        // Loading the programs of the probe needed memory for a moment.
        self.untrimmed = true;
    }

    fn programs(&self) -> Vec<Program> {
        let state = |off: Option<String>| off.map_or_else(|| "on".to_owned(), |why| format!("off: {why}"));
        let programs = self.datapath.programs();
        let skipped =
            inspect::recursion_misses(&programs.iter().map(|program| program.id).collect::<Vec<_>>());
        let program = |program: ProgramStatus| Program {
            skipped: skipped.get(&program.id).copied().unwrap_or(0),
            name: program.name,
            id: program.id,
            state: state(program.off),
        };
        programs.into_iter().map(program).collect()
    }

    /// What the services in force are called; `known` itself while that is right.
    pub(crate) fn names(&self, known: Names) -> Names {
        if known.are_of(self.config.generation) {
            return known;
        }
        let mut names = Names::new(self.config.generation);
        for service in self.scrape_services() {
            let endpoints = service.endpoints.iter().map(|endpoint| endpoint.address);
            names.add(service.id, service.name.as_str(), endpoints);
            let Some(declared) = service.service.filter(|declared| declared.tls == Tls::Observe) else {
                continue;
            };
            let dialled = declared.frontends.iter().map(|frontend| frontend.socket_addr());
            dialled
                .chain(service.endpoints.iter().map(|endpoint| endpoint.address))
                .for_each(|address| names.add_tls(address));
        }
        names
    }

    /// Reads everything from the kernel; shared with everybody who asked before it was read.
    pub(crate) fn scrape(&mut self, asked: Instant) -> Result<Arc<Scrape>, alize_datapath::Error> {
        if let Some(last) = self.last_scrape.upgrade().filter(|last| last.taken >= asked) {
            return Ok(last);
        }
        let scrape = Arc::new(Scrape {
            taken: Instant::now(),
            counters: self.datapath.counters()?,
            status: self.status(),
            last_reload_successful: self.config.refused.is_empty(),
            checks: self.checks.answers,
            services: self.scrape_services(),
        });
        self.last_scrape = Arc::downgrade(&scrape);
        self.untrimmed |= scrape.is_large();
        Ok(scrape)
    }

    fn scrape_services(&self) -> Vec<ScrapedService> {
        if self.snapshot.services().is_empty() && self.datapath.usage().services > 0 {
            return self.scrape_unknown_services();
        }
        let known = self.snapshot.services().iter().filter_map(|service| {
            let id = self.datapath.service_id(service.name.as_str())?;
            let endpoints = self.datapath.endpoints(id);
            let declared =
                self.declared.get(service.name.as_str()).map_or(service.mode, |declared| declared.mode);
            let mut scraped =
                ScrapedService::new(service.name.clone(), id, Some(Arc::clone(service)), endpoints);
            scraped.mode_override = self.modes.status(service.name.as_str(), declared);
            Some(scraped)
        });
        let mut services: Vec<_> = known.collect();
        for ((name, address), reason) in &self.reasons {
            let found = services.binary_search_by(|service| service.name.cmp(name));
            if let Some(service) = found.ok().and_then(|index| services.get_mut(index)) {
                service.reasons.insert(*address, reason.clone());
            }
        }
        services
    }

    /// What an adopted data path holds when nothing tells what it was made from.
    fn scrape_unknown_services(&self) -> Vec<ScrapedService> {
        let numbers = 0..self.datapath.budgets().services;
        let named = numbers.filter_map(|id| Some((id, self.datapath.service_name(id)?)));
        let mut services: Vec<_> = named
            .take(self.datapath.usage().services as usize)
            .map(|(id, name)| ScrapedService::new(name.clone(), id, None, self.datapath.endpoints(id)))
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services
    }

    /// Gives memory back to the system that large answers and many changes needed for a moment.
    pub(crate) fn trim(&mut self) {
        let scrape_is_held = self.last_scrape.strong_count() > 0;
        if self.untrimmed && !scrape_is_held && self.trimmed_at.elapsed() >= TRIM_PAUSE {
            self.untrimmed = false;
            self.trimmed_at = Instant::now();
            alize_datapath::trim_memory();
        }
    }

    pub(crate) fn ready(&self, socket: &Path, metrics: Option<SocketAddr>) -> crate::Ready {
        let usage = self.datapath.usage();
        crate::Ready {
            opened: self.opened,
            pins: self.datapath.pins(),
            socket: socket.to_owned(),
            metrics,
            services: usage.services,
            endpoints: usage.endpoints,
            source: self.config.source.clone(),
            warnings: self.config.warnings.clone(),
            refused: self.config.refused.clone(),
        }
    }

    /// Whether this agent made the data path, which is then its own to remove if it cannot start.
    pub(crate) fn is_fresh(&self) -> bool {
        self.opened == Opened::Fresh
    }
}

fn conformance(report: &Report) -> Conformance {
    let checks = report.checks.iter().map(|check| {
        let (result, why) = match &check.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed(why) => ("failed", Some(why.clone())),
            Outcome::NotRun(why) => ("not-run", Some(why.clone())),
        };
        ConformanceCheck {
            name: check.name.clone(),
            what: check.what.clone(),
            essential: check.essential,
            remote: check.remote,
            result: result.into(),
            why,
        }
    });
    Conformance {
        kernel: report.kernel.clone(),
        time: report.time,
        took: report.took,
        obstacle: report.http_path().err(),
        remote_obstacle: report.remote_path().err(),
        checks: checks.collect(),
    }
}
