//! What a failed first question means: network, TLS, or http and https mixed up. Pure.

use http::StatusCode;
use rustls::{AlertDescription, CertificateError};

use super::facts::origin;
use super::finding::{Code, Finding};
use crate::upstream::{QuestionError, Reply};

/// What a port speaks, found by trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http,
    Tls,
    Neither,
}

const OUT: &str =
    "the member takes no part; its pool serves with the others, or answers 504 when it is the last";

/// The words of servers that were spoken to in plain HTTP where they wanted TLS: Go, nginx, Apache.
const WANTS_TLS: [&str; 3] = [
    "client sent an http request to an https server",
    "plain http request was sent to https port",
    "speaking plain http to an ssl-enabled server port",
];

/// Whether it is worth trying the other protocol.
pub(super) fn may_be_mixed_up(failure: &QuestionError) -> bool {
    match failure {
        // A certificate or an alert is TLS already.
        QuestionError::Tls(error) => {
            !matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
        }
        QuestionError::TlsBroken(_)
        | QuestionError::TlsTimeout
        | QuestionError::NotHttp(_)
        | QuestionError::Silent => true,
        QuestionError::Lookup(_)
        | QuestionError::Refused
        | QuestionError::Connect(_)
        | QuestionError::ConnectTimeout => false,
    }
}

/// Whether an answer to plain HTTP says that TLS is wanted.
pub(super) fn says_wants_tls(status: StatusCode, body: &[u8], location: Option<&str>) -> bool {
    let body = String::from_utf8_lossy(&body[..body.len().min(2048)]).to_lowercase();
    (status == StatusCode::BAD_REQUEST && WANTS_TLS.iter().any(|words| body.contains(words)))
        || (status.is_redirection()
            && location.is_some_and(|to| to.to_ascii_lowercase().starts_with("https://")))
}

/// Whether an answer to plain HTTP means that the member wants TLS.
pub(super) fn judge_plain(url: &str, answer: &Reply) -> Option<Finding> {
    let location = answer.header("location");
    if !says_wants_tls(answer.status, &answer.body, location) {
        return None;
    }
    let Some(to) = location.filter(|_| answer.status.is_redirection()).and_then(origin) else {
        return Some(speaks_tls(url));
    };
    Some(Finding::error(
        Code::SpeaksTls,
        format!("{url} says http, and the member only sends those who ask over to {to}"),
        OUT,
        "write https:// in `url`, with the port where the member speaks TLS",
    ))
}

/// The same host and port under the other scheme; the port is named where the old scheme implied it.
fn under(url: &str, scheme: &str) -> String {
    let (old, authority) = url.split_once("://").unwrap_or(("", url));
    let has_port =
        authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let port = if has_port {
        ""
    } else if old == "https" {
        ":443"
    } else {
        ":80"
    };
    format!("{scheme}://{authority}{port}")
}

/// `http` was written, and TLS is spoken.
fn speaks_tls(url: &str) -> Finding {
    let right = under(url, "https");
    Finding::error(
        Code::SpeaksTls,
        format!("{url} says http, and the member speaks https there"),
        OUT,
        format!(
            "write `url: {right}`, and `tls: {{ ca_file: ... }}` where its certificate is not of a public authority"
        ),
    )
}

fn speaks_http(url: &str) -> Finding {
    let right = under(url, "http");
    Finding::error(
        Code::SpeaksHttp,
        format!(
            "{url} says https, and the member speaks plain http there (docker would say: server gave HTTP response to HTTPS client)"
        ),
        OUT,
        format!("write `url: {right}`, or give the member a certificate"),
    )
}

/// What a failure means. `spoken` is what the port turned out to speak, where that was tried.
pub(super) fn judge(
    failure: &QuestionError,
    url: &str,
    expected_name: &str,
    spoken: Option<Spoken>,
) -> Finding {
    match (url.starts_with("https://"), spoken) {
        (true, Some(Spoken::Http)) => return speaks_http(url),
        (false, Some(Spoken::Tls)) => return speaks_tls(url),
        _ => {}
    }
    match failure {
        QuestionError::Lookup(why) => Finding::error(
            Code::HostUnknown,
            format!("the host of {url} has no address: {why}"),
            OUT,
            "correct the host in `url`, or the name service of this machine; an address works too",
        ),
        QuestionError::Refused => Finding::error(
            Code::Refused,
            format!("nobody listens at {url}: the connection was refused"),
            OUT,
            "start the member, or correct the port in `url`",
        ),
        QuestionError::Connect(why) => Finding::error(
            Code::Unreachable,
            format!("there is no way to {url}: {why}"),
            OUT,
            "correct `url`, or the routes and firewalls between here and there",
        ),
        QuestionError::ConnectTimeout => Finding::error(
            Code::Timeout,
            format!("{url} took no connection in time"),
            OUT,
            "look for a firewall that drops packets, a wrong address in `url`, or a host that is down",
        ),
        QuestionError::TlsTimeout => Finding::error(
            Code::Timeout,
            format!("{url} took the connection, and did not finish the TLS handshake in time"),
            OUT,
            "see whether the member is overloaded, or stopped while its port is still open",
        ),
        QuestionError::Silent => Finding::error(
            Code::Timeout,
            format!("{url} took the connection, and did not answer GET /v2/ in time"),
            "requests wait for it until `upstream.first_byte_timeout`, until probes have taken it out",
            "see whether the member, its storage or its database hangs; --timeout sets how long the doctor waits",
        ),
        QuestionError::Tls(error) => judge_tls(error, url, expected_name),
        QuestionError::TlsBroken(why) => Finding::error(
            Code::Tls,
            format!("{url} broke off the TLS handshake: {why}"),
            OUT,
            "see the member's own log; it needs TLS 1.2 or 1.3",
        ),
        QuestionError::NotHttp(why) => Finding::error(
            Code::NotHttp,
            format!("what answers at {url} is not HTTP/1.1: {why}"),
            OUT,
            "correct the port in `url`",
        ),
    }
}

fn judge_tls(error: &rustls::Error, url: &str, expected_name: &str) -> Finding {
    use CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            Finding::error(
                Code::CertificateAuthority,
                format!("the certificate of {url} is of an authority that is not trusted here"),
                OUT,
                "set `tls: { ca_file: PATH }` at the member, with the authority's certificate in PEM (a self-signed certificate is its own authority)",
            )
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            let names = names_of(error);
            let fix = names.as_ref().map_or_else(
                || {
                    "set `tls: { server_name: NAME }` at the member, with a name that its certificate carries"
                        .to_owned()
                },
                |names| {
                    format!(
                        "set `tls: {{ server_name: {} }}` at the member, or use that name in `url`",
                        names[0]
                    )
                },
            );
            let carried =
                names.map_or_else(String::new, |names| format!("; it carries {}", names.join(", ")));
            let problem = format!("the certificate of {url} is not for {expected_name:?}{carried}");
            Finding::error(Code::CertificateName, problem, OUT, fix)
        }
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            Finding::error(
                Code::CertificateTime,
                format!("the certificate of {url} has expired"),
                OUT,
                "renew the member's certificate; where it looks valid, compare the clocks of both machines",
            )
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => Finding::error(
            Code::CertificateTime,
            format!("the certificate of {url} is not valid yet"),
            OUT,
            "compare the clocks of both machines, or wait",
        ),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown,
        )
        | rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => Finding::error(
            Code::ClientCertificate,
            format!("{url} wants a client certificate, or does not take ours: {error}"),
            OUT,
            "set `tls: { client_certificate: { cert: PATH, key: PATH } }` at the member, with one that its authority has signed",
        ),
        other => Finding::error(
            Code::Tls,
            format!("TLS with {url} fails: {other}"),
            OUT,
            "see the member's own log; it needs TLS 1.2 or 1.3 and a certificate that is valid for servers",
        ),
    }
}

/// The names in a certificate that is for another name.
fn names_of(error: &rustls::Error) -> Option<Vec<String>> {
    let rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = error
    else {
        return None;
    };
    // As rustls writes them: `DnsName("a.example")`, `IpAddress(10.0.0.1)`.
    let plain = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    };
    let names: Vec<_> = presented.iter().map(plain).collect();
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_say_in_many_words_that_they_want_tls() {
        let (bad, moved) = (StatusCode::BAD_REQUEST, StatusCode::MOVED_PERMANENTLY);
        for (status, body, location, expected) in [
            (bad, "Client sent an HTTP request to an HTTPS server.\n", None, true),
            (bad, "<center>The plain HTTP request was sent to HTTPS port</center>", None, true),
            (bad, "Bad Request", None, false),
            (StatusCode::OK, "Client sent an HTTP request to an HTTPS server.", None, false),
            (moved, "", Some("https://hub/v2/"), true),
            (moved, "", Some("http://hub/v2/"), false),
            (moved, "", None, false),
        ] {
            assert_eq!(says_wants_tls(status, body.as_bytes(), location), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_port_that_a_scheme_implies_is_written_under_the_other() {
        for (url, scheme, expected) in [
            ("http://a", "https", "https://a:80"),
            ("https://a", "http", "http://a:443"),
            ("http://a:5000", "https", "https://a:5000"),
            ("http://[::1]", "https", "https://[::1]:80"),
            ("http://[::1]:5", "https", "https://[::1]:5"),
        ] {
            assert_eq!(under(url, scheme), expected);
        }
    }

    #[test]
    fn every_failure_has_its_code_and_its_fix() {
        let certificate = |error| QuestionError::Tls(rustls::Error::InvalidCertificate(error));
        let alert = |alert| QuestionError::Tls(rustls::Error::AlertReceived(alert));
        for (failure, code, fix) in [
            (QuestionError::Lookup("unknown".to_owned()), Code::HostUnknown, "correct the host"),
            (QuestionError::Refused, Code::Refused, "start the member"),
            (QuestionError::Connect("no route".to_owned()), Code::Unreachable, "firewalls"),
            (QuestionError::ConnectTimeout, Code::Timeout, "firewall"),
            (QuestionError::Silent, Code::Timeout, "--timeout"),
            (certificate(CertificateError::UnknownIssuer), Code::CertificateAuthority, "ca_file"),
            (certificate(CertificateError::NotValidForName), Code::CertificateName, "server_name"),
            (certificate(CertificateError::Expired), Code::CertificateTime, "renew"),
            (certificate(CertificateError::NotValidYet), Code::CertificateTime, "clocks"),
            (alert(AlertDescription::CertificateRequired), Code::ClientCertificate, "client_certificate"),
            (alert(AlertDescription::ProtocolVersion), Code::Tls, "TLS 1.2"),
            (QuestionError::NotHttp("garbage".to_owned()), Code::NotHttp, "port"),
        ] {
            let finding = judge(&failure, "https://a:1", "a", Some(Spoken::Neither));
            assert_eq!(finding.code, code, "{failure:?}");
            assert!(finding.fix.contains(fix), "{}", finding.fix);
        }
        let mixed = judge(&QuestionError::TlsTimeout, "https://a:1", "a", Some(Spoken::Http));
        assert_eq!((mixed.code, mixed.fix.contains("http://a:1")), (Code::SpeaksHttp, true));
        let mixed = judge(&QuestionError::Silent, "http://a:1", "a", Some(Spoken::Tls));
        assert_eq!((mixed.code, mixed.fix.contains("https://a:1")), (Code::SpeaksTls, true));
    }

    #[test]
    fn names_of_a_certificate_are_shown_as_they_are_written() {
        let error = rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("a").expect("a name"),
            presented: vec!["DnsName(\"hub.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()],
        });
        assert_eq!(names_of(&error), Some(vec!["hub.example".to_owned(), "10.0.0.1".to_owned()]));
    }
}
