//! Maps whose layout another version changes: which they are, and whether that can be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use libbpf_rs::MapHandle;

use super::version::Selection;
use crate::bundle::{Bundle, Part};
use crate::layout::{self, Fit, MapLayout, belongs_to_sockets, leads_on};
use crate::load::{self, Role};
use crate::pin::{Pins, entries};
use crate::{Error, attach, migrate, observe};

/// Maps whose layout is another, by name.
pub(crate) type Changed = BTreeMap<String, Change>;

/// A pinned map that the new programs cannot use as it is.
pub(crate) struct Change {
    pub(super) map: MapHandle,
    pub(super) from: MapLayout,
    pub(super) to: MapLayout,
    pub(super) carries_over: bool,
}

/// The pinned maps whose layout is not the one that `selection` asks for; refuses what cannot be changed.
pub(super) fn changes(pins: &Pins, bundle: &Bundle, selection: &Selection<'_>) -> Result<Changed, Error> {
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
pub(super) fn layouts<'p>(
    parts: impl Iterator<Item = &'p Part>,
) -> Result<BTreeMap<String, (Role, MapLayout)>, Error> {
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
pub(super) fn known(bundle: &Bundle, wanted: &BTreeMap<String, (Role, MapLayout)>) -> Result<(), Error> {
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

pub(super) fn discard(pins: &Pins) {
    if let Err(error) = discard_drafts(pins) {
        tracing::warn!("a map that was made for an upgrade stays pinned: {error}");
    }
}

/// Maps that an upgrade before has made and not put in force.
pub(super) fn discard_drafts(pins: &Pins) -> Result<(), Error> {
    let drafts = entries(&pins.maps())?.into_iter().filter(|path| Pins::is_draft(path));
    drafts.into_iter().try_for_each(|path| attach::unpin(&path))
}
