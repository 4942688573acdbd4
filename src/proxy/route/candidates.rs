//! The members to try for a request.

use std::sync::Arc;

use crate::upstream::Member;

/// The members to try, in order.
pub(in crate::proxy) struct Candidates {
    pub members: Vec<Arc<Member>>,
    /// How many of them are asked beside one that says 404.
    pub confirmations: usize,
}

impl Candidates {
    /// Members each of which is asked before a client hears that there is no such thing.
    pub(super) fn confirmed_by_all(members: Vec<Arc<Member>>) -> Self {
        Self { confirmations: members.len(), members }
    }

    /// One member, whose word is final.
    pub(super) fn only(member: &Arc<Member>) -> Self {
        Self { members: vec![Arc::clone(member)], confirmations: 0 }
    }
}
