//! Every limit in one place, each with its arithmetic.
//!
//! A limit is checked before memory is allocated for what it bounds.

use std::time::Duration;

/// Largest frame body, bytes. A report of 30 KiB fits thirty times. [`LINK_FRAMES_BYTES`] limits
/// the memory that a peer's frames take.
pub const FRAME_BYTES: usize = 1024 * 1024;

/// Largest frame on an enrollment link, bytes: the longest request (two keys,
/// a proof, a host name) is under 1 KiB.
pub const ENROLL_FRAME_BYTES: usize = 8 * 1024;

/// Largest signed document, bytes. An order with 16 KiB of parameters and all
/// names at their longest is under 24 KiB.
pub const DOCUMENT_BYTES: usize = 64 * 1024;

/// Largest compressed report, bytes: leaves room for the receipt beside it in
/// one frame.
pub const REPORT_BYTES: usize = FRAME_BYTES - 2 * DOCUMENT_BYTES;

/// Largest report once unpacked, bytes. Measured reports are 20 to 80 KiB.
pub const REPORT_PLAIN_BYTES: usize = 4 * 1024 * 1024;

/// Largest file of the catalogue's metadata, bytes. 1,000 staff entries are
/// about 400 KiB.
pub const METADATA_BYTES: usize = FRAME_BYTES - 4096;

/// Largest file of a script, bytes: a text that an approver can read.
pub const BLOB_BYTES: usize = 256 * 1024;

/// Largest piece of a script's output in a live update, bytes.
pub const OUTPUT_BYTES: usize = 32 * 1024;

/// Largest question to the fleet, bytes.
pub const QUESTION_BYTES: usize = 16 * 1024;

/// Rows in one answer to it: a million would fill a technician's memory.
pub const QUESTION_ROWS: usize = 200_000;

/// A question is answered within this time, or not at all.
pub const QUESTION_TIME: Duration = Duration::from_secs(10);

/// Questions that are answered at once, each in a process of its own.
pub const QUESTIONS: usize = 2;

/// Memory of one such process, bytes.
pub const QUESTION_MEMORY: u64 = 1024 * 1024 * 1024;

/// Files in one offer of the catalogue: roots, timestamp, snapshot, targets
/// and the three named targets, with room for 24 root rotations at once.
pub const OFFER_FILES: usize = 32;

/// Streams a machine may have open towards the hub: control, fetch, settle and
/// five to spare.
pub const AGENT_STREAMS: u32 = 8;

/// Streams the hub may have open towards a machine: one order each. Looks are
/// short, and acts run one after another.
pub const DELIVER_STREAMS: u32 = 16;

/// Streams a technician may have open: enough for a console that watches many jobs.
pub const STAFF_STREAMS: u32 = 32;

/// Bytes a peer may send on one stream before this side reads them.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// The same on all streams of a peer.
pub const LINK_WINDOW_BYTES: u32 = 256 * 1024;

/// Receive windows of a technician's command, which reads results of many machines on one stream: 4
/// MiB allow 320 Mbit/s at 100 ms.
pub const STAFF_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// UDP socket buffers, bytes: 10,000 replies of 200 B at once fit twice.
pub const SOCKET_BYTES: usize = 4 * 1024 * 1024;

/// The agent sends a packet at least this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The same for technicians, who are few and wait at a screen. A restarted hub answers with a
/// reset, so this is how long they take to notice a restart.
pub const STAFF_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A peer that was silent this long is away: three keep-alives and 5 s.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(65);

/// The same on technicians' links: ten of their keep-alives. This is how long they take to notice
/// that the hub's computer is gone.
pub const STAFF_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Time limit for a handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes in progress at once. Each costs the hub about 30 KiB, so 15 MiB in all, and 0.6 ms of
/// a core. The last of them is done within a second, before its peer retransmits for nothing.
pub const HANDSHAKES: usize = 500;

/// Machines that may reconnect per second after all have lost the hub. Two small cores handle 1,500
/// handshakes in that time, but have other work to do.
pub const ARRIVALS_PER_SECOND: u64 = 1_000;

/// Longest time over which machines spread their reconnects.
pub const RETURN_SPREAD: Duration = Duration::from_secs(30);

/// From this many handshakes under way on, a peer must prove its address
/// first (QUIC retry).
pub const HANDSHAKES_BEFORE_RETRY: usize = 200;

/// QUIC Initials let through at once, and per second after that; Initials with an address token
/// have a second budget of the same size. A connecting peer sends two or three, so the rate is
/// enough for [`ARRIVALS_PER_SECOND`]. 12,000 at 30 us each take a third of a core, once.
pub const INITIALS: u32 = 12_000;
/// See [`INITIALS`].
pub const INITIALS_PER_SECOND: u32 = 3_000;

/// How long a machine is penalised after its link was closed for misbehaviour. During that time its
/// new links are held and refused. Other machines are not affected, even from the same address.
pub const PENALTY: Duration = Duration::from_secs(10);

/// Links one hub holds. At 40 KiB each, 50,000 are 2 GiB.
pub const LINKS: usize = 50_000;

/// Time limit for the start of the first frame on an open stream.
pub const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// If a frame in progress receives no more bytes for this long, its link is closed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory for frames in progress on one link, bytes: the largest frame, and a quarter of that for
/// others. Frames of up to 4 KiB do not count. Further frames wait, each with at most one stream
/// window of data, so a link costs its receiver at most [`LINK_BYTES`].
pub const LINK_FRAMES_BYTES: usize = FRAME_BYTES + FRAME_BYTES / 4;

/// Most memory that a machine's link costs the hub, bytes: frames, the link's window, and the
/// windows of streams whose frames wait, whichever side opened them.
pub const LINK_BYTES: usize = LINK_FRAMES_BYTES
    + LINK_WINDOW_BYTES as usize
    + (AGENT_STREAMS + DELIVER_STREAMS) as usize * STREAM_WINDOW_BYTES as usize;

/// Memory for frames in progress on all links of one staff key, bytes.
pub const KEY_FRAMES_BYTES: usize = 16 * FRAME_BYTES;

/// Waiting streams of one staff key for which its links' windows are widened.
pub const KEY_WAITING_STREAMS: usize = 64;

/// Most memory that one staff key costs the hub, bytes: its frames, the windows of all its links,
/// and those of waiting streams.
pub const KEY_BYTES: usize =
    KEY_FRAMES_BYTES + STAFF_LINKS * LINK_WINDOW_BYTES as usize + KEY_WAITING_STREAMS * STREAM_WINDOW_BYTES as usize;

/// Lowest accepted rate for sending or reading a frame, bytes per second: half of ISDN, shared by
/// three streams. The largest frame then takes nine minutes.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 2 * 1024;

/// Request budget of one machine's link, in asks: at once, and per second after that. Each 16 KiB
/// of an answer count as one more ask. A machine that reconnects with 500 outcomes is served
/// without a pause, one with 1,000 within eight seconds. One that asks without end gets 1 MiB a
/// second, or 1 % of a core.
pub const AGENT_ASKS: u32 = 512;
/// See [`AGENT_ASKS`].
pub const AGENT_ASKS_PER_SECOND: u32 = 64;

/// The same for a technician's link: a script that asks 500 times a second
/// takes a tenth of a core.
pub const STAFF_ASKS: u32 = 2_048;
/// See [`STAFF_ASKS`].
pub const STAFF_ASKS_PER_SECOND: u32 = 512;

/// Jobs of one staff key at once, and per second after that: each is a row, an event and
/// a line in the log.
pub const JOBS: u32 = 1_000;
/// See [`JOBS`].
pub const JOBS_PER_SECOND: u32 = 10;

/// Links that one machine may open in quick succession; after that one per ten seconds, for
/// whatever reason. Each link costs a log line and an event.
pub const MACHINE_LINKS: u32 = 20;

/// Request budget of a newcomer's link, in asks; a newcomer needs two in all.
pub const ENROLL_ASKS: u32 = 8;
/// See [`ENROLL_ASKS`].
pub const ENROLL_ASKS_PER_SECOND: u32 = 1;

/// Streams that a link may open and drop without sending anything: at once, and per second after
/// that; then the link is closed. An honest program does so only when it is stopped.
pub const EMPTY_STREAMS: u32 = 64;
/// See [`EMPTY_STREAMS`].
pub const EMPTY_STREAMS_PER_SECOND: u32 = 1;

/// Links one staff key may hold: enough for a script that starts 50 commands a second, each of
/// which waits five seconds.
pub const STAFF_LINKS: usize = 256;

/// How long a signed retirement is valid, for a machine that is away.
pub const RETIREMENT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a *Collect* request waits for a person before it says "not yet".
pub const COLLECT_WAIT: Duration = Duration::from_secs(50);

/// Links on the enrollment door at once; nearly all of them wait for admission.
pub const ENROLL_LINKS: usize = 2_000;

/// Orders in one frame of a job: 512 of at most 1.5 KiB are under 1 MiB.
pub const ORDERS_PER_FRAME: usize = 512;

/// Machines in one frame of a list: 128 with every label and group at its
/// longest are 830 KiB.
pub const ROWS_PER_FRAME: usize = 128;

/// Machines one job may select.
pub const JOB_MACHINES: usize = 50_000;

/// Longest time an order may lie between its not-before and its not-after.
pub const ORDER_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long before its creation an order is already valid, because clocks differ.
pub const ORDER_EARLY: Duration = Duration::from_secs(15 * 60);

/// A clock that is further from the hub's than this is implausible.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Time limit for a complete diagnosis.
pub const DIAGNOSE_BUDGET: Duration = Duration::from_secs(3);

/// Most run ids the agent keeps; beyond that it refuses new orders. At about 500 B each they are 5
/// MB.
pub const LEDGER_RUNS: usize = 10_000;

/// Outcomes the agent keeps until the hub has stored them, bytes.
pub const SPOOL_BYTES: u64 = 32 * 1024 * 1024;

/// Size of an agent's journal, bytes; beyond it the oldest entries are deleted, those of looks
/// first.
pub const JOURNAL_BYTES: u64 = 8 * 1024 * 1024;

/// How long an agent keeps journal entries of looks. Entries of acts and of the owner's decisions
/// stay as long as there is room.
pub const JOURNAL_LOOKS: Duration = Duration::from_secs(365 * 24 * 3600);

/// Bytes that the agent's durable file allocates in advance, so that a machine with a full disk can
/// still be diagnosed.
pub const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// Refusals of orders without a valid signature are counted, but written to the journal at most
/// once in this time.
pub const UNKNOWN_SIGNER_NOTE_EVERY: Duration = Duration::from_secs(3600);

/// Events a hub keeps for late and for slow subscribers: at 300 B each they are 300 KiB.
pub const EVENTS_KEPT: usize = 1_024;

/// One row of the table that `fernwart limits` prints.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it counts.
    pub unit: &'static str,
}

/// The limits a reader may want to know, in the order of this page.
pub const TABLE: &[Limit] = &[
    Limit { name: "frame", value: FRAME_BYTES as u64, unit: "bytes" },
    Limit { name: "enrollment frame", value: ENROLL_FRAME_BYTES as u64, unit: "bytes" },
    Limit { name: "document", value: DOCUMENT_BYTES as u64, unit: "bytes" },
    Limit { name: "report, compressed", value: REPORT_BYTES as u64, unit: "bytes" },
    Limit { name: "report, unpacked", value: REPORT_PLAIN_BYTES as u64, unit: "bytes" },
    Limit { name: "streams of a machine", value: AGENT_STREAMS as u64, unit: "streams" },
    Limit { name: "orders under way on a machine", value: DELIVER_STREAMS as u64, unit: "streams" },
    Limit { name: "streams of a technician", value: STAFF_STREAMS as u64, unit: "streams" },
    Limit { name: "frames in the making, of a link", value: LINK_FRAMES_BYTES as u64, unit: "bytes" },
    Limit { name: "with its windows: memory of a machine's link", value: LINK_BYTES as u64, unit: "bytes" },
    Limit { name: "frames in the making, of a staff key", value: KEY_FRAMES_BYTES as u64, unit: "bytes" },
    Limit {
        name: "with the windows of its links: memory of a staff key (resident: up to twice as much)",
        value: KEY_BYTES as u64,
        unit: "bytes",
    },
    Limit { name: "a frame that stands still is closed after", value: STALL_TIMEOUT.as_secs(), unit: "seconds" },
    Limit { name: "links of a staff key", value: STAFF_LINKS as u64, unit: "links" },
    Limit { name: "asks of a machine at once", value: AGENT_ASKS as u64, unit: "asks" },
    Limit { name: "asks of a machine after that", value: AGENT_ASKS_PER_SECOND as u64, unit: "asks/s" },
    Limit { name: "asks of a technician at once", value: STAFF_ASKS as u64, unit: "asks" },
    Limit { name: "asks of a technician after that", value: STAFF_ASKS_PER_SECOND as u64, unit: "asks/s" },
    Limit { name: "jobs of a staff key at once", value: JOBS as u64, unit: "jobs" },
    Limit { name: "jobs of a staff key after that", value: JOBS_PER_SECOND as u64, unit: "jobs/s" },
    Limit { name: "links of a machine in quick succession", value: MACHINE_LINKS as u64, unit: "links" },
    Limit { name: "asks of a newcomer at once", value: ENROLL_ASKS as u64, unit: "asks" },
    Limit { name: "asks of a newcomer after that", value: ENROLL_ASKS_PER_SECOND as u64, unit: "asks/s" },
    Limit { name: "empty streams of a link", value: EMPTY_STREAMS as u64, unit: "streams" },
    Limit { name: "slowest sender or reader", value: SLOWEST_BYTES_PER_SECOND, unit: "bytes/s" },
    Limit { name: "first frame begins within", value: FIRST_FRAME_TIMEOUT.as_secs(), unit: "seconds" },
    Limit { name: "handshakes at once", value: HANDSHAKES as u64, unit: "links" },
    Limit { name: "handshakes before address proof", value: HANDSHAKES_BEFORE_RETRY as u64, unit: "links" },
    Limit { name: "first datagrams of unproven addresses at once", value: INITIALS as u64, unit: "datagrams" },
    Limit {
        name: "first datagrams of unproven addresses after that",
        value: INITIALS_PER_SECOND as u64,
        unit: "datagrams/s",
    },
    Limit { name: "a machine that misbehaves waits", value: PENALTY.as_secs(), unit: "seconds" },
    Limit { name: "machines that come back in a second", value: ARRIVALS_PER_SECOND, unit: "machines" },
    Limit { name: "links", value: LINKS as u64, unit: "links" },
    Limit { name: "keep-alive", value: KEEP_ALIVE.as_secs(), unit: "seconds" },
    Limit { name: "keep-alive of technicians", value: STAFF_KEEP_ALIVE.as_secs(), unit: "seconds" },
    Limit { name: "away after", value: IDLE_TIMEOUT.as_secs(), unit: "seconds" },
    Limit { name: "technicians away after", value: STAFF_IDLE_TIMEOUT.as_secs(), unit: "seconds" },
    Limit { name: "machines in one job", value: JOB_MACHINES as u64, unit: "machines" },
    Limit { name: "rows of a query's answer", value: QUESTION_ROWS as u64, unit: "rows" },
    Limit { name: "time of a query", value: QUESTION_TIME.as_secs(), unit: "seconds" },
    Limit { name: "queries at once", value: QUESTIONS as u64, unit: "queries" },
    Limit { name: "events remembered", value: EVENTS_KEPT as u64, unit: "events" },
    Limit { name: "reports an agent keeps for a hub that is away", value: SPOOL_BYTES, unit: "bytes" },
    Limit { name: "journal of an agent", value: JOURNAL_BYTES, unit: "bytes" },
    Limit { name: "life of an order", value: ORDER_LIFE.as_secs(), unit: "seconds" },
    Limit { name: "diagnosis", value: DIAGNOSE_BUDGET.as_secs(), unit: "seconds" },
];
