//! The transitions as Lua scripts, one a method of the store.
//!
//! Called by the store alone. A script is sent by its digest and in full only where the server
//! does not know it: at the first use, after a restart, after a failover.

use std::sync::LazyLock;

use fred::types::scripts::Script;

/// `allow-oom` lets a full server still hand out, end and forget; only what stores more must wait.
macro_rules! script {
    ($flags:literal, $file:literal) => {
        Script::from_lua(concat!(
            "#!lua ",
            $flags,
            "\n",
            include_str!("clock.lua"),
            include_str!("prelude.lua"),
            include_str!($file)
        ))
    };
}

/// All of them.
pub(super) struct Scripts {
    pub(super) rotate_grant: Script,
    pub(super) create: Script,
    pub(super) enter: Script,
    pub(super) fulfil: Script,
    pub(super) fail: Script,
    pub(super) read: Script,
    pub(super) end: Script,
    pub(super) evict: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    // Writes a few bytes in the place of others, so that a full server is no reason to refuse.
    rotate_grant: Script::from_lua(concat!(
        "#!lua flags=allow-oom\n",
        include_str!("rotate_grant.lua")
    )),
    // Of no session that is there: without the functions that look at one.
    create: Script::from_lua(concat!(
        "#!lua flags=\n",
        include_str!("clock.lua"),
        include_str!("create.lua")
    )),
    enter: script!("flags=allow-oom", "enter.lua"),
    fulfil: script!("flags=", "fulfil.lua"),
    fail: script!("flags=allow-oom", "fail.lua"),
    read: script!("flags=allow-oom", "read.lua"),
    end: script!("flags=allow-oom", "end.lua"),
    evict: script!("flags=allow-oom", "evict.lua"),
});
