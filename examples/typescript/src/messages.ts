// Between JavaScript's values and Shoal's messages: vectors, metadata, filters, columns.

import {
  type DocumentOperator,
  type Where,
  type WhereDocument,
  type WhereOperator,
} from "../gen/shoal/v1/filter.js";
import {
  type Metadata,
  type StringColumn,
  type Value,
  type VectorBlock,
} from "../gen/shoal/v1/value.js";

/** Packs vectors of one dimension as float32, little-endian, whatever the machine's order. */
export function pack(vectors: number[][]): VectorBlock {
  const dimension = vectors[0]?.length ?? 0;
  const values = Buffer.alloc(4 * dimension * vectors.length);
  vectors.flat().forEach((number, position) => values.writeFloatLE(number, 4 * position));
  return { dimension, values };
}

/** Unpacks a block into its vectors. */
export function unpack(block: VectorBlock): number[][] {
  const size = 4 * block.dimension;
  return Array.from({ length: block.values.length / size }, (_, row) =>
    Array.from({ length: block.dimension }, (_, n) => block.values.readFloatLE(row * size + 4 * n)),
  );
}

// JavaScript has one number type and Shoal keeps two: which one is meant is said here. A bigint
// holds every int64; a number is exact only up to 2^53.
export const string = (value: string): Value => ({ kind: { $case: "stringValue", value } });
export const int = (value: number | bigint): Value => ({
  kind: { $case: "intValue", value: BigInt(value) },
});
export const double = (value: number): Value => ({ kind: { $case: "doubleValue", value } });
export const bool = (value: boolean): Value => ({ kind: { $case: "boolValue", value } });
export const strings = (values: string[]): Value => ({
  kind: { $case: "stringList", value: { values } },
});
export const ints = (values: (number | bigint)[]): Value => ({
  kind: { $case: "intList", value: { values: values.map(BigInt) } },
});
export const doubles = (values: number[]): Value => ({
  kind: { $case: "doubleList", value: { values } },
});
export const bools = (values: boolean[]): Value => ({
  kind: { $case: "boolList", value: { values } },
});
/** Removes a key. */
export const none: Value = { kind: { $case: "nullValue", value: {} } };

export const metadata = (fields: Record<string, Value> = {}): Metadata => ({ fields });

/** Tells a value with its type. */
export function show(value: Value): string {
  const { kind } = value;
  switch (kind?.$case) {
    case "stringValue":
      return `string ${kind.value}`;
    case "intValue":
      return `int ${kind.value}`;
    case "doubleValue":
      return `double ${kind.value.toFixed(3)}`;
    case "boolValue":
      return `bool ${kind.value}`;
    case "stringList":
      return `strings ${kind.value.values.join(", ")}`;
    case "intList":
      return `ints ${kind.value.values.join(", ")}`;
    case "doubleList":
      return `doubles ${kind.value.values.map((number) => number.toFixed(3)).join(", ")}`;
    case "boolList":
      return `bools ${kind.value.values.join(", ")}`;
    default:
      throw new Error(`this client does not know the kind ${kind?.$case}`);
  }
}

/** A condition on one field. */
export const condition = (field: string, operator: WhereOperator, operand: Value): Where => ({
  clause: { $case: "condition", value: { field, operator, operand } },
});

/** All clauses match. */
export const allOf = (...clauses: Where[]): Where => ({
  clause: { $case: "allOf", value: { clauses } },
});

/** The clause does not match. */
export const negation = (clause: Where): Where => ({ clause: { $case: "negation", value: clause } });

/** A condition on the document. */
export const documentCondition = (operator: DocumentOperator, operand: string): WhereDocument => ({
  clause: { $case: "condition", value: { operator, operand } },
});

/** A column of strings, some of which may be absent. */
export function column(values: (string | null)[]): StringColumn {
  return {
    values: values.map((value) => value ?? ""),
    absent: values.flatMap((value, position) => (value === null ? [position] : [])),
  };
}

/** Reads a column of strings, null where there is none. */
export function columnValues(column: StringColumn | undefined): (string | null)[] {
  const absent = new Set(column?.absent);
  return (column?.values ?? []).map((value, position) => (absent.has(position) ? null : value));
}
