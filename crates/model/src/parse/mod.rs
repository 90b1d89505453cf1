//! From the text of a file to a [`Snapshot`].
//!
//! The text is read as a stream, a service at a time; of a service that is done, only its values and their places are
//! kept. Whatever is wrong is remarked and reading goes on, so that one run shows every mistake.

mod balance;
mod endpoint;
mod health;
mod host;
mod http;
pub(crate) mod keys;
mod mesh;
mod names;
mod remarks;
pub(crate) mod scalar;
mod service;
mod value;
mod yaml;

use crate::{Budgets, Diagnostic, Diagnostics, HostFacts, Position, Snapshot};

use host::Host;
use keys::FileKey;
use names::Names;
use remarks::{Remarks, Stop};
use service::Member;
use value::What;
use yaml::Reader;

/// Larger files are refused unread: 30 times what 10,000 services need.
const LARGEST: usize = 64 << 20;

/// The text of a file and the name under which errors show it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file as the user named it, `-` for standard input.
    pub name: &'a str,
    /// Its whole text.
    pub text: &'a str,
}

/// Reads `source` whole or refuses it whole, with every error found; warnings come beside the snapshot.
///
/// At most 100 errors and 100 warnings are told apart, the rest are counted.
pub fn parse(
    source: Source<'_>,
    budgets: &Budgets,
    host: &HostFacts,
) -> Result<(Snapshot, Vec<Diagnostic>), Diagnostics> {
    let mut reader = Reader::new(source.text, Remarks::new(source));
    let mut members = Vec::new();
    // A stop is among the remarks; what was read before it can still be compared.
    let _: Result<(), Stop> = match source.text.len() {
        0..=LARGEST => read_file(&mut reader, &Host::new(host), &mut members),
        length => Err(refuse_size(&mut reader, length)),
    };
    let mut remarks = reader.remarks;
    if !remarks.hopeless() {
        mesh::check(&members, budgets, &mut remarks);
    }
    let warnings = remarks.finish()?;
    Ok((Snapshot::from_checked(mesh::services(members)), warnings))
}

fn refuse_size(reader: &mut Reader<'_>, length: usize) -> Stop {
    let message = format!("the file has {length} bytes, {LARGEST} are allowed");
    reader.remarks.stop(Position { line: 1, column: 1 }, message, "look whether it is the right file")
}

fn read_file(reader: &mut Reader<'_>, host: &Host<'_>, members: &mut Vec<Member>) -> Result<(), Stop> {
    let Some(root) = reader.root()? else {
        let help = "begin with `services:`; to run none, write `services: []`";
        reader.remarks.error(Position { line: 1, column: 1 }, "the file is empty", help);
        return Ok(());
    };
    let what = What { name: &"the file", expected: &"`services:` and below it a list" };
    let mut names = Names::default();
    reader.mapping(root, what, |reader, FileKey::Services| {
        let token = reader.next()?;
        reader.list(token, What::of(FileKey::Services), |reader, item| {
            reader.service_at = Some(item.at);
            members.extend(service::read(reader, item, host, &mut names)?);
            Ok(())
        })?;
        Ok(())
    })?;
    reader.end()
}
