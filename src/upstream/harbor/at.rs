//! A Harbor node together with the member that it is.

use super::node::HarborNode;
use crate::upstream::member::Member;

/// A Harbor node at its member: what a login or a token takes, the connections to it and its health included.
#[derive(Clone, Copy)]
pub struct NodeAt<'a> {
    /// What is known of the node.
    pub node: &'a HarborNode,
    /// The member that it is.
    pub member: &'a Member,
}

impl Member {
    /// The Harbor node that the member is; `None` for a plain registry.
    #[must_use]
    pub fn node(&self) -> Option<NodeAt<'_>> {
        self.harbor.as_ref().map(|node| NodeAt { node, member: self })
    }
}
