//! Verifies what came back from one machine.

use crate::order::{OlderAgent, SignedOrder};
use fernwart_certs::envelope::{self, EnvelopeError};
use fernwart_certs::identity::machine_id;
use fernwart_certs::sha256;
use fernwart_protocol::code::{Denial, Refusal};
use fernwart_protocol::diagnosis::{Report, Summary};
use fernwart_protocol::document::{Outcome, Receipt};
use fernwart_protocol::id::MachineId;
use fernwart_protocol::script::{NotRun, RunReport};
use fernwart_protocol::staff::News;

/// One machine's answer.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Which machine.
    pub machine: MachineId,
    /// What it answered.
    pub answer: Answer,
}

/// What a machine can answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A report, with the machine's signed receipt.
    Report(Box<Seen>, Box<Receipt>),
    /// A script's report, with the machine's signed receipt.
    Ran(Box<RunReport>, Box<Receipt>),
    /// It refused, with its explanation.
    Refused(Refusal, Option<String>),
    /// It ended otherwise, with the script's report until then.
    Closed(Outcome, Option<Box<RunReport>>),
    /// It is not linked.
    Away,
    /// It did not answer in time.
    Silent,
    /// The hub could not pass it on.
    Denied(Denial),
    /// Its agent is too old for the order; nothing was sent.
    OlderAgent(OlderAgent),
    /// The answer is signed by this machine, in a version that this program does not read.
    Newer,
    /// The answer is not signed by this machine for this order.
    Forged,
}

/// A received report: its summary is parsed, its facts only on demand.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The parsed summary.
    pub summary: Summary,
    /// The complete report, JSON on one line; empty once it was dropped.
    pub json: String,
}

impl Seen {
    /// Parses the complete report.
    ///
    /// # Errors
    /// When its format is unknown, or it was dropped.
    pub fn decode(&self) -> Result<Report, serde_json::Error> {
        serde_json::from_str(&self.json)
    }
}

/// Verifies an update of a run; `None` while the run is in progress.
pub(crate) fn judge_news(machine: MachineId, order: Option<&SignedOrder>, news: News) -> Option<Answered> {
    let answer = match news {
        News::Offered | News::Started | News::Note(_) | News::Held => return None,
        News::Away => Answer::Away,
        News::NoAnswer => Answer::Silent,
        News::Cancelled => Answer::Closed(Outcome::Cancelled, None),
        News::Refused(refusal) => Answer::Refused(refusal, None),
        News::Denied(denial) => Answer::Denied(denial),
        News::Outcome(receipt, key, body) => {
            let believed = machine_id(&key) == machine;
            let receipt = envelope::open::<Receipt>(&receipt, &key);
            if believed && receipt.as_ref().is_err_and(EnvelopeError::is_newer) {
                return Some(Answered { machine, answer: Answer::Newer });
            }
            let receipt = receipt.ok().filter(|receipt| {
                believed
                    && receipt.machine == machine
                    && (body.as_bytes().is_empty() || receipt.body == sha256(body.as_bytes()))
                    && order.is_none_or(|order| order.is_meant_by(receipt))
            });
            match receipt {
                None => Answer::Forged,
                Some(receipt) => match (receipt.outcome, receipt.refusal, Summary::unpack(body.as_bytes())) {
                    (Outcome::Ok, _, Ok((summary, json))) => {
                        Answer::Report(Box::new(Seen { summary, json }), Box::new(receipt))
                    }
                    (Outcome::Refused, Some(refusal), _) => {
                        let why = NotRun::unpack(body.as_bytes()).map(|not_run| not_run.why.as_raw().to_owned());
                        Answer::Refused(refusal, why)
                    }
                    (Outcome::Ok | Outcome::Failed, _, Err(_)) => match RunReport::unpack(body.as_bytes()) {
                        Ok(report) => Answer::Ran(Box::new(report), Box::new(receipt)),
                        Err(_) => Answer::Closed(receipt.outcome, None),
                    },
                    (outcome, ..) => Answer::Closed(outcome, RunReport::unpack(body.as_bytes()).ok().map(Box::new)),
                },
            }
        }
    };
    Some(Answered { machine, answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_certs::identity::SigningKey;
    use fernwart_protocol::document::Envelope;
    use fernwart_protocol::text::Blob;

    #[test]
    fn an_answer_of_a_newer_version_is_no_forgery() {
        let key = SigningKey::generate().expect("a key");
        let machine = machine_id(&key.public());
        let answered = |text: &str, by: &SigningKey| {
            let bytes = text.as_bytes().to_vec();
            let (signature, key_id) = (by.sign(&bytes), machine.key_id());
            let receipt = Envelope { key: key_id, signature, bytes: Blob::try_from(bytes).expect("short") };
            judge_news(machine, None, News::Outcome(receipt, key.public(), Blob::default())).expect("an end").answer
        };
        assert!(matches!(answered("fernwart receipt 9\n{\"new\":1}\n", &key), Answer::Newer));
        assert!(matches!(answered("fernwart receipt 1\n{\"new\":1}\n", &key), Answer::Forged));
        let other = SigningKey::generate().expect("a key");
        assert!(matches!(answered("fernwart receipt 9\n{\"new\":1}\n", &other), Answer::Forged), "not its word");
    }
}
