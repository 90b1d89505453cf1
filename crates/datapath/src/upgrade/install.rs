//! Puts what is loaded to work: a whole bundle, or of it what observes.

use libbpf_rs::{Link, Object};

use super::changed::{Changed, discard};
use super::steps::{Ready, Site, Steps};
use super::version::{Losses, Selection, Version, Working};
use super::{Keeping, Step, remember};
use crate::bundle::{Bundle, Part};
use crate::error::io_error;
use crate::load::{self, Loaded, Loading, Role};
use crate::observe::told;
use crate::pin::{Pins, cgroup_of};
use crate::{Error, canary, origins};

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
pub(super) fn tell_again(pins: &Pins, loading: &Loading) -> Result<(), Error> {
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
