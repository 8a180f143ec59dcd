use iam_schema::codec::{Format, Payload, encode};
use iam_schema::{IamRequest, IamResponse};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{load, report, unhex};

#[derive(Deserialize)]
struct File {
    cases: Vec<Row>,
    accept: Vec<Row>,
    refuse: Vec<Row>,
    json_accept: Vec<Row>,
    json_refuse: Vec<Row>,
}

#[derive(Deserialize)]
pub struct Row {
    pub name: String,
    #[serde(default)]
    pub direction: String,
    pub json: Option<Value>,
    hex: Option<String>,
    parts: Option<Vec<Part>>,
    text: Option<String>,
    #[serde(default)]
    pub level: String,
}

#[derive(Deserialize)]
struct Part {
    hex: String,
    times: usize,
}

impl Row {
    /// The bytes that stand in the row, in whichever form.
    pub fn payload(&self) -> Vec<u8> {
        match (&self.hex, &self.parts, &self.text) {
            (Some(hex), _, _) => unhex(hex),
            (_, Some(parts), _) => parts.iter().flat_map(|p| unhex(&p.hex).repeat(p.times)).collect(),
            (_, _, Some(text)) => text.clone().into_bytes(),
            _ => panic!("{}: no payload", self.name),
        }
    }

    fn response(&self) -> bool {
        self.direction == "response"
    }
}

/// Decodes a payload and shows the record as JSON; encodes it again as MessagePack.
fn read(payload: &[u8], response: bool) -> Result<(Value, Vec<u8>), String> {
    fn shown<T: Serialize>(record: T) -> (Value, Vec<u8>) {
        (serde_json::to_value(&record).unwrap(), encode(&record, Format::MessagePack).unwrap())
    }
    let payload = Payload::read(payload).map_err(|e| e.to_string())?;
    if response {
        payload.decode::<IamResponse>().map(shown).map_err(|e| e.to_string())
    } else {
        payload.decode::<IamRequest<'_>>().map(shown).map_err(|e| e.to_string())
    }
}

#[test]
fn records_are_encoded_and_decoded_as_the_vectors_say() {
    let file: File = load("messagepack");
    let mut failures = Vec::new();
    for row in &file.cases {
        let (payload, json) = (row.payload(), row.json.as_ref().unwrap());
        match read(&payload, row.response()) {
            Ok((value, bytes)) if value == *json && bytes == payload => {}
            other => failures.push(format!("case {}: {other:?} is not {json}", row.name)),
        }
        // The record as somebody would type it gives the very same bytes.
        match read(json.to_string().as_bytes(), row.response()) {
            Ok((_, bytes)) if bytes == payload => {}
            other => failures.push(format!("case {} from JSON: {other:?}", row.name)),
        }
    }
    for row in file.accept.iter().chain(&file.json_accept) {
        match read(&row.payload(), row.response()) {
            Ok((value, _)) if Some(&value) == row.json.as_ref() => {}
            other => failures.push(format!("accept {}: {other:?} is not {:?}", row.name, row.json)),
        }
    }
    for row in file.refuse.iter().chain(&file.json_refuse).filter(|row| row.level != "request") {
        if let Ok((value, _)) = read(&row.payload(), row.response()) {
            failures.push(format!("refuse {}: gave {value}", row.name));
        }
    }
    let rows = [file.cases, file.accept, file.refuse, file.json_accept, file.json_refuse];
    report("messagepack", rows.iter().map(Vec::len).sum(), failures);
}
