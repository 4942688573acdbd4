//! The upload pin: which member holds a session, sealed into the session's `Location`.
//!
//! The pin is bound to the host group and repository by the seal's additional data, and to the
//! member, upload id, subject and absolute deadline by its content. The deadline is set when the
//! session starts and never moves.

use crate::auth::keys::Ring;
use crate::auth::seal::{self, Purpose, SealKey};
use crate::auth::subject::Subject;
use crate::registry::{RepositoryName, UploadId};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;

/// The bond of an upload session to its member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Name of the member that holds the session.
    pub member: String,
    /// The member's name of the session.
    pub upload: UploadId,
    /// Who opened it.
    pub subject: Subject,
    /// When the session ends at the latest, in seconds since the epoch.
    pub deadline: u64,
    /// How many bytes the member had when it last said so; `None` where it did not. Whoever hashes
    /// the session knows by this whether it has seen them all.
    pub offset: Option<u64>,
}

/// Stands for an unknown offset in a sealed pin.
const OFFSET_UNKNOWN: u64 = u64::MAX;

/// Where a pin is valid.
#[derive(Debug, Clone, Copy)]
pub struct PinContext<'a> {
    /// The primary name of the host group.
    pub host: &'a str,
    /// The repository of the session.
    pub repository: &'a RepositoryName,
}

/// Why a pin is refused. All but `Expired` are answered alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// None came with the request.
    #[error("the upload URL carries no pin")]
    Missing,
    /// Changed, of another key, repository or host group.
    #[error("the upload pin is broken or belongs to another repository")]
    Broken,
    /// For another session than the one in the path.
    #[error("the upload pin belongs to another upload session")]
    OtherUpload,
    /// Of another subject.
    #[error("the upload session was opened by somebody else")]
    OtherSubject,
    /// The session's time is over.
    #[error("the upload session is older than uploads.grace allows")]
    Expired,
}

impl Pin {
    /// Seals the pin for its place. `None` only where there is no seal key.
    #[must_use]
    pub fn seal(
        &self,
        ring: &Ring<SealKey>,
        context: PinContext<'_>,
        now: u64,
        nonce: [u8; NONCE_BYTES],
    ) -> Option<String> {
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(&self.deadline.to_be_bytes());
        text.extend_from_slice(&self.offset.unwrap_or(OFFSET_UNKNOWN).to_be_bytes());
        for part in [&self.member, self.upload.as_str(), self.subject.provider(), self.subject.name()] {
            let length = u16::try_from(part.len()).ok()?;
            text.extend_from_slice(&length.to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        seal::seal(ring, Purpose::UploadPin, &context.parts(), &text, now, nonce)
    }

    /// Opens a pin and checks that it is for this session, and not over.
    ///
    /// # Errors
    /// [`PinError`]; the subject is checked apart, by [`Pin::check_subject`].
    pub fn open(
        ring: &Ring<SealKey>,
        context: PinContext<'_>,
        sealed: Option<&str>,
        upload: &UploadId,
        now: u64,
    ) -> Result<Self, PinError> {
        let sealed = sealed.ok_or(PinError::Missing)?;
        let text = seal::open(ring, Purpose::UploadPin, &context.parts(), sealed, now)
            .map_err(|_| PinError::Broken)?;
        let pin = Self::decode(&text).ok_or(PinError::Broken)?;
        if pin.upload != *upload {
            return Err(PinError::OtherUpload);
        }
        if pin.deadline <= now {
            return Err(PinError::Expired);
        }
        Ok(pin)
    }

    /// Whether the session is this subject's.
    ///
    /// # Errors
    /// [`PinError::OtherSubject`].
    pub fn check_subject(&self, subject: &Subject) -> Result<(), PinError> {
        if self.subject == *subject { Ok(()) } else { Err(PinError::OtherSubject) }
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let (deadline, rest) = text.split_at_checked(8)?;
        let deadline = u64::from_be_bytes(deadline.try_into().ok()?);
        let (offset, mut rest) = rest.split_at_checked(8)?;
        let offset = Some(u64::from_be_bytes(offset.try_into().ok()?));
        let offset = offset.filter(|offset| *offset != OFFSET_UNKNOWN);
        let mut next = || {
            let (length, after) = rest.split_at_checked(2)?;
            let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
            let (part, after) = after.split_at_checked(length)?;
            rest = after;
            std::str::from_utf8(part).ok()
        };
        let (member, upload, provider, name) = (next()?, next()?, next()?, next()?);
        let subject = if provider == crate::auth::subject::ANONYMOUS_PROVIDER {
            Subject::anonymous()
        } else {
            Subject::new(provider, name).ok()?
        };
        let upload = UploadId::try_from(upload).ok()?;
        Some(Self { member: member.to_owned(), upload, subject, deadline, offset })
    }
}

impl<'a> PinContext<'a> {
    fn parts(self) -> [&'a [u8]; 2] {
        [self.host.as_bytes(), self.repository.as_str().as_bytes()]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::keys::RingEntry;

    #[test]
    fn a_pin_opens_only_for_its_session_subject_and_time() {
        let entry = RingEntry { key: Arc::new(SealKey::new(&[1; 32])), activate_at: 0 };
        let ring = Ring::new(vec![entry], 10);
        let repository = RepositoryName::try_from("a/b").expect("a name");
        let other = RepositoryName::try_from("a/c").expect("a name");
        let upload = UploadId::try_from("u-1").expect("an id");
        let other_upload = UploadId::try_from("u-2").expect("an id");
        let context = PinContext { host: "hub", repository: &repository };
        for subject in [Subject::new("users", "eve").expect("a name"), Subject::anonymous()] {
            let pin = Pin {
                member: "node1".to_owned(),
                upload: upload.clone(),
                subject: subject.clone(),
                deadline: 100,
                offset: if subject.name() == "eve" { Some(7) } else { None },
            };
            let sealed = pin.seal(&ring, context, 0, [9; 12]).expect("a key");
            let open = |context, sealed, upload, now| Pin::open(&ring, context, sealed, upload, now);
            assert_eq!(open(context, Some(&sealed), &upload, 99), Ok(pin.clone()));
            assert_eq!(open(context, Some(&sealed), &upload, 100), Err(PinError::Expired));
            assert_eq!(open(context, None, &upload, 0), Err(PinError::Missing));
            assert_eq!(open(context, Some(&sealed), &other_upload, 0), Err(PinError::OtherUpload));
            assert_eq!(
                open(PinContext { repository: &other, ..context }, Some(&sealed), &upload, 0),
                Err(PinError::Broken)
            );
            assert_eq!(
                open(PinContext { host: "else", ..context }, Some(&sealed), &upload, 0),
                Err(PinError::Broken)
            );
            assert_eq!(pin.check_subject(&subject), Ok(()));
            let adam = Subject::new("users", "adam").expect("a name");
            assert_eq!(pin.check_subject(&adam), Err(PinError::OtherSubject));
        }
    }
}
