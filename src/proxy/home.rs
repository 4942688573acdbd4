//! Where a request goes while members copy each other, late: what writes, and what a push looks for
//! first, is the home's alone; tags are read there while it serves; digests anywhere, the home first.
//!
//! With `write_failover` the next member of the repository's own order takes the writes of a home that
//! has been out for so long. When the home is back, its word on a tag counts only once it agrees with
//! what the others have: a tag that was moved meanwhile must not move back.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::GatewayError;
use super::plan::NeedsHome;
use super::{Admitted, Gateway};
use crate::registry::{
    Digest, ManifestMethod, Reference, RegistryRequest, RepositoryName, Tag, UploadMethod, is_read,
};
use crate::upstream::{Member, Pool, StandIn, leave_out_draining, tag_digest};

/// So many repositories, and tags of each, are looked at in one go.
const SETTLED_AT_ONCE: usize = 16;
/// How long members are asked about a tag.
const TAG_TIMEOUT: Duration = Duration::from_secs(3);

/// The members to try, and how many others are asked beside one that says 404.
type Candidates = (Vec<Arc<Member>>, usize);

/// Whose word on a tag counts.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// The home's: the others say the same, or nothing.
    Home,
    /// The home lacks it or has another digest.
    NotHome,
}

/// Compares what the home says of a tag with what the others say.
fn word_on_tag(home: Option<&Digest>, others: &[Option<Digest>]) -> Word {
    if others.iter().flatten().all(|digest| Some(digest) == home) { Word::Home } else { Word::NotHome }
}

impl Gateway {
    /// The members to try for a repository of members that copy each other.
    pub(super) async fn candidates_by_home(
        &self,
        admitted: &Admitted,
        target: &RegistryRequest,
        pool: &Pool,
        repository: &RepositoryName,
    ) -> Result<Candidates, GatewayError> {
        let key = pool.home_key(repository);
        let Some(home) = pool.home(key) else { return Ok((Vec::new(), 0)) };
        let serves = home.status().serves();
        let stand_in = pool.memory.stand_ins.of(repository);
        match self.needs_home(admitted, target, repository) {
            NeedsHome::Always => writer(target, pool, (home, key), stand_in.as_ref()).map(|it| (vec![it], 0)),
            NeedsHome::WhileItServes if serves => {
                readers_of_tags(target, pool, (home, key), stand_in.as_ref()).await
            }
            NeedsHome::WhileItServes if stand_in.is_some() => {
                let first = stand_in.map(|record| record.member);
                let mut members = pool.candidates_from_home(key);
                // Stable: the others keep their order.
                members.sort_by_key(|member| Some(&member.name) != first.as_ref());
                Ok(confirmed_by_all(members))
            }
            // A tag that was moved through this gateway a moment ago must not move back.
            NeedsHome::WhileItServes if is_only_at(pool, repository, home, target) => {
                match home.is_last_choice() {
                    true => Ok((vec![Arc::clone(home)], 0)),
                    false => Err(GatewayError::NewestDown { member: home.name.clone() }),
                }
            }
            NeedsHome::WhileItServes | NeedsHome::Never => {
                let mut members = pool.candidates_from_home(key);
                leave_out_draining(&mut members);
                if let Some(Reference::Digest(digest)) = target.reference() {
                    // Stable: who has it broken is asked after the others.
                    members.sort_by_key(|member| self.checks.quarantine.holds(&member.name, &digest));
                }
                Ok(confirmed_by_all(members))
            }
        }
    }

    /// Looks whether homes that are back have what others took in their place, also where nobody asks
    /// for it.
    pub async fn settle_stand_ins(&self) {
        let topology = self.topology.load_full();
        for pool in topology.pools.all() {
            for (repository, record) in pool.memory.stand_ins.some(SETTLED_AT_ONCE) {
                let home = pool.home(pool.home_key(&repository)).filter(|home| home.status().serves());
                let taken_by = pool.members.iter().find(|member| member.name == record.member);
                let (Some(home), Some(taken_by)) = (home, taken_by) else { continue };
                for tag in record.tags.iter().take(SETTLED_AT_ONCE) {
                    let deadline = Instant::now() + TAG_TIMEOUT;
                    let others = std::slice::from_ref(taken_by);
                    let (at_home, elsewhere) =
                        ask_about_tag((home, others), &repository, tag, deadline).await;
                    let said = elsewhere.into_iter().find_map(|(_, said)| said.ok());
                    if let (Ok(at_home), Some(said)) = (at_home, said)
                        && word_on_tag(at_home.as_ref(), &[said]) == Word::Home
                    {
                        pool.memory.stand_ins.agree(&repository, tag, home.returns());
                    }
                }
            }
        }
    }

    /// A write was taken: where it went counts for reads, and what a stand-in took is remembered.
    pub(super) fn note_write(
        &self,
        (target, method): (&RegistryRequest, &Method),
        pool: &Pool,
        (member, status): (&Member, StatusCode),
    ) {
        let goes_on = matches!(target, RegistryRequest::Upload { method: UploadMethod::Patch, .. });
        let Some(repository) = target.repository().filter(|_| !is_read(method) && !goes_on) else { return };
        if !status.is_success() {
            return;
        }
        pool.wrote(repository, member);
        let key = pool.home_key(repository);
        if member.write_failover.is_none() {
            return;
        }
        let Some(home) = pool.home(key) else { return };
        let was_out = home.has_been_out().is_some() || pool.memory.stand_ins.of(repository).is_some();
        if home.name != member.name && !was_out {
            // The list of members was changed meanwhile.
            return;
        }
        if home.name != member.name {
            pool.memory.stand_ins.note(repository, &member.name, tag_of(target));
        } else if let Some(tag) = tag_of(target) {
            // Nobody has a newer one.
            pool.memory.stand_ins.agree(repository, tag, home.returns());
        }
    }
}

/// The home serves: it is asked, and the home before the list of members was changed; unless
/// others took writes in its place and it does not have them yet.
async fn readers_of_tags(
    target: &RegistryRequest,
    pool: &Pool,
    (home, key): (&Arc<Member>, &str),
    stand_in: Option<&StandIn>,
) -> Result<Candidates, GatewayError> {
    let (Some(repository), Some(tag)) = (target.repository(), tag_of(target)) else {
        // What a push looks for, it looks for where it goes.
        let taken_by = stand_in.and_then(|record| pool.members.iter().find(|it| it.name == record.member));
        let taken_by = taken_by.filter(|member| member.is_usable());
        return Ok((taken_by.into_iter().chain(Some(home)).take(1).cloned().collect(), 0));
    };
    let previous = pool.previous_home(key).filter(|member| member.status().serves());
    let as_ever = || {
        let mut members: Vec<Arc<Member>> = std::iter::once(home).chain(previous).cloned().collect();
        let confirmations = members.len() - 1;
        // Its word is final; but if it has none because it has just died, reads go on.
        if !is_only_at(pool, repository, home, target) {
            members.extend(pool.others_from_home(key));
        }
        Ok((members, confirmations))
    };
    let returns = home.returns();
    let in_question = stand_in.is_some() || returns > 0;
    if !in_question || pool.memory.stand_ins.is_agreed(repository, tag, returns) {
        return as_ever();
    }
    let unsure = || GatewayError::HomeReturning { member: home.name.clone() };
    let stand_ins = &pool.memory.stand_ins;
    if stand_ins.disagreed_lately(repository, tag) {
        let taken_by = stand_in.and_then(|record| pool.members.iter().find(|it| it.name == record.member));
        return taken_by.map(|member| (vec![Arc::clone(member)], 0)).ok_or_else(unsure);
    }
    let others = pool.others_from_home(key);
    let deadline = Instant::now() + TAG_TIMEOUT;
    let (at_home, elsewhere) = ask_about_tag((home, &others), repository, tag, deadline).await;
    let Ok(at_home) = at_home else { return Err(unsure()) };
    let Some(record) = stand_in else {
        // Who took it, if anybody did, another gateway knows.
        let known: Vec<_> = elsewhere.into_iter().filter_map(|(_, said)| said.ok()).collect();
        if word_on_tag(at_home.as_ref(), &known) == Word::NotHome {
            stand_ins.disagree(repository, tag);
            return Err(unsure());
        }
        pool.memory.stand_ins.agree(repository, tag, returns);
        return as_ever();
    };
    let taken_by = elsewhere.into_iter().find(|(member, _)| member.name == record.member);
    match taken_by {
        Some((_, Ok(said))) if word_on_tag(at_home.as_ref(), std::slice::from_ref(&said)) == Word::Home => {
            pool.memory.stand_ins.agree(repository, tag, returns);
            as_ever()
        }
        Some((member, Ok(_))) => {
            stand_ins.disagree(repository, tag);
            Ok((vec![member], 0))
        }
        // It is out, and what it took is nowhere else for sure.
        Some((_, Err(_))) | None if record.tags.contains(tag) => Err(unsure()),
        Some((_, Err(_))) | None => as_ever(),
    }
}

/// Each of them is asked before a client hears that there is no such thing.
fn confirmed_by_all(members: Vec<Arc<Member>>) -> Candidates {
    let confirmations = members.len();
    (members, confirmations)
}

/// Whether a tag may be newer at the home than anywhere else, because it was written there through this
/// gateway a moment ago.
fn is_only_at(pool: &Pool, repository: &RepositoryName, home: &Member, target: &RegistryRequest) -> bool {
    tag_of(target).is_some() && pool.last_written_at(repository).as_ref() == Some(&home.name)
}

/// Who takes a write: the home, or who stands in for it.
fn writer(
    target: &RegistryRequest,
    pool: &Pool,
    (home, key): (&Arc<Member>, &str),
    stand_in: Option<&StandIn>,
) -> Result<Arc<Member>, GatewayError> {
    let down = || GatewayError::HomeDown { member: home.name.clone() };
    let repository = target.repository().ok_or_else(down)?;
    let adds = matches!(
        target,
        RegistryRequest::UploadStart { .. }
            | RegistryRequest::Upload { method: UploadMethod::Patch | UploadMethod::Put { .. }, .. }
            | RegistryRequest::Manifest { method: ManifestMethod::Put, .. }
            | RegistryRequest::Blob { .. }
    );
    if let Some(record) = stand_in {
        // What was begun there goes on there, until the home has it all.
        let taken_by = pool.members.iter().find(|member| member.name == record.member);
        let taken_by = taken_by.filter(|member| member.is_usable() && adds);
        let has_room = pool.memory.stand_ins.has_room(repository, tag_of(target));
        let refused = || match home.status().serves() {
            true => GatewayError::HomeReturning { member: home.name.clone() },
            false => down(),
        };
        return taken_by.filter(|_| has_room).cloned().ok_or_else(refused);
    }
    let Some(out_for) = home.has_been_out() else { return Ok(Arc::clone(home)) };
    let after = home.write_failover.filter(|_| adds && pool.memory.stand_ins.has_room(repository, None));
    if after.is_none_or(|after| out_for < after) {
        return if home.is_last_choice() { Ok(Arc::clone(home)) } else { Err(down()) };
    }
    pool.others_from_home(key).into_iter().next().ok_or_else(down)
}

/// The tag that a request is about.
fn tag_of(target: &RegistryRequest) -> Option<&Tag> {
    match target {
        RegistryRequest::Manifest { reference: Reference::Tag(tag), .. } => Some(tag),
        _ => None,
    }
}

type Said = Result<Option<Digest>, String>;

/// Asks the home and the others at the same time.
async fn ask_about_tag(
    (home, others): (&Arc<Member>, &[Arc<Member>]),
    repository: &RepositoryName,
    tag: &Tag,
    deadline: Instant,
) -> (Said, Vec<(Arc<Member>, Said)>) {
    let mut questions = JoinSet::new();
    for (at, member) in std::iter::once(home).chain(others).enumerate() {
        let (member, repository, tag) = (Arc::clone(member), repository.clone(), tag.clone());
        questions.spawn(async move {
            let said = tag_digest(&member, &repository, &tag, deadline).await;
            (at, member, said)
        });
    }
    let mut at_home = Err("it was not asked".to_owned());
    let mut elsewhere = Vec::new();
    while let Some(answered) = questions.join_next().await {
        match answered {
            Ok((0, _, said)) => at_home = said,
            Ok((_, member, said)) => elsewhere.push((member, said)),
            Err(_) => {}
        }
    }
    (at_home, elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_homes_word_counts_only_where_nobody_says_otherwise() {
        let digest = |n: u8| Digest::try_from(format!("sha256:{n:064x}").as_str()).expect("a digest");
        for (home, others, expected) in [
            (Some(1), vec![Some(1), Some(1)], Word::Home),
            (Some(1), vec![None, Some(1)], Word::Home),
            (Some(1), vec![], Word::Home),
            (None, vec![None], Word::Home),
            (None, vec![Some(2)], Word::NotHome),
            (Some(1), vec![Some(1), Some(2)], Word::NotHome),
        ] {
            let others: Vec<_> = others.into_iter().map(|other: Option<u8>| other.map(digest)).collect();
            assert_eq!(word_on_tag(home.map(digest).as_ref(), &others), expected, "{home:?} {others:?}");
        }
    }
}
