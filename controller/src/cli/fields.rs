//! Documents every object of `-o json` and `-o jsonl` with its fields.
//!
//! `fernwart help json` prints it, and a test compares it with the commands' output.

/// A kind of object, where it comes from, and its fields: name, type, meaning.
type Kind = (&'static str, &'static str, &'static [(&'static str, &'static str, &'static str)]);

/// Types as they are written here: `text`, `number`, `bool`, `time` (RFC 3339, UTC),
/// `object`, `list`, `any`; with `?` it may be null or missing.
pub(super) const KINDS: &[Kind] = &[
    (
        "machine",
        "ls, show",
        &[
            ("name", "text", "its name"),
            ("customer", "text", "whose it is"),
            ("os", "text", "its system, as debian-12"),
            ("state", "text", "online or away"),
            ("health", "text", "ok, or warn, crit, unknown with what it is about; empty before the first diagnosis"),
            ("link", "object?", "transport, and rtt_ms in milliseconds; null while it is away"),
            ("seen_at", "time", "when it was last linked"),
            ("health_age_s", "number?", "how old its newest whole diagnosis is, seconds"),
            ("stale", "bool", "whether that is more than a day"),
            ("labels", "object", "its labels, name to value"),
            ("groups", "list", "its groups"),
            ("agent", "text", "its program's version"),
            ("protocol", "number", "the newest protocol version of which it takes orders"),
            ("certificate_until", "time", "when its certificate ends"),
            ("id", "text", "its id, which never changes"),
        ],
    ),
    (
        "result",
        "diagnose, run, job logs: one machine",
        &[
            ("machine", "text", "its name"),
            ("id", "text", "its id"),
            ("customer", "text", "whose it is"),
            (
                "status",
                "text",
                "ok, warn, unknown, crit, refused, failed, away, no_answer, queued; or where the run stands",
            ),
            ("code", "text?", "of a refusal or failure: fernwart help CODE"),
            ("why", "text?", "the same in words"),
            ("run", "text?", "the run's id"),
            ("until", "time?", "how long a queued order is good"),
            (
                "report",
                "object?",
                "what the machine has signed: facts and findings, or what a script wrote; times in it are milliseconds since 1970",
            ),
        ],
    ),
    (
        "summary",
        "the last line of diagnose, run, query and events as jsonl; where it is missing, something was cut off",
        &[
            ("job", "number?", "the job"),
            ("selected", "number?", "machines that were meant"),
            ("answered", "number?", "of these, those with a report"),
            ("ok", "number?", "of these, those that are well"),
            ("warn", "number?", "those with warnings"),
            ("unknown", "number?", "those of which something is not known"),
            ("crit", "number?", "those with something critical, or a script that failed"),
            ("incomplete", "number?", "of those with a report, those that lack something"),
            ("notes", "number?", "notes of all machines"),
            ("refused", "number?", "those that refused"),
            ("failed", "number?", "those of which something went wrong on the way"),
            ("no_answer", "number?", "those that did not answer in time"),
            ("away", "number?", "those that are not linked"),
            ("queued", "number?", "those that get the order when they return"),
            ("took_ms", "number?", "how long it took, milliseconds"),
            ("exit", "number?", "what the command ends with"),
            ("events", "number?", "of events: how many were told"),
            ("rows", "number?", "of query: how many rows"),
            ("more", "bool?", "of query: whether there are more"),
            ("live", "object?", "of query --live: how many were asked, and told"),
        ],
    ),
    ("diagnosis", "diagnose -o json", &[("results", "list", "result objects"), ("summary", "object", "counts")]),
    (
        "run",
        "run -o json",
        &[
            ("results", "list?", "result objects"),
            ("summary", "object?", "counts"),
            ("machine", "text?", "job show: its name"),
            ("state", "text?", "queued, held, offered, running, settled, refused, away, cancelled or expired"),
            ("outcome", "text?", "ok, failed, refused, expired, cancelled or interrupted"),
            ("settled_at", "time?", "when it was over"),
            ("run", "text?", "the run's id"),
            ("why", "text?", "why it did not end well"),
        ],
    ),
    ("job_logs", "job logs -o json", &[("job", "number", "the job"), ("results", "list", "result objects")]),
    (
        "job",
        "job ls; events: a job begins",
        &[
            ("job", "number", "its number"),
            ("action", "text", "diagnose, or script and its name"),
            ("by", "text", "whose it is"),
            ("at", "time", "when it began"),
            ("machines", "number", "how many are meant"),
            ("done", "number?", "how many are over"),
            ("reason", "text", "why; empty where none was given"),
            ("seq", "number?", "of an event: its number"),
        ],
    ),
    (
        "receipt",
        "journal show",
        &[
            ("nr", "number", "its place in the chain"),
            ("at", "time", "when the run ended"),
            ("action", "text", "what was done"),
            ("outcome", "text", "how it ended"),
            ("by", "text", "the key that ordered it"),
            ("allowed", "text", "the rule that permitted it"),
            ("reason", "text", "why"),
        ],
    ),
    (
        "facts",
        "facts",
        &[("machine", "text", "its name"), ("at", "time", "when it told them"), ("facts", "object", "by section")],
    ),
    ("change", "facts --changed", &[("fact", "text", "its path"), ("before", "any", "then"), ("now", "any", "now")]),
    (
        "pong",
        "ping",
        &[("machine", "text", "its name"), ("ms", "number?", "there and back, milliseconds; null without an answer")],
    ),
    ("group", "group ls", &[("group", "text", "its name"), ("machines", "number", "how many are in it")]),
    (
        "customer",
        "customer ls",
        &[
            ("name", "text", "its name"),
            ("language", "text", "de or en"),
            ("machines", "number", "how many it has"),
            ("id", "text", "its id"),
        ],
    ),
    (
        "script",
        "script ls",
        &[
            ("name", "text", "its name"),
            ("version", "number", "its version"),
            ("privilege", "text", "read, repair or raw"),
            ("title", "text", "what it does"),
        ],
    ),
    (
        "staff",
        "staff ls",
        &[
            ("name", "text", "who"),
            ("role", "text", "diagnose, repair or lead"),
            ("scripts", "list?", "scripts that may be run beyond the role; null where the role decides alone"),
            ("customers", "any", "all, or a list of customers' ids"),
            ("until", "time", "when the entry ends"),
            ("state", "text?", "active, suspended or expired; null where only a lead is told"),
            ("key", "text", "the key id"),
        ],
    ),
    (
        "pending",
        "pending",
        &[
            ("name", "text", "what it calls itself"),
            ("kind", "text", "machine or staff"),
            ("customer", "text?", "whose invitation it used"),
            ("os", "text?", "its system"),
            ("address", "text?", "where from"),
            ("words", "text?", "four words to compare"),
            ("key", "text?", "the key id of staff"),
            ("since", "time", "since when"),
        ],
    ),
    ("limit", "limits", &[("name", "text", "which"), ("value", "number", "how much"), ("unit", "text", "of what")]),
    (
        "check",
        "doctor",
        &[
            ("what", "text", "what was looked at"),
            ("ok", "bool", "whether it is well"),
            ("now", "text?", "what to do where it is not"),
        ],
    ),
    (
        "catalogue",
        "catalogue show",
        &[
            ("name", "text", "the firm"),
            ("version", "number", "what is in force"),
            ("threshold", "number", "how many approvers must sign"),
            ("approvers", "list", "their public keys"),
            ("targets_until", "time", "when what is approved runs out"),
            ("root_until", "time", "when the approvers' own list runs out"),
            ("drafts", "list", "those that wait: draft, version, overtaken, signatures, needed, changes"),
        ],
    ),
    (
        "version",
        "catalogue history",
        &[
            ("version", "number", "its number"),
            ("until", "time", "how long it is good"),
            ("signed_by", "list", "approvers' public keys"),
            ("former", "number", "how many approvers of then have gone since"),
            ("changes", "list", "what it changed, in words"),
        ],
    ),
    ("row", "query: its fields are the columns of the question", &[]),
    (
        "column",
        "query --tables",
        &[("table", "text", "its table"), ("column", "text", "its name"), ("about", "text", "what it says")],
    ),
    (
        "error",
        "every command, on standard error",
        &[
            ("code", "text", "fernwart help CODE"),
            ("message", "text", "what, and why"),
            ("now", "text?", "what to do"),
            ("exit", "number", "what the command ends with"),
        ],
    ),
];

/// The fields of every event.
pub(super) const EVENT: &[(&str, &str, &str)] = &[
    ("seq", "number", "its number in this life of the hub"),
    ("at", "time", "when"),
    ("machine", "text?", "the machine's name"),
    ("machine_id", "text?", "its id"),
    ("customer", "text?", "whose it is"),
];

/// Event types with their additional fields.
pub(super) const EVENTS: &[Kind] = &[
    ("missed", "some were not kept", &[("count", "number?", "how many; null where nobody knows")]),
    ("linked", "a machine is there", &[]),
    ("left", "a machine has gone", &[("why", "text", "why")]),
    ("waits", "a machine waits to be admitted", &[]),
    ("admitted", "a machine was admitted", &[("by", "text", "who did it")]),
    ("rejected", "a machine was turned away", &[("by", "text", "who did it")]),
    ("retired", "a machine was taken out of service", &[("by", "text", "who did it")]),
    ("alarm", "something is wrong with a machine's records", &[("what", "text", "what")]),
    ("acknowledged", "somebody has looked into that", &[("by", "text", "who did it")]),
    (
        "health",
        "a machine's health has changed",
        &[("health", "text", "ok, warn, crit or unknown"), ("finding", "text?", "the first of its findings")],
    ),
    ("settled", "a run has ended", &[("outcome", "text", "how"), ("run", "text", "its id")]),
    ("refused", "a machine has refused a run", &[("code", "text", "why"), ("run", "text", "its id")]),
    (
        "published",
        "a newer catalogue is in force",
        &[("targets", "number", "its version"), ("timestamp", "number", "that of its timestamp")],
    ),
    (
        "staff_waits",
        "somebody waits to get onto the staff list",
        &[("name", "text", "who"), ("key", "text", "the key id")],
    ),
    ("suspended", "a staff key was cut off", &[("key", "text", "the key id"), ("by", "text", "who did it")]),
    ("locked", "a lock was handed to all machines", &[]),
    ("store_failed", "the hub could not store something", &[("code", "text", "why")]),
];

/// All of it as text.
pub(super) fn in_words() -> String {
    let list = |fields: &[(&str, &str, &str)]| -> String {
        fields.iter().map(|(name, kind, about)| format!("  {name:<18} {kind:<8} {about}\n")).collect()
    };
    let mut out = String::new();
    for (kind, from, fields) in KINDS {
        out += &format!("\n{kind}: {from}\n{}", list(fields));
    }
    out += &format!("\nEvery event has\n{}", list(EVENT));
    for (kind, about, fields) in EVENTS {
        out += &format!("\n{kind}: event: {about}\n{}", list(fields));
    }
    out
}
