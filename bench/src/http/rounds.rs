//! Measuring: every way has one slice of each workload in each round, in an order drawn anew for each.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::mesh;
use super::meter::{Roles, Sample};
use super::place::{SERVICE, View};
use super::progress::Progress;
use super::report::{Cell, Figure, Memory, Report, Slice};
use super::scene::{Means, Scene};
use super::subject::{Mesh, Subject};
use super::workload::{Exchange, Load, Workload};
use crate::process::check_interrupt;
use crate::statistics::{Random, median};

/// Small requests before anything is measured: connections are made, caches filled, and the path is looked at.
const TRIAL_SECONDS: f64 = 0.15;
/// Of each way and workload, before the first round.
const WARM_UP_SECONDS: f64 = 0.1;
/// So far a slice may be from its length.
const STARVED: f64 = 0.5;
/// A slice is taken again so often at most.
const MOST_AGAIN: u64 = 4;
/// How long a way may take until it is the one that its name says, and between two looks.
const PATIENCE: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(200);
/// How long the machine is looked at without load, in each round.
const IDLE: Duration = Duration::from_millis(250);
/// Nothing has been asked of any way for so long when memory is looked at; what was needed for a moment is given back by then.
const SETTLED: Duration = Duration::from_secs(7);

/// All scenes of one view and what was measured in them.
pub(crate) struct Field<'a> {
    pub(crate) view: View,
    pub(crate) scenes: Vec<Scene>,
    pub(crate) report: &'a mut Report,
    pub(crate) progress: &'a Progress,
}

impl<'a> Field<'a> {
    /// Makes a world for each way; what cannot be is left out with its reason.
    pub(crate) fn prepare(
        means: &Means<'_>,
        subjects: &[Subject],
        report: &'a mut Report,
        progress: &'a Progress,
    ) -> Result<Self> {
        let mut field = Self { view: means.view, scenes: Vec::new(), report, progress };
        for &subject in subjects {
            check_interrupt()?;
            progress.step(&format!("preparing {}", subject.label()));
            let ready = Scene::prepare(means, subject).and_then(|mut scene| {
                try_out(&mut scene)?;
                Ok(scene)
            });
            match ready {
                Ok(scene) => field.welcome(scene),
                Err(error) => {
                    check_interrupt()?;
                    field.leave_out(subject.label(), &error);
                }
            }
        }
        field.remember("idle")?;
        Ok(field)
    }

    fn welcome(&mut self, scene: Scene) {
        for path in &scene.configurations {
            let name =
                path.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let text = std::fs::read_to_string(path).unwrap_or_default();
            self.report.configurations.insert(format!("{name}/{file}"), text);
        }
        self.scenes.push(scene);
    }

    /// What all ways hold when nothing is asked of them.
    fn remember(&mut self, when: &str) -> Result<()> {
        self.progress.step(&format!("memory: {when}"));
        let settled = Instant::now() + SETTLED;
        while Instant::now() < settled {
            check_interrupt()?;
            std::thread::sleep(PAUSE);
        }
        for scene in &self.scenes {
            let held = scene.held()?;
            if !held.processes.is_empty() {
                let (view, subject) = (self.view, scene.subject);
                self.report.memory.push(Memory { view, subject, when: when.into(), held });
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, what: &str, error: &anyhow::Error) {
        if self.report.leave_out(what, error) {
            self.progress.say(&format!("LEFT OUT: {what}: {error:#}"));
        }
    }

    /// All rounds: first at saturation, then at the rates that follow from it.
    pub(crate) fn measure(&mut self, workloads: &[Workload], rounds: usize, seconds: f64) -> Result<()> {
        let (saturation, paced): (Vec<Workload>, Vec<Workload>) =
            workloads.iter().partition(|workload| workload.is_saturation());
        let share = saturation.len() as f64 / workloads.len().max(1) as f64;
        let (first, second) = self.progress.split(share);
        self.progress.span(first);
        self.rounds(&saturation, rounds, seconds)?;
        let most = workloads.iter().map(|workload| workload.connections).max().unwrap_or(1);
        // The last of the slices left as many connections open as it had.
        let order = Workload::new(Exchange::Small, Load::Saturation, most);
        for scene in &mut self.scenes {
            scene.load(&order.order(SERVICE, None, seconds.min(WARM_UP_SECONDS), ""))?;
        }
        self.remember(&format!("{most} connections"))?;
        self.progress.span(second);
        self.rounds(&paced, rounds, seconds)
    }

    fn rounds(&mut self, workloads: &[Workload], rounds: usize, seconds: f64) -> Result<()> {
        let mut cells: Vec<(usize, Cell)> = Vec::new();
        for &workload in workloads {
            let rate = self.rate(workload);
            if rate.is_none() && !workload.is_saturation() {
                let error = anyhow::anyhow!("no saturation to take a rate from");
                self.leave_out(&workload.label(), &error);
                continue;
            }
            for (place, scene) in self.scenes.iter().enumerate() {
                let (view, subject) = (self.view, scene.subject);
                cells.push((place, Cell { view, workload, subject, rate, rounds: Vec::new() }));
            }
        }
        self.warm_up(&cells, seconds)?;
        let mut order: Vec<usize> = (0..cells.len()).collect();
        let mut random = Random::new(0xbe7c4);
        for round in 1..=rounds {
            self.report.idle.push(idle()?);
            random.shuffle(&mut order);
            for (done, &number) in order.iter().enumerate() {
                let (place, cell) = &mut cells[number];
                let scene = &mut self.scenes[*place];
                let what = format!("{}: {}", scene.subject.label(), cell.workload.label());
                self.progress.part(&what, round - 1, rounds, done, order.len());
                let (slice, again) = slice(scene, cell, seconds).with_context(|| what.clone())?;
                cell.rounds.push(slice);
                self.report.retaken += again;
            }
        }
        for (place, cell) in cells {
            self.keep(place, cell);
        }
        Ok(())
    }

    /// Nothing that is measured is the first of its kind: connections are open, pools are filled.
    fn warm_up(&mut self, cells: &[(usize, Cell)], seconds: f64) -> Result<()> {
        for (place, cell) in cells {
            let scene = &mut self.scenes[*place];
            let what = format!("{}: {}", scene.subject.label(), cell.workload.label());
            self.progress.step(&format!("warm-up, {what}"));
            let order = cell.workload.order(SERVICE, cell.rate, seconds.min(WARM_UP_SECONDS), "");
            scene.load(&order).context(what)?;
        }
        Ok(())
    }

    /// A cell whose requests went another way than its name says is left out.
    fn keep(&mut self, place: usize, cell: Cell) {
        let Some(mesh) = self.scenes[place].mesh() else {
            self.report.cells.push(cell);
            return;
        };
        let (mut paths, mut requests) = (mesh::Paths::new(), 0);
        for slice in &cell.rounds {
            requests += slice.latency.count().max(slice.completed);
            for (label, count) in slice.paths.iter().flatten() {
                *paths.entry(label.clone()).or_insert(0) += count;
            }
        }
        // Connections that stay were made before, and counted then.
        let connections = if cell.workload.exchange == Exchange::Short { requests } else { 0 };
        match mesh::check(mesh, &paths, requests, connections) {
            Ok(()) => self.report.cells.push(cell),
            Err(error) => {
                let what = format!("{}: {}", cell.subject.label(), cell.workload.label());
                self.leave_out(&what, &error);
            }
        }
    }

    /// Requests a second at which an open loop runs.
    fn rate(&self, workload: Workload) -> Option<f64> {
        let base = Workload::new(workload.exchange, Load::Saturation, workload.connections);
        let of = |cell: &Cell| median(&cell.each(Figure::Rate, 0.0));
        let all = self.report.cells.iter().filter(|cell| cell.view == self.view && cell.workload == base);
        let half = match workload.load {
            Load::Saturation => return None,
            Load::HalfOfDirect => all.filter(|cell| cell.subject == Subject::Direct).find_map(of)?,
            Load::HalfOfSlowest => all.filter_map(of).fold(f64::INFINITY, f64::min),
        } / 2.0;
        (half.is_finite() && half >= 1.0).then(|| half.round())
    }
}

/// A slice, and how often it was taken again: the generator tells when its time begins and ends, so a slice that was far
/// longer or shorter by another clock is one in which it did not get to run.
fn slice(scene: &mut Scene, cell: &Cell, seconds: f64) -> Result<(Slice, u64)> {
    let order = cell.workload.order(SERVICE, cell.rate, seconds, "");
    let mut again = 0;
    loop {
        let slice = Slice::of(scene.load(&order)?);
        let starved = (slice.spent.seconds / seconds - 1.0).abs() > STARVED;
        if !starved || again == MOST_AGAIN {
            return Ok((slice, again));
        }
        again += 1;
    }
}

/// That the way works, and is the one that its name says.
///
/// Alizé's proxy finds the network namespaces of clients by and by; connections that are made before are balanced as a
/// whole, for as long as they live. So it is tried with new connections for a while.
pub(crate) fn try_out(scene: &mut Scene) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tried = try_once(scene);
        let routed = matches!(scene.mesh(), Some(Mesh::Requests { .. } | Mesh::Proxy));
        if tried.is_ok() || !routed || Instant::now() >= deadline {
            return tried;
        }
        check_interrupt()?;
        std::thread::sleep(PAUSE);
    }
}

fn try_once(scene: &mut Scene) -> Result<()> {
    // An order of short connections closes those that stayed open.
    scene.load(&Workload::new(Exchange::Short, Load::Saturation, 1).order(
        SERVICE,
        None,
        TRIAL_SECONDS / 3.0,
        "",
    ))?;
    let workload = Workload::new(Exchange::Small, Load::Saturation, 4);
    let order = workload.order(SERVICE, None, TRIAL_SECONDS, "");
    let first = scene.load(&order)?;
    if let Some(error) = first.loaded.first_error {
        anyhow::bail!("requests fail: {error}");
    }
    anyhow::ensure!(first.loaded.completed > 0, "no request was answered");
    let Some(mesh) = scene.mesh() else { return Ok(()) };
    if mesh == Mesh::Connections {
        return mesh::check(mesh, &first.paths.unwrap_or_default(), 0, workload.connections as u64);
    }
    // The first requests of a connection may go by user space, which opens what the kernel then uses.
    let second = scene.load(&order)?;
    mesh::check(mesh, &second.paths.unwrap_or_default(), second.loaded.all_completed, 0)
}

/// Busy CPUs of a machine on which the bench does nothing.
fn idle() -> Result<f64> {
    let roles = Roles::new();
    let before = Sample::take(&roles, &[], &[])?;
    std::thread::sleep(IDLE);
    let spent = before.until(&Sample::take(&roles, &[], &[])?);
    Ok(spent.machine / spent.seconds)
}
