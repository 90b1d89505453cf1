//! What is loaded of a bundle, and what another version would lose of what works.

use std::borrow::Cow;
use std::collections::BTreeSet;

use alize_model::Budgets;

use crate::bundle::{Bundle, MapAbi, Part};
use crate::layout::{self, MapLayout};
use crate::load::{self, Role};
use crate::observe::told;
use crate::pin::{Pins, entries, program_of};
use crate::{Error, switch};

/// A bundle, and the one whose programs observe while it is in force: mostly the same.
pub(crate) struct Version<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) observer: Cow<'a, Bundle>,
}

/// What is loaded of a version.
pub(super) struct Selection<'a> {
    pub(super) parts: Vec<&'a Part>,
}

impl<'a> Version<'a> {
    pub(crate) fn new(bundle: &'a Bundle) -> Result<Self, Error> {
        Ok(Self { bundle, observer: bundle.observer()? })
    }

    /// All that may be at work together.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        let own = self.bundle.parts().iter().filter(|part| part.role == Role::DataPath);
        own.chain(self.observer.parts().iter().filter(|part| part.role != Role::DataPath))
    }

    pub(super) fn select(&self, wanted: impl Fn(&Part) -> bool) -> Result<Selection<'_>, Error> {
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
    pub(super) fn disagreement(&self, part: &Part) -> Result<Option<String>, Error> {
        let maps = layout::of_object(part.name, &part.bytes)?.maps;
        let known = &self.bundle.manifest().maps;
        let differs =
            |map: &MapLayout| known.iter().any(|abi| abi.name == map.name && *abi != MapAbi::of(map));
        Ok(maps.into_iter().find(differs).map(|map| map.name))
    }

    /// What would be at work next of this version: all that is so always, and what is so now of the rest. Refuses to lose of that
    /// what would misread the maps.
    pub(super) fn next(&self, pins: &Pins) -> Result<Selection<'_>, Error> {
        let working = Working::look(pins)?;
        if self.observer.digest() != self.bundle.digest() {
            for part in self.parts().filter(|part| part.role != Role::DataPath && working.has(self, part)) {
                if let Some(map) = self.disagreement(part)? {
                    return Err(Error::Step { step: "plan", source: Box::new(Error::MapUnknown { map }) });
                }
            }
        }
        let observed = self.parts().any(|part| part.name == "observe" && working.has(self, part));
        self.select(|part| match part.role {
            Role::DataPath => true,
            Role::Observer => observed,
            Role::Asked => observed && working.has(self, part),
        })
    }

    pub(super) fn programs(&self, part: &Part) -> impl Iterator<Item = &str> {
        let of = if part.role == Role::DataPath { self.bundle } else { &*self.observer };
        let facts = of.manifest().objects.iter().find(|facts| facts.name == part.name);
        facts.into_iter().flat_map(|facts| facts.programs.keys().map(String::as_str))
    }
}

/// The programs that links and slots hold now.
pub(super) struct Working(BTreeSet<String>);

impl Working {
    pub(super) fn look(pins: &Pins) -> Result<Self, Error> {
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

    pub(super) fn has(&self, version: &Version<'_>, part: &Part) -> bool {
        version.programs(part).any(|program| self.0.contains(program))
    }
}

/// What another version would lose: an object that the kernel refuses of it, and that works now or would of the version before.
pub(super) struct Losses<'a> {
    pub(super) working: Working,
    pub(super) version: &'a Version<'a>,
    pub(super) before: Option<&'a Version<'a>>,
    pub(super) budgets: &'a Budgets,
}

impl Losses<'_> {
    pub(super) fn has(&self, part: &Part) -> bool {
        let before = || {
            let mut parts = self.before.into_iter().flat_map(|before| before.parts());
            parts.find(|before| before.name == part.name && before.bytes != part.bytes)
        };
        self.working.has(self.version, part)
            || before().is_some_and(|before| load::is_taken(before, self.budgets))
    }
}
