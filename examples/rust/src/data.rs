//! The records and queries of `examples/data`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::Deserialize;

use crate::messages::{column, metadata, pack};
use crate::shoal::value::Kind;
use crate::shoal::{Metadata, RecordBatch, Value};

/// A record, as a caller would hold it.
#[derive(Clone)]
pub struct Row {
    pub id: String,
    pub vector: Vec<f32>,
    pub document: Option<String>,
    pub uri: Option<String>,
    pub metadata: Metadata,
}

#[derive(Deserialize)]
pub struct Query {
    pub text: String,
    pub vector: Vec<f32>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    document: String,
    uri: Option<String>,
    section: String,
    installed_kb: i64,
    /// A string in the file, as some readers of JSON lose integers beyond 2^53.
    checksum: String,
    size_mb: f64,
    team: bool,
    tags: Vec<String>,
    sentence_lengths: Vec<i64>,
    projection: Vec<f64>,
    flags: Vec<bool>,
    vector: Vec<f32>,
}

impl TryFrom<Package> for Row {
    type Error = std::num::ParseIntError;

    fn try_from(package: Package) -> Result<Self, Self::Error> {
        let mut metadata = metadata([
            ("section", package.section.as_str().into()),
            ("installed_kb", package.installed_kb.into()),
            ("checksum", package.checksum.parse::<i64>()?.into()),
            ("size_mb", package.size_mb.into()),
            ("team", package.team.into()),
            ("sentence_lengths", package.sentence_lengths.into()),
            ("projection", package.projection.into()),
            ("flags", package.flags.into()),
        ]);
        // Metadata cannot hold an empty list.
        if !package.tags.is_empty() {
            let kind = Some(Kind::from(package.tags));
            metadata.fields.insert("tags".into(), Value { kind });
        }
        Ok(Row {
            id: package.id,
            vector: package.vector,
            document: Some(package.document),
            uri: package.uri,
            metadata,
        })
    }
}

fn read_lines<Line: DeserializeOwned>(name: &str) -> io::Result<Vec<Line>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let lines = BufReader::new(File::open(folder.join(name))?).lines();
    lines
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

pub fn read_queries() -> io::Result<Vec<Query>> {
    read_lines("queries.jsonl")
}

pub fn read_packages() -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let packages = read_lines::<Package>("packages.jsonl")?.into_iter();
    Ok(packages.map(Row::try_from).collect::<Result<_, _>>()?)
}

/// Turns rows into columns.
pub fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch {
        ids: rows.iter().map(|row| row.id.clone()).collect(),
        vectors: Some(pack(rows.iter().map(|row| row.vector.as_slice()))),
        metadatas: rows.iter().map(|row| row.metadata.clone()).collect(),
        documents: Some(column(rows.iter().map(|row| row.document.as_deref()))),
        uris: Some(column(rows.iter().map(|row| row.uri.as_deref()))),
    }
}
