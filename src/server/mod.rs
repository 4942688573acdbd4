//! Accepting connections: listeners, TLS, deadlines and limits. The handler comes in as a function.

mod accept;
mod acceptor;
mod answers;
mod descriptors;
mod drive;
mod redirect;
mod settings;
mod stream;
mod tls;
mod watch;

pub use accept::{Families, Listener, bind, bind_alone};
pub use acceptor::{Accepted, Acceptor};
pub use descriptors::raise_descriptor_limit;
pub use redirect::Redirect;
pub use settings::*;
pub use tls::{CertificateError, Certificates, generate_self_signed};
