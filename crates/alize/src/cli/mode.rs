//! `alize mode`: how far the mesh goes with a service, changed at once and beside the file.

use std::time::Duration;

use alize_model::Mode;
use alize_model::api::{ModeChange, ModeOverride};
use serde::Serialize;

use super::args::{ModeArgs, ModeWord};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::table::Align::Left;
use crate::table::Table;
use crate::units::{age, utc};

/// A service and its mode, where nothing is to be changed.
#[derive(Serialize)]
struct Row {
    service: String,
    mode: Mode,
    #[serde(rename = "override")]
    set: Option<ModeOverride>,
}

pub(crate) async fn mode(client: &Client, args: ModeArgs, output: Output) -> Result<(), Failure> {
    let (Some(service), Some(word)) = (&args.service, args.mode) else {
        return show(client, args.service.as_deref(), output).await;
    };
    let mode = match word {
        ModeWord::Observe => Some(Mode::Observe),
        ModeWord::Shadow => Some(Mode::Shadow),
        ModeWord::Enforce => Some(Mode::Enforce),
        ModeWord::File => None,
    };
    let changed = client.set_mode(service, mode, args.until).await?;
    output.answer(&changed, || summary(&changed, args.until))
}

fn summary(changed: &ModeChange, until: Option<Duration>) -> String {
    let ModeChange { service, mode, before, declared, .. } = changed;
    let was = match before == mode {
        true => format!("{service} is in mode {}, as before", word(*mode)),
        false => format!("{service} is in mode {} now; it was {}", word(*mode), word(*before)),
    };
    match (mode == declared, until) {
        (_, Some(time)) => {
            format!("{was}; in {} the file holds again, which says {}\n", age(time), word(*declared))
        }
        (false, None) => format!(
            "{was}; this overrides the file, which says {}, until `alize mode {service} file`\n",
            word(*declared)
        ),
        (true, None) => format!("{was}; the file says the same\n"),
    }
}

/// What is set by hand; of one service, its mode whoever set it.
async fn show(client: &Client, service: Option<&str>, output: Output) -> Result<(), Failure> {
    let services = match service {
        Some(name) => vec![client.service(name).await?],
        None => client.services().await?,
    };
    let rows = services.into_iter().filter(|each| service.is_some() || each.mode_override.is_some());
    let rows: Vec<Row> =
        rows.map(|each| Row { service: each.name, mode: each.mode, set: each.mode_override }).collect();
    output.answer(&rows, || {
        if rows.is_empty() {
            return "no mode is set by hand: each service has the file's\n".into();
        }
        let mut table = Table::new(&[
            ("SERVICE", Left),
            ("MODE", Left),
            ("FILE SAYS", Left),
            ("SINCE", Left),
            ("UNTIL", Left),
        ]);
        for row in &rows {
            let set = row.set.as_ref();
            table.row(vec![
                row.service.as_str().into(),
                word(row.mode).into(),
                word(set.map_or(row.mode, |set| set.declared)).into(),
                set.map_or(String::new(), |set| utc(set.since)).into(),
                set.map_or(String::new(), |set| set.until.map_or("set again".into(), utc)).into(),
            ]);
        }
        table.render(output.paint, output.width())
    })
}

pub(super) fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overrides_the_file_is_said() {
        let changed = |mode, before| ModeChange {
            service: "web".into(),
            mode,
            before,
            declared: Mode::Enforce,
            until: None,
        };
        assert_eq!(
            summary(&changed(Mode::Observe, Mode::Enforce), None),
            "web is in mode observe now; it was enforce; this overrides the file, which says enforce, until `alize mode \
             web file`\n"
        );
        assert_eq!(
            summary(&changed(Mode::Shadow, Mode::Shadow), Some(Duration::from_secs(600))),
            "web is in mode shadow, as before; in 10 min the file holds again, which says enforce\n"
        );
        let back = summary(&changed(Mode::Enforce, Mode::Shadow), None);
        assert!(back.ends_with("it was shadow; the file says the same\n"), "{back}");
    }
}
