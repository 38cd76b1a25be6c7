//! The hub's hash chain of one machine's receipts, and its offline verification.
//!
//! Each receipt advances the chain's head, and the machine keeps the heads that the hub has signed.
//! If either side rewrites its part, the other side detects it.

use crate::envelope::{self, EnvelopeError};
use crate::identity::{key_id, machine_id};
use crate::sha256;
use fernwart_protocol::document::{ChainCut, ChainEnd, Document, Envelope, Order, Receipt, UnixMs};
use fernwart_protocol::id::{Digest, MachineId, PublicKey};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Longest line of an exported chain, bytes: two documents in base64.
const LINE_BYTES: usize = 256 * 1024;

/// The head after one more receipt.
pub fn next_head(last: &Digest, receipt: &Digest) -> Digest {
    let mut all = b"fernwart chain 1\n".to_vec();
    all.extend_from_slice(last.as_bytes());
    all.extend_from_slice(receipt.as_bytes());
    sha256(&all)
}

/// The head before the first receipt.
pub fn no_head() -> Digest {
    Digest::from_bytes([0; 32])
}

/// One line of an exported chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// The first line: the machine's key, which signs the receipts.
    Chain {
        /// Version of this format.
        v: u32,
        /// The machine's evidence public key.
        evidence_key: PublicKey,
    },
    /// A run: its order, and the machine's signed outcome.
    Run {
        /// Version of this format.
        v: u32,
        /// Its position, from 1.
        seq: u64,
        /// When the hub stored it.
        at: UnixMs,
        /// The signed order.
        order: Envelope,
        /// The signed receipt.
        receipt: Envelope,
    },
    /// The receipts after the line before are not kept any more, up to a number in the cut.
    Cut {
        /// Version of this format.
        v: u32,
        /// The [`ChainCut`], signed with the hub key of the last line.
        cut: Envelope,
    },
    /// The last line: the hub's signed statement of the chain's length.
    End {
        /// Version of this format.
        v: u32,
        /// The hub's evidence public key.
        hub_key: PublicKey,
        /// Its signed [`ChainEnd`].
        end: Envelope,
    },
}

/// What is wrong with an exported chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChain {
    /// A line cannot be read, or is at a wrong position.
    #[error("line {0} is not a line of a chain of receipts")]
    Line(u64),
    /// A receipt is missing or duplicated.
    #[error("receipt {expected} is missing: {found} stands in its place")]
    Gap {
        /// The expected number.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// One run has two receipts.
    #[error("receipt {0} is about a run that has one already")]
    Twice(u64),
    /// A receipt is not signed by the machine, or is about something else.
    #[error("receipt {0} is not what the machine has signed for this order")]
    Receipt(u64),
    /// A receipt is of a newer version than this program reads.
    #[error("receipt {0} is of a newer version than this program reads: update it")]
    Newer(u64),
    /// The end is missing, signed by somebody else, or does not fit.
    #[error("the chain has no end that its hub has signed: it was cut or altered")]
    End,
}

/// A chain that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub machine: MachineId,
    /// How many receipts it has.
    pub receipts: u64,
    /// How many more receipts there were that are not kept any more.
    pub dropped: u64,
    /// The ranges of their positions, first and last included.
    pub gaps: Vec<(u64, u64)>,
    /// The key that signed its end. The caller must check that it is the hub's.
    pub hub_key: PublicKey,
}

/// Verifies an exported chain, line by line.
///
/// # Errors
/// The first violation found.
pub fn verify<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Verified, BadChain> {
    let mut key: Option<PublicKey> = None;
    let (mut seq, mut head) = (0u64, no_head());
    let (mut end, mut receipts, mut cuts) = (None, 0u64, Vec::new());
    let (mut runs, mut gaps) = (HashSet::new(), Vec::new());
    for (number, text) in lines.enumerate() {
        let number = number as u64 + 1;
        if end.is_some() || text.len() > LINE_BYTES {
            return Err(BadChain::Line(number));
        }
        match (serde_json::from_str(text).map_err(|_| BadChain::Line(number))?, key) {
            (Line::Chain { evidence_key, .. }, None) => key = Some(evidence_key),
            (Line::Run { seq: found, order, receipt, .. }, Some(key)) => {
                if seq.checked_add(1) != Some(found) {
                    return Err(BadChain::Gap { expected: seq.saturating_add(1), found });
                }
                let bad = || BadChain::Receipt(found);
                let newer_or_bad = |error: EnvelopeError| if error.is_newer() { BadChain::Newer(found) } else { bad() };
                let statement: Receipt = envelope::open(&receipt, &key).map_err(newer_or_bad)?;
                let asked = Order::from_bytes(order.bytes.as_bytes());
                let asked = asked.map_err(|error| newer_or_bad(EnvelopeError::Document(error)))?;
                let machine = machine_id(&key);
                let fits = (statement.machine, asked.machine) == (machine, machine)
                    && statement.run == asked.run
                    && statement.order == sha256(order.bytes.as_bytes());
                if !fits {
                    return Err(bad());
                }
                if !runs.insert(statement.run) {
                    return Err(BadChain::Twice(found));
                }
                seq = found;
                receipts += 1;
                head = next_head(&head, &sha256(receipt.bytes.as_bytes()));
            }
            // Its signature is checked at the end, where the hub's key is known.
            (Line::Cut { cut, .. }, Some(_)) => {
                let statement = ChainCut::from_bytes(cut.bytes.as_bytes()).map_err(|_| BadChain::Line(number))?;
                if statement.after != seq || statement.seq <= seq {
                    return Err(BadChain::Gap { expected: seq.saturating_add(1), found: statement.seq });
                }
                gaps.push((seq.saturating_add(1), statement.seq));
                (seq, head) = (statement.seq, statement.head);
                cuts.push(cut);
            }
            (Line::End { hub_key, end: signed, .. }, Some(key)) => {
                let statement: ChainEnd = envelope::open(&signed, &hub_key).map_err(|_| BadChain::End)?;
                let machine = machine_id(&key);
                if statement.key != key_id(&hub_key)
                    || (statement.machine, statement.seq, statement.head) != (machine, seq, head)
                {
                    return Err(BadChain::End);
                }
                for cut in &cuts {
                    let cut: ChainCut = envelope::open(cut, &hub_key).map_err(|_| BadChain::End)?;
                    if (cut.machine, cut.key) != (machine, statement.key) {
                        return Err(BadChain::End);
                    }
                }
                // Positions are consecutive, so there are never more receipts than positions.
                let (dropped, gaps) = (seq.saturating_sub(receipts), std::mem::take(&mut gaps));
                end = Some(Verified { machine, receipts, dropped, gaps, hub_key });
            }
            (Line::Chain { .. }, Some(_)) | (Line::Run { .. } | Line::Cut { .. } | Line::End { .. }, None) => {
                return Err(BadChain::Line(number));
            }
        }
    }
    end.ok_or(BadChain::End)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SigningKey;
    use fernwart_protocol::document::{Action, Outcome, Versions};
    use fernwart_protocol::id::{BootId, CustomerId, RunId};
    use fernwart_protocol::text::Text;
    use fernwart_protocol::version::Version;

    /// A machine, its hub, and five receipts that both have signed.
    struct Signed {
        machine: SigningKey,
        hub: SigningKey,
        runs: Vec<Line>,
        /// The chain's head before the first receipt, and after each one.
        heads: Vec<Digest>,
    }

    fn signed() -> Signed {
        let (machine, hub) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
        let id = machine_id(&machine.public());
        let (mut runs, mut heads) = (Vec::new(), vec![no_head()]);
        for number in 1..=5u8 {
            let run = RunId::from_bytes([number; 16]);
            let order = Order {
                run,
                machine: id,
                machine_name: "kasse-1".parse().expect("a name"),
                customer: CustomerId::from_bytes([1; 16]),
                action: Action::Diagnose { sections: Default::default() },
                key: key_id(&hub.public()),
                reason: Text::default(),
                targets_version: 1,
                not_before: 0,
                not_after: 1,
                sealed: None,
                session_key: None,
            };
            let order = envelope::seal(&order, &hub, Version::NEWEST).expect("sealed");
            let receipt = Receipt {
                run,
                machine: id,
                order: sha256(order.bytes.as_bytes()),
                outcome: Outcome::Ok,
                refusal: None,
                body: sha256(b""),
                body_bytes: 0,
                permitted_by: None,
                policy: sha256(b""),
                catalogue: Versions { root: 1, targets: 1, snapshot: 1, timestamp: 1 },
                journal_seq: 1,
                journal_head: sha256(b""),
                started_at: 0,
                finished_at: 0,
                boot: BootId::from_bytes([1; 16]),
            };
            let receipt = envelope::seal(&receipt, &machine, Version::NEWEST).expect("sealed");
            heads.push(next_head(&heads[heads.len() - 1], &sha256(receipt.bytes.as_bytes())));
            runs.push(Line::Run { v: 1, seq: number.into(), at: 0, order, receipt });
        }
        Signed { machine, hub, runs, heads }
    }

    impl Signed {
        fn run(&self, seq: usize) -> Line {
            self.runs[seq - 1].clone()
        }

        fn cut(&self, after: u64, seq: u64, head: Digest, key: &SigningKey) -> Line {
            let machine = machine_id(&self.machine.public());
            let cut = ChainCut { machine, after, seq, head, key: key_id(&key.public()), at: 0 };
            Line::Cut { v: 1, cut: envelope::seal(&cut, key, Version::NEWEST).expect("sealed") }
        }

        /// Verifies a chain with these lines between the first and the last.
        fn verified(&self, between: Vec<Line>) -> Result<(u64, u64), BadChain> {
            let machine = machine_id(&self.machine.public());
            let end = ChainEnd { machine, seq: 5, head: self.heads[5], key: key_id(&self.hub.public()), at: 0 };
            let end = envelope::seal(&end, &self.hub, Version::NEWEST).expect("sealed");
            let mut lines = vec![Line::Chain { v: 1, evidence_key: self.machine.public() }];
            lines.extend(between);
            lines.push(Line::End { v: 1, hub_key: self.hub.public(), end });
            let lines: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect();
            verify(lines.iter().map(String::as_str)).map(|verified| (verified.receipts, verified.dropped))
        }
    }

    #[test]
    fn receipts_that_the_hub_has_signed_as_deleted_are_counted_and_the_rest_verifies() {
        let all = signed();
        assert_eq!(all.verified((1..=5).map(|seq| all.run(seq)).collect()), Ok((5, 0)));
        let cut = |after: usize, seq: usize| all.cut(after as u64, seq as u64, all.heads[seq], &all.hub);
        assert_eq!(all.verified(vec![cut(0, 2), all.run(3), cut(3, 4), all.run(5)]), Ok((2, 3)));
        assert_eq!(all.verified(vec![all.run(1), cut(1, 5)]), Ok((1, 4)));
    }

    /// What a hub would do that has lost an act and wants the count to be right.
    #[test]
    fn one_receipt_cannot_be_used_for_two_runs() {
        let mut all = signed();
        let Line::Run { order, receipt, .. } = all.run(4) else { panic!("a run") };
        let head = next_head(&all.heads[4], &sha256(receipt.bytes.as_bytes()));
        all.runs[4] = Line::Run { v: 1, seq: 5, at: 0, order, receipt };
        all.heads[5] = head;
        assert_eq!(all.verified((1..=5).map(|seq| all.run(seq)).collect()), Err(BadChain::Twice(5)));
    }

    #[test]
    fn a_chain_cut_that_is_forged_moved_or_duplicated_is_rejected() {
        let all = signed();
        let honest = || all.cut(0, 2, all.heads[2], &all.hub);
        let rest = |first: usize| (first..=5).map(|seq| all.run(seq));
        let with = |lines: Vec<Line>, first: usize| all.verified(lines.into_iter().chain(rest(first)).collect());
        assert_eq!(with(vec![honest()], 3), Ok((3, 2)));
        // Signed with another key; too large a gap; at another position; duplicated; of another
        // machine.
        let forger = SigningKey::generate().expect("a key");
        assert_eq!(with(vec![all.cut(0, 2, all.heads[2], &forger)], 3), Err(BadChain::End));
        assert_eq!(with(vec![all.cut(0, 2, all.heads[2], &all.machine)], 3), Err(BadChain::End));
        assert!(with(vec![honest()], 4).is_err(), "a receipt more is missing");
        assert!(with(vec![all.run(1), honest()], 3).is_err());
        assert!(with(vec![honest(), honest()], 3).is_err());
        let other = Signed { machine: SigningKey::generate().expect("a key"), ..signed() };
        assert_eq!(with(vec![other.cut(0, 2, all.heads[2], &all.hub)], 3), Err(BadChain::End));
        assert!(with(Vec::new(), 3).is_err(), "without a word");
        // Numbers that overflow hide nothing.
        let far = all.cut(1, u64::MAX, no_head(), &all.hub);
        assert!(all.verified(vec![all.run(1), far, all.run(1)]).is_err());
    }
}
