//! How the queues are made, against what the worker needs of them.

use std::time::Duration;

use aws_config::SdkConfig;

use super::finding::Finding;
use crate::app::config::WorkerConfig;
use crate::aws::{QueueSettings, SqsQueue, sqs_client};
use crate::source::{Queue, with_causes};

/// Fewer receives turn each deploy into dead letters.
const RECEIVES_MIN: u32 = 5;

pub async fn findings(sdk: &SdkConfig, config: &WorkerConfig) -> Vec<Finding> {
    let client = sqs_client(sdk);
    let queue = |url: &str| SqsQueue::new(client.clone(), url, config.lease);
    let dead_letters = queue(&config.dead_letter_queue_url);
    let mut findings = Vec::new();
    let dead_settings = settings(&dead_letters, &mut findings).await;
    findings.extend(refused(&dead_letters, dead_letters.refused_to_park().await));
    for queue in config.queues.iter().map(|known| queue(&known.url)) {
        if let (Some(settings), Some(dead_settings)) = (settings(&queue, &mut findings).await, &dead_settings) {
            findings.extend(of_settings(queue.name(), &settings, dead_settings, config.lease));
            findings.extend(of_tombstones(queue.name(), &settings, dead_settings, config.tombstone_ttl));
        }
        findings.extend(refused(&queue, queue.refused_to_settle().await));
    }
    findings
}

/// Whether messages may be parked in the queue at `url`.
pub async fn of_parking(sdk: &SdkConfig, url: &str) -> Vec<Finding> {
    // Nothing is received from it, so nothing is leased.
    let dead_letters = SqsQueue::new(sqs_client(sdk), url, Duration::ZERO);
    let mut findings = Vec::new();
    settings(&dead_letters, &mut findings).await;
    findings.extend(refused(&dead_letters, dead_letters.refused_to_park().await));
    findings
}

async fn settings(queue: &SqsQueue, findings: &mut Vec<Finding>) -> Option<QueueSettings> {
    match queue.settings().await {
        Ok(settings) => Some(settings),
        Err(error) => {
            let fix = "check the URL, --region, the role's sqs:GetQueueAttributes, and the way to SQS from here";
            findings.push(Finding::error(format!("queue {}", queue.name()), with_causes(&error), fix));
            None
        }
    }
}

fn refused(queue: &SqsQueue, operations: Vec<&'static str>) -> Vec<Finding> {
    let finding = |operation| {
        let fix = format!("allow sqs:{operation} on the queue, and its key's use, in the role's policy");
        Finding::error("permissions", format!("{operation} on queue {} is denied", queue.name()), fix)
    };
    operations.into_iter().map(finding).collect()
}

fn of_settings(name: &str, queue: &QueueSettings, dead: &QueueSettings, lease: Duration) -> Vec<Finding> {
    let about = format!("queue {name}");
    let mut findings = Vec::new();
    match &queue.redrive {
        None => findings.push(Finding::error(
            &about,
            "it has no redrive policy: a message that kills workers comes back for ever",
            format!("set RedrivePolicy to {}, with maxReceiveCount {RECEIVES_MIN} or more", dead.arn),
        )),
        Some(redrive) => {
            if redrive.receives_max < RECEIVES_MIN {
                findings.push(Finding::error(
                    &about,
                    format!(
                        "its redrive policy allows {} receives: deploys would make dead letters",
                        redrive.receives_max
                    ),
                    format!("set maxReceiveCount to {RECEIVES_MIN} or more"),
                ));
            }
            if redrive.target_arn != dead.arn {
                findings.push(Finding::warning(
                    &about,
                    format!("it redrives to {}, while workers park in {}", redrive.target_arn, dead.arn),
                    "name one dead-letter queue for both, so that nobody looks in the wrong one",
                ));
            }
        }
    }
    if queue.visibility < lease {
        findings.push(Finding::warning(
            &about,
            format!("its visibility timeout is {:?}, less than the lease of {lease:?}", queue.visibility),
            format!("set VisibilityTimeout to {} or more, for receivers that name none", lease.as_secs()),
        ));
    }
    if dead.retention < queue.retention {
        findings.push(Finding::error(
            &about,
            format!(
                "it keeps messages for {}, and its dead letters only for {}, counted from when they were first sent",
                days(queue.retention),
                days(dead.retention)
            ),
            format!("set the dead-letter queue's MessageRetentionPeriod to {} or more", queue.retention.as_secs()),
        ));
    }
    findings
}

/// A deleted product has to be remembered for as long as an older event of it may come.
fn of_tombstones(name: &str, queue: &QueueSettings, dead: &QueueSettings, tombstone_ttl: Duration) -> Option<Finding> {
    let late = queue.retention.max(dead.retention);
    (tombstone_ttl < late).then(|| {
        Finding::error(
            format!("queue {name}"),
            format!("events may come {} late, and deletes are remembered for {}", days(late), days(tombstone_ttl)),
            format!("set --tombstone-ttl (CATALOG_LABELS_TOMBSTONE_TTL) to {} or more", days(late)),
        )
    })
}

fn days(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Redrive;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const LEASE: Duration = Duration::from_secs(60);

    fn good() -> (QueueSettings, QueueSettings) {
        let settings = |arn: &str, redrive| QueueSettings {
            arn: arn.to_owned(),
            visibility: 3 * LEASE,
            retention: 4 * DAY,
            redrive,
        };
        let dead = QueueSettings { retention: 14 * DAY, ..settings("dead", None) };
        (settings("catalog", Some(Redrive { target_arn: "dead".to_owned(), receives_max: 5 })), dead)
    }

    #[test]
    fn a_good_queue_has_no_findings() {
        let (queue, dead) = good();
        assert_eq!(of_settings("catalog", &queue, &dead, LEASE), []);
        assert_eq!(of_tombstones("catalog", &queue, &dead, 14 * DAY), None);
    }

    #[test]
    fn each_setting_has_its_finding_and_fix() {
        let (queue, dead) = good();
        let redrive =
            |target_arn: &str, receives_max| Some(Redrive { target_arn: target_arn.to_owned(), receives_max });
        for (queue, dead, error, fix) in [
            (QueueSettings { redrive: None, ..queue.clone() }, dead.clone(), true, "RedrivePolicy to dead"),
            (QueueSettings { redrive: redrive("dead", 1), ..queue.clone() }, dead.clone(), true, "maxReceiveCount"),
            (
                QueueSettings { redrive: redrive("other", 5), ..queue.clone() },
                dead.clone(),
                false,
                "one dead-letter queue",
            ),
            (QueueSettings { visibility: LEASE / 2, ..queue.clone() }, dead.clone(), false, "VisibilityTimeout to 60"),
            (queue.clone(), QueueSettings { retention: DAY, ..dead.clone() }, true, "MessageRetentionPeriod to 345600"),
        ] {
            let found = of_settings("catalog", &queue, &dead, LEASE);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].is_error() == error && found[0].fix.contains(fix), "{fix}: {found:?}");
        }
        let found = of_tombstones("catalog", &queue, &dead, DAY).expect("a day is too short");
        assert!(found.fix.ends_with("to 14days or more"), "{found:?}");
    }
}
