package io.shoal.examples;

import com.google.protobuf.ByteString;
import io.shoal.v1.BoolList;
import io.shoal.v1.DocumentCondition;
import io.shoal.v1.DocumentOperator;
import io.shoal.v1.DoubleList;
import io.shoal.v1.FieldCondition;
import io.shoal.v1.IntList;
import io.shoal.v1.Metadata;
import io.shoal.v1.Null;
import io.shoal.v1.StringColumn;
import io.shoal.v1.StringList;
import io.shoal.v1.Value;
import io.shoal.v1.VectorBlock;
import io.shoal.v1.Where;
import io.shoal.v1.WhereDocument;
import io.shoal.v1.WhereList;
import io.shoal.v1.WhereOperator;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Collectors;

/** Between Java's values and Shoal's messages: vectors, metadata, filters, columns. */
final class Messages {
  private Messages() {}

  /** Packs vectors of one dimension as float32, little-endian. */
  static VectorBlock pack(List<float[]> vectors) {
    int dimension = vectors.get(0).length;
    ByteBuffer values =
        ByteBuffer.allocate(Float.BYTES * dimension * vectors.size())
            .order(ByteOrder.LITTLE_ENDIAN);
    vectors.forEach(
        vector -> {
          values.asFloatBuffer().put(vector);
          values.position(values.position() + Float.BYTES * dimension);
        });
    values.flip();
    return VectorBlock.newBuilder()
        .setDimension(dimension)
        .setValues(ByteString.copyFrom(values))
        .build();
  }

  /** Unpacks a block into its vectors. */
  static List<float[]> unpack(VectorBlock block) {
    var numbers =
        block.getValues().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
    List<float[]> vectors = new ArrayList<>();
    while (numbers.hasRemaining()) {
      float[] vector = new float[block.getDimension()];
      numbers.get(vector);
      vectors.add(vector);
    }
    return vectors;
  }

  static Value value(String held) {
    return Value.newBuilder().setStringValue(held).build();
  }

  static Value value(long held) {
    return Value.newBuilder().setIntValue(held).build();
  }

  static Value value(double held) {
    return Value.newBuilder().setDoubleValue(held).build();
  }

  static Value value(boolean held) {
    return Value.newBuilder().setBoolValue(held).build();
  }

  static Value strings(List<String> held) {
    return Value.newBuilder().setStringList(StringList.newBuilder().addAllValues(held)).build();
  }

  static Value longs(List<Long> held) {
    return Value.newBuilder().setIntList(IntList.newBuilder().addAllValues(held)).build();
  }

  static Value doubles(List<Double> held) {
    return Value.newBuilder().setDoubleList(DoubleList.newBuilder().addAllValues(held)).build();
  }

  static Value booleans(List<Boolean> held) {
    return Value.newBuilder().setBoolList(BoolList.newBuilder().addAllValues(held)).build();
  }

  /** Removes a key. */
  static Value none() {
    return Value.newBuilder().setNullValue(Null.getDefaultInstance()).build();
  }

  static Metadata metadata(Map<String, Value> fields) {
    return Metadata.newBuilder().putAllFields(fields).build();
  }

  /** Tells a value with its type. */
  static String show(Value value) {
    return switch (value.getKindCase()) {
      case STRING_VALUE -> "string " + value.getStringValue();
      case INT_VALUE -> "int " + value.getIntValue();
      case DOUBLE_VALUE -> "double " + decimal(value.getDoubleValue());
      case BOOL_VALUE -> "bool " + value.getBoolValue();
      case STRING_LIST -> "strings " + String.join(", ", value.getStringList().getValuesList());
      case INT_LIST -> "ints " + joined(value.getIntList().getValuesList());
      case DOUBLE_LIST ->
          value.getDoubleList().getValuesList().stream()
              .map(Messages::decimal)
              .collect(Collectors.joining(", ", "doubles ", ""));
      case BOOL_LIST -> "bools " + joined(value.getBoolList().getValuesList());
      case SPARSE_VECTOR, NULL_VALUE, KIND_NOT_SET ->
          throw new IllegalArgumentException("not shown: " + value.getKindCase());
    };
  }

  private static String joined(List<?> values) {
    return values.stream().map(String::valueOf).collect(Collectors.joining(", "));
  }

  private static String decimal(double number) {
    return String.format(Locale.ROOT, "%.3f", number);
  }

  /** A condition on one field. */
  static Where condition(String field, WhereOperator operator, Value operand) {
    return Where.newBuilder()
        .setCondition(
            FieldCondition.newBuilder().setField(field).setOperator(operator).setOperand(operand))
        .build();
  }

  /** All clauses match. */
  static Where allOf(Where... clauses) {
    return Where.newBuilder()
        .setAllOf(WhereList.newBuilder().addAllClauses(List.of(clauses)))
        .build();
  }

  /** The clause does not match. */
  static Where negation(Where clause) {
    return Where.newBuilder().setNegation(clause).build();
  }

  /** A condition on the document. */
  static WhereDocument document(DocumentOperator operator, String operand) {
    return WhereDocument.newBuilder()
        .setCondition(DocumentCondition.newBuilder().setOperator(operator).setOperand(operand))
        .build();
  }

  /** A column of strings, some of which may be absent. */
  static StringColumn column(List<Optional<String>> values) {
    StringColumn.Builder column = StringColumn.newBuilder();
    for (Optional<String> value : values) {
      if (value.isEmpty()) {
        column.addAbsent(column.getValuesCount());
      }
      column.addValues(value.orElse(""));
    }
    return column.build();
  }

  /** Reads a string of a column. */
  static Optional<String> columnValue(StringColumn column, int position) {
    return column.getAbsentList().contains(position)
        ? Optional.empty()
        : Optional.of(column.getValues(position));
  }
}
