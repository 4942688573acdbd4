//! What docker-registry 2.8 and distribution 3 check of a bearer token, written anew from their behaviour
//! (research/clients-and-protocol.md 2.3). Certificate chains of more than one certificate are not modelled: Tidegate makes none.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

/// How far clocks may be apart, in seconds.
const LEEWAY: i64 = 60;

/// Which registry's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// docker-registry 2.8.
    Two,
    /// distribution 3.
    Three,
}

/// A registry's `auth.token` section, and its clock.
#[derive(Clone)]
pub(super) struct Verifier {
    pub(super) version: Version,
    pub(super) issuer: String,
    pub(super) service: String,
    /// `rootcertbundle`, in DER; empty where it is not configured.
    pub(super) bundle: Vec<Vec<u8>>,
    /// `jwks`: keys by the `kid` that the file gives them. Only version 3 has it.
    pub(super) jwks: Vec<Value>,
    pub(super) now: i64,
}

/// Which check failed.
pub(super) type Refused = &'static str;

/// What a request needs: type, name, action.
pub(super) type Needed<'a> = (&'a str, &'a str, &'a str);

impl Verifier {
    /// Checks a token as the registry would before a request that needs all of `needed`.
    pub(super) fn check(&self, token: &str, needed: &[Needed<'_>]) -> Result<(), Refused> {
        let parts: Vec<_> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else { return Err("not three parts") };
        let (header, claims) = (self.parse(header)?, self.parse(claims)?);
        let algorithm = match self.field(&header, "alg").and_then(Value::as_str) {
            Some("RS256") => Algorithm::RS256,
            Some("ES256") => Algorithm::ES256,
            _ => return Err("algorithm"),
        };
        if self.field(&header, "crit").is_some() {
            return Err("crit");
        }
        let key = self.key(&header)?;
        let signed = token.rsplit_once('.').expect("three parts").0;
        let valid = jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &key, algorithm);
        if !valid.unwrap_or(false) {
            return Err("signature");
        }
        self.check_claims(&claims)?;
        self.check_access(&claims, needed)
    }

    /// `x5c` first, then `jwk`, then `kid`; what comes first decides alone.
    fn key(&self, header: &Value) -> Result<DecodingKey, Refused> {
        if let Some(chain) =
            self.field(header, "x5c").and_then(Value::as_array).filter(|chain| !chain.is_empty())
        {
            let leaf = chain[0].as_str().ok_or("x5c")?;
            let leaf = BASE64.decode(leaf.as_bytes()).map_err(|_| "x5c")?;
            let (_, certificate) = X509Certificate::from_der(&leaf).map_err(|_| "x5c")?;
            let validity = certificate.validity();
            let in_time =
                validity.not_before.timestamp() <= self.now && self.now <= validity.not_after.timestamp();
            if !in_time || !self.bundle.contains(&leaf) {
                return Err("x5c does not lead to the bundle");
            }
            return key_of(&certificate);
        }
        if self.field(header, "jwk").is_some() {
            return Err("a key in the header that nobody vouches for");
        }
        let kid = self.field(header, "kid").and_then(Value::as_str).ok_or("no key is named")?;
        let listed = self.jwks.iter().find(|key| key["kid"] == kid);
        if let (Version::Three, Some(key)) = (self.version, listed) {
            let key = serde_json::from_value(key.clone()).map_err(|_| "jwks")?;
            return DecodingKey::from_jwk(&key).map_err(|_| "jwks");
        }
        for der in &self.bundle {
            let (_, certificate) = X509Certificate::from_der(der).expect("a certificate in the bundle");
            let id = match self.version {
                Version::Two => libtrust_id(&certificate),
                Version::Three => thumbprint(&certificate),
            };
            if id == kid {
                return key_of(&certificate);
            }
        }
        Err("an unknown kid")
    }

    fn check_claims(&self, claims: &Value) -> Result<(), Refused> {
        let text = |name| self.field(claims, name).and_then(Value::as_str);
        if text("iss") != Some(&self.issuer) {
            return Err("issuer");
        }
        match (self.field(claims, "aud"), self.version) {
            (Some(Value::String(audience)), _) if *audience == self.service => {}
            (Some(Value::Array(all)), Version::Three) if all.iter().any(|one| *one == *self.service) => {}
            _ => return Err("audience"),
        }
        // Go reads these into int64, so that a fraction is no number.
        let time = |name| match self.field(claims, name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or("a time that is no integer"),
        };
        if self.now > time("exp")?.saturating_add(LEEWAY) {
            return Err("expired");
        }
        if self.now < time("nbf")?.saturating_sub(LEEWAY) {
            return Err("not valid yet");
        }
        time("iat").map(drop)
    }

    fn check_access(&self, claims: &Value, needed: &[Needed<'_>]) -> Result<(), Refused> {
        let none = Vec::new();
        let granted = self.field(claims, "access").and_then(Value::as_array).unwrap_or(&none);
        let covers = |entry: &Value, (kind, name, action): Needed<'_>| {
            let is = |field, wanted| self.field(entry, field).and_then(Value::as_str) == Some(wanted);
            let actions = self.field(entry, "actions").and_then(Value::as_array).unwrap_or(&none);
            is("type", kind) && is("name", name) && actions.iter().any(|one| one == action || one == "*")
        };
        let covered = |needed: &Needed<'_>| granted.iter().any(|entry| covers(entry, *needed));
        if needed.iter().all(covered) { Ok(()) } else { Err("insufficient scope") }
    }

    /// Go's own JSON package folds case and takes the last of repeated keys; go-jose's does neither.
    fn field<'a>(&self, object: &'a Value, name: &str) -> Option<&'a Value> {
        let found = match self.version {
            Version::Three => object.get(name),
            Version::Two => {
                let folded = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
                object.as_object()?.iter().find(folded).map(|(_, value)| value)
            }
        };
        found.filter(|value| !value.is_null())
    }

    fn parse(&self, part: &str) -> Result<Value, Refused> {
        let json = BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| "base64url")?;
        match self.version {
            Version::Two => serde_json::from_slice(&json).map_err(|_| "JSON"),
            Version::Three => {
                serde_json::from_slice::<Strict>(&json).map(|strict| strict.0).map_err(|_| "JSON")
            }
        }
    }
}

fn key_of(certificate: &X509Certificate<'_>) -> Result<DecodingKey, Refused> {
    let spki = certificate.public_key();
    match spki.parsed() {
        Ok(PublicKey::RSA(_)) => Ok(DecodingKey::from_rsa_der(&spki.subject_public_key.data)),
        Ok(PublicKey::EC(_)) => Ok(DecodingKey::from_ec_der(&spki.subject_public_key.data)),
        _ => Err("kind of key"),
    }
}

/// The first 30 bytes of the SPKI's SHA-256 in base32, in groups of four.
pub(super) fn libtrust_id(certificate: &X509Certificate<'_>) -> String {
    let hash = digest(&SHA256, certificate.public_key().raw);
    let text = BASE32_NOPAD.encode(&hash.as_ref()[..30]).into_bytes();
    let groups: Vec<_> = text.chunks(4).map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join(":")
}

/// RFC 7638, as distribution 3 computes it: coordinates of EC keys lose their leading zeros.
pub(super) fn thumbprint(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => rsa_thumbprint(key.modulus, key.exponent),
        Ok(PublicKey::EC(point)) => {
            let (x, y) = point.data()[1..].split_at(32);
            let [x, y] = [x, y].map(|number| BASE64URL_NOPAD.encode(without_zeros(number)));
            hashed(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#))
        }
        _ => String::new(),
    }
}

pub(super) fn rsa_thumbprint(modulus: &[u8], exponent: &[u8]) -> String {
    let [e, n] = [exponent, modulus].map(|number| BASE64URL_NOPAD.encode(without_zeros(number)));
    hashed(&format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#))
}

fn hashed(json: &str) -> String {
    BASE64URL_NOPAD.encode(digest(&SHA256, json.as_bytes()).as_ref())
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// JSON in which no object has a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated keys")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            all.push(value);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (mut all, mut seen) = (BTreeMap::new(), HashSet::new());
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            if !seen.insert(key.clone()) {
                return Err(serde::de::Error::custom("a repeated key"));
            }
            all.insert(key, value);
        }
        Ok(Value::Object(all.into_iter().collect()))
    }
}
