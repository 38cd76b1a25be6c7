//! Printers, from CUPS.

use crate::collect::bytes::clipped;
use crate::collect::child;
use fernwart_protocol::diagnosis::facts::{LIST, Printer};
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

const SPOOL: &str = "/var/spool/cups";

/// Time limit for CUPS, which contacts no printer for this.
const BUDGET: Duration = Duration::from_millis(1500);

pub(super) fn all(until: Instant) -> Result<Vec<Printer>, Cause> {
    // The socket may be elsewhere; without its configuration CUPS is not installed.
    let places = ["/run/cups/cups.sock", "/var/run/cups/cups.sock", "/etc/cups/cupsd.conf"];
    if !places.iter().any(|place| Path::new(place).exists()) {
        return Err(Cause::new(Reason::Absent, "printing"));
    }
    let until = until.min(Instant::now() + BUDGET);
    let ended = child::run("lpstat", &["-p", "-a", "-o"], until)?;
    // A stopped print service is reported by another check.
    let is_off = ["Scheduler is not running", "Bad file descriptor", "Connection refused", "Transport endpoint"];
    if ended.code != Some(0) && is_off.iter().any(|words| ended.complaints.contains(words)) {
        return Err(Cause::new(Reason::Absent, "running print service"));
    }
    // Without any printer lpstat fails with this message.
    if ended.code == Some(1) && ended.complaints.contains("No destinations added") {
        return Ok(Vec::new());
    }
    let text = ended.complete("lpstat")?;
    Ok(parse(&text, |job| age(Path::new(SPOOL), job)))
}

/// The age of a print job. CUPS writes its control file up to half a minute after the data file.
fn age(spool: &Path, job: u32) -> Result<Duration, Cause> {
    let written = |name: String| std::fs::metadata(spool.join(name)).and_then(|file| file.modified());
    match written(format!("c{job:05}")).or_else(|_| written(format!("d{job:05}-001"))) {
        // A file time in the future is reported by the clock's check.
        Ok(modified) => Ok(SystemTime::now().duration_since(modified).unwrap_or_default()),
        // It was printed since the list was read.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Duration::ZERO),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Cause::new(Reason::NotPermitted, SPOOL))
        }
        Err(_) => Err(Cause::new(Reason::Unreadable, SPOOL)),
    }
}

/// Parses lines `printer NAME is idle.`, `printer NAME disabled since …`, `NAME not accepting
/// requests since …`, `NAME-12  user  1024  date`. `age` returns the age of a job by its number.
fn parse(text: &str, age: impl Fn(u32) -> Result<Duration, Cause>) -> Vec<Printer> {
    let mut printers: BTreeMap<String, Printer> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next().filter(|_| !line.starts_with(char::is_whitespace)) else { continue };
        if first == "printer" {
            let Some(name) = words.next() else { continue };
            let stopped = words.next() == Some("disabled");
            let printer = printers.entry(name.to_owned()).or_default();
            (printer.name, printer.stopped) = (clipped(name), stopped);
        } else if let Some(rest) = line.strip_prefix(first).map(str::trim_start)
            && (rest.starts_with("accepting requests") || rest.starts_with("not accepting requests"))
        {
            let printer = printers.entry(first.to_owned()).or_default();
            (printer.name, printer.refuses) = (clipped(first), rest.starts_with("not"));
        } else if let Some((name, job)) = first.rsplit_once('-')
            && let Ok(job) = job.parse::<u32>()
        {
            let printer = printers.entry(name.to_owned()).or_default();
            printer.name = clipped(name);
            printer.jobs += 1;
            match age(job) {
                Ok(age) => {
                    let hours = (age.as_secs_f64() / 360.0).round() / 10.0;
                    printer.oldest_job_h = Some(printer.oldest_job_h.unwrap_or_default().max(hours));
                }
                Err(why) => drop(printer.why.insert("oldest_job_h".into(), why)),
            }
        }
    }
    for printer in printers.values_mut() {
        match printer.why.is_empty() {
            // A job of unknown age may be the oldest.
            false => printer.oldest_job_h = None,
            true if printer.jobs == 0 => drop(printer.why.insert("oldest_job_h".into(), Reason::Absent.into())),
            true => {}
        }
    }
    let mut printers: Vec<Printer> = printers.into_values().collect();
    printers.sort_by_key(|printer| (!printer.stopped, !printer.refuses, std::cmp::Reverse(printer.jobs)));
    printers.truncate(LIST);
    printers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_printers_and_waiting_jobs_are_reported() {
        let text = "kasse accepting requests since Mon 30 Nov 2026 03:00:00 AM UTC\n\
                    lager-2 not accepting requests since Mon 30 Nov 2026 03:00:00 AM UTC -\n\tRejecting Jobs\n\
                    printer lager-2 is idle.  enabled since Mon 30 Nov 2026 03:00:00 AM UTC\n\
                    printer kasse is idle.  enabled since Mon 30 Nov 2026 03:00:00 AM UTC\n\
                    printer buero-2 disabled since Mon 30 Nov 2026 03:00:00 AM UTC -\n\tUnable to locate printer\n\
                    buero-2-12   meyer   1024   Mon 30 Nov 2026 03:00:00 AM UTC\n\
                    buero-2-13   meyer   1024   Mon 30 Nov 2026 03:00:00 AM UTC\n";
        let printers = parse(text, |job| Ok(Duration::from_secs(u64::from(job) * 600)));
        let short: Vec<_> = printers.iter().map(|p| (p.name.as_str(), p.stopped, p.jobs, p.oldest_job_h)).collect();
        assert_eq!(short, [("buero-2", true, 2, Some(2.2)), ("lager-2", false, 0, None), ("kasse", false, 0, None)]);
        assert!(printers.iter().all(|p| p.refuses == (p.name == "lager-2")));
        let unseen = parse(text, |_| Err(Reason::NotPermitted.into()));
        assert!(unseen[0].oldest_job_h.is_none() && unseen[0].why["oldest_job_h"].reason == Reason::NotPermitted);
    }
}
