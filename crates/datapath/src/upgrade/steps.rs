//! The steps on which programs come into force, each with a name and a fault point.

use std::path::Path;
use std::time::Instant;

use alize_model::Budgets;

use super::changed::{Changed, changes, discard_drafts};
use super::version::{Selection, Version};
use super::{Keeping, Step};
use crate::bundle::{Bundle, Part, Prepared};
use crate::environment::Cgroup;
use crate::load::{self, Ground, Loading};
use crate::observe::{Limits, told};
use crate::pin::{self, Pins};
use crate::switch::Switch;
use crate::{Error, attach, fault, layout, migrate, origins, selftest};

/// Where the programs go.
pub(crate) struct Site<'a> {
    pub(crate) pins: &'a Pins,
    pub(crate) budgets: &'a Budgets,
    pub(crate) limits: &'a Limits,
    pub(crate) cgroups: &'a [Cgroup],
    pub(crate) bpffs: &'a Path,
}

impl Site<'_> {
    pub(super) fn ground<'a>(&'a self, changed: &'a Changed) -> Ground<'a> {
        Ground { pins: self.pins, budgets: self.budgets, limits: self.limits, changed, on_trial: false }
    }
}

/// Verified, and not at work yet.
pub(super) struct Ready {
    pub(super) changed: Changed,
    pub(super) loading: Loading,
}

/// Names each step, and stops at the one that fails.
#[derive(Default)]
pub(super) struct Steps(pub(super) Vec<Step>);

impl Steps {
    pub(super) fn take<T>(
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
    pub(super) fn keep(
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

    pub(super) fn plan(
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
    pub(super) fn load(
        &mut self,
        site: &Site<'_>,
        changed: Changed,
        selection: &Selection<'_>,
        loses: &dyn Fn(&Part) -> bool,
    ) -> Result<Ready, Error> {
        let loading = self.load_on(&site.ground(&changed), selection, loses)?;
        Ok(Ready { changed, loading })
    }

    pub(super) fn load_on(
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

    pub(super) fn self_test(
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

    pub(super) fn carry_over(&mut self, pins: &Pins, changed: &Changed) -> Result<(), Error> {
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

    pub(super) fn note(
        &mut self,
        pins: &Pins,
        version: &Version<'_>,
        loading: &Loading,
    ) -> Result<(), Error> {
        self.take("note", || {
            origins::note(pins, version.bundle, loading.statuses(true))?;
            origins::note(pins, &version.observer, loading.statuses(false))?;
            Ok(((), "whose the programs are".into()))
        })
    }

    /// All at once or none; with maps of another layout in `changed`.
    pub(super) fn switch(
        &mut self,
        site: &Site<'_>,
        changed: &Changed,
        loading: &[&Loading],
    ) -> Result<(), Error> {
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

    pub(super) fn pins(&mut self, site: &Site<'_>, changed: &Changed) -> Result<(), Error> {
        self.take("pins", || {
            for (name, change) in changed {
                pin::replace(&site.pins.map(name), &site.pins.draft(name), change.carries_over)?;
            }
            attach::detach_others(site.pins, site.cgroups)?;
            Ok(((), format!("{} maps replaced", changed.len())))
        })
    }
}

fn lost(name: &str) -> Error {
    Error::kernel("cannot find map", name, std::io::Error::other("no program uses it"))
}
