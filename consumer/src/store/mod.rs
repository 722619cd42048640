//! The tables, through the DynamoDB SDK, whatever engine answers.
