//! Puts the programs of a bundle in force: loaded and tried beside those that run, then switched. Whatever fails, what ran
//! before goes on.

mod changed;
mod install;
mod steps;
mod version;

use std::path::PathBuf;

use crate::bundle::{Bundle, Digest, Part, Prepared, Store};
use crate::canary::{Canary, Scope, Trial};
use crate::environment::{self, Cgroup};
use crate::load::{self, Ground, Role};
use crate::observe::Limits;
use crate::pin::{Pins, cgroup_of, entries};
use crate::{DataPath, Error, Options, canary, origins, outermost};

use changed::discard;
pub(crate) use changed::{Changed, entries_of, pin_path};
use install::tell_again;
pub(crate) use install::{install, load_asked, observe, observe_asked};
pub(crate) use steps::Site;
use steps::{Ready, Steps};
use version::{Losses, Selection, Version, Working};

/// A step that was taken.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Step {
    /// Its name: `keep`, `plan`, `load`, `self-test`, `carry-over`, `note`, `switch`, `pins`.
    pub name: &'static str,
    /// What was done.
    pub done: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What [`DataPath::upgrade`] did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Upgraded {
    /// Version and digest of what ran before.
    pub from: Vec<String>,
    /// Version of what runs now.
    pub version: String,
    /// Its digest.
    pub digest: Digest,
    /// How it came about.
    pub steps: Vec<Step>,
}

/// Where a bundle that is put in force is kept.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The folder.
    pub store: Store,
    /// Whether the next start is to find it chosen by hand.
    pub chosen: bool,
}

impl From<Upgraded> for alize_model::api::Upgraded {
    fn from(upgraded: Upgraded) -> Self {
        let step = |step: Step| alize_model::api::UpgradeStep {
            name: step.name.into(),
            done: step.done,
            seconds: step.seconds,
        };
        Self {
            from: upgraded.from,
            version: upgraded.version,
            digest: upgraded.digest.to_string(),
            steps: upgraded.steps.into_iter().map(step).collect(),
        }
    }
}

impl DataPath {
    /// Puts the programs of `bundle` in force in place of those that run, with the same maps. On an error what ran before
    /// goes on, and the error says at which step.
    pub fn upgrade(&mut self, bundle: &Bundle, keeping: Option<&Keeping>) -> Result<Upgraded, Error> {
        let in_force = self.in_force.clone();
        let mut turn = in_force.turn();
        let from = titles(&self.pins)?;
        let cgroups = self.open_cgroups()?;
        let installed = install(&self.site(&cgroups), bundle, true, Some(&turn.bundle()?), keeping);
        let (loaded, steps) = installed.map_err(|source| Error::Upgrade {
            bundle: bundle.title(),
            running: from.join(" and "),
            source: Box::new(source),
        })?;
        turn.put(bundle)?;
        self.take_over(loaded)?;
        self.canary = None;
        crate::memory::trim();
        let manifest = bundle.manifest();
        Ok(Upgraded { from, version: manifest.version.clone(), digest: bundle.digest(), steps })
    }

    /// Puts the programs of `bundle` to work beside those that run, for those that `scope` names; ends with
    /// [`DataPath::promote`], [`DataPath::abort`] or another upgrade. On an error what ran before goes on.
    pub fn try_out(
        &mut self,
        bundle: &Bundle,
        scope: &Scope,
        keeping: Option<&Keeping>,
    ) -> Result<Upgraded, Error> {
        if let Some(canary) = &self.canary {
            return Err(Error::TrialRuns { bundle: canary.bundle.title() });
        }
        let in_force = self.in_force.clone();
        let turn = in_force.turn();
        let from = titles(&self.pins)?;
        let mut steps = Steps::default();
        let begun = self.begin_trial(&mut steps, bundle, &turn.bundle()?, scope, keeping);
        self.canary = Some(begun.map_err(|source| Error::Upgrade {
            bundle: bundle.title(),
            running: from.join(" and "),
            source: Box::new(source),
        })?);
        let manifest = bundle.manifest();
        Ok(Upgraded { from, version: manifest.version.clone(), digest: bundle.digest(), steps: steps.0 })
    }

    /// Programs that observe are verified and tried with the others; they change with the promotion.
    fn begin_trial(
        &self,
        steps: &mut Steps,
        bundle: &Bundle,
        before: &Bundle,
        scope: &Scope,
        keeping: Option<&Keeping>,
    ) -> Result<Canary, Error> {
        let pins = &self.pins;
        let kept = steps.keep(pins, bundle, keeping)?;
        let (version, before) = (Version::new(bundle)?, Version::new(before)?);
        let losses = Losses {
            working: Working::look(pins)?,
            version: &version,
            before: Some(&before),
            budgets: &self.budgets,
        };
        let loses = |part: &Part| losses.has(part);
        let cgroups = self.open_cgroups()?;
        let site = self.site(&cgroups);
        let changed = steps.plan(&site, bundle, &version.next(pins)?)?;
        // Two versions count in the same maps: they must agree about them.
        if let Some(map) = changed.into_keys().next() {
            return Err(Error::Step { step: "plan", source: Box::new(Error::TrialLayout { map }) });
        }
        let selection = version.select(|part| part.role == Role::DataPath)?;
        // What is left of a trial before.
        canary::clear(pins)?;
        let changed = Changed::new();
        let ground = Ground { on_trial: true, ..site.ground(&changed) };
        let begun = steps.load_on(&ground, &selection, &loses).and_then(|loading| {
            steps.self_test(&site, &version, &loses)?;
            steps.note(pins, &version, &loading)?;
            steps.take("gates", || {
                let gates = canary::begin(pins, &cgroups, &loading, scope)?;
                Ok(((), format!("{gates} hooks have both versions")))
            })?;
            Ok(loading)
        });
        let loading = begun.inspect_err(|_| {
            if let Err(error) = canary::clear(pins) {
                tracing::warn!("what was made for a trial stays pinned: {error}");
            }
        })?;
        Ok(Canary::new(bundle.clone(), loading, kept))
    }

    fn site<'a>(&'a self, cgroups: &'a [Cgroup]) -> Site<'a> {
        Site {
            pins: &self.pins,
            budgets: &self.budgets,
            limits: &Limits::DEFAULT,
            cgroups,
            bpffs: &self.bpffs,
        }
    }

    fn open_cgroups(&self) -> Result<Vec<Cgroup>, Error> {
        outermost(&self.cgroups)
    }

    /// The version on trial gets all connections, and observes. On an error both go on as before.
    pub fn promote(&mut self) -> Result<Upgraded, Error> {
        let in_force = self.in_force.clone();
        let mut turn = in_force.turn();
        let canary = self.canary.as_ref().ok_or(Error::NoTrial)?;
        let from = titles(&self.pins)?;
        let cgroups = self.open_cgroups()?;
        let mut steps = Steps::default();
        let promoted = self.begin_promotion(&mut steps, canary, &cgroups);
        promoted.map_err(|source| Error::Upgrade {
            bundle: canary.bundle.title(),
            running: from.join(" and "),
            source: Box::new(source),
        })?;
        let Some(Canary { loading, kept, bundle }) = self.canary.take() else { return Err(Error::NoTrial) };
        canary::keep_counts(&self.pins)?;
        canary::clear(&self.pins)?;
        turn.put(&bundle)?;
        self.take_over(loading.keep()?)?;
        remember(kept, &bundle);
        crate::memory::trim();
        let (version, digest) = (bundle.manifest().version.clone(), bundle.digest());
        Ok(Upgraded { from, version, digest, steps: steps.0 })
    }

    fn begin_promotion(&self, steps: &mut Steps, canary: &Canary, cgroups: &[Cgroup]) -> Result<(), Error> {
        let pins = &self.pins;
        let version = Version::new(&canary.bundle)?;
        let working = Working::look(pins)?;
        let next = version.next(pins)?;
        let observing = next.parts.into_iter().filter(|part| part.role != Role::DataPath).collect();
        let selection = Selection { parts: observing };
        let site = self.site(cgroups);
        if selection.parts.is_empty() {
            return steps.switch(&site, &Changed::new(), &[&canary.loading]);
        }
        let changed = steps.plan(&site, &version.observer, &selection)?;
        let loses = |part: &Part| working.has(&version, part);
        let ready = steps.load(&site, changed, &selection, &loses);
        let Ready { changed, loading } = ready.inspect_err(|_| discard(pins))?;
        let promoted = steps
            .carry_over(pins, &changed)
            .and_then(|()| steps.note(pins, &version, &loading))
            .and_then(|()| steps.switch(&site, &changed, &[&canary.loading, &loading]));
        promoted.inspect_err(|_| discard(pins))?;
        steps.pins(&site, &changed)?;
        tell_again(pins, &loading)
    }

    /// The version on trial is given up: the other one gets all connections. Says what it was.
    pub fn abort(&mut self) -> Result<String, Error> {
        let in_force = self.in_force.clone();
        let _turn = in_force.turn();
        let canary = self.canary.as_ref().ok_or(Error::NoTrial)?;
        let title = canary.bundle.title();
        canary::abort(&self.pins, &self.open_cgroups()?)?;
        self.canary = None;
        crate::memory::trim();
        Ok(title)
    }

    /// The trial under way.
    pub fn trial(&self) -> Result<Option<Trial>, Error> {
        match self.canary {
            Some(_) => canary::seen(&self.pins),
            None => Ok(None),
        }
    }
}

/// It is in force: there is no way back, so what cannot be kept is told and no error.
fn remember(kept: Option<Prepared>, bundle: &Bundle) {
    if let Some(Err(error)) = kept.map(Prepared::keep) {
        tracing::warn!("{} is in force and not kept: {error}", bundle.title());
    }
}

/// Version and digest of what runs.
pub(crate) fn titles(pins: &Pins) -> Result<Vec<String>, Error> {
    let title = |running: &origins::Running| match (&running.version, running.digest) {
        (Some(version), Some(digest)) => format!("{version} ({})", digest.short()),
        _ => "a version of before bundles".to_owned(),
    };
    Ok(origins::running(pins)?.iter().map(title).collect())
}

/// Upgrades an instance that no agent keeps.
pub fn upgrade_pinned(options: &Options, bundle: &Bundle, keeping: &Keeping) -> Result<Upgraded, Error> {
    environment::check_root()?;
    let pins = Pins::new(options)?;
    let budgets = load::pinned_budgets(&pins, &options.budgets)?
        .ok_or_else(|| Error::NotLoaded { instance: options.instance.clone() })?;
    let from = titles(&pins)?;
    let options = Options { budgets, cgroups: attached(&pins)?, ..options.clone() };
    let (_, _, steps) = DataPath::open_kept(&options, bundle, Some(keeping))?;
    let manifest = bundle.manifest();
    Ok(Upgraded { from, version: manifest.version.clone(), digest: bundle.digest(), steps })
}

/// Folders of the cgroups that the links are attached to.
fn attached(pins: &Pins) -> Result<Vec<PathBuf>, Error> {
    let mut ids: Vec<u64> = entries(&pins.links())?.iter().filter_map(|path| cgroup_of(path)).collect();
    ids.sort();
    ids.dedup();
    let root = environment::cgroup2_root().ok_or(Error::NoCgroup2)?;
    let mut folders = Vec::new();
    for id in ids {
        let found = environment::find_below(&root, &|inode| inode == id);
        folders.extend(found.map_err(|e| Error::path("cannot search", &root, e))?);
    }
    Ok(folders)
}
