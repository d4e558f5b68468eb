package main

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// cases reads a file of protos/testdata.
func cases[Case any](t *testing.T, name string) []Case {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(protosFolder, "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []Case }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Cases
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	bytes, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestMessagesReadAsTheVectorsSay(t *testing.T) {
	type messageCase struct {
		Name    string
		Message protoreflect.FullName
		JSON    json.RawMessage
		Hex     string
	}
	for _, file := range []string{"metadata.json", "filters.json", "messages.json"} {
		for _, held := range cases[messageCase](t, file) {
			t.Run(file+"/"+held.Name, func(t *testing.T) {
				kind, err := protoregistry.GlobalTypes.FindMessageByName(held.Message)
				if err != nil {
					t.Fatal(err)
				}
				fromJSON, fromBytes := kind.New().Interface(), kind.New().Interface()
				if err := protojson.Unmarshal(held.JSON, fromJSON); err != nil {
					t.Fatal(err)
				}
				if err := proto.Unmarshal(unhex(t, held.Hex), fromBytes); err != nil {
					t.Fatal(err)
				}
				if !proto.Equal(fromJSON, fromBytes) {
					t.Errorf("JSON says %v, the bytes say %v", fromJSON, fromBytes)
				}
			})
		}
	}
}

func TestVectorsArePackedAsTheVectorsSay(t *testing.T) {
	type blockCase struct {
		Vectors [][]float32
		Values  string `json:"values_hex"`
	}
	for _, held := range cases[blockCase](t, "vector_blocks.json") {
		if packed := hex.EncodeToString(pack(held.Vectors...).GetValues()); packed != held.Values {
			t.Errorf("packed %v as %s, not %s", held.Vectors, packed, held.Values)
		}
	}
}

func TestErrorsReadAsTheVectorsSay(t *testing.T) {
	type errorCase struct {
		Code     int32
		Reason   string
		Metadata map[string]string
		Trailer  string `json:"trailer_hex"`
	}
	for _, held := range cases[errorCase](t, "errors.json") {
		var status spb.Status
		if err := proto.Unmarshal(unhex(t, held.Trailer), &status); err != nil {
			t.Fatal(err)
		}
		var info errdetails.ErrorInfo
		if err := status.GetDetails()[0].UnmarshalTo(&info); err != nil {
			t.Fatal(err)
		}
		if status.GetCode() != held.Code || info.GetReason() != held.Reason || info.GetDomain() != "shoal" {
			t.Errorf("read %v, not %v", &status, held)
		}
		for fact, value := range held.Metadata {
			if info.GetMetadata()[fact] != value {
				t.Errorf("%s is %s, not %s", fact, info.GetMetadata()[fact], value)
			}
		}
	}
}
