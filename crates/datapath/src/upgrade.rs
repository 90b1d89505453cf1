//! Puts the programs of a bundle in force: loaded and tried beside those that run, then switched. Whatever fails, what ran
//! before goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use alize_model::Budgets;
use libbpf_rs::{MapCore, MapHandle};

use crate::bundle::{Bundle, Digest, Prepared, Store};
use crate::canary::{Canary, Scope, Trial};
use crate::environment::{self, Cgroup};
use crate::layout::{self, Fit, MapLayout, belongs_to_sockets};
use crate::load::{self, Loaded, Loading};
use crate::pin::{Pins, cgroup_of, entries};
use crate::switch::Switch;
use crate::{DataPath, Error, Options, attach, canary, fault, migrate, origins, selftest};

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

/// Where the programs go, and whether others run there.
pub(crate) struct Site<'a> {
    pub(crate) pins: &'a Pins,
    pub(crate) budgets: &'a Budgets,
    pub(crate) cgroups: &'a [Cgroup],
    pub(crate) bpffs: &'a Path,
}

/// Maps whose layout is another, by name.
pub(crate) type Changed = BTreeMap<String, Change>;

/// A pinned map that the new programs cannot use as it is.
pub(crate) struct Change {
    map: MapHandle,
    from: MapLayout,
    to: MapLayout,
}

/// Names each step, and stops at the one that fails.
#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn take<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<(T, String), Error>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let taken = fault::point(name).and_then(|()| step());
        let (value, done) = taken.map_err(|source| Error::Step { step: name, source: Box::new(source) })?;
        tracing::debug!("{name}: {done}");
        self.0.push(Step { name, done, seconds: begun.elapsed().as_secs_f64() });
        Ok(value)
    }

    /// Before anything else: what is in force and not kept would be gone with the next start.
    fn keep(
        &mut self,
        pins: &Pins,
        bundle: &Bundle,
        keeping: Option<&Keeping>,
    ) -> Result<Option<Prepared>, Error> {
        let Some(keeping) = keeping else { return Ok(None) };
        self.take("keep", || {
            let instance = keeping.chosen.then(|| pins.name());
            let kept = keeping.store.prepare(bundle, instance)?;
            Ok((Some(kept), format!("written to {}", keeping.store.folder().display())))
        })
    }

    fn switch(&mut self, pins: &Pins, cgroups: &[Cgroup], loading: &Loading) -> Result<(), Error> {
        self.take("switch", || {
            let mut switch = Switch::default();
            match loading.in_order().try_for_each(|object| switch.object(object, pins, cgroups)) {
                Ok(()) => Ok(((), format!("{} places, each in one step", switch.places()))),
                Err(error) => {
                    switch.take_back();
                    Err(error)
                }
            }
        })
    }
}

/// Loads `bundle` and puts it to work in the place of what runs at `site`. With `tried`, only after a self-test.
/// Whoever gives `keeping` has the bundle kept, and nothing is done where that is not possible.
pub(crate) fn install(
    site: &Site<'_>,
    bundle: &Bundle,
    tried: bool,
    keeping: Option<&Keeping>,
) -> Result<(Loaded, Vec<Step>), Error> {
    let mut steps = Steps::default();
    let pins = site.pins;
    let kept = steps.keep(pins, bundle, keeping)?;
    let changed = steps.take("plan", || {
        discard_drafts(pins)?;
        selftest::sweep(site.bpffs)?;
        let changed = changes(pins, bundle)?;
        let names: Vec<&str> = changed.keys().map(String::as_str).collect();
        let told = if names.is_empty() {
            "all maps are adopted".into()
        } else {
            format!("other layout: {}", names.join(", "))
        };
        Ok((changed, told))
    })?;
    let loading = steps.take("load", || {
        let loading = load::load(pins, site.budgets, bundle, &changed)?;
        let told = format!("{} programs verified beside those that run", loading.programs());
        Ok((loading, told))
    });
    // Drafts of maps are pinned by now; without programs that use them they are nothing.
    let loading = loading.inspect_err(|_| discard(pins))?;
    let installed = steps
        .take("self-test", || match tried {
            true => selftest::run(bundle, site.bpffs).map(|()| ((), "real connects through them".to_owned())),
            false => Ok(((), "not needed: the same bundle runs already, or nothing does".to_owned())),
        })
        .and_then(|()| {
            steps.take("carry-over", || {
                let mut told = Vec::new();
                for (name, change) in &changed {
                    let new = layout::pinned(&pins.draft(name))?.ok_or_else(|| lost(name))?;
                    let count = migrate::carry_over(name, (&change.map, &change.from), (&new, &change.to))?;
                    told.push(format!("{name}: {count} entries"));
                }
                Ok(((), if told.is_empty() { "nothing".into() } else { told.join(", ") }))
            })
        })
        .and_then(|()| {
            steps.take("note", || {
                origins::note(pins, bundle, loading.statuses())?;
                Ok(((), "whose the programs are".into()))
            })
        })
        .and_then(|()| steps.switch(pins, site.cgroups, &loading));
    installed.inspect_err(|_| discard(pins))?;
    // The new programs work: from here on there is no way back but forward.
    if !changed.is_empty() {
        // The observer's program would look into the maps before; it comes again with the next observer.
        crate::observe::look_away(pins)?;
    }
    steps.take("pins", || {
        for name in changed.keys() {
            let (from, to) = (pins.draft(name), pins.map(name));
            std::fs::rename(&from, &to).map_err(|e| Error::path("cannot move", from, e))?;
        }
        attach::detach_others(pins, site.cgroups)?;
        // If another version was on trial, its gates have been replaced.
        canary::clear(pins)?;
        Ok(((), format!("{} maps replaced", changed.len())))
    })?;
    remember(kept, bundle);
    Ok((loading.keep()?, steps.0))
}

fn lost(name: &str) -> Error {
    Error::kernel("cannot find map", name, std::io::Error::other("no program uses it"))
}

fn discard(pins: &Pins) {
    if let Err(error) = discard_drafts(pins) {
        tracing::warn!("a map that was made for an upgrade stays pinned: {error}");
    }
}

/// Maps that an upgrade before has made and not put in force.
fn discard_drafts(pins: &Pins) -> Result<(), Error> {
    let drafts = entries(&pins.maps())?.into_iter().filter(|path| Pins::is_draft(path));
    drafts.into_iter().try_for_each(|path| attach::unpin(&path))
}

/// The pinned maps whose layout is not the one that `bundle` asks for; refuses what cannot be changed.
fn changes(pins: &Pins, bundle: &Bundle) -> Result<Changed, Error> {
    let mut changed = Changed::new();
    if entries(&pins.maps())?.is_empty() {
        return Ok(changed);
    }
    let wanted = layouts(bundle)?;
    known(bundle, &wanted)?;
    for (name, to) in wanted {
        let Some(map) = layout::pinned(&pins.map(&name))? else { continue };
        let from = layout::of_map(&name, &map)?;
        if to.fit(&from) == Fit::Same {
            continue;
        }
        if belongs_to_sockets(to.kind) || name == "endpoint_load" {
            return Err(Error::MapFixed { map: name });
        }
        changed.insert(name, Change { map, from, to });
    }
    Ok(changed)
}

/// The shared maps, as the objects ask for them.
fn layouts(bundle: &Bundle) -> Result<BTreeMap<String, MapLayout>, Error> {
    let mut layouts = BTreeMap::new();
    for part in bundle.parts() {
        let maps = layout::of_object(part.name, &part.bytes)?.maps;
        layouts.extend(maps.into_iter().map(|map| (map.name.clone(), map)));
    }
    Ok(layouts)
}

/// User space reads and writes maps with the types of this binary: those of a bundle may have grown behind them.
fn known(bundle: &Bundle, wanted: &BTreeMap<String, MapLayout>) -> Result<(), Error> {
    let embedded = Bundle::embedded()?;
    if embedded.digest() == bundle.digest() {
        return Ok(());
    }
    let own = layouts(&embedded)?;
    for (name, layout) in wanted.iter().filter(|(name, _)| load::is_read_here(name)) {
        // Mapped into this process, a value must have its very size.
        let exact = name == "services";
        let fits =
            |known: &MapLayout| layout.extends(known) && (!exact || layout.value_size == known.value_size);
        if !own.get(name).is_none_or(fits) {
            return Err(Error::MapUnknown { map: name.clone() });
        }
    }
    Ok(())
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
        let from = titles(&self.pins)?;
        let cgroups = self.open_cgroups()?;
        let site = Site { pins: &self.pins, budgets: &self.budgets, cgroups: &cgroups, bpffs: &self.bpffs };
        let installed = install(&site, bundle, true, keeping);
        let (loaded, steps) = installed.map_err(|source| Error::Upgrade {
            bundle: bundle.title(),
            running: from.join(" and "),
            source: Box::new(source),
        })?;
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
        let from = titles(&self.pins)?;
        let mut steps = Steps::default();
        let begun = self.begin_trial(&mut steps, bundle, scope, keeping);
        self.canary = Some(begun.map_err(|source| Error::Upgrade {
            bundle: bundle.title(),
            running: from.join(" and "),
            source: Box::new(source),
        })?);
        let manifest = bundle.manifest();
        Ok(Upgraded { from, version: manifest.version.clone(), digest: bundle.digest(), steps: steps.0 })
    }

    fn begin_trial(
        &self,
        steps: &mut Steps,
        bundle: &Bundle,
        scope: &Scope,
        keeping: Option<&Keeping>,
    ) -> Result<Canary, Error> {
        let pins = &self.pins;
        let kept = steps.keep(pins, bundle, keeping)?;
        steps.take("plan", || {
            discard_drafts(pins)?;
            selftest::sweep(&self.bpffs)?;
            // Two versions count in the same maps: they must agree about them.
            match changes(pins, bundle)?.into_keys().next() {
                Some(map) => Err(Error::TrialLayout { map }),
                None => Ok(((), "both versions have the same maps".into())),
            }
        })?;
        let cgroups = self.open_cgroups()?;
        let loading = steps.take("load", || {
            let loading = load::load(pins, &self.budgets, bundle, &Changed::new())?;
            let told = format!("{} programs verified beside those that run", loading.programs());
            Ok((loading, told))
        })?;
        steps.take("self-test", || {
            selftest::run(bundle, &self.bpffs).map(|()| ((), "real connects through them".to_owned()))
        })?;
        steps.take("note", || {
            origins::note(pins, bundle, loading.statuses())?;
            Ok(((), "whose the programs are".into()))
        })?;
        steps.take("gates", || {
            let gates = canary::begin(pins, &cgroups, &loading, scope)?;
            Ok(((), format!("{gates} hooks have both versions")))
        })?;
        Ok(Canary::new(bundle.clone(), loading, kept))
    }

    fn open_cgroups(&self) -> Result<Vec<Cgroup>, Error> {
        self.cgroups.iter().map(|path| environment::open_cgroup(path)).collect()
    }

    /// The version on trial gets all connections. On an error both go on as before.
    pub fn promote(&mut self) -> Result<Upgraded, Error> {
        let canary = self.canary.as_ref().ok_or(Error::NoTrial)?;
        let (from, digest) = (titles(&self.pins)?, canary.bundle.digest());
        let version = canary.bundle.manifest().version.clone();
        let mut steps = Steps::default();
        let cgroups = self.open_cgroups()?;
        steps.switch(&self.pins, &cgroups, &canary.loading).map_err(|source| Error::Upgrade {
            bundle: canary.bundle.title(),
            running: from.join(" and "),
            source: Box::new(source),
        })?;
        let Some(Canary { loading, kept, bundle }) = self.canary.take() else { return Err(Error::NoTrial) };
        canary::clear(&self.pins)?;
        self.take_over(loading.keep()?)?;
        remember(kept, &bundle);
        crate::memory::trim();
        Ok(Upgraded { from, version, digest, steps: steps.0 })
    }

    /// The version on trial is given up: the other one gets all connections. Says what it was.
    pub fn abort(&mut self) -> Result<String, Error> {
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

/// Whether a map is one of those that are changed; where it is pinned until the switch.
pub(crate) fn pin_path(pins: &Pins, changed: &Changed, name: &str) -> PathBuf {
    if changed.contains_key(name) { pins.draft(name) } else { pins.map(name) }
}

/// Entries that a changed map keeps: as many as before.
pub(crate) fn entries_of(changed: &Changed, name: &str) -> Option<u32> {
    changed.get(name).map(|change| change.map.max_entries())
}
