//! `fernwart events`: the hub's events, one line each.

use super::output::{json_text, rfc3339};
use super::{Exit, Failure, HomePaths, span, with_session};
use clap::{Args, ValueEnum};
use fernwart_protocol::document::UnixMs;
use fernwart_protocol::event::{Event, Happened, Named, Until};
use fernwart_protocol::staff::Verdict;
use serde_json::{Map, Value, json};
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

/// Delay before reconnecting to a hub that has gone.
const AGAIN: Duration = Duration::from_secs(2);

/// Show what has happened lately, or follow what happens now
#[derive(Args)]
#[command(
    before_help = "Examples:\n  fernwart events --since 1h                     the last hour\n  fernwart events -f | jq -r 'select(.type == \"left\") | .machine'",
    after_help = "The hub remembers the last thousand since it was started; what counts for good is in: fernwart job ls\nExit: 0 told · 4 the hub did not answer · 130 stopped"
)]
pub(crate) struct Events {
    /// Go on with what happens now, until stopped; a hub that is restarted is waited for
    #[arg(short, long)]
    follow: bool,
    /// Begin so long ago: 1h. Without it -f begins now, and else all that the hub remembers is shown
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    since: Option<Duration>,
    /// How to write it; a table on a terminal, else jsonl
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

/// The shape of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One JSON object a line.
    Jsonl,
    /// One line each, to be read.
    Table,
}

/// The state of the output.
struct Written {
    form: Form,
    /// Earlier events are not shown; by the hub's clock.
    from: Option<UnixMs>,
    /// The last event's hub life and sequence number.
    last: Option<(u64, u64)>,
    count: u64,
    is_read: bool,
}

pub(crate) fn run(command: &Events, homes: &HomePaths) -> Result<Exit, Failure> {
    let until = if command.follow { Until::Left } else { Until::Now };
    let form = command.output.unwrap_or(if std::io::stdout().is_terminal() { Form::Table } else { Form::Jsonl });
    let since = command.since.or(command.follow.then_some(Duration::ZERO));
    let mut written = Written { form, from: None, last: None, count: 0, is_read: true };
    let (mut was_linked, mut is_waiting) = (false, false);
    loop {
        let followed = with_session(homes, async |session| {
            if let (Some(since), None) = (since, written.from) {
                let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
                written.from = Some(session.health().await?.now.saturating_sub(since));
            }
            let mut stream = session.events(until).await?;
            was_linked = true;
            if std::mem::take(&mut is_waiting) {
                note!("the hub is back");
                written.gap()?;
            }
            while let Some(event) = stream.next().await? {
                written.event(&event)?;
                if !written.is_read {
                    break;
                }
            }
            Ok(())
        });
        match followed {
            Ok(()) => return written.end(Exit::Done),
            // Ctrl-C is the normal end of following.
            Err(failure) if failure.exit == Exit::Stopped && was_linked => return written.end(Exit::Stopped),
            Err(failure) if command.follow && was_linked && failure.may_pass() => {
                if !std::mem::replace(&mut is_waiting, true) {
                    note!("the hub has gone; waiting for it. What happens meanwhile may be missed");
                }
                if wait_for_it().is_err() {
                    return written.end(Exit::Stopped);
                }
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Sleeps, unless stopped.
fn wait_for_it() -> Result<(), Failure> {
    super::block_on(async {
        tokio::time::sleep(AGAIN).await;
        Ok(())
    })
}

impl Written {
    fn line(&mut self, line: &str) -> Result<(), Failure> {
        match std::io::stdout().write_all(format!("{line}\n").as_bytes()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.is_read = false,
            written => written?,
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        // The hub sends its remembered events again on each link: skip known ones.
        if self.last.is_some_and(|(life, seq)| life == event.life && event.seq <= seq) {
            return Ok(());
        }
        self.last = Some((event.life, event.seq));
        if self.from.is_some_and(|from| event.at < from) {
            return Ok(());
        }
        self.count += 1;
        let line = match self.form {
            Form::Jsonl => json_text(&object(event)),
            Form::Table => for_eyes(event),
        };
        self.line(&line)
    }

    /// Writes the summary line, which shows that the output is complete.
    fn end(&mut self, exit: Exit) -> Result<Exit, Failure> {
        if self.form == Form::Jsonl {
            self.line(&json!({"v": 1, "type": "summary", "events": self.count}).to_string())?;
        }
        Ok(exit)
    }

    /// Reports that an unknown number of events may be missing.
    fn gap(&mut self) -> Result<(), Failure> {
        match self.form {
            Form::Jsonl => self.line(&json_text(&json!({"v": 1, "type": "missed", "count": null}))),
            Form::Table => Ok(()),
        }
    }
}

/// An event's type, machine and fields.
fn parts(what: &Happened) -> (&'static str, Option<&Named>, Vec<(&'static str, Value)>) {
    let text = |text: &str| Value::from(text);
    match what {
        Happened::Missed(count) => ("missed", None, vec![("count", (*count).into())]),
        Happened::Linked(machine) => ("linked", Some(machine), vec![]),
        Happened::Left(machine, why) => ("left", Some(machine), vec![("why", text(why.as_raw()))]),
        Happened::Waits(machine) => ("waits", Some(machine), vec![]),
        Happened::Admitted(machine, by) => ("admitted", Some(machine), vec![("by", text(by.as_raw()))]),
        Happened::Rejected(machine, by) => ("rejected", Some(machine), vec![("by", text(by.as_raw()))]),
        Happened::Retired(machine, by) => ("retired", Some(machine), vec![("by", text(by.as_raw()))]),
        Happened::Alarm(machine, what) => ("alarm", Some(machine), vec![("what", text(what.as_raw()))]),
        Happened::Acknowledged(machine, by) => ("acknowledged", Some(machine), vec![("by", text(by.as_raw()))]),
        Happened::Health(machine, verdict) => {
            let (health, finding) = match verdict {
                Verdict::Unknown => ("unknown", Value::Null),
                Verdict::Well => ("ok", Value::Null),
                Verdict::Warn(finding) => ("warn", text(finding.as_raw())),
                Verdict::Crit(finding) => ("crit", text(finding.as_raw())),
            };
            ("health", Some(machine), vec![("health", health.into()), ("finding", finding)])
        }
        Happened::JobBegan { job, action, by, reason, machines } => {
            let parts = vec![
                ("job", job.0.into()),
                ("action", text(action.as_raw())),
                ("machines", (*machines).into()),
                ("by", text(by.as_raw())),
                ("reason", text(reason.as_raw())),
            ];
            ("job", None, parts)
        }
        Happened::RunSettled(machine, run, outcome) => {
            let parts = vec![("outcome", outcome.as_str().into()), ("run", run.to_string().into())];
            ("settled", Some(machine), parts)
        }
        Happened::RunRefused(machine, run, refusal) => {
            let parts = vec![("code", refusal.code().into()), ("run", run.to_string().into())];
            ("refused", Some(machine), parts)
        }
        Happened::Published { targets, timestamp } => {
            ("published", None, vec![("targets", (*targets).into()), ("timestamp", (*timestamp).into())])
        }
        Happened::StaffWaits(key, name) => {
            ("staff_waits", None, vec![("name", text(name.as_raw())), ("key", key.to_string().into())])
        }
        Happened::Suspended(key, by) => {
            ("suspended", None, vec![("key", key.to_string().into()), ("by", text(by.as_raw()))])
        }
        Happened::Locked => ("locked", None, vec![]),
        Happened::StoreFailed(denial) => ("store_failed", None, vec![("code", denial.code().into())]),
    }
}

fn object(event: &Event) -> Value {
    let (kind, machine, parts) = parts(&event.what);
    let mut object = Map::new();
    object.insert("v".into(), 1.into());
    object.insert("type".into(), kind.into());
    object.insert("seq".into(), event.seq.into());
    object.insert("at".into(), rfc3339(event.at).into());
    if let Some(machine) = machine {
        object.insert("machine".into(), machine.name.as_str().into());
        object.insert("machine_id".into(), machine.id.to_string().into());
        object.insert("customer".into(), machine.customer.as_raw().into());
    }
    object.extend(parts.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Value::Object(object)
}

fn for_eyes(event: &Event) -> String {
    let (kind, machine, parts) = parts(&event.what);
    let at = jiff::Timestamp::from_millisecond(event.at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    let mut line = format!("{}  ", at.strftime("%-d %b %H:%M:%S"));
    let who = machine.map(|machine| machine.name.to_string()).unwrap_or_else(|| "–".into());
    line.push_str(&format!("{who:<16} {:<12}", kind.replace('_', " ")));
    for (_, value) in parts.iter().filter(|(_, value)| !value.is_null() && *value != "") {
        let value = value.as_str().map_or_else(|| value.to_string(), fernwart_protocol::text::escaped);
        line.push_str(&format!(" {value}"));
    }
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::id::MachineId;
    use fernwart_protocol::text::Text;

    fn left() -> Event {
        let name = "kasse-1".parse().expect("a name");
        let machine =
            Named { id: MachineId::from_bytes([1; 16]), name, customer: Text::clipped("B\u{e4}ckerei\u{9b}") };
        Event { life: 1, seq: 7, at: 1_795_600_000_000, what: Happened::Left(machine, Text::clipped("silent")) }
    }

    #[test]
    fn an_event_is_an_object_with_its_number_time_and_machine() {
        let line = json_text(&object(&left()));
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&value["v"], &value["type"], &value["seq"]), (&json!(1), &json!("left"), &json!(7)));
        assert_eq!((&value["machine"], &value["why"]), (&json!("kasse-1"), &json!("silent")));
        assert!(!line.contains('\u{9b}'), "{line}");
    }

    #[test]
    fn a_table_line_names_the_machine_and_the_event() {
        let line = for_eyes(&left());
        assert!(line.contains("kasse-1") && line.ends_with("left         silent"), "{line}");
    }
}
