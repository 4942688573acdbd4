//! Whose word on a tag counts, where members copy each other, late. Pure: what is known and what members say in, a
//! decision out.
//!
//! With `write_failover` the next member of the repository's own order takes the writes of a home that has been out for
//! so long. When the home is back, its word on a tag counts only once it agrees with what the others have: a tag that was
//! moved meanwhile must not move back.

/// What is known of a tag before any member is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct TagView {
    /// Whether the home has been out, or another member took writes in its place.
    pub in_question: bool,
    /// Whether home and others are known to agree since the home's last return.
    pub agreed: bool,
    /// Whether they did not a moment ago.
    pub disagreed_lately: bool,
    /// Whether the member is still there that took writes in the home's place.
    pub has_stand_in: bool,
}

/// Whose word on a tag counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    /// The home's, as long as it was never out.
    Home,
    /// That of the member that took the writes.
    StandIn,
    /// No member's.
    Unknown,
}

/// What comes before an answer about a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is known whose word counts.
    Known(Readers),
    /// Home and others are asked.
    Ask,
}

/// Whether the members have to be asked about a tag first.
pub(super) fn first_step(view: TagView) -> Step {
    match view {
        TagView { in_question: false, .. } | TagView { agreed: true, .. } => Step::Known(Readers::Home),
        TagView { disagreed_lately: true, has_stand_in: true, .. } => Step::Known(Readers::StandIn),
        TagView { disagreed_lately: true, has_stand_in: false, .. } => Step::Known(Readers::Unknown),
        TagView { .. } => Step::Ask,
    }
}

/// What a member says of a tag, beside what the home says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The same as the home, or no such tag.
    AsHome,
    /// Another digest than the home.
    Other,
    /// Nothing: it does not answer, or is not there.
    Silent,
}

/// What the members have said of a tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct TagWords {
    /// Whether the home has answered.
    pub home_answers: bool,
    /// The member that took writes in its place; `None` where none did, as far as this gateway knows.
    pub stand_in: Option<StandInWord>,
    /// All others together.
    pub others: Word,
}

/// What the member says that took writes in the home's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct StandInWord {
    pub word: Word,
    /// Whether it took this very tag.
    pub took_tag: bool,
}

/// What is remembered of the members' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    Agree,
    Disagree,
    Nothing,
}

/// Whose word on a tag counts, after members were asked, and what is remembered of it.
pub(super) fn second_step(words: TagWords) -> (Readers, Finding) {
    if !words.home_answers {
        return (Readers::Unknown, Finding::Nothing);
    }
    match words.stand_in {
        // Whether another member took it, and which, another gateway knows.
        None if words.others == Word::Other => (Readers::Unknown, Finding::Disagree),
        None => (Readers::Home, Finding::Agree),
        Some(StandInWord { word: Word::AsHome, .. }) => (Readers::Home, Finding::Agree),
        Some(StandInWord { word: Word::Other, .. }) => (Readers::StandIn, Finding::Disagree),
        // It is out, and what it took is nowhere else for sure.
        Some(StandInWord { word: Word::Silent, took_tag: true }) => (Readers::Unknown, Finding::Nothing),
        Some(StandInWord { word: Word::Silent, took_tag: false }) => (Readers::Home, Finding::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_asked_only_where_the_home_may_lack_a_tag() {
        let known = Step::Known;
        for (in_question, agreed, disagreed_lately, has_stand_in, expected) in [
            (false, false, true, true, known(Readers::Home)),
            (true, true, true, true, known(Readers::Home)),
            (true, false, true, true, known(Readers::StandIn)),
            (true, false, true, false, known(Readers::Unknown)),
            (true, false, false, true, Step::Ask),
            (true, false, false, false, Step::Ask),
        ] {
            let view = TagView { in_question, agreed, disagreed_lately, has_stand_in };
            assert_eq!(first_step(view), expected, "{view:?}");
        }
    }

    #[test]
    fn a_tag_that_was_moved_meanwhile_does_not_move_back() {
        use Finding::{Agree, Disagree, Nothing};
        use Word::{AsHome, Other, Silent};
        let took = |word, took_tag| Some(StandInWord { word, took_tag });
        for (home_answers, stand_in, others, expected) in [
            (false, None, AsHome, (Readers::Unknown, Nothing)),
            (false, took(AsHome, true), AsHome, (Readers::Unknown, Nothing)),
            (true, None, AsHome, (Readers::Home, Agree)),
            (true, None, Silent, (Readers::Home, Agree)),
            (true, None, Other, (Readers::Unknown, Disagree)),
            (true, took(AsHome, true), Other, (Readers::Home, Agree)),
            (true, took(Other, true), AsHome, (Readers::StandIn, Disagree)),
            (true, took(Other, false), AsHome, (Readers::StandIn, Disagree)),
            (true, took(Silent, true), AsHome, (Readers::Unknown, Nothing)),
            (true, took(Silent, false), AsHome, (Readers::Home, Nothing)),
        ] {
            let words = TagWords { home_answers, stand_in, others };
            assert_eq!(second_step(words), expected, "{words:?}");
        }
    }
}
