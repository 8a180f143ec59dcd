//! What comes out of the programs: what others can read of a process, replies of its HTTP port, messages.

use std::path::Path;

use async_nats::Message;
use iam_tests::canary::Places;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// All of a message: subject, headers, payload.
pub fn message(message: &Message) -> Vec<u8> {
    let mut text = message.subject.as_bytes().to_vec();
    for (name, values) in message.headers.iter().flat_map(|headers| headers.iter()) {
        let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
        text.extend(format!("\n{name}: {}", values.join("\n")).bytes());
    }
    text.push(b'\n');
    text.extend_from_slice(&message.payload);
    text
}

/// The body of a page.
pub async fn get(address: &str, path: &str) -> Vec<u8> {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.expect("a reply");
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&reply));
    reply
}

/// Adds what the system tells of a process and of its children, and checks that no dump of its memory is made.
pub fn process(places: &mut Places, pid: u32) {
    let proc = Path::new("/proc").join(pid.to_string());
    for name in ["cmdline", "status", "limits", "comm"] {
        places.add(format!("process: {name}"), std::fs::read(proc.join(name)).expect(name));
    }
    // Not readable to whoever is not root: the memory is not either then.
    let environment = std::fs::read(proc.join("environ"));
    match &environment {
        Ok(bytes) => places.add("process: environ", bytes.as_slice()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(proc.join("environ")).expect("its owner"));
    assert_eq!(owner, 0, "the process can be dumped, and read by its user");
    let limits = std::fs::read_to_string(proc.join("limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    let numbers: Vec<&str> = core.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers, ["0", "0"], "{core}");
    let children = std::fs::read_dir("/proc").expect("processes").flatten().filter(|entry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The parent comes second after the name, which stands in parentheses.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(pid.to_string().as_str())
    });
    assert_eq!(children.count(), 0, "it has a child, whose environment is not searched");
}
