//! Documents of the repository that show figures.

use std::fs;

use anyhow::{Context, Result};

/// Puts `text` between `<!-- name:begin -->` and `<!-- name:end -->` of a document.
pub(crate) fn write_between((path, name): (&str, &str), text: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let old = fs::read_to_string(path)
        .with_context(|| format!("cannot read {path}; run in the repository's root"))?;
    let new = replace_between(&old, &begin, &end, text)
        .with_context(|| format!("{path} has no lines {begin} and {end}, in this order"))?;
    fs::write(path, new).with_context(|| format!("cannot write {path}"))
}

fn replace_between(old: &str, begin: &str, end: &str, text: &str) -> Option<String> {
    let (before, rest) = old.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_between_markers_is_replaced_and_the_rest_kept() {
        let old = "head\n<!-- x:begin -->\nold\n<!-- x:end -->\ntail\n";
        let new = replace_between(old, "<!-- x:begin -->", "<!-- x:end -->", "new\n").unwrap();
        assert_eq!(new, "head\n<!-- x:begin -->\nnew\n<!-- x:end -->\ntail\n");
        let again = replace_between(&new, "<!-- x:begin -->", "<!-- x:end -->", "new\n").unwrap();
        assert_eq!(again, new);
        assert_eq!(replace_between("no markers", "<!-- x:begin -->", "<!-- x:end -->", ""), None);
    }
}
