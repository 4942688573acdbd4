//! Holds the stand-in for Harbor nodes to what was recorded of real ones (Harbor v2.9.5): every recorded exchange is asked again
//! under names of this run and, where exchanges do not depend on each other, in another order. `CONTRACT_SEED`, which every test
//! prints, gives the same names and order again. The recordings themselves are not read; what they say is written here.
//!
//! `sequences_*` are chains of requests that were not recorded and follow from what was.

mod api;
mod balancers;
mod case;
mod challenges;
mod contents;
mod directory;
mod failures;
mod limits;
mod locations;
mod minted;
mod paths;
mod sequences_passwords;
mod sequences_sessions;
mod sequences_versions;
mod sessions;
mod token_service;
mod uploads;
mod world;
