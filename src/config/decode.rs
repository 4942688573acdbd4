//! Reads the serde mirror of the file from a [`Document`]: every wrong type, unknown, missing or repeated key becomes a [`Problem`]
//! at its key path, not only the first.

mod cursor;
mod problem;

use serde::de::DeserializeOwned;

pub(super) use problem::{FIX_SEPARATOR, SECTION_OR_NONE};

use super::document::{Document, KeyPath, Problem};
use cursor::Cursor;
use problem::{Decoder, Kind};

/// Most wrong values that are looked for; what is wrong beyond them shows up when these are corrected.
const WRONG_VALUES_MAX: usize = 50;

/// Reads the whole document as a `T`.
pub(super) fn decode<T: DeserializeOwned>(document: &Document) -> Result<T, Vec<Problem>> {
    let decoder = Decoder::default();
    for _ in 0..WRONG_VALUES_MAX {
        let root = Cursor { node: document.root(), path: KeyPath::default(), decoder: &decoder };
        let error = match T::deserialize(root) {
            Ok(value) if decoder.problems.borrow().is_empty() => return Ok(value),
            Ok(_) => break,
            Err(error) => error,
        };
        // One value at a time is left out, until what remains can be read.
        let path = error.path.clone().unwrap_or_default();
        let (reported, skipped) = match &error.kind {
            Kind::Missing(key) => (path.key(key), Some(path)),
            Kind::UnknownKey(key) => (path.key(key), Some(path)),
            Kind::WrongValue { .. } => (path.clone(), Some(path)),
        };
        if !(decoder.is_skipped(&reported) || decoder.is_mistyped(&reported)) {
            decoder.report(error.into_problem(reported));
        }
        match skipped {
            Some(path) if path.parent().is_some() && decoder.skipped.borrow_mut().insert(path.clone()) => {}
            _ => break,
        }
    }
    Err(decoder.problems.into_inner())
}
