package io.shoal.examples;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import io.shoal.v1.Metadata;
import io.shoal.v1.RecordBatch;
import io.shoal.v1.Value;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;

/** The records and queries of {@code examples/data}. */
final class Data {
  private static final Gson JSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .create();

  private Data() {}

  /** A record, as a caller would hold it. */
  record Row(
      String id,
      float[] vector,
      Optional<String> document,
      Optional<String> uri,
      Metadata metadata) {}

  /** A text with its vector. */
  static final class Query {
    String text;
    float[] vector;
  }

  /** A line of {@code packages.jsonl}. */
  private static final class PackageLine {
    String id;
    String document;
    String uri;
    String section;
    long installedKb;
    String checksum; // a string in the file, as some readers of JSON lose integers beyond 2^53
    double sizeMb;
    boolean team;
    List<String> tags;
    List<Long> sentenceLengths;
    List<Double> projection;
    List<Boolean> flags;
    float[] vector;

    Row row() {
      Map<String, Value> fields = new HashMap<>();
      fields.put("section", Messages.value(section));
      fields.put("installed_kb", Messages.value(installedKb));
      fields.put("checksum", Messages.value(Long.parseLong(checksum)));
      fields.put("size_mb", Messages.value(sizeMb));
      fields.put("team", Messages.value(team));
      fields.put("sentence_lengths", Messages.longs(sentenceLengths));
      fields.put("projection", Messages.doubles(projection));
      fields.put("flags", Messages.booleans(flags));
      if (!tags.isEmpty()) { // metadata cannot hold an empty list
        fields.put("tags", Messages.strings(tags));
      }
      return new Row(
          id,
          vector,
          Optional.ofNullable(document),
          Optional.ofNullable(uri),
          Messages.metadata(fields));
    }
  }

  static List<Row> readPackages(Path folder) throws IOException {
    try (Stream<String> lines = Files.lines(folder.resolve("packages.jsonl"))) {
      return lines.map(line -> JSON.fromJson(line, PackageLine.class).row()).toList();
    }
  }

  static List<Query> readQueries(Path folder) throws IOException {
    try (Stream<String> lines = Files.lines(folder.resolve("queries.jsonl"))) {
      return lines.map(line -> JSON.fromJson(line, Query.class)).toList();
    }
  }

  /** Turns rows into columns. */
  static RecordBatch batch(List<Row> rows) {
    return RecordBatch.newBuilder()
        .addAllIds(rows.stream().map(Row::id).toList())
        .setVectors(Messages.pack(rows.stream().map(Row::vector).toList()))
        .addAllMetadatas(rows.stream().map(Row::metadata).toList())
        .setDocuments(Messages.column(rows.stream().map(Row::document).toList()))
        .setUris(Messages.column(rows.stream().map(Row::uri).toList()))
        .build();
  }
}
