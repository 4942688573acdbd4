//! Lists of repositories and tags of several members as one (distribution-spec "Listing Tags",
//! docker-registry "Listing Repositories"): sorted, each entry once, in pages.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::json;

use super::name::RepositoryName;
use super::request::{Page, RegistryRequest};
use super::target::with_query;

/// How many entries a page of the catalog has where the client does not say, as docker-registry.
const CATALOG_PAGE: u32 = 100;

/// What a list is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Repositories.
    Catalog(CatalogOrder),
    /// Tags of this repository.
    Tags(RepositoryName),
}

/// How a member orders repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogOrder {
    /// docker-registry walks its storage: `a/b` comes before `a-b`.
    Paths,
    /// Harbor sorts names.
    Names,
}

/// One member's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialList {
    entries: Vec<String>,
    /// Whether the member has more after the last entry.
    more: bool,
}

/// A page of the list of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedList {
    /// The JSON.
    pub body: String,
    /// Path and query of the next page.
    pub next: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    repositories: Option<Vec<String>>,
    tags: Option<Vec<String>>,
}

impl ListKind {
    /// What a request lists; `None` for every other request.
    #[must_use]
    pub fn of(request: &RegistryRequest, order: CatalogOrder) -> Option<(Self, &Page)> {
        match request {
            RegistryRequest::Catalog(page) => Some((Self::Catalog(order), page)),
            RegistryRequest::Tags { repository, page } => Some((Self::Tags(repository.clone()), page)),
            _ => None,
        }
    }

    /// The page to ask each member for: as large as the client's, so that the first entries of all
    /// are among the first of each.
    #[must_use]
    pub fn page_of_members(&self, page: &Page) -> Page {
        let n = match (self, page.n) {
            (Self::Catalog(_), None) => Some(CATALOG_PAGE),
            (_, n) => n,
        };
        Page { n, last: page.last.clone() }
    }

    fn compare(&self, a: &str, b: &str) -> Ordering {
        match self {
            Self::Catalog(CatalogOrder::Paths) => a.bytes().map(in_path).cmp(b.bytes().map(in_path)),
            Self::Catalog(CatalogOrder::Names) | Self::Tags(_) => a.cmp(b),
        }
    }

    fn path(&self) -> String {
        match self {
            Self::Catalog(_) => "/v2/_catalog".to_owned(),
            Self::Tags(repository) => format!("/v2/{repository}/tags/list"),
        }
    }
}

fn in_path(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

impl PartialList {
    /// Reads a member's answer. `more` says whether it has a `Link` to a next page.
    #[must_use]
    pub fn parse(body: &[u8], more: bool) -> Option<Self> {
        let body: Body = serde_json::from_slice(body).ok()?;
        // A repository whose tags are all gone has `null`.
        Some(Self { entries: body.repositories.or(body.tags).unwrap_or_default(), more })
    }

    /// The last entry, where the member has more.
    #[must_use]
    pub fn goes_on_after(&self) -> Option<&str> {
        self.entries.last().filter(|_| self.more).map(String::as_str)
    }

    /// This and the next page of the same member as one.
    #[must_use]
    pub fn followed_by(mut self, next: Self) -> Self {
        self.entries.extend(next.entries);
        self.more = next.more;
        self
    }
}

/// The lists of several members as one page. A member that is not sure about the entries after its
/// last one ends the page there.
#[must_use]
pub fn merge(kind: &ListKind, page: &Page, lists: Vec<PartialList>) -> MergedList {
    let after = |entry: &str| page.last.as_deref().is_none_or(|last| kind.compare(entry, last).is_gt());
    let ends = lists.iter().filter(|list| list.more).filter_map(|list| {
        list.entries.iter().map(String::as_str).max_by(|a, b| kind.compare(a, b)).map(str::to_owned)
    });
    let sure_until = ends.min_by(|a, b| kind.compare(a, b));
    let mut more = sure_until.is_some();
    // Each once; then in the order of the list.
    let unique: BTreeSet<String> = lists.into_iter().flat_map(|list| list.entries).collect();
    let mut entries: Vec<String> = unique.into_iter().filter(|entry| after(entry)).collect();
    entries.sort_by(|a, b| kind.compare(a, b));
    if let Some(end) = &sure_until {
        entries.retain(|entry| kind.compare(entry, end).is_le());
    }
    let n = kind.page_of_members(page).n;
    if let Some(n) = n.filter(|n| entries.len() > *n as usize) {
        entries.truncate(n as usize);
        more = true;
    }
    let next = entries.last().filter(|_| more).map(|last| {
        let size = n.map(|n| n.to_string());
        let size = size.iter().map(|n| ("n", n.as_str()));
        let parameters: Vec<(&str, &str)> = std::iter::once(("last", last.as_str())).chain(size).collect();
        with_query(kind.path(), &parameters)
    });
    let body = match kind {
        ListKind::Catalog(_) => json!({ "repositories": entries }),
        ListKind::Tags(repository) => json!({ "name": repository.as_str(), "tags": entries }),
    };
    MergedList { body: body.to_string(), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str], more: bool) -> PartialList {
        PartialList { entries: entries.iter().map(|entry| (*entry).to_owned()).collect(), more }
    }

    fn page(n: Option<u32>, last: Option<&str>) -> Page {
        Page { n, last: last.map(str::to_owned) }
    }

    #[test]
    fn lists_become_one_in_the_order_of_a_registry() {
        let tags = ListKind::Tags(RepositoryName::try_from("a/b").expect("a name"));
        for (what, kind, page, lists, expected, next) in [
            (
                "each once, sorted",
                &tags,
                page(None, None),
                vec![list(&["b", "a"], false), list(&["c", "b"], false)],
                vec!["a", "b", "c"],
                None,
            ),
            (
                "a page of the whole",
                &tags,
                page(Some(2), None),
                vec![list(&["a", "c"], true), list(&["b", "d"], false)],
                vec!["a", "b"],
                Some("/v2/a/b/tags/list?last=b&n=2"),
            ),
            (
                "the next one",
                &tags,
                page(Some(2), Some("b")),
                vec![list(&["c", "e"], false), list(&["d"], false)],
                vec!["c", "d"],
                Some("/v2/a/b/tags/list?last=d&n=2"),
            ),
            (
                "the last one",
                &tags,
                page(Some(2), Some("d")),
                vec![list(&["e"], false), list(&[], false)],
                vec!["e"],
                None,
            ),
            (
                "a member that knows no pages",
                &tags,
                page(Some(2), Some("b")),
                vec![list(&["a", "b", "c", "d"], false)],
                vec!["c", "d"],
                None,
            ),
            (
                "nobody is sure after the end of a shorter page",
                &tags,
                page(Some(3), None),
                vec![list(&["a", "b"], true), list(&["c", "d"], false)],
                vec!["a", "b"],
                Some("/v2/a/b/tags/list?last=b&n=3"),
            ),
        ] {
            let merged = merge(kind, &page, lists);
            let body: serde_json::Value = serde_json::from_str(&merged.body).expect("JSON");
            let key = if matches!(kind, ListKind::Catalog(_)) { "repositories" } else { "tags" };
            assert_eq!(body[key], json!(expected), "{what}");
            assert_eq!(merged.next.as_deref(), next, "{what}");
        }
    }

    #[test]
    fn repositories_come_in_the_order_of_the_members() {
        for (order, expected) in
            [(CatalogOrder::Paths, ["a/b", "a-b", "b"]), (CatalogOrder::Names, ["a-b", "a/b", "b"])]
        {
            let lists = vec![list(&["a-b", "b"], false), list(&["a/b"], false)];
            let merged = merge(&ListKind::Catalog(order), &page(None, None), lists);
            assert_eq!(merged.body, json!({ "repositories": expected }).to_string());
        }
    }

    #[test]
    fn following_the_links_shows_every_entry_once() {
        let members: [Vec<String>; 3] =
            [2, 3, 5].map(|step| (0..200).step_by(step).map(|number| format!("t{number:03}")).collect());
        let kind = ListKind::Tags(RepositoryName::try_from("a/b").expect("a name"));
        for n in [1, 7, 50, 1000] {
            let (mut seen, mut last) = (Vec::new(), None::<String>);
            loop {
                let lists = members.iter().map(|entries| {
                    let rest: Vec<String> = entries
                        .iter()
                        .filter(|entry| last.as_ref().is_none_or(|last| *entry > last))
                        .cloned()
                        .collect();
                    let more = rest.len() > n as usize;
                    PartialList { entries: rest.into_iter().take(n as usize).collect(), more }
                });
                let merged = merge(&kind, &page(Some(n), last.as_deref()), lists.collect());
                let body: serde_json::Value = serde_json::from_str(&merged.body).expect("JSON");
                let entries = body["tags"].as_array().expect("a list").clone();
                seen.extend(entries.iter().map(|entry| entry.as_str().expect("text").to_owned()));
                match merged.next {
                    Some(_) => last = seen.last().cloned(),
                    None => break,
                }
            }
            let all: BTreeSet<String> = members.iter().flatten().cloned().collect();
            assert_eq!(seen, all.into_iter().collect::<Vec<_>>(), "pages of {n}");
        }
    }

    #[test]
    fn answers_are_read_whatever_they_lack() {
        assert_eq!(PartialList::parse(br#"{"repositories":["a"]}"#, true), Some(list(&["a"], true)));
        assert_eq!(PartialList::parse(br#"{"name":"a","tags":null}"#, false), Some(list(&[], false)));
        assert_eq!(PartialList::parse(b"<html>", false), None);
    }
}
