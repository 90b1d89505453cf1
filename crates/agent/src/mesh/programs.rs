//! Which bundle of kernel programs is in force, and the change from one to another.

use alize_datapath::bundle::Bundle;
use alize_datapath::{DataPath, Error, InForce, Keeping, Upgraded};

use super::Mesh;
use crate::events::Kind;
use crate::{Bundles, Options};

impl Mesh {
    /// The bundle in force, for those that observe.
    pub(crate) fn in_force(&self) -> InForce {
        self.datapath.in_force()
    }

    /// Puts the bundle in `bytes` in force, without any that of this binary.
    pub(crate) fn upgrade(&mut self, bytes: &[u8]) -> Result<Upgraded, Error> {
        let bundle = bundle_of(bytes, &self.options)?;
        self.switch_to(&bundle)
    }

    /// Puts a bundle in force that was so before.
    pub(crate) fn roll_back(&mut self, version: Option<&str>) -> Result<Upgraded, Error> {
        let store = self.options.bundles.store()?;
        let running = alize_datapath::running_bundles(&self.options.datapath)?;
        let digest = running.first().and_then(|running| running.digest);
        let bundle = store.earlier(version, digest)?;
        self.switch_to(&bundle)
    }

    fn switch_to(&mut self, bundle: &Bundle) -> Result<Upgraded, Error> {
        let upgraded =
            self.datapath.upgrade(bundle, keeping(&self.options).as_ref()).inspect_err(|error| {
                self.events.tell(Kind::Agent, format!("the kernel programs are what they were: {error}"));
            })?;
        let (from, to) = (upgraded.from.join(" and "), bundle.title());
        self.events.tell(Kind::Agent, format!("kernel programs of {to} are in force, in place of {from}"));
        Ok(upgraded)
    }
}

/// What was handed over, if somebody vouches for it; nothing stands for the bundle of this binary.
pub(super) fn bundle_of(bytes: &[u8], options: &Options) -> Result<Bundle, Error> {
    if bytes.is_empty() {
        return Bundle::embedded();
    }
    let refused = |refused| Error::Bundle { name: "that was handed over".into(), refused };
    let bundle = Bundle::read(bytes).map_err(refused)?;
    bundle.check(&options.bundles.trust).map_err(refused)?;
    Ok(bundle)
}

/// Opens the data path with the bundle that is asked for: a file, or the one that was chosen by hand, or that of this binary.
pub(super) fn open(options: &Options) -> Result<(DataPath, alize_datapath::Opened), Error> {
    let bundle = chosen(options)?;
    let (datapath, opened, _) = DataPath::open_bundle(&options.datapath, &bundle)?;
    if let Err(error) = keep(options, &bundle) {
        tracing::warn!("the programs in force cannot be kept for a way back to them: {error}");
    }
    Ok((datapath, opened))
}

fn chosen(options: &Options) -> Result<Bundle, Error> {
    let Bundles { file, trust, .. } = &options.bundles;
    if let Some(path) = file {
        let bundle = Bundle::open(path)?;
        let refused = |refused| Error::Bundle { name: path.display().to_string(), refused };
        bundle.check(trust).map_err(refused)?;
        return Ok(bundle);
    }
    let embedded = Bundle::embedded()?;
    let Ok(store) = options.bundles.store() else { return Ok(embedded) };
    let by_hand = store.choice(&options.datapath.instance).in_place_of(&embedded, &store);
    Ok(by_hand.unwrap_or(embedded))
}

/// For the way back, and so that the next start finds it chosen, unless the command line says each time what it is.
pub(super) fn keeping(options: &Options) -> Option<Keeping> {
    let store = options.bundles.store().ok()?;
    Some(Keeping { store, chosen: options.bundles.file.is_none() })
}

fn keep(options: &Options, bundle: &Bundle) -> Result<(), Error> {
    let Some(Keeping { store, chosen }) = keeping(options) else { return Ok(()) };
    store.prepare(bundle, chosen.then_some(options.datapath.instance.as_str()))?.keep()
}
