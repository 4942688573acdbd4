//! Drain: a member gets no new work while what runs there, its upload sessions included, goes on to
//! its end. Probes go on as well.

use std::sync::Arc;

use super::Pool;
use super::pools::Pools;
use crate::upstream::member::Member;
use crate::upstream::name::{MemberName, PoolName};

/// Why a member is not drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no such member.
    #[error("there is no member {name:?}; the members are {members}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Every name there is.
        members: String,
    },
    /// No other member could do its work.
    #[error(
        "{member} is the last member of pool {pool} that serves and is not draining: nobody could take over its work. \
         Bring another one back first, or use --force"
    )]
    Last {
        /// The member.
        member: MemberName,
        /// Its pool.
        pool: PoolName,
    },
}

impl Pool {
    /// Whether another member than `member` takes new work.
    fn can_spare(&self, member: &Member) -> bool {
        self.members.iter().any(|other| {
            let can_stand_in = member.harbor.is_none() || other.harbor.is_some();
            other.name != member.name && can_stand_in && other.status().serves() && !other.is_draining()
        })
    }
}

impl Pools {
    /// Begins to drain a member.
    ///
    /// # Errors
    /// [`DrainError`]; `force` is for the last member of a pool.
    pub fn drain(&self, name: &str, force: bool) -> Result<&Arc<Member>, DrainError> {
        let (pool, member) = self.named(name)?;
        let spare = pool.can_spare(member);
        if !force && !spare && !member.is_draining() && member.status().serves() {
            return Err(DrainError::Last { member: member.name.clone(), pool: member.pool.clone() });
        }
        member.set_draining(true);
        Ok(member)
    }

    /// Ends the drain of a member.
    ///
    /// # Errors
    /// [`DrainError`] when there is no such member.
    pub fn undrain(&self, name: &str) -> Result<&Arc<Member>, DrainError> {
        let (_, member) = self.named(name)?;
        member.set_draining(false);
        Ok(member)
    }

    /// A member of this name, or an error that lists all names.
    ///
    /// # Errors
    /// [`DrainError`] when there is no such member.
    pub fn named(&self, name: &str) -> Result<(&Arc<Pool>, &Arc<Member>), DrainError> {
        let placed = self.member(name).filter(|placed| !placed.retired);
        placed.map(|placed| (placed.pool, placed.member)).ok_or_else(|| {
            let members: Vec<&str> = self.members().map(|member| member.name.as_str()).collect();
            DrainError::Unknown { name: name.to_owned(), members: members.join(", ") }
        })
    }
}
