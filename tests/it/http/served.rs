//! What holds for every path: forms of requests, headers, statuses; the keys; the question of other proxies.

use std::path::Path;

use iam_tests::deployment::nats_url;
use iam_tests::websocket::Socket;
use iam_tests::{Deployment, HttpGateway, http};
use serde_json::{Value, json};

use super::{Front, PASSWORD, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_that_is_none_is_told_so_in_json() {
    let Some(front) = Front::start(&[]).await else { return };
    let (address, root) = (front.gateway.address(), format!("Authorization: Bearer {}\r\n", front.root));
    let none = "";
    for (line, headers, body, status, error) in [
        ("POST /api/v1/iam", root.as_str(), "{", 400, "invalid json"),
        ("POST /api/v1/iam", &root, "", 400, "invalid json"),
        ("POST /api/v1/iam", &root, "\u{feff}{}", 400, "invalid json"),
        ("POST /api/v1/iam", &root, "[]", 400, "body must be an object"),
        ("POST /api/v1/iam", &root, "\"x\"", 400, "body must be an object"),
        ("POST /api/v1/iam", &root, "{}", 400, "unknown operation"),
        ("POST /api/v1/iam", none, r#"{"operation":"frobnicate"}"#, 400, "unknown operation"),
        ("POST /api/v1/iam", &root, r#"{"operation":"mint-token"}"#, 400, "unknown operation"),
        ("POST /api/v1/iam", &root, r#"{"operation":"authorise"}"#, 400, "unknown operation"),
        ("POST /api/v1/iam", &root, r#"{"operation":"resolve-api-key"}"#, 400, "unknown operation"),
        ("POST /api/v1/iam", &root, r#"{"operation":7}"#, 400, "unknown operation"),
        ("POST /api/v1/iam", none, r#"{"operation":"whoami"}"#, 401, "auth failure"),
        (
            "POST /api/v1/iam",
            "Authorization: Basic eDp5\r\n",
            r#"{"operation":"whoami"}"#,
            401,
            "auth failure",
        ),
        (
            "POST /api/v1/iam",
            "Authorization: Bearer tg_x\r\n",
            r#"{"operation":"whoami"}"#,
            401,
            "auth failure",
        ),
        (
            "POST /api/v1/iam",
            "Authorization: Bearer a.b.c\r\n",
            r#"{"operation":"whoami"}"#,
            401,
            "auth failure",
        ),
        ("POST /api/v1/auth/login", none, "[]", 400, "body must be an object"),
        ("POST /api/v1/auth/login", none, "no", 400, "invalid json"),
        ("GET /api/v1/iam", &root, "", 405, "method not allowed"),
        ("GET /api/v1/auth/login", none, "", 405, "method not allowed"),
        ("GET /", none, "", 404, "not found"),
        ("POST /api/v1/iam/", &root, "{}", 404, "not found"),
        ("POST //api/v1/iam", &root, "{}", 404, "not found"),
        ("POST /api/v1/../v1/iam", &root, "{}", 404, "not found"),
        ("POST /api/v1/%69am", &root, "{}", 404, "not found"),
        ("GET /api/v1/socket", none, "", 400, "a WebSocket is served here"),
    ] {
        let reply = http::request(address, line, headers, body).await;
        assert_eq!((reply.status, reply.json()), (status, json!({ "error": error })), "{line} {body}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{line} {body}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.header("x-request-id").is_some());
        assert!(reply.header("access-control-allow-origin").is_none());
    }
    // Two credentials are none, and what two readers could read in two ways is refused.
    let twice = format!("{root}{root}");
    let reply = http::request(address, "POST /api/v1/iam", &twice, r#"{"operation":"whoami"}"#).await;
    assert_eq!(reply.status, 401);
    let double = r#"{"operation":"whoami","operation":"list-users"}"#;
    let reply = http::request(address, "POST /api/v1/iam", &root, double).await;
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (400, &json!("invalid-argument")));
    // Any case of the scheme will do.
    let small = root.replace("Bearer", "bEARER");
    assert_eq!(
        http::request(address, "POST /api/v1/iam", &small, r#"{"operation":"whoami"}"#).await.status,
        200
    );
    let empty = http::request(address, "POST /api/v1/auth/bootstrap-status", none, "").await;
    assert_eq!((empty.status, empty.json()), (200, json!({ "bootstrap_available": false })));
    let again = http::request(address, "POST /api/v1/auth/bootstrap", none, "").await;
    assert_eq!((again.status, again.json()), (401, json!({ "error": "auth failure" })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_keeps_the_id_that_its_client_gave_it_unless_that_is_none() {
    let Some(front) = Front::start(&[]).await else { return };
    let address = front.gateway.address();
    let id = async |headers: &str| {
        let reply = http::request(address, "POST /api/v1/auth/bootstrap-status", headers, "").await;
        reply.header("x-request-id").expect("an id").to_owned()
    };
    assert_eq!(id("X-Request-Id: order-66\r\n").await, "order-66");
    assert_ne!(id("X-Request-Id: a b\r\n").await, "a b");
    assert_ne!(id("").await, id("").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_come_from_the_origins_that_are_named_and_no_other() {
    let origins = "https://app.example.org,http://localhost:3000";
    let Some(front) = Front::start(&["--cors-origins", origins]).await else { return };
    let allowed = async |origin: &str| {
        let headers = format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
        );
        let reply = http::request(front.gateway.address(), "OPTIONS /api/v1/iam", &headers, "").await;
        reply.header("access-control-allow-origin").map(str::to_owned)
    };
    for origin in origins.split(',') {
        assert_eq!(allowed(origin).await.as_deref(), Some(origin));
    }
    for origin in ["https://evil.example.org", "http://app.example.org", "null"] {
        assert_eq!(allowed(origin).await, None, "{origin}");
    }
    // Some proxy takes any success for a yes.
    let preflight = http::request(front.gateway.address(), "OPTIONS /api/v1/auth/verify", "", "").await;
    assert_eq!(preflight.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_in_the_log_at_any_level() {
    let Some(front) = Front::start(&["--log", "trace,tungstenite=trace,tokio_tungstenite=trace"]).await
    else {
        return;
    };
    let ada = front.user("default", "ada", &["reader"]).await;
    let token = front.login("ada", PASSWORD).await;
    let mut socket = Socket::open_as(front.gateway.address(), &token).await;
    let login = json!({ "operation": "login", "username": "ada", "password": PASSWORD });
    let over_socket = text(&socket.iam("1", login).await["response"]["jwt"]);
    let reset = front.gateway.ok(&front.root, "reset-password", json!({ "user_id": ada })).await;
    let temporary = text(&reset["temporary_password"]);
    let log = front.gateway.log();
    assert!(log.contains("iam.http"), "more than is usual");
    for secret in [PASSWORD, &front.root, &token, &over_socket, &temporary] {
        assert!(
            !log.contains(secret),
            "{}",
            log.lines().find(|line| line.contains(secret)).unwrap_or_default()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_published_with_a_name_for_what_is_known_already() {
    let Some(front) = Front::start(&[]).await else { return };
    let address = front.gateway.address();
    let first = http::get(address, "/.well-known/jwks.json").await;
    assert_eq!((first.status, first.header("content-type")), (200, Some("application/jwk-set+json")));
    assert_eq!(first.json()["keys"].as_array().map(Vec::len), Some(2));
    assert!(first.header("cache-control").is_some_and(|value| value.contains("max-age=60")));
    let tag = first.header("etag").expect("a tag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let headers = format!("If-None-Match: {known}\r\n");
        let again = http::request(address, "GET /.well-known/jwks.json", &headers, "").await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{known}");
    }
    let pem = http::get(address, "/.well-known/signing-key.pem").await;
    assert!(pem.body.starts_with("-----BEGIN PUBLIC KEY-----"), "{pem:?}");
    let body = json!({ "operation": "get-signing-key-public" });
    let same = front.gateway.post("/api/v1/iam", None, &body).await.json();
    assert_eq!(same["signing_key_public"], pem.body);
    front.gateway.ok(&front.root, "rotate-signing-key", json!({})).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let rotated =
        http::request(address, "GET /.well-known/jwks.json", &format!("If-None-Match: {tag}\r\n"), "").await;
    assert_eq!((rotated.status, rotated.json()["keys"].as_array().map(Vec::len)), (200, Some(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_proxies_may_ask_whether_a_caller_may() {
    let Some(front) = Front::start(&[]).await else { return };
    front.workspace("acme").await;
    let ada = front.user("acme", "ada", &["writer"]).await;
    let token = front.login("ada", PASSWORD).await;
    let verify = async |method: &str, query: &str, credential: Option<&str>| {
        let header = credential.map(|text| format!("Authorization: Bearer {text}\r\n")).unwrap_or_default();
        let line = format!("{method} /api/v1/auth/verify{query}");
        http::request(front.gateway.address(), &line, &header, "").await
    };
    let reply = verify("GET", "", Some(&token)).await;
    assert_eq!((reply.status, reply.header("iam-user-id")), (204, Some(ada.as_str())));
    assert_eq!((reply.header("iam-workspace"), reply.header("iam-roles")), (Some("acme"), Some("writer")));
    for (method, query, credential, status) in [
        ("GET", "?capability=graph:write&workspace=acme", Some(token.as_str()), 204),
        ("POST", "?capability=graph:write&workspace=acme", Some(&token), 204),
        ("GET", "?capability=graph:write&workspace=default", Some(&token), 403),
        ("GET", "?capability=users:admin&workspace=acme", Some(&token), 403),
        ("GET", "?capability=graph:write", Some(&token), 204),
        ("GET", "?capability=graph:write&workspace=acme", None, 401),
        ("GET", "?capability=graph:write&workspace=acme", Some("tg_x"), 401),
        ("GET", "?workspace=acme", Some(&token), 400),
        ("GET", "?capability=", Some(&token), 400),
        ("GET", "?capability=graph:write&workspce=acme", Some(&token), 400),
        ("GET", "?capability=a&capability=graph:write", Some(&token), 400),
    ] {
        assert_eq!(verify(method, query, credential).await.status, status, "{method} {query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_as_the_document_describes_them() {
    let Some(front) = Front::start(&[]).await else { return };
    let document = http::get(front.gateway.address(), "/api/v1/openapi.json").await.json();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("methods").keys() {
            let line = format!("{} {path}", method.to_uppercase());
            let reply = http::request(front.gateway.address(), &line, "", "").await;
            assert!(![404, 405].contains(&reply.status), "{line}: {reply:?}");
            let described = item[method]["responses"].get(reply.status.to_string());
            assert!(described.is_some(), "{line} answers {}, which is not described", reply.status);
        }
    }
    let ada = front.user("default", "ada", &["reader"]).await;
    let key = json!({ "key": { "user_id": ada, "name": "laptop" } });
    for (operation, fields) in [
        ("whoami", json!({})),
        ("list-users", json!({})),
        ("list-workspaces", json!({})),
        ("create-api-key", key),
        ("list-api-keys", json!({ "user_id": ada })),
        ("reset-password", json!({ "user_id": ada })),
    ] {
        let answer = front.gateway.ok(&front.root, operation, fields).await;
        conforms(&document, &json!({ "$ref": "#/components/schemas/IamResponse" }), &answer, operation);
    }
    let (_, refusal) = front.gateway.iam(&front.root, "get-user", json!({})).await;
    assert!(refusal["error"]["type"].is_string(), "{refusal}");
}

/// Holds a value against its schema: types, required members, and none that is not described.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).expect("a schema");
        return conforms(document, schema, value, at);
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64(),
        other => panic!("{at}: {other:?}"),
    };
    assert!(fits, "{at}: {value} is no {}", schema["type"]);
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(required).is_some(), "{at}: lacks {required}: {value}");
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let described =
            schema["properties"].get(name).unwrap_or_else(|| panic!("{at}: {name} is not described"));
        conforms(document, described, member, &format!("{at}.{name}"));
    }
    for element in value.as_array().into_iter().flatten() {
        conforms(document, &schema["items"], element, at);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_where_it_is_set_up_and_plain_http_is_not() {
    let Some(url) = nats_url() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    if !certificate(&cert, &key) {
        assert!(std::env::var("CI").is_err(), "CI must test TLS: openssl cannot be run");
        println!("skipped: openssl cannot be run");
        return;
    }
    let deployment = Deployment::start(&url, &[]).await;
    let (cert, key) = (cert.to_str().expect("a path"), key.to_str().expect("a path"));
    let arguments = ["--tls-cert", cert, "--tls-key", key];
    let gateway = HttpGateway::start(&url, deployment.prefix(), &arguments).await;
    let request = "POST /api/v1/auth/bootstrap-status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                   Content-Length: 0\r\n\r\n";
    let plain = http::exchange(gateway.address(), request.as_bytes()).await;
    assert!(!plain.contains("200 OK"), "{plain}");
    let mut client = std::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-CAfile", cert, "-servername", "localhost"])
        .args(["-connect", gateway.address()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("openssl");
    let mut input = client.stdin.take().expect("its stdin");
    std::io::Write::write_all(&mut input, request.as_bytes()).expect("sent");
    let output = tokio::task::spawn_blocking(move || client.wait_with_output()).await.expect("it ends");
    drop(input);
    let reply = http::Reply::read(&String::from_utf8_lossy(&output.expect("an answer").stdout));
    assert_eq!(
        (reply.status, text(&reply.json()["bootstrap_available"].to_string().into())),
        (200, "true".to_owned())
    );
}

/// Makes a certificate of its own for localhost.
fn certificate(cert: &Path, key: &Path) -> bool {
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .arg("-keyout")
        .arg(key)
        .arg("-out")
        .arg(cert)
        .output();
    made.is_ok_and(|output| output.status.success())
}
