//! The members of a repository that copy each other, late: the state around the decisions of [`super::plan`] and
//! [`super::tag`], and the questions that they need.

use std::sync::Arc;

use http::StatusCode;

use super::candidates::Candidates;
use super::plan::{
    HomePlan, HomeView, NeedsHome, StandInState, WriteView, Writer, adds_content, home_plan, writer,
};
use super::tag::{Finding, Readers, StandInWord, Step, TagView, TagWords, Word, first_step, second_step};
use crate::attempt::MemberRequest;
use crate::proxy::error::GatewayError;
use crate::registry::{Digest, Reference, RegistryRequest, RepositoryName, Tag, UploadMethod, is_read};
use crate::upstream::{
    Member, Pool, Quarantine, StandIn, TagAnswer, TagAnswers, ask_about_tag, is_as_at_home,
    leave_out_draining,
};

/// The members of one repository.
pub(super) struct Homes<'a> {
    pool: &'a Pool,
    repository: &'a RepositoryName,
    target: &'a RegistryRequest,
    /// What decides on the home.
    key: &'a str,
    home: &'a Arc<Member>,
    stand_in: Option<StandIn>,
}

impl<'a> Homes<'a> {
    /// `None` where the pool has no members.
    pub(super) fn of(
        pool: &'a Pool,
        repository: &'a RepositoryName,
        target: &'a RegistryRequest,
    ) -> Option<Self> {
        let key = pool.home_key(repository);
        let stand_in = pool.memory.stand_ins.of(repository);
        Some(Self { pool, repository, target, key, home: pool.home(key)?, stand_in })
    }

    /// The members to try.
    pub(super) async fn candidates(
        &self,
        needs: NeedsHome,
        quarantine: &Quarantine,
    ) -> Result<Candidates, GatewayError> {
        let view = HomeView {
            needs,
            serves: self.home.status().serves(),
            is_last_choice: self.home.is_last_choice(),
            has_stand_in: self.stand_in.is_some(),
            is_newest_at_home: self.is_newest_at_home(),
        };
        match home_plan(view) {
            HomePlan::Writer => self.writer(),
            HomePlan::TagReaders => self.readers().await,
            HomePlan::StandInFirst => {
                let first = self.stand_in.as_ref().map(|record| &record.member);
                let mut members = self.pool.candidates_from_home(self.key);
                // Stable: the others keep their order.
                members.sort_by_key(|member| Some(&member.name) != first);
                Ok(Candidates::confirmed_by_all(members))
            }
            HomePlan::HomeAlone => Ok(Candidates::only(self.home)),
            HomePlan::NewestDown => Err(GatewayError::NewestDown { member: self.home.name.clone() }),
            HomePlan::Anyone => {
                let mut members = self.pool.candidates_from_home(self.key);
                leave_out_draining(&mut members);
                if let Some(Reference::Digest(digest)) = self.target.reference() {
                    // Stable: members that have it broken are asked after the others.
                    members.sort_by_key(|member| quarantine.holds(&member.name, &digest));
                }
                Ok(Candidates::confirmed_by_all(members))
            }
        }
    }

    fn writer(&self) -> Result<Candidates, GatewayError> {
        let stand_in = self.stand_in.as_ref().map(|_| match self.usable_stand_in() {
            Some(_) => StandInState::Usable,
            None => StandInState::Out,
        });
        // A tag beyond those that are remembered of a repository has to wait for the home.
        let tag = self.tag().filter(|_| stand_in.is_some());
        let view = WriteView {
            adds: adds_content(self.target),
            stand_in,
            has_room: self.pool.memory.stand_ins.has_room(self.repository, tag),
            home_serves: self.home.status().serves(),
            is_last_choice: self.home.is_last_choice(),
            out_for: self.home.has_been_out(),
            failover_after: self.home.write_failover,
        };
        let down = || GatewayError::HomeDown { member: self.home.name.clone() };
        match writer(view) {
            Writer::Home => Ok(Candidates::only(self.home)),
            Writer::StandIn => self.usable_stand_in().map(Candidates::only).ok_or_else(down),
            Writer::Next => {
                let mut others = self.pool.others_from_home(self.key);
                leave_out_draining(&mut others);
                others.first().map(Candidates::only).ok_or_else(down)
            }
            Writer::HomeDown => Err(down()),
            Writer::HomeReturning => Err(self.returning()),
        }
    }

    /// The members to read from while the home serves. Without a tag, what a push looks for first is looked for where the
    /// push goes. A tag is read at the home, and at the home before the list of members was changed; unless another member
    /// took writes in the home's place that the home does not have yet.
    async fn readers(&self) -> Result<Candidates, GatewayError> {
        let Some(tag) = self.tag() else {
            // What a push looks for, it looks for where it goes.
            return Ok(Candidates::only(self.usable_stand_in().unwrap_or(self.home)));
        };
        let (memory, returns) = (&self.pool.memory.stand_ins, self.home.returns());
        let step = first_step(TagView {
            in_question: self.stand_in.is_some() || returns > 0,
            agreed: memory.is_agreed(self.repository, tag, returns),
            disagreed_lately: memory.disagreed_lately(self.repository, tag),
            has_stand_in: self.stand_in_member().is_some(),
        });
        let readers = match step {
            Step::Known(readers) => readers,
            Step::Ask => {
                let others = self.pool.others_from_home(self.key);
                let answers = ask_about_tag(self.home, &others, self.repository, tag).await;
                let (readers, finding) = second_step(self.words(&answers, tag));
                match finding {
                    Finding::Agree => memory.agree(self.repository, tag, returns),
                    Finding::Disagree => memory.disagree(self.repository, tag),
                    Finding::Nothing => {}
                }
                readers
            }
        };
        match readers {
            Readers::Home => Ok(self.home_and_others()),
            Readers::StandIn => self.stand_in_member().map(Candidates::only).ok_or_else(|| self.returning()),
            Readers::Unknown => Err(self.returning()),
        }
    }

    fn home_and_others(&self) -> Candidates {
        let previous = self.pool.previous_home(self.key).filter(|member| member.status().serves());
        let previous_name = previous.map(|member| &member.name);
        let mut members: Vec<_> = std::iter::once(self.home).chain(previous).cloned().collect();
        let confirmations = members.len() - 1;
        // Its word is final; but if it has none because it has just died, reads go on.
        if !self.is_newest_at_home() {
            let others = self.pool.others_from_home(self.key);
            members.extend(others.into_iter().filter(|other| Some(&other.name) != previous_name));
        }
        Candidates { members, confirmations }
    }

    fn words(&self, answers: &TagAnswers, tag: &Tag) -> TagWords {
        let home = answers.home.as_ref().ok().and_then(Option::as_ref);
        let stand_in = self.stand_in.as_ref().map(|record| {
            let answer = answers.others.iter().find(|(member, _)| member.name == record.member);
            let word = answer.map_or(Word::Silent, |(_, answer)| word(home, answer));
            StandInWord { word, took_tag: record.tags.contains(tag) }
        });
        let differs = answers.others.iter().any(|(_, answer)| word(home, answer) == Word::Other);
        let others = if differs { Word::Other } else { Word::AsHome };
        TagWords { home_answers: answers.home.is_ok(), stand_in, others }
    }

    /// Whether a tag may be newer at the home than anywhere else, because it was written there through this gateway a
    /// moment ago.
    fn is_newest_at_home(&self) -> bool {
        self.tag().is_some() && self.pool.last_written_at(self.repository).as_ref() == Some(&self.home.name)
    }

    fn tag(&self) -> Option<&'a Tag> {
        tag_of(self.target)
    }

    /// The member that took writes in the home's place, while it is a member.
    fn stand_in_member(&self) -> Option<&'a Arc<Member>> {
        self.pool.member(&self.stand_in.as_ref()?.member)
    }

    fn usable_stand_in(&self) -> Option<&'a Arc<Member>> {
        self.stand_in_member().filter(|member| member.is_usable())
    }

    fn returning(&self) -> GatewayError {
        GatewayError::HomeReturning { member: self.home.name.clone() }
    }
}

fn word(home: Option<&Digest>, answer: &TagAnswer) -> Word {
    match answer {
        Ok(digest) if is_as_at_home(home, digest.as_ref()) => Word::AsHome,
        Ok(_) => Word::Other,
        Err(_) => Word::Silent,
    }
}

/// The tag that a request is about.
fn tag_of(target: &RegistryRequest) -> Option<&Tag> {
    match target {
        RegistryRequest::Manifest { reference: Reference::Tag(tag), .. } => Some(tag),
        _ => None,
    }
}

/// A write was answered by a member: where it went counts for reads, and what another member than the home took is
/// remembered.
pub(in crate::proxy) fn note_write(request: &MemberRequest, member: &Member, status: StatusCode) {
    let Some(target) = request.registry() else { return };
    let goes_on = matches!(target, RegistryRequest::Upload { method: UploadMethod::Patch, .. });
    let Some(repository) = target.repository().filter(|_| !is_read(&request.method) && !goes_on) else {
        return;
    };
    if !status.is_success() {
        return;
    }
    let pool = &request.pool;
    pool.wrote(repository, member);
    if member.write_failover.is_none() {
        return;
    }
    let Some(home) = pool.home(pool.home_key(repository)) else { return };
    let was_out = home.has_been_out().is_some() || pool.memory.stand_ins.of(repository).is_some();
    if home.name != member.name && !was_out {
        // The list of members was changed meanwhile.
        return;
    }
    if home.name != member.name {
        pool.memory.stand_ins.note(repository, &member.name, tag_of(target));
    } else if let Some(tag) = tag_of(target) {
        // No other member has a newer one.
        pool.memory.stand_ins.agree(repository, tag, home.returns());
    }
}
