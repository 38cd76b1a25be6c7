//! Lists earlier catalogue versions, their signers and changes.

use super::{Exit, Failure, HomePaths, say, with_session};
use crate::cli::output::{Cell, Rows, Shape, day};
use fernwart_certs::approve::past;
use std::fmt::Write;

/// Lists the published versions, the newest last. Names a signer only if the signature is valid for
/// an approver of the current root; others are counted as former approvers.
pub(super) fn show(shape: Shape, homes: &HomePaths) -> Result<Exit, Failure> {
    let versions = with_session(homes, async |session| {
        session.sync().await?;
        let mut versions = Vec::new();
        for targets in session.history().await? {
            versions.extend(past::read(&targets, &session.catalogue));
        }
        Ok(versions)
    })?;
    if shape != Shape::Table {
        let mut rows = Rows::new("version", &["version", "until", "signed_by", "former", "changes"]);
        for (at, version) in versions.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|before| versions.get(before));
            let list = |words: Vec<String>| Cell::new(words.clone(), words.join("; "));
            rows.push(vec![
                version.number.into(),
                Cell::day(version.until),
                list(version.signers.iter().map(|key| format!("fwa1-{key}")).collect()),
                (version.former as u64).into(),
                list(version.changes(before)),
            ]);
        }
        return rows.print(shape);
    }
    let mut out = String::new();
    for (at, version) in versions.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| versions.get(before));
        let signed: Vec<_> = version.signers.iter().map(|key| short(&key.to_string())).collect();
        let former = if version.former > 0 { format!(" and {} former", version.former) } else { String::new() };
        // Writing into a String does not fail.
        let _ = writeln!(
            out,
            "version {} · until {} · signed by {}{former}",
            version.number,
            day(version.until),
            signed.join(", ")
        );
        for line in version.changes(before) {
            let _ = writeln!(out, "  {line}");
        }
    }
    say(&out)
}

fn short(key: &str) -> String {
    format!("fwa1-{}…", key.get(..8).unwrap_or_default())
}
