//! What a run's news look like while they come, and how a run ended in words.

use super::super::diagnose::{result_line, status};
use super::super::output::{Rows, Shape, json_text, moment};
use super::super::{Failure, say};
use fernwart_client::Answer;
use fernwart_protocol::document::Receipt;
use fernwart_protocol::row::Row;
use fernwart_protocol::script::RunReport;
use fernwart_protocol::staff::MachineRow;
use fernwart_protocol::text::escaped;
use fernwart_protocol::to_hub::{Note, Stream};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// Where news are written as they come, or all of them at the end.
pub(super) struct Screen {
    shape: Shape,
    one: bool,
    at_line_start: bool,
    /// What is one document in the end: a table, or JSON.
    rows: Rows,
    results: Vec<Value>,
    /// Bytes shown live, of standard output and of errors.
    shown: [u64; 2],
}

impl Screen {
    pub(super) fn new(shape: Shape, one: bool) -> Self {
        let rows = Rows::new("result", &["machine", "customer", "status", "code", "why"]);
        Self { shape, one, at_line_start: true, rows, results: Vec::new(), shown: [0, 0] }
    }

    pub(super) fn note(&mut self, row: &Row<MachineRow>, note: &Note) -> Result<(), Failure> {
        if self.shape != Shape::Table {
            return Ok(());
        }
        let name = row.name.as_str();
        match note {
            Note::Output(stream, bytes) if self.one => self.output(*stream, bytes.as_bytes())?,
            Note::Output(..) => {}
            Note::Asking(until) => eprintln!("{name}  asking the customer (until {})", clock(*until)),
            Note::Allowed(by, at) => eprintln!("{name}  allowed by \"{by}\" at {}", clock(*at)),
            Note::Window(at) => eprintln!("{name}  waits for the customer's window at {}", clock(*at)),
            Note::Turn => eprintln!("{name}  waits for its turn"),
        }
        Ok(())
    }

    /// A machine that is away: its order waits.
    pub(super) fn held(&mut self, row: &Row<MachineRow>, life: Duration) -> Result<(), Failure> {
        let until = fernwart_client::now().saturating_add(i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
        match self.shape {
            Shape::Table => say(&format!(
                "{}  queued: away; it gets the order when it returns, until {}\n",
                row.name,
                moment(until)
            ))
            .map(drop),
            Shape::Jsonl | Shape::Json => self
                .line(json!({"v": 1, "type": "result", "machine": row.name, "id": row.id,
                    "customer": row.customer_name.as_raw(), "status": "queued", "until": until})),
            Shape::Csv => {
                self.push(row, "queued", None, None);
                Ok(())
            }
            Shape::Name => Ok(()),
        }
    }

    /// One machine's end for programs: at once, or with all others.
    fn line(&mut self, line: Value) -> Result<(), Failure> {
        if self.shape == Shape::Jsonl {
            return say(&(json_text(&line) + "\n")).map(drop);
        }
        self.results.push(line);
        Ok(())
    }

    fn push(&mut self, row: &Row<MachineRow>, status: &str, code: Option<&str>, why: Option<String>) {
        let cells = [row.name.as_str().into(), row.customer_name.as_raw().into(), status.into()];
        self.rows.push(cells.into_iter().chain([code.into(), why.into()]).collect());
    }

    /// What stands at the end.
    pub(super) fn end(self, summary: &Value) -> Result<(), Failure> {
        match self.shape {
            Shape::Jsonl => say(&(json_text(summary) + "\n")).map(drop),
            Shape::Json => {
                let all = json!({"v": 1, "type": "run", "results": self.results, "summary": summary});
                say(&(json_text(&all) + "\n")).map(drop)
            }
            Shape::Csv => self.rows.print(self.shape).map(drop),
            Shape::Table | Shape::Name => Ok(()),
        }
    }

    /// Live output of one machine, with whatever could move a cursor escaped.
    fn output(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(bytes);
        let mut shown = String::new();
        for piece in text.split_inclusive('\n') {
            let line = piece.strip_suffix('\n');
            shown += &escaped(line.unwrap_or(piece));
            if line.is_some() {
                shown.push('\n');
            }
        }
        self.at_line_start = shown.ends_with('\n');
        let [out, err] = &mut self.shown;
        *match stream {
            Stream::Out => out,
            Stream::Err => err,
        } += bytes.len() as u64;
        match stream {
            Stream::Out => drop(say(&shown)?),
            Stream::Err => std::io::stderr().write_all(shown.as_bytes())?,
        }
        Ok(())
    }

    /// What is told live may be left out where a link is slow; the report has it.
    fn missed(&mut self, report: &RunReport) -> Result<(), Failure> {
        for (kept, stream, shown) in
            [(&report.stdout, Stream::Out, self.shown[0]), (&report.stderr, Stream::Err, self.shown[1])]
        {
            if shown == kept.bytes {
                continue;
            }
            eprintln!(
                "({} of {} bytes were not shown live; here is what is kept)",
                kept.bytes.saturating_sub(shown),
                kept.bytes
            );
            self.output(stream, kept.head.as_bytes())?;
            if !kept.tail.is_empty() {
                let between = kept.bytes.saturating_sub((kept.head.len() + kept.tail.len()) as u64);
                self.output(stream, format!("\n… about {between} bytes …\n").as_bytes())?;
                self.output(stream, kept.tail.as_bytes())?;
            }
            if !self.at_line_start {
                say("\n")?;
                self.at_line_start = true;
            }
        }
        Ok(())
    }

    pub(super) fn result(&mut self, row: &Row<MachineRow>, answer: &Answer) -> Result<(), Failure> {
        match self.shape {
            Shape::Table => {
                if !self.at_line_start {
                    say("\n")?;
                    self.at_line_start = true;
                }
                if let Answer::Ran(report, _) = answer
                    && self.one
                {
                    self.missed(report)?;
                }
                say(&in_a_line(row, answer)).map(drop)
            }
            Shape::Jsonl | Shape::Json => self.line(result_line(row, answer)),
            Shape::Name => match answer {
                Answer::Ran(report, _) if report.is_well() => Ok(()),
                _ => say(&format!("{}\n", row.name)).map(drop),
            },
            Shape::Csv => {
                let (status, code, why) = status(answer);
                self.push(row, status, code.as_deref(), why);
                Ok(())
            }
        }
    }
}

fn clock(at: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    at.strftime("%H:%M").to_string()
}

/// How a run ended, in half a sentence.
pub(crate) fn ran_in_words(report: &RunReport) -> String {
    use fernwart_protocol::script::Stopped;
    let how = match (report.stopped, report.exit, report.signal) {
        (Some(Stopped::Time), ..) => "stopped: its time was over".to_owned(),
        (Some(Stopped::Memory), ..) => "stopped: it used too much memory".to_owned(),
        (Some(Stopped::Processes), ..) => "stopped: it had too many processes".to_owned(),
        (Some(Stopped::Disk), ..) => "stopped: it was filling the disk".to_owned(),
        (Some(Stopped::Output), ..) => "stopped: it wrote too much".to_owned(),
        (Some(Stopped::Cancelled), ..) => "stopped: taken back".to_owned(),
        (None, Some(0), _) => "done".to_owned(),
        (None, Some(code), _) => match &report.means {
            Some(means) => format!("exit {code}: {}", escaped(&means.en)),
            None => format!("exit {code}"),
        },
        (None, None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
    };
    let took = format!("{how} in {:.1} s", report.took_ms as f64 / 1000.0);
    let checks = match (&report.before, &report.after) {
        _ if report.dry_run => " · nothing was changed".to_owned(),
        (_, Some(after)) if !after.is_empty() => {
            let all: Vec<_> = after.iter().map(|finding| escaped(&finding.cause.en)).collect();
            format!(" · still not well: {}", all.join("; "))
        }
        (Some(before), Some(_)) if !before.is_empty() => {
            let mut ids: Vec<_> = before.iter().map(|finding| escaped(&finding.id)).collect();
            ids.dedup();
            format!(" · {} run again: ok", ids.join(", "))
        }
        (before, None) if before.is_some() || report.checked => " · nobody can tell whether it is well now".to_owned(),
        _ => String::new(),
    };
    let unseen = match report.unseen.as_slice() {
        [] => String::new(),
        places => format!(" · not seen by it, since they do not answer: {}", escaped(&places.join(", "))),
    };
    let redacted = match report.redacted {
        0 => String::new(),
        count => format!(" · {count} secret(s) taken out"),
    };
    took + &checks + &unseen + &redacted
}

fn in_a_line(row: &Row<MachineRow>, answer: &Answer) -> String {
    let name = row.name.as_str();
    match answer {
        Answer::Ran(report, receipt) => {
            format!("{name}  {}\nReceipt {} signed by {name}.\n", ran_in_words(report), short(receipt))
        }
        _ => {
            let (status, code, why) = status(answer);
            let code = code.map(|code| format!("     [{code}]")).unwrap_or_default();
            format!("{name}  {}: {}{code}\n", status.replace('_', " "), why.unwrap_or_default())
        }
    }
}

fn short(receipt: &Receipt) -> String {
    receipt.run.to_string().get(..8).unwrap_or_default().to_owned()
}
