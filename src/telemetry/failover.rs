//! Metrics of what is done so that failures stay unseen: retries, resumes, confirmations,
//! verification, ejections, queues.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::make::Maker;

/// Which way content went that was not what its digest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFault {
    /// A member sent it.
    Download,
    /// A member acknowledged it.
    Upload,
}

/// Why content went by unverified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverified {
    /// Only a part of it was asked for.
    Range,
    /// Its digest has an algorithm that is not known here, or none was said.
    Algorithm,
    /// The member encoded it although it was asked not to.
    Encoding,
    /// A manifest of schema 1, whose digest is not that of its bytes.
    Schema1,
    /// An upload whose earlier parts did not go through this gateway, or were cut off.
    Parts,
}

impl Unverified {
    const ALL: [Self; 5] = [Self::Range, Self::Algorithm, Self::Encoding, Self::Schema1, Self::Parts];

    fn as_str(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Algorithm => "algorithm",
            Self::Encoding => "encoding",
            Self::Schema1 => "schema1",
            Self::Parts => "parts",
        }
    }
}

/// The families, labelled by pool and member.
#[derive(Debug)]
pub(super) struct FailoverMetrics {
    retries: IntCounterVec,
    budget: IntGaugeVec,
    account_refused: IntGaugeVec,
    resumes: IntCounterVec,
    resumed_bytes: IntCounterVec,
    reclaims: IntCounterVec,
    confirmations: IntCounterVec,
    coalesced: IntCounterVec,
    faults: IntCounterVec,
    ejections: IntCounterVec,
    queued: HistogramVec,
    unverified: [IntCounter; Unverified::ALL.len()],
}

/// The handles of one pool.
#[derive(Debug)]
pub struct PoolMetrics {
    /// Requests that were made again at another member.
    pub retries: IntCounter,
    /// Requests that were not, because the budget was spent.
    pub retries_refused: IntCounter,
    /// What is left of the budget, in whole retries.
    pub budget_left: IntGauge,
    /// 1 while every node of the pool refuses the account of the probes.
    pub account_refused: IntGauge,
    /// Answers that went on from another member.
    pub resumes: IntCounter,
    /// Answers that broke off, because no other member could go on.
    pub resumes_failed: IntCounter,
    /// Bytes that came from another member than the first.
    pub resumed_bytes: IntCounter,
    /// Answers whose connection was given to a client that waited.
    pub reclaims: IntCounter,
    /// 404s of a member that another one did not confirm.
    pub found_elsewhere: IntCounter,
    /// 404s that were confirmed.
    pub confirmed_missing: IntCounter,
    /// Requests that were answered with what another one got.
    pub coalesced: IntCounter,
}

/// The handles of one member.
#[derive(Debug)]
pub(super) struct MemberFailover {
    pub(super) ejections: IntCounter,
    pub(super) queued: Histogram,
    pub(super) faults: [IntCounter; 2],
}

impl FailoverMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let unverified = make.counters(
            "tidegate_unverified_content_total",
            "Content that went by without its digest being checked, by reason",
            &["reason"],
        )?;
        Ok(Self {
            retries: make.counters(
                "tidegate_retries_total",
                "Requests made again at another member, and those that were not because the budget was spent",
                &["pool", "result"],
            )?,
            budget: make.gauges(
                "tidegate_retry_budget_left",
                "Retries that the budget of a pool allows now",
                &["pool"],
            )?,
            account_refused: make.gauges(
                "tidegate_pool_account_refused",
                "1 while every Harbor node of a pool is well and refuses the account of the probes",
                &["pool"],
            )?,
            resumes: make.counters(
                "tidegate_resumes_total",
                "Answers that broke in the middle, by whether another member went on",
                &["pool", "result"],
            )?,
            resumed_bytes: make.counters(
                "tidegate_resumed_bytes_total",
                "Bytes of answers that came from another member than the first",
                &["pool"],
            )?,
            reclaims: make.counters(
                "tidegate_reclaims_total",
                "Answers whose connection was given to a client that waited, because theirs held more than its share",
                &["pool"],
            )?,
            confirmations: make.counters(
                "tidegate_confirmations_total",
                "404s of a member about which another one was asked, by what that one said",
                &["pool", "result"],
            )?,
            coalesced: make.counters(
                "tidegate_coalesced_requests_total",
                "Requests that were answered with what another request for the same got",
                &["pool"],
            )?,
            faults: make.counters(
                "tidegate_content_faults_total",
                "Content of a member that is not what its digest says, by direction",
                &["pool", "member", "direction"],
            )?,
            ejections: make.counters(
                "tidegate_member_ejections_total",
                "Times that failed requests took a member out",
                &["pool", "member"],
            )?,
            queued: make.histograms(
                "tidegate_queue_seconds",
                "Time that requests waited for a connection to a member",
                &["pool", "member"],
            )?,
            unverified: Unverified::ALL.map(|reason| unverified.with_label_values(&[reason.as_str()])),
        })
    }

    pub(super) fn pool(&self, pool: &str) -> PoolMetrics {
        let of = |counters: &IntCounterVec, result: &str| counters.with_label_values(&[pool, result]);
        PoolMetrics {
            retries: of(&self.retries, "made"),
            retries_refused: of(&self.retries, "refused"),
            budget_left: self.budget.with_label_values(&[pool]),
            account_refused: self.account_refused.with_label_values(&[pool]),
            resumes: of(&self.resumes, "resumed"),
            resumes_failed: of(&self.resumes, "failed"),
            resumed_bytes: self.resumed_bytes.with_label_values(&[pool]),
            reclaims: self.reclaims.with_label_values(&[pool]),
            found_elsewhere: of(&self.confirmations, "found"),
            confirmed_missing: of(&self.confirmations, "missing"),
            coalesced: self.coalesced.with_label_values(&[pool]),
        }
    }

    pub(super) fn member(&self, pool: &str, member: &str) -> MemberFailover {
        let fault = |direction| self.faults.with_label_values(&[pool, member, direction]);
        MemberFailover {
            ejections: self.ejections.with_label_values(&[pool, member]),
            queued: self.queued.with_label_values(&[pool, member]),
            faults: [fault("download"), fault("upload")],
        }
    }

    pub(super) fn count_unverified(&self, reason: Unverified) {
        self.unverified[reason as usize].inc();
    }
}
