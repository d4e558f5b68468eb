//! Between Rust's values and Shoal's messages: vectors, metadata, filters, columns.

use std::collections::HashMap;

use crate::shoal::value::Kind;
use crate::shoal::{
    where_document, BoolList, DocumentCondition, DocumentOperator, DoubleList, FieldCondition,
    IntList, Metadata, Null, StringColumn, StringList, Value, VectorBlock, Where, WhereDocument,
    WhereList, WhereOperator,
};

/// Packs vectors of one dimension as float32, little-endian.
pub fn pack<'a>(vectors: impl IntoIterator<Item = &'a [f32]>) -> VectorBlock {
    let mut block = VectorBlock::default();
    for vector in vectors {
        block.dimension = vector.len() as u32;
        block
            .values
            .extend(vector.iter().flat_map(|number| number.to_le_bytes()));
    }
    block
}

/// Unpacks a block into its vectors.
pub fn unpack(block: &VectorBlock) -> Vec<Vec<f32>> {
    let numbers = block.values.chunks_exact(4);
    let numbers: Vec<f32> = numbers
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of four")))
        .collect();
    let rows = numbers.chunks_exact(block.dimension as usize);
    rows.map(<[f32]>::to_vec).collect()
}

impl From<&str> for Kind {
    fn from(value: &str) -> Self {
        Kind::StringValue(value.into())
    }
}

impl From<i64> for Kind {
    fn from(value: i64) -> Self {
        Kind::IntValue(value)
    }
}

impl From<f64> for Kind {
    fn from(value: f64) -> Self {
        Kind::DoubleValue(value)
    }
}

impl From<bool> for Kind {
    fn from(value: bool) -> Self {
        Kind::BoolValue(value)
    }
}

impl From<Vec<String>> for Kind {
    fn from(values: Vec<String>) -> Self {
        Kind::StringList(StringList { values })
    }
}

impl From<Vec<i64>> for Kind {
    fn from(values: Vec<i64>) -> Self {
        Kind::IntList(IntList { values })
    }
}

impl From<Vec<f64>> for Kind {
    fn from(values: Vec<f64>) -> Self {
        Kind::DoubleList(DoubleList { values })
    }
}

impl From<Vec<bool>> for Kind {
    fn from(values: Vec<bool>) -> Self {
        Kind::BoolList(BoolList { values })
    }
}

/// Removes a key.
pub fn none() -> Kind {
    Kind::NullValue(Null {})
}

/// The metadata of one record.
pub fn metadata<const N: usize>(fields: [(&str, Kind); N]) -> Metadata {
    let fields = fields.into_iter();
    Metadata {
        fields: fields
            .map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) }))
            .collect::<HashMap<_, _>>(),
    }
}

/// Tells a value with its type.
pub fn show(value: &Value) -> String {
    fn join<T>(values: &[T], text: impl Fn(&T) -> String) -> String {
        values.iter().map(text).collect::<Vec<_>>().join(", ")
    }
    match value.kind.as_ref() {
        Some(Kind::StringValue(text)) => format!("string {text}"),
        Some(Kind::IntValue(number)) => format!("int {number}"),
        Some(Kind::DoubleValue(number)) => format!("double {number:.3}"),
        Some(Kind::BoolValue(truth)) => format!("bool {truth}"),
        Some(Kind::StringList(list)) => format!("strings {}", list.values.join(", ")),
        Some(Kind::IntList(list)) => format!("ints {}", join(&list.values, i64::to_string)),
        Some(Kind::DoubleList(list)) => {
            format!(
                "doubles {}",
                join(&list.values, |number| format!("{number:.3}"))
            )
        }
        Some(Kind::BoolList(list)) => format!("bools {}", join(&list.values, bool::to_string)),
        other => panic!("this client does not know the kind {other:?}"),
    }
}

/// A condition on one field.
pub fn condition(field: &str, operator: WhereOperator, operand: impl Into<Kind>) -> Where {
    Where {
        clause: Some(crate::shoal::r#where::Clause::Condition(FieldCondition {
            field: field.into(),
            operator: operator.into(),
            operand: Some(Value {
                kind: Some(operand.into()),
            }),
        })),
    }
}

/// All clauses match.
pub fn all_of(clauses: impl Into<Vec<Where>>) -> Where {
    Where {
        clause: Some(crate::shoal::r#where::Clause::AllOf(WhereList {
            clauses: clauses.into(),
        })),
    }
}

/// The clause does not match.
pub fn negation(clause: Where) -> Where {
    Where {
        clause: Some(crate::shoal::r#where::Clause::Negation(Box::new(clause))),
    }
}

/// A condition on the document.
pub fn document(operator: DocumentOperator, operand: &str) -> WhereDocument {
    WhereDocument {
        clause: Some(where_document::Clause::Condition(DocumentCondition {
            operator: operator.into(),
            operand: operand.into(),
        })),
    }
}

/// A column of strings, some of which may be absent.
pub fn column<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> StringColumn {
    let mut column = StringColumn::default();
    for (position, value) in values.into_iter().enumerate() {
        if value.is_none() {
            column.absent.push(position as u32);
        }
        column.values.push(value.unwrap_or_default().into());
    }
    column
}

/// Reads a string of a column.
pub fn column_value(column: &StringColumn, position: usize) -> Option<&str> {
    let is_absent = column.absent.contains(&(position as u32));
    (!is_absent).then(|| column.values[position].as_str())
}
