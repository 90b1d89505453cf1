//! Which bundle of kernel programs is in force, and the change from one to another.

use alize_datapath::bundle::Bundle;
use alize_datapath::{DataPath, Error, Upgraded};

use super::Mesh;
use crate::events::Kind;
use crate::{Bundles, Options};

impl Mesh {
    /// Puts the bundle in `bytes` in force, without any that of this binary.
    pub(crate) fn upgrade(&mut self, bytes: &[u8]) -> Result<Upgraded, Error> {
        let refused = |refused| Error::Bundle { name: "that was handed over".into(), refused };
        let bundle = match bytes {
            [] => Bundle::embedded()?,
            bytes => {
                let bundle = Bundle::read(bytes).map_err(refused)?;
                bundle.check(&self.options.bundles.trust).map_err(refused)?;
                bundle
            }
        };
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
        let upgraded = self.datapath.upgrade(bundle).inspect_err(|error| {
            self.events.tell(Kind::Agent, format!("the kernel programs are what they were: {error}"));
        })?;
        let (from, to) = (upgraded.from.join(" and "), bundle.title());
        self.events.tell(Kind::Agent, format!("kernel programs of {to} are in force, in place of {from}"));
        if let Err(error) = keep(&self.options, bundle) {
            self.events.tell(Kind::Agent, format!("{to} is in force and cannot be kept for later: {error}"));
        }
        Ok(upgraded)
    }
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

/// For the way back, and so that the next start finds it chosen.
fn keep(options: &Options, bundle: &Bundle) -> Result<(), Error> {
    let Ok(store) = options.bundles.store() else { return Ok(()) };
    store.keep(bundle)?;
    let choice = store.choice(&options.datapath.instance);
    match options.bundles.file {
        // The command line says so each time.
        Some(_) => Ok(()),
        None => choice.remember(bundle.digest(), Bundle::embedded()?.digest()),
    }
}
