// One block per system, the whole matrix in shared memory: column by column, then two substitutions. Each number is
// made by one thread in one order, so the result is the same, bit for bit, on every run.
#include "small_cholesky.h"

namespace fu {
namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads)
    solve_kernel(const T* a, T* rhs, int32_t* info, T shift, int size, int64_t columns) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ int failed;
    T* l = reinterpret_cast<T*>(shared);
    const int pitch = size | 1;  // odd: a column is spread over the banks
    a += int64_t(blockIdx.x) * size * size;
    rhs += int64_t(blockIdx.x) * size * columns;
    if (threadIdx.x == 0) failed = 0;
    for (int n = threadIdx.x; n < size * size; n += kThreads) {
        const int r = n / size, c = n % size;
        if (c <= r) l[r * pitch + c] = a[n] + (r == c ? shift : T(0));
    }
    __syncthreads();
    for (int j = 0; j < size; ++j) {
        if (threadIdx.x == 0) {
            const T pivot = l[j * pitch + j];
            if (pivot > T(0))
                l[j * pitch + j] = sqrt(pivot);  // false for NaN too
            else
                failed = j + 1;
        }
        __syncthreads();
        if (failed) break;
        const T inverse = T(1) / l[j * pitch + j];
        for (int r = j + 1 + threadIdx.x; r < size; r += kThreads) l[r * pitch + j] *= inverse;
        __syncthreads();
        // The rest of the lower half, less the product of this column with itself: threads take rows in turn.
        const int rest = size - j - 1;
        for (int n = threadIdx.x; n < rest * rest; n += kThreads) {
            const int r = j + 1 + n / rest, c = j + 1 + n % rest;
            if (c <= r) l[r * pitch + c] -= l[r * pitch + j] * l[c * pitch + j];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) info[blockIdx.x] = failed;
    if (failed) return;
    for (int j = 0; j < size; ++j) {  // L y = rhs
        for (int64_t c = threadIdx.x; c < columns; c += kThreads) rhs[j * columns + c] /= l[j * pitch + j];
        __syncthreads();
        for (int64_t n = threadIdx.x; n < (size - j - 1) * columns; n += kThreads) {
            const int64_t r = j + 1 + n / columns, c = n % columns;
            rhs[r * columns + c] -= l[r * pitch + j] * rhs[j * columns + c];
        }
        __syncthreads();
    }
    for (int j = size - 1; j >= 0; --j) {  // L^T x = y
        for (int64_t c = threadIdx.x; c < columns; c += kThreads) rhs[j * columns + c] /= l[j * pitch + j];
        __syncthreads();
        for (int64_t n = threadIdx.x; n < j * columns; n += kThreads) {
            const int64_t r = n / columns, c = n % columns;
            rhs[r * columns + c] -= l[j * pitch + r] * rhs[j * columns + c];
        }
        __syncthreads();
    }
}

int64_t bytes_of(int dtype, int64_t size) { return size * (size | 1) * (dtype == kFloat64 ? 8 : 4); }

int64_t shared_bytes() {
    int device = 0, most = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 0;
    if (cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return 0;
    return most - 1024;  // the kernel's own variables, with room
}

template <class T>
cudaError_t launch(const void* a, void* rhs, int32_t* info, double shift, int64_t count, int64_t size, int64_t columns,
                   int64_t bytes, cudaStream_t stream) {
    const cudaError_t status =
        cudaFuncSetAttribute(solve_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
    if (status != cudaSuccess) return status;
    solve_kernel<T><<<unsigned(count), kThreads, size_t(bytes), stream>>>(
        static_cast<const T*>(a), static_cast<T*>(rhs), info, T(shift), int(size), columns);
    return cudaGetLastError();
}

}  // namespace

int64_t small_cholesky_most(int dtype) {
    const int64_t shared = shared_bytes();
    int64_t size = 0;
    while (bytes_of(dtype, size + 1) <= shared) ++size;
    return size;
}

cudaError_t small_cholesky_solve(int dtype, const void* a, void* rhs, int32_t* info, double shift, int64_t count,
                                 int64_t size, int64_t columns, cudaStream_t stream) {
    if (count == 0) return cudaSuccess;
    const int64_t bytes = bytes_of(dtype, size);
    if (dtype == kFloat32) return launch<float>(a, rhs, info, shift, count, size, columns, bytes, stream);
    if (dtype == kFloat64) return launch<double>(a, rhs, info, shift, count, size, columns, bytes, stream);
    return cudaErrorInvalidValue;
}

}  // namespace fu
