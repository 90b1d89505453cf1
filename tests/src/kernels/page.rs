//! The tables of `docs/kernels.md`.

use anyhow::{Context, Result};

use super::{HOST, KERNELS, Outcome, Results, Row, series};

const BEGIN: &str = "<!-- kernels:begin, written by make test-kernels -->\n";
const END: &str = "<!-- kernels:end -->";

/// `text` with the tables of `results`, and what was found on ARM64, between its marks.
pub fn page(text: &str, results: &Results, arm64: &str) -> Result<String> {
    let (before, rest) =
        text.split_once(BEGIN).context("docs/kernels.md has no mark where the tables begin")?;
    let (_, after) = rest.split_once(END).context("docs/kernels.md has no mark where the tables end")?;
    Ok(format!("{before}{BEGIN}{}{}{END}{after}", tables(results), arm64))
}

fn tables(results: &Results) -> String {
    let columns: Vec<(String, &Outcome)> = KERNELS
        .iter()
        .filter_map(|kernel| {
            let outcome = results.0.get(kernel.name)?;
            Some((format!("{} (Debian {})", kernel.name, kernel.suite), outcome))
        })
        .chain(
            results
                .0
                .get(HOST)
                .map(|outcome| (format!("{}, a build machine", series(&outcome.release)), outcome)),
        )
        .collect();
    let mut notes = Vec::new();
    let mut text = table("Feature", "mesh", &columns, &mut notes);
    text.push('\n');
    text.push_str(&table("Not used by any feature yet", "capability", &columns, &mut notes));
    text.push('\n');
    for (number, note) in notes.iter().enumerate() {
        text.push_str(&format!("{}. {note}\n", number + 1));
    }
    let releases: Vec<&str> = columns.iter().map(|(_, outcome)| outcome.release.as_str()).collect();
    text + &format!("\nTried on {}.\n", releases.join(", "))
}

fn table(title: &str, kind: &str, columns: &[(String, &Outcome)], notes: &mut Vec<String>) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!("| {title} | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(columns.len()));
    let mut features: Vec<&str> = Vec::new();
    for row in columns.iter().flat_map(|(_, outcome)| &outcome.features).filter(|row| row.kind == kind) {
        if !features.contains(&row.feature.as_str()) {
            features.push(&row.feature);
        }
    }
    for feature in features {
        let cells: Vec<String> = columns
            .iter()
            .map(|(_, outcome)| {
                let row = outcome.features.iter().find(|row| row.feature == feature);
                row.map_or("not tried".into(), |row| cell(row, notes))
            })
            .collect();
        text.push_str(&format!("| {feature} | {} |\n", cells.join(" | ")));
    }
    text
}

fn cell(row: &Row, notes: &mut Vec<String>) -> String {
    let Some(why) = &row.why else { return row.state.clone() };
    let number = notes.iter().position(|note| note == why).unwrap_or_else(|| {
        notes.push(why.clone());
        notes.len() - 1
    });
    format!("{} ({})", row.state, number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Arm64, sources};

    fn row(feature: &str, kind: &str, state: &str, why: Option<&str>) -> Row {
        Row { feature: feature.into(), kind: kind.into(), state: state.into(), why: why.map(str::to_owned) }
    }

    #[test]
    fn the_page_is_what_ran() {
        let read = |name: &str| crate::kernels::repository().join(name);
        let results = Results::read(&read("tests/kernels/results.json")).unwrap();
        let arm64 = Arm64::read(&read("tests/kernels/arm64.json")).unwrap().line(&sources().unwrap());
        let text = std::fs::read_to_string(read("docs/kernels.md")).unwrap();
        assert_eq!(
            page(&text, &results, &arm64).unwrap(),
            text,
            "docs/kernels.md is out of date: run make test-kernels"
        );
        for kernel in KERNELS {
            assert!(
                results.0.contains_key(kernel.name),
                "{} was never tried: run make test-kernels",
                kernel.name
            );
        }
        assert!(results.0.values().all(|outcome| outcome.failed().count() == 0));
    }

    #[test]
    fn reasons_are_notes_and_each_is_told_once() {
        let old = vec![row("a", "mesh", "degraded", Some("x")), row("b", "mesh", "off", Some("x"))];
        let new = vec![row("a", "mesh", "on", None), row("c", "capability", "off", Some("y"))];
        let outcome =
            |release: &str, features| Outcome { release: release.into(), features, ..Outcome::default() };
        let results = Results(
            [("6.1".to_owned(), outcome("6.1.0-1", old)), (HOST.to_owned(), outcome("6.18.4", new))].into(),
        );
        let text = format!("before\n{BEGIN}stale\n{END}\nafter\n");
        let arm64 = Arm64 {
            release: "6.1.0-a".into(),
            objects: vec!["a".into(), "b".into()],
            behaviour: vec!["a connect is balanced".into()],
        };
        let arm64 = arm64.line(&["a".into(), "c".into()]);
        assert_eq!(
            page(&text, &results, &arm64).unwrap(),
            format!(
                "before\n{BEGIN}\
| Feature | 6.1 (Debian bookworm) | 6.18, a build machine |
|---|---|---|
| a | degraded (1) | on |
| b | off (1) | not tried |

| Not used by any feature yet | 6.1 (Debian bookworm) | 6.18, a build machine |
|---|---|---|
| c | not tried | off (2) |

1. x
2. y

Tried on 6.1.0-1, 6.18.4.
On ARM64 (6.1.0-a) 2 objects are loaded (not c), and a connect is balanced; the agent itself was never run there.
{END}\nafter\n"
            )
        );
        assert!(page("no marks", &results, &arm64).is_err());
    }
}
