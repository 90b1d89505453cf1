//! How cost grows: over services, routes, connections and the size of a request's head.

use anyhow::Result;

use super::arguments::Amount;
use super::mesh;
use super::place::SERVICE;
use super::progress::Progress;
use super::report::{Curve, Figure, Point, Report, Slice};
use super::rounds::try_out;
use super::scene::{Means, Measured, Scene};
use super::subject::{Mesh, Subject, Way};
use super::workload::{Exchange, Load, Workload};
use crate::process::check_interrupt;

const SERVICES: [u64; 5] = [1, 10, 100, 1_000, 10_000];
const ROUTES: [u64; 4] = [1, 10, 100, 1_000];
const CONNECTIONS: [u64; 5] = [1, 10, 100, 1_000, 10_000];
const HEADER_BYTES: [u64; 6] = [128, 512, 1_024, 2_048, 4_000, 8_000];
/// What a head has before it is made longer.
const HEAD: usize = 62;
const SECONDS: f64 = 0.3;

pub(crate) fn measure(
    means: &Means<'_>,
    subjects: &[Subject],
    amount: &Amount,
    report: &mut Report,
    progress: &Progress,
) -> Result<()> {
    let whole = progress.split(0.0).1;
    let mut drawing = Drawing { means, amount, report, progress };
    for (place, &subject) in subjects.iter().enumerate() {
        let at = |place: usize| whole.0 + (whole.1 - whole.0) * place as f64 / subjects.len() as f64;
        progress.span((at(place), at(place + 1)));
        // What rules cost does not depend on what is sent, and equals need no curve.
        if matches!(subject.way(), Way::Rules(_)) || subject == Subject::DirectAgain {
            continue;
        }
        match subject.way() {
            // What does not work at all would not with more services either.
            _ if !drawing.over_load(subject)? => {}
            Way::Alize(Mesh::Connections) => drawing.over_services(subject)?,
            Way::Alize(Mesh::Requests { .. } | Mesh::Proxy) => {
                drawing.over_services(subject)?;
                drawing.over_routes(subject)?;
            }
            _ => {}
        }
    }
    Ok(())
}

struct Drawing<'a, 'b> {
    means: &'a Means<'b>,
    amount: &'a Amount,
    report: &'a mut Report,
    progress: &'a Progress,
}

impl Drawing<'_, '_> {
    /// Whether the way works.
    fn over_load(&mut self, subject: Subject) -> Result<bool> {
        let name = format!("{}, curves", subject.label());
        let Some(mut scene) = self.scene(&self.means.clone(), subject, &name)? else { return Ok(false) };
        for bytes in HEADER_BYTES {
            let field = format!("X-Long: {}\r\n", "a".repeat((bytes as usize).saturating_sub(HEAD + 10)));
            self.points(&mut scene, Curve::HeaderBytes, bytes, 16, &field)?;
        }
        // Last, for ten thousand are more than some ways survive.
        for connections in CONNECTIONS {
            self.points(&mut scene, Curve::Connections, connections, connections as usize, "")?;
        }
        Ok(true)
    }

    fn over_services(&mut self, subject: Subject) -> Result<()> {
        for services in SERVICES {
            let means = Means { more_services: services as u32 - 1, ..*self.means };
            let name = format!("{}, {services} services", subject.label());
            let Some(mut scene) = self.scene(&means, subject, &name)? else { return Ok(()) };
            self.points(&mut scene, Curve::Services, services, 16, "")?;
        }
        Ok(())
    }

    fn over_routes(&mut self, subject: Subject) -> Result<()> {
        for routes in ROUTES {
            let means = Means { routes_before: routes as u32 - 1, ..*self.means };
            let name = format!("{}, {routes} routes", subject.label());
            let Some(mut scene) = self.scene(&means, subject, &name)? else { return Ok(()) };
            self.points(&mut scene, Curve::Routes, routes, 16, "")?;
        }
        Ok(())
    }

    /// What cannot be is left out with its reason, and with it what would be larger.
    fn scene(&mut self, means: &Means<'_>, subject: Subject, name: &str) -> Result<Option<Scene>> {
        check_interrupt()?;
        self.progress.step(name);
        let ready = Scene::prepare(means, subject).and_then(|mut scene| {
            try_out(&mut scene)?;
            Ok(scene)
        });
        match ready {
            Ok(scene) => Ok(Some(scene)),
            Err(error) => {
                check_interrupt()?;
                self.report.leave_out(name, &error);
                Ok(None)
            }
        }
    }

    fn points(
        &mut self,
        scene: &mut Scene,
        curve: Curve,
        x: u64,
        connections: usize,
        fields: &str,
    ) -> Result<()> {
        let workload = Workload::new(Exchange::Small, Load::Saturation, connections);
        let order = workload.order(SERVICE, None, SECONDS, fields);
        for round in 0..self.amount.rounds.min(5) {
            let what = format!("{}: {x} {}", scene.subject.label(), curve.label());
            self.progress.step(&format!("{what}, round {}", round + 1));
            let measured = match scene.load(&order).and_then(|measured| as_named(scene, measured)) {
                Ok(measured) => measured,
                Err(error) => {
                    check_interrupt()?;
                    self.report.leave_out(&what, &error);
                    return Ok(());
                }
            };
            let slice = Slice::of(measured);
            let figure = |figure| slice.figure(figure, 0.0);
            let (Some(cpu), Some(p50), Some(rate)) =
                (figure(Figure::ProcessCpu), figure(Figure::P50), figure(Figure::Rate))
            else {
                continue;
            };
            self.report.curves.push(Point { curve, subject: scene.subject, x, cpu, p50, rate });
        }
        Ok(())
    }
}

/// Without errors, and by the way that the name says.
fn as_named(scene: &Scene, measured: Measured) -> Result<Measured> {
    if let Some(error) = &measured.loaded.first_error {
        anyhow::bail!("{error}");
    }
    if let (Some(mesh @ (Mesh::Requests { .. } | Mesh::Proxy)), Some(paths)) = (scene.mesh(), &measured.paths)
    {
        mesh::check(mesh, paths, measured.loaded.all_completed, 0)?;
    }
    Ok(measured)
}
