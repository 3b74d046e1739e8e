// The shape of the operator table: operator_table.h fills it from operators.json.
#pragma once

#include <cstdint>

namespace aim_edge {

enum Symbol : int8_t;  // sizes and integer attributes; kOne stands for the number 1
enum class OperatorKind : int32_t;

enum class AttributeType : int8_t { kInt, kFloat, kString };
// T of the table: one type for all activations of an operator. S: one type for all of its states. H: as T, but not
// float32.
enum class Element : int8_t { kActivation, kState, kHalf, kFloat32, kInt32 };
constexpr int kElementCount = 5;
// Of an image: whether its channels are the last or the second dimension in memory.
enum class Images : int8_t { kChannelsFirst, kEither, kChannelsLast };

constexpr int kMaxAttributes = 10;
constexpr int kMaxInputs = 25;
constexpr int kMaxOutputs = 7;
constexpr int kMaxRank = 6;

// The attributes that are floats, by name.
struct Reals {
    float eps = 0.0f;
    float final_eps = 0.0f;
};

struct Term {
    int32_t factor;
    Symbol symbols[2];
};

// A sum of terms, and how the table writes it.
struct DimRow {
    const char* text;
    int terms;
    Term term[3];
};

struct ShapeRow {
    int rank;
    DimRow dims[kMaxRank];
};

struct AttributeRow {
    const char* name;
    AttributeType type;
    Symbol symbol;      // where its value is kept (a string's: its index in `allowed`)
    int allowed_count;  // 0: any value
    const char* allowed[2];
    int least = 1;      // of an integer that may have any value
    float Reals::*real = nullptr;  // where a float is kept
};

struct TensorRow {
    const char* name;
    Element element;
    Symbol condition;  // the attribute that says whether it is there; kOne: always
    int alias;         // of an output: the input that it may overwrite; -1: none
    ShapeRow shape;
    ShapeRow mamba1_shape;  // in place of `shape` for Mamba-1; rank 0: the same
    Images images = Images::kChannelsFirst;  // what the kernels take; of what is no image, too
};

struct OperatorRow {
    const char* name;
    OperatorKind kind;
    int attribute_count;
    AttributeRow attributes[kMaxAttributes];
    int input_count;
    TensorRow inputs[kMaxInputs];
    int output_count;
    TensorRow outputs[kMaxOutputs];
};

}  // namespace aim_edge
