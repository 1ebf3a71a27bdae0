//! Parses the answers of scripts.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    session::{ClientId, Digest, Failure, GoneReason, State},
    store::{StoreError, Stored},
};

/// A script's answer: a word and the fields that belong to it.
pub(super) struct Reply {
    fields: Vec<Bytes>,
}

impl Reply {
    pub(super) fn new(fields: Vec<Bytes>) -> Self {
        Self { fields }
    }

    pub(super) fn word(&self) -> &[u8] {
        self.fields.first().map(Bytes::as_ref).unwrap_or_default()
    }

    /// The error for a word that this version does not know.
    pub(super) fn unexpected(&self) -> StoreError {
        let word: String = String::from_utf8_lossy(self.word()).chars().take(20).collect();
        StoreError::Corrupt(format!("answer `{word}`"))
    }

    pub(super) fn field(&self, index: usize) -> Result<&Bytes, StoreError> {
        self.fields.get(index).ok_or_else(|| self.unexpected())
    }

    pub(super) fn text(&self, index: usize) -> Result<&str, StoreError> {
        std::str::from_utf8(self.field(index)?).map_err(|_| self.unexpected())
    }

    pub(super) fn milliseconds(&self, index: usize) -> Result<Duration, StoreError> {
        // Negative when the server's clock was set back between two transitions.
        let number: i64 = self.text(index)?.parse().map_err(|_| self.unexpected())?;
        Ok(Duration::from_millis(number.max(0).unsigned_abs()))
    }

    pub(super) fn digest(&self, index: usize) -> Result<Option<Digest>, StoreError> {
        match self.text(index)? {
            "" => Ok(None),
            text => Digest::from_base64url(text).map(Some).map_err(|_| self.unexpected()),
        }
    }

    /// The registered client of the session, in the last field; empty where it has none.
    pub(super) fn client(&self) -> Result<Option<ClientId>, StoreError> {
        match self.text(self.fields.len().saturating_sub(1))? {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.unexpected()),
        }
    }

    pub(super) fn reason(&self, index: usize) -> Result<GoneReason, StoreError> {
        let text = self.text(index)?;
        GoneReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| self.unexpected())
    }

    pub(super) fn failure(&self, index: usize) -> Result<Failure, StoreError> {
        Ok(Failure {
            error: self.text(index)?.to_owned(),
            error_description: self.text(index + 1)?.to_owned(),
        })
    }

    /// After the word `not_pending`.
    pub(super) fn state(&self) -> Result<State, StoreError> {
        match self.text(1)? {
            "a" => Ok(State::Authenticated),
            "d" => Ok(State::Delivered),
            "f" => self.failure(2).map(State::Failed),
            "g" => self.reason(2).map(State::Gone),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn stored(&self) -> Result<Stored, StoreError> {
        match self.word() {
            b"done" => Ok(Stored::Done),
            b"unknown" => Ok(Stored::Unknown),
            b"not_pending" => self.state().map(Stored::NotPending),
            _ => Err(self.unexpected()),
        }
    }
}
