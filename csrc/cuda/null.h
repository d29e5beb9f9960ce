// The op that does nothing, on CUDA: copy null.h and null.cu to start a CUDA op (csrc/README.md).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fu {

// to[i] = from[i] for i in [0, count), queued on `stream` of the current device. Returns the launch's status.
cudaError_t null(const float* from, float* to, int64_t count, cudaStream_t stream);

}  // namespace fu
