//! What came of a request on its way to members, for the record.

use std::sync::Arc;

use crate::attempt::Times;
use crate::upstream::Member;

/// What came of a request on its way.
#[derive(Default)]
pub struct Trail {
    /// How many attempts were made.
    pub tries: u32,
    /// Other members that were asked about a 404.
    pub confirmations: u32,
    /// The member that was reached last.
    pub member: Option<Arc<Member>>,
    /// When what happened at it.
    pub times: Option<Times>,
}
