//! Shows a run's updates as they arrive, and how runs ended.

use super::super::diagnose::{named, result_line, status};
use super::super::output::{Rows, Shape, is_watched, json_text, moment, rfc3339};
use super::super::terminal::{self, Live};
use super::super::{Failure, say};
use fernwart_client::Answer;
use fernwart_protocol::document::Receipt;
use fernwart_protocol::id::{JobId, MachineId};
use fernwart_protocol::row::Row;
use fernwart_protocol::script::RunReport;
use fernwart_protocol::staff::MachineRow;
use fernwart_protocol::text::escaped;
use fernwart_protocol::to_hub::{Note, Stream};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::IsTerminal;
use std::time::Duration;

/// Output lines shown per machine at its end if there are several machines.
const FIRST: usize = 3;

/// One output stream of the script if there is only one machine.
#[derive(Default)]
struct Shown {
    bytes: u64,
    /// `live` is used if the stream goes to a terminal, `lines` otherwise.
    live: Live,
    lines: terminal::Screen,
}

/// Writes updates as they arrive, or all of them at the end.
pub(super) struct Screen {
    shape: Shape,
    one: bool,
    job: Option<JobId>,
    /// Machines that reported that they cannot save their result; each is reported once.
    unwritten: HashSet<MachineId>,
    at_line_start: bool,
    /// Collected for one document at the end: a table, or JSON.
    rows: Rows,
    results: Vec<Value>,
    out: Shown,
    err: Shown,
}

impl Screen {
    pub(super) fn new(shape: Shape, one: bool) -> Self {
        let rows = Rows::new("result", &["machine", "customer", "status", "code", "why"]);
        let (out, err) = (Shown::default(), Shown::default());
        Self {
            shape,
            one,
            job: None,
            unwritten: HashSet::new(),
            at_line_start: true,
            rows,
            results: Vec::new(),
            out,
            err,
        }
    }

    /// Reports the job's number and what it runs.
    pub(super) fn begun(&mut self, job: JobId, what: &str) {
        self.job = Some(job);
        if self.shape == Shape::Table {
            note!("job {job} · {what}");
        }
        if is_watched() && matches!(self.shape, Shape::Json | Shape::Csv) {
            note!("job {job} has begun; its results are written at its end");
        }
    }

    pub(super) fn note(&mut self, row: &Row<MachineRow>, note: &Note) -> Result<(), Failure> {
        if self.shape != Shape::Table {
            return Ok(());
        }
        let name = row.name.as_str();
        match note {
            Note::Output(stream, bytes) if self.one => self.output(*stream, bytes.as_bytes())?,
            Note::Output(..) => {}
            Note::Asking(until) => note!("{name}  asking the customer (until {})", clock(*until)),
            Note::Allowed(by, at) => note!("{name}  allowed by \"{by}\" at {}", clock(*at)),
            Note::Window(at) => note!("{name}  waits for the customer's window at {}", clock(*at)),
            Note::Turn => note!("{name}  waits for its turn"),
            Note::Unwritten(why) if self.unwritten.insert(row.id) => {
                note!(
                    "{name}  has ended, but the machine cannot save the result; it tries every 10 s: {}",
                    escaped(why.as_raw())
                );
            }
            Note::Unwritten(_) => {}
        }
        Ok(())
    }

    /// Reports that a machine is away and its order is held.
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
                    "customer": row.customer_name.as_raw(), "status": "queued", "until": rfc3339(until)})),
            Shape::Csv => {
                self.push(row, "queued", None, None);
                Ok(())
            }
            Shape::Name => Ok(()),
        }
    }

    /// Writes a machine's end for programs, at once or with all others.
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

    /// Writes the end of the output.
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

    /// Live output of one machine.
    fn output(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Failure> {
        let one = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        one.bytes += bytes.len() as u64;
        let text = if is_terminal(stream) { one.live.take(bytes) } else { one.lines.take(bytes) };
        self.write(stream, &text)
    }

    fn write(&mut self, stream: Stream, text: &str) -> Result<(), Failure> {
        if let Some(last) = text.chars().last() {
            self.at_line_start = last == '\n';
        }
        match stream {
            Stream::Out => drop(say(text)?),
            Stream::Err => note_text!("{text}"),
        }
        Ok(())
    }

    /// Completes unfinished lines.
    fn end_lines(&mut self) -> Result<(), Failure> {
        for stream in [Stream::Out, Stream::Err] {
            let one = match stream {
                Stream::Out => &mut self.out,
                Stream::Err => &mut self.err,
            };
            let rest = one.live.end() + &one.lines.end();
            self.write(stream, &rest)?;
        }
        if !self.at_line_start {
            say("\n")?;
            self.at_line_start = true;
        }
        Ok(())
    }

    /// Shows output that was left out live because the link was slow; the report contains it.
    fn missed(&mut self, report: &RunReport) -> Result<(), Failure> {
        for (kept, stream, shown) in
            [(&report.stdout, Stream::Out, self.out.bytes), (&report.stderr, Stream::Err, self.err.bytes)]
        {
            if shown == kept.bytes {
                continue;
            }
            note!(
                "({} of {} bytes were not shown live; here is what is kept)",
                kept.bytes.saturating_sub(shown),
                kept.bytes
            );
            self.write(stream, &terminal::shown(&kept.in_one()))?;
            self.end_lines()?;
        }
        Ok(())
    }

    /// The first output lines of one of several machines, from standard error if it ended badly.
    fn first_lines(&self, row: &Row<MachineRow>, report: &RunReport) -> String {
        let is_of_errors = !report.is_well() && !report.stderr.head.trim().is_empty();
        let kept = if is_of_errors { &report.stderr } else { &report.stdout };
        let text = terminal::shown(&kept.in_one());
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let mut first: String = lines.iter().take(FIRST).map(|line| format!("    {line}\n")).collect();
        if let (more @ 1.., Some(job)) = (lines.len().saturating_sub(FIRST), self.job) {
            let lines = if more == 1 { "line" } else { "lines" };
            first += &format!("    … {more} more {lines}: fernwart job logs {job} {}\n", row.name);
        }
        first
    }

    pub(super) fn result(&mut self, row: &Row<MachineRow>, answer: &Answer) -> Result<(), Failure> {
        match self.shape {
            Shape::Table => {
                self.end_lines()?;
                if let Answer::Ran(report, _) = answer
                    && self.one
                {
                    self.missed(report)?;
                }
                say(&in_a_line(row, answer))?;
                match answer {
                    Answer::Ran(report, _) if !self.one => say(&self.first_lines(row, report)).map(drop),
                    _ => Ok(()),
                }
            }
            Shape::Jsonl | Shape::Json => self.line(result_line(&named(row), answer)),
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

fn is_terminal(stream: Stream) -> bool {
    match stream {
        Stream::Out => std::io::stdout().is_terminal(),
        Stream::Err => std::io::stderr().is_terminal(),
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
        (Some(Stopped::Cancelled), ..) => "stopped: cancelled".to_owned(),
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
        1 => " · 1 secret taken out".to_owned(),
        count => format!(" · {count} secrets taken out"),
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
