//! Whether a certificate is valid, for whom, and for how long (RFC 5280).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;
use x509_parser::parse_x509_certificate;

use super::ask::dial;
use super::tls;
use crate::probe::{Certificate, NETWORK_TEXT_LIMIT, clean};
use crate::timespan::TimeSpan;

const DAY: i64 = 86_400;

/// Looks once.
pub(super) async fn ask(certificate: &Certificate) -> Result<String, String> {
    let wanted = wanted(certificate);
    let seen = seen(certificate).await.map_err(|got| format!("wanted {wanted}, got {got}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    judge(&seen, certificate.name.as_deref(), certificate.valid_for, now).map_err(|got| format!("wanted {wanted}, got {got}"))
}

fn wanted(certificate: &Certificate) -> String {
    let name = certificate.name.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
    format!("a certificate{name}, valid for {} or longer", certificate.valid_for)
}

async fn seen(certificate: &Certificate) -> Result<CertificateDer<'static>, String> {
    match (&certificate.file, &certificate.tcp) {
        (Some(file), _) => {
            CertificateDer::from_pem_file(file).map_err(|e| clean(&format!("none from {file}: {e}"), NETWORK_TEXT_LIMIT))
        }
        (None, Some(address)) => {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let name = certificate.name.as_deref().unwrap_or_else(|| host.trim_start_matches('[').trim_end_matches(']'));
            tls::shown(dial(address, address).await?, name).await
        }
        (None, None) => Err("neither one `file` nor one `tcp` to look at".to_owned()),
    }
}

/// What is said for it, or against it.
fn judge(seen: &CertificateDer<'_>, name: Option<&str>, valid_for: TimeSpan, now: Duration) -> Result<String, String> {
    let (_, parsed) = parse_x509_certificate(seen).map_err(|e| format!("one that cannot be read: {e}"))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (from, until) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    if now < from {
        return Err(format!("one that is not valid before {}", parsed.validity().not_before));
    }
    let days = |seconds: i64| match seconds / DAY {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    if until < now {
        return Err(format!("one that expired {} ago ({})", days(now - until), parsed.validity().not_after));
    }
    let left = until - now;
    if left < i64::try_from(valid_for.0.as_secs()).unwrap_or(i64::MAX) {
        return Err(format!("one that expires in {} ({})", days(left), parsed.validity().not_after));
    }
    if let Some(name) = name {
        let wanted = ServerName::try_from(name).map_err(|_| format!("`{name}`, which no certificate can be for"))?;
        let owner = EndEntityCert::try_from(seen).map_err(|e| format!("one that cannot be read: {e}"))?;
        if owner.verify_is_valid_for_subject_name(&wanted).is_err() {
            let names: Vec<&str> = owner.valid_dns_names().collect();
            let whom = if names.is_empty() { "nobody by name".to_owned() } else { names.join(", ") };
            return Err(format!("one for {}", clean(&whom, NETWORK_TEXT_LIMIT)));
        }
    }
    Ok(format!("valid for {}", days(left)))
}
