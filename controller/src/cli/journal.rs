//! Records: shows and exports a machine's receipts from the hub, and verifies exported records
//! offline, without a hub or a home.

use super::choosing::chosen;
use super::output::{Cell, Rows};
use super::{Exit, Failure, HomePaths, ShapeArgs, say, with_session};
use clap::{Args, Subcommand};
use fernwart_certs::chain::{self, Line};
use fernwart_certs::journal;
use fernwart_client::target::Target;
use fernwart_client::{ReceiptChain, Session, StaffHome};
use fernwart_protocol::document::{ChainCut, Document, Envelope, Order, Receipt};
use fernwart_protocol::id::PublicKey;
use fernwart_protocol::staff::ChainLink;
use std::path::PathBuf;

/// Records of machines.
#[derive(Args)]
pub(crate) struct Journal {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What was done on a machine, from its signed receipts
    Show {
        /// The machine
        machine: String,
        #[command(flatten)]
        shape: ShapeArgs,
    },
    /// Write a machine's receipts as JSON lines that anybody can verify
    Export {
        /// The machine
        machine: String,
    },
    /// Whether exported records hold together and are signed by their machine
    Verify {
        /// What `journal export` or `fernwart-agent journal --export` wrote, or -
        file: PathBuf,
    },
}

pub(crate) fn run(command: &Journal, homes: &HomePaths) -> Result<Exit, Failure> {
    match &command.command {
        Command::Show { machine, shape } => show(machine, *shape, homes),
        Command::Export { machine } => export(machine, homes),
        Command::Verify { file } => verify(file, homes),
    }
}

/// All of a machine's receipts at the hub, and the signed end.
struct Chain {
    evidence_key: PublicKey,
    links: Vec<ChainLink>,
    /// The hub's signed chain cuts, where receipts were dropped.
    cuts: Vec<Envelope>,
    end: Envelope,
    hub_key: PublicKey,
}

async fn fetch(session: &mut Session, machine: &str) -> Result<Chain, Failure> {
    session.sync().await?;
    let target = Target { words: vec![machine.to_owned()], ..Target::default() };
    let machines = chosen(session, &target).await?;
    let [row] = machines.as_slice() else {
        return Err(Failure::new(Exit::Usage, "FW-CLI-02", "records are those of one machine"));
    };
    let cut = || Failure::new(Exit::Failed, "FW-JNL-02", "the hub sent no whole chain of receipts");
    let ReceiptChain { evidence_key, links, cuts, end } = session.receipt_chain(row.id).await?.ok_or_else(cut)?;
    let hub_key = session.catalogue.hub.evidence_key(&end.key).copied().ok_or_else(|| {
        Failure::new(Exit::Failed, "FW-JNL-02", "the hub's key for records is not an approved one")
            .now("fernwart doctor")
    })?;
    Ok(Chain { evidence_key, links, cuts, end, hub_key })
}

impl Chain {
    fn lines(&self) -> Vec<Line> {
        let run = |link: &ChainLink| Line::Run {
            v: 1,
            seq: link.seq,
            at: link.at,
            order: link.order.clone(),
            receipt: link.receipt.clone(),
        };
        let first = Line::Chain { v: 1, evidence_key: self.evidence_key };
        let last = Line::End { v: 1, hub_key: self.hub_key, end: self.end.clone() };
        let mut between: Vec<(u64, Line)> = self.links.iter().map(|link| (link.seq, run(link))).collect();
        between.extend(self.cuts.iter().filter_map(|cut| {
            let seq = ChainCut::from_bytes(cut.bytes.as_bytes()).ok()?.seq;
            Some((seq, Line::Cut { v: 1, cut: cut.clone() }))
        }));
        between.sort_by_key(|(seq, _)| *seq);
        std::iter::once(first).chain(between.into_iter().map(|(_, line)| line)).chain([last]).collect()
    }

    fn text(&self) -> Result<String, Failure> {
        let mut text = String::new();
        for line in self.lines() {
            let line = serde_json::to_string(&line);
            text += &line.map_err(|error| Failure::new(Exit::Failed, "FW-CLI-09", error.to_string()))?;
            text.push('\n');
        }
        Ok(text)
    }
}

fn export(machine: &str, homes: &HomePaths) -> Result<Exit, Failure> {
    let chain = with_session(homes, async |session| fetch(session, machine).await)?;
    let text = chain.text()?;
    // Do not export records that fail verification.
    chain::verify(text.lines()).map_err(|error| does_not_hold(&error))?;
    say(&text)?;
    note!("{} receipts. Next: fernwart journal verify FILE", chain.links.len());
    Ok(Exit::Done)
}

fn show(machine: &str, shape: ShapeArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    let chain = with_session(homes, async |session| fetch(session, machine).await)?;
    let verified = chain::verify(chain.text()?.lines()).map_err(|error| does_not_hold(&error))?;
    if let Some(gaps) = gaps_in_words(&verified.gaps) {
        note!("{gaps} not kept any more, as the hub has signed");
    }
    let mut rows = Rows::new("receipt", &["nr", "at:when", "action", "outcome", "by", "allowed", "reason"]);
    for link in &chain.links {
        let order = Order::from_bytes(link.order.bytes.as_bytes());
        let receipt = Receipt::from_bytes(link.receipt.bytes.as_bytes());
        let (Ok(order), Ok(receipt)) = (order, receipt) else { continue };
        let allowed = receipt.permitted_by.map(|rule| rule.to_string()).unwrap_or_default();
        rows.push(vec![
            link.seq.into(),
            Cell::moment(receipt.finished_at),
            action_in_words(&order).into(),
            receipt.outcome.as_str().into(),
            order.key.to_string().get(..8).unwrap_or_default().into(),
            allowed.into(),
            order.reason.to_string().into(),
        ]);
    }
    rows.print(shape.output)
}

fn action_in_words(order: &Order) -> String {
    use fernwart_protocol::document::Action;
    match &order.action {
        Action::Diagnose { .. } => "diagnose".to_owned(),
        Action::Script { bundle, version, .. } => format!("{bundle} {version}"),
    }
}

/// Names the receipts that the hub has dropped, as the beginning of a sentence; `None` if there are
/// none.
fn gaps_in_words(gaps: &[(u64, u64)]) -> Option<String> {
    let places: Vec<String> = gaps
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") })
        .collect();
    let is_one = matches!(gaps, [(first, last)] if first == last);
    let (noun, verb) = if is_one { ("receipt", "is") } else { ("receipts", "are") };
    (!places.is_empty()).then(|| format!("{noun} {} {verb}", places.join(", ")))
}

fn does_not_hold(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Bad, "FW-JNL-01", format!("these records do not hold: {error}"))
}

fn verify(file: &PathBuf, homes: &HomePaths) -> Result<Exit, Failure> {
    let text =
        if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|error| {
        Failure::new(Exit::Usage, "FW-CLI-10", format!("{} cannot be read: {error}", file.display()))
    })?;
    if text.starts_with("{\"type\":\"chain\"") {
        let verified = chain::verify(text.lines()).map_err(|error| does_not_hold(&error))?;
        // A home is optional; if there is one, it knows the hub's key.
        let catalogue = StaffHome::open(&homes.staff()).ok().and_then(|home| home.catalogue().ok());
        let known = catalogue.map(|catalogue| catalogue.hub.evidence_keys.contains(&verified.hub_key));
        let hub = match known {
            Some(true) => "the hub of this home".to_owned(),
            Some(false) => format!("a hub this home does not know, key {}", verified.hub_key),
            None => format!("the hub with the key {}", verified.hub_key),
        };
        let dropped = match gaps_in_words(&verified.gaps) {
            Some(gaps) => format!(" ({gaps} not kept any more)"),
            None => String::new(),
        };
        say(&format!(
            "whole: {} receipts{dropped}, each signed by machine {}, counted by {hub}\n",
            verified.receipts, verified.machine
        ))?;
        if known == Some(false) {
            let what = "nobody here has approved the hub that counted them: some may be missing at the end";
            return Err(Failure::new(Exit::Bad, "FW-JNL-03", what).now("export them anew from your own hub"));
        }
        return Ok(Exit::Done);
    }
    let verified = journal::verify(text.lines()).map_err(|error| does_not_hold(&error))?;
    let erased = if verified.erased > 0 { format!(", {} of them erased", verified.erased) } else { String::new() };
    let dropped = match verified.dropped {
        0 => String::new(),
        dropped => format!(" ({dropped} older entries are not kept any more)"),
    };
    say(&format!("whole: {} entries{dropped}{erased}, signed by machine {}\n", verified.entries, verified.machine))
}
