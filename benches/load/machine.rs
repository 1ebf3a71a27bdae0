//! What processes use, as the kernel counts it.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_json::{Value, json};

/// The sum of a field that the kernel gives in kB in a file of each process, in bytes.
fn sum(processes: &[u32], file: &str, field: &str) -> u64 {
    let of = |id: &u32| {
        let text = fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    processes.iter().map(of).sum()
}

/// Resident memory of the processes, in bytes.
pub fn resident(processes: &[u32]) -> u64 {
    sum(processes, "status", "VmRSS:")
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

/// Proportional set size of the processes, in bytes: pages that several share are divided among them.
pub fn proportional(processes: &[u32]) -> u64 {
    sum(processes, "smaps_rollup", "Pss:")
}

/// What the kernel holds for sockets, of this machine and all its processes.
pub struct Kernel {
    /// TCP sockets that are in use.
    sockets: u64,
    /// Bytes in their buffers.
    buffers: u64,
    /// Objects in use and the size of one, for each cache; only root may read them.
    caches: BTreeMap<String, (u64, u64)>,
}

impl Kernel {
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |name: &str| {
            let at = words.iter().position(|word| *word == name);
            at.and_then(|at| words.get(at + 1)?.parse::<u64>().ok()).unwrap_or(0)
        };
        let slab = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        let caches = slab.lines().skip(2).filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            let active: u64 = words.next()?.parse().ok()?;
            let size: u64 = words.nth(1)?.parse().ok()?;
            Some((name, (active, size)))
        });
        // A page is 4 KiB wherever this is measured.
        Self { sockets: value("inuse"), buffers: value("mem") * 4096, caches: caches.collect() }
    }

    /// What has been added since `before`. Left out is what other files have, and of which there is
    /// less than half an object a socket.
    pub fn since(&self, before: &Self) -> Value {
        let sockets = self.sockets.saturating_sub(before.sockets);
        let added = |name: &str| {
            let active = |kernel: &Self| kernel.caches.get(name).map_or(0, |(active, _)| *active);
            active(self).saturating_sub(active(before))
        };
        let of_files = |name: &str| {
            let inodes = name.ends_with("inode_cache")
                && !matches!(name, "sock_inode_cache" | "lsm_inode_cache");
            inodes || matches!(name, "buffer_head" | "radix_tree_node")
        };
        // Each of them has a directory entry, and a blob of the security modules.
        let files = self.caches.keys().filter(|name| name.ends_with("inode_cache"));
        let files: u64 = files.filter(|name| of_files(name)).map(|name| added(name)).sum();
        let mut caches = serde_json::Map::new();
        let mut bytes = 0.0;
        for (name, (_, size)) in &self.caches {
            let others = if matches!(&**name, "dentry" | "lsm_inode_cache") { files } else { 0 };
            let each = added(name).saturating_sub(others) as f64 / sockets.max(1) as f64;
            if each >= 0.5 && !of_files(name) {
                bytes += each * *size as f64;
                caches.insert(name.clone(), json!({ "objects": each, "object_bytes": size }));
            }
        }
        let buffers = self.buffers.saturating_sub(before.buffers) as f64 / sockets.max(1) as f64;
        json!({
            "sockets": sockets,
            "slab_bytes_per_socket": bytes,
            "buffer_bytes_per_socket": buffers,
            "caches": caches,
        })
    }
}
