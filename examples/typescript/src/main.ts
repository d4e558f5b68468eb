// The walk: each step asks one thing of the server, and prints what came of it.

import { randomBytes } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { GetLimitsRequest, HeartbeatRequest } from "../gen/shoal/v1/admin_service.js";
import { CollectionReference, Space } from "../gen/shoal/v1/collection.js";
import {
  CreateCollectionRequest,
  DeleteCollectionRequest,
  ListCollectionsRequest,
  UpdateCollectionRequest,
} from "../gen/shoal/v1/collection_service.js";
import { DocumentOperator, Where, WhereOperator } from "../gen/shoal/v1/filter.js";
import {
  AddRequest,
  CountRequest,
  DeleteRequest,
  GetRequest,
  ListIdsRequest,
  QueryRequest,
  UpdateRequest,
  UpdateWhereRequest,
  UpsertRequest,
} from "../gen/shoal/v1/record_service.js";
import {
  CreateSnapshotRequest,
  DeleteSnapshotRequest,
  GetSnapshotRequest,
  RestoreSnapshotRequest,
  SnapshotReference,
  SnapshotStatus,
} from "../gen/shoal/v1/snapshot_service.js";
import { IdList, Include, RecordBatch } from "../gen/shoal/v1/value.js";
import { call, type Clients, connect } from "./connection.js";
import { batch, type Query, readPackages, readQueries, type Row } from "./data.js";
import { refused } from "./failures.js";
import {
  allOf,
  bool,
  column,
  columnValues,
  condition,
  documentCondition,
  int,
  metadata,
  negation,
  none,
  pack,
  show,
  string,
  strings,
  unpack,
} from "./messages.js";

const BATCH = 25;

// With it, a write can be sent again after any failure, also by gRPC itself.
const newWriteId = (): Buffer => randomBytes(16);

/** The steps, in order. Keeps the newest session token: each call sees what the last one did. */
class Walk {
  readonly #clients: Clients;
  readonly #name = `walk-${randomBytes(8).toString("hex")}`;
  readonly #packages = readPackages();
  readonly #queries = readQueries();
  #collection = CollectionReference.create({ target: { $case: "name", value: this.#name } });
  #sessionToken: Buffer = Buffer.alloc(0);

  constructor(clients: Clients) {
    this.#clients = clients;
  }

  async run(): Promise<void> {
    await this.#connect();
    await this.#create();
    try {
      await this.#add();
      await this.#query();
      await this.#get();
      await this.#change();
      await this.#modify();
      await this.#snapshot();
      await this.#delete();
    } finally {
      await this.#drop();
    }
  }

  async #connect(): Promise<void> {
    const { admin } = this.#clients;
    // A deadline of its own; the other calls have those of the service config.
    const deadline = Date.now() + 5_000;
    await call(admin, admin.heartbeat, HeartbeatRequest.create(), { deadline });
    console.log("connected: the cluster is ready");
    const limits = await call(admin, admin.getLimits, GetLimitsRequest.create());
    console.log(`limits: ${limits.maxBatchRecords} records a write`);
  }

  async #create(): Promise<void> {
    const { collections } = this.#clients;
    const request = CreateCollectionRequest.fromPartial({
      name: this.#name,
      configuration: {
        hnsw: {
          space: Space.SPACE_COSINE,
          dimension: this.#packages[0]!.vector.length,
          maxNeighbors: 24,
          efConstruction: 200,
          efSearch: 80,
          shards: 2,
        },
      },
    });
    const { collection } = await call(collections, collections.createCollection, request);
    const hnsw = collection!.configuration!.hnsw!;
    console.log(
      `created: ${hnsw.space}, dimension ${hnsw.dimension}, ` +
        `max_neighbors ${hnsw.maxNeighbors}, ef_search ${hnsw.efSearch}, shards ${hnsw.shards}`,
    );
    // By ID: if the name is deleted and used again, nothing of ours gets into the wrong one.
    this.#collection = CollectionReference.create({
      target: { $case: "id", value: collection!.id },
    });
    await refused(call(collections, collections.createCollection, request));
  }

  async #add(): Promise<void> {
    const { records } = this.#clients;
    let request = AddRequest.create();
    for (let start = 0; start < this.#packages.length; start += BATCH) {
      request = AddRequest.create({
        collection: this.#collection,
        records: batch(this.#packages.slice(start, start + BATCH)),
        writeId: newWriteId(),
        sessionToken: this.#sessionToken,
      });
      const answer = await call(records, records.add, request);
      this.#sessionToken = answer.sessionToken;
      console.log(`added: ${answer.added} new, ${answer.ignored} known`);
    }
    const again = await call(records, records.add, request);
    console.log(`repeated: ${again.added} new, ${again.ignored} known`);
    const short = RecordBatch.create({ ids: ["short"], vectors: pack([[0.1, 0.2, 0.3]]) });
    await refused(
      call(records, records.add, { ...request, records: short, writeId: newWriteId() }),
      ...["expected", "actual"],
    );
  }

  async #query(): Promise<void> {
    await this.#printMatches(this.#queries.slice(0, 1), QueryRequest.create({ nResults: 3 }));
    // Many queries in one call, and only among what matches both filters.
    await this.#printMatches(
      this.#queries,
      QueryRequest.create({
        nResults: 2,
        where: allOf(
          condition(
            "section",
            WhereOperator.WHERE_OPERATOR_IN,
            strings(["libs", "utils", "science"]),
          ),
          condition("installed_kb", WhereOperator.WHERE_OPERATOR_GTE, int(100)),
          negation(condition("tags", WhereOperator.WHERE_OPERATOR_CONTAINS, string("role::plugin"))),
        ),
        whereDocument: documentCondition(DocumentOperator.DOCUMENT_OPERATOR_CONTAINS, "library"),
      }),
    );
  }

  async #printMatches(queries: Query[], request: QueryRequest): Promise<void> {
    const { records } = this.#clients;
    const answer = await call(records, records.query, {
      ...request,
      collection: this.#collection,
      queryVectors: pack(queries.map((query) => query.vector)),
      include: [Include.INCLUDE_METADATAS, Include.INCLUDE_DISTANCES],
      sessionToken: this.#sessionToken,
    });
    const found = answer.records!;
    let match = 0;
    answer.matchCounts.forEach((count, n) => {
      console.log(`nearest to: ${queries[n]!.text}`);
      for (const end = match + count; match < end; match++) {
        const kind = found.metadatas[match]!.fields.section?.kind;
        const section = kind?.$case === "stringValue" ? kind.value : "";
        console.log(`  ${answer.distances[match]!.toFixed(4)} ${found.ids[match]} (${section})`);
      }
    });
  }

  async #get(): Promise<void> {
    const { records } = this.#clients;
    const request = GetRequest.create({
      collection: this.#collection,
      where: condition("section", WhereOperator.WHERE_OPERATOR_EQ, string("libs")),
      limit: 10,
      sessionToken: this.#sessionToken,
    });
    let page = 0;
    do {
      const answer = await call(records, records.get, request);
      page += 1;
      const ids = answer.records!.ids;
      console.log(`page ${page}: ${ids.length} records, ${ids[0]} to ${ids.at(-1)}`);
      request.pageToken = answer.nextPageToken;
    } while (request.pageToken !== "");
    await this.#printRecord(this.#packages[0]!);
  }

  async #printRecord(expected: Row): Promise<void> {
    const { records } = this.#clients;
    const answer = await call(
      records,
      records.get,
      GetRequest.create({
        collection: this.#collection,
        ids: IdList.create({ values: [expected.id] }),
        include: [
          ...[Include.INCLUDE_METADATAS, Include.INCLUDE_DOCUMENTS],
          ...[Include.INCLUDE_VECTORS, Include.INCLUDE_URIS],
        ],
        sessionToken: this.#sessionToken,
      }),
    );
    const found = answer.records!;
    console.log(`record: ${found.ids[0]}`);
    console.log(`  document: ${columnValues(found.documents)[0] ?? "absent"}`);
    console.log(`  uri: ${columnValues(found.uris)[0] ?? "absent"}`);
    const sent = unpack(pack([expected.vector]))[0]!;
    const held = unpack(found.vectors!)[0]!;
    const isSame = held.length === sent.length && held.every((number, n) => number === sent[n]);
    console.log(`  vector: ${isSame ? "as it was sent" : "another"}`);
    const fields = found.metadatas[0]!.fields;
    for (const key of Object.keys(fields).sort()) console.log(`  ${key}: ${show(fields[key]!)}`);
  }

  async #change(): Promise<void> {
    const { records } = this.#clients;
    const [first, second, third] = this.#packages as [Row, Row, Row];
    const updated = await call(
      records,
      records.update,
      UpdateRequest.create({
        collection: this.#collection,
        records: RecordBatch.create({
          ids: [first.id, second.id, "deb:unknown"],
          // Keys are merged; a null removes one; no metadata leaves all as it is.
          metadatas: [
            metadata({ reviewed: bool(true), projection: none, flags: none }),
            metadata({ reviewed: bool(false) }),
            metadata(),
          ],
          documents: column(["A library for optimisation.", null, null]),
        }),
        writeId: newWriteId(),
        sessionToken: this.#sessionToken,
      }),
    );
    this.#sessionToken = updated.sessionToken;
    console.log(`updated: ${updated.updated} known, ${updated.ignored} unknown`);

    const between = {
      vector: second.vector.map((number, n) => (number + third.vector[n]!) / 2),
      document: null,
      uri: null,
      metadata: metadata({ reviewed: bool(true) }),
    };
    const mean = { ...between, id: "mean" };
    const upserted = await call(
      records,
      records.upsert,
      UpsertRequest.create({
        collection: this.#collection,
        records: batch([{ ...between, id: second.id }, mean]),
        writeId: newWriteId(),
        sessionToken: this.#sessionToken,
      }),
    );
    this.#sessionToken = upserted.sessionToken;
    console.log(`upserted: ${upserted.added} new, ${upserted.updated} known`);
    await this.#printRecord(first);
    await this.#printRecord(mean);

    const changed = await call(
      records,
      records.updateWhere,
      UpdateWhereRequest.create({
        collection: this.#collection,
        where: condition("section", WhereOperator.WHERE_OPERATOR_EQ, string("games")),
        metadata: metadata({ reviewed: bool(true) }),
        writeId: newWriteId(),
        sessionToken: this.#sessionToken,
      }),
    );
    this.#sessionToken = changed.sessionToken;
    console.log(`updated where: ${changed.matched} matched, ${changed.updated} changed`);
  }

  async #modify(): Promise<void> {
    const { collections, records } = this.#clients;
    const { collection } = await call(
      collections,
      collections.updateCollection,
      UpdateCollectionRequest.fromPartial({
        collection: this.#collection,
        newHnsw: { efSearch: 160 },
        newMetadata: metadata({ owner: string("examples") }),
      }),
    );
    const owner = show(collection!.metadata!.fields.owner!);
    console.log(`modified: ef_search ${collection!.configuration!.hnsw!.efSearch}, owner ${owner}`);

    const request = ListCollectionsRequest.create({ limit: 100 });
    const names: string[] = [];
    do {
      const answer = await call(collections, collections.listCollections, request);
      names.push(...answer.collections.map((listed) => listed.name));
      request.pageToken = answer.nextPageToken;
    } while (request.pageToken !== "");
    console.log(`listed: ${names.includes(this.#name) ? "found" : "missing"}`);
    const { ids } = await call(
      records,
      records.listIds,
      ListIdsRequest.create({
        collection: this.#collection,
        prefix: "deb:lib",
        sessionToken: this.#sessionToken,
      }),
    );
    console.log(`IDs that begin with deb:lib: ${ids.length}, first ${ids[0]}`);
    console.log(`count: ${await this.#count()}`);
    const reviewed = condition("reviewed", WhereOperator.WHERE_OPERATOR_EXISTS, bool(true));
    console.log(`count of reviewed: ${await this.#count(reviewed)}`);
  }

  async #count(where?: Where): Promise<bigint> {
    const { records } = this.#clients;
    const sessionToken = this.#sessionToken;
    const request = CountRequest.create({ collection: this.#collection, where, sessionToken });
    return (await call(records, records.count, request)).count;
  }

  async #snapshot(): Promise<void> {
    const { collections, records, snapshots } = this.#clients;
    const request = CreateSnapshotRequest.create({ name: this.#name, source: this.#collection });
    let { snapshot } = await call(snapshots, snapshots.createSnapshot, request);
    await refused(call(snapshots, snapshots.createSnapshot, request));
    const reference = SnapshotReference.create({ name: this.#name });
    // What lies at the point in time that the answer told of is copied behind it.
    while (snapshot!.status === SnapshotStatus.SNAPSHOT_STATUS_INITIALIZING) {
      await setTimeout(100);
      const asked = GetSnapshotRequest.create({ snapshot: reference });
      ({ snapshot } = await call(snapshots, snapshots.getSnapshot, asked));
    }
    console.log(`snapshot: ${SnapshotStatus[snapshot!.status]}, ${snapshot!.vectorCount} records`);

    const restore = RestoreSnapshotRequest.fromPartial({
      // Names the restoration: while it takes long, the same request goes on waiting.
      operationId: randomBytes(16),
      snapshot: reference,
      into: `${this.#name}-restored`,
      configuration: { hnsw: { shards: 3 } },
    });
    let restored = await call(snapshots, snapshots.restoreSnapshot, restore);
    while (!restored.done) {
      restored = await call(snapshots, snapshots.restoreSnapshot, restore);
    }
    const target = CollectionReference.create({
      target: { $case: "id", value: restored.collection!.id },
    });
    const counted = await call(records, records.count, CountRequest.create({ collection: target }));
    const shards = restored.collection!.configuration!.hnsw!.shards;
    console.log(`restored: ${counted.count} records, shards ${shards}`);
    const drop = DeleteCollectionRequest.create({ collection: target });
    await call(collections, collections.deleteCollection, drop);
    const remove = DeleteSnapshotRequest.create({ snapshot: reference });
    await call(snapshots, snapshots.deleteSnapshot, remove);
    console.log("deleted the snapshot");
  }

  async #delete(): Promise<void> {
    const { records } = this.#clients;
    const byFilter = await call(
      records,
      records.delete,
      DeleteRequest.create({
        collection: this.#collection,
        where: condition("section", WhereOperator.WHERE_OPERATOR_EQ, string("doc")),
        limit: 5,
        writeId: newWriteId(),
        sessionToken: this.#sessionToken,
      }),
    );
    console.log(`deleted by filter: ${byFilter.deleted}`);
    const byId = await call(
      records,
      records.delete,
      DeleteRequest.create({
        collection: this.#collection,
        ids: IdList.create({ values: ["mean", this.#packages[0]!.id, "deb:unknown"] }),
        writeId: newWriteId(),
        sessionToken: byFilter.sessionToken,
      }),
    );
    this.#sessionToken = byId.sessionToken;
    console.log(`deleted by ID: ${byId.deleted}`);
    console.log(`count: ${await this.#count()}`);
  }

  async #drop(): Promise<void> {
    const { collections } = this.#clients;
    const request = DeleteCollectionRequest.create({ collection: this.#collection });
    await call(collections, collections.deleteCollection, request);
    console.log("deleted the collection");
    await refused(this.#count());
  }
}

const clients = connect();
try {
  await new Walk(clients).run();
} finally {
  clients.close();
}
