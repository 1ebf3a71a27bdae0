//! The transitions as Lua scripts, one for each method of the store.
//!
//! A script is sent by its digest, and in full only when the server does not know it: on first use,
//! after a restart, after a failover.

use std::sync::LazyLock;

use fred::types::scripts::Script;

/// A script, for servers that read its flags and for those that do not.
pub(crate) struct Transition {
    /// With a line of flags: `allow-oom` lets a full server still deliver and end; only what stores
    /// more has to wait.
    pub(crate) flagged: Script,
    /// For Redis 6. Once a script has written, such a server checks no more whether it is full, so
    /// that removing a key that is not there has the effect of `allow-oom`.
    pub(crate) plain: Script,
}

macro_rules! lua {
    ($flags:literal, $prelude:literal, $($file:literal),+) => {
        Transition {
            flagged: Script::from_lua(
                concat!("#!lua ", $flags, "\n", $(include_str!(concat!("scripts/", $file))),+)
            ),
            plain: Script::from_lua(
                concat!($prelude, $(include_str!(concat!("scripts/", $file))),+)
            ),
        }
    };
}

/// A script that a full server runs.
macro_rules! allow_oom {
    ($($file:literal),+) => {
        lua!("flags=allow-oom", "redis.call('DEL', KEYS[1] .. ':none')\n", $($file),+)
    };
}

/// A script that a full server refuses.
macro_rules! deny_oom {
    ($($file:literal),+) => { lua!("flags=", "", $($file),+) };
}

/// Every script.
pub(crate) struct Scripts {
    pub(crate) end_account: Transition,
    pub(crate) rotate_grant: Transition,
    pub(crate) count: Transition,
    pub(crate) create: Transition,
    pub(crate) enter: Transition,
    pub(crate) enter_by_backend: Transition,
    pub(crate) count_code_attempt: Transition,
    pub(crate) fulfil: Transition,
    pub(crate) fail: Transition,
    pub(crate) read: Transition,
    pub(crate) note_deliveries: Transition,
    pub(crate) hand_back: Transition,
    pub(crate) acknowledge: Transition,
    pub(crate) end: Transition,
    pub(crate) evict: Transition,
    pub(crate) probe: Transition,
}

pub(crate) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    // What ends must end on a full server too.
    end_account: allow_oom!("end_account.lua"),
    // Replaces a few bytes by others, so a full server need not refuse it.
    rotate_grant: allow_oom!("rotate_grant.lua"),
    count: deny_oom!("count.lua"),
    // Needs none of the functions on a stored session.
    create: deny_oom!("time.lua", "create.lua"),
    enter: allow_oom!("time.lua", "session.lua", "enter.lua"),
    enter_by_backend: allow_oom!("time.lua", "session.lua", "enter_by_backend.lua"),
    count_code_attempt: allow_oom!("time.lua", "session.lua", "count_code_attempt.lua"),
    fulfil: deny_oom!("time.lua", "session.lua", "fulfil.lua"),
    fail: allow_oom!("time.lua", "session.lua", "fail.lua"),
    read: allow_oom!("time.lua", "session.lua", "read.lua"),
    note_deliveries: allow_oom!("time.lua", "session.lua", "note_deliveries.lua"),
    hand_back: allow_oom!("time.lua", "session.lua", "hand_back.lua"),
    acknowledge: allow_oom!("time.lua", "session.lua", "acknowledge.lua"),
    end: allow_oom!("time.lua", "session.lua", "end.lua"),
    evict: allow_oom!("time.lua", "session.lua", "evict.lua"),
    // As strict as the creation of a session.
    probe: deny_oom!("time.lua", "probe.lua"),
});
