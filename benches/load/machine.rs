//! What processes use, as the kernel counts it.

use std::{fs, time::Duration};

/// Resident memory of the processes, in bytes.
pub fn resident(processes: &[u32]) -> u64 {
    let of = |id: &u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    processes.iter().map(of).sum()
}

/// Processor time of all threads of the processes. The scheduler counts nanoseconds, while
/// `/proc/…/stat` counts in hundredths of a second, too coarse for a thousand deliveries.
pub fn processor_time(processes: &[u32]) -> Duration {
    let of_thread = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    let of = |id: &u32| {
        fs::read_dir(format!("/proc/{id}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|task| of_thread(task.path()))
            .sum::<u64>()
    };
    Duration::from_nanos(processes.iter().map(of).sum())
}
