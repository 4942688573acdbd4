//! A Harbor node: its account, its token service, its locks, its health.
//!
//! What is relied on was measured on nodes of Harbor 2.9: the `sub` of an answered token is the
//! only proof of a password; a refused password takes 1.5 s and locks its name on that node for as
//! long; a node without its database refuses every client.

mod at;
mod exchanged;
mod gate;
mod health;
mod login;
mod node;
mod secret;
mod serve;
mod token;

pub use at::NodeAt;
pub use gate::PasswordTurn;
pub use login::{LOCK, Login, Password};
pub use node::{HarborNode, SESSION_COOKIE};
pub use secret::{ClientSecret, Fingerprint, basic};
pub(super) use token::token_of_account;
pub use token::{NodeToken, TokenAnswer};
