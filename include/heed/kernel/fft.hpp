// SPDX-License-Identifier: BSD-3-Clause
// Fourier transforms along rows, lanes along channels; see the parts.
#pragma once

#include <heed/kernel/fft/line.hpp>
#include <heed/kernel/fft/spectra.hpp>
#include <heed/kernel/fft/transform.hpp>
