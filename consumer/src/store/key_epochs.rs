//! `control`: which key epochs workers use, and their files.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use shared::item::{KEY_EPOCHS, KeyEpochPart, KeyEpochsItem};
use shared::table::CONTROL;

use super::codec::{Item, encode, string};
use super::{Call, Store, StoreError, WriteOutcome};

/// Bytes of a file in one item, below DynamoDB's 400 KB.
const PART_BYTES: usize = 350 * 1024;
/// Longest file once unpacked: two million words and pairs.
const FILE_BYTES_MAX: u64 = 64 << 20;

impl Store {
    /// Which key epochs workers use; none before the first roll-out.
    pub async fn key_epochs(&self) -> Result<Option<KeyEpochsItem>, StoreError> {
        self.get(&CONTROL, control_key(KEY_EPOCHS)).await
    }

    /// Replaces the item of the revision before.
    pub async fn put_key_epochs(&self, item: &KeyEpochsItem) -> Result<WriteOutcome, StoreError> {
        self.put_revision(&CONTROL, item, item.revision, KEY_EPOCHS).await
    }

    /// The file of a published key epoch.
    pub async fn key_epoch_file(&self, number: u32) -> Result<Option<String>, StoreError> {
        let call = self.call("GetItem", &CONTROL);
        let Some(first) = self.key_epoch_part(number, 0).await? else { return Ok(None) };
        let mut gzip = first.gzip;
        for part in 1..first.parts {
            let Some(more) = self.key_epoch_part(number, part).await? else {
                return Err(invalid(&call, format!("{} is missing", part_name(number, part))));
            };
            gzip.extend(more.gzip);
        }
        let mut file = String::new();
        let read = GzDecoder::new(gzip.as_slice()).take(FILE_BYTES_MAX).read_to_string(&mut file);
        read.map_err(|error| invalid(&call, format!("of key epoch {number} cannot be unpacked: {error}")))?;
        Ok(Some(file))
    }

    /// Publishes a key epoch's file; a conflict means that this number was published before.
    pub async fn put_key_epoch_file(&self, number: u32, file: &str) -> Result<WriteOutcome, StoreError> {
        let call = self.call("PutItem", &CONTROL);
        if file.len() as u64 >= FILE_BYTES_MAX {
            let reason = format!("has {} bytes; count fewer texts (the most is {FILE_BYTES_MAX})", file.len());
            return Err(invalid(&call, reason));
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let packed = encoder.write_all(file.as_bytes()).and_then(|()| encoder.finish());
        let packed = packed.map_err(|error| invalid(&call, format!("cannot be packed: {error}")))?;
        let chunks: Vec<&[u8]> = packed.chunks(PART_BYTES).collect();
        let parts = chunks.len() as u32;
        // Whoever finds part 0 finds the others.
        for (part, gzip) in (0..parts).zip(chunks).rev() {
            let item = KeyEpochPart { name: part_name(number, part), parts, gzip: gzip.to_vec() };
            if self.put_new_part(&call, &item).await? == WriteOutcome::Conflict {
                return Ok(WriteOutcome::Conflict);
            }
        }
        Ok(WriteOutcome::Written)
    }

    async fn key_epoch_part(&self, number: u32, part: u32) -> Result<Option<KeyEpochPart>, StoreError> {
        self.get(&CONTROL, control_key(&part_name(number, part))).await
    }

    /// Replaces a part that an interrupted publication of the same file left, and no other.
    async fn put_new_part(&self, call: &Call, item: &KeyEpochPart) -> Result<WriteOutcome, StoreError> {
        let gzip = encode(call, item)?.remove("gzip");
        self.put_if(&CONTROL, item, &item.name, |put| {
            put.condition_expression("attribute_not_exists(#name) OR #gzip = :gzip")
                .expression_attribute_names("#name", "name")
                .expression_attribute_names("#gzip", "gzip")
                .set_expression_attribute_values(gzip.map(|gzip| Item::from([(":gzip".to_owned(), gzip)])))
        })
        .await
    }
}

fn part_name(number: u32, part: u32) -> String {
    format!("{KEY_EPOCHS}-{number}-{part}")
}

fn control_key(name: &str) -> Item {
    Item::from([("name".to_owned(), string(name))])
}

fn invalid(call: &Call, reason: String) -> StoreError {
    StoreError::Invalid { call: call.clone(), field: "the file", reason }
}
