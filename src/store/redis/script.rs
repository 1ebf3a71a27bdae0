//! The transitions as Lua scripts, one a method of the store.
//!
//! Called by the store alone. A script is sent by its digest and in full only where the server
//! does not know it: at the first use, after a restart, after a failover.

use std::sync::LazyLock;

use fred::types::scripts::Script;

/// `allow-oom` lets a full server still hand out, end and forget; only what stores more must wait.
macro_rules! script {
    ($flags:literal, $($file:literal),+) => {
        Script::from_lua(concat!("#!lua ", $flags, "\n", $(include_str!($file)),+))
    };
}

/// One on a session that is there.
macro_rules! transition {
    ($flags:literal, $file:literal) => {
        script!($flags, "clock.lua", "prelude.lua", $file)
    };
}

/// All of them.
pub(crate) struct Scripts {
    pub(crate) rotate_grant: Script,
    pub(crate) create: Script,
    pub(crate) enter: Script,
    pub(crate) fulfil: Script,
    pub(crate) fail: Script,
    pub(crate) read: Script,
    pub(crate) end: Script,
    pub(crate) evict: Script,
}

pub(crate) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    // Writes a few bytes in the place of others, so that a full server is no reason to refuse.
    rotate_grant: script!("flags=allow-oom", "rotate_grant.lua"),
    // Without the functions that look at a session.
    create: script!("flags=", "clock.lua", "create.lua"),
    enter: transition!("flags=allow-oom", "enter.lua"),
    fulfil: transition!("flags=", "fulfil.lua"),
    fail: transition!("flags=allow-oom", "fail.lua"),
    read: transition!("flags=allow-oom", "read.lua"),
    end: transition!("flags=allow-oom", "end.lua"),
    evict: transition!("flags=allow-oom", "evict.lua"),
});
