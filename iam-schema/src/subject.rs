//! Subjects, the queue group, and the names of headers.

use crate::operation::OperationName;

/// The queue group that all replicas share.
pub const QUEUE_GROUP: &str = "iam-svc";
/// The prefix of all subjects unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "iam";
/// The largest request and reply, in bytes. Source: protocol section 1.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// `Authorization: Bearer <credential>`, on the API plane.
pub const AUTHORIZATION: &str = "Authorization";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Milliseconds that the caller will wait.
pub const DEADLINE_MS: &str = "Iam-Deadline-Ms";
/// Version floors, see [`crate::changes::Floors`].
pub const MIN: &str = "Iam-Min";
/// The error type of a failed reply. Source: NATS ADR-32.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// The error number of a failed reply. Source: NATS ADR-32.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// By which way a request came in, and so what is believed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Trusted callers; `actor` is believed.
    Service,
    /// Anybody; every request carries its own credential.
    Api,
}

impl Plane {
    /// The subject token, and the word in audit events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Plane::Service => "svc",
            Plane::Api => "api",
        }
    }
}

/// The subjects of one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    root: String,
}

impl Default for Subjects {
    fn default() -> Self {
        Self { root: format!("{DEFAULT_PREFIX}.v1") }
    }
}

impl Subjects {
    /// Subjects under `prefix`.
    ///
    /// # Errors
    /// When the prefix is not one or more tokens of `A-Z a-z 0-9 _ -` joined by dots, at most 128 bytes.
    pub fn new(prefix: &str) -> Result<Self, &'static str> {
        let token =
            |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if prefix.len() <= 128 && prefix.split('.').all(token) {
            Ok(Self { root: format!("{prefix}.v1") })
        } else {
            Err("must be tokens of A-Z a-z 0-9 _ - joined by dots, at most 128 bytes")
        }
    }

    /// The subject of an operation on a plane.
    pub fn operation(&self, plane: Plane, operation: OperationName) -> String {
        format!("{}.{}.{operation}", self.root, plane.as_str())
    }

    /// The subject that matches every operation of a plane.
    pub fn plane(&self, plane: Plane) -> String {
        format!("{}.{}.*", self.root, plane.as_str())
    }

    /// Where change events go.
    pub fn changed(&self) -> String {
        format!("{}.event.changed", self.root)
    }

    /// Where audit events of a type go.
    pub fn audit(&self, event_type: &str) -> String {
        format!("{}.audit.{event_type}", self.root)
    }

    /// The subject of all audit events.
    pub fn audit_all(&self) -> String {
        format!("{}.audit.>", self.root)
    }

    /// Whether a subject lies under our own prefix.
    pub fn own(&self, subject: &str) -> bool {
        let prefix = self.root.strip_suffix("v1").unwrap_or(&self.root);
        subject.starts_with(prefix)
    }

    /// The operation token of a subject of ours: `create-user` of `iam.v1.svc.create-user`.
    pub fn operation_token<'s>(&self, subject: &'s str) -> &'s str {
        subject.rsplit('.').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_those_of_the_protocol() {
        let subjects = Subjects::default();
        assert_eq!(subjects.operation(Plane::Service, OperationName::CreateUser), "iam.v1.svc.create-user");
        assert_eq!(subjects.plane(Plane::Api), "iam.v1.api.*");
        assert_eq!(subjects.changed(), "iam.v1.event.changed");
        assert_eq!(subjects.audit("management"), "iam.v1.audit.management");
        assert!(subjects.own("iam.v1.svc.login") && subjects.own("iam.x") && !subjects.own("iamb.x"));
        for bad in ["", ".", "a.", "a b", "a.*", ">", "$SYS"] {
            assert!(Subjects::new(bad).is_err(), "{bad:?}");
        }
    }
}
