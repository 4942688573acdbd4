//! Accepting connections: listeners, TLS, deadlines and limits. The handler comes in as a function.

mod accept;
mod answers;
mod descriptors;
mod drive;
mod redirect;
mod settings;
mod stream;
mod tls;
mod watch;

pub use accept::{Accepted, Acceptor, Families, Listener, bind, bind_alone};
pub use descriptors::raise_descriptor_limit;
pub use redirect::Redirect;
pub use settings::*;
pub use tls::{CertificateError, Certificates, generate_self_signed};
