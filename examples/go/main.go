// A walk through Shoal by its gRPC stubs alone: each step asks one thing of the server, and prints
// what came of it.
package main

//go:generate buf generate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	shoalv1 "shoal.example/walk/gen/shoal/v1"
)

const (
	protosFolder = "../../protos"
	dataFolder   = "../data"
	batchSize    = 25
)

func main() {
	log.SetFlags(0)
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	connection, err := connect(protosFolder)
	if err != nil {
		return err
	}
	defer connection.Close()
	packages, err := readPackages(dataFolder)
	if err != nil {
		return err
	}
	queries, err := readLines[query](dataFolder, "queries.jsonl")
	if err != nil {
		return err
	}
	return newWalk(connection, packages, queries).run(ctx)
}

// walk has the steps. It keeps the newest session token: each call sees what the last one did.
type walk struct {
	admin        shoalv1.AdminServiceClient
	collections  shoalv1.CollectionServiceClient
	records      shoalv1.RecordServiceClient
	snapshots    shoalv1.SnapshotServiceClient
	name         string
	packages     []row
	queries      []query
	collection   *shoalv1.CollectionReference
	sessionToken []byte
}

func newWalk(connection *grpc.ClientConn, packages []row, queries []query) *walk {
	return &walk{
		admin:       shoalv1.NewAdminServiceClient(connection),
		collections: shoalv1.NewCollectionServiceClient(connection),
		records:     shoalv1.NewRecordServiceClient(connection),
		snapshots:   shoalv1.NewSnapshotServiceClient(connection),
		name:        "walk-" + hex.EncodeToString(randomBytes(8)),
		packages:    packages,
		queries:     queries,
	}
}

func randomBytes(count int) []byte {
	bytes := make([]byte, count)
	rand.Read(bytes) // never fails
	return bytes
}

// newWriteID names a write, so that it can be sent again after any failure, also by gRPC itself.
func newWriteID() []byte { return randomBytes(16) }

func (w *walk) run(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	if err := w.create(ctx); err != nil {
		return err
	}
	err := w.steps(ctx)
	return errors.Join(err, w.drop(ctx))
}

func (w *walk) steps(ctx context.Context) error {
	steps := []func(context.Context) error{w.add, w.query, w.get, w.change, w.modify, w.snapshot, w.delete}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) connect(ctx context.Context) error {
	// A deadline of its own; the other calls have those of the service config.
	hurried, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.admin.Heartbeat(hurried, &shoalv1.HeartbeatRequest{}); err != nil {
		return err
	}
	fmt.Println("connected: the cluster is ready")
	limits, err := w.admin.GetLimits(ctx, &shoalv1.GetLimitsRequest{})
	if err != nil {
		return err
	}
	fmt.Printf("limits: %d records a write\n", limits.GetMaxBatchRecords())
	return nil
}

func (w *walk) create(ctx context.Context) error {
	request := &shoalv1.CreateCollectionRequest{
		Name: w.name,
		Configuration: &shoalv1.CollectionConfiguration{
			Hnsw: &shoalv1.HnswConfiguration{
				Space:          shoalv1.Space_SPACE_COSINE,
				Dimension:      proto.Uint32(uint32(len(w.packages[0].vector))),
				MaxNeighbors:   proto.Uint32(24),
				EfConstruction: proto.Uint32(200),
				EfSearch:       proto.Uint32(80),
				Shards:         proto.Uint32(2),
			},
		},
	}
	answer, err := w.collections.CreateCollection(ctx, request)
	if err != nil {
		return err
	}
	hnsw := answer.GetCollection().GetConfiguration().GetHnsw()
	fmt.Printf("created: %s, dimension %d, max_neighbors %d, ef_search %d, shards %d\n",
		hnsw.GetSpace(), hnsw.GetDimension(), hnsw.GetMaxNeighbors(), hnsw.GetEfSearch(), hnsw.GetShards())
	// By ID: if the name is deleted and used again, nothing of ours gets into the wrong one.
	w.collection = &shoalv1.CollectionReference{
		Target: &shoalv1.CollectionReference_Id{Id: answer.GetCollection().GetId()},
	}
	_, err = w.collections.CreateCollection(ctx, request)
	return refused(err)
}

func (w *walk) add(ctx context.Context) error {
	request := &shoalv1.AddRequest{Collection: w.collection}
	for rows := range slices.Chunk(w.packages, batchSize) {
		request.Records = batch(rows)
		request.WriteId = newWriteID()
		request.SessionToken = w.sessionToken
		answer, err := w.records.Add(ctx, request)
		if err != nil {
			return err
		}
		w.sessionToken = answer.GetSessionToken()
		fmt.Printf("added: %d new, %d known\n", answer.GetAdded(), answer.GetIgnored())
	}
	again, err := w.records.Add(ctx, request)
	if err != nil {
		return err
	}
	fmt.Printf("repeated: %d new, %d known\n", again.GetAdded(), again.GetIgnored())
	request.Records = &shoalv1.RecordBatch{Ids: []string{"short"}, Vectors: pack([]float32{0.1, 0.2, 0.3})}
	request.WriteId = newWriteID()
	_, err = w.records.Add(ctx, request)
	return refused(err, "expected", "actual")
}

func (w *walk) query(ctx context.Context) error {
	err := w.printMatches(ctx, w.queries[:1], &shoalv1.QueryRequest{NResults: 3})
	if err != nil {
		return err
	}
	// Many queries in one call, and only among what matches both filters.
	return w.printMatches(ctx, w.queries, &shoalv1.QueryRequest{
		NResults: 2,
		Where: allOf(
			condition("section", shoalv1.WhereOperator_WHERE_OPERATOR_IN, []string{"libs", "utils", "science"}),
			condition("installed_kb", shoalv1.WhereOperator_WHERE_OPERATOR_GTE, int64(100)),
			negation(condition("tags", shoalv1.WhereOperator_WHERE_OPERATOR_CONTAINS, "role::plugin")),
		),
		WhereDocument: documentCondition(shoalv1.DocumentOperator_DOCUMENT_OPERATOR_CONTAINS, "library"),
	})
}

func (w *walk) printMatches(ctx context.Context, queries []query, request *shoalv1.QueryRequest) error {
	vectors := make([][]float32, len(queries))
	for n, held := range queries {
		vectors[n] = held.Vector
	}
	request.Collection = w.collection
	request.QueryVectors = pack(vectors...)
	request.Include = []shoalv1.Include{
		shoalv1.Include_INCLUDE_METADATAS, shoalv1.Include_INCLUDE_DISTANCES,
	}
	request.SessionToken = w.sessionToken
	answer, err := w.records.Query(ctx, request)
	if err != nil {
		return err
	}
	found, match := answer.GetRecords(), 0
	for n, count := range answer.GetMatchCounts() {
		fmt.Printf("nearest to: %s\n", queries[n].Text)
		for range count {
			section := found.GetMetadatas()[match].GetFields()["section"].GetStringValue()
			fmt.Printf("  %.4f %s (%s)\n", answer.GetDistances()[match], found.GetIds()[match], section)
			match++
		}
	}
	return nil
}

func (w *walk) get(ctx context.Context) error {
	request := &shoalv1.GetRequest{
		Collection:   w.collection,
		Where:        condition("section", shoalv1.WhereOperator_WHERE_OPERATOR_EQ, "libs"),
		Limit:        proto.Uint32(10),
		SessionToken: w.sessionToken,
	}
	for page := 1; page == 1 || request.GetPageToken() != ""; page++ {
		answer, err := w.records.Get(ctx, request)
		if err != nil {
			return err
		}
		ids := answer.GetRecords().GetIds()
		fmt.Printf("page %d: %d records, %s to %s\n", page, len(ids), ids[0], ids[len(ids)-1])
		request.PageToken = answer.GetNextPageToken()
	}
	return w.printRecord(ctx, w.packages[0])
}

func (w *walk) printRecord(ctx context.Context, expected row) error {
	answer, err := w.records.Get(ctx, &shoalv1.GetRequest{
		Collection: w.collection,
		Ids:        &shoalv1.IdList{Values: []string{expected.id}},
		Include: []shoalv1.Include{
			shoalv1.Include_INCLUDE_METADATAS, shoalv1.Include_INCLUDE_DOCUMENTS,
			shoalv1.Include_INCLUDE_VECTORS, shoalv1.Include_INCLUDE_URIS,
		},
		SessionToken: w.sessionToken,
	})
	if err != nil {
		return err
	}
	found := answer.GetRecords()
	fmt.Printf("record: %s\n", found.GetIds()[0])
	printText("document", found.GetDocuments())
	printText("uri", found.GetUris())
	if slices.Equal(unpack(found.GetVectors())[0], expected.vector) {
		fmt.Println("  vector: as it was sent")
	} else {
		fmt.Println("  vector: another")
	}
	metadata := found.GetMetadatas()[0].GetFields()
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		fmt.Printf("  %s: %s\n", key, show(metadata[key]))
	}
	return nil
}

func printText(name string, held *shoalv1.StringColumn) {
	text, ok := columnValue(held, 0)
	if !ok {
		text = "absent"
	}
	fmt.Printf("  %s: %s\n", name, text)
}

func (w *walk) change(ctx context.Context) error {
	first, second, third := w.packages[0], w.packages[1], w.packages[2]
	updated, err := w.records.Update(ctx, &shoalv1.UpdateRequest{
		Collection: w.collection,
		Records: &shoalv1.RecordBatch{
			Ids: []string{first.id, second.id, "deb:unknown"},
			// Keys are merged; a nil removes one; no metadata leaves all as it is.
			Metadatas: []*shoalv1.Metadata{
				fields{"reviewed": true, "projection": nil, "flags": nil}.message(),
				fields{"reviewed": false}.message(),
				fields{}.message(),
			},
			Documents: column(proto.String("A library for optimisation."), nil, nil),
		},
		WriteId:      newWriteID(),
		SessionToken: w.sessionToken,
	})
	if err != nil {
		return err
	}
	w.sessionToken = updated.GetSessionToken()
	fmt.Printf("updated: %d known, %d unknown\n", updated.GetUpdated(), updated.GetIgnored())

	between := row{id: "mean", vector: make([]float32, len(second.vector)), metadata: fields{"reviewed": true}}
	for n := range between.vector {
		between.vector[n] = float32((float64(second.vector[n]) + float64(third.vector[n])) / 2)
	}
	moved := between
	moved.id = second.id
	upserted, err := w.records.Upsert(ctx, &shoalv1.UpsertRequest{
		Collection:   w.collection,
		Records:      batch([]row{moved, between}),
		WriteId:      newWriteID(),
		SessionToken: w.sessionToken,
	})
	if err != nil {
		return err
	}
	w.sessionToken = upserted.GetSessionToken()
	fmt.Printf("upserted: %d new, %d known\n", upserted.GetAdded(), upserted.GetUpdated())
	for _, expected := range []row{first, between} {
		if err := w.printRecord(ctx, expected); err != nil {
			return err
		}
	}

	changed, err := w.records.UpdateWhere(ctx, &shoalv1.UpdateWhereRequest{
		Collection:   w.collection,
		Where:        condition("section", shoalv1.WhereOperator_WHERE_OPERATOR_EQ, "games"),
		Metadata:     fields{"reviewed": true}.message(),
		WriteId:      newWriteID(),
		SessionToken: w.sessionToken,
	})
	if err != nil {
		return err
	}
	w.sessionToken = changed.GetSessionToken()
	fmt.Printf("updated where: %d matched, %d changed\n", changed.GetMatched(), changed.GetUpdated())
	return nil
}

func (w *walk) modify(ctx context.Context) error {
	modified, err := w.collections.UpdateCollection(ctx, &shoalv1.UpdateCollectionRequest{
		Collection:  w.collection,
		NewHnsw:     &shoalv1.HnswConfiguration{EfSearch: proto.Uint32(160)},
		NewMetadata: fields{"owner": "examples"}.message(),
	})
	if err != nil {
		return err
	}
	collection := modified.GetCollection()
	fmt.Printf("modified: ef_search %d, owner %s\n",
		collection.GetConfiguration().GetHnsw().GetEfSearch(), show(collection.GetMetadata().GetFields()["owner"]))

	if err := w.list(ctx); err != nil {
		return err
	}
	listed, err := w.records.ListIds(ctx, &shoalv1.ListIdsRequest{
		Collection: w.collection, Prefix: "deb:lib", SessionToken: w.sessionToken,
	})
	if err != nil {
		return err
	}
	fmt.Printf("IDs that begin with deb:lib: %d, first %s\n", len(listed.GetIds()), listed.GetIds()[0])
	if err := w.printCount(ctx, "count", nil); err != nil {
		return err
	}
	reviewed := condition("reviewed", shoalv1.WhereOperator_WHERE_OPERATOR_EXISTS, true)
	return w.printCount(ctx, "count of reviewed", reviewed)
}

func (w *walk) list(ctx context.Context) error {
	request := &shoalv1.ListCollectionsRequest{Limit: proto.Uint32(100)}
	for state := "missing"; ; {
		answer, err := w.collections.ListCollections(ctx, request)
		if err != nil {
			return err
		}
		for _, listed := range answer.GetCollections() {
			if listed.GetName() == w.name {
				state = "found"
			}
		}
		request.PageToken = answer.GetNextPageToken()
		if request.GetPageToken() == "" {
			fmt.Printf("listed: %s\n", state)
			return nil
		}
	}
}

func (w *walk) printCount(ctx context.Context, what string, where *shoalv1.Where) error {
	counted, err := w.records.Count(ctx, &shoalv1.CountRequest{
		Collection: w.collection, Where: where, SessionToken: w.sessionToken,
	})
	if err == nil {
		fmt.Printf("%s: %d\n", what, counted.GetCount())
	}
	return err
}

func (w *walk) snapshot(ctx context.Context) error {
	request := &shoalv1.CreateSnapshotRequest{Name: w.name, Source: w.collection}
	created, err := w.snapshots.CreateSnapshot(ctx, request)
	if err != nil {
		return err
	}
	_, err = w.snapshots.CreateSnapshot(ctx, request)
	if err := refused(err); err != nil {
		return err
	}
	reference := &shoalv1.SnapshotReference{Name: w.name}
	snapshot := created.GetSnapshot()
	// What lies at the point in time that the answer told of is copied behind it.
	for snapshot.GetStatus() == shoalv1.SnapshotStatus_SNAPSHOT_STATUS_INITIALIZING {
		time.Sleep(100 * time.Millisecond)
		answer, err := w.snapshots.GetSnapshot(ctx, &shoalv1.GetSnapshotRequest{Snapshot: reference})
		if err != nil {
			return err
		}
		snapshot = answer.GetSnapshot()
	}
	fmt.Printf("snapshot: %s, %d records\n", snapshot.GetStatus(), snapshot.GetVectorCount())
	if err := w.restore(ctx, reference); err != nil {
		return err
	}
	_, err = w.snapshots.DeleteSnapshot(ctx, &shoalv1.DeleteSnapshotRequest{Snapshot: reference})
	if err == nil {
		fmt.Println("deleted the snapshot")
	}
	return err
}

func (w *walk) restore(ctx context.Context, reference *shoalv1.SnapshotReference) error {
	request := &shoalv1.RestoreSnapshotRequest{
		// Names the restoration: while it takes long, the same request goes on waiting.
		OperationId: newWriteID(),
		Snapshot:    reference,
		Into:        w.name + "-restored",
		Configuration: &shoalv1.CollectionConfiguration{
			Hnsw: &shoalv1.HnswConfiguration{Shards: proto.Uint32(3)},
		},
	}
	restored := &shoalv1.RestoreSnapshotResponse{}
	for !restored.GetDone() {
		var err error
		if restored, err = w.snapshots.RestoreSnapshot(ctx, request); err != nil {
			return err
		}
	}
	target := &shoalv1.CollectionReference{
		Target: &shoalv1.CollectionReference_Id{Id: restored.GetCollection().GetId()},
	}
	counted, err := w.records.Count(ctx, &shoalv1.CountRequest{Collection: target})
	if err != nil {
		return err
	}
	shards := restored.GetCollection().GetConfiguration().GetHnsw().GetShards()
	fmt.Printf("restored: %d records, shards %d\n", counted.GetCount(), shards)
	_, err = w.collections.DeleteCollection(ctx, &shoalv1.DeleteCollectionRequest{Collection: target})
	return err
}

func (w *walk) delete(ctx context.Context) error {
	byFilter, err := w.records.Delete(ctx, &shoalv1.DeleteRequest{
		Collection:   w.collection,
		Where:        condition("section", shoalv1.WhereOperator_WHERE_OPERATOR_EQ, "doc"),
		Limit:        proto.Uint32(5),
		WriteId:      newWriteID(),
		SessionToken: w.sessionToken,
	})
	if err != nil {
		return err
	}
	fmt.Printf("deleted by filter: %d\n", byFilter.GetDeleted())
	byID, err := w.records.Delete(ctx, &shoalv1.DeleteRequest{
		Collection:   w.collection,
		Ids:          &shoalv1.IdList{Values: []string{"mean", w.packages[0].id, "deb:unknown"}},
		WriteId:      newWriteID(),
		SessionToken: byFilter.GetSessionToken(),
	})
	if err != nil {
		return err
	}
	w.sessionToken = byID.GetSessionToken()
	fmt.Printf("deleted by ID: %d\n", byID.GetDeleted())
	return w.printCount(ctx, "count", nil)
}

func (w *walk) drop(ctx context.Context) error {
	request := &shoalv1.DeleteCollectionRequest{Collection: w.collection}
	if _, err := w.collections.DeleteCollection(ctx, request); err != nil {
		return err
	}
	fmt.Println("deleted the collection")
	return refused(w.printCount(ctx, "count", nil))
}
