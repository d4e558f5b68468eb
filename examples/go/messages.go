package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	shoalv1 "shoal.example/walk/gen/shoal/v1"
)

// pack packs vectors of one dimension as float32, little-endian.
func pack(vectors ...[]float32) *shoalv1.VectorBlock {
	dimension := len(vectors[0])
	values := make([]byte, 0, 4*dimension*len(vectors))
	for _, vector := range vectors {
		for _, number := range vector {
			values = binary.LittleEndian.AppendUint32(values, math.Float32bits(number))
		}
	}
	return &shoalv1.VectorBlock{Dimension: uint32(dimension), Values: values}
}

// unpack unpacks a block into its vectors.
func unpack(block *shoalv1.VectorBlock) [][]float32 {
	numbers := make([]float32, len(block.GetValues())/4)
	for n := range numbers {
		numbers[n] = math.Float32frombits(binary.LittleEndian.Uint32(block.GetValues()[4*n:]))
	}
	return slices.Collect(slices.Chunk(numbers, int(block.GetDimension())))
}

// value makes a Value of what Go holds; nil removes a key.
func value(given any) *shoalv1.Value {
	switch given := given.(type) {
	case nil:
		return &shoalv1.Value{Kind: &shoalv1.Value_NullValue{NullValue: &shoalv1.Null{}}}
	case string:
		return &shoalv1.Value{Kind: &shoalv1.Value_StringValue{StringValue: given}}
	case int64:
		return &shoalv1.Value{Kind: &shoalv1.Value_IntValue{IntValue: given}}
	case float64:
		return &shoalv1.Value{Kind: &shoalv1.Value_DoubleValue{DoubleValue: given}}
	case bool:
		return &shoalv1.Value{Kind: &shoalv1.Value_BoolValue{BoolValue: given}}
	case []string:
		return &shoalv1.Value{Kind: &shoalv1.Value_StringList{StringList: &shoalv1.StringList{Values: given}}}
	case []int64:
		return &shoalv1.Value{Kind: &shoalv1.Value_IntList{IntList: &shoalv1.IntList{Values: given}}}
	case []float64:
		return &shoalv1.Value{Kind: &shoalv1.Value_DoubleList{DoubleList: &shoalv1.DoubleList{Values: given}}}
	case []bool:
		return &shoalv1.Value{Kind: &shoalv1.Value_BoolList{BoolList: &shoalv1.BoolList{Values: given}}}
	}
	panic(fmt.Sprintf("metadata cannot hold a %T", given))
}

// fields is a record's metadata, as a caller would hold it.
type fields map[string]any

func (given fields) message() *shoalv1.Metadata {
	message := &shoalv1.Metadata{Fields: make(map[string]*shoalv1.Value, len(given))}
	for key, held := range given {
		message.Fields[key] = value(held)
	}
	return message
}

// show tells a value with its type.
func show(held *shoalv1.Value) string {
	switch kind := held.GetKind().(type) {
	case *shoalv1.Value_StringValue:
		return "string " + kind.StringValue
	case *shoalv1.Value_IntValue:
		return fmt.Sprintf("int %d", kind.IntValue)
	case *shoalv1.Value_DoubleValue:
		return fmt.Sprintf("double %.3f", kind.DoubleValue)
	case *shoalv1.Value_BoolValue:
		return fmt.Sprintf("bool %t", kind.BoolValue)
	case *shoalv1.Value_StringList:
		return "strings " + strings.Join(kind.StringList.GetValues(), ", ")
	case *shoalv1.Value_IntList:
		return "ints " + join("%d", kind.IntList.GetValues())
	case *shoalv1.Value_DoubleList:
		return "doubles " + join("%.3f", kind.DoubleList.GetValues())
	case *shoalv1.Value_BoolList:
		return "bools " + join("%t", kind.BoolList.GetValues())
	default:
		panic(fmt.Sprintf("this client does not know the kind %T", kind))
	}
}

func join[Element any](format string, elements []Element) string {
	texts := make([]string, len(elements))
	for n, element := range elements {
		texts[n] = fmt.Sprintf(format, element)
	}
	return strings.Join(texts, ", ")
}

// condition is a condition on one field.
func condition(field string, operator shoalv1.WhereOperator, operand any) *shoalv1.Where {
	return &shoalv1.Where{Clause: &shoalv1.Where_Condition{Condition: &shoalv1.FieldCondition{
		Field: field, Operator: operator, Operand: value(operand),
	}}}
}

// allOf matches if all clauses do.
func allOf(clauses ...*shoalv1.Where) *shoalv1.Where {
	return &shoalv1.Where{Clause: &shoalv1.Where_AllOf{AllOf: &shoalv1.WhereList{Clauses: clauses}}}
}

// negation matches if the clause does not.
func negation(clause *shoalv1.Where) *shoalv1.Where {
	return &shoalv1.Where{Clause: &shoalv1.Where_Negation{Negation: clause}}
}

// documentCondition is a condition on the document.
func documentCondition(operator shoalv1.DocumentOperator, operand string) *shoalv1.WhereDocument {
	return &shoalv1.WhereDocument{Clause: &shoalv1.WhereDocument_Condition{
		Condition: &shoalv1.DocumentCondition{Operator: operator, Operand: operand},
	}}
}

// column is a column of strings, nil where there is none.
func column(values ...*string) *shoalv1.StringColumn {
	made := &shoalv1.StringColumn{Values: make([]string, len(values))}
	for position, held := range values {
		if held == nil {
			made.Absent = append(made.Absent, uint32(position))
		} else {
			made.Values[position] = *held
		}
	}
	return made
}

// columnValue reads a string of a column.
func columnValue(held *shoalv1.StringColumn, position int) (text string, found bool) {
	if slices.Contains(held.GetAbsent(), uint32(position)) {
		return "", false
	}
	return held.GetValues()[position], true
}
