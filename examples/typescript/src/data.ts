// The records and queries of examples/data.

import { readFileSync } from "node:fs";
import { type Metadata, type RecordBatch, type Value } from "../gen/shoal/v1/value.js";
import * as messages from "./messages.js";

const DATA = new URL("../../../data/", import.meta.url);

export interface Package {
  id: string;
  document: string;
  uri: string | null;
  section: string;
  installed_kb: number;
  checksum: string; // a string in the file, as JSON.parse loses integers beyond 2^53
  size_mb: number;
  team: boolean;
  tags: string[];
  sentence_lengths: number[];
  projection: number[];
  flags: boolean[];
  vector: number[];
}

export interface Query {
  text: string;
  vector: number[];
}

/** A record, as a caller would hold it. */
export interface Row {
  id: string;
  vector: number[];
  document: string | null;
  uri: string | null;
  metadata: Metadata;
}

function readLines<Line>(name: string): Line[] {
  const text = readFileSync(new URL(name, DATA), "utf8");
  return text.trimEnd().split("\n").map((line) => JSON.parse(line) as Line);
}

export const readQueries = (): Query[] => readLines<Query>("queries.jsonl");

export function readPackages(): Row[] {
  return readLines<Package>("packages.jsonl").map((held) => {
    const fields: Record<string, Value> = {
      section: messages.string(held.section),
      installed_kb: messages.int(held.installed_kb),
      checksum: messages.int(BigInt(held.checksum)),
      size_mb: messages.double(held.size_mb),
      team: messages.bool(held.team),
      sentence_lengths: messages.ints(held.sentence_lengths),
      projection: messages.doubles(held.projection),
      flags: messages.bools(held.flags),
    };
    // Metadata cannot hold an empty list.
    if (held.tags.length > 0) fields.tags = messages.strings(held.tags);
    const { id, vector, document, uri } = held;
    return { id, vector, document, uri, metadata: messages.metadata(fields) };
  });
}

/** Turns rows into columns. */
export function batch(rows: Row[]): RecordBatch {
  return {
    ids: rows.map((row) => row.id),
    vectors: messages.pack(rows.map((row) => row.vector)),
    metadatas: rows.map((row) => row.metadata),
    documents: messages.column(rows.map((row) => row.document)),
    uris: messages.column(rows.map((row) => row.uri)),
  };
}
