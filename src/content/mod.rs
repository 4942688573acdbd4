//! Bytes that are what their digest says: verified before they are passed on where they are small, hashed on their way
//! where they are not, gone on with from another member where one fails, read once for many clients, and compared with
//! what members acknowledge of uploads.
//!
//! This floor knows members and requests to them ([`crate::attempt`]), and nothing of the client.

mod checks;
mod expected;
mod flights;
mod memory;
mod rest;
mod resume;
mod settle;
mod upload;
mod window;

pub use checks::ContentChecks;
pub use expected::Content;
pub use flights::{Flights, Head, Joined, Leader, Outcome, join};
pub use memory::{FIRST_BYTES, GrowingReservation, ManifestMemory, ManifestReservation};
pub use rest::Resumption;
pub use resume::{ContentBody, Resumed};
pub use settle::{Coming, Settled, SettledBody, settle};
pub use upload::{SentContent, UploadChecks, received};
pub use window::SharedReader;
