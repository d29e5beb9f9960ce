// The number of the calling thread in its OpenMP team (0 without OpenMP), for working memory that is one thread's own.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace fu {

inline int this_thread() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

}  // namespace fu
