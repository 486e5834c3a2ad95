// SPDX-License-Identifier: BSD-3-Clause
// The one object that holds the shared micro-kernels of the project's own binaries.
#include <heed/engine/cpu/kernels.hpp>
#include <heed/engine/cpu/recurrent_kernels.hpp>
