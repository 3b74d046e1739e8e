// Dimension expressions as a builder of TensorRT would give them: constants, and names whose value comes later.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <vector>

class Expression final : public nvinfer1::IDimensionExpr {
public:
    Expression(bool constant, int64_t value) : mBody(constant, value) { mImpl = &mBody; }
    int64_t value() const { return mBody.mValue; }

private:
    struct Body final : nvinfer1::apiv::VDimensionExpr {
        Body(bool constant, int64_t value) : mConstant(constant), mValue(value) {}
        bool isConstant() const override { return mConstant; }
        int64_t getConstantValue() const override { return mValue; }
        bool isSizeTensor() const override { return false; }
        bool mConstant;
        int64_t mValue;
    };
    Body mBody;
};

class Expressions final : public nvinfer1::IExprBuilder {
public:
    Expressions() : mBody(*this) { mImpl = &mBody; }

    const Expression* make(bool constant, int64_t value) { return &mMade.emplace_back(constant, value); }

    // A tensor's shape: the first `open` dimensions, and those from `open_from` on, are not known while the engine is
    // built.
    nvinfer1::DimsExprs shape(const std::vector<int64_t>& dims, int open, int open_from = nvinfer1::Dims::MAX_DIMS) {
        nvinfer1::DimsExprs made{};
        made.nbDims = static_cast<int32_t>(dims.size());
        for (int i = 0; i < made.nbDims; ++i) made.d[i] = make(i >= open && i < open_from, dims[static_cast<size_t>(i)]);
        return made;
    }

private:
    struct Body final : nvinfer1::apiv::VExprBuilder {
        explicit Body(Expressions& owner) : mOwner(owner) {}
        const nvinfer1::IDimensionExpr* constant(int64_t value) override { return mOwner.make(true, value); }
        const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation kind, const nvinfer1::IDimensionExpr& a,
                                                  const nvinfer1::IDimensionExpr& b) override {
            const int64_t left = static_cast<const Expression&>(a).value(), right = static_cast<const Expression&>(b).value();
            const bool constant = a.isConstant() && b.isConstant();
            if (kind == nvinfer1::DimensionOperation::kPROD) return mOwner.make(constant, left * right);
            return kind == nvinfer1::DimensionOperation::kSUM ? mOwner.make(constant, left + right) : nullptr;
        }
        const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                          const nvinfer1::IDimensionExpr&) override {
            return nullptr;
        }
        Expressions& mOwner;
    };
    Body mBody;
    std::deque<Expression> mMade;
};

inline std::vector<int64_t> values_of(const nvinfer1::DimsExprs& shape) {
    std::vector<int64_t> values;
    for (int i = 0; i < shape.nbDims; ++i) {
        const auto* dim = static_cast<const Expression*>(shape.d[i]);
        values.push_back(dim == nullptr ? -1 : dim->value());
    }
    return values;
}
