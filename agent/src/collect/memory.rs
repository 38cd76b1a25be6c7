//! Memory and swap.

use super::{pct, pressure, read};
use fernwart_protocol::diagnosis::facts::Memory;

pub(super) fn facts() -> Result<Memory, String> {
    let mut system = sysinfo::System::new().map_err(|error| error.to_string())?;
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    if total == 0 {
        return Err("the kernel tells nothing about memory".into());
    }
    let (swap, used) = (system.total_swap(), system.used_swap());
    let vmstat = read("/proc/vmstat").unwrap_or_default();
    let killed = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    Ok(Memory {
        total_bytes: total,
        available_bytes: available,
        available_pct: pct(available as f64, total as f64),
        swap_total_bytes: swap,
        swap_used_bytes: used,
        swap_used_pct: (swap > 0).then(|| pct(used as f64, swap as f64)),
        pressure_pct: pressure("/proc/pressure/memory", "full"),
        killed,
    })
}
