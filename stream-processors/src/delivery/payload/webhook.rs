//! The generic webhook: the insight as JSON with the names of its Avro schema, signed.
//!
//! The signature is that of Standard Webhooks 1.0 (standardwebhooks.com), so its libraries verify it: HMAC-SHA256 over
//! `id.timestamp.body`, in base64, after `v1,`. The id is the idempotency key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use infertrace_schemas::avro::Insight;
use ring::hmac;

const PREFIX: &str = "whsec_";

/// The body. Numbers that JSON does not have (NaN, infinities) are null.
pub(crate) fn body(insight: &Insight) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(insight)
}

/// Signs bodies with one key.
#[derive(Debug)]
pub(crate) struct Signer(hmac::Key);

impl Signer {
    /// `whsec_` followed by base64 is the key's bytes, as the standard has it; other text is the key itself.
    ///
    /// # Errors
    /// When what follows `whsec_` is no base64.
    pub(crate) fn new(secret: &str) -> Result<Self, String> {
        let key = match secret.strip_prefix(PREFIX) {
            Some(encoded) => {
                STANDARD.decode(encoded).map_err(|_| format!("what follows {PREFIX} is no base64"))?
            }
            None => secret.as_bytes().to_vec(),
        };
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The value of `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, unix_seconds: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{unix_seconds}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}
