//! The answer to a request, and what tests insist on.

use std::fmt;
use std::panic::Location;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::harness::Result;

/// How much of a body the message of a failure shows.
const SHOWN_BYTES_MAX: usize = 1024;

/// An answer read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Method and target of the request.
    pub(crate) request: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// All of it, with the beginning of the body.
impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}: {}", self.request, self.status)?;
        for (name, value) in &self.headers {
            writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let shown = &self.body[..self.body.len().min(SHOWN_BYTES_MAX)];
        write!(out, "\n{}", String::from_utf8_lossy(shown))?;
        if shown.len() < self.body.len() {
            write!(out, "... ({} bytes)", self.body.len())?;
        }
        Ok(())
    }
}

impl Answer {
    /// Insists on a status; the panic names the line of the test and shows the answer.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert!(self.status == status, "wanted {status}, got {self}");
        self
    }

    /// As [`Self::is`], for steps that return their error.
    pub(crate) fn ensure(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "wanted {status}, got {self}");
        Ok(self)
    }

    /// A header's text. One that is no text is not taken for one that is missing.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of visible ASCII"))
    }

    /// Its `Location`, as it was sent.
    #[track_caller]
    pub(crate) fn location(&self) -> String {
        let Some(location) = self.header("location") else { panic!("no Location in {self}") };
        location.to_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match self.try_json() {
            Ok(value) => value,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// As [`Self::json`], for steps that return their error.
    pub(crate) fn try_json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON in {self}"))
    }

    /// The token of a token service.
    #[track_caller]
    pub(crate) fn token(&self) -> String {
        match self.try_token() {
            Ok(token) => token,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// As [`Self::token`], for steps that return their error.
    pub(crate) fn try_token(&self) -> Result<String> {
        let token = self.try_json()?["token"].as_str().map(str::to_owned);
        token.with_context(|| format!("no token in {self}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of the first OCI error in the body.
    pub(crate) fn error_code(&self) -> Option<String> {
        Some(self.try_json().ok()?.pointer("/errors/0/code")?.as_str()?.to_owned())
    }
}

/// What a test cannot go on without; the panic names the line of the test and tells every cause.
#[track_caller]
pub(crate) fn sure<T>(work: impl Future<Output = Result<T>>) -> impl Future<Output = T> {
    let line = Location::caller();
    // Boxed, so that the futures of tests stay small.
    let work = Box::pin(work);
    async move { work.await.unwrap_or_else(|error| panic!("{line}: {error:#}")) }
}
