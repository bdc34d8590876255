// A C-contiguous array of another Python object (NumPy), borrowed for the time of one call.
#pragma once

#include <nanobind/nanobind.h>

#include <cstring>
#include <stdexcept>
#include <string>

namespace ernie {

class Buffer {
  public:
    // `format` is the struct code of an item: f float32, d float64, i int32, I uint32, l int64, H uint16, b
    // int8, B uint8.
    Buffer(const char* name, nanobind::handle object, char format, int dimensions, bool is_writable = false)
        : Buffer(name, object, std::string(1, format).c_str(), dimensions, is_writable) {}
    // `format` is that of a structure's items, with their names (PEP 3118).
    Buffer(const char* name, nanobind::handle object, const char* format, int dimensions,
           bool is_writable = false) {
        const int flags = PyBUF_ND | PyBUF_FORMAT | (is_writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) {
            PyErr_Clear();
            throw std::invalid_argument(std::string(name) + " must be a C-contiguous array" +
                                        (is_writable ? " that can be written" : ""));
        }
        if (view_.ndim == dimensions && std::strcmp(view_.format ? view_.format : "B", format) == 0) return;
        const std::string message = std::string(name) + " has " + std::to_string(view_.ndim) +
                                    " dimensions and items '" + (view_.format ? view_.format : "B") +
                                    "', expected " + std::to_string(dimensions) + " and '" + format + "'";
        PyBuffer_Release(&view_);
        throw std::invalid_argument(message);
    }
    ~Buffer() { PyBuffer_Release(&view_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    template <typename T>
    T* data() const {
        return static_cast<T*>(view_.buf);
    }
    int64_t size(int axis) const { return view_.shape[axis]; }
    int64_t items() const { return view_.len / view_.itemsize; }

  private:
    Py_buffer view_;
};

}  // namespace ernie
