// Fields and capabilities of a plugin, as the host program handles them.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <string>
#include <vector>

#include "v3_cases.h"

// A field collection that owns its values, as an engine file would.
class OwnedFields {
public:
    explicit OwnedFields(const std::vector<Attribute>& attributes) {
        for (const Attribute& a : attributes) {
            if (!a.text.empty()) {
                add(a.name, a.text.data(), nvinfer1::PluginFieldType::kCHAR, static_cast<int32_t>(a.text.size()), 1);
            } else if (a.is_real) {
                add(a.name, &a.real, nvinfer1::PluginFieldType::kFLOAT32, 1, 4);
            } else {
                add(a.name, &a.integer, nvinfer1::PluginFieldType::kINT64, 1, 8);
            }
        }
    }
    explicit OwnedFields(const nvinfer1::PluginFieldCollection& fields) {
        for (int32_t i = 0; i < fields.nbFields; ++i) {
            const nvinfer1::PluginField& f = fields.fields[i];
            const size_t size = f.type == nvinfer1::PluginFieldType::kINT64 ? 8 : f.type == nvinfer1::PluginFieldType::kCHAR ? 1 : 4;
            add(f.name, f.data, f.type, f.length, size);
        }
    }
    const nvinfer1::PluginFieldCollection* get() {
        mFields.clear();
        for (Field& f : mOwned) mFields.emplace_back(f.name.c_str(), f.data.data(), f.type, f.length);
        mCollection = {static_cast<int32_t>(mFields.size()), mFields.data()};
        return &mCollection;
    }
    bool operator==(const OwnedFields& other) const {
        return std::equal(mOwned.begin(), mOwned.end(), other.mOwned.begin(), other.mOwned.end(),
                          [](const Field& a, const Field& b) { return a.name == b.name && a.data == b.data; });
    }

private:
    struct Field {
        std::string name;
        std::vector<unsigned char> data;
        nvinfer1::PluginFieldType type;
        int32_t length;
    };
    void add(const std::string& name, const void* data, nvinfer1::PluginFieldType type, int32_t length, size_t size) {
        const auto* bytes = static_cast<const unsigned char*>(data);
        mOwned.push_back({name, {bytes, bytes + size * static_cast<size_t>(length)}, type, length});
    }
    std::vector<Field> mOwned;
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mCollection{};
};

struct Plugin {
    nvinfer1::IPluginV3* object;
    template <typename T>
    T* capability(nvinfer1::PluginCapabilityType type) const {
        return static_cast<T*>(object->getCapabilityInterface(type));
    }
    nvinfer1::IPluginV3OneCore* core() const { return capability<nvinfer1::IPluginV3OneCore>(nvinfer1::PluginCapabilityType::kCORE); }
    nvinfer1::IPluginV3OneBuildV2* build() const { return capability<nvinfer1::IPluginV3OneBuildV2>(nvinfer1::PluginCapabilityType::kBUILD); }
    nvinfer1::IPluginV3OneRuntime* runtime() const { return capability<nvinfer1::IPluginV3OneRuntime>(nvinfer1::PluginCapabilityType::kRUNTIME); }
};
