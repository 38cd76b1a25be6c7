//! The kernel's own log buffer (Documentation/ABI/testing/dev-kmsg): one record a read,
//! `priority,number,microseconds since boot,flags;message`.

use crate::collect::bytes::shown;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::time::Instant;

/// One record.
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// When it was written, microseconds after boot.
    pub(super) after_boot_us: i64,
    /// As in syslog(3), 0 to 7.
    pub(super) level: u8,
    /// Whether the kernel wrote it; programs that write to the buffer have other facilities.
    pub(super) is_kernels: bool,
    /// The first line of the message.
    pub(super) message: &'a str,
}

impl<'a> Record<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (head, message) = text.split_once(';')?;
        let mut fields = head.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        Some(Self {
            after_boot_us: fields.nth(1)?.parse().ok()?,
            level: u8::try_from(priority & 7).unwrap_or(7),
            is_kernels: priority >> 3 == 0,
            // Further lines of a message are escaped; fields of the device follow it.
            message: message.lines().next().and_then(|line| line.split("\\x0a").next()).unwrap_or_default(),
        })
    }
}

/// Calls `take` for each record, oldest first. Returns whether all were read in time.
///
/// # Errors
/// When the buffer cannot be read.
pub(super) fn each(until: Instant, mut take: impl FnMut(&Record<'_>)) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let buffer = rustix::fs::open("/dev/kmsg", flags, Mode::empty())?;
    let mut record = vec![0; 8192];
    loop {
        if Instant::now() >= until {
            return Ok(false);
        }
        let length = match rustix::io::read(&buffer, record.as_mut_slice()) {
            // A regular file in its place has an end.
            Ok(0) => return Ok(true),
            Ok(length) => length,
            // The record was overwritten while it was read; continue with the next.
            Err(rustix::io::Errno::PIPE) => continue,
            Err(rustix::io::Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let text = shown(record.get(..length).unwrap_or_default());
        if let Some(record) = Record::parse(&text) {
            take(&record);
        }
    }
}
