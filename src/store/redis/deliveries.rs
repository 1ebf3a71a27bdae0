//! Records deliveries that the bus made, many by one script, unless each has to be [`Apart`].

use fred::types::Value;
use futures_util::future::join_all;

use crate::{
    session::Surface,
    store::{
        DeliveryNote, StoreError,
        redis::{
            apart::Apart, milliseconds, names::Names, optional, runner::Runner, script::SCRIPTS,
            surface,
        },
    },
};

/// Maximum number of deliveries that one command records; meanwhile the server does nothing else.
const TOGETHER: usize = 8;

/// Records deliveries.
pub(super) struct Deliveries {
    runner: Runner,
    apart: Apart,
}

impl Deliveries {
    pub(super) fn new(runner: Runner, apart: Apart) -> Self {
        Self { runner, apart }
    }

    /// Records deliveries.
    ///
    /// # Errors
    /// The first one. The other commands are sent nevertheless.
    pub(super) async fn note(
        &self,
        names: &Names,
        notes: &[DeliveryNote],
    ) -> Result<(), StoreError> {
        let mut noted = Ok(());
        for own in [Surface::Native, Surface::Meet] {
            let of_surface: Vec<_> =
                notes.iter().filter(|note| note.session.surface == own).copied().collect();
            // One after the other: a token that is published meanwhile waits for one group at most.
            for group in of_surface.chunks(TOGETHER) {
                noted = noted.and(self.note_group(names, group).await);
            }
        }
        noted
    }

    async fn note_group(&self, names: &Names, group: &[DeliveryNote]) -> Result<(), StoreError> {
        if !self.apart.is_set() {
            match self.run(names, group).await {
                Err(error) if self.apart.is_demanded_by(&error) => {}
                noted => return noted,
            }
        }
        join_all(group.chunks(1).map(|note| self.run(names, note))).await.into_iter().collect()
    }

    /// Runs the script on sessions of one surface.
    async fn run(&self, names: &Names, group: &[DeliveryNote]) -> Result<(), StoreError> {
        let Some(first) = group.first() else { return Ok(()) };
        let keys: Vec<_> = group.iter().map(|note| names.session(note.session.key)).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        // The shared functions know the surface by their third argument, and publish nothing here.
        let mut arguments =
            vec!["".into(), "".into(), Value::from_static_str(surface(first.session))];
        for note in group {
            arguments.push(optional(note.session_token));
            arguments.push(note.subscription.as_u64().to_string().into());
            arguments.push(milliseconds(note.grace).into());
        }
        let reply = self.runner.run_on_all(&SCRIPTS.note_deliveries, &keys, &[&arguments]).await?;
        match reply.word() {
            b"noted" => Ok(()),
            _ => Err(reply.unexpected()),
        }
    }
}
