package io.shoal.examples;

import static io.shoal.examples.Failures.refused;
import static io.shoal.examples.Messages.allOf;
import static io.shoal.examples.Messages.column;
import static io.shoal.examples.Messages.columnValue;
import static io.shoal.examples.Messages.condition;
import static io.shoal.examples.Messages.document;
import static io.shoal.examples.Messages.metadata;
import static io.shoal.examples.Messages.negation;
import static io.shoal.examples.Messages.none;
import static io.shoal.examples.Messages.pack;
import static io.shoal.examples.Messages.show;
import static io.shoal.examples.Messages.strings;
import static io.shoal.examples.Messages.unpack;
import static io.shoal.examples.Messages.value;

import com.google.protobuf.ByteString;
import io.grpc.ManagedChannel;
import io.shoal.examples.Data.Query;
import io.shoal.examples.Data.Row;
import io.shoal.v1.AddRequest;
import io.shoal.v1.AdminServiceGrpc;
import io.shoal.v1.AdminServiceGrpc.AdminServiceBlockingStub;
import io.shoal.v1.CollectionConfiguration;
import io.shoal.v1.CollectionReference;
import io.shoal.v1.CollectionServiceGrpc;
import io.shoal.v1.CollectionServiceGrpc.CollectionServiceBlockingStub;
import io.shoal.v1.CountRequest;
import io.shoal.v1.CreateCollectionRequest;
import io.shoal.v1.CreateSnapshotRequest;
import io.shoal.v1.DeleteCollectionRequest;
import io.shoal.v1.DeleteRequest;
import io.shoal.v1.DeleteSnapshotRequest;
import io.shoal.v1.DocumentOperator;
import io.shoal.v1.GetLimitsRequest;
import io.shoal.v1.GetRequest;
import io.shoal.v1.GetSnapshotRequest;
import io.shoal.v1.HeartbeatRequest;
import io.shoal.v1.HnswConfiguration;
import io.shoal.v1.IdList;
import io.shoal.v1.Include;
import io.shoal.v1.ListCollectionsRequest;
import io.shoal.v1.ListIdsRequest;
import io.shoal.v1.QueryRequest;
import io.shoal.v1.RecordBatch;
import io.shoal.v1.RecordServiceGrpc;
import io.shoal.v1.RecordServiceGrpc.RecordServiceBlockingStub;
import io.shoal.v1.RestoreSnapshotRequest;
import io.shoal.v1.RestoreSnapshotResponse;
import io.shoal.v1.SnapshotReference;
import io.shoal.v1.SnapshotServiceGrpc;
import io.shoal.v1.SnapshotServiceGrpc.SnapshotServiceBlockingStub;
import io.shoal.v1.SnapshotStatus;
import io.shoal.v1.Space;
import io.shoal.v1.UpdateCollectionRequest;
import io.shoal.v1.UpdateRequest;
import io.shoal.v1.UpdateWhereRequest;
import io.shoal.v1.UpsertRequest;
import io.shoal.v1.Where;
import io.shoal.v1.WhereOperator;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;

/**
 * A walk through Shoal by its gRPC stubs alone: each step asks one thing of the server, and prints
 * what came of it. Keeps the newest session token: each call sees what the last one did.
 */
public final class Walk {
  private static final int BATCH = 25;
  private static final SecureRandom RANDOM = new SecureRandom();

  private final AdminServiceBlockingStub admin;
  private final CollectionServiceBlockingStub collections;
  private final RecordServiceBlockingStub records;
  private final SnapshotServiceBlockingStub snapshots;
  private final String name = "walk-" + HexFormat.of().formatHex(randomBytes(8));
  private final List<Row> packages;
  private final List<Query> queries;
  private CollectionReference collection = CollectionReference.newBuilder().setName(name).build();
  private ByteString sessionToken = ByteString.EMPTY;

  private Walk(ManagedChannel channel, List<Row> packages, List<Query> queries) {
    this.admin = Connection.withApiKey(AdminServiceGrpc.newBlockingStub(channel));
    this.collections = Connection.withApiKey(CollectionServiceGrpc.newBlockingStub(channel));
    this.records = Connection.withApiKey(RecordServiceGrpc.newBlockingStub(channel));
    this.snapshots = Connection.withApiKey(SnapshotServiceGrpc.newBlockingStub(channel));
    this.packages = packages;
    this.queries = queries;
  }

  public static void main(String[] arguments) throws Exception {
    Path data = Path.of("../data");
    ManagedChannel channel = Connection.open(Path.of("../../protos"));
    try {
      new Walk(channel, Data.readPackages(data), Data.readQueries(data)).run();
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  private static byte[] randomBytes(int count) {
    byte[] bytes = new byte[count];
    RANDOM.nextBytes(bytes);
    return bytes;
  }

  /** Names a write, so that it can be sent again after any failure, also by gRPC itself. */
  private static ByteString newWriteId() {
    return ByteString.copyFrom(randomBytes(16));
  }

  private static void print(String format, Object... values) {
    System.out.println(String.format(Locale.ROOT, format, values));
  }

  private void run() throws InterruptedException {
    connect();
    create();
    try {
      add();
      query();
      get();
      change();
      modify();
      snapshot();
      delete();
    } finally {
      drop();
    }
  }

  private void connect() {
    // A deadline of its own; the other calls have those of the service config.
    admin.withDeadlineAfter(5, TimeUnit.SECONDS).heartbeat(HeartbeatRequest.getDefaultInstance());
    print("connected: the cluster is ready");
    var limits = admin.getLimits(GetLimitsRequest.getDefaultInstance());
    print("limits: %d records a write", limits.getMaxBatchRecords());
  }

  private void create() {
    CreateCollectionRequest request =
        CreateCollectionRequest.newBuilder()
            .setName(name)
            .setConfiguration(
                CollectionConfiguration.newBuilder()
                    .setHnsw(
                        HnswConfiguration.newBuilder()
                            .setSpace(Space.SPACE_COSINE)
                            .setDimension(packages.get(0).vector().length)
                            .setMaxNeighbors(24)
                            .setEfConstruction(200)
                            .setEfSearch(80)
                            .setShards(2)))
            .build();
    var created = collections.createCollection(request).getCollection();
    HnswConfiguration hnsw = created.getConfiguration().getHnsw();
    print(
        "created: %s, dimension %d, max_neighbors %d, ef_search %d, shards %d",
        hnsw.getSpace(),
        hnsw.getDimension(),
        hnsw.getMaxNeighbors(),
        hnsw.getEfSearch(),
        hnsw.getShards());
    // By ID: if the name is deleted and used again, nothing of ours gets into the wrong one.
    collection = CollectionReference.newBuilder().setId(created.getId()).build();
    refused(() -> collections.createCollection(request));
  }

  private void add() {
    AddRequest request = AddRequest.getDefaultInstance();
    for (int start = 0; start < packages.size(); start += BATCH) {
      int end = Math.min(start + BATCH, packages.size());
      request =
          AddRequest.newBuilder()
              .setCollection(collection)
              .setRecords(Data.batch(packages.subList(start, end)))
              .setWriteId(newWriteId())
              .setSessionToken(sessionToken)
              .build();
      var answer = records.add(request);
      sessionToken = answer.getSessionToken();
      print("added: %d new, %d known", answer.getAdded(), answer.getIgnored());
    }
    var again = records.add(request);
    print("repeated: %d new, %d known", again.getAdded(), again.getIgnored());
    AddRequest wrong =
        request.toBuilder()
            .setWriteId(newWriteId())
            .setRecords(
                RecordBatch.newBuilder()
                    .addIds("short")
                    .setVectors(pack(List.of(new float[] {0.1f, 0.2f, 0.3f}))))
            .build();
    refused(() -> records.add(wrong), "expected", "actual");
  }

  private void query() {
    printMatches(queries.subList(0, 1), QueryRequest.newBuilder().setNResults(3));
    // Many queries in one call, and only among what matches both filters.
    printMatches(
        queries,
        QueryRequest.newBuilder()
            .setNResults(2)
            .setWhere(
                allOf(
                    condition(
                        "section",
                        WhereOperator.WHERE_OPERATOR_IN,
                        strings(List.of("libs", "utils", "science"))),
                    condition("installed_kb", WhereOperator.WHERE_OPERATOR_GTE, value(100)),
                    negation(
                        condition(
                            "tags", WhereOperator.WHERE_OPERATOR_CONTAINS, value("role::plugin")))))
            .setWhereDocument(document(DocumentOperator.DOCUMENT_OPERATOR_CONTAINS, "library")));
  }

  private void printMatches(List<Query> queries, QueryRequest.Builder request) {
    var answer =
        records.query(
            request
                .setCollection(collection)
                .setQueryVectors(pack(queries.stream().map(query -> query.vector).toList()))
                .addInclude(Include.INCLUDE_METADATAS)
                .addInclude(Include.INCLUDE_DISTANCES)
                .setSessionToken(sessionToken)
                .build());
    var found = answer.getRecords();
    int match = 0;
    for (int n = 0; n < queries.size(); n++) {
      print("nearest to: %s", queries.get(n).text);
      for (int end = match + answer.getMatchCounts(n); match < end; match++) {
        String section = found.getMetadatas(match).getFieldsOrThrow("section").getStringValue();
        print("  %.4f %s (%s)", answer.getDistances(match), found.getIds(match), section);
      }
    }
  }

  private void get() {
    GetRequest.Builder request =
        GetRequest.newBuilder()
            .setCollection(collection)
            .setWhere(condition("section", WhereOperator.WHERE_OPERATOR_EQ, value("libs")))
            .setLimit(10)
            .setSessionToken(sessionToken);
    int page = 0;
    do {
      var answer = records.get(request.build());
      page++;
      var ids = answer.getRecords().getIdsList();
      print("page %d: %d records, %s to %s", page, ids.size(), ids.get(0), ids.get(ids.size() - 1));
      request.setPageToken(answer.getNextPageToken());
    } while (!request.getPageToken().isEmpty());
    printRecord(packages.get(0));
  }

  private void printRecord(Row expected) {
    var found =
        records
            .get(
                GetRequest.newBuilder()
                    .setCollection(collection)
                    .setIds(IdList.newBuilder().addValues(expected.id()))
                    .addInclude(Include.INCLUDE_METADATAS)
                    .addInclude(Include.INCLUDE_DOCUMENTS)
                    .addInclude(Include.INCLUDE_VECTORS)
                    .addInclude(Include.INCLUDE_URIS)
                    .setSessionToken(sessionToken)
                    .build())
            .getRecords();
    print("record: %s", found.getIds(0));
    print("  document: %s", columnValue(found.getDocuments(), 0).orElse("absent"));
    print("  uri: %s", columnValue(found.getUris(), 0).orElse("absent"));
    boolean isSame = Arrays.equals(unpack(found.getVectors()).get(0), expected.vector());
    print("  vector: %s", isSame ? "as it was sent" : "another");
    new TreeMap<>(found.getMetadatas(0).getFieldsMap())
        .forEach((key, held) -> print("  %s: %s", key, show(held)));
  }

  private void change() {
    Row first = packages.get(0);
    Row second = packages.get(1);
    Row third = packages.get(2);
    var updated =
        records.update(
            UpdateRequest.newBuilder()
                .setCollection(collection)
                .setRecords(
                    RecordBatch.newBuilder()
                        .addAllIds(List.of(first.id(), second.id(), "deb:unknown"))
                        // Keys are merged; a null removes one; no metadata leaves all as it is.
                        .addMetadatas(
                            metadata(
                                Map.of(
                                    "reviewed", value(true), "projection", none(), "flags", none())))
                        .addMetadatas(metadata(Map.of("reviewed", value(false))))
                        .addMetadatas(metadata(Map.of()))
                        .setDocuments(
                            column(
                                List.of(
                                    Optional.of("A library for optimisation."),
                                    Optional.empty(),
                                    Optional.empty()))))
                .setWriteId(newWriteId())
                .setSessionToken(sessionToken)
                .build());
    sessionToken = updated.getSessionToken();
    print("updated: %d known, %d unknown", updated.getUpdated(), updated.getIgnored());

    float[] between = new float[second.vector().length];
    for (int n = 0; n < between.length; n++) {
      between[n] = (second.vector()[n] + third.vector()[n]) / 2;
    }
    var reviewed = metadata(Map.of("reviewed", value(true)));
    Row mean = new Row("mean", between, Optional.empty(), Optional.empty(), reviewed);
    Row moved = new Row(second.id(), between, Optional.empty(), Optional.empty(), reviewed);
    var upserted =
        records.upsert(
            UpsertRequest.newBuilder()
                .setCollection(collection)
                .setRecords(Data.batch(List.of(moved, mean)))
                .setWriteId(newWriteId())
                .setSessionToken(sessionToken)
                .build());
    sessionToken = upserted.getSessionToken();
    print("upserted: %d new, %d known", upserted.getAdded(), upserted.getUpdated());
    printRecord(first);
    printRecord(mean);

    var changed =
        records.updateWhere(
            UpdateWhereRequest.newBuilder()
                .setCollection(collection)
                .setWhere(condition("section", WhereOperator.WHERE_OPERATOR_EQ, value("games")))
                .setMetadata(reviewed)
                .setWriteId(newWriteId())
                .setSessionToken(sessionToken)
                .build());
    sessionToken = changed.getSessionToken();
    print("updated where: %d matched, %d changed", changed.getMatched(), changed.getUpdated());
  }

  private void modify() {
    var modified =
        collections
            .updateCollection(
                UpdateCollectionRequest.newBuilder()
                    .setCollection(collection)
                    .setNewHnsw(HnswConfiguration.newBuilder().setEfSearch(160))
                    .setNewMetadata(metadata(Map.of("owner", value("examples"))))
                    .build())
            .getCollection();
    print(
        "modified: ef_search %d, owner %s",
        modified.getConfiguration().getHnsw().getEfSearch(),
        show(modified.getMetadata().getFieldsOrThrow("owner")));

    ListCollectionsRequest.Builder request = ListCollectionsRequest.newBuilder().setLimit(100);
    List<String> names = new ArrayList<>();
    do {
      var answer = collections.listCollections(request.build());
      answer.getCollectionsList().forEach(listed -> names.add(listed.getName()));
      request.setPageToken(answer.getNextPageToken());
    } while (!request.getPageToken().isEmpty());
    print("listed: %s", names.contains(name) ? "found" : "missing");
    var ids =
        records
            .listIds(
                ListIdsRequest.newBuilder()
                    .setCollection(collection)
                    .setPrefix("deb:lib")
                    .setSessionToken(sessionToken)
                    .build())
            .getIdsList();
    print("IDs that begin with deb:lib: %d, first %s", ids.size(), ids.get(0));
    print("count: %d", count(Optional.empty()));
    Where reviewed = condition("reviewed", WhereOperator.WHERE_OPERATOR_EXISTS, value(true));
    print("count of reviewed: %d", count(Optional.of(reviewed)));
  }

  private long count(Optional<Where> where) {
    CountRequest.Builder request =
        CountRequest.newBuilder().setCollection(collection).setSessionToken(sessionToken);
    where.ifPresent(request::setWhere);
    return records.count(request.build()).getCount();
  }

  private void snapshot() throws InterruptedException {
    CreateSnapshotRequest request =
        CreateSnapshotRequest.newBuilder().setName(name).setSource(collection).build();
    var snapshot = snapshots.createSnapshot(request).getSnapshot();
    refused(() -> snapshots.createSnapshot(request));
    SnapshotReference reference = SnapshotReference.newBuilder().setName(name).build();
    // What lies at the point in time that the answer told of is copied behind it.
    while (snapshot.getStatus() == SnapshotStatus.SNAPSHOT_STATUS_INITIALIZING) {
      TimeUnit.MILLISECONDS.sleep(100);
      snapshot =
          snapshots
              .getSnapshot(GetSnapshotRequest.newBuilder().setSnapshot(reference).build())
              .getSnapshot();
    }
    print("snapshot: %s, %d records", snapshot.getStatus(), snapshot.getVectorCount());

    RestoreSnapshotRequest restore =
        RestoreSnapshotRequest.newBuilder()
            // Names the restoration: while it takes long, the same request goes on waiting.
            .setOperationId(ByteString.copyFrom(randomBytes(16)))
            .setSnapshot(reference)
            .setInto(name + "-restored")
            .setConfiguration(
                CollectionConfiguration.newBuilder()
                    .setHnsw(HnswConfiguration.newBuilder().setShards(3)))
            .build();
    RestoreSnapshotResponse restored;
    do {
      restored = snapshots.restoreSnapshot(restore);
    } while (!restored.getDone());
    CollectionReference target =
        CollectionReference.newBuilder().setId(restored.getCollection().getId()).build();
    long counted =
        records.count(CountRequest.newBuilder().setCollection(target).build()).getCount();
    int shards = restored.getCollection().getConfiguration().getHnsw().getShards();
    print("restored: %d records, shards %d", counted, shards);
    collections.deleteCollection(
        DeleteCollectionRequest.newBuilder().setCollection(target).build());
    snapshots.deleteSnapshot(DeleteSnapshotRequest.newBuilder().setSnapshot(reference).build());
    print("deleted the snapshot");
  }

  private void delete() {
    var byFilter =
        records.delete(
            DeleteRequest.newBuilder()
                .setCollection(collection)
                .setWhere(condition("section", WhereOperator.WHERE_OPERATOR_EQ, value("doc")))
                .setLimit(5)
                .setWriteId(newWriteId())
                .setSessionToken(sessionToken)
                .build());
    print("deleted by filter: %d", byFilter.getDeleted());
    var ids = List.of("mean", packages.get(0).id(), "deb:unknown");
    var byId =
        records.delete(
            DeleteRequest.newBuilder()
                .setCollection(collection)
                .setIds(IdList.newBuilder().addAllValues(ids))
                .setWriteId(newWriteId())
                .setSessionToken(byFilter.getSessionToken())
                .build());
    sessionToken = byId.getSessionToken();
    print("deleted by ID: %d", byId.getDeleted());
    print("count: %d", count(Optional.empty()));
  }

  private void drop() {
    collections.deleteCollection(
        DeleteCollectionRequest.newBuilder().setCollection(collection).build());
    print("deleted the collection");
    refused(() -> count(Optional.empty()));
  }
}
