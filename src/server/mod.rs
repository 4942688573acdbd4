//! Accepting connections: listeners, TLS, deadlines and limits. The handler comes in as a function.

mod accept;
mod descriptors;
mod settings;
mod tls;
mod watch;

pub use accept::{Accepted, Acceptor, Listener, Redirect, bind};
pub use descriptors::raise_descriptor_limit;
pub use settings::*;
pub use tls::{CertificateError, Certificates, generate_self_signed};
