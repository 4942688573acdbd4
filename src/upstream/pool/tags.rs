//! What members that copy each other, late, say of a tag.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pools::Pools;
use crate::registry::{Digest, Reference, RepositoryName, Tag};
use crate::upstream::member::Member;

/// How long members are asked about a tag.
const TAG_TIMEOUT: Duration = Duration::from_secs(3);
/// So many repositories, and tags of each, are looked at in one go.
const SETTLED_AT_ONCE: usize = 16;

/// The digest that a tag has at a member, by the member's own word, `None` where it has no such tag; or why the member
/// does not say.
pub type TagAnswer = Result<Option<Digest>, String>;

/// What members say of a tag.
pub struct TagAnswers {
    /// The home.
    pub home: TagAnswer,
    /// The others that were asked.
    pub others: Vec<(Arc<Member>, TagAnswer)>,
}

/// Asks the home of a repository and others about a tag, all at the same time.
pub async fn ask_about_tag(
    home: &Arc<Member>,
    others: &[Arc<Member>],
    repository: &RepositoryName,
    tag: &Tag,
) -> TagAnswers {
    let deadline = Instant::now() + TAG_TIMEOUT;
    let mut questions = JoinSet::new();
    for (at, member) in std::iter::once(home).chain(others).enumerate() {
        let (member, repository, tag) = (Arc::clone(member), repository.clone(), tag.clone());
        questions.spawn(async move {
            let answer = tag_digest(&member, &repository, tag, deadline).await;
            (at, member, answer)
        });
    }
    let mut answers = TagAnswers { home: Err("it was not asked".to_owned()), others: Vec::new() };
    while let Some(answered) = questions.join_next().await {
        match answered {
            Ok((0, _, answer)) => answers.home = answer,
            Ok((_, member, answer)) => answers.others.push((member, answer)),
            Err(_) => {}
        }
    }
    answers
}

async fn tag_digest(member: &Member, repository: &RepositoryName, tag: Tag, deadline: Instant) -> TagAnswer {
    let reply = member.head_of_manifest(repository, &Reference::Tag(tag), deadline).await?;
    match reply.status {
        StatusCode::OK => {
            let digest = reply.header("docker-content-digest");
            let digest = digest.and_then(|text| Digest::try_from(text).ok());
            digest.map(Some).ok_or_else(|| "it does not say the digest of its tag".to_owned())
        }
        StatusCode::NOT_FOUND => Ok(None),
        status => Err(format!("it answers {status} to a question about a tag")),
    }
}

impl Pools {
    /// Looks whether homes that are back have what other members took in their place, also where no client asks for it.
    pub async fn settle_stand_ins(&self) {
        for pool in self.all() {
            for (repository, record) in pool.memory.stand_ins.some(SETTLED_AT_ONCE) {
                let home = pool.home(pool.home_key(&repository)).filter(|home| home.status().serves());
                let taken_by = pool.member(&record.member);
                let (Some(home), Some(taken_by)) = (home, taken_by) else { continue };
                for tag in record.tags.iter().take(SETTLED_AT_ONCE) {
                    let others = std::slice::from_ref(taken_by);
                    let answers = ask_about_tag(home, others, &repository, tag).await;
                    let elsewhere = answers.others.into_iter().find_map(|(_, answer)| answer.ok());
                    if let (Ok(at_home), Some(elsewhere)) = (answers.home, elsewhere)
                        && is_as_at_home(at_home.as_ref(), elsewhere.as_ref())
                    {
                        pool.memory.stand_ins.agree(&repository, tag, home.returns());
                    }
                }
            }
        }
    }
}

/// Whether the home's word on a tag counts beside another member's: that one has the same digest, or no such tag.
#[must_use]
pub fn is_as_at_home(home: Option<&Digest>, elsewhere: Option<&Digest>) -> bool {
    elsewhere.is_none_or(|digest| Some(digest) == home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_homes_word_counts_only_where_no_other_member_has_another_digest() {
        let digest = |n: u8| Digest::try_from(format!("sha256:{n:064x}").as_str()).expect("a digest");
        for (home, others, expected) in [
            (Some(1), vec![Some(1), Some(1)], true),
            (Some(1), vec![None, Some(1)], true),
            (Some(1), vec![], true),
            (None, vec![None], true),
            (None, vec![Some(2)], false),
            (Some(1), vec![Some(1), Some(2)], false),
        ] {
            let what = format!("{home:?} {others:?}");
            let others: Vec<_> = others.into_iter().map(|other: Option<u8>| other.map(digest)).collect();
            let home = home.map(digest);
            let counts = others.iter().all(|other| is_as_at_home(home.as_ref(), other.as_ref()));
            assert_eq!(counts, expected, "{what}");
        }
    }
}
