//! The time since boot and the boot's id.

use fernwart_protocol::id::BootId;

/// Milliseconds since boot, suspension included; 0 if the kernel gives none.
pub fn since_boot_ms() -> u64 {
    known_since_boot_ms().unwrap_or_default()
}

/// Milliseconds since boot, suspension included; none if the kernel gives none.
pub fn known_since_boot_ms() -> Option<u64> {
    parse_uptime(&std::fs::read_to_string("/proc/uptime").ok()?)
}

fn parse_uptime(text: &str) -> Option<u64> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1000.0) as u64)
}

/// The kernel's id of this boot as it writes it; empty if it gives none.
pub fn boot_text() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The kernel's id of this boot; zeros if it gives none.
pub fn boot_id() -> BootId {
    let text = boot_text();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits.parse().unwrap_or(BootId::from_bytes([0; 16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_boot_is_in_milliseconds() {
        let seconds = || -> u64 {
            let text = std::fs::read_to_string("/proc/uptime").expect("there");
            text.split('.').next().and_then(|seconds| seconds.parse().ok()).expect("a number")
        };
        let before = seconds();
        let since = since_boot_ms();
        assert!((before * 1000..(seconds() + 1) * 1000).contains(&since), "{since}");
        assert_eq!((parse_uptime("1.25 7.00\n"), parse_uptime(""), parse_uptime("soon")), (Some(1250), None, None));
        assert_eq!(boot_id(), boot_id());
        assert_ne!(boot_id(), BootId::from_bytes([0; 16]));
    }
}
