//! `alize upgrade` and `alize rollback`: by the agent if one runs, else by this process.

use alize_datapath::Keeping;
use alize_datapath::bundle::{Bundle, Store, Trust};
use alize_model::Budgets;
use alize_model::api::Upgraded;

use super::args::{BundleArgs, Global, PlaceArgs, RollbackArgs, UpgradeArgs};
use super::{block_on, client, trial};
use crate::client::Error;
use crate::failure::Failure;
use crate::output::Output;
use crate::units::seconds;

pub(crate) fn upgrade(global: &Global, args: UpgradeArgs, output: Output) -> Result<(), Failure> {
    if trial::is_asked(&args.trial) {
        return trial::trial(global, &args, output);
    }
    let bytes = bundle_bytes(&args)?;
    let done = match block_on(async { Ok(client(global).upgrade(bytes).await) })? {
        Ok(done) => done,
        Err(Error::Absent { .. }) => {
            let bundle = bundle(&args)?;
            if let Some(path) = &args.file {
                let name = path.display().to_string();
                let trust = Trust::of_folder(&args.bundles.keys, args.bundles.allow_unsigned)?;
                bundle.check(&trust).map_err(|refused| alize_datapath::Error::Bundle { name, refused })?;
            }
            alone(global, &args.place, &args.bundles, &bundle)?
        }
        Err(error) => return Err(error.into()),
    };
    output.answer(&done, || report(&done))
}

pub(crate) fn rollback(global: &Global, args: RollbackArgs, output: Output) -> Result<(), Failure> {
    let version = args.version.as_deref();
    let done = match block_on(async { Ok(client(global).roll_back(version).await) })? {
        Ok(done) => done,
        Err(Error::Absent { .. }) => {
            let options = options(global, &args.place);
            let running = alize_datapath::running_bundles(&options)?;
            let digest = running.first().and_then(|running| running.digest);
            let store = Store::new(&args.bundles.bundles, args.bundles.keep_bundles);
            let bundle = store.earlier(version, digest)?;
            alone(global, &args.place, &args.bundles, &bundle)?
        }
        Err(error) => return Err(error.into()),
    };
    output.answer(&done, || report(&done))
}

fn options(global: &Global, place: &PlaceArgs) -> alize_datapath::Options {
    alize_datapath::Options {
        instance: global.instance.clone(),
        bpffs: place.bpffs.clone(),
        run_dir: place.run_dir.clone(),
        // What is pinned says itself where it is attached and how large it is.
        cgroups: Vec::new(),
        budgets: Budgets::default(),
    }
}

/// Nobody keeps the instance: this process does it, and remembers the choice for the next agent.
fn alone(
    global: &Global,
    place: &PlaceArgs,
    bundles: &BundleArgs,
    bundle: &Bundle,
) -> Result<Upgraded, Failure> {
    let store = Store::new(&bundles.bundles, bundles.keep_bundles);
    let keeping = Keeping { store, chosen: true };
    Ok(alize_datapath::upgrade_pinned(&options(global, place), bundle, &keeping)?.into())
}

fn bundle(args: &UpgradeArgs) -> Result<Bundle, Failure> {
    Ok(match &args.file {
        Some(path) => Bundle::open(path)?,
        None => Bundle::embedded()?,
    })
}

/// What the agent is sent: it has this very bundle, if it is of this binary.
pub(super) fn bundle_bytes(args: &UpgradeArgs) -> Result<Vec<u8>, Failure> {
    Ok(if args.file.is_some() { bundle(args)?.bytes() } else { Vec::new() })
}

pub(super) fn report(done: &Upgraded) -> String {
    let longest = done.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for step in &done.steps {
        text += &format!("  {:longest$}  {} ({})\n", step.name, step.done, seconds(step.seconds));
    }
    let from = if done.from.is_empty() { "nothing".to_owned() } else { done.from.join(" and ") };
    let digest = &done.digest[..done.digest.len().min(12)];
    format!("{text}kernel programs of {} ({digest}) are in force, in place of {from}\n", done.version)
}
