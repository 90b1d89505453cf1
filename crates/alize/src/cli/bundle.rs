//! `alize bundle`: making, signing and looking at bundles of kernel programs. Touches neither kernel nor agent.

use std::path::Path;

use alize_datapath::bundle::{Bundle, Digest, Manifest, SecretKey, Trust};
use serde::Serialize;

use super::args::{BuildArgs, BundleCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::style::Paint;
use crate::table::Align::{Left, Right};
use crate::table::Table;
use crate::units::bytes;

#[derive(Serialize)]
struct Answer<'a> {
    file: String,
    digest: Digest,
    signed_by: Option<String>,
    /// Whether programs that observe are in it; else those of the alize that loads it serve for that.
    observes: bool,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

pub(crate) fn bundle(command: BundleCommand, output: Output) -> Result<(), Failure> {
    match command {
        BundleCommand::Key(args) => {
            let key = SecretKey::make(&args.file)?;
            crate::output::print(&format!("{key}\n"))
        }
        BundleCommand::Build(args) => build(&args, output),
        BundleCommand::Sign(args) => {
            let mut bundle = Bundle::open(&args.file)?;
            bundle.sign(&SecretKey::open(&args.key)?);
            write(&args.file, &bundle)?;
            show(&args.file, &bundle, output)
        }
        BundleCommand::Verify(args) => {
            let bundle = Bundle::open(&args.file)?;
            let name = args.file.display().to_string();
            let trust = Trust::of_folder(&args.keys, false)?;
            bundle.check(&trust).map_err(|refused| alize_datapath::Error::Bundle { name, refused })?;
            show(&args.file, &bundle, output)
        }
        BundleCommand::Inspect(args) => match args.file {
            Some(file) => show(&file, &Bundle::open(&file)?, output),
            None => show(Path::new("(this binary)"), &Bundle::embedded()?, output),
        },
    }
}

fn build(args: &BuildArgs, output: Output) -> Result<(), Failure> {
    let bundle = match &args.objects {
        Some(folder) => Bundle::from_folder(folder, &args.bundle_version, &args.build)?,
        None => Bundle::embedded()?,
    };
    write(&args.file, &bundle)?;
    show(&args.file, &bundle, output)
}

/// Whole or not at all.
fn write(path: &Path, bundle: &Bundle) -> Result<(), Failure> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let written = std::fs::write(&draft, bundle.bytes()).and_then(|()| std::fs::rename(&draft, path));
    written.map_err(|error| Failure::Other(anyhow::anyhow!("cannot write {}: {error}", path.display())))
}

fn show(file: &Path, bundle: &Bundle, output: Output) -> Result<(), Failure> {
    let answer = Answer {
        file: file.display().to_string(),
        digest: bundle.digest(),
        signed_by: bundle.signed_by().map(|key| key.to_string()),
        observes: bundle.observes(),
        manifest: bundle.manifest(),
    };
    output.answer(&answer, || text(&answer, output.paint, output.width()))
}

fn text(answer: &Answer<'_>, paint: Paint, width: Option<usize>) -> String {
    let manifest = answer.manifest;
    let signed = answer.signed_by.as_deref().unwrap_or("nobody: it is not signed");
    let observing = match answer.observes {
        true => "by programs of its own",
        false => "it has no programs for it: those of the alize that loads it serve",
    };
    let mut text = format!(
        "{}\n  version    {}\n  build      {}\n  SHA-256    {}\n  signed by  {signed}\n  observing  {observing}\n\n",
        answer.file, manifest.version, manifest.build, answer.digest
    );
    let mut objects = Table::new(&[("OBJECT", Left), ("SIZE", Right), ("SHA-256", Left), ("HOOKS", Left)]);
    for object in &manifest.objects {
        let hooks: Vec<&str> = object.programs.values().map(String::as_str).collect();
        objects.row(vec![
            object.name.as_str().into(),
            bytes(object.size.into()).into(),
            object.sha256[..12].into(),
            hooks.join(", ").into(),
        ]);
    }
    text += &objects.render(paint, width);
    text.push('\n');
    let mut maps =
        Table::new(&[("MAP", Left), ("KIND", Right), ("KEY", Right), ("VALUE", Right), ("LAYOUT", Left)]);
    for map in &manifest.maps {
        maps.row(vec![
            map.name.as_str().into(),
            map.kind.to_string().into(),
            map.key_size.to_string().into(),
            map.value_size.to_string().into(),
            map.layout[..12].into(),
        ]);
    }
    text + &maps.render(paint, width)
}
