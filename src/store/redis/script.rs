//! The transitions as Lua scripts, one for each method of the store.
//!
//! A script is sent by its digest, and in full only when the server does not know it: on first use,
//! after a restart, after a failover.

use std::sync::LazyLock;

use fred::types::scripts::Script;

/// `allow-oom` lets a full server still deliver and end; only what stores more has to wait.
macro_rules! script {
    ($flags:literal, $($file:literal),+) => {
        Script::from_lua(concat!("#!lua ", $flags, "\n", $(include_str!(concat!("scripts/", $file))),+))
    };
}

/// A script on a stored session.
macro_rules! transition {
    ($flags:literal, $file:literal) => {
        script!($flags, "time.lua", "session.lua", $file)
    };
}

/// Every script.
pub(crate) struct Scripts {
    pub(crate) end_account: Script,
    pub(crate) rotate_grant: Script,
    pub(crate) count: Script,
    pub(crate) create: Script,
    pub(crate) enter: Script,
    pub(crate) count_code_attempt: Script,
    pub(crate) fulfil: Script,
    pub(crate) fail: Script,
    pub(crate) read: Script,
    pub(crate) acknowledge: Script,
    pub(crate) end: Script,
    pub(crate) evict: Script,
    pub(crate) probe: Script,
}

pub(crate) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    // What ends must end on a full server too.
    end_account: script!("flags=allow-oom", "end_account.lua"),
    // Replaces a few bytes by others, so a full server need not refuse it.
    rotate_grant: script!("flags=allow-oom", "rotate_grant.lua"),
    count: script!("flags=", "count.lua"),
    // Needs none of the functions on a stored session.
    create: script!("flags=", "time.lua", "create.lua"),
    enter: transition!("flags=allow-oom", "enter.lua"),
    count_code_attempt: transition!("flags=allow-oom", "count_code_attempt.lua"),
    fulfil: transition!("flags=", "fulfil.lua"),
    fail: transition!("flags=allow-oom", "fail.lua"),
    read: transition!("flags=allow-oom", "read.lua"),
    acknowledge: transition!("flags=allow-oom", "acknowledge.lua"),
    end: transition!("flags=allow-oom", "end.lua"),
    evict: transition!("flags=allow-oom", "evict.lua"),
    // As strict as the creation of a session.
    probe: script!("flags=", "time.lua", "probe.lua"),
});
