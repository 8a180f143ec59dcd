//! What the targets begin with: the golden vectors, and what has a form of its own.

use std::sync::Arc;

use iam_schema::OperationName;
use iam_schema::changes::{Change, ChangeEvent, ChangeKind, RecentChange};
use iam_schema::codec::{Format, Payload, encode};
use iam_svc::store::Store;
use iam_svc::store::embedded::{EmbeddedStore, FILE, Options};
use redb::{Database, Key, ReadableDatabase, ReadableTable, TableDefinition, Value as Column};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{CANARY, changes as events, tokens as jwts};
use crate::sample;

fn golden(name: &str) -> Value {
    let path = format!("{}/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).filter_map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn rows_of(file: &Value, lists: &[&str]) -> Vec<Value> {
    let list = |name: &&str| file[*name].as_array().cloned().unwrap_or_default();
    lists.iter().flat_map(list).collect()
}

/// The texts under a name, in the rows of some lists.
fn texts(file: &str, lists: &[&str], name: &str) -> Vec<Vec<u8>> {
    let rows = rows_of(&golden(file), lists);
    rows.iter()
        .filter_map(|row| row.as_str().or_else(|| row[name].as_str()))
        .map(|text| text.into())
        .collect()
}

const PAYLOADS: [&str; 5] = ["cases", "accept", "refuse", "json_accept", "json_refuse"];

/// The payload of a row of messagepack.json; `None` for one of more than a few kilobytes, whose size is its point.
fn payload(row: &Value) -> Option<Vec<u8>> {
    if let Some(hex) = row["hex"].as_str() {
        return Some(unhex(hex)).filter(|bytes| bytes.len() <= 8192);
    }
    if let Some(parts) = row["parts"].as_array() {
        let part = |part: &Value| {
            unhex(part["hex"].as_str().unwrap_or_default())
                .repeat(part["times"].as_u64().unwrap_or(0) as usize)
        };
        return Some(parts.iter().flat_map(part).collect::<Vec<_>>()).filter(|bytes| bytes.len() <= 8192);
    }
    row["text"].as_str().map(|text| text.as_bytes().to_vec())
}

fn payloads(direction: fn(&str) -> bool) -> Vec<Vec<u8>> {
    let rows = rows_of(&golden("messagepack"), &PAYLOADS);
    rows.iter()
        .filter(|row| direction(row["direction"].as_str().unwrap_or_default()))
        .filter_map(payload)
        .collect()
}

/// Requests as the vectors have them, in both forms, and some with a secret in the wrong place.
pub fn request_payloads() -> Vec<Vec<u8>> {
    let mut seeds = payloads(|direction| direction != "response");
    let rows = rows_of(&golden("messagepack"), &["cases"]);
    let cases = rows.iter().filter(|row| row["direction"] != "response");
    seeds.extend(cases.map(|row| row["json"].to_string().into_bytes()));
    for text in [
        json!({ "user_id": CANARY, "username": CANARY, "key_id": CANARY, "workspace": CANARY, "request_id": CANARY }),
        json!({ "resource_json": format!("\"{CANARY}\""), "parameters_json": format!("[\"{CANARY}\"]") }),
        json!({ "resource_json": json!({ "workspace": CANARY }).to_string(), "capability": CANARY }),
        json!({ "authorise_checks": format!("\"{CANARY}\"") }),
        json!({ "authorise_checks": json!([{ "capability": CANARY, "resource": CANARY }]).to_string() }),
        json!({ "password": { CANARY: 1 }, "page_size": CANARY, "user": { "enabled": CANARY } }),
        json!({ "page_token": CANARY, "client_ip": CANARY, "actor": CANARY, "operation": CANARY }),
        json!({ "key": { "name": CANARY, "user_id": CANARY, "expires": CANARY } }),
    ] {
        seeds.push(text.to_string().into_bytes());
    }
    seeds.push(format!("{{\"{CANARY}\":1,\"{CANARY}\":2}}").into_bytes());
    seeds
}

/// Payloads that claim, nest and repeat more than they should; each is answered, and none costs more than its
/// bytes.
pub fn hostile_payloads() -> Vec<(&'static str, Vec<u8>)> {
    let most = iam_schema::subject::MAX_PAYLOAD;
    let many = |one: &str, times: usize| one.repeat(times);
    let field = |key: &str| [&[0x80 | 1, 0xa0 | key.len() as u8], key.as_bytes()].concat();
    let lie = |header: &[u8]| [field("workspace").as_slice(), header].concat();
    let json = |text: String| text.into_bytes();
    let check = r#"{"capability":"graph:read","resource":{"workspace":"w"}}"#;
    let checks = |n: usize| json!({ "user_id": sample::user_id(), "authorise_checks": format!("[{}]", vec![check; n].join(",")) });
    let deep = |open: &str, close: &str, n: usize| format!("{{\"x\":{}1{}}}", many(open, n), many(close, n));
    let padded = |len: usize| format!("{{\"name\":\"{}\"}}", many("x", len - 11));
    let keys: String = (0..20_000).map(|n| format!("\"k{n}\":0,")).collect();
    vec![
        ("str32 of 4 GiB", lie(&[0xdb, 0xff, 0xff, 0xff, 0xff])),
        ("array32 of 4 Gi", lie(&[0xdd, 0xff, 0xff, 0xff, 0xff])),
        ("map32 of 4 Gi", lie(&[0xdf, 0xff, 0xff, 0xff, 0xff])),
        ("bin32 of 4 GiB", lie(&[0xc6, 0xff, 0xff, 0xff, 0xff])),
        ("ext32 of 4 GiB", lie(&[0xc9, 0xff, 0xff, 0xff, 0xff, 1])),
        ("map32 of 4 Gi at the top", vec![0xdf, 0xff, 0xff, 0xff, 0xff]),
        (
            "roles of 4 Gi",
            [field("user").as_slice(), &field("roles"), &[0xdd, 0xff, 0xff, 0xff, 0xff]].concat(),
        ),
        ("100,000 arrays in each other", [field("x").as_slice(), &vec![0x91; 100_000]].concat()),
        ("100,000 maps in each other", [field("x").as_slice(), &[0x81, 0xa1, b'x'].repeat(80_000)].concat()),
        ("120,000 nils", [field("x").as_slice(), &[0xdc, 0xff, 0xff], &vec![0xc0; 65_535]].concat()),
        ("60,000 JSON lists in each other", json(deep("[", "]", 60_000))),
        ("40,000 JSON maps in each other", json(deep("{\"x\":", "}", 40_000))),
        ("JSON lists that never end", json(many("{\"x\":[", 40_000))),
        ("20,000 unknown keys", json(format!("{{{keys}\"end\":0}}"))),
        ("the same key 20,000 times", json(format!("{{{}\"end\":0}}", many("\"k\":0,", 20_000)))),
        (
            "50,000 roles",
            json(format!(
                "{{\"user\":{{\"username\":\"u\",\"roles\":[{}\"r\"]}},\"workspace\":\"default\"}}",
                many("\"r\",", 50_000)
            )),
        ),
        ("a string of 250,000 bytes", json(padded(250_000))),
        ("the largest payload", json(padded(most))),
        ("one byte more", json(padded(most + 1))),
        ("minus zeros", json(format!("{{\"x\":[{}0]}}", many("-0,", 80_000)))),
        ("numbers beyond any", json(format!("{{\"x\":{}}}", many("9", 200_000)))),
        ("exponents beyond any", json(format!("{{\"x\":[{}0]}}", many("1e308,", 40_000)))),
        ("escapes alone", json(format!("{{\"username\":\"{}\"}}", many("\\u0041", 40_000)))),
        ("lone surrogates", json(format!("{{\"username\":\"{}\"}}", many("\\ud800", 1_000)))),
        ("not UTF-8 in MessagePack", lie(&[0xa4, 0xff, 0xfe, 0xc0, 0x80])),
        ("not UTF-8 in JSON", b"{\"username\":\"\xff\xfe\"}".to_vec()),
        ("a BOM", b"\xef\xbb\xbf{}".to_vec()),
        ("1,000 checks", json(checks(1_000).to_string())),
        ("1,001 checks", json(checks(1_001).to_string())),
        ("80,000 empty checks", json(format!("{{\"authorise_checks\":\"[{}{{}}]\"}}", many("{},", 80_000)))),
        ("checks nested deep", json(json!({ "authorise_checks": deep("[", "]", 10_000) }).to_string())),
        (
            "a password of 200,000 bytes",
            json(format!("{{\"username\":\"admin\",\"password\":\"{}\"}}", many("x", 200_000))),
        ),
        ("a credential of dots", json(format!("{{\"credential\":\"{}\"}}", many(".", 100_000)))),
        (
            "a token of 100,000 bytes",
            json(format!("{{\"credential\":\"{}.{}.x\"}}", many("A", 50_000), many("B", 50_000))),
        ),
        ("white space alone", vec![b' '; 100_000]),
        ("nothing", Vec::new()),
    ]
}

pub fn noise() -> Vec<Vec<u8>> {
    (0..64_u32)
        .map(|n| (0..96_u32).map(|i| (n.wrapping_mul(97) ^ i.wrapping_mul(i + n)).to_le_bytes()[0]).collect())
        .collect()
}

pub fn checks() -> Vec<Vec<u8>> {
    let file = golden("authorise");
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for row in rows_of(&file, &["rows", "cases", "raw", "raw_errors", "many"]) {
        for name in
            ["resource", "parameters", "resource_json", "parameters_json", "checks", "authorise_checks"]
        {
            match &row[name] {
                Value::Null => {}
                Value::String(text) => seeds.push(text.clone().into_bytes()),
                other => seeds.push(other.to_string().into_bytes()),
            }
        }
    }
    seeds.sort();
    seeds.dedup();
    seeds.truncate(400);
    seeds.push(
        json!([{ "capability": "a", "resource": { "workspace": CANARY } }, 1, null]).to_string().into_bytes(),
    );
    seeds.push(format!("\"{CANARY}\"").into_bytes());
    seeds.push(format!("{{\"workspace\":1,\"{CANARY}\":[],\"{CANARY}\":2}}").into_bytes());
    seeds
}

pub fn replies() -> Vec<Vec<u8>> {
    let mut seeds = payloads(|direction| direction == "response");
    seeds.push(json!({ "error": { "type": "new-kind", "message": CANARY } }).to_string().into_bytes());
    seeds.push(json!({ "users": CANARY, "jwt_expires": CANARY }).to_string().into_bytes());
    seeds.push(json!({ "jwt_expires": CANARY }).to_string().into_bytes());
    seeds
}

pub fn changes() -> Vec<Vec<u8>> {
    let change = |id: &str| Change { kind: ChangeKind::User, id: id.to_owned(), version: 7 };
    let event = |seq: u64, changes: Vec<Change>| ChangeEvent {
        instance: "a".into(),
        seq,
        changes,
        ..Default::default()
    };
    let recent = RecentChange { seq: 2, kind: ChangeKind::Workspace, id: "w".into(), version: 1 };
    let events_in_order = [
        event(1, vec![change("u")]),
        ChangeEvent { recent: vec![recent], ..event(3, Vec::new()) },
        event(4, vec![change("v"), change("w")]),
        ChangeEvent { started: Some(sample::NOW), ..event(u64::MAX, Vec::new()) },
        ChangeEvent { bye: true, ..event(5, Vec::new()) },
    ];
    let written =
        |format| events_in_order.iter().map(|e| encode(e, format).expect("an event")).collect::<Vec<_>>();
    let (binary, json) = (written(Format::MessagePack), written(Format::Json));
    let floors = b"user:01a0ce87-ea1a-7bb6-ae10-295948688e1d=7,workspace:acme=9223372036854775807".to_vec();
    let mut seeds = vec![events::joined(&binary), events::joined(&json), floors];
    seeds.extend(binary);
    seeds.extend(json);
    seeds
}

pub fn tokens() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = jwts::seeds().into_iter().map(String::into_bytes).collect();
    seeds.extend(texts("jwt", &["accept", "refuse"], "token"));
    seeds
}

pub fn claims() -> Vec<Vec<u8>> {
    jwts::claims_seeds().into_iter().map(String::into_bytes).collect()
}

pub fn key_sets() -> Vec<Vec<u8>> {
    let file = golden("jwt");
    let mut seeds = vec![file["jwks"].to_string().into_bytes()];
    let own = rows_of(&file, &["refuse"]).into_iter().filter(|row| !row["jwks"].is_null());
    seeds.extend(own.map(|row| row["jwks"].to_string().into_bytes()));
    seeds
}

pub fn headers() -> Vec<Vec<u8>> {
    [
        format!("Authorization: Bearer {CANARY}\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        format!("authorization: bearer {CANARY}\nAUTHORIZATION: Bearer x\nIam-Deadline-Ms: 250"),
        format!("Iam-Min: user:01a0ce87-ea1a-7bb6-ae10-295948688e1d=7,workspace:acme=3\nIam-Min: {CANARY}"),
        "Iam-Min: user:a=1,api-key:b=2,signing-key:c=9223372036854775807\nIam-Deadline-Ms: 18446744073709551616".into(),
        "traceparent: ff-0-0-0\ntraceparent: 00-00000000000000000000000000000000-0000000000000000-00".into(),
        "Authorization:Basic eDp5\nIam-Deadline-Ms: -1\nX-Other: y".into(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

pub fn reply_subjects() -> Vec<Vec<u8>> {
    [
        "_INBOX.abc.def",
        "$SRV.PING",
        "$JS.API.STREAM.DELETE.IAM_AUDIT",
        "iam.v1.svc.login",
        "iam.v1.event.changed",
        "team-a.iam.v1.audit.management",
        "iam",
        "iam.",
        "iamb.x",
        "_INBOX.*",
        "_INBOX.>",
        ">",
        "",
        ".",
        "a..b",
        "a b",
        "a\r\nPUB x 0",
        "$",
        " $SRV",
        "IAM.v1",
        "_INBOX.a\u{a0}b",
        "a*b",
        "a>b",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn policies() -> Vec<Vec<u8>> {
    let root = "[roles.root]\nscope = \"*\"\ncapabilities = [\"users:admin\", \"extra:read\"]\n";
    [
        format!("capabilities = [\"extra:read\"]\n{root}"),
        format!("capabilities = [\"extra:read\"]\n{root}includes = [\"reader\"]\n[roles.reader]\nscope = \"assigned\"\ncapabilities = [\"graph:read\"]\nincludes = [\"root\"]\n"),
        format!("{root}[roles.a]\nscope = \"galaxy\"\n"),
        "[roles.root]\nscope=\"*\"\nincludes=[\"b\",\"b\"]\n[roles.b]\nscope=\"assigned\"\nincludes=[\"c\",\"c\"]\n[roles.c]\nscope=\"assigned\"\ncapabilities=[\"users:admin\"]\n".into(),
        CANARY.to_owned(),
        format!("capabilities = {{ {CANARY} = 1 }}"),
        "roles = 1".into(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

pub fn configurations() -> Vec<Vec<u8>> {
    [
        "log = \"info,iam_svc=debug\"\naudience = \"x\"\nallow-ttl-s = 30\nnats-url = [\"nats://a:4222\", \"tls://b\"]\n".into(),
        "token-lifetime-s = 7200\ngrace-period-s = 3600\nsubject-prefix = \"a.b\"\nhttp-addr = \"[::1]:80\"\n".into(),
        "front-threads = 9999\nhash-threads = 0\naudit-allow = true\nanonymous-user = \"\"\nissuer = \"\"\n".into(),
        "data-dir = \"/x\"\nnats-inbox-prefix = \"a.*\"\nstore = \"cassandra\"\nno-such = 1.5\n".into(),
        CANARY.to_owned(),
        format!("issuer = \"{CANARY}\naudience = 1\n"),
        format!("token-lifetime-s = \"{CANARY}\"\nlog = \"{CANARY}=x\"\nnats-url = \"nats://u:{CANARY}@h:x\"\n"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// Rows that a store wrote, with what chooses their table, and without their seals.
pub fn rows() -> Vec<Vec<u8>> {
    let dir = TempDir::new().expect("a directory");
    let store =
        EmbeddedStore::open(dir.path(), Options::new(Arc::clone(&sample::root_roles()))).expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let seed = sample::seed();
        let user = sample::full_user("zoe", &seed.workspace);
        store.seed(&seed, sample::NOW).await.expect("seeded");
        store.insert_user(&user).await.expect("a user");
        store.insert_api_key(&sample::key(&user, "laptop")).await.expect("a key");
    });
    drop(store);
    let file = Database::open(dir.path().join(FILE)).expect("the file");
    let mut seeds = Vec::new();
    let mut dump = |table: u8, rows: Vec<(Vec<u8>, Vec<u8>)>| {
        for (head, row) in rows {
            for (flag, body) in [(0, &row[8..]), (0x80, &row[..])] {
                seeds.push([&[table | flag], head.as_slice(), body].concat());
            }
        }
    };
    let long = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    dump(0, table::<&'static [u8; 16]>(&file, "users", |key| key.to_vec()));
    dump(1, table::<&'static str>(&file, "workspaces", long));
    dump(2, table::<&'static [u8; 32]>(&file, "api_keys", |key| key.to_vec()));
    let which = |key: &str| {
        vec![["key-ring", "bootstrap", "schema"].iter().position(|name| *name == key).unwrap_or(0) as u8]
    };
    dump(3, table::<&'static str>(&file, "singletons", which));
    seeds
}

fn table<K: Key + 'static>(
    file: &Database,
    name: &str,
    head: impl Fn(<K as Column>::SelfType<'_>) -> Vec<u8>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let definition: TableDefinition<'_, K, &'static [u8]> = TableDefinition::new(name);
    let transaction = file.begin_read().expect("a transaction");
    let table = transaction.open_table(definition).expect("a table");
    let rows = table.iter().expect("rows").map(|row| {
        let (key, row) = row.expect("a row");
        (head(key.value()), row.value().to_vec())
    });
    rows.collect()
}

pub fn usernames() -> Vec<Vec<u8>> {
    let mut seeds = texts("usernames", &["accept_names", "refuse_names"], "name");
    seeds.extend(texts("usernames", &["accept_names", "refuse_names"], "text"));
    seeds.push(CANARY.into());
    seeds
}

pub fn ids() -> Vec<Vec<u8>> {
    let mut seeds = texts("api_keys", &["well_formed", "malformed", "kinds"], "text");
    seeds.extend(texts("pbkdf2", &["verify_low", "refuse"], "stored"));
    seeds.extend(
        [
            "01a0ce87-ea1a-7bb6-ae10-295948688e1d",
            "acme",
            "R_and_D",
            "admin",
            "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        ]
        .map(Vec::from),
    );
    seeds
}

pub fn timestamps() -> Vec<Vec<u8>> {
    texts("timestamps", &["accept", "refuse"], "text")
}

/// Each request of the vectors to its operation, on both planes.
pub fn service() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for payload in request_payloads() {
        let named = Payload::read(&payload).ok().and_then(|payload| {
            let request = payload.decode::<iam_schema::IamRequest<'_>>().ok()?;
            OperationName::ALL.iter().position(|name| name.as_str() == request.operation)
        });
        let operation = named.unwrap_or(payload.len() % OperationName::ALL.len()) as u8;
        for flags in [0, 1, 3] {
            seeds.push([&[operation, flags], payload.as_slice()].concat());
        }
    }
    seeds
}
