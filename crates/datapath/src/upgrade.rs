//! Puts the programs of a bundle in force: loaded and tried beside those that run, then switched. Whatever fails, what ran
//! before goes on.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use alize_model::Budgets;
use libbpf_rs::{Link, MapHandle, Object};

use crate::bundle::{Bundle, Digest, MapAbi, Part, Prepared, Store};
use crate::canary::{Canary, Scope, Trial};
use crate::environment::{self, Cgroup};
use crate::error::io_error;
use crate::layout::{self, Fit, MapLayout, belongs_to_sockets, leads_on};
use crate::load::{self, Ground, Loaded, Loading, Role};
use crate::observe::{self, Limits, told};
use crate::pin::{Pins, cgroup_of, entries, program_of};
use crate::switch::{self, Switch};
use crate::{DataPath, Error, Options, attach, canary, fault, migrate, origins, outermost, selftest};

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

/// Where the programs go.
pub(crate) struct Site<'a> {
    pub(crate) pins: &'a Pins,
    pub(crate) budgets: &'a Budgets,
    pub(crate) limits: &'a Limits,
    pub(crate) cgroups: &'a [Cgroup],
    pub(crate) bpffs: &'a Path,
}

impl Site<'_> {
    fn ground<'a>(&'a self, changed: &'a Changed) -> Ground<'a> {
        Ground { pins: self.pins, budgets: self.budgets, limits: self.limits, changed, on_trial: false }
    }
}

/// Maps whose layout is another, by name.
pub(crate) type Changed = BTreeMap<String, Change>;

/// A pinned map that the new programs cannot use as it is.
pub(crate) struct Change {
    map: MapHandle,
    from: MapLayout,
    to: MapLayout,
    carries_over: bool,
}

/// A bundle, and the one whose programs observe while it is in force: mostly the same.
pub(crate) struct Version<'a> {
    bundle: &'a Bundle,
    observer: Cow<'a, Bundle>,
}

/// What is loaded of a version.
struct Selection<'a> {
    parts: Vec<&'a Part>,
}

/// Verified, and not at work yet.
struct Ready {
    changed: Changed,
    loading: Loading,
}

/// Names each step, and stops at the one that fails.
#[derive(Default)]
struct Steps(Vec<Step>);

impl<'a> Version<'a> {
    pub(crate) fn new(bundle: &'a Bundle) -> Result<Self, Error> {
        Ok(Self { bundle, observer: bundle.observer()? })
    }

    /// All that may be at work together.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let own = self.bundle.parts().iter().filter(|part| part.role == Role::DataPath);
        own.chain(self.observer.parts().iter().filter(|part| part.role != Role::DataPath))
    }

    fn select(&self, wanted: impl Fn(&Part) -> bool) -> Result<Selection<'_>, Error> {
        let is_mixed = self.observer.digest() != self.bundle.digest();
        let mut parts = Vec::new();
        for part in self.parts().filter(|part| wanted(part)) {
            let other = match is_mixed && part.role != Role::DataPath {
                true => self.disagreement(part)?,
                false => None,
            };
            match other {
                Some(map) => tracing::warn!(
                    "object {} is off: {}; {} has no programs that observe, and those of this alize know map {map} with \
                     another layout",
                    part.name,
                    part.feature.unwrap_or_default(),
                    self.bundle.title()
                ),
                None => parts.push(part),
            }
        }
        Ok(Selection { parts })
    }

    /// The map that an object of another bundle would read wrongly.
    fn disagreement(&self, part: &Part) -> Result<Option<String>, Error> {
        let maps = layout::of_object(part.name, &part.bytes)?.maps;
        let known = &self.bundle.manifest().maps;
        let differs =
            |map: &MapLayout| known.iter().any(|abi| abi.name == map.name && *abi != MapAbi::of(map));
        Ok(maps.into_iter().find(differs).map(|map| map.name))
    }

    /// What would be at work next of this version: all that is so always, and what is so now of the rest.
    fn next(&self, pins: &Pins) -> Result<Selection<'_>, Error> {
        let working = Working::look(pins)?;
        let observed = self.parts().any(|part| part.name == "observe" && working.has(self, part));
        self.select(|part| match part.role {
            Role::DataPath => true,
            Role::Observer => observed,
            Role::Asked => observed && working.has(self, part),
        })
    }

    fn programs(&self, part: &Part) -> impl Iterator<Item = &str> {
        let of = if part.role == Role::DataPath { self.bundle } else { &*self.observer };
        let facts = of.manifest().objects.iter().find(|facts| facts.name == part.name);
        facts.into_iter().flat_map(|facts| facts.programs.keys().map(String::as_str))
    }
}

/// The programs that links and slots hold now.
struct Working(BTreeSet<String>);

impl Working {
    fn look(pins: &Pins) -> Result<Self, Error> {
        let mut names = BTreeSet::new();
        for path in entries(&pins.links())? {
            names.insert(program_of(&path));
        }
        for slot in switch::SLOTS.iter().chain(&told::SLOTS) {
            let map = layout::pinned(&pins.map(slot.array))?;
            if map.is_some_and(|map| switch::number_in(&map, slot.index).is_some()) {
                names.insert(slot.program.to_owned());
            }
        }
        Ok(Self(names))
    }

    fn has(&self, version: &Version<'_>, part: &Part) -> bool {
        version.programs(part).any(|program| self.0.contains(program))
    }
}

/// What another version would lose: an object that the kernel refuses of it, and that works now or would of the version before.
struct Losses<'a> {
    working: Working,
    version: &'a Version<'a>,
    before: Option<&'a Version<'a>>,
    budgets: &'a Budgets,
}

impl Losses<'_> {
    fn has(&self, part: &Part) -> bool {
        let before = || {
            let mut parts = self.before.into_iter().flat_map(|before| before.parts());
            parts.find(|before| before.name == part.name && before.bytes != part.bytes)
        };
        self.working.has(self.version, part)
            || before().is_some_and(|before| load::is_taken(before, self.budgets))
    }
}

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

    fn plan(
        &mut self,
        site: &Site<'_>,
        bundle: &Bundle,
        selection: &Selection<'_>,
    ) -> Result<Changed, Error> {
        self.take("plan", || {
            discard_drafts(site.pins)?;
            selftest::sweep(site.bpffs)?;
            let changed = changes(site.pins, bundle, selection)?;
            let names: Vec<&str> = changed.keys().map(String::as_str).collect();
            let told = if names.is_empty() {
                "all maps are adopted".into()
            } else {
                format!("other layout: {}", names.join(", "))
            };
            Ok((changed, told))
        })
    }

    /// Drafts of maps are pinned after this.
    fn load(
        &mut self,
        site: &Site<'_>,
        changed: Changed,
        selection: &Selection<'_>,
        loses: &dyn Fn(&Part) -> bool,
    ) -> Result<Ready, Error> {
        let loading = self.load_on(&site.ground(&changed), selection, loses)?;
        Ok(Ready { changed, loading })
    }

    fn load_on(
        &mut self,
        ground: &Ground<'_>,
        selection: &Selection<'_>,
        loses: &dyn Fn(&Part) -> bool,
    ) -> Result<Loading, Error> {
        self.take("load", || {
            let loading = load::load(ground, &selection.parts, loses)?;
            let told = format!("{} programs verified beside those that run", loading.programs());
            Ok((loading, told))
        })
    }

    fn self_test(
        &mut self,
        site: &Site<'_>,
        version: &Version<'_>,
        loses: &dyn Fn(&Part) -> bool,
    ) -> Result<(), Error> {
        self.take("self-test", || {
            let told = selftest::run(&version.select(|_| true)?.parts, site.bpffs, loses)?;
            Ok(((), told.to_owned()))
        })
    }

    fn carry_over(&mut self, pins: &Pins, changed: &Changed) -> Result<(), Error> {
        self.take("carry-over", || {
            let mut told = Vec::new();
            for (name, change) in changed {
                if !change.carries_over {
                    told.push(format!("{name}: begins empty"));
                    continue;
                }
                let new = layout::pinned(&pins.draft(name))?.ok_or_else(|| lost(name))?;
                let count = migrate::carry_over(name, (&change.map, &change.from), (&new, &change.to))?;
                told.push(format!("{name}: {count} entries"));
            }
            Ok(((), if told.is_empty() { "nothing".into() } else { told.join(", ") }))
        })
    }

    fn note(&mut self, pins: &Pins, version: &Version<'_>, loading: &Loading) -> Result<(), Error> {
        self.take("note", || {
            origins::note(pins, version.bundle, loading.statuses(true))?;
            origins::note(pins, &version.observer, loading.statuses(false))?;
            Ok(((), "whose the programs are".into()))
        })
    }

    /// All at once or none; with maps of another layout in `changed`.
    fn switch(&mut self, site: &Site<'_>, changed: &Changed, loading: &[&Loading]) -> Result<(), Error> {
        self.take("switch", || {
            let mut switch = Switch::default();
            let mut all = || {
                if changed.keys().any(|name| name.starts_with("http_")) {
                    // Between the first and the last switch it would give slots back into the map of before.
                    for slot in &told::SLOTS {
                        switch.clear(slot, &site.pins.map(slot.array))?;
                    }
                }
                let mut objects = loading.iter().flat_map(|loading| loading.in_order());
                objects.try_for_each(|object| switch.object(object, site.pins, site.cgroups))
            };
            match all() {
                Ok(()) => Ok(((), format!("{} places, each in one step", switch.places()))),
                Err(error) => {
                    switch.take_back();
                    Err(error)
                }
            }
        })
    }

    fn pins(&mut self, site: &Site<'_>, changed: &Changed) -> Result<(), Error> {
        self.take("pins", || {
            for name in changed.keys() {
                let (from, to) = (site.pins.draft(name), site.pins.map(name));
                std::fs::rename(&from, &to).map_err(|e| Error::path("cannot move", from, e))?;
            }
            attach::detach_others(site.pins, site.cgroups)?;
            Ok(((), format!("{} maps replaced", changed.len())))
        })
    }
}

/// Loads `bundle` and puts it to work in the place of what runs at `site`: with `other`, another version does, and this one is
/// tried first. Whoever gives `keeping` has the bundle kept, and nothing is done where that is not possible.
pub(crate) fn install(
    site: &Site<'_>,
    bundle: &Bundle,
    other: bool,
    before: Option<&Bundle>,
    keeping: Option<&Keeping>,
) -> Result<(Loaded, Vec<Step>), Error> {
    let mut steps = Steps::default();
    let pins = site.pins;
    let kept = steps.keep(pins, bundle, keeping)?;
    let version = Version::new(bundle)?;
    let before = before.map(Version::new).transpose()?;
    let losses = Losses {
        working: Working::look(pins)?,
        version: &version,
        before: before.as_ref(),
        budgets: site.budgets,
    };
    let loses = |part: &Part| other && losses.has(part);
    let selection = version.next(pins)?;
    let changed = steps.plan(site, bundle, &selection)?;
    let ready = steps.load(site, changed, &selection, &loses);
    // Drafts of maps are pinned by now; without programs that use them they are nothing.
    let Ready { changed, loading } = ready.inspect_err(|_| discard(pins))?;
    let installed = match other {
        true => steps.self_test(site, &version, &loses),
        false => steps.take("self-test", || {
            Ok(((), "not needed: the same bundle runs already, or nothing does".to_owned()))
        }),
    };
    let installed = installed
        .and_then(|()| steps.carry_over(pins, &changed))
        .and_then(|()| steps.note(pins, &version, &loading))
        .and_then(|()| steps.switch(site, &changed, &[&loading]));
    installed.inspect_err(|_| discard(pins))?;
    // The new programs work: from here on there is no way back but forward.
    steps.pins(site, &changed)?;
    // If another version was on trial, its gates have been replaced.
    canary::clear(pins)?;
    tell_again(pins, &loading)?;
    remember(kept, bundle);
    Ok((loading.keep()?, steps.0))
}

/// Puts the programs to work that observe while `bundle` is in force, unless they are. Those that only a trace or a service asks
/// for are another matter ([`load_asked`]).
pub(crate) fn observe(site: &Site<'_>, bundle: &Bundle) -> Result<(), Error> {
    let version = Version::new(bundle)?;
    if is_observed_by(site, &version)? {
        return Ok(());
    }
    let is_routed = told::is_possible(site.pins);
    let wanted = |part: &Part| part.role == Role::Observer && (is_routed || part.name != "http_told");
    put_to_work(site, &version, &version.select(wanted)?)
}

/// Puts an object to work that somebody asks for.
pub(crate) fn observe_asked(site: &Site<'_>, bundle: &Bundle, object: &str) -> Result<(), Error> {
    let version = Version::new(bundle)?;
    put_to_work(site, &version, &version.select(|part| part.name == object)?)
}

/// Loads an object whose programs are nowhere pinned.
pub(crate) fn load_asked(site: &Site<'_>, bundle: &Bundle, object: &str) -> Result<Object, Error> {
    let version = Version::new(bundle)?;
    let selection = version.select(|part| part.name == object)?;
    let loading = load::load(&site.ground(&Changed::new()), &selection.parts, &|_| true)?;
    origins::note(site.pins, &version.observer, loading.statuses(false))?;
    loading.into_object(object).ok_or_else(|| not_in(&version, object))
}

fn put_to_work(site: &Site<'_>, version: &Version<'_>, selection: &Selection<'_>) -> Result<(), Error> {
    let mut steps = Steps::default();
    let first = selection.parts.first().filter(|part| matches!(part.name, "observe" | "observe_dns"));
    let first = first.ok_or_else(|| not_in(version, "observe"))?.name;
    let changed = steps.plan(site, &version.observer, selection)?;
    let ready = steps.load(site, changed, selection, &|part| part.name == first);
    let Ready { changed, loading } = ready.inspect_err(|_| discard(site.pins))?;
    let installed = steps
        .carry_over(site.pins, &changed)
        .and_then(|()| steps.note(site.pins, version, &loading))
        .and_then(|()| steps.switch(site, &changed, &[&loading]));
    installed.inspect_err(|_| discard(site.pins))?;
    steps.pins(site, &changed)?;
    tell_again(site.pins, &loading)
}

fn not_in(version: &Version<'_>, object: &str) -> Error {
    let source = std::io::Error::other(format!(
        "{} has no object for it that this alize can use; `alize upgrade` to one that does",
        version.observer.title()
    ));
    Error::kernel("cannot observe with", object, source)
}

/// What tells of requests in the kernel goes on with whatever is in force now.
fn tell_again(pins: &Pins, loading: &Loading) -> Result<(), Error> {
    match (loading.object("http_told"), loading.object("observe")) {
        (Some(_), _) => told::watch(pins),
        (None, Some(_)) => told::look_away(pins),
        (None, None) => Ok(()),
    }
}

/// Whether the programs that observe are those of this version, everywhere.
fn is_observed_by(site: &Site<'_>, version: &Version<'_>) -> Result<bool, Error> {
    let Some(part) = version.parts().find(|part| part.name == "observe") else { return Ok(false) };
    for program in version.programs(part) {
        for cgroup in site.cgroups {
            let path = site.pins.link(program, cgroup);
            if !path.exists() || cgroup_of(&path) != Some(cgroup.id) {
                return Ok(false);
            }
            let info = Link::open(&path).and_then(|link| link.info());
            let id = info.map_err(|e| Error::path("cannot ask about the link", &path, io_error(e)))?.prog_id;
            let origin = origins::origin_of(site.pins, id)?;
            if origin.is_none_or(|(digest, _)| digest != version.observer.digest()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
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

/// The pinned maps whose layout is not the one that `selection` asks for; refuses what cannot be changed.
fn changes(pins: &Pins, bundle: &Bundle, selection: &Selection<'_>) -> Result<Changed, Error> {
    let mut changed = Changed::new();
    if entries(&pins.maps())?.is_empty() {
        return Ok(changed);
    }
    let wanted = layouts(selection.parts.iter().copied())?;
    known(bundle, &wanted)?;
    for (name, (role, to)) in wanted {
        let Some(map) = layout::pinned(&pins.map(&name))? else { continue };
        let from = layout::of_map(&name, &map)?;
        if to.fit(&from) == Fit::Same {
            continue;
        }
        let is_fixed = belongs_to_sockets(to.kind) || leads_on(to.kind) || name == "endpoint_load";
        if role == Role::DataPath && is_fixed {
            return Err(Error::MapFixed { map: name });
        }
        // Observing begins anew with what a socket has under way, as with sockets that were there before the observer.
        let carries_over = !belongs_to_sockets(to.kind) && !migrate::is_scratch(&name);
        changed.insert(name, Change { map, from, to, carries_over });
    }
    Ok(changed)
}

/// The shared maps, as the objects ask for them, and whose they are: the data path's come first.
fn layouts<'p>(parts: impl Iterator<Item = &'p Part>) -> Result<BTreeMap<String, (Role, MapLayout)>, Error> {
    let mut layouts = BTreeMap::new();
    for part in parts {
        for map in layout::of_object(part.name, &part.bytes)?.maps {
            let is_borrowed = part.role != Role::DataPath && observe::is_of_the_data_path(&map.name);
            let role = if is_borrowed { Role::DataPath } else { part.role };
            layouts.insert(map.name.clone(), (role, map));
        }
    }
    Ok(layouts)
}

/// User space reads and writes maps with the types of this binary: those of a bundle may have grown behind them.
fn known(bundle: &Bundle, wanted: &BTreeMap<String, (Role, MapLayout)>) -> Result<(), Error> {
    let embedded = Bundle::embedded()?;
    if embedded.digest() == bundle.digest() {
        return Ok(());
    }
    let own = layouts(embedded.parts().iter())?;
    for (name, (_, layout)) in wanted.iter().filter(|(name, _)| load::is_read_here(name)) {
        // Mapped into this process, or with what goes through a ring in it: then a value must have its very size.
        let exact = matches!(name.as_str(), "services" | "drafts" | "dns_queries");
        let fits =
            |known: &MapLayout| layout.extends(known) && (!exact || layout.value_size == known.value_size);
        if !own.get(name).is_none_or(|(_, known)| fits(known)) {
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

/// Where a map is pinned until the switch: as a draft, if it is one of those that are changed.
pub(crate) fn pin_path(pins: &Pins, changed: &Changed, name: &str) -> PathBuf {
    if changed.contains_key(name) { pins.draft(name) } else { pins.map(name) }
}

/// Entries of a changed map: as many as before, unless the source says how many.
pub(crate) fn entries_of(changed: &Changed, name: &str) -> Option<u32> {
    let entries = |change: &Change| match load::is_sized_by_source(name) {
        true => change.to.entries,
        false => change.from.entries,
    };
    changed.get(name).map(entries)
}
