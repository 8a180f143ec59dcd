//! What is known of a request before its body is read.

use std::net::IpAddr;
use std::sync::Arc;

use iam_schema::Secret;

/// What was found out of a request before it is answered.
#[derive(Debug, Clone)]
pub struct Line {
    pub request_id: Arc<str>,
    pub client_ip: IpAddr,
}

impl Line {
    /// Who asks; the credential is not known yet.
    pub fn asking(&self) -> Asking<'_> {
        Asking { credential: None, request_id: &self.request_id, client_ip: self.client_ip }
    }
}

/// Who asks, as far as the line tells.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    pub credential: Option<&'a Secret>,
    pub request_id: &'a str,
    pub client_ip: IpAddr,
}
