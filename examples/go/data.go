package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	shoalv1 "shoal.example/walk/gen/shoal/v1"
)

// row is a record, as a caller would hold it.
type row struct {
	id            string
	vector        []float32
	document, uri *string
	metadata      fields
}

// query is a text with its vector.
type query struct {
	Text   string    `json:"text"`
	Vector []float32 `json:"vector"`
}

// packageLine is a line of packages.jsonl.
type packageLine struct {
	ID          string  `json:"id"`
	Document    *string `json:"document"`
	URI         *string `json:"uri"`
	Section     string  `json:"section"`
	InstalledKB int64   `json:"installed_kb"`
	// A string in the file, as some readers of JSON lose integers beyond 2^53.
	Checksum        int64     `json:"checksum,string"`
	SizeMB          float64   `json:"size_mb"`
	Team            bool      `json:"team"`
	Tags            []string  `json:"tags"`
	SentenceLengths []int64   `json:"sentence_lengths"`
	Projection      []float64 `json:"projection"`
	Flags           []bool    `json:"flags"`
	Vector          []float32 `json:"vector"`
}

func readLines[Line any](folder, name string) ([]Line, error) {
	file, err := os.Open(filepath.Join(folder, name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var lines []Line
	for decoder := json.NewDecoder(file); ; {
		var line Line
		if err := decoder.Decode(&line); errors.Is(err, io.EOF) {
			return lines, nil
		} else if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
}

func readPackages(folder string) ([]row, error) {
	lines, err := readLines[packageLine](folder, "packages.jsonl")
	if err != nil {
		return nil, err
	}
	rows := make([]row, len(lines))
	for n, held := range lines {
		metadata := fields{
			"section":          held.Section,
			"installed_kb":     held.InstalledKB,
			"checksum":         held.Checksum,
			"size_mb":          held.SizeMB,
			"team":             held.Team,
			"sentence_lengths": held.SentenceLengths,
			"projection":       held.Projection,
			"flags":            held.Flags,
		}
		if len(held.Tags) > 0 { // metadata cannot hold an empty list
			metadata["tags"] = held.Tags
		}
		rows[n] = row{held.ID, held.Vector, held.Document, held.URI, metadata}
	}
	return rows, nil
}

// batch turns rows into columns.
func batch(rows []row) *shoalv1.RecordBatch {
	made := &shoalv1.RecordBatch{}
	var vectors [][]float32
	var documents, uris []*string
	for _, held := range rows {
		made.Ids = append(made.Ids, held.id)
		made.Metadatas = append(made.Metadatas, held.metadata.message())
		vectors = append(vectors, held.vector)
		documents = append(documents, held.document)
		uris = append(uris, held.uri)
	}
	made.Vectors = pack(vectors...)
	made.Documents = column(documents...)
	made.Uris = column(uris...)
	return made
}
