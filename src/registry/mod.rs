//! The language of the OCI distribution-spec 1.1: names, digests, requests, scopes and error bodies.
//!
//! Everything here is pure. A request is parsed once, at the border, into a [`RegistryRequest`];
//! from then on no other module looks at a raw path or query.

mod access;
mod content;
mod error;
mod list;
mod name;
mod request;
mod route;
mod target;
mod web;

pub use access::{Action, Actions, Resource, ResourceAccess, parse_scopes};
pub use content::ContentHash;
pub use error::{ErrorCode, ParseError, error_body};
pub use list::{CatalogOrder, ListKind, MergedList, PartialList, merge};
pub use name::{Digest, NameError, Reference, RepositoryName, Tag, UploadId};
pub use request::{
    BlobMethod, ManifestMethod, Mount, PIN_PARAMETER, Page, RegistryRequest, UploadMethod, is_read,
};
pub use route::RouteKind;
pub(crate) use target::with_query;
pub use web::{WebKind, WebRequest};
