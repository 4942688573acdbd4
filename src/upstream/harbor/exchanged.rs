//! The tokens of one node that are still good, each fetched once for all requests that need it.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::secret::Fingerprint;
use super::token::NodeToken;
use crate::auth::subject::Subject;
use crate::random::unix_now;
use crate::upstream::credential::CredentialError;

/// A token is renewed this long before its end, or after three quarters of a short life.
const RENEW_BEFORE: u64 = 60;

/// Whose, with which password, and what for: in Harbor 2.x rights are the project's, and a token for
/// one of its repositories opens them all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub subject: Subject,
    pub password: Option<Fingerprint>,
    pub scopes: String,
}

/// The node's tokens that are still good, one request in flight for each.
#[derive(Debug)]
pub(super) struct Exchanged {
    tokens: Cache<TokenKey, Held>,
    fetches: Semaphore,
}

/// Tokens that are fetched from one node at once; a node signs some hundred a second.
const FETCHES_MAX: usize = 32;

/// Why there is no token, and whether the time of the request that asked was over.
#[derive(Debug)]
struct NotFetched {
    error: CredentialError,
    late: bool,
}

#[derive(Debug, Clone)]
struct Held {
    authorization: HeaderValue,
    /// By our own clock; the node's may differ.
    until: u64,
}

impl Exchanged {
    pub(super) fn new(entries_max: u64) -> Self {
        Self { tokens: Cache::new(entries_max), fetches: Semaphore::new(FETCHES_MAX) }
    }

    /// The token of this key, fetched where there is none that is still good.
    pub(super) async fn token<'a>(
        &'a self,
        key: &TokenKey,
        deadline: Instant,
        fetch: &(dyn Fn() -> Fetching<'a, NodeToken> + Send + Sync),
    ) -> Result<HeaderValue, CredentialError> {
        let now = unix_now();
        if let Some(held) = self.tokens.get(key).await {
            if held.until > now {
                return Ok(held.authorization);
            }
            self.tokens.invalidate(key).await;
        }
        // Rare, and large: kept off the future of every request.
        let hold = || -> Fetching<'a, Held> {
            let fetching = fetch();
            Box::pin(async move {
                // As many as fit; the rest waits within its time.
                let _permit = timeout_at(deadline, self.fetches.acquire()).await;
                fetching.await.map(|token| Held::new(token, now))
            })
        };
        let held = Box::pin(once(&self.tokens, key, deadline, &hold)).await;
        held.map(|held| held.authorization)
    }

    /// Forgets the token of this key.
    pub(super) async fn forget(&self, key: &TokenKey) {
        self.tokens.invalidate(key).await;
    }
}

impl Held {
    fn new(token: NodeToken, now: u64) -> Self {
        let life = token.expires_at.saturating_sub(token.issued_at);
        let until = now.saturating_add(life.saturating_sub(RENEW_BEFORE.min(life / 4)));
        Self { authorization: token.authorization, until }
    }
}

/// A question for a token that is under way.
pub(super) type Fetching<'a, V> = Pin<Box<dyn Future<Output = Result<V, CredentialError>> + Send + 'a>>;

/// Asks once for all requests that want the same, each of which waits within its own time: no longer than until
/// its own deadline, and not only until another's. `fetch` ends by `deadline` of itself.
async fn once<'a, K, V>(
    cache: &Cache<K, V>,
    key: &K,
    deadline: Instant,
    fetch: &(dyn Fn() -> Fetching<'a, V> + Send + Sync),
) -> Result<V, CredentialError>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    loop {
        let asks = AtomicBool::new(false);
        let asking = cache.try_get_with(key.clone(), async {
            asks.store(true, Ordering::Relaxed);
            let fetched = fetch().await;
            let late = Instant::now() >= deadline;
            fetched.map_err(|error| NotFetched { error, late })
        });
        tokio::pin!(asking);
        let fetched = match timeout_at(deadline, &mut asking).await {
            Ok(fetched) => fetched,
            // Its own question has its own deadline, and says what was wrong.
            Err(_) if asks.load(Ordering::Relaxed) => asking.await,
            Err(_) => {
                let reason = "another request has asked for the same token and has no answer yet";
                return Err(CredentialError::NotNow(reason.to_owned()));
            }
        };
        match fetched {
            Ok(fetched) => return Ok(fetched),
            // The other had no more time; this one has.
            Err(failed) if failed.late && Instant::now() < deadline => {}
            Err(failed) => return Err(failed.error.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    /// A token service that answers from `answers_at` on, and what asks it.
    struct Service {
        tokens: Cache<&'static str, usize>,
        asked: AtomicUsize,
        answers_at: Instant,
    }

    impl Service {
        async fn token(self: Arc<Self>, deadline: Instant) -> (Result<usize, CredentialError>, Duration) {
            let begun = Instant::now();
            let service = &*self;
            let fetch = || -> Fetching<'_, usize> {
                Box::pin(async move {
                    let number = service.asked.fetch_add(1, Ordering::SeqCst);
                    let silent = || CredentialError::Member("no answer in time".to_owned());
                    let answer = tokio::time::sleep_until(service.answers_at);
                    timeout_at(deadline, answer).await.map(|()| number).map_err(|_| silent())
                })
            };
            (once(&service.tokens, &"key", deadline, &fetch).await, begun.elapsed())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_anothers_question_waits_by_its_own_deadline() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let service = |answers_after: u32| {
            let (tokens, asked) = (Cache::new(10), AtomicUsize::new(0));
            Arc::new(Service { tokens, asked, answers_at: now + second * answers_after })
        };
        // The first has 30 s, the second 5 s: the second does not wait for the first.
        let slow = service(20);
        let first = Arc::clone(&slow).token(now + second * 30);
        let second_one = Arc::clone(&slow).token(now + second * 5);
        let (first, (short, waited)) = tokio::join!(first, second_one);
        assert_eq!(first.0.ok(), Some(0));
        assert!(matches!(short, Err(CredentialError::NotNow(_))), "{short:?}");
        assert_eq!(waited.as_secs(), 5);
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1, "one question for both");
        // The first has 5 s, the second 30 s: the second asks again when the first has given up.
        let slow = service(40);
        let first = Arc::clone(&slow).token(Instant::now() + second * 5);
        let second_one = Arc::clone(&slow).token(Instant::now() + second * 30);
        let (first, (long, _)) = tokio::join!(first, second_one);
        assert!(matches!(first.0, Err(CredentialError::Member(_))), "{:?}", first.0);
        assert_eq!(long.ok(), Some(1));
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
    }
}
