//! The real binary as a Lambda function.

use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::ministack::Ministack;
use crate::runtime_api::RuntimeApi;
use crate::worker::{artifact, binary};

/// A running function; killed when dropped.
pub struct Function {
    _child: Child,
}

impl Function {
    pub const TABLE_PREFIX: &str = "lambda-";

    /// With the variables that Lambda sets; the tables have to be there.
    pub fn start(engine: &Ministack, api: &RuntimeApi, arguments: &[&str]) -> Self {
        let child = Command::new(binary())
            .arg("lambda")
            .args(["--endpoint-url", &engine.endpoint_url(), "--region", "us-east-1"])
            .args(["--table-prefix", Self::TABLE_PREFIX, "--artifact", &artifact().display().to_string()])
            .args(["--replicas", "1"])
            .args(arguments)
            .env("AWS_LAMBDA_RUNTIME_API", api.address())
            .env("AWS_LAMBDA_FUNCTION_NAME", "labels")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "2048")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("CATALOG_LABELS_LOG", "error")
            .env("OMP_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        Self { _child: child }
    }
}
