//! `fernwart help CODE`: what a code means and what to do.

use super::{Exit, Failure, say};
use crate::codes::{advice, meaning};
use fernwart_protocol::code::{OtherCode, Refusal};

/// Explains a code.
///
/// # Errors
/// When there is no such code.
pub(crate) fn explain(code: &str) -> Result<Exit, Failure> {
    if let Ok(other @ OtherCode::Number(_)) = code.to_lowercase().parse() {
        return say(&format!(
            "{other}  a newer program gave a reason that this one cannot name\n  now: update this program\n"
        ));
    }
    let code = code.to_uppercase();
    let Some(what) = meaning(&code) else {
        let what = format!("this version knows no code {code}; a newer one may");
        return Err(Failure::new(Exit::Usage, "FW-CLI-01", what));
    };
    let who = match code.split('-').nth(1) {
        _ if Refusal::ALL.iter().any(|refusal| refusal.code() == code) => {
            "From a machine: it has refused, and no hub can overrule it."
        }
        Some("OWN") => "It is about the agent on the machine, and its owner.",
        Some("HUB") => "The hub said no.",
        Some("JOIN") => "Somebody wanted to join.",
        Some("CAT") => "It is about what is approved.",
        _ => "It is about this command.",
    };
    let now = advice(&code).map(|now| format!("  now: {now}\n")).unwrap_or_default();
    say(&format!("{code}  {what}\n  {who}\n{now}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_a_newer_program_is_explained_as_unknown() {
        assert!(matches!(explain("other(57)"), Ok(Exit::Done)));
        let unknown = explain("fw-hub-999").expect_err("no such code");
        assert!(format!("{unknown:?}").contains("a newer one may"), "{unknown:?}");
    }
}
