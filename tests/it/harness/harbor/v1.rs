//! Harbor 1.10, from its source: core hands `/v2` to the registry as it comes, and the registry itself checks tokens with the
//! node's `root.crt`.

use super::answer::{self, Answer};
use super::core::CoreRequest;
use super::node::Node;

pub(super) async fn proxy(node: &Node, request: CoreRequest) -> Answer {
    if node.faults().registry_gone {
        return answer::empty(502);
    }
    let target = request.target();
    node.behind.forward_or_502((request.method, &target), request.headers, request.body).await
}
