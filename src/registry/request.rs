//! The one parser of registry requests, and the canonical target rebuilt for a member.
//!
//! The path is decoded once and refused if that would matter (`%2F`, `%25`, `..`, empty segments,
//! control or non-ASCII bytes); names are matched from the right, as docker-registry's own route
//! table does. A member never sees the client's path or query, only [`RegistryRequest::member_target`].

use http::Method;

use super::access::{Actions, ResourceAccess};
use super::error::ParseError;
use super::name::{Digest, Reference, RepositoryName, UploadId};
use super::route::RouteKind;
use super::target::{Query, canonical_path, parameter, parse_query, with_query};

/// The query parameter that carries an upload pin; never sent to a member.
pub const PIN_PARAMETER: &str = "_tg";
/// Largest page of a catalog or tag list that a member is asked for.
const PAGE_ENTRIES_MAX: u32 = 1000;

/// A request of the distribution-spec, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryRequest {
    /// `GET|HEAD /v2/`.
    Ping,
    /// `GET /v2/_catalog`.
    Catalog(Page),
    /// `GET|HEAD /v2/<name>/tags/list`.
    Tags {
        /// Whose tags.
        repository: RepositoryName,
        /// Which part of the list.
        page: Page,
    },
    /// `GET|HEAD /v2/<name>/referrers/<digest>`.
    Referrers {
        /// Where to look.
        repository: RepositoryName,
        /// What is referred to.
        digest: Digest,
        /// The `artifactType` filter.
        artifact_type: Option<String>,
    },
    /// `/v2/<name>/manifests/<reference>`.
    Manifest {
        /// The repository.
        repository: RepositoryName,
        /// Tag or digest.
        reference: Reference,
        /// What to do with it.
        method: ManifestMethod,
    },
    /// `/v2/<name>/blobs/<digest>`.
    Blob {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// What to do with it.
        method: BlobMethod,
    },
    /// `POST /v2/<name>/blobs/uploads/`.
    UploadStart {
        /// The repository.
        repository: RepositoryName,
        /// Take the blob from another repository, if that can be.
        mount: Option<Mount>,
        /// The digest of a blob that is the body of this very request.
        digest: Option<Digest>,
    },
    /// `/v2/<name>/blobs/uploads/<id>`.
    Upload {
        /// The repository.
        repository: RepositoryName,
        /// The member's name of the session.
        id: UploadId,
        /// The sealed pin, as the client sent it back.
        pin: Option<String>,
        /// The member's own query parameters (`_state`), decoded.
        member_query: Vec<(String, String)>,
        /// What to do with it.
        method: UploadMethod,
    },
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// How many entries at most.
    pub n: Option<u32>,
    /// The entry after which to go on.
    pub last: Option<String>,
}

/// The source of a cross-repository mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The blob.
    pub digest: Digest,
    /// The repository that has it; `None` asks the registry to look everywhere.
    pub from: Option<RepositoryName>,
}

/// What is done to a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestMethod {
    /// Read it.
    Get,
    /// Read its headers.
    Head,
    /// Write it.
    Put,
    /// Remove it.
    Delete,
}

/// What is done to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobMethod {
    /// Read it.
    Get,
    /// Read its headers.
    Head,
    /// Remove it.
    Delete,
}

/// What is done to an upload session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadMethod {
    /// How far is it? (`GET`, `HEAD`)
    Status,
    /// Append a chunk.
    Patch,
    /// Append the body, then finish with this digest.
    Put {
        /// Digest of the whole blob.
        digest: Digest,
    },
    /// Throw it away.
    Cancel,
}

/// Whether a method only reads.
#[must_use]
pub fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

impl RegistryRequest {
    /// Parses the target of a request under `/v2/`.
    ///
    /// # Errors
    /// [`ParseError`] for everything that is not exactly one request of the distribution-spec.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, ParseError> {
        let path = canonical_path(path)?;
        let query = parse_query(query)?;
        let rest = path.strip_prefix("/v2").ok_or(ParseError::Route)?;
        let read = || is_read(method).then_some(()).ok_or(ParseError::Method);
        match rest {
            "" | "/" => read().map(|()| Self::Ping),
            "/_catalog" => {
                read()?;
                Ok(Self::Catalog(parse_page(&query)?))
            }
            _ => parse_repository_route(method, rest.strip_prefix('/').ok_or(ParseError::Route)?, query),
        }
    }

    /// The kind, for metrics and logs.
    #[must_use]
    pub fn kind(&self) -> RouteKind {
        match self {
            Self::Ping => RouteKind::Ping,
            Self::Catalog(_) => RouteKind::Catalog,
            Self::Tags { .. } => RouteKind::Tags,
            Self::Referrers { .. } => RouteKind::Referrers,
            Self::Manifest { .. } => RouteKind::Manifest,
            Self::Blob { .. } => RouteKind::Blob,
            Self::UploadStart { .. } => RouteKind::UploadStart,
            Self::Upload { .. } => RouteKind::Upload,
        }
    }

    /// The repository, where there is one.
    #[must_use]
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Ping | Self::Catalog(_) => None,
            Self::Tags { repository, .. }
            | Self::Referrers { repository, .. }
            | Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::UploadStart { repository, .. }
            | Self::Upload { repository, .. } => Some(repository),
        }
    }

    /// The tag or digest, for logs.
    #[must_use]
    pub fn reference(&self) -> Option<Reference> {
        let digest = match self {
            Self::Manifest { reference, .. } => return Some(reference.clone()),
            Self::Referrers { digest, .. } | Self::Blob { digest, .. } => digest,
            Self::Upload { method: UploadMethod::Put { digest }, .. } => digest,
            Self::UploadStart { digest: Some(digest), .. } => digest,
            Self::UploadStart { mount: Some(mount), .. } => &mount.digest,
            Self::Ping
            | Self::Catalog(_)
            | Self::Tags { .. }
            | Self::UploadStart { .. }
            | Self::Upload { .. } => return None,
        };
        Some(Reference::Digest(digest.clone()))
    }

    /// The access without which the request is refused. A mount's source is not part of it: a
    /// mount that may not be is turned into a plain upload (see [`Self::challenge_access`]).
    #[must_use]
    pub fn required_access(&self) -> Option<ResourceAccess> {
        let on = |repository: &RepositoryName, actions| {
            Some(ResourceAccess::repository(repository.clone(), actions))
        };
        match self {
            Self::Ping => None,
            Self::Catalog(_) => Some(ResourceAccess::catalog()),
            Self::Tags { repository, .. } | Self::Referrers { repository, .. } => {
                on(repository, Actions::PULL)
            }
            Self::Manifest { repository, method, .. } => match method {
                ManifestMethod::Get | ManifestMethod::Head => on(repository, Actions::PULL),
                ManifestMethod::Put => on(repository, Actions::PULL_PUSH),
                ManifestMethod::Delete => on(repository, Actions::DELETE),
            },
            Self::Blob { repository, method, .. } => match method {
                BlobMethod::Get | BlobMethod::Head => on(repository, Actions::PULL),
                BlobMethod::Delete => on(repository, Actions::DELETE),
            },
            Self::UploadStart { repository, .. } | Self::Upload { repository, .. } => {
                on(repository, Actions::PULL_PUSH)
            }
        }
    }

    /// What a challenge asks for: the required access and, for a mount, reading its source.
    #[must_use]
    pub fn challenge_access(&self) -> Vec<ResourceAccess> {
        let source = self.mount_source().map(|from| ResourceAccess::repository(from.clone(), Actions::PULL));
        self.required_access().into_iter().chain(source).collect()
    }

    /// The repository that a mount reads from.
    #[must_use]
    pub fn mount_source(&self) -> Option<&RepositoryName> {
        match self {
            Self::UploadStart { mount: Some(mount), .. } => mount.from.as_ref(),
            _ => None,
        }
    }

    /// The same request without its mount: a plain upload start.
    #[must_use]
    pub fn without_mount(self) -> Self {
        match self {
            Self::UploadStart { repository, digest, .. } => {
                Self::UploadStart { repository, mount: None, digest }
            }
            other => other,
        }
    }

    /// The same list, another page of it; every other request as it is.
    #[must_use]
    pub fn with_page(&self, page: Page) -> Self {
        match self {
            Self::Catalog(_) => Self::Catalog(page),
            Self::Tags { repository, .. } => Self::Tags { repository: repository.clone(), page },
            other => other.clone(),
        }
    }

    /// The path and query for a member, rebuilt from the parsed values alone.
    #[must_use]
    pub fn member_target(&self) -> String {
        match self {
            Self::Ping => "/v2/".to_owned(),
            Self::Catalog(page) => with_query("/v2/_catalog".to_owned(), &page_parameters(page)),
            Self::Tags { repository, page } => {
                with_query(format!("/v2/{repository}/tags/list"), &page_parameters(page))
            }
            Self::Referrers { repository, digest, artifact_type } => {
                let filter: Vec<_> =
                    artifact_type.iter().map(|value| ("artifactType", value.as_str())).collect();
                with_query(format!("/v2/{repository}/referrers/{digest}"), &filter)
            }
            Self::Manifest { repository, reference, .. } => format!("/v2/{repository}/manifests/{reference}"),
            Self::Blob { repository, digest, .. } => format!("/v2/{repository}/blobs/{digest}"),
            Self::UploadStart { repository, mount, digest } => {
                let mut parameters = Vec::new();
                if let Some(mount) = mount {
                    parameters.push(("mount", mount.digest.as_str()));
                    parameters.extend(mount.from.iter().map(|from| ("from", from.as_str())));
                }
                parameters.extend(digest.iter().map(|digest| ("digest", digest.as_str())));
                with_query(format!("/v2/{repository}/blobs/uploads/"), &parameters)
            }
            Self::Upload { repository, id, member_query, method, .. } => {
                let mut parameters: Vec<(&str, &str)> =
                    member_query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                if let UploadMethod::Put { digest } = method {
                    parameters.push(("digest", digest.as_str()));
                }
                with_query(format!("/v2/{repository}/blobs/uploads/{id}"), &parameters)
            }
        }
    }
}

fn page_parameters(page: &Page) -> Vec<(&'static str, &str)> {
    page.n
        .map(page_size_word)
        .into_iter()
        .map(|word| ("n", word))
        .chain(page.last.iter().map(|last| ("last", last.as_str())))
        .collect()
}

/// Decimal text of a page size, which is at most [`PAGE_ENTRIES_MAX`].
fn page_size_word(n: u32) -> &'static str {
    static WORDS: std::sync::LazyLock<Vec<String>> =
        std::sync::LazyLock::new(|| (0..=PAGE_ENTRIES_MAX).map(|n| n.to_string()).collect());
    &WORDS[n.min(PAGE_ENTRIES_MAX) as usize]
}

fn parse_page(query: &Query<'_>) -> Result<Page, ParseError> {
    let n = match parameter(query, "n") {
        None | Some("") => None,
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(text.parse::<u32>().unwrap_or(PAGE_ENTRIES_MAX).min(PAGE_ENTRIES_MAX))
        }
        Some(_) => return Err(ParseError::PageSize),
    };
    let last = parameter(query, "last").filter(|last| !last.is_empty()).map(str::to_owned);
    Ok(Page { n, last })
}

/// Routes below a repository, matched from the right: names may hold any of the route words.
fn parse_repository_route(
    method: &Method,
    rest: &str,
    query: Query<'_>,
) -> Result<RegistryRequest, ParseError> {
    if let Some(name) = rest.strip_suffix("/tags/list") {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(ParseError::Method);
        }
        return Ok(RegistryRequest::Tags {
            repository: RepositoryName::try_from(name)?,
            page: parse_page(&query)?,
        });
    }
    if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        return parse_upload_start(method, name, &query);
    }
    let (head, last) = rest.rsplit_once('/').ok_or(ParseError::Route)?;
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        return parse_upload(method, name, last, query);
    }
    if let Some(name) = head.strip_suffix("/manifests") {
        let method = match *method {
            Method::GET => ManifestMethod::Get,
            Method::HEAD => ManifestMethod::Head,
            Method::PUT => ManifestMethod::Put,
            Method::DELETE => ManifestMethod::Delete,
            _ => return Err(ParseError::Method),
        };
        let repository = RepositoryName::try_from(name)?;
        return Ok(RegistryRequest::Manifest { repository, reference: Reference::try_from(last)?, method });
    }
    if let Some(name) = head.strip_suffix("/blobs") {
        let method = match *method {
            Method::GET => BlobMethod::Get,
            Method::HEAD => BlobMethod::Head,
            Method::DELETE => BlobMethod::Delete,
            _ => return Err(ParseError::Method),
        };
        let repository = RepositoryName::try_from(name)?;
        return Ok(RegistryRequest::Blob { repository, digest: Digest::try_from(last)?, method });
    }
    if let Some(name) = head.strip_suffix("/referrers") {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(ParseError::Method);
        }
        let artifact_type = parameter(&query, "artifactType").map(str::to_owned);
        let repository = RepositoryName::try_from(name)?;
        return Ok(RegistryRequest::Referrers { repository, digest: Digest::try_from(last)?, artifact_type });
    }
    Err(ParseError::Route)
}

fn parse_upload_start(method: &Method, name: &str, query: &Query<'_>) -> Result<RegistryRequest, ParseError> {
    if *method != Method::POST {
        return Err(ParseError::Method);
    }
    let repository = RepositoryName::try_from(name)?;
    let from = parameter(query, "from").map(RepositoryName::try_from).transpose()?;
    let mount = parameter(query, "mount").map(Digest::try_from).transpose()?;
    let digest = parameter(query, "digest").map(Digest::try_from).transpose()?;
    Ok(RegistryRequest::UploadStart { repository, mount: mount.map(|digest| Mount { digest, from }), digest })
}

fn parse_upload(
    method: &Method,
    name: &str,
    id: &str,
    query: Query<'_>,
) -> Result<RegistryRequest, ParseError> {
    let repository = RepositoryName::try_from(name)?;
    let id = UploadId::try_from(id)?;
    let digest = parameter(&query, "digest").map(Digest::try_from).transpose()?;
    let method = match *method {
        Method::GET | Method::HEAD => UploadMethod::Status,
        Method::PATCH => UploadMethod::Patch,
        Method::PUT => UploadMethod::Put { digest: digest.ok_or(ParseError::DigestMissing)? },
        Method::DELETE => UploadMethod::Cancel,
        _ => return Err(ParseError::Method),
    };
    let pin = parameter(&query, PIN_PARAMETER).map(str::to_owned);
    let member_query = query
        .into_iter()
        .filter(|(key, _)| !matches!(key.as_ref(), PIN_PARAMETER | "digest" | "ns" | "mount" | "from"))
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect();
    Ok(RegistryRequest::Upload { repository, id, pin, member_query, method })
}

#[cfg(test)]
mod tests;
