//! The OpenAPI 3.1 document, made from the types that are parsed and answered.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::api::{DuplicatesRequest, DuplicatesResponse, IntentRequest, IntentResponse};
use super::problem::Problem;
use super::request::{BODY_BYTES_MAX, DEADLINE_HEADER, DEADLINE_MAX_MS};

/// Each error status and when it is answered.
const PROBLEMS: [(&str, &str); 10] = [
    ("400", "The body is not JSON, or a header is not what it should be."),
    ("408", "The body was not complete by the deadline."),
    ("413", "The body is too large."),
    ("415", "The body is not declared as application/json, or is packed in an unknown way."),
    ("422", "A field is missing, unknown, of the wrong type or out of range; `errors` names it."),
    ("429", "What waits already cannot be answered by the deadline. Retry-After says when to try again."),
    ("500", "The model's output is not finite for the rows that `errors` names, or a text cannot be tokenised."),
    ("503", "The service is starting, stopping, or its device does not answer."),
    ("504", "The deadline passed while the request was in work."),
    ("default", "Any other error, in the same form."),
];

/// The document that `/openapi.json` answers.
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let intent = path(
        "intent",
        "The intent of one query, or of up to 256",
        &json!(generator.subschema_for::<IntentRequest>()),
        &json!(generator.subschema_for::<IntentResponse>()),
        &json!({"queries": ["usb c cable", "where is my order"]}),
    );
    let duplicates = path(
        "duplicates",
        "Whether two products are duplicates, for up to 256 pairs",
        &json!(generator.subschema_for::<DuplicatesRequest>()),
        &json!(generator.subschema_for::<DuplicatesResponse>()),
        &json!({"pairs": [{"left": {"title": "Norvik KT-17 kettle 1.7 l"}, "right": {"title": "Kettle Norvik KT17"}}]}),
    );
    generator.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "catalog-labels",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Intents of queries and duplicates among products, scored online. Bodies may be sent and \
                asked for with gzip.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        },
        "paths": {"/v1/intent": {"post": intent}, "/v1/duplicates": {"post": duplicates}},
        "components": {"schemas": generator.definitions()}
    })
}

fn path(operation: &str, summary: &str, request: &Value, response: &Value, example: &Value) -> Value {
    let mut responses = json!({
        "200": {"description": "Results in the order of the request.", "content": {"application/json": {"schema": response}}}
    });
    for (status, description) in PROBLEMS {
        let schema = json!({"$ref": "#/components/schemas/Problem"});
        responses[status] =
            json!({"description": description, "content": {"application/problem+json": {"schema": schema}}});
    }
    responses["429"]["headers"] =
        json!({"Retry-After": {"description": "Seconds, 1 or more.", "schema": {"type": "integer"}}});
    json!({
        "operationId": operation,
        "summary": summary,
        "parameters": [{
            "name": DEADLINE_HEADER, "in": "header", "required": false,
            "description": "Milliseconds that the client gives the whole request; by default what the server is configured with.",
            "schema": {"type": "integer", "minimum": 1, "maximum": DEADLINE_MAX_MS}
        }],
        "requestBody": {
            "required": true,
            "description": format!("At most {BODY_BYTES_MAX} bytes, unpacked."),
            "content": {"application/json": {"schema": request, "example": example}}
        },
        "responses": responses
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `UPDATE_SCHEMAS=1 cargo test --release --workspace --lib openapi` writes it anew.
    #[test]
    fn the_committed_document_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema/openapi.json");
        let mut text = serde_json::to_string_pretty(&document()).expect("JSON");
        text.push('\n');
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &text).expect("docs/schema is writable");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "docs/schema/openapi.json is not current; write it anew with UPDATE_SCHEMAS=1");
    }

    #[test]
    fn examples_are_requests_and_every_reference_leads_somewhere() {
        let document = document();
        let example = |path: &str| {
            document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"].clone()
        };
        let intent: IntentRequest = serde_json::from_value(example("/v1/intent")).expect("a request");
        assert_eq!(intent.checked().expect("a good one").len(), 2);
        let duplicates: DuplicatesRequest = serde_json::from_value(example("/v1/duplicates")).expect("a request");
        assert_eq!(duplicates.checked().expect("a good one").len(), 1);
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().expect("a string ends");
            assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
        }
    }
}
